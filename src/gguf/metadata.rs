//! A file's key-value section: entries in file order, lookup by key, typed getters that convert and explain.
//! Holds twelve bytes an entry; keys, text and arrays stay in the file.

use std::sync::Arc;

use super::GgufError;
use super::cursor::Cursor;
use super::mmap::Source;
use super::value::{Array, Strings, Value};

/// The metadata of a model, in the first of its shards.
pub struct Metadata {
    source: Arc<Source>,
    /// Where each entry starts, in file order.
    starts: Vec<u64>,
    /// Entries in the order of their keys.
    by_key: Vec<u32>,
}

/// The fewest bytes of an entry: the length of a key, a type, a value of one byte.
pub(super) const LEAST_ENTRY: u64 = 8 + 4 + 1;

impl Metadata {
    /// Reads `count` entries from `at`, checks all of them and returns where they end.
    pub(super) fn read(source: Arc<Source>, at: usize, count: u64) -> Result<(Metadata, usize), GgufError> {
        let mut cursor = Cursor::new(source.name(), source.bytes(), at);
        // The caller has checked the count against the file's size.
        let mut starts = Vec::with_capacity(count as usize);
        for i in 0..count {
            starts.push(cursor.at() as u64);
            let key = cursor.text(&format_args!("metadata key {i}"))?;
            Value::read(&mut cursor, &format_args!("value of {key:?}"))?;
        }
        let end = cursor.at();
        let mut metadata = Metadata { by_key: (0..starts.len() as u32).collect(), starts, source };
        metadata.sort()?;
        Ok((metadata, end))
    }

    /// The number of entries.
    pub fn len(&self) -> usize {
        self.starts.len()
    }

    /// Whether there are no entries.
    pub fn is_empty(&self) -> bool {
        self.starts.is_empty()
    }

    /// Keys and values, in file order.
    pub fn iter(&self) -> impl Iterator<Item = (&str, Value<'_>)> {
        (0..self.len()).filter_map(|i| self.entry(i))
    }

