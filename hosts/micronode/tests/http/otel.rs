//! What a collector is told of requests, and that requests do not notice whether it listens.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::mpsc::{channel, Receiver};
use std::time::{Duration, Instant};

use opentelemetry_proto::tonic::collector::trace::v1::ExportTraceServiceRequest;
use opentelemetry_proto::tonic::common::v1::{any_value::Value, KeyValue};
use opentelemetry_proto::tonic::trace::v1::{span::SpanKind, status::StatusCode, Span};
use prost::Message;

use crate::rig::{outcome, put, Answer, Node, PATIENCE};

const TRACE: &str = "0af7651916cd43dd8448eb211c80319c";
const CALLER: &str = "b7ad6b7169203331";

/// A collector that answers every request with this status.
struct Collector {
    addr: SocketAddr,
    told: Receiver<ExportTraceServiceRequest>,
}

impl Collector {
    fn start(status: &'static str) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let addr = listener.local_addr().unwrap();
        let (sender, told) = channel();
        std::thread::spawn(move || {
            for stream in listener.incoming() {
                let Some(request) = taken(stream.unwrap(), status) else {
                    continue;
                };
                if sender.send(request).is_err() {
                    return;
                }
            }
        });
        Self { addr, told }
    }

    fn url(&self) -> String {
        format!("http://{}", self.addr)
    }

    /// The next spans, with their resource's attributes.
    fn next(&self) -> (Vec<KeyValue>, Vec<Span>) {
        let request = self.told.recv_timeout(PATIENCE).expect("spans are told");
        let [resource] = <[_; 1]>::try_from(request.resource_spans).unwrap();
        let [scope] = <[_; 1]>::try_from(resource.scope_spans).unwrap();
        assert_eq!(scope.scope.unwrap().name, "ron-host");
        (resource.resource.unwrap().attributes, scope.spans)
    }

    fn span(&self) -> Span {
        let (_, spans) = self.next();
        let [span] = <[_; 1]>::try_from(spans).unwrap();
        span
    }
}

/// The request that comes, as OTLP over HTTP has it.
fn taken(mut stream: TcpStream, status: &str) -> Option<ExportTraceServiceRequest> {
    let mut reader = BufReader::new(stream.try_clone().unwrap());
    let (mut head, mut length) = (Vec::new(), 0);
    loop {
        let mut line = String::new();
        if reader.read_line(&mut line).ok()? == 0 {
            return None;
        }
        let line = line.trim_end().to_lowercase();
        if let Some(value) = line.strip_prefix("content-length: ") {
            length = value.parse().unwrap();
        }
        if line.is_empty() {
            break;
        }
        head.push(line);
    }
    assert_eq!(head[0], "post /v1/traces http/1.1");
    let is = |line: &str| head.iter().any(|found| found == line);
    assert!(is("content-type: application/x-protobuf"), "{head:?}");
    let mut body = vec![0; length];
    reader.read_exact(&mut body).ok()?;
    let _ = write!(stream, "HTTP/1.1 {status}\r\ncontent-length: 0\r\n\r\n");
    Some(ExportTraceServiceRequest::decode(&*body).unwrap())
}

fn attribute<'a>(attributes: &'a [KeyValue], key: &str) -> Option<&'a Value> {
    let found = attributes.iter().find(|attribute| attribute.key == key)?;
    found.value.as_ref()?.value.as_ref()
}

fn text<'a>(attributes: &'a [KeyValue], key: &str) -> &'a str {
    match attribute(attributes, key) {
        Some(Value::StringValue(text)) => text,
        other => panic!("{key}: {other:?}"),
    }
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// Trace and span of an answer.
fn ids(answer: &Answer) -> (String, String) {
    let header = answer.header("traceparent").expect("it is traced");
    let mut fields = header.split('-').skip(1).map(str::to_owned);
    (fields.next().unwrap(), fields.next().unwrap())
}

fn start(collector: &str, args: &[&str]) -> Node {
    Node::start(
        &[
            &["--otel.endpoint", collector, "--http.rps", "1000000"],
            args,
        ]
        .concat(),
    )
}

fn until(what: &str, mut holds: impl FnMut() -> bool) {
    let began = Instant::now();
    while !holds() {
        assert!(began.elapsed() < PATIENCE, "{what}");
        std::thread::sleep(Duration::from_millis(10));
    }
}

