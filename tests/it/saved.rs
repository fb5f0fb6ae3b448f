//! Saved sequences: what was saved goes on bit for bit, in other caches and on other devices; what is damaged, foreign or
//! of another model is refused and changes nothing.

use std::fs;
use std::io::{self, Cursor, Read, Seek, SeekFrom, Write};
use std::path::Path;

use loadmaster::device::{BackendKind, Machine};
use loadmaster::engine::{Engine, EngineError, EngineOptions, FactOf, Loaded, SavedError, SavedFile};
use loadmaster::gguf::Gguf;
use loadmaster::kv::{KvLayout, SequenceId, Usage};
use loadmaster::synth::{ModelShape, Synth, named};
use loadmaster::tensor::DType;
use loadmaster::text::TokenId;
use loadmaster::units::{Bytes, Tokens};

use crate::batching::options;
use crate::json_smoke::{seeds, xorshift};
use crate::reference::nmse;
use crate::saved_walk::{example, least, save, sealed, walk};
use crate::several_devices::{bits, deeper};

const PAGED: KvLayout = KvLayout::Paged { page: Tokens::PAGE };

fn ids(from: u32, to: u32) -> Vec<u32> {
    (from..to).map(|i| i * 37 % 500).collect()
}

fn sizes(cache: DType, layout: KvLayout) -> EngineOptions {
    EngineOptions { context: Tokens(160), sequences: 8, cache_keys: cache, cache_values: cache, layout, ..options() }
}

/// An engine over so many devices, in which others hold pages and cells here and there.
fn engine(bytes: &[u8], cache: DType, layout: KvLayout, devices: u32, others: u32) -> Engine {
    let machine = Machine::isolated(BackendKind::Cpu, devices, 1, Bytes(1 << 32));
    let gguf = Gguf::from_bytes("model", bytes.to_vec()).unwrap();
    let mut engine = Engine::open_on(machine, gguf, sizes(cache, layout), &|_, _| {}).unwrap();
    let started: Vec<SequenceId> = (0..others).map(|_| engine.start()).collect();
    for &other in &started {
        engine.feed(other, &[1, 2, 3]).unwrap();
    }
    for &other in started.iter().step_by(2) {
        engine.end(other).unwrap();
    }
    engine
}

/// Logits of the next tokens, one step each, then several.
fn next(engine: &mut Engine, sequence: SequenceId) -> Vec<Vec<u32>> {
    let pieces = [ids(60, 61), ids(61, 62), ids(62, 80)];
    pieces.iter().map(|ids| bits(engine.feed(sequence, ids).unwrap())).collect()
}

/// What is to be saved of a sequence that nothing follows.
fn unfinished(sequence: SequenceId) -> Loaded {
    Loaded { sequence, tokens: Vec::new(), next: Vec::new() }
}

fn load(engine: &mut Engine, bytes: &[u8]) -> Result<Loaded, EngineError> {
    engine.load("s.session", &mut Cursor::new(bytes))
}

#[test]
fn a_saved_sequence_goes_on_bit_for_bit_in_other_layouts_and_on_other_devices() {
    for shape in ["llama-tiny", "qwen3moe-tiny", "deepseek2-lite-tiny", "gemma3-tiny"] {
        let model = model_bytes(shape);
        for cache in [DType::F16, DType::Q8_0, DType::Q4_0] {
            let cases = [
                ((PAGED, 1), (KvLayout::Contiguous, 1)),
                ((KvLayout::Contiguous, 1), (PAGED, 3)),
                ((PAGED, 3), (PAGED, 1)),
                ((KvLayout::Contiguous, 2), (KvLayout::Contiguous, 3)),
            ];
            for ((saved_in, saved_on), (loaded_in, loaded_on)) in cases {
                let what = format!("{shape} {cache} {saved_in:?} {saved_on} -> {loaded_in:?} {loaded_on}");
                let mut first = engine(&model, cache, saved_in, saved_on, 3);
                let sequence = first.start();
                first.feed(sequence, &ids(0, 60)).unwrap();
                let bytes = save(&mut first, &Loaded { sequence, tokens: Vec::new(), next: vec![TokenId(5)] });
                let expected = next(&mut first, sequence);
                let mut second = engine(&model, cache, loaded_in, loaded_on, 5);
                let loaded = load(&mut second, &bytes).unwrap();
                let tokens: Vec<u32> = loaded.tokens.iter().map(|token| token.0).collect();
                assert_eq!((tokens, &loaded.next), (ids(0, 60), &vec![TokenId(5)]), "{what}");
                assert!(save(&mut second, &loaded) == bytes, "{what}: saved again it is another file");
                assert!(next(&mut second, loaded.sequence) == expected, "{what}");
            }
        }
    }
}

