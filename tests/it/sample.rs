//! The sampler chain: each stage's effect, reproducibility, and what it refuses.

use loadmaster::sample::{SampleError, SampleOptions, Sampler};
use loadmaster::text::TokenId;
use proptest::prelude::*;

/// Every stage off, temperature 1.
const BARE: SampleOptions = SampleOptions {
    temperature: 1.0,
    top_k: 0,
    top_p: 1.0,
    min_p: 0.0,
    repeat_penalty: 1.0,
    repeat_last_n: 64,
    seed: 1,
};

/// How often each token is drawn from `logits`, of 20,000.
fn counts(options: SampleOptions, logits: &[f32]) -> Vec<u32> {
    let mut sampler = Sampler::new(options).unwrap();
    let mut counts = vec![0; logits.len()];
    for _ in 0..20_000 {
        counts[sampler.sample(&mut logits.to_vec(), &[]).unwrap().index()] += 1;
    }
    counts
}

/// Checks counts against probabilities, within five standard deviations.
fn check(options: SampleOptions, logits: &[f32], probabilities: &[f64]) {
    for (i, (count, p)) in counts(options, logits).iter().zip(probabilities).enumerate() {
        let (mean, deviation) = (20_000.0 * p, (20_000.0 * p * (1.0 - p)).sqrt());
        assert!((f64::from(*count) - mean).abs() <= 5.0 * deviation, "token {i}: {count} of 20000, p {p}, {options:?}");
    }
}

/// Logits whose softmax is 0.5, 0.3, 0.15, 0.05 in mixed order.
fn mixed() -> [f32; 4] {
    [0.15f32.ln(), 0.5f32.ln(), 0.05f32.ln(), 0.3f32.ln()]
}

#[test]
fn draws_follow_the_distribution() {
    check(BARE, &mixed(), &[0.15, 0.5, 0.05, 0.3]);
    check(BARE, &[f32::NEG_INFINITY, 3.0, 3.0], &[0.0, 0.5, 0.5]);
    check(BARE, &[-1e30, 1e30, 0.0], &[0.0, 1.0, 0.0]);
}

#[test]
fn each_stage_does_its_part() {
    let squares = [0.15f64, 0.5, 0.05, 0.3].map(|p| p * p);
    let total: f64 = squares.iter().sum();
    check(SampleOptions { temperature: 0.5, ..BARE }, &mixed(), &squares.map(|p| p / total));
    check(SampleOptions { top_k: 1, ..BARE }, &mixed(), &[0.0, 1.0, 0.0, 0.0]);
    check(SampleOptions { top_k: 2, ..BARE }, &mixed(), &[0.0, 0.625, 0.0, 0.375]);
    check(SampleOptions { top_k: 99, ..BARE }, &mixed(), &[0.15, 0.5, 0.05, 0.3]);
    check(SampleOptions { top_p: 0.4, ..BARE }, &mixed(), &[0.0, 1.0, 0.0, 0.0]);
    check(SampleOptions { top_p: 0.79, ..BARE }, &mixed(), &[0.0, 0.625, 0.0, 0.375]);
    check(SampleOptions { top_p: 1e-9, ..BARE }, &mixed(), &[0.0, 1.0, 0.0, 0.0]);
    check(SampleOptions { min_p: 0.2, ..BARE }, &mixed(), &[3.0 / 19.0, 10.0 / 19.0, 0.0, 6.0 / 19.0]);
    check(SampleOptions { min_p: 1.0, ..BARE }, &mixed(), &[0.0, 1.0, 0.0, 0.0]);
    // top-k comes first: 0.5 of the two that are left is 0.625, enough for top-p.
    check(SampleOptions { top_k: 2, top_p: 0.6, ..BARE }, &mixed(), &[0.0, 1.0, 0.0, 0.0]);
    // min-p does not change what top-p sees: 0.5 of all is not 0.55, though it is 0.625 of what min-p leaves.
    check(SampleOptions { min_p: 0.5, top_p: 0.55, ..BARE }, &mixed(), &[0.0, 0.625, 0.0, 0.375]);
    // top-p sees the distribution before temperature.
    check(SampleOptions { top_p: 0.79, temperature: 100.0, ..BARE }, &[3.0, 3.0, 0.0], &[0.5, 0.5, 0.0]);
}

