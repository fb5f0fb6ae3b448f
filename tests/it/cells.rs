//! What is done to cells of caches between steps, over all devices of a session: rows move, keys turn, rows go out and
//! come back; and steps of sequences that have lost some.

use std::sync::Arc;

use loadmaster::backend::{CellMove, CellTable, CellTurn};
use loadmaster::device::{Machine, MemoryId};
use loadmaster::exec::{Session, Setup, StepInput, dealt, homes};
use loadmaster::gguf::Gguf;
use loadmaster::graph::Graph;
use loadmaster::index::CacheClassId;
use loadmaster::kv::{Budget, Compaction, Depth, KvLayout, Move, MoveCost, PagedKv, SequenceId, Writes};
use loadmaster::models::CacheSpec;
use loadmaster::residency::Residency;
use loadmaster::tensor::DType;
use loadmaster::units::Tokens;

use crate::reference::nmse;
use crate::several_devices::{bits, cache_away, deeper, isolated, lazy, made, open, open_with, setup, single};
use crate::together::session as cut;

const WHOLE: CacheClassId = CacheClassId::WHOLE;

/// Steps of one sequence in a session whose cache of three pages it has for itself.
struct Sequence {
    pages: Vec<u32>,
    /// Its first position.
    from: u32,
    /// Which token it begins with.
    first: u32,
    length: u32,
}

impl Sequence {
    fn new(pages: &[u32], from: u32) -> Sequence {
        Sequence { pages: pages.to_vec(), from, first: 0, length: 0 }
    }

    /// Appends `tokens` tokens; the logits of the last.
    fn feed(&mut self, session: &mut Session, tokens: u32) -> Vec<f32> {
        self.feed_over(session, tokens, &[])
    }

    /// Appends `tokens` tokens where only the cells in `live` are left of those before; the logits of the last.
    fn feed_over(&mut self, session: &mut Session, tokens: u32, live: &[u16]) -> Vec<f32> {
        let places: Vec<u32> = (self.length..self.length + tokens).collect();
        self.length += tokens;
        let cell = |place: &u32| self.pages[*place as usize / 16] * 16 + place % 16;
        let ids: Vec<u32> = places.iter().map(|i| (self.first + i) * 37 % 500).collect();
        let positions: Vec<u32> = places.iter().map(|i| self.from + i).collect();
        let there: u32 = live.iter().map(|mask| mask.count_ones()).sum();
        let length = Tokens(if live.is_empty() { self.length } else { there });
        let cells: Vec<u32> = places.iter().map(cell).collect();
        let table = CellTable::single(&cells, length, &self.pages[..Tokens(self.length).pages() as usize]);
        let step = StepInput {
            ids: &ids,
            positions: &positions,
            output_rows: &[tokens - 1],
            tables: &[CellTable { live: live.to_vec(), ..table }],
        };
        session.step(&step).unwrap().to_vec()
    }
}

/// Opens a session of a model with a cache of three pages.
type Open<'a> = &'a dyn Fn(&Arc<Gguf>, DType) -> Session;

fn with(gguf: &Arc<Gguf>, cache: DType, setup: Setup<'_>, homes: impl Fn(&Graph, &Machine) -> Residency) -> Session {
    open(gguf, cache, setup, homes).unwrap()
}

fn one(gguf: &Arc<Gguf>, cache: DType) -> Session {
    with(gguf, cache, setup(single()), |graph, _| homes(graph, gguf, MemoryId(0), false))
}

