//! JSON text → a shape file, every number checked; a message names the field, what was needed and what was found.

use std::collections::{BTreeMap, HashSet};
use std::fmt;

use serde::de::{Deserialize, Deserializer, MapAccess, Visitor};
use serde_json::Value as Json;

use super::{FORMAT, LAYER, MOST_LAYERS, MOST_TENSORS, ShapeFile, ShapeFileError, ShapeTensor, VERSION, layers};
use crate::gguf::{MetaValue, ValueType};
use crate::tensor::{DType, Shape};

#[derive(serde::Deserialize)]
#[serde(deny_unknown_fields)]
struct Document {
    format: String,
    version: u32,
    #[serde(default)]
    about: String,
    metadata: Entries<Json>,
    tensors: Vec<Entry>,
}

#[derive(serde::Deserialize)]
#[serde(deny_unknown_fields)]
struct Entry {
    name: String,
    shape: Vec<u64>,
    #[serde(rename = "type")]
    dtype: Option<DType>,
    types: Option<Entries<String>>,
}

/// The members of a JSON object in their order, also those that are there twice.
struct Entries<T>(Vec<(String, T)>);

impl<'de, T: Deserialize<'de>> Deserialize<'de> for Entries<T> {
    fn deserialize<D: Deserializer<'de>>(d: D) -> Result<Self, D::Error> {
        struct Members<T>(std::marker::PhantomData<T>);
        impl<'de, T: Deserialize<'de>> Visitor<'de> for Members<T> {
            type Value = Entries<T>;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an object")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Entries<T>, A::Error> {
                let mut members = Vec::new();
                while let Some(member) = map.next_entry()? {
                    members.push(member);
                }
                Ok(Entries(members))
            }
        }
        d.deserialize_map(Members(std::marker::PhantomData))
    }
}

impl ShapeFile {
    /// Reads the text of a shape file; `file` is what messages call it.
    ///
    /// # Errors
    /// The text is no JSON of this form, or a field does not make sense.
    pub fn parse(file: &str, text: &str) -> Result<ShapeFile, ShapeFileError> {
        let json = |source| ShapeFileError::Json { file: file.into(), source };
        let document: Document = serde_json::from_str(text).map_err(json)?;
        let reader = Reader { file };
        reader.check("format", FORMAT, &document.format, document.format == FORMAT)?;
        let version = document.version;
        reader.check("version", &VERSION.to_string(), &version.to_string(), version == VERSION)?;
        let metadata = document.metadata.0.into_iter();
        let metadata = metadata.map(|(key, value)| Ok((key.clone(), reader.value(&key, value)?)));
        let shape = ShapeFile {
            file: file.into(),
            about: document.about,
            metadata: metadata.collect::<Result<_, ShapeFileError>>()?,
            tensors: reader.tensors(document.tensors)?,
        };
        shape.header()?;
        Ok(shape)
    }
}

struct Reader<'a> {
    file: &'a str,
}

