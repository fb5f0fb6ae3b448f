//! Files made to hurt: each is refused with an error that names file, field and value, and costs little memory.

use std::path::Path;
use std::process::Command;

use loadmaster::gguf::Gguf;
use proptest::prelude::*;

use crate::gguf_walk::walk;
use crate::gguf_write::{small_model, to_bytes};
use crate::json_smoke::{seeds, xorshift};

/// A file in the making.
#[derive(Default)]
struct Raw(Vec<u8>);

impl Raw {
    fn head(tensors: u64, entries: u64) -> Raw {
        Raw(b"GGUF".to_vec()).u32(3).u64(tensors).u64(entries)
    }

    fn bytes(mut self, bytes: &[u8]) -> Raw {
        self.0.extend(bytes);
        self
    }

    fn u32(self, v: u32) -> Raw {
        self.bytes(&v.to_le_bytes())
    }

    fn u64(self, v: u64) -> Raw {
        self.bytes(&v.to_le_bytes())
    }

    fn text(self, text: &str) -> Raw {
        self.u64(text.len() as u64).bytes(text.as_bytes())
    }

    /// A key and a number of 32 bits.
    fn entry(self, key: &str, v: u32) -> Raw {
        self.text(key).u32(4).u32(v)
    }

    /// A directory entry.
    fn tensor(self, name: &str, dims: &[u64], dtype: u32, offset: u64) -> Raw {
        let raw = self.text(name).u32(dims.len() as u32);
        dims.iter().fold(raw, |raw, &d| raw.u64(d)).u32(dtype).u64(offset)
    }

    /// Padding to the usual alignment, then `len` bytes of data.
    fn data(mut self, len: usize) -> Raw {
        self.0.resize(self.0.len().next_multiple_of(32) + len, 0);
        self
    }
}

fn refused(bytes: &[u8]) -> String {
    match walk(bytes) {
        Ok(model) => panic!("{model:?} was not refused"),
        Err(error) => error.to_string(),
    }
}

fn check(raw: Raw, needed: &str) {
    assert_eq!(refused(&raw.0), format!("bytes: {needed}"));
}

#[test]
fn bad_headers_are_refused() {
    check(Raw::default(), "magic at byte 0 needs 4 bytes, found 0 to the end of the file");
    check(Raw(b"GGU".to_vec()), "magic at byte 0 needs 4 bytes, found 3 to the end of the file");
    check(Raw(b"GGML\x03\0\0\0".to_vec()), "needed the magic \"GGUF\", found \"GGML\"");
    check(Raw(b"\x1b[2J\x03\0\0\0".to_vec()), "needed the magic \"GGUF\", found \"\\x1b[2J\"");
    let big = "big-endian file (version 3 with its bytes swapped), needed little-endian; convert it again";
    check(Raw(b"GGUF\0\0\0\x03".to_vec()), big);
    for version in [0, 1, 4, u32::MAX] {
        let needed = format!("GGUF version {version}, needed 2 or 3; convert the model again");
        check(Raw(b"GGUF".to_vec()).u32(version).u64(0).u64(0), &needed);
    }
    check(Raw::head(u64::MAX, 0), "tensor count is 18446744073709551615, but the 0 bytes that follow hold at most 0");
    check(
        Raw::head(0, u64::MAX).data(100),
        "metadata count is 18446744073709551615, but the 108 bytes that follow hold at most 8",
    );
}

#[test]
fn bad_metadata_is_refused() {
    let one = |raw: Raw| raw.data(64);
    let text = |len: u64, bytes: &[u8]| Raw::head(0, 1).u64(len).bytes(bytes);
    check(
        one(text(u64::MAX, b"key")),
        "metadata key 0 at byte 32 needs 18446744073709551615 bytes, found 96 to the end of the file",
    );
    check(one(text(4, b"ab\xff\x1b")), "metadata key 0 at byte 34 needs UTF-8, found \"\\xff\\x1b\"");
    check(one(Raw::head(0, 1).text("k").u32(13)), "type of value of \"k\" is 13, needed 0 to 12");
    check(one(Raw::head(0, 1).text("k").u32(7).bytes(&[2])), "value of \"k\" is the truth value 2, needed 0 or 1");
    check(
        one(Raw::head(0, 1).text("k\u{7}").u32(8).u64(2).bytes(b"\xc3\x28")),
        "value of \"k\\u{7}\" at byte 46 needs UTF-8, found \"\\xc3(\"",
    );
    check(one(Raw::head(0, 2).entry("k", 1).entry("k", 1)), "metadata key \"k\" is there twice");
    check(
        Raw::head(0, 1).text("k").u32(8).u64(5).bytes(b"four"),
        "value of \"k\" at byte 45 needs 5 bytes, found 4 to the end of the file",
    );
}

