//! The thread that starts processes, and what all of a kernel's processes share: guardian, cgroup, register.
//!
//! One thread for the life of the kernel, because the parent-death signal comes when the *thread* ends that forked.

use super::cgroup::{claim, sweep, Cgroup, Leaf};
use super::exec::{fork_exec, heed_children, Failed, Image, Place, Stage};
use super::guardian::Guardian;
use super::image::{image, Extra, StartError};
use super::{Command, Containment, StopSignal};
use crate::supervisor::Exit;
use rustix::fd::{AsFd, OwnedFd};
use rustix::process::{
    kill_process, kill_process_group, waitid, Pid, Signal, WaitId, WaitIdOptions, WaitIdStatus,
};
use std::collections::{BTreeMap, HashSet};
use std::ffi::CString;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};
use tokio::sync::oneshot;

/// Changes of the level that wait to be logged, which happens each second.
const LEVELS_MAX: usize = 16;

/// How often the thread sees to the guardian.
const LOOK_EVERY: Duration = Duration::from_secs(1);
/// How often it tries to reap what was abandoned.
const REAP_EVERY: Duration = Duration::from_millis(5);
/// How long the end waits for what was killed last, and for the guardian to clear up: well within the second that
/// `run` has for its end after the drain.
const LEFT_PATIENCE: Duration = Duration::from_millis(200);
const DISMISS_PATIENCE: Duration = Duration::from_millis(300);
/// How long the process of a kernel whose runtime went first may take to be reaped.
const REAPER_PATIENCE: Duration = Duration::from_secs(10);

/// A start that has been asked for.
#[derive(Debug)]
pub(crate) struct Starting {
    program: String,
    claimed: Arc<AtomicBool>,
    answer: oneshot::Receiver<Result<Leader, StartError>>,
}

impl Starting {
    /// Takes it back; `false` if it is being done, and then there will be a process.
    pub(crate) fn cancel(&self) -> bool {
        // The thread's swap is the partner: one of the two is first.
        !self.claimed.swap(true, Ordering::AcqRel)
    }

    /// Cancel safe.
    pub(crate) async fn answer(&mut self) -> Result<Leader, StartError> {
        let program = || self.program.clone();
        match (&mut self.answer).await {
            Ok(answer) => answer,
            Err(_) => Err(StartError::Closed { program: program() }),
        }
    }
}

struct Request {
    command: Command,
    extra: Extra,
    /// Set by whoever is first: the thread that starts it, or who takes it back.
    claimed: Arc<AtomicBool>,
    reply: oneshot::Sender<Result<Leader, StartError>>,
}

enum Task {
    Start(Box<Request>),
    /// Killed and nobody's: to be reaped.
    Reap(Abandoned),
}

#[derive(Debug)]
struct Abandoned {
    pid: Pid,
    reaped: bool,
    /// Removed once the processes in it are gone.
    leaf: Option<Leaf>,
}

/// Starts the processes of one kernel.
#[derive(Debug, Default)]
pub(crate) struct Spawner {
    thread: Mutex<Option<(Sender<Task>, JoinHandle<()>)>>,
    closed: OnceLock<()>,
    shared: Arc<Shared>,
    /// Limits of open files that children get, where this process has raised its own.
    nofile: OnceLock<(u64, u64)>,
    sockets: AtomicU64,
    /// The lock of the directory of the sockets, once there is one.
    socket_dir: Mutex<Option<OwnedFd>>,
    /// Names what belongs to this kernel and no other in the system.
    name: OnceLock<String>,
}

/// What leaders need of the kernel's processes.
#[derive(Debug, Default)]
struct Shared {
    inner: Mutex<Inner>,
}

#[derive(Debug, Default)]
struct Inner {
    guardian: Option<Guardian>,
    /// Groups that the guardian is to kill.
    live: HashSet<Pid>,
    /// It did not take a message; another must be started.
    deaf: bool,
    level: Option<Containment>,
    news: News,
    /// Why no child can be moved to a cgroup, as the first that tried found out.
    cgroup_refused: Option<String>,
    /// Children with a process: for what they use.
    used: BTreeMap<Arc<str>, Pid>,
    tasks: Option<Sender<Task>>,
    /// To be reaped after the thread has ended.
    orphans: Vec<Abandoned>,
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// What happened to the containment and has not been logged yet.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct News {
    /// Other levels came into force, in order; why no stronger one did.
    pub(crate) levels: Vec<(Containment, Option<String>)>,
    /// Guardians that were lost.
    pub(crate) lost: u64,
    /// SIGCHLD was ignored.
    pub(crate) sigchld: bool,
}

