//! `--budget`: numbers by position, or sizes by name → what each of the devices may take. Decides nothing about a device
//! that is not given one.

use super::Usage;
use super::cards::DeviceName;
use crate::units::Bytes;

/// What a device may take, or one of all.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Budget {
    /// The device's name; where there is none, the place among budgets decides.
    device: Option<String>,
    mib: u64,
}

/// The most that a device may be given, in MiB.
const MOST_MIB: u64 = 1 << 40;

/// `64`, or `vulkan:0=64MiB`; numbers are MiB.
pub(super) fn budget(text: &str) -> Result<Budget, String> {
    let (device, size) = match text.split_once('=') {
        None => (None, text),
        Some((name, size)) => {
            (Some(DeviceName::parse(name).map_or_else(|_| name.to_owned(), |device| device.to_string())), size)
        }
    };
    let number = |digits: &str, each: u64| digits.parse::<u64>().ok().and_then(|n| n.checked_mul(each));
    let mib = match (size.strip_suffix("MiB"), size.strip_suffix("GiB")) {
        (Some(digits), _) => number(digits, 1),
        (None, Some(digits)) => number(digits, 1 << 10),
        (None, None) => number(size, 1),
    };
    let fits = mib.filter(|mib| (1..=MOST_MIB).contains(mib));
    let needed = || format!("needed 1 to {MOST_MIB} MiB, such as 64 or 64MiB or 2GiB, or DEVICE=SIZE, found {size:?}");
    Ok(Budget { device, mib: fits.ok_or_else(needed)? })
}

/// What each of `devices` may take, where that was given.
///
/// # Errors
/// The numbers are neither one nor one a device; a name is none of a device, or there twice.
pub(super) fn budgets(given: &[Budget], devices: &[DeviceName]) -> Result<Vec<Option<Bytes>>, Usage> {
    let named: Vec<(&str, u64)> = given.iter().filter_map(|b| Some((b.device.as_deref()?, b.mib))).collect();
    match (given, devices.len()) {
        ([], count) => Ok(vec![None; count]),
        _ if named.len() == given.len() => by_name(&named, &names(devices)),
        _ if !named.is_empty() => {
            let (all, named) = (given.len(), named.len());
            Err(Usage(format!("--budget has {all} entries and {named} of them name a device, needed all or none")))
        }
        ([one], count) => Ok(vec![Some(Bytes::mib(one.mib)); count]),
        (all, count) if all.len() == count => Ok(all.iter().map(|budget| Some(Bytes::mib(budget.mib))).collect()),
        (all, count) => {
            Err(Usage(format!("--budget has {} numbers for {count} devices, needed one or {count}", all.len())))
        }
    }
}

fn by_name(given: &[(&str, u64)], names: &[String]) -> Result<Vec<Option<Bytes>>, Usage> {
    for (i, (name, _)) in given.iter().enumerate() {
        if given[..i].iter().any(|(other, _)| other == name) {
            return Err(Usage(format!("--budget names {name} twice")));
        }
        if !names.iter().any(|known| known == name) {
            return Err(Usage(format!("--budget names {name:?}, the devices are {}", names.join(", "))));
        }
    }
    let of = |name: &String| given.iter().find(|(given, _)| given == name).map(|&(_, mib)| Bytes::mib(mib));
    Ok(names.iter().map(of).collect())
}

/// Devices as they are called: several processors by their places.
fn names<D: ToString>(devices: &[D]) -> Vec<String> {
    let devices: Vec<String> = devices.iter().map(D::to_string).collect();
    let processor = DeviceName::Cpu.to_string();
    let several = devices.iter().filter(|device| **device == processor).count() > 1;
    let name = |(i, device): (usize, &String)| match several && *device == processor {
        true => format!("{device}:{i}"),
        false => device.clone(),
    };
    devices.iter().enumerate().map(name).collect()
}

/// What records have of budgets: numbers of MiB as they were given, or one a device, 0 where it keeps its own.
pub(super) fn recorded(given: &[Budget], devices: &[DeviceName]) -> Vec<u64> {
    match given.iter().any(|budget| budget.device.is_some()) {
        false => given.iter().map(|budget| budget.mib).collect(),
        true => {
            let all = budgets(given, devices).unwrap_or_default();
            all.into_iter().map(|budget| budget.map_or(0, |bytes| bytes.0 >> 20)).collect()
        }
    }
}

/// Recorded budgets of `devices`, names with commas between them, in the words of the command line.
pub(super) fn told(devices: &str, recorded: &[u64]) -> String {
    let words: Vec<String> = match recorded.contains(&0) {
        false => recorded.iter().map(u64::to_string).collect(),
        true => {
            let names = names(&devices.split(',').collect::<Vec<_>>());
            let given = names.iter().zip(recorded).filter(|(_, mib)| **mib > 0);
            given.map(|(name, mib)| format!("{name}={mib}MiB")).collect()
        }
    };
    words.join(",")
}