fn model_bytes(shape: &str) -> Vec<u8> {
    let model = Synth::new(&deeper(shape), DType::Q8_0, 9).unwrap();
    model.to_bytes().unwrap()
}

/// Where devices work on every layer together, each has heads of its own: such sessions go on among their like.
#[test]
fn sessions_of_layers_that_are_cut_go_on_where_layers_are_cut_alike() {
    let model = model_bytes("llama-tiny");
    let open = |devices: u32, together: u32| {
        let machine = Machine::isolated(BackendKind::Cpu, devices, 1, Bytes(1 << 32));
        let options = EngineOptions { together, ..sizes(DType::F16, PAGED) };
        let gguf = Gguf::from_bytes("model", model.clone()).unwrap();
        Engine::open_on(machine, gguf, options, &|_, _| {}).unwrap()
    };
    let mut first = open(2, 2);
    let sequence = first.start();
    first.feed(sequence, &ids(0, 60)).unwrap();
    let bytes = save(&mut first, &unfinished(sequence));
    let mut second = open(2, 2);
    let loaded = load(&mut second, &bytes).unwrap();
    assert!(next(&mut second, loaded.sequence) == next(&mut first, sequence));
    let error = refused(&mut open(2, 1), &bytes);
    assert!(matches!(error, SavedError::Other { of: FactOf::Cache, .. }), "{error}");
}

/// A file larger than a piece: some MiB are read and written at a time.
#[test]
fn sequences_of_several_pieces_are_saved_whole() {
    let shape = ModelShape { layers: 12, ..deeper("llama-tiny") };
    let model = Synth::new(&shape, DType::Q8_0, 9).unwrap().to_bytes().unwrap();
    let sizes = EngineOptions { context: Tokens(2048), cache_keys: DType::F32, cache_values: DType::F32, ..options() };
    let open = || Engine::open(Gguf::from_bytes("model", model.clone()).unwrap(), sizes, &|_, _| {}).unwrap();
    let mut first = open();
    let sequence = first.start();
    first.feed(sequence, &ids(0, 1900)).unwrap();
    let bytes = save(&mut first, &unfinished(sequence));
    assert!(bytes.len() > 9 << 20, "{} bytes are no more than two pieces", bytes.len());
    let mut second = open();
    let loaded = load(&mut second, &bytes).unwrap();
    assert!(next(&mut second, loaded.sequence) == next(&mut first, sequence));
}

/// Keys that were turned stay where they were turned to; a cache in pieces is compacted for what needs neighbours.
#[test]
fn a_shifted_sequence_is_saved_with_its_positions() {
    let model = model_bytes("llama-tiny");
    let mut first = engine(&model, DType::F16, PAGED, 1, 0);
    let sequence = first.start();
    first.feed(sequence, &ids(0, 80)).unwrap();
    first.shift(sequence, Tokens(16)).unwrap();
    let bytes = save(&mut first, &unfinished(sequence));
    let expected = next(&mut first, sequence);
    let mut second = engine(&model, DType::F16, KvLayout::Contiguous, 1, 0);
    let all: Vec<SequenceId> = (0..160).map(|_| second.start()).collect();
    for (&other, token) in all.iter().zip(0..) {
        second.feed(other, &[token]).unwrap();
    }
    for &other in all.iter().step_by(2) {
        second.end(other).unwrap();
    }
    assert_eq!((second.usage().used, second.usage().free), (80, 80));
    let loaded = load(&mut second, &bytes).unwrap();
    let kept: Vec<u32> = loaded.tokens.iter().map(|token| token.0).collect();
    assert_eq!(kept, [ids(0, 16), ids(48, 80)].concat());
    assert!(next(&mut second, loaded.sequence) == expected);
}

