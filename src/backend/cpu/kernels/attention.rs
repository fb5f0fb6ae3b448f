//! Attention of a few query vectors of one KV head over the pages of one sequence. In a latent cache the values are the
//! first elements of the keys, and are read from the same pages.
//!
//! The cells of a sequence are taken in tiles of 256 at absolute positions. A tile gives each query a partial result
//! (its maximum, its sum of exponentials, its weighted values); partial results are merged in tile order (Milakov &
//! Gimelshein 2018, arXiv:1805.02867). So a row's result depends on its own cells only: not on the other rows of the
//! batch, nor on which pages hold the cells, nor on holes between them, nor on who computed which tile.
//!
//! Over an f16 cache, queries are rounded to f16 and the values of the first tile are summed in f16, cell by cell under
//! a running maximum. llama.cpp's CPU attention does that for all cells; int8 activations behind it turn any other
//! rounding into noise of their own size, so short prompts would not give the logits that it gives. Later tiles are
//! summed in f32.

use super::cache::{Expand, PAGE, PageLayout, PageType};
use super::dots::{dots, exact_dots};
use super::weights::{exponentials, factor, rising_exponentials};
use crate::backend::cpu::simd::{Job, LANES, Simd};
use crate::device;
use crate::graph::ops::Mask;

/// Cells of a tile.
pub const TILE: usize = device::ATTENTION_TILE;

/// Most query vectors in one call.
pub const MOST_QUERIES: usize = device::ATTENTION_QUERIES;

/// What is the same for all calls of a node.
#[derive(Clone, Copy, Debug)]
pub struct Geometry {
    /// Pages of the keys.
    pub keys: PageLayout,
    /// Where the values are.
    pub values: ValuePages,
    /// Query heads a KV head.
    pub group: usize,
    /// Factor on the scores.
    pub scale: f32,
    /// Cells in reach.
    pub mask: Mask,
}

/// Where the values of a cell are.
#[derive(Clone, Copy, Debug)]
pub enum ValuePages {
    /// In pages of their own.
    Own(PageLayout),
    /// In those of the keys: so many elements from the start of each head.
    Prefix(usize),
}

impl Geometry {
    /// Elements of a V head.
    pub fn value_dim(&self) -> usize {
        match self.values {
            ValuePages::Own(layout) => layout.head_dim,
            ValuePages::Prefix(dim) => dim,
        }
    }

    /// The type that values are held in.
    fn value_type(&self) -> PageType {
        match self.values {
            ValuePages::Own(layout) => layout.kind,
            ValuePages::Prefix(_) => self.keys.kind,
        }
    }

    /// Rows of a sequence that one call takes.
    pub fn rows(&self) -> usize {
        (MOST_QUERIES / self.group).max(1)
    }

    /// Calls that the query heads of a KV head are divided among.
    pub fn parts(&self) -> usize {
        self.group.div_ceil(MOST_QUERIES)
    }

    /// The query heads of a KV head that call `part` takes: as many in each, fewer in the last.
    pub fn part(&self, part: usize) -> std::ops::Range<usize> {
        let each = self.group.div_ceil(self.parts());
        part * each..((part + 1) * each).min(self.group)
    }

    /// Floats of scratch for a call.
    pub fn scratch_floats(&self) -> usize {
        device::attention_floats(MOST_QUERIES, self.keys.head_dim, self.value_dim())
    }
}

