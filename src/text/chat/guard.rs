//! Bytecode of a template → the same with each operation that builds text or lists behind a question to the
//! [`ledger`](super::ledger). Never changes what a template says; only whether it may go on.
//! Operators have no hooks in the engine, so the questions are filters put in front of them: a filter takes the operands
//! from the stack, and gives them back in a list that is unpacked again. This reaches into what the engine does not promise
//! to keep (its `unstable_machinery`), so its version is pinned.

use minijinja::machinery::{self, CompiledTemplate, Instruction, Instructions, Token};
use minijinja::syntax::SyntaxConfig;
use minijinja::value::{Rest, ValueKind, ValueOrKwargs};
use minijinja::{Environment, Error, Value};

use super::ledger::{self, Text};

/// Names that no template can write.
const JOINED: &str = "guard~";
const ADDED: &str = "guard+";
const REPEATED: &str = "guard*";
const SLICED: &str = "guard[:]";
const SOUGHT: &str = "guard:in";
const SPREAD: &str = "guard:spread";
const BUILT: &str = "guard:nesting";
const WRITTEN: &str = "guard:raw";

/// Puts the questions into a template.
pub(super) fn guard(template: &mut CompiledTemplate<'_>) {
    guard_code(&mut template.instructions);
    template.blocks.values_mut().for_each(guard_code);
}

/// `source` without products of constants, which the engine's compiler would work out: each `*` becomes two, with a one
/// between them that is no constant.
pub(super) fn unfolded(source: &str, syntax: &SyntaxConfig) -> String {
    let mut unfolded = String::with_capacity(source.len());
    let mut done = 0;
    // What is no token is the parser's to refuse.
    for (token, span) in machinery::tokenize(source, false, syntax.clone()).map_while(Result::ok) {
        let end = span.end_offset as usize;
        if let (Token::Mul, Some(text)) = (token, source.get(done..end)) {
            unfolded.push_str(text);
            unfolded.push_str("(1 if true)*");
            done = end;
        }
    }
    unfolded.push_str(&source[done..]);
    unfolded
}

/// Gives `environment` the filters that ask.
pub(super) fn install(environment: &mut Environment<'static>) {
    let mut ask = |name: &'static str, question: fn(&[Value]) -> Result<Value, Error>| {
        environment.add_filter(name, move |values: Rest<ValueOrKwargs>| question(&values.into_values()));
    };
    ask(JOINED, |values| operands(values, |v| ledger::charge_text(v, Text::PLAIN)));
    ask(ADDED, |values| {
        let cost = |v: &Value| if v.as_str().is_some() { ledger::charge_text(v, Text::PLAIN) } else { elements(v, 1) };
        values.iter().try_for_each(cost)?;
        Ok(values.iter().rev().cloned().collect())
    });
    ask(REPEATED, |values| {
        let times = values.iter().find_map(Value::as_usize).unwrap_or(0);
        operands(values, |v| match v.as_str() {
            Some(text) => ledger::charge(text.len().saturating_mul(times)),
            None => elements(v, times),
        })
    });
    ask(SLICED, |values| operands(values, |v| elements(v, 1)));
    ask(SOUGHT, |values| {
        operands(values, |v| if v.as_str().is_some() { Ok(()) } else { ledger::charge_text(v, Text::PLAIN) })
    });
    ask(SPREAD, |values| operands(values, |v| elements(v, 1)));
    ask(BUILT, |values| {
        values.iter().try_for_each(|v| ledger::charge_text(v, Text::NONE))?;
        Ok(values.first().cloned().unwrap_or_default())
    });
    ask(WRITTEN, |values| {
        values.iter().filter_map(Value::as_usize).try_for_each(ledger::charge)?;
        Ok(Value::default())
    });
}

/// The operands in the order in which they are unpacked, last first, iterables made lists, once each was asked for.
fn operands(values: &[Value], cost: impl Fn(&Value) -> Result<(), Error>) -> Result<Value, Error> {
    let operand = |value: &Value| {
        cost(value)?;
        ledger::settled(value)
    };
    Ok(Value::from(values.iter().rev().map(operand).collect::<Result<Vec<Value>, Error>>()?))
}

/// A slice or a sum of lists refers to its elements; one of text copies them.
fn elements(value: &Value, times: usize) -> Result<(), Error> {
    match value.kind() {
        ValueKind::String | ValueKind::Bytes | ValueKind::Seq | ValueKind::Iterable => {
            ledger::charge_elements(value, times)
        }
        _ => Ok(()),
    }
}

fn guard_code(code: &mut Instructions<'_>) {
    let old: Vec<Instruction<'_>> = (0..).map_while(|i| code.get(i).cloned()).collect();
    let mut places: Vec<u32> = Vec::with_capacity(old.len() + 1);
    let mut guarded = Instructions::new(code.name(), code.source());
    for (i, instruction) in (0..).zip(&old) {
        let line = code.get_line(i).and_then(|line| u16::try_from(line).ok()).unwrap_or(0);
        let mut add = |instruction| guarded.add_with_line(instruction, line);
        let (before, after) = questions(instruction);
        let mut own = None;
        for question in before {
            let place = add(question);
            own.get_or_insert(place);
        }
        let place = add(instruction.clone());
        places.push(own.unwrap_or(place));
        after.into_iter().for_each(|question| {
            add(question);
        });
    }
    places.push((0..).take_while(|i| guarded.get(*i).is_some()).count() as u32);
    for i in (0..).take_while(|i| *i < places[old.len()]).collect::<Vec<u32>>() {
        if let Some(instruction) = guarded.get_mut(i) {
            retarget(instruction, &places);
        }
    }
    *code = guarded;
}

/// What goes before an instruction, and what after.
fn questions<'s>(instruction: &Instruction<'s>) -> (Vec<Instruction<'s>>, Vec<Instruction<'s>>) {
    let ask = |name, operands: u16| Instruction::ApplyFilter(name, Some(operands), u8::MAX);
    let pass = |name, operands: usize| {
        let count = u16::try_from(operands).unwrap_or(u16::MAX);
        (vec![ask(name, count), Instruction::UnpackList(operands)], Vec::new())
    };
    match instruction {
        Instruction::StringConcat => pass(JOINED, 2),
        Instruction::Add => pass(ADDED, 2),
        Instruction::Mul => pass(REPEATED, 2),
        Instruction::Slice => pass(SLICED, 4),
        Instruction::In => pass(SOUGHT, 2),
        Instruction::CompareAndPreserve(_) => pass(SOUGHT, 2),
        Instruction::UnpackList(_) => pass(SPREAD, 1),
        Instruction::UnpackLists(count) => pass(SPREAD, *count),
        Instruction::BuildList(_)
        | Instruction::BuildTuple(_)
        | Instruction::BuildMap(_)
        | Instruction::BuildKwargs(_)
        | Instruction::MergeKwargs(_) => (Vec::new(), vec![ask(BUILT, 1)]),
        Instruction::EmitRaw(text) => (
            vec![Instruction::LoadConst(Value::from(text.len())), ask(WRITTEN, 1), Instruction::DiscardTop],
            Vec::new(),
        ),
        _ => (Vec::new(), Vec::new()),
    }
}

/// Sends a jump to where its target has gone.
fn retarget(instruction: &mut Instruction<'_>, places: &[u32]) {
    if let Instruction::Jump(target)
    | Instruction::JumpIfFalse(target)
    | Instruction::JumpIfFalseOrPop(target)
    | Instruction::JumpIfTrueOrPop(target)
    | Instruction::Iterate(target)
    | Instruction::BuildMacro(_, target, _) = instruction
    {
        *target = places[*target as usize];
    }
}
