//! Expert routing and the weighted sum of experts, one row at a time, and the grouping of rows by expert.

use crate::backend::cpu::simd::{Job, LANES, Simd, math};

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

/// Softmax of the router's logits, then the best experts in descending order; ties go to the lowest id.
pub struct Route<'a> {
    /// One logit an expert; overwritten with probabilities.
    pub logits: &'a mut [f32],
    /// Whether the chosen weights are divided by their sum.
    pub normalize: bool,
    /// Factor on the weights.
    pub scale: f32,
    /// As many as are chosen.
    pub out: &'a mut [Choice],
}

impl Job for Route<'_> {
    type Out = ();

    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        softmax(s, self.logits);
        for slot in 0..self.out.len() {
            let (chosen, rest) = self.out.split_at_mut(slot);
            rest[0] = best_except(self.logits, chosen);
        }
        let sum: f32 = self.out.iter().map(|c| c.weight).sum();
        let whole = if self.normalize { sum.max(LEAST_SUM) } else { 1.0 };
        for choice in self.out.iter_mut() {
            choice.weight = choice.weight / whole * self.scale;
        }
    }
}

/// The expert of highest probability that is not chosen yet; one of NaN probability comes last.
fn best_except(probabilities: &[f32], chosen: &[Choice]) -> Choice {
    let mut best: Option<Choice> = None;
    for (expert, &weight) in probabilities.iter().enumerate() {
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

/// `out = sum over slots, in rank order, of weight * x[slot]`, every product and sum rounded, then plus the residual.
pub struct Combine<'a> {
    /// One slice of `out.len()` a slot.
    pub x: &'a [f32],
    /// The choices of the row.
    pub choices: &'a [Choice],
    /// Added last.
    pub residual: Option<&'a [f32]>,
    /// The sum.
    pub out: &'a mut [f32],
}

impl Job for Combine<'_> {
    type Out = ();

    #[inline(always)]
    fn run<S: Simd>(self, _s: S) {
        self.out.fill(0.0);
        for (choice, x) in self.choices.iter().zip(self.x.chunks_exact(self.out.len())) {
            for (out, x) in self.out.iter_mut().zip(x) {
                *out += x * choice.weight;
            }
        }
        for (out, r) in self.out.iter_mut().zip(self.residual.unwrap_or(&[])) {
            *out += r;
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