impl Spawner {
    /// The limits of open files as they were before this process raised them.
    pub(crate) fn set_nofile(&self, limits: (u64, u64)) {
        let _ = self.nofile.set(limits);
    }

    pub(crate) fn level(&self) -> Option<Containment> {
        self.shared.lock().level
    }

    /// What is to be logged; once.
    pub(crate) fn news(&self) -> News {
        std::mem::take(&mut self.shared.lock().news)
    }

    /// The processes of children, by id.
    pub(crate) fn processes(&self) -> Vec<(Arc<str>, Pid)> {
        let inner = self.shared.lock();
        inner
            .used
            .iter()
            .map(|(id, pid)| (id.clone(), *pid))
            .collect()
    }

    /// The name of a socket that no other child gets.
    pub(crate) fn socket_path(&self) -> io::Result<PathBuf> {
        let dir = socket_dir(self.name());
        let mut held = self
            .socket_dir
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        if held.is_none() {
            *held = Some(own_dir(&dir)?);
        }
        let number = self.sockets.fetch_add(1, Ordering::Relaxed);
        Ok(dir.join(number.to_string()))
    }

    fn name(&self) -> &str {
        self.name.get_or_init(crate::kernel::instance)
    }

    /// Has a process started.
    pub(crate) fn start(&self, command: Command, extra: Extra) -> Result<Starting, StartError> {
        let program = command.program.to_string_lossy().into_owned();
        let closed = || {
            let program = program.clone();
            match self.closed.get() {
                Some(()) => StartError::Closed { program },
                None => StartError::Dead { program },
            }
        };
        let (reply, answer) = oneshot::channel();
        let claimed = Arc::new(AtomicBool::new(false));
        let request = Task::Start(Box::new(Request {
            command,
            extra,
            claimed: claimed.clone(),
            reply,
        }));
        {
            let mut thread = self.thread.lock().unwrap_or_else(PoisonError::into_inner);
            if self.closed.get().is_some() {
                return Err(closed());
            }
            if thread.is_none() {
                *thread = Some(self.launch().map_err(|source| StartError::Step {
                    program: program.clone(),
                    what: "the thread that starts processes".to_owned(),
                    hint: "",
                    source,
                })?);
            }
            if let Some((tasks, _)) = &*thread {
                tasks.send(request).map_err(|_| closed())?;
            }
        }
        Ok(Starting {
            program,
            claimed,
            answer,
        })
    }

    fn launch(&self) -> io::Result<(Sender<Task>, JoinHandle<()>)> {
        let (tasks, queue) = std::sync::mpsc::channel();
        self.shared.lock().tasks = Some(tasks.clone());
        let desk = Desk {
            shared: self.shared.clone(),
            nofile: self.nofile.get().copied(),
            instance: self.name().to_owned(),
            cgroup: None,
            no_cgroup: None,
            no_guardian: None,
            dying: Vec::new(),
        };
        let thread = std::thread::Builder::new()
            .name("ron-spawner".to_owned())
            .spawn(move || desk.run(&queue))?;
        Ok((tasks, thread))
    }

    /// No process is started any more; guardian and cgroup go once the queue is empty. Hands over the thread.
    pub(crate) fn close(&self) -> Option<JoinHandle<()>> {
        let _ = self.closed.set(());
        let thread = self
            .thread
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .take();
        self.shared.lock().tasks = None;
        thread.map(|(_, thread)| thread)
    }
}

/// Whether a cgroup that refuses like that will go on refusing; a lack of memory or descriptors passes.
fn is_lasting(error: &io::Error) -> bool {
    let passing = [
        libc::EMFILE,
        libc::ENFILE,
        libc::ENOMEM,
        libc::ENOSPC,
        libc::EAGAIN,
        libc::EINTR,
        // The leaf was removed in between.
        libc::ENODEV,
    ];
    !error
        .raw_os_error()
        .is_some_and(|errno| passing.contains(&errno))
}

