//! Products of weights and activations: one result in every instruction set, layout, tile and order, near f64's.

use loadmaster::backend::cpu::simd::Isa;
use loadmaster::backend::cpu::simd::matmul::{
    ActFormat, ActView, Epilogue, OutView, Product, Residual, WeightView, act_format, act_row_bytes, quantize,
    scratch_bytes,
};
use loadmaster::tensor::DType;
use loadmaster::tensor::panel::{self, Layout, PANEL_ROWS, pack, panel_bytes, panel_supported};
use loadmaster::tensor::quant::{can_decode, decode, random_blocks};
use proptest::prelude::*;

fn sets() -> impl Iterator<Item = Isa> {
    Isa::ALL.into_iter().filter(|isa| isa.available())
}

fn types() -> impl Iterator<Item = DType> {
    DType::ALL.iter().copied().filter(|t| act_format(*t).is_some())
}

/// A small generator (xorshift), seeded.
fn random(seed: u64) -> impl FnMut() -> u64 {
    let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    move || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state
    }
}

/// A weight in the file's layout and, where the type has them, in panels, with activations for it.
struct Case {
    dtype: DType,
    rows: usize,
    cols: usize,
    gguf: Vec<u8>,
    panels: Vec<u8>,
    x: Vec<f32>,
}

impl Case {
    fn new(dtype: DType, rows: usize, cols: usize, columns: usize, seed: u64) -> Case {
        let mut rng = random(seed);
        let row = dtype.row_bytes(cols as u64).unwrap().index();
        let mut gguf = vec![0; row * rows];
        random_blocks(dtype, 1.0, &mut rng, &mut gguf).unwrap();
        let mut panels = Vec::new();
        if panel_supported(dtype) {
            panels = vec![0xaa; panel_bytes(dtype, rows as u64, cols as u64).unwrap().index()];
            let chunks = gguf.chunks(row * PANEL_ROWS).zip(panels.chunks_mut(row * PANEL_ROWS));
            chunks.for_each(|(rows, panel)| pack(dtype, cols, rows, panel));
        }
        // Uneven magnitudes, so that blocks differ in scale.
        let x = (0..columns * cols).map(|i| {
            let r = rng();
            ((r >> 40) as f32 / (1 << 23) as f32 - 1.0) * (1 + i / 50 % 7) as f32
        });
        Case { dtype, rows, cols, gguf, panels, x: x.collect() }
    }

    fn weight(&self, layout: Layout) -> WeightView<'_> {
        let bytes = if layout == Layout::Gguf { &self.gguf } else { &self.panels };
        WeightView { dtype: self.dtype, layout, bytes, rows: self.rows, cols: self.cols }
    }

    fn layouts(&self) -> impl Iterator<Item = Layout> {
        [Layout::Gguf, Layout::Panel16].into_iter().filter(|l| *l == Layout::Gguf || panel_supported(self.dtype))
    }

    fn acts(&self, isa: Isa) -> Vec<u8> {
        quantized(isa, self.dtype, self.cols, &self.x)
    }

    /// All products, in calls of at most `chunk` panels.
    fn run(&self, isa: Isa, layout: Layout, acts: &[u8], chunk: usize) -> Vec<f32> {
        let mut out = vec![f32::NAN; acts.len() / self.act_row() * self.rows];
        let weight = self.weight(layout);
        let product = Product {
            weight,
            acts: ActView { bytes: acts, index: None },
            out: OutView::new(&mut out, self.rows, None),
            epilogue: Epilogue::default(),
        };
        let mut scratch = vec![0xff; scratch_bytes(self.dtype, layout)];
        for p in (0..weight.panels()).step_by(chunk) {
            product.compute(isa, p..(p + chunk).min(weight.panels()), &mut scratch);
        }
        out
    }

    fn act_row(&self) -> usize {
        act_row_bytes(act_format(self.dtype).unwrap(), self.cols)
    }

    fn decoded(&self) -> Vec<f32> {
        let mut w = vec![0.0; self.rows * self.cols];
        decode(self.dtype, &self.gguf, &mut w).unwrap();
        w
    }
}

fn quantized(isa: Isa, dtype: DType, cols: usize, x: &[f32]) -> Vec<u8> {
    let format = act_format(dtype).unwrap();
    let mut acts = vec![0xff; x.len() / cols * act_row_bytes(format, cols)];
    quantize(isa, format, cols, x, &mut acts);
    acts
}

