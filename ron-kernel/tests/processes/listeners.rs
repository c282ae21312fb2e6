//! Listening sockets that outlive the processes that serve them.

use crate::rig::{program, signal, start, tireless, until, until_node, until_state, Desk};
use ron_kernel::supervisor::Child;
use rustix::process::Signal;
use std::io::Read;
use std::net::{TcpListener, TcpStream};
use std::time::Duration;

/// Asks once; the answer is who served it.
fn ask(addr: std::net::SocketAddr) -> String {
    let mut stream = TcpStream::connect(addr).expect("no connection is refused");
    stream.set_read_timeout(Some(crate::rig::PATIENCE)).unwrap();
    let mut text = String::new();
    stream
        .read_to_string(&mut text)
        .map(|_| text)
        .unwrap_or_default()
}

#[tokio::test]
async fn it_is_told_of_its_listeners_as_by_systemd() {
    let desk = Desk::new();
    let sockets: Vec<TcpListener> = (0..3)
        .map(|_| TcpListener::bind("127.0.0.1:0").unwrap())
        .collect();
    // Children of a shell find the sockets under the same numbers.
    let script = "echo $LISTEN_PID $$ $LISTEN_FDS $LISTEN_FDNAMES > $DESK/told; \
                  for n in 3 4 5; do readlink /proc/$$/fd/$n >> $DESK/sockets; done; touch $DESK/done; exec sleep 1000";
    let inodes: Vec<String> = sockets
        .iter()
        .map(|socket| {
            use std::os::fd::AsRawFd;
            let link = std::fs::read_link(format!("/proc/self/fd/{}", socket.as_raw_fd())).unwrap();
            link.display().to_string()
        })
        .collect();
    let names = ["web", "admin", "third"];
    let command = sockets
        .into_iter()
        .zip(names)
        .fold(desk.sh(script), |command, (socket, name)| {
            command.listener(name, socket)
        });
    let running = start([tireless(Child::process("told", command))]).await;
    let handle = running.handle().clone();
    for generation in 1..=3 {
        let node = until_node(&handle, "told", "it runs", |node| {
            node.generation == generation && node.state == "ready"
        })
        .await;
        let pid = node.pid.unwrap();
        until("it has said all", || desk.exists("done").then_some(())).await;
        assert_eq!(
            desk.line("told").await,
            format!("{pid} {pid} 3 web:admin:third")
        );
        assert_eq!(desk.lines("sockets"), inodes);
        for name in ["told", "sockets", "done"] {
            std::fs::remove_file(desk.file(name)).unwrap();
        }
        signal(pid, Signal::KILL);
    }
    running.shutdown().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn connections_wait_for_the_next_incarnation() {
    let socket = TcpListener::bind("127.0.0.1:0").unwrap();
    let addr = socket.local_addr().unwrap();
    let desk = Desk::new();
    // The shell gives the program the socket as its input.
    let script =
        "[ -e $DESK/slow ] && sleep 0.5; exec \"$TEST_PROGRAM\" --exact rig::steps --nocapture <&3";
    let command = desk
        .sh(script)
        .env("TEST_STEPS", "answer served")
        .listener("web", socket);
    let running = start([tireless(Child::process("serves", command))]).await;
    let handle = running.handle().clone();
    let served = tokio::task::spawn_blocking(move || ask(addr))
        .await
        .unwrap();
    let first = until_state(&handle, "serves", "ready").await.pid.unwrap();
    assert_eq!(served, format!("served {first}"));
    std::fs::write(desk.file("slow"), "").unwrap();
    signal(first, Signal::KILL);
    let next = until_node(&handle, "serves", "its replacement", |node| {
        node.generation == 2 && node.pid.is_some()
    })
    .await;
    // Nobody accepts yet.
    let asks: Vec<_> = (0..20)
        .map(|_| tokio::task::spawn_blocking(move || ask(addr)))
        .collect();
    for ask in asks {
        assert_eq!(ask.await.unwrap(), format!("served {}", next.pid.unwrap()));
    }
    running.shutdown().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_connection_is_refused_while_its_server_is_killed_again_and_again() {
    let socket = TcpListener::bind("127.0.0.1:0").unwrap();
    let addr = socket.local_addr().unwrap();
    let desk = Desk::new();
    let script = "exec \"$TEST_PROGRAM\" --exact rig::steps --nocapture <&3";
    let command = desk
        .sh(script)
        .env("TEST_STEPS", "answer served")
        .listener("web", socket);
    let running = start([tireless(Child::process("dies", command))]).await;
    let handle = running.handle().clone();
    let asks = tokio::task::spawn_blocking(move || {
        let begun = std::time::Instant::now();
        let mut answered = 0;
        while begun.elapsed() < Duration::from_millis(1500) {
            if ask(addr).starts_with("served") {
                answered += 1;
            }
        }
        answered
    });
    let mut killed = 0;
    while !asks.is_finished() {
        if let Some(pid) = crate::rig::node(&handle, "dies").and_then(|node| node.pid) {
            signal(pid, Signal::KILL);
            killed += 1;
        }
        tokio::time::sleep(Duration::from_millis(70)).await;
    }
    let answered = asks.await.unwrap();
    assert!(
        answered > 20 && killed > 3,
        "{answered} answered, {killed} killed"
    );
    running.shutdown().await;
}

#[tokio::test]
async fn two_children_may_share_a_listener_and_a_program_without_one_is_told_of_none() {
    let socket = TcpListener::bind("127.0.0.1:0").unwrap();
    let copy = socket.try_clone().unwrap();
    let said = program(&[]);
    let running = start([
        Child::process("one", program(&[]).listener("shared", socket)),
        Child::process("two", program(&[]).listener("shared", copy)),
        Child::process("none", said),
    ])
    .await;
    let handle = running.handle().clone();
    for (id, wanted) in [("one", true), ("two", true), ("none", false)] {
        let pid = until_state(&handle, id, "ready").await.pid.unwrap();
        let environ = std::fs::read_to_string(format!("/proc/{pid}/environ")).unwrap();
        assert_eq!(environ.contains("LISTEN_FDS=1\0"), wanted, "{id}");
        assert_eq!(
            environ.contains(&format!("LISTEN_PID={pid}\0")),
            wanted,
            "{id}"
        );
    }
    running.shutdown().await;
}