impl Reader<'_> {
    fn value(&self, key: &str, value: Json) -> Result<MetaValue, ShapeFileError> {
        let found = value.to_string();
        let read = match value {
            Json::Array(values) => array(values),
            scalar => self::scalar(scalar),
        };
        let needed = "a number, text, a truth value, or an array of one kind of these";
        read.ok_or_else(|| self.field(&format!("metadata {key}"), needed, &found))
    }

    fn tensors(&self, entries: Vec<Entry>) -> Result<Vec<ShapeTensor>, ShapeFileError> {
        let (mut tensors, mut names) = (Vec::new(), HashSet::new());
        for (i, entry) in entries.into_iter().enumerate() {
            for tensor in self.entry(&format!("tensors[{i}]"), entry)? {
                if !names.insert(tensor.name.clone()) {
                    return Err(self.field(&format!("tensors[{i}]"), "a tensor that is not there yet", &tensor.name));
                }
                tensors.push(tensor);
            }
            let (most, found) = (MOST_TENSORS.to_string(), tensors.len());
            self.check("tensors", &format!("at most {most}"), &found.to_string(), found <= MOST_TENSORS)?;
        }
        Ok(tensors)
    }

    /// The tensor of an entry, or one a layer.
    fn entry(&self, field: &str, entry: Entry) -> Result<Vec<ShapeTensor>, ShapeFileError> {
        let Entry { name, shape: dims, dtype, types } = entry;
        let at = format!("{field} {name}");
        let shape = Shape::new(&dims);
        let shape = shape.map_err(|e| self.field(&format!("{at}: shape"), &e.to_string(), &format!("{dims:?}")))?;
        match (dtype, types) {
            (Some(dtype), None) => Ok(vec![self.tensor(&at, name, dtype, shape)?]),
            (None, Some(types)) => self.layers(&at, &name, shape, types),
            (Some(_), Some(_)) => Err(self.field(&at, "either type or types", "both")),
            (None, None) => Err(self.field(&at, "either type or types", "neither")),
        }
    }

    fn layers(
        &self,
        at: &str,
        name: &str,
        shape: Shape,
        types: Entries<String>,
    ) -> Result<Vec<ShapeTensor>, ShapeFileError> {
        let part = name.strip_prefix(LAYER).and_then(|rest| rest.strip_prefix("*."));
        let part = part.ok_or_else(|| self.field(&format!("{at}: name"), "blk.*. and a name, for types", name))?;
        let mut tensors = BTreeMap::new();
        for (dtype, list) in types.0 {
            let field = format!("{at}: types.{dtype}");
            let known = DType::from_name(&dtype);
            let known = known.ok_or_else(|| self.field(&format!("{at}: types"), "names of tensor types", &dtype))?;
            let needed = format!("ascending layers below {MOST_LAYERS}, such as 0-7,10");
            let layers = layers::read(&list).ok_or_else(|| self.field(&field, &needed, &format!("{list:?}")))?;
            for layer in layers {
                let tensor = self.tensor(at, format!("{LAYER}{layer}.{part}"), known, shape)?;
                if tensors.insert(layer, tensor).is_some() {
                    return Err(self.field(&field, "layers that are not there yet", &layer.to_string()));
                }
            }
        }
        Ok(tensors.into_values().collect())
    }

    fn tensor(&self, at: &str, name: String, dtype: DType, shape: Shape) -> Result<ShapeTensor, ShapeFileError> {
        let row = dtype.row_bytes(shape.row_len());
        let bytes = row.and_then(|row| row.0.checked_mul(shape.rows())).filter(|&bytes| bytes < 1 << 62);
        let (block, dims) = (dtype.block().elements, format!("{:?}", shape.dims()));
        let needed = format!("rows of whole blocks of {block} elements of {dtype}, in less than 2^62 bytes");
        self.check(&format!("{at}: shape"), &needed, &dims, bytes.is_some())?;
        Ok(ShapeTensor { name, dtype, shape })
    }

    fn check(&self, field: &str, needed: &str, found: &str, holds: bool) -> Result<(), ShapeFileError> {
        if holds { Ok(()) } else { Err(self.field(field, needed, found)) }
    }

    fn field(&self, field: &str, needed: &str, found: &str) -> ShapeFileError {
        let (file, field) = (self.file.to_owned(), field.to_owned());
        ShapeFileError::Field { file, field, needed: needed.to_owned(), found: found.to_owned() }
    }
}

/// Integers become the narrowest of the format's wider types, floats single precision.
fn scalar(value: Json) -> Option<MetaValue> {
    match value {
        Json::Bool(v) => Some(v.into()),
        Json::String(v) => Some(v.into()),
        Json::Number(n) => match (n.as_u64(), n.as_i64(), n.as_f64()) {
            (Some(v), ..) => Some(u32::try_from(v).map_or(MetaValue::U64(v), MetaValue::U32)),
            (None, Some(v), _) => Some(i32::try_from(v).map_or(MetaValue::I64(v), MetaValue::I32)),
            (None, None, Some(v)) => Some(MetaValue::F32(v as f32)),
            (None, None, None) => None,
        },
        Json::Null | Json::Array(_) | Json::Object(_) => None,
    }
}

/// Elements of one kind; whole numbers of unlike sizes are all of 64 bits.
fn array(values: Vec<Json>) -> Option<MetaValue> {
    let wide: Option<Vec<i64>> = values.iter().map(Json::as_i64).collect();
    let values: Vec<MetaValue> = values.into_iter().map(scalar).collect::<Option<_>>()?;
    let kind = values.first().map_or(ValueType::U32, MetaValue::kind);
    if values.iter().all(|v| v.kind() == kind) {
        return Some(MetaValue::Array(kind, values));
    }
    wide.map(MetaValue::from)
}