/// Rows of one sequence, and the cells they may attend to.
pub struct Attend<'a> {
    /// What the node fixes; its group is that of this call.
    pub geometry: Geometry,
    /// The KV head.
    pub head: usize,
    /// The first of the query heads that this call takes, in a row.
    pub first_query: usize,
    /// The rows' queries, all heads: `rows x heads x key dim`.
    pub q: &'a [f32],
    /// Place of the first row in its sequence; the others follow it.
    pub first: usize,
    /// All pages of the keys.
    pub keys: &'a [u8],
    /// All pages of the values.
    pub values: &'a [u8],
    /// Cells at the beginning of the sequence that its block table leaves out; none of the rows attends to them.
    pub behind: usize,
    /// The sequence's block table.
    pub pages: &'a [u32],
    /// A bit a live cell of each of its pages; none where all are.
    pub live: &'a [u16],
    /// At least `geometry.scratch_floats()`.
    pub scratch: &'a mut [f32],
    /// The rows' results for the query heads of this call, each `group x value dim`.
    pub out: &'a mut [&'a mut [f32]],
}

/// The scratch of a call, cut up.
struct Parts<'a> {
    /// Queries, `queries x key dim`.
    q: &'a mut [f32],
    /// Scores, then weights, of a tile: `queries x TILE`.
    scores: &'a mut [f32],
    /// Factors on what a tile has summed before a cell, where that is rounded: `queries x TILE`; before there are weights,
    /// scores of a page with holes.
    rises: &'a mut [f32],
    /// Values of the tile, weighted: `queries x value dim`.
    part: &'a mut [f32],
    /// Values of all tiles so far.
    sum: &'a mut [f32],
    /// Largest score so far, then total weight so far, one a query.
    most: &'a mut [f32],
    total: &'a mut [f32],
    /// Factors on the old values and on the tile's, one a query.
    keep: &'a mut [f32],
    take: &'a mut [f32],
    /// A page as floats.
    key_page: &'a mut [f32],
    value_page: &'a mut [f32],
}

impl Job for Attend<'_> {
    type Out = ();

    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        let Attend { geometry: g, head, first_query, q, first, keys, values, behind, pages, live, scratch, out } = self;
        let rows = out.len();
        let mut parts = cut(&g, rows, scratch);
        take_queries(s, &g, first_query, q, rows, parts.q);
        parts.most.fill(f32::NEG_INFINITY);
        parts.total.fill(0.0);
        parts.sum.fill(0.0);
        let call = Call { g: &g, head, first, rows, keys, values, behind, pages, live };
        let reach = call.reach(0).start..call.reach(rows - 1).end;
        let mut place = Place { page: 0, first: behind };
        for tile in reach.start / TILE..reach.end.div_ceil(TILE) {
            let cells = reach.start.max(tile * TILE)..reach.end.min((tile + 1) * TILE);
            place = call.find(place, cells.start);
            call.scores(s, tile, (place, cells.end), &mut parts);
            call.weights(s, tile, cells.clone(), &mut parts);
            call.weighted_values(s, tile, (place, cells), &mut parts);
            merge(s, &mut parts, g.value_dim());
        }
        finish(&g, &parts, out);
    }
}

fn cut<'a>(g: &Geometry, rows: usize, scratch: &'a mut [f32]) -> Parts<'a> {
    let queries = rows * g.group;
    let (q, rest) = scratch.split_at_mut(queries * g.keys.head_dim);
    let (scores, rest) = rest.split_at_mut(queries * TILE);
    let (rises, rest) = rest.split_at_mut(queries * TILE);
    let (part, rest) = rest.split_at_mut(queries * g.value_dim());
    let (sum, rest) = rest.split_at_mut(queries * g.value_dim());
    let (most, rest) = rest.split_at_mut(queries);
    let (total, rest) = rest.split_at_mut(queries);
    let (keep, rest) = rest.split_at_mut(queries);
    let (take, rest) = rest.split_at_mut(queries);
    let (key_page, rest) = rest.split_at_mut(PAGE * g.keys.head_dim);
    let value_page = &mut rest[..PAGE * g.value_dim()];
    Parts { q, scores, rises, part, sum, most, total, keep, take, key_page, value_page }
}

