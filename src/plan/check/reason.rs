//! The reason of a placement names what the node reads or feeds, and that is where the reason says. Prices are not
//! judged: a plan that is dear is no wrong plan.

use super::{Case, Violation};
use crate::graph::{NodeId, WeightId};
use crate::plan::{Placement, Reason};

/// Checks every node's reason.
pub(super) fn hold(case: Case<'_>) -> Result<(), Violation> {
    match case.plan.placements.iter_ids().find(|&(id, placement)| !holds(case, id, placement)) {
        Some((node, placement)) => Err(Violation::Reason { node, device: placement.device }),
        None => Ok(()),
    }
}

fn holds(case: Case<'_>, id: NodeId, &Placement { device, reason }: &Placement) -> bool {
    let Case { graph, residency, machine, plan } = case;
    let op = &graph.node(id).op;
    let memory = machine.devices[device].memory;
    let reads = |w: WeightId| op.weight_operands().contains(&w);
    let at_home = |w: WeightId| {
        let range = op.matrices(w, graph.weights()[w].count);
        reads(w) && residency.weights[w].iter().any(|h| h.memory == memory && h.slice.holds(&range))
    };
    let beside = |n: NodeId| plan.placements[n].device == device;
    match reason {
        Reason::WeightHome(w) => at_home(w),
        Reason::StateHome(s) => op.states().any(|own| own == s) && residency.states[s] == memory,
        Reason::Offloaded { weight, rule: _ } => reads(weight) && machine.devices[device].is_accelerator(),
        Reason::Stays { weight, accelerator, rule: _ } => {
            at_home(weight) && machine.devices[accelerator].is_accelerator()
        }
        Reason::Lane(lane) => graph.node(id).lane == Some(lane) && residency.lanes[lane] == memory,
        Reason::FollowsInput(n) => op.node_operands().contains(&n) && beside(n),
        Reason::FollowsUser(n) => graph.node(n).op.node_operands().contains(&id) && beside(n),
        Reason::FirstDevice => true,
    }
}
