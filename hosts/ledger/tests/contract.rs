//! `metrics.contract`, which documents are checked against, is what the ledger registers beside the golden set and the kit's.

use ron_metrics::Metrics;
use svc_ledger::service::Instruments;
use svc_ledger::writer::ledger;

#[test]
fn the_contract_lists_what_the_ledger_registers() {
    let golden = Metrics::new("svc-ledger").unwrap().contract();
    let metrics = Metrics::new("svc-ledger").unwrap();
    let (ledger, _writer) = ledger(1);
    let _instruments = Instruments::new(&metrics, &ledger).unwrap();
    let contract = metrics.contract();
    let known = |line: &str| golden.lines().any(|known| known == line);
    let own = contract.lines().filter(|line| !known(line));
    let own: String = own.map(|line| format!("{line}\n")).collect();
    assert_eq!(own, include_str!("../metrics.contract"));
}