/// A file may owe its keys a rotation. Attention knows distances alone, so the sequence says at later positions what it
/// said before, but for rounding.
#[test]
fn keys_are_turned_to_the_positions_of_their_file() {
    let model = model_bytes("llama-tiny");
    let mut first = engine(&model, DType::F32, PAGED, 1, 0);
    let sequence = first.start();
    first.feed(sequence, &ids(0, 60)).unwrap();
    let mut bytes = save(&mut first, &unfinished(sequence));
    // One run, no tokens that follow, the rows.
    let run =
        bytes.len() - 8 - 60 * first.session().cell_bytes(loadmaster::index::CacheClassId::WHOLE).index() - 4 - 16;
    assert_eq!(bytes[run..run + 16], [60, 0, 0, 0].map(u32::to_le_bytes).concat());
    bytes[run + 4] = 7;
    let loaded = load(&mut first, &sealed(&bytes)).unwrap();
    let expected = first.feed(sequence, &[9]).unwrap().to_vec();
    let error = nmse(first.feed(loaded.sequence, &[9]).unwrap(), &expected);
    assert!(error <= 1e-9, "{error:e}");
}

#[test]
fn an_empty_sequence_is_saved_too() {
    let mut engine = least(PAGED);
    let sequence = engine.start();
    let bytes = save(&mut engine, &Loaded { sequence, tokens: Vec::new(), next: vec![TokenId(3)] });
    let loaded = load(&mut engine, &bytes).unwrap();
    assert_eq!((loaded.tokens.len(), loaded.next), (0, vec![TokenId(3)]));
    assert!(engine.save(loaded.sequence, &[TokenId(1 << 20)], "s", &mut Vec::new()).is_err());
}

fn saved_error(error: EngineError) -> SavedError {
    match error {
        EngineError::Saved(error) => error,
        other => panic!("{other}"),
    }
}

/// What is refused leaves no page held.
#[track_caller]
fn refused(engine: &mut Engine, bytes: &[u8]) -> SavedError {
    let before = engine.usage();
    let error = saved_error(load(engine, bytes).unwrap_err());
    assert_eq!(engine.usage(), before);
    assert!(error.to_string().starts_with("s.session: "), "{error}");
    error
}

#[test]
fn every_changed_byte_and_every_truncation_is_refused() {
    let mut engine = least(PAGED);
    let bytes = example(&mut engine);
    let mut random = xorshift();
    for at in 0..bytes.len() {
        let mut changed = bytes.clone();
        changed[at] ^= 1 << random(8);
        let error = refused(&mut engine, &changed);
        let right = match at {
            0..8 => matches!(error, SavedError::Foreign { .. }),
            8..12 => matches!(error, SavedError::Version { .. }),
            12..20 => matches!(error, SavedError::Truncated { .. } | SavedError::Damaged { field: "length", .. }),
            20.. => matches!(error, SavedError::Damaged { field: "checksum", .. }),
        };
        assert!(right, "byte {at}: {error}");
        let error = refused(&mut engine, &bytes[..at]);
        assert!(matches!(error, SavedError::Truncated { found, .. } if found == at as u64), "{at} bytes: {error}");
    }
    let error = refused(&mut engine, &[&bytes[..], b"x"].concat()).to_string();
    let (needed, found) = (bytes.len(), bytes.len() + 1);
    assert_eq!(
        error,
        format!("s.session: the saved session is damaged: length needed {needed} bytes, found {found} bytes")
    );
    walk(&mut engine, &bytes).unwrap();
}

/// Files of this version stay readable: the seeds of the fuzz target are some, and are never written anew.
#[test]
fn sessions_that_were_saved_once_are_loaded_for_ever() {
    let seeds = seeds("saved", "session", 2);
    for path in seeds {
        let bytes = fs::read(&path).unwrap();
        let mut engine = least(PAGED);
        let loaded = load(&mut engine, &bytes).unwrap_or_else(|why| panic!("{}: {why}", path.display()));
        assert!(save(&mut engine, &loaded) == bytes, "{}: saved again it is another file", path.display());
        let expected = if loaded.tokens.is_empty() { vec![TokenId(3)] } else { vec![TokenId(7), TokenId(8)] };
        assert_eq!(loaded.next, expected);
    }
}

