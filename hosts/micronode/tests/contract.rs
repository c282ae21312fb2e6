//! `metrics.contract`, which documents are checked against, is what the node registers beside the golden set and ryker's.

use micronode::mailbox::{Mailbox, MailboxSettings};
use micronode::{mailbox, objects, Store, StoreSettings};
use ron_config::Watch;
use ron_host::http::{Front, HttpSettings, Node};
use ron_host::PoolSettings;
use ron_metrics::Metrics;

#[test]
fn the_contract_lists_what_the_node_registers() {
    let golden = Metrics::new("micronode").unwrap().contract();
    let metrics = Metrics::new("micronode").unwrap();
    let store = StoreSettings::default();
    let routes = objects(
        Store::new(&store, &PoolSettings::default()),
        &store,
        &metrics,
    )
    .unwrap();
    let post = Mailbox::new(Watch::fixed(MailboxSettings::default())).unwrap();
    let routes = mailbox(routes, &post, &metrics).unwrap();
    let settings = HttpSettings::default();
    let _node = Node::new(routes, &Front::default(), metrics.clone(), settings).unwrap();
    let contract = metrics.contract();
    let ryker = include_str!("../../../ryker/metrics.contract");
    for line in ryker.lines() {
        assert!(contract.lines().any(|known| known == line), "{line}");
    }
    let known = |line: &str| {
        golden
            .lines()
            .chain(ryker.lines())
            .any(|known| known == line)
    };
    let own = contract.lines().filter(|line| !known(line));
    let own: String = own.map(|line| format!("{line}\n")).collect();
    assert_eq!(own, include_str!("../metrics.contract"));
}