/// A cgroup into which a process can really be moved: a rule of its ancestors may forbid it.
fn tried(cgroup: Cgroup) -> Result<Cgroup, String> {
    let text = |text: &str| CString::new(text).map_err(|error| error.to_string());
    let said = |error: io::Error| error.to_string();
    let (leaf, procs) = cgroup.leaf().map_err(said)?;
    let null = std::fs::File::open("/dev/null").map_err(said)?;
    let image = Image {
        // Reached or not: the move comes before it.
        path: text("/bin/true")?,
        argv: vec![text("true")?],
        env: Vec::new(),
        dir: None,
    };
    let place = Place {
        stdin: null.as_fd(),
        stdout: null.as_fd(),
        stderr: null.as_fd(),
        listeners: Vec::new(),
        session: false,
        dies_with_parent: true,
        lifeline: None,
        cgroup: Some(procs.as_fd()),
        nofile: None,
    };
    let started = fork_exec(&image, &place);
    let child = match &started {
        Ok(child) => Some(*child),
        Err(failed) => failed.child,
    };
    if let Some(child) = child {
        let _ = kill_process(child, Signal::KILL);
        let _ = waitid(WaitId::Pid(child), WaitIdOptions::EXITED);
    }
    drop(leaf);
    match started {
        Err(failed) if failed.stage == Stage::Cgroup => {
            let dir = cgroup.dir().display();
            Err(format!("{dir}: {}", failed.source))
        }
        _ => Ok(cgroup),
    }
}

/// Makes the directory of the sockets, for this user alone, locks it, and removes those of kernels that were killed
/// before they had a guardian.
fn own_dir(dir: &Path) -> io::Result<OwnedFd> {
    use std::os::unix::fs::DirBuilderExt;
    if let Some(parent) = dir.parent() {
        let ours = |path: &Path| path.extension() == dir.extension() && path.is_dir();
        sweep(parent, ours, |dir| std::fs::remove_dir_all(dir));
    }
    let held = claim(dir, |dir| {
        let mut builder = std::fs::DirBuilder::new();
        builder.recursive(true).mode(0o700).create(dir)
    })?;
    let found = rustix::fs::fstat(&held)?;
    let own = rustix::process::geteuid().as_raw();
    if found.st_uid != own || found.st_mode & 0o077 != 0 {
        return Err(io::Error::new(
            io::ErrorKind::PermissionDenied,
            "others made the directory or may enter it",
        ));
    }
    Ok(held)
}

/// Where the sockets of children lie that tell of themselves.
fn socket_dir(instance: &str) -> PathBuf {
    let dir = crate::run_dir::run_dir().join(format!("{instance}.notify"));
    // The child's directory and the guardian's are others.
    std::path::absolute(&dir).unwrap_or(dir)
}

/// The thread's own.
struct Desk {
    shared: Arc<Shared>,
    nofile: Option<(u64, u64)>,
    instance: String,
    cgroup: Option<Cgroup>,
    /// Why no process can be put into it, or it could not be made.
    no_cgroup: Option<String>,
    /// Why there is no guardian.
    no_guardian: Option<String>,
    dying: Vec<Abandoned>,
}

impl Desk {
    fn run(mut self, queue: &Receiver<Task>) {
        self.shared.lock().news.sigchld = heed_children();
        match Cgroup::create(&self.instance).and_then(tried) {
            Ok(cgroup) => self.cgroup = Some(cgroup),
            Err(reason) => self.no_cgroup = Some(format!("no cgroup: {reason}")),
        }
        self.see_to_guardian();
        loop {
            let wait = if self.dying.is_empty() {
                LOOK_EVERY
            } else {
                REAP_EVERY
            };
            match queue.recv_timeout(wait) {
                Ok(Task::Start(request)) => self.start(*request),
                Ok(Task::Reap(abandoned)) => self.dying.push(abandoned),
                Err(RecvTimeoutError::Timeout) => self.see_to_guardian(),
                Err(RecvTimeoutError::Disconnected) => break,
            }
            reap_some(&self.shared, &mut self.dying);
        }
        let guardian = self.shared.lock().guardian.take();
        if let Some(guardian) = guardian {
            guardian.dismiss(DISMISS_PATIENCE);
        }
        reap_all(&self.shared, &mut self.dying, LEFT_PATIENCE);
        let _ = std::fs::remove_dir(socket_dir(&self.instance));
    }

