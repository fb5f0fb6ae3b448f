//! The house rules that a compiler does not check: who imports whom, and where `unsafe` and petgraph may be.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};

const VOCAB: [&str; 3] = ["units", "index", "tensor"];

/// Module → what it may import beside itself; `vocab` stands for units, index and tensor.
const TABLE: [(&str, &str); 21] = [
    ("units", ""),
    ("index", ""),
    ("tensor", "units index"),
    ("graph", "vocab"),
    ("gguf", "vocab"),
    ("device", "vocab graph"),
    ("kv", "units index"),
    ("residency", "vocab graph device"),
    ("plan", "vocab graph device residency"),
    ("fit", "vocab graph device residency plan"),
    ("sim", "vocab graph device residency plan fit"),
    ("backend", "vocab graph device residency plan"),
    ("exec", "vocab graph gguf device residency plan backend"),
    ("models", "vocab graph gguf kv"),
    ("text", "gguf"),
    ("sample", "text"),
    ("synth", "vocab gguf"),
    ("engine", "vocab graph gguf device residency plan fit backend exec models kv text sample"),
    ("inspect", "vocab graph gguf device residency plan models"),
    ("bench", "vocab graph gguf device residency plan backend exec models kv text sample engine inspect"),
    (
        "cli",
        "vocab graph gguf device residency plan backend exec models kv text sample synth engine inspect bench sim fit",
    ),
];

/// Files and folders that may hold `unsafe`.
const UNSAFE: [&str; 7] = [
    "gguf/mmap.rs",
    "backend/cpu/memory.rs",
    "backend/cpu/pool.rs",
    "backend/cpu/run.rs",
    "backend/cpu/simd/",
    "backend/cuda/driver/",
    "backend/vulkan/heaps.rs",
];

fn src() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("src")
}

/// Every source file, as its path below `src`, with its text.
fn sources() -> BTreeMap<String, String> {
    let mut found = BTreeMap::new();
    let mut folders = vec![src()];
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(&folder).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                folders.push(path);
            } else if path.extension().is_some_and(|e| e == "rs") {
                let name = path.strip_prefix(src()).unwrap().to_string_lossy().into_owned();
                found.insert(name, fs::read_to_string(&path).unwrap());
            }
        }
    }
    assert!(found.len() > 50, "{}", found.len());
    found
}

fn module_of(file: &str) -> &str {
    file.split('/').next().unwrap().trim_end_matches(".rs")
}

/// Names after `crate::`, braces at the top of a `use crate::{a, b}` included.
fn imports(text: &str) -> BTreeSet<String> {
    let mut names = BTreeSet::new();
    for (at, _) in text.match_indices("crate::") {
        let rest = &text[at + "crate::".len()..];
        let end = |s: &str| s.find(|c: char| !c.is_alphanumeric() && c != '_').unwrap_or(s.len());
        match rest.strip_prefix('{') {
            None => {
                names.insert(rest[..end(rest)].to_owned());
            }
            Some(list) => {
                let (mut depth, mut item) = (0, String::new());
                for c in list.chars() {
                    match c {
                        '{' => depth += 1,
                        '}' if depth == 0 => break,
                        '}' => depth -= 1,
                        ',' if depth == 0 => {
                            names.insert(item[..end(item.trim_start())].trim().to_owned());
                            item.clear();
                            continue;
                        }
                        _ => {}
                    }
                    if depth == 0 && !c.is_whitespace() {
                        item.push(c);
                    }
                }
                names.insert(item[..end(&item)].to_owned());
            }
        }
    }
    names.retain(|n| !n.is_empty());
    names
}

fn allowed(module: &str) -> BTreeSet<&'static str> {
    let (_, list) = TABLE.iter().find(|(m, _)| *m == module).unwrap_or_else(|| panic!("{module} is not in the table"));
    let words = list.split_whitespace();
    words.flat_map(|w| if w == "vocab" { VOCAB.to_vec() } else { vec![w] }).collect()
}

#[test]
fn modules_import_only_what_the_table_allows() {
    let modules: BTreeSet<&str> = TABLE.iter().map(|(m, _)| *m).collect();
    let mut wrong = Vec::new();
    for (file, text) in sources() {
        let module = module_of(&file).to_owned();
        if ["lib", "main"].contains(&module.as_str()) {
            continue;
        }
        let allowed = allowed(&module);
        for name in imports(&text) {
            if modules.contains(name.as_str()) && name != module && !allowed.contains(name.as_str()) {
                wrong.push(format!("{file} imports {name}"));
            }
        }
    }
    assert!(wrong.is_empty(), "{wrong:#?}");
}

/// Peeling off modules whose imports are all peeled leaves nothing iff there is no cycle.
#[test]
fn the_table_has_no_cycle() {
    let mut left: BTreeSet<&str> = TABLE.iter().map(|(m, _)| *m).collect();
    while let Some(next) = left.iter().find(|m| allowed(m).is_disjoint(&left)).copied() {
        left.remove(next);
    }
    assert!(left.is_empty(), "a cycle among {left:?}");
}

#[test]
fn unsafe_and_petgraph_stay_at_their_addresses() {
    let mut wrong = Vec::new();
    for (file, text) in sources() {
        let code: String = text.lines().filter(|l| !l.trim_start().starts_with("//")).collect::<Vec<_>>().join("\n");
        let has_unsafe = code.contains("unsafe {") || code.contains("unsafe fn") || code.contains("unsafe impl");
        if has_unsafe && !UNSAFE.iter().any(|a| file.starts_with(a)) {
            wrong.push(format!("{file}: unsafe"));
        }
        if code.contains("petgraph::") && module_of(&file) != "graph" {
            wrong.push(format!("{file}: petgraph"));
        }
        if module_of(&file) != "cli" && (code.contains("println!") || code.contains("print!(")) {
            wrong.push(format!("{file}: prints"));
        }
    }
    assert!(wrong.is_empty(), "{wrong:#?}");
}

#[test]
fn every_file_opens_with_its_contract_and_stays_small() {
    let mut wrong = Vec::new();
    for (file, text) in sources() {
        let most = if file.contains("/simd/") || file.contains("/quant/") { 1000 } else { 600 };
        let lines = text.lines().count();
        if lines > most {
            wrong.push(format!("{file}: {lines} lines, at most {most}"));
        }
        if !text.starts_with("//!") && !text.starts_with("#![doc") {
            wrong.push(format!("{file}: no contract in the first line"));
        }
    }
    assert!(wrong.is_empty(), "{wrong:#?}");
}

#[test]
fn imports_are_found_in_lists_too() {
    let text = "use crate::{a::{b, c}, d}; use crate::e::f; fn g() { crate::h::i() }";
    let found: Vec<String> = imports(text).into_iter().collect();
    assert_eq!(found, ["a", "d", "e", "h"]);
}
