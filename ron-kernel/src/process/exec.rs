//! fork and exec. The one module with unsafe code: nothing safe lets a child register itself, die with its
//! parent, take listeners to fixed descriptors and learn its own process id before it executes a program.
//!
//! The child shares this program's memory until it executes its own (CLONE_VM, CLONE_VFORK), as in posix_spawn(3): a copy
//! would cost page tables and write faults by the gigabyte. The thread that makes it stands still meanwhile; so a program
//! on a file system that does not answer holds up the starts of others. The child may call only what
//! signal-safety(7) lists, allocate nothing and touch no lock. Everything it needs is made before.

#![allow(unsafe_code)]

use rustix::fd::{AsRawFd, BorrowedFd, RawFd};
use rustix::process::Pid;
use std::ffi::{c_char, c_int, CString};
use std::io;
use std::ptr;
use std::sync::atomic::{AtomicI32, Ordering};

/// What is to be executed.
#[derive(Debug)]
pub(crate) struct Image {
    pub(crate) path: CString,
    pub(crate) argv: Vec<CString>,
    /// `NAME=VALUE` each.
    pub(crate) env: Vec<CString>,
    pub(crate) dir: Option<CString>,
}

/// Where it is to run.
#[derive(Debug)]
pub(crate) struct Place<'a> {
    pub(crate) stdin: BorrowedFd<'a>,
    pub(crate) stdout: BorrowedFd<'a>,
    pub(crate) stderr: BorrowedFd<'a>,
    /// Become descriptors 3, 4 and so on.
    pub(crate) listeners: Vec<BorrowedFd<'a>>,
    /// Leads a session instead of a process group.
    pub(crate) session: bool,
    /// Gets SIGKILL when the thread that forks it ends.
    pub(crate) dies_with_parent: bool,
    /// Where it writes `+ PID` before it executes anything.
    pub(crate) lifeline: Option<BorrowedFd<'a>>,
    /// `cgroup.procs` of the cgroup it moves to.
    pub(crate) cgroup: Option<BorrowedFd<'a>>,
    /// Limits of open files, soft and hard.
    pub(crate) nofile: Option<(u64, u64)>,
}

/// The step of a start that failed. Complete; the child leaves the number in the plan.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Stage {
    Fork = 0,
    Group = 1,
    Parent = 2,
    Limit = 3,
    Cgroup = 4,
    Lifeline = 5,
    Directory = 6,
    Descriptors = 7,
    Execute = 8,
}

impl Stage {
    /// What could not be had.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Stage::Fork => "making a process",
            Stage::Group => "a process group of its own",
            Stage::Parent => "the parent-death signal",
            Stage::Limit => "the limit of open files",
            Stage::Cgroup => "its cgroup",
            Stage::Lifeline => "the guardian",
            Stage::Directory => "its working directory",
            Stage::Descriptors => "its descriptors",
            Stage::Execute => "executing it",
        }
    }

    fn parse(number: i32) -> Option<Stage> {
        let all = [
            Stage::Group,
            Stage::Parent,
            Stage::Limit,
            Stage::Cgroup,
            Stage::Lifeline,
            Stage::Directory,
            Stage::Descriptors,
            Stage::Execute,
        ];
        all.into_iter().find(|stage| *stage as i32 == number)
    }
}

/// Why no program was executed.
#[derive(Debug)]
pub(crate) struct Failed {
    pub(crate) stage: Stage,
    pub(crate) source: io::Error,
    /// The child that failed, to be reaped.
    pub(crate) child: Option<Pid>,
}

impl From<io::Error> for Failed {
    fn from(source: io::Error) -> Failed {
        let (stage, child) = (Stage::Fork, None);
        Failed {
            stage,
            source,
            child,
        }
    }
}

/// All that the child touches, as plain pointers and numbers into memory that the caller keeps alive.
struct Plan {
    path: *const c_char,
    argv: *const *const c_char,
    env: *const *const c_char,
    dir: *const c_char,
    /// Behind `LISTEN_PID=`, with room for ten digits and the NUL; null without listeners.
    listen_pid: *mut u8,
    /// Sources of descriptors 0, 1, 2, 3 and so on; all above the last target.
    sources: *const RawFd,
    sources_len: c_int,
    /// What the child leaves there if it fails: [`Stage`] and errno. Relaxed: the maker reads when the child is gone.
    failed: AtomicI32,
    errno: AtomicI32,
    lifeline: RawFd,
    cgroup: RawFd,
    session: bool,
    dies_with_parent: bool,
    parent: libc::pid_t,
    nofile: Option<libc::rlimit>,
    /// No descriptor is as high, as far as one looks.
    open_max: c_int,
}

const LISTEN_PID: &[u8] = b"LISTEN_PID=";
const ABSENT: RawFd = -1;

