//! Expert routing and the weighted sum of experts, one row at a time, and the grouping of rows by expert.

use std::ops::Range;

use crate::backend::cpu::simd::{Job, LANES, Simd, math};
use crate::graph::ops::{ExpertGroups, Gating};

/// One chosen expert: the bytes of `graph::Element::Choice`.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, bytemuck::Pod, bytemuck::Zeroable)]
pub struct Choice {
    /// The expert.
    pub expert: u32,
    /// Its weight in the sum.
    pub weight: f32,
}

/// The least sum that chosen weights are divided by (llama.cpp's bound: the smallest normal f16).
const LEAST_SUM: f32 = 6.103_515_6e-5;

/// How experts are chosen, the same for every row.
#[derive(Clone, Copy, Debug)]
pub struct Choose {
    /// Logits to probabilities.
    pub gating: Gating,
    /// Groups that the experts are chosen from.
    pub groups: Option<ExpertGroups>,
    /// Whether the chosen weights are divided by their sum.
    pub normalize: bool,
    /// Factor on the weights.
    pub scale: f32,
}

/// Probabilities of the router's logits, then the best experts in descending order; ties go to the lowest id.
pub struct Route<'a> {
    /// What is the same for every row.
    pub choose: Choose,
    /// One logit an expert; overwritten with probabilities.
    pub logits: &'a mut [f32],
    /// What is added to probabilities for the choice, one number an expert.
    pub bias: Option<&'a [f32]>,
    /// Twice as many as `logits`: room for what experts and groups are chosen by.
    pub scores: &'a mut [f32],
    /// As many as are chosen.
    pub out: &'a mut [Choice],
}

impl Job for Route<'_> {
    type Out = ();

    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        let Choose { gating, groups, normalize, scale } = self.choose;
        match gating {
            Gating::Softmax => softmax(s, self.logits),
            Gating::Sigmoid => sigmoid(s, self.logits),
        }
        let (scores, worths) = self.scores.split_at_mut(self.logits.len());
        scores.copy_from_slice(self.logits);
        for (score, bias) in scores.iter_mut().zip(self.bias.unwrap_or(&[])) {
            *score += bias;
        }
        if let Some(groups) = groups {
            keep_groups(scores, groups, worths);
        }
        for slot in 0..self.out.len() {
            let (chosen, rest) = self.out.split_at_mut(slot);
            rest[0] = best_except(scores, chosen);
        }
        for choice in self.out.iter_mut() {
            choice.weight = self.logits[choice.expert as usize];
        }
        let sum: f32 = self.out.iter().map(|c| c.weight).sum();
        let whole = if normalize { sum.max(LEAST_SUM) } else { 1.0 };
        for choice in self.out.iter_mut() {
            choice.weight = choice.weight / whole * scale;
        }
    }
}

/// Makes the scores of all groups but the best minus infinity. A group is as good as the sum of its two best scores; ties
/// go to the lowest group, NaN comes last. `worths` has room for one number a group.
fn keep_groups(scores: &mut [f32], groups: ExpertGroups, worths: &mut [f32]) {
    let size = scores.len() / groups.count as usize;
    let worths = &mut worths[..groups.count as usize];
    for (worth, group) in worths.iter_mut().zip(scores.chunks_exact(size)) {
        let first = best_except(group, &[]);
        *worth = first.weight + best_except(group, &[first]).weight;
    }
    for (i, group) in scores.chunks_exact_mut(size).enumerate() {
        let own = worths[i];
        let better = |(j, other): (usize, &f32)| match other.partial_cmp(&own) {
            Some(order) => order.is_gt() || (order.is_eq() && j < i),
            None => !other.is_nan() || (own.is_nan() && j < i),
        };
        if worths.iter().enumerate().filter(|&w| better(w)).count() >= groups.used as usize {
            group.fill(f32::NEG_INFINITY);
        }
    }
}

/// The expert of highest score that is not chosen yet, with its score; one of NaN score comes last.
fn best_except(scores: &[f32], chosen: &[Choice]) -> Choice {
    let mut best: Option<Choice> = None;
    for (expert, &weight) in scores.iter().enumerate() {
        let expert = expert as u32;
        let better = best.is_none_or(|b| weight > b.weight || (b.weight.is_nan() && !weight.is_nan()));
        if better && !chosen.iter().any(|c| c.expert == expert) {
            best = Some(Choice { expert, weight });
        }
    }
    best.unwrap_or_default()
}

#[inline(always)]
fn softmax<S: Simd>(s: S, x: &mut [f32]) {
    let mut most = s.splat(f32::NEG_INFINITY);
    for chunk in x.chunks(LANES) {
        most = s.max(s.load_part(chunk, f32::NEG_INFINITY), most);
    }
    let most = s.splat(s.reduce_max(most));
    for chunk in x.chunks_mut(LANES) {
        s.store_part(math::exp(s, s.sub(s.load_part(chunk, f32::NEG_INFINITY), most)), chunk);
    }
    // One rounding of the sum and one of its inverse, as in llama.cpp: a router's bits decide which expert is chosen.
    let inverse = (1.0 / x.iter().copied().map(f64::from).sum::<f64>()) as f32;
    for p in x {
        *p *= inverse;
    }
}

#[inline(always)]
fn sigmoid<S: Simd>(s: S, x: &mut [f32]) {
    for chunk in x.chunks_mut(LANES) {
        s.store_part(math::sigmoid(s, s.load_part(chunk, 0.0)), chunk);
    }
}

/// `out = sum over slots, in rank order, of weight * x[slot]`, every product and sum rounded, then plus the others.
/// Slots of experts outside the part count for nothing, whatever they hold.
pub struct Combine<'a> {
    /// One slice of `out.len()` a slot.
    pub x: &'a [f32],
    /// The choices of the row.
    pub choices: &'a [Choice],
    /// The experts whose slots are summed.
    pub part: Range<u32>,
    /// Added first, then second.
    pub others: [Option<&'a [f32]>; 2],
    /// The sum.
    pub out: &'a mut [f32],
}

impl Job for Combine<'_> {
    type Out = ();

    #[inline(always)]
    fn run<S: Simd>(self, _s: S) {
        self.out.fill(0.0);
        let slots = self.choices.iter().zip(self.x.chunks_exact(self.out.len()));
        for (choice, x) in slots.filter(|(choice, _)| self.part.contains(&choice.expert)) {
            for (out, x) in self.out.iter_mut().zip(x) {
                *out += x * choice.weight;
            }
        }
        for other in self.others.into_iter().flatten() {
            for (out, r) in self.out.iter_mut().zip(other) {
                *out += r;
            }
        }
    }
}

/// Groups the slots of all rows by expert: `slots[starts[e]..starts[e + 1]]` are the slots (row times `used` plus
/// rank) that chose expert `e`, ascending. `starts` has one entry more than there are experts.
pub fn group(choices: &[Choice], starts: &mut [u32], slots: &mut [u32]) {
    starts.fill(0);
    for choice in choices {
        starts[choice.expert as usize + 1] += 1;
    }
    for e in 1..starts.len() {
        starts[e] += starts[e - 1];
    }
    // Each start moves to its group's end while the group fills, then all shift back by one.
    for (slot, choice) in choices.iter().enumerate() {
        let at = &mut starts[choice.expert as usize];
        slots[*at as usize] = slot as u32;
        *at += 1;
    }
    starts.copy_within(0..starts.len() - 1, 1);
    starts[0] = 0;
}
