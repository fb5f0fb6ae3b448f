//! A machine's JSON form: parts by name, quantities in the units of data sheets, a source beside every rate.
//! Reading refuses what no planner can use, with the field, what it holds and what it needs; it never panics.
//!
//! ```json
//! {
//!   "version": 1,
//!   "about": "A desktop with one card.",
//!   "memories": [
//!     { "name": "host", "total_mib": 65536, "free_mib": 60000 },
//!     { "name": "cuda:0", "total_mib": 24564, "free_mib": 24100 }
//!   ],
//!   "devices": [
//!     { "name": "cpu", "kind": "cpu", "memory": "host", "workers": 16,
//!       "rates": { "read_gb_s": 51, "int8_tops": 0.7, "f16_tops": 0.5, "f32_tops": 0.5, "source": "measured" } },
//!     { "name": "cuda:0", "uid": "0000:01:00.0", "kind": "cuda", "memory": "cuda:0", "overhead_mib": 400,
//!       "rates": { "read_gb_s": 857, "int8_tops": 165, "f16_tops": 132, "f32_tops": 66, "source": "data sheet" } }
//!   ],
//!   "links": [
//!     { "a": "host", "b": "cuda:0", "rate_gb_s": 25, "pageable_gb_s": 22, "latency_us": 10, "source": "PCIe 4.0 x16" }
//!   ]
//! }
//! ```
//!
//! The fields are those of [`MachineFile`] and its parts, which state units, limits and defaults.

mod form;
mod read;
mod write;

use thiserror::Error;

use super::Machine;

pub use form::{BusEntry, DeviceEntry, LinkEntry, MachineFile, MemoryEntry, Number, RatesEntry};

/// The largest file that is read, in bytes.
pub const MOST_BYTES: usize = 1 << 20;

/// The version of the form.
const VERSION: u32 = 1;

/// Why a machine file cannot be read.
#[derive(Debug, Error)]
pub enum MachineFileError {
    /// Too long to be a machine.
    #[error("machine file: needed at most {needed} bytes, found {found}")]
    Size {
        /// Its bytes.
        found: usize,
        /// The most bytes.
        needed: usize,
    },
    /// Not JSON, or not of this form.
    #[error("machine file: {0}")]
    Json(#[from] serde_json::Error),
    /// Of another version.
    #[error("machine file has version {found}, this program reads version {needed}")]
    Version {
        /// The version in the file.
        found: u32,
        /// The version that can be read.
        needed: u32,
    },
    /// A field holds what no machine has, or what another field contradicts.
    #[error("machine file: {field} is {found}, needed {needed}")]
    Field {
        /// The path to the field, such as `devices[2].rates.read_gb_s`.
        field: String,
        /// What it holds.
        found: String,
        /// What it may hold.
        needed: String,
    },
}

impl MachineFile {
    /// Parses the form; [`MachineFile::machine`] checks what it says.
    ///
    /// # Errors
    /// The text is too long, no JSON, of another form or of another version.
    pub fn parse(text: &str) -> Result<MachineFile, MachineFileError> {
        if text.len() > MOST_BYTES {
            return Err(MachineFileError::Size { found: text.len(), needed: MOST_BYTES });
        }
        let file: MachineFile = serde_json::from_str(text)?;
        if file.version != VERSION {
            return Err(MachineFileError::Version { found: file.version, needed: VERSION });
        }
        Ok(file)
    }

    /// The text of the form, pretty-printed; the same form gives the same bytes.
    pub fn to_json(&self) -> String {
        let text = serde_json::to_string_pretty(self);
        text.expect("a machine file holds only strings, numbers and enums") + "\n"
    }
}

impl Machine {
    /// Reads and checks the JSON form.
    ///
    /// # Errors
    /// The text is no machine file of this version, or a field holds what no machine has.
    pub fn from_json(text: &str) -> Result<Machine, MachineFileError> {
        MachineFile::parse(text)?.machine()
    }

    /// The JSON form. Reading it gives this machine back, but that it holds sizes from 2^50 bytes on to whole MiB,
    /// rates to whole bytes and whole millions of operations a second, and `hides` to nine digits. A machine that
    /// [`Machine::from_json`] would refuse is written as it is.
    pub fn to_json(&self) -> String {
        MachineFile::of(self).to_json()
    }
}