    /// Starts one where none is, tells it what lives, and notes which level is in force. Only this thread does.
    fn see_to_guardian(&mut self) {
        let mut inner = self.shared.lock();
        if let Some(reason) = inner.cgroup_refused.take() {
            // Those that are in it stay, and the guardian goes on knowing it.
            self.no_cgroup = Some(format!("no cgroup: {reason}"));
        }
        let guardian = inner.guardian.as_ref();
        if guardian.is_some_and(|guardian| !inner.deaf && !guardian.is_lost()) {
            return self.settle(inner);
        }
        let lost = inner.guardian.take();
        inner.news.lost += u64::from(lost.is_some());
        inner.deaf = false;
        let told = inner.live.clone();
        drop(inner);
        // The groups it knows go on.
        if let Some(lost) = lost {
            lost.destroy();
        }
        let cgroup = self.cgroup.as_ref().map(Cgroup::dir);
        let started = Guardian::start(cgroup, &socket_dir(&self.instance));
        let started = started.and_then(|guardian| match guardian.add_all(&told) {
            Ok(()) => Ok(guardian),
            Err(error) => {
                guardian.destroy();
                Err(error)
            }
        });
        let mut inner = self.shared.lock();
        match started {
            Ok(guardian) => {
                // Reaped meanwhile: nobody has told this one.
                let gone = told.difference(&inner.live);
                inner.deaf = gone
                    .into_iter()
                    .any(|group| guardian.forget(*group).is_err());
                inner.guardian = Some(guardian);
                self.no_guardian = None;
            }
            Err(error) => self.no_guardian = Some(format!("no guardian: /bin/sh: {error}")),
        }
        self.settle(inner);
    }

    fn settle(&self, mut inner: MutexGuard<'_, Inner>) {
        let level = match (&self.no_guardian, &self.no_cgroup) {
            (None, None) => Containment::Cgroup,
            (None, Some(_)) => Containment::GroupAndParentDeath,
            (Some(_), _) => Containment::ParentDeath,
        };
        if inner.level != Some(level) {
            inner.level = Some(level);
            let why = self.no_guardian.as_ref().or(self.no_cgroup.as_ref());
            if inner.news.levels.len() < LEVELS_MAX {
                inner.news.levels.push((level, why.cloned()));
            }
        }
    }

    fn start(&mut self, request: Request) {
        if request.reply.is_closed() {
            return;
        }
        self.see_to_guardian();
        let started = self.fork(&request);
        // Nobody waits for it any more: dropped, and with it killed.
        let _ = request.reply.send(started);
    }

