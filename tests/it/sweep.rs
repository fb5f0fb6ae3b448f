//! `bench` over combinations of settings: every one is a row, what cannot run says why, and a record says what was planned.

use loadmaster::bench::{ActivityKind, parse_record};
use loadmaster::device::{BackendKind, DeviceId, DeviceSpec, Machine, MemoryId};
use loadmaster::exec::dealt_as;
use loadmaster::gguf::Gguf;
use loadmaster::graph::Batch;
use loadmaster::index::Id;
use loadmaster::models::{CacheSpec, Model};
use loadmaster::synth::{ModelShape, Synth, named};
use loadmaster::tensor::DType;
use loadmaster::units::{Bytes, Tokens};
use serde_json::Value;
use tempfile::TempDir;

use crate::cli::{loadmaster, refused};
use crate::vulkan::device;

fn model(folder: &TempDir) -> String {
    let path = folder.path().join("tiny.gguf");
    Synth::new(&named("llama-tiny").unwrap(), DType::Q8_0, 7).unwrap().write_file(&path, |_| {}).unwrap();
    path.to_str().unwrap().to_owned()
}

#[test]
fn every_combination_is_a_row_and_what_does_not_run_says_why() {
    let folder = tempfile::tempdir().unwrap();
    let (model, records) = (model(&folder), folder.path().join("records"));
    let common = ["bench", &model, "-p", "8", "-n", "2", "-r", "3", "-t", "1"];
    let sweep = ["--devices", "cpu", "--devices", "vulkan:99", "--devices", "cpu,cpu", "-ub", "4,8"];
    let record = ["--record", records.to_str().unwrap(), "--commit", "abc", "--families", "--json"];
    let ran = loadmaster(&[&common[..], &sweep, &record].concat());
    assert_eq!(ran.code, 0, "{}", ran.err);
    let rows: Vec<Value> = serde_json::from_str(&ran.out).unwrap();
    let places: Vec<(&str, u64)> =
        rows.iter().map(|row| (row["devices"].as_str().unwrap(), row["n_ubatch"].as_u64().unwrap())).collect();
    let expected = ["cpu", "vulkan:99", "cpu,cpu"].into_iter().flat_map(|set| [(set, 4), (set, 4), (set, 8), (set, 8)]);
    assert!(places.iter().copied().eq(expected), "{places:?}");
    for row in &rows {
        let absent = row["devices"] == "vulkan:99";
        let why = row["not_run"].as_str().unwrap_or("");
        assert_eq!(why.contains("vulkan:99"), absent, "{row}");
        assert_eq!(row["samples_ns"].as_array().unwrap().len(), if absent { 0 } else { 3 }, "{row}");
    }
    let path = std::fs::read_dir(&records).unwrap().next().unwrap().unwrap().path();
    let read = parse_record("record", &std::fs::read(path).unwrap()).unwrap();
    assert_eq!(serde_json::to_value(&read.rows).unwrap(), Value::from(rows));
    let families: Vec<(&str, u32)> = read.time_by_family.iter().map(|t| (t.device.as_str(), t.tokens)).collect();
    assert_eq!(families, [("cpu", 4), ("cpu", 1)]);
    assert!(read.time_by_family.iter().all(|time| time.families.iter().map(|f| f.nanoseconds).sum::<u64>() > 0));
    for row in read.rows.iter().filter(|row| row.not_run.is_none()) {
        let steps = if row.settings.n_gen > 0 { 2 } else { 8 / row.settings.n_ubatch };
        assert_eq!(row.foresight.n_steps, steps);
        assert!(row.foresight.predicted_ns > Some(0));
        assert!((row.median_ts / row.rate().unwrap() - 1.0).abs() < 1e-9);
        let kinds = |kind| row.activities.iter().filter(|time| time.kind == kind).count();
        let several = row.settings.devices.contains("cpu,cpu");
        assert!(kinds(ActivityKind::Split) >= if several { 2 } else { 1 }, "{:?}", row.activities);
        assert_eq!(kinds(ActivityKind::Transfer) > 0, several, "{:?}", row.activities);
        let mut splits = row.activities.iter().filter(|time| time.kind == ActivityKind::Split);
        assert!(splits.all(|time| time.predicted_ns > 0 && time.measured_ns > 0), "{:?}", row.activities);
        assert_eq!(row.memories.len(), row.settings.devices.split(',').count());
        assert!(row.memories.iter().all(|memory| memory.allocated == Some(memory.planned()) && memory.planned() > 0));
    }
    // Plans of the same step on the same device are the same, of other steps or devices others.
    let plan = |i: usize| read.rows[i].foresight.plan.clone().unwrap();
    assert_eq!(plan(1), plan(3));
    let different = [plan(0), plan(1), plan(2), plan(8), plan(9), plan(10)];
    assert!((1..different.len()).all(|i| !different[..i].contains(&different[i])), "{different:?}");
}