/// Changes that length and checksum agree with: each is refused or loaded whole, and nothing else happens.
#[test]
fn what_only_looks_right_is_refused_or_loaded_whole() {
    let mut random = xorshift();
    for layout in [PAGED, KvLayout::Contiguous] {
        let mut engine = least(layout);
        let bytes = example(&mut engine);
        let rows = bytes.len() - 8 - 32 * engine.session().cell_bytes(loadmaster::index::CacheClassId::WHOLE).index();
        let (mut loaded, mut refused) = (0, 0);
        for _ in 0..4000 {
            let mut changed = bytes.clone();
            // Facts and rows are most of it; what is between is read as numbers.
            let at = if random(2) == 0 { random(bytes.len()) } else { rows - 1 - random(200) };
            match random(4) {
                0 => changed[at] = random(256) as u8,
                1 => changed[at..bytes.len().min(at + 4)].fill(0xff),
                2 => drop(changed.splice(at..at, (0..random(9)).map(|i| i as u8))),
                _ => drop(changed.drain(at..bytes.len().min(at + 1 + random(40)))),
            }
            match walk(&mut engine, &sealed(&changed)) {
                Ok(()) => loaded += 1,
                Err(_) => refused += 1,
            }
        }
        assert!(loaded > 50 && refused > 50, "{loaded} loaded, {refused} refused: the changes say nothing");
        for len in [0, 1, 40, 300, 5000] {
            let noise: Vec<u8> = (0..len).map(|_| random(256) as u8).collect();
            assert!(walk(&mut engine, &sealed(&[&bytes[..20], &noise[..]].concat())).is_err());
        }
        walk(&mut engine, &bytes).unwrap();
    }
}

/// Lists that claim more than there is, of every kind, and what numbers may not be.
#[test]
fn claims_are_checked_before_anything_is_done_for_them() {
    let mut engine = least(PAGED);
    let bytes = example(&mut engine);
    let cells = engine.session().cell_bytes(loadmaster::index::CacheClassId::WHOLE).index();
    let end = bytes.len() - 8 - 32 * cells;
    // Behind the facts: version, 32 tokens, two runs, two tokens that follow.
    let tokens = end - 12 - (4 + 2 * 16) - 32 * 4 - 4;
    let runs = tokens + 4 + 32 * 4;
    let claim = |at: usize, n: u32| {
        let mut bytes = bytes.clone();
        bytes[at..at + 4].copy_from_slice(&n.to_le_bytes());
        sealed(&bytes)
    };
    let cases = [
        (20, u32::MAX, "s.session: the saved session is damaged: facts needed"),
        (24, u32::MAX, "name of a fact needed at most 4096 bytes, found 4294967295"),
        (24, 4000, "name of a fact needed UTF-8, found \"architecture\\x05\\x00"),
        (28, 0xff, "name of a fact needed UTF-8, found \"\\xff\\x00\\x00\\x00itecture\""),
        (tokens - 4, 9, "the saved sequence has format 9; this version reads format 1"),
        (tokens, u32::MAX, "takes 4294967295 cells of the cache, 64 of 64 are free: give a larger context"),
        (tokens, 64, "damaged: runs needed"),
        (tokens + 4, 512, "damaged: tokens needed tokens below 512, found 512"),
        (runs, u32::MAX, "runs needed 68719476720 bytes, found"),
        (runs + 4, 15, "the saved sequence is damaged at run 2: there are more tokens than its runs have"),
        (runs + 4, u32::MAX, "the saved sequence is damaged at run 0: its positions are past 2147483648"),
        (end - 12, u32::MAX, "tokens that follow needed 17179869180 bytes, found"),
        (end - 4, 512, "damaged: tokens needed tokens below 512, found 512"),
    ];
    for (at, n, part) in cases {
        let error = refused(&mut engine, &claim(at, n)).to_string();
        assert!(error.contains(part), "{n} at {at}: {error}");
    }
    let (needed, less) = (32 * cells, sealed(&bytes[..bytes.len() - 1]));
    let error = refused(&mut engine, &less).to_string();
    assert!(error.ends_with(&format!("rows needed {needed} bytes, found {} bytes", needed - 1)), "{error}");
}

