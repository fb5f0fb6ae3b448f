//! Device specs → backends. A kind is opened only when a plan names it, so a CPU run touches no GPU library.

use super::cpu::CpuBackend;
use super::cuda::CudaBackend;
use super::null::NullBackend;
use super::vulkan::VulkanBackend;
use super::{Backend, BackendError};
use crate::device::{BackendKind, DeviceSpec};

/// Opens the backend that drives `spec`.
///
/// # Errors
/// The device is not there or refuses.
pub fn open(spec: &DeviceSpec) -> Result<Box<dyn Backend>, BackendError> {
    match spec.kind {
        BackendKind::Null => Ok(Box::new(NullBackend::new(spec.clone()))),
        BackendKind::Cpu => Ok(Box::new(CpuBackend::new(spec.clone())?)),
        BackendKind::Vulkan => Ok(Box::new(VulkanBackend::new(spec.clone())?)),
        BackendKind::Cuda => Ok(Box::new(CudaBackend::new(spec.clone())?)),
    }
}
