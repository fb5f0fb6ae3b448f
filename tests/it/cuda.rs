//! The CUDA backend beyond what all cards share: bytes on three queues, what a machine without it says, faults of the
//! driver, and that files of kernels are complete. The driver may be the one of `tests/cuda`, which computes on the
//! processor and does work as late as it may.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::process::Command;

use loadmaster::backend::cuda::{self, CudaBackend};
use loadmaster::backend::{BackendError, BufferKind, BufferSpan, Event, Queue};
use loadmaster::device::{DeviceId, DeviceSpec};
use loadmaster::plan::Span;
use loadmaster::units::Bytes;

use crate::cards::cuda_card;

fn kernels() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("shaders/cuda")
}

/// Every file below the folder, by its path there.
fn files(folder: &Path) -> BTreeSet<String> {
    let (mut found, mut folders) = (BTreeSet::new(), vec![folder.to_owned()]);
    while let Some(below) = folders.pop() {
        for entry in std::fs::read_dir(below).unwrap() {
            let path = entry.unwrap().path();
            match path.is_dir() {
                true => folders.push(path),
                false => {
                    found.insert(path.strip_prefix(folder).unwrap().to_string_lossy().into_owned());
                }
            }
        }
    }
    found
}

#[test]
fn the_program_has_every_file_of_kernels() {
    let known: BTreeSet<String> = cuda::files().collect();
    assert_eq!(known, files(&kernels()));
}

#[test]
fn bytes_go_to_any_place_and_back_on_every_queue() {
    let Some(card) = cuda_card() else { return };
    let backend = card.backend();
    let buffer = backend.alloc(BufferKind::Device, Bytes(100)).unwrap();
    assert_eq!(backend.allocated(), Bytes(100));
    let at = |offset, len| BufferSpan { buffer, span: Span { offset: Bytes(offset), len: Bytes(len) } };
    let wrong = backend.write(Queue::Upload, at(90, 11), &[1; 11], &[]).unwrap_err().to_string();
    assert!(wrong.contains("bytes 90..101 leave b0 of 100 B"), "{wrong}");
    let (mut expected, mut last) = (vec![0u8; 100], None::<Event>);
    let spans = [(0, 100), (3, 1), (5, 2), (8, 4), (13, 30), (97, 3), (50, 0)];
    for (i, (offset, len)) in spans.into_iter().enumerate() {
        let data: Vec<u8> = (0..len as u8).map(|i| i + 1 + offset as u8).collect();
        expected[offset as usize..(offset + len) as usize].copy_from_slice(&data);
        let queue = [Queue::Compute, Queue::Upload, Queue::Peer][i % 3];
        last = Some(backend.write(queue, at(offset, len), &data, last.as_slice()).unwrap());
        let mut found = vec![0; 100];
        backend.read(Queue::Peer, at(0, 100), &mut found, last.as_slice()).unwrap();
        assert_eq!(found, expected, "{offset}, {len}");
    }
    let done = backend.copy(Queue::Peer, at(3, 20), at(40, 20), last.as_slice()).unwrap();
    expected.copy_within(3..23, 40);
    let mut found = vec![0; 61];
    backend.read(Queue::Compute, at(7, 61), &mut found, &[done]).unwrap();
    assert_eq!(found, expected[7..68]);
    assert!(matches!(backend.wait(Event(done.0 + 9)), Err(BackendError::NoEvent { .. })));
    backend.free(buffer).unwrap();
    assert_eq!(backend.allocated(), Bytes::ZERO);
    assert!(backend.read(Queue::Peer, at(0, 100), &mut [0; 100], &[]).is_err());
}

/// More bytes than pinned memory holds, more events than are kept, and a wait for one that is long past.
#[test]
fn a_queue_goes_on_for_any_number_of_bytes_and_events() {
    let Some(card) = cuda_card() else { return };
    let backend = card.backend();
    let len = (9 << 20) + 5;
    let buffer = backend.alloc(BufferKind::Device, Bytes(2 * len)).unwrap();
    let half = |i: u64| BufferSpan { buffer, span: Span { offset: Bytes(i * len), len: Bytes(len) } };
    let data: Vec<u8> = (0..len).map(|i| (i * 7 + (i >> 11)) as u8).collect();
    let first = backend.write(Queue::Upload, half(0), &data, &[]).unwrap();
    let mut copied = backend.copy(Queue::Compute, half(0), half(1), &[first]).unwrap();
    for _ in 0..200 {
        copied = backend.copy(Queue::Compute, half(0), half(1), &[first, copied]).unwrap();
    }
    let mut found = vec![0; len as usize];
    backend.read(Queue::Peer, half(1), &mut found, &[copied]).unwrap();
    assert!(found == data);
    backend.wait(first).unwrap();
}