#[test]
fn a_table_has_the_columns_that_vary() {
    let folder = tempfile::tempdir().unwrap();
    let model = model(&folder);
    let ran =
        loadmaster(&["bench", &model, "-p", "4", "-n", "0", "-r", "1", "-t", "1", "-ngl", "0,all", "--budget", "900"]);
    assert_eq!(ran.code, 0, "{}", ran.err);
    let lines: Vec<&str> = ran.out.lines().collect();
    assert_eq!(lines.len(), 4, "{}", ran.out);
    assert!(lines[0].contains("|  ngl |") && lines[0].ends_with("predicted t/s |"), "{}", ran.out);
    assert!(
        !lines[0].contains("devices") && lines[2].contains("|    0 |") && lines[3].contains("|  all |"),
        "{}",
        ran.out
    );
    let width = |line: &str| line.chars().count();
    assert!(lines.iter().all(|line| width(line) == width(lines[0])), "{}", ran.out);
}

#[test]
fn a_record_has_budgets_by_device() {
    let folder = tempfile::tempdir().unwrap();
    let (model, records) = (model(&folder), folder.path().join("records"));
    let common = ["bench", &model, "-p", "4", "-n", "0", "-r", "3", "-t", "1", "--record", records.to_str().unwrap()];
    let ran = loadmaster(&[&common[..], &["--devices", "cpu,cpu", "--budget", "cpu:1=600MiB"]].concat());
    assert_eq!(ran.code, 0, "{}", ran.err);
    let path = std::fs::read_dir(&records).unwrap().next().unwrap().unwrap().path();
    let read = parse_record("record", &std::fs::read(&path).unwrap()).unwrap();
    assert_eq!(read.rows[0].settings.budget_mib, [0, 600]);
    assert_eq!(read.rows[0].memories[1].budget, 600 << 20);
    let path = path.to_str().unwrap();
    let told = loadmaster(&["bench", "diff", "--all", path, path]).out;
    assert!(told.contains("--devices cpu,cpu") && told.contains(" --budget cpu:1=600MiB"), "{told}");
}

#[test]
fn a_record_of_cards_names_their_drivers() {
    let Some(_) = device() else { return };
    let folder = tempfile::tempdir().unwrap();
    let (model, records) = (model(&folder), folder.path().join("records"));
    let common = ["bench", &model, "-p", "8", "-n", "2", "-r", "3", "-t", "1", "--record", records.to_str().unwrap()];
    let ran = loadmaster(&[&common[..], &["--devices", "cpu,vulkan:0", "-ngl", "0,1"]].concat());
    assert_eq!(ran.code, 0, "{}", ran.err);
    let path = std::fs::read_dir(&records).unwrap().next().unwrap().unwrap().path();
    let read = parse_record("record", &std::fs::read(path).unwrap()).unwrap();
    let adapter = &read.machine.adapters[0];
    assert!(adapter.device == "vulkan:0" && !adapter.name.is_empty() && !adapter.driver.is_empty(), "{adapter:?}");
    assert_eq!(read.rows.len(), 4);
    for row in &read.rows {
        assert!(row.memories.iter().all(|memory| memory.allocated == Some(memory.planned())), "{:?}", row.memories);
        let weights: Vec<bool> = row.memories.iter().map(|memory| memory.weights > 0).collect();
        assert_eq!(weights, [true, row.settings.n_gpu_layers > 0], "{:?}", row.memories);
        let on_card = row.activities.iter().any(|time| time.device == "vulkan:0" && time.kind == ActivityKind::Split);
        assert_eq!(on_card, row.settings.n_gpu_layers > 0, "{:?}", row.activities);
    }
}

