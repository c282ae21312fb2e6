//! More requests than an actor can serve, over HTTP: what does not fit is 429 at once, what would be late is 504 and never
//! handled, what comes while the actor drains is 503. Nobody waits longer than the deadline, and the accounts balance.
#![allow(clippy::print_stdout, reason = "an example is there to be read")]

use std::convert::Infallible;
use std::error::Error;
use std::io;
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use hyper::body::Incoming;
use hyper::header::RETRY_AFTER;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper::{Request, Response};
use hyper_util::rt::TokioIo;
use ryker::{Actor, ActorRef, Context, ErrorKind, Reply, Runtime, RykerConfig};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinSet;
use tokio::time::sleep;

/// Draws pages, one at a time, in so many milliseconds.
struct Renderer;

struct Render {
    ms: u64,
    reply: Reply<String>,
}

impl Actor for Renderer {
    type Msg = Render;
    type Error = Infallible;
    // Half a page is simply dropped, so that what is late is cancelled and the next one has its turn.
    const CANCEL_SAFE: bool = true;

    async fn handle(&mut self, page: Render, _: &mut Context<Self>) -> Result<(), Infallible> {
        sleep(Duration::from_millis(page.ms)).await;
        drop(page.reply.send(format!("a page of {} ms", page.ms)));
        Ok(())
    }
}

/// The handler: `GET /50` asks for a page of 50 ms.
async fn respond(
    renderer: ActorRef<Render>,
    request: Request<Incoming>,
) -> Result<Response<String>, hyper::http::Error> {
    let Ok(ms) = request.uri().path().trim_start_matches('/').parse() else {
        return Response::builder().status(404).body(String::new());
    };
    match renderer.ask(|reply| Render { ms, reply }).await {
        Ok(page) => Ok(Response::new(page)),
        Err(error) => refusal(error.kind()),
    }
}

/// Every way in which an ask can fail is a status that load balancers and clients know.
fn refusal(kind: ErrorKind) -> Result<Response<String>, hyper::http::Error> {
    let mut response = Response::builder().status(kind.http_status());
    if let Some(delay) = kind.retry_after() {
        response = response.header(RETRY_AFTER, delay.as_secs());
    }
    response.body(kind.to_string())
}

async fn serve(listener: TcpListener, renderer: ActorRef<Render>) -> io::Result<()> {
    let mut connections = JoinSet::new();
    loop {
        let (stream, _) = listener.accept().await?;
        let renderer = renderer.clone();
        let service = service_fn(move |request| respond(renderer.clone(), request));
        connections.spawn(http1::Builder::new().serve_connection(TokioIo::new(stream), service));
        while connections.try_join_next().is_some() {}
    }
}

struct Answer {
    status: u16,
    retry_after: bool,
    took: Duration,
}

async fn get(addr: SocketAddr, ms: u64) -> io::Result<Answer> {
    let begun = Instant::now();
    let mut connection = TcpStream::connect(addr).await?;
    let request = format!("GET /{ms} HTTP/1.1\r\nhost: {addr}\r\nconnection: close\r\n\r\n");
    connection.write_all(request.as_bytes()).await?;
    let mut answer = String::new();
    connection.read_to_string(&mut answer).await?;
    let status = answer.split(' ').nth(1).and_then(|word| word.parse().ok());
    Ok(Answer {
        status: status.ok_or(io::ErrorKind::InvalidData)?,
        retry_after: answer.contains("\r\nretry-after: 1\r\n"),
        took: begun.elapsed(),
    })
}

/// Sends so many requests at once, and prints a row of the table.
async fn load(addr: SocketAddr, what: &str, requests: usize, ms: u64) -> io::Result<()> {
    let mut under_way = JoinSet::new();
    for _ in 0..requests {
        under_way.spawn(get(addr, ms));
    }
    let mut answers = Vec::new();
    while let Some(answer) = under_way.join_next().await {
        answers.push(answer??);
    }
    let count = |status| answers.iter().filter(|a| a.status == status).count();
    let told = answers.iter().filter(|a| a.retry_after).count();
    let slowest = answers.iter().map(|a| a.took.as_millis()).max();
    println!(
        "{what:<28} {requests:>8} {:>5} {:>5} {:>5} {:>5} {told:>12} {:>8} ms",
        count(200),
        count(429),
        count(504),
        count(503),
        slowest.unwrap_or_default()
    );
    Ok(())
}

#[tokio::main]
async fn main() -> Result<(), Box<dyn Error>> {
    let rt = Runtime::new(RykerConfig::default());
    // Sixteen pages of 50 ms take twice the deadline: half of what fits into the mailbox is too late.
    let renderer = rt
        .actor("renderer", || Renderer)
        .capacity(16)
        .deadline(Duration::from_millis(400))
        .spawn()?;
    let listener = TcpListener::bind("127.0.0.1:0").await?;
    let addr = listener.local_addr()?;
    let server = tokio::spawn(serve(listener, renderer.clone()));

    println!(
        "{:<28} {:>8} {:>5} {:>5} {:>5} {:>5} {:>12} {:>11}",
        "load", "requests", "200", "429", "504", "503", "Retry-After", "slowest"
    );
    load(addr, "one page", 1, 50).await?;
    load(addr, "100 pages at once", 100, 50).await?;
    load(addr, "one page beyond the deadline", 1, 2_000).await?;

    // One page is in hand when the drain begins, so that it lasts.
    let before = renderer.accounts().accepted;
    let in_hand = tokio::spawn(get(addr, 100));
    while renderer.accounts().accepted == before {
        sleep(Duration::from_millis(1)).await;
    }
    let draining = tokio::spawn({
        let rt = rt.clone();
        async move { rt.drain(Duration::from_secs(5)).await }
    });
    while !renderer.is_closed() {
        sleep(Duration::from_millis(1)).await;
    }
    load(addr, "10 pages while it drains", 10, 50).await?;
    let page = in_hand.await??;
    println!("the page in hand: {}", page.status);
    let report = draining.await?;
    println!(
        "drain: {} pending = {} handled, clean: {}",
        report.pending_before,
        report.handled,
        report.is_clean()
    );

    let accounts = rt.accounts();
    println!(
        "{} accepted = {} ok + {} late + {} expired before they began; {} busy, {} refused while draining; balanced: {}",
        accounts.accepted,
        accounts.ok,
        accounts.timed_out,
        accounts.expired,
        accounts.refused.busy,
        accounts.refused.draining,
        accounts.balances()
    );
    server.abort();
    Ok(())
}
