//! A parsed machine file → a machine, every field checked: numbers in their range, names known and used once.

use std::collections::BTreeMap;

use super::MachineFileError;
use super::form::{BusEntry, DeviceEntry, LinkEntry, MachineFile, MemoryEntry, Number, RatesEntry};
use crate::device::{Bus, BusId, DeviceSpec, Link, Machine, MemoryId, MemorySpec, Rates, Types};
use crate::index::{Id, IndexVec};
use crate::units::{Bytes, BytesPerSec, Nanos, OpsPerSec};

/// Bytes of a mebibyte.
pub(super) const MIB: f64 = 1_048_576.0;
/// Bytes a second of a GB/s.
const GB: f64 = 1e9;
/// Bytes a second of a GiB/s.
const GIB: f64 = 1_073_741_824.0;

/// The most bytes of all memories together.
const MOST_MEMORY: u64 = (1 << 63) - 1;
/// From here on, sizes are whole numbers of MiB.
const WHOLE_MIB: f64 = (1u64 << 30) as f64;
/// The most memories, and the most devices.
const MOST_PARTS: usize = 256;
const MOST_BUSES: usize = 4096;
const MOST_WORKERS: u32 = 1 << 16;
const MOST_ALIGNMENT: u64 = 1 << 30;
/// The longest name, in bytes.
const MOST_NAME: usize = 64;
/// The least and the most GB or GiB a second, and TOPS.
const RATES: (f64, f64) = (1e-6, 1e6);
/// The most microseconds.
const MOST_US: f64 = 1e9;

impl MachineFile {
    /// The machine that the file describes, parts in the order of the file.
    ///
    /// # Errors
    /// The first field that holds what no machine has: a number out of range, an unknown or repeated name, a second
    /// link between two memories, memories of more than 2^63 bytes.
    pub fn machine(&self) -> Result<Machine, MachineFileError> {
        count("memories", self.memories.len(), 1, MOST_PARTS)?;
        count("devices", self.devices.len(), 1, MOST_PARTS)?;
        count("buses", self.buses.len(), 0, MOST_BUSES)?;
        let memories = self.memories()?;
        let names = Names::of("memories", self.memories.iter().map(|m| m.name.as_str()))?;
        Names::of("devices", self.devices.iter().map(|d| d.name.as_str()))?;
        let bus_names = Names::of("buses", self.buses.iter().map(|b| b.name.as_str()))?;
        let devices = self.devices.iter().enumerate();
        let devices = devices.map(|(i, d)| device(&format!("devices[{i}]"), d, &names, &memories));
        let devices = devices.collect::<Result<IndexVec<_, _>, _>>()?;
        uids(devices.iter())?;
        let links = self.links.iter().enumerate();
        let links = links.map(|(i, l)| link(&format!("links[{i}]"), l, &names, &bus_names));
        let links = links.collect::<Result<IndexVec<_, _>, _>>()?;
        pairs(links.iter(), &self.memories)?;
        let buses = self.buses.iter().enumerate().map(|(i, b)| bus(&format!("buses[{i}]"), b));
        Ok(Machine { memories, devices, links, buses: buses.collect::<Result<_, _>>()? })
    }

    fn memories(&self) -> Result<IndexVec<MemoryId, MemorySpec>, MachineFileError> {
        let (mut all, mut specs) = (0u64, IndexVec::new());
        for (i, entry) in self.memories.iter().enumerate() {
            let spec = memory(&format!("memories[{i}]"), entry)?;
            // Each has less than 2^63 bytes, and the sum stops there.
            all += spec.total.0;
            if all > MOST_MEMORY {
                let needed = format!("at most {MOST_MEMORY} bytes in this and all memories before it");
                return refused(&format!("memories[{i}].total_mib"), format!("{} bytes", spec.total.0), needed);
            }
            specs.push(spec);
        }
        Ok(specs)
    }
}

fn memory(at: &str, entry: &MemoryEntry) -> Result<MemorySpec, MachineFileError> {
    let total = bytes(&format!("{at}.total_mib"), entry.total_mib, Bytes(MOST_MEMORY))?;
    if total == Bytes::ZERO {
        return refused(&format!("{at}.total_mib"), show(entry.total_mib), "more than 0");
    }
    let within = |field: &str, asked: Option<Number>, default: Bytes| match asked {
        Some(number) => bytes(&format!("{at}.{field}"), number, total),
        None => Ok(default),
    };
    Ok(MemorySpec {
        name: entry.name.clone(),
        total,
        free: within("free_mib", entry.free_mib, total)?,
        reserve: within("reserve_mib", entry.reserve_mib, Bytes::ZERO)?,
    })
}

