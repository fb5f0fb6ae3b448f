//! An independent proof that a plan can be executed on devices that run at their own pace, and that every read finds
//! what the graph says. Shares no code with the planner, only tables: what devices support, scratch, sizes of slices.
//!
//! It accepts a plan iff
//! 1. every table has its length and every id names something (`ids`);
//! 2. every weight has homes, and each memory holds what is stated, within its budget (`homes`);
//! 3. every node occurs in exactly one split, of the device that it is placed on and that supports it;
//! 4. in the walk over splits, each with the transfers behind it, every value that is read was made before, is on the
//!    reader's device (its own, or the one copy that was brought), and is whole before and after the reader writes;
//!    no value lies in its split's scratch; sources and copies of the transfers behind a split are whole after all of
//!    them; a transfer stands behind the split that makes its value, or a later one (`walk`);
//! 5. every weight that is read is at home, or an upload for that split holds it (`stream`);
//! 6. an upload waits only for an earlier split of its device, and that is at or past every split that reads what it
//!    overwrites (`stream`); the routing that it names is on its device before its split, and that of all which reads its
//!    weight there (`stream`);
//! 7. nothing is brought that is not read, nothing twice, and reasons hold (`reason`).
//!
//! *One walk stands for all.* By contract a device does what touches it in plan order, and an arena is touched by its own
//! device's splits and by transfers from and to that device only. So two actions that may run at the same time or in
//! either order touch different arenas, any order that devices can take gives each arena the same history, and the walk
//! is one such order. The transfers behind one split are taken as unordered. In the walk a write drops all that it
//! overlaps, so by (4) nothing is overwritten before its last reader, and by induction over the walk every value is what
//! the graph says. States are touched by the device of their memory that (4) finds the reader on, ordered by the values
//! of cache writes, which have no bytes and therefore are never accepted from another device.
//!
//! *Rings.* Only uploads write there. Let `u` overwrite bytes of an earlier upload `e`. If no upload lies between them
//! there, (6) says that `u` starts when `e`'s split is done, since its device runs splits in order. If one does, it was
//! for a split at or past `e`'s, as uploads stand in order of splits, and the same holds. And `e` itself does not come
//! late: its split waited for it. This needs no order among uploads.
//!
//! *No deadlock.* The first split that is not done waits for transfers behind earlier splits, which are done, and for
//! its uploads, which wait for earlier splits, where only chosen experts are brought for transfers behind such, and, in a
//! queue, for uploads of splits at most as late.

mod homes;
mod ids;
mod ranges;
mod reason;
mod stream;
mod violation;
mod walk;

use super::Plan;
use crate::device::Machine;
use crate::graph::{Graph, NodeId};
use crate::index::IndexVec;
use crate::residency::Residency;

pub use violation::Violation;

/// A plan with all that it is for.
#[derive(Clone, Copy)]
struct Case<'a> {
    graph: &'a Graph,
    residency: &'a Residency,
    machine: &'a Machine,
    plan: &'a Plan,
}

/// Proves that `plan` executes `graph` on `machine` with the homes of `residency`.
///
/// # Errors
/// The first violation found.
pub fn check(graph: &Graph, residency: &Residency, machine: &Machine, plan: &Plan) -> Result<(), Violation> {
    let case = Case { graph, residency, machine, plan };
    ids::known(case)?;
    homes::complete(case)?;
    homes::budgets(case)?;
    runs_once(case)?;
    walk::Walk::new(case).run()?;
    stream::uploads(case)?;
    reason::hold(case)
}

fn runs_once(Case { graph, plan, .. }: Case<'_>) -> Result<(), Violation> {
    let mut times: IndexVec<NodeId, usize> = graph.node_ids().map(|_| 0).collect();
    plan.splits.iter().flat_map(|s| &s.nodes).for_each(|&node| times[node] += 1);
    match times.iter_ids().find(|&(_, &n)| n != 1) {
        Some((node, &times)) => Err(Violation::Runs { node, times }),
        None => Ok(()),
    }
}
