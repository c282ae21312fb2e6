//! A kernel with a control plane in a directory of its own, and the children that tests put into it.

use crate::client::Client;
use ron_kernel::configuration::{Loaded, Loader};
use ron_kernel::control::Control;
use ron_kernel::supervisor::{Backoff, Child, Intensity};
use ron_kernel::{Config, Kernel, KernelBuilder, KernelHandle, Running, ShutdownReport};
use serde_json::Value;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant, SystemTime};
use tokio::runtime::{Builder, Runtime};

pub(crate) const SERVICE: &str = "svc";
pub(crate) const HOUR: Duration = Duration::from_secs(3600);

pub(crate) struct Bed {
    pub(crate) client: Client,
    running: Option<Running>,
    runtime: Option<Runtime>,
    dir: tempfile::TempDir,
}

impl Bed {
    pub(crate) fn new(build: impl FnOnce(KernelBuilder) -> KernelBuilder) -> Bed {
        Bed::with(Control::new(), build)
    }

    /// Faults may be injected.
    pub(crate) fn armed(build: impl FnOnce(KernelBuilder) -> KernelBuilder) -> Bed {
        let mut config = Config::default();
        config.chaos.armed = true;
        Bed::new(|kernel| build(kernel.config(config)))
    }

    pub(crate) fn with(
        control: Control,
        build: impl FnOnce(KernelBuilder) -> KernelBuilder,
    ) -> Bed {
        Bed::within(tempfile::tempdir().unwrap(), control, build)
    }

    pub(crate) fn within(
        dir: tempfile::TempDir,
        control: Control,
        build: impl FnOnce(KernelBuilder) -> KernelBuilder,
    ) -> Bed {
        let runtime = workers(2);
        let run = dir.path().join("run");
        let kernel = Kernel::builder().name(SERVICE).seed(1);
        let kernel = build(kernel.control(control.dir(&run)));
        let running = runtime.block_on(async { kernel.build().unwrap().start().await.unwrap() });
        let bus = running.handle().bus().instance().to_owned();
        Bed {
            client: Client::new(run.join(format!("{SERVICE}.{bus}.sock"))),
            running: Some(running),
            runtime: Some(runtime),
            dir,
        }
    }

    pub(crate) fn handle(&self) -> &KernelHandle {
        self.running.as_ref().expect("runs").handle()
    }

    pub(crate) fn runtime(&self) -> &Runtime {
        self.runtime.as_ref().expect("runs")
    }

    /// The directory around the one of the socket.
    pub(crate) fn dir(&self) -> &Path {
        self.dir.path()
    }

    /// State of a child as the control plane tells it.
    pub(crate) fn state(&self, id: &str) -> String {
        self.node(id)["state"].as_str().unwrap().to_owned()
    }

    pub(crate) fn node(&self, id: &str) -> Value {
        self.client.get(&format!("/v1/tree?id={id}")).expect(200)["children"][0].clone()
    }

    pub(crate) fn until_state(&self, id: &str, state: &str) {
        until(&format!("{id} is {state}"), || self.state(id) == state);
    }

    /// Waits until so many events were told on `kernel` and on `kernel.lifecycle`.
    pub(crate) fn until_told(&self, kernel: u64, lifecycle: u64) {
        until("the events are told", || {
            let bus = self.client.get("/v1/bus").json();
            let topic = |index: usize| &bus["topics"][index]["published"];
            assert_eq!(bus["topics"][1]["name"], "kernel.lifecycle");
            *topic(0) == kernel && *topic(1) == lifecycle
        });
    }

    pub(crate) fn until_ready(&self) {
        until("ready", || {
            self.client.get("/v1/ready").json()["ready"] == true
        });
    }

    pub(crate) fn end(mut self) -> ShutdownReport {
        let running = self.running.take().expect("runs");
        let report = self.runtime().block_on(running.shutdown());
        assert!(report.is_balanced(), "{report:?}");
        report
    }
}

impl Drop for Bed {
    fn drop(&mut self) {
        if let Some(runtime) = self.runtime.take() {
            if let (Some(running), false) = (self.running.take(), std::thread::panicking()) {
                let report = runtime.block_on(running.shutdown());
                assert!(report.is_balanced(), "{report:?}");
            }
            runtime.shutdown_background();
        }
    }
}

pub(crate) fn workers(count: usize) -> Runtime {
    Builder::new_multi_thread()
        .worker_threads(count)
        .enable_all()
        .build()
        .unwrap()
}

/// Waits for what is a matter of milliseconds, in real time: the control plane has no other.
pub(crate) fn until(what: &str, mut condition: impl FnMut() -> bool) {
    let begun = Instant::now();
    while !condition() {
        assert!(begun.elapsed() < Duration::from_secs(10), "never: {what}");
        std::thread::sleep(Duration::from_millis(3));
    }
}

pub(crate) fn idle(name: &str) -> Child {
    Child::task(name, |cx| async move { cx.stopping().await })
}

pub(crate) fn sick(name: &str) -> Child {
    Child::task(name, |_| async { Err::<(), _>("no disk") })
}

/// Ready once, then down for the rest of a test.
pub(crate) fn in_backoff(name: &str) -> Child {
    sick(name).backoff(Backoff::new(HOUR, HOUR).unwrap())
}

pub(crate) fn quarantined(name: &str) -> Child {
    sick(name).intensity(Intensity::new(0, HOUR).unwrap())
}

pub(crate) fn thread(name: &str) -> Child {
    Child::thread(
        name,
        |cx| while !cx.wait_stopping(Duration::from_secs(60)) {},
    )
}

/// A configuration file.
pub(crate) struct File(pub(crate) PathBuf);

impl File {
    pub(crate) fn new(dir: &Path, text: &str) -> File {
        let file = File(dir.join("svc.toml"));
        file.write(text);
        file
    }

    /// Writes it as if long ago, so that it is read at once.
    pub(crate) fn write(&self, text: &str) {
        std::fs::write(&self.0, text).unwrap();
        let file = std::fs::File::options().write(true).open(&self.0).unwrap();
        file.set_modified(SystemTime::now() - Duration::from_secs(60))
            .unwrap();
    }

    pub(crate) fn load(&self) -> Loaded<Config> {
        Loader::new(SERVICE).file(&self.0).load().unwrap()
    }
}
