//! What a terminal gets to see.

use std::fs::File;
use std::io::Read;
use std::os::fd::OwnedFd;
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Condvar, Mutex};
use std::thread::JoinHandle;

use rustix::fs::{Mode, OFlags};
use rustix::process::{kill_process, Pid, Signal};
use rustix::pty::{grantpt, openpt, ptsname, unlockpt, OpenptFlags};
use rustix::termios::{tcsetwinsize, Winsize};

use crate::fake::{golden, json, Run, BINARY, INSTANCE, PATIENCE};

/// A program on a terminal of 80 columns and 24 rows.
struct Terminal {
    child: Child,
    seen: Arc<(Mutex<String>, Condvar)>,
    reader: Option<JoinHandle<()>>,
}

impl Terminal {
    fn run(command: &mut Command) -> Terminal {
        let master = openpt(OpenptFlags::RDWR | OpenptFlags::NOCTTY).unwrap();
        grantpt(&master).unwrap();
        unlockpt(&master).unwrap();
        let name = ptsname(&master, Vec::new()).unwrap();
        let slave: OwnedFd =
            rustix::fs::open(name, OFlags::RDWR | OFlags::NOCTTY, Mode::empty()).unwrap();
        let size = Winsize {
            ws_row: 24,
            ws_col: 80,
            ws_xpixel: 0,
            ws_ypixel: 0,
        };
        tcsetwinsize(&slave, size).unwrap();
        command.stdin(Stdio::null()).stdout(slave);
        let child = command.spawn().unwrap();
        // The copies of the slave that are ours would keep the terminal open.
        command.stdout(Stdio::null());
        let seen = Arc::new((Mutex::new(String::new()), Condvar::new()));
        let shared = Arc::clone(&seen);
        let reader = std::thread::spawn(move || {
            let mut master = File::from(master);
            let mut part = [0; 4096];
            // The end of a terminal is an error.
            while let Ok(read @ 1..) = master.read(&mut part) {
                shared
                    .0
                    .lock()
                    .unwrap()
                    .push_str(&String::from_utf8_lossy(&part[..read]));
                shared.1.notify_all();
            }
        });
        Terminal {
            child,
            seen,
            reader: Some(reader),
        }
    }

    /// Waits until `text` is seen behind what `after` returned before.
    #[track_caller]
    fn sees(&self, after: usize, text: &str) -> usize {
        let seen = self.seen.0.lock().unwrap();
        let missing = |seen: &mut String| !seen[after..].contains(text);
        let (seen, waited) = self
            .seen
            .1
            .wait_timeout_while(seen, PATIENCE, missing)
            .unwrap();
        assert!(
            !waited.timed_out(),
            "{text:?} is not in {:?}",
            &seen[after..]
        );
        after + seen[after..].find(text).unwrap() + text.len()
    }

    /// The exit code, and all that was seen.
    fn ends(&mut self) -> (Option<i32>, String) {
        let code = self.child.wait().unwrap().code();
        self.reader.take().unwrap().join().unwrap();
        (code, self.seen.0.lock().unwrap().clone())
    }
}

impl Drop for Terminal {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

#[test]
fn the_live_picture_outlives_its_service_and_leaves_a_clean_screen() {
    for signal in [Signal::INT, Signal::TERM] {
        let run = Run::new();
        let body = golden("top.json");
        let seconds = AtomicU32::new(5);
        run.serve("ron-kernel", INSTANCE, move |_| {
            let now = format!("12:00:{:02}", seconds.fetch_add(1, Ordering::Relaxed));
            json(200, &body.replace("12:00:05", &now))
        });
        let mut command = run.command(BINARY);
        let mut terminal = Terminal::run(command.args(["top", "--interval", "100ms"]));
        let at = terminal.sees(0, "\x1b[?1049h");
        let at = terminal.sees(at, "NOT READY");
        // The second frame knows what the processor did meanwhile.
        let at = terminal.sees(at, "cpu 0%");
        std::fs::remove_file(run.sock("ron-kernel", INSTANCE)).unwrap();
        let at = terminal.sees(at, "connection lost: no service is running here");
        let at = terminal.sees(at, "waiting for ron-kernel");
        // Somebody else is not waited for.
        run.serve("svc-b", "7-c", |_| json(200, "{}"));
        let at = terminal.sees(
            at,
            "connection lost: ron-kernel is not running here; here are svc-b.7-c",
        );
        let back = golden("top.json")
            .replace("not_ready", "ready")
            .replace(INSTANCE, "9-d");
        run.serve("ron-kernel", "9-d", move |_| json(200, &back));
        let at = terminal.sees(at, " READY");
        kill_process(Pid::from_child(&terminal.child), signal).unwrap();
        terminal.sees(at, "\x1b[?25h\x1b[?1049l");
        let (code, seen) = terminal.ends();
        assert_eq!(code, Some(0));
        assert!(seen.ends_with("\x1b[?25h\x1b[?1049l"), "{seen:?}");
    }
}

#[test]
fn a_service_that_never_was_there_leaves_the_screen_alone() {
    let run = Run::new();
    let mut command = run.command(BINARY);
    let mut terminal = Terminal::run(command.arg("top").stderr(Stdio::null()));
    assert_eq!(terminal.ends(), (Some(3), String::new()));
}

#[test]
fn lines_end_at_the_edge_and_colour_is_shown_unless_unwanted() {
    let run = Run::new();
    let body = golden("tree.json");
    run.serve("ron-kernel", INSTANCE, move |_| json(200, &body));
    for (env, colour, file) in [
        (("X", ""), "auto", "tree_colour.txt"),
        (("NO_COLOR", ""), "auto", "tree_colour.txt"),
        (("NO_COLOR", "1"), "auto", "tree.txt"),
        (("NO_COLOR", "1"), "always", "tree_colour.txt"),
        (("TERM", "dumb"), "auto", "tree.txt"),
        (("X", ""), "never", "tree.txt"),
    ] {
        let mut command = run.command(BINARY);
        let mut terminal =
            Terminal::run(command.args(["tree", "--color", colour]).env(env.0, env.1));
        let text = golden(file).replace('\n', "\r\n");
        terminal.sees(0, &text);
        assert_eq!(terminal.ends(), (Some(0), text), "{env:?} {colour}");
    }
}
