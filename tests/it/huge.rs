//! Graph files with dimensions near every limit are read and planned, or refused with an error; nothing overflows.

use loadmaster::device::{BackendKind, DeviceId, Machine, MemoryId};
use loadmaster::graph::ops::{
    Attention, CacheWrite, Combine, Embed, Experts, Gating, Mask, MatMul, Moe, Rope, RopeStyle, Route, Rows, Scaling,
    Select,
};
use loadmaster::graph::{
    Batch, CacheHalf, Element, Graph, Input, InputId, Node, NodeId, Op, RowDim, State, StateId, Value, Weight, WeightId,
};
use loadmaster::plan::{Policy, check, plan};
use loadmaster::residency::{Layout, Residency, Storage};
use loadmaster::tensor::DType;
use loadmaster::units::{Bytes, Tokens};
use proptest::prelude::*;
use serde_json::json;

/// The numbers that the dimensions of a file come from.
#[derive(Clone, Copy, Debug)]
struct Dims {
    tokens: u32,
    outputs: u32,
    vocab: u32,
    heads: u32,
    head_dim: u32,
    cells: u32,
    experts: u32,
    used: u32,
    dtype: DType,
}

/// A file of one layer with attention and experts, consistent in itself wherever the products fit their fields.
fn file(d: &Dims) -> String {
    let width = d.heads.saturating_mul(d.head_dim);
    let weight =
        |name: &str, dtype, count, rows, cols| Weight { name: name.into(), dtype, count, rows, cols, part: None };
    let state = |name: &str, half| State {
        name: name.into(),
        layer: 0,
        half,
        dtype: DType::F32,
        heads: d.heads,
        head_dim: d.head_dim,
        cells: Tokens(d.cells),
        window: None,
    };
    let weights = [
        weight("embed", d.dtype, 1, d.vocab, width),
        weight("square", d.dtype, 1, width, width),
        weight("router", DType::F32, 1, d.experts, width),
        weight("experts", d.dtype, d.experts, width, width),
    ];
    let value = |element, rows, cols| Value { element, rows, cols };
    let floats = |cols| value(Element::F32, RowDim::Tokens, cols);
    let [n0, n1, n2, n3, n4, n5, n6] = std::array::from_fn(|i| NodeId(i as u32));
    let (keys, values) = (StateId(0), StateId(1));
    let scaling = Scaling {
        freq_scale: 1.0,
        ext_factor: 0.0,
        attn_factor: 1.0,
        beta_fast: 32.0,
        beta_slow: 1.0,
        trained_context: 1,
    };
    let rope = Rope {
        x: n1,
        positions: InputId(1),
        factors: None,
        heads: d.heads,
        head_dim: d.head_dim,
        offset: 0,
        rotary: d.head_dim,
        style: RopeStyle::Halves,
        base: 1e4,
        scaling,
    };
    let attention =
        Attention { q: n2, write: n3, keys, values: values.into(), heads: d.heads, scale: 1.0, mask: Mask::Causal };
    let route = Route {
        logits: n5,
        used: d.used,
        gating: Gating::Softmax,
        bias: None,
        groups: None,
        normalize: true,
        scale: 1.0,
    };
    let experts = Experts { x: n4, routing: n6, weight: WeightId(3), bias: None, slotted: false, part: None };
    let choices = value(Element::Choice, RowDim::Tokens, d.used);
    let combine = Combine { x: NodeId(7), routing: n6, shared: None, residual: None, part: None };
    let product = |x, weight| Op::MatMul(MatMul { x, weight: WeightId(weight), bias: None, residual: None });
    let made = [
        (Op::Rows(Rows::Embed(Embed { weight: WeightId(0), ids: InputId(0), scale: 1.0 })), floats(width)),
        (product(n0, 1), floats(width)),
        (Op::Rope(rope), floats(width)),
        (Op::Cache(CacheWrite { k: n2, v: Some(n1), keys, values: Some(values) }), floats(0)),
        (Op::Attention(attention), floats(width)),
        (product(n4, 2), floats(d.experts)),
        (Op::Moe(Moe::Route(route)), choices),
        (Op::Moe(Moe::Experts(experts)), floats(width.saturating_mul(d.used))),
        (Op::Moe(Moe::Combine(combine)), floats(width)),
        (
            Op::Rows(Rows::Select(Select { x: NodeId(8), rows: InputId(2) })),
            value(Element::F32, RowDim::Outputs, width),
        ),
    ];
    let node = |(i, (op, out)): (usize, (Op, Value))| Node { name: format!("n{i}"), layer: None, lane: None, op, out };
    json!({
        "version": 1,
        "batch": Batch { tokens: Tokens(d.tokens), outputs: Tokens(d.outputs) },
        "weights": weights,
        "states": [state("keys", CacheHalf::Keys), state("values", CacheHalf::Values)],
        "inputs": [Input::TokenIds, Input::Positions, Input::OutputRows],
        "nodes": made.into_iter().enumerate().map(node).collect::<Vec<_>>(),
        "output": NodeId(9),
    })
    .to_string()
}

