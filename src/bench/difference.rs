//! What two devices made of the same rows → how far apart they are: sums over all rows, and what becomes of them at the
//! end. What has the same bits is no distance apart, also where it is not finite.

use serde::Serialize;

use crate::exec::Made;

/// Sums over the elements that were seen.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Sums {
    /// Of squared differences.
    apart: f64,
    /// Of squared elements of the reference.
    reference: f64,
    /// The largest difference, and the largest element of the reference.
    most: (f64, f64),
    /// Choices of another expert, and all choices; none of a value without.
    experts: Option<(u64, u64)>,
}

/// How far what a device made is from the reference.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct Difference {
    /// Mean squared difference over the mean square of the reference; JSON has no number for one that is not finite and
    /// says null.
    pub nmse: f64,
    /// The largest difference of an element.
    pub max_error: f64,
    /// The largest element of the reference, without its sign.
    pub max_abs_reference: f64,
    /// Where experts are chosen: choices of another expert than the reference's, in the same place of the same row.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub other_experts: Option<u64>,
    /// Choices in all.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub choices: Option<u64>,
}

impl Sums {
    /// Adds what both made of a step; values that are not alike at all are infinitely far apart.
    pub fn add(&mut self, reference: &Made, found: &Made) {
        match (reference, found) {
            (Made::Floats(reference), Made::Floats(found)) if reference.len() == found.len() => {
                reference.iter().zip(found).for_each(|(&a, &b)| self.element(a, b));
            }
            (Made::Choices(reference), Made::Choices(found)) if reference.len() == found.len() => {
                reference.iter().zip(found).for_each(|(&a, &b)| self.choice(a, b));
            }
            (Made::Floats(_) | Made::Choices(_), Made::Floats(_) | Made::Choices(_)) => self.apart = f64::INFINITY,
        }
    }

    fn element(&mut self, reference: f32, found: f32) {
        let exact = f64::from(reference);
        self.reference += exact * exact;
        self.most.1 = larger(self.most.1, exact.abs());
        if reference.to_bits() != found.to_bits() {
            let apart = f64::from(found) - exact;
            self.apart += apart * apart;
            self.most.0 = larger(self.most.0, apart.abs());
        }
    }

    /// Weights of different experts are different elements, of which the other device has none.
    fn choice(&mut self, (expert, weight): (u32, f32), (other, found): (u32, f32)) {
        let (others, all) = self.experts.get_or_insert((0, 0));
        *all += 1;
        if expert == other {
            return self.element(weight, found);
        }
        *others += 1;
        self.element(weight, 0.0);
        self.element(0.0, found);
    }

    /// The difference so far.
    pub fn difference(&self) -> Difference {
        let nmse = if self.apart == 0.0 { 0.0 } else { self.apart / self.reference };
        Difference {
            nmse,
            max_error: self.most.0,
            max_abs_reference: self.most.1,
            other_experts: self.experts.map(|(others, _)| others),
            choices: self.experts.map(|(_, all)| all),
        }
    }
}

/// The larger of two, where what is no number is larger than all.
fn larger(a: f64, b: f64) -> f64 {
    if a.is_nan() || a > b { a } else { b }
}

/// Logits of two devices.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct LogitsDifference {
    /// All rows.
    #[serde(flatten)]
    pub difference: Difference,
    /// Rows.
    pub rows: usize,
    /// Rows in which both hold the same token the most probable.
    pub same_greedy: usize,
    /// The first row in which they do not.
    pub first_other: Option<OtherToken>,
}

/// A row whose most probable tokens differ.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct OtherToken {
    /// Its number.
    pub row: usize,
    /// The reference's token.
    pub reference: u32,
    /// The device's.
    pub found: u32,
    /// How far the reference has its own ahead of the device's.
    pub ahead: f64,
    /// The root of the mean squared difference of the row: a lead of less than four times this decides nothing.
    pub error: f64,
}

/// Rows of logits that were compared.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Greedy {
    rows: usize,
    same: usize,
    first_other: Option<OtherToken>,
}

impl Greedy {
    /// Adds the logits of a step.
    pub fn add(&mut self, reference: &Made, found: &Made, width: usize) {
        let (Made::Floats(reference), Made::Floats(found)) = (reference, found) else { return };
        for (reference, found) in reference.chunks_exact(width).zip(found.chunks_exact(width)) {
            let (best, other) = (best(reference), best(found));
            if best == other {
                self.same += 1;
            } else if self.first_other.is_none() {
                let ahead = f64::from(reference[best]) - f64::from(reference[other]);
                let squares = reference.iter().zip(found).map(|(&a, &b)| (f64::from(a) - f64::from(b)).powi(2));
                let error = (squares.sum::<f64>() / width as f64).sqrt();
                let (reference, found) = (best as u32, other as u32);
                self.first_other = Some(OtherToken { row: self.rows, reference, found, ahead, error });
            }
            self.rows += 1;
        }
    }

    /// What was seen, beside the difference of all rows.
    pub fn logits(self, difference: Difference) -> LogitsDifference {
        let Greedy { rows, same, first_other } = self;
        LogitsDifference { difference, rows, same_greedy: same, first_other }
    }
}

/// The first of the largest.
fn best(row: &[f32]) -> usize {
    (1..row.len()).fold(0, |best, i| if row[i] > row[best] { i } else { best })
}
