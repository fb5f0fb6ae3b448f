//! The Vulkan backend: whole models on every adapter that there is, buffers in pieces, what is refused.

use std::sync::Arc;

use loadmaster::backend::vulkan::{Caps, Gpu, VulkanBackend};
use loadmaster::device::{BackendKind, DeviceId, Machine};
use loadmaster::units::Bytes;

/// The first adapter, or `None` with a word about it; `REQUIRE_BACKENDS=vulkan` takes no such excuse.
pub fn device() -> Option<Arc<Gpu>> {
    device_with(Caps::DEVICE)
}

/// The same with smaller buffers and bindings.
pub fn device_with(caps: Caps) -> Option<Arc<Gpu>> {
    match Gpu::open(0, caps) {
        Ok(gpu) => Some(gpu),
        Err(why) => {
            let required = std::env::var("REQUIRE_BACKENDS").is_ok_and(|all| all.split(',').any(|one| one == "vulkan"));
            assert!(!required, "vulkan is required: {why}");
            eprintln!("skipped: {why}");
            None
        }
    }
}

/// A machine of one such device, with plenty of memory.
pub fn machine() -> Machine {
    Machine::isolated(BackendKind::Vulkan, 1, 2, Bytes(1 << 40))
}

/// A backend of that machine.
pub fn backend_over(gpu: &Arc<Gpu>) -> VulkanBackend {
    VulkanBackend::over(machine().devices[DeviceId(0)].clone(), Arc::clone(gpu))
}
