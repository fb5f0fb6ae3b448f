//! Reports on small models made here, as tables.

use loadmaster::device::{BackendKind, DeviceId, Machine, MemoryId};
use loadmaster::exec::homes;
use loadmaster::gguf::{Gguf, MetaValue, ValueType, Writer};
use loadmaster::graph::{Batch, Graph, NodeId};
use loadmaster::index::Id;
use loadmaster::inspect::{Planned, Report, Source, dot, escape, json, node_table, one_line, prose, shape, text, why};
use loadmaster::models::{CacheSpec, Model};
use loadmaster::plan::{Plan, Policy, node_time, plan};
use loadmaster::residency::Residency;
use loadmaster::synth::{ModelShape, Synth, named};
use loadmaster::tensor::{DType, Shape};
use loadmaster::units::{Bytes, Tokens};

struct Parts {
    gguf: Gguf,
    machine: Machine,
    graph: Graph,
    homes: Residency,
    policy: Policy,
    plan: Plan,
}

fn parts(shape: &ModelShape, dtype: DType) -> Parts {
    let bytes = Synth::new(shape, dtype, 1).unwrap().to_bytes().unwrap();
    let gguf = Gguf::from_bytes("made.gguf", bytes).unwrap();
    let machine = Machine::single(BackendKind::Cpu, 2, Bytes(1 << 30));
    let cache = CacheSpec { cells: Tokens(64), keys: DType::F16, values: DType::F16, sliding: None };
    let batch = Batch { tokens: Tokens(4), outputs: Tokens(1) };
    let graph = Model::from_gguf(&gguf).unwrap().graph(batch, cache).unwrap();
    let (homes, policy) = (homes(&graph, &gguf, MemoryId::from_index(0), false), Policy::default());
    let plan = plan(&graph, &homes, &machine, &policy).unwrap();
    Parts { gguf, machine, graph, homes, policy, plan }
}

fn one_layer(name: &str) -> ModelShape {
    ModelShape { layers: 1, ..named(name).unwrap() }
}

impl Parts {
    fn table(&self) -> String {
        node_table(&self.graph, Some((&self.plan, &self.machine)))
    }

    fn planned(&self) -> Planned<'_> {
        let Parts { graph, homes, machine, policy, plan, .. } = self;
        Planned { graph, homes, machine, policy, plan }
    }

    fn report(&self) -> Report<'_> {
        Report {
            source: Source::File(&self.gguf),
            machine: &self.machine,
            graph: Ok(&self.graph),
            plan: Ok(self.planned()),
            unused: &[],
            notes: &[],
        }
    }
}

