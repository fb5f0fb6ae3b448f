//! The caches of a device, prepared once, and what is done to their cells between steps. Heads share no byte, so a chunk
//! of work is one head of one state, and carries all moves or turns out in order. Only `prepare` allocates, some pages of
//! floats a worker among it.

use super::kernels::cache::{PAGE, PageLayout};
use super::kernels::cells::TurnKeys;
use super::memory::{Buffer, Raw};
use super::pool::{Pool, Worker};
use super::run::{all, part_mut};
use super::simd::Isa;
use super::traffic::Traffic;
use crate::backend::batches::KeyTurn;
use crate::backend::{BackendError, BufferSpan, CacheLimits, CacheWork, CellMove, CellTurn};
use crate::device::DeviceSpec;
use crate::graph::StateId;
use crate::index::IndexVec;
use crate::units::Bytes;

/// Prepared caches.
pub struct Caches {
    /// What they accept.
    pub limits: CacheLimits,
    halves: IndexVec<StateId, Option<Half>>,
    /// Every head of every state.
    heads: Vec<(StateId, usize)>,
    /// Each worker's floats.
    workers: Vec<Raw>,
}

struct Half {
    state: Raw,
    pages: PageLayout,
    turn: Option<KeyTurn>,
}

/// Cells from lane `from` of one page to those from lane `to` of another.
#[derive(Clone, Copy)]
struct Piece {
    src: usize,
    dst: usize,
    lanes: (usize, usize, usize),
}

impl Caches {
    /// Resolves the states; `raw` looks a range of a buffer up, for writing or not.
    pub fn prepare(
        spec: &DeviceSpec,
        work: &CacheWork<'_>,
        raw: impl Fn(BufferSpan, bool) -> Result<Raw, BackendError>,
    ) -> Result<Caches, BackendError> {
        let limits = CacheLimits::of(&spec.name, work)?;
        let (mut halves, mut heads, mut floats) = (IndexVec::new(), Vec::new(), 0);
        for (id, state) in work.graph.states().iter_ids() {
            let Some(at) = work.states.get(id).copied().flatten() else {
                halves.push(None);
                continue;
            };
            let refuse = |why: &str| {
                let (device, node) = (spec.name.clone(), format!("state {}", state.name));
                BackendError::Prepare { device, node, why: why.into() }
            };
            let pages = PageLayout::of(state).ok_or_else(|| refuse("has a type without pages"))?;
            let turn = KeyTurn::of(work, id).map_err(|why| refuse(&why))?;
            if let Some(turn) = &turn {
                floats = floats.max((PAGE + 1) * pages.head_dim + 2 * turn.frequencies.pairs());
            }
            heads.extend((0..pages.heads).map(|head| (id, head)));
            halves.push(Some(Half { state: raw(at, true)?, pages, turn }));
        }
        let workers = scratch(spec, Bytes::of_len(4 * floats))?;
        Ok(Caches { limits, halves, heads, workers })
    }

    /// Carries admitted moves out; `false` if a kernel panicked.
    pub fn rearrange(&self, traffic: &Traffic, pool: &Pool, moves: &[CellMove]) -> bool {
        let _alone = traffic.run();
        pool.run(1, &|worker: &Worker<'_>, _| {
            worker.claim(self.heads.len(), |chunk| {
                let Some((half, head)) = self.head(chunk) else { return };
                moves.iter().for_each(|&step| pieces(step, |piece| half.copy(head, piece)));
            });
        })
    }

    /// Carries admitted turns out; `false` if a kernel panicked.
    pub fn turn(&self, traffic: &Traffic, (pool, isa): (&Pool, Isa), turns: &[CellTurn]) -> bool {
        let _alone = traffic.run();
        pool.run(1, &|worker: &Worker<'_>, _| {
            let scratch = &self.workers[worker.index];
            worker.claim(self.heads.len(), |chunk| {
                let Some((half, head)) = self.head(chunk) else { return };
                let Some(turn) = &half.turn else { return };
                let floats = part_mut::<f32>(scratch, 0, scratch.len() / 4);
                turns.iter().filter(|step| step.delta != 0).for_each(|&step| half.turn(isa, head, turn, step, floats));
            });
        })
    }

    /// Admitted rows of a state → `dst`.
    pub fn read(&self, traffic: &Traffic, state: StateId, cells: &[u32], dst: &mut [u8]) {
        let Some(half) = self.half(state) else { return };
        let _held = traffic.copy(Some(&half.state), None);
        let rows = dst.chunks_exact_mut(half.pages.row_bytes());
        for ((cell, head), row) in half.heads_of(cells).zip(rows) {
            half.pages.take_row(half.page(cell / PAGE, head), cell % PAGE, row);
        }
    }

    /// `src` → admitted rows of a state.
    pub fn write(&self, traffic: &Traffic, state: StateId, cells: &[u32], src: &[u8]) {
        let Some(half) = self.half(state) else { return };
        let _held = traffic.copy(None, Some(&half.state));
        let rows = src.chunks_exact(half.pages.row_bytes());
        for ((cell, head), row) in half.heads_of(cells).zip(rows) {
            half.pages.put_row(half.page_mut(cell / PAGE, head), cell % PAGE, row);
        }
    }

    fn half(&self, state: StateId) -> Option<&Half> {
        self.halves.get(state).and_then(Option::as_ref)
    }

    fn head(&self, chunk: usize) -> Option<(&Half, usize)> {
        let &(state, head) = self.heads.get(chunk)?;
        Some((self.half(state)?, head))
    }
}

