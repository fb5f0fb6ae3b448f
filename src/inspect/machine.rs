//! A machine → tables for people: memories with what plans may use, devices with their rates, links, buses.

use super::escape;
use super::text::{line, table};
use crate::device::{DeviceSpec, Link, Machine, Types};
use crate::units::{BytesPerSec, OpsPerSec};

/// All of a machine.
pub fn machine(machine: &Machine) -> String {
    let mut out = String::new();
    line(&mut out, "memories:");
    let mut rows = vec![["memory", "total", "free", "reserve", "for plans"].map(str::to_owned)];
    rows.extend(machine.memories.iter_ids().map(|(id, m)| {
        let [total, free, reserve, budget] = [m.total, m.free, m.reserve, machine.budget(id)].map(|b| b.to_string());
        [escape(&m.name), total, free, reserve, budget]
    }));
    out.push_str(&table(&rows));
    line(&mut out, "\ndevices:");
    let mut rows = vec![DEVICE_COLUMNS.map(str::to_owned)];
    rows.extend(machine.devices.iter().map(|d| device(machine, d)));
    out.push_str(&table(&rows));
    if !machine.links.is_empty() {
        line(&mut out, "\nlinks:");
        let mut rows = vec![["between", "and", "rate", "pageable", "latency", "bus"].map(str::to_owned)];
        rows.extend(machine.links.iter().map(|l| link(machine, l)));
        out.push_str(&table(&rows));
    }
    if !machine.buses.is_empty() {
        line(&mut out, "\nbuses:");
        let mut rows = vec![["bus", "rate"].map(str::to_owned)];
        rows.extend(machine.buses.iter().map(|b| [escape(&b.name), rate(b.rate)]));
        out.push_str(&table(&rows));
    }
    out
}

const DEVICE_COLUMNS: [&str; 12] =
    ["device", "memory", "workers", "read", "int8", "f16", "f32", "node", "split", "hides", "takes", "types"];

fn device(machine: &Machine, device: &DeviceSpec) -> [String; 12] {
    let rates = &device.rates;
    let types = match device.types {
        Types::Kernels => "kernels",
        Types::All => "all",
    };
    [
        escape(&device.name),
        escape(&machine.memories[device.memory].name),
        device.workers.to_string(),
        rate(rates.read),
        tops(rates.int8),
        tops(rates.f16),
        tops(rates.f32),
        rates.node.to_string(),
        rates.split.to_string(),
        format!("{:.0}%", 100.0 * rates.hides),
        device.overhead.to_string(),
        types.to_owned(),
    ]
}

fn link(machine: &Machine, link: &Link) -> [String; 6] {
    let name = |id| escape(&machine.memories[id].name);
    let bus = link.bus.map_or("-".to_owned(), |bus| escape(&machine.buses[bus].name));
    [name(link.a), name(link.b), rate(link.rate), rate(link.pageable), link.latency.to_string(), bus]
}

fn rate(BytesPerSec(rate): BytesPerSec) -> String {
    format!("{:.1} GB/s", rate / 1e9)
}

fn tops(OpsPerSec(rate): OpsPerSec) -> String {
    if rate < 1e13 { format!("{:.2} TOPS", rate / 1e12) } else { format!("{:.0} TOPS", rate / 1e12) }
}
