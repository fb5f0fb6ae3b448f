//! Whether a node whose weight lives in host memory runs there or on an accelerator, and on which.
//! Decides one node at a time by the policy's rule; says why either way.

use super::cost::{awaited_routing, node_time, upload_time};
use super::policy::{Offload, Policy};
use super::reason::{Placement, Price, Reason, Rule};
use crate::device::{DeviceId, Machine, MemoryId, supports};
use crate::graph::{Graph, NodeId, WeightId};
use crate::residency::Residency;
use crate::units::Tokens;

/// What decides: the same for all nodes of a graph.
pub(super) struct Chooser<'a> {
    pub graph: &'a Graph,
    pub residency: &'a Residency,
    pub machine: &'a Machine,
    pub policy: &'a Policy,
    /// Accelerators in the order in which layers are dealt to them: by uid.
    accelerators: Vec<DeviceId>,
    layers: u32,
}

impl<'a> Chooser<'a> {
    pub(super) fn new(
        graph: &'a Graph,
        residency: &'a Residency,
        machine: &'a Machine,
        policy: &'a Policy,
    ) -> Chooser<'a> {
        let accelerators = machine.devices.iter_ids().filter(|(_, d)| d.is_accelerator());
        let mut accelerators: Vec<DeviceId> = accelerators.map(|(id, _)| id).collect();
        accelerators.sort_by_key(|&id| machine.devices[id].uid.as_str());
        let layers = graph.nodes().filter_map(|(_, n)| n.layer).max().map_or(1, |last| last.saturating_add(1));
        Chooser { graph, residency, machine, policy, accelerators, layers }
    }

    /// Where a node goes whose `weight` lives with `home`.
    pub(super) fn choose(&self, node: NodeId, weight: WeightId, home: DeviceId) -> Placement {
        let at_home = Placement { device: home, reason: Reason::WeightHome(weight) };
        if self.machine.devices[home].is_accelerator() {
            return at_home;
        }
        let Some(accelerator) = self.accelerator(node, self.machine.devices[home].memory) else { return at_home };
        let (moves, rule) = self.rule(node, home, accelerator);
        match moves {
            true => Placement { device: accelerator, reason: Reason::Offloaded { weight, rule } },
            false => Placement { device: home, reason: Reason::Stays { weight, accelerator, rule } },
        }
    }

    fn rule(&self, node: NodeId, home: DeviceId, accelerator: DeviceId) -> (bool, Rule) {
        let spec = &self.machine.devices[accelerator];
        if supports(spec, self.graph, self.graph.node(node)).is_err() {
            return (false, Rule::NoKernel);
        }
        let rows: Tokens = self.graph.rows(self.graph.node(node).out.rows);
        match self.policy.offload {
            Offload::Never => (false, Rule::Never),
            Offload::AtLeast(least) => (rows >= least, Rule::Threshold { rows, least }),
            Offload::Auto => {
                let price = self.price(node, home, accelerator);
                (price.accelerator < price.host, Rule::Priced(price))
            }
        }
    }

    fn price(&self, node: NodeId, home: DeviceId, accelerator: DeviceId) -> Price {
        let time = |device: DeviceId| node_time(self.graph, self.policy, node, &self.machine.devices[device]);
        let upload = upload_time(self.graph, self.residency, self.machine, self.policy, node, accelerator);
        let compute = time(accelerator);
        // What waits for the routing does not come while the device computes something else.
        let ahead =
            self.machine.devices[accelerator].overlaps && awaited_routing(self.graph, self.policy, node).is_none();
        let there = if ahead { upload.max(compute) } else { upload + compute };
        Price { host: time(home), accelerator: there }
    }

    /// The accelerator that would have `node`: where its layer's cache lives, one that shares `memory`, or one of those
    /// that are reached from it, layers being dealt in runs as long as the links are fast.
    fn accelerator(&self, node: NodeId, memory: MemoryId) -> Option<DeviceId> {
        let layer = self.graph.node(node).layer;
        let cached = || self.graph.states().iter_ids().find(|(_, s)| Some(s.layer) == layer).map(|(id, _)| id);
        let with_cache = cached().and_then(|state| {
            let memory = *self.residency.states.get(state)?;
            self.accelerators.iter().copied().find(|&d| self.machine.devices[d].memory == memory)
        });
        with_cache.or_else(|| self.dealt(layer, memory))
    }

    fn dealt(&self, layer: Option<u32>, memory: MemoryId) -> Option<DeviceId> {
        let rate = |id: DeviceId| match self.machine.devices[id].memory {
            own if own == memory => self.machine.devices[id].rates.read.0,
            own => self.machine.way(memory, own).map_or(0.0, |way| way.rate.0),
        };
        let rates: Vec<(DeviceId, f64)> = self.accelerators.iter().map(|&id| (id, rate(id))).collect();
        let total: f64 = rates.iter().map(|r| r.1).sum();
        // What stands before or behind all layers goes with the first or the last of them.
        let place = layer.map_or(1.0, |layer| (f64::from(layer) + 0.5) / f64::from(self.layers)) * total;
        let mut end = 0.0;
        let passed = |&&(_, rate): &&(DeviceId, f64)| {
            end += rate;
            rate > 0.0 && place < end
        };
        rates.iter().find(passed).or_else(|| rates.iter().rfind(|r| r.1 > 0.0)).map(|r| r.0)
    }
}
