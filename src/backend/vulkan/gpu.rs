//! An adapter → an open device with its queue, limits and compiled kernels. What goes wrong on it becomes an error of
//! whoever asked, or of the next who asks; nothing panics. Several backends may share one.

use std::collections::HashMap;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;
use std::pin::pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, Waker};

use wgpu::wgt::PollType;

use super::faults::Faults;
use super::heaps;
use super::kernel::{Kernel, Source};
use crate::backend::kept::Kept;

/// An open device.
pub struct Gpu {
    /// The device.
    pub(super) device: wgpu::Device,
    /// Its one queue.
    pub(super) queue: wgpu::Queue,
    /// What of it is used.
    pub(super) caps: Caps,
    /// Where such a part may begin.
    pub(super) align: u64,
    /// Invocations of a team.
    pub(super) lanes: u32,
    /// Rows of a tile of a product with many.
    pub(super) tile: u32,
    /// What the device reported outside of any call.
    faults: Arc<Faults>,
    kernels: Mutex<HashMap<Source, Arc<Kernel>>>,
    /// Where compiled kernels are kept from run to run.
    pub(super) kept: Option<Kept>,
}

/// What of a device may be used at most.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Caps {
    /// Bytes of a buffer.
    pub buffer: u64,
    /// Bytes of the part of a buffer that a kernel sees.
    pub binding: u64,
    /// Bytes that kernels read in one submission, give or take a dispatch: drivers end those that take seconds.
    pub work: u64,
    /// Whether members of a team may speak through their subgroup.
    pub subgroups: bool,
    /// Whether products with blocks may round values to bytes, where the device multiplies four of them at a time.
    pub dots: bool,
}

impl Caps {
    /// All that the device allows; and of work a large model's weights for a row, or a small one's for a batch.
    pub const DEVICE: Caps = Caps { buffer: u64::MAX, binding: u64::MAX, work: 1 << 36, subgroups: true, dots: true };
}

/// Members of a team that shares workgroup memory.
const SHARED_LANES: u32 = 64;

/// Workgroup memory that tiles of 64 rows take; those of 32 rows take less than the 16 KiB that every device has.
const LARGE_TILE: u32 = 17 << 10;

/// All of an adapter and its driver that decides what kernels are compiled to.
fn identity(adapter: &wgpu::AdapterInfo) -> String {
    let wgpu::AdapterInfo { name, vendor, device, driver, driver_info, .. } = adapter;
    format!("{name}\n{vendor}\n{device}\n{driver}\n{driver_info}")
}

impl Gpu {
    /// Opens an adapter; `caps` says what of it is used. Kernels are compiled anew.
    ///
    /// # Errors
    /// There is no such adapter, or it gives no device.
    pub fn open(index: usize, caps: Caps) -> Result<Arc<Gpu>, String> {
        Gpu::open_keeping(index, caps, None)
    }

    /// The same; compiled kernels are kept in files of a folder and found there.
    ///
    /// # Errors
    /// There is no such adapter, or it gives no device. Never because of those files.
    pub fn open_keeping(index: usize, caps: Caps, folder: Option<&Path>) -> Result<Arc<Gpu>, String> {
        let mut adapters = adapters();
        if index >= adapters.len() {
            let found: Vec<String> = adapters.iter().map(|adapter| adapter.get_info().name).collect();
            return Err(match found.is_empty() {
                true => "no Vulkan driver offers an adapter on this machine".to_owned(),
                false => format!("there is no Vulkan adapter {index}; there are {}: {}", found.len(), found.join(", ")),
            });
        }
        Gpu::of(&adapters.swap_remove(index), caps, folder)
    }

    fn of(adapter: &wgpu::Adapter, caps: Caps, folder: Option<&Path>) -> Result<Arc<Gpu>, String> {
        let (limits, info) = (adapter.limits(), adapter.get_info());
        let sized = info.subgroup_min_size == info.subgroup_max_size && (8..=128).contains(&info.subgroup_min_size);
        let features = adapter.features() & (wgpu::Features::SUBGROUP | wgpu::Features::PIPELINE_CACHE);
        let subgroups = caps.subgroups && sized && features.contains(wgpu::Features::SUBGROUP);
        let keeps = features.contains(wgpu::Features::PIPELINE_CACHE);
        // A driver that computes on the processor gains by bytes, too: they are fewer.
        let dots = caps.dots && (info.device_type == wgpu::DeviceType::Cpu || heaps::multiplies_bytes(adapter));
        let wanted = wgpu::DeviceDescriptor {
            label: None,
            required_features: features,
            required_limits: limits.clone(),
            experimental_features: wgpu::ExperimentalFeatures::disabled(),
            memory_hints: wgpu::MemoryHints::MemoryUsage,
            trace: wgpu::Trace::Off,
        };
        let opened = now(adapter.request_device(&wanted)).ok_or("the adapter does not answer")?;
        let (device, queue) = opened.map_err(|e| e.to_string())?;
        let faults = Arc::new(Faults::default());
        let (seen, lost) = (Arc::clone(&faults), Arc::clone(&faults));
        device.on_uncaptured_error(Arc::new(move |error: wgpu::Error| seen.note(error.to_string())));
        device.set_device_lost_callback(move |_, why| lost.lose(&why));
        let align = u64::from(limits.min_storage_buffer_offset_alignment).max(16);
        Ok(Arc::new(Gpu {
            device,
            queue,
            caps: Caps {
                buffer: caps.buffer.min(limits.max_buffer_size) / 256 * 256,
                binding: caps.binding.min(limits.max_storage_buffer_binding_size) / 256 * 256,
                work: caps.work,
                subgroups,
                dots,
            },
            align,
            lanes: if subgroups { info.subgroup_min_size } else { SHARED_LANES },
            tile: if limits.max_compute_workgroup_storage_size < LARGE_TILE { 32 } else { 64 },
            faults,
            kernels: Mutex::default(),
            kept: folder.filter(|_| keeps).map(|folder| Kept::of(folder, &identity(&info))),
        }))
    }

