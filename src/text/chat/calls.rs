//! Filters, tests, functions and methods of templates, each behind a question to the [`ledger`](super::ledger): what it
//! would build from what it is given. What jinja2 has not, and what one call of can fill memory, is taken away.

use minijinja::functions::{self, Function};
use minijinja::value::{FunctionArgs, FunctionResult, Rest, ValueOrKwargs};
use minijinja::{Environment, Error, ErrorKind, State, Value, filters, tests};
use minijinja_contrib::pycompat;

use super::ledger::{self, ELEMENT, Text};

/// What a call builds, from its arguments.
#[derive(Clone, Copy)]
enum Cost {
    /// The text of all arguments, so many times.
    Text(usize),
    /// A list of the elements of the first.
    Elements,
    /// The elements of the second by the first: `', '.join(list)`; for the filter the other way round.
    Join,
    /// The first with the second replaced by the third.
    Replace,
    /// The parts of the first between the second.
    Split,
    /// The lines of the first, with so much space in front of each.
    Lines(usize),
    /// JSON of the first, with so much space in front of each element.
    Json,
    /// The first with all others in each of its fields, and their widths.
    Format,
    /// So many bytes.
    Fixed(usize),
}

/// Gives `environment` the calls.
pub(super) fn install(environment: &mut Environment<'static>) {
    for (name, cost, filter) in filters_of_text().into_iter().chain(filters_of_lists()) {
        environment.add_filter(name, asking(cost, filter));
    }
    for filter in ["slice", "batch", "format", "chain", "zip", "lines", "split", "pprint"] {
        environment.remove_filter(filter);
    }
    let text_tests = [
        ("startingwith", Value::from_function(tests::is_startingwith)),
        ("endingwith", Value::from_function(tests::is_endingwith)),
        ("lower", Value::from_function(tests::is_lower)),
        ("upper", Value::from_function(tests::is_upper)),
        ("in", Value::from_function(tests::is_in)),
    ];
    for (name, test) in text_tests {
        environment.add_test(name, asking(Cost::Text(1), test));
    }
    environment.add_function("dict", asking(Cost::Elements, Value::from_function(functions::dict)));
    // The elements of a namespace can be changed, so it can lie in itself: their number bounds how deep.
    environment.add_function("namespace", asking(Cost::Fixed(1 << 16), Value::from_function(functions::namespace)));
    environment.remove_global("debug");
    environment.set_unknown_method_callback(method);
}

/// The same filter, later under its cost.
pub(super) fn add_costly<F, Rv, Args>(environment: &mut Environment<'static>, name: &'static str, filter: F)
where
    F: Function<Rv, Args>,
    Rv: FunctionResult,
    Args: for<'a> FunctionArgs<'a>,
{
    let cost = if name == "indent" { Cost::Lines(1000) } else { Cost::Json };
    environment.add_filter(name, asking(cost, Value::from_function(filter)));
}

