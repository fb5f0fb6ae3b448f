//! Real vocabularies: `ggml-vocab-*.gguf` of a llama.cpp source tree, with the texts (`.inp`) and the ids that each
//! model's own tokenizer gives (`.out`). Reads the folder named in `LLAMA_CPP_VOCABS`; says so when there is none.

use std::path::{Path, PathBuf};

use loadmaster::gguf::Gguf;
use loadmaster::text::{Encode, Note, TextError, Tokenizer};

#[test]
fn real_vocabularies_encode_as_their_models_do() {
    let Some(folder) = std::env::var_os("LLAMA_CPP_VOCABS") else {
        eprintln!("skipped: LLAMA_CPP_VOCABS names no folder with ggml-vocab-*.gguf");
        return;
    };
    let mut files: Vec<PathBuf> = std::fs::read_dir(folder).unwrap().map(|e| e.unwrap().path()).collect();
    files.retain(|f| f.extension().is_some_and(|e| e == "gguf") && f.with_extension("gguf.inp").exists());
    files.sort();
    assert!(!files.is_empty(), "the folder holds no ggml-vocab-*.gguf with .inp and .out");
    let failures: Vec<String> = files.iter().filter_map(|f| check(f).err()).collect();
    assert!(failures.is_empty(), "{}", failures.join("\n"));
}

/// Encodes every text of a vocabulary, and decodes the ids of those that decoding keeps.
fn check(file: &Path) -> Result<(), String> {
    let name = file.file_name().unwrap().to_string_lossy();
    let opened = Gguf::open(file).map_err(|e| e.to_string())?;
    let start = std::time::Instant::now();
    let tokenizer = match Tokenizer::from_metadata(opened.metadata()) {
        Ok(tokenizer) => tokenizer,
        Err(TextError::NoTokenizer { found }) => {
            eprintln!("{name}: skipped, {found}");
            return Ok(());
        }
        Err(e) => return Err(format!("{name}: {e}")),
    };
    let loaded = start.elapsed();
    let texts = std::fs::read_to_string(file.with_extension("gguf.inp")).unwrap();
    let ids = std::fs::read_to_string(file.with_extension("gguf.out")).unwrap();
    let texts: Vec<&str> = texts.split("\n__ggml_vocab_test__\n").collect();
    let mut wrong = Vec::new();
    for (text, ids) in texts.iter().zip(ids.lines()) {
        let wanted: Vec<u32> = ids.split_whitespace().map(|id| id.parse().unwrap()).collect();
        let found = tokenizer.encode(text, Encode { add_special: false, parse_special: false });
        let found: Vec<u32> = found.iter().map(|t| t.0).collect();
        if found != wanted {
            wrong.push(format!("{name}: {text:?}\n  wanted {wanted:?}\n  found  {found:?}"));
        }
    }
    let odd: Vec<&Note> = tokenizer.notes().iter().collect();
    eprintln!("{name}: {} texts, {} wrong, loaded in {loaded:?}, notes {odd:?}", texts.len(), wrong.len());
    if wrong.is_empty() { Ok(()) } else { Err(wrong.join("\n")) }
}