#[test]
fn bad_arrays_are_refused() {
    let array = |element: u32, count: u64| Raw::head(0, 1).text("k").u32(9).u32(element).u64(count);
    check(array(13, 0).data(0), "type of elements of value of \"k\" is 13, needed 0 to 12");
    for (element, count, most) in [(4, 1 << 62, 8), (8, u64::MAX, 4), (0, 33, 32), (9, 3, 2)] {
        let needed =
            format!("element count of value of \"k\" is {count}, but the 32 bytes that follow hold at most {most}");
        check(array(element, count).bytes(&[0; 32]), &needed);
    }
    check(array(7, 3).bytes(&[0, 1, 7]), "value of \"k\"[2] is the truth value 7, needed 0 or 1");
    check(array(8, 2).text("ok").u64(1).bytes(b"\xff"), "value of \"k\"[1] at byte 67 needs UTF-8, found \"\\xff\"");
    let nested = |depth: u32| (1..depth).fold(array(9, 1), |raw, _| raw.u32(9).u64(1)).u32(0).u64(0);
    assert!(walk(&nested(7).0).is_ok());
    check(nested(8), "value of \"k\"[0][0][0][0][0][0][0][0] is nested deeper than 8 arrays");
    check(nested(100_000), "value of \"k\"[0][0][0][0][0][0][0][0] is nested deeper than 8 arrays");
}

#[test]
fn bad_alignment_is_refused() {
    for alignment in [0, 3, 24, u32::MAX] {
        let needed = format!("general.alignment is {alignment}, needed a power of two");
        check(Raw::head(0, 1).entry("general.alignment", alignment).data(0), &needed);
    }
    let text = Raw::head(0, 1).text("general.alignment").u32(8).text("32");
    check(text, "\"general.alignment\" needs an integer of 64 bits without sign, found str \"32\"");
    let signed = Raw::head(0, 1).text("general.alignment").u32(5).u32(-32i32 as u32);
    check(signed, "\"general.alignment\" needs an integer of 64 bits without sign, found -32, which does not fit");
    let misaligned = Raw::head(1, 1).entry("general.alignment", 64).tensor("t", &[4], 0, 32).data(256);
    check(misaligned, "tensor \"t\" has offset 32, needed a multiple of the alignment 64");
}

#[test]
fn bad_tensors_are_refused() {
    let one = |dims: &[u64], dtype: u32, offset: u64| Raw::head(1, 0).tensor("t", dims, dtype, offset).data(128);
    check(one(&[], 0, 0), "tensor \"t\": a shape needs 1 to 4 dimensions, found 0");
    check(one(&[1; 5], 0, 0), "tensor \"t\": a shape needs 1 to 4 dimensions, found 5");
    check(one(&[4, 0], 0, 0), "tensor \"t\": dimension 1 of [4, 0] is 0, needed at least 1");
    check(
        one(&[1 << 32, 1 << 32], 0, 0),
        "tensor \"t\": the product of [4294967296, 4294967296] is past 2^63 elements",
    );
    let big = 1 << 62;
    check(one(&[big], 0, 0), &format!("tensor \"t\" of type f32 and shape [{big}] takes more than 2^64 bytes"));
    // 4 and 31 are retired, 42 is the first that does not exist.
    for id in [4, 31, 42, u32::MAX] {
        check(one(&[32], id, 0), &format!("tensor \"t\" has the unknown type id {id}"));
    }
    check(one(&[33], 2, 0), "tensor \"t\" of type q4_0 needs rows of a multiple of 32 elements, found 33");
    check(one(&[4], 0, 16), "tensor \"t\" has offset 16, needed a multiple of the alignment 32");
    check(one(&[33], 0, 0), "tensor \"t\" takes 132 bytes from byte 64, but the file ends at byte 192");
    check(one(&[1], 0, 128), "tensor \"t\" takes 4 bytes from byte 192, but the file ends at byte 192");
    let far = u64::MAX - 31;
    let needed =
        format!("tensor \"t\" takes 4 bytes from byte {}, but the file ends at byte 192", 64 + u128::from(far));
    check(one(&[1], 0, far), &needed);
}

