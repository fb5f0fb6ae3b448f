//! Metadata values: bytes of a file to typed values that borrow them, arrays included, and to a short text.
//! One parser serves both the check of a whole file at opening and every later access, so that a file which changes
//! behind its map gives an absent value, never a panic. Never copies text.

use std::fmt::{self, Display};

use super::GgufError;
use super::cursor::Cursor;

/// The deepest nesting of arrays that is read; the format sets no bound, its known writers use one level.
pub(super) const MAX_NESTING: u32 = 8;

macro_rules! value_types {
    ($($name:ident = $id:literal, $text:literal, $least:literal;)+) => {
        /// The type of a metadata value, in the order of the format's ids.
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        #[allow(missing_docs, reason = "the variants are the format's own names")]
        pub enum ValueType { $($name = $id,)+ }

        impl ValueType {
            /// All types, in the order of their ids.
            pub const ALL: &[ValueType] = &[$(ValueType::$name,)+];

            /// The type of an id.
            pub const fn from_id(id: u32) -> Option<ValueType> {
                match id { $($id => Some(ValueType::$name),)+ _ => None }
            }

            /// The id in files.
            pub const fn id(self) -> u32 {
                self as u32
            }

            /// A short name.
            pub const fn name(self) -> &'static str {
                match self { $(ValueType::$name => $text,)+ }
            }

            /// The fewest bytes of a value: its size where that is fixed.
            const fn least_bytes(self) -> u64 {
                match self { $(ValueType::$name => $least,)+ }
            }
        }
    };
}

// `enum gguf_metadata_value_type` of the GGUF specification.
value_types! {
    U8 = 0, "u8", 1;
    I8 = 1, "i8", 1;
    U16 = 2, "u16", 2;
    I16 = 3, "i16", 2;
    U32 = 4, "u32", 4;
    I32 = 5, "i32", 4;
    F32 = 6, "f32", 4;
    Bool = 7, "bool", 1;
    Str = 8, "str", 8;
    Array = 9, "array", 12;
    U64 = 10, "u64", 8;
    I64 = 11, "i64", 8;
    F64 = 12, "f64", 8;
}

/// A metadata value; text and arrays borrow the file.
#[derive(Clone, Copy, Debug, PartialEq)]
#[allow(missing_docs, reason = "the variants are the format's own names")]
pub enum Value<'a> {
    U8(u8),
    I8(i8),
    U16(u16),
    I16(i16),
    U32(u32),
    I32(i32),
    F32(f32),
    Bool(bool),
    Str(&'a str),
    Array(Array<'a>),
    U64(u64),
    I64(i64),
    F64(f64),
}

/// An array of values of one type, maybe of arrays.
#[derive(Clone, Copy)]
pub struct Array<'a> {
    element: ValueType,
    len: usize,
    /// The elements, one after the other.
    bytes: &'a [u8],
    depth: u32,
}

/// An array of texts with quick access to each.
#[derive(Clone)]
pub struct Strings<'a> {
    array: Array<'a>,
    /// Where every `STRIDE`th text starts.
    marks: Vec<usize>,
}

/// Texts between two marks of a [`Strings`].
const STRIDE: usize = 32;

/// Elements of an array, in order.
#[derive(Clone)]
pub struct Values<'a> {
    cursor: Cursor<'a>,
    element: ValueType,
    left: usize,
    depth: u32,
}

impl<'a> Value<'a> {
    /// The value's type.
    pub const fn kind(&self) -> ValueType {
        match self {
            Value::U8(_) => ValueType::U8,
            Value::I8(_) => ValueType::I8,
            Value::U16(_) => ValueType::U16,
            Value::I16(_) => ValueType::I16,
            Value::U32(_) => ValueType::U32,
            Value::I32(_) => ValueType::I32,
            Value::F32(_) => ValueType::F32,
            Value::Bool(_) => ValueType::Bool,
            Value::Str(_) => ValueType::Str,
            Value::Array(_) => ValueType::Array,
            Value::U64(_) => ValueType::U64,
            Value::I64(_) => ValueType::I64,
            Value::F64(_) => ValueType::F64,
        }
    }

    /// The number of any integer type.
    pub const fn as_integer(&self) -> Option<i128> {
        match *self {
            Value::U8(v) => Some(v as i128),
            Value::I8(v) => Some(v as i128),
            Value::U16(v) => Some(v as i128),
            Value::I16(v) => Some(v as i128),
            Value::U32(v) => Some(v as i128),
            Value::I32(v) => Some(v as i128),
            Value::U64(v) => Some(v as i128),
            Value::I64(v) => Some(v as i128),
            Value::F32(_) | Value::F64(_) | Value::Bool(_) | Value::Str(_) | Value::Array(_) => None,
        }
    }