    fn fork(&mut self, request: &Request) -> Result<Leader, StartError> {
        let Request { command, extra, .. } = request;
        let program = || command.program.to_string_lossy().into_owned();
        let failed = |what: &str| {
            let what = what.to_owned();
            move |source: io::Error| StartError::Step {
                program: program(),
                what,
                hint: "",
                source,
            }
        };
        let image = image(command, extra)?;
        let null = std::fs::File::open("/dev/null").map_err(failed("/dev/null"))?;
        let pipe = || rustix::pipe::pipe_with(rustix::pipe::PipeFlags::CLOEXEC);
        let (stdout, stdout_theirs) = pipe().map_err(|e| failed("a pipe")(e.into()))?;
        let (stderr, stderr_theirs) = pipe().map_err(|e| failed("a pipe")(e.into()))?;
        let cgroup = self.cgroup.as_ref().filter(|_| self.no_cgroup.is_none());
        let leaf = match cgroup.map(Cgroup::leaf).transpose() {
            Err(error) if is_lasting(&error) => {
                self.shared.lock().cgroup_refused = Some(error.to_string());
                self.see_to_guardian();
                None
            }
            leaf => leaf.map_err(failed("its cgroup"))?,
        };
        let (leaf, procs) = leaf.map_or((None, None), |(leaf, procs)| (Some(leaf), Some(procs)));
        let guardian = self
            .shared
            .lock()
            .guardian
            .as_ref()
            .map(Guardian::lifeline_again);
        let lifeline = guardian.transpose().map_err(failed("the guardian"))?;
        let place = Place {
            stdin: null.as_fd(),
            stdout: stdout_theirs.as_fd(),
            stderr: stderr_theirs.as_fd(),
            listeners: command.listeners.iter().map(|(_, fd)| fd.as_fd()).collect(),
            session: false,
            dies_with_parent: true,
            lifeline: lifeline.as_ref().map(AsFd::as_fd),
            cgroup: procs.as_ref().map(AsFd::as_fd),
            nofile: self.nofile,
        };
        for (_, listener) in &command.listeners {
            // As systemd passes them; the last one that had it may have changed that.
            let _ = rustix::io::ioctl_fionbio(listener, false);
        }
        if request.claimed.swap(true, Ordering::AcqRel) {
            // Taken back; nobody reads this.
            return Err(StartError::Closed { program: program() });
        }
        let started = fork_exec(&image, &place);
        let pid = started.map_err(|failed| self.not_started(command, failed))?;
        self.shared.lock().live.insert(pid);
        Ok(Leader {
            program: program(),
            pid,
            stdout: Some(stdout),
            stderr: Some(stderr),
            leaf,
            shared: self.shared.clone(),
            reaped: false,
            id: None,
        })
    }

    /// What a failure means, after what it left has been cleared up.
    fn not_started(&self, command: &Command, failed: Failed) -> StartError {
        let Failed {
            stage,
            source,
            child,
        } = failed;
        if let Some(child) = child {
            // It may have registered.
            self.shared.forget(child);
            let _ = waitid(WaitId::Pid(child), WaitIdOptions::EXITED);
        }
        match stage {
            Stage::Lifeline => self.shared.lock().deaf = true,
            // The next goes without.
            Stage::Cgroup if is_lasting(&source) => {
                self.shared.lock().cgroup_refused = Some(source.to_string());
            }
            _ => {}
        }
        let dir = command.dir.as_deref().unwrap_or(Path::new("")).display();
        let missing = stage == Stage::Execute
            && source.kind() == io::ErrorKind::NotFound
            && Path::new(&command.program).exists();
        StartError::Step {
            program: command.program.to_string_lossy().into_owned(),
            what: match stage {
                Stage::Directory => format!("its working directory {dir}"),
                stage => stage.name().to_owned(),
            },
            hint: match (missing, source.raw_os_error()) {
                (true, _) => " (its interpreter or loader is missing)",
                (false, Some(libc::ENOEXEC)) => " (no program, and no `#!` in its first line)",
                _ => "",
            },
            source,
        }
    }
}

/// Reaps those that have ended; forgets those of which nothing is left.
fn reap_some(shared: &Shared, dying: &mut Vec<Abandoned>) {
    dying.retain_mut(|abandoned| {
        abandoned.reaped = abandoned.reaped || reap(shared, abandoned.pid);
        let leaf = abandoned.leaf.as_ref();
        !abandoned.reaped || leaf.is_some_and(Leaf::is_populated)
    });
}

/// As [`reap_some`], until all are gone or the patience is.
fn reap_all(shared: &Shared, dying: &mut Vec<Abandoned>, patience: Duration) {
    let deadline = Instant::now() + patience;
    loop {
        reap_some(shared, dying);
        if dying.is_empty() || Instant::now() >= deadline {
            return;
        }
        std::thread::sleep(REAP_EVERY);
    }
}

/// Takes the group back from the guardian and reaps its leader if it has ended; whether it is gone.
fn reap(shared: &Shared, pid: Pid) -> bool {
    if matches!(ended(pid), Ok(None)) {
        return false;
    }
    shared.forget(pid);
    let _ = waitid(
        WaitId::Pid(pid),
        WaitIdOptions::EXITED | WaitIdOptions::NOHANG,
    );
    true
}

/// How a process ended, which is left as a zombie; `None` while it runs.
fn ended(pid: Pid) -> io::Result<Option<WaitIdStatus>> {
    let look = WaitIdOptions::EXITED | WaitIdOptions::NOHANG | WaitIdOptions::NOWAIT;
    Ok(waitid(WaitId::Pid(pid), look)?)
}

