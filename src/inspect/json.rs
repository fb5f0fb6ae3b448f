//! A report → one JSON document: file, metadata, tensors, graph in its file form, plan, unused tensors.

use serde_json::{Map, Value as Json, json as object};

use super::Report;
use super::escape::json_document;
use crate::gguf::{Gguf, MetaValue, Value};
use crate::models::ShapeFile;

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

/// A model file's shape file: everything but weights and tokenizer.
pub fn shape(gguf: &Gguf) -> String {
    json_document(&ShapeFile::from_gguf(gguf).to_json())
}

/// A metadata value; of long arrays, also inside others, the type and length alone.
fn value(value: Value<'_>) -> Json {
    match value {
        Value::Array(array) if array.len() > ARRAY_MOST => {
            object!({"array_of": array.element().name(), "length": array.len()})
        }
        Value::Array(array) => array.iter().map(self::value).collect::<Vec<_>>().into(),
        scalar => MetaValue::from(scalar).to_json(),
    }
}
