//! What chat templates expect of Python: methods of strings and mappings, `True` and `None` in print, `tojson` as
//! `json.dumps` writes it, `raise_exception`, `strftime_now`. Source: `render_jinja_template` of Hugging Face's transformers.

use std::io;

use jiff::Zoned;
use minijinja::value::{Kwargs, StringInput, ValueKind};
use minijinja::{Environment, Error, ErrorKind, Output, State, Value, filters};
use serde::Serialize;
use serde_json::ser::{Formatter, PrettyFormatter, Serializer};

use super::calls;
use super::ledger::{self, Text};

/// Gives `environment` the functions, filters and manners that templates rely on.
pub(super) fn install(environment: &mut Environment<'static>) {
    environment.set_formatter(print);
    calls::add_costly(environment, "tojson", to_json);
    calls::add_costly(environment, "indent", indent);
    environment.add_test("iterable", is_iterable);
    environment.add_test("sequence", is_sequence);
    environment.add_function("raise_exception", raise_exception);
    environment.add_function("strftime_now", strftime_now);
}

/// `source` without the `generation` tags that mark, for training only, what an assistant wrote.
pub(super) fn without_generation_marks(source: &str) -> String {
    let mut kept = String::with_capacity(source.len());
    let mut rest = source;
    while let Some(open) = rest.find("{%") {
        let Some(close) = rest[open + 2..].find("%}").map(|i| open + 2 + i) else { break };
        let tag = &rest[open + 2..close];
        let word = tag.trim_start_matches(['-', '+']).trim_end_matches(['-', '+']).trim();
        kept.push_str(&rest[..open]);
        match word {
            "generation" => kept.push_str(&rest[open..close + 2].replace("generation", "if true")),
            "endgeneration" => kept.push_str(&rest[open..close + 2].replace("endgeneration", "endif")),
            _ => kept.push_str(&rest[open..close + 2]),
        }
        rest = &rest[close + 2..];
    }
    kept.push_str(rest);
    kept
}

/// Prints a value as Python's `str` does where that differs.
fn print(output: &mut Output<'_>, state: &mut State<'_, '_>, value: &Value) -> Result<(), Error> {
    ledger::charge_text(value, Text::PLAIN)?;
    match value.kind() {
        ValueKind::None => output.write_str("None").map_err(Error::from),
        ValueKind::Bool => output.write_str(if value.is_true() { "True" } else { "False" }).map_err(Error::from),
        _ => minijinja::escape_formatter(output, state, value),
    }
}

/// Python has no `for` over `None`, where the engine has one of no turns.
fn is_iterable(value: &Value) -> bool {
    !value.is_none() && (value.kind() == ValueKind::String || value.try_iter().is_ok())
}

/// Python's strings and mappings have a length and items by key, so templates see sequences in them.
fn is_sequence(value: &Value) -> bool {
    matches!(value.kind(), ValueKind::String | ValueKind::Seq | ValueKind::Map)
}

fn raise_exception(message: String) -> Result<Value, Error> {
    Err(Error::new(ErrorKind::InvalidOperation, message))
}

/// The local date and time in C's `strftime` notation.
fn strftime_now(format: &str) -> Result<String, Error> {
    // A width in it makes a directive's text up to 255 characters long.
    if format.len() > 1000 {
        return Err(Error::new(ErrorKind::InvalidOperation, "strftime_now needs a format of at most 1000 bytes"));
    }
    jiff::fmt::strtime::format(format, &Zoned::now())
        .map_err(|e| Error::new(ErrorKind::InvalidOperation, format!("strftime_now({format:?})")).with_source(e))
}

/// `value` with indented lines, as the engine's own filter, but no wider than any page.
fn indent(
    value: StringInput<'_>,
    width: Option<usize>,
    first: Option<bool>,
    blank: Option<bool>,
    named: Kwargs,
) -> Result<Value, Error> {
    let asked = width.or(named.peek("width").ok());
    if asked.is_some_and(|w| w > 1000) {
        return Err(Error::new(ErrorKind::InvalidOperation, "indent needs a width up to 1000"));
    }
    filters::indent(value, width, first, blank, named)
}

/// `value` as JSON: `json.dumps(value, ensure_ascii=False, indent=indent)`.
fn to_json(value: &Value, indent: Option<usize>, named: Kwargs) -> Result<Value, Error> {
    let ascii = named.get::<Option<bool>>("ensure_ascii")?.unwrap_or(false);
    let indent = indent.or(named.get("indent")?);
    named.assert_all_used()?;
    let mut json = Vec::new();
    let written = match indent {
        Some(width) if width > 100 => {
            return Err(Error::new(ErrorKind::InvalidOperation, "tojson needs an indent up to 100"));
        }
        Some(width) => {
            let spaces = " ".repeat(width);
            dump(value, PrettyFormatter::with_indent(spaces.as_bytes()), &mut json)
        }
        None => dump(value, OneLine, &mut json),
    };
    written.map_err(|e| Error::new(ErrorKind::InvalidOperation, "no JSON for this value").with_source(e))?;
    let text = String::from_utf8_lossy(&json).into_owned();
    Ok(Value::from_safe_string(if ascii { escaped(&text) } else { text }))
}

fn dump(value: &Value, style: impl Formatter, json: &mut Vec<u8>) -> Result<(), serde_json::Error> {
    value.serialize(&mut Serializer::with_formatter(json, style))
}

/// Every character outside ASCII as `\uXXXX`, in surrogate pairs where needed; such characters only stand in strings.
fn escaped(json: &str) -> String {
    let mut text = String::with_capacity(json.len());
    for c in json.chars() {
        if c.is_ascii() {
            text.push(c);
        } else {
            text.extend(c.encode_utf16(&mut [0; 2]).iter().map(|unit| format!("\\u{unit:04x}")));
        }
    }
    text
}

/// `, ` and `: ` between items, as `json.dumps` has them on one line.
struct OneLine;

impl Formatter for OneLine {
    fn begin_array_value<W: ?Sized + io::Write>(&mut self, writer: &mut W, first: bool) -> io::Result<()> {
        if first { Ok(()) } else { writer.write_all(b", ") }
    }

    fn begin_object_key<W: ?Sized + io::Write>(&mut self, writer: &mut W, first: bool) -> io::Result<()> {
        if first { Ok(()) } else { writer.write_all(b", ") }
    }

    fn begin_object_value<W: ?Sized + io::Write>(&mut self, writer: &mut W) -> io::Result<()> {
        writer.write_all(b": ")
    }
}