impl Shared {
    /// Reaps what is left of a kernel whose runtime went first.
    fn reap_orphans(&self) {
        let deadline = Instant::now() + REAPER_PATIENCE;
        loop {
            let mut orphans = std::mem::take(&mut self.lock().orphans);
            reap_some(self, &mut orphans);
            let mut inner = self.lock();
            orphans.append(&mut inner.orphans);
            if orphans.is_empty() || Instant::now() >= deadline {
                return;
            }
            inner.orphans = orphans;
            drop(inner);
            std::thread::sleep(REAP_EVERY);
        }
    }

    fn forget(&self, pid: Pid) {
        let mut inner = self.lock();
        inner.live.remove(&pid);
        if let Some(Err(_)) = inner.guardian.as_ref().map(|guardian| guardian.forget(pid)) {
            inner.deaf = true;
        }
    }
}

/// A process that was started; its pid is its group's. Killed, with its group, if it is dropped before it was reaped.
#[derive(Debug)]
pub(crate) struct Leader {
    program: String,
    pid: Pid,
    pub(crate) stdout: Option<OwnedFd>,
    pub(crate) stderr: Option<OwnedFd>,
    leaf: Option<Leaf>,
    shared: Arc<Shared>,
    reaped: bool,
    id: Option<Arc<str>>,
}

impl Leader {
    pub(crate) fn pid(&self) -> Pid {
        self.pid
    }

    /// From now on what it uses is the child's.
    pub(crate) fn belongs_to(&mut self, id: &Arc<str>) {
        self.shared.lock().used.insert(id.clone(), self.pid);
        self.id = Some(id.clone());
    }

    /// Sends a signal to the whole group.
    pub(crate) fn signal(&self, signal: Signal) {
        if !self.reaped {
            // Fails only where nobody is left in it.
            let _ = kill_process_group(self.pid, signal);
        }
    }

    pub(crate) fn stop(&self, signal: StopSignal) {
        self.signal(match signal {
            StopSignal::Term => Signal::TERM,
            StopSignal::Int => Signal::INT,
            StopSignal::Quit => Signal::QUIT,
            StopSignal::Hup => Signal::HUP,
            StopSignal::Usr1 => Signal::USR1,
            StopSignal::Usr2 => Signal::USR2,
        });
        // One that is stopped would not hear it.
        self.signal(Signal::CONT);
    }

    /// SIGKILL for all that is known to be its.
    pub(crate) fn kill(&self) {
        self.signal(Signal::KILL);
        if let Some(leaf) = &self.leaf {
            leaf.kill();
        }
    }

    /// Whether it has ended; it stays a zombie, so that its pid and group are still its own.
    pub(crate) fn has_ended(&self) -> bool {
        !matches!(ended(self.pid), Ok(None))
    }

    /// Reaps it after it has ended; what is left of its group and cgroup gets SIGKILL first.
    pub(crate) fn reap(&mut self) -> Exit {
        let status = ended(self.pid);
        // Reaped by somebody else: its pid may be another's by now.
        self.reaped = status.is_err();
        self.signal(Signal::KILL);
        self.release();
        let exit = match status {
            Ok(Some(status)) => status
                .exit_status()
                .map(Exit::Exited)
                .or(status.terminating_signal().map(Exit::Killed)),
            _ => None,
        };
        if let Some(leaf) = self.leaf.as_ref().filter(|leaf| leaf.is_populated()) {
            leaf.kill();
        }
        exit.unwrap_or_else(|| {
            let program = &self.program;
            Exit::Failed(format!(
                "how `{program}` ended is lost: somebody else in this process has waited for it"
            ))
        })
    }

    /// Its cgroup is empty, or it has none.
    pub(crate) fn is_alone(&self) -> bool {
        self.leaf.as_ref().map_or(true, |leaf| !leaf.is_populated())
    }

    /// Waits for what it left in its cgroup to end.
    pub(crate) async fn emptied(&self) {
        if let Some(leaf) = &self.leaf {
            leaf.emptied().await;
        }
    }

    fn release(&mut self) {
        reap(&self.shared, self.pid);
        self.reaped = true;
        self.disown();
    }

