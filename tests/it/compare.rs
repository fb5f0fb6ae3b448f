//! Devices against each other, node by node: equal ones agree to the bit, a wrong kernel is found and its node named.

use std::sync::{Arc, Mutex};

use loadmaster::backend::{
    self, Args, Backend, BackendError, BufferId, BufferKind, BufferSpan, CacheWork, CachesId, CellMove, CellTable,
    CellTurn, Event, HostBytes, ProgramId, Queue, SplitWork,
};
use loadmaster::bench::{CompareError, Comparison, FLOAT_BOUND, QUANTISED_BOUND, Trial, compare, tokens};
use loadmaster::device::{DeviceId, DeviceSpec, MemoryId};
use loadmaster::exec::{ExecError, Made, Nodes, StepInput, homes};
use loadmaster::gguf::Gguf;
use loadmaster::graph::{Batch, Family, StateId};
use loadmaster::models::{CacheSpec, Model};
use loadmaster::synth::named;
use loadmaster::tensor::DType;
use loadmaster::units::{Bytes, Tokens};

use crate::cli::{loadmaster, refused};
use crate::hooked::pass_on;
use crate::models::Made as File;
use crate::several_devices::{bits, logits, made, open_with, setup, single, tiny};
use crate::vulkan;

fn cpu(name: &str) -> (DeviceSpec, Bytes) {
    (DeviceSpec { name: name.into(), ..single().devices[DeviceId(0)].clone() }, Bytes(1 << 32))
}

const IDS: u32 = 24;

fn ids() -> Vec<u32> {
    tokens(500).take(IDS as usize).collect()
}

fn trial<'a>(gguf: &'a Arc<Gguf>, ids: &'a [u32], devices: Vec<(DeviceSpec, Bytes)>) -> Trial<'a> {
    Trial {
        gguf,
        devices,
        open: &backend::open,
        ids,
        step: Tokens(9),
        cache: (DType::F16, DType::F16),
        keep_mapping: false,
        repetitions: 0,
        bound: None,
    }
}

fn compared(trial: &Trial<'_>) -> Comparison {
    compare(trial, &|_, _| {}, &|_, _| {}).unwrap()
}

#[test]
fn equal_devices_agree_to_the_bit() {
    let ids = ids();
    for (i, shape) in tiny().into_iter().enumerate() {
        let gguf = made(&named(shape).unwrap(), [DType::Q4K, DType::F16, DType::Q5_1][i % 3]);
        let devices = vec![cpu("a"), cpu("b"), cpu("c")];
        let found = compared(&Trial { repetitions: 2, bound: Some(0.0), ..trial(&gguf, &ids, devices) });
        assert_eq!(found.against.iter().map(|a| a.device.as_str()).collect::<Vec<_>>(), ["b", "c"]);
        for against in &found.against {
            assert_eq!(against.first_divergence, None, "{shape}");
            assert!(against.nodes.iter().all(|n| n.difference.nmse == 0.0 && n.difference.max_error == 0.0), "{shape}");
            // Something was looked at: also what caches hold, and in experts' choices.
            assert!(against.nodes.iter().all(|n| n.difference.max_abs_reference > 0.0), "{shape}");
            assert_eq!((against.logits.rows, against.logits.same_greedy), (ids.len(), ids.len()), "{shape}");
        }
        let nodes: usize = found.families.iter().map(|time| time.nodes).sum();
        assert_eq!(nodes, found.against[0].nodes.len());
        assert!(found.families.iter().all(|time| time.nanoseconds.len() == 3), "{shape}");
    }
}

