//! Measured rows → rates: two rows solve for two numbers of one side, all else staying as the machine's file says.
//! Finds the numbers with which the simulation takes as long as was measured; never fits more than it was told to.

use serde::{Deserialize, Serialize};
use thiserror::Error;

use super::{Overlap, Setting, step_time};
use crate::device::{Machine, Rates};
use crate::graph::Graph;
use crate::plan::{PlanError, Policy};
use crate::residency::Residency;
use crate::units::{BytesPerSec, Nanos, OpsPerSec};

/// Which two numbers are solved for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Side {
    /// The rate of computing of all accelerators, and the rate of all links and buses.
    Accelerators,
    /// The rate of computing of all processors, and what each of their splits costs beside it.
    Host,
}

/// A measured step.
#[derive(Clone, Copy, Debug)]
pub struct Row<'a> {
    /// The graph of the step.
    pub graph: &'a Graph,
    /// The homes it ran with.
    pub residency: &'a Residency,
    /// What decided where it ran.
    pub policy: &'a Policy,
    /// How long it took.
    pub time: Nanos,
}

/// Why no rates were found.
#[derive(Debug, Error, PartialEq)]
pub enum CalibrateError {
    /// A row has no plan.
    #[error(transparent)]
    Plan(#[from] PlanError),
    /// Both rows say the same about both numbers.
    #[error("the rows cannot tell apart the two numbers of {side:?}: they need different shares of both")]
    Undetermined {
        /// What was asked for.
        side: Side,
    },
    /// No positive numbers explain the rows.
    #[error("no rates of {side:?} explain both rows: {nearest:?} is the nearest to the measured {measured:?}")]
    Unexplained {
        /// What was asked for.
        side: Side,
        /// The rows' times in the last try.
        nearest: [Nanos; 2],
        /// The rows' times as measured.
        measured: [Nanos; 2],
    },
}

/// Tries of Newton's method; costs are nearly linear in the numbers, so few are needed.
const TRIES: usize = 40;

/// The share of a row's time by which a prediction may miss it.
const CLOSE: f64 = 1e-5;

/// The machine with the rates that explain `rows`.
///
/// # Errors
/// A row has no plan, or no rates explain both.
pub fn calibrate(
    machine: &Machine,
    side: Side,
    overlap: Overlap,
    rows: [Row<'_>; 2],
) -> Result<Machine, CalibrateError> {
    let knobs = Knobs::of(side);
    let times = |x: [f64; 2]| -> Result<[f64; 2], PlanError> {
        let machine = knobs.applied(machine, x);
        let time = |row: &Row<'_>| {
            let Row { residency, policy, .. } = *row;
            step_time(row.graph, &Setting { residency, machine: &machine, policy, overlap }).map(Nanos::seconds)
        };
        Ok([time(&rows[0])?, time(&rows[1])?])
    };
    let wanted = rows.map(|row| row.time.seconds());
    let mut x = knobs.start;
    for _ in 0..TRIES {
        let at = times(x)?;
        if (0..2).all(|i| (at[i] - wanted[i]).abs() <= CLOSE * wanted[i]) {
            return Ok(knobs.applied(machine, x));
        }
        let [h0, h1] = knobs.small;
        let (d0, d1) = (times([x[0] + h0, x[1]])?, times([x[0], x[1] + h1])?);
        let slopes = |i: usize| [(d0[i] - at[i]) / h0, (d1[i] - at[i]) / h1];
        let step = solve([slopes(0), slopes(1)], [wanted[0] - at[0], wanted[1] - at[1]]);
        let step = step.ok_or(CalibrateError::Undetermined { side })?;
        x = knobs.stepped(x, step);
    }
    let nearest = times(x)?.map(Nanos::of_seconds);
    Err(CalibrateError::Unexplained { side, nearest, measured: rows.map(|row| row.time) })
}

/// `matrix * x = right` by Cramer's rule, or `None` where its rows say the same.
fn solve(matrix: [[f64; 2]; 2], right: [f64; 2]) -> Option<[f64; 2]> {
    let [[a, b], [c, d]] = matrix;
    let (det, size) = (a * d - b * c, (a * d).abs() + (b * c).abs());
    let x = [(right[0] * d - b * right[1]) / det, (a * right[1] - right[0] * c) / det];
    (det.abs() > 1e-6 * size && x.iter().all(|x| x.is_finite())).then_some(x)
}

/// The two numbers: what computing costs, against the machine's file, and what links or splits cost.
struct Knobs {
    side: Side,
    start: [f64; 2],
    small: [f64; 2],
    least: [f64; 2],
}

impl Knobs {
    fn of(side: Side) -> Knobs {
        match side {
            Side::Accelerators => Knobs { side, start: [1.0, 1.0], small: [0.01, 0.01], least: [1e-6, 1e-6] },
            // Seconds a split.
            Side::Host => Knobs { side, start: [1.0, 0.0], small: [0.01, 1e-4], least: [1e-6, 0.0] },
        }
    }

    /// Goes no further than to four times or a quarter of a cost, which keeps costs positive.
    fn stepped(&self, x: [f64; 2], step: [f64; 2]) -> [f64; 2] {
        let bounded = |i: usize| {
            let most = if x[i] > 0.0 { x[i] * 4.0 } else { f64::INFINITY };
            (x[i] + step[i]).min(most).max(x[i] / 4.0).max(self.least[i])
        };
        [bounded(0), bounded(1)]
    }

    fn applied(&self, machine: &Machine, [compute, other]: [f64; 2]) -> Machine {
        let mut machine = machine.clone();
        let ids: Vec<_> = machine.devices.ids().collect();
        for id in ids {
            let device = &mut machine.devices[id];
            if device.is_accelerator() == (self.side == Side::Accelerators) {
                slow(&mut device.rates, compute);
                if self.side == Side::Host {
                    device.rates.split += Nanos::of_seconds(other);
                }
            }
        }
        if self.side == Side::Accelerators {
            let (links, buses): (Vec<_>, Vec<_>) = (machine.links.ids().collect(), machine.buses.ids().collect());
            links.into_iter().for_each(|id| slow_bytes(&mut machine.links[id].rate, other));
            buses.into_iter().for_each(|id| slow_bytes(&mut machine.buses[id].rate, other));
        }
        machine
    }
}

fn slow(rates: &mut Rates, cost: f64) {
    for rate in [&mut rates.int8, &mut rates.f16, &mut rates.f32] {
        *rate = OpsPerSec(rate.0 / cost);
    }
}

fn slow_bytes(rate: &mut BytesPerSec, cost: f64) {
    *rate = BytesPerSec(rate.0 / cost);
}
