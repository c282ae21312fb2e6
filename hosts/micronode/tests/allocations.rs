//! What a request costs in allocations, over a real socket and with everything on but capabilities.

use std::alloc::{GlobalAlloc, Layout, System};
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::channel;
use std::thread;

use micronode::object::Address;
use micronode::{objects, Store, StoreSettings};
use ron_config::Watch;
use ron_host::http::{child, Front, HttpAddr, HttpSettings};
use ron_host::PoolSettings;
use ron_kernel::metrics::Pq;
use ron_kernel::Kernel;

/// Counts for all threads: a request may be answered on any of them.
struct Counting;

static ALLOCATIONS: AtomicU64 = AtomicU64::new(0);

#[allow(unsafe_code, reason = "an allocator that counts has no safe interface")]
// SAFETY: `System` upholds the contract, and counting neither allocates nor unwinds.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        ALLOCATIONS.fetch_add(1, Ordering::Relaxed);
        // SAFETY: the caller's promise is passed on.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        // SAFETY: the caller's promise is passed on.
        unsafe { System.dealloc(pointer, layout) }
    }

    unsafe fn realloc(&self, pointer: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        ALLOCATIONS.fetch_add(1, Ordering::Relaxed);
        // SAFETY: the caller's promise is passed on.
        unsafe { System.realloc(pointer, layout, size) }
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

/// A node on a port of the system's choice, on a thread that lasts as long as the process.
fn node() -> SocketAddr {
    let (sender, addr) = channel();
    thread::spawn(move || {
        let mut runtime = tokio::runtime::Builder::new_current_thread();
        runtime.enable_all().build().unwrap().block_on(async {
            let mut settings = HttpSettings::default();
            settings.addr = HttpAddr::Tcp(SocketAddr::from(([127, 0, 0, 1], 0)));
            settings.auth.dev_allow = true;
            settings.rps = 1_000_000;
            let front = Front::open(&settings, Pq::Off).unwrap();
            let Some(&HttpAddr::Tcp(addr)) = front.addr() else {
                panic!("it listens at {:?}", front.addr());
            };
            let http = child(front, Watch::fixed(settings), |metrics| {
                let stores = StoreSettings::default();
                let store = Store::new(&stores, &PoolSettings::default());
                Ok(objects(store, &stores, metrics)?)
            });
            let running = Kernel::builder().child(http).build().unwrap();
            let running = running.start().await.unwrap();
            running.handle().ready().await;
            sender.send(addr).unwrap();
            running.ended().await;
        });
    });
    addr.recv().unwrap()
}

/// Sends `request` and reads an answer of `length` bytes or, if that is not known yet, whatever comes at once.
fn exchange(
    stream: &mut TcpStream,
    request: &[u8],
    room: &mut [u8],
    length: Option<usize>,
) -> usize {
    stream.write_all(request).unwrap();
    match length {
        Some(length) => stream
            .read_exact(&mut room[..length])
            .map(|()| length)
            .unwrap(),
        None => {
            let mut read = 0;
            // A head, and as much of a body as it says.
            loop {
                read += stream.read(&mut room[read..]).unwrap();
                let text = String::from_utf8_lossy(&room[..read]).into_owned();
                let Some((head, _)) = text.split_once("\r\n\r\n") else {
                    continue;
                };
                let length = head
                    .lines()
                    .find_map(|line| line.strip_prefix("content-length: "));
                if read == head.len() + 4 + length.unwrap().parse::<usize>().unwrap() {
                    return read;
                }
            }
        }
    }
}

/// Allocations of one `request`: the fewest of many tries, as the node looks after itself now and then.
fn allocations_of(addr: SocketAddr, request: &[u8], status: &str) -> u64 {
    const TRIES: usize = 50;
    const REQUESTS: u64 = 10;
    let mut stream = TcpStream::connect(addr).unwrap();
    stream.set_nodelay(true).unwrap();
    let mut room = vec![0; 1 << 20];
    // What is stored by the first is there for the others.
    exchange(&mut stream, request, &mut room, None);
    let length = exchange(&mut stream, request, &mut room, None);
    // Series appear with their first request, buffers grow with the first ones.
    for _ in 0..100 {
        exchange(&mut stream, request, &mut room, Some(length));
    }
    let tries = (0..TRIES).map(|_| {
        let before = ALLOCATIONS.load(Ordering::Relaxed);
        for _ in 0..REQUESTS {
            exchange(&mut stream, request, &mut room, Some(length));
        }
        ALLOCATIONS.load(Ordering::Relaxed) - before
    });
    let fewest = tries.min().unwrap();
    let expected = format!("HTTP/1.1 {status}");
    assert!(room.starts_with(expected.as_bytes()));
    fewest.div_ceil(REQUESTS)
}

#[test]
fn a_request_is_answered_with_few_allocations() {
    let addr = node();
    let body = [7; 1024];
    let put = b"PUT /put HTTP/1.1\r\nhost: localhost\r\ncontent-length: 1024\r\n\r\n";
    let put = [&put[..], &body].concat();
    let get = format!(
        "GET /o/{} HTTP/1.1\r\nhost: localhost\r\n\r\n",
        Address::of(&body)
    );
    for (request, status, most) in [(put, "201", 20), (get.into_bytes(), "200", 6)] {
        let allocations = allocations_of(addr, &request, status);
        assert!(
            allocations <= most,
            "{status}: {allocations} allocations, expected at most {most}"
        );
    }
}
