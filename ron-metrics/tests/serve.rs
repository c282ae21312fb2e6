//! The admin server over real sockets: answers, limits, deadlines, and who makes room for whom.
#![cfg(feature = "serve")]

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant, SystemTime};

use ron_metrics::{labels, Clock, HealthState, Metrics, ServeOptions, ServerHandle};

const LOOPBACK: &str = "127.0.0.1:0";
/// Longer than anything here takes; a test that waits this long has failed.
const PATIENCE: Duration = Duration::from_secs(20);

fn start(options: ServeOptions) -> (Metrics, ServerHandle) {
    let metrics = Metrics::new("test").unwrap();
    let server = metrics.serve_with(LOOPBACK, options).unwrap();
    (metrics, server)
}

fn connect(addr: SocketAddr) -> TcpStream {
    let stream = TcpStream::connect(addr).unwrap();
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    stream
}

/// Sends a request and reads to the end of the connection.
fn exchange(addr: SocketAddr, request: &str) -> String {
    let mut stream = connect(addr);
    stream.write_all(request.as_bytes()).unwrap();
    rest(&mut stream)
}

fn rest(stream: &mut TcpStream) -> String {
    let mut text = Vec::new();
    // A reset after the answer is a close, too.
    if let Err(error) = stream.read_to_end(&mut text) {
        assert_eq!(error.kind(), std::io::ErrorKind::ConnectionReset, "{error}");
    }
    String::from_utf8(text).unwrap()
}

fn get(addr: SocketAddr, path: &str) -> String {
    exchange(
        addr,
        &format!("GET {path} HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n"),
    )
}

/// Reads one response with a content length from a connection that stays open.
fn one_response(stream: &mut TcpStream) -> String {
    let mut bytes = Vec::new();
    while !bytes.ends_with(b"\r\n\r\n") {
        let mut byte = [0];
        stream.read_exact(&mut byte).unwrap();
        bytes.extend(byte);
    }
    let head = String::from_utf8(bytes).unwrap();
    let length = head
        .lines()
        .find_map(|line| line.strip_prefix("content-length: "));
    let mut body = vec![0; length.unwrap().parse().unwrap()];
    stream.read_exact(&mut body).unwrap();
    head + &String::from_utf8(body).unwrap()
}

labels! {
    struct Id { id }
}

/// An exposition that no socket buffer holds.
fn make_huge(metrics: &Metrics) {
    let family = metrics
        .gauge_family::<Id>("bulk", "Bulk.")
        .unwrap()
        .with_cap(usize::MAX);
    for n in 0..8_000 {
        family.get(&Id::new(format!("{n:0>1500}"))).set(1);
    }
}

#[test]
fn answers_carry_the_headers_and_bodies_of_the_routes() {
    let (metrics, server) = start(ServeOptions::default());
    let answer = get(server.addr(), "/healthz");
    assert!(answer.starts_with("HTTP/1.1 200 OK\r\n"), "{answer}");
    for header in [
        "content-type: application/json",
        "content-length: 15",
        "cache-control: no-store",
        "x-content-type-options: nosniff",
    ] {
        assert!(
            answer.contains(&format!("\r\n{header}\r\n")),
            "{header} in {answer}"
        );
    }
    assert!(answer.ends_with("\r\n\r\n{\"status\":\"ok\"}"), "{answer}");

    let answer = get(server.addr(), "/readyz?x=1");
    assert!(answer.starts_with("HTTP/1.1 503 "), "{answer}");
    assert!(answer.contains("\r\nretry-after: 5\r\n"), "{answer}");
    metrics.health().require("x");
    metrics.health().satisfy("x");
    assert!(get(server.addr(), "/readyz").starts_with("HTTP/1.1 200 "));

    assert!(get(server.addr(), "/nowhere").starts_with("HTTP/1.1 404 "));
    let answer = exchange(
        server.addr(),
        "DELETE /metrics HTTP/1.1\r\nconnection: close\r\n\r\n",
    );
    assert!(
        answer.starts_with("HTTP/1.1 405 ") && answer.contains("\r\nallow: GET, HEAD\r\n"),
        "{answer}"
    );
}