#[test]
fn a_session_of_another_model_or_cache_is_refused_with_names() {
    let shape = named("llama-tiny").unwrap();
    let open = |shape: &ModelShape, dtype: DType, seed: u64, keys: DType, values: DType| {
        let model = Synth::new(shape, dtype, seed).unwrap().to_bytes().unwrap();
        let sizes = EngineOptions { cache_keys: keys, cache_values: values, ..sizes(DType::F16, PAGED) };
        Engine::open(Gguf::from_bytes("model", model).unwrap(), sizes, &|_, _| {}).unwrap()
    };
    let (q8, f16) = (DType::Q8_0, DType::F16);
    let mut first = open(&shape, q8, 1, f16, f16);
    let sequence = first.start();
    first.feed(sequence, &ids(0, 20)).unwrap();
    let bytes = save(&mut first, &unfinished(sequence));
    let check = |mut engine: Engine, part: FactOf, needed: &str, found: &str| {
        let error = refused(&mut engine, &bytes);
        assert!(matches!(error, SavedError::Other { of, .. } if of == part), "{error}");
        let error = error.to_string();
        let parts = [&format!("another {part}: "), &format!("needed \"{needed}"), &format!("found \"{found}")];
        assert!(parts.iter().all(|part| error.contains(*part)), "{parts:?}: {error}");
    };
    let model = |shape: &ModelShape, dtype: DType, seed: u64| open(shape, dtype, seed, f16, f16);
    let turned = ModelShape { rope_base: 5000.0, ..shape.clone() };
    check(model(&turned, q8, 1), FactOf::Model, "rope base 5000\"", "rope base 10000\"");
    let other = named("qwen2-tiny").unwrap();
    check(model(&other, q8, 1), FactOf::Model, "architecture qwen2\"", "architecture llama\"");
    check(model(&shape, DType::Q4_0, 1), FactOf::Model, "tensors 20 with", "tensors 20 with");
    check(model(&shape, q8, 2), FactOf::Model, "weights xxh64", "weights xxh64");
    let cut = "blk.0.cache_k q8_0 2 x 64\"";
    check(open(&shape, q8, 1, q8, f16), FactOf::Cache, cut, "blk.0.cache_k f16 2 x 64\"");
    check(open(&shape, q8, 1, f16, q8), FactOf::Cache, "blk.0.cache_v q8_0", "blk.0.cache_v f16");
}

/// One changed byte in the middle of the largest tensor is another model.
#[test]
fn weights_are_told_apart_by_what_is_read_of_them() {
    let mut model = model_bytes("llama-tiny");
    let mut first = engine(&model, DType::F16, PAGED, 1, 0);
    let sequence = first.start();
    first.feed(sequence, &ids(0, 3)).unwrap();
    let bytes = save(&mut first, &unfinished(sequence));
    let tensor = first.gguf().tensors().iter().max_by_key(|tensor| tensor.bytes).unwrap();
    assert!(tensor.bytes.0 > 64 << 10);
    model[(tensor.offset() + tensor.bytes.0 / 2) as usize + 5] ^= 1;
    let error = refused(&mut engine(&model, DType::F16, PAGED, 1, 0), &bytes);
    assert!(error.to_string().contains("another model: needed \"weights xxh64 "), "{error}");
}

#[test]
fn a_session_that_does_not_fit_is_refused_with_cells() {
    let model = model_bytes("llama-tiny");
    let mut first = engine(&model, DType::F16, PAGED, 1, 0);
    let sequence = first.start();
    first.feed(sequence, &ids(0, 60)).unwrap();
    let bytes = save(&mut first, &unfinished(sequence));
    let other = first.start();
    first.feed(other, &ids(1, 61)).unwrap();
    let error = refused(&mut first, &bytes);
    assert!(matches!(error, SavedError::TooLarge { needed: 60, free: 32, total: 160, .. }), "{error}");
    first.end(sequence).unwrap();
    load(&mut first, &bytes).unwrap();
}

/// A file that someone changes, or shortens, after its checksum was read.
struct Changing<'a> {
    bytes: Cursor<&'a [u8]>,
    /// What it has from the second time on that it is read.
    then: &'a [u8],
    rewound: u32,
}

impl Read for Changing<'_> {
    fn read(&mut self, bytes: &mut [u8]) -> io::Result<usize> {
        self.bytes.read(bytes)
    }
}

impl Seek for Changing<'_> {
    fn seek(&mut self, to: SeekFrom) -> io::Result<u64> {
        self.rewound += u32::from(to == SeekFrom::Start(0));
        if self.rewound == 2 {
            self.bytes = Cursor::new(self.then);
        }
        self.bytes.seek(to)
    }
}

#[test]
fn a_file_that_changes_while_it_is_read_gives_all_back() {
    let mut engine = least(PAGED);
    let bytes = example(&mut engine);
    let before = engine.usage();
    let mut last = bytes.clone();
    last[bytes.len() - 9] ^= 1;
    for (then, part) in [(&last[..], "checksum"), (&bytes[..bytes.len() - 20], "cannot read it")] {
        let mut from = Changing { bytes: Cursor::new(&bytes), then, rewound: 0 };
        let error = engine.load("s.session", &mut from).unwrap_err().to_string();
        assert!(error.contains(part), "{error}");
        // Pages that were cached may have gone.
        let after = Usage { cached: before.cached, ..engine.usage() };
        assert_eq!((after, from.rewound), (before, 2));
    }
    walk(&mut engine, &bytes).unwrap();
}