impl Half {
    /// Every head of every cell.
    fn heads_of<'a>(&self, cells: &'a [u32]) -> impl Iterator<Item = (usize, usize)> + 'a {
        let heads = self.pages.heads;
        cells.iter().flat_map(move |&cell| (0..heads).map(move |head| (cell as usize, head)))
    }

    fn page(&self, page: usize, head: usize) -> &[u8] {
        let bytes = self.pages.head_bytes();
        &all(&self.state)[page * self.pages.page_bytes() + head * bytes..][..bytes]
    }

    #[allow(clippy::mut_from_ref, reason = "exclusive by the claim or by traffic, see `run`")]
    fn page_mut(&self, page: usize, head: usize) -> &mut [u8] {
        let bytes = self.pages.head_bytes();
        part_mut(&self.state, page * self.pages.page_bytes() + head * bytes, bytes)
    }

    fn copy(&self, head: usize, Piece { src, dst, lanes }: Piece) {
        if src == dst {
            self.pages.move_lanes(self.page_mut(dst, head), lanes);
        } else {
            self.pages.copy_lanes(self.page(src, head), self.page_mut(dst, head), lanes);
        }
    }

    fn turn(&self, isa: Isa, head: usize, turn: &KeyTurn, step: CellTurn, floats: &mut [f32]) {
        let (table, scratch) = floats.split_at_mut(2 * turn.frequencies.pairs());
        turn.frequencies.table(step.delta as f32, turn.factors.as_deref(), table);
        let (mut cell, end) = (step.first as usize, (step.first + step.len) as usize);
        while cell < end {
            let (page, first) = (cell / PAGE, cell % PAGE);
            let lanes = first..PAGE.min(first + end - cell);
            cell += lanes.len();
            isa.run(TurnKeys {
                layout: self.pages,
                lanes,
                offset: turn.offset as usize,
                style: turn.style,
                table,
                head: self.page_mut(page, head),
                scratch,
            });
        }
    }
}

/// Memory of every worker's own.
fn scratch(spec: &DeviceSpec, each: Bytes) -> Result<Vec<Raw>, BackendError> {
    let refused = |e: std::io::Error| {
        let (device, need) = (spec.name.clone(), each);
        BackendError::OutOfMemory { device, need, why: e.to_string() }
    };
    (0..spec.workers).map(|_| Buffer::zeroed(each).map(Buffer::whole).map_err(refused)).collect()
}

/// The parts of a move within a page each, in an order in which no part overwrites what a later one reads.
fn pieces(step: CellMove, mut piece: impl FnMut(Piece)) {
    let [src, dst, len] = [step.src, step.dst, step.len].map(|n| n as usize);
    let mut done = 0;
    while done < len {
        let left = len - done;
        let n = if dst <= src {
            let (from, to) = (src + done, dst + done);
            let n = left.min(PAGE - from % PAGE).min(PAGE - to % PAGE);
            piece(Piece { src: from / PAGE, dst: to / PAGE, lanes: (from % PAGE, to % PAGE, n) });
            n
        } else {
            // The last lanes of what is left, from the end on.
            let (from, to) = (src + left - 1, dst + left - 1);
            let n = left.min(from % PAGE + 1).min(to % PAGE + 1);
            piece(Piece { src: from / PAGE, dst: to / PAGE, lanes: (from % PAGE + 1 - n, to % PAGE + 1 - n, n) });
            n
        };
        done += n;
    }
}