#[test]
fn requests_are_counted_by_route_and_an_invented_path_makes_no_series() {
    let (metrics, server) = start(ServeOptions::default());
    for _ in 0..3 {
        get(server.addr(), "/readyz");
    }
    get(server.addr(), "/invented-1");
    get(server.addr(), "/invented-2");
    exchange(
        server.addr(),
        "BREW /healthz HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n",
    );
    let text = metrics.render(ron_metrics::Format::Prometheus);
    for line in [
        r#"http_requests_total{route="/readyz",method="GET",status="503"} 3"#,
        r#"http_requests_total{route="other",method="GET",status="404"} 2"#,
        r#"http_requests_total{route="/healthz",method="other",status="405"} 1"#,
        r#"request_latency_seconds_count{route="/readyz",method="GET"} 3"#,
    ] {
        assert!(text.contains(line), "{line} in:\n{text}");
    }
    assert!(!text.contains("invented"));
    server.join();
}

#[test]
fn accept_headers_choose_the_format_even_when_there_are_several() {
    let (_, server) = start(ServeOptions::default());
    let request = "GET /metrics HTTP/1.1\r\naccept: text/plain;q=0.5\r\n\
        accept: application/openmetrics-text; version=1.0.0\r\nconnection: close\r\n\r\n";
    let answer = exchange(server.addr(), request);
    assert!(
        answer.contains("\r\ncontent-type: application/openmetrics-text; version=1.0.0"),
        "{answer}"
    );
    assert!(answer.ends_with("# EOF\n"));
}

#[test]
fn a_connection_serves_many_requests_and_head_sends_no_body() {
    let (_, server) = start(ServeOptions::default());
    let mut stream = connect(server.addr());
    for _ in 0..3 {
        stream
            .write_all(b"HEAD /healthz HTTP/1.1\r\n\r\nGET /livez HTTP/1.1\r\n\r\n")
            .unwrap();
        let mut head = vec![0; 0];
        while !head.ends_with(b"\r\n\r\n") {
            let mut byte = [0];
            stream.read_exact(&mut byte).unwrap();
            head.extend(byte);
        }
        let head = String::from_utf8(head).unwrap();
        assert!(head.contains("\r\ncontent-length: 15\r\n"), "{head}");
        // What follows the head of HEAD is the next response, not a body.
        assert!(one_response(&mut stream).starts_with("HTTP/1.1 200 OK"));
    }
    let answer = exchange(server.addr(), "GET /healthz HTTP/1.0\r\n\r\n");
    assert!(answer.starts_with("HTTP/1.0 200 OK"), "{answer}");
}

#[test]
fn a_taken_port_is_an_error_that_names_the_address() {
    let taken = TcpListener::bind(LOOPBACK).unwrap();
    let addr = taken.local_addr().unwrap();
    let metrics = Metrics::new("test").unwrap();
    let error = metrics.serve(addr).unwrap_err();
    assert!(error.is_addr_in_use());
    let text = format!(
        "bind error: {addr}: already in use; stop the other process or choose another address"
    );
    assert_eq!(error.to_string(), text);
    assert!(std::error::Error::source(&error).is_some());

    let error = metrics.serve("203.0.113.1:1").unwrap_err();
    assert!(!error.is_addr_in_use());
    assert_eq!(
        error.to_string(),
        "bind error: 203.0.113.1:1: not an address of this machine"
    );
    let error = metrics.serve("nonsense").unwrap_err();
    assert_eq!(
        error.to_string(),
        "bind error: nonsense: not an address: expected IP:PORT"
    );
}

