//! What is left of a tree of tasks, threads and processes when its kernel gets SIGKILL at a random instant, at each
//! level of containment. A program of its own, because it starts itself as the kernel to be killed.
//!
//! And what is left in a kernel whose children crash all the time: no zombies, no descriptors.
//!
//! `cargo test -p ron-kernel --features process --test survivors`; with `RON_KILLS=500 RON_CRASH_SECONDS=600` in full.

#![allow(clippy::print_stdout, reason = "a program that prints its figures")]

use ron_kernel::process::{Command, Ready};
use ron_kernel::supervisor::{Backoff, Child, Exhausted, Group, Intensity};
use ron_kernel::Kernel;
use std::collections::BTreeSet;
use std::process::{Child as StdChild, ExitCode, Stdio};
use std::time::{Duration, Instant};

/// Says in the environment of a process to which victim it belongs.
const MARK: &str = "SURVIVOR_MARK";
/// Set for those that make a session of their own.
const ESCAPED: &str = "SURVIVOR_ESCAPED";
/// Kills without `RON_KILLS`.
const KILLS: u32 = 25;
/// Seconds of crashing without `RON_CRASH_SECONDS`.
const CRASH_SECONDS: u64 = 5;
/// Children that crash.
const CRASHING: usize = 20;
/// Survivors are counted this long after the kill.
const GRACE: Duration = Duration::from_secs(1);
/// The longest life of a victim that is killed at random.
const LIFE_MAX: Duration = Duration::from_millis(300);

fn main() -> ExitCode {
    if std::env::var_os(MARK).is_some() {
        return victim();
    }
    // What `cargo test` passes on is for test functions, of which there are none here.
    let kills = std::env::var("RON_KILLS").map_or(KILLS, |kills| kills.parse().expect("a number"));
    let mut random = Random(std::process::id().into());
    let strongest = strongest_level();
    println!("the strongest level here is {strongest}");
    let seconds =
        std::env::var("RON_CRASH_SECONDS").map_or(CRASH_SECONDS, |s| s.parse().expect("a number"));
    crash_loop(Duration::from_secs(seconds));
    killed_at_random(kills, &mut random, strongest == "cgroup");
    residue("as it is", &[], strongest);
    if is_root() {
        let nobody = [
            "setpriv",
            "--reuid=65534",
            "--regid=65534",
            "--clear-groups",
            "--",
        ];
        residue("as another user", &nobody, "group+pdeathsig");
        let shell = std::fs::canonicalize("/bin/sh").expect("a shell");
        let hidden = format!("mount --bind /dev/null {} && exec \"$@\"", shell.display());
        // The guardian's shell is hidden; those of the children are given by another name.
        let no_shell = ["unshare", "--mount", "/bin/bash", "-c", &hidden, "-"];
        residue("without a shell", &no_shell, "pdeathsig");
    }
    ExitCode::SUCCESS
}

fn is_root() -> bool {
    use std::os::unix::fs::MetadataExt;
    std::fs::metadata("/proc/self").is_ok_and(|own| own.uid() == 0)
}

/// The kernel that is to be killed: every kind of child, some crashing, some slow, some with descendants.
fn victim() -> ExitCode {
    let bash = |script: &str| Command::new("/bin/bash").arg("-c").arg(script);
    let family = format!(
        "trap '' TERM; sleep 1001 & ({ESCAPED}=1 exec setsid sleep 1002) & (sleep 1003 & wait) & wait"
    );
    let often = Intensity::new(1_000_000, Duration::from_secs(1)).expect("an intensity");
    let soon = Backoff::new(Duration::from_millis(1), Duration::from_millis(5)).expect("a backoff");
    let crashing = Child::process("crashing", bash("sleep 1004 & exit 3"))
        .intensity(often)
        .backoff(soon)
        .on_exhausted(Exhausted::Hold);
    let group = Group::new("group")
        .child(Child::process("silent", bash("exec sleep 1005").ready(Ready::Notified)).optional())
        .child(Child::process(
            "many",
            bash("for n in $(seq 20); do sleep 1006 & done; wait"),
        ));
    Kernel::builder()
        .child(Child::task("task", |cx| async move { cx.stopping().await }))
        .child(Child::process("family", bash(&family)).after("task"))
        .child(
            Child::thread(
                "thread",
                |cx| {
                    while !cx.wait_stopping(Duration::from_secs(1)) {}
                },
            )
            .after("family"),
        )
        .child(crashing.after("task"))
        .group(group)
        .run()
}

struct Victim {
    mark: String,
    process: StdChild,
}