#[test]
fn bad_directories_are_refused() {
    let two = |first: (&str, u64), second: (&str, u64)| {
        Raw::head(2, 0).tensor(first.0, &[16], 0, first.1).tensor(second.0, &[16], 0, second.1).data(128)
    };
    assert!(walk(&two(("a", 64), ("b", 0)).0).is_ok());
    check(two(("a", 0), ("a", 64)), "tensor \"a\" is there twice, first in bytes");
    let overlap = "tensors \"b\" and \"a\" overlap: one ends at byte 160, the other starts at byte 128";
    check(two(("a", 32), ("b", 0)), overlap);
    check(
        Raw::head(1, 0).u64(1 << 40).data(64),
        "name of tensor 0 at byte 32 needs 1099511627776 bytes, found 64 to the end of the file",
    );
    check(
        Raw::head(1, 0).text("toolong").u32(1).u64(1).u32(0).u32(0),
        "offset of tensor \"toolong\" at byte 55 needs 8 bytes, found 4 to the end of the file",
    );
    let memory = "takes 1.1 MiB of memory or more, needed at most 1.0 MiB";
    check(Raw::head(10_000, 0).data(400_000), &format!("the directory of 10000 tensors {memory}"));
}

#[test]
fn what_is_no_file_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    let check = |path: &Path, needed: &str| {
        let error = Gguf::open(path).unwrap_err().to_string();
        assert_eq!(error, format!("{}: {needed}", path.display()));
    };
    check(folder.path(), "needed a regular file, found something else");
    check(Path::new("/dev/zero"), "needed a regular file, found something else");
    check(&folder.path().join("absent"), "cannot open: No such file or directory (os error 2)");
    let empty = folder.path().join("empty.gguf");
    std::fs::write(&empty, b"").unwrap();
    check(&empty, "magic at byte 0 needs 4 bytes, found 0 to the end of the file");
}

#[test]
fn every_truncation_is_refused() {
    let bytes = to_bytes(&small_model());
    let model = walk(&bytes).unwrap();
    let last = model.tensors().last().unwrap();
    let end = (last.offset() + last.bytes.0) as usize;
    for len in 0..end {
        let error = refused(&bytes[..len]);
        assert!(error.starts_with("bytes: "), "{len} bytes: {error}");
        assert!(error.contains(" bytes"), "{len} bytes: {error}");
    }
    for len in end..bytes.len() {
        assert!(walk(&bytes[..len]).is_ok(), "padding after the last tensor is not needed");
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: crate::cases(4000), failure_persistence: None, ..ProptestConfig::default() })]
    #[test]
    fn changed_bytes_never_panic(
        changes in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..6),
        cut in prop::option::weighted(0.2, any::<prop::sample::Index>()),
    ) {
        let mut bytes = to_bytes(&small_model());
        // Most of the file is tensor data, which is never parsed.
        let parsed = bytes.len().min(3000);
        for (at, byte) in changes {
            bytes[at.index(parsed)] = byte;
        }
        if let Some(cut) = cut {
            bytes.truncate(cut.index(parsed));
        }
        let _ = walk(&bytes);
    }
}

