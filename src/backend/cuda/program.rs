//! A split → launches with all that they need, and the words of a step. Preparing compiles; running launches, and what was
//! launched for the same rows before is recorded and replayed as one.

use std::ops::Range;
use std::sync::Arc;

use super::driver::{Context, DeviceBytes, Function, Launch, Refused, Replay, Stream, Trouble};
use super::kernels::{File, Kernels, Source};
use crate::backend::ArgLimits;
use crate::graph::RowDim;
use crate::units::Tokens;

/// Blocks along an axis: `each` for every `per` of the rows `times` over, or just `each`.
#[derive(Clone, Copy, Debug)]
pub struct Axis {
    /// Blocks each.
    pub each: u32,
    /// Units a row.
    pub times: u32,
    /// Units that a block takes; of none, rows do not matter.
    pub per: u32,
}

impl Axis {
    /// So many blocks, whatever the rows.
    pub const fn fixed(each: u32) -> Axis {
        Axis { each, times: 0, per: 0 }
    }

    /// A block for so many units, of which a row has so many.
    pub const fn rows(times: u32, per: u32) -> Axis {
        Axis { each: 1, times, per }
    }

    fn blocks(self, rows: u32) -> u32 {
        let units = u64::from(rows) * u64::from(self.times);
        let tiles = if self.per == 0 { 1 } else { units.div_ceil(u64::from(self.per)) };
        u32::try_from(tiles * u64::from(self.each)).unwrap_or(u32::MAX)
    }
}

/// How many blocks a launch has for how many rows.
#[derive(Clone, Debug)]
pub struct Count {
    /// The rows that it is for.
    pub dim: RowDim,
    /// Numbers of rows for which it runs.
    pub when: Range<u32>,
    /// Blocks along three axes.
    pub grid: [Axis; 3],
}

impl Count {
    /// Blocks along one axis, for any number of rows.
    pub fn line(dim: RowDim, axis: Axis) -> Count {
        Count { dim, when: 1..u32::MAX, grid: [axis, Axis::fixed(1), Axis::fixed(1)] }
    }

    /// Blocks along two.
    pub fn plane(dim: RowDim, x: Axis, y: Axis) -> Count {
        Count { grid: [x, y, Axis::fixed(1)], ..Count::line(dim, x) }
    }

    fn grid(&self, rows: (Tokens, Tokens)) -> Option<(u32, u32, u32)> {
        let rows = match self.dim {
            RowDim::Tokens => rows.0.0,
            RowDim::Outputs => rows.1.0,
        };
        let [x, y, z] = self.grid.map(|axis| axis.blocks(rows));
        (self.when.contains(&rows) && x > 0 && y > 0 && z > 0).then_some((x, y, z))
    }
}

/// A launch that is not compiled yet.
#[derive(Clone)]
pub struct Draft {
    /// Its file.
    pub file: File,
    /// Its kernel there.
    pub entry: &'static str,
    /// What the file is compiled for.
    pub defines: Vec<String>,
    /// Threads of a block.
    pub threads: u32,
    /// Bytes that they share beside what the kernel itself says.
    pub shared: u32,
    /// Its parameters: addresses, all but the first, which is where the words of a step are.
    pub addresses: Vec<u64>,
    /// And numbers behind them.
    pub numbers: Vec<u32>,
    /// How many blocks.
    pub count: Count,
}

impl Draft {
    /// One that has nothing yet.
    pub fn plain(file: File, entry: &'static str) -> Draft {
        let count = Count::line(RowDim::Tokens, Axis::fixed(1));
        let (defines, addresses, numbers) = (Vec::new(), Vec::new(), Vec::new());
        Draft { file, entry, defines, threads: 0, shared: 0, addresses, numbers, count }
    }

    /// What it is compiled from.
    pub fn source(&self) -> Source {
        Source { file: self.file, defines: self.defines.clone(), params: 8 * self.params().len() }
    }