#[test]
fn a_request_is_a_span_of_its_callers_trace_and_a_sealed_node_tells_it() {
    let collector = Collector::start("200 OK");
    let node = start(&collector.url(), &["--otel.ratio", "0"]);
    let version = node.get("/version").json();
    assert_eq!(version["features"]["otel"], true);
    assert_eq!(version["features"]["amnesia"], true);
    // Not sampled by its caller, not traced, for whoever looks after the node: none of them is told.
    let unsampled = format!("traceparent: 00-{TRACE}-{CALLER}-00\r\n");
    assert_eq!(node.get_with("/o/nothing", &unsampled).status, 400);
    assert_eq!(node.get("/o/nothing").status, 400);
    let sampled = format!("traceparent: 00-{TRACE}-{CALLER}-01\r\nx-corr-id: mine\r\n");
    assert_eq!(node.get_with("/readyz", &sampled).status, 200);
    let before = std::time::SystemTime::now();
    let head = "PUT /put HTTP/1.1\r\nhost: localhost\r\ncontent-length: 7\r\n";
    let answer = node.send(format!("{head}{sampled}\r\ncontent"));
    assert_eq!(answer.status, 201, "{answer:?}");
    let (resource, spans) = collector.next();
    assert_eq!(text(&resource, "service.name"), "micronode");
    assert_eq!(text(&resource, "service.instance.id"), version["instance"]);
    let [span] = <[_; 1]>::try_from(spans).expect("one was recorded");
    assert_eq!(hex(&span.trace_id), TRACE);
    assert_eq!(hex(&span.parent_span_id), CALLER);
    assert_eq!((TRACE.to_owned(), hex(&span.span_id)), ids(&answer));
    assert_eq!(
        (&*span.name, span.kind),
        ("PUT /put", SpanKind::Server.into())
    );
    let attributes = &span.attributes;
    assert_eq!(text(attributes, "http.request.method"), "PUT");
    assert_eq!(text(attributes, "http.route"), "/put");
    assert_eq!(text(attributes, "corr_id"), "mine");
    let status = attribute(attributes, "http.response.status_code");
    assert_eq!(status, Some(&Value::IntValue(201)));
    assert_eq!(span.status, None);
    let began = Duration::from_nanos(span.start_time_unix_nano);
    let ended = Duration::from_nanos(span.end_time_unix_nano);
    let since = |at: std::time::SystemTime| at.duration_since(std::time::UNIX_EPOCH).unwrap();
    // A moment, as one clock measures and another dates it.
    let moment = Duration::from_millis(50);
    assert!(since(before) <= began + moment && began <= ended);
    assert!(ended <= since(std::time::SystemTime::now()));
    until("it is counted", || {
        node.metric("otel_spans_total{outcome=\"exported\"}") == 1
    });
}

#[test]
fn a_trace_that_begins_here_is_told_as_often_as_the_ratio_says_and_by_its_route() {
    let collector = Collector::start("200 OK");
    let variable = [("OTEL_EXPORTER_OTLP_ENDPOINT", &*collector.url())];
    let small = ["--store.max_bytes", "1MiB"];
    let args = [
        &["--auth.dev_allow", "true", "--otel.ratio", "1"],
        &small[..],
    ]
    .concat();
    let node = Node::listening_in(&variable, &args);
    node.until_ready_is(200);
    for (request, status, name, route) in [
        (
            "GET /o/b3:0 HTTP/1.1",
            400,
            "GET /o/{addr}",
            Some("/o/{addr}"),
        ),
        ("GET /secret HTTP/1.1", 404, "GET", None),
        ("BREW /put HTTP/1.1", 405, "HTTP /put", Some("/put")),
    ] {
        let answer = node.send(format!("{request}\r\nhost: localhost\r\n\r\n"));
        assert_eq!(answer.status, status, "{request}");
        let span = collector.span();
        assert_eq!((hex(&span.trace_id), hex(&span.span_id)), ids(&answer));
        assert!(
            span.parent_span_id.is_empty() && span.name == name,
            "{span:?}"
        );
        let told = attribute(&span.attributes, "http.route");
        let expected = route.map(|route| Value::StringValue(route.to_owned()));
        assert_eq!(told, expected.as_ref());
        assert_eq!(span.status, None, "the caller's fault");
        assert!(!format!("{span:?}").contains("secret"), "{span:?}");
    }
    // Of what is ours to mend.
    assert_eq!(node.put(&[1; 900_000]).status, 201);
    assert_eq!(collector.span().status, None);
    assert_eq!(node.put(&[2; 900_000]).status, 507);
    let span = collector.span();
    assert_eq!(text(&span.attributes, "error.type"), "507");
    assert_eq!(span.status.unwrap().code, i32::from(StatusCode::Error));
}

