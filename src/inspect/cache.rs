//! The caches of a graph → the pages that sequences get of them, and what moving one costs.

use std::fmt;

use serde::Serialize;

use crate::graph::{Graph, State};
use crate::units::{Bytes, Tokens};

/// Pages over all layers, keys and values.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub(super) struct CachePages {
    pages: u32,
    page_cells: u32,
    page_bytes: Bytes,
}

impl CachePages {
    /// Those of the smallest cache; all layers have them.
    pub fn of(graph: &Graph) -> CachePages {
        let cell: Bytes = graph.states().iter().map(State::row_bytes).sum();
        let pages = graph.states().iter().map(|state| state.cells.0 / Tokens::PAGE.0).min().unwrap_or(0);
        CachePages { pages, page_cells: Tokens::PAGE.0, page_bytes: cell.times(Tokens::PAGE.0.into()) }
    }
}

impl fmt::Display for CachePages {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let CachePages { pages, page_cells, page_bytes } = self;
        write!(
            f,
            "cache: {pages} pages of {page_cells} cells, {page_bytes} each over all layers; moving one pays once the steps \
             to come are spared more than two reads of one"
        )
    }
}