/// Seeds of the fuzz target, and some thousand changes of each.
#[test]
fn the_fuzz_corpus_never_panics() {
    let seeds = seeds("gguf", "gguf", 4);
    let mut random = xorshift();
    let (mut read, mut refused) = (0, 0);
    for seed in seeds {
        let seed = std::fs::read(seed).unwrap();
        for _ in 0..2000 {
            let mut bytes = seed.clone();
            for _ in 0..1 + random(4) {
                let at = random(bytes.len());
                match random(4) {
                    0 => bytes[at] = random(256) as u8,
                    1 => bytes[at] ^= 1 << random(8),
                    2 => drop(bytes.drain(at..(at + 1 + random(9)).min(bytes.len() - 1).max(at))),
                    _ => bytes.insert(at, [0, 1, 8, 9, 0x7f, 0xff][random(6)]),
                }
            }
            match walk(&bytes) {
                Ok(_) => read += 1,
                Err(_) => refused += 1,
            }
        }
    }
    assert!(read > 100 && refused > 100, "{read} read, {refused} refused: the changes say nothing");
}

/// Set for the child process of the next test: the file to open.
const CHILD_FILE: &str = "LOADMASTER_TEST_HOSTILE_FILE";

/// Files that claim the most from the fewest bytes, opened in a process of their own whose peak memory is read.
#[test]
fn opening_takes_less_than_twice_the_file() {
    if let Ok(path) = std::env::var(CHILD_FILE) {
        let before = peak_memory();
        let outcome = Gguf::open(Path::new(&path)).map(|m| m.metadata().len() + m.tensors().len());
        println!("peak {} {outcome:?}", peak_memory() - before);
        return;
    }
    const N: u64 = 1 << 20;
    let entries = |distinct: u64| {
        (0..N).fold(Raw::head(0, N), |raw, i| {
            let i = i % distinct;
            let key = [i as u8 & 0x7f, (i >> 7) as u8 & 0x7f, (i >> 14) as u8];
            raw.u64(3).bytes(&key).u32(0).bytes(&[1])
        })
    };
    let name = |i: u64| format!("{i}{}", "n".repeat(2000));
    let aligned = Raw::head(N / 8, 1).entry("general.alignment", 1);
    let files = [
        ("empty strings", Raw::head(0, 1).text("k").u32(9).u32(8).u64(4 * N).bytes(&vec![0; 32 * N as usize]), "Ok(1)"),
        ("entries", entries(N), "Ok(1048576)"),
        ("entries twice", entries(N / 2), "Err(DuplicateKey"),
        ("nested", (0..N).fold(Raw::head(0, 1).text("k").u32(9).u32(9).u64(N), |r, _| r.u32(4).u64(0)), "Ok(1)"),
        ("tensors", (0..N).fold(Raw::head(N, 0), |r, i| r.tensor("t", &[1], 24, i)).data(0), "Err(DirectorySize"),
        (
            "long names",
            (0..2000).fold(Raw::head(2000, 0), |r, i| r.tensor(&name(i), &[1], 24, 32 * i)).data(64_000),
            "Err(DirectorySize",
        ),
        (
            "most tensors",
            (0..N / 8).fold(aligned, |r, i| r.tensor(&i.to_string(), &[200], 24, 200 * i)).data(25 << 20),
            "Ok(131073)",
        ),
    ];
    let folder = tempfile::tempdir().unwrap();
    for (name, raw, needed) in files {
        let path = folder.path().join(name);
        std::fs::write(&path, &raw.0).unwrap();
        let child = Command::new(std::env::current_exe().unwrap())
            .args(["--exact", "gguf_hostile::opening_takes_less_than_twice_the_file", "--nocapture"])
            .env(CHILD_FILE, &path)
            .output()
            .unwrap();
        let output = String::from_utf8(child.stdout).unwrap();
        let line = output.lines().find_map(|l| l.split_once("peak ")).expect(&output).1;
        let (peak, outcome) = line.split_once(' ').unwrap();
        let (peak, size) = (peak.parse::<u64>().unwrap(), raw.0.len() as u64);
        eprintln!("{name}: {size} bytes, {peak} more in memory, {outcome:.40}");
        assert!(outcome.starts_with(needed), "{name}: {outcome}");
        assert!(peak < 2 * size, "{name}: {size} bytes took {peak}");
    }
}

/// The most memory this process has had, mapped pages included.
fn peak_memory() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find_map(|l| l.strip_prefix("VmHWM:")).unwrap();
    line.trim().strip_suffix(" kB").unwrap().parse::<u64>().unwrap() * 1024
}