/// Makes a process that executes `image`; returns once it has, or why it has not.
pub(crate) fn fork_exec(image: &Image, place: &Place<'_>) -> Result<Pid, Failed> {
    let standard = [place.stdin, place.stdout, place.stderr];
    let targets = c_int::try_from(standard.len() + place.listeners.len())
        .map_err(|_| io::Error::from(io::ErrorKind::InvalidInput))?;
    // Copies above the targets, so that no step overwrites the source of another.
    let raise = |fd: BorrowedFd<'_>| rustix::io::fcntl_dupfd_cloexec(fd, targets);
    let sources = standard.into_iter().chain(place.listeners.iter().copied());
    let sources = sources.map(raise).collect::<Result<Vec<_>, _>>();
    let sources = sources.map_err(io::Error::from)?;
    let source_numbers: Vec<RawFd> = sources.iter().map(AsRawFd::as_raw_fd).collect();

    let pointers = |strings: &[CString]| -> Vec<*const c_char> {
        let strings = strings.iter().map(|string| string.as_ptr());
        strings.chain([ptr::null()]).collect()
    };
    let argv = pointers(&image.argv);
    let mut env = pointers(&image.env);
    let mut listen_pid = LISTEN_PID.to_vec();
    listen_pid.resize(LISTEN_PID.len() + 11, 0);
    let mut listen_pid_digits = ptr::null_mut();
    if !place.listeners.is_empty() {
        let start = listen_pid.as_mut_ptr();
        env.insert(0, start.cast_const().cast());
        // SAFETY: the buffer is longer than the prefix.
        listen_pid_digits = unsafe { start.add(LISTEN_PID.len()) };
    }
    let number = |fd: Option<BorrowedFd<'_>>| fd.map_or(ABSENT, |fd| fd.as_raw_fd());
    let plan = Plan {
        path: image.path.as_ptr(),
        argv: argv.as_ptr(),
        env: env.as_ptr(),
        dir: image.dir.as_ref().map_or(ptr::null(), |dir| dir.as_ptr()),
        listen_pid: listen_pid_digits,
        sources: source_numbers.as_ptr(),
        sources_len: targets,
        failed: AtomicI32::new(0),
        errno: AtomicI32::new(0),
        lifeline: number(place.lifeline),
        cgroup: number(place.cgroup),
        session: place.session,
        dies_with_parent: place.dies_with_parent,
        parent: rustix::process::getpid().as_raw_nonzero().get(),
        open_max: open_max(),
        nofile: place.nofile.map(|(soft, hard)| libc::rlimit {
            rlim_cur: soft,
            rlim_max: hard,
        }),
    };
    // Nothing of this program must run in the child but `enter`.
    let mask = Mask::block_all();
    let mut stack = vec![0u128; STACK / size_of::<u128>()];
    let pid = {
        let top = stack.as_mut_ptr_range().end;
        let plan = ptr::from_ref(&plan).cast_mut();
        // SAFETY: the child has a stack of its own and what it does is `enter`; this thread stands still until it has
        // executed its program or ended, so `plan`, what that points to, the stack and errno are its alone until then.
        unsafe {
            libc::clone(
                entered,
                top.cast(),
                libc::CLONE_VM | libc::CLONE_VFORK | libc::SIGCHLD,
                plan.cast(),
            )
        }
    };
    let error = io::Error::last_os_error();
    drop(mask);
    let Some(pid) = Pid::from_raw(pid.max(0)) else {
        return Err(error.into());
    };
    match Stage::parse(plan.failed.load(Ordering::Relaxed)) {
        None => Ok(pid),
        Some(stage) => Err(Failed {
            stage,
            source: io::Error::from_raw_os_error(plan.errno.load(Ordering::Relaxed)),
            child: Some(pid),
        }),
    }
}

/// Gives SIGCHLD its default back where it is ignored: the system would reap children before anybody learns how they
/// ended. Returns whether it was.
pub(crate) fn heed_children() -> bool {
    // SAFETY: the struct is plain data, filled by the first call; the second only replaces what does nothing.
    unsafe {
        let mut action: libc::sigaction = std::mem::zeroed();
        if libc::sigaction(libc::SIGCHLD, ptr::null(), &mut action) != 0 {
            return false;
        }
        let ignored = action.sa_sigaction == libc::SIG_IGN;
        let unwaited = action.sa_flags & libc::SA_NOCLDWAIT != 0;
        if ignored {
            action.sa_sigaction = libc::SIG_DFL;
        }
        action.sa_flags &= !libc::SA_NOCLDWAIT;
        if ignored || unwaited {
            libc::sigaction(libc::SIGCHLD, &action, ptr::null_mut());
        }
        ignored || unwaited
    }
}

/// Where a search for open descriptors ends.
fn open_max() -> c_int {
    const LOOKED_AT: u64 = 65_536;
    let limit = rustix::process::getrlimit(rustix::process::Resource::Nofile).current;
    limit.unwrap_or(LOOKED_AT).min(LOOKED_AT) as c_int
}

/// All signals blocked in this thread; as before when dropped.
struct Mask(libc::sigset_t);

impl Mask {
    fn block_all() -> Mask {
        // SAFETY: sigset_t is plain data; the calls write to the two sets only.
        unsafe {
            let mut all: libc::sigset_t = std::mem::zeroed();
            let mut before: libc::sigset_t = std::mem::zeroed();
            libc::sigfillset(&mut all);
            libc::pthread_sigmask(libc::SIG_SETMASK, &all, &mut before);
            Mask(before)
        }
    }
}

