//! The text of a record of `bench` → its rows, or an error that names file and field. Whatever the text is: its size is
//! checked before it is read, later forms are refused, and numbers stay the whole numbers that they were measured as.

use std::fs::File;
use std::io::{self, Read};
use std::path::Path;

use serde::de::DeserializeOwned;
use serde_json::{Map, Value as Json};
use thiserror::Error;

use super::record::{Kind, MachineFacts, Record, Row, VERSION};

/// The longest record that is read; a row has about 2 KiB.
pub const MOST_BYTES: u64 = 16 << 20;

/// Why a file is no record of `bench`.
#[derive(Debug, Error)]
#[allow(missing_docs, reason = "each variant's message names its fields")]
pub enum RecordError {
    #[error("{file}: cannot read it: {why}")]
    Io { file: String, why: io::Error },
    #[error("{file}: a record has {most} bytes at most, this file has more")]
    Size { file: String, most: u64 },
    #[error("{file}: this is no JSON: {why}")]
    Json { file: String, why: serde_json::Error },
    #[error("{file}: {what}, needed an object with `kind`, as `bench --record` writes one")]
    Stranger { file: String, what: &'static str },
    #[error("{file}: a record of {found}, needed one of \"bench\"")]
    Kind { file: String, found: String },
    #[error("{file}: version {found} is later than {known}, the latest that this program reads")]
    Version { file: String, found: String, known: u32 },
    #[error("{file}: {field}: {why}")]
    Field { file: String, field: String, why: serde_json::Error },
}

/// Reads a file.
///
/// # Errors
/// It cannot be read, or is no record of `bench`.
pub fn read_record(path: &Path) -> Result<Record<Row>, RecordError> {
    let file = path.display().to_string();
    let io = |why| RecordError::Io { file: file.clone(), why };
    let mut bytes = Vec::new();
    // One byte more than is taken: what has no end is refused by its length.
    File::open(path).map_err(io)?.take(MOST_BYTES + 1).read_to_end(&mut bytes).map_err(io)?;
    parse_record(&file, &bytes)
}

/// Reads the bytes of a file, named in errors.
///
/// # Errors
/// They are no record of `bench`.
pub fn parse_record(file: &str, bytes: &[u8]) -> Result<Record<Row>, RecordError> {
    let file = || file.to_owned();
    if bytes.len() as u64 > MOST_BYTES {
        return Err(RecordError::Size { file: file(), most: MOST_BYTES });
    }
    let document: Json = serde_json::from_slice(bytes).map_err(|why| RecordError::Json { file: file(), why })?;
    let Json::Object(mut document) = document else {
        return Err(RecordError::Stranger { file: file(), what: "this is no object" });
    };
    match document.get("kind") {
        None => return Err(RecordError::Stranger { file: file(), what: "it has no `kind`" }),
        Some(kind) if *kind != "bench" => return Err(RecordError::Kind { file: file(), found: kind.to_string() }),
        Some(_) => {}
    }
    let version = document.get("version").unwrap_or(&Json::Null);
    if version.as_u64().is_some_and(|found| found > VERSION.into()) {
        return Err(RecordError::Version { file: file(), found: version.to_string(), known: VERSION });
    }
    let wrong = |(field, why)| RecordError::Field { file: file(), field, why };
    let rows = rows(&mut document).map_err(wrong)?;
    let model: Record<Row> =
        Record { machine: nowhere(), ..Record::new(Kind::Bench, "", Vec::new(), String::new(), String::new()) };
    let record: Record<Row> = fields(document, &serde_json::json!(model)).map_err(wrong)?;
    Ok(Record { rows, ..record })
}

fn nowhere() -> MachineFacts {
    let (cpu, target) = (String::new(), String::new());
    MachineFacts { cpu, target, cores: 0, memory_available: None, load_average: None, adapters: Vec::new() }
}

/// The wrong field, and what is wrong with it.
type Wrong = (String, serde_json::Error);

/// Takes the rows out of a document, which keeps an empty list.
fn rows(document: &mut Map<String, Json>) -> Result<Vec<Row>, Wrong> {
    // Anything but a list is left for the reader of the document to complain of.
    let Some(Json::Array(rows)) = document.get_mut("rows") else { return Ok(Vec::new()) };
    let model = serde_json::json!(Row::default());
    let row = |(i, row): (usize, Json)| match row {
        Json::Object(row) => fields(row, &model).map_err(|(field, why)| (format!("rows[{i}] {field}"), why)),
        other => serde_json::from_value(other).map_err(|why| (format!("rows[{i}]"), why)),
    };
    std::mem::take(rows).into_iter().enumerate().map(row).collect()
}

/// An object as a `T`. If it is none, the field that spoils `model`, which is one, is the wrong one.
fn fields<T: DeserializeOwned>(found: Map<String, Json>, model: &Json) -> Result<T, Wrong> {
    let why = match serde_json::from_value(Json::Object(found.clone())) {
        Ok(read) => return Ok(read),
        Err(why) => why,
    };
    let spoils = |(key, value): (String, Json)| {
        let mut model = model.clone();
        model.as_object_mut()?.insert(key.clone(), value);
        serde_json::from_value::<T>(model).err().map(|why| (key, why))
    };
    // A field that lacks spoils nothing; the message names it.
    Err(found.into_iter().find_map(spoils).unwrap_or(("fields".to_owned(), why)))
}