#[test]
fn recent_tokens_are_held_back_once_each() {
    let options = SampleOptions { temperature: 0.0, repeat_penalty: 2.0, repeat_last_n: 3, ..BARE };
    let mut sampler = Sampler::new(options).unwrap();
    let mut row = [4.0, 3.0, -1.0, 0.5];
    let recent = [3, 0, 0, 2].map(TokenId);
    assert_eq!(sampler.sample(&mut row, &recent), Ok(TokenId(1)));
    assert_eq!(row, [2.0, 3.0, -2.0, 0.5], "token 3 is older than three, token 99 has no logit");
    assert_eq!(sampler.sample(&mut [1.0, 0.9], &[TokenId(99), TokenId(0)]), Ok(TokenId(1)));
    let off = SampleOptions { repeat_last_n: 0, ..options };
    assert_eq!(Sampler::new(off).unwrap().sample(&mut [1.0, 0.9], &[TokenId(0)]), Ok(TokenId(0)));
}

#[test]
fn greedy_takes_the_first_of_the_best() {
    let mut sampler = Sampler::new(SampleOptions { temperature: 0.0, ..SampleOptions::default() }).unwrap();
    assert_eq!(sampler.sample(&mut [1.0, 7.0, 7.0, -2.0], &[]), Ok(TokenId(1)));
    assert_eq!(sampler.sample(&mut [f32::NEG_INFINITY, -3.0], &[]), Ok(TokenId(1)));
    assert_eq!(sampler.sample(&mut [-0.0, 0.0], &[]), Ok(TokenId(0)));
}

#[test]
fn broken_rows_and_options_are_refused() {
    for temperature in [0.0, 1.0] {
        let mut sampler = Sampler::new(SampleOptions { temperature, ..BARE }).unwrap();
        let nan = sampler.sample(&mut [0.0, f32::NAN], &[]).unwrap_err();
        assert!(matches!(nan, SampleError::Logit { token: TokenId(1), found } if found.is_nan()));
        let infinite = sampler.sample(&mut [f32::INFINITY], &[]).unwrap_err();
        assert_eq!(infinite, SampleError::Logit { token: TokenId(0), found: f32::INFINITY });
        assert_eq!(sampler.sample(&mut [], &[]), Err(SampleError::Empty { tokens: 0 }));
        assert_eq!(sampler.sample(&mut [f32::NEG_INFINITY; 3], &[]), Err(SampleError::Empty { tokens: 3 }));
    }
    let options = [
        SampleOptions { temperature: -0.1, ..BARE },
        SampleOptions { temperature: f32::NAN, ..BARE },
        SampleOptions { temperature: f32::INFINITY, ..BARE },
        SampleOptions { top_p: 0.0, ..BARE },
        SampleOptions { top_p: 1.1, ..BARE },
        SampleOptions { min_p: -0.1, ..BARE },
        SampleOptions { min_p: f32::NAN, ..BARE },
        SampleOptions { repeat_penalty: 0.0, ..BARE },
    ];
    for options in options {
        assert!(matches!(Sampler::new(options), Err(SampleError::Option { .. })), "{options:?}");
    }
}

proptest! {
    #[test]
    fn the_same_seed_gives_the_same_tokens(
        rows in prop::collection::vec(prop::collection::vec(-20.0f32..20.0, 50), 1..20),
        temperature in 0.0f32..3.0,
        top_k in 0usize..60,
        top_p in 0.01f32..=1.0,
        min_p in 0.0f32..=1.0,
        repeat_penalty in 0.5f32..2.0,
        seed: u64,
    ) {
        let options = SampleOptions { temperature, top_k, top_p, min_p, repeat_penalty, repeat_last_n: 8, seed };
        let run = || {
            let (mut sampler, mut tokens) = (Sampler::new(options).unwrap(), Vec::new());
            for row in &rows {
                let token = sampler.sample(&mut row.clone(), &tokens).unwrap();
                tokens.push(token);
            }
            tokens
        };
        let tokens = run();
        prop_assert_eq!(&tokens, &run());
        prop_assert!(tokens.iter().all(|t| t.index() < 50));
        if top_k == 1 && repeat_penalty == 1.0 {
            prop_assert_eq!(rows[0][tokens[0].index()], rows[0].iter().copied().fold(f32::MIN, f32::max));
        }
    }
}

#[test]
fn the_first_draws_of_a_seed_never_change() {
    let mut sampler = Sampler::new(SampleOptions { seed: 42, ..BARE }).unwrap();
    let drawn: Vec<u32> = (0..12).map(|_| sampler.sample(&mut mixed(), &[]).unwrap().0).collect();
    assert_eq!(drawn, [3, 1, 1, 1, 0, 3, 1, 3, 1, 1, 1, 1]);
}