fn filters_of_text() -> [(&'static str, Cost, Value); 13] {
    let escape = Value::from_function(filters::escape);
    [
        ("escape", Cost::Text(6), escape.clone()),
        ("e", Cost::Text(6), escape),
        ("safe", Cost::Text(1), Value::from_function(filters::safe)),
        ("lower", Cost::Text(3), Value::from_function(filters::lower)),
        ("upper", Cost::Text(3), Value::from_function(filters::upper)),
        ("title", Cost::Text(3), Value::from_function(filters::title)),
        ("capitalize", Cost::Text(3), Value::from_function(filters::capitalize)),
        ("trim", Cost::Text(1), Value::from_function(filters::trim)),
        ("string", Cost::Text(1), Value::from_function(filters::string)),
        ("replace", Cost::Replace, Value::from_function(filters::replace)),
        ("join", Cost::Join, Value::from_function(filters::join)),
        ("unique", Cost::Text(3), Value::from_function(filters::unique)),
        ("sum", Cost::Text(1), Value::from_function(filters::sum)),
    ]
}

fn filters_of_lists() -> [(&'static str, Cost, Value); 13] {
    [
        ("list", Cost::Elements, Value::from_function(filters::list)),
        ("items", Cost::Elements, Value::from_function(filters::items)),
        ("reverse", Cost::Elements, Value::from_function(filters::reverse)),
        ("sort", Cost::Elements, Value::from_function(filters::sort)),
        ("dictsort", Cost::Text(3), Value::from_function(filters::dictsort)),
        ("groupby", Cost::Elements, Value::from_function(filters::groupby)),
        ("map", Cost::Elements, Value::from_function(filters::map)),
        ("select", Cost::Elements, Value::from_function(filters::select)),
        ("reject", Cost::Elements, Value::from_function(filters::reject)),
        ("selectattr", Cost::Elements, Value::from_function(filters::selectattr)),
        ("rejectattr", Cost::Elements, Value::from_function(filters::rejectattr)),
        ("min", Cost::Elements, Value::from_function(filters::min)),
        ("max", Cost::Elements, Value::from_function(filters::max)),
    ]
}

/// `call` once its cost was asked for.
fn asking(cost: Cost, call: Value) -> impl Fn(&mut State<'_, '_>, Rest<ValueOrKwargs>) -> Result<Value, Error> {
    move |state: &mut State<'_, '_>, given: Rest<ValueOrKwargs>| {
        let given = given.into_values().iter().map(ledger::settled).collect::<Result<Vec<Value>, Error>>()?;
        cost.charge(&given)?;
        call.call(state, &given)
    }
}

/// Methods of Python's strings and mappings.
fn method(state: &mut State<'_, '_>, value: &Value, name: &str, given: &[Value]) -> Result<Value, Error> {
    let is_text = value.as_str().is_some();
    let cost = match name {
        "format" if is_text => {
            check_widths(value.as_str().unwrap_or_default())?;
            Cost::Format
        }
        "replace" => Cost::Replace,
        "join" => Cost::Join,
        "split" => Cost::Split,
        "splitlines" => Cost::Lines(0),
        "upper" | "lower" | "title" | "capitalize" => Cost::Text(3),
        "strip" | "lstrip" | "rstrip" if is_text => Cost::Text(4),
        _ => Cost::Fixed(ELEMENT),
    };
    let all: Vec<Value> = std::iter::once(value).chain(given).cloned().collect();
    cost.charge(&all)?;
    pycompat::unknown_method_callback(state, value, name, given)
}

impl Cost {
    fn charge(self, given: &[Value]) -> Result<(), Error> {
        let text = |times| given.iter().try_for_each(|v| ledger::charge_text(v, Text { times, indent: 0 }));
        let first = given.first().and_then(Value::as_str).unwrap_or_default();
        let second = given.get(1).and_then(Value::as_str);
        match self {
            Cost::Text(times) => text(times),
            Cost::Elements => {
                ledger::charge(ELEMENT)?;
                given.iter().try_for_each(|v| ledger::charge_elements(v, 1))
            }
            Cost::Join => {
                text(1)?;
                let longest = given.iter().map(longest_text).max().unwrap_or(0);
                let most = given.iter().filter_map(Value::len).max().unwrap_or(0);
                ledger::charge(longest.saturating_mul(most))
            }
            Cost::Replace => {
                text(4)?;
                let written = |i: usize| given.get(i).map_or_else(String::new, Value::to_string);
                let found = written(0).matches(&written(1)).count();
                ledger::charge(found.saturating_mul(written(2).len()))
            }
            Cost::Split => {
                text(1)?;
                let parts = second.map_or_else(|| first.split_whitespace().count(), |by| first.matches(by).count());
                ledger::charge((parts + 1).saturating_mul(2 * ELEMENT))
            }
            Cost::Lines(space) => {
                text(1)?;
                let lines = first.matches('\n').count() + 1;
                ledger::charge(lines.saturating_mul(space + 2 * ELEMENT))
            }
            Cost::Json => {
                ledger::charge(first.len().saturating_mul(6))?;
                given.iter().try_for_each(|v| ledger::charge_text(v, Text { times: 1, indent: 100 }))
            }
            Cost::Format => {
                text(2)?;
                let written: usize = given.iter().skip(1).map(|v| v.to_string().len()).sum();
                ledger::charge(first.matches('{').count().saturating_mul(written.saturating_add(1000)))
            }
            Cost::Fixed(bytes) => ledger::charge(bytes),
        }
    }
}

/// Refuses fields of a format with a width of more than three digits, or with one taken from an argument.
fn check_widths(format: &str) -> Result<(), Error> {
    let plain = format.replace("{{", "").replace("}}", "");
    let bad = plain.split('{').skip(1).any(|rest| match rest.split_once('}') {
        Some((field, _)) => field.split(|c: char| !c.is_ascii_digit()).any(|digits| digits.len() > 3),
        None => true,
    });
    match bad {
        true => Err(Error::new(ErrorKind::InvalidOperation, "format needs widths up to 999")),
        false => Ok(()),
    }
}

/// Bytes of a text, or of the longest among the named arguments.
fn longest_text(value: &Value) -> usize {
    match value.as_str() {
        Some(text) => text.len(),
        None if value.is_kwargs() => {
            let texts = value.try_iter().into_iter().flatten().filter_map(|key| value.get_item(&key).ok());
            texts.filter_map(|v| v.as_str().map(str::len)).max().unwrap_or(0)
        }
        None => 0,
    }
}
