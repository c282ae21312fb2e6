//! What a process uses, from /proc.

/// Absent where the system does not tell.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[cfg_attr(feature = "control", derive(serde::Serialize))]
pub(crate) struct Usage {
    /// Processor time since its start.
    pub(crate) cpu_ms: Option<u64>,
    pub(crate) rss_bytes: Option<u64>,
    pub(crate) threads: Option<u64>,
    pub(crate) fds: Option<u64>,
}

impl Usage {
    /// This process's.
    #[cfg(feature = "control")]
    pub(crate) fn own() -> Usage {
        let mut usage = Usage::of("self");
        // The descriptor that lists them is one of them.
        usage.fds = usage.fds.map(|fds| fds.saturating_sub(1));
        usage
    }

    /// That of a process, by its directory below `/proc`.
    pub(crate) fn of(process: &str) -> Usage {
        let Ok(stat) = std::fs::read(format!("/proc/{process}/stat")) else {
            return Usage::default();
        };
        let ticks = rustix::param::clock_ticks_per_second();
        let page = rustix::param::page_size() as u64;
        let fds = std::fs::read_dir(format!("/proc/{process}/fd"));
        let mut usage = parse(&String::from_utf8_lossy(&stat), ticks, page);
        usage.fds = fds.ok().map(|dir| dir.count() as u64);
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

    #[cfg(feature = "control")]
    #[test]
    fn this_process_uses_something() {
        let usage = Usage::own();
        assert!(
            usage.rss_bytes.unwrap() > 100_000 && usage.fds.unwrap() >= 3,
            "{usage:?}"
        );
    }
}
