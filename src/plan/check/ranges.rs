//! Ranges of one buffer and what lies in each; no two share a byte.

use std::collections::BTreeMap;

use crate::plan::Span;
use crate::units::Bytes;

/// Content by first byte, with the byte after its last.
#[derive(Clone, Debug)]
pub(super) struct Ranges<T> {
    held: BTreeMap<u64, (u64, T)>,
}

impl<T: Copy + PartialEq> Ranges<T> {
    pub(super) fn new() -> Ranges<T> {
        Ranges { held: BTreeMap::new() }
    }

    /// Whether exactly `span` holds `content`, whole.
    pub(super) fn holds(&self, span: Span, content: T) -> bool {
        self.held.get(&span.offset.0) == Some(&(span.end().0, content))
    }

    /// Takes out all that shares a byte with `span`, and returns it.
    pub(super) fn clear(&mut self, span: Span) -> Vec<(Span, T)> {
        // Ranges that share no byte end in the order in which they start.
        let before = self.held.range(..span.end().0).rev();
        let shared = before.take_while(|(_, (end, _))| *end > span.offset.0);
        let shared: Vec<(Span, T)> = shared
            .map(|(&start, &(end, content))| (Span { offset: Bytes(start), len: Bytes(end - start) }, content))
            .collect();
        shared.iter().for_each(|(held, _)| _ = self.held.remove(&held.offset.0));
        shared
    }

    /// Lays `content` into `span`, which is clear; a span without bytes holds nothing.
    pub(super) fn put(&mut self, span: Span, content: T) {
        if span.len > Bytes::ZERO {
            self.held.insert(span.offset.0, (span.end().0, content));
        }
    }
}
