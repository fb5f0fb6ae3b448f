//! A map of what is live → the moves that bring it together at the beginning. Pure.
//!
//! What is live above the live count moves into the holes below it and nothing else does, so no other set of moves
//! copies less. Moves are coalesced. Which piece goes into which hole decides how many there are: of two ways the one
//! with fewer moves is taken, so that there are never more than in either.

use std::collections::BTreeMap;

use super::CellId;
use crate::units::Tokens;

/// A copy of cells within every layer's cache. Source and destination do not overlap.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Move {
    /// The first cell to read.
    pub src: CellId,
    /// The first cell to write.
    pub dst: CellId,
    /// Cells.
    pub len: Tokens,
}

/// A run of entries of a map: where it begins and how long it is.
type Stretch = (u32, u32);

/// Source, destination and length, in entries.
type Step = (u32, u32, u32);

/// The fewest copies that leave everything live at the beginning of the map, an entry of which stands for `unit` cells.
pub fn gather(live: &[bool], unit: Tokens) -> Vec<Move> {
    let count = live.iter().filter(|&&is| is).count();
    let (below, above) = live.split_at(count);
    let holes = stretches(below, false, 0);
    let pieces = stretches(above, true, count as u32);
    let (fitted, last_first) = (fit(&holes, &pieces), last_first(&holes, &pieces));
    let steps = if last_first.len() < fitted.len() { last_first } else { fitted };
    let cells = |entries: u32| entries * unit.0;
    steps
        .into_iter()
        .map(|(src, dst, len)| Move { src: CellId(cells(src)), dst: CellId(cells(dst)), len: Tokens(cells(len)) })
        .collect()
}

/// The stretches where the map is `wanted`; the first entry is number `first`.
fn stretches(map: &[bool], wanted: bool, first: u32) -> Vec<Stretch> {
    let mut found: Vec<Stretch> = Vec::new();
    for at in (first..).zip(map).filter(|(_, is)| **is == wanted).map(|(at, _)| at) {
        match found.last_mut() {
            Some((start, len)) if *start + *len == at => *len += 1,
            Some(_) | None => found.push((at, 1)),
        }
    }
    found
}

/// Holes in order, each filled by what lies last; the order of llama.cpp's cache.
fn last_first(holes: &[Stretch], pieces: &[Stretch]) -> Vec<Step> {
    let mut left = pieces.to_vec();
    let mut steps = Vec::new();
    for &(dst, room) in holes {
        let mut filled = room;
        while filled > 0 {
            let Some((start, len)) = left.pop() else { break };
            let taken = len.min(filled);
            filled -= taken;
            steps.push((start + len - taken, dst + filled, taken));
            if taken < len {
                left.push((start, len - taken));
            }
        }
    }
    steps
}

/// Stretches by length, those that begin last at hand.
struct ByLength(BTreeMap<u32, Vec<u32>>);

impl ByLength {
    fn new(stretches: &[Stretch]) -> ByLength {
        let mut sorted = ByLength(BTreeMap::new());
        stretches.iter().for_each(|&stretch| sorted.put(stretch));
        sorted
    }

    fn put(&mut self, (start, len): Stretch) {
        if len > 0 {
            self.0.entry(len).or_default().push(start);
        }
    }

    fn take(&mut self, len: u32) -> Option<Stretch> {
        let starts = self.0.get_mut(&len)?;
        let start = starts.pop();
        if starts.is_empty() {
            self.0.remove(&len);
        }
        start.map(|start| (start, len))
    }

    fn take_longest(&mut self) -> Option<Stretch> {
        self.0.last_key_value().map(|(&len, _)| len).and_then(|len| self.take(len))
    }
}

/// Pieces into holes of their length; of what fits nowhere the longest into the longest, until the rest fits.
fn fit(holes: &[Stretch], pieces: &[Stretch]) -> Vec<Step> {
    let mut holes = ByLength::new(holes);
    let mut steps = Vec::new();
    let mut odd = ByLength::new(&[]);
    for &(start, len) in pieces.iter().rev() {
        match holes.take(len) {
            Some((dst, _)) => steps.push((start, dst, len)),
            None => odd.put((start, len)),
        }
    }
    while let Some((dst, room)) = holes.take_longest() {
        let Some((src, len)) = odd.take(room).or_else(|| odd.take_longest()) else { break };
        let taken = len.min(room);
        steps.push((src, dst, taken));
        odd.put((src + taken, len - taken));
        let rest = (dst + taken, room - taken);
        match odd.take(rest.1) {
            Some((src, len)) => steps.push((src, rest.0, len)),
            None => holes.put(rest),
        }
    }
    steps.sort_unstable_by_key(|&(_, dst, _)| dst);
    coalesced(steps)
}

/// Steps by destination, joined where source and destination both go on.
fn coalesced(steps: Vec<Step>) -> Vec<Step> {
    let mut joined: Vec<Step> = Vec::with_capacity(steps.len());
    for (src, dst, len) in steps {
        match joined.last_mut() {
            Some(last) if last.0 + last.2 == src && last.1 + last.2 == dst => last.2 += len,
            Some(_) | None => joined.push((src, dst, len)),
        }
    }
    joined
}
