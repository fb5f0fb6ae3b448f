//! Rates of the matmul kernels beside the machine's own: `cargo bench --bench matmul -- [TYPE|COLUMNS|tN ...]`.
//! Words choose types (`q4_0`), column counts (`256`) and thread counts (`t1`); none means all.
//! Times are of processor time of the busiest thread, so that neighbours cost little; each figure is the median of
//! several passes, between which the machine's own rates are measured again.
#![allow(unsafe_code)]

use std::sync::Barrier;
use std::sync::atomic::{AtomicUsize, Ordering};

use loadmaster::backend::cpu::simd::matmul::{
    ActView, Epilogue, OutView, Product, WeightView, act_format, act_row_bytes, quantize, scratch_bytes,
};
use loadmaster::backend::cpu::simd::{Isa, Job, Simd};
use loadmaster::tensor::DType;
use loadmaster::tensor::panel::{Layout, PANEL_ROWS, pack, panel_supported};
use loadmaster::tensor::quant::random_blocks;

const SHAPES: [(usize, usize); 2] = [(2048, 2048), (8192, 2048)];
const COLUMNS: [usize; 5] = [1, 4, 8, 64, 256];
const TYPES: [DType; 8] =
    [DType::Q4_0, DType::Q8_0, DType::Q4K, DType::Q5K, DType::Q6K, DType::F16, DType::Bf16, DType::F32];
/// Distinct weights that a decode pass reads: far more than the caches hold.
const WEIGHT_BYTES: usize = 512 << 20;
const PASSES: usize = 7;

fn main() {
    let words: Vec<String> = std::env::args().skip(1).filter(|word| !word.starts_with('-')).collect();
    let pick = |word: String, all: &[String]| words.contains(&word) || !words.iter().any(|w| all.contains(w));
    let isa = words.iter().find_map(|w| Isa::ALL.into_iter().find(|i| i.name() == w)).unwrap_or_else(Isa::detect);
    let types: Vec<String> = DType::ALL.iter().map(|t| t.name().to_owned()).collect();
    let counts: Vec<String> = COLUMNS.iter().map(usize::to_string).collect();
    let threads: Vec<String> = vec!["t1".into(), "t2".into()];
    let memory = Huge::new(WEIGHT_BYTES + (8 << 20));
    println!("{isa}");
    println!("| type | shape | columns | threads | GOP/s | of dot | GB/s | of read | dot GOP/s | read GB/s |");
    println!("|---|---|---|---|---|---|---|---|---|---|");
    let cpus = std::thread::available_parallelism().map_or(1, usize::from);
    for dtype in DType::ALL.iter().copied().filter(|t| TYPES.contains(t) || words.contains(&t.name().to_owned())) {
        if !pick(dtype.name().to_owned(), &types) {
            continue;
        }
        for (rows, cols) in SHAPES {
            let layout = if panel_supported(dtype) && !words.contains(&"gguf".to_owned()) {
                Layout::Panel16
            } else {
                Layout::Gguf
            };
            let copies = fill(&memory, dtype, layout, rows, cols);
            for n in COLUMNS.into_iter().filter(|n| pick(n.to_string(), &counts)) {
                for t in (1..=cpus.min(2)).filter(|t| pick(format!("t{t}"), &threads)) {
                    let case = Case { isa, dtype, layout, rows, cols, n, threads: t, copies };
                    measure(&case, &memory);
                }
            }
        }
    }
}

/// Memory in huge pages, never given back.
struct Huge {
    start: *mut u8,
    len: usize,
}

// SAFETY: the bytes are written only by `fill`, while no other thread runs.
unsafe impl Sync for Huge {}

impl Huge {
    fn new(len: usize) -> Huge {
        // SAFETY: a private anonymous mapping of a new range, advised within its bounds.
        let start = unsafe {
            let flags = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS;
            let p = libc::mmap(std::ptr::null_mut(), len, libc::PROT_READ | libc::PROT_WRITE, flags, -1, 0);
            assert_ne!(p, libc::MAP_FAILED, "{len} bytes of memory");
            libc::madvise(p, len, libc::MADV_HUGEPAGE);
            p.cast::<u8>()
        };
        let skip = start.align_offset(2 << 20);
        // SAFETY: the first boundary lies in the mapping, which is longer than two huge pages.
        Huge { start: unsafe { start.add(skip) }, len: len - skip }
    }

    fn bytes(&self) -> &[u8] {
        // SAFETY: mapped in `new`, zero or as `fill` left it.
        unsafe { std::slice::from_raw_parts(self.start, self.len) }
    }
}

/// Fills the memory with copies of one random matrix; returns their number.
fn fill(memory: &Huge, dtype: DType, layout: Layout, rows: usize, cols: usize) -> usize {
    let mut state = 1u64;
    let mut rng = || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state
    };
    let row = dtype.row_bytes(cols as u64).unwrap().index();
    let mut matrix = vec![0; row * rows];
    random_blocks(dtype, 1.0, &mut rng, &mut matrix).unwrap();
    if layout == Layout::Panel16 {
        let mut packed = vec![0; matrix.len()];
        let panels = matrix.chunks(row * PANEL_ROWS).zip(packed.chunks_mut(row * PANEL_ROWS));
        panels.for_each(|(rows, panel)| pack(dtype, cols, rows, panel));
        matrix = packed;
    }
    // SAFETY: no other thread runs now, and nobody holds the bytes.
    let bytes = unsafe { std::slice::from_raw_parts_mut(memory.start, WEIGHT_BYTES) };
    let copies = bytes.chunks_exact_mut(matrix.len());
    let n = copies.len();
    copies.for_each(|copy| copy.copy_from_slice(&matrix));
    n
}

