//! A graph's JSON form: written as declared, read back through the builder so that a file cannot bypass a check.

use serde::{Deserialize, Serialize};
use thiserror::Error;

use super::{Batch, Graph, GraphBuilder, GraphError, Input, Node, NodeId, State, Weight};

/// Why a graph file cannot be read.
#[derive(Debug, Error)]
pub enum GraphFileError {
    /// Not JSON, or not of this form.
    #[error("graph file: {0}")]
    Json(#[from] serde_json::Error),
    /// Of another version.
    #[error("graph file has version {found}, this program reads version {needed}")]
    Version {
        /// The version in the file.
        found: u32,
        /// The version that can be read.
        needed: u32,
    },
    /// The graph does not hold together.
    #[error("graph file: {0}")]
    Graph(#[from] GraphError),
}

const VERSION: u32 = 1;

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct GraphFile {
    version: u32,
    batch: Batch,
    weights: Vec<Weight>,
    states: Vec<State>,
    inputs: Vec<Input>,
    nodes: Vec<Node>,
    output: NodeId,
}

impl Graph {
    /// The JSON form, pretty-printed; the same graph gives the same bytes.
    pub fn to_json(&self) -> String {
        let file = GraphFile {
            version: VERSION,
            batch: self.batch,
            weights: self.weights.iter().cloned().collect(),
            states: self.states.iter().cloned().collect(),
            inputs: self.inputs.iter().copied().collect(),
            nodes: self.nodes().map(|(_, node)| node.clone()).collect(),
            output: self.output,
        };
        serde_json::to_string_pretty(&file).expect("a graph holds only strings, numbers and enums")
    }

    /// Reads the JSON form and verifies it.
    ///
    /// # Errors
    /// The text is no graph file of this version, or the graph in it does not hold together.
    pub fn from_json(text: &str) -> Result<Graph, GraphFileError> {
        let file: GraphFile = serde_json::from_str(text)?;
        if file.version != VERSION {
            return Err(GraphFileError::Version { found: file.version, needed: VERSION });
        }
        let mut builder = GraphBuilder::new(file.batch);
        for weight in file.weights {
            builder.weight(weight)?;
        }
        for state in file.states {
            builder.state(state)?;
        }
        for input in file.inputs {
            builder.input(input);
        }
        for node in file.nodes {
            add_declared(&mut builder, node)?;
        }
        Ok(builder.finish(file.output)?)
    }
}

fn add_declared(builder: &mut GraphBuilder, node: Node) -> Result<(), GraphError> {
    let Node { name, layer, lane, op, out: declared } = node;
    builder.set_layer(layer);
    builder.set_lane(lane);
    let id = builder.node(name.clone(), op)?;
    let inferred = builder.value_of(id);
    if declared != inferred {
        return Err(GraphError::Declared { node: name, declared, inferred });
    }
    Ok(())
}