#[test]
fn options_out_of_range_are_refused() {
    let metrics = Metrics::new("test").unwrap();
    let base = ServeOptions::default;
    for (options, message) in [
        (base().max_conns(0), "option max_conns must be at least 1"),
        (
            base().max_header_bytes(8_191),
            "option max_header_bytes must be at least 8192",
        ),
        (
            base().max_headers(0),
            "option max_headers must be at least 1",
        ),
        (
            base().read_timeout(Duration::ZERO),
            "option read_timeout must be longer than 0",
        ),
        (
            base().write_timeout(Duration::ZERO),
            "option write_timeout must be longer than 0",
        ),
        (
            base().idle_timeout(Duration::ZERO),
            "option idle_timeout must be longer than 0",
        ),
    ] {
        let error = metrics.serve_with(LOOPBACK, options).unwrap_err();
        assert_eq!(
            error.to_string(),
            format!("bind error: {LOOPBACK}: {message}")
        );
    }
}

#[test]
fn bodies_are_refused_unread_and_the_connection_closed() {
    let (_, server) = start(ServeOptions::default());
    for body in [
        "content-length: 1000000\r\n\r\npart",
        "transfer-encoding: chunked\r\n\r\n5\r\nhello",
    ] {
        let answer = exchange(server.addr(), &format!("GET /healthz HTTP/1.1\r\n{body}"));
        assert!(answer.starts_with("HTTP/1.1 413 "), "{answer}");
        assert!(answer.contains("\r\nconnection: close\r\n"), "{answer}");
    }
    let empty = "GET /healthz HTTP/1.1\r\ncontent-length: 0\r\nconnection: close\r\n\r\n";
    assert!(exchange(server.addr(), empty).starts_with("HTTP/1.1 200 "));
}

#[test]
fn broken_and_oversized_heads_get_4xx_and_a_close() {
    let (_, server) = start(ServeOptions::default());
    assert!(exchange(server.addr(), "NOT HTTP\r\n\r\n").starts_with("HTTP/1.1 400 "));
    let headers: String = (0..65).map(|n| format!("h{n}: x\r\n")).collect();
    let answer = exchange(
        server.addr(),
        &format!("GET /healthz HTTP/1.1\r\n{headers}\r\n"),
    );
    assert!(answer.starts_with("HTTP/1.1 431 "), "{answer}");
    let long = "x".repeat(16 * 1024);
    let answer = exchange(
        server.addr(),
        &format!("GET /healthz HTTP/1.1\r\nlong: {long}\r\n\r\n"),
    );
    assert!(answer.starts_with("HTTP/1.1 431 "), "{answer}");
}

#[test]
fn an_unfinished_head_is_closed_after_the_read_timeout() {
    let timeout = Duration::from_millis(150);
    let (_, server) = start(ServeOptions::default().read_timeout(timeout));
    for part in ["", "GET /healthz HTTP/1.1\r\nhost:"] {
        let before = Instant::now();
        assert_eq!(exchange(server.addr(), part), "");
        assert!(before.elapsed() >= timeout);
    }
    // The same on a connection that has already served a request.
    let mut stream = connect(server.addr());
    stream.write_all(b"GET /healthz HTTP/1.1\r\n\r\n").unwrap();
    one_response(&mut stream);
    let before = Instant::now();
    stream.write_all(b"GET /heal").unwrap();
    assert_eq!(rest(&mut stream), "");
    assert!((timeout..Duration::from_secs(10)).contains(&before.elapsed()));
}

#[test]
fn an_idle_connection_is_closed_after_the_idle_timeout() {
    let timeout = Duration::from_millis(150);
    let (_, server) = start(ServeOptions::default().idle_timeout(timeout));
    let mut stream = connect(server.addr());
    stream.write_all(b"GET /healthz HTTP/1.1\r\n\r\n").unwrap();
    one_response(&mut stream);
    let before = Instant::now();
    assert_eq!(rest(&mut stream), "");
    assert!(before.elapsed() >= timeout / 2);
}

#[test]
fn a_scraper_that_does_not_read_is_cut_off_after_the_write_timeout() {
    let timeout = Duration::from_millis(300);
    let (metrics, server) = start(ServeOptions::default().write_timeout(timeout));
    make_huge(&metrics);
    let mut stuck = connect(server.addr());
    stuck
        .write_all(b"GET /metrics HTTP/1.1\r\nconnection: close\r\n\r\n")
        .unwrap();
    let before = Instant::now();
    while before.elapsed() < 3 * timeout {
        assert!(get(server.addr(), "/healthz").starts_with("HTTP/1.1 200 "));
    }
    let received = rest(&mut stuck).len();
    assert!(
        received < metrics.render(Default::default()).len(),
        "{received} bytes"
    );
}