    /// The number of either float type, in single precision.
    pub const fn as_f32(&self) -> Option<f32> {
        match *self {
            Value::F32(v) => Some(v),
            Value::F64(v) => Some(v as f32),
            Value::U8(_) | Value::I8(_) | Value::U16(_) | Value::I16(_) | Value::U32(_) | Value::I32(_) => None,
            Value::U64(_) | Value::I64(_) | Value::Bool(_) | Value::Str(_) | Value::Array(_) => None,
        }
    }

    /// The truth value.
    pub const fn as_bool(&self) -> Option<bool> {
        if let Value::Bool(v) = self { Some(*v) } else { None }
    }

    /// The text.
    pub const fn as_str(&self) -> Option<&'a str> {
        if let Value::Str(v) = self { Some(v) } else { None }
    }

    /// The array.
    pub const fn as_array(&self) -> Option<Array<'a>> {
        if let Value::Array(v) = self { Some(*v) } else { None }
    }

    /// Reads a type id and a value of that type, checking all of it.
    pub(super) fn read(cursor: &mut Cursor<'a>, field: &dyn Display) -> Result<Value<'a>, GgufError> {
        let kind = read_type(cursor, field)?;
        read_value(cursor, kind, field, 0)
    }
}

impl<'a> Array<'a> {
    /// The elements' type.
    pub const fn element(&self) -> ValueType {
        self.element
    }

    /// The number of elements.
    pub const fn len(&self) -> usize {
        self.len
    }

    /// Whether there are no elements.
    pub const fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// The elements, in order.
    pub fn iter(&self) -> Values<'a> {
        Values { cursor: Cursor::new("", self.bytes, 0), element: self.element, left: self.len, depth: self.depth }
    }

    /// The array as texts, or `None` where it holds something else.
    pub fn strings(self) -> Option<Strings<'a>> {
        if self.element != ValueType::Str {
            return None;
        }
        let mut marks = Vec::with_capacity(self.len.div_ceil(STRIDE));
        let mut values = self.iter();
        for i in 0..self.len {
            if i.is_multiple_of(STRIDE) {
                marks.push(values.cursor.at());
            }
            values.next()?;
        }
        Some(Strings { array: self, marks })
    }
}

impl<'a> Strings<'a> {
    /// The number of texts.
    pub const fn len(&self) -> usize {
        self.array.len
    }

    /// Whether there are no texts.
    pub const fn is_empty(&self) -> bool {
        self.array.len == 0
    }

    /// Text `i`, in constant time.
    pub fn get(&self, i: usize) -> Option<&'a str> {
        if i >= self.len() {
            return None;
        }
        let cursor = Cursor::new("", self.array.bytes, *self.marks.get(i / STRIDE)?);
        let mut values = Values { cursor, left: i % STRIDE + 1, element: ValueType::Str, depth: 0 };
        values.nth(i % STRIDE)?.as_str()
    }

    /// The texts, in order.
    pub fn iter(&self) -> impl Iterator<Item = &'a str> + use<'a> {
        self.array.iter().filter_map(|v| v.as_str())
    }
}

impl<'a> Iterator for Values<'a> {
    type Item = Value<'a>;

    fn next(&mut self) -> Option<Value<'a>> {
        self.left = self.left.checked_sub(1)?;
        // Checked when the file was opened; fails only where the file changed since.
        read_value(&mut self.cursor, self.element, &"", self.depth + 1).ok()
    }

    fn size_hint(&self) -> (usize, Option<usize>) {
        (0, Some(self.left))
    }
}

fn read_type(cursor: &mut Cursor<'_>, field: &dyn Display) -> Result<ValueType, GgufError> {
    let found = cursor.u32(&format_args!("type of {field}"))?;
    let unknown = || GgufError::ValueType { file: cursor.file().to_owned(), field: field.to_string(), found };
    ValueType::from_id(found).ok_or_else(unknown)
}

