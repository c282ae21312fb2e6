//! Amnesia that the system enforces: a process that cannot write files, and leaves no memory in a core dump.
//!
//! A host asks for it by [`Program::sealed`](crate::Program::sealed). It is in force with `amnesia.enabled`, from before the
//! first thread to the end of the process, and inherited by whatever the process starts.
//!
//! Landlock refuses to open files for writing and to make, remove, rename or truncate anything, except that sockets are made
//! and files removed in one directory and below it, for the control plane, and in that of a Unix socket that HTTP is served
//! on; where one of them has anything but sockets the seal says so, and is not full. It does not concern what is open already (the log on stdout),
//! what is only in memory (sockets, pipes, `memfd_create`), and the mode, owner and times of files.

use std::fs::DirBuilder;
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::fs::{DirBuilderExt, FileTypeExt};
use std::path::Path;

use landlock::{
    AccessFs, CompatLevel, Compatible, LandlockStatus, PathBeneath, RestrictionStatus, Ruleset,
    RulesetAttr, RulesetCreatedAttr, RulesetError, RulesetStatus, ABI,
};
use rustix::fs::{Mode, OFlags};
use rustix::process::{set_dumpable_behavior, setrlimit, DumpableBehavior, Resource, Rlimit};

/// What keeps a process from writing files.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Landlock {
    /// The system refuses every write.
    Full,
    /// It refuses some.
    Partial,
    /// Nothing but the program itself.
    None,
}

impl Landlock {
    pub(crate) fn name(self) -> &'static str {
        match self {
            Landlock::Full => "full",
            Landlock::Partial => "partial",
            Landlock::None => "none",
        }
    }
}

/// What was reached.
#[derive(Debug)]
pub(crate) struct Seal {
    pub(crate) landlock: Landlock,
    /// Why it is not full.
    pub(crate) why: Option<String>,
    /// Whether the system dumps no core.
    pub(crate) core_dumps: Result<(), io::Error>,
    /// Whether the system may put memory on a disk all the same; `None` if it does not say.
    pub(crate) has_swap: Option<bool>,
}

/// Seals this process, which has no other thread yet; sockets may come and go in `sockets`, and in `other`.
pub(crate) fn seal(sockets: &Path, other: Option<&Path>) -> Seal {
    // The kernel makes it later, when it no longer may; what is wrong with it the kernel says.
    let _ = DirBuilder::new().mode(0o700).create(sockets);
    let mut dirs = [Some(sockets), other].into_iter().flatten();
    let removable = dirs.find_map(other_than_sockets);
    let (landlock, why) = match (restrict(sockets, other), threads()) {
        ((Landlock::Full, _), _) if removable.is_some() => (Landlock::Partial, removable),
        ((Landlock::Full, _), Ok(1)) => (Landlock::Full, None),
        ((Landlock::Full, _), Ok(count)) => {
            let why = format!("{} threads are older than the seal", count - 1);
            (Landlock::Partial, Some(why))
        }
        ((Landlock::Full, _), Err(error)) => {
            (Landlock::Partial, Some(format!("/proc/self/task: {error}")))
        }
        (less, _) => less,
    };
    Seal {
        landlock,
        why,
        core_dumps: core_dumps_off(),
        has_swap: has_swap(),
    }
}

/// A process that starts programs which have to write: only its own memory is kept out of core dumps.
pub(crate) fn seal_memory(why: &str) -> Seal {
    let not_dumpable = set_dumpable_behavior(DumpableBehavior::NotDumpable);
    Seal {
        landlock: Landlock::None,
        why: Some(why.to_owned()),
        core_dumps: not_dumpable.map_err(io::Error::from),
        has_swap: has_swap(),
    }
}

fn threads() -> io::Result<usize> {
    Ok(std::fs::read_dir("/proc/self/task")?.count())
}

/// What is in the directory of sockets, or in one that a kernel has there for those of its children, and is none: it could be
/// removed.
fn other_than_sockets(sockets: &Path) -> Option<String> {
    // What cannot be listed the kernel cannot use either.
    let mut entries = std::fs::read_dir(sockets).ok()?.flatten();
    entries.find_map(|entry| {
        let kind = entry.file_type();
        let path = entry.path();
        match kind {
            Ok(kind) if kind.is_socket() => None,
            Ok(kind) if kind.is_dir() && path.extension().is_some_and(|of| of == "notify") => {
                other_than_sockets(&path)
            }
            _ => Some(format!(
                "{} is no socket, and could be removed",
                path.display()
            )),
        }
    })
}