#[test]
fn llama_runs_where_its_weights_are() {
    insta::assert_snapshot!(parts(&one_layer("llama-tiny"), DType::Q4_0).table(), @r"
    token_embd         rows q4_0    cpu  weight-home
    blk.0.attn_norm    norm f32     cpu  follows-input token_embd
    blk.0.attn_q       matmul q4_0  cpu  weight-home
    blk.0.attn_k       matmul q4_0  cpu  weight-home
    blk.0.attn_v       matmul q4_0  cpu  weight-home
    blk.0.rope_q       rope         cpu  follows-input blk.0.attn_q
    blk.0.rope_k       rope         cpu  follows-input blk.0.attn_k
    blk.0.cache        cache        cpu  state-home
    blk.0.attention    attention    cpu  state-home
    blk.0.attn_output  matmul q4_0  cpu  weight-home
    blk.0.ffn_norm     norm f32     cpu  follows-input blk.0.attn_output
    blk.0.ffn_gate     matmul q4_0  cpu  weight-home
    blk.0.ffn_up       matmul q4_0  cpu  weight-home
    blk.0.ffn_gated    elementwise  cpu  follows-input blk.0.ffn_gate
    blk.0.ffn_down     matmul q4_0  cpu  weight-home
    output_rows        rows         cpu  follows-input blk.0.ffn_down
    output_norm        norm f32     cpu  follows-input output_rows
    output             matmul q4_0  cpu  weight-home
    ");
}

#[test]
fn qwen3moe_runs_where_its_weights_are() {
    insta::assert_snapshot!(parts(&one_layer("qwen3moe-tiny"), DType::Q4K).table(), @r"
    token_embd           rows q4_k    cpu  weight-home
    blk.0.attn_norm      norm f32     cpu  follows-input token_embd
    blk.0.attn_q         matmul q4_k  cpu  weight-home
    blk.0.attn_k         matmul q4_k  cpu  weight-home
    blk.0.attn_v         matmul q4_k  cpu  weight-home
    blk.0.attn_q_norm    norm f32     cpu  follows-input blk.0.attn_q
    blk.0.rope_q         rope         cpu  follows-input blk.0.attn_q_norm
    blk.0.attn_k_norm    norm f32     cpu  follows-input blk.0.attn_k
    blk.0.rope_k         rope         cpu  follows-input blk.0.attn_k_norm
    blk.0.cache          cache        cpu  state-home
    blk.0.attention      attention    cpu  state-home
    blk.0.attn_output    matmul q4_k  cpu  weight-home
    blk.0.ffn_norm       norm f32     cpu  follows-input blk.0.attn_output
    blk.0.ffn_gate_inp   matmul f32   cpu  weight-home
    blk.0.ffn_route      moe          cpu  follows-input blk.0.ffn_gate_inp
    blk.0.ffn_gate_exps  moe q4_k     cpu  weight-home
    blk.0.ffn_up_exps    moe q4_k     cpu  weight-home
    blk.0.ffn_gated      elementwise  cpu  follows-input blk.0.ffn_gate_exps
    blk.0.ffn_down_exps  moe q4_k     cpu  weight-home
    blk.0.ffn_combine    moe          cpu  follows-input blk.0.ffn_down_exps
    output_rows          rows         cpu  follows-input blk.0.ffn_combine
    output_norm          norm f32     cpu  follows-input output_rows
    output               matmul q4_k  cpu  weight-home
    ");
}

#[test]
fn gemma3_runs_where_its_weights_are() {
    insta::assert_snapshot!(parts(&one_layer("gemma3-tiny"), DType::Q8_0).table(), @r"
    token_embd                 rows q8_0    cpu  weight-home
    blk.0.attn_norm            norm f32     cpu  follows-input token_embd
    blk.0.attn_q               matmul q8_0  cpu  weight-home
    blk.0.attn_k               matmul q8_0  cpu  weight-home
    blk.0.attn_v               matmul q8_0  cpu  weight-home
    blk.0.attn_q_norm          norm f32     cpu  follows-input blk.0.attn_q
    blk.0.rope_q               rope         cpu  follows-input blk.0.attn_q_norm
    blk.0.attn_k_norm          norm f32     cpu  follows-input blk.0.attn_k
    blk.0.rope_k               rope         cpu  follows-input blk.0.attn_k_norm
    blk.0.cache                cache        cpu  state-home
    blk.0.attention            attention    cpu  state-home
    blk.0.attn_output          matmul q8_0  cpu  weight-home
    blk.0.post_attention_norm  norm f32     cpu  follows-input blk.0.attn_output
    blk.0.attn_output_added    elementwise  cpu  follows-input token_embd
    blk.0.ffn_norm             norm f32     cpu  follows-input blk.0.attn_output_added
    blk.0.ffn_gate             matmul q8_0  cpu  weight-home
    blk.0.ffn_up               matmul q8_0  cpu  weight-home
    blk.0.ffn_gated            elementwise  cpu  follows-input blk.0.ffn_gate
    blk.0.ffn_down             matmul q8_0  cpu  weight-home
    blk.0.post_ffw_norm        norm f32     cpu  follows-input blk.0.ffn_down
    blk.0.ffn_down_added       elementwise  cpu  follows-input blk.0.attn_output_added
    output_rows                rows         cpu  follows-input blk.0.ffn_down_added
    output_norm                norm f32     cpu  follows-input output_rows
    output                     matmul q8_0  cpu  weight-home
    ");
}

#[test]
fn deepseek2_runs_where_its_weights_are() {
    let shape = ModelShape { layers: 2, ..named("deepseek2-tiny").unwrap() };
    insta::assert_snapshot!(parts(&shape, DType::Q8_0).table(), @r"
    token_embd             rows q8_0    cpu  weight-home
    blk.0.attn_norm        norm f32     cpu  follows-input token_embd
    blk.0.attn_q_a         matmul q8_0  cpu  weight-home
    blk.0.attn_kv_a_mqa    matmul q8_0  cpu  weight-home
    blk.0.attn_q_a_norm    norm f32     cpu  follows-input blk.0.attn_q_a
    blk.0.attn_q_b         matmul q8_0  cpu  weight-home
    blk.0.rope_q           rope         cpu  follows-input blk.0.attn_q_b
    blk.0.attn_k_b         matmul q8_0  cpu  weight-home
    blk.0.attn_kv_a_norm   norm f32     cpu  follows-input blk.0.attn_kv_a_mqa
    blk.0.rope_k           rope         cpu  follows-input blk.0.attn_kv_a_norm
    blk.0.cache            cache        cpu  state-home
    blk.0.attention        attention    cpu  state-home
    blk.0.attn_v_b         matmul q8_0  cpu  weight-home
    blk.0.attn_output      matmul q8_0  cpu  weight-home
    blk.0.ffn_norm         norm f32     cpu  follows-input blk.0.attn_output
    blk.0.ffn_gate         matmul q8_0  cpu  weight-home
    blk.0.ffn_up           matmul q8_0  cpu  weight-home
    blk.0.ffn_gated        elementwise  cpu  follows-input blk.0.ffn_gate
    blk.0.ffn_down         matmul q8_0  cpu  weight-home
    blk.1.attn_norm        norm f32     cpu  follows-input blk.0.ffn_down
    blk.1.attn_q_a         matmul q8_0  cpu  weight-home
    blk.1.attn_kv_a_mqa    matmul q8_0  cpu  weight-home
    blk.1.attn_q_a_norm    norm f32     cpu  follows-input blk.1.attn_q_a
    blk.1.attn_q_b         matmul q8_0  cpu  weight-home
    blk.1.rope_q           rope         cpu  follows-input blk.1.attn_q_b
    blk.1.attn_k_b         matmul q8_0  cpu  weight-home
    blk.1.attn_kv_a_norm   norm f32     cpu  follows-input blk.1.attn_kv_a_mqa
    blk.1.rope_k           rope         cpu  follows-input blk.1.attn_kv_a_norm
    blk.1.cache            cache        cpu  state-home
    blk.1.attention        attention    cpu  state-home
    blk.1.attn_v_b         matmul q8_0  cpu  weight-home
    blk.1.attn_output      matmul q8_0  cpu  weight-home
    blk.1.ffn_norm         norm f32     cpu  follows-input blk.1.attn_output
    blk.1.ffn_gate_inp     matmul f32   cpu  weight-home
    blk.1.ffn_route        moe f32      cpu  follows-input blk.1.ffn_gate_inp
    blk.1.ffn_gate_exps    moe q8_0     cpu  weight-home
    blk.1.ffn_up_exps      moe q8_0     cpu  weight-home
    blk.1.ffn_gate_shexp   matmul q8_0  cpu  weight-home
    blk.1.ffn_up_shexp     matmul q8_0  cpu  weight-home
    blk.1.ffn_gated        elementwise  cpu  follows-input blk.1.ffn_gate_exps
    blk.1.ffn_gated_shexp  elementwise  cpu  follows-input blk.1.ffn_gate_shexp
    blk.1.ffn_down_exps    moe q8_0     cpu  weight-home
    blk.1.ffn_down_shexp   matmul q8_0  cpu  weight-home
    blk.1.ffn_combine      moe          cpu  follows-input blk.1.ffn_down_exps
    output_rows            rows         cpu  follows-input blk.1.ffn_combine
    output_norm            norm f32     cpu  follows-input output_rows
    output                 matmul q8_0  cpu  weight-home
    ");
}

#[test]
fn why_names_reason_alternatives_reads_split_and_span() {
    let parts = parts(&one_layer("llama-tiny"), DType::Q4_0);
    insta::assert_snapshot!(why(&parts.planned(), "blk.0.ffn_down").unwrap().to_text(), @r"
    blk.0.ffn_down (n14, layer 0)
      matmul q4_0: makes 4 x 256 = 4.0 KiB
      runs on cpu: its weight blk.0.ffn_down.weight (q4_0, 72.0 KiB) lives there

    possible:
      cpu  computes 5.1 us, its weights are there  chosen

    reads:
      blk.0.ffn_gated (n13, 8.0 KiB)          made on cpu
      blk.0.ffn_down.weight (q4_0, 72.0 KiB)  in host
      blk.0.attn_output (n9, 4.0 KiB)         made on cpu

    read by:
      output_rows  cpu

    split: x0 of 1, on cpu, its node 15 of 18
      from token_embd to output
    arena: bytes 528128 to 532224 (4.0 KiB) of the 543.8 KiB on cpu
    ");
    assert_eq!(why(&parts.planned(), "n0").unwrap(), why(&parts.planned(), "token_embd").unwrap());
    let error = why(&parts.planned(), "blk.0.fn_down").unwrap_err().to_string();
    assert!(error.contains("\"blk.0.fn_down\"") && error.contains("nearest are blk.0.ffn_down,"), "{error}");
    for odd in ["", "n", "n18", "n-1", "n99999999999999999999", "\u{1b}"] {
        assert!(why(&parts.planned(), odd).is_err(), "{odd}");
    }
}

#[test]
fn why_as_json_is_one_document_with_numbers() {
    let parts = parts(&one_layer("llama-tiny"), DType::Q4_0);
    let document = why(&parts.planned(), "blk.0.ffn_down").unwrap().to_json();
    let document: serde_json::Value = serde_json::from_str(&document).unwrap();
    let compute = node_time(&parts.graph, &parts.policy, NodeId(14), &parts.machine.devices[DeviceId(0)]).0;
    let expected = serde_json::json!({
        "node": "blk.0.ffn_down", "id": 14, "layer": 0, "family": "matmul", "dtype": "q4_0",
        "shape": [4, 256], "bytes": 4096,
        "device": "cpu", "reason": "weight-home",
        "words": "its weight blk.0.ffn_down.weight (q4_0, 72.0 KiB) lives there",
        "possible": [{"device": "cpu", "chosen": true, "compute": compute, "upload": 0, "refused": null}],
        "reads": [
            {"kind": "value", "node": "blk.0.ffn_gated", "id": 13, "bytes": 8192, "made_on": "cpu", "here": true, "copied": null},
            {"kind": "weight", "name": "blk.0.ffn_down.weight", "dtype": "q4_0", "bytes": 73728, "matrices": [0, 1], "of": 1,
             "homes": ["host"], "streamed": null},
            {"kind": "value", "node": "blk.0.attn_output", "id": 9, "bytes": 4096, "made_on": "cpu", "here": true, "copied": null},
        ],
        "read_by": [{"node": "output_rows", "device": "cpu"}],
        "split": {"id": 0, "of": 1, "nodes": 18, "position": 15, "first": "token_embd", "last": "output"},
        "value": {"offset": 528128, "len": 4096}, "arena": parts.plan.arenas[DeviceId(0)].bytes.0,
    });
    assert_eq!(document, expected);
}

#[test]
fn text_shows_file_metadata_tensors_graph_and_memory() {
    let parts = parts(&one_layer("llama-tiny"), DType::Q8_0);
    let unused = ["blk.9.odd\u{1b}".to_owned()];
    let shown = text(&Report { unused: &unused, ..parts.report() });
    for line in ["file made.gguf", "llama.block_count  ", "blk.0.attn_q.weight", "graph: 18 nodes", "plan: 1 splits"] {
        assert!(shown.contains(line), "no {line:?} in\n{shown}");
    }
    assert!(shown.contains("unused: 1 tensors that no node reads\n  blk.9.odd\\u{1b}\n"), "{shown}");
    assert!(shown.lines().all(|l| l == l.trim_end()), "trailing space");
}

#[test]
fn json_is_one_document_with_the_graph_in_its_file_form() {
    let parts = parts(&one_layer("qwen2-tiny"), DType::Q8_0);
    let document: serde_json::Value = serde_json::from_str(&json(&parts.report())).unwrap();
    assert_eq!(document["metadata"]["general.architecture"], "qwen2");
    assert_eq!(document["metadata"]["tokenizer.ggml.tokens"]["length"], 512);
    assert_eq!(document["tensors"].as_array().unwrap().len(), parts.gguf.tensors().len());
    let graph = Graph::from_json(&document["graph"].to_string()).unwrap();
    assert_eq!(graph.to_json(), parts.graph.to_json());
    assert_eq!(document["plan"]["placements"].as_array().unwrap().len(), graph.len());
}

#[test]
fn dot_has_every_node_and_every_edge() {
    let parts = parts(&one_layer("llama-tiny"), DType::F16);
    let shown = dot(&parts.report());
    assert!(shown.starts_with("digraph model {") && shown.ends_with("}\n"));
    assert_eq!(shown.matches("fillcolor").count(), parts.graph.len());
    let edges: usize = parts.graph.nodes().map(|(_, n)| n.op.node_operands().len()).sum();
    assert_eq!(shown.matches(" -> ").count(), edges);
    assert_eq!(shown.matches('{').count(), shown.matches('}').count());
}

#[test]
fn a_part_that_is_missing_says_why() {
    let parts = parts(&one_layer("llama-tiny"), DType::F16);
    let why = "no \"such\" thing\n".to_owned();
    let report = Report { graph: Err(why.clone()), plan: Err(why.clone()), ..parts.report() };
    assert!(text(&report).contains("no graph: no \"such\" thing\\n\n"));
    assert!(dot(&report).contains("label=\"no \\\"such\\\" thing\""), "{}", dot(&report));
    let document: serde_json::Value = serde_json::from_str(&json(&report)).unwrap();
    assert_eq!(document["graph"]["error"], "no \"such\" thing\n");
    let report = Report { plan: Err(why), ..parts.report() };
    assert!(text(&report).contains("no plan: no "));
    assert!(text(&report).contains("blk.0.attn_q"));
}

/// The report on a file that is no model.
fn of_file(writer: &Writer, format: fn(&Report<'_>) -> String) -> String {
    let mut bytes = Vec::new();
    writer.write_to(&mut bytes, &mut |t, out| out.write_all(&vec![0; t.bytes.index()])).unwrap();
    let gguf = Gguf::from_bytes("made.gguf", bytes).unwrap();
    let machine = Machine::single(BackendKind::Cpu, 2, Bytes(1 << 30));
    let (graph, plan) = (Err("none".to_owned()), Err("none".to_owned()));
    format(&Report { source: Source::File(&gguf), machine: &machine, graph, plan, unused: &[], notes: &[] })
}

#[test]
fn one_long_name_is_no_padding_elsewhere() {
    let mut writer = Writer::new();
    writer.set(&"k".repeat(100_000), 1u32).unwrap();
    for i in 0..1000 {
        writer.set(&format!("key {i}"), i).unwrap();
    }
    writer.add_tensor(&"t".repeat(70_000), DType::F32, Shape::new(&[1]).unwrap()).unwrap();
    writer.add_tensor("u", DType::F32, Shape::new(&[1]).unwrap()).unwrap();
    let shown = of_file(&writer, text);
    assert!(shown.contains(&format!("\n  {}  u32  1\n", "k".repeat(100_000))), "a long key is shown whole");
    assert!(shown.contains(&format!("\n  {}  f32  1  4 B\n", "t".repeat(70_000))), "a long tensor is shown whole");
    let longest = shown.lines().filter(|l| l.len() < 70_000).map(str::len).max();
    assert!(longest < Some(120), "{longest:?}");
}

#[test]
fn json_shows_short_arrays_at_any_depth_and_counts_long_ones() {
    let array = |n: u8| MetaValue::from((0..n).collect::<Vec<_>>());
    let nested = MetaValue::Array(ValueType::Array, vec![array(3), array(64), array(65)]);
    let mut writer = Writer::new();
    writer.set("nested", nested).unwrap().set("f64", 0.1f64).unwrap().set("f32", 0.1f32).unwrap();
    writer.set("nan", f32::NAN).unwrap();
    let document: serde_json::Value = serde_json::from_str(&of_file(&writer, json)).unwrap();
    let metadata = &document["metadata"];
    assert_eq!(metadata["nested"][0], serde_json::json!([0, 1, 2]));
    assert_eq!(metadata["nested"][1].as_array().unwrap().len(), 64);
    assert_eq!(metadata["nested"][2], serde_json::json!({"array_of": "u8", "length": 65}));
    assert_eq!((&metadata["f64"], &metadata["f32"]), (&0.1.into(), &0.1.into()));
    assert_eq!(metadata["nan"], "NaN");
}

#[test]
fn nothing_in_a_name_reaches_a_terminal() {
    assert_eq!(escape("a\u{1b}[2J\n\t\\"), "a\\u{1b}[2J\\n\\t\\\\");
    assert_eq!(
        escape("\u{202e}x\u{2066}\u{200b}\u{feff}\u{9b}\u{7f}"),
        "\\u{202e}x\\u{2066}\\u{200b}\\u{feff}\\u{9b}\\u{7f}"
    );
    assert_eq!(escape("blk.0 äöü 東京 🙂"), "blk.0 äöü 東京 🙂");
    assert_eq!(one_line("a\r\nb \\x"), "a  b \\x");
    assert_eq!(prose("a\r\n\tb\u{1b}[1m\u{202e} 👨\u{200d}👩"), "a\\u{d}\n\tb\\u{1b}[1m\\u{202e} 👨\u{200d}👩");
    let parts = parts(&one_layer("llama-tiny"), DType::F16);
    let odd = ["x\u{7f}\u{9b}\u{202e}\u{e0041}\"".to_owned()];
    let document = json(&Report { unused: &odd, ..parts.report() });
    assert!(document.contains("x\\u007f\\u009b\\u202e\\udb40\\udc41\\\""), "not escaped");
    assert!(!document.contains(['\u{7f}', '\u{9b}', '\u{202e}', '\u{e0041}']));
    let document: serde_json::Value = serde_json::from_str(&document).unwrap();
    assert_eq!(document["unused_tensors"][0], odd[0]);
    let named = ModelShape { name: odd[0].clone(), ..one_layer("llama-tiny") };
    let emitted = shape(&self::parts(&named, DType::F16).gguf);
    assert!(emitted.contains("x\\u007f\\u009b\\u202e") && !emitted.contains(['\u{7f}', '\u{9b}', '\u{202e}']));
}
