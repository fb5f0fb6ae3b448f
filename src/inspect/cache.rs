//! The caches of a graph → the pages that sequences get of them, and what moving one costs.

use std::fmt;

use serde::Serialize;

use crate::graph::{CacheClass, Graph, State};
use crate::units::{Bytes, Tokens};

/// Pages of the layers that keep all rows, and of those that keep windows.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub(super) struct CachePages {
    #[serde(flatten)]
    whole: ClassPages,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    windows: Vec<ClassPages>,
}

/// Pages over all layers of a class, keys and values.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
struct ClassPages {
    #[serde(skip_serializing_if = "Option::is_none")]
    window: Option<Tokens>,
    pages: u32,
    page_cells: u32,
    page_bytes: Bytes,
}

impl CachePages {
    /// Those of the smallest cache of each class; all its layers have them.
    pub fn of(graph: &Graph) -> CachePages {
        let mut all = graph.classes().iter().map(|class| ClassPages::of(graph, class));
        let whole = all.next().expect("the first class is that of whole sequences");
        CachePages { whole, windows: all.collect() }
    }
}

impl ClassPages {
    fn of(graph: &Graph, class: &CacheClass) -> ClassPages {
        let own = || graph.states().iter().filter(|state| state.window == class.window);
        let cell: Bytes = own().map(State::row_bytes).sum();
        let pages = own().map(|state| state.cells.0 / Tokens::PAGE.0).min().unwrap_or(0);
        let page_bytes = cell.times(Tokens::PAGE.0.into());
        ClassPages { window: class.window, pages, page_cells: Tokens::PAGE.0, page_bytes }
    }
}

impl fmt::Display for CachePages {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let ClassPages { window: _, pages, page_cells, page_bytes } = self.whole;
        let layers = if self.windows.is_empty() { "all layers" } else { "the layers that keep all rows" };
        write!(f, "cache: {pages} pages of {page_cells} cells, {page_bytes} each over {layers}; ")?;
        for ClassPages { window, pages, page_cells: _, page_bytes } in &self.windows {
            let window = window.unwrap_or_default();
            write!(f, "{pages} pages, {page_bytes} each over those that keep a window of {window}; ")?;
        }
        f.write_str("moving one pays once the steps to come are spared more than two reads of one")
    }
}
