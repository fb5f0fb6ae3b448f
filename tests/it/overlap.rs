//! What devices and links do at the same time: weights come while a device computes, and steps of a prompt are under way on
//! several devices. Devices here take a time that is given; how long a step may take follows from how long they did.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use loadmaster::backend::{CellTable, Queue};
use loadmaster::device::{BackendKind, DeviceId, DeviceSpec, Machine};
use loadmaster::engine::{Engine, EngineOptions, Opener};
use loadmaster::exec::{Session, Setup, StepInput, dealt};
use loadmaster::graph::Graph;
use loadmaster::plan::{Activity, Event, Lane, Offload, Queue as Row};
use loadmaster::tensor::DType;
use loadmaster::units::{Bytes, Nanos, Tokens};

use crate::engine::model;
use crate::hooked::{Call, timed};
use crate::reference::options;
use crate::several_devices::{
    bits, cache_away, deeper, isolated, lazy, logits, made, of_one, open, setup, streaming, with_accelerator,
};

/// How long each device was at each thing.
type Busy = Arc<Mutex<BTreeMap<(String, &'static str), Duration>>>;

/// Opens devices whose uploads and splits take longer by so much, but for those of `cpu:0` where `all` is not so.
fn slow(busy: &Busy, all: bool, upload: Duration, split: Duration) -> Opener {
    let busy = Arc::clone(busy);
    let wait = move |spec: &DeviceSpec, call| {
        let time = match call {
            Call::Write(Queue::Upload) => upload,
            Call::Submit => split,
            _ => Duration::ZERO,
        };
        if all || spec.name != "cpu:0" {
            std::thread::sleep(time);
        }
        Ok(())
    };
    let note = move |spec: &DeviceSpec, call: Call, took| {
        let what = match call {
            Call::Write(Queue::Upload) => "link",
            Call::Submit => "compute",
            _ => return,
        };
        *busy.lock().unwrap().entry((spec.name.clone(), what)).or_default() += took;
    };
    timed(Arc::new(wait), Arc::new(note))
}

/// What `run` took over its bound, tried a few times if it is more than `enough`: others may use the machine, too.
fn ratio(enough: f64, mut run: impl FnMut() -> (Duration, Duration)) -> f64 {
    let mut least = f64::INFINITY;
    for _ in 0..8 {
        let (took, bound) = run();
        least = least.min(took.as_secs_f64() / bound.as_secs_f64());
        if least <= enough {
            break;
        }
    }
    least
}

#[test]
fn weights_come_while_a_device_computes() {
    let gguf = made(&deeper("llama-tiny"), DType::Q4K);
    let expected = bits(&of_one(&gguf, DType::F16));
    let busy = Busy::default();
    let slow = slow(&busy, false, Duration::from_millis(15), Duration::from_millis(15));
    let policy = streaming(Offload::AtLeast(Tokens(1)), 1);
    let setup = Setup { policy, open: &*slow, ..setup(with_accelerator()) };
    let mut session = open(&gguf, DType::F16, setup, |graph, _| cache_away(graph, &gguf, false)).unwrap();
    let found = ratio(1.1, || {
        busy.lock().unwrap().clear();
        let start = Instant::now();
        assert!(bits(&logits(&mut session, 40).unwrap()) == expected);
        let (took, busy) = (start.elapsed(), busy.lock().unwrap());
        let of = |what| busy[&("cpu:1".to_owned(), what)];
        let (link, compute) = (of("link"), of("compute"));
        // Both must have enough to do that hiding one counts.
        assert!(link.min(compute) * 2 > link.max(compute) && link > Duration::from_millis(100), "{link:?} {compute:?}");
        (took, link.max(compute))
    });
    eprintln!("a step takes {found:.3} of the longer of link and compute");
    assert!(found <= 1.1, "{found:.3}");
}

#[test]
fn steps_of_a_prompt_are_under_way_on_several_devices() {
    let busy = Busy::default();
    let slow = slow(&busy, true, Duration::ZERO, Duration::from_millis(12));
    let machine = Machine::isolated(BackendKind::Cpu, 2, 1, Bytes(1 << 32));
    let options = EngineOptions { context: Tokens(400), step: Tokens(16), ..options() };
    let mut engine = Engine::open_with(slow, machine, model("llama-tiny", DType::Q4K, 5), options, &|_, _| {}).unwrap();
    let mut one = Engine::open(model("llama-tiny", DType::Q4K, 5), options, &|_, _| {}).unwrap();
    let ids: Vec<u32> = (0..384).map(|i| i * 37 % 500).collect();
    let sequence = one.start();
    let expected = bits(one.feed(sequence, &ids).unwrap());
    let steps = ids.len() as u32 / 16;
    let found = ratio(1.1, || {
        busy.lock().unwrap().clear();
        let sequence = engine.start();
        let start = Instant::now();
        assert!(bits(engine.feed(sequence, &ids).unwrap()) == expected);
        let (took, busy) = (start.elapsed(), busy.lock().unwrap());
        engine.end(sequence).unwrap();
        let of = |device: &str| busy[&(device.to_owned(), "compute")];
        let (first, second) = (of("cpu:0"), of("cpu:1"));
        (took, first.max(second) + first.min(second) / steps)
    });
    eprintln!("{steps} steps take {found:.3} of those of the slower device and one of the other");
    assert!(found <= 1.1, "{found:.3}");
}

/// What is noted of a step is all of its plan, in its order, on the rows that the simulator has.
#[test]
fn traces_have_all_of_a_plan_in_its_order() {
    let gguf = made(&deeper("qwen3moe-tiny"), DType::Q4K);
    let policy = streaming(Offload::AtLeast(Tokens(1)), 100 << 10);
    let deal = |graph: &Graph, machine: &Machine| dealt(graph, &gguf, machine, false);
    let streamed = Setup { policy, ..setup(with_accelerator()) };
    let streamed = open(&gguf, DType::F16, streamed, |graph, _| cache_away(graph, &gguf, false)).unwrap();
    for mut session in [open(&gguf, DType::F16, setup(isolated(3)), deal).unwrap(), streamed] {
        let expected = bits(&logits(&mut session, 7).unwrap());
        session.trace();
        assert!(bits(&logits(&mut session, 7).unwrap()) == expected);
        let traced = session.traced();
        assert_eq!(traced.len(), 6);
        let mut before = Nanos::ZERO;
        for step in &traced {
            let (_, plan) = session.planned(step.batch).unwrap();
            let of = |row: Row| step.events.iter().filter(move |event| event.lane.queue == row);
            let splits: Vec<_> = of(Row::Compute).map(|event| event.what).collect();
            let lanes = |device: DeviceId| {
                of(Row::Compute).filter(move |event| event.lane == Lane { device, queue: Row::Compute })
            };
            assert_eq!(splits.len(), plan.splits.len());
            for (id, split) in plan.splits.iter_ids() {
                let at = lanes(split.device).position(|event| event.what == Activity::Split(id)).expect("a split");
                let own = plan.splits.iter_ids().filter(|(_, other)| other.device == split.device);
                assert_eq!(at, own.take_while(|(other, _)| *other < id).count());
            }
            assert_eq!((of(Row::Peer).count(), of(Row::Upload).count()), (plan.transfers.len(), plan.uploads.len()));
            let mut ends = BTreeMap::new();
            for &Event { lane, start, end, .. } in &step.events {
                assert!(before <= start && start <= end, "{start:?} {end:?}");
                assert!(ends.insert(lane, end).is_none_or(|last| last <= start), "two things at a time on {lane:?}");
            }
            before = step.events.iter().map(|event| event.end).max().unwrap();
        }
        session.trace();
        assert_eq!(session.traced(), Vec::new());
    }
}

/// The logits of the last of 40 tokens, read so many at a time in steps that are under way together.
fn last(session: &mut Session, batch: u32) -> Vec<u32> {
    for first in (0..40).step_by(batch as usize) {
        let places: Vec<u32> = (first..40.min(first + batch)).collect();
        let ids: Vec<u32> = places.iter().map(|i| i * 37 % 500).collect();
        let end = first + places.len() as u32;
        let wanted = if end == 40 { vec![places.len() as u32 - 1] } else { Vec::new() };
        let table = CellTable::single(&places, Tokens(end), &[0, 1, 2][..Tokens(end).pages() as usize]);
        let step = StepInput { ids: &ids, positions: &places, output_rows: &wanted, tables: &[table] };
        session.begin(&step).unwrap();
    }
    bits(session.finish().unwrap())
}

/// Steps without outputs pass over what is for outputs, and those that follow wait for what must be done all the same: here
/// on devices that do nothing before they must.
#[test]
fn steps_under_way_together_give_the_bits_of_one_by_one() {
    for (shape, dtype) in [("qwen3moe-tiny", DType::Q4K), ("llama-tiny", DType::F16)] {
        let gguf = made(&deeper(shape), dtype);
        let all = of_one(&gguf, DType::F16);
        let expected = bits(&all[all.len() / 40 * 39..]);
        let deal = |graph: &Graph, machine: &Machine| dealt(graph, &gguf, machine, false);
        let away = |graph: &Graph, _: &Machine| cache_away(graph, &gguf, false);
        let policy = |chunk| streaming(Offload::AtLeast(Tokens(1)), chunk);
        let sessions = [
            open(&gguf, DType::F16, Setup { open: &lazy, ..setup(isolated(3)) }, deal).unwrap(),
            open(&gguf, DType::F16, Setup { open: &lazy, policy: policy(1), ..setup(with_accelerator()) }, away)
                .unwrap(),
            open(&gguf, DType::F16, Setup { policy: policy(100 << 10), ..setup(with_accelerator()) }, away).unwrap(),
        ];
        for (i, mut session) in sessions.into_iter().enumerate() {
            for batch in [40, 7, 1, 16] {
                assert!(last(&mut session, batch) == expected, "{shape}: session {i}, {batch} at a time");
            }
        }
    }
}
