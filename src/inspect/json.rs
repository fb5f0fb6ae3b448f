//! A report → one JSON document: file, metadata, tensors, graph in its file form, homes, policy, plan.

use serde_json::{Map, Value as Json, json as object};

use super::cache::CachePages;
use super::escape::json_document;
use super::{Report, Source};
use crate::gguf::{Gguf, MetaValue, Value};
use crate::models::ShapeFile;

/// The longest metadata array that is given whole; vocabularies are longer.
const ARRAY_MOST: usize = 64;

/// All of a report, pretty-printed; a part that could not be made is an object with `error`.
///
/// `graph`, `machine`, `homes`, `policy` and `plan` together are a saved plan, which [`Saved`](super::Saved) reads.
pub fn json(report: &Report<'_>) -> String {
    let mut document = match report.source {
        Source::File(gguf) => file(gguf),
        Source::Shape(shape) => shape_file(shape),
    };
    let cache = report.graph.as_ref().map_or(Json::Null, |graph| object!(CachePages::of(graph)));
    let graph = match &report.graph {
        Ok(graph) => serde_json::from_str(&graph.to_json()).unwrap_or(Json::Null),
        Err(why) => object!({"error": why}),
    };
    let (homes, policy, plan) = match &report.plan {
        Ok(planned) => (object!(planned.homes), object!(planned.policy), object!(planned.plan)),
        Err(why) => (Json::Null, Json::Null, object!({"error": why})),
    };
    let parts = [
        ("machine", object!(report.machine)),
        ("graph", graph),
        ("homes", homes),
        ("policy", policy),
        ("plan", plan),
        ("cache", cache),
        ("unused_tensors", object!(report.unused)),
        ("notes", object!(report.notes)),
    ];
    document.extend(parts.map(|(name, part)| (name.to_owned(), part)));
    json_document(&format!("{:#}\n", Json::Object(document)))
}

fn file(gguf: &Gguf) -> Map<String, Json> {
    let files: Vec<Json> = gguf.shards().map(|(name, size)| object!({"name": name, "bytes": size.0})).collect();
    let metadata: Map<String, Json> = gguf.metadata().iter().map(|(key, v)| (key.to_owned(), value(v))).collect();
    let tensors = gguf.tensors().iter().map(|t| {
        object!({"name": t.name, "type": t.dtype.name(), "shape": t.shape.dims(), "bytes": t.bytes.0, "offset": t.offset()})
    });
    let parts = [
        ("files", files.into()),
        ("version", gguf.version().into()),
        ("alignment", gguf.alignment().into()),
        ("metadata", metadata.into()),
        ("tensors", tensors.collect()),
    ];
    parts.into_iter().map(|(name, part)| (name.to_owned(), part)).collect()
}

fn shape_file(shape: &ShapeFile) -> Map<String, Json> {
    let metadata: Map<String, Json> = shape.metadata().iter().map(|(key, v)| (key.clone(), v.to_json())).collect();
    let tensors = shape
        .tensors()
        .iter()
        .map(|t| object!({"name": t.name, "type": t.dtype.name(), "shape": t.shape.dims(), "bytes": t.bytes().0}));
    let parts = [
        ("shape", shape.file().into()),
        ("about", shape.about().into()),
        ("metadata", metadata.into()),
        ("tensors", tensors.collect()),
    ];
    parts.into_iter().map(|(name, part)| (name.to_owned(), part)).collect()
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
