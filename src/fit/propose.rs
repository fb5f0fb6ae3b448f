//! Graph, machine and wishes → homes by one deal within budgets, as an engine that is told flags loads a model.
//! Plans nothing: what arenas and rings need beside is for a plan to say, or for [`fit`](super::fit) to find.

use super::capacity::Capacity;
use super::deal::{Assignment, Choice, Order};
use super::parts::Parts;
use super::{FitError, Wishes, homes, overrides};
use crate::device::Machine;
use crate::graph::Graph;
use crate::residency::Residency;

/// The homes that `wishes` ask for, layers dealt to devices in proportion to what each can hold.
///
/// # Errors
/// A wish cannot be met: which, and by how many bytes.
pub fn propose(graph: &Graph, machine: &Machine, wishes: &Wishes) -> Result<Residency, FitError> {
    let machine = &wishes.with_margins(machine)?;
    let parts = Parts::of(graph, &overrides::pins(graph, machine, &wishes.overrides)?);
    let choice = Choice { order: Order::Share, ..Choice::first(wishes) };
    let capacity = Capacity::of(machine, choice.cards, &[])?.without_pinned(machine, &parts);
    wishes.suit(machine, capacity.cards.len())?;
    let assignment = Assignment::deal(&parts, machine, &capacity, choice, wishes)?;
    Ok(homes::homes(graph, &parts, &assignment))
}