#[inline(always)]
fn take_queries<S: Simd>(s: S, g: &Geometry, first_query: usize, q: &[f32], rows: usize, out: &mut [f32]) {
    let group = g.group * g.keys.head_dim;
    for (row, out) in q.chunks_exact(q.len() / rows).zip(out.chunks_exact_mut(group)) {
        let q = &row[first_query * g.keys.head_dim..][..group];
        for (q, out) in q.chunks(LANES).zip(out.chunks_mut(LANES)) {
            let whole = q.len() == LANES;
            let q = if whole { s.load(q) } else { s.load_part(q, 0.0) };
            let q = if g.keys.kind == PageType::F16 { s.round_f16(q) } else { q };
            if whole { s.store(q, out) } else { s.store_part(q, out) }
        }
    }
}

#[inline(always)]
fn finish(g: &Geometry, parts: &Parts<'_>, out: &mut [&mut [f32]]) {
    let queries = parts.sum.chunks_exact(g.value_dim()).zip(&*parts.total);
    let outs = out.iter_mut().flat_map(|row| row.chunks_exact_mut(g.value_dim()));
    for ((sum, total), out) in queries.zip(outs) {
        let inverse = 1.0 / total;
        for (out, sum) in out.iter_mut().zip(sum) {
            *out = sum * inverse;
        }
    }
}

struct Call<'a> {
    g: &'a Geometry,
    head: usize,
    first: usize,
    rows: usize,
    keys: &'a [u8],
    values: &'a [u8],
    behind: usize,
    pages: &'a [u32],
    live: &'a [u16],
}

/// A page of a block table, and the place of its first live cell in the sequence.
#[derive(Clone, Copy)]
struct Place {
    page: usize,
    first: usize,
}

