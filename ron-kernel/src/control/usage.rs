//! What the process uses, from /proc.

use serde::Serialize;

/// Absent where the system does not tell.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub(crate) struct Usage {
    /// Processor time since its start.
    pub(crate) cpu_ms: Option<u64>,
    pub(crate) rss_bytes: Option<u64>,
    pub(crate) threads: Option<u64>,
    pub(crate) fds: Option<u64>,
}

impl Usage {
    pub(crate) fn now() -> Usage {
        let Ok(stat) = std::fs::read_to_string("/proc/self/stat") else {
            return Usage::default();
        };
        let ticks = rustix::param::clock_ticks_per_second();
        let page = rustix::param::page_size() as u64;
        let fds = std::fs::read_dir("/proc/self/fd").map(|dir| dir.count() as u64);
        let mut usage = parse(&stat, ticks, page);
        // The descriptor that lists them is one of them.
        usage.fds = fds.ok().map(|fds| fds.saturating_sub(1));
        usage
    }
}

/// The fields of `/proc/PID/stat` behind the name, which may hold anything: see proc_pid_stat(5).
fn parse(stat: &str, ticks: u64, page: u64) -> Usage {
    let Some((_, rest)) = stat.rsplit_once(')') else {
        return Usage::default();
    };
    let fields: Vec<&str> = rest.split_whitespace().collect();
    // Field 3 of the page is the first here.
    let field = |number: usize| fields.get(number - 3)?.parse::<u64>().ok();
    let cpu = field(14).zip(field(15)).map(|(user, system)| user + system);
    Usage {
        cpu_ms: cpu.map(|cpu| cpu.saturating_mul(1000) / ticks.max(1)),
        rss_bytes: field(24).map(|pages| pages * page),
        threads: field(20),
        fds: None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_fields_are_found_behind_any_name() {
        let stat = "42 (a) b (c)) S 1 42 42 0 -1 4194560 100 0 0 0 250 50 0 0 20 0 7 0 12345 1000000 300 18446744073709551615";
        let expected = Usage {
            cpu_ms: Some(3_000),
            rss_bytes: Some(300 * 4096),
            threads: Some(7),
            fds: None,
        };
        assert_eq!(parse(stat, 100, 4096), expected);
        assert_eq!(parse("garbage", 100, 4096), Usage::default());
        assert_eq!(parse("1 (x) S 1", 100, 4096), Usage::default());
    }

    #[test]
    fn this_process_uses_something() {
        let usage = Usage::now();
        assert!(
            usage.rss_bytes.unwrap() > 100_000 && usage.fds.unwrap() >= 3,
            "{usage:?}"
        );
    }
}
