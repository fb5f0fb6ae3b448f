//! The CUDA driver as calls that are safe: every handle is owned by what frees it, every range is checked, every status is
//! an error that names its call. The driver is loaded when it is first asked for; a machine without one only says so.
#![allow(unsafe_code)]

mod memory;
mod module;
mod stream;

use std::ffi::c_int;
use std::fmt;
use std::sync::Arc;

use cudarc::driver::result::{self, DriverError};
use cudarc::driver::sys::{self, CUdevice_attribute as Attribute, CUresult};

use crate::backend::BackendError;
use crate::units::Bytes;

pub use memory::{DeviceBytes, LentBytes, PinnedBytes};
pub use module::{Function, Module, compile, compiler, knows};
pub use stream::{Launch, Mark, Replay, Stream};

/// The oldest driver whose calls are all there, as it counts: 12.0.
const OLDEST: c_int = 12_000;

/// A call that the driver refused.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Refused {
    call: &'static str,
    status: CUresult,
}

/// What a status says of the device.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Standing {
    /// It goes on.
    Sound,
    /// It has less memory than it was asked for.
    Full,
    /// Nothing more will be done on it by this process.
    Lost,
}

impl Refused {
    /// What its status says of the device.
    pub fn standing(&self) -> Standing {
        // 4 to 46: shut down, unavailable; 214 to 226: memory or links at fault; 700 to 721: what a kernel broke; 999: a card
        // that answers no more.
        match self.status as u32 {
            2 => Standing::Full,
            4 | 46 | 214 | 220 | 226 | 700 | 702 | 709 | 710 | 714..=719 | 721 | 999 => Standing::Lost,
            _ => Standing::Sound,
        }
    }
}

impl fmt::Display for Refused {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let error = DriverError(self.status);
        let text = |found: Result<&std::ffi::CStr, DriverError>| {
            found.map_or_else(|_| format!("status {}", self.status as u32), |text| text.to_string_lossy().into_owned())
        };
        write!(f, "{} failed: {} ({})", self.call, text(error.error_string()), text(error.error_name()))
    }
}

/// Why something was not made, and what that says of the device.
#[derive(Clone, Debug)]
pub struct Trouble {
    why: String,
    standing: Standing,
}

impl From<Refused> for Trouble {
    fn from(refused: Refused) -> Trouble {
        Trouble { why: refused.to_string(), standing: refused.standing() }
    }
}

impl From<String> for Trouble {
    fn from(why: String) -> Trouble {
        Trouble { why, standing: Standing::Sound }
    }
}

impl Trouble {
    /// The same of something by name.
    pub fn of(self, what: &str) -> Trouble {
        Trouble { why: format!("{what}: {}", self.why), ..self }
    }

    /// The error of a device that needed so much memory; `sound` is that of one that goes on.
    pub fn error(self, device: &str, need: Bytes, sound: impl FnOnce(String) -> BackendError) -> BackendError {
        let (device, why) = (device.to_owned(), self.why);
        match self.standing {
            Standing::Sound => sound(why),
            Standing::Full => BackendError::OutOfMemory { device, need, why },
            Standing::Lost => BackendError::Lost { device, why },
        }
    }
}

/// The outcome of a call, by name.
fn told<T>(call: &'static str, outcome: Result<T, DriverError>) -> Result<T, Refused> {
    outcome.map_err(|DriverError(status)| Refused { call, status })
}

/// How many cards the driver has.
///
/// # Errors
/// There is no driver, it is too old, or it refuses; in one line.
pub fn cards() -> Result<u32, String> {
    // SAFETY: loads the library by the names that it is known under and asks for nothing of it.
    if !unsafe { sys::is_culib_present() } {
        return Err("no CUDA driver is installed (libcuda.so.1 was not found)".into());
    }
    match told("cuInit", result::init()) {
        Ok(()) => {}
        Err(Refused { status: CUresult::CUDA_ERROR_NO_DEVICE, .. }) => {
            return Err("the CUDA driver found no card".into());
        }
        Err(why) => return Err(why.to_string()),
    }
    let version = version().map_err(|why| why.to_string())?;
    if version < OLDEST {
        let (found, needed) = (named(version), named(OLDEST));
        return Err(format!("the driver is for CUDA {found}, CUDA {needed} or later is needed"));
    }
    let count = told("cuDeviceGetCount", result::device::get_count()).map_err(|why| why.to_string())?;
    Ok(count.max(0) as u32)
}

/// The latest CUDA that the driver knows, as it counts.
fn version() -> Result<c_int, Refused> {
    let mut version = 0;
    // SAFETY: the driver writes one number, to a place for one.
    told("cuDriverGetVersion", unsafe { sys::cuDriverGetVersion(&mut version) }.result())?;
    Ok(version)
}

/// The same as it is spoken of.
///
/// # Errors
/// The driver refuses.
pub fn driver_version() -> Result<String, Refused> {
    version().map(named)
}

