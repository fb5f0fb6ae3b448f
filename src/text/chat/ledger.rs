//! What a rendering may still allocate: values are measured before an operation builds text or lists from them, and the
//! operation that would pass the budget fails. The measure is never less than the bytes of the result, up to a few times
//! as much, and counts all that was ever built; walking a value is paid for too, so time is bounded with memory.
//! A rendering has a thread of its own, and the budget is that thread's.

use std::cell::Cell;

use minijinja::value::ValueKind;
use minijinja::{Error, ErrorKind, Value};

thread_local! {
    static LEFT: Cell<usize> = const { Cell::new(0) };
}

/// Bytes of an element of a list.
pub(super) const ELEMENT: usize = 32;
/// Lists and mappings inside one another; deeper ones would overflow the stack of who prints or frees them.
const DEPTH: usize = 64;
/// The longest that a character inside a list or in JSON is written: `\u{10ffff}`.
const ESCAPED: usize = 10;

/// How much text a value makes.
#[derive(Clone, Copy)]
pub(super) struct Text {
    /// Bytes for each byte of a string.
    pub times: usize,
    /// Bytes of white space in front of each element, for each list around it.
    pub indent: usize,
}

impl Text {
    /// Text as it is.
    pub const PLAIN: Text = Text { times: 1, indent: 0 };
    /// Structure alone: no text is made.
    pub const NONE: Text = Text { times: 0, indent: 0 };
}

/// Gives this thread a budget.
pub(super) fn open(bytes: usize) {
    LEFT.set(bytes);
}

/// Whether a charge went past the budget.
pub(super) fn is_spent() -> bool {
    LEFT.get() == 0
}

/// Takes from the budget.
pub(super) fn charge(bytes: usize) -> Result<(), Error> {
    let left = LEFT.get().checked_sub(bytes);
    LEFT.set(left.unwrap_or(0));
    match left {
        Some(_) => Ok(()),
        None => Err(Error::from(ErrorKind::OutOfFuel)),
    }
}

/// Takes what the text of a value needs.
pub(super) fn charge_text(value: &Value, text: Text) -> Result<(), Error> {
    walk(value, text, 0)
}

fn walk(value: &Value, text: Text, depth: usize) -> Result<(), Error> {
    charge(ELEMENT + text.indent * depth)?;
    if depth > DEPTH {
        let why = format!("lists and mappings lie more than {DEPTH} deep in one another");
        return Err(Error::new(ErrorKind::InvalidOperation, why));
    }
    let inner = Text { times: text.times.saturating_mul(if depth == 0 { ESCAPED } else { 1 }), ..text };
    match value.kind() {
        ValueKind::String | ValueKind::Bytes => {
            charge(text.times.saturating_mul(value.as_str().map_or_else(|| value.len().unwrap_or(0), str::len)))
        }
        ValueKind::Seq | ValueKind::Iterable => value.try_iter()?.try_for_each(|item| walk(&item, inner, depth + 1)),
        ValueKind::Map => value.try_iter()?.try_for_each(|key| {
            walk(&key, inner, depth + 1)?;
            walk(&value.get_item(&key)?, inner, depth + 1)
        }),
        _ => Ok(()),
    }
}

/// Takes what a list of all elements of a value needs, `times` over.
pub(super) fn charge_elements(value: &Value, times: usize) -> Result<(), Error> {
    let text = value.as_str().map(str::len);
    charge(text.or_else(|| value.len()).unwrap_or(0).saturating_mul(times).saturating_mul(ELEMENT))
}

/// A value whose elements exist: iterables made of iterables would nest without end.
pub(super) fn settled(value: &Value) -> Result<Value, Error> {
    if value.kind() != ValueKind::Iterable {
        return Ok(value.clone());
    }
    charge_elements(value, 1)?;
    let mut elements = Vec::new();
    for element in value.try_iter()? {
        charge(ELEMENT)?;
        elements.push(element);
    }
    Ok(Value::from(elements))
}