/// What is compared is what a session computes: the same logits, bit for bit, step by step.
#[test]
fn nodes_alone_make_the_logits_of_a_session() {
    for shape in ["llama-tiny", "qwen3moe-tiny", "gemma3-tiny"] {
        let gguf = made(&named(shape).unwrap(), DType::Q4K);
        let cache = CacheSpec { cells: Tokens(48), keys: DType::F16, values: DType::Q8_0, sliding: None };
        let mut whole =
            open_with(&gguf, cache, setup(single()), |graph, _| homes(graph, &gguf, MemoryId(0), false)).unwrap();
        let expected = bits(&logits(&mut whole, 16).unwrap());
        let graph =
            Model::from_gguf(&gguf).unwrap().graph(Batch { tokens: Tokens(16), outputs: Tokens(16) }, cache).unwrap();
        let nodes = Nodes::open(graph, &gguf, cpu("cpu"), &backend::open, false, &|_, _| {}).unwrap();
        let mut found = Vec::new();
        for first in [0u32, 16, 32] {
            let positions: Vec<u32> = (first..40.min(first + 16)).collect();
            let ids: Vec<u32> = positions.iter().map(|i| i * 37 % 500).collect();
            let rows: Vec<u32> = (0..ids.len() as u32).collect();
            let tables = [CellTable::single(&positions, Tokens(first + ids.len() as u32), &[0, 1, 2])];
            let step = StepInput { ids: &ids, positions: &positions, output_rows: &rows, tables: &tables };
            nodes.begin(&step).unwrap();
            nodes.graph().node_ids().for_each(|id| _ = nodes.run(id, &step, 1).unwrap());
            let Made::Floats(row) = nodes.made(nodes.graph().output(), &step).unwrap() else { panic!("{shape}") };
            found.extend(bits(&row));
        }
        assert!(found == expected, "{shape}");
        let wrong = StepInput { ids: &[1 << 30], positions: &[0], output_rows: &[0], tables: &[] };
        assert!(matches!(nodes.begin(&wrong), Err(ExecError::TokenId { .. })));
    }
}

#[test]
fn a_wrong_kernel_is_found_and_its_node_named() {
    let ids = ids();
    for (shape, nodes) in [
        ("llama-tiny", ["blk.0.attn_norm", "blk.1.attn_q", "blk.0.attention", "blk.1.ffn_down", "output"]),
        ("qwen3moe-tiny", ["token_embd", "blk.1.rope_k", "blk.0.ffn_gate_exps", "blk.1.ffn_combine", "output_norm"]),
    ] {
        let gguf = made(&named(shape).unwrap(), DType::Q8_0);
        for name in nodes {
            let open = |spec: &DeviceSpec| -> Result<Box<dyn Backend>, BackendError> {
                let inner = backend::open(spec)?;
                let wrong = Mutex::new(None);
                Ok(if spec.name == "b" { Box::new(Spoiled { inner, node: name, wrong }) } else { inner })
            };
            let found = compared(&Trial { open: &open, ..trial(&gguf, &ids, vec![cpu("a"), cpu("b")]) });
            let against = &found.against[0];
            assert_eq!(against.first_divergence.as_deref(), Some(name), "{shape}");
            let at = against.nodes.iter().position(|node| node.name == name).unwrap();
            assert!(against.nodes[..at].iter().all(|node| node.difference.nmse == 0.0), "{shape} {name}");
            // Twice the value is apart by all of it.
            let apart = against.nodes[at].difference;
            assert!((apart.nmse - 4.0).abs() < 1e-6 && apart.max_error == 2.0 * apart.max_abs_reference, "{apart:?}");
        }
    }
}

