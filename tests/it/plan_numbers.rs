//! Plans with random numbers: none makes the checker panic, and those that it accepts execute.

use loadmaster::index::{Id, IndexVec};
use loadmaster::plan::{Plan, Reason, SplitId, Violation, check};
use loadmaster::units::Bytes;

use crate::plan_damage::streaming;
use crate::plan_execute::execute;
use crate::plan_random::{Case, Random};

/// One number of a plan, by the place among its like, changed.
type Field = (&'static str, fn(&mut Plan, usize, &mut dyn FnMut(u64) -> u64));

fn id<I: Id>(place: &mut I, change: &mut dyn FnMut(u64) -> u64) {
    *place = I::from_index(change(place.index() as u64) as u32 as usize);
}

fn bytes(place: &mut Bytes, change: &mut dyn FnMut(u64) -> u64) {
    place.0 = change(place.0);
}

/// Calls `change` on the item of `all` at `at`, where there is one.
fn with<I: Id, T>(all: &mut IndexVec<I, T>, at: usize, change: impl FnOnce(&mut T)) {
    if !all.is_empty() {
        let at = I::from_index(at % all.len());
        change(&mut all[at]);
    }
}

const IDS: &[Field] = &[
    ("placements.device", |p, at, c| with(&mut p.placements, at, |x| id(&mut x.device, c))),
    ("placements.reason", |p, at, c| {
        with(&mut p.placements, at, |x| match &mut x.reason {
            Reason::WeightHome(w) | Reason::Offloaded { weight: w, .. } | Reason::Stays { weight: w, .. } => id(w, c),
            Reason::StateHome(s) => id(s, c),
            Reason::FollowsInput(n) | Reason::FollowsUser(n) => id(n, c),
            Reason::Lane(lane) => id(lane, c),
            Reason::FirstDevice => {}
        })
    }),
    ("placements.reason.accelerator", |p, at, c| {
        with(&mut p.placements, at, |x| {
            if let Reason::Stays { accelerator, .. } = &mut x.reason {
                id(accelerator, c);
            }
        })
    }),
    ("splits.device", |p, at, c| with(&mut p.splits, at, |x| id(&mut x.device, c))),
    ("splits.nodes", |p, at, c| {
        with(&mut p.splits, at, |x| {
            let n = x.nodes.len();
            x.nodes.get_mut(at.checked_rem(n).unwrap_or(0)).into_iter().for_each(|x| id(x, c));
        })
    }),
    ("inputs.input", |p, at, c| {
        let n = p.inputs.len().max(1);
        p.inputs.get_mut(at % n).into_iter().for_each(|x| id(&mut x.input, c));
    }),
    ("inputs.device", |p, at, c| {
        let n = p.inputs.len().max(1);
        p.inputs.get_mut(at % n).into_iter().for_each(|x| id(&mut x.device, c));
    }),
    ("transfers.value", |p, at, c| with(&mut p.transfers, at, |x| id(&mut x.value, c))),
    ("transfers.after", |p, at, c| with(&mut p.transfers, at, |x| id(&mut x.after, c))),
    ("transfers.to", |p, at, c| with(&mut p.transfers, at, |x| id(&mut x.to, c))),
    ("uploads.slice.weight", |p, at, c| with(&mut p.uploads, at, |x| id(&mut x.slice.weight, c))),
    ("uploads.from", |p, at, c| with(&mut p.uploads, at, |x| id(&mut x.from, c))),
    ("uploads.to", |p, at, c| with(&mut p.uploads, at, |x| id(&mut x.to, c))),
    ("uploads.split", |p, at, c| with(&mut p.uploads, at, |x| id(&mut x.split, c))),
    ("uploads.after", |p, at, c| {
        with(&mut p.uploads, at, |x| {
            let mut after = x.after.unwrap_or(SplitId(0));
            id(&mut after, c);
            x.after = Some(after);
        })
    }),
];

const SIZES: &[Field] = &[
    ("splits.scratch.offset", |p, at, c| with(&mut p.splits, at, |x| bytes(&mut x.scratch.offset, c))),
    ("splits.scratch.len", |p, at, c| with(&mut p.splits, at, |x| bytes(&mut x.scratch.len, c))),
    ("values.offset", |p, at, c| with(&mut p.values, at, |x| bytes(&mut x.offset, c))),
    ("values.len", |p, at, c| with(&mut p.values, at, |x| bytes(&mut x.len, c))),
    ("inputs.span.offset", |p, at, c| {
        let n = p.inputs.len().max(1);
        p.inputs.get_mut(at % n).into_iter().for_each(|x| bytes(&mut x.span.offset, c));
    }),
    ("transfers.span.offset", |p, at, c| with(&mut p.transfers, at, |x| bytes(&mut x.span.offset, c))),
    ("transfers.span.len", |p, at, c| with(&mut p.transfers, at, |x| bytes(&mut x.span.len, c))),
    ("uploads.span.offset", |p, at, c| with(&mut p.uploads, at, |x| bytes(&mut x.span.offset, c))),
    ("uploads.span.len", |p, at, c| with(&mut p.uploads, at, |x| bytes(&mut x.span.len, c))),
    ("uploads.range.start", |p, at, c| {
        with(&mut p.uploads, at, |x| x.slice.range.start = c(x.slice.range.start.into()) as u32)
    }),
    ("uploads.range.end", |p, at, c| {
        with(&mut p.uploads, at, |x| x.slice.range.end = c(x.slice.range.end.into()) as u32)
    }),
    ("arenas", |p, at, c| with(&mut p.arenas, at, |x| bytes(&mut x.bytes, c))),
    ("rings", |p, at, c| with(&mut p.rings, at, |x| bytes(x, c))),
    ("memories.weights", |p, at, c| with(&mut p.memories, at, |x| bytes(&mut x.weights, c))),
    ("memories.rings", |p, at, c| with(&mut p.memories, at, |x| bytes(&mut x.rings, c))),
];

#[test]
fn ids_that_name_nothing_are_violations() {
    for (seed, case, whole) in streaming(20) {
        for (what, field) in IDS {
            for at in 0..40 {
                let (mut wild, mut changed) = (whole.clone(), false);
                field(&mut wild, at, &mut |_| {
                    changed = true;
                    u64::from(u32::MAX) - at as u64
                });
                let found = check(&case.graph, &case.residency, &case.machine, &wild);
                let refused = matches!(found, Err(Violation::Unknown { .. }));
                assert!(refused || !changed, "seed {seed}: {what}: {found:?}");
            }
        }
    }
}

/// A number near `old`, or any.
fn near(r: &mut Random, old: u64) -> u64 {
    match r.below(8) {
        0 => r.below(usize::MAX) as u64,
        1 => u64::MAX - r.below(300) as u64,
        2 => old.wrapping_add(1),
        3 => old.wrapping_sub(1),
        4 => r.below(8) as u64,
        5 | 6 => old.wrapping_add(64 * (1 + r.below(40) as u64)),
        _ => old.wrapping_sub(64 * (1 + r.below(40) as u64)),
    }
}

/// Soundness from outside: whatever numbers a plan has, if the checker takes it, it executes.
#[test]
fn what_the_checker_accepts_executes() {
    let (mut accepted, mut refused) = (0, 0);
    for seed in 0..u64::from(crate::cases(500)) {
        let (case, mut r) = (Case::streaming(seed), Random(seed));
        let Ok(whole) = case.plan() else { continue };
        for order in 0..30 {
            let mut changed = whole.clone();
            for _ in 0..1 + r.below(4) / 3 {
                let field = if r.once_in(2) { r.of(IDS) } else { r.of(SIZES) };
                let at = r.below(usize::MAX);
                field.1(&mut changed, at, &mut |old| near(&mut r, old));
            }
            if changed != whole && check(&case.graph, &case.residency, &case.machine, &changed).is_ok() {
                accepted += 1;
                execute(&case, &changed, order).unwrap_or_else(|why| panic!("seed {seed}: {why}"));
                execute(&case, &changed, !order).unwrap_or_else(|why| panic!("seed {seed}: {why}"));
            } else {
                refused += 1;
            }
        }
    }
    assert!(accepted > 60 && refused > 1000, "{accepted} accepted, {refused} refused");
}
