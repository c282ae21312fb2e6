//! Probes against real sockets, and against servers that mean no good.
#![cfg(feature = "process")]

use ron_kernel::process::{Probe, ProbeError};
use std::future::Future;
use std::io;
use std::path::Path;
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::{TcpListener, UnixListener, UnixStream};
use tokio::task::JoinHandle;
use tokio::time::timeout;

/// No test comes near it.
const LIMIT: Duration = Duration::from_secs(30);

async fn within<T>(future: impl Future<Output = T>) -> T {
    timeout(LIMIT, future).await.expect("within 30 s")
}

/// The error as one line, its causes included.
fn line(error: &(dyn std::error::Error + 'static)) -> String {
    match error.source() {
        Some(cause) => format!("{error}: {cause}"),
        None => error.to_string(),
    }
}

/// Reads until the end of a request head.
async fn request_head(stream: &mut (impl AsyncRead + Unpin)) -> String {
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        head.push(stream.read_u8().await.unwrap());
    }
    String::from_utf8(head).unwrap()
}

/// Serves one connection: reads the request, writes `answer`, and closes. What the client does not read is not an error.
async fn http_server(answer: Vec<u8>) -> (String, JoinHandle<String>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let addr = listener.local_addr().unwrap().to_string();
    let served = tokio::spawn(async move {
        let (mut stream, _) = listener.accept().await.unwrap();
        let request = request_head(&mut stream).await;
        let _ = stream.write_all(&answer).await;
        let _ = stream.shutdown().await;
        request
    });
    (addr, served)
}

/// The frame of a request: its bytes without the length.
async fn frame(stream: &mut (impl AsyncRead + Unpin)) -> io::Result<Vec<u8>> {
    let len = stream.read_u32().await?;
    let mut body = vec![0; len as usize];
    stream.read_exact(&mut body).await?;
    Ok(body)
}

fn framed(body: &[u8]) -> Vec<u8> {
    [&(body.len() as u32).to_be_bytes()[..], body].concat()
}

/// The value of `corr_id` in a request, as it is encoded.
fn corr_id(request: &[u8]) -> &[u8] {
    let at = |needle: &[u8]| {
        request
            .windows(needle.len())
            .position(|w| w == needle)
            .unwrap()
    };
    &request[at(b"\xa7corr_id") + 8..at(b"\xa5token")]
}

/// Serves calls on `socket`, one connection after another, by what `answer` makes of a request.
fn health_server(
    socket: &Path,
    answer: impl Fn(&[u8]) -> Vec<u8> + Send + 'static,
) -> JoinHandle<()> {
    let listener = UnixListener::bind(socket).unwrap();
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            if let Ok(request) = frame(&mut stream).await {
                let _ = stream.write_all(&answer(&request)).await;
            }
        }
    })
}

async fn write_some(stream: &mut (impl AsyncWrite + Unpin), total: usize) -> usize {
    let block = [b'x'; 4096];
    let mut written = 0;
    while written < total && stream.write_all(&block).await.is_ok() {
        written += block.len();
    }
    written
}

#[tokio::test]
async fn a_tcp_probe_is_well_where_connections_are_accepted() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    within(Probe::tcp(format!("127.0.0.1:{port}")).check("a"))
        .await
        .unwrap();
    within(Probe::tcp(format!("localhost:{port}")).check("a"))
        .await
        .unwrap();
    // The probe leaves nothing open: what it connected ends at once.
    for _ in 0..2 {
        let (mut stream, _) = within(listener.accept()).await.unwrap();
        assert_eq!(within(stream.read(&mut [0; 8])).await.unwrap(), 0);
    }

    drop(listener);
    let error = within(Probe::tcp(format!("127.0.0.1:{port}")).check("a"))
        .await
        .unwrap_err();
    let ProbeError::Connect { source, .. } = &error else {
        panic!("{error:?}");
    };
    assert_eq!(source.kind(), io::ErrorKind::ConnectionRefused);
    let expected = format!("tcp:127.0.0.1:{port}: cannot connect: Connection refused");
    assert!(line(&error).starts_with(&expected), "{}", line(&error));
}

/// One of the ports that the system connects from, free, and even as those it takes first.
#[cfg(target_os = "linux")]
fn port_to_connect_from() -> u16 {
    let range = std::fs::read_to_string("/proc/sys/net/ipv4/ip_local_port_range").unwrap();
    let (low, high) = range.trim().split_once('\t').unwrap();
    let mut ports = low.parse::<u16>().unwrap()..high.parse().unwrap();
    let is_free = |port: &u16| std::net::TcpListener::bind(("127.0.0.1", *port)).is_ok();
    ports.find(|port| port % 2 == 0 && is_free(port)).unwrap()
}