impl Drop for Mask {
    fn drop(&mut self) {
        // SAFETY: the set was filled by pthread_sigmask.
        unsafe { libc::pthread_sigmask(libc::SIG_SETMASK, &self.0, ptr::null_mut()) };
    }
}

/// Bytes of the stack on which a child reaches its program; it needs a tenth of them.
const STACK: usize = 64 * 1024;

extern "C" fn entered(plan: *mut libc::c_void) -> c_int {
    // SAFETY: called by clone alone, with the plan that `fork_exec` passed.
    unsafe { enter(&*plan.cast::<Plan>().cast_const()) }
}

/// The child, up to its program.
///
/// # Safety
///
/// Only right after fork, in the child, with a plan whose pointers are valid.
unsafe fn enter(plan: &Plan) -> ! {
    macro_rules! stage {
        ($stage:expr, $call:expr) => {
            if $call < 0 {
                fail(plan, $stage)
            }
        };
    }
    // Handlers are gone with the exec; what this program ignores (SIGPIPE) must not be ignored there.
    for signal in 1..=64 {
        libc::signal(signal, libc::SIG_DFL);
    }
    if plan.session {
        stage!(Stage::Group, libc::setsid());
    } else {
        stage!(Stage::Group, libc::setpgid(0, 0));
    }
    if plan.dies_with_parent {
        stage!(
            Stage::Parent,
            libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGKILL, 0, 0, 0)
        );
        // It may have died before that; then nobody would send the signal any more.
        if libc::getppid() != plan.parent {
            libc::_exit(127);
        }
    }
    if let Some(limit) = &plan.nofile {
        stage!(Stage::Limit, libc::setrlimit(libc::RLIMIT_NOFILE, limit));
    }
    if plan.cgroup != ABSENT {
        // 0 is the writer itself.
        stage!(
            Stage::Cgroup,
            libc::write(plan.cgroup, b"0\n".as_ptr().cast(), 2)
        );
    }
    let mut digits = [0u8; 11];
    let digits_len = decimal(libc::getpid(), &mut digits);
    if plan.lifeline != ABSENT {
        let mut line = *b"+ ..........\n";
        ptr::copy_nonoverlapping(digits.as_ptr(), line.as_mut_ptr().add(2), digits_len);
        *line.as_mut_ptr().add(2 + digits_len) = b'\n';
        // It does not block, and somebody reads: this process holds the other end, too.
        stage!(
            Stage::Lifeline,
            libc::write(plan.lifeline, line.as_ptr().cast(), 3 + digits_len)
        );
    }
    if !plan.dir.is_null() {
        stage!(Stage::Directory, libc::chdir(plan.dir));
    }
    let mut target = 0;
    while target < plan.sources_len {
        let source = *plan.sources.offset(target as isize);
        stage!(Stage::Descriptors, libc::dup2(source, target));
        target += 1;
    }
    // What some library opened without O_CLOEXEC is none of the child's business.
    let closed = libc::syscall(
        libc::SYS_close_range,
        plan.sources_len as libc::c_uint,
        libc::c_uint::MAX,
        libc::CLOSE_RANGE_CLOEXEC,
    );
    if closed != 0 {
        // Linux before 5.11, or a filter of system calls.
        let mut fd = plan.sources_len;
        while fd < plan.open_max {
            libc::fcntl(fd, libc::F_SETFD, libc::FD_CLOEXEC);
            fd += 1;
        }
    }
    if !plan.listen_pid.is_null() {
        ptr::copy_nonoverlapping(digits.as_ptr(), plan.listen_pid, digits_len);
    }
    let mut none: libc::sigset_t = std::mem::zeroed();
    libc::sigemptyset(&mut none);
    libc::pthread_sigmask(libc::SIG_SETMASK, &none, ptr::null_mut());
    libc::execve(plan.path, plan.argv, plan.env);
    fail(plan, Stage::Execute)
}

/// Tells the parent and ends.
///
/// # Safety
///
/// As [`enter`].
unsafe fn fail(plan: &Plan, stage: Stage) -> ! {
    plan.errno
        .store(*libc::__errno_location(), Ordering::Relaxed);
    plan.failed.store(stage as i32, Ordering::Relaxed);
    libc::_exit(127)
}

/// Writes a number; returns how many digits it has.
fn decimal(number: libc::pid_t, digits: &mut [u8; 11]) -> usize {
    let mut rest = number.unsigned_abs();
    let mut length = 1;
    let mut limit = 10;
    while length < 10 && rest >= limit {
        length += 1;
        limit = limit.saturating_mul(10);
    }
    let mut at = length;
    while at > 0 {
        at -= 1;
        if let Some(digit) = digits.get_mut(at) {
            *digit = b'0' + (rest % 10) as u8;
        }
        rest /= 10;
    }
    length
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_written_without_padding() {
        for number in [0, 7, 10, 99, 100, 4_194_304, 999_999_999, i32::MAX] {
            let mut digits = [0; 11];
            let length = decimal(number, &mut digits);
            assert_eq!(&digits[..length], number.to_string().as_bytes());
        }
    }
}