#[test]
fn a_card_that_is_not_there_is_said() {
    let spec = |name: &str| DeviceSpec {
        name: name.into(),
        ..loadmaster::device::Machine::isolated(loadmaster::device::BackendKind::Cuda, 1, 1, Bytes(1)).devices
            [DeviceId(0)]
        .clone()
    };
    let why = CudaBackend::new(spec("cuda:77")).err().unwrap().to_string();
    let known = ["no CUDA driver is installed", "found no card", "there is no card 77, the driver has"];
    assert!(known.iter().any(|known| why.contains(known)), "{why}");
}

/// The program, under the driver that computes on the processor, told to be so.
fn emulated(settings: &str, arguments: &[&str]) -> Option<(i32, String, String)> {
    // The driver at hand may be that of a card.
    let facts = cuda_card().and_then(|_| cuda::cards().ok())?;
    if !facts.iter().all(|facts| facts.name.starts_with("Emulated")) {
        eprintln!("skipped: the driver is not the one of tests/cuda");
        return None;
    }
    let mut command = Command::new(env!("CARGO_BIN_EXE_loadmaster"));
    let ran = command.args(arguments).env("EMULATED_CUDA", settings).output().unwrap();
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    Some((ran.status.code().unwrap_or(-1), text(&ran.stdout), text(&ran.stderr)))
}

const STORIES: [&str; 7] = ["run", "-p", "Once upon a time", "-n", "12", "--temp", "0"];

fn story(settings: &str, devices: &str) -> Option<(i32, String, String)> {
    emulated(settings, &[&STORIES[..], &["--devices", devices]].concat())
}

#[test]
fn the_program_writes_on_a_card_what_it_writes_on_the_processor() {
    let Some((code, expected, _)) = story("", "cpu") else { return };
    assert_eq!(code, 0);
    for devices in ["cuda:0", "cpu,cuda", "cuda:0,cuda:1"] {
        let (code, found, why) = story("devices=2", devices).unwrap();
        assert_eq!((code, &found), (0, &expected), "{devices}: {why}");
    }
    // Without tensor cores.
    let (code, found, why) = story("arch=75", "cuda:0").unwrap();
    assert_eq!((code, &found), (0, &expected), "{why}");
    let (code, _, why) = story("arch=70", "cuda:0").unwrap();
    assert!(code == 2 && why.contains("compute capability 7.0, 7.5 or later is needed"), "{code}: {why}");
    let (code, _, why) = story("devices=2", "cuda:2").unwrap();
    assert!(code == 2 && why.contains("--devices names cuda:2: this machine has cuda:0 to cuda:1"), "{code}: {why}");
}

#[test]
fn devices_says_in_a_line_what_is_there_or_missing() {
    let Some((code, out, _)) = emulated("devices=2", &["devices"]) else { return };
    assert!(code == 0 && out.contains("\ncuda:\n  cuda:0  Emulated sm_90 at "), "{out}");
    let (code, out, _) = emulated("devices=0", &["devices"]).unwrap();
    assert!(code == 0 && out.contains("\ncuda: the CUDA driver found no card\n"), "{out}");
    let (code, _, why) = story("devices=0", "cuda:0").unwrap();
    assert!(code == 2 && why.contains("--devices names cuda:0: the CUDA driver found no card"), "{code}: {why}");
}

/// Faults of the driver at any point: the text is finished on what is left, or the error says what happened.
#[test]
fn a_driver_that_fails_ends_in_the_right_text_or_an_error() {
    let Some((_, expected, _)) = story("", "cpu") else { return };
    let lost = [1u32, 40, 200, 333, 700].map(|after| format!("lost_after={after}"));
    let failing = [
        "cuMemAlloc_v2:3:2",
        "cuLaunchKernel:50:700",
        "cuEventRecord:30:719",
        "cuModuleLoadData:2:209",
        "cuModuleLoadData:5:2",
        "cuModuleLoadData:4:700",
    ];
    let failing = failing.map(|fault| format!("fail={fault}"));
    for fault in lost.iter().chain(&failing) {
        let (code, found, why) = story(fault, "cpu,cuda:0").unwrap();
        let said = why.contains("cuda:0");
        assert!(code == 0 && found == expected || code == 1 && said, "{fault}: {code}, {found}, {why}");
        if fault.starts_with("lost") && code == 0 && said {
            assert!(why.contains("went on without cuda:0"), "{fault}: {why}");
        }
    }
    // What cannot be recorded is launched.
    let (code, found, why) = story("fail=cuGraphInstantiateWithFlags:1:2", "cuda:0").unwrap();
    assert!(code == 0 && found == expected && !why.contains("went on without"), "{code}: {found}, {why}");
}

/// A card that does not answer is said, and no other is refused for it.
#[test]
fn a_card_that_does_not_answer_is_alone_in_that() {
    let silent = "devices=2,fail=cuDevicePrimaryCtxRetain:2:2";
    let Some((code, out, _)) = emulated(silent, &["devices"]) else { return };
    assert!(
        code == 0 && out.contains("cuda:0  Emulated") && out.contains("not driven: cuda:1 does not answer"),
        "{out}"
    );
    let (code, _, why) = story(silent, "cuda:0").unwrap();
    assert_eq!(code, 0, "{why}");
}
