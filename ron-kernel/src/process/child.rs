//! One incarnation of a process: started, listened to, asked for its health, stopped, reaped.

use super::image::Extra;
use super::notified::{NotifySocket, Told};
use super::output::Output;
use super::spawner::Leader;
use super::{Command, Probe, Ready};
use crate::supervisor::context::{Incarnation, ABORT, FAULT_EXIT, FAULT_HANG, FAULT_PANIC};
use crate::supervisor::machine::Input;
use crate::supervisor::{error_chain, BoxError, ChildContext, Exit, ProcessEnded};
use rustix::fd::OwnedFd;
use rustix::io::Errno;
use rustix::process::{pidfd_open, PidfdFlags, Signal};
use std::future::pending;
use std::io;
use std::pin::pin;
use std::sync::atomic::Ordering;
use std::task::Poll;
use std::time::Duration;
use tokio::io::unix::AsyncFd;
use tokio::io::Interest;
use tokio::signal::unix::SignalKind;
use tokio::sync::Notify;
use tokio::time::{Instant, MissedTickBehavior};

/// First pause between two looks whether a process is ready, and the longest.
const READY_EVERY_MIN: Duration = Duration::from_millis(100);
const READY_EVERY_MAX: Duration = Duration::from_secs(1);
/// How long one look may take.
const READY_LOOK_MAX: Duration = Duration::from_secs(5);
/// How long output is awaited after the process has ended: a descendant that left its group may hold the pipe.
const OUTPUT_PATIENCE: Duration = Duration::from_millis(100);
/// How long what it left in its cgroup may take to end before the child is shown as stopping.
const LEFT_PATIENCE: Duration = Duration::from_millis(50);

/// It no longer answers.
#[derive(Debug, thiserror::Error)]
enum Unwell {
    #[error("unhealthy: {misses} probes in a row failed, the last: {last}")]
    Probe { misses: u32, last: String },
    #[error("it asked to be treated as hung (WATCHDOG=trigger)")]
    Triggered,
}

pub(crate) async fn run(cx: ChildContext, command: Command) -> Result<(), BoxError> {
    let Some(engine) = cx.engine.upgrade() else {
        return Ok(());
    };
    let incarnation = cx.incarnation.clone();
    let heartbeat = engine.read(|machine| machine.node(incarnation.key).policy.heartbeat);
    let socket = (command.ready == Ready::Notified || heartbeat.is_some()).then(|| {
        let path = engine.spawner().socket_path();
        path.and_then(NotifySocket::bind).map_err(|error| {
            let dir = crate::run_dir::run_dir();
            let dir = dir.display();
            format!("the socket for its notifications, below {dir}: {error}")
        })
    });
    let socket = socket.transpose()?;
    let extra = extra(socket.as_ref(), heartbeat);
    let mut starting = engine.spawner().start(command.clone(), extra)?;
    let begun = tokio::select! {
        biased;
        leader = starting.answer() => Some(leader?),
        () = ended_early(&cx) => None,
    };
    let mut leader = match begun {
        Some(leader) => leader,
        None if starting.cancel() => return Ok(()),
        // It is being forked: there will be a process, and it is stopped like any other.
        None => starting.answer().await?,
    };
    engine.telemetry.contained(engine.spawner().level());
    leader.belongs_to(&incarnation.id);
    let pid = leader.pid().as_raw_nonzero().get().unsigned_abs();
    drop(engine);
    show_pid(&cx, Some(pid));
    let end = End::watch(&leader)?;
    let (stdout, stderr) = (leader.stdout.take(), leader.stderr.take());
    let mut output = Output::new(
        incarnation.id.clone(),
        incarnation.generation,
        stdout,
        stderr,
    )?;
    let ready = Notify::new();
    started(&cx, &command, pid);
    if command.ready == Ready::Notified {
        cx.status("not ready: has not said READY=1");
    }
    let mut verdict: Option<BoxError> = None;
    {
        let mut watched = pin!(watch(&cx, &command, &ready));
        let mut told_ready = false;
        let mut seen = 0;
        let mut asked = false;
        loop {
            tokio::select! {
                biased;
                () = end.ended(&leader) => break,
                flags = raised(&incarnation, seen) => {
                    obey(&leader, seen, flags);
                    seen = flags;
                }
                () = cx.stopping(), if !asked => {
                    asked = true;
                    leader.stop(command.stop_signal);
                }
                told = hear(socket.as_ref()) => {
                    if told.hung && verdict.is_none() {
                        verdict = Some(Unwell::Triggered.into());
                        end_early(&cx);
                    }
                    if told.ready && !told_ready {
                        told_ready = true;
                        // Before what it says of itself.
                        cx.status("");
                        ready.notify_one();
                    }
                    take(&cx, told);
                }
                problem = &mut watched, if verdict.is_none() => {
                    verdict = Some(problem);
                    end_early(&cx);
                }
                dropped = output.pump(), if !output.is_over() => count_dropped(&cx, dropped),
            }
        }
    }
    let exit = leader.reap();
    show_pid(&cx, None);
    let (last, dropped) = output.finish(OUTPUT_PATIENCE).await;
    count_dropped(&cx, dropped);
    if exit.is_failure() && !cx.is_stopping() && !last.is_empty() {
        cx.status(format!("last words: {last}"));
    }
    if !leader.is_alone() {
        left_alone(&cx, &leader).await;
    }
    match (verdict, exit) {
        (Some(verdict), _) => Err(verdict),
        (None, Exit::Failed(text)) => Err(text.into()),
        (None, exit) => Err(ProcessEnded(exit).into()),
    }
}

