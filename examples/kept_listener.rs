//! The kernel holds the listening socket of a server that it supervises: the server is killed again and again, and
//! nobody is refused. What it had in hand when it died is lost, nothing else.
//!
//! `kept_listener [SECONDS [KILLS [REQUESTS_PER_SECOND]]]`, 3 5 200 unless told otherwise.
#![allow(clippy::print_stdout, reason = "an example is there to be read")]

use std::error::Error;
use std::io::{self, ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpListener};
use std::time::Duration;

use ron_kernel::process::Command;
use ron_kernel::supervisor::{Backoff, Child, Intensity};
use ron_kernel::Kernel;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::task::JoinSet;
use tokio::time::{interval, MissedTickBehavior};

/// The server: takes its socket from whoever started it and answers each request with its process id.
fn serve() -> Result<(), Box<dyn Error>> {
    let listener = listenfd::ListenFd::from_env().take_tcp_listener(0)?;
    let listener = listener.ok_or("no socket was passed; start me by a supervisor")?;
    listener.set_nonblocking(false)?;
    for connection in listener.incoming() {
        let mut connection = connection?;
        // Longer than a request of this example.
        let mut request = [0; 1024];
        let _ = connection.read(&mut request)?;
        let body = std::process::id().to_string();
        let answer = format!(
            "HTTP/1.1 200 OK\r\ncontent-length: {}\r\nconnection: close\r\n\r\n{body}",
            body.len()
        );
        connection.write_all(answer.as_bytes())?;
    }
    Ok(())
}

/// How a request ended.
enum Outcome {
    Answered,
    Refused,
    /// The connection broke.
    Lost,
}

async fn request(addr: SocketAddr) -> Outcome {
    let exchange = async {
        let mut connection = TcpStream::connect(addr).await?;
        connection
            .write_all(b"GET / HTTP/1.1\r\nhost: example\r\n\r\n")
            .await?;
        let mut answer = Vec::new();
        connection.read_to_end(&mut answer).await?;
        if answer.starts_with(b"HTTP/1.1 200") {
            Ok(())
        } else {
            Err(io::Error::from(ErrorKind::UnexpectedEof))
        }
    };
    match exchange.await {
        Ok(()) => Outcome::Answered,
        Err(error) if error.kind() == ErrorKind::ConnectionRefused => Outcome::Refused,
        Err(_) => Outcome::Lost,
    }
}

#[tokio::main]
async fn supervise(seconds: u64, kills: u32, rate: u64) -> Result<(), Box<dyn Error>> {
    let socket = TcpListener::bind("127.0.0.1:0")?;
    let addr = socket.local_addr()?;
    let server = Command::new(std::env::current_exe()?)
        .arg("serve")
        .listener("http", socket);
    let child = Child::process("server", server)
        .intensity(Intensity::new(1000, Duration::from_secs(60))?)
        .backoff(Backoff::new(
            Duration::from_millis(1),
            Duration::from_millis(100),
        )?);
    let running = Kernel::builder().child(child).build()?.start().await?;
    let handle = running.handle().clone();
    handle.ready().await;
    println!("the server listens on {addr}");

    let total = Duration::from_secs(seconds);
    let killer = tokio::spawn(async move {
        let mut killed = 0;
        for _ in 0..kills {
            tokio::time::sleep(total / (kills + 1)).await;
            let pid = handle.tree().first().and_then(|server| server.pid);
            if let Some(pid) = pid.and_then(|pid| rustix::process::Pid::from_raw(pid as i32)) {
                let signal = rustix::process::Signal::KILL;
                killed += u32::from(rustix::process::kill_process(pid, signal).is_ok());
            }
        }
        killed
    });
    let mut ticks = interval(Duration::from_secs(1) / u32::try_from(rate)?);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Burst);
    let mut requests = JoinSet::new();
    for _ in 0..seconds * rate {
        ticks.tick().await;
        requests.spawn(request(addr));
    }
    let (mut answered, mut refused, mut lost) = (0, 0, 0);
    for outcome in requests.join_all().await {
        match outcome {
            Outcome::Answered => answered += 1,
            Outcome::Refused => refused += 1,
            Outcome::Lost => lost += 1,
        }
    }
    let killed = killer.await?;
    println!("{answered} answered, {refused} refused, {lost} lost in {killed} kills");
    running.shutdown().await;
    // The server takes one request at a time: that one is lost with it.
    if refused > 0 || lost > killed || killed != kills {
        return Err("a request was refused or lost without need".into());
    }
    Ok(())
}

fn main() -> Result<(), Box<dyn Error>> {
    let mut args = std::env::args().skip(1);
    let mut number = |default: u64| match args.next() {
        None => Ok(default),
        Some(text) => text.parse().map_err(|_| format!("`{text}` is no number")),
    };
    if std::env::args().nth(1).as_deref() == Some("serve") {
        return serve();
    }
    let (seconds, kills, rate) = (number(3)?, number(5)?, number(200)?);
    supervise(seconds, u32::try_from(kills)?, rate)
}
