//! What deepseek2 refuses: files that do not hold together, and graphs whose latent attention or routing does not fit.

use loadmaster::graph::{Batch, Graph};
use loadmaster::models::{CacheSpec, Model, ModelError, ShapeFile};
use loadmaster::synth::{Synth, named};
use loadmaster::tensor::DType;
use loadmaster::units::Tokens;
use serde_json::{Value, json};

const CACHE: CacheSpec = CacheSpec { cells: Tokens(64), keys: DType::F16, values: DType::F16, sliding: None };
const BATCH: Batch = Batch { tokens: Tokens(4), outputs: Tokens(1) };

/// The shape file of the tiny model, as text to be changed.
fn text() -> String {
    let bytes = Synth::new(&named("deepseek2-tiny").unwrap(), DType::Q8_0, 1).unwrap().to_bytes().unwrap();
    let gguf = loadmaster::gguf::Gguf::from_bytes("tiny.gguf", bytes).unwrap();
    ShapeFile::from_gguf(&gguf).to_json()
}

fn model(text: &str) -> Result<Model, ModelError> {
    Model::from_shape(&ShapeFile::parse("tiny.json", text).unwrap())
}

#[test]
fn files_that_do_not_hold_together_are_refused_by_key() {
    let cases = [
        ("attention.key_length\": 80", "attention.key_length\": 82", "kv_lora_rank plus rotated elements: 80"),
        ("attention.value_length\": 64", "attention.value_length\": 63", "needed kv_lora_rank: 64"),
        ("head_count_kv\": 1", "head_count_kv\": 2", "head_count_kv is 2, needed 1 for latent attention"),
        ("key_length_mla\": 48", "key_length_mla\": 16", "key_length_mla is 16, needed more than the 16 rotated"),
        ("value_length_mla\": 32", "value_length_mla\": 0", "value_length_mla is 0, needed at least 1"),
        ("value_length_mla\": 32", "value_length_mla\": 4000000000", "short enough for 2^32"),
        ("kv_lora_rank\": 64", "kv_lora_rank\": 0", "kv_lora_rank is 0"),
        ("gating_func\": 2", "gating_func\": 7", "expert_gating_func is 7, needed 1 (softmax) or 2 (sigmoid)"),
        ("group_count\": 4", "group_count\": 5", "expert_group_count is 5, needed a divisor of the 16 experts"),
        ("group_count\": 4", "group_count\": 16", "leaves two a group"),
        ("group_used_count\": 2", "group_used_count\": 5", "needed at most 4, with at least 4 experts"),
        ("expert_used_count\": 4", "expert_used_count\": 9", "expert_group_used_count is 2"),
        ("shared_count\": 1", "shared_count\": 4294967295", "few enough for 2^32 hidden elements"),
        ("log_multiplier\": 0.1", "log_multiplier\": 3e38", "yarn_log_multiplier is "),
        ("norm\": true", "norm\": 1", "expert_weights_norm"),
        ("\"deepseek2.block_count\"", "\"deepseek2.nextn_predict_layers\": 3, \"deepseek2.block_count\"", "fewer than"),
        (
            "\"deepseek2.block_count\"",
            "\"deepseek2.attention.temperature_scale\": 0.5, \"deepseek2.block_count\"",
            "needed 0",
        ),
    ];
    let good = text();
    for (from, to, why) in cases {
        assert!(good.contains(from), "{from}");
        let error = model(&good.replacen(from, to, 1)).map(|_| ()).unwrap_err().to_string();
        assert!(error.contains(why), "{error}\nneeded {why}");
    }
}

#[test]
fn the_form_of_older_converters_is_named() {
    let good = text();
    let without = good.replace("  \"deepseek2.attention.key_length_mla\": 48,\n", "").replace("attn_k_b", "attn_kv_b");
    let error = model(&without).map(|_| ()).unwrap_err().to_string();
    let why = "tiny.json: tensor blk.0.attn_k_b.weight is needed and missing; there is blk.0.attn_kv_b.weight instead";
    assert!(error.starts_with(why) && error.ends_with("convert the model again"), "{error}");
}