#[test]
fn adapters_stay_within_the_bounds_that_types_set() {
    let Some(gpu) = vulkan::device() else { return };
    let open = |spec: &DeviceSpec| -> Result<Box<dyn Backend>, BackendError> {
        match spec.name.as_str() {
            "card" => Ok(Box::new(vulkan::backend_over(&gpu))),
            _ => backend::open(spec),
        }
    };
    let ids = ids();
    for (shape, dtype, bound) in [
        ("llama-tiny", DType::F16, FLOAT_BOUND),
        ("qwen2-tiny", DType::Q4K, QUANTISED_BOUND),
        ("qwen3moe-tiny", DType::F32, FLOAT_BOUND),
    ] {
        let gguf = made(&named(shape).unwrap(), dtype);
        let card = DeviceSpec { name: "card".into(), ..vulkan::machine().devices[DeviceId(0)].clone() };
        let found = compared(&Trial { open: &open, ..trial(&gguf, &ids, vec![cpu("cpu"), (card, Bytes(1 << 32))]) });
        let against = &found.against[0];
        assert_eq!(against.first_divergence, None, "{shape} {dtype}");
        let last = against.nodes.last().unwrap();
        assert!(last.bound == bound && last.family == Family::MatMul, "{last:?}");
        // Nothing but the embedding is looked up alone: sums are taken in another order.
        assert!(last.difference.nmse > 0.0 && against.nodes[0].difference.nmse == 0.0, "{shape} {dtype}");
        assert!(against.nodes[0].bound == FLOAT_BOUND, "{shape} {dtype}");
    }
}

#[test]
fn what_cannot_be_compared_is_said() {
    let gguf = made(&named("llama-tiny").unwrap(), DType::F32);
    let said = |trial: &Trial<'_>| compare(trial, &|_, _| {}, &|_, _| {}).unwrap_err().to_string();
    let two = || vec![cpu("a"), cpu("b")];
    assert!(said(&trial(&gguf, &[1], vec![cpu("a")])).contains("needed two devices or more"));
    assert!(said(&trial(&gguf, &[], two())).contains("no tokens"));
    assert!(said(&trial(&gguf, &[1, 1 << 20], two())).contains("token id 1048576 is not below"));
    let small = vec![cpu("a"), (cpu("b").0, Bytes(1 << 10))];
    let refused = compare(&trial(&gguf, &[1], small), &|_, _| {}, &|_, _| {}).unwrap_err();
    assert!(matches!(refused, CompareError::Exec(ExecError::Plan(_))), "{refused}");
    assert!(refused.to_string().starts_with("b needs"), "{refused}");
}

const STORIES: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/graphs/shipped/stories-1m.gguf");

#[test]
fn the_program_compares_and_says_what_with() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("record.json");
    let file = file.to_str().unwrap();
    let usual = ["compare", STORIES, "--devices", "cpu,cpu", "-t", "1", "-r", "1"];
    let with = |more: &[&str]| {
        let ran = loadmaster(&[&usual[..], more].concat());
        assert_eq!(ran.code, 0, "{more:?}: {}", ran.err);
        ran
    };
    let shown = with(&["-p", "Once upon a time", "-ub", "1", "-o", file]);
    for part in
        ["every node is within its bound", "same greedy token in 5 of 5 rows", "the 10 of 74 nodes", "time by family"]
    {
        assert!(shown.out.contains(part), "no {part:?} in {}", shown.out);
    }
    assert!(shown.err.contains("record: "), "{}", shown.err);
    let document: serde_json::Value = serde_json::from_slice(&std::fs::read(file).unwrap()).unwrap();
    assert_eq!(document["tokens"]["ids"].as_array().unwrap().len(), 5);
    assert_eq!((&document["tokens"]["source"], &document["tokens"]["step"]), (&"text".into(), &1.into()));
    assert_eq!(document["devices"].as_array().unwrap().len(), 2);
    assert!(document["machine"]["cpu"].is_string() && document["model_filename"] == STORIES);
    let row = &document["rows"][0];
    assert!(row["first_divergence"].is_null() && row["device"] == "cpu" && row["logits"]["same_greedy"] == 5);
    assert_eq!(row["nodes"].as_array().unwrap().len(), 74);
    assert!(row["nodes"][9]["nmse"] == 0.0 && row["nodes"][9]["name"] == "blk.0.attn_output");
    assert!(document["families"].as_array().unwrap().iter().all(|f| f["nanoseconds"][1].as_u64().unwrap() > 0));
    let all = with(&["--tokens", "3", "--all"]).out;
    assert!(
        all.contains("all 74 nodes") && all.contains("3 random tokens") && all.contains("\n  output_norm "),
        "{all}"
    );
    // A model that cannot read text.
    let mute = folder.path().join("mute.gguf");
    std::fs::write(&mute, File::of("llama-tiny").set("tokenizer.ggml.model", "none").bytes()).unwrap();
    let mute = mute.to_str().unwrap();
    let ran = loadmaster(&["compare", mute, "--devices", "cpu,cpu", "--tokens", "2", "-r", "0", "--json"]);
    assert!(ran.code == 0 && ran.out.contains("\"source\": \"random\""), "{}", ran.err);
    refused(&["compare", mute, "--devices", "cpu,cpu", "-p", "a"], 1, &["cannot read text", "--tokens N"]);
}