    /// Fails if the device is lost, or has reported what nobody was told of.
    pub(super) fn sound(&self) -> Result<(), String> {
        self.faults.told()
    }

    /// Whether the device is gone.
    pub(super) fn is_lost(&self) -> bool {
        self.faults.is_lost()
    }

    /// Gives the device up, for all who share it: what is asked of it from now on fails, as after any other loss.
    pub fn give_up(&self) {
        self.device.destroy();
    }

    /// What `make` makes, unless the device objects to it or is lost: then no error reaches the scopes.
    pub(super) fn guarded<T>(&self, make: impl FnOnce() -> T) -> Result<T, String> {
        self.polled(PollType::Poll)?;
        let filters = [wgpu::ErrorFilter::Internal, wgpu::ErrorFilter::OutOfMemory, wgpu::ErrorFilter::Validation];
        let scopes = filters.map(|filter| self.device.push_error_scope(filter));
        let made = make();
        // The last that was pushed is popped first.
        let errors = scopes.into_iter().rev().filter_map(|scope| now(scope.pop()).flatten());
        match errors.fold(None, |first: Option<wgpu::Error>, next| first.or(Some(next))) {
            Some(error) => Err(error.to_string()),
            None => self.sound().map(|()| made),
        }
    }

    /// The kernel of this source, compiled once.
    pub(super) fn kernel(&self, source: &Source) -> Result<Arc<Kernel>, String> {
        if let Some(kernel) = locked(&self.kernels).get(source) {
            return Ok(Arc::clone(kernel));
        }
        let kernel = Arc::new(Kernel::made(self, source)?);
        locked(&self.kernels).insert(source.clone(), Arc::clone(&kernel));
        Ok(kernel)
    }

    /// Returns when a submission is done.
    pub(super) fn wait(&self, submission: wgpu::SubmissionIndex) -> Result<(), String> {
        self.polled(PollType::Wait { submission_index: Some(submission), timeout: None })
    }

    /// Asks the device how far it is, and whether it is still there.
    pub(super) fn polled(&self, until: PollType<wgpu::SubmissionIndex>) -> Result<(), String> {
        self.sound()?;
        let asked = self.poll(until);
        if asked.is_err() {
            // One that was given up says so when it is asked for nothing.
            let _ = self.poll(PollType::Poll);
        }
        self.sound().and(asked)
    }

    /// The only place where the device is polled, which panics where a driver fails at it.
    fn poll(&self, until: PollType<wgpu::SubmissionIndex>) -> Result<(), String> {
        match catch_unwind(AssertUnwindSafe(|| self.device.poll(until))) {
            Ok(polled) => polled.map(|_| ()).map_err(|e| e.to_string()),
            Err(_) => {
                self.faults.lose("its driver failed while it was waited for");
                self.sound()
            }
        }
    }
}

/// Every adapter of this machine's Vulkan drivers, in their order; none without a loader.
pub(super) fn adapters() -> Vec<wgpu::Adapter> {
    let wanted = wgpu::InstanceDescriptor {
        backends: wgpu::Backends::VULKAN,
        flags: wgpu::InstanceFlags::empty(),
        ..wgpu::InstanceDescriptor::new_without_display_handle()
    };
    now(wgpu::Instance::new(wanted).enumerate_adapters(wgpu::Backends::VULKAN)).unwrap_or_default()
}

pub(super) fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// What a future that waits for nothing gives; those of native devices do not wait.
fn now<T>(future: impl Future<Output = T>) -> Option<T> {
    match pin!(future).poll(&mut Context::from_waker(Waker::noop())) {
        Poll::Ready(value) => Some(value),
        Poll::Pending => None,
    }
}