/// Whether the file is accepted; what is accepted is planned or refused for want of memory.
fn accepted(dims: &Dims, workers: u32) -> bool {
    let Ok(graph) = Graph::from_json(&file(dims)) else { return false };
    for kind in [BackendKind::Cpu, BackendKind::Null] {
        for (layout, storage) in [(Layout::Panel16, Storage::Allocated), (Layout::Gguf, Storage::Mapped)] {
            let residency = Residency::in_one(&graph, MemoryId(0), |_, _| (layout, storage));
            let machine = Machine::single(kind, workers, Bytes(u64::MAX - 1));
            let Ok(made) = plan(&graph, &residency, &machine, &Policy::default()) else { continue };
            check(&graph, &residency, &machine, &made).unwrap();
            assert_eq!(made.memories[MemoryId(0)].arenas, made.arenas[DeviceId(0)].bytes);
        }
    }
    true
}

/// Around a power of two, at or just beside it.
fn dimension() -> impl Strategy<Value = u32> {
    (0u32..=32, -1i64..=1).prop_map(|(bits, beside)| ((1i64 << bits) + beside).clamp(0, u32::MAX.into()) as u32)
}

/// A power of two with whole blocks, which more files are accepted with.
fn even() -> impl Strategy<Value = u32> {
    prop_oneof![4 => (5u32..32).prop_map(|bits| 1 << bits), 1 => dimension()]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(crate::cases(2000)))]
    #[test]
    fn no_dimension_overflows(
        (tokens, outputs, vocab, heads) in (dimension(), dimension(), dimension(), dimension()),
        (head_dim, cells, experts, used) in (even(), even(), dimension(), dimension()),
        workers in dimension(), dtype in prop::sample::select(vec![DType::F32, DType::F16, DType::Q8_0, DType::Q4K]),
    ) {
        let outputs = outputs.min(tokens);
        accepted(&Dims { tokens, outputs, vocab, heads, head_dim, cells, experts, used, dtype }, workers);
    }
}

const SMALL: Dims = Dims {
    tokens: 64,
    outputs: 1,
    vocab: 1000,
    heads: 4,
    head_dim: 64,
    cells: 64,
    experts: 4,
    used: 2,
    dtype: DType::Q8_0,
};

#[test]
fn what_is_too_large_is_refused_with_its_name() {
    assert!(accepted(&SMALL, 1) && accepted(&SMALL, u32::MAX));
    let refused = |dims: Dims, what: &str| {
        let error = Graph::from_json(&file(&dims)).unwrap_err().to_string();
        let expected = format!("{what}: with it the graph's weights, states and values are past 262144.00 GiB");
        assert!(error.contains(&expected), "{error}");
    };
    refused(Dims { vocab: u32::MAX, heads: 1 << 16, head_dim: 256, ..SMALL }, "embed");
    refused(Dims { heads: 1 << 12, head_dim: 256, cells: u32::MAX - 15, ..SMALL }, "keys");
    refused(Dims { tokens: u32::MAX, heads: 1 << 12, head_dim: 256, ..SMALL }, "n0");
    // One value after the other fits, all together do not.
    refused(Dims { tokens: u32::MAX, heads: 16, head_dim: 256, ..SMALL }, "n4");
}
