//! What is done to cells of caches between steps, over all devices of a session: rows move, keys turn, rows go out and
//! come back.

use std::sync::Arc;

use loadmaster::backend::{CellMove, SequenceRows};
use loadmaster::device::{Machine, MemoryId};
use loadmaster::exec::{Session, Setup, StepInput, dealt, homes};
use loadmaster::gguf::Gguf;
use loadmaster::graph::Graph;
use loadmaster::residency::Residency;
use loadmaster::tensor::DType;
use loadmaster::units::Tokens;

use crate::several_devices::{bits, cache_away, deeper, isolated, lazy, made, open, setup, single};

/// Steps of one sequence in a session whose cache of three pages it has for itself.
struct Sequence {
    pages: Vec<u32>,
    /// Its first position.
    from: u32,
    length: u32,
}

impl Sequence {
    fn new(pages: &[u32], from: u32) -> Sequence {
        Sequence { pages: pages.to_vec(), from, length: 0 }
    }

    /// Appends `tokens` tokens; the logits of the last.
    fn feed(&mut self, session: &mut Session, tokens: u32) -> Vec<f32> {
        let places: Vec<u32> = (self.length..self.length + tokens).collect();
        self.length += tokens;
        let cell = |place: &u32| self.pages[*place as usize / 16] * 16 + place % 16;
        let ids: Vec<u32> = places.iter().map(|i| i * 37 % 500).collect();
        let positions: Vec<u32> = places.iter().map(|i| self.from + i).collect();
        let length = Tokens(self.length);
        let step = StepInput {
            ids: &ids,
            positions: &positions,
            output_rows: &[tokens - 1],
            cells: &places.iter().map(cell).collect::<Vec<_>>(),
            sequences: &[SequenceRows { first: 0, rows: tokens, length, pages: 0..length.pages() }],
            pages: &self.pages,
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

/// One device, layers dealt over three, a cache away from the weights, and devices that do nothing before they must.
const SESSIONS: [(&str, Open<'static>); 4] = [
    ("one device", &one),
    ("dealt", &|gguf, cache| {
        with(gguf, cache, setup(isolated(3)), |graph, machine| dealt(graph, gguf, machine, false))
    }),
    ("away", &|gguf, cache| with(gguf, cache, setup(isolated(2)), |graph, _| cache_away(graph, gguf, false))),
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
        session.rearrange(&[away]).unwrap();
        session.rearrange(&back).unwrap();
        sequence.pages = vec![1, 0];
        assert!(bits(&sequence.feed(&mut session, 1)) == expected, "{what}");
    }
}