impl Call<'_> {
    /// The page behind.
    #[inline(always)]
    fn next(&self, place: Place) -> Place {
        let cells = self.live.get(place.page).map_or(PAGE, |live| live.count_ones() as usize);
        Place { page: place.page + 1, first: place.first + cells }
    }

    /// The page that holds `cell`, which is not before `from`.
    #[inline(always)]
    fn find(&self, from: Place, cell: usize) -> Place {
        if self.live.is_empty() {
            let page = (cell - self.behind) / PAGE;
            return Place { page, first: self.behind + page * PAGE };
        }
        let mut place = from;
        while self.next(place).first <= cell {
            place = self.next(place);
        }
        place
    }

    /// The lanes of a page's live cells, where there are holes.
    fn lanes(&self, page: usize) -> impl Iterator<Item = usize> {
        let live = self.live.get(page).copied().unwrap_or(0);
        (0..PAGE).filter(move |lane| live >> lane & 1 == 1)
    }

    /// The cells that a row attends to, as places in its sequence.
    #[inline(always)]
    fn reach(&self, row: usize) -> std::ops::Range<usize> {
        let end = self.first + row + 1;
        match self.g.mask {
            Mask::Causal => 0..end,
            Mask::Window(n) => end.saturating_sub(n as usize)..end,
        }
    }

    /// A row's cells within `cells`.
    #[inline(always)]
    fn reach_in(&self, row: usize, cells: &std::ops::Range<usize>) -> std::ops::Range<usize> {
        let reach = self.reach(row);
        let start = reach.start.max(cells.start);
        start..reach.end.min(cells.end).max(start)
    }

    /// Whether the values of a tile are summed in f16.
    fn rounded(&self, tile: usize) -> bool {
        tile == 0 && self.g.value_type() == PageType::F16
    }

    /// The part of page `index` of the sequence that holds this head.
    #[inline(always)]
    fn page<'p>(&self, layout: &PageLayout, bytes: &'p [u8], index: usize) -> &'p [u8] {
        let start = self.pages[index] as usize * layout.page_bytes() + self.head * layout.head_bytes();
        &bytes[start..start + layout.head_bytes()]
    }

    /// Scores of all queries with `cells`, which begin in the page at `place`.
    #[inline(always)]
    fn scores<S: Simd>(&self, s: S, tile: usize, (place, end): (Place, usize), parts: &mut Parts<'_>) {
        let mut place = place;
        while place.first < end {
            let head = self.page(&self.g.keys, self.keys, place.page);
            Expand { layout: self.g.keys, head, out: parts.key_page }.run(s);
            // Where there are holes, to what nobody needs before the scores of the tile are complete.
            let whole = self.live.is_empty();
            let scores = if whole { &mut parts.scores[place.first - tile * TILE..] } else { &mut *parts.rises };
            self.page_scores(s, tile, (parts.q, parts.key_page), scores);
            if !whole {
                self.pick_scores(tile, place, parts);
            }
            place = self.next(place);
        }
    }

    /// Scores of all queries with the cells of a page.
    #[inline(always)]
    fn page_scores<S: Simd>(&self, s: S, tile: usize, (q, keys): (&[f32], &[f32]), scores: &mut [f32]) {
        let (dim, queries) = (self.g.keys.head_dim, self.rows * self.g.group);
        let mut i = 0;
        while self.rounded(tile) && i + 2 <= queries {
            exact_dots::<S, 2>(s, &q[i * dim..], dim, keys, &mut scores[i * TILE..]);
            i += 2;
        }
        while self.rounded(tile) && i < queries {
            exact_dots::<S, 1>(s, &q[i * dim..], dim, keys, &mut scores[i * TILE..]);
            i += 1;
        }
        while i + 8 <= queries {
            dots::<S, 8>(s, &q[i * dim..], dim, keys, &mut scores[i * TILE..]);
            i += 8;
        }
        while i + 4 <= queries {
            dots::<S, 4>(s, &q[i * dim..], dim, keys, &mut scores[i * TILE..]);
            i += 4;
        }
        while i < queries {
            dots::<S, 1>(s, &q[i * dim..], dim, keys, &mut scores[i * TILE..]);
            i += 1;
        }
    }

    /// Of the scores of a page, which lie in `rises`, those of its live cells to their places in the tile.
    fn pick_scores(&self, tile: usize, place: Place, parts: &mut Parts<'_>) {
        for (cell, lane) in (place.first..).zip(self.lanes(place.page)) {
            if cell / TILE == tile {
                for query in 0..self.rows * self.g.group {
                    parts.scores[query * TILE + cell % TILE] = parts.rises[query * TILE + lane];
                }
            }
        }
    }

    /// Scores → weights relative to the tile's maximum; merges maximum and total, and says how to merge the values.
    #[inline(always)]
    fn weights<S: Simd>(&self, s: S, tile: usize, cells: std::ops::Range<usize>, parts: &mut Parts<'_>) {
        for query in 0..self.rows * self.g.group {
            let reach = self.reach_in(query / self.g.group, &cells);
            if reach.is_empty() {
                (parts.keep[query], parts.take[query]) = (1.0, 0.0);
                continue;
            }
            let scores = &mut parts.scores[query * TILE..(query + 1) * TILE];
            let reach = reach.start - tile * TILE..reach.end - tile * TILE;
            let (most, total) = if self.rounded(tile) {
                let rises = &mut parts.rises[query * TILE..(query + 1) * TILE];
                rising_exponentials(s, scores, rises, reach, self.g.scale)
            } else {
                exponentials(s, scores, reach, self.g.scale)
            };
            let before = parts.most[query];
            let now = if most > before { most } else { before };
            let (keep, take) = (factor(s, before, now), factor(s, most, now));
            (parts.keep[query], parts.take[query]) = (keep, take);
            parts.most[query] = now;
            parts.total[query] = parts.total[query] * keep + total * take;
        }
    }

    /// The values of a page as floats, `[cell][element]`.
    #[inline(always)]
    fn expand_values<S: Simd>(&self, s: S, page: usize, parts: &mut Parts<'_>) {
        match self.g.values {
            ValuePages::Own(layout) => {
                let head = self.page(&layout, self.values, page);
                Expand { layout, head, out: parts.value_page }.run(s);
            }
            ValuePages::Prefix(dim) => {
                let head = self.page(&self.g.keys, self.keys, page);
                Expand { layout: self.g.keys, head, out: parts.key_page }.run(s);
                turn(&parts.key_page[..dim * PAGE], parts.value_page);
            }
        }
    }

    /// Values of a page's live cells, brought together at its beginning.
    fn close_holes(&self, page: usize, values: &mut [f32]) {
        if self.live.is_empty() {
            return;
        }
        let dim = self.g.value_dim();
        for (cell, lane) in self.lanes(page).enumerate().filter(|(cell, lane)| cell < lane) {
            values.copy_within(lane * dim..(lane + 1) * dim, cell * dim);
        }
    }

    /// The tile's values times their weights, into `part`.
    #[inline(always)]
    fn weighted_values<S: Simd>(
        &self,
        s: S,
        tile: usize,
        (place, cells): (Place, std::ops::Range<usize>),
        parts: &mut Parts<'_>,
    ) {
        let (dim, group) = (self.g.value_dim(), self.g.group);
        parts.part.fill(0.0);
        let mut place = place;
        while place.first < cells.end {
            self.expand_values(s, place.page, parts);
            self.close_holes(place.page, parts.value_page);
            let next = self.next(place);
            // A page with holes before it may lie across two tiles.
            let in_page = place.first.max(tile * TILE)..next.first;
            let (skipped, at) = ((in_page.start - place.first) * dim, in_page.start - tile * TILE);
            let in_reach = cells.start.max(in_page.start)..cells.end.min(in_page.end);
            let whole = |row: usize| self.reach_in(row, &in_reach);
            let mut i = 0;
            while i < self.rows * group {
                let reach = whole(i / group);
                let lanes = reach.start - in_page.start.min(reach.start)..reach.end - in_page.start.min(reach.end);
                let weights =
                    Weights { p: &parts.scores[i * TILE + at..], rises: &parts.rises[i * TILE + at..], lanes };
                let (values, out) = (&parts.value_page[skipped..], &mut parts.part[i * dim..]);
                let four = i + 4 <= self.rows * group && whole((i + 3) / group) == reach;
                match (four, self.rounded(tile)) {
                    (true, false) => mix::<S, 4, false>(s, &weights, values, dim, out),
                    (true, true) => mix::<S, 4, true>(s, &weights, values, dim, out),
                    (false, false) => mix::<S, 1, false>(s, &weights, values, dim, out),
                    (false, true) => mix::<S, 1, true>(s, &weights, values, dim, out),
                }
                i += if four { 4 } else { 1 };
            }
            place = next;
        }
    }
}

