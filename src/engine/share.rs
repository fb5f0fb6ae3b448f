//! Running requests → the part that each has of the next step: a row for every sequence that generates, as far as rows go;
//! prompts share what is left by turns, in whole pages.

use super::request::Running;
use crate::exec::SessionLimits;
use crate::units::Tokens;

/// The part of a running request in a step.
#[derive(Clone, Copy, Default)]
pub(super) struct Part {
    /// Tokens that its sequence is fed.
    pub tokens: usize,
    /// Whether these are the last that it has, so that the next one is chosen.
    pub last: bool,
}

/// Fills `parts`, one a request; those that are full have none.
pub(super) fn share(running: &[Running], limits: SessionLimits, parts: &mut Vec<Part>) {
    let (mut left, mut rows) = (limits.tokens.index(), limits.outputs.index());
    let (page, prompts) = (Tokens::PAGE.index(), running.iter().filter(|running| !running.decodes()).count());
    // However many generate, prompts go on: by a page, in the smallest steps when it is their turn to be first.
    let is_first = running.first().is_some_and(|running| !running.decodes());
    let kept = if prompts > 0 { (left / 2).min(page).max(usize::from(is_first)) } else { 0 };
    let kept_rows = usize::from(prompts > 0 && (rows > 1 || is_first));
    parts.clear();
    for running in running {
        let tokens = usize::from(running.decodes() && !running.is_full() && left > kept && rows > kept_rows);
        (left, rows) = (left - tokens, rows - tokens);
        parts.push(Part { tokens, last: tokens > 0 });
    }
    let each = (left / prompts.max(1) / page * page).max(page);
    // What some do not take goes to the first that do.
    for most in [each, usize::MAX] {
        for (running, part) in running.iter().zip(&mut *parts).filter(|(running, _)| !running.decodes()) {
            let pending = running.pending().len();
            let more = (pending - part.tokens).min(left).min(most);
            let ends = more > 0 && part.tokens + more == pending;
            // Without a row for its logits, the last token waits.
            let more = if ends && rows == 0 { more - 1 } else { more };
            part.tokens += more;
            part.last |= ends && rows > 0;
            (left, rows) = (left - more, rows - usize::from(ends && rows > 0));
        }
    }
}
