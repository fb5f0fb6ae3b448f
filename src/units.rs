//! Quantities with a unit in their type: bytes, tokens, nanoseconds, rates.
//! Mixing two of them does not compile; the only casts between numbers and units are here.

use std::fmt;
use std::iter::Sum;
use std::ops::{Add, AddAssign, Sub};

use serde::{Deserialize, Serialize};

/// A number of bytes. Sums stop at the largest there is, which no memory has: a budget refuses them.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Bytes(pub u64);

impl Bytes {
    /// No bytes.
    pub const ZERO: Bytes = Bytes(0);

    /// `n` mebibytes.
    pub const fn mib(n: u64) -> Bytes {
        Bytes(n << 20)
    }

    /// The byte count of a slice or buffer length.
    pub const fn of_len(len: usize) -> Bytes {
        Bytes(len as u64)
    }

    /// The least multiple of `align` (a power of two) that is not below `self`; past 2^64, the largest there is.
    pub const fn align_up(self, align: u64) -> Bytes {
        let mask = align.saturating_sub(1);
        Bytes(self.0.saturating_add(mask) & !mask)
    }

    /// `self` times `n`; past 2^64, the largest there is.
    pub const fn times(self, n: u64) -> Bytes {
        Bytes(self.0.saturating_mul(n))
    }

    /// `self` less `other`, at least none.
    pub const fn saturating_sub(self, other: Bytes) -> Bytes {
        Bytes(self.0.saturating_sub(other.0))
    }

    /// `self + other`, or `None` past 2^64.
    pub const fn checked_add(self, other: Bytes) -> Option<Bytes> {
        match self.0.checked_add(other.0) {
            Some(n) => Some(Bytes(n)),
            None => None,
        }
    }

    /// As an index into memory of this machine.
    ///
    /// # Panics
    /// Never on 64-bit targets, the only ones supported.
    pub fn index(self) -> usize {
        usize::try_from(self.0).expect("64-bit target: a byte count fits usize")
    }
}

impl fmt::Display for Bytes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let n = self.0 as f64;
        match self.0 {
            0..1024 => write!(f, "{} B", self.0),
            1024..1_048_576 => write!(f, "{:.1} KiB", n / 1024.0),
            1_048_576..1_073_741_824 => write!(f, "{:.1} MiB", n / 1_048_576.0),
            _ => write!(f, "{:.2} GiB", n / 1_073_741_824.0),
        }
    }
}

impl Add for Bytes {
    type Output = Bytes;
    fn add(self, other: Bytes) -> Bytes {
        Bytes(self.0.saturating_add(other.0))
    }
}

impl AddAssign for Bytes {
    fn add_assign(&mut self, other: Bytes) {
        *self = *self + other;
    }
}

impl Sub for Bytes {
    type Output = Bytes;
    fn sub(self, other: Bytes) -> Bytes {
        Bytes(self.0 - other.0)
    }
}

impl Sum for Bytes {
    fn sum<I: Iterator<Item = Bytes>>(iter: I) -> Bytes {
        iter.fold(Bytes::ZERO, Add::add)
    }
}

/// A number of tokens (rows of a batch, positions of a context).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Tokens(pub u32);

impl Tokens {
    /// Tokens in a page of the KV cache.
    pub const PAGE: Tokens = Tokens(16);

    /// The least whole number of pages that holds `self`.
    pub const fn pages(self) -> u32 {
        self.0.div_ceil(Tokens::PAGE.0)
    }

    /// As an index or length.
    pub const fn index(self) -> usize {
        self.0 as usize
    }
}

impl fmt::Display for Tokens {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} tokens", self.0)
    }
}

/// What is to be run: a prompt, then tokens one by one.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct Workload {
    /// Tokens of the prompt.
    pub prompt: Tokens,
    /// Tokens that are generated behind it.
    pub generate: Tokens,
}

impl Default for Workload {
    fn default() -> Workload {
        Workload { prompt: Tokens(512), generate: Tokens(128) }
    }
}

/// A rate of memory or of a link.
#[derive(Clone, Copy, Debug, Default, PartialEq, PartialOrd, Serialize, Deserialize)]
#[serde(transparent)]
pub struct BytesPerSec(pub f64);

impl BytesPerSec {
    /// How long `bytes` take, to the next nanosecond; a rate of 0 takes for ever.
    pub fn time(self, bytes: Bytes) -> Nanos {
        Nanos::of_seconds(bytes.0 as f64 / self.0)
    }
}

/// A rate of computing; a multiply-add is two operations.
#[derive(Clone, Copy, Debug, Default, PartialEq, PartialOrd, Serialize, Deserialize)]
#[serde(transparent)]
pub struct OpsPerSec(pub f64);

impl OpsPerSec {
    /// How long `ops` operations take, to the next nanosecond; a rate of 0 takes for ever.
    pub fn time(self, ops: f64) -> Nanos {
        Nanos::of_seconds(ops / self.0)
    }
}

/// A span of virtual time: whole, so that sums are exact and plans compare equal.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Nanos(pub u64);

impl Nanos {
    /// No time.
    pub const ZERO: Nanos = Nanos(0);

    /// Rounded up; more than 292 years, or not a number where 0 is divided by 0, is the nearest that fits.
    pub fn of_seconds(seconds: f64) -> Nanos {
        Nanos(((seconds * 1e9).ceil() as u64).min(u64::MAX >> 1))
    }

    /// As a number of seconds.
    pub fn seconds(self) -> f64 {
        self.0 as f64 * 1e-9
    }

    /// The time by which `self` is longer than `other`.
    pub const fn saturating_sub(self, other: Nanos) -> Nanos {
        Nanos(self.0.saturating_sub(other.0))
    }
}

impl Add for Nanos {
    type Output = Nanos;
    fn add(self, other: Nanos) -> Nanos {
        Nanos(self.0.saturating_add(other.0))
    }
}

impl AddAssign for Nanos {
    fn add_assign(&mut self, other: Nanos) {
        *self = *self + other;
    }
}

impl Sum for Nanos {
    fn sum<I: Iterator<Item = Nanos>>(iter: I) -> Nanos {
        iter.fold(Nanos::ZERO, Add::add)
    }
}

impl fmt::Display for Nanos {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let n = self.0 as f64;
        match self.0 {
            0..1_000 => write!(f, "{} ns", self.0),
            1_000..1_000_000 => write!(f, "{:.1} us", n / 1e3),
            1_000_000..1_000_000_000 => write!(f, "{:.2} ms", n / 1e6),
            _ => write!(f, "{:.3} s", n / 1e9),
        }
    }
}