#[test]
fn devices_and_numbers_that_make_no_sense_are_refused() {
    let two = ["compare", STORIES, "--devices", "cpu,cpu"];
    let with = |more: &[&'static str]| [&two[..], more].concat();
    refused(&["compare", STORIES], 2, &["--devices"]);
    refused(&["compare", STORIES, "--devices", "cpu"], 2, &["--devices has 1 name, needed two or more"]);
    refused(
        &["compare", STORIES, "--devices", "cpu,metal:0"],
        2,
        &["'metal:0'", "possible values: cpu, cuda:0, vulkan:0"],
    );
    refused(&["compare", STORIES, "--devices", "cpu,cuda:9999"], 2, &["--devices names cuda:9999: "]);
    refused(&["compare", STORIES, "--devices", "cpu,vulkan:9999"], 2, &["--devices names vulkan:9999: "]);
    refused(&["compare", "nowhere.gguf", "--devices", "cpu,cpu"], 1, &["nowhere.gguf"]);
    refused(&with(&["-p", "a", "--tokens", "3"]), 2, &["cannot be used with"]);
    refused(&with(&["--bound", "-1"]), 2, &["needed a number that is not below 0"]);
    refused(&with(&["--budget", "1,2,3"]), 2, &["--budget has 3 numbers for 2 devices"]);
    refused(&with(&["--budget", "1"]), 1, &["cpu needs", "its budget is 1.0 MiB"]);
    refused(&with(&["--tokens", "1", "-o", "/nowhere/x"]), 1, &["/nowhere/x: cannot write the record"]);
}

/// A device whose kernel of one node is wrong: it makes its value negative.
struct Spoiled {
    inner: Box<dyn Backend>,
    node: &'static str,
    /// The program of that node, and where its value lies.
    wrong: Mutex<Option<(ProgramId, BufferSpan)>>,
}

impl Spoiled {
    fn spoil(&self, at: BufferSpan) -> Result<Event, BackendError> {
        let mut floats = vec![0f32; at.span.len.index() / 4];
        self.inner.read(Queue::Compute, at, bytemuck::cast_slice_mut(&mut floats), &[])?;
        floats.iter_mut().for_each(|x| *x = -*x);
        self.inner.write(Queue::Compute, at, bytemuck::cast_slice(&floats), &[])
    }
}

impl Backend for Spoiled {
    pass_on!(spec alloc adopt free allocated write read copy discard prepare_caches);
    pass_on!(rearrange turn read_cells write_cells wait);

    fn prepare(&self, work: &SplitWork<'_>) -> Result<ProgramId, BackendError> {
        let program = self.inner.prepare(work)?;
        let wrong = work.split.nodes.iter().find(|&&id| work.graph.node(id).name == self.node);
        let at = wrong.map(|&id| (program, BufferSpan { buffer: work.bindings.arena, span: work.values[id] }));
        *self.wrong.lock().unwrap() = at;
        Ok(program)
    }

    fn submit(&self, program: ProgramId, args: &Args<'_>, waits: &[Event]) -> Result<Event, BackendError> {
        let done = self.inner.submit(program, args, waits)?;
        self.inner.wait(done)?;
        let wrong = self.wrong.lock().unwrap().filter(|(wrong, _)| *wrong == program);
        wrong.map_or(Ok(done), |(_, at)| self.spoil(at))
    }
}