    /// Its parameters, as compilers lay out addresses and then numbers.
    pub fn params(&self) -> Vec<u64> {
        let pairs = self.numbers.chunks(2).map(|two| u64::from(two[0]) | u64::from(*two.get(1).unwrap_or(&0)) << 32);
        [0].into_iter().chain(self.addresses.iter().copied()).chain(pairs).collect()
    }
}

/// A launch.
struct Ready {
    function: Function,
    threads: u32,
    shared: u32,
    params: Vec<u64>,
    count: Count,
}

/// Launches that were recorded for other rows are kept, up to so many.
const REPLAYS: usize = 4;

/// A prepared split.
pub struct Program {
    /// What it accepts.
    pub limits: ArgLimits,
    ready: Vec<Ready>,
    /// The words of the step at hand.
    words: Arc<DeviceBytes>,
    /// The rows of the last step.
    before: Option<(Tokens, Tokens)>,
    replays: Vec<((Tokens, Tokens), Replay)>,
    /// Whether recording has not failed yet.
    records: bool,
    /// What its launches read beside what was bound.
    _constants: Arc<DeviceBytes>,
}

impl Program {
    /// Compiles all, with room for so many words of a step.
    ///
    /// # Errors
    /// A text does not compile, or the card refuses.
    pub fn new(
        kernels: &Kernels,
        context: &Arc<Context>,
        limits: ArgLimits,
        (drafts, constants): (Vec<Draft>, Arc<DeviceBytes>),
        words: usize,
    ) -> Result<Program, Trouble> {
        let words = Arc::new(DeviceBytes::new(context, 4 * words.max(1))?);
        let ready = |draft: Draft| {
            let (source, params) = (draft.source(), draft.params());
            let Draft { entry, threads, shared, count, .. } = draft;
            let function = kernels.function(&source, entry, shared)?;
            Ok(Ready { function, threads, shared, params, count })
        };
        let ready: Result<Vec<Ready>, Trouble> = drafts.into_iter().map(ready).collect();
        let mut program = Program {
            limits,
            ready: ready?,
            words,
            before: None,
            replays: Vec::new(),
            records: true,
            _constants: constants,
        };
        program.point();
        Ok(program)
    }

    /// Where so many words of a step go; room is made if there is less.
    ///
    /// # Errors
    /// The card lacks memory.
    pub fn words(&mut self, context: &Arc<Context>, words: usize) -> Result<Arc<DeviceBytes>, Refused> {
        if self.words.len() < 4 * words {
            self.words = Arc::new(DeviceBytes::new(context, 4 * words.next_power_of_two())?);
            self.replays.clear();
            self.point();
        }
        Ok(Arc::clone(&self.words))
    }

    fn point(&mut self) {
        let at = self.words.address(0);
        self.ready.iter_mut().for_each(|ready| ready.params[0] = at);
    }

    /// Begins all launches for so many rows.
    ///
    /// # Errors
    /// The driver refuses.
    pub fn run(&mut self, stream: &Stream, rows: (Tokens, Tokens)) -> Result<(), Refused> {
        let again = self.before.replace(rows) == Some(rows);
        if let Some(at) = self.replays.iter().position(|(of, _)| *of == rows) {
            return stream.replay(&self.replays[at].1);
        }
        if !again {
            return self.launch(stream, rows);
        }
        // Where there is no room for what is recorded, every step is launched: nothing but time is lost.
        let Some(replay) = self.records.then(|| stream.record(|| self.launch(stream, rows)).ok()).flatten() else {
            self.records = false;
            return self.launch(stream, rows);
        };
        stream.replay(&replay)?;
        if self.replays.len() == REPLAYS {
            self.replays.remove(0);
        }
        self.replays.push((rows, replay));
        Ok(())
    }

    fn launch(&self, stream: &Stream, rows: (Tokens, Tokens)) -> Result<(), Refused> {
        for Ready { function, threads, shared, params, count } in &self.ready {
            if let Some(grid) = count.grid(rows) {
                stream.launch(&Launch { function, grid, threads: *threads, shared: *shared, params })?;
            }
        }
        Ok(())
    }
}
