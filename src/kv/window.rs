//! Caches whose readers look back over a window only: pages that are wholly behind it are given back between steps, so
//! that a sequence holds no more than its window and a step of rows, however long it gets.
//!
//! Each sequence claims as many pages as it may come to hold at a time, also those that it shares now, and all claims
//! together are never more than there are: so many sequences as a cache was made for always fit, whatever they share.
//!
//! What a window reaches is counted in tokens of the sequence, not in positions. The tokens of such a cache are always
//! the last of those that the books of the whole sequence have; see [`super::Books`], which keeps both.

use super::prefix::Chain;
use super::table::Sequence;
use super::{KvError, KvLayout, PageId, PagedKv, SequenceId};
use crate::units::Tokens;

/// Tokens that are kept beyond what a window reaches, so that a sequence can be shortened by a few.
const SPARE: u32 = 16;

/// How far back rows are read, and how many are appended before those behind are given back.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Window {
    /// Tokens that a row reads, its own included.
    pub tokens: Tokens,
    /// Most tokens of a step.
    pub step: Tokens,
}

impl Window {
    /// Most pages that a sequence holds without holes, with the rows of a step.
    pub fn pages(self, layout: KvLayout) -> u32 {
        self.pages_over(0, layout.page())
    }

    /// The same with so many holes, which take room as tokens do.
    fn pages_over(self, holes: u32, page: u32) -> u32 {
        let cells = self.kept().saturating_add(self.step.0).saturating_add(holes);
        cells.saturating_add(2 * (page - 1)) / page
    }

    /// Tokens before the next one that are kept.
    fn kept(self) -> u32 {
        self.reach().saturating_add(SPARE)
    }

    /// Tokens before the next one that it reads, and one so that a sequence never looks empty.
    fn reach(self) -> u32 {
        self.tokens.0.saturating_sub(1).max(1)
    }
}

impl PagedKv {
    /// A cache of `cells`, rounded down to whole pages, of which sequences keep what a window reaches.
    pub fn sliding(cells: Tokens, layout: KvLayout, window: Window) -> PagedKv {
        PagedKv { window: Some(window), ..PagedKv::new(cells, layout) }
    }

    /// Gives back the leading pages of a sequence that no row to come reads. To be called after a step that succeeded:
    /// what was appended cannot be taken back behind this.
    pub(super) fn slide(&mut self, id: SequenceId) -> Result<(), KvError> {
        let (Some(window), page) = (self.window, self.page()) else { return Ok(()) };
        self.sequence(id)?;
        let PagedKv { pages, sequences, .. } = self;
        if let Some(sequence) = sequences[id].as_mut() {
            let behind = sequence.behind(window.kept());
            sequence.count -= sequence.live[..behind].iter().map(|live| live.count_ones()).sum::<u32>();
            // The last first, as whenever pages are given back.
            sequence.pages.drain(..behind).rev().for_each(|dropped| pages.release(dropped));
            sequence.live.drain(..behind);
            sequence.gone += behind as u32 * page;
        }
        Ok(())
    }

    /// Most tokens that a sequence has between steps, without holes.
    pub(super) fn most(&self) -> Tokens {
        Tokens(self.window.map_or(u32::MAX, |window| window.kept().saturating_add(Tokens::PAGE.0 - 1)))
    }

    /// Tokens before the next one that a row of it reads.
    pub(super) fn reach(&self) -> Tokens {
        Tokens(self.window.map_or(u32::MAX, Window::reach))
    }

    /// Checks that a sequence that is to have its first `tokens` tokens of all has those that a window reaches, where
    /// `held` of them are in this cache.
    pub(super) fn reaches(&self, id: SequenceId, tokens: u32, held: u32) -> Result<(), KvError> {
        let needed = self.reach().0.min(tokens);
        match held < needed {
            true => Err(KvError::Window { sequence: id, tokens, needed, found: held }),
            false => Ok(()),
        }
    }

    /// Pages that a sequence may come to hold at a time if it takes as many tokens as `promised`, those that it shares
    /// among them: they are its own to come once the others have gone on.
    pub(super) fn claim(&self, window: Window, sequence: &Sequence, promised: u32) -> u32 {
        let (page, held) = (self.page(), sequence.pages.len() as u32);
        let slots = sequence.slots(page);
        let all = slots.saturating_add(promised).div_ceil(page);
        held.max(all.min(window.pages_over(slots - sequence.count, page)))
    }