#[test]
fn a_probe_is_answered_at_once_while_200_clients_hang() {
    let (metrics, server) = start(ServeOptions::default().read_timeout(PATIENCE));
    let hanging: Vec<TcpStream> = (0..200)
        .map(|_| {
            let mut stream = connect(server.addr());
            stream.write_all(b"GET /metrics HTTP/1.1\r\nhost:").unwrap();
            stream
        })
        .collect();
    let before = Instant::now();
    for _ in 0..10 {
        assert!(get(server.addr(), "/healthz").starts_with("HTTP/1.1 200 "));
    }
    assert!(
        before.elapsed() < Duration::from_secs(2),
        "{:?}",
        before.elapsed()
    );
    let text = metrics.render(Default::default());
    let evicted = text
        .lines()
        .find_map(|line| line.strip_prefix("rejected_total{reason=\"admin_evicted\"} "));
    // 210 connections for 64 places; a probe that has gone leaves a place behind.
    let evicted: u32 = evicted.unwrap().parse().unwrap();
    assert!((137..=146).contains(&evicted), "{evicted}");
    drop(hanging);
}

#[test]
fn a_probe_is_answered_while_scrapers_that_do_not_read_hold_every_place() {
    let options = ServeOptions::default().max_conns(4).write_timeout(PATIENCE);
    let (metrics, server) = start(options);
    make_huge(&metrics);
    let scrapers: Vec<TcpStream> = (0..8)
        .map(|_| {
            let mut stream = connect(server.addr());
            stream.write_all(b"GET /metrics HTTP/1.1\r\n\r\n").unwrap();
            let mut start = [0; 15];
            stream.peek(&mut start).unwrap();
            stream
        })
        .collect();
    assert!(get(server.addr(), "/healthz").starts_with("HTTP/1.1 200 "));
    drop(scrapers);
}

#[test]
fn the_longest_idle_connection_makes_room_before_one_at_work() {
    let options = ServeOptions::default()
        .max_conns(2)
        .read_timeout(PATIENCE)
        .idle_timeout(PATIENCE);
    let (_, server) = start(options);
    let mut at_work = connect(server.addr());
    at_work.write_all(b"GET /healthz HTTP/1.1\r\n").unwrap();
    let mut idle = connect(server.addr());
    idle.write_all(b"GET /healthz HTTP/1.1\r\n\r\n").unwrap();
    one_response(&mut idle);
    assert!(get(server.addr(), "/healthz").starts_with("HTTP/1.1 200 "));
    assert_eq!(rest(&mut idle), "", "the idle one was closed");
    at_work.write_all(b"\r\n").unwrap();
    assert!(
        one_response(&mut at_work).starts_with("HTTP/1.1 200 "),
        "the other was not"
    );
}

/// A clock that moves when told to.
#[derive(Clone, Default)]
struct Hand(Arc<Mutex<Duration>>);

impl Clock for Hand {
    fn monotonic(&self) -> Duration {
        *self.0.lock().unwrap()
    }
    fn wall(&self) -> SystemTime {
        SystemTime::UNIX_EPOCH + self.monotonic()
    }
}

#[test]
fn livez_answers_503_while_the_callers_runtime_is_stalled() {
    let hand = Hand::default();
    let metrics = Metrics::with_health("test", HealthState::with_clock(hand.clone())).unwrap();
    let runtime = tokio::runtime::Builder::new_current_thread()
        .build()
        .unwrap();
    let answer = runtime.block_on(async {
        let server = metrics.serve(LOOPBACK).unwrap();
        metrics.health().beat();
        assert!(get(server.addr(), "/livez").starts_with("HTTP/1.1 200 "));
        *hand.0.lock().unwrap() += Duration::from_secs(11);
        // This blocks the only worker of this runtime until the answer is there.
        get(server.addr(), "/livez")
    });
    assert!(answer.starts_with("HTTP/1.1 503 "), "{answer}");
    assert!(
        answer.ends_with("{\"status\":\"stalled\",\"since\":\"1970-01-01T00:00:00.000Z\"}"),
        "{answer}"
    );
}

