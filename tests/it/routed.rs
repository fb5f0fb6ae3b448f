//! Steps of few rows bring of the experts in host memory only those that they chose: the logits are those of whole
//! streaming, exactly the chosen experts are written, and nothing else of the ring is read.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::atomic::{AtomicI64, Ordering};
use std::sync::{Arc, Mutex};

use loadmaster::backend::{
    self, Args, Backend, BackendError, BufferId, BufferKind, BufferSpan, CacheWork, CachesId, CellMove, CellTable,
    CellTurn, Event, HostBytes, ProgramId, Queue, SplitWork,
};
use loadmaster::device::{DeviceId, DeviceSpec, Machine, MemoryId};
use loadmaster::exec::{GraphSource, Made, Nodes, Session, Setup, StepInput};
use loadmaster::gguf::Gguf;
use loadmaster::graph::ops::Moe;
use loadmaster::graph::{Batch, Graph, Op, StateId};
use loadmaster::models::{CacheSpec, Model};
use loadmaster::plan::{Activity, Offload, Plan, Policy, Span, brings_chosen, check, partition, plan, timeline};
use loadmaster::residency::{Layout, Residency, Storage};
use loadmaster::synth::{ExpertShape, ModelShape, named};
use loadmaster::tensor::DType;
use loadmaster::units::{Bytes, Nanos, Tokens};

use crate::hooked::{Fuse, faulty, pass_on};
use crate::several_devices::{
    Source, bits, cache_away, deeper, experts_apart, isolated, lazy, logits, made, of_one, open, setup, streaming,
    with_accelerator,
};
use crate::vulkan::{beside, device, open_over};

const CACHE: CacheSpec = CacheSpec { cells: Tokens(48), keys: DType::F16, values: DType::F16, sliding: None };

/// What an accelerator saw of its ring.
#[derive(Default)]
struct Seen {
    /// The buffer that was allocated last.
    ring: Option<BufferSpan>,
    /// Whether the ring is to be filled with ones before the next upload: whatever reads them makes no number.
    poison: bool,
    /// What uploads wrote.
    written: Vec<Span>,
}

/// A device whose uploads are noted.
struct Watched {
    inner: Box<dyn Backend>,
    seen: Arc<Mutex<Seen>>,
}

impl Backend for Watched {
    pass_on!(spec adopt free allocated read copy prepare discard submit prepare_caches rearrange turn read_cells
        write_cells wait);

    fn alloc(&self, kind: BufferKind, bytes: Bytes) -> Result<BufferId, BackendError> {
        let buffer = self.inner.alloc(kind, bytes)?;
        let span = Span { offset: Bytes::ZERO, len: bytes };
        self.seen.lock().unwrap().ring = Some(BufferSpan { buffer, span });
        Ok(buffer)
    }

    fn write(&self, queue: Queue, dst: BufferSpan, src: &[u8], waits: &[Event]) -> Result<Event, BackendError> {
        let mut seen = self.seen.lock().unwrap();
        if let Some(ring) = seen.ring.filter(|ring| queue == Queue::Upload && ring.buffer == dst.buffer) {
            if std::mem::take(&mut seen.poison) {
                self.inner.write(queue, ring, &vec![0xff; ring.span.len.index()], waits)?;
            }
            seen.written.push(dst.span);
        }
        drop(seen);
        self.inner.write(queue, dst, src, waits)
    }
}

type Opening = dyn Fn(&DeviceSpec) -> Result<Box<dyn Backend>, BackendError> + Send + Sync;

/// A processor with the weights, and an accelerator of the kind that `open` opens.
struct Place {
    name: &'static str,
    machine: Machine,
    open: Box<Opening>,
}

/// All there are.
fn places() -> Vec<Place> {
    let mut places = vec![Place { name: "cpu+cpu", machine: with_accelerator(), open: Box::new(backend::open) }];
    if let Some(gpu) = device() {
        places.push(Place { name: "cpu+vulkan", machine: beside(1), open: Box::new(open_over(&gpu)) });
    }
    places
}

