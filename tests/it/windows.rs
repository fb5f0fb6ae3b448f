//! Layers that keep a window of each sequence compute what they compute with all rows, and what they have given up is
//! never read: against engines whose caches keep everything.

use loadmaster::engine::{Engine, EngineError, EngineOptions, Loaded, Queue, QueueLimits, Request, SavedError};
use loadmaster::gguf::Gguf;
use loadmaster::index::CacheClassId;
use loadmaster::kv::{KvError, KvLayout, SequenceId};
use loadmaster::sample::{SampleOptions, Sampler};
use loadmaster::synth::{ModelShape, Synth, WindowShape, named};
use loadmaster::tensor::DType;
use loadmaster::text::TokenId;
use loadmaster::units::{Bytes, Tokens};

use crate::batching::options;
use crate::saved_walk::sealed;
use crate::several_devices::bits;

const LAYOUTS: [KvLayout; 2] = [KvLayout::Paged { page: Tokens::PAGE }, KvLayout::Contiguous];

/// Three layers, two of them with windows of 32 tokens.
fn open(options: EngineOptions) -> Engine {
    let shape = named("gemma3-tiny").unwrap();
    let windows = shape.windows.map(|windows| WindowShape { length: 32, period: 3, ..windows });
    let shape = ModelShape { layers: 3, windows, ..shape };
    let bytes = Synth::new(&shape, DType::F16, 5).unwrap().to_bytes().unwrap();
    Engine::open(Gguf::from_bytes("windowed", bytes).unwrap(), options, &|_, _| {}).unwrap()
}

/// One engine that keeps windows and one that keeps all.
fn pair(layout: KvLayout) -> [Engine; 2] {
    let sizes = EngineOptions { context: Tokens(512), step: Tokens(24), layout, ..options() };
    let all = open(EngineOptions { sequences: 99, ..sizes });
    let windows = open(EngineOptions { sequences: 2, ..sizes });
    let mut both = [windows, all];
    assert_eq!(both.each_mut().map(|engine| engine.session().classes().len()), [2, 1]);
    both
}

fn ids(from: u32, to: u32) -> Vec<u32> {
    (from..to).map(|i| i * 37 % 500).collect()
}

/// Feeds both and compares the logits of the last token bit for bit.
fn feed(engines: &mut [Engine; 2], sequence: SequenceId, ids: &[u32]) {
    let [windows, all] = engines;
    let found = bits(windows.feed(sequence, ids).unwrap());
    assert_eq!(found, bits(all.feed(sequence, ids).unwrap()));
}

#[test]
fn rows_behind_windows_are_given_up_and_no_bit_changes() {
    for layout in LAYOUTS {
        let mut engines = pair(layout);
        let [sequence, same] = engines.each_mut().map(Engine::start);
        assert_eq!(sequence, same);
        for (from, to) in [(0, 100), (100, 101), (101, 102), (102, 190), (190, 400)] {
            feed(&mut engines, sequence, &ids(from, to));
        }
        let fork = engines.each_mut().map(|engine| engine.fork(sequence).unwrap())[0];
        for (sequence, from) in [(fork, 7), (sequence, 400), (fork, 31)] {
            feed(&mut engines, sequence, &ids(from, from + 30));
        }
        let page = layout.page();
        let held: Vec<u32> = engines[0].usages().iter().map(|usage| usage.used * page).collect();
        assert!(held[0] >= 430 && held[1] <= 2 * 64, "{held:?}");
        for engine in &mut engines {
            engine.end(sequence).unwrap();
            engine.end(fork).unwrap();
            assert!(engine.usages().iter().all(|usage| usage.used == 0 && usage.promised == 0));
        }
    }
}

#[test]
fn a_shift_drops_nothing_that_a_window_reaches() {
    for layout in LAYOUTS {
        let mut engines = pair(layout);
        let sequence = engines.each_mut().map(Engine::start)[0];
        feed(&mut engines, sequence, &ids(0, 160));
        let shifted = engines.each_mut().map(|engine| engine.shift(sequence, Tokens(16)).unwrap());
        assert_eq!(shifted[0].dropped, shifted[1].dropped);
        feed(&mut engines, sequence, &ids(160, 220));
        // Half would be more than lies behind the window.
        let short = engines[0].start();
        engines[0].feed(short, &ids(0, 80)).unwrap();
        let page = layout.page();
        let shifted = engines[0].shift(short, Tokens(32)).unwrap();
        assert_eq!(shifted.dropped, Tokens((80 - 31) / page * page - 32));
        let error = engines[0].shift(short, Tokens(32)).unwrap_err();
        assert!(matches!(error, EngineError::Context { .. }), "{error}");
        engines[0].feed(short, &ids(1, 40)).unwrap();
    }
}

#[test]
fn a_sequence_is_shortened_as_far_as_windows_have_kept() {
    for layout in LAYOUTS {
        let mut engines = pair(layout);
        let sequence = engines.each_mut().map(Engine::start)[0];
        feed(&mut engines, sequence, &ids(0, 200));
        engines.iter_mut().for_each(|engine| engine.truncate(sequence, Tokens(184)).unwrap());
        feed(&mut engines, sequence, &ids(3, 90));
        let error = engines[0].truncate(sequence, Tokens(100)).unwrap_err();
        assert!(matches!(error, EngineError::Kv(KvError::Window { tokens: 100, needed: 31, .. })), "{error}");
        assert_eq!(
            error.to_string().split(", rows of").next().unwrap(),
            "q0 cannot be brought to 100 tokens: its window would reach back over 31 of them"
        );
        feed(&mut engines, sequence, &ids(9, 20));
    }
}