/// One device, layers dealt over three, a cache away from the weights, layers cut over two, and devices that do nothing
/// before they must.
const SESSIONS: [(&str, Open<'static>); 5] = [
    ("one device", &one),
    ("dealt", &|gguf, cache| {
        with(gguf, cache, setup(isolated(3)), |graph, machine| dealt(graph, gguf, machine, false))
    }),
    ("away", &|gguf, cache| with(gguf, cache, setup(isolated(2)), |graph, _| cache_away(graph, gguf, false))),
    ("cut", &|gguf, cache| cut(gguf, cache, &[1.0, 3.0])),
    ("lazy", &|gguf, cache| {
        let setup = Setup { open: &lazy, ..setup(isolated(3)) };
        with(gguf, cache, setup, |graph, machine| dealt(graph, gguf, machine, false))
    }),
];

#[test]
fn a_sequence_goes_on_from_where_its_cells_were_moved() {
    let gguf = made(&deeper("llama-tiny"), DType::Q4K);
    for (what, open) in SESSIONS {
        let mut session = open(&gguf, DType::F32);
        let mut sequence = Sequence::new(&[0, 1], 0);
        sequence.feed(&mut session, 21);
        let expected = bits(&sequence.feed(&mut session, 1));
        // Five lanes further and back to another page, the second page first.
        let mut sequence = Sequence::new(&[0, 1], 0);
        sequence.feed(&mut session, 21);
        let away = CellMove { src: 0, dst: 21, len: 21 };
        let back = [CellMove { src: 37, dst: 0, len: 5 }, CellMove { src: 21, dst: 16, len: 16 }];
        session.rearrange(WHOLE, &[away]).unwrap();
        session.rearrange(WHOLE, &back).unwrap();
        sequence.pages = vec![1, 0];
        assert!(bits(&sequence.feed(&mut session, 1)) == expected, "{what}");
    }
}

/// Of 40 tokens those at places 5 to 21 are dropped, once as holes, once by closing them.
#[test]
fn holes_and_closed_holes_give_the_same_logits() {
    for (shape, cache) in
        [("llama-tiny", DType::F16), ("deepseek2-lite-tiny", DType::Q4_0), ("qwen3-tiny", DType::Q8_0)]
    {
        let gguf = made(&deeper(shape), DType::Q8_0);
        for (what, open) in SESSIONS {
            let mut session = open(&gguf, cache);
            let mut sequence = Sequence::new(&[2, 0, 1], 0);
            sequence.feed(&mut session, 40);
            let live = [0x1f, 0xffc0, 0x1ff];
            let over = sequence.feed_over(&mut session, 1, &live);
            // Places 22 to 39 follow place 4.
            let moves = [(6, 37, 10), (16, 47, 1), (17, 0, 7)].map(|(src, dst, len)| CellMove { src, dst, len });
            session.rearrange(WHOLE, &moves).unwrap();
            let mut closed = Sequence { from: 17, first: 17, length: 23, ..Sequence::new(&[2, 0, 1], 0) };
            assert!(bits(&closed.feed(&mut session, 1)) == bits(&over), "{shape}, {what}");
            let mut whole = Sequence::new(&[2, 0, 1], 0);
            whole.feed(&mut session, 40);
            assert!(bits(&whole.feed(&mut session, 1)) != bits(&over), "{shape}, {what}: nothing was dropped");
        }
    }
}

/// What a sequence says of its next token is what it says where all of it comes later, or earlier: of both styles of
/// rotation, with divisors, and of latent rows.
#[test]
fn a_sequence_that_was_turned_goes_on_at_its_new_positions() {
    for shape in ["llama-tiny", "qwen2-tiny", "deepseek2-tiny", "gemma3-tiny"] {
        let gguf = made(&deeper(shape), DType::F32);
        for (what, open) in SESSIONS {
            let mut session = open(&gguf, DType::F32);
            for (from, delta) in [(0, 9), (12, -5)] {
                let to = from + delta;
                let mut fresh = Sequence::new(&[0, 1], to as u32);
                fresh.feed(&mut session, 21);
                let expected = fresh.feed(&mut session, 1);
                let mut sequence = Sequence::new(&[2, 1], from as u32);
                sequence.feed(&mut session, 21);
                sequence.from = to as u32;
                let turn = |first, len| CellTurn { first, len, delta };
                session.turn(WHOLE, &[turn(32, 7), turn(39, 9), turn(16, 5)]).unwrap();
                let error = nmse(&sequence.feed(&mut session, 1), &expected);
                eprintln!("{shape}, {what}, {delta}: {error:.1e}");
                assert!(error <= 1e-10, "{shape}, {what}, {delta}: {error:e}");
            }
        }
    }
}

/// What one session read goes on in another, on other devices and in other cells.
#[test]
fn rows_of_one_session_are_those_of_another() {
    let gguf = made(&deeper("llama-tiny"), DType::Q4K);
    for cache in [DType::F16, DType::Q4_0] {
        let mut first = one(&gguf, cache);
        let mut sequence = Sequence::new(&[0, 1], 0);
        sequence.feed(&mut first, 21);
        let mut rows = vec![0; 21 * first.cell_bytes(WHOLE).index()];
        first.read_cells(WHOLE, &(0..21).collect::<Vec<_>>(), &mut rows).unwrap();
        let expected = bits(&sequence.feed(&mut first, 1));
        for (what, open) in SESSIONS.into_iter().filter(|(what, _)| *what != "cut") {
            let mut second = open(&gguf, cache);
            assert!(second.states() == first.states());
            let cells: Vec<u32> = (32..48).chain(16..21).collect();
            second.write_cells(WHOLE, &cells, &rows).unwrap();
            let mut read = vec![0; rows.len()];
            second.read_cells(WHOLE, &cells, &mut read).unwrap();
            assert!(read == rows, "{what} {cache}");
            let mut sequence = Sequence { pages: vec![2, 1], from: 0, first: 0, length: 21 };
            assert!(bits(&sequence.feed(&mut second, 1)) == expected, "{what} {cache}");
        }
    }
}

#[test]
fn a_session_refuses_cells_that_there_are_not_and_rows_of_another_length() {
    let gguf = made(&deeper("llama-tiny"), DType::Q4K);
    // Devices that do nothing before they must do not refuse before either.
    for (what, open) in SESSIONS.into_iter().filter(|(what, _)| *what != "lazy") {
        let mut session = open(&gguf, DType::F16);
        let all: Vec<u32> = (0..48).collect();
        let mut sequence = Sequence::new(&[0, 1, 2], 0);
        sequence.feed(&mut session, 40);
        let row = session.cell_bytes(WHOLE).index();
        let (mut before, mut after) = (vec![0; 48 * row], vec![0; 48 * row]);
        session.read_cells(WHOLE, &all, &mut before).unwrap();
        let good = CellMove { src: 0, dst: 20, len: 9 };
        let error = session.rearrange(WHOLE, &[good, CellMove { dst: 40, ..good }]).unwrap_err().to_string();
        assert!(error.ends_with("the target of move 1: cells 40..49 leave a cache of 48"), "{what}: {error}");
        let error = session.turn(WHOLE, &[CellTurn { first: 48, len: 1, delta: 1 }]).unwrap_err().to_string();
        assert!(error.ends_with("turn 0: cells 48..49 leave a cache of 48"), "{what}: {error}");
        let error = session.write_cells(WHOLE, &[0], &before).unwrap_err().to_string();
        assert_eq!(error, format!("bytes of rows has {} entries, needed {row}", 48 * row));
        assert!(
            session.write_cells(WHOLE, &[48], &before[..row]).is_err()
                && session.read_cells(WHOLE, &[48], &mut after).is_err()
        );
        session.read_cells(WHOLE, &all, &mut after).unwrap();
        assert!(before == after && before.iter().any(|&b| b != 0), "{what}");
    }
}

fn moves(moves: &[Move]) -> Vec<CellMove> {
    moves.iter().map(|step| CellMove { src: step.src.0, dst: step.dst.0, len: step.len.0 }).collect()
}

/// Appends tokens to a sequence of the books, and runs the step over its runs of cells; the logits of the last.
fn append(session: &mut Session, kv: &mut PagedKv, id: SequenceId, ids: &[u32]) -> Vec<f32> {
    let (first, count) = (kv.next_position(id).unwrap(), ids.len() as u32);
    let mut writes = Writes::default();
    kv.append(id, ids, &mut writes).unwrap();
    session.rearrange(WHOLE, &moves(&writes.copies)).unwrap();
    let (mut pages, mut live) = (Vec::new(), Vec::new());
    let table = kv.table(id).unwrap();
    if table.is_dense() {
        pages.extend(table.pages.iter().map(|page| page.0));
    } else {
        for run in kv.runs(id).unwrap() {
            pages.push(run.page.0);
            live.push((((1u32 << run.len.0) - 1) << run.first) as u16);
        }
    }
    let cells: Vec<u32> = writes.cells.iter().map(|cell| cell.0).collect();
    let step = StepInput {
        ids,
        positions: &(first..first + count).collect::<Vec<_>>(),
        output_rows: &[count - 1],
        tables: &[CellTable { live, ..CellTable::single(&cells, table.live, &pages) }],
    };
    session.step(&step).unwrap().to_vec()
}

/// What a sequence says of a token that does not stay.
fn probe(session: &mut Session, kv: &mut PagedKv, id: SequenceId) -> Vec<u32> {
    let length = kv.next_position(id).unwrap();
    let logits = append(session, kv, id, &[7]);
    kv.truncate(id, length).unwrap();
    bits(&logits)
}

/// Forks and sequences with holes, compacted in chunks: after each, on every device, each says what it said before.
#[test]
fn sequences_stay_what_they_are_through_a_compaction() {
    let gguf = made(&deeper("llama-tiny"), DType::Q4K);
    for (keys, values) in [(DType::F16, DType::Q8_0), (DType::F32, DType::F16)] {
        let cache = CacheSpec { cells: Tokens(256), keys, values, sliding: None };
        let setup = Setup { open: &lazy, ..setup(isolated(3)) };
        let deal = |graph: &Graph, machine: &Machine| dealt(graph, &gguf, machine, false);
        let mut session = open_with(&gguf, cache, setup, deal).unwrap();
        let mut kv = PagedKv::new(Tokens(256), KvLayout::default());
        let [a, b, c] = [(); 3].map(|()| kv.start());
        for at in (0..49).step_by(7) {
            for (salt, id) in [(1, a), (2, b), (3, c)] {
                let ids: Vec<u32> = (at..at + 7).map(|i| i * 37 * salt % 500).collect();
                append(&mut session, &mut kv, id, &ids);
            }
        }
        let d = kv.fork(a).unwrap();
        kv.end(b).unwrap();
        for (id, from, to) in [(a, 10, 30), (d, 5, 12), (c, 3, 9), (c, 20, 37)] {
            kv.remove(id, from, to).unwrap();
        }
        let all = [a, c, d];
        let expected = all.map(|id| probe(&mut session, &mut kv, id));
        let cell = session.cell_bytes(WHOLE);
        let budget = Budget { bytes: cell.times(9), nodes: 4 };
        let mut compaction = Compaction::new(Depth::Cells, MoveCost { cell, nodes: 1 }, budget);
        loop {
            let chunk = compaction.chunk(&mut kv);
            if chunk.is_empty() {
                break;
            }
            session.rearrange(WHOLE, &moves(&chunk)).unwrap();
            let found = all.map(|id| probe(&mut session, &mut kv, id));
            assert!(found == expected, "{keys}, {values}: chunk {} of {chunk:?}", compaction.chunks);
        }
        assert!(compaction.chunks >= 3, "{compaction:?}");
        // A page that two read apart keeps its holes.
        assert_eq!(all.map(|id| kv.table(id).unwrap().is_dense()), [false, true, false]);
    }
}
