//! Seeds of the JSON fuzz targets, and some thousand changes of each.

use std::path::{Path, PathBuf};

/// Pieces that JSON readers trip over.
const PIECES: [&str; 12] =
    ["-", "0", "9", "1e308", "1e-400", "null", "[", "}", "\"", "\\ud800", "18446744073709551616", "\u{fffd}"];

/// The seeds of `fuzz/corpus/<target>`, at least so many, in order of names.
pub fn seeds(target: &str, ending: &str, least: usize) -> Vec<PathBuf> {
    let corpus = Path::new(env!("CARGO_MANIFEST_DIR")).join("fuzz/corpus").join(target);
    let mut seeds: Vec<_> = std::fs::read_dir(corpus).unwrap().map(|e| e.unwrap().path()).collect();
    // A fuzzer leaves its finds beside the seeds, under names without an ending.
    seeds.retain(|p| p.extension().is_some_and(|e| e == ending));
    seeds.sort();
    assert!(seeds.len() >= least, "{seeds:?}");
    seeds
}

/// Numbers below what is asked, the same in every run (xorshift, Marsaglia 2003).
pub fn xorshift() -> impl FnMut(usize) -> usize {
    let mut state = 1u64;
    move |below| {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        (state >> 16) as usize % below
    }
}

/// Runs `read` on every seed of `fuzz/corpus/<target>`, which it must read, and on `changes` changes of each; some
/// must be read and some refused, or the changes say nothing.
pub fn smoke(target: &str, changes: usize, read: impl Fn(&str) -> bool) {
    let seeds = seeds(target, "json", 3);
    let mut random = xorshift();
    let (mut accepted, mut refused) = (0, 0);
    for path in seeds {
        let seed = std::fs::read_to_string(&path).unwrap();
        assert!(read(&seed), "{} is refused", path.display());
        for _ in 0..changes {
            let mut text: Vec<char> = seed.chars().collect();
            for _ in 0..1 + random(3) {
                let at = random(text.len());
                match random(6) {
                    0 => text[at] = char::from(b' ' + random(95) as u8),
                    1 => drop(text.drain(at..(at + 1 + random(9)).min(text.len() - 1).max(at))),
                    2 => drop(text.splice(at..at, PIECES[random(PIECES.len())].chars())),
                    3 | 4 => {
                        // Most texts stay JSON when one digit becomes another.
                        if let Some(digit) = text[at..].iter_mut().find(|c| c.is_ascii_digit()) {
                            *digit = char::from(b'0' + random(10) as u8);
                        }
                    }
                    _ => {
                        let from = random(text.len());
                        let piece = text[from..(from + 1 + random(40)).min(text.len())].to_vec();
                        drop(text.splice(at..at, piece));
                    }
                }
            }
            match read(&text.into_iter().collect::<String>()) {
                true => accepted += 1,
                false => refused += 1,
            }
        }
    }
    assert!(accepted > 50 && refused > 50, "{accepted} read, {refused} refused: the changes say nothing");
}