#[test]
fn what_begins_alike_is_shared_where_windows_have_its_end() {
    let mut engines = pair(KvLayout::default());
    let sequence = engines.each_mut().map(Engine::start)[0];
    feed(&mut engines, sequence, &ids(0, 100));
    let prompt: Vec<_> = ids(0, 100).into_iter().chain(ids(300, 340)).map(TokenId).collect();
    let written = engines.each_mut().map(|engine| {
        engine.end(sequence).unwrap();
        // As many at a time as the windows are for, whatever they share.
        let mut queue = Queue::new(engine, QueueLimits { sequences: 2, length: Tokens(200) }).unwrap();
        let sampler = Sampler::new(SampleOptions { temperature: 0.0, ..SampleOptions::default() }).unwrap();
        for _ in 0..2 {
            let (prompt, most, sampler) = (prompt.clone(), Some(20), sampler.clone());
            queue.submit(Request { sequence: None, prompt, most, sampler, ignore_end: true, shift: None }).unwrap();
        }
        let mut most = 0;
        while queue.step(&mut |_, _| true).unwrap() {
            most = most.max(queue.load().1);
        }
        assert_eq!(most, 2);
        let first = queue.finished().unwrap().outcome.unwrap();
        assert_eq!(first.tokens, queue.finished().unwrap().outcome.unwrap().tokens);
        first
    });
    assert_eq!(written.each_ref().map(|written| written.shared_tokens), [96, 96]);
    assert_eq!(written[0].tokens, written[1].tokens);
}

fn load(engine: &mut Engine, bytes: &[u8]) -> Result<Loaded, EngineError> {
    engine.load("saved", &mut std::io::Cursor::new(bytes))
}

#[test]
fn a_saved_sequence_has_the_rows_that_windows_reach() {
    let mut engines = pair(KvLayout::default());
    let sequence = engines.each_mut().map(Engine::start)[0];
    feed(&mut engines, sequence, &ids(0, 200));
    let saved = engines.each_mut().map(|engine| {
        let mut bytes = Vec::new();
        engine.save(sequence, &[], "saved", &mut bytes).unwrap();
        bytes
    });
    assert!(saved[0].len() < saved[1].len() * 2 / 3, "{} {}", saved[0].len(), saved[1].len());
    let expected = bits(engines[1].feed(sequence, &ids(7, 30)).unwrap());
    let [mut other, _] = pair(KvLayout::Contiguous);
    let loaded = load(&mut other, &saved[0]).unwrap();
    assert_eq!(bits(other.feed(loaded.sequence, &ids(7, 30)).unwrap()), expected);
    // Caches that keep all have rows that these have not, and the other way round the files differ.
    for (engine, saved) in engines.iter_mut().zip([&saved[1], &saved[0]]) {
        let error = load(engine, saved).unwrap_err();
        assert!(matches!(error, EngineError::Saved(SavedError::Other { .. })), "{error}");
    }
    // Fewer rows than a window reaches, and more than there are tokens.
    let [whole, window] = [0, 1].map(|class| other.session().cell_bytes(CacheClassId(class)).index());
    let rows = |held: u32| saved[0].len() - 8 - 200 * whole - held as usize * window;
    let held = (31..63).find(|&held| saved[0][rows(held) - 4..rows(held)] == held.to_le_bytes()).unwrap();
    for (claimed, why) in [(30, "reach back over 31 of them, rows of 30 are kept"), (63, "needed at most 62, found 63")]
    {
        let mut bytes = saved[0].clone();
        bytes[rows(held) - 4..rows(held)].copy_from_slice(&u32::to_le_bytes(claimed));
        let end = bytes.len() - 8;
        let wanted = rows(held) + 200 * whole + claimed as usize * window;
        bytes.splice(end.min(wanted)..end, vec![0; wanted.saturating_sub(end)]);
        let error = load(&mut other, &sealed(&bytes)).unwrap_err().to_string();
        assert!(error.contains(why), "{error}");
    }
    other.end(loaded.sequence).unwrap();
    assert!(other.usages().iter().all(|usage| usage.used == 0));
}

/// The cache of a layer with a window is as large as the window and a step take for the sequences there are.
#[test]
fn windows_take_little_memory() {
    let sizes = EngineOptions { context: Tokens(512), step: Tokens(24), ..options() };
    let states = |sequences| open(EngineOptions { sequences, ..sizes }).memory().states;
    let layer = Bytes(512 * 2 * 2 * 64 * 2);
    // 31 tokens before a row, 16 to go back by, a step of 24, and the rest of the first and the last page: 6 pages.
    let window = |sequences: u64| Bytes(layer.0 / 32 * 6 * sequences);
    assert_eq!(states(1), layer + window(1).times(2));
    assert_eq!(states(4), layer + window(4).times(2));
    assert_eq!(states(99), layer.times(3));
}