#[test]
fn a_collector_that_is_not_there_or_refuses_is_told_of_and_harms_nobody() {
    let gone = TcpListener::bind("127.0.0.1:0")
        .unwrap()
        .local_addr()
        .unwrap();
    let refusing = Collector::start("400 Bad Request");
    for collector in [format!("http://{gone}"), refusing.url()] {
        let node = start(&collector, &["--otel.ratio", "1"]);
        for _ in 0..3 {
            assert_eq!(node.put(b"content").status, 201);
        }
        let line = node.logged("otel_failed");
        assert_eq!(line["level"], "warn");
        assert_eq!(node.metric("otel_spans_total{outcome=\"failed\"}"), 3);
        let readyz = node.get("/readyz").json();
        assert_eq!(
            (&readyz["ready"], &readyz["degraded"]),
            (&true.into(), &false.into())
        );
    }
}

/// One that takes connections and says nothing.
#[test]
fn spans_beyond_those_that_can_wait_are_dropped_and_counted_and_a_drain_is_not_late() {
    let silent = TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("http://{}", silent.local_addr().unwrap());
    let mut node = start(&url, &["--otel.ratio", "1", "--drain.deadline", "2s"]);
    let mut stream = node.connect();
    let request = b"GET /o/b3:0 HTTP/1.1\r\nhost: localhost\r\n\r\n";
    // What waits, what is on its way, and some more.
    for _ in 0..2_048 + 512 + 100 {
        stream.write_all(request).unwrap();
        assert_eq!(Answer::read(&mut stream, false).unwrap().status, 400);
    }
    let dropped = node.metric("otel_spans_total{outcome=\"dropped\"}");
    assert!((1..=700).contains(&dropped), "{dropped}");
    let readyz = node.get("/readyz").json();
    assert_eq!(
        (&readyz["ready"], &readyz["degraded"]),
        (&true.into(), &false.into())
    );
    drop(stream);
    node.terminate();
    let report = node.logged("shutdown_report");
    assert_eq!(report["started"], report["stopped"], "{report}");
    assert_eq!(node.wait(), 0);
}

#[test]
fn what_waits_is_told_before_the_node_ends() {
    let collector = Collector::start("200 OK");
    let mut node = start(&collector.url(), &["--otel.ratio", "1"]);
    let request = put(&[7; 1000]);
    let mut under_way = node.connect();
    under_way.write_all(&request[..500]).unwrap();
    until("it is under way", || {
        node.metric("inflight_requests{route=\"/put\"}") == 1
    });
    node.terminate();
    until("it still listens", || {
        TcpStream::connect(node.addr).is_err()
    });
    under_way.write_all(&request[500..]).unwrap();
    let answer = Answer::read(&mut under_way, false).unwrap();
    assert_eq!(answer.status, 201);
    assert_eq!(node.wait(), 0);
    let span = collector.span();
    assert_eq!((hex(&span.trace_id), hex(&span.span_id)), ids(&answer));
}

#[test]
fn a_collector_that_cannot_be_one_is_refused() {
    for endpoint in [
        "https://collector:4318",
        "collector:4318",
        "http://",
        "http://user:secret@collector:4318",
        "http://collector:4318/?key=secret",
    ] {
        let mut command = std::process::Command::new(env!("CARGO_BIN_EXE_micronode"));
        command
            .env_clear()
            .args(["--auth.dev_allow", "--otel.endpoint", endpoint]);
        let (code, told) = outcome(&mut command);
        assert_eq!(code, Some(2), "{endpoint}: {told}");
        assert!(told.contains("expected http://HOST:PORT"), "{told}");
    }
}
