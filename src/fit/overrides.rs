//! `-ot REGEX=DEVICE` → the memory of every weight that a pattern names. The first pattern that matches a name decides;
//! a pattern, or a device, that names nothing is an error, never passed over.

use std::collections::{BTreeMap, BTreeSet};

use regex_automata::meta::Regex;

use super::wishes::WishError;
use crate::device::{BackendKind, DeviceId, DeviceSpec, Machine, MemoryId};
use crate::graph::{Graph, WeightId};
use crate::index::Id;

/// Weights whose names match a pattern live with a device.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Override {
    /// A regular expression that matches a part of the names.
    pub pattern: String,
    /// A device's name or uid, a memory's name, `CPU`, or as other engines count cards: `CUDA0`.
    pub device: String,
}

impl Override {
    /// `REGEX=DEVICE,REGEX=DEVICE`; a comma inside braces stays with its pattern.
    ///
    /// # Errors
    /// What was needed.
    pub fn parse(text: &str) -> Result<Vec<Override>, String> {
        let (mut found, mut open) = (Vec::new(), String::new());
        for piece in text.split(',') {
            open += piece;
            match open.rsplit_once('=') {
                Some((pattern, device)) if !pattern.is_empty() && !device.is_empty() => {
                    found.push(Override { pattern: pattern.to_owned(), device: device.to_owned() });
                    open.clear();
                }
                Some(_) | None => open.push(','),
            }
        }
        if open.is_empty() { Ok(found) } else { Err("needed REGEX=DEVICE".into()) }
    }
}

/// The memories of the weights that `overrides` name.
///
/// # Errors
/// A pattern is none or matches no weight, or a device does not exist.
pub(super) fn pins(
    graph: &Graph,
    machine: &Machine,
    overrides: &[Override],
) -> Result<BTreeMap<WeightId, MemoryId>, WishError> {
    let mut pins = BTreeMap::new();
    for asked in overrides {
        let regex = Regex::new(&asked.pattern).map_err(|why| {
            let why = why.syntax_error().map_or_else(|| why.to_string(), ToString::to_string);
            WishError::Pattern { found: asked.pattern.clone(), why }
        })?;
        let memory = memory(machine, &asked.device)?;
        let matches = graph.weights().iter_ids().filter(|(_, w)| regex.is_match(w.name.as_bytes()));
        let matches: Vec<WeightId> = matches.map(|(id, _)| id).collect();
        if matches.is_empty() {
            return Err(WishError::NoTensor { pattern: asked.pattern.clone(), names: kinds(graph) });
        }
        for id in matches {
            pins.entry(id).or_insert(memory);
        }
    }
    Ok(pins)
}

/// The memory that `named` means, in letters of either case.
fn memory(machine: &Machine, named: &str) -> Result<MemoryId, WishError> {
    let is = |name: &str| name.eq_ignore_ascii_case(named);
    let device = machine.devices.iter().find(|d| is(&d.name) || is(&d.uid)).map(|d| d.memory);
    let memory = || machine.memories.iter_ids().find(|(_, m)| is(&m.name)).map(|(id, _)| id);
    let host = || host(machine).filter(|_| is("cpu"));
    let counted = || machine.devices.iter_ids().find(|&(id, _)| counted(machine, id).is_some_and(|n| is(&n)));
    device.or_else(memory).or_else(host).or_else(|| counted().map(|(_, d)| d.memory)).ok_or_else(|| {
        let mut names: Vec<String> = machine.devices.iter().map(|d| d.name.clone()).collect();
        names
            .extend(machine.memories.iter().map(|m| m.name.clone()).filter(|n| !names.contains(n)).collect::<Vec<_>>());
        WishError::NoHome { found: named.to_owned(), names }
    })
}

/// The memory that `CPU` means: of the first host.
pub(super) fn host(machine: &Machine) -> Option<MemoryId> {
    machine.memories.ids().find(|&m| machine.is_host(m))
}

/// What other engines call a device of `machine`: its kind and its place among accelerators of that kind.
pub(super) fn counted(machine: &Machine, device: DeviceId) -> Option<String> {
    let spec = machine.devices.get(device).filter(|d| d.is_accelerator())?;
    let alike = |d: &&DeviceSpec| d.is_accelerator() && d.kind == spec.kind;
    let place = machine.devices.iter().take(device.index()).filter(alike).count();
    let kind = match spec.kind {
        BackendKind::Vulkan => "Vulkan",
        BackendKind::Cuda => "CUDA",
        BackendKind::Cpu | BackendKind::Null => "CPU",
    };
    Some(format!("{kind}{place}"))
}

/// The names of weights, of layers one for all.
fn kinds(graph: &Graph) -> Vec<String> {
    let kind = |name: &str| match name.strip_prefix("blk.").and_then(|rest| rest.split_once('.')) {
        Some((_, kind)) => format!("blk.N.{kind}"),
        None => name.to_owned(),
    };
    let kinds: BTreeSet<String> = graph.weights().iter().map(|w| kind(&w.name)).collect();
    kinds.into_iter().collect()
}
