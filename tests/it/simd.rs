//! Every instruction set against plain Rust, bit for bit, and the elementary functions against f64.

use loadmaster::backend::cpu::simd::{Isa, Job, LANES, Simd, math};
use proptest::prelude::*;

/// The sets of this machine.
fn sets() -> impl Iterator<Item = Isa> {
    Isa::ALL.into_iter().filter(|isa| isa.available())
}

/// Runs every operation on the operands and returns all results as bits.
struct Everything {
    a: [f32; LANES],
    b: [f32; LANES],
    c: [f32; LANES],
    u: [i32; LANES],
    x: [i32; LANES],
}

/// Bits, with all NaNs made one: payloads are no part of the contract.
fn bits(x: f32) -> u32 {
    if x.is_nan() { f32::NAN.to_bits() } else { x.to_bits() }
}

impl Job for Everything {
    type Out = Vec<(&'static str, Vec<u32>)>;

    #[inline(always)]
    fn run<S: Simd>(self, s: S) -> Self::Out {
        let mut out = Vec::new();
        let mut f = |name, v: S::F| {
            let mut x = [0.0; LANES];
            s.store(v, &mut x);
            out.push((name, x.map(bits).to_vec()));
        };
        let (a, b, c) = (s.load(&self.a), s.load(&self.b), s.load(&self.c));
        let (u, x) = (s.load_i(&self.u), s.load_i(&self.x));
        f("splat", s.splat(self.a[0]));
        f("add", s.add(a, b));
        f("sub", s.sub(a, b));
        f("mul", s.mul(a, b));
        f("div", s.div(a, b));
        f("fma", s.fma(a, b, c));
        f("sqrt", s.sqrt(a));
        f("abs", s.abs(a));
        f("neg", s.neg(a));
        f("max", s.max(a, b));
        f("min", s.min(a, b));
        f("select", s.select(s.lt(a, b), b, c));
        for n in 0..=LANES {
            f("first", s.select(s.first(n), a, b));
            f("part", s.load_part(&self.a[..n], 3.0));
        }
        let halves: [u16; LANES] = self.u.map(|v| v as u16);
        f("load_f16", s.load_f16(&halves));
        f("load_bf16", s.load_bf16(&halves));
        f("load_i8", s.load_i8(&self.x.map(|v| v as i8)));
        f("to_f32", s.to_f32(u));
        f("exp2i", s.exp2i(s.load_i(&self.u.map(|v| v.rem_euclid(254) - 126))));
        f("exp", math::exp(s, a));
        f("sigmoid", math::sigmoid(s, a));
        f("silu", math::silu(s, a));
        f("tanh", math::tanh(s, a));
        f("gelu", math::gelu(s, a));
        out.push(("reduce_add", vec![bits(s.reduce_add(a))]));
        out.push(("reduce_max", vec![bits(s.reduce_max(a))]));
        let mut i = |name, v: S::I| {
            let mut x = [0; LANES];
            s.store_i(v, &mut x);
            out.push((name, x.map(|v| v as u32).to_vec()));
        };
        i("round_i32", s.round_i32(a));
        i("splat_i", s.splat_i(self.u[0]));
        i("add_i", s.add_i(u, x));
        i("sub_i", s.sub_i(u, x));
        i("and", s.and(u, x));
        i("or", s.or(u, x));
        i("xor", s.xor(u, x));
        i("shl", s.shl::<7>(u));
        i("shr", s.shr::<5>(u));
        i("sar", s.sar::<5>(u));
        let codes = s.and(u, s.splat_i(0x7f7f_7f7f));
        i("dot_u8", s.dot_u8(x, u, no_minimum(s, x)));
        i("dot_u7", s.dot_u7(x, codes, no_minimum(s, x)));
        i("dot_i16", s.dot_i16(x, u, x));
        let (mut half, mut byte) = ([0u16; LANES], [0i8; LANES]);
        s.store_f16(a, &mut half);
        s.store_i8(s.sar::<16>(u), &mut byte);
        // An f16 NaN has payload bits too.
        out.push(("store_f16", half.map(|h| if h & 0x7fff > 0x7c00 { 0x7e00 } else { u32::from(h) }).to_vec()));
        out.push(("store_i8", byte.map(|v| v as u32).to_vec()));
        out
    }
}

/// `x` with every byte of -128 made -127.
#[inline(always)]
fn no_minimum<S: Simd>(s: S, x: S::I) -> S::I {
    let mut lanes = [0; LANES];
    s.store_i(x, &mut lanes);
    s.load_i(&lanes.map(|v| i32::from_le_bytes(v.to_le_bytes().map(|b| if b == 0x80 { 0x81 } else { b }))))
}

fn any_f32() -> impl Strategy<Value = f32> {
    prop_oneof![
        4 => -100.0f32..100.0,
        2 => any::<u32>().prop_map(f32::from_bits),
        1 => prop::sample::select(vec![0.0, -0.0, f32::INFINITY, f32::NEG_INFINITY, f32::NAN, 65520.0, 1e-8, 2.5, -0.5, 2147483648.0]),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(crate::cases(512)))]