/// Takes so many bytes, then no more.
struct Full(usize);

impl Write for Full {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let taken = bytes.len().min(self.0);
        self.0 -= taken;
        if taken == 0 && !bytes.is_empty() { Err(io::ErrorKind::StorageFull.into()) } else { Ok(taken) }
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

#[test]
fn a_target_that_is_full_is_an_error() {
    let mut engine = least(PAGED);
    let sequence = engine.start();
    engine.feed(sequence, &[1, 2, 3]).unwrap();
    let len = save(&mut engine, &unfinished(sequence)).len();
    for room in 0..len {
        let error = saved_error(engine.save(sequence, &[], "s.session", &mut Full(room)).unwrap_err());
        assert!(matches!(error, SavedError::Io { action: "write it", .. }), "{error}");
    }
    engine.save(sequence, &[], "s.session", &mut Full(len)).unwrap();
}

#[test]
fn files_are_replaced_whole_or_not_at_all() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("s.session");
    let mut engine = least(PAGED);
    let sequence = engine.start();
    engine.feed(sequence, &[1, 2, 3]).unwrap();
    engine.save_file(sequence, &[], &SavedFile::at(&path).unwrap()).unwrap();
    let first = fs::read(&path).unwrap();
    // Fails before the first byte of rows is written.
    let link = folder.path().join("link");
    std::os::unix::fs::symlink(&path, &link).unwrap();
    fs::set_permissions(&path, std::os::unix::fs::PermissionsExt::from_mode(0o600)).unwrap();
    let target = SavedFile::at(&link).unwrap();
    assert!(engine.save_file(sequence, &[TokenId(1 << 20)], &target).is_err());
    assert_eq!(fs::read(&path).unwrap(), first);
    engine.feed(sequence, &[4]).unwrap();
    engine.save_file(sequence, &[], &target).unwrap();
    assert!(fs::symlink_metadata(&link).unwrap().is_symlink() && fs::read(&path).unwrap() != first);
    let mode = std::os::unix::fs::PermissionsExt::mode(&fs::metadata(&path).unwrap().permissions());
    assert_eq!(mode & 0o777, 0o600);
    assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 2, "something is left over");
    assert_eq!(engine.load_file(&link).unwrap().tokens.len(), 4);
}

#[test]
fn what_is_no_session_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    let path = |name: &str| folder.path().join(name);
    let mut engine = least(PAGED);
    let before = engine.usage();
    fs::write(path("gguf"), model_bytes("llama-tiny")).unwrap();
    fs::write(path("text"), "Once upon a time there was a session.").unwrap();
    fs::write(path("short"), "Once").unwrap();
    fs::write(path("empty"), "").unwrap();
    let mut load = |path: &Path| {
        let error = saved_error(engine.load_file(path).unwrap_err()).to_string();
        assert_eq!(engine.usage(), before);
        error.strip_prefix(path.to_str().unwrap()).unwrap().to_owned()
    };
    assert!(load(&path("gguf")).starts_with(": is no saved session: it begins with \"GGUF\\x03"));
    assert_eq!(load(&path("text")), ": is no saved session: it begins with \"Once upo\", needed \"LMSAVED\\n\"");
    assert_eq!(load(&path("short")), ": is no saved session: it begins with \"Once\", needed \"LMSAVED\\n\"");
    assert_eq!(load(&path("empty")), ": the saved session is cut off: needed 28 bytes, found 0");
    assert!(load(&path("missing")).starts_with(": cannot open it: No such file"));
    let other = ": needed a regular file for a session, found something else";
    for path in [folder.path(), Path::new("/dev/zero"), Path::new("/dev/null")] {
        assert_eq!(load(path), other);
        assert_eq!(SavedFile::at(path).unwrap_err().to_string(), format!("{}{other}", path.display()));
    }
    let error = SavedFile::at(&path("missing").join("s")).unwrap_err().to_string();
    assert!(error.contains("cannot write into its folder: No such file"), "{error}");
    // What a program that was killed left behind is in nobody's way.
    fs::write(path(&format!("left.session.{}.partial", std::process::id())), "left").unwrap();
    assert!(SavedFile::at(&path("left.session")).is_ok());
    assert!(SavedFile::at(&path("text").join("s")).is_err() && SavedFile::at(&path("..")).is_err());
}
