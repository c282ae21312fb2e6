//! Events that keep coming.

use std::process::Stdio;

use crate::fake::{ended, golden, json, Manner, Run, BINARY, INSTANCE};

fn chunked(lines: &str, end: bool) -> Vec<u8> {
    let mut bytes = b"HTTP/1.1 200 OK\r\ncontent-type: application/x-ndjson\r\ntransfer-encoding: chunked\r\n\r\n".to_vec();
    // Chunks do not end where lines do.
    for part in lines.as_bytes().chunks(7) {
        bytes.extend(format!("{:x}\r\n", part.len()).bytes());
        bytes.extend(part);
        bytes.extend(b"\r\n");
    }
    if end {
        bytes.extend(b"0\r\n\r\n");
    }
    bytes
}

#[test]
fn a_stream_is_shown_until_as_many_lines_as_were_asked_for() {
    let run = Run::new();
    run.serve("ron-kernel", INSTANCE, |_| {
        Manner::Says(chunked(&golden("tail.ndjson"), true))
    });
    let shown = golden("tail_pipe.txt");
    assert_eq!(run.ronctl("tail --topic kernel --count 9").good(), shown);
    let two: Vec<&str> = shown.lines().take(2).collect();
    assert_eq!(
        run.ronctl("tail --topic kernel --count 2").good(),
        two.join("\n") + "\n"
    );
    assert_eq!(
        run.ronctl("tail --json --topic kernel --count 9").good(),
        golden("tail.ndjson")
    );
}

#[test]
fn a_stream_that_ends_by_itself_says_so() {
    let run = Run::new();
    run.serve("ron-kernel", INSTANCE, |_| {
        Manner::Says(chunked(&golden("tail.ndjson"), true))
    });
    let ended = run.ronctl("tail --topic kernel");
    assert_eq!((ended.code, ended.out), (Some(3), golden("tail_pipe.txt")));
    assert_eq!(
        ended.err,
        "ronctl: the service ended the stream; it stops or has stopped\n"
    );
    let run = Run::new();
    run.serve("ron-kernel", INSTANCE, |_| {
        Manner::Says(chunked(&golden("tail.ndjson"), false))
    });
    let ended = run.ronctl("tail --topic kernel");
    assert_eq!(ended.code, Some(3));
    assert!(ended.err.contains("the connection ended"), "{ended:?}");
}

#[test]
fn a_stream_that_does_not_begin_is_a_service_that_hangs() {
    let run = Run::new();
    run.serve("ron-kernel", INSTANCE, |_| Manner::Hangs);
    assert!(run
        .ronctl("tail --topic kernel")
        .failed(3)
        .contains("no answer within 1.5 s"));
}

#[test]
fn a_line_of_any_shape_is_shown_and_harmless() {
    let run = Run::new();
    let lines = "nonsense \u{1b}[2J\n\n[1]\n{\"topic\":null,\"event\":{\"type\":3}}\n";
    run.serve("ron-kernel", INSTANCE, move |_| json(200, lines));
    let shown = run.ronctl("tail --topic kernel --count 3").good();
    assert_eq!(shown, "nonsense \\x1b[2J\n[1]\n--:--:--.---  type=3\n");
}

#[test]
fn a_reader_that_has_read_enough_is_no_failure() {
    let run = Run::new();
    let body = golden("tail.ndjson").repeat(2000);
    run.serve("ron-kernel", INSTANCE, move |_| json(200, &body));
    let mut command = run.command("/bin/sh");
    let line = format!("{{ {BINARY} tail --topic kernel; echo $? >&2; }} | head -1");
    command.args(["-c", &line]).stdin(Stdio::null());
    let ended = ended(&mut command);
    assert_eq!(
        (ended.out.lines().count(), &*ended.err),
        (1, "0\n"),
        "{ended:?}"
    );
}
