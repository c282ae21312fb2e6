//! One topic, a fast and a slow reader. The slow one loses the oldest events, is told exactly which, and holds up nobody.
#![allow(clippy::print_stdout, reason = "an example is there to be read")]

use std::error::Error;

use ron_bus::{Bus, BusConfig, RecvError, Subscriber};

/// Reads until there is nothing left or the reader has `most` events, and prints what it gets.
fn read(name: &str, reader: &mut Subscriber<String>, most: usize) {
    let mut got = Vec::new();
    while got.len() < most {
        match reader.try_recv() {
            Ok(Some(delivery)) => got.push(delivery.seq),
            Ok(None) => break,
            Err(RecvError::Lagged(gap)) => {
                let (first, last) = (gap.first_missed, gap.last_missed);
                println!("  {name} missed {} events: {first} to {last}", gap.missed());
            }
            Err(end) => {
                println!("  {name} got {got:?}; {end}");
                return;
            }
        }
    }
    println!("  {name} got {got:?}");
}

fn main() -> Result<(), Box<dyn Error>> {
    let bus = Bus::new(BusConfig::default())?;
    // Room for 4 events that not every reader has read yet.
    let orders = bus.topic_spec("orders").capacity(4).open::<String>()?;
    let mut fast = orders.subscriber().name("fast").build()?;
    let mut slow = orders.subscriber().name("slow").build()?;

    for round in 1..=3 {
        println!("round {round}: publish 3 orders");
        // Never waits, whatever the readers do.
        orders.publish_many((1..=3).map(|n| format!("order {round}.{n}")))?;
        read("fast", &mut fast, usize::MAX);
        if round == 1 {
            read("slow", &mut slow, 1);
        }
    }
    println!("slow comes back: of 9 orders it has read 1, and the topic holds 4");
    read("slow", &mut slow, 2);

    println!("the accounts: offered = delivered + lost + pending");
    for reader in orders.stats().readers {
        let account = reader.account;
        println!(
            "  {}: {} = {} + {} + {}, {}",
            reader.name,
            account.offered,
            account.delivered,
            account.lost.lagged,
            account.pending,
            if account.is_balanced() {
                "balanced"
            } else {
                "NOT BALANCED"
            },
        );
    }

    println!("close: what is there can still be read");
    orders.close();
    read("slow", &mut slow, usize::MAX);
    Ok(())
}
