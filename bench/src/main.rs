//! What ron is measured by, with its peers in the same rounds. `README.md` has the method and the last tables.
//!
//! `cargo run --release --manifest-path bench/Cargo.toml [filter]`, rounds from the variable `ROUNDS`.

mod actor;
mod bus;
mod children;
mod config;
mod control;
mod distance;
mod harness;
mod http;
mod mailbox;
mod memory;
mod metrics;
mod otp;
mod poll;
mod process;
mod restart;

use distance::Gauge;
use harness::Group;
use std::process::Command;

#[global_allocator]
static ALLOCATOR: memory::Counting = memory::Counting;

const ROUNDS: usize = 9;

/// The groups of one file.
struct Area {
    names: &'static [&'static str],
    groups: fn() -> Vec<Group>,
}

macro_rules! areas {
    ($($area:ident),+) => { &[$(Area { names: $area::NAMES, groups: $area::groups }),+] };
}

const AREAS: &[Area] =
    areas![restart, children, poll, config, metrics, bus, control, process, mailbox, actor, http];

fn main() {
    let filter = std::env::args().nth(1).unwrap_or_default();
    if filter == actor::ALONE {
        actor::alone(&std::env::args().nth(2).unwrap_or_default());
        return;
    }
    if filter == http::ALONE {
        http::alone(&std::env::args().nth(2).unwrap_or_default());
        return;
    }
    let rounds = match std::env::var("ROUNDS").map(|text| text.parse()) {
        Ok(Ok(rounds)) if rounds > 0 => rounds,
        Ok(_) => {
            eprintln!("ROUNDS is a number of at least 1");
            std::process::exit(2);
        }
        Err(_) => ROUNDS,
    };
    silence_poison();
    let wanted = |name: &str| name.contains(filter.as_str());
    let names = || AREAS.iter().flat_map(|area| area.names.iter().copied());
    if !names().any(wanted) {
        let names: Vec<&str> = names().collect();
        eprintln!("no group has {filter} in its name: {}", names.join(", "));
        std::process::exit(2);
    }
    let mut gauge = Gauge::calibrate();
    println!("{}", machine(&gauge));
    for area in AREAS {
        // Making the groups of an area may start programs; not for nothing.
        if area.names.iter().any(|name| wanted(name)) {
            for group in (area.groups)()
                .into_iter()
                .filter(|group| wanted(group.name))
            {
                println!("{}", group.run(rounds, &mut gauge));
            }
        }
    }
    println!("Load when done: {}.", load());
}

/// Children panic by the thousand here; every case pays for the same look at the message.
fn silence_poison() {
    let loud = std::panic::take_hook();
    std::panic::set_hook(Box::new(move |info| {
        if info.payload().downcast_ref::<&str>() != Some(&restart::POISON) {
            loud(info);
        }
    }));
}

fn machine(gauge: &Gauge) -> String {
    let read = |path| std::fs::read_to_string(path).unwrap_or_default();
    let cpuinfo = read("/proc/cpuinfo");
    let model = cpuinfo
        .lines()
        .find_map(|line| line.strip_prefix("model name"))
        .map_or("unknown", |rest| rest.trim_start_matches([' ', '\t', ':']));
    let cores = std::thread::available_parallelism().map_or(0, usize::from);
    let kernel = read("/proc/sys/kernel/osrelease");
    let here = env!("CARGO_MANIFEST_DIR");
    let commit = output("git", &["-C", here, "rev-parse", "--short", "HEAD"]);
    // What is built: tests and papers may differ from the commit.
    let mut status = vec![
        "-C",
        here,
        "status",
        "--porcelain",
        "--",
        "src",
        "Cargo.lock",
    ];
    status.extend([
        "../ron-bus/src",
        "../ron-config/src",
        "../ron-kernel/src",
        "../ron-metrics/src",
        "../ryker/src",
        "../hosts/kit/src",
        "../hosts/micronode/src",
        "../Cargo.lock",
    ]);
    let changed = output("git", &status);
    let dirty = if changed.is_empty() {
        ""
    } else {
        " with changes"
    };
    format!(
        "Machine: {model}, {cores} cores, Linux {}; {}; commit {commit}{dirty}; {}; {}; cache line round trip {:.0} ns; \
         load at the start {}.\n",
        kernel.trim(),
        output("rustc", &["--version"]),
        otp::version().unwrap_or_else(|| "no erl here: no OTP rows, see install-peers.sh".to_owned()),
        http::peers()
            .unwrap_or_else(|| "no nginx or no wrk here: no http groups, see install-peers.sh".to_owned()),
        gauge.nearest(),
        load(),
    )
}

fn load() -> String {
    let text = std::fs::read_to_string("/proc/loadavg").unwrap_or_default();
    text.split(' ').next().unwrap_or("unknown").to_owned()
}

fn output(program: &str, arguments: &[&str]) -> String {
    match Command::new(program).args(arguments).output() {
        Ok(output) => String::from_utf8_lossy(&output.stdout).trim().to_owned(),
        Err(_) => format!("{program} missing"),
    }
}