struct Case {
    isa: Isa,
    dtype: DType,
    layout: Layout,
    rows: usize,
    cols: usize,
    n: usize,
    threads: usize,
    copies: usize,
}

fn measure(case: &Case, memory: &Huge) {
    let &Case { isa, dtype, layout, rows, cols, n, threads, copies } = case;
    let format = act_format(dtype).unwrap();
    let x: Vec<f32> = (0..n * cols).map(|i| ((i * 7919) % 2003) as f32 / 1001.0 - 1.0).collect();
    let mut acts = vec![0; act_row_bytes(format, cols) * n];
    quantize(isa, format, cols, &x, &mut acts);
    let mut out = vec![0.0; rows * n];
    let bytes = dtype.row_bytes(cols as u64).unwrap().index() * rows;
    // About 30 GOP a pass, at least one and at most all copies.
    let ops = 2.0 * rows as f64 * cols as f64 * n as f64;
    let used = ((3e10 * threads as f64 / ops) as usize).clamp(1, copies);
    let (mut rates, mut dots, mut reads) = (Vec::new(), Vec::new(), Vec::new());
    let out = OutView::new(&mut out, rows, None);
    for _ in 0..PASSES {
        let next = AtomicUsize::new(0);
        let chunks = rows / PANEL_ROWS / 8;
        let seconds = timed(threads, |_| {
            let mut scratch = vec![0; scratch_bytes(dtype, layout)];
            loop {
                let i = next.fetch_add(1, Ordering::Relaxed);
                if i >= used * chunks {
                    break;
                }
                let weight = &memory.bytes()[i / chunks * bytes..][..bytes];
                let weight = WeightView { dtype, layout, bytes: weight, rows, cols };
                let product =
                    Product { weight, acts: ActView { bytes: &acts, index: None }, out, epilogue: Epilogue::default() };
                let panels = i % chunks * 8..i % chunks * 8 + 8;
                product.compute(isa, panels, &mut scratch);
            }
        });
        rates.push(used as f64 / seconds);
        dots.push(threads as f64 * DOT_OPS / timed(threads, |_| isa.run(Dots)));
        let share = WEIGHT_BYTES / 2 / threads;
        reads.push((share * threads) as f64 / timed(threads, |i| isa.run(Read(&memory.bytes()[i * share..][..share]))));
    }
    let (rate, dot, read) = (median(rates), median(dots), median(reads));
    println!(
        "| {dtype} | {rows}x{cols} | {n} | {threads} | {:.0} | {:.0}% | {:.1} | {:.0}% | {:.0} | {:.1} |",
        rate * ops / 1e9,
        100.0 * rate * ops / dot,
        rate * bytes as f64 / 1e9,
        100.0 * rate * bytes as f64 / read,
        dot / 1e9,
        read / 1e9,
    );
}

/// Processor seconds of the busiest of pinned threads.
fn timed(threads: usize, work: impl Fn(usize) + Sync) -> f64 {
    let start = Barrier::new(threads);
    let run = |i: usize| {
        pin(i);
        start.wait();
        let before = thread_seconds();
        work(i);
        thread_seconds() - before
    };
    std::thread::scope(|scope| {
        let run = &run;
        let threads: Vec<_> = (0..threads).map(|i| scope.spawn(move || run(i))).collect();
        threads.into_iter().map(|t| t.join().unwrap()).fold(0.0, f64::max)
    })
}

fn pin(cpu: usize) {
    // SAFETY: an all-zero set is empty; the call reads the set only.
    unsafe {
        let mut set: libc::cpu_set_t = std::mem::zeroed();
        libc::CPU_SET(cpu, &mut set);
        libc::sched_setaffinity(0, size_of_val(&set), &set);
    }
}

fn thread_seconds() -> f64 {
    let mut time = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: the call writes one timespec.
    unsafe { libc::clock_gettime(libc::CLOCK_THREAD_CPUTIME_ID, &mut time) };
    time.tv_sec as f64 + time.tv_nsec as f64 * 1e-9
}

fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    values[values.len() / 2]
}

const DOT_CHAINS: usize = 12;
const DOT_ROUNDS: usize = 2_000_000;
const DOT_OPS: f64 = (DOT_CHAINS * DOT_ROUNDS * 128) as f64;

/// Dot products of registers alone.
struct Dots;

impl Job for Dots {
    type Out = ();

    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        let u = std::hint::black_box(s.splat_i(0x0102_0304));
        let mut sums = [s.splat_i(1); DOT_CHAINS];
        for _ in 0..DOT_ROUNDS {
            // Each product has a new operand, so that none can be taken out of the loop.
            for i in 0..DOT_CHAINS {
                sums[i] = s.dot_u7(sums[i], u, sums[(i + 1) % DOT_CHAINS]);
            }
        }
        std::hint::black_box(sums);
    }
}

/// Reads memory and does next to nothing with it.
struct Read<'a>(&'a [u8]);

impl Job for Read<'_> {
    type Out = ();

    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        let mut sums = [s.splat_i(0); 4];
        for bytes in self.0.chunks_exact(256) {
            for (i, sum) in sums.iter_mut().enumerate() {
                // SAFETY: 64 of 256 bytes.
                *sum = s.xor(*sum, unsafe { s.load_bytes(bytes.as_ptr().add(64 * i)) });
            }
        }
        std::hint::black_box(sums);
    }
}