/// What quantised activations stand for, and whether their sums are those of their codes.
fn dequantized(format: ActFormat, acts: &[u8]) -> Vec<f64> {
    let f32_at = |b: &[u8], at: usize| f32::from_le_bytes(b[at..at + 4].try_into().unwrap());
    let i32_at = |b: &[u8], at: usize| i32::from_le_bytes(b[at..at + 4].try_into().unwrap());
    let (n, bytes) = match format {
        ActFormat::F32 | ActFormat::F16 => return acts.chunks_exact(4).map(|b| f64::from(f32_at(b, 0))).collect(),
        ActFormat::Q8x32 => (32, 44),
        ActFormat::Q8x256 => (256, 340),
    };
    let mut x = Vec::new();
    for block in acts.chunks_exact(bytes) {
        let codes: Vec<i32> = block[..n].iter().map(|&c| i32::from(c as i8)).collect();
        assert!(codes.iter().all(|c| c.abs() <= 127));
        match format {
            ActFormat::F32 | ActFormat::F16 => unreachable!(),
            ActFormat::Q8x32 => {
                let sum: i32 = codes.iter().sum();
                assert_eq!([i32_at(block, 36), i32_at(block, 40)], [-8 * sum, -128 * sum]);
            }
            ActFormat::Q8x256 => {
                for (i, run) in codes.chunks(16).enumerate() {
                    assert_eq!(i32_at(block, 276 + 4 * i), -32 * run.iter().sum::<i32>());
                }
                for (i, run) in codes.chunks(32).enumerate() {
                    let sum = i16::from_le_bytes(block[260 + 2 * i..][..2].try_into().unwrap());
                    assert_eq!(i32::from(sum), run.iter().sum::<i32>());
                }
            }
        }
        let scale = f64::from(f32_at(block, n));
        x.extend(codes.iter().map(|&c| scale * f64::from(c)));
    }
    x
}

fn bits(x: &[f32]) -> Vec<u32> {
    x.iter().map(|x| x.to_bits()).collect()
}

/// Columns of k that make whole blocks of the type but not of anything larger.
fn odd_cols(dtype: DType, n: usize) -> usize {
    match dtype.block().elements {
        1 => 32 * n + 5,
        block => block as usize * n,
    }
}

#[test]
fn every_decodable_type_can_be_multiplied() {
    for dtype in DType::ALL {
        assert_eq!(act_format(*dtype).is_some(), can_decode(*dtype), "{dtype}");
    }
}

#[test]
fn all_sets_layouts_tiles_and_chunks_give_the_same_bits() {
    for (i, dtype) in types().enumerate() {
        let case = Case::new(dtype, 53, odd_cols(dtype, 3), 50, i as u64 + 1);
        let acts = case.acts(Isa::Scalar);
        let expected = bits(&case.run(Isa::Scalar, Layout::Gguf, &acts, 1));
        for isa in sets() {
            assert_eq!(case.acts(isa), acts, "activations of {dtype} by {isa}");
            for layout in case.layouts() {
                for columns in (1..=13).chain([16, 17, 26, 50]) {
                    let acts = &acts[..columns * case.act_row()];
                    let got = bits(&case.run(isa, layout, acts, 1 + columns % 4));
                    assert_eq!(got, expected[..columns * case.rows], "{dtype} {isa} {layout:?} {columns} columns");
                }
            }
        }
    }
}

#[test]
fn parts_of_long_rows_and_blocks_of_many_columns_give_the_same_bits() {
    // Rows longer than the scratch for an expanded part; columns past a cache block.
    let cases = [
        (DType::F32, 4100, 3),
        (DType::F16, 10_300, 3),
        (DType::Q8_0, 9_696, 70),
        (DType::Q4_0, 32 * 600, 50),
        (DType::Q5_1, 32 * 280, 8),
        (DType::Q4K, 256 * 75, 40),
        (DType::Q6K, 256 * 50, 2),
        (DType::Q2K, 256 * 30, 9),
        (DType::Q4_0, 32, 1000),
    ];
    for (dtype, cols, columns) in cases {
        let case = Case::new(dtype, 19, cols, columns, 77);
        let isa = Isa::detect();
        let acts = case.acts(isa);
        let mut one_by_one = Vec::new();
        for acts in acts.chunks(case.act_row()) {
            one_by_one.extend(case.run(isa, Layout::Gguf, acts, 2));
        }
        for layout in case.layouts() {
            assert_eq!(bits(&case.run(isa, layout, &acts, 2)), bits(&one_by_one), "{dtype} {cols} {layout:?}");
        }
        if columns < 10 {
            assert_eq!(
                bits(&case.run(Isa::Scalar, Layout::Gguf, &acts, 2)),
                bits(&one_by_one),
                "{dtype} {cols} scalar"
            );
        }
    }
}