#[cfg(target_os = "linux")]
#[tokio::test]
async fn a_tcp_probe_does_not_mistake_itself_for_the_process() {
    let port = port_to_connect_from();
    let probe = Probe::tcp(format!("127.0.0.1:{port}"));
    // As often as there are ports: one of them is the one.
    for attempt in 0..32_768 {
        let checked = probe.check("a").await;
        assert!(
            checked.is_err(),
            "well at attempt {attempt}, and nobody listens"
        );
    }
}

#[tokio::test]
async fn an_http_probe_goes_by_the_status_alone() {
    let cases: [(&str, Result<(), &str>); 13] = [
        ("HTTP/1.1 200 OK\r\n\r\n", Ok(())),
        ("HTTP/1.1 204 No Content\r\nX: y\r\n\r\n", Ok(())),
        ("HTTP/1.0 399 Odd\n\n", Ok(())),
        (
            "HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 200 OK\r\n\r\n",
            Ok(()),
        ),
        // Where it points to is nobody's business: nothing listens there.
        (
            "HTTP/1.1 302 Found\r\nLocation: http://127.0.0.1:1/\r\n\r\n",
            Ok(()),
        ),
        // A body that never comes is not waited for.
        (
            "HTTP/1.1 200 OK\r\nContent-Length: 1000000000\r\n\r\n",
            Ok(()),
        ),
        (
            "HTTP/1.1 101 Switching Protocols\r\n\r\n",
            Err("answered 101"),
        ),
        ("HTTP/1.1 404 Not Found\r\n\r\n", Err("answered 404")),
        (
            "HTTP/1.1 503 Service Unavailable\r\n\r\n",
            Err("answered 503"),
        ),
        (
            "HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 500 No\r\n\r\n",
            Err("answered 500"),
        ),
        (
            "SSH-2.0-OpenSSH_9.6\r\n",
            Err("not understood: `SSH-2.0-OpenSSH_9.6` is not HTTP/1"),
        ),
        ("", Err("closed the connection after 0 bytes of an answer")),
        (
            "HTTP/1.1 200 OK\r\n",
            Err("closed the connection after 17 bytes of an answer"),
        ),
    ];
    for (answer, expected) in cases {
        let (addr, served) = http_server(answer.into()).await;
        let checked = within(Probe::http(&addr, "/healthz?deep=1").check("a")).await;
        let expected = expected.map_err(|text| format!("http:{addr}/healthz?deep=1: {text}"));
        assert_eq!(
            checked.map_err(|error| line(&error)),
            expected,
            "{answer:?}"
        );

        let request = within(served).await.unwrap();
        let head = format!("GET /healthz?deep=1 HTTP/1.1\r\nHost: {addr}\r\n");
        assert!(request.starts_with(&head), "{request}");
        assert!(request.contains("\r\nConnection: close\r\n"), "{request}");
    }
}

#[tokio::test]
async fn an_http_probe_reads_no_endless_head() {
    let (ends, ended) = tokio::sync::oneshot::channel();
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let addr = listener.local_addr().unwrap().to_string();
    tokio::spawn(async move {
        let (mut stream, _) = listener.accept().await.unwrap();
        request_head(&mut stream).await;
        stream.write_all(b"HTTP/1.1 200 OK\r\nX: ").await.unwrap();
        let written = write_some(&mut stream, 1 << 30).await;
        let _ = ends.send(written);
    });
    let error = within(Probe::http(addr, "/").check("a")).await.unwrap_err();
    let ProbeError::TooLarge { bytes, max, .. } = error else {
        panic!("{error:?}");
    };
    assert_eq!(max, 16 * 1024);
    assert!(bytes > max && bytes < 2 * max, "{bytes}");
    // It hung up instead of swallowing the rest.
    assert!(within(ended).await.unwrap() < 1 << 30);
}

#[tokio::test]
async fn an_http_probe_says_that_a_connection_broke() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let addr = listener.local_addr().unwrap().to_string();
    tokio::spawn(async move {
        let (stream, _) = listener.accept().await.unwrap();
        // Closing with the request unread resets the connection.
        stream.readable().await.unwrap();
        drop(stream);
    });
    let error = within(Probe::http(addr, "/").check("a")).await.unwrap_err();
    let ProbeError::Lost { source, .. } = &error else {
        panic!("{error:?}");
    };
    assert_eq!(source.kind(), io::ErrorKind::ConnectionReset);
}

