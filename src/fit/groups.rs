//! Devices → groups that work on one layer together: the fastest links first, because a group is as slow as its slowest
//! link. Decided by rates and uids alone, so the order of devices in a file changes nothing.

use crate::device::{DeviceId, Machine, MemoryId};
use crate::plan::Member;

/// Groups of `size` accelerators, or processors where there is no accelerator, the one with the fastest slowest link
/// first; what is left over forms a last, smaller group. Devices in a group are in order of their uids.
pub fn groups(machine: &Machine, size: usize) -> Vec<Vec<DeviceId>> {
    let of = |accelerators: bool| machine.devices.iter_ids().filter(move |(_, d)| d.is_accelerator() == accelerators);
    let mut left: Vec<DeviceId> = of(true).map(|(id, _)| id).collect();
    if left.is_empty() {
        left = of(false).map(|(id, _)| id).collect();
    }
    left.sort_by_key(|&id| machine.devices[id].uid.as_str());
    let mut groups = Vec::new();
    while !left.is_empty() {
        let group = best(machine, &left, size.max(1));
        left.retain(|id| !group.contains(id));
        groups.push(group);
    }
    groups
}

/// The groups of `size` devices that work on layers together, each device with its share by the budget of its memory.
/// Devices that share a memory have no layers of their own; groups of one are left out.
pub fn teams(machine: &Machine, size: usize) -> Vec<Vec<Member>> {
    let alone = |memory: MemoryId| machine.devices.iter().filter(|d| d.memory == memory).count() == 1;
    let member = |device: DeviceId| {
        let memory = machine.devices[device].memory;
        alone(memory).then(|| Member { memory, share: machine.budget(memory).0.max(1) as f64 })
    };
    let teams = groups(machine, size).into_iter().map(|group| group.into_iter().filter_map(member).collect());
    teams.filter(|team: &Vec<Member>| team.len() > 1).collect()
}

/// The group with the fastest slowest link that can be grown from any device, and of equal ones the first by uids.
fn best(machine: &Machine, left: &[DeviceId], size: usize) -> Vec<DeviceId> {
    if size >= left.len() {
        return left.to_vec();
    }
    let mut found: Option<(f64, Vec<DeviceId>)> = None;
    for &first in left {
        let (rate, group) = grown(machine, left, first, size);
        if found.as_ref().is_none_or(|(most, _)| rate > *most) {
            found = Some((rate, group));
        }
    }
    found.map(|(_, group)| group).unwrap_or_default()
}

/// A group that starts with `first` and takes in, one by one, the device that slows it least; and its slowest link.
fn grown(machine: &Machine, left: &[DeviceId], first: DeviceId, size: usize) -> (f64, Vec<DeviceId>) {
    let (mut slowest, mut group, mut last) = (f64::INFINITY, vec![first], first);
    // Of each device that is left, the slowest link to the group so far.
    let mut others: Vec<(DeviceId, f64)> = left.iter().filter(|&&d| d != first).map(|&d| (d, f64::INFINITY)).collect();
    while group.len() < size && !others.is_empty() {
        let mut next = 0;
        for i in 0..others.len() {
            others[i].1 = others[i].1.min(rate(machine, last, others[i].0));
            if others[i].1 > others[next].1 {
                next = i;
            }
        }
        let (device, rate) = others.remove(next);
        (slowest, last) = (slowest.min(rate), device);
        group.push(device);
    }
    group.sort_by_key(|&id| machine.devices[id].uid.as_str());
    (slowest, group)
}

fn rate(machine: &Machine, a: DeviceId, b: DeviceId) -> f64 {
    machine.way(machine.devices[a].memory, machine.devices[b].memory).map_or(0.0, |way| way.rate.0)
}