fn device(
    at: &str,
    entry: &DeviceEntry,
    names: &Names<'_>,
    memories: &IndexVec<MemoryId, MemorySpec>,
) -> Result<DeviceSpec, MachineFileError> {
    let accelerator = entry.accelerator.unwrap_or(entry.kind.is_accelerator());
    let uid = entry.uid.clone().unwrap_or_else(|| entry.name.clone());
    valid_name(&format!("{at}.uid"), &uid)?;
    let memory = MemoryId::from_index(names.find(&format!("{at}.memory"), &entry.memory)?);
    let workers = entry.workers.unwrap_or(1);
    if !(1..=MOST_WORKERS).contains(&workers) {
        return refused(&format!("{at}.workers"), workers, format!("1 to {MOST_WORKERS}"));
    }
    let alignment = entry.alignment.unwrap_or(if accelerator { 256 } else { 64 });
    if !alignment.is_power_of_two() || alignment > MOST_ALIGNMENT {
        return refused(&format!("{at}.alignment"), alignment, format!("a power of two up to {MOST_ALIGNMENT}"));
    }
    let overhead = entry.overhead_mib.unwrap_or(Number(0.0));
    Ok(DeviceSpec {
        name: entry.name.clone(),
        uid,
        kind: entry.kind,
        memory,
        workers,
        alignment,
        overhead: bytes(&format!("{at}.overhead_mib"), overhead, memories[memory].total)?,
        types: entry.types.unwrap_or(Types::All),
        rates: rates(&format!("{at}.rates"), &entry.rates, accelerator)?,
        overlaps: entry.overlaps.unwrap_or(accelerator),
        accelerator: entry.accelerator,
    })
}

fn rates(at: &str, entry: &RatesEntry, accelerator: bool) -> Result<Rates, MachineFileError> {
    let ops = |field: &str, number| -> Result<OpsPerSec, MachineFileError> {
        let number = ranged(&format!("{at}.{field}"), number, RATES)?;
        Ok(OpsPerSec((number * 1e6).round() * 1e6))
    };
    let or = |number: Option<Number>, cpu: f64, accelerated: f64| {
        number.unwrap_or(Number(if accelerator { accelerated } else { cpu }))
    };
    let hides = ranged(&format!("{at}.hides"), or(entry.hides, 0.5, 0.8), (0.0, 1.0))?;
    Ok(Rates {
        read: rate(&format!("{at}.read_gb_s"), entry.read_gb_s, GB)?,
        int8: ops("int8_tops", entry.int8_tops)?,
        f16: ops("f16_tops", entry.f16_tops)?,
        f32: ops("f32_tops", entry.f32_tops)?,
        node: nanos(&format!("{at}.node_us"), or(entry.node_us, 2.0, 3.0))?,
        split: nanos(&format!("{at}.split_us"), or(entry.split_us, 5.0, 10.0))?,
        // A decimal that is written and read again may differ in its last bit.
        hides: (hides * 1e9).round() / 1e9,
    })
}

fn link(at: &str, entry: &LinkEntry, names: &Names<'_>, buses: &Names<'_>) -> Result<Link, MachineFileError> {
    let a = MemoryId::from_index(names.find(&format!("{at}.a"), &entry.a)?);
    let b = MemoryId::from_index(names.find(&format!("{at}.b"), &entry.b)?);
    if a == b {
        return refused(&format!("{at}.b"), quoted(&entry.b), "another memory than a");
    }
    let rate = either(&format!("{at}.rate"), entry.rate_gb_s, entry.rate_gib_s)?;
    let Some(rate) = rate else {
        return refused(&format!("{at}.rate_gb_s"), "absent", "a rate there or in rate_gib_s");
    };
    let pageable = either(&format!("{at}.pageable"), entry.pageable_gb_s, entry.pageable_gib_s)?;
    let bus = entry.bus.as_ref().map(|bus| buses.find(&format!("{at}.bus"), bus)).transpose()?;
    Ok(Link {
        a,
        b,
        rate,
        pageable: pageable.unwrap_or(rate),
        latency: nanos(&format!("{at}.latency_us"), entry.latency_us.unwrap_or(Number(10.0)))?,
        bus: bus.map(BusId::from_index),
    })
}

fn bus(at: &str, entry: &BusEntry) -> Result<Bus, MachineFileError> {
    match either(&format!("{at}.rate"), entry.rate_gb_s, entry.rate_gib_s)? {
        Some(rate) => Ok(Bus { name: entry.name.clone(), rate }),
        None => refused(&format!("{at}.rate_gb_s"), "absent", "a rate there or in rate_gib_s"),
    }
}

/// Devices that share a uid would leave ties open.
fn uids<'a>(devices: impl Iterator<Item = &'a DeviceSpec>) -> Result<(), MachineFileError> {
    let mut seen = BTreeMap::new();
    for (i, device) in devices.enumerate() {
        if let Some(first) = seen.insert(device.uid.as_str(), i) {
            let needed = format!("a uid that devices[{first}] does not have");
            return refused(&format!("devices[{i}].uid"), quoted(&device.uid), needed);
        }
    }
    Ok(())
}

