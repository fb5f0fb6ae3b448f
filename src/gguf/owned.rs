//! Metadata values that own their text and arrays: what a writer takes, built from Rust values or from a file's; and
//! their JSON form.

use super::value::{Value, ValueType};

/// A metadata value to write.
#[derive(Clone, Debug, PartialEq)]
#[allow(missing_docs, reason = "the variants are the format's own names")]
pub enum MetaValue {
    U8(u8),
    I8(i8),
    U16(u16),
    I16(i16),
    U32(u32),
    I32(i32),
    F32(f32),
    Bool(bool),
    Str(String),
    /// The elements' type and the elements, all of that type.
    Array(ValueType, Vec<MetaValue>),
    U64(u64),
    I64(i64),
    F64(f64),
}

impl MetaValue {
    /// The value's type.
    pub const fn kind(&self) -> ValueType {
        match self {
            MetaValue::U8(_) => ValueType::U8,
            MetaValue::I8(_) => ValueType::I8,
            MetaValue::U16(_) => ValueType::U16,
            MetaValue::I16(_) => ValueType::I16,
            MetaValue::U32(_) => ValueType::U32,
            MetaValue::I32(_) => ValueType::I32,
            MetaValue::F32(_) => ValueType::F32,
            MetaValue::Bool(_) => ValueType::Bool,
            MetaValue::Str(_) => ValueType::Str,
            MetaValue::Array(..) => ValueType::Array,
            MetaValue::U64(_) => ValueType::U64,
            MetaValue::I64(_) => ValueType::I64,
            MetaValue::F64(_) => ValueType::F64,
        }
    }

    /// The value in JSON: floats by their shortest decimal form, those that are not finite as text.
    pub fn to_json(&self) -> serde_json::Value {
        match self {
            MetaValue::U8(v) => (*v).into(),
            MetaValue::I8(v) => (*v).into(),
            MetaValue::U16(v) => (*v).into(),
            MetaValue::I16(v) => (*v).into(),
            MetaValue::U32(v) => (*v).into(),
            MetaValue::I32(v) => (*v).into(),
            MetaValue::F32(v) => json_float(&v.to_string()),
            MetaValue::Bool(v) => (*v).into(),
            MetaValue::Str(v) => v.as_str().into(),
            MetaValue::Array(_, values) => values.iter().map(MetaValue::to_json).collect::<Vec<_>>().into(),
            MetaValue::U64(v) => (*v).into(),
            MetaValue::I64(v) => (*v).into(),
            MetaValue::F64(v) => json_float(&v.to_string()),
        }
    }

    /// Appends the bytes of the value, without its type.
    pub(super) fn encode(&self, out: &mut Vec<u8>) {
        match self {
            MetaValue::U8(v) => out.extend(v.to_le_bytes()),
            MetaValue::I8(v) => out.extend(v.to_le_bytes()),
            MetaValue::U16(v) => out.extend(v.to_le_bytes()),
            MetaValue::I16(v) => out.extend(v.to_le_bytes()),
            MetaValue::U32(v) => out.extend(v.to_le_bytes()),
            MetaValue::I32(v) => out.extend(v.to_le_bytes()),
            MetaValue::F32(v) => out.extend(v.to_le_bytes()),
            MetaValue::Bool(v) => out.push(u8::from(*v)),
            MetaValue::Str(v) => encode_text(v, out),
            MetaValue::Array(element, values) => {
                out.extend(element.id().to_le_bytes());
                out.extend((values.len() as u64).to_le_bytes());
                values.iter().for_each(|v| v.encode(out));
            }
            MetaValue::U64(v) => out.extend(v.to_le_bytes()),
            MetaValue::I64(v) => out.extend(v.to_le_bytes()),
            MetaValue::F64(v) => out.extend(v.to_le_bytes()),
        }
    }
}

/// A float of this decimal form; JSON has no infinities, so those stay text.
fn json_float(shortest: &str) -> serde_json::Value {
    match shortest.parse::<f64>() {
        Ok(value) if value.is_finite() => value.into(),
        Ok(_) | Err(_) => shortest.into(),
    }
}

/// Appends a length of 64 bits and the text.
pub(super) fn encode_text(text: &str, out: &mut Vec<u8>) {
    out.extend((text.len() as u64).to_le_bytes());
    out.extend(text.as_bytes());
}

impl From<Value<'_>> for MetaValue {
    fn from(value: Value<'_>) -> MetaValue {
        match value {
            Value::U8(v) => v.into(),
            Value::I8(v) => v.into(),
            Value::U16(v) => v.into(),
            Value::I16(v) => v.into(),
            Value::U32(v) => v.into(),
            Value::I32(v) => v.into(),
            Value::F32(v) => v.into(),
            Value::Bool(v) => v.into(),
            Value::Str(v) => v.into(),
            Value::Array(v) => MetaValue::Array(v.element(), v.iter().map(MetaValue::from).collect()),
            Value::U64(v) => v.into(),
            Value::I64(v) => v.into(),
            Value::F64(v) => v.into(),
        }
    }
}

macro_rules! from_rust {
    ($($rust:ty => $variant:ident),+ $(,)?) => {$(
        impl From<$rust> for MetaValue {
            fn from(v: $rust) -> MetaValue {
                MetaValue::$variant(v.into())
            }
        }

        impl From<Vec<$rust>> for MetaValue {
            fn from(values: Vec<$rust>) -> MetaValue {
                MetaValue::Array(ValueType::$variant, values.into_iter().map(MetaValue::from).collect())
            }
        }
    )+};
}

from_rust!(
    u8 => U8, i8 => I8, u16 => U16, i16 => I16, u32 => U32, i32 => I32, u64 => U64, i64 => I64,
    f32 => F32, f64 => F64, bool => Bool, String => Str, &str => Str,
);
