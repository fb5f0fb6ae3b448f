//! Fits of shipped models on shipped machines: what the measured rigs must reach, and what may never be.

use loadmaster::device::Machine;
use loadmaster::fit::{Fit, FitError, Request, Wishes, Workload, fit, json};
use loadmaster::graph::Batch;
use loadmaster::models::{CacheSpec, Model, ShapeFile};
use loadmaster::plan::{Policy, check};
use loadmaster::tensor::DType;
use loadmaster::units::{Bytes, Tokens};

fn shipped(kind: &str, name: &str) -> String {
    let path = format!("{}/graphs/{kind}/{name}.json", env!("CARGO_MANIFEST_DIR"));
    std::fs::read_to_string(path).unwrap()
}

fn machine(name: &str) -> Machine {
    Machine::from_json(&shipped("machines", name)).unwrap()
}

fn request(ubatch: u32) -> Request {
    let (workload, wishes) = (Workload::default(), Wishes::default());
    Request { ubatch: Tokens(ubatch), workload, policy: Policy::default(), wishes }
}

fn fitted(model: &str, machine: &Machine, context: u32, request: &Request) -> Result<Fit, FitError> {
    let shape = ShapeFile::parse(model, &shipped("models", model)).unwrap();
    let model = Model::from_shape(&shape).unwrap();
    let cache = CacheSpec { cells: Tokens(context), keys: DType::F16, values: DType::F16 };
    let graphs = |batch: Batch| model.graph(batch, cache).map_err(|e| e.to_string());
    fit(&graphs, machine, request)
}

/// All three buckets check, and everything together is within every budget.
fn holds(fit: &Fit, machine: &Machine) {
    for bucket in [&fit.largest, &fit.prefill, &fit.decode] {
        check(&bucket.graph, &fit.residency, machine, &bucket.plan).unwrap();
    }
    for (memory, used) in fit.memories.iter_ids() {
        assert!(used.total() <= machine.budget(memory), "{memory}: {}", used.total());
    }
}

#[test]
fn kimi_on_eight_cards_keeps_more_weights_there_than_any_peer() {
    let machine = machine("kimi-8gpu");
    let found = fitted("kimi-k2.5-ud-iq3_xxs", &machine, 32768, &request(2560)).unwrap();
    holds(&found, &machine);
    let cards = machine.memories.iter_ids().filter(|&(m, _)| !machine.is_host(m));
    let weights: Bytes = cards.map(|(m, _)| found.memories[m].weights).sum();
    assert!(weights >= Bytes::mib(244_000), "{weights}");
    assert!(json(&found, &machine, Workload::default()).contains("weight_bytes"));
}