#[test]
fn after_join_nobody_listens_and_the_port_is_free() {
    let (metrics, server) = start(ServeOptions::default());
    let addr = server.addr();
    let mut idle = connect(addr);
    idle.write_all(b"GET /healthz HTTP/1.1\r\n\r\n").unwrap();
    one_response(&mut idle);
    let before = Instant::now();
    server.join();
    assert!(
        before.elapsed() < Duration::from_secs(5),
        "idle connections do not hold it up"
    );
    assert_eq!(rest(&mut idle), "");
    assert!(TcpStream::connect(addr).is_err());
    metrics.serve(addr).unwrap().join();
}

#[test]
fn shutdown_returns_at_once_and_finishes_the_answer_under_way() {
    let (metrics, server) = start(ServeOptions::default().write_timeout(PATIENCE));
    make_huge(&metrics);
    let mut scraper = connect(server.addr());
    scraper.write_all(b"GET /metrics HTTP/1.1\r\n\r\n").unwrap();
    scraper.peek(&mut [0; 15]).unwrap();
    let before = Instant::now();
    server.shutdown();
    assert!(before.elapsed() < Duration::from_secs(1));
    let answer = rest(&mut scraper);
    let (head, body) = answer.split_once("\r\n\r\n").unwrap();
    assert!(
        head.contains(&format!("content-length: {}", body.len())),
        "{head}"
    );
    server.join();
}

#[test]
fn dropping_the_handle_stops_the_server_without_waiting() {
    let (metrics, server) =
        start(ServeOptions::default().write_timeout(Duration::from_millis(300)));
    make_huge(&metrics);
    let addr = server.addr();
    let mut stuck = connect(addr);
    stuck.write_all(b"GET /metrics HTTP/1.1\r\n\r\n").unwrap();
    stuck.peek(&mut [0; 15]).unwrap();
    let mut hanging = connect(addr);
    hanging.write_all(b"GET /healthz").unwrap();
    let before = Instant::now();
    drop(server);
    assert!(before.elapsed() < Duration::from_millis(250));
    assert_eq!(rest(&mut hanging), "", "closed, as it had asked nothing");
    assert!(TcpStream::connect(addr).is_err());
}

#[test]
fn the_future_serves_until_told_to_stop_and_closes_all_when_dropped() {
    let metrics = Metrics::new("test").unwrap();
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(1)
        .enable_all()
        .build()
        .unwrap();
    let listener = TcpListener::bind(LOOPBACK).unwrap();
    let addr = listener.local_addr().unwrap();
    let (stop, stopped) = tokio::sync::oneshot::channel::<()>();
    let serving = runtime.spawn({
        let metrics = metrics.clone();
        async move {
            let stopped = async {
                let _ = stopped.await;
            };
            metrics.server(listener, stopped).await
        }
    });
    assert!(get(addr, "/healthz").starts_with("HTTP/1.1 200 "));
    stop.send(()).unwrap();
    runtime.block_on(serving).unwrap().unwrap();
    assert!(TcpStream::connect(addr).is_err());

    let listener = TcpListener::bind(LOOPBACK).unwrap();
    let addr = listener.local_addr().unwrap();
    let serving =
        runtime.spawn(async move { metrics.server(listener, std::future::pending()).await });
    let mut open = connect(addr);
    open.write_all(b"GET /healthz HTTP/1.1\r\n\r\n").unwrap();
    one_response(&mut open);
    serving.abort();
    assert!(runtime.block_on(serving).unwrap_err().is_cancelled());
    assert_eq!(rest(&mut open), "");
    assert!(TcpStream::connect(addr).is_err());
}