impl Place {
    /// A session whose accelerator notes what it sees.
    fn session(&self, gguf: &Arc<Gguf>, policy: Policy, homes: Homes) -> (Session, Arc<Mutex<Seen>>) {
        let seen = Arc::new(Mutex::new(Seen::default()));
        let watched = |spec: &DeviceSpec| -> Result<Box<dyn Backend>, BackendError> {
            let inner = (self.open)(spec)?;
            match spec.name == self.machine.devices[DeviceId(1)].name {
                true => Ok(Box::new(Watched { inner, seen: Arc::clone(&seen) })),
                false => Ok(inner),
            }
        };
        let setup = Setup { policy, open: &watched, ..setup(self.machine.clone()) };
        let session = open(gguf, DType::F16, setup, |graph, _| homes(graph, gguf)).unwrap();
        seen.lock().unwrap().written.clear();
        (session, seen)
    }
}

type Homes = fn(&Graph, &Gguf) -> Residency;

/// All weights with the processor.
fn away(graph: &Graph, gguf: &Gguf) -> Residency {
    cache_away(graph, gguf, true)
}

/// The same in the layout of the processor's kernels.
fn away_in_panels(graph: &Graph, gguf: &Gguf) -> Residency {
    cache_away(graph, gguf, false)
}

/// All but the experts with the accelerator.
fn experts_away(graph: &Graph, gguf: &Gguf) -> Residency {
    let mut residency = cache_away(graph, gguf, true);
    let others = graph.weights().iter_ids().filter(|(_, weight)| !weight.name.contains("_exps"));
    others.for_each(|(id, _)| {
        let home = &mut residency.weights[id][0];
        (home.memory, home.storage) = (MemoryId(1), Storage::Allocated);
    });
    residency
}

/// The first experts with the accelerator, the others with the processor.
fn some_experts_away(graph: &Graph, gguf: &Gguf) -> Residency {
    let mut residency = experts_apart(graph, gguf, &[1], &[MemoryId(1), MemoryId(0)]);
    for home in residency.weights.iter_mut().flatten() {
        home.layout = Layout::Gguf;
        home.storage = Storage::Allocated;
    }
    graph.states().iter_ids().for_each(|(id, _)| residency.states[id] = MemoryId(1));
    residency
}

const HOMES: [(&str, Homes); 4] = [
    ("all away", away),
    ("all away in panels", away_in_panels),
    ("experts away", experts_away),
    ("some experts away", some_experts_away),
];

fn policy(chosen_experts: bool, chunk: u64) -> Policy {
    Policy { chosen_experts, ..streaming(Offload::AtLeast(Tokens(1)), chunk) }
}

fn sum(spans: &[Span]) -> u64 {
    spans.iter().map(|span| span.len.0).sum()
}

#[test]
fn chosen_experts_alone_give_the_bits_of_all_and_are_fewer_bytes() {
    for place in places() {
        let models = [("qwen3moe-tiny", DType::Q4K), ("mixtral-tiny", DType::Q5_1), ("deepseek2-tiny", DType::F16)];
        // Drivers that compute on the processor take long to compile.
        for (shape, dtype) in models.into_iter().take(if place.name == "cpu+cpu" { 3 } else { 1 }) {
            let gguf = made(&deeper(shape), dtype);
            let alone = of_one(&gguf, DType::F16);
            for (i, (homes_name, homes)) in HOMES.into_iter().enumerate() {
                let what = format!("{} {shape} {dtype}, {homes_name}", place.name);
                let chunk = [1, 100 << 10, 1 << 30][i % 3];
                let (mut whole, all) = place.session(&gguf, policy(false, chunk), homes);
                let (mut chosen, some) = place.session(&gguf, policy(true, chunk), homes);
                for batch in [40, 1, 2, 7] {
                    let expected = bits(&logits(&mut whole, batch).unwrap());
                    assert!(bits(&logits(&mut chosen, batch).unwrap()) == expected, "{what}: {batch} at a time");
                    // Runs of experts are summed apart.
                    if place.name == "cpu+cpu" && homes_name != "some experts away" {
                        assert!(bits(&alone) == expected, "{what}: {batch} at a time, whole");
                    }
                    let [all, some] = [&all, &some].map(|seen| sum(&std::mem::take(&mut seen.lock().unwrap().written)));
                    let graph = chosen.planned(Batch { tokens: Tokens(batch), outputs: Tokens(batch) }).unwrap().0;
                    let route = graph.nodes().find(|(_, node)| matches!(node.op, Op::Moe(Moe::Route(_)))).unwrap().0;
                    let (experts, used) = (graph.experts(route), graph.node(route).out.cols);
                    match brings_chosen(experts, used, Tokens(batch)) {
                        true => assert!(some < all, "{what}: {some} of {all} bytes, {batch} at a time"),
                        // The last step may have fewer rows.
                        false => assert!(some <= all && (some == all || 40 % batch > 0), "{what}: {some} of {all}"),
                    }
                }
            }
        }
    }
}