fn has_swap() -> Option<bool> {
    has_swap_of(Path::new("/proc/swaps"))
}

fn has_swap_of(table: &Path) -> Option<bool> {
    let table = std::fs::read_to_string(table).ok()?;
    Some(is_on_disk(&table))
}

/// Below the heading of proc_swaps(5): anything but memory that is compressed.
fn is_on_disk(table: &str) -> bool {
    let mut swaps = table.lines().skip(1);
    swaps.any(|swap| !swap.trim().is_empty() && !swap.starts_with("/dev/zram"))
}

/// Both: the limit is what people look at, the other is what also holds for dumps that are piped to a program. The second
/// also keeps other processes of this user from looking into the memory.
fn core_dumps_off() -> io::Result<()> {
    let none = Rlimit {
        current: Some(0),
        maximum: Some(0),
    };
    setrlimit(Resource::Core, none)?;
    Ok(set_dumpable_behavior(DumpableBehavior::NotDumpable)?)
}

/// Restricts the calling thread and all that it starts.
fn restrict(sockets: &Path, other: Option<&Path>) -> (Landlock, Option<String>) {
    let status = match try_restrict(sockets, other) {
        Ok(status) => status,
        Err(error) => return (Landlock::None, Some(error.to_string())),
    };
    let why = match status.landlock {
        LandlockStatus::NotImplemented => {
            "this kernel has no Landlock, or a filter of system calls refuses it".to_owned()
        }
        LandlockStatus::NotEnabled => "Landlock is not among this kernel's `lsm=`".to_owned(),
        LandlockStatus::Available { effective_abi, .. } => {
            let known = match effective_abi {
                ABI::V1 | ABI::V2 => "does not know truncation nor devices",
                _ => "does not know devices",
            };
            format!("this kernel's Landlock {effective_abi:?} {known}")
        }
    };
    match status.ruleset {
        RulesetStatus::FullyEnforced => (Landlock::Full, None),
        RulesetStatus::PartiallyEnforced => (Landlock::Partial, Some(why)),
        RulesetStatus::NotEnforced => (Landlock::None, Some(why)),
    }
}

fn try_restrict(sockets: &Path, other: Option<&Path>) -> Result<RestrictionStatus, RulesetError> {
    // Its rights to write are those of V5. V9 adds connecting to sockets, which the service manager's is one of.
    let denied = AccessFs::from_write(ABI::V7);
    let ruleset = Ruleset::default().set_compatibility(CompatLevel::BestEffort);
    let mut ruleset = ruleset.handle_access(denied)?.create()?;
    // Where one of these is not, there is nothing to allow.
    if let Ok(null) = place(Path::new("/dev/null"), OFlags::empty()) {
        ruleset = ruleset.add_rule(PathBeneath::new(null, AccessFs::WriteFile))?;
    }
    for dir in [Some(sockets), other].into_iter().flatten() {
        if let Ok(dir) = place(dir, OFlags::DIRECTORY | OFlags::NOFOLLOW) {
            let rights = AccessFs::MakeSock | AccessFs::RemoveFile;
            ruleset = ruleset.add_rule(PathBeneath::new(dir, rights))?;
        }
    }
    ruleset.restrict_self()
}

fn place(path: &Path, flags: OFlags) -> Result<OwnedFd, rustix::io::Errno> {
    rustix::fs::open(path, OFlags::PATH | OFlags::CLOEXEC | flags, Mode::empty())
}

#[cfg(test)]
mod tests {
    use super::*;
    use rustix::fs::{mknodat, FileType, CWD};
    use std::fs::{self, File, Permissions};
    use std::io::{ErrorKind, Write};
    use std::os::unix::fs::{symlink, PermissionsExt};
    use std::os::unix::net::UnixListener;

