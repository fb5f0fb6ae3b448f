//! The NVIDIA cards of this machine, as a plan's devices.

use super::driver::{self, Context, Refused};
use crate::device::{BackendKind, DeviceSpec, MemoryId, Rates, Types};
use crate::units::{Bytes, BytesPerSec, Nanos, OpsPerSec};

/// What is known of a card before anything is planned for it.
#[derive(Clone, Debug, PartialEq)]
pub struct CardFacts {
    /// What devices are named by: `cuda:0` and so on.
    pub device: String,
    /// As its driver says.
    pub name: String,
    /// The CUDA that the driver knows, and the compiler's.
    pub driver: String,
    /// Its place on the bus.
    pub bus: String,
    /// 90 of 9.0.
    pub architecture: u32,
    /// How many multiprocessors it has.
    pub multiprocessors: u32,
    /// Bytes that threads of a block may share.
    pub shared: u32,
    /// Whether its memory is the host's.
    pub integrated: bool,
    /// Its memory.
    pub memory: Bytes,
    /// What is free of that now.
    pub free: Bytes,
    /// Usual rates of such a card.
    pub rates: Rates,
    /// Why it does not answer, if it does not; nothing else is known then.
    pub trouble: Option<String>,
}

/// The oldest architecture that there are kernels for.
const OLDEST: u32 = 75;

/// All cards.
///
/// # Errors
/// There is no driver, no card or no compiler; in one line.
pub fn cards() -> Result<Vec<CardFacts>, String> {
    let count = driver::cards()?;
    let compiler = driver::compiler()?;
    let driver = driver::driver_version().map_err(|why| why.to_string())?;
    let driver = format!("CUDA {driver}, NVRTC {compiler}");
    let facts = |i| facts(i, &driver).unwrap_or_else(|why| silent(i, &driver, why.to_string()));
    Ok((0..count).map(facts).collect())
}

fn facts(ordinal: u32, driver: &str) -> Result<CardFacts, Refused> {
    let context = Context::open(ordinal)?;
    let (free, total) = context.memory()?;
    let (architecture, multiprocessors) = (context.architecture()?, context.multiprocessors()?);
    Ok(CardFacts {
        device: format!("{}:{ordinal}", BackendKind::Cuda.name()),
        name: context.name()?,
        driver: driver.to_owned(),
        bus: context.bus()?,
        architecture,
        multiprocessors,
        shared: context.shared()?,
        integrated: context.integrated()?,
        memory: Bytes(total),
        free: Bytes(free),
        rates: usual(architecture, multiprocessors, context.clocks()?),
        trouble: None,
    })
}

/// A card that does not answer.
fn silent(ordinal: u32, driver: &str, why: String) -> CardFacts {
    CardFacts {
        device: format!("{}:{ordinal}", BackendKind::Cuda.name()),
        name: "does not answer".to_owned(),
        driver: driver.to_owned(),
        bus: String::new(),
        architecture: 0,
        multiprocessors: 0,
        shared: 0,
        integrated: false,
        memory: Bytes::ZERO,
        free: Bytes::ZERO,
        rates: usual(0, 0, (0, 0, 0)),
        trouble: Some(why),
    }
}

/// The share of what its data sheet says that kernels attain, until somebody measures it.
const ATTAINED_BYTES: f64 = 0.8;
const ATTAINED_OPS: f64 = 0.3;

/// Rates from clocks and widths, in thousands of cycles and bits.
fn usual(architecture: u32, multiprocessors: u32, (clock, memory_clock, width): (u32, u32, u32)) -> Rates {
    let cycles = 1e3 * f64::from(clock.max(1_000_000)) * f64::from(multiprocessors.max(1));
    // Operations a cycle of a multiprocessor on bytes and in single precision.
    let (bytes, singles) = match architecture {
        ..80 => (512.0, 128.0),
        80 => (4096.0, 128.0),
        90 | 100 | 103 => (8192.0, 256.0),
        _ => (2048.0, 256.0),
    };
    let (clock, width) = if memory_clock == 0 { (5e9, 256) } else { (1e3 * f64::from(memory_clock), width) };
    Rates {
        read: BytesPerSec(ATTAINED_BYTES * 2.0 * clock * f64::from(width) / 8.0),
        int8: OpsPerSec(ATTAINED_OPS * cycles * bytes),
        f16: OpsPerSec(ATTAINED_OPS * cycles * bytes / 2.0),
        f32: OpsPerSec(ATTAINED_OPS * cycles * singles),
        node: Nanos(3_000),
        split: Nanos(20_000),
        hides: 0.8,
    }
}

/// What the driver takes for code and queues beside what is not free already. An estimate.
const CODE: Bytes = Bytes(128 << 20);

impl CardFacts {
    /// Why it cannot be driven, if it cannot.
    pub fn refused(&self) -> Option<String> {
        let CardFacts { device, architecture, trouble, .. } = self;
        if let Some(why) = trouble {
            return Some(format!("{device} does not answer: {why}"));
        }
        let (major, minor) = (architecture / 10, architecture % 10);
        let needed = (OLDEST / 10, OLDEST % 10);
        (*architecture < OLDEST).then(|| {
            format!("{device} has compute capability {major}.{minor}, {}.{} or later is needed", needed.0, needed.1)
        })
    }

    /// What may be taken of its memory where nobody says; `share` is what it may have of the host's.
    pub fn room(&self, share: Bytes) -> Bytes {
        if self.integrated { share.min(self.free) } else { self.free }
    }

    /// The device that it is for plans, over a memory of its own; `threads` load its weights.
    pub fn spec(&self, memory: MemoryId, threads: u32) -> DeviceSpec {
        DeviceSpec {
            name: self.device.clone(),
            uid: self.bus.clone(),
            kind: BackendKind::Cuda,
            memory,
            workers: threads,
            alignment: 256,
            overhead: CODE,
            types: Types::Kernels,
            rates: self.rates,
            overlaps: true,
            accelerator: None,
        }
    }
}
