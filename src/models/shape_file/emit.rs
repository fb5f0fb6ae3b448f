//! A GGUF file → a shape file → JSON text, an entry a line, tensors of the same name and shape in all layers together.

use serde_json::{Map, Value as Json, json};

use super::{FORMAT, LAYER, MOST_LAYERS, ShapeFile, ShapeTensor, VERSION, layers};
use crate::gguf::{Gguf, MetaValue};
use crate::tensor::{DType, Shape};

/// Starts of keys that say nothing about the graph, or that only hold for the file they are in.
const LEFT_OUT: [&str; 3] = ["tokenizer.", "split.", "general.alignment"];

/// Tensors that one line describes.
struct Group {
    /// The name, with `*` for the layer.
    name: String,
    shape: Shape,
    /// Types and their layers; a tensor outside of layers has none.
    types: Vec<(DType, Vec<u32>)>,
}

impl ShapeFile {
    /// The metadata (without tokenizer) and the tensors of a model file.
    pub fn from_gguf(gguf: &Gguf) -> ShapeFile {
        let file = gguf.shards().next().map_or_else(String::new, |(name, _)| name.to_owned());
        let kept = |key: &str| !LEFT_OUT.iter().any(|start| key.starts_with(start));
        let metadata = gguf.metadata().iter().filter(|(key, _)| kept(key));
        let tensors = gguf.tensors().iter();
        ShapeFile {
            file,
            about: String::new(),
            metadata: metadata.map(|(key, value)| (key.to_owned(), MetaValue::from(value))).collect(),
            tensors: tensors.map(|t| ShapeTensor { name: t.name.clone(), dtype: t.dtype, shape: t.shape }).collect(),
        }
    }

    /// The JSON form; the same shape gives the same bytes.
    pub fn to_json(&self) -> String {
        let metadata = self.metadata.iter().map(|(key, value)| format!("  {}: {}", quoted(key), value.to_json()));
        let tensors = groups(&self.tensors).into_iter().map(|group| format!("  {}", group.to_json()));
        let about =
            if self.about.is_empty() { String::new() } else { format!(" \"about\": {},\n", quoted(&self.about)) };
        format!(
            "{{\n \"format\": \"{FORMAT}\",\n \"version\": {VERSION},\n{about} \"metadata\": {{\n{}\n }},\n \"tensors\": [\n{}\n ]\n}}\n",
            metadata.collect::<Vec<_>>().join(",\n"),
            tensors.collect::<Vec<_>>().join(",\n"),
        )
    }
}

impl Group {
    fn to_json(&self) -> String {
        let (name, shape) = (quoted(&self.name), json!(self.shape.dims()));
        match self.types.as_slice() {
            [(dtype, layers)] if layers.is_empty() => {
                format!("{{\"name\": {name}, \"shape\": {shape}, \"type\": \"{dtype}\"}}")
            }
            types => {
                let types = types.iter().map(|(dtype, list)| (dtype.to_string(), layers::write(list).into()));
                let types = Json::Object(types.collect::<Map<_, _>>());
                format!("{{\"name\": {name}, \"shape\": {shape}, \"types\": {types}}}")
            }
        }
    }
}

/// In the order in which a name and shape is first seen.
fn groups(tensors: &[ShapeTensor]) -> Vec<Group> {
    let mut groups: Vec<Group> = Vec::new();
    let mut known = std::collections::HashMap::new();
    for tensor in tensors {
        let (name, layer) = match in_layer(&tensor.name) {
            Some((layer, part)) => (format!("{LAYER}*.{part}"), Some(layer)),
            None => (tensor.name.clone(), None),
        };
        let group = *known.entry((name.clone(), layer.is_some(), tensor.shape)).or_insert_with(|| {
            groups.push(Group { name, shape: tensor.shape, types: Vec::new() });
            groups.len() - 1
        });
        let types = &mut groups[group].types;
        let at = types.iter().position(|(dtype, _)| *dtype == tensor.dtype).unwrap_or_else(|| {
            types.push((tensor.dtype, Vec::new()));
            types.len() - 1
        });
        types[at].1.extend(layer);
    }
    groups.iter_mut().flat_map(|group| &mut group.types).for_each(|(_, layers)| layers.sort_unstable());
    groups
}

/// The layer of a tensor, and its name there.
fn in_layer(name: &str) -> Option<(u32, &str)> {
    let (layer, part) = name.strip_prefix(LAYER)?.split_once('.')?;
    let layer = layers::number(layer).filter(|&layer| layer < MOST_LAYERS)?;
    Some((layer, part))
}

fn quoted(text: &str) -> String {
    Json::from(text).to_string()
}
