//! The Vulkan backend: whole models on every adapter that there is, buffers in pieces, what is refused.

use std::sync::Arc;

use loadmaster::backend::vulkan::{AdapterFacts, Caps, Gpu, VulkanBackend, adapters};
use loadmaster::backend::{self, Backend, BackendError, BufferKind, BufferSpan, Queue};
use loadmaster::bench::{AdapterRates, calibrate_adapter};
use loadmaster::device::{BackendKind, DeviceId, DeviceSpec, Machine, MemoryId};
use loadmaster::exec::{Setup, dealt};
use loadmaster::graph::Graph;
use loadmaster::plan::Span;
use loadmaster::tensor::DType;
use loadmaster::units::{Bytes, Nanos};

use crate::cards::required;
use crate::cli::loadmaster;
use crate::several_devices::{deeper, logits, made, open, setup};

/// The first adapter, or `None` with a word about it; `REQUIRE_BACKENDS=vulkan` takes no such excuse.
pub fn device() -> Option<Arc<Gpu>> {
    device_with(Caps::DEVICE)
}

/// The same with smaller buffers and bindings.
pub fn device_with(caps: Caps) -> Option<Arc<Gpu>> {
    match Gpu::open(0, caps) {
        Ok(gpu) => Some(gpu),
        Err(why) => {
            assert!(!required(BackendKind::Vulkan), "vulkan is required: {why}");
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

/// A machine of the processor and such devices, all over memories of their own.
pub fn beside(cards: usize) -> Machine {
    let processor = Machine::single(BackendKind::Cpu, 2, Bytes(1 << 32)).devices[DeviceId(0)].clone();
    let card = |i: usize| DeviceSpec { name: format!("vulkan:{i}"), ..machine().devices[DeviceId(0)].clone() };
    let cards = (0..cards).map(card);
    Machine::linked([processor].into_iter().chain(cards).map(|spec| (spec, Bytes(1 << 32))))
}

/// Devices of one adapter each, but the processor.
pub fn open_over(
    gpu: &Arc<Gpu>,
) -> impl Fn(&DeviceSpec) -> Result<Box<dyn Backend>, BackendError> + Send + Sync + use<> {
    let gpu = Arc::clone(gpu);
    move |spec| match spec.kind {
        BackendKind::Vulkan => Ok(Box::new(VulkanBackend::over(spec.clone(), Arc::clone(&gpu)))),
        BackendKind::Null | BackendKind::Cpu | BackendKind::Cuda => backend::open(spec),
    }
}

#[test]
fn what_is_not_there_is_said_and_nothing_panics() {
    let spec = |name: &str| DeviceSpec { name: name.into(), ..machine().devices[DeviceId(0)].clone() };
    let error = VulkanBackend::new(spec("vulkan:77")).err().unwrap().to_string();
    assert!(error.contains("no Vulkan driver") || error.contains("there is no Vulkan adapter 77"), "{error}");
    let Some(gpu) = device() else { return };
    let backend = backend_over(&gpu);
    let bytes = Bytes(100);
    let buffer = backend.alloc(BufferKind::Device, bytes).unwrap();
    assert_eq!(backend.allocated(), bytes);
    let at = |offset, len| BufferSpan { buffer, span: Span { offset: Bytes(offset), len: Bytes(len) } };
    let wrong = backend.write(Queue::Upload, at(90, 11), &[1; 11], &[]).unwrap_err().to_string();
    assert!(wrong.contains("bytes 90..101 leave b0 of 100 B"), "{wrong}");
    // Bytes at any place, and beside them nothing changes.
    let mut expected = vec![0u8; 100];
    for (offset, len) in [(0, 100), (3, 1), (5, 2), (8, 4), (13, 30), (97, 3), (50, 0)] {
        let data: Vec<u8> = (0..len as u8).map(|i| i + 1 + offset as u8).collect();
        expected[offset as usize..(offset + len) as usize].copy_from_slice(&data);
        let done = backend.write(Queue::Upload, at(offset, len), &data, &[]).unwrap();
        backend.wait(done).unwrap();
        let mut found = vec![0; 100];
        backend.read(Queue::Peer, at(0, 100), &mut found, &[done]).unwrap();
        assert_eq!(found, expected, "{offset}, {len}");
    }
    let done = backend.copy(Queue::Peer, at(3, 40), at(10, 40), &[]).unwrap();
    expected.copy_within(3..43, 10);
    let mut found = vec![0; 61];
    backend.read(Queue::Peer, at(7, 61), &mut found, &[done]).unwrap();
    assert_eq!(found, expected[7..68]);
    backend.free(buffer).unwrap();
    assert_eq!(backend.allocated(), Bytes::ZERO);
    assert!(backend.read(Queue::Peer, at(0, 100), &mut [0; 100], &[]).is_err());
}

/// What kernels write lies in one buffer of the device, whatever weights do.
#[test]
fn an_arena_that_is_larger_than_a_buffer_is_refused() {
    let Some(gpu) = device_with(Caps { buffer: 64 << 10, ..Caps::DEVICE }) else { return };
    let gguf = made(&deeper("llama-tiny"), DType::F16);
    let deal = |graph: &Graph, machine: &Machine| dealt(graph, &gguf, machine, false);
    let setup = Setup { open: &open_over(&gpu), ..setup(machine()) };
    let refused = open(&gguf, DType::F16, setup, deal).err().unwrap().to_string();
    let why = "the arena is written by kernels and has ";
    assert!(refused.contains(why) && refused.contains("a buffer of this device has at most 64.0 KiB"), "{refused}");
}

#[test]
fn memory_of_the_host_is_taken_only_as_far_as_it_is_shared() {
    let facts = |software: bool, shared: bool, memory: Option<u64>| AdapterFacts {
        device: "vulkan:0".into(),
        name: String::new(),
        driver: String::new(),
        bus: String::new(),
        software,
        shared,
        memory: memory.map(Bytes::mib),
        free: None,
        features: Vec::new(),
        subgroup: (32, 32),
        buffer: Bytes::mib(1),
        binding: Bytes::mib(1),
    };
    let share = Bytes::mib(3000);
    assert_eq!(facts(true, true, None).room(share), Some(share));
    assert_eq!(facts(false, true, Some(4000)).room(share), Some(share));
    assert_eq!(facts(false, true, Some(2000)).room(share), Some(Bytes::mib(2000)));
    assert_eq!(facts(false, false, Some(16_000)).room(share), Some(Bytes::mib(15_000)));
    assert_eq!(facts(false, false, None).room(share), None);
    let told = |free: u64| AdapterFacts { free: Some(Bytes::mib(free)), ..facts(false, false, Some(16_000)) };
    assert_eq!(told(9000).room(share), Some(Bytes::mib(9000)));
    assert_eq!(AdapterFacts { shared: true, ..told(2500) }.room(share), Some(Bytes::mib(2500)));
    assert_eq!(AdapterFacts { shared: true, ..told(9000) }.room(share), Some(share));
    let overhead = |facts: AdapterFacts| facts.spec(MemoryId(0), 1).overhead;
    assert_eq!(overhead(facts(true, true, None)), Bytes::ZERO);
    assert!(overhead(facts(false, true, None)) > Bytes::ZERO && overhead(facts(false, false, None)) > Bytes::ZERO);
}

/// Whatever is asked of a device that is gone fails and says so, as often as it is asked.
#[test]
fn a_lost_device_is_an_error_of_every_call_after_it() {
    let Some(gpu) = device() else { return };
    let gguf = made(&deeper("llama-tiny"), DType::F16);
    let deal = |graph: &Graph, machine: &Machine| dealt(graph, &gguf, machine, false);
    let open_over = open_over(&gpu);
    let mut session = open(&gguf, DType::F16, Setup { open: &open_over, ..setup(machine()) }, deal).unwrap();
    logits(&mut session, 7).unwrap();
    let backend = backend_over(&gpu);
    let buffer = backend.alloc(BufferKind::Device, Bytes(100)).unwrap();
    let whole = BufferSpan { buffer, span: Span { offset: Bytes(0), len: Bytes(100) } };
    let event = backend.write(Queue::Upload, whole, &[1; 100], &[]).unwrap();
    gpu.give_up();
    for _ in 0..2 {
        let errors = [
            backend.wait(event).unwrap_err().to_string(),
            backend.alloc(BufferKind::Device, Bytes(100)).unwrap_err().to_string(),
            backend.write(Queue::Upload, whole, &[1; 100], &[]).unwrap_err().to_string(),
            backend.read(Queue::Peer, whole, &mut [0; 100], &[]).unwrap_err().to_string(),
            backend.copy(Queue::Peer, whole, whole, &[]).unwrap_err().to_string(),
            logits(&mut session, 7).unwrap_err().to_string(),
        ];
        assert!(errors.iter().all(|why| why.contains("the device was lost")), "{errors:#?}");
    }
    // A submission is the first that meets the loss.
    let Some(gpu) = device() else { return };
    let open_over = self::open_over(&gpu);
    let mut session = open(&gguf, DType::F16, Setup { open: &open_over, ..setup(machine()) }, deal).unwrap();
    gpu.give_up();
    let why = logits(&mut session, 7).unwrap_err().to_string();
    assert!(why.contains("the device was lost"), "{why}");
    backend.free(buffer).unwrap();
    assert_eq!(backend.allocated(), Bytes::ZERO);
}

#[test]
fn measured_rates_of_an_adapter_are_rates() {
    if device().is_none() {
        return;
    }
    let software = adapters()[0].software;
    let spec = adapters()[0].spec(MemoryId(0), 1);
    let AdapterRates { rates, to, from } = calibrate_adapter(&spec, software).unwrap();
    for rate in [rates.read.0, rates.int8.0, rates.f16.0, rates.f32.0, to.0, from.0] {
        assert!(rate.is_finite() && rate > 0.0, "{rates:?}, {to:?}, {from:?}");
    }
    assert!(rates.node > Nanos::ZERO && rates.split > Nanos::ZERO && rates.hides == spec.rates.hides, "{rates:?}");
}

/// Files of compiled kernels change nothing but the time that the next run takes, whatever is in them.
#[test]
fn kernels_that_were_kept_give_the_same_logits_also_where_files_are_damaged() {
    if device().is_none() {
        return;
    }
    let gguf = made(&deeper("llama-tiny"), DType::Q8_0);
    let folder = tempfile::tempdir().unwrap();
    let kernels = folder.path().join("kernels");
    let run = || {
        let gpu = Gpu::open_keeping(0, Caps::DEVICE, Some(&kernels)).unwrap();
        let deal = |graph: &Graph, machine: &Machine| dealt(graph, &gguf, machine, false);
        let setup = Setup { open: &open_over(&gpu), ..setup(machine()) };
        logits(&mut open(&gguf, DType::F16, setup, deal).unwrap(), 7).unwrap()
    };
    let files = || -> Vec<_> {
        std::fs::read_dir(&kernels).map_or(Vec::new(), |all| all.map(|file| file.unwrap().path()).collect())
    };
    let (expected, kept) = (run(), files());
    let keeps = adapters().first().is_some_and(|adapter| adapter.features.contains(&"pipeline cache"));
    assert_eq!(kept.is_empty(), !keeps);
    assert_eq!(run(), expected);
    for (i, path) in kept.iter().enumerate() {
        let mut bytes = std::fs::read(path).unwrap();
        match i % 3 {
            0 => bytes.truncate(bytes.len() / 2),
            1 => bytes.iter_mut().for_each(|byte| *byte ^= 0x5a),
            _ => bytes.clear(),
        }
        std::fs::write(path, bytes).unwrap();
    }
    assert_eq!(run(), expected);
    assert_eq!(files().len(), kept.len());
    std::fs::remove_dir_all(&kernels).unwrap();
    std::fs::write(&kernels, "no folder").unwrap();
    assert_eq!(run(), expected);
}

#[test]
fn the_program_writes_on_an_adapter_what_it_writes_on_the_processor() {
    if device().is_none() {
        return;
    }
    let story = |devices: &str| {
        let ran = loadmaster(&["run", "-p", "Once upon a time", "-n", "12", "--temp", "0", "--devices", devices]);
        assert_eq!(ran.code, 0, "{devices}: {}", ran.err);
        ran.out
    };
    let expected = story("cpu");
    ["vulkan:0", "cpu,vulkan"].into_iter().for_each(|devices| assert_eq!(story(devices), expected, "{devices}"));
    let small = ["--devices", "cpu,vulkan:0", "--budget", "vulkan:0=64MiB", "-ngl", "auto"];
    let ran = loadmaster(&[&["run", "-p", "Once upon a time", "-n", "12", "--temp", "0"][..], &small].concat());
    assert_eq!((ran.code, ran.out), (0, expected), "{}", ran.err);
    assert!(loadmaster(&["devices"]).out.contains("\nvulkan:\n  vulkan:0  "));
    let refused = |devices: &str, why: &str| {
        let ran = loadmaster(&["run", "-n", "1", "--devices", devices]);
        assert!(ran.code == 2 && ran.err.contains(why), "{devices}: {} {}", ran.code, ran.err);
    };
    refused("vulkan:9999", "--devices names vulkan:9999: this machine has vulkan:0 to");
    refused("vulkan,vulkan:0", "--devices names vulkan:0 twice");
    refused("vulkan:", "possible values: cpu, cuda:0, vulkan:0");
}
