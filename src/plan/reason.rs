//! Why a node runs where it runs, as data, and what else was possible at which price.

use serde::{Deserialize, Serialize};

use super::cost::{node_time, upload_time};
use super::policy::Policy;
use crate::device::{DeviceId, Machine, supports};
use crate::graph::{Graph, LaneId, NodeId, StateId, WeightId};
use crate::residency::Residency;
use crate::units::{Nanos, Tokens};

/// What deciding between a processor and an accelerator went by.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Rule {
    /// The policy moves nothing.
    Never,
    /// The rows against a fixed number.
    Threshold {
        /// Rows of the node.
        rows: Tokens,
        /// The number.
        least: Tokens,
    },
    /// Predicted times.
    Priced(Price),
    /// The accelerator has no kernel for it, or for the layout in which its weight lies.
    NoKernel,
}

/// Predicted times of a node on two devices.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Price {
    /// Where its weight lives.
    pub host: Nanos,
    /// On the accelerator, with what its weight's way there costs.
    pub accelerator: Nanos,
}

/// Why a node runs where it runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Reason {
    /// Its weight lives there.
    WeightHome(WeightId),
    /// Its state lives there.
    StateHome(StateId),
    /// Its weight lives in host memory, and the rule sends the node to an accelerator.
    Offloaded {
        /// The weight.
        weight: WeightId,
        /// The rule.
        rule: Rule,
    },
    /// Its weight lives there, in host memory, and the rule keeps the node from the accelerator that could have had it.
    Stays {
        /// The weight.
        weight: WeightId,
        /// The accelerator.
        accelerator: DeviceId,
        /// The rule.
        rule: Rule,
    },
    /// Several devices work on its layer together, and this one has its lane.
    Lane(LaneId),
    /// The value it reads is made there, and no other device needs fewer bytes moved.
    FollowsInput(NodeId),
    /// Its value is read there, and no other device needs fewer bytes moved.
    FollowsUser(NodeId),
    /// Nothing that it reads or feeds is bound to a device.
    FirstDevice,
}

/// Where a node runs, and why.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Placement {
    /// The device.
    pub device: DeviceId,
    /// The reason.
    pub reason: Reason,
}

/// A device that could have had a node.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Candidate {
    /// The device.
    pub device: DeviceId,
    /// Time of the node's own work there.
    pub compute: Nanos,
    /// Time to bring the weights that do not live there.
    pub upload: Nanos,
    /// Why it cannot run there, if it cannot.
    pub refused: Option<String>,
}

/// Every device of the machine as a place for `node`, in order of ids.
pub fn candidates(
    graph: &Graph,
    residency: &Residency,
    machine: &Machine,
    policy: &Policy,
    node: NodeId,
) -> Vec<Candidate> {
    let candidate = |(device, spec)| Candidate {
        device,
        compute: node_time(graph, policy, node, spec),
        upload: upload_time(graph, residency, machine, policy, node, device),
        refused: supports(spec, graph, graph.node(node)).err().map(|why| why.to_string()),
    };
    machine.devices.iter_ids().map(candidate).collect()
}