fn pairs<'a>(links: impl Iterator<Item = &'a Link>, memories: &[MemoryEntry]) -> Result<(), MachineFileError> {
    let mut seen = BTreeMap::new();
    for (i, link) in links.enumerate() {
        if let Some(first) = seen.insert((link.a.min(link.b), link.a.max(link.b)), i) {
            let name = |id: MemoryId| quoted(&memories[id.index()].name);
            let found = format!("between {} and {}", name(link.a), name(link.b));
            return refused(&format!("links[{i}]"), found, format!("two memories that links[{first}] does not link"));
        }
    }
    Ok(())
}

/// The names of one kind of part, each used once.
struct Names<'a> {
    what: &'static str,
    at: BTreeMap<&'a str, usize>,
}

impl<'a> Names<'a> {
    fn of(what: &'static str, names: impl Iterator<Item = &'a str>) -> Result<Names<'a>, MachineFileError> {
        let mut at = BTreeMap::new();
        for (i, name) in names.enumerate() {
            let field = format!("{what}[{i}].name");
            valid_name(&field, name)?;
            if let Some(first) = at.insert(name, i) {
                return refused(&field, quoted(name), format!("a name that {what}[{first}] does not have"));
            }
        }
        Ok(Names { what, at })
    }

    fn find(&self, field: &str, name: &str) -> Result<usize, MachineFileError> {
        /// Names that a message lists.
        const LISTED: usize = 8;
        if let Some(&i) = self.at.get(name) {
            return Ok(i);
        }
        let mut known: Vec<&str> = self.at.keys().take(LISTED).copied().collect();
        if self.at.len() > LISTED {
            known.push("...");
        }
        let known = if known.is_empty() { "there are none".to_owned() } else { known.join(", ") };
        refused(field, quoted(name), format!("a name of {} ({known})", self.what))
    }
}

fn valid_name(field: &str, name: &str) -> Result<(), MachineFileError> {
    if (1..=MOST_NAME).contains(&name.len()) && name.bytes().all(|b| b.is_ascii_graphic()) {
        return Ok(());
    }
    refused(field, quoted(name), format!("1 to {MOST_NAME} visible ASCII characters"))
}

fn count(field: &str, found: usize, least: usize, most: usize) -> Result<(), MachineFileError> {
    if (least..=most).contains(&found) {
        return Ok(());
    }
    refused(field, format!("a list of {found}"), format!("{least} to {most} entries"))
}

fn bytes(field: &str, mib: Number, most: Bytes) -> Result<Bytes, MachineFileError> {
    // From 2^50 bytes on, a decimal that is written and read again may miss the byte.
    let whole = if mib.0 >= WHOLE_MIB { mib.0.round() } else { mib.0 };
    // Scaling by a power of two is exact, and what is past 2^64 becomes the largest there is.
    let found = Bytes((whole * MIB).round() as u64);
    if mib.0 >= 0.0 && found <= most {
        return Ok(found);
    }
    refused(field, show(mib), format!("0 to {}", show(Number(most.0 as f64 / MIB))))
}

/// The one of two fields that is there.
fn either(at: &str, gb: Option<Number>, gib: Option<Number>) -> Result<Option<BytesPerSec>, MachineFileError> {
    match (gb, gib) {
        (Some(_), Some(gib)) => refused(&format!("{at}_gib_s"), show(gib), format!("nothing beside {at}_gb_s")),
        (Some(gb), None) => rate(&format!("{at}_gb_s"), gb, GB).map(Some),
        (None, Some(gib)) => rate(&format!("{at}_gib_s"), gib, GIB).map(Some),
        (None, None) => Ok(None),
    }
}

/// Whole bytes a second, so that writing and reading again gives the same.
fn rate(field: &str, number: Number, unit: f64) -> Result<BytesPerSec, MachineFileError> {
    Ok(BytesPerSec((ranged(field, number, RATES)? * unit).round()))
}

fn nanos(field: &str, number: Number) -> Result<Nanos, MachineFileError> {
    Ok(Nanos((ranged(field, number, (0.0, MOST_US))? * 1e3).round() as u64))
}

/// A number between two bounds; what is no number is not.
fn ranged(field: &str, number: Number, (least, most): (f64, f64)) -> Result<f64, MachineFileError> {
    if (least..=most).contains(&number.0) {
        return Ok(number.0);
    }
    refused(field, show(number), format!("{} to {}", show(Number(least)), show(Number(most))))
}

fn show(Number(n): Number) -> String {
    if (1e-6..1e15).contains(&n.abs()) || n == 0.0 { n.to_string() } else { format!("{n:e}") }
}

/// A name as a message may hold it.
fn quoted(name: &str) -> String {
    let end = name.char_indices().nth(MOST_NAME).map_or(name.len(), |(end, _)| end);
    if end == name.len() { format!("{name:?}") } else { format!("{:?}...", &name[..end]) }
}

fn refused<T>(field: &str, found: impl ToString, needed: impl Into<String>) -> Result<T, MachineFileError> {
    Err(MachineFileError::Field { field: field.into(), found: found.to_string(), needed: needed.into() })
}
