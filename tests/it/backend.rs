//! What a backend promises beyond one thread and one plan: copies beside splits, spans that would race, interleaved routes.

use loadmaster::backend::{self, Args, Bindings, BufferKind, BufferSpan, CellTable, Queue, SplitWork};
use loadmaster::device::{BackendKind, DeviceId, Machine, MemoryId};
use loadmaster::graph::ops::{Combine, Elementwise, Embed, Experts, Gating, MatMul, Moe, Route, Rows, Select};
use loadmaster::graph::{Batch, Graph, GraphBuilder, Input, InputId, NodeId, Op, Weight};
use loadmaster::plan::{Plan, Policy, Span, Split, SplitId, check, plan};
use loadmaster::residency::{Layout, Residency, Storage};
use loadmaster::tensor::DType;
use loadmaster::units::{Bytes, Tokens};

use crate::plan::{bind, inputs_of};

fn split(plan: &mut Plan) -> &mut Split {
    &mut plan.splits[SplitId(0)]
}

fn homes(graph: &Graph) -> Residency {
    Residency::in_one(graph, MemoryId(0), |_, _| (Layout::Gguf, Storage::Allocated))
}

/// Spans of one graph with nothing shared, so that what is written between submits stays.
fn apart(graph: &Graph, made: &Plan) -> (Plan, Bytes) {
    let (mut made, mut end) = (made.clone(), Bytes::ZERO);
    let place = |span: &mut Span, end: &mut Bytes| {
        span.offset = *end;
        *end = span.end().align_up(64);
    };
    graph.node_ids().for_each(|id| place(&mut made.values[id], &mut end));
    made.inputs.iter_mut().for_each(|copy| place(&mut copy.span, &mut end));
    place(&mut split(&mut made).scratch, &mut end);
    (made, end)
}

/// Two products of an embedding, wide enough that a submit takes a while.
fn wide_graph(tokens: u32) -> Graph {
    let batch = Batch { tokens: Tokens(tokens), outputs: Tokens(tokens) };
    let mut b = GraphBuilder::new(batch);
    let (ids, rows) = (b.input(Input::TokenIds), b.input(Input::OutputRows));
    let weight = |b: &mut GraphBuilder, name: &str| {
        let weight = Weight { name: name.into(), dtype: DType::F32, count: 1, rows: 256, cols: 256, part: None };
        b.weight(weight).unwrap()
    };
    let (table, first) = (weight(&mut b, "table"), weight(&mut b, "first"));
    let x = b.node("x", Op::Rows(Rows::Embed(Embed { weight: table, ids, scale: 1.0 }))).unwrap();
    let x = b.node("y", Op::MatMul(MatMul { x, weight: first, bias: None, residual: None })).unwrap();
    let out = b.node("out", Op::Rows(Rows::Select(Select { x, rows }))).unwrap();
    b.finish(out).unwrap()
}

/// While one thread runs a split over and over, another writes its input and reads its output: what it reads is always
/// what one whole run has made of one whole input.
#[test]
fn copies_from_another_thread_do_not_meet_a_running_split() {
    const TOKENS: u32 = 64;
    let graph = wide_graph(TOKENS);
    for kind in [BackendKind::Cpu, BackendKind::Null] {
        let machine = Machine::single(kind, 2, Bytes(1 << 40));
        let homes = homes(&graph);
        let (made, bytes) = apart(&graph, &plan(&graph, &homes, &machine, &Policy::default()).unwrap());
        let backend = backend::open(&machine.devices[DeviceId(0)]).unwrap();
        let arena = backend.alloc(BufferKind::Device, bytes).unwrap();
        let bindings = Bindings { arena, ..bind(&graph, &homes, &made, &*backend) };
        for (id, slices) in bindings.weights.iter_ids() {
            let value = |i: u32| ((i * (7 + id.0)) % 31) as f32 - 15.0;
            let data: Vec<f32> = (0..256 * 256).map(value).collect();
            backend.write(Queue::Upload, slices[0].at, bytemuck::cast_slice(&data), &[]).unwrap();
        }
        let split = &made.splits[SplitId(0)];
        let work = SplitWork {
            graph: &graph,
            split,
            values: &made.values,
            inputs: &inputs_of(&graph, &made),
            bindings: &bindings,
        };
        let program = backend.prepare(&work).unwrap();
        let at = |span| BufferSpan { buffer: arena, span };
        let put = |input: u32, data: &[u32]| {
            let at = at(inputs_of(&graph, &made)[InputId(input)]);
            backend.write(Queue::Compute, at, bytemuck::cast_slice(data), &[]).unwrap();
        };
        let get = || {
            let mut out = vec![0u8; made.values[graph.output()].len.index()];
            backend.read(Queue::Compute, at(made.values[graph.output()]), &mut out, &[]).unwrap();
            out
        };
        let cells: Vec<u32> = (0..TOKENS).collect();
        let tokens = Tokens(TOKENS);
        let tables = [CellTable::single(&cells, tokens, &[0, 1, 2, 3])];
        let args = Args { tokens, outputs: tokens, tables: &tables };
        let run = || _ = backend.submit(program, &args, &[]).unwrap();
        let ids = [0u32, 1].map(|from| (from..from + TOKENS).collect::<Vec<_>>());
        put(1, &cells);
        let expected = [0, 1].map(|i| {
            put(0, &ids[i]);
            run();
            get()
        });
        assert!(expected[0] != expected[1] || kind == BackendKind::Null);
        std::thread::scope(|scope| {
            let submitter = scope.spawn(|| (0..300).for_each(|_| run()));
            let mut i = 0;
            while !submitter.is_finished() {
                put(0, &ids[i % 2]);
                let found = get();
                assert!(expected.contains(&found), "a torn value");
                i += 1;
            }
        });
    }
}