#[tokio::test]
async fn a_probe_that_cannot_be_asked_asks_nobody() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let addr = listener.local_addr().unwrap().to_string();
    let cases = [
        (Probe::tcp("127.0.0.1"), "no port behind `127.0.0.1`"),
        (
            Probe::http(&addr, "healthz"),
            "`healthz` does not begin with `/`",
        ),
        (
            Probe::http(&addr, "/x HTTP/1.1\r\nHost: elsewhere"),
            "' ' cannot be sent in a path",
        ),
        (
            Probe::v1_health("run/x.sock"),
            "`run/x.sock` is no absolute path",
        ),
        (
            Probe::v1_health("/run/x.sock").service(""),
            "the service has no name",
        ),
    ];
    for (probe, problem) in cases {
        let error = within(probe.check("a")).await.unwrap_err();
        assert!(matches!(error, ProbeError::Unusable { .. }), "{error:?}");
        assert_eq!(line(&error), format!("{probe}: {problem}"));
    }
    let nobody = timeout(Duration::ZERO, listener.accept()).await;
    assert!(nobody.is_err(), "{nobody:?}");
}

#[tokio::test]
async fn a_v1_health_call_names_the_service_and_takes_only_its_own_answer() {
    let dir = tempfile::tempdir().unwrap();
    let socket = dir.path().join("svc.sock");
    let (seen, mut requests) = tokio::sync::mpsc::channel(8);
    let server = health_server(&socket, move |request| {
        seen.try_send(request.to_vec()).unwrap();
        // As rmp-serde writes it.
        let answer = [
            b"\x95\xa9svc.index\xa5v1.ok",
            corr_id(request),
            b"\x90\x99\xcc\xa8HealthOk",
        ];
        framed(&answer.concat())
    });
    let probe = Probe::v1_health(&socket);
    within(probe.check("thumbs")).await.unwrap();
    within(probe.clone().service("svc.index").check("thumbs"))
        .await
        .unwrap();

    let (first, second) = (
        requests.recv().await.unwrap(),
        requests.recv().await.unwrap(),
    );
    assert_ne!(corr_id(&first), corr_id(&second));
    let golden = |service: &[u8], request: &[u8]| {
        [
            b"\x85\xa7service",
            service,
            b"\xa6method\xa9v1.health\xa7corr_id",
            corr_id(request),
            b"\xa5token\x90\xa7payload\x97\xcc\xa6Health",
        ]
        .concat()
    };
    assert_eq!(first, golden(b"\xa6thumbs", &first));
    assert_eq!(second, golden(b"\xa9svc.index", &second));
    server.abort();
}

#[tokio::test]
async fn a_v1_health_answer_that_is_not_a_good_one_is_told_for_what_it_is() {
    type Answer = fn(&[u8]) -> Vec<u8>;
    let cases: [(Answer, &str); 11] = [
        (|_| vec![], "closed the connection after 0 bytes of an answer"),
        (|_| vec![0, 0], "closed the connection after 2 bytes of an answer"),
        (
            |_| framed(b"\xa8HealthOk")[..9].to_vec(),
            "closed the connection after 9 bytes of an answer",
        ),
        (
            |_| [&[0, 0x30, 0, 0][..], &[0xc0; 99]].concat(),
            "answered with 3145728 bytes or more, at most 65536 are read",
        ),
        (
            |_| vec![0xff; 8],
            "answered with 4294967295 bytes or more, at most 65536 are read",
        ),
        (
            |_| framed(b""),
            "not understood: answer is not MessagePack: it ends within the value that begins at byte 0",
        ),
        (
            |_| framed(&[0x91; 60_000]),
            "not understood: answer is not MessagePack: more than 16 levels at byte 16",
        ),
        (
            |_| framed(b"\xa2no"),
            "not understood: `no` is no answer about health",
        ),
        (
            |_| b"HTTP/1.1 400 Bad Request\r\n\r\n".to_vec(),
            "answered with 1213486160 bytes or more, at most 65536 are read",
        ),
        (
            |request| framed(&[b"\x83\xa2ok\xc2\xa6status\xa6replay\xa7corr_id", corr_id(request)].concat()),
            "not well: replay",
        ),
        (
            |request| framed(&[b"\x82\xa5error\xa4busy\xa7corr_id", corr_id(request)].concat()),
            "not well: busy",
        ),
    ];
    for (answer, expected) in cases {
        let dir = tempfile::tempdir().unwrap();
        let socket = dir.path().join("svc.sock");
        let server = health_server(&socket, answer);
        let probe = Probe::v1_health(&socket);
        let error = within(probe.check("a")).await.unwrap_err();
        assert_eq!(line(&error), format!("{probe}: {expected}"));
        server.abort();
    }
}

