//! Who comes by: the same requests for both programs, and then the wish to stop, in place of a SIGTERM.

use std::future::Future;
use std::io;
use std::net::SocketAddr;
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::sync::oneshot;
use tokio::task::JoinHandle;
use tokio::time::sleep;

const A_MOMENT: Duration = Duration::from_millis(20);

/// Sends the requests. The future completes when the program should stop, the handle when the visitor has left.
pub(crate) fn visit(address: SocketAddr) -> (impl Future<Output = ()>, JoinHandle<io::Result<()>>) {
    let (stop, stopped) = oneshot::channel::<()>();
    let visitor = tokio::spawn(async move {
        println!("come by while the packer still loads its stock list");
        show(address, "GET", "/readyz").await?;
        while ask(address, "GET", "/readyz").await?.0 == 503 {
            sleep(A_MOMENT).await;
        }
        show(address, "GET", "/readyz").await?;

        println!("order something the packer panics at, then a teapot");
        show(address, "POST", "/order/anvil").await?;
        sleep(A_MOMENT).await;
        show(address, "POST", "/order/teapot").await?;
        for _ in 0..150 {
            sleep(A_MOMENT).await;
            if ask(address, "GET", "/packed").await?.1 == "1" {
                break;
            }
        }
        println!("look 3 s later, or as soon as it is packed");
        show(address, "GET", "/packed").await?;
        let (status, metrics) = ask(address, "GET", "/metrics").await?;
        println!("  GET /metrics -> {status}");
        let restarts = |line: &&str| line.starts_with("service_restarts_total{");
        for line in metrics.lines().filter(restarts) {
            println!("    {line}");
        }

        println!("stop");
        drop(stop);
        while ask(address, "GET", "/readyz").await.is_ok() {
            sleep(A_MOMENT).await;
        }
        println!("  GET /readyz -> no answer any more: the server is gone");
        Ok(())
    });
    let stopped = async {
        // An error, because the sender is dropped and not used.
        let _ = stopped.await;
    };
    (stopped, visitor)
}

async fn show(address: SocketAddr, method: &str, path: &str) -> io::Result<()> {
    let (status, body) = ask(address, method, path).await?;
    println!("  {method} {path} -> {status} {body}");
    Ok(())
}

/// One request on a connection of its own: status and body.
async fn ask(address: SocketAddr, method: &str, path: &str) -> io::Result<(u16, String)> {
    let mut connection = TcpStream::connect(address).await?;
    let request =
        format!("{method} {path} HTTP/1.1\r\nhost: {address}\r\nconnection: close\r\n\r\n");
    connection.write_all(request.as_bytes()).await?;
    let mut answer = String::new();
    connection.read_to_string(&mut answer).await?;
    let status = answer
        .split(' ')
        .nth(1)
        .and_then(|status| status.parse().ok());
    let body = answer
        .split_once("\r\n\r\n")
        .map(|(_, body)| body.to_owned());
    status
        .zip(body)
        .ok_or_else(|| io::Error::new(io::ErrorKind::InvalidData, answer))
}