    fn disown(&mut self) {
        if let Some(id) = self.id.take() {
            let mut inner = self.shared.lock();
            if inner.used.get(&id) == Some(&self.pid) {
                inner.used.remove(&id);
            }
        }
    }
}

impl Drop for Leader {
    fn drop(&mut self) {
        if self.reaped {
            return;
        }
        self.kill();
        self.disown();
        let tasks = self.shared.lock().tasks.clone();
        let abandoned = Abandoned {
            pid: self.pid,
            reaped: false,
            leaf: self.leaf.take(),
        };
        let left = match tasks {
            Some(tasks) => tasks.send(Task::Reap(abandoned)).err().map(|error| error.0),
            None => Some(Task::Reap(abandoned)),
        };
        // The thread has ended with its kernel: the runtime went first.
        if let Some(Task::Reap(abandoned)) = left {
            let mut inner = self.shared.lock();
            inner.orphans.push(abandoned);
            if inner.orphans.len() == 1 {
                let shared = self.shared.clone();
                let reaper = std::thread::Builder::new().name("ron-reaper".to_owned());
                let _ = reaper.spawn(move || shared.reap_orphans());
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::cgroup::lock;
    use super::*;
    use rustix::fs::FlockOperation;

    #[test]
    fn the_directory_of_sockets_is_this_users_alone_and_dead_ones_beside_it_go() {
        use std::os::unix::fs::PermissionsExt;
        let base = tempfile::tempdir().unwrap();
        let at = |name: &str| base.path().join(name);
        for name in ["dead.notify", "alive.notify", "other"] {
            std::fs::create_dir(at(name)).unwrap();
            std::fs::write(at(name).join("0"), "").unwrap();
        }
        let _alive = lock(&at("alive.notify"), FlockOperation::LockShared).unwrap();
        let own = own_dir(&at("run/own.notify")).unwrap();
        assert!(at("dead.notify").exists(), "it lies elsewhere");
        drop(own);
        let _own = own_dir(&at("own.notify")).unwrap();
        let mode = at("own.notify").metadata().unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o700);
        assert!(!at("dead.notify").exists());
        assert!(at("alive.notify").exists() && at("other").exists());
        std::fs::create_dir(at("open.notify")).unwrap();
        let open = std::fs::Permissions::from_mode(0o755);
        std::fs::set_permissions(at("open.notify"), open).unwrap();
        let _held = lock(&at("open.notify"), FlockOperation::LockShared).unwrap();
        let refused = own_dir(&at("open.notify")).unwrap_err();
        assert_eq!(refused.kind(), io::ErrorKind::PermissionDenied);
    }

    #[test]
    fn kernels_that_begin_together_do_not_sweep_each_other() {
        let base = tempfile::tempdir().unwrap();
        let together = std::sync::Barrier::new(4);
        // Nothing panics between two waits, or the others would wait for ever.
        let begin = |thread: u32| {
            let rounds = (0..500).map(|round| {
                let dir = base.path().join(format!("{thread}-{round}.notify"));
                together.wait();
                let held = own_dir(&dir);
                together.wait();
                held.map(|_held| dir.is_dir())
            });
            rounds.collect::<Vec<_>>()
        };
        let rounds = std::thread::scope(|scope| {
            let threads = [0, 1, 2, 3].map(|thread| {
                scope.spawn({
                    let begin = &begin;
                    move || begin(thread)
                })
            });
            threads.map(|thread| thread.join().unwrap())
        });
        for round in rounds.into_iter().flatten() {
            assert!(round.unwrap(), "swept while it is held");
        }
    }

    #[test]
    fn a_dead_directory_is_locked_until_it_is_removed() {
        let base = tempfile::tempdir().unwrap();
        std::fs::create_dir(base.path().join("dead")).unwrap();
        let seen = std::cell::Cell::new(None);
        let remove = |dir: &Path| {
            let other = lock(dir, FlockOperation::NonBlockingLockShared);
            seen.set(Some(other.map_err(|error| error.kind()).err()));
            std::fs::remove_dir(dir)
        };
        sweep(base.path(), |_| true, remove);
        assert_eq!(seen.get(), Some(Some(io::ErrorKind::WouldBlock)));
    }
}
