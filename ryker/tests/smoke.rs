//! smoke
use ryker::*;
use std::convert::Infallible;
use std::time::{Duration, Instant};

struct Sum(u64);
enum Msg { Add(u64), Total(Reply<u64>), Boom }
impl Actor for Sum {
    type Msg = Msg;
    type Error = Infallible;
    async fn handle(&mut self, m: Msg, _: &mut Context<Self>) -> Result<(), Infallible> {
        match m { Msg::Add(n) => self.0 += n, Msg::Total(r) => drop(r.send(self.0)), Msg::Boom => panic!("boom") }
        Ok(())
    }
}
#[tokio::test(start_paused = true)]
async fn works() {
    let rt = Runtime::new(RykerConfig::default());
    let sum = rt.spawn("sum", || Sum(0)).unwrap();
    for i in 0..100 { sum.try_send(Msg::Add(i)).unwrap(); }
    assert_eq!(sum.ask(Msg::Total).await.unwrap(), 4950);
    sum.try_send(Msg::Boom).unwrap();
    sum.try_send(Msg::Add(1)).unwrap();
    assert_eq!(sum.ask(Msg::Total).await.unwrap(), 1);
    println!("{:?}", sum.accounts());
    assert!(sum.accounts().balances());
    let r = rt.drain(Duration::from_secs(1)).await;
    println!("{r:?} {:?}", sum.exit());
}
#[test]
fn speed() {
    for workers in [0, 2] {
        let ex = if workers == 0 { tokio::runtime::Builder::new_current_thread().enable_all().build() } else { tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build() }.unwrap();
        for _ in 0..3 { ex.block_on(async move { tokio::spawn(async move {
            let rt = Runtime::new(RykerConfig::default());
            let sum = rt.actor("sum", || Sum(0)).capacity(1024).spawn().unwrap();
            const N: u64 = 2_000_000;
            let t = Instant::now();
            for i in 0..N { let mut m = Msg::Add(i); while let Err(e) = sum.try_send(m) { m = e.into_inner(); tokio::task::yield_now().await } }
            while sum.depth() > 0 { tokio::task::yield_now().await } let total = sum.ask(Msg::Total).await.unwrap();
            assert_eq!(total, N * (N - 1) / 2);
            println!("{workers}: tell {:.1} M/s", N as f64 / t.elapsed().as_secs_f64() / 1e6);
            let t = Instant::now();
            for i in 0..N { sum.send(Msg::Add(i)).await.unwrap() }
            while sum.depth() > 0 { tokio::task::yield_now().await } sum.ask(Msg::Total).await.unwrap();
            println!("{workers}: send.await {:.1} M/s", N as f64 / t.elapsed().as_secs_f64() / 1e6);
            let t = Instant::now();
            for _ in 0..300_000 { sum.ask(Msg::Total).await.unwrap(); }
            println!("{workers}: ask {:.0} ns", t.elapsed().as_nanos() as f64 / 3e5);
            let (tx, mut rx) = tokio::sync::mpsc::channel::<tokio::sync::oneshot::Sender<u64>>(1024);
            tokio::spawn(async move { while let Some(r) = rx.recv().await { r.send(1).unwrap() } });
            let t = Instant::now();
            for _ in 0..300_000 { let (a, b) = tokio::sync::oneshot::channel(); tx.send(a).await.unwrap(); b.await.unwrap(); }
            println!("{workers}: raw ask {:.0} ns", t.elapsed().as_nanos() as f64 / 3e5);
        }).await.unwrap() }) };
    }
}