#[test]
fn a_device_without_workers_is_refused() {
    let machine = Machine::single(BackendKind::Cpu, 0, Bytes(1 << 20));
    let error = backend::open(&machine.devices[DeviceId(0)]).err().unwrap().to_string();
    assert_eq!(error, "cpu: workers at least must be 1, found 0");
}

#[test]
fn the_cpu_refuses_spans_that_would_let_a_kernel_race_with_itself() {
    let graph = wide_graph(8);
    let machine = Machine::single(BackendKind::Cpu, 3, Bytes(1 << 40));
    let homes = homes(&graph);
    let (made, bytes) = apart(&graph, &plan(&graph, &homes, &machine, &Policy::default()).unwrap());
    let backend = backend::open(&machine.devices[DeviceId(0)]).unwrap();
    let arena = backend.alloc(BufferKind::Device, bytes).unwrap();
    let bindings = Bindings { arena, ..bind(&graph, &homes, &made, &*backend) };
    type Case = (&'static str, fn(&mut Plan));
    let damages: [Case; 3] = [
        ("y has operands and a value that overlap", |p| p.values[NodeId(1)].offset = p.values[NodeId(0)].offset),
        ("lies on the split's scratch", |p| p.values[NodeId(1)].offset = split(p).scratch.offset),
        ("bytes of a range must be", |p| p.values[NodeId(1)].len = Bytes(64)),
    ];
    for (expected, damage) in damages {
        let mut made = made.clone();
        damage(&mut made);
        let split = made.splits[SplitId(0)].clone();
        let work = SplitWork {
            graph: &graph,
            split: &split,
            values: &made.values,
            inputs: &inputs_of(&graph, &made),
            bindings: &bindings,
        };
        let error = backend.prepare(&work).expect_err(expected).to_string();
        assert!(error.contains(expected), "{error}");
    }
}

/// Two expert layers over one embedding, chosen among four and three experts; `interleaved` routes both before either
/// multiplies.
fn routed_graph(interleaved: bool, tokens: u32) -> Graph {
    let batch = Batch { tokens: Tokens(tokens), outputs: Tokens(tokens) };
    let mut b = GraphBuilder::new(batch);
    let (ids, rows) = (b.input(Input::TokenIds), b.input(Input::OutputRows));
    let mut weight = |name: String, count: u32, rows: u32| {
        b.weight(Weight { name, dtype: DType::F32, count, rows, cols: 64, part: None }).unwrap()
    };
    let table = weight("table".into(), 1, 256);
    let layers = [4, 3].map(|n| (n, weight(format!("router{n}"), 1, n), weight(format!("experts{n}"), n, 64)));
    let embedded = b.node("x", Op::Rows(Rows::Embed(Embed { weight: table, ids, scale: 1.0 }))).unwrap();
    let route = |b: &mut GraphBuilder, (n, router, _): (u32, _, _)| {
        let op = MatMul { x: embedded, weight: router, bias: None, residual: None };
        let logits = b.node(format!("logits{n}"), Op::MatMul(op)).unwrap();
        let op = Route {
            logits,
            used: n - 2,
            gating: Gating::Softmax,
            bias: None,
            groups: None,
            normalize: true,
            scale: 1.0,
        };
        b.node(format!("route{n}"), Op::Moe(Moe::Route(op))).unwrap()
    };
    let multiply = |b: &mut GraphBuilder, (n, _, weight): (u32, _, _), routing: NodeId| {
        let op = Experts { x: embedded, routing, weight, bias: None, slotted: false, part: None };
        let x = b.node(format!("experts{n}"), Op::Moe(Moe::Experts(op))).unwrap();
        let op = Combine { x, routing, shared: None, residual: None, part: None };
        b.node(format!("combine{n}"), Op::Moe(Moe::Combine(op))).unwrap()
    };
    let [first, second] = layers;
    let (x, y) = if interleaved {
        let routes = [route(&mut b, first), route(&mut b, second)];
        (multiply(&mut b, first, routes[0]), multiply(&mut b, second, routes[1]))
    } else {
        let routing = route(&mut b, first);
        let x = multiply(&mut b, first, routing);
        let routing = route(&mut b, second);
        (x, multiply(&mut b, second, routing))
    };
    let x = b.node("sum", Op::Elementwise(Elementwise::Add { a: x, b: y })).unwrap();
    let out = b.node("out", Op::Rows(Rows::Select(Select { x, rows }))).unwrap();
    b.finish(out).unwrap()
}

/// Plans and runs a graph whose weights hold numbers that depend on their name alone, on tokens 0, 1, 2 and so on.
fn outputs(graph: &Graph) -> Vec<f32> {
    let machine = Machine::single(BackendKind::Cpu, 2, Bytes(1 << 40));
    let homes = homes(graph);
    let made = plan(graph, &homes, &machine, &Policy::default()).unwrap();
    check(graph, &homes, &machine, &made).unwrap();
    let backend = backend::open(&machine.devices[DeviceId(0)]).unwrap();
    let bindings = bind(graph, &homes, &made, &*backend);
    for (id, weight) in graph.weights().iter_ids() {
        let seed = weight.name.bytes().map(u32::from).sum::<u32>();
        let data: Vec<f32> = (0..weight.bytes().0 as u32 / 4).map(|i| ((i * seed) % 61) as f32 / 30.0 - 1.0).collect();
        backend.write(Queue::Upload, bindings.weights[id][0].at, bytemuck::cast_slice(&data), &[]).unwrap();
    }
    let work = SplitWork {
        graph,
        split: &made.splits[SplitId(0)],
        values: &made.values,
        inputs: &inputs_of(graph, &made),
        bindings: &bindings,
    };
    let program = backend.prepare(&work).unwrap();
    let tokens = graph.batch().tokens;
    let cells: Vec<u32> = (0..tokens.0).collect();
    for (id, _) in graph.inputs().iter_ids() {
        let at = BufferSpan { buffer: bindings.arena, span: inputs_of(graph, &made)[id] };
        backend.write(Queue::Compute, at, bytemuck::cast_slice(&cells), &[]).unwrap();
    }
    let pages: Vec<u32> = (0..tokens.pages()).collect();
    let tables = [CellTable::single(&cells, tokens, &pages)];
    let args = Args { tokens, outputs: tokens, tables: &tables };
    backend.submit(program, &args, &[]).unwrap();
    let span = made.values[graph.output()];
    let mut out = vec![0f32; span.len.index() / 4];
    let at = BufferSpan { buffer: bindings.arena, span };
    backend.read(Queue::Compute, at, bytemuck::cast_slice_mut(&mut out), &[]).unwrap();
    out
}

#[test]
fn experts_may_multiply_long_after_their_route() {
    for tokens in [1, 40] {
        let (apart, interleaved) = (outputs(&routed_graph(false, tokens)), outputs(&routed_graph(true, tokens)));
        assert!(apart.iter().any(|&x| x != 0.0) && apart == interleaved, "{tokens} tokens");
    }
}

#[test]
fn a_route_among_more_experts_than_there_are_is_refused() {
    let text = routed_graph(true, 4).to_json();
    let mut json: serde_json::Value = serde_json::from_str(&text).unwrap();
    let experts = json["weights"].as_array().unwrap().iter().position(|w| w["name"] == "experts4").unwrap();
    json["weights"][experts]["count"] = 3.into();
    let error = Graph::from_json(&json.to_string()).unwrap_err().to_string();
    assert!(error.contains("experts4: matrices of the experts must be 4, found 3"), "{error}");
}