#[test]
fn a_sweep_of_which_nothing_runs_fails() {
    let folder = tempfile::tempdir().unwrap();
    let model = model(&folder);
    let none = ["--devices", "cpu", "--budget", "1", "-ctk", "f32,f16", "-c", "1"];
    let small = ["bench", &model, "-p", "65536", "-n", "0", "-r", "1", "-t", "1", "--budget", "1", "-ub", "1,2"];
    let ran = loadmaster(&small);
    assert_eq!(ran.code, 1, "{}", ran.err);
    assert!(ran.out.matches("not run").count() == 2 && ran.out.contains("its budget is"), "{}", ran.out);
    refused(&small, 1, &["no combination"]);
    refused(&[&["bench", &model][..], &none].concat(), 2, &["-c"]);
    refused(&["bench", &model, "--parallel", "2", "-ub", "1,2"], 2, &["one combination", "make 2"]);
    refused(&["bench", &model, "--families"], 2, &["--record"]);
    refused(&["bench", &model, "--devices", "cpu,moon"], 2, &["moon"]);
}

/// The memory of every layer, from the first.
fn homes(machine: &Machine, layers: u32, gpu_layers: Option<u32>) -> (MemoryId, Vec<MemoryId>, MemoryId) {
    let shape = ModelShape { layers, ..named("llama-tiny").unwrap() };
    let bytes = Synth::new(&shape, DType::F32, 9).unwrap().to_bytes().unwrap();
    let gguf = Gguf::from_bytes("m", bytes).unwrap();
    let cache = CacheSpec { cells: Tokens(16), keys: DType::F16, values: DType::F16, sliding: None };
    let batch = Batch { tokens: Tokens(1), outputs: Tokens(1) };
    let graph = Model::from_gguf(&gguf).unwrap().graph(batch, cache).unwrap();
    let homes = dealt_as(&graph, &gguf, machine, false, gpu_layers);
    let weight = |name: &str| {
        let found = graph.weights().iter_ids().find(|(_, weight)| weight.name.starts_with(name)).unwrap().0;
        homes.weights[found][0].memory
    };
    let mut layers: Vec<(u32, MemoryId)> =
        graph.states().iter_ids().map(|(id, state)| (state.layer, homes.states[id])).collect();
    layers.sort();
    layers.dedup();
    (weight("token_embd"), layers.into_iter().map(|(_, memory)| memory).collect(), weight("output_norm"))
}

#[test]
fn so_many_layers_are_on_cards_as_were_asked_for() {
    let spec = |kind| Machine::isolated(kind, 1, 1, Bytes(1 << 30)).devices[DeviceId::from_index(0)].clone();
    let card = |i: usize| {
        let name = format!("vulkan:{i}");
        DeviceSpec { name: name.clone(), uid: name, ..spec(BackendKind::Vulkan) }
    };
    let processor = Machine::single(BackendKind::Cpu, 1, Bytes(1)).devices[DeviceId::from_index(0)].clone();
    let devices = [processor, card(0), card(1)].map(|spec| (spec, Bytes(1 << 30)));
    let machine = Machine::linked(devices);
    let m = |i: usize| MemoryId::from_index(i);
    let layers = |counts: [usize; 3]| -> Vec<MemoryId> {
        counts.into_iter().enumerate().flat_map(|(i, count)| vec![m(i); count]).collect()
    };
    assert_eq!(homes(&machine, 6, Some(0)), (m(0), layers([6, 0, 0]), m(0)));
    assert_eq!(homes(&machine, 6, Some(4)), (m(0), layers([2, 2, 2]), m(0)));
    assert_eq!(homes(&machine, 6, Some(6)), (m(0), layers([0, 3, 3]), m(0)));
    assert_eq!(homes(&machine, 6, Some(u32::MAX)), (m(0), layers([0, 3, 3]), m(2)));
    assert_eq!(homes(&machine, 6, None), (m(0), layers([2, 2, 2]), m(2)));
}
