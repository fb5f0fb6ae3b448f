//! Copies that run at the same time → the rate of each: max-min fair over what they share, which is each direction of a
//! link and of a bus, and the reading of a host's memory. No copy is favoured; what one cannot use, the others get.

use std::collections::BTreeMap;

use crate::device::{LinkId, Machine, MemoryId};
use crate::units::Nanos;

/// How bytes get from one memory to another, and what that uses.
#[derive(Clone, Debug)]
pub(super) struct Route {
    /// Bytes a second where nothing else uses it.
    pub most: f64,
    /// From the request to the first byte.
    pub latency: Nanos,
    /// Positions in the capacities.
    uses: Vec<usize>,
}

/// Every route of a machine that has been asked for, and the capacities that they share.
pub(super) struct Routes<'a> {
    machine: &'a Machine,
    routes: Vec<Route>,
    known: BTreeMap<(MemoryId, MemoryId), usize>,
    shared: BTreeMap<Shared, usize>,
    capacities: Vec<f64>,
}

/// What copies share; `true` is from the link's first memory to its second, or of a bus, away from a host.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Shared {
    Link(LinkId, bool),
    Bus(u32, bool),
    Read(MemoryId),
}

impl<'a> Routes<'a> {
    pub(super) fn new(machine: &'a Machine) -> Routes<'a> {
        let (known, shared) = (BTreeMap::new(), BTreeMap::new());
        Routes { machine, routes: Vec::new(), known, shared, capacities: Vec::new() }
    }

    pub(super) fn get(&self, route: usize) -> &Route {
        &self.routes[route]
    }

    /// The route between two memories, or inside one, where bytes are read and written.
    pub(super) fn between(&mut self, from: MemoryId, to: MemoryId) -> usize {
        if let Some(&route) = self.known.get(&(from, to)) {
            return route;
        }
        let route = if from == to { self.inside(from) } else { self.across(from, to) };
        self.routes.push(route);
        self.known.insert((from, to), self.routes.len() - 1);
        self.routes.len() - 1
    }

    fn inside(&mut self, memory: MemoryId) -> Route {
        Route { most: self.read_rate(memory) / 2.0, latency: Nanos::ZERO, uses: Vec::new() }
    }

    fn across(&mut self, from: MemoryId, to: MemoryId) -> Route {
        let way = self.machine.way(from, to);
        let (most, latency) = way.map_or((0.0, Nanos::ZERO), |way| (way.rate.0, way.latency));
        let mut uses = Vec::new();
        for (link, forward) in self.legs(from, to) {
            let spec = &self.machine.links[link];
            uses.push(self.share(Shared::Link(link, forward), spec.rate.0));
            let bus = spec.bus.and_then(|id| Some((id, self.machine.buses.get(id)?)));
            if let Some((id, bus)) = bus {
                let source = if forward { spec.a } else { spec.b };
                uses.push(self.share(Shared::Bus(id.0, self.machine.is_host(source)), bus.rate.0));
            }
        }
        if self.machine.is_host(from) {
            uses.push(self.share(Shared::Read(from), self.read_rate(from)));
        }
        uses.sort_unstable();
        uses.dedup();
        Route { most, latency, uses }
    }

    /// The links of the way between two memories, and whether they are taken from their first memory to their second.
    fn legs(&self, from: MemoryId, to: MemoryId) -> impl Iterator<Item = (LinkId, bool)> + use<> {
        let links = &self.machine.links;
        let (first, second) = self.machine.legs(from, to).unzip();
        let first = first.map(|id| (id, links[id].a == from));
        let second = second.flatten().map(|id| (id, links[id].b == to));
        first.into_iter().chain(second)
    }

    fn read_rate(&self, memory: MemoryId) -> f64 {
        let here = self.machine.devices.iter().filter(|d| d.memory == memory);
        here.map(|d| d.rates.read.0).fold(0.0, f64::max)
    }

    fn share(&mut self, what: Shared, capacity: f64) -> usize {
        *self.shared.entry(what).or_insert_with(|| {
            self.capacities.push(capacity);
            self.capacities.len() - 1
        })
    }

    /// The rates of copies that run at the same time, by their routes: all grow alike until something that they share is
    /// full or they are as fast as they can be; those stay there, the others grow on.
    pub(super) fn rates(&self, flows: &[usize]) -> Vec<f64> {
        let mut left = self.capacities.clone();
        let mut rates: Vec<Option<f64>> = vec![None; flows.len()];
        while rates.iter().any(Option::is_none) {
            let mut users = vec![0u32; left.len()];
            let open = || (0..flows.len()).filter(|&f| rates[f].is_none());
            open().flat_map(|f| &self.routes[flows[f]].uses).for_each(|&u| users[u] += 1);
            let limit = |f: usize| {
                let route = &self.routes[flows[f]];
                route.uses.iter().map(|&u| left[u] / f64::from(users[u])).fold(route.most, f64::min).max(0.0)
            };
            let limits: Vec<(usize, f64)> = open().map(|f| (f, limit(f))).collect();
            let least = limits.iter().map(|l| l.1).fold(f64::INFINITY, f64::min);
            for (f, limit) in limits {
                if limit <= least {
                    rates[f] = Some(least);
                    self.routes[flows[f]].uses.iter().for_each(|&u| left[u] -= least);
                }
            }
        }
        rates.into_iter().map(Option::unwrap_or_default).collect()
    }
}