fn named(version: c_int) -> String {
    format!("{}.{}", version / 1000, version % 1000 / 10)
}

/// A card's one context, shared by all who have it open.
#[derive(Debug)]
pub struct Context {
    device: sys::CUdevice,
    context: sys::CUcontext,
}

// SAFETY: a context may be made current on any thread, and its handle is only a name.
unsafe impl Send for Context {}
// SAFETY: the driver locks what calls of several threads touch.
unsafe impl Sync for Context {}

impl Context {
    /// Opens a card of those that were [counted](cards).
    ///
    /// # Errors
    /// There is no such card, or it gives no context.
    pub fn open(ordinal: u32) -> Result<Arc<Context>, Refused> {
        let device = told("cuDeviceGet", result::device::get(ordinal as c_int))?;
        // SAFETY: the device is one of the driver's.
        let context = told("cuDevicePrimaryCtxRetain", unsafe { result::primary_ctx::retain(device) })?;
        Ok(Arc::new(Context { device, context }))
    }

    /// Makes it this thread's, which every call on its memory and streams needs.
    fn bind(&self) -> Result<(), Refused> {
        // SAFETY: it is retained as long as `self` lives.
        told("cuCtxSetCurrent", unsafe { result::ctx::set_current(self.context) })
    }

    /// Its name.
    ///
    /// # Errors
    /// The driver refuses, here and below.
    pub fn name(&self) -> Result<String, Refused> {
        told("cuDeviceGetName", result::device::get_name(self.device))
    }

    /// Its place on the bus.
    ///
    /// # Errors
    /// As for [`Context::name`].
    pub fn bus(&self) -> Result<String, Refused> {
        let mut text = [0 as std::ffi::c_char; 32];
        // SAFETY: the driver writes at most as many characters as it is told there is room for.
        let status = unsafe { sys::cuDeviceGetPCIBusId(text.as_mut_ptr(), text.len() as c_int, self.device) };
        told("cuDeviceGetPCIBusId", status.result())?;
        let bytes: Vec<u8> = text.iter().map(|&c| c as u8).take_while(|&c| c != 0).collect();
        Ok(String::from_utf8_lossy(&bytes).into_owned())
    }

    /// Bytes of its memory that are free, and all.
    ///
    /// # Errors
    /// As for [`Context::name`].
    pub fn memory(&self) -> Result<(u64, u64), Refused> {
        self.bind()?;
        let (free, total) = told("cuMemGetInfo", result::mem_get_info())?;
        Ok((free as u64, total as u64))
    }

    fn attribute(&self, attribute: Attribute) -> Result<u32, Refused> {
        // SAFETY: the device is one of the driver's.
        let value = unsafe { result::device::get_attribute(self.device, attribute) };
        told("cuDeviceGetAttribute", value).map(|value| value.max(0) as u32)
    }

    /// Its architecture as compilers count: 90 of 9.0.
    ///
    /// # Errors
    /// As for [`Context::name`].
    pub fn architecture(&self) -> Result<u32, Refused> {
        let major = self.attribute(Attribute::CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MAJOR)?;
        Ok(10 * major + self.attribute(Attribute::CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MINOR)?)
    }

    /// Its multiprocessors.
    ///
    /// # Errors
    /// As for [`Context::name`].
    pub fn multiprocessors(&self) -> Result<u32, Refused> {
        self.attribute(Attribute::CU_DEVICE_ATTRIBUTE_MULTIPROCESSOR_COUNT)
    }

    /// Bytes that the threads of a block may share at most.
    ///
    /// # Errors
    /// As for [`Context::name`].
    pub fn shared(&self) -> Result<u32, Refused> {
        self.attribute(Attribute::CU_DEVICE_ATTRIBUTE_MAX_SHARED_MEMORY_PER_BLOCK_OPTIN)
    }

    /// Thousands of cycles a second of a multiprocessor and of the memory, and bits of the memory's bus.
    ///
    /// # Errors
    /// As for [`Context::name`].
    pub fn clocks(&self) -> Result<(u32, u32, u32), Refused> {
        Ok((
            self.attribute(Attribute::CU_DEVICE_ATTRIBUTE_CLOCK_RATE)?,
            self.attribute(Attribute::CU_DEVICE_ATTRIBUTE_MEMORY_CLOCK_RATE)?,
            self.attribute(Attribute::CU_DEVICE_ATTRIBUTE_GLOBAL_MEMORY_BUS_WIDTH)?,
        ))
    }

    /// Whether its memory is the host's.
    ///
    /// # Errors
    /// As for [`Context::name`].
    pub fn integrated(&self) -> Result<bool, Refused> {
        self.attribute(Attribute::CU_DEVICE_ATTRIBUTE_INTEGRATED).map(|value| value != 0)
    }
}

impl Drop for Context {
    fn drop(&mut self) {
        // A driver that fails at its end has nothing more to free.
        // SAFETY: it was retained once, by `open`, and what lies in it holds on to it.
        let _ = unsafe { result::primary_ctx::release(self.device) };
    }
}
