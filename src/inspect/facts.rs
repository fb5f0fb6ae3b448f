//! What is known of a node of a plan, as data. Its text and its JSON are made from this alone.

use serde::Serialize;

use crate::graph::NodeId;
use crate::plan::{Span, SplitId, TransferId, UploadId};
use crate::units::{Bytes, BytesPerSec, Nanos};

/// Everything on one node. Names are harmless, sizes are in bytes, times in nanoseconds, rates in bytes a second.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Why {
    /// Its name.
    pub node: String,
    /// Its id.
    pub id: NodeId,
    /// Its layer.
    pub layer: Option<u32>,
    /// What kind of op it is.
    pub family: &'static str,
    /// The type of the weight that it multiplies with or reads rows of.
    pub dtype: Option<&'static str>,
    /// Rows and columns of its value.
    pub shape: [u32; 2],
    /// Bytes of its value.
    pub bytes: Bytes,
    /// Where it runs.
    pub device: String,
    /// Why, as tables say it.
    pub reason: String,
    /// Why, in words with their quantities.
    pub words: String,
    /// Every device of the machine as a place for it.
    pub possible: Vec<Possible>,
    /// Its operands, in order.
    pub reads: Vec<Read>,
    /// The nodes that read its value; none for what the step is for.
    pub read_by: Vec<Reader>,
    /// The split that it runs in.
    pub split: Option<Position>,
    /// Where its value lies in its device's arena.
    pub value: Span,
    /// The size of that arena.
    pub arena: Bytes,
}

/// A device that could have had the node.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Possible {
    /// Its name.
    pub device: String,
    /// Whether the node runs there.
    pub chosen: bool,
    /// Time of the node's own work there.
    pub compute: Nanos,
    /// Time to bring the weights that do not live there; none where they have no way there.
    pub upload: Option<Nanos>,
    /// Why it cannot run there, if it cannot.
    pub refused: Option<String>,
}

/// What a node reads.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[serde(tag = "kind", rename_all = "snake_case")]
pub enum Read {
    /// The value of another node.
    Value {
        /// Its name.
        node: String,
        /// Its id.
        id: NodeId,
        /// Its bytes.
        bytes: Bytes,
        /// Where it is made.
        made_on: String,
        /// Whether that is where it is read.
        here: bool,
        /// How it gets to the reader; none where it need not, or only orders the two.
        copied: Option<Copied>,
    },
    /// A weight, or a part of one.
    Weight {
        /// Its name.
        name: String,
        /// Its type.
        dtype: &'static str,
        /// Bytes of the part that is read.
        bytes: Bytes,
        /// The part of a tensor that it is, where several devices work on a layer together.
        #[serde(skip_serializing_if = "Option::is_none")]
        part: Option<PartOf>,
        /// The matrices that are read, from the first to before the last.
        matrices: [u32; 2],
        /// How many there are.
        of: u32,
        /// The memories that hold that part.
        homes: Vec<String>,
        /// How it gets to the reader; none where it lives there.
        streamed: Option<Streamed>,
    },
    /// A cache.
    State {
        /// Its name.
        name: String,
        /// Its type.
        dtype: &'static str,
        /// Its bytes.
        bytes: Bytes,
        /// The memory that it lives in.
        home: String,
    },
    /// What a step is given.
    Input {
        /// Its name.
        name: &'static str,
        /// Its bytes.
        bytes: Bytes,
    },
}

/// Runs of a tensor, from the first to before the last.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct PartOf {
    /// The tensor's name.
    pub tensor: String,
    /// Its matrices.
    pub matrices: [u32; 2],
    /// Rows of each.
    pub rows: [u32; 2],
    /// Columns of those.
    pub cols: [u32; 2],
    /// Matrices, rows and columns of the tensor.
    pub whole: [u32; 3],
}

/// A value that crosses to another device.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Copied {
    /// As what the plan has it.
    pub transfer: TransferId,
    /// The split that makes it.
    pub after: SplitId,
    /// Over which way.
    pub way: Way,
}

/// A part of a weight that is brought into a ring.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Streamed {
    /// As what the plan has it.
    pub upload: UploadId,
    /// The memory it comes from.
    pub from: String,
    /// Where it lies in the ring.
    pub span: Span,
    /// Over which way.
    pub way: Way,
    /// The split that must have left the ring's bytes.
    pub after: Option<SplitId>,
    /// The routing that it waits for, to bring only what that chose.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub chosen: Option<Awaited>,
}

/// A routing of which the batch is expected to choose only some of the experts.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Awaited {
    /// Its node.
    pub by: String,
    /// The share of the experts.
    pub share: f64,
}

/// How bytes get from one memory to another.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Way {
    /// Where from.
    pub from: String,
    /// Where to.
    pub to: String,
    /// Over what.
    pub over: Over,
    /// How fast; none where nothing is between the two, or no way.
    pub rate: Option<BytesPerSec>,
    /// How long it takes; none likewise.
    pub time: Option<Nanos>,
}

/// What is between two memories.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Over {
    /// They are one.
    Same,
    /// A link of their own.
    Link,
    /// A link that shares a bus with others.
    SharedBus,
    /// The host's memory.
    Host,
    /// Nothing: there is no way.
    Nothing,
}

/// A node that reads the value.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Reader {
    /// Its name.
    pub node: String,
    /// Where it runs.
    pub device: String,
}

/// A place in a split.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Position {
    /// The split.
    pub id: SplitId,
    /// How many the plan has.
    pub of: usize,
    /// Its nodes.
    pub nodes: usize,
    /// The node's place among them, from 1 on.
    pub position: usize,
    /// The first of them.
    pub first: String,
    /// The last of them.
    pub last: String,
}