#[tokio::test]
async fn an_answer_to_another_call_is_no_answer() {
    let dir = tempfile::tempdir().unwrap();
    let socket = dir.path().join("svc.sock");
    let server = health_server(&socket, |_| framed(b"\x82\xa2ok\xc3\xa7corr_id\x07"));
    let probe = Probe::v1_health(&socket);
    let error = within(probe.check("a")).await.unwrap_err();
    let ProbeError::OtherCall { asked, .. } = &error else {
        panic!("{error:?}");
    };
    assert_ne!(*asked, 7);
    assert_eq!(line(&error), format!("{probe}: answered another call, 7"));
    server.abort();
}

#[tokio::test]
async fn a_v1_health_probe_says_why_there_is_no_connection() {
    let dir = tempfile::tempdir().unwrap();
    let dead = dir.path().join("dead.sock");
    drop(UnixListener::bind(&dead).unwrap());
    let file = dir.path().join("file");
    std::fs::write(&file, "").unwrap();
    let cases = [
        (dir.path().join("absent.sock"), "No such file or directory"),
        (dead, "Connection refused"),
        (file, "Connection refused"),
        (
            dir.path().join("x".repeat(200)),
            "path must be shorter than SUN_LEN",
        ),
    ];
    for (socket, cause) in cases {
        let probe = Probe::v1_health(&socket);
        let error = within(probe.check("a")).await.unwrap_err();
        let expected = format!("{probe}: cannot connect: {cause}");
        assert!(line(&error).starts_with(&expected), "{}", line(&error));
    }
}

#[tokio::test]
async fn a_probe_that_is_given_up_closes_its_connection() {
    let dir = tempfile::tempdir().unwrap();
    let socket = dir.path().join("svc.sock");
    let silent = UnixListener::bind(&socket).unwrap();
    let tcp = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let addr = tcp.local_addr().unwrap().to_string();

    async fn until_closed(mut stream: impl AsyncRead + Unpin) -> usize {
        let mut received = Vec::new();
        stream.read_to_end(&mut received).await.unwrap()
    }

    let health = Probe::v1_health(&socket);
    let given_up = timeout(Duration::from_millis(100), health.check("a")).await;
    assert!(given_up.is_err(), "{given_up:?}");
    let (stream, _) = within(silent.accept()).await.unwrap();
    assert!(within(until_closed(stream)).await > 0);

    let http = Probe::http(addr, "/");
    let given_up = timeout(Duration::from_millis(100), http.check("a")).await;
    assert!(given_up.is_err(), "{given_up:?}");
    let (stream, _) = within(tcp.accept()).await.unwrap();
    assert!(within(until_closed(stream)).await > 0);
}

#[tokio::test]
async fn an_answer_may_come_a_byte_at_a_time() {
    let dir = tempfile::tempdir().unwrap();
    let socket = dir.path().join("svc.sock");
    let listener = UnixListener::bind(&socket).unwrap();
    let server = tokio::spawn(async move {
        let (mut stream, _): (UnixStream, _) = listener.accept().await.unwrap();
        frame(&mut stream).await.unwrap();
        for byte in framed(b"\xa8HealthOk") {
            stream.write_all(&[byte]).await.unwrap();
            tokio::task::yield_now().await;
        }
    });
    within(Probe::v1_health(&socket).check("a")).await.unwrap();
    within(server).await.unwrap();
}

#[test]
fn asking_may_move_between_threads() {
    fn sendable<T: Send>(_: &T) {}
    fn value<T: Clone + std::fmt::Debug + Send + Sync + Unpin + 'static>() {}
    fn error<T: std::error::Error + Send + Sync + 'static>() {}
    value::<Probe>();
    error::<ProbeError>();
    error::<ron_kernel::process::ProbeParseError>();
    sendable(&Probe::tcp("a:1").check("a"));
}
