//! Codecs against what the PyPI package `gguf` computes (fixtures of tests/scripts/quant_fixtures.py), bit for bit.

use std::path::PathBuf;

use loadmaster::tensor::DType::{self, *};
use loadmaster::tensor::quant::{QuantError, can_decode, decode, encode, random_blocks};
use loadmaster::tensor::{Shape, ShapeError};

fn fixture(name: &str) -> Vec<u8> {
    let path = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/it/fixtures/quant").join(name);
    std::fs::read(&path).unwrap_or_else(|e| panic!("{}: {e}", path.display()))
}

fn floats(bytes: &[u8]) -> Vec<f32> {
    bytes.as_chunks().0.iter().map(|b| f32::from_le_bytes(*b)).collect()
}

fn decodable() -> Vec<DType> {
    DType::ALL.iter().copied().filter(|t| can_decode(*t)).collect()
}

#[test]
fn decoders_agree_with_numpy_to_the_bit() {
    assert_eq!(decodable().len(), 16);
    for dtype in decodable() {
        let fixture = fixture(&format!("{dtype}.bin"));
        let block = dtype.block();
        let blocks = fixture.len() / (block.bytes + 4 * block.elements) as usize;
        assert!(blocks >= 13, "{dtype}: {blocks} blocks");
        let (blocks, needed) = fixture.split_at(blocks * block.bytes as usize);
        let needed = floats(needed);
        let mut found = vec![0.0; needed.len()];
        decode(dtype, blocks, &mut found).unwrap();
        for (i, (found, needed)) in found.iter().zip(&needed).enumerate() {
            // Which NaN an operation gives is the machine's choice.
            let same = found.to_bits() == needed.to_bits() || found.is_nan() && needed.is_nan();
            assert!(same, "{dtype} element {i}: needed {needed:e}, found {found:e}");
        }
    }
}

#[test]
fn encoders_agree_with_numpy_to_the_bit() {
    let values = floats(&fixture("values.f32"));
    for dtype in [F16, Bf16, Q4_0, Q4_1, Q5_0, Q5_1, Q8_0] {
        let needed = fixture(&format!("{dtype}.encoded"));
        let mut found = vec![0; needed.len()];
        encode(dtype, &values, &mut found).unwrap();
        let size = dtype.block().bytes as usize;
        for (i, (found, needed)) in found.chunks(size).zip(needed.chunks(size)).enumerate() {
            assert_eq!(found, needed, "{dtype} block {i}");
        }
    }
}

#[test]
fn decoding_works_at_any_address() {
    for dtype in decodable() {
        let block = dtype.block();
        let mut bytes = vec![0; 3 * block.bytes as usize + 1];
        random_blocks(dtype, 1.0, &mut splitmix(3), &mut bytes[..3 * block.bytes as usize]).unwrap();
        let mut aligned = vec![0.0; 3 * block.elements as usize];
        let mut shifted = aligned.clone();
        decode(dtype, &bytes[..bytes.len() - 1], &mut aligned).unwrap();
        bytes.rotate_right(1);
        decode(dtype, &bytes[1..], &mut shifted).unwrap();
        assert_eq!(aligned, shifted, "{dtype}");
    }
}

#[test]
fn random_blocks_have_the_wanted_spread() {
    for dtype in decodable() {
        for std in [0.02, 1.0] {
            let block = dtype.block();
            let blocks = 1 << 17 >> block.elements.ilog2();
            let mut bytes = vec![0; blocks * block.bytes as usize];
            random_blocks(dtype, std, &mut splitmix(7), &mut bytes).unwrap();
            let mut values = vec![0.0; blocks * block.elements as usize];
            decode(dtype, &bytes, &mut values).unwrap();
            assert!(values.iter().all(|x| x.is_finite()), "{dtype}");
            let n = values.len() as f64;
            let mean = values.iter().map(|x| f64::from(*x)).sum::<f64>() / n;
            let found = (values.iter().map(|x| f64::from(*x).powi(2)).sum::<f64>() / n).sqrt();
            let std = f64::from(std);
            assert!((found / std - 1.0).abs() < 0.05, "{dtype}: needed a deviation of {std}, found {found}");
            assert!(mean.abs() < 0.05 * std, "{dtype}: mean {mean} at a deviation of {std}");
        }
    }
}

#[test]
fn wrong_requests_are_typed_errors() {
    let mut out = [0.0; 32];
    let check = |error: Result<(), QuantError>, needed: &str| assert_eq!(error.unwrap_err().to_string(), needed);
    check(decode(Iq2Xxs, &[0; 66], &mut [0.0; 256]), "no decoder for tensors of type iq2_xxs");
    check(decode(Q4_0, &[0; 17], &mut out), "32 elements of q4_0 need 18 bytes, found 17");
    let partial = "q4_0 holds 32 elements a block, found 31 elements, which is no multiple";
    check(decode(Q4_0, &[0; 18], &mut out[..31]), partial);
    check(encode(Q4K, &[0.0; 256], &mut [0; 144]), "no encoder for tensors of type q4_k");
    check(encode(F32, &[0.0; 2], &mut [0; 4]), "2 elements of f32 need 8 bytes, found 4");
    for bad in [f32::NAN, f32::INFINITY, 1e9] {
        let mut values = [0.0; 64];
        values[40] = bad;
        let needed = "q8_0 needs finite values whose scale fits half precision, found another in block 1";
        check(encode(Q8_0, &values, &mut [0; 68]), needed);
    }
    check(random_blocks(Q8K, 1.0, &mut splitmix(1), &mut [0; 292]), "no decoder for tensors of type q8_k");
    check(random_blocks(Q4_0, 1.0, &mut splitmix(1), &mut [0; 19]), "32 elements of q4_0 need 18 bytes, found 19");
}

#[test]
fn types_that_cannot_be_decoded_say_so() {
    for &dtype in DType::ALL {
        let block = dtype.block();
        let (bytes, mut out) = (vec![0; block.bytes as usize], vec![0.0; block.elements as usize]);
        assert_eq!(decode(dtype, &bytes, &mut out).is_ok(), can_decode(dtype), "{dtype}");
    }
}

#[test]
fn shapes_refuse_what_cannot_be() {
    let shape = Shape::new(&[64, 3, 2]).unwrap();
    assert_eq!((shape.row_len(), shape.rows(), shape.elements()), (64, 6, 384));
    assert_eq!(shape.to_string(), "[64, 3, 2]");
    assert_eq!(Shape::new(&[]), Err(ShapeError::Rank { found: 0 }));
    assert_eq!(Shape::new(&[1; 5]), Err(ShapeError::Rank { found: 5 }));
    assert_eq!(Shape::new(&[1, 0]), Err(ShapeError::Zero { axis: 1, dims: vec![1, 0] }));
    assert!(Shape::new(&[1 << 62, 1]).is_ok());
    assert!(matches!(Shape::new(&[1 << 32, 1 << 31]), Err(ShapeError::TooLarge { .. })));
    assert!(matches!(Shape::new(&[u64::MAX, u64::MAX]), Err(ShapeError::TooLarge { .. })));
    assert_eq!(serde_json::from_str::<Shape>("[64,3,2]").unwrap(), shape);
    assert!(serde_json::from_str::<Shape>("[0]").is_err());
}

/// SplitMix64 (Steele, Lea, Flood 2014).
fn splitmix(seed: u64) -> impl FnMut() -> u64 {
    let mut state = seed;
    move || {
        state = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = state;
        z = (z ^ z >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ z >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ z >> 31
    }
}