/// What the child's environment says of the supervisor.
fn extra(socket: Option<&NotifySocket>, heartbeat: Option<Duration>) -> Extra {
    let mut env = Vec::new();
    if let Some(socket) = socket {
        env.push(("NOTIFY_SOCKET", socket.path().as_os_str().to_owned()));
    }
    if let Some(interval) = heartbeat {
        env.push(("WATCHDOG_USEC", interval.as_micros().to_string().into()));
    }
    Extra { env }
}

/// Shows the process in the tree, as long as its pid is its own.
fn show_pid(cx: &ChildContext, pid: Option<u32>) {
    if let Some(engine) = cx.engine.upgrade() {
        let (key, run) = (cx.incarnation.key, cx.incarnation.run);
        engine.step(Input::Pid { key, run, pid });
    }
}

fn count_dropped(cx: &ChildContext, lines: u64) {
    if let Some(engine) = cx.engine.upgrade().filter(|_| lines > 0) {
        engine.telemetry.output_dropped(cx.id(), lines);
    }
}

/// The incarnation is to end although its process has not been started.
async fn ended_early(cx: &ChildContext) {
    let mut seen = 0;
    let aborted = async {
        while seen & ABORT == 0 {
            seen = raised(&cx.incarnation, seen).await;
        }
    };
    tokio::select! {
        () = cx.stopping() => {}
        () = aborted => {}
    }
}

/// The process is to end before anybody asked for it: shown as stopping, with the timers of a stop.
fn end_early(cx: &ChildContext) {
    if let Some(engine) = cx.engine.upgrade() {
        engine.ending(&cx.incarnation);
    }
}

/// Waits until nothing of it is left in its cgroup; it has been killed.
async fn left_alone(cx: &ChildContext, leader: &Leader) {
    if tokio::time::timeout(LEFT_PATIENCE, leader.emptied())
        .await
        .is_err()
    {
        end_early(cx);
        leader.emptied().await;
    }
}

/// The flags of the incarnation once they differ from `seen`: whoever raises one wakes the task.
async fn raised(incarnation: &Incarnation, seen: u8) -> u8 {
    std::future::poll_fn(|_| match incarnation.flags.load(Ordering::Acquire) {
        flags if flags == seen => Poll::Pending,
        flags => Poll::Ready(flags),
    })
    .await
}

/// What flags mean for a process: an abort is SIGKILL; faults are signals, too.
fn obey(leader: &Leader, seen: u8, flags: u8) {
    let new = flags & !seen;
    if new & ABORT != 0 {
        leader.kill();
    }
    if new & FAULT_PANIC != 0 {
        leader.signal(Signal::ABORT);
    }
    if new & FAULT_EXIT != 0 {
        leader.signal(Signal::KILL);
    }
    match (seen & FAULT_HANG != 0, flags & FAULT_HANG != 0) {
        (false, true) => leader.signal(Signal::STOP),
        (true, false) => leader.signal(Signal::CONT),
        _ => {}
    }
}

async fn hear(socket: Option<&NotifySocket>) -> Told {
    match socket {
        Some(socket) => socket.told().await,
        None => pending().await,
    }
}

fn take(cx: &ChildContext, told: Told) {
    if told.alive {
        cx.heartbeat();
    }
    if let Some(status) = told.status {
        cx.status(status);
    }
}

fn started(cx: &ChildContext, command: &Command, pid: u32) {
    let (child, generation) = (cx.id(), cx.generation());
    let program = command.program.to_string_lossy();
    tracing::info!(
        event = "process_started",
        child,
        generation,
        pid,
        %program,
        "{child} runs as process {pid}"
    );
}

