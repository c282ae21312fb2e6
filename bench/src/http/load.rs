//! Load by wrk, and what it saw.

use super::server::Server;
use rustix::process::{kill_process, Pid, Signal};
use std::io::{BufRead, BufReader, Read};
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Duration;

/// Tells when wrk is about to begin, and all that it counted in one line of numbers.
const DONE: &str = r#"
ready = function()
    io.write("ready\n")
    io.flush()
end
init = ready
done = function(summary, latency)
    local e = summary.errors
    io.write(string.format("\nron %d %d %d %d %d %d\n", summary.requests, summary.duration, summary.bytes,
        e.connect + e.read + e.write + e.status + e.timeout, latency:percentile(50), latency:percentile(99)))
end
"#;

/// What is asked for, again and again.
#[derive(Clone)]
pub enum Ask {
    /// An object of so many bytes.
    Get { path: String, size: usize },
    /// 64 KiB, `bodies` different ones in turn.
    Put { path: String, bodies: usize },
    /// The same, no body twice.
    PutNew { path: String },
}

impl Ask {
    fn script(&self, body: &Path) -> String {
        let begin = format!(
            "local file = assert(io.open({body:?}, 'rb'))\nlocal tail = file:read('*a'):sub(17)\nfile:close()\n"
        );
        match self {
            Ask::Get { .. } => DONE.to_owned(),
            Ask::Put { path, bodies } => format!(
                "{DONE}{begin}local requests, at = {{}}, 0
init = function()
    for n = 1, {bodies} do
        local path = string.format({path:?}, n)
        requests[n] = wrk.format('PUT', path, wrk.headers, string.format('%016d', n) .. tail)
    end
    ready()
end
request = function()
    at = at % {bodies} + 1
    return requests[at]
end
"
            ),
            Ask::PutNew { path } => format!(
                "{DONE}{begin}local head, at = nil, 0
init = function()
    local request = wrk.format('PUT', {path:?}, wrk.headers, string.rep('0', 16) .. tail)
    head = request:sub(1, -17 - #tail)
    ready()
end
request = function()
    at = at + 1
    return head .. string.format('%016d', at) .. tail
end
"
            ),
        }
    }

    fn path(&self) -> &str {
        match self {
            Ask::Get { path, .. } => path,
            Ask::Put { .. } | Ask::PutNew { .. } => "/",
        }
    }

    fn check(&self, seen: &Seen, about: &str) {
        if let Ask::Get { size, .. } = self {
            let least = seen.requests * *size as f64;
            assert!(seen.bytes >= least, "{about}: answers without their body");
        }
    }
}

/// What wrk counted.
struct Seen {
    requests: f64,
    seconds: f64,
    bytes: f64,
    p50: f64,
    p99: f64,
}

/// `connections` ask `server` for `time`: requests per second, p50, p99 and the server's CPU per request, these in us.
///
/// # Panics
/// An answer was no success, or a connection broke.
pub fn load(server: &Server, ask: &Ask, connections: usize, time: Duration) -> Vec<f64> {
    let about = format!("{} on {connections} connections", server.name);
    let script = server.dir.join("wrk.lua");
    std::fs::write(&script, ask.script(&server.dir.join("body"))).expect("a script");
    let mut wrk = Command::new("wrk");
    wrk.args(["-t1", "-d1h", "--timeout", "20s", "-c"])
        .arg(connections.to_string())
        .arg("-s")
        .arg(&script);
    if let Some(token) = &server.token {
        wrk.args(["-H", &format!("Authorization: Bearer {token}")]);
    }
    wrk.arg(format!("http://{}{}", server.addr, ask.path()));
    let mut wrk = wrk.stdout(Stdio::piped()).spawn().expect("wrk");
    let mut output = BufReader::new(wrk.stdout.take().expect("a pipe"));
    let mut text = String::new();
    output.read_line(&mut text).expect("a line");
    assert_eq!(text, "ready\n", "{about}");
    let before = server.cpu();
    std::thread::sleep(time);
    // Its -d takes whole seconds; this ends it as the end of them does.
    let pid = Pid::from_raw(wrk.id() as i32).expect("a pid");
    kill_process(pid, Signal::INT).expect("to end wrk");
    output.read_to_string(&mut text).expect("text");
    wrk.wait().expect("wrk");
    let cpu = server.cpu() - before;
    let line = text.lines().find_map(|line| line.strip_prefix("ron "));
    let line = line.unwrap_or_else(|| panic!("{about}: wrk said {text}"));
    let numbers: Vec<f64> = line
        .split(' ')
        .filter_map(|text| text.parse().ok())
        .collect();
    let [requests, micros, bytes, errors, p50, p99] = numbers[..] else {
        panic!("{about}: wrk said {line}");
    };
    let seen = Seen {
        requests,
        seconds: micros / 1e6,
        bytes,
        p50,
        p99,
    };
    assert!(errors == 0.0, "{about}: {errors} errors: {text}");
    assert!(seen.requests > 0.0, "{about}: no answer: {text}");
    ask.check(&seen, &about);
    let per_request = cpu.as_secs_f64() * 1e6 / seen.requests;
    vec![
        seen.requests / seen.seconds,
        seen.p50,
        seen.p99,
        per_request,
    ]
}