/// `[element][cell]` → `[cell][element]`.
#[inline(always)]
fn turn(keys: &[f32], values: &mut [f32]) {
    let dim = keys.len() / PAGE;
    for (i, cells) in keys.chunks_exact(PAGE).enumerate() {
        for (cell, x) in cells.iter().enumerate() {
            values[cell * dim + i] = *x;
        }
    }
}

/// `sum = sum * keep + part * take` for every query.
#[inline(always)]
fn merge<S: Simd>(s: S, parts: &mut Parts<'_>, dim: usize) {
    for query in 0..parts.keep.len() {
        let (keep, take) = (s.splat(parts.keep[query]), s.splat(parts.take[query]));
        let range = query * dim..(query + 1) * dim;
        let (sum, part) = (&mut parts.sum[range.clone()], &parts.part[range]);
        let whole = dim - dim % LANES;
        for at in (0..whole).step_by(LANES) {
            let merged = s.fma(s.load(&part[at..]), take, s.mul(s.load(&sum[at..]), keep));
            s.store(merged, &mut sum[at..]);
        }
        if whole < dim {
            let (sum, part) = (&mut sum[whole..], &part[whole..]);
            let merged = s.fma(s.load_part(part, 0.0), take, s.mul(s.load_part(sum, 0.0), keep));
            s.store_part(merged, sum);
        }
    }
}