#[test]
fn products_are_near_those_of_f64() {
    for (i, dtype) in types().enumerate() {
        let case = Case::new(dtype, 35, odd_cols(dtype, 9), 4, 100 + i as u64);
        let (isa, w) = (Isa::detect(), case.decoded());
        let acts = case.acts(isa);
        let got = case.run(isa, case.layouts().last().unwrap(), &acts, 3);
        let x = dequantized(act_format(dtype).unwrap(), &acts);
        let (mut error, mut signal) = (0.0, 0.0);
        for column in 0..4 {
            for row in 0..case.rows {
                let w = &w[row * case.cols..][..case.cols];
                let at = column * case.cols;
                let terms = || w.iter().zip(&x[at..at + case.cols]).map(|(w, x)| f64::from(*w) * x);
                let (want, size): (f64, f64) = (terms().sum(), terms().map(f64::abs).sum());
                let got = f64::from(got[column * case.rows + row]);
                // A few roundings in a chain of blocks, relative to what is summed.
                assert!((got - want).abs() <= 2e-6 * size, "{dtype} row {row} column {column}: {got}, f64 says {want}");
                let true_x = &case.x[at..at + case.cols];
                let exact: f64 = w.iter().zip(true_x).map(|(w, x)| f64::from(*w) * f64::from(*x)).sum();
                error += (got - exact).powi(2);
                signal += exact.powi(2);
            }
        }
        // Eight-bit activations: about (1/127)^2 / 12 times a peak-to-mean ratio of 3 to 10.
        let limit = match act_format(dtype).unwrap() {
            ActFormat::F32 => 1e-12,
            ActFormat::F16 => 1e-6,
            ActFormat::Q8x32 | ActFormat::Q8x256 => 1e-4,
        };
        assert!(error <= limit * signal, "{dtype}: normalised squared error {}", error / signal);
    }
}

#[test]
fn rows_are_gathered_and_scattered_by_index() {
    for dtype in [DType::F16, DType::Q4_0, DType::Q4K, DType::Q5_0] {
        let case = Case::new(dtype, 40, 512, 9, 5);
        let isa = Isa::detect();
        let acts = case.acts(isa);
        let layout = case.layouts().last().unwrap();
        let run = |index: &[u32], out: OutView| {
            let acts = ActView { bytes: &acts, index: Some(index) };
            let product = Product { weight: case.weight(layout), acts, out, epilogue: Epilogue::default() };
            product.compute(isa, 0..3, &mut vec![0; scratch_bytes(dtype, layout)]);
        };
        let mut all = vec![0.0; 9 * 40];
        run(&[0, 1, 2, 3, 4, 5, 6, 7, 8], OutView::new(&mut all, 40, None));
        let (from, to) = ([8u32, 0, 3, 3, 5, 1, 7], [2u32, 9, 0, 4, 1, 11, 6]);
        let mut out = vec![-1.0; 12 * 50];
        run(&from, OutView::new(&mut out, 50, Some(&to)));
        for row in 0..12u32 {
            let got = &out[row as usize * 50..][..50];
            match to.iter().position(|&t| t == row) {
                Some(i) => assert_eq!(bits(&got[..40]), bits(&all[from[i] as usize * 40..][..40]), "{dtype}"),
                None => assert_eq!(got[..40], [-1.0; 40]),
            }
            assert_eq!(got[40..], [-1.0; 10], "beyond the weight's rows nothing is written");
        }
    }
}

#[test]
fn the_epilogue_adds_bias_then_residual() {
    let case = Case::new(DType::Q8_0, 37, 96, 5, 9);
    let bias: Vec<f32> = (0..37).map(|i| i as f32 * 0.3 - 4.0).collect();
    let residual: Vec<f32> = (0..5 * 41).map(|i| (i % 29) as f32 * 0.7).collect();
    for isa in sets() {
        let acts = case.acts(isa);
        let plain = case.run(isa, Layout::Panel16, &acts, 2);
        let want = |i: usize, j: usize, residual: f32| (plain[i * 37 + j] + bias[j]) + residual;
        for in_place in [false, true] {
            let mut out = residual.clone();
            let residual_of = match in_place {
                true => Residual::Output,
                false => Residual::Matrix { data: &residual, stride: 41 },
            };
            Product {
                weight: case.weight(Layout::Panel16),
                acts: ActView { bytes: &acts, index: None },
                out: OutView::new(&mut out, 41, None),
                epilogue: Epilogue { bias: Some(&bias), residual: residual_of },
            }
            .compute(isa, 0..3, &mut []);
            for (i, row) in out.chunks(41).enumerate() {
                for (j, got) in row.iter().enumerate() {
                    let old = residual[i * 41 + j];
                    assert_eq!(got.to_bits(), if j < 37 { want(i, j, old) } else { old }.to_bits(), "{isa} {i} {j}");
                }
            }
        }
    }
}