    /// The pages that all sequences may come to hold, which never are more than there are.
    pub(super) fn claims(&self, window: Window) -> u32 {
        let all = self.sequences.iter().flatten();
        all.fold(0, |sum: u32, sequence| sum.saturating_add(self.claim(window, sequence, sequence.promised)))
    }

    /// Checks that a sequence can claim so many pages where others claim theirs.
    pub(super) fn may_claim(&self, others: u32, needed: u32) -> Result<(), KvError> {
        let total = self.pages.total();
        match others.saturating_add(needed) > total {
            true => Err(KvError::Full { needed, free: total.saturating_sub(others), total }),
            false => Ok(()),
        }
    }

    /// Tokens that a sequence can take now: any number, if it can claim all that it comes to hold at a time.
    pub(super) fn room_behind(&self, window: Window, sequence: &Sequence) -> Tokens {
        let own = self.claim(window, sequence, sequence.promised);
        let left = self.pages.total() - (self.claims(window) - own);
        if self.claim(window, sequence, u32::MAX) <= left {
            return Tokens(u32::MAX);
        }
        Tokens(left * self.page() - sequence.slots(self.page()))
    }

    /// By page of `tokens`, the page that has the rows, where `chains` tells the content up to the end of each.
    pub(super) fn found_along(&self, tokens: &[u32], chains: &[(PageId, Chain)]) -> Vec<Option<PageId>> {
        let parents = [Chain::ROOT].into_iter().chain(chains.iter().map(|&(_, chain)| chain));
        let pages = tokens.chunks_exact(self.page() as usize).zip(parents).take(chains.len());
        pages.map(|(ids, parent)| Some(self.pages.index.find(parent, ids, self.cells.tokens())?.0)).collect()
    }

    /// Pages before its next token that a sequence has to have.
    pub(super) fn pages_reached(&self) -> usize {
        self.reach().0.div_ceil(self.page()) as usize
    }

    /// As [`PagedKv::admit`], with `shared` tokens before it whose last pages are `found`.
    pub(super) fn admit_behind(
        &mut self,
        found: &[PageId],
        shared: Tokens,
        total: Tokens,
    ) -> Result<SequenceId, KvError> {
        let (id, page) = (self.start(), self.page());
        self.sequence_mut(id)?.gone = shared.0 - found.len() as u32 * page;
        for &held in found {
            self.pages.hold(held);
            self.share(id, held, Chain::ROOT);
        }
        self.sequence_mut(id)?.unbroken = shared.0;
        self.sequence_mut(id)?.promised = total.0.saturating_sub(shared.0);
        let Some(window) = self.window else { return Ok(id) };
        let own = self.claim(window, self.sequence(id)?, total.0.saturating_sub(shared.0));
        let claimed = self.may_claim(self.claims(window) - own, own);
        if claimed.is_err() {
            self.end(id)?;
        }
        claimed.map(|()| id)
    }

    /// As [`PagedKv::written`], the contents told by the books of the whole sequence.
    pub(super) fn written_along(&mut self, id: SequenceId, whole: &PagedKv) -> Result<(), KvError> {
        let (page, sequence) = (self.page(), self.sequence(id)?);
        let (gone, unbroken) = (sequence.gone / page, sequence.unbroken);
        let mut count = sequence.known.0.max(gone);
        while (count + 1) * page <= unbroken {
            // Where the whole sequence has a page that is not found, none behind it would be.
            if let Some(parent) = whole.content_before(id, count)? {
                self.publish(id, (count - gone) as usize, parent)?;
            }
            count += 1;
        }
        self.sequence_mut(id)?.known.0 = count;
        Ok(())
    }

    /// The content of a sequence up to page `at` of its table, if it is known.
    fn content_before(&self, id: SequenceId, at: u32) -> Result<Option<Chain>, KvError> {
        let sequence = self.sequence(id)?;
        let before = match at.checked_sub(1) {
            None => return Ok(Some(Chain::ROOT)),
            Some(before) if at <= sequence.known.0 => sequence.pages.get(before as usize),
            Some(_) => None,
        };
        Ok(before.and_then(|&page| self.pages.index.content(page)))
    }
}

impl Sequence {
    /// Leading pages without which at least `kept` live slots, and the last page, are left.
    fn behind(&self, kept: u32) -> usize {
        let mut left = self.count;
        let last = self.live.len().saturating_sub(1);
        let drops = self.live[..last].iter().take_while(|live| {
            left = left.saturating_sub(live.count_ones());
            left >= kept
        });
        drops.count()
    }
}
