//! A report → one JSON document: file, metadata, tensors, graph in its file form, plan, unused tensors.

use serde_json::{Map, Value as Json, json as object};

use super::Report;
use super::escape::json_document;
use crate::gguf::Value;

/// The longest metadata array that is given whole; vocabularies are longer.
const ARRAY_MOST: usize = 64;

/// All of a report, pretty-printed; a part that could not be made is an object with `error`.
pub fn json(report: &Report<'_>) -> String {
    let gguf = report.gguf;
    let files: Vec<Json> = gguf.shards().map(|(name, size)| object!({"name": name, "bytes": size.0})).collect();
    let metadata: Map<String, Json> = gguf.metadata().iter().map(|(key, v)| (key.to_owned(), value(v))).collect();
    let tensors = gguf.tensors().iter().map(|t| {
        object!({"name": t.name, "type": t.dtype.name(), "shape": t.shape.dims(), "bytes": t.bytes.0, "offset": t.offset()})
    });
    let graph = match &report.graph {
        Ok(graph) => serde_json::from_str(&graph.to_json()).unwrap_or(Json::Null),
        Err(why) => object!({"error": why}),
    };
    let plan = match &report.plan {
        Ok(plan) => serde_json::to_value(plan).unwrap_or(Json::Null),
        Err(why) => object!({"error": why}),
    };
    let document = object!({
        "files": files,
        "version": gguf.version(),
        "alignment": gguf.alignment(),
        "metadata": metadata,
        "tensors": tensors.collect::<Vec<_>>(),
        "machine": report.machine,
        "graph": graph,
        "plan": plan,
        "unused_tensors": report.unused,
        "notes": report.notes,
    });
    json_document(&format!("{document:#}\n"))
}

/// A metadata value; of long arrays, also inside others, the type and length alone.
fn value(value: Value<'_>) -> Json {
    match value {
        Value::U8(v) => v.into(),
        Value::I8(v) => v.into(),
        Value::U16(v) => v.into(),
        Value::I16(v) => v.into(),
        Value::U32(v) => v.into(),
        Value::I32(v) => v.into(),
        Value::F32(v) => float(v.into(), &v.to_string()),
        Value::Bool(v) => v.into(),
        Value::Str(v) => v.into(),
        Value::Array(array) if array.len() > ARRAY_MOST => {
            object!({"array_of": array.element().name(), "length": array.len()})
        }
        Value::Array(array) => array.iter().map(self::value).collect::<Vec<_>>().into(),
        Value::U64(v) => v.into(),
        Value::I64(v) => v.into(),
        Value::F64(v) => float(v, &v.to_string()),
    }
}

/// A float by its shortest decimal form; JSON has no infinities, so those are text.
fn float(value: f64, shortest: &str) -> Json {
    match (value.is_finite(), shortest.parse::<f64>()) {
        (true, Ok(value)) => value.into(),
        _ => shortest.into(),
    }
}
