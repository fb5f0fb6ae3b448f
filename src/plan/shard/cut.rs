//! Units and shares → a run of units for each member. A unit is a head or a hidden column; granules of units stay together.

use std::ops::Range;

/// A run of units a member, in order and none empty; `None` where there are fewer granules than members. Each member's
/// share is met to within a granule.
pub(super) fn runs(units: u32, granule: u32, shares: &[f64]) -> Option<Vec<Range<u32>>> {
    let granules = u64::from(units.div_ceil(granule.max(1)));
    let members = shares.len() as u64;
    if granules < members || members == 0 {
        return None;
    }
    let all: f64 = shares.iter().sum();
    let (mut found, mut reached, mut start) = (Vec::with_capacity(shares.len()), 0.0, 0);
    for (i, share) in shares.iter().enumerate() {
        reached += share;
        let left = members - 1 - i as u64;
        let wanted = (granules as f64 * reached / all).round() as u64;
        // Everyone before has at least one, everyone behind keeps one.
        let end = if left == 0 { granules } else { wanted.clamp(start + 1, granules - left) };
        let unit = |granules: u64| (granules * u64::from(granule)).min(units.into()) as u32;
        found.push(unit(start)..unit(end));
        start = end;
    }
    Some(found)
}

/// By how much the largest run exceeds its share.
pub(super) fn excess(runs: &[Range<u32>], shares: &[f64]) -> f64 {
    let (units, all): (f64, f64) = (runs.iter().map(|r| r.len() as f64).sum(), shares.iter().sum());
    let over = runs.iter().zip(shares).map(|(run, share)| run.len() as f64 / (units * share / all));
    over.fold(1.0, f64::max)
}

/// The fewest units whose columns, so many a unit, are whole blocks.
pub(super) fn granule(cols: u32, block: u32) -> u32 {
    block / gcd(block, cols.max(1)).max(1)
}

/// The least common multiple.
pub(super) fn common(a: u32, b: u32) -> u32 {
    (a / gcd(a, b).max(1)).saturating_mul(b)
}

fn gcd(a: u32, b: u32) -> u32 {
    if b == 0 { a } else { gcd(b, a % b) }
}