/// What every routing of a step chooses, by layer, on a device that has the whole model.
struct Choices {
    nodes: Nodes,
    rows: u32,
}

impl Choices {
    fn of(place: &Place, gguf: &Arc<Gguf>, rows: u32) -> Choices {
        let batch = Batch { tokens: Tokens(rows), outputs: Tokens(rows) };
        let graph = source(gguf).graph(batch).unwrap();
        let spec = place.machine.devices[DeviceId(1)].clone();
        let nodes = Nodes::open(graph, gguf, (spec, Bytes(1 << 32)), &*place.open, true, &|_, _| {}).unwrap();
        Choices { nodes, rows }
    }

    fn step(&self, step: &StepInput<'_>) -> BTreeMap<u32, BTreeSet<u32>> {
        assert_eq!(step.ids.len(), self.rows as usize);
        self.nodes.begin(step).unwrap();
        let mut chosen = BTreeMap::new();
        for (id, node) in self.nodes.graph().nodes() {
            self.nodes.run(id, step, 0).unwrap();
            if matches!(node.op, Op::Moe(Moe::Route(_))) {
                let Made::Choices(choices) = self.nodes.made(id, step).unwrap() else { panic!("no choices") };
                chosen.insert(node.layer.unwrap(), choices.into_iter().map(|(expert, _)| expert).collect());
            }
        }
        chosen
    }
}

fn source(gguf: &Arc<Gguf>) -> Source {
    Source { model: Model::from_gguf(gguf).unwrap(), cache: CACHE }
}

/// What uploads of a plan write where these experts are chosen, in the file's layout.
fn expected(graph: &Graph, plan: &Plan, chosen: &BTreeMap<u32, BTreeSet<u32>>) -> Vec<Span> {
    let mut spans = Vec::new();
    for upload in plan.uploads.iter() {
        let weight = &graph.weights()[upload.slice.weight];
        let matrix = weight.bytes().0 / u64::from(weight.count);
        let layer = upload.chosen_by.map(|routing| graph.node(routing).layer.unwrap());
        let needed = |expert: &u32| layer.is_none_or(|layer| chosen[&layer].contains(expert));
        let range = upload.slice.range.clone();
        spans.extend(range.clone().filter(needed).map(|expert| {
            let offset = upload.span.offset + Bytes(u64::from(expert - range.start) * matrix);
            Span { offset, len: Bytes(matrix) }
        }));
    }
    merged(spans)
}

/// Spans of which each goes on where the one before it ends are one.
fn merged(spans: Vec<Span>) -> Vec<Span> {
    let mut merged: Vec<Span> = Vec::new();
    for span in spans {
        match merged.last_mut() {
            Some(last) if last.end() == span.offset => last.len += span.len,
            Some(_) | None => merged.push(span),
        }
    }
    merged
}