impl Victim {
    fn start(number: u32, wrapper: &[&str]) -> Victim {
        let mark = format!("{}-{number}", std::process::id());
        let own = std::env::current_exe().expect("a path");
        let (program, args) = match wrapper {
            [program, args @ ..] => (std::ffi::OsStr::new(program), args),
            [] => (own.as_os_str(), &[][..]),
        };
        let mut command = std::process::Command::new(program);
        command.args(args);
        if !wrapper.is_empty() {
            command.arg(&own);
        }
        let process = command
            .env(MARK, &mark)
            .env_remove("RON_RUN_DIR")
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .expect("a victim");
        Victim { mark, process }
    }

    /// Its descendants that run: pid and whether it made a session of its own.
    fn descendants(&self) -> BTreeSet<(u32, bool)> {
        let mut found = marked(&self.mark);
        found.retain(|(pid, _)| *pid != self.process.id());
        found
    }

    fn kill(&mut self) {
        self.process.kill().expect("to kill");
        self.process.wait().expect("to wait");
    }
}

fn marked(mark: &str) -> BTreeSet<(u32, bool)> {
    let mut found = BTreeSet::new();
    for entry in std::fs::read_dir("/proc").expect("/proc").flatten() {
        let Some(pid) = entry
            .file_name()
            .to_str()
            .and_then(|name| name.parse().ok())
        else {
            continue;
        };
        // Empty for a zombie, absent for one that has just gone.
        let environ = std::fs::read(entry.path().join("environ")).unwrap_or_default();
        let has = |wanted: &str| {
            environ
                .split(|byte| *byte == 0)
                .any(|pair| pair == wanted.as_bytes())
        };
        if has(&format!("{MARK}={mark}")) {
            found.insert((pid, has(&format!("{ESCAPED}=1"))));
        }
    }
    found
}

/// What the level in force would be for a victim started as this program is.
fn strongest_level() -> &'static str {
    let runtime = tokio::runtime::Runtime::new().expect("a runtime");
    runtime.block_on(async {
        let kernel =
            Kernel::builder().child(Child::process("one", Command::new("sleep").arg("1000")));
        let running = kernel
            .build()
            .expect("a kernel")
            .start()
            .await
            .expect("to start");
        running.handle().ready().await;
        let level = running.handle().containment().expect("a level").name();
        running.shutdown().await;
        level
    })
}

/// Twenty processes that end at once, each in its own way, and start again within milliseconds.
fn crash_loop(lasts: Duration) {
    let often = Intensity::new(1_000_000, Duration::from_secs(1)).expect("an intensity");
    let soon = Backoff::new(Duration::from_millis(1), Duration::from_millis(5)).expect("a backoff");
    let ways = [
        "exit 3",
        "kill -9 $$",
        "sleep 1008 & exit 1",
        "exec /no/such",
        "echo out; kill -ABRT $$",
    ];
    let builder = (0..CRASHING).fold(Kernel::builder(), |builder, number| {
        let command = Command::new("/bin/bash")
            .arg("-c")
            .arg(ways[number % ways.len()]);
        let child = Child::process(format!("crash{number}"), command);
        builder.child(
            child
                .intensity(often)
                .backoff(soon)
                .on_exhausted(Exhausted::Hold),
        )
    });
    let runtime = tokio::runtime::Runtime::new().expect("a runtime");
    runtime.block_on(async {
        let running = builder
            .build()
            .expect("a kernel")
            .start()
            .await
            .expect("to start");
        let mut fds = Vec::new();
        let mut zombies = BTreeSet::new();
        let begun = Instant::now();
        while begun.elapsed() < lasts {
            tokio::time::sleep(Duration::from_secs(1)).await;
            fds.push(
                std::fs::read_dir("/proc/self/fd")
                    .expect("descriptors")
                    .count(),
            );
            let now = own_zombies();
            let stale: Vec<_> = now.intersection(&zombies).collect();
            assert!(stale.is_empty(), "zombies for a second: {stale:?}");
            zombies = now;
        }
        let crashes: u64 = running
            .handle()
            .tree()
            .iter()
            .map(|node| node.restarts)
            .sum();
        running.shutdown().await;
        // Each child that runs holds a few; what leaks grows with the crashes, which are many more.
        let (first, most) = (fds[0], fds.iter().copied().max().unwrap_or_default());
        println!("{crashes} restarts in {lasts:?}: descriptors {first} at first, {most} at most");
        assert!(most <= first + 6 * CRASHING, "{fds:?}");
        assert!(crashes > 10 * lasts.as_secs(), "only {crashes} restarts");
    });
    assert!(own_zombies().is_empty());
}

fn own_zombies() -> BTreeSet<u32> {
    let own = std::process::id().to_string();
    let mut zombies = BTreeSet::new();
    for entry in std::fs::read_dir("/proc").expect("/proc").flatten() {
        let stat = std::fs::read_to_string(entry.path().join("stat")).unwrap_or_default();
        let Some((_, rest)) = stat.rsplit_once(") ") else {
            continue;
        };
        let mut fields = rest.split(' ');
        if fields.next() == Some("Z") && fields.next() == Some(own.as_str()) {
            zombies.extend(
                entry
                    .file_name()
                    .to_str()
                    .and_then(|pid| pid.parse::<u32>().ok()),
            );
        }
    }
    zombies
}