#[test]
fn rows_that_are_not_finite_give_nan_and_leave_others_alone() {
    for dtype in types() {
        let mut case = Case::new(dtype, 17, 256, 5, 3);
        let clean = case.run(Isa::detect(), Layout::Gguf, &case.acts(Isa::detect()), 2);
        case.x[256 + 9] = f32::NAN;
        case.x[2 * 256 + 70] = f32::INFINITY;
        case.x[3 * 256 + 255] = f32::NEG_INFINITY;
        for isa in sets() {
            let acts = case.acts(isa);
            assert_eq!(acts, case.acts(Isa::Scalar), "{dtype} {isa}");
            let got = case.run(isa, Layout::Gguf, &acts, 2);
            assert!(got[17..34].iter().all(|y| y.is_nan()), "{dtype} {isa}");
            assert!(got[34..68].iter().all(|y| !y.is_finite()), "{dtype} {isa}");
            assert_eq!(bits(&got[..17]), bits(&clean[..17]));
            assert_eq!(bits(&got[68..]), bits(&clean[68..]));
        }
    }
}

#[test]
fn tiny_and_huge_activations_quantise_without_overflow() {
    for value in [0.0, 1e-45, 1e-38, 1e-30, 1.0, 3e38, f32::MAX] {
        for dtype in [DType::Q8_0, DType::Q4K] {
            let x: Vec<f32> = (0..256).map(|i| if i % 3 == 0 { -value } else { value * 0.5 }).collect();
            for isa in sets() {
                let acts = quantized(isa, dtype, 256, &x);
                let back = dequantized(act_format(dtype).unwrap(), &acts);
                for (x, back) in x.iter().zip(back) {
                    // Half a code, and all of a block below the smallest scale that has an inverse.
                    let limit = f64::from(value) * 0.51 / 127.0 + 4e-37;
                    assert!((f64::from(*x) - back).abs() <= limit, "{value:e} {dtype} {isa}: {x:e} became {back:e}");
                }
            }
        }
    }
}

#[test]
fn a_panel_is_a_permutation_of_its_rows() {
    for dtype in types().filter(|t| panel_supported(*t)) {
        let case = Case::new(dtype, 16, 512, 1, 4);
        let sorted = |bytes: &[u8]| {
            let mut bytes = bytes.to_vec();
            bytes.sort_unstable();
            bytes
        };
        if dtype != DType::Q8_0 {
            assert_eq!(sorted(&case.gguf), sorted(&case.panels), "{dtype}");
        }
        for rows in [1, 9, 16] {
            let row = case.gguf.len() / 16;
            let mut found = vec![0xa5; rows * row];
            panel::unpack(dtype, 512, &case.panels, &mut found);
            assert!(found == case.gguf[..found.len()], "{dtype}: {rows} rows come back");
        }
        assert_eq!(panel_bytes(dtype, 17, 512).unwrap().index(), 2 * case.panels.len());
        assert_eq!(panel_bytes(dtype, u64::MAX, 512), None);
    }
    assert_eq!(panel_bytes(DType::Q4K, 16, 100), None);
    assert_eq!(panel_bytes(DType::Q5_0, 16, 64), None);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(crate::cases(96)))]

    /// Any shape, cut anyhow: the same bits as one scalar call a column.
    #[test]
    fn any_shape_is_deterministic(
        pick in any::<prop::sample::Index>(), rows in 1usize..70, blocks in 1usize..5, columns in 1usize..20,
        chunk in 1usize..6, seed in any::<u64>(),
    ) {
        let all: Vec<DType> = types().collect();
        let dtype = all[pick.index(all.len())];
        let case = Case::new(dtype, rows, odd_cols(dtype, blocks), columns, seed);
        let acts = case.acts(Isa::Scalar);
        let mut expected = Vec::new();
        for acts in acts.chunks(case.act_row()) {
            expected.extend(case.run(Isa::Scalar, Layout::Gguf, acts, chunk));
        }
        for isa in sets() {
            for layout in case.layouts() {
                prop_assert_eq!(bits(&case.run(isa, layout, &acts, chunk)), bits(&expected), "{} {} {:?}", dtype, isa, layout);
            }
        }
    }
}