    type Attempt = (&'static str, fn(&Path) -> io::Result<()>);

    /// Each succeeds once in a directory as [`prepared`] makes it.
    const ATTEMPTS: [Attempt; 13] = [
        ("create", |dir| File::create_new(dir.join("new")).map(drop)),
        ("write", |dir| {
            File::options().write(true).open(dir.join("file")).map(drop)
        }),
        ("append", |dir| {
            File::options()
                .append(true)
                .open(dir.join("file"))
                .map(drop)
        }),
        ("truncate", |dir| {
            let flags = OFlags::RDONLY | OFlags::TRUNC;
            rustix::fs::open(dir.join("file"), flags, Mode::empty())?;
            Ok(())
        }),
        ("nameless", |dir| {
            let flags = OFlags::WRONLY | OFlags::TMPFILE;
            rustix::fs::open(dir, flags, Mode::RUSR)?;
            Ok(())
        }),
        ("rename", |dir| {
            fs::rename(dir.join("file"), dir.join("moved"))
        }),
        ("link", |dir| {
            fs::hard_link(dir.join("moved"), dir.join("linked"))
        }),
        ("symlink", |dir| symlink("moved", dir.join("symlinked"))),
        ("unlink", |dir| fs::remove_file(dir.join("moved"))),
        ("mkdir", |dir| fs::create_dir(dir.join("made"))),
        ("rmdir", |dir| fs::remove_dir(dir.join("dir"))),
        ("mkfifo", |dir| {
            mknodat(CWD, dir.join("fifo"), FileType::Fifo, Mode::RUSR, 0)?;
            Ok(())
        }),
        ("socket", |dir| {
            UnixListener::bind(dir.join("socket")).map(drop)
        }),
    ];

    fn prepared(base: &Path, name: &str) -> std::path::PathBuf {
        let dir = base.join(name);
        fs::create_dir_all(dir.join("dir")).unwrap();
        fs::write(dir.join("file"), "content").unwrap();
        fs::write(dir.join("moved"), "content").unwrap();
        dir
    }

    /// What a thread sees that is restricted, all others being free; `None` where the system has not all of Landlock.
    fn restricted<T: Send>(sockets: &Path, see: impl FnOnce() -> T + Send) -> Option<T> {
        restricted_to(sockets, None, see)
    }

    fn restricted_to<T: Send>(
        sockets: &Path,
        other: Option<&Path>,
        see: impl FnOnce() -> T + Send,
    ) -> Option<T> {
        let (level, why, seen) = std::thread::scope(|scope| {
            let thread = scope.spawn(|| {
                let (level, why) = restrict(sockets, other);
                let seen = (level == Landlock::Full).then(see);
                (level, why, seen)
            });
            thread.join().unwrap()
        });
        if seen.is_none() {
            let why = why.unwrap();
            assert!(why.contains("this kernel"), "{level:?}: {why}");
            eprintln!("NOT TESTED: Landlock is {level:?} here: {why}");
        }
        seen
    }

    fn kind(tried: io::Result<()>) -> Option<ErrorKind> {
        tried.err().map(|error| error.kind())
    }

    #[test]
    fn every_kind_of_write_is_refused_outside_of_the_directory_of_sockets() {
        let base = tempfile::tempdir().unwrap();
        let sockets = prepared(base.path(), "sockets");
        let dir = prepared(base.path(), "elsewhere");
        let tried = restricted(&sockets, || {
            ATTEMPTS.map(|(name, attempt)| (name, kind(attempt(&dir))))
        });
        let Some(tried) = tried else { return };
        let refused = ATTEMPTS.map(|(name, _)| (name, Some(ErrorKind::PermissionDenied)));
        assert_eq!(tried, refused);
        assert_eq!(fs::read_to_string(dir.join("file")).unwrap(), "content");
        // None of them is refused for another reason.
        let free = prepared(base.path(), "free");
        for (name, attempt) in ATTEMPTS {
            attempt(&free).unwrap_or_else(|error| panic!("{name}: {error}"));
        }
    }

    #[test]
    fn sockets_and_nothing_else_are_made_in_their_directory() {
        let base = tempfile::tempdir().unwrap();
        let sockets = prepared(base.path(), "sockets");
        let other = prepared(base.path(), "other");
        let tried = restricted_to(&sockets, Some(&other), || {
            [&sockets, &other].map(|dir| ATTEMPTS.map(|(name, attempt)| (name, kind(attempt(dir)))))
        });
        let Some(tried) = tried else { return };
        for (name, kind) in tried.into_iter().flatten() {
            let allowed = ["unlink", "socket"].contains(&name);
            let expected = (!allowed).then_some(ErrorKind::PermissionDenied);
            assert_eq!(kind, expected, "{name}");
        }
    }

    /// As the control plane does it.
    #[test]
    fn a_socket_is_put_in_place_under_another_name_and_removed() {
        let base = tempfile::tempdir().unwrap();
        let (hidden, path) = (base.path().join(".a"), base.path().join("a.sock"));
        let seen = restricted(base.path(), || {
            let listener = UnixListener::bind(&hidden)?;
            fs::set_permissions(&hidden, Permissions::from_mode(0o600))?;
            fs::hard_link(&hidden, &path)?;
            fs::remove_file(&hidden)?;
            std::os::unix::net::UnixStream::connect(&path)?;
            drop(listener);
            fs::remove_file(&path)
        });
        let Some(seen) = seen else { return };
        seen.unwrap();
        assert_eq!(fs::read_dir(base.path()).unwrap().count(), 0);
    }

    #[test]
    fn what_is_open_already_and_dev_null_are_written_and_all_is_read() {
        let base = tempfile::tempdir().unwrap();
        let dir = prepared(base.path(), "dir");
        let mut open = File::create(dir.join("log")).unwrap();
        let seen = restricted(Path::new("/nonexistent"), || {
            open.write_all(b"line")?;
            File::options().write(true).open("/dev/null")?;
            fs::read_to_string(dir.join("log"))
        });
        let Some(seen) = seen else { return };
        assert_eq!(seen.unwrap(), "line");
    }

    #[test]
    fn threads_inherit_it() {
        let base = tempfile::tempdir().unwrap();
        let seen = restricted(Path::new("/nonexistent"), || {
            let path = base.path().join("new");
            std::thread::spawn(|| kind(File::create(path).map(drop)))
                .join()
                .unwrap()
        });
        let Some(seen) = seen else { return };
        assert_eq!(seen, Some(ErrorKind::PermissionDenied));
    }

    #[test]
    fn memory_is_put_on_a_disk_where_there_is_swap_that_is_no_memory() {
        let heading = "Filename\t\t\t\tType\t\tSize\t\tUsed\t\tPriority\n";
        for (swaps, expected) in [
            ("", false),
            ("/dev/zram0 partition 8000508 0 100\n", false),
            ("/swapfile file 2097148 0 -2\n", true),
            (
                "/dev/zram0 partition 8000508 0 100\n/dev/sda2 partition 1 0 -2\n",
                true,
            ),
        ] {
            assert_eq!(
                is_on_disk(&format!("{heading}{swaps}")),
                expected,
                "{swaps}"
            );
        }
        assert!(!is_on_disk(""));
        assert_eq!(has_swap_of(Path::new("/nonexistent")), None);
    }

    #[test]
    fn a_directory_of_sockets_that_has_anything_else_is_told() {
        let base = tempfile::tempdir().unwrap();
        let sockets = base.path().join("run");
        fs::create_dir(&sockets).unwrap();
        assert_eq!(other_than_sockets(&sockets), None);
        let _socket = UnixListener::bind(sockets.join("a.sock")).unwrap();
        assert_eq!(other_than_sockets(&sockets), None);
        let of_children = sockets.join("17.notify");
        fs::create_dir(&of_children).unwrap();
        let _socket = UnixListener::bind(of_children.join("1")).unwrap();
        assert_eq!(other_than_sockets(&sockets), None);
        fs::write(of_children.join("2"), "content").unwrap();
        assert!(other_than_sockets(&sockets).is_some());
        fs::remove_file(of_children.join("2")).unwrap();
        fs::create_dir(sockets.join("things")).unwrap();
        let told = std::thread::scope(|scope| scope.spawn(|| seal(&sockets, None)).join().unwrap());
        assert_ne!(told.landlock, Landlock::Full);
        if told.landlock == Landlock::Partial
            && !told.why.as_deref().unwrap().contains("Landlock V")
        {
            let why = told.why.unwrap();
            assert!(why.contains("/things is no socket"), "{why}");
        }
    }

    /// The process of the test has threads that are free.
    #[test]
    fn a_seal_tells_of_older_threads_makes_the_directory_and_turns_core_dumps_off() {
        let base = tempfile::tempdir().unwrap();
        let sockets = base.path().join("run");
        let sealed =
            std::thread::scope(|scope| scope.spawn(|| seal(&sockets, None)).join().unwrap());
        assert!(sealed.core_dumps.is_ok(), "{sealed:?}");
        let limit = rustix::process::getrlimit(Resource::Core);
        assert_eq!((limit.current, limit.maximum), (Some(0), Some(0)));
        let dumpable = rustix::process::dumpable_behavior().unwrap();
        assert_eq!(dumpable, DumpableBehavior::NotDumpable);
        let mode = fs::metadata(&sockets).unwrap().permissions().mode();
        assert_eq!(mode & 0o7777, 0o700);
        assert_ne!(sealed.landlock, Landlock::Full);
        if sealed.landlock == Landlock::Partial {
            let why = sealed.why.unwrap();
            assert!(
                why.contains("threads are older") || why.contains("Landlock V"),
                "{why}"
            );
        }
    }
}