    #[test]
    fn every_set_gives_the_bits_of_plain_rust(
        a in prop::array::uniform16(any_f32()), b in prop::array::uniform16(any_f32()), c in prop::array::uniform16(any_f32()),
        u in prop::array::uniform16(any::<i32>()), x in prop::array::uniform16(any::<i32>()),
    ) {
        let expected = Isa::Scalar.run(Everything { a, b, c, u, x });
        for isa in sets() {
            for (got, want) in isa.run(Everything { a, b, c, u, x }).into_iter().zip(&expected) {
                prop_assert_eq!(&got, want, "{} of {}", got.0, isa);
            }
        }
    }
}

#[test]
fn the_dot_products_do_not_saturate() {
    let (u, x) = ([-1; LANES], [0x7f7f_7f7f; LANES]);
    let worst = Everything { a: [0.0; LANES], b: [0.0; LANES], c: [0.0; LANES], u, x };
    let found = Isa::Scalar.run(worst);
    let dot = found.iter().find(|(name, _)| *name == "dot_u8").unwrap();
    assert_eq!(dot.1[0], 0x7f7f_7f7fu32.wrapping_add(4 * 255 * 127));
    for isa in sets() {
        let same = isa.run(Everything { a: [0.0; LANES], b: [0.0; LANES], c: [0.0; LANES], u, x });
        assert_eq!(same, found, "{isa}");
    }
}

struct Apply<'a>(&'a [f32], fn(f64) -> f64, Function);

#[derive(Clone, Copy)]
enum Function {
    Exp,
    Sigmoid,
    Silu,
    Tanh,
    Gelu,
}

impl Job for Apply<'_> {
    /// The largest error of a result, in units of its last place and absolute.
    type Out = (f64, f64);

    #[inline(always)]
    fn run<S: Simd>(self, s: S) -> (f64, f64) {
        let mut worst = (0.0f64, 0.0f64);
        for chunk in self.0.chunks_exact(LANES) {
            let x = s.load(chunk);
            let y = match self.2 {
                Function::Exp => math::exp(s, x),
                Function::Sigmoid => math::sigmoid(s, x),
                Function::Silu => math::silu(s, x),
                Function::Tanh => math::tanh(s, x),
                Function::Gelu => math::gelu(s, x),
            };
            let mut out = [0.0; LANES];
            s.store(y, &mut out);
            for (&x, &y) in chunk.iter().zip(&out) {
                let want = (self.1)(f64::from(x));
                let error = (f64::from(y) - want).abs();
                let ulp = f64::from(f32::EPSILON) * want.abs().max(f64::from(f32::MIN_POSITIVE)) / 2.0;
                worst = (worst.0.max(error / ulp), worst.1.max(error));
            }
        }
        worst
    }
}

#[test]
fn elementary_functions_are_near_f64() {
    let exp: Vec<f32> = (0..200_000).map(|i| -87.0 + i as f32 * (175.5 / 200_000.0)).collect();
    let near: Vec<f32> = (0..200_000).map(|i| -20.0 + i as f32 * 2e-4).collect();
    let gelu = |x: f64| 0.5 * x * (1.0 + ((2.0 / std::f64::consts::PI).sqrt() * (x + 0.044715 * x * x * x)).tanh());
    let isa = Isa::detect();
    assert!(isa.run(Apply(&exp, f64::exp, Function::Exp)).0 <= 1.04);
    assert!(isa.run(Apply(&near, |x| 1.0 / (1.0 + (-x).exp()), Function::Sigmoid)).0 <= 8.0);
    assert!(isa.run(Apply(&near, |x| x / (1.0 + (-x).exp()), Function::Silu)).0 <= 8.0);
    assert!(isa.run(Apply(&near, f64::tanh, Function::Tanh)).1 <= 3e-7);
    assert!(isa.run(Apply(&near, gelu, Function::Gelu)).1 <= 2e-6);
}

#[test]
fn exp_of_the_extremes() {
    struct Exp([f32; LANES]);
    impl Job for Exp {
        type Out = [f32; LANES];
        #[inline(always)]
        fn run<S: Simd>(self, s: S) -> [f32; LANES] {
            let mut out = [0.0; LANES];
            s.store(math::exp(s, s.load(&self.0)), &mut out);
            out
        }
    }
    let mut x = [0.0; LANES];
    x[..8].copy_from_slice(&[f32::NEG_INFINITY, -1e30, -104.0, 0.0, -0.0, 89.0, f32::INFINITY, f32::NAN]);
    x[8..11].copy_from_slice(&[-103.0, f32::MAX, f32::MIN]);
    for isa in sets() {
        let y = isa.run(Exp(x));
        assert_eq!(y[..7], [0.0, 0.0, 0.0, 1.0, 1.0, f32::INFINITY, f32::INFINITY], "{isa}");
        assert!(y[7].is_nan());
        assert!(y[8] > 0.0 && y[8] < 3e-45);
        assert_eq!(y[9..11], [f32::INFINITY, 0.0]);
    }
}