#[test]
fn layers_that_predict_further_tokens_are_left_out() {
    let (from, more) =
        ("\"deepseek2.block_count\"", "\"deepseek2.nextn_predict_layers\": 1, \"deepseek2.block_count\"");
    let model = model(&text().replacen(from, more, 1)).unwrap();
    assert_eq!(model.hparams().layers, 2);
    let unused = model.unused_tensors().unwrap();
    assert!(unused.len() == 18 && unused.iter().all(|name| name.starts_with("blk.2.")), "{unused:?}");
}

/// The graph file of the tiny model.
fn graph() -> Value {
    let json = model(&text()).unwrap().graph(BATCH, CACHE).unwrap().to_json();
    serde_json::from_str(&json).unwrap()
}

#[test]
fn graph_files_keep_what_latent_layers_have() {
    let text = model(&text()).unwrap().graph(BATCH, CACHE).unwrap().to_json();
    assert_eq!(Graph::from_json(&text).unwrap().to_json(), text);
    for part in ["\"prefix\": 64", "\"offset\": 64", "\"carried\": 16", "\"head_matmul\"", "\"sigmoid\"", "\"shared\""]
    {
        assert!(text.contains(part), "{part}");
    }
}

#[test]
fn graphs_whose_attributes_do_not_fit_are_refused_by_node() {
    let cases = [
        ("attn_kv_a_norm", "/norm/carried", json!(80), "carried elements 80 is out of range"),
        ("attn_kv_a_norm", "/norm/carried", json!(17), "norm weight elements must be 63, found 64"),
        ("rope_k", "/rope/offset", json!(66), "offset 66 is out of range"),
        ("attn_k_b", "/head_matmul/carried", json!(15), "columns of x must be 1880, found 1920"),
        ("attn_k_b", "/head_matmul/carried", json!(4294967295u32), "columns of x must be 0"),
        ("attention", "/attention/values/prefix", json!(81), "prefix of the keys 81 is out of range"),
        ("attention", "/attention/values/prefix", json!(0), "attention columns 0 is out of range"),
        ("ffn_route", "/moe/route/groups/count", json!(3), "logits of 16 columns is no whole number of 3"),
        ("ffn_route", "/moe/route/groups/count", json!(16), "experts a group 1 is out of range"),
        ("ffn_route", "/moe/route/groups/used", json!(5), "groups used 5 is out of range"),
        ("ffn_route", "/moe/route/groups/used", json!(0), "groups used 0 is out of range"),
        ("ffn_route", "/moe/route/bias", json!(0), "selection biases must be 16"),
        ("ffn_combine", "/moe/combine/shared", json!(2), "columns of the residual must be"),
    ];
    for (name, at, value, why) in cases {
        let mut file = graph();
        let nodes = file["nodes"].as_array_mut().unwrap();
        let node = nodes.iter_mut().find(|n| n["name"] == format!("blk.1.{name}")).unwrap();
        *node["op"].pointer_mut(at).unwrap_or_else(|| panic!("{name} {at}")) = value;
        let error = Graph::from_json(&file.to_string()).map(|_| ()).unwrap_err().to_string();
        assert!(error.contains(&format!("blk.1.{name}: {why}")), "{error}\nneeded {why}");
    }
}

#[test]
fn a_write_has_values_and_their_state_or_neither() {
    let mut file = graph();
    let nodes = file["nodes"].as_array_mut().unwrap();
    let node = nodes.iter_mut().find(|n| n["name"] == "blk.0.cache").unwrap();
    let k = node["op"]["cache"]["k"].clone();
    node["op"]["cache"]["v"] = k;
    let error = Graph::from_json(&file.to_string()).map(|_| ()).unwrap_err().to_string();
    assert!(error.contains("blk.0.cache: values to write must be 0, found 1"), "{error}");
}