/// A ring that holds all uploads of a step, and ones wherever a step does not write.
#[test]
fn exactly_the_chosen_experts_are_written_and_nothing_else_is_read() {
    for place in places() {
        let (cases, steps) = if place.name == "cpu+cpu" { (4, 10) } else { (2, 2) };
        for (dtype, rows) in
            [(DType::Q4K, 1), (DType::F16, 3), (DType::Q8_0, 4), (DType::Q4K, 20)].into_iter().take(cases)
        {
            let gguf = made(&named("qwen3moe-tiny").unwrap(), dtype);
            for (homes_name, homes) in [HOMES[0], HOMES[2], HOMES[3]] {
                let what = format!("{} {dtype}, {homes_name}, {rows} rows", place.name);
                let (mut whole, _) = place.session(&gguf, policy(false, 1), homes);
                let (mut session, seen) = place.session(&gguf, policy(true, 1 << 30), homes);
                let batch = session.serving(rows as usize, rows as usize).unwrap();
                let (graph, plan) = session.planned(batch).unwrap();
                let ring = plan.rings[DeviceId(1)];
                let total = plan.uploads.iter().map(|upload| upload.span.len).sum::<Bytes>();
                assert_eq!(ring, total, "{what}: the ring does not hold all");
                let choices = Choices::of(&place, &gguf, rows);
                let few = brings_chosen(8, 2, Tokens(rows));
                for first in (0..=40 - rows).step_by(rows as usize).take(steps) {
                    let places: Vec<u32> = (first..first + rows).collect();
                    let ids: Vec<u32> = places.iter().map(|i| i * 37 % 500).collect();
                    let wanted: Vec<u32> = (0..rows).collect();
                    let table = CellTable::single(&places, Tokens(first + rows), &[0, 1, 2]);
                    let step = StepInput { ids: &ids, positions: &places, output_rows: &wanted, tables: &[table] };
                    seen.lock().unwrap().poison = true;
                    seen.lock().unwrap().written.clear();
                    let found = bits(session.step(&step).unwrap());
                    assert!(found == bits(whole.step(&step).unwrap()), "{what}: from {first} on");
                    let chosen = match few {
                        true => choices.step(&step),
                        false => (0..2).map(|layer| (layer, (0..8).collect())).collect(),
                    };
                    let written = merged(std::mem::take(&mut seen.lock().unwrap().written));
                    assert_eq!(written, expected(&graph, &plan, &chosen), "{what}: from {first} on");
                    assert!(!few || sum(&written) < total.0, "{what}: all");
                }
            }
        }
    }
}

/// Three devices, of which the last has the routers, and the second all that is streamed from the first.
fn routers_apart(graph: &Graph, gguf: &Gguf) -> Residency {
    let mut residency = away(graph, gguf);
    for (id, _) in graph.weights().iter_ids().filter(|(_, weight)| weight.name.contains("ffn_gate_inp")) {
        (residency.weights[id][0].memory, residency.weights[id][0].storage) = (MemoryId(2), Storage::Allocated);
    }
    residency
}

/// Also a routing that another device makes is waited for, on devices that do nothing before they must.
#[test]
fn a_step_waits_for_its_routing_and_not_for_luck() {
    let shape = deeper("qwen3moe-tiny");
    let experts = shape.experts.map(|experts| ExpertShape { count: 32, ..experts });
    let gguf = made(&ModelShape { experts, ..shape }, DType::Q4K);
    let alone = bits(&of_one(&gguf, DType::F16));
    let mut three = isolated(3);
    [1, 2].into_iter().for_each(|card| three.devices[DeviceId(card)].accelerator = Some(true));
    for (router, machine, homes) in [(1, with_accelerator(), away as Homes), (2, three, routers_apart)] {
        let setup = Setup { policy: policy(true, 1), open: &lazy, ..setup(machine) };
        let mut session = open(&gguf, DType::F16, setup, |graph, _| homes(graph, &gguf)).unwrap();
        for batch in [1, 2, 7] {
            let (_, plan) = session.planned(Batch { tokens: Tokens(batch), outputs: Tokens(batch) }).unwrap();
            let routings = plan.uploads.iter().filter_map(|upload| upload.chosen_by);
            let devices: BTreeSet<DeviceId> = routings.map(|routing| plan.placements[routing].device).collect();
            assert_eq!(devices, [DeviceId(router)].into());
            assert!(bits(&logits(&mut session, batch).unwrap()) == alone, "routers on {router}: {batch} at a time");
        }
    }
}

