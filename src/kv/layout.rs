//! How the cells of a cache are given out: in pages, or one by one but side by side.

use crate::units::Tokens;

/// How cells are given out. Contiguous cells are pages of one cell each, of which an append takes neighbours.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum KvLayout {
    /// Any free page serves; the slack of a sequence is under one page.
    Paged {
        /// Tokens a page, 1 to 64.
        page: Tokens,
    },
    /// The cells of one append lie side by side, for readers that need it. There may be none though cells are free.
    Contiguous,
}

impl Default for KvLayout {
    fn default() -> KvLayout {
        KvLayout::Paged { page: Tokens::PAGE }
    }
}

impl KvLayout {
    /// Cells a page; what is out of range counts as the nearest that is not.
    pub fn page(self) -> u32 {
        match self {
            KvLayout::Paged { page } => page.0.clamp(1, u64::BITS),
            KvLayout::Contiguous => 1,
        }
    }

    /// Cells of the pages in which [runs](super::Run) are told.
    pub(super) fn reader_page(self) -> u32 {
        match self {
            KvLayout::Paged { .. } => self.page(),
            KvLayout::Contiguous => Tokens::PAGE.0,
        }
    }
}
