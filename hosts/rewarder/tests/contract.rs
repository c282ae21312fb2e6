//! `metrics.contract`, which documents are checked against, is what the service registers beside the golden set, the kit's and
//! the ledger's.

use ron_metrics::Metrics;
use svc_rewarder::service::Instruments;

#[test]
fn the_contract_lists_what_the_service_registers() {
    let golden = Metrics::new("svc-rewarder").unwrap().contract();
    let metrics = Metrics::new("svc-rewarder").unwrap();
    let _instruments = Instruments::new(&metrics).unwrap();
    let contract = metrics.contract();
    let known = |line: &str| golden.lines().any(|known| known == line);
    let own = contract.lines().filter(|line| !known(line));
    let own: String = own.map(|line| format!("{line}\n")).collect();
    assert_eq!(own, include_str!("../metrics.contract"));
}