    /// The value of a key.
    pub fn get(&self, key: &str) -> Option<Value<'_>> {
        let at = self.by_key.binary_search_by(|&i| self.key(i as usize).cmp(key.as_bytes())).ok()?;
        Some(self.entry(self.by_key[at] as usize)?.1)
    }

    /// A truth value, `None` where the key is absent.
    pub fn bool(&self, key: &str) -> Result<Option<bool>, GgufError> {
        self.scalar(key, "a truth value", |v| v.as_bool())
    }

    /// An integer of any type that fits, `None` where the key is absent.
    pub fn u32(&self, key: &str) -> Result<Option<u32>, GgufError> {
        self.integer(key, "an integer of 32 bits without sign")
    }

    /// An integer of any type that fits, `None` where the key is absent.
    pub fn u64(&self, key: &str) -> Result<Option<u64>, GgufError> {
        self.integer(key, "an integer of 64 bits without sign")
    }

    /// A float of either type, `None` where the key is absent.
    pub fn f32(&self, key: &str) -> Result<Option<f32>, GgufError> {
        self.scalar(key, "a float", |v| v.as_f32())
    }

    /// A text, `None` where the key is absent.
    pub fn str(&self, key: &str) -> Result<Option<&str>, GgufError> {
        self.scalar(key, "text", |v| v.as_str())
    }

    /// An array of texts, `None` where the key is absent.
    pub fn strs(&self, key: &str) -> Result<Option<Strings<'_>>, GgufError> {
        self.scalar(key, "an array of text", |v| v.as_array()?.strings())
    }

    /// An array of floats of either type, `None` where the key is absent.
    pub fn f32s(&self, key: &str) -> Result<Option<Vec<f32>>, GgufError> {
        self.scalar(key, "an array of floats", |v| collect(v, |v| v.as_f32()))
    }

    /// An array of integers that fit, `None` where the key is absent.
    pub fn i32s(&self, key: &str) -> Result<Option<Vec<i32>>, GgufError> {
        self.integers(key, "an array of integers of 32 bits")
    }

    /// An array of integers that fit, `None` where the key is absent.
    pub fn u32s(&self, key: &str) -> Result<Option<Vec<u32>>, GgufError> {
        self.integers(key, "an array of integers of 32 bits without sign")
    }

    /// An array of truth values, `None` where the key is absent.
    pub fn bools(&self, key: &str) -> Result<Option<Vec<bool>>, GgufError> {
        self.scalar(key, "an array of truth values", |v| collect(v, |v| v.as_bool()))
    }

    fn scalar<'a, T>(
        &'a self,
        key: &str,
        needed: &'static str,
        convert: impl FnOnce(Value<'a>) -> Option<T>,
    ) -> Result<Option<T>, GgufError> {
        let Some(value) = self.get(key) else { return Ok(None) };
        convert(value).map(Some).ok_or_else(|| {
            let found = describe(&value);
            GgufError::WrongType { file: self.file(), key: key.to_owned(), needed, found }
        })
    }

    fn integer<T: TryFrom<i128>>(&self, key: &str, needed: &'static str) -> Result<Option<T>, GgufError> {
        let Some(number) = self.scalar(key, needed, |v| v.as_integer())? else { return Ok(None) };
        T::try_from(number).map(Some).map_err(|_| self.out_of_range(key, needed, number))
    }

    fn integers<T: TryFrom<i128>>(&self, key: &str, needed: &'static str) -> Result<Option<Vec<T>>, GgufError> {
        let Some(array) = self.scalar(key, needed, integer_array)? else { return Ok(None) };
        let numbers = array.iter().filter_map(|v| v.as_integer());
        let fit = numbers.map(|n| T::try_from(n).map_err(|_| self.out_of_range(key, needed, n)));
        fit.collect::<Result<_, _>>().map(Some)
    }

    fn out_of_range(&self, key: &str, needed: &'static str, number: i128) -> GgufError {
        GgufError::OutOfRange { file: self.file(), key: key.to_owned(), needed, found: number.to_string() }
    }

    fn file(&self) -> String {
        self.source.name().to_owned()
    }

    /// Orders the entries by key and refuses a key that is there twice.
    fn sort(&mut self) -> Result<(), GgufError> {
        let mut by_key = std::mem::take(&mut self.by_key);
        by_key.sort_unstable_by(|&a, &b| self.key(a as usize).cmp(self.key(b as usize)));
        let twice = by_key.windows(2).find(|w| self.key(w[0] as usize) == self.key(w[1] as usize));
        if let Some(twice) = twice {
            let key = String::from_utf8_lossy(self.key(twice[0] as usize)).into_owned();
            return Err(GgufError::DuplicateKey { file: self.file(), key });
        }
        self.by_key = by_key;
        Ok(())
    }

    /// A key's bytes; empty where the file changed since it was opened.
    fn key(&self, i: usize) -> &[u8] {
        let mut cursor = self.cursor(i);
        cursor.u64(&"").and_then(|len| cursor.take(len, &"")).unwrap_or_default()
    }

    /// An entry; `None` where the file changed since it was opened.
    fn entry(&self, i: usize) -> Option<(&str, Value<'_>)> {
        let mut cursor = self.cursor(i);
        let key = cursor.text(&"").ok()?;
        Some((key, Value::read(&mut cursor, &"").ok()?))
    }

    fn cursor(&self, i: usize) -> Cursor<'_> {
        Cursor::new("", self.source.bytes(), self.starts[i] as usize)
    }
}

fn collect<T>(value: Value<'_>, convert: impl Fn(Value<'_>) -> Option<T>) -> Option<Vec<T>> {
    value.as_array()?.iter().map(convert).collect()
}

fn integer_array(value: Value<'_>) -> Option<Array<'_>> {
    let array = value.as_array()?;
    array.iter().all(|v| v.as_integer().is_some()).then_some(array)
}

/// The type and the short form; an array's form names its type.
fn describe(value: &Value<'_>) -> String {
    match value {
        Value::Array(array) => array.to_string(),
        scalar => format!("{} {scalar}", scalar.kind().name()),
    }
}