/// From the start of the program to its first sign of being unwell.
async fn watch(cx: &ChildContext, command: &Command, told_ready: &Notify) -> BoxError {
    match &command.ready {
        Ready::Started => {}
        Ready::Notified => told_ready.notified().await,
        Ready::Probed(probe) => until_well(cx, probe).await,
        Ready::After(delay) => {
            cx.status(format!("not ready: runs for less than {delay:?}"));
            tokio::time::sleep(*delay).await;
            cx.status("");
        }
    }
    cx.ready();
    match &command.health {
        Some(probe) => {
            let misses = command.health_misses;
            let last = until_unwell(cx, probe, command.health_every, misses).await;
            let unwell = Unwell::Probe { misses, last };
            cx.status("");
            cx.health(false, unwell.to_string());
            unwell.into()
        }
        None => pending().await,
    }
}

async fn look(cx: &ChildContext, probe: &Probe, limit: Duration) -> Result<(), String> {
    match tokio::time::timeout(limit, probe.check(cx.id())).await {
        Ok(Ok(())) => Ok(()),
        Ok(Err(error)) => Err(error_chain(&error)),
        Err(_) => Err(format!("{probe}: no answer within {limit:?}")),
    }
}

async fn until_well(cx: &ChildContext, probe: &Probe) {
    let mut pause = READY_EVERY_MIN;
    let mut last = String::new();
    while let Err(problem) = look(cx, probe, READY_LOOK_MAX).await {
        if problem != last {
            cx.status(format!("not ready: {problem}"));
            last = problem;
        }
        tokio::time::sleep(pause).await;
        pause = (pause * 2).min(READY_EVERY_MAX);
    }
    if !last.is_empty() {
        cx.status("");
    }
}

/// Returns what was wrong at the last of `limit` misses in a row.
async fn until_unwell(cx: &ChildContext, probe: &Probe, every: Duration, limit: u32) -> String {
    let mut ticks = tokio::time::interval_at(Instant::now() + every, every);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut misses = 0;
    loop {
        ticks.tick().await;
        match look(cx, probe, every).await {
            Ok(()) => {
                cx.heartbeat();
                if misses > 0 {
                    misses = 0;
                    cx.status("");
                }
            }
            Err(problem) => {
                misses += 1;
                if misses >= limit {
                    return problem;
                }
                cx.status(format!(
                    "health probe {misses} of {limit} missed: {problem}"
                ));
            }
        }
    }
}

/// How the end of a process is noticed: by its descriptor, or by SIGCHLD where the system has none.
enum End {
    Descriptor(AsyncFd<OwnedFd>),
    Signal(tokio::sync::Mutex<tokio::signal::unix::Signal>),
}

impl End {
    fn watch(leader: &Leader) -> io::Result<End> {
        match pidfd_open(leader.pid(), PidfdFlags::empty()) {
            Ok(descriptor) => {
                #[allow(deprecated)]
                // Its successor is newer than the oldest tokio this is built with.
                let watched = AsyncFd::with_interest(descriptor, Interest::READABLE);
                watched.map(End::Descriptor)
            }
            // No such call here, or none allowed.
            Err(Errno::NOSYS | Errno::PERM | Errno::INVAL) => End::by_signal(),
            Err(errno) => Err(errno.into()),
        }
    }

    fn by_signal() -> io::Result<End> {
        let signal = tokio::signal::unix::signal(SignalKind::child())?;
        Ok(End::Signal(tokio::sync::Mutex::new(signal)))
    }

    /// Cancel safe.
    async fn ended(&self, leader: &Leader) {
        match self {
            End::Descriptor(descriptor) => {
                while let Ok(mut guard) = descriptor.readable().await {
                    if leader.has_ended() {
                        return;
                    }
                    guard.clear_ready();
                }
                // The runtime's driver is gone, and with it this task any moment.
                pending().await
            }
            End::Signal(signal) => {
                let mut signal = signal.lock().await;
                while !leader.has_ended() {
                    if signal.recv().await.is_none() {
                        pending().await
                    }
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::process::spawner::Spawner;

    #[tokio::test]
    async fn without_descriptors_of_processes_an_end_is_noticed_by_signal() {
        let spawner = Spawner::default();
        for script in ["exit 3", "sleep 0.1; exit 3", "kill -9 $$"] {
            let command = Command::new("/bin/sh").arg("-c").arg(script);
            let starting = spawner.start(command, Extra { env: Vec::new() });
            let mut leader = starting.unwrap().answer().await.unwrap();
            let end = End::by_signal().unwrap();
            // Given up and taken up again, as a select does.
            let given_up = tokio::time::timeout(Duration::from_millis(1), end.ended(&leader));
            let _ = given_up.await;
            end.ended(&leader).await;
            let expected = match script {
                "kill -9 $$" => Exit::Killed(9),
                _ => Exit::Exited(3),
            };
            assert_eq!(leader.reap(), expected, "{script}");
        }
        let thread = spawner.close().unwrap();
        thread.join().unwrap();
    }
}
