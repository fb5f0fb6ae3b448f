//! Facts about this computer and this process: cores, memory, load, name of the processor. Read from `/proc` and `/sys`
//! on Linux; elsewhere the standard library's answer or none. Never changes anything.

use std::collections::BTreeSet;
use std::fs;
use std::num::NonZero;
use std::thread;

use crate::device::{BackendKind, Machine, MemoryId};
use crate::index::Id;
use crate::units::Bytes;

/// Physical cores that this process may use: hyper-threads count once, affinity and cgroup quotas are heeded.
pub fn physical_cores() -> u32 {
    let allowed = thread::available_parallelism().map_or(1, NonZero::get) as u32;
    let Some(cpus) = status_field("Cpus_allowed_list:").and_then(|list| cpu_list(&list)) else { return allowed };
    let siblings = |cpu: &u32| {
        let path = format!("/sys/devices/system/cpu/cpu{cpu}/topology/thread_siblings_list");
        fs::read_to_string(path).ok().map(|s| s.trim().to_owned())
    };
    let cores: Option<BTreeSet<String>> = cpus.iter().map(siblings).collect();
    cores.map_or(allowed, |cores| (cores.len() as u32).clamp(1, allowed))
}

/// Memory that can be had without swapping, within the cgroup's limit; `None` where the system does not say.
pub fn available_memory() -> Option<Bytes> {
    let system = fs::read_to_string("/proc/meminfo").ok().and_then(|text| kib_field(&text, "MemAvailable:"));
    let number = |path: &str| fs::read_to_string(path).ok()?.trim().parse::<u64>().ok();
    let limit = number("/sys/fs/cgroup/memory.max");
    let used = number("/sys/fs/cgroup/memory.current").unwrap_or(0);
    let cgroup = limit.map(|limit| Bytes(limit.saturating_sub(used)));
    match (system, cgroup) {
        (Some(system), Some(cgroup)) => Some(system.min(cgroup)),
        (system, cgroup) => system.or(cgroup),
    }
}

/// All memory, or the cgroup's limit where that is less; `None` where the system does not say.
pub fn total_memory() -> Option<Bytes> {
    let system = fs::read_to_string("/proc/meminfo").ok().and_then(|text| kib_field(&text, "MemTotal:"));
    let limit = fs::read_to_string("/sys/fs/cgroup/memory.max").ok().and_then(|text| text.trim().parse().ok());
    match (system, limit.map(Bytes)) {
        (Some(system), Some(cgroup)) => Some(system.min(cgroup)),
        (system, cgroup) => system.or(cgroup),
    }
}

/// This computer: one processor of so many workers over one memory, at rates that nobody has measured yet.
pub fn machine(workers: u32) -> Machine {
    /// Where the system does not say.
    const UNKNOWN: Bytes = Bytes(1 << 60);
    let free = available_memory().unwrap_or(UNKNOWN);
    let mut machine = Machine::single(BackendKind::Cpu, workers, free);
    machine.memories[MemoryId::from_index(0)].total = total_memory().unwrap_or(UNKNOWN).max(free);
    machine
}

/// Memory of this process that is in RAM, file pages included.
pub fn resident() -> Option<Bytes> {
    kib_field(&fs::read_to_string("/proc/self/status").ok()?, "VmRSS:")
}

/// The most memory that this process ever had in RAM, file pages included.
pub fn peak_resident() -> Option<Bytes> {
    kib_field(&fs::read_to_string("/proc/self/status").ok()?, "VmHWM:")
}

/// The processor's own name for itself.
pub fn cpu_name() -> String {
    let text = fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let named = text.lines().find(|l| l.starts_with("model name")).and_then(|l| l.split_once(':'));
    named.map_or_else(|| std::env::consts::ARCH.to_owned(), |(_, name)| name.trim().to_owned())
}

/// Runnable tasks over the last minute, five and fifteen.
pub fn load_average() -> Option<[f64; 3]> {
    let text = fs::read_to_string("/proc/loadavg").ok()?;
    let mut numbers = text.split_whitespace().map(|n| n.parse().ok());
    Some([numbers.next()??, numbers.next()??, numbers.next()??])
}

fn status_field(name: &str) -> Option<String> {
    let text = fs::read_to_string("/proc/self/status").ok()?;
    text.lines().find_map(|l| l.strip_prefix(name)).map(|v| v.trim().to_owned())
}

fn kib_field(text: &str, name: &str) -> Option<Bytes> {
    let value = text.lines().find_map(|l| l.strip_prefix(name))?;
    let kib: u64 = value.trim().trim_end_matches("kB").trim().parse().ok()?;
    Some(Bytes(kib << 10))
}

/// `0-3,8` as numbers.
fn cpu_list(text: &str) -> Option<Vec<u32>> {
    let mut cpus = Vec::new();
    for part in text.split(',') {
        let (first, last) = part.split_once('-').unwrap_or((part, part));
        let (first, last): (u32, u32) = (first.trim().parse().ok()?, last.trim().parse().ok()?);
        cpus.extend(first..=last);
    }
    Some(cpus)
}