fn killed_at_random(kills: u32, random: &mut Random, all_die: bool) {
    let (mut lived, mut seen, mut slowest) = (0, 0, Duration::ZERO);
    let mut pids = Vec::new();
    for number in 0..kills {
        let mut victim = Victim::start(number, &[]);
        std::thread::sleep(random.below(LIFE_MAX));
        let before = victim.descendants().len();
        victim.kill();
        let killed = Instant::now();
        let left = loop {
            let mut left = victim.descendants();
            left.retain(|(_, escaped)| all_die || !escaped);
            if left.is_empty() || killed.elapsed() > GRACE {
                break left;
            }
            std::thread::sleep(Duration::from_millis(5));
        };
        slowest = slowest.max(killed.elapsed());
        assert!(
            left.is_empty(),
            "kill {number}: {left:?} survived for {GRACE:?}"
        );
        lived += u32::from(before > 0);
        seen += before;
        pids.push(victim.process.id());
        clear(&victim.mark);
    }
    if all_die {
        // The cgroup of one that was killed before it had a guardian is empty; the next kernel removes it.
        strongest_level();
        cgroups_gone(&pids);
    }
    // Kills before anything was forked prove nothing.
    assert!(
        lived * 2 >= kills,
        "only {lived} of {kills} victims had descendants"
    );
    println!(
        "{kills} kills, {lived} with {seen} descendants: none left, the slowest after {slowest:?}"
    );
}

/// None of their cgroups is left.
fn cgroups_gone(pids: &[u32]) {
    let own: Vec<String> = pids
        .iter()
        .map(|pid| format!("ron-kernel-{pid:x}-"))
        .collect();
    let deadline = Instant::now() + Duration::from_secs(10);
    let below = |dir: &std::path::Path| {
        let entries = std::fs::read_dir(dir).into_iter().flatten().flatten();
        entries.map(|entry| entry.path()).collect::<Vec<_>>()
    };
    let is_own = |path: &std::path::PathBuf| {
        let name = path.file_name().unwrap_or_default().to_string_lossy();
        own.iter().any(|own| name.starts_with(own))
    };
    // The root of version 2 is here or one level down.
    let root = std::path::Path::new("/sys/fs/cgroup");
    while below(root)
        .iter()
        .any(|dir| is_own(dir) || below(dir).iter().any(is_own))
    {
        assert!(Instant::now() < deadline, "a cgroup is left");
        std::thread::sleep(Duration::from_millis(10));
    }
}

/// Exactly what the documentation of `Containment` says is left of the family.
fn residue(what: &str, wrapper: &[&str], level: &str) {
    let mut victim = Victim::start(1_000_000, wrapper);
    let deadline = Instant::now() + Duration::from_secs(30);
    // The family of four, the silent one, the crowd of 21.
    let complete = |found: &BTreeSet<(u32, bool)>| {
        found.len() >= 26 && found.iter().any(|(_, escaped)| *escaped)
    };
    while !complete(&victim.descendants()) {
        assert!(
            Instant::now() < deadline,
            "{what}: {:?}",
            victim.descendants()
        );
        std::thread::sleep(Duration::from_millis(20));
    }
    victim.kill();
    std::thread::sleep(GRACE);
    let left = victim.descendants();
    let escaped = left.iter().filter(|(_, escaped)| *escaped).count();
    println!(
        "{what} ({level}): {} left, {escaped} of them in sessions of their own",
        left.len()
    );
    match level {
        "cgroup" => assert_eq!(left.len(), 0, "{what}"),
        "group+pdeathsig" => assert_eq!((left.len(), escaped), (1, 1), "{what}"),
        // Descendants stay; the children themselves are gone: nobody is a child of a child any more.
        "pdeathsig" => assert!(escaped == 1 && left.len() >= 23, "{what}: {left:?}"),
        other => panic!("{what}: what {other} leaves is not known"),
    }
    clear(&victim.mark);
}

/// Ends what may be left.
fn clear(mark: &str) {
    for (pid, _) in marked(mark) {
        let _ = std::process::Command::new("kill")
            .arg("-KILL")
            .arg(pid.to_string())
            .status();
    }
}

/// xorshift64*; the instants need to differ, no more.
struct Random(u64);

impl Random {
    fn below(&mut self, limit: Duration) -> Duration {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        let next = self.0.wrapping_mul(0x2545_F491_4F6C_DD1D);
        Duration::from_micros(next % limit.as_micros() as u64)
    }
}
