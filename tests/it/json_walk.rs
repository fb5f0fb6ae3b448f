//! Reads JSON inputs as far as anything does; the fuzz targets run the same. Any text is refused or read whole.

use loadmaster::bench::{Reported, diff_records, parse_record, report};
use loadmaster::device::Machine;
use loadmaster::graph::{Batch, Graph};
use loadmaster::models::{CacheSpec, Model, ShapeFile};
use loadmaster::tensor::DType;
use loadmaster::units::Tokens;

/// Reads a machine file, asks the machine what plans ask, writes it and reads it again.
///
/// # Errors
/// The message of the refusal.
pub fn machine(text: &str) -> Result<(), String> {
    let machine = Machine::from_json(text).map_err(|e| e.to_string())?;
    for (id, memory) in machine.memories.iter_ids() {
        assert!(machine.budget(id) <= memory.free && memory.free <= memory.total);
        let device = machine.device_of(id).map(|d| &machine.devices[d]);
        assert!(device.is_none_or(|d| d.memory == id && d.workers > 0));
        assert!(machine.link(id, id).is_none());
    }
    let again = Machine::from_json(&machine.to_json()).expect("what was read can be written and read");
    assert_eq!(again, machine);
    Ok(())
}

/// Reads a graph file, writes it and reads it again.
///
/// # Errors
/// The message of the refusal.
pub fn graph(text: &str) -> Result<(), String> {
    let graph = Graph::from_json(text).map_err(|e| e.to_string())?;
    let again = Graph::from_json(&graph.to_json()).expect("what was read can be written and read");
    assert_eq!(again.to_json(), graph.to_json());
    Ok(())
}

/// Reads a model's shape file, writes it and reads it again, and builds the model's graphs as far as they go.
///
/// # Errors
/// The message of the refusal.
pub fn model_file(text: &str) -> Result<(), String> {
    let shape = ShapeFile::parse("text", text).map_err(|e| e.to_string())?;
    let again = ShapeFile::parse("text", &shape.to_json()).expect("what was read can be written and read");
    assert_eq!(again.to_json(), shape.to_json());
    let model = Model::from_shape(&shape).map_err(|e| e.to_string())?;
    let cache = CacheSpec { cells: Tokens(64), keys: DType::F16, values: DType::F16, sliding: None };
    for tokens in [1, 33] {
        let batch = Batch { tokens: Tokens(tokens), outputs: Tokens(1) };
        model.graph(batch, cache).map_err(|e| e.to_string())?;
    }
    Ok(())
}

/// Reads a record of `bench`, writes it and reads it again, compares it with itself, and makes the page of it.
///
/// # Errors
/// The message of the refusal.
pub fn record(text: &str) -> Result<(), String> {
    let record = parse_record("text", text.as_bytes()).map_err(|e| e.to_string())?;
    let again = serde_json::to_string(&record).expect("what was read can be written");
    let again = parse_record("again", again.as_bytes()).expect("what was read can be written and read");
    assert!(diff_records(&record, &again).is_empty());
    let page = report(&Reported { records: vec![("a".into(), record), ("b".into(), again)], left_out: Vec::new() });
    assert!(!page.contains("<script") && !page.contains("NaN"));
    Ok(())
}
