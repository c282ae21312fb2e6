//! Memory that held an object holds nothing of it when it is given back.

use micronode::object::Hasher;
use micronode::{Store, StoreSettings};
use ron_config::ByteSize;
use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;
use std::slice;

use tokio::runtime::Builder;

/// What the object consists of, and how many of them in a row are found.
const MARK: u8 = 0xa7;
const RUN: usize = 16;

struct Watching;

thread_local! {
    static FOUND: Cell<usize> = const { Cell::new(0) };
}

#[allow(unsafe_code, reason = "an allocator that looks has no safe interface")]
// SAFETY: `System` upholds the contract, and looking neither allocates nor unwinds.
unsafe impl GlobalAlloc for Watching {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        // SAFETY: the caller's promise is passed on.
        unsafe { System.alloc_zeroed(layout) }
    }

    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        // SAFETY: the memory is the caller's until the end of this call, and was zeroed when it was allocated.
        let given_back = unsafe { slice::from_raw_parts(pointer, layout.size()) };
        if given_back.windows(RUN).any(|run| run == [MARK; RUN]) {
            FOUND.with(|found| found.set(found.get() + 1));
        }
        // SAFETY: the caller's promise is passed on.
        unsafe { System.dealloc(pointer, layout) }
    }
}

#[global_allocator]
static ALLOCATOR: Watching = Watching;

fn found_after(run: impl FnOnce()) -> usize {
    let before = FOUND.with(Cell::get);
    run();
    FOUND.with(Cell::get) - before
}

#[test]
fn a_message_is_wiped_however_it_came_and_however_it_ends() {
    use micronode::mailbox::{Collector, Draft, LeaseId, Letterbox, MailboxSettings, Shelf};
    use std::time::Duration;

    static BODY: [u8; 40_000] = [MARK; 40_000];
    let mut settings = MailboxSettings::default();
    settings.dead_letters = 0;
    for declared in [0, 100, 40_000, 50_000] {
        for piece in [100, 1000, 40_000] {
            for end in ["not sent", "refused", "left", "acked", "dead"] {
                let found = found_after(|| {
                    let mut letterbox = Letterbox::new(7);
                    let mut body = Collector::with_capacity(declared);
                    BODY.chunks(piece).for_each(|piece| body.push(piece));
                    if end == "not sent" {
                        return;
                    }
                    let mut limits = settings.clone();
                    if end == "refused" {
                        limits.max_messages = 0;
                    }
                    limits.max_attempts = 1;
                    let draft = Draft::new("a", body.finish());
                    let sent = letterbox.send(Duration::ZERO, &limits, draft);
                    let lease = LeaseId::new(1);
                    let received = letterbox.receive(Duration::ZERO, &limits, Shelf::Queue, lease);
                    assert_eq!(received.is_some(), end != "refused");
                    match end {
                        "acked" => {
                            let acked =
                                letterbox.ack(Duration::ZERO, &limits, sent.unwrap(), lease);
                            acked.unwrap();
                        }
                        "dead" => {
                            letterbox.advance(limits.visibility, &limits);
                            assert_eq!(letterbox.counts(limits.visibility).totals.dropped, 1);
                        }
                        _ => {}
                    }
                });
                assert_eq!(found, 0, "{declared} declared, pieces of {piece}, {end}");
            }
        }
    }
}

#[test]
fn buffers_are_wiped_however_bytes_come_and_whether_or_not_the_hasher_finishes() {
    static OBJECT: [u8; 40_000] = [MARK; 40_000];
    assert_eq!(found_after(|| drop(OBJECT[..100].to_vec())), 1);
    for piece in [20, 1000, 5000, 16 * 1024, 16 * 1024 + 100, 40_000] {
        for pieces in [1, 2, usize::MAX] {
            for finish in [false, true] {
                let found = found_after(|| {
                    let mut hasher = Hasher::new();
                    for piece in OBJECT.chunks(piece).take(pieces) {
                        hasher.update(piece);
                    }
                    if finish {
                        hasher.finish();
                    }
                });
                assert_eq!(found, 0, "{pieces} pieces of {piece}, finished: {finish}");
            }
        }
    }
}

#[test]
fn what_a_put_takes_and_what_the_store_holds_is_wiped() {
    static OBJECT: [u8; 200_000] = [MARK; 200_000];
    let runtime = Builder::new_current_thread().build().unwrap();
    for len in [0, 100, 65_536, 65_537, 200_000] {
        for piece in [100, 5000, 65_536, 200_000] {
            for declared in [None, Some(len as u64)] {
                for end in ["given up", "full", "stored", "stored twice"] {
                    let found = found_after(|| {
                        let mut settings = StoreSettings::default();
                        if end == "full" {
                            // With one of zeros in it there is no room for the smallest.
                            settings.max_bytes = ByteSize::new(200_000 + 256 + 4 * 136 + 300);
                        }
                        let store = Store::new(&settings, &Default::default());
                        if end == "full" {
                            let mut other = store.put(None, false).unwrap();
                            runtime.block_on(other.write(&[0; 200_000])).unwrap();
                            runtime.block_on(other.finish()).unwrap();
                        }
                        let puts = if end == "stored twice" { 2 } else { 1 };
                        for _ in 0..puts {
                            let mut put = store.put(declared, false).unwrap();
                            for piece in OBJECT[..len].chunks(piece) {
                                runtime.block_on(put.write(piece)).unwrap();
                            }
                            if end != "given up" {
                                let finished = runtime.block_on(put.finish());
                                assert_eq!(finished.is_ok(), end != "full");
                            }
                        }
                    });
                    assert_eq!(
                        found, 0,
                        "{len} bytes in pieces of {piece}, {declared:?}, {end}"
                    );
                }
            }
        }
    }
}