/// Whichever call of a step fails, also one that reads a routing: the step says so, and the next one is right.
#[test]
fn a_fault_in_a_step_of_few_rows_is_an_error_and_the_next_step_is_right() {
    let gguf = made(&named("qwen3moe-tiny").unwrap(), DType::Q4K);
    let fuse: Fuse = Arc::new(AtomicI64::new(-1));
    let wrapped = faulty(&fuse);
    let setup = Setup { policy: policy(true, 100 << 10), open: &*wrapped, ..setup(with_accelerator()) };
    let mut session = open(&gguf, DType::F16, setup, |graph, _| away_in_panels(graph, &gguf)).unwrap();
    let table = CellTable::single(&[0], Tokens(1), &[0]);
    let step = StepInput { ids: &[5], positions: &[0], output_rows: &[0], tables: &[table] };
    let expected = bits(session.step(&step).unwrap());
    fuse.store(1 << 40, Ordering::SeqCst);
    session.step(&step).unwrap();
    for n in 0..(1 << 40) - fuse.load(Ordering::SeqCst) {
        fuse.store(n, Ordering::SeqCst);
        session.step(&step).expect_err("a fault");
        fuse.store(-1, Ordering::SeqCst);
        assert!(bits(session.step(&step).unwrap()) == expected, "after a fault in call {n}");
    }
}

/// The plan has the routing before the uploads that it decides, its timeline waits for it and brings what is expected,
/// and the checker takes it; what prices leave out is the same.
#[test]
fn plans_wait_for_routings_where_few_experts_are_chosen() {
    let gguf = made(&deeper("qwen3moe-tiny"), DType::Q4K);
    let machine = with_accelerator();
    for rows in [1, 3, 4, 5, 40] {
        let graph = source(&gguf).graph(Batch { tokens: Tokens(rows), outputs: Tokens(rows) }).unwrap();
        for (name, homes) in HOMES {
            let residency = homes(&graph, &gguf);
            let graph = partition(&graph, &residency).unwrap();
            for chosen_experts in [true, false] {
                let what = format!("{name}, {rows} rows, chosen {chosen_experts}");
                let policy = policy(chosen_experts, 1 << 30);
                let plan = plan(&graph, &residency, &machine, &policy).unwrap();
                check(&graph, &residency, &machine, &plan).unwrap();
                let waits = chosen_experts && rows < 5;
                let timeline = timeline(&graph, &machine, &policy, &plan, 1);
                let ends: BTreeMap<Activity, Nanos> = timeline.events.iter().map(|e| (e.what, e.end)).collect();
                for event in &timeline.events {
                    let Activity::Upload(id) = event.what else { continue };
                    let upload = &plan.uploads[id];
                    let experts = graph.weights()[upload.slice.weight].name.contains("_exps");
                    assert_eq!(upload.chosen_by.is_some(), waits && experts, "{what}: {id}");
                    let Some(routing) = upload.chosen_by else {
                        assert_eq!(event.bytes, upload.span.len, "{what}: {id}");
                        continue;
                    };
                    let of = plan.splits.iter_ids().find(|(_, split)| split.nodes.contains(&routing)).unwrap().0;
                    assert!(of < upload.split && ends[&Activity::Split(of)] <= event.start, "{what}: {id}");
                    // Two of eight a row, all chosen alike.
                    let share = 1.0 - 0.75f64.powi(rows as i32);
                    let bytes = upload.span.len.0 as f64 * share;
                    assert!((event.bytes.0 as f64 - bytes).abs() <= 1.0, "{what}: {id} brings {}", event.bytes);
                }
            }
        }
    }
}

/// What is noted of a step is what it brought.
#[test]
fn traces_have_the_bytes_that_were_brought() {
    let gguf = made(&deeper("qwen3moe-tiny"), DType::Q4K);
    let places = places();
    let (mut session, seen) = places[0].session(&gguf, policy(true, 1), away);
    for batch in [1, 7] {
        session.trace();
        logits(&mut session, batch).unwrap();
        let traced = session.traced();
        let uploads = traced.iter().flat_map(|step| &step.events);
        let noted: u64 = uploads.filter(|e| matches!(e.what, Activity::Upload(_))).map(|event| event.bytes.0).sum();
        assert_eq!(noted, sum(&std::mem::take(&mut seen.lock().unwrap().written)), "{batch} at a time");
    }
}