fn read_value<'a>(
    cursor: &mut Cursor<'a>,
    kind: ValueType,
    field: &dyn Display,
    depth: u32,
) -> Result<Value<'a>, GgufError> {
    Ok(match kind {
        ValueType::U8 => Value::U8(cursor.u8(field)?),
        ValueType::I8 => Value::I8(cursor.i8(field)?),
        ValueType::U16 => Value::U16(cursor.u16(field)?),
        ValueType::I16 => Value::I16(cursor.i16(field)?),
        ValueType::U32 => Value::U32(cursor.u32(field)?),
        ValueType::I32 => Value::I32(cursor.i32(field)?),
        ValueType::F32 => Value::F32(cursor.f32(field)?),
        ValueType::Bool => Value::Bool(read_bool(cursor, field)?),
        ValueType::Str => Value::Str(cursor.text(field)?),
        ValueType::Array => Value::Array(read_array(cursor, field, depth)?),
        ValueType::U64 => Value::U64(cursor.u64(field)?),
        ValueType::I64 => Value::I64(cursor.i64(field)?),
        ValueType::F64 => Value::F64(cursor.f64(field)?),
    })
}

fn read_bool(cursor: &mut Cursor<'_>, field: &dyn Display) -> Result<bool, GgufError> {
    match cursor.u8(field)? {
        0 => Ok(false),
        1 => Ok(true),
        found => Err(GgufError::Truth { file: cursor.file().to_owned(), field: field.to_string(), found }),
    }
}

/// Element type, count, elements. Elements of variable length are walked to find the end.
fn read_array<'a>(cursor: &mut Cursor<'a>, field: &dyn Display, depth: u32) -> Result<Array<'a>, GgufError> {
    if depth >= MAX_NESTING {
        let (file, field) = (cursor.file().to_owned(), field.to_string());
        return Err(GgufError::Nesting { file, field, most: MAX_NESTING });
    }
    let element = read_type(cursor, &format_args!("elements of {field}"))?;
    let len = cursor.count(element.least_bytes(), &format_args!("element count of {field}"))?;
    let mut walked = *cursor;
    match element {
        ValueType::Bool | ValueType::Str | ValueType::Array => {
            for i in 0..len {
                read_value(&mut walked, element, &format_args!("{field}[{i}]"), depth + 1)?;
            }
        }
        ValueType::U8
        | ValueType::I8
        | ValueType::U16
        | ValueType::I16
        | ValueType::U32
        | ValueType::I32
        | ValueType::F32
        | ValueType::U64
        | ValueType::I64
        | ValueType::F64 => {
            walked.take(len * element.least_bytes(), field)?;
        }
    }
    let bytes = cursor.take((walked.at() - cursor.at()) as u64, field)?;
    let len = usize::try_from(len).expect("as many elements as there are bytes, at most");
    Ok(Array { element, len, bytes, depth })
}

impl Display for Value<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Value::U8(v) => v.fmt(f),
            Value::I8(v) => v.fmt(f),
            Value::U16(v) => v.fmt(f),
            Value::I16(v) => v.fmt(f),
            Value::U32(v) => v.fmt(f),
            Value::I32(v) => v.fmt(f),
            Value::F32(v) => v.fmt(f),
            Value::Bool(v) => v.fmt(f),
            Value::Str(v) => fmt_text(v, f),
            Value::Array(v) => v.fmt(f),
            Value::U64(v) => v.fmt(f),
            Value::I64(v) => v.fmt(f),
            Value::F64(v) => v.fmt(f),
        }
    }
}

/// At most 60 characters, quoted and escaped.
fn fmt_text(text: &str, f: &mut fmt::Formatter<'_>) -> fmt::Result {
    const SHOWN: usize = 60;
    match text.char_indices().nth(SHOWN) {
        Some((end, _)) => write!(f, "{:?}…", &text[..end]),
        None => write!(f, "{text:?}"),
    }
}

/// `str[512] ["<unk>", "<s>", "</s>", …]`; arrays in arrays show only their type and length.
impl Display for Array<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        const SHOWN: usize = 6;
        write!(f, "{}[{}] [", self.element.name(), self.len)?;
        for (i, value) in self.iter().take(SHOWN).enumerate() {
            f.write_str(if i == 0 { "" } else { ", " })?;
            match value {
                Value::Array(inner) => write!(f, "{}[{}]", inner.element.name(), inner.len)?,
                scalar => scalar.fmt(f)?,
            }
        }
        f.write_str(if self.len > SHOWN { ", …]" } else { "]" })
    }
}

impl fmt::Debug for Array<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        Display::fmt(self, f)
    }
}

impl PartialEq for Array<'_> {
    fn eq(&self, other: &Self) -> bool {
        self.element == other.element && self.len == other.len && self.bytes == other.bytes
    }
}

impl fmt::Debug for Strings<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        Display::fmt(&self.array, f)
    }
}