/// Weights of queries for the cells of a page, `TILE` apart, and the cells that count.
struct Weights<'a> {
    p: &'a [f32],
    rises: &'a [f32],
    lanes: std::ops::Range<usize>,
}

/// Values of a page times the weights of `N` queries, added to `out`; rounded to f16 at each cell if `ROUND`.
#[inline(always)]
fn mix<S: Simd, const N: usize, const ROUND: bool>(
    s: S,
    weights: &Weights<'_>,
    values: &[f32],
    dim: usize,
    out: &mut [f32],
) {
    let mut at = 0;
    while at + 4 * LANES <= dim {
        mix_vectors::<S, N, 4, ROUND>(s, weights, &values[at..], dim, &mut out[at..]);
        at += 4 * LANES;
    }
    while at + LANES <= dim {
        mix_vectors::<S, N, 1, ROUND>(s, weights, &values[at..], dim, &mut out[at..]);
        at += LANES;
    }
    if at < dim {
        mix_rest::<S, N, ROUND>(s, weights, &values[at..], dim, &mut out[at..]);
    }
}

/// [`mix`] of `W` vectors of each row: chains enough to hide the latency of rounding.
#[inline(always)]
fn mix_vectors<S: Simd, const N: usize, const W: usize, const ROUND: bool>(
    s: S,
    weights: &Weights<'_>,
    values: &[f32],
    dim: usize,
    out: &mut [f32],
) {
    let mut sum = [[s.splat(0.0); W]; N];
    for (j, sum) in sum.iter_mut().enumerate() {
        for (w, sum) in sum.iter_mut().enumerate() {
            *sum = s.load(&out[j * dim + w * LANES..]);
        }
    }
    for lane in weights.lanes.clone() {
        for (j, sum) in sum.iter_mut().enumerate() {
            let rise = weights.rises[j * TILE + lane];
            let p = s.splat(weights.p[j * TILE + lane]);
            for (w, sum) in sum.iter_mut().enumerate() {
                let value = s.load(&values[lane * dim + w * LANES..]);
                *sum = mixed::<S, ROUND>(s, *sum, rise, p, value);
            }
        }
    }
    for (j, sum) in sum.into_iter().enumerate() {
        for (w, sum) in sum.into_iter().enumerate() {
            s.store(sum, &mut out[j * dim + w * LANES..]);
        }
    }
}

/// [`mix`] of the last elements of each row, fewer than a vector.
#[inline(always)]
fn mix_rest<S: Simd, const N: usize, const ROUND: bool>(
    s: S,
    weights: &Weights<'_>,
    values: &[f32],
    dim: usize,
    out: &mut [f32],
) {
    let width = dim % LANES;
    for j in 0..N {
        let mut sum = s.load_part(&out[j * dim..j * dim + width], 0.0);
        for lane in weights.lanes.clone() {
            let value = s.load_part(&values[lane * dim..lane * dim + width], 0.0);
            let p = s.splat(weights.p[j * TILE + lane]);
            sum = mixed::<S, ROUND>(s, sum, weights.rises[j * TILE + lane], p, value);
        }
        s.store_part(sum, &mut out[j * dim..j * dim + width]);
    }
}

/// One cell's value added to a sum that `rise` shrinks first.
#[inline(always)]
fn mixed<S: Simd, const ROUND: bool>(s: S, sum: S::F, rise: f32, p: S::F, value: S::F) -> S::F {
    if !ROUND {
        return s.fma(value, p, sum);
    }
    let sum = if rise == 1.0 { sum } else { s.round_f16(s.mul(sum, s.splat(rise))) };
    s.round_f16(s.fma(value, p, sum))
}
