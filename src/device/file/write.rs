//! A machine → its file form: every field that has a default is written too, references by name.

use super::form::{BusEntry, DeviceEntry, LinkEntry, MachineFile, MemoryEntry, Number, RatesEntry};
use crate::device::{Bus, BusId, DeviceSpec, Link, Machine, MemoryId, MemorySpec, Rates};
use crate::units::{Bytes, BytesPerSec, Nanos, OpsPerSec};

impl MachineFile {
    /// The form of a machine, without sources.
    pub fn of(machine: &Machine) -> MachineFile {
        MachineFile {
            version: super::VERSION,
            about: String::new(),
            memories: machine.memories.iter().map(memory).collect(),
            devices: machine.devices.iter().map(|d| device(machine, d)).collect(),
            links: machine.links.iter().map(|l| link(machine, l)).collect(),
            buses: machine.buses.iter().map(bus).collect(),
        }
    }
}

fn memory(spec: &MemorySpec) -> MemoryEntry {
    MemoryEntry {
        name: spec.name.clone(),
        total_mib: mib(spec.total),
        free_mib: Some(mib(spec.free)),
        reserve_mib: Some(mib(spec.reserve)),
        source: String::new(),
    }
}

fn device(machine: &Machine, spec: &DeviceSpec) -> DeviceEntry {
    DeviceEntry {
        name: spec.name.clone(),
        uid: Some(spec.uid.clone()),
        kind: spec.kind,
        memory: memory_name(machine, spec.memory),
        workers: Some(spec.workers),
        alignment: Some(spec.alignment),
        overhead_mib: Some(mib(spec.overhead)),
        types: Some(spec.types),
        overlaps: Some(spec.overlaps),
        accelerator: spec.accelerator,
        rates: rates(&spec.rates),
    }
}

fn rates(rates: &Rates) -> RatesEntry {
    RatesEntry {
        read_gb_s: gb_s(rates.read),
        int8_tops: tops(rates.int8),
        f16_tops: tops(rates.f16),
        f32_tops: tops(rates.f32),
        node_us: Some(us(rates.node)),
        split_us: Some(us(rates.split)),
        hides: Some(Number(rates.hides)),
        source: String::new(),
    }
}

fn link(machine: &Machine, link: &Link) -> LinkEntry {
    LinkEntry {
        a: memory_name(machine, link.a),
        b: memory_name(machine, link.b),
        rate_gb_s: Some(gb_s(link.rate)),
        rate_gib_s: None,
        pageable_gb_s: Some(gb_s(link.pageable)),
        pageable_gib_s: None,
        latency_us: Some(us(link.latency)),
        bus: link.bus.map(|bus| bus_name(machine, bus)),
        source: String::new(),
    }
}

fn bus(bus: &Bus) -> BusEntry {
    BusEntry { name: bus.name.clone(), rate_gb_s: Some(gb_s(bus.rate)), rate_gib_s: None, source: String::new() }
}

/// The id where the machine is not whole: no memory has such a name, so reading refuses it.
fn memory_name(machine: &Machine, id: MemoryId) -> String {
    machine.memories.get(id).map_or_else(|| id.to_string(), |m| m.name.clone())
}

fn bus_name(machine: &Machine, id: BusId) -> String {
    machine.buses.get(id).map_or_else(|| id.to_string(), |b| b.name.clone())
}

fn mib(bytes: Bytes) -> Number {
    Number(bytes.0 as f64 / super::read::MIB)
}

fn gb_s(rate: BytesPerSec) -> Number {
    Number(rate.0.round() / 1e9)
}

fn tops(rate: OpsPerSec) -> Number {
    Number((rate.0 / 1e6).round() / 1e6)
}

fn us(time: Nanos) -> Number {
    Number(time.0 as f64 / 1e3)
}
