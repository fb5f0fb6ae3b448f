//! The program as a person meets it: output, messages and exit codes, on small models made here.

use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

use loadmaster::cli::rewrite;
use loadmaster::gguf::{Gguf, Writer};
use loadmaster::synth::{Synth, named};
use loadmaster::tensor::{DType, Shape};
use tempfile::TempDir;

use crate::models::Made;

pub struct Ran {
    pub code: i32,
    pub out: String,
    pub err: String,
}

pub fn loadmaster(args: &[&str]) -> Ran {
    let mut program = Command::new(env!("CARGO_BIN_EXE_loadmaster"));
    // What it keeps for later runs does not go to the user's folder.
    program.args(args).env("XDG_CACHE_HOME", env!("CARGO_TARGET_TMPDIR")).stdin(Stdio::null());
    ran(program.output().unwrap())
}

fn ran(output: Output) -> Ran {
    Ran {
        code: output.status.code().unwrap_or(-1),
        out: String::from_utf8_lossy(&output.stdout).into_owned(),
        err: String::from_utf8_lossy(&output.stderr).into_owned(),
    }
}

/// Runs and expects exit code and parts of stderr.
#[track_caller]
pub fn refused(args: &[&str], code: i32, parts: &[&str]) {
    let ran = loadmaster(args);
    assert_eq!(ran.code, code, "{args:?}: {}", ran.err);
    for part in parts {
        assert!(ran.err.contains(part), "{args:?}: no {part:?} in {:?}", ran.err);
    }
    if code == 1 {
        assert_eq!(ran.err.lines().filter(|l| l.starts_with("error:")).count(), 1, "{:?}", ran.err);
        assert!(ran.err.lines().next_back().unwrap().starts_with("error:"), "{:?}", ran.err);
    }
}

fn tiny(folder: &TempDir, name: &str, dtype: DType) -> PathBuf {
    let path = folder.path().join(format!("{name}-{dtype}.gguf"));
    Synth::new(&named(name).unwrap(), dtype, 7).unwrap().write_file(&path, |_| {}).unwrap();
    path
}

fn folder() -> TempDir {
    tempfile::tempdir().unwrap()
}

fn text(path: &Path) -> &str {
    path.to_str().unwrap()
}

#[test]
fn options_of_llama_cpp_are_rewritten() {
    #[track_caller]
    fn check(given: &str, expected: &str) {
        let words = |line: &str| line.split(' ').map(Into::into).collect::<Vec<std::ffi::OsString>>();
        assert_eq!(rewrite(words(given)), words(expected), "{given}");
    }
    check("lm run -m x -ngl 99 -ub 64", "lm run -m x --n-gpu-layers 99 --ubatch-size 64");
    check("lm run -ctk q8_0 -ctv f16 -cnv", "lm run --cache-type-k q8_0 --cache-type-v f16 --conversation");
    check("lm run --ctx_size=9 --top_k 3", "lm run --ctx-size=9 --top-k 3");
    check("lm run -p -ngl -n 3", "lm run -p -ngl -n 3");
    check("lm run -p --a_b --c_d", "lm run -p --a_b --c-d");
    check("lm tokenize -- -ub --a_b", "lm tokenize -- -ub --a_b");
    check("lm run -n -1 a_b", "lm run -n -1 a_b");
    check("-ub -ub", "-ub --ubatch-size");
}

#[test]
fn the_shipped_model_tells_a_story_offline() {
    let first = loadmaster(&["run", "--temp", "0", "-n", "24", "-t", "1"]);
    assert_eq!(first.code, 0, "{}", first.err);
    assert!(first.out.starts_with("Once upon a time"), "{:?}", first.out);
    assert!(first.out.split_whitespace().count() > 12, "{:?}", first.out);
    for part in ["prompt:", "generation:", "24 tokens", "first token:", "memory:", "resident"] {
        assert!(first.err.contains(part), "no {part:?} in {:?}", first.err);
    }
    let second = loadmaster(&["run", "--temp", "0", "-n", "24", "-t", "2", "-ub", "2", "--no-display-prompt"]);
    assert_eq!(format!("Once upon a time{}", second.out), first.out);
}

#[test]
fn a_seed_repeats_a_story_and_a_file_is_a_prompt() {
    let folder = folder();
    let file = folder.path().join("prompt.txt");
    std::fs::write(&file, "Once upon a time\n").unwrap();
    let story = |seed: &str| loadmaster(&["run", "-f", text(&file), "-s", seed, "-n", "20", "-t", "1"]).out;
    assert_eq!(story("5"), story("5"));
    assert_ne!(story("5"), story("6"));
}

#[test]
fn chat_answers_every_line_and_ends_with_the_input() {
    let mut child = Command::new(env!("CARGO_BIN_EXE_loadmaster"))
        .args(["run", "-cnv", "--temp", "0", "-n", "4", "-t", "1"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    child.stdin.take().unwrap().write_all(b"Hello\n\nA cat\n").unwrap();
    let ran = ran(child.wait_with_output().unwrap());
    assert_eq!(ran.code, 0, "{}", ran.err);
    assert_eq!(ran.out.matches('\n').count(), 2, "one line an answer: {:?}", ran.out);
    assert!(ran.err.contains("ChatML"), "{:?}", ran.err);
    assert!(ran.err.contains("generation:"), "{:?}", ran.err);
}

/// `run` with standard input from a file of these bytes, standard output to this file.
fn with_files(args: &[&str], input: &[u8], out: &str) -> Ran {
    let folder = folder();
    let path = folder.path().join("input");
    std::fs::write(&path, input).unwrap();
    let output = std::fs::OpenOptions::new().write(true).open(out).unwrap();
    let input = std::fs::File::open(&path).unwrap();
    ran(Command::new(env!("CARGO_BIN_EXE_loadmaster")).args(args).stdin(input).stdout(output).output().unwrap())
}

#[test]
fn a_chat_without_lines_ends_and_one_of_any_bytes_answers() {
    let chat = ["run", "-cnv", "--temp", "0", "-n", "2", "-t", "1"];
    let silent = with_files(&chat, b"", "/dev/null");
    assert!(silent.code == 0 && !silent.err.contains("error"), "{}", silent.err);
    let noisy = with_files(&chat, b"hi \xff\xfe\0\nlast", "/dev/null");
    assert!(noisy.code == 0 && noisy.err.contains("generation:  2 tokens"), "{}", noisy.err);
}

#[test]
fn output_that_cannot_be_written_is_a_failure() {
    let model = concat!(env!("CARGO_MANIFEST_DIR"), "/graphs/shipped/stories-1m.gguf");
    let commands: [&[&str]; 5] = [
        &["run", "-n", "2", "-t", "1"],
        &["tokenize", model, "hi"],
        &["inspect", model],
        &["inspect", model, "--format", "json"],
        &["completions", "bash"],
    ];
    for args in commands {
        let ran = with_files(args, b"", "/dev/full");
        assert!(ran.code == 1 && ran.err.contains("error: No space left"), "{args:?}: {} {}", ran.code, ran.err);
    }
}

#[test]
fn a_file_that_claims_the_longest_context_is_no_overflow() {
    let folder = folder();
    let path = tiny(&folder, "llama-tiny", DType::F32);
    let mut bytes = std::fs::read(&path).unwrap();
    let key = b"llama.context_length";
    let at = bytes.windows(key.len()).position(|w| w == key).unwrap() + key.len() + 4;
    bytes[at..at + 4].copy_from_slice(&[0xff; 4]);
    std::fs::write(&path, bytes).unwrap();
    refused(
        &["run", text(&path), "-p", "a", "-c", "0", "-ctk", "f32", "-ctv", "f32"],
        1,
        &["trained on 4294967295 tokens", "-c"],
    );
    let shown = loadmaster(&["inspect", text(&path), "-c", "0"]);
    assert!(shown.code == 0 && shown.out.contains("no graph: the model says"), "{} {}", shown.out, shown.err);
    assert_eq!(loadmaster(&["run", text(&path), "-p", "a", "-n", "1", "-t", "1"]).code, 0);
}

#[test]
fn a_prompt_without_an_answer_is_evaluated() {
    let ran = loadmaster(&["run", "-n", "0", "-t", "1"]);
    assert_eq!((ran.code, ran.out.as_str()), (0, "Once upon a time\n"));
    assert!(ran.err.contains("generation:  0 tokens") && !ran.err.contains("first token: 0.0 ms"), "{}", ran.err);
}

#[test]
fn a_chat_that_outgrows_the_context_forgets_its_oldest_turns() {
    let chat = |lines: &str| {
        let mut child = Command::new(env!("CARGO_BIN_EXE_loadmaster"))
            .args(["run", "-cnv", "--temp", "0", "-n", "8", "-t", "1", "-c", "160", "--ignore-eos"])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        child.stdin.take().unwrap().write_all(lines.as_bytes()).unwrap();
        ran(child.wait_with_output().unwrap())
    };
    let many = chat(&"A cat and a dog\n".repeat(6));
    assert_eq!(many.code, 0, "{}", many.err);
    assert!(many.err.contains("oldest turn is forgotten"), "{}", many.err);
    assert_eq!(chat("A cat\n").err.matches("forgotten").count(), 0);
    let long = chat(&format!("{}\n", "cat ".repeat(300)));
    assert_eq!(long.code, 1, "{}", long.err);
    assert!(long.err.contains("no room for an answer"), "{}", long.err);
}

#[test]
fn a_tensor_that_nothing_uses_is_named() {
    let folder = folder();
    let path = folder.path().join("more.gguf");
    let own = Synth::new(&named("llama-tiny").unwrap(), DType::F32, 1).unwrap().to_bytes().unwrap();
    let own = Gguf::from_bytes("own", own).unwrap();
    let mut writer = Writer::new();
    for (key, value) in own.metadata().iter() {
        writer.set(key, value).unwrap();
    }
    for t in own.tensors() {
        writer.add_tensor(&t.name, t.dtype, t.shape).unwrap();
    }
    writer.add_tensor("blk.0.vision.weight", DType::F32, Shape::new(&[4]).unwrap()).unwrap();
    let data = |t: &loadmaster::gguf::TensorSpec, out: &mut dyn Write| match own.tensor(&t.name) {
        Some(info) => out.write_all(own.bytes(info)),
        None => out.write_all(&[0; 16]),
    };
    writer.write_file(&path, data).unwrap();
    let ran = loadmaster(&["run", text(&path), "-p", "a", "-n", "1", "--temp", "0", "-t", "1"]);
    assert!(ran.code == 0 && ran.err.contains("blk.0.vision.weight"), "{}", ran.err);
    let shown = loadmaster(&["inspect", text(&path)]).out;
    assert!(shown.contains("unused: 1 tensors that no node reads\n  blk.0.vision.weight\n"), "{shown}");
}

#[test]
fn gpu_layers_are_answered_with_a_note() {
    for (layers, noted) in [("99", true), ("all", true), ("0", false), ("-1", false)] {
        let ran = loadmaster(&["run", "-ngl", layers, "-n", "1", "--temp", "0", "-t", "1"]);
        assert_eq!(ran.code, 0, "{}", ran.err);
        assert_eq!(ran.err.contains("try --devices cuda:0 or vulkan:0"), noted, "{layers}: {:?}", ran.err);
    }
}

#[test]
fn bad_usage_is_code_2_and_failures_are_code_1() {
    let folder = folder();
    let model = tiny(&folder, "llama-tiny", DType::F32);
    let model = text(&model);
    let junk = folder.path().join("junk.gguf");
    std::fs::write(&junk, b"not a model at all, sorry").unwrap();
    let junk = text(&junk);
    let long = "word ".repeat(200);

    refused(&[], 2, &["Usage"]);
    refused(&["sing"], 2, &["sing"]);
    refused(&["run", "--no-such-flag"], 2, &["--no-such-flag"]);
    refused(&["run", model, "-p", ""], 2, &["prompt is empty"]);
    refused(&["run", model], 2, &["needed a prompt", "-p TEXT"]);
    refused(&["run", model, "-m", model, "-p", "a"], 2, &["cannot be used with"]);
    refused(&["run", model, "-p", "a", "--temp", "-1"], 2, &["temperature", "-1"]);
    refused(&["run", model, "-p", "a", "-ctk", "q2_k"], 2, &["f32, f16, bf16, q8_0, q4_0"]);
    refused(&["run", model, "-p", "a", "-ngl", "few"], 2, &["few"]);
    refused(&["run", model, "-p", "a", "-c", "4294967295"], 2, &["4294967295"]);
    refused(&["run", model, "-p", "a", "-c", "67108864", "-ctk", "f32"], 1, &["needs", "budget"]);
    refused(&["run", "/nowhere/x.gguf", "-p", "a"], 1, &["/nowhere/x.gguf", "No such file"]);
    refused(&["run", text(folder.path()), "-p", "a"], 1, &["regular file"]);
    refused(&["run", junk, "-p", "a"], 1, &["junk.gguf", "magic", "not "]);
    refused(&["run", model, "-p", &long, "-c", "64"], 1, &["context has room for 64", "-c"]);
    refused(&["run", model, "-p", "abc", "-c", "64", "-n", "70"], 1, &["context has room for 64", "-n"]);
    refused(&["run", model, "-f", "/nowhere/p.txt"], 1, &["/nowhere/p.txt"]);
    refused(&["logits", model, "--tokens", "1,x", "--out", "/dev/null"], 2, &["\"x\" is no token id"]);
    refused(&["logits", model, "--tokens", " ", "--out", "/dev/null"], 2, &["no token ids"]);
    refused(&["logits", model, "--tokens", "1,512", "--out", "/dev/null"], 1, &["512"]);
    refused(&["logits", model, "--tokens", "1", "--out", "/nowhere/x.npy"], 1, &["/nowhere/x.npy"]);
    refused(&["tokenize"], 2, &["needed a model"]);
    refused(&["inspect", junk], 1, &["magic"]);
    refused(&["synth", "llama-9000b", "-o", "/dev/null"], 2, &["llama-9000b", "llama-1b"]);
    refused(&["synth", "llama-tiny", "--type", "q9_9", "-o", "/dev/null"], 2, &["q9_9"]);
    refused(&["synth", "llama-tiny", "--kv-heads", "3", "-o", "/dev/null"], 2, &["kv_heads is 3", "divisor"]);
    refused(&["synth", "llama-tiny", "--rope-base", "nan", "-o", "/dev/null"], 2, &["rope_base is NaN", "above 0"]);
    refused(&["synth", "llama-tiny", "-o", "/nowhere/x.gguf"], 1, &["/nowhere/x.gguf"]);
    for option in ["-t", "-b", "-ub", "--top-k", "--repeat-last-n", "-c"] {
        for value in ["-99", "0", "99999999999999999999"] {
            // `-c 0` is the model's own context, `--top-k -99` all tokens.
            if !matches!((option, value), ("-c" | "--top-k" | "--repeat-last-n", "0") | ("--top-k", "-99")) {
                refused(&["run", model, "-p", "a", option, value], 2, &["invalid value", value]);
            }
        }
    }
    refused(&["run", model, "-p", "a", "-n", "99999999999999999999"], 2, &["invalid value"]);
    refused(&["run", model, "-p", "a", "-n", "9223372036854775807"], 1, &["context has room"]);
    refused(&["bench", model, "-p", "-1"], 2, &["invalid value", "-1"]);
    refused(&["bench", model, "-p", "0", "-n", "0"], 2, &["nothing to measure"]);
    refused(&["perplexity", model], 2, &["--file"]);
}

#[test]
fn layers_that_are_missing_and_contexts_that_are_too_long_are_inspected() {
    let folder = folder();
    let path = folder.path().join("odd.gguf");
    let check = |key: &str, n: u32, args: &[&str], needed: &str| {
        std::fs::write(&path, Made::of("llama-tiny").set(key, n).bytes()).unwrap();
        let inspected = loadmaster(&[&["inspect", text(&path)], args].concat());
        assert_eq!(inspected.code, 0, "{}", inspected.err);
        assert!(inspected.out.contains(&format!("\nno graph: {needed}\n")), "{}", inspected.out);
        refused(&[&["run", text(&path), "-p", "a"], args].concat(), 1, &[needed]);
    };
    let layers =
        format!("{}: metadata llama.block_count is 5, needed at most 2: the file has tensors of 2 layers", text(&path));
    check(".block_count", 5, &[], &layers);
    check(".block_count", 5, &["-c", "0"], &layers);
    let context =
        "the model says that it was trained on 4294967295 tokens, a cache holds 67108864 at most; ask with -c";
    check(".context_length", u32::MAX, &["-c", "0"], context);
}

#[test]
fn a_model_of_an_unknown_kind_is_refused_and_still_inspected() {
    let folder = folder();
    let path = folder.path().join("odd.gguf");
    let mut writer = Writer::new();
    writer.set("general.architecture", "mamba\u{1b}[31m\u{202e}").unwrap();
    writer.add_tensor("x\u{7}", DType::Iq1S, Shape::new(&[256, 2]).unwrap()).unwrap();
    writer.write_file(&path, |t, out| out.write_all(&vec![0; t.bytes.index()])).unwrap();
    refused(&["run", text(&path), "-p", "a"], 1, &["mamba", "llama, qwen2, qwen3, qwen3moe"]);
    let ran = loadmaster(&["inspect", text(&path)]);
    assert_eq!(ran.code, 0, "{}", ran.err);
    assert!(ran.out.contains("iq1_s") && ran.out.contains("no graph"), "{}", ran.out);
    for text in [&ran.out, &ran.err, &loadmaster(&["inspect", text(&path), "--format", "dot"]).out] {
        assert!(!text.contains(['\u{1b}', '\u{202e}', '\u{7}']), "{text:?}");
    }
}

#[test]
fn devices_that_work_on_every_layer_together_tell_the_story_of_one() {
    let story = |more: &[&str]| {
        let ran = loadmaster(&[&["run", "--temp", "0", "-n", "24", "-t", "1"], more].concat());
        assert_eq!(ran.code, 0, "{}", ran.err);
        (ran.out, ran.err)
    };
    let (one, _) = story(&[]);
    let (two, told) = story(&["--devices", "cpu,cpu", "-sm", "tensor"]);
    assert_eq!(two, one);
    assert!(["cpu:0: weights", "cpu:1: weights"].iter().all(|part| told.contains(part)), "{told}");
    let (four, _) = story(&["--devices", "cpu,cpu,cpu,cpu", "-sm", "tensor", "--max-gpu", "2"]);
    assert_eq!(four, one);
    refused(&["run", "-n", "1", "-sm", "diagonal"], 2, &["diagonal", "possible values: layer, tensor"]);
}

#[test]
fn several_devices_give_the_logits_and_the_text_of_one() {
    let folder = folder();
    let model = tiny(&folder, "deepseek2-tiny", DType::Q4K);
    let file = folder.path().join("x.npy");
    let logits = |more: &[&str]| {
        let args = ["logits", text(&model), "--tokens", "1,59,300,11,2,77", "--out", text(&file), "-t", "1"];
        let ran = loadmaster(&[&args, more].concat());
        assert_eq!(ran.code, 0, "{}", ran.err);
        std::fs::read(&file).unwrap()
    };
    let one = logits(&[]);
    assert_eq!(logits(&["--devices", "cpu,cpu,cpu"]), one);
    assert_eq!(logits(&["--devices", "cpu,cpu", "--budget", "20,40", "--batch", "2"]), one);
    assert_eq!(logits(&["--devices", "cpu,cpu", "--budget", "cpu:1=1GiB,cpu:0=20MiB", "--batch", "2"]), one);
    let story = |more: &[&str]| loadmaster(&[&["run", "--temp", "0", "-n", "12", "-t", "1"], more].concat());
    let (one, three) = (story(&[]), story(&["--devices", "cpu,cpu,cpu", "--budget", "64"]));
    assert_eq!((three.code, &three.out), (0, &one.out), "{}", three.err);
    assert!(["cpu:0: weights", "cpu:1: weights", "cpu:2: weights"].iter().all(|part| three.err.contains(part)));
    let run = |more: &[&'static str]| [&["run", "-n", "1", "-t", "1"], more].concat();
    refused(&run(&["--devices", "cpu,abacus"]), 2, &["abacus", "possible values: cpu"]);
    refused(&run(&["--devices", "cpu,cpu", "--budget", "1,2,3"]), 2, &["--budget has 3 numbers for 2 devices"]);
    refused(&run(&["--devices", "cpu,cpu", "--budget", "0"]), 2, &["--budget"]);
    refused(&["run", "-n", "1", "--devices", &["cpu"; 65].join(",")], 2, &["65 names, at most 64"]);
    refused(&run(&["--devices", "cpu,cpu", "--budget", "1"]), 1, &["cpu:", "needs", "its budget is 1.0 MiB"]);
    refused(&run(&["--budget", "1"]), 1, &["host needs", "its budget is 1.0 MiB"]);
    // By name; what is not named keeps its own.
    refused(&run(&["--budget", "cpu=1MiB"]), 1, &["host needs", "its budget is 1.0 MiB"]);
    let first = story(&["--devices", "cpu,cpu", "--budget", "cpu:1=1"]);
    assert!(first.out == one.out && first.err.contains("cache 0 B, arena 0 B"), "{}", first.err);
    for (budget, why) in [
        ("cpu:1=1GiB,cpu:1=2GiB", "--budget names cpu:1 twice"),
        ("cpu=64MiB", "--budget names \"cpu\", the devices are cpu:0, cpu:1"),
        ("vulkan=64MiB", "--budget names \"vulkan:0\", the devices are cpu:0, cpu:1"),
        ("64,cpu:1=64", "--budget has 2 entries and 1 of them name a device, needed all or none"),
        ("cpu:1=0GiB", "such as 64 or 64MiB or 2GiB, or DEVICE=SIZE, found \"0GiB\""),
        ("cpu:1=64KB", "found \"64KB\""),
        ("cpu:1=", "found \"\""),
        ("18446744073709551615GiB", "needed 1 to 1099511627776 MiB"),
    ] {
        refused(&run(&["--devices", "cpu,cpu", "--budget", budget]), 2, &["--budget", why]);
    }
}

#[test]
fn logits_are_a_numpy_file_and_do_not_depend_on_the_batch() {
    let folder = folder();
    let model = tiny(&folder, "llama-tiny", DType::Q4_0);
    let file = folder.path().join("x.npy");
    let logits = |batch: &str| {
        let args = ["logits", text(&model), "--tokens", "1,5 9,300,11,2,77", "--out", text(&file), "--batch", batch];
        let ran = loadmaster(&args);
        assert_eq!(ran.code, 0, "{}", ran.err);
        std::fs::read(&file).unwrap()
    };
    let bytes = logits("7");
    assert_eq!(&bytes[..8], b"\x93NUMPY\x01\x00");
    let header = usize::from(u16::from_le_bytes([bytes[8], bytes[9]]));
    assert!((10 + header).is_multiple_of(64));
    let text = std::str::from_utf8(&bytes[10..10 + header]).unwrap();
    assert!(text.starts_with("{'descr': '<f4', 'fortran_order': False, 'shape': (7, 512), }"), "{text}");
    assert!(text.ends_with('\n'));
    assert_eq!(bytes.len(), 10 + header + 7 * 512 * 4);
    let floats: Vec<f32> =
        bytes[10 + header..].chunks_exact(4).map(|b| f32::from_le_bytes([b[0], b[1], b[2], b[3]])).collect();
    let spread = floats.iter().map(|x| x * x).sum::<f32>() / floats.len() as f32;
    assert!((0.01..100.0).contains(&spread), "mean square {spread}");
    assert_eq!(bytes, logits("1"));
    assert_eq!(bytes, logits("3"));
}

#[test]
fn tokens_of_arguments_files_and_standard_input_are_the_same() {
    let folder = folder();
    let model = tiny(&folder, "llama-tiny", DType::F32);
    let file = folder.path().join("t.txt");
    std::fs::write(&file, "hi").unwrap();
    // A filler vocabulary spells all text as bytes; the space in front is the format's.
    let expected = "[1,229,153,132,107,108]\n";
    assert_eq!(loadmaster(&["tokenize", text(&model), "hi", "--json"]).out, expected);
    assert_eq!(loadmaster(&["tokenize", "-m", text(&model), "hi", "--json"]).out, expected);
    assert_eq!(loadmaster(&["tokenize", text(&model), "--file", text(&file), "--json"]).out, expected);
    assert_eq!(loadmaster(&["tokenize", text(&model), "hi", "--json", "--no-special"]).out, "[229,153,132,107,108]\n");
    let shown = loadmaster(&["tokenize", text(&model), "hi"]).out;
    assert!(shown.contains("     1  <s>\n") && shown.contains("   108  i\n") && shown.contains("\\xe2"), "{shown}");
}

#[test]
fn synthetic_models_are_the_same_for_the_same_seed() {
    let folder = folder();
    let file = |name: &str, seed: &str| {
        let path = folder.path().join(name);
        let ran = loadmaster(&["synth", "qwen3-tiny", "--type", "q4_k", "--seed", seed, "-o", text(&path)]);
        assert_eq!(ran.code, 0, "{}", ran.err);
        std::fs::read(path).unwrap()
    };
    assert_eq!(file("a", "3"), file("b", "3"));
    assert_ne!(file("a", "3"), file("c", "4"));
}

#[test]
fn synth_makes_every_option_and_says_what_falls_back() {
    let folder = folder();
    let path = folder.path().join("x.gguf");
    let path = text(&path);
    let narrow = ["synth", "llama-tiny", "--width", "96", "--head-dim", "32", "--type", "q4_k", "-o", path];
    let ran = loadmaster(&narrow);
    assert_eq!(ran.code, 0, "{}", ran.err);
    assert!(ran.err.contains("no multiple of 256") && ran.err.contains("q8_0"), "{}", ran.err);
    let options =
        ["--rope-scaling", "yarn:4", "--tied", "false", "--attention-biases", "true", "--rope-factors", "true"];
    let args = [&["synth", "mixtral-tiny", "--type", "q6_k", "--experts", "4:3", "-o", path][..], &options].concat();
    let ran = loadmaster(&args);
    assert_eq!(ran.code, 0, "{}", ran.err);
    let gguf = Gguf::open(Path::new(path)).unwrap();
    assert_eq!(gguf.metadata().str("llama.rope.scaling.type").unwrap(), Some("yarn"));
    for tensor in ["output.weight", "blk.1.attn_q.bias", "rope_freqs.weight", "blk.0.ffn_gate_exps.weight"] {
        assert!(gguf.tensor(tensor).is_some(), "{tensor}");
    }
    let ran = loadmaster(&["inspect", path]);
    assert!(!ran.out.contains("unused"), "{}", ran.out);
    assert_eq!(loadmaster(&["run", path, "-p", "a", "-n", "2", "--temp", "0", "-t", "1"]).code, 0);
}

#[test]
fn shapes_come_from_files_and_from_dimensions() {
    let folder = folder();
    let (shape, path) = (folder.path().join("shape.json"), folder.path().join("x.gguf"));
    let (shape, path) = (text(&shape), text(&path));
    let dims = r#"{"arch": "qwen3", "layers": 1, "width": 64, "heads": 2, "kv_heads": 1, "head_dim": 64,
        "feed_forward": 96, "vocab": 300, "rope_scaling": "linear:2", "tied": true}"#;
    std::fs::write(shape, dims).unwrap();
    let made = |args: &[&str]| {
        let ran = loadmaster(&[&["synth", "--type", "f16", "-o", path], args].concat());
        assert_eq!(ran.code, 0, "{}", ran.err);
        let bytes = std::fs::read(path).unwrap();
        assert_eq!(loadmaster(&["logits", path, "--tokens", "1,299", "--out", "/dev/null", "-t", "1"]).code, 0);
        bytes
    };
    let dims =
        ["--arch", "qwen3", "--layers", "1", "--width", "64", "--heads", "2", "--kv-heads", "1", "--head-dim", "64"];
    let rest = ["--ff", "96", "--vocab", "300", "--rope-scaling", "linear:2", "--tied", "true"];
    assert_eq!(made(&[shape]), made(&[&dims[..], &rest].concat()));
    std::fs::write(shape, "{\"arch\": \"llama\", \"lairs\": 3}").unwrap();
    refused(&["synth", shape, "-o", path], 1, &["shape.json", "lairs"]);
    refused(&["synth", "--arch", "llama", "-o", path], 2, &["--width"]);
    assert!(loadmaster(&["synth", "--list"]).out.lines().any(|l| l.starts_with("qwen3moe-1.6b ")));
}

#[test]
fn every_type_and_architecture_of_synth_runs() {
    let folder = folder();
    let known = DType::ALL.iter().filter(|t| loadmaster::tensor::quant::can_decode(**t));
    let mut cases: Vec<(&str, DType)> = known.map(|&t| ("llama-tiny", t)).collect();
    cases.extend(
        ["mixtral-tiny", "qwen2-tiny", "qwen3-tiny", "qwen3moe-tiny", "gemma3-tiny"].map(|name| (name, DType::Q4K)),
    );
    assert_eq!(cases.len(), 16 + 5);
    let out = folder.path().join("x.npy");
    for (name, dtype) in cases {
        let model = tiny(&folder, name, dtype);
        let ran = loadmaster(&["logits", text(&model), "--tokens", "1,2,3,400", "--out", text(&out), "-t", "1"]);
        assert_eq!(ran.code, 0, "{name} {dtype}: {}", ran.err);
        let bytes = std::fs::read(&out).unwrap();
        let floats = bytes[128..].chunks_exact(4).map(|b| f32::from_le_bytes([b[0], b[1], b[2], b[3]]));
        let (mut sum, mut count) = (0.0, 0);
        for x in floats {
            assert!(x.is_finite(), "{name} {dtype}");
            (sum, count) = (sum + x * x, count + 1);
        }
        assert_eq!(count, 4 * 512, "{name} {dtype}");
        assert!((0.01..100.0).contains(&(sum / count as f32)), "{name} {dtype}: mean square {}", sum / count as f32);
    }
}

#[test]
fn bench_gives_the_table_and_the_keys_of_llama_bench() {
    let folder = folder();
    let model = tiny(&folder, "llama-tiny", DType::Q8_0);
    let records = folder.path().join("records");
    let common = ["bench", text(&model), "-p", "8", "-n", "2", "-r", "2", "-t", "1"];
    let table = loadmaster(&common);
    assert_eq!(table.code, 0, "{}", table.err);
    let lines: Vec<&str> = table.out.lines().collect();
    assert_eq!(lines.len(), 4, "{}", table.out);
    assert!(lines[0].starts_with("| model ") && lines[2].contains("| pp8 |".trim_start_matches("| ")), "{}", table.out);
    assert!(lines[3].contains("tg2 |") && lines[3].contains(" ± "), "{}", table.out);
    let several = loadmaster(&["bench", text(&model), "-p", "4,8", "-n", "0", "-r", "1", "-t", "1", "-o", "json"]);
    let rows: serde_json::Value = serde_json::from_str(&several.out).unwrap();
    assert_eq!((rows.as_array().unwrap().len(), &rows[1]["n_prompt"]), (2, &8.into()));
    let json = loadmaster(&[&common[..], &["--json", "--record", text(&records), "--commit", "abc"]].concat());
    let rows: serde_json::Value = serde_json::from_str(&json.out).unwrap();
    let rows = rows.as_array().unwrap();
    assert_eq!(rows.len(), 2);
    for key in [
        "build_commit",
        "build_number",
        "cpu_info",
        "gpu_info",
        "backends",
        "model_filename",
        "model_type",
        "model_size",
        "model_n_params",
        "n_batch",
        "n_ubatch",
        "n_threads",
        "type_k",
        "type_v",
        "n_gpu_layers",
        "n_prompt",
        "n_gen",
        "n_depth",
        "test_time",
        "avg_ns",
        "stddev_ns",
        "avg_ts",
        "stddev_ts",
        "samples_ns",
        "samples_ts",
    ] {
        assert!(rows.iter().all(|row| row.get(key).is_some()), "{key}");
    }
    assert_eq!((&rows[0]["n_prompt"], &rows[0]["n_gen"]), (&8.into(), &0.into()));
    assert_eq!((&rows[1]["n_prompt"], &rows[1]["n_gen"]), (&0.into(), &2.into()));
    assert_eq!(rows[1]["samples_ns"].as_array().unwrap().len(), 2);
    assert!(rows[0]["avg_ts"].as_f64().unwrap() > 0.0);
    let record = std::fs::read_dir(&records).unwrap().next().unwrap().unwrap().path();
    let record: serde_json::Value = serde_json::from_str(&std::fs::read_to_string(record).unwrap()).unwrap();
    assert_eq!(record["commit"], "abc");
    assert_eq!(record["rows"].as_array().unwrap().len(), 2);
    assert!(record["machine"]["cores"].as_u64().unwrap() > 0);
}

/// A base file as llama.cpp's perplexity tool writes it, of `logits` `[chunks * scored, vocab]`.
fn base_file(context: i32, vocab: i32, tokens: &[i32], logits: &[Vec<f32>]) -> Vec<u8> {
    let mut bytes = b"_logits_".to_vec();
    [context, vocab, tokens.len() as i32 / context].iter().for_each(|n| bytes.extend(n.to_le_bytes()));
    tokens.iter().for_each(|t| bytes.extend(t.to_le_bytes()));
    for row in logits {
        let max = row.iter().copied().fold(f32::MIN, f32::max);
        let min = row.iter().copied().fold(f32::MAX, f32::min).max(max - 16.0);
        let log_sum = row.iter().map(|&x| f64::from(x - max).exp()).sum::<f64>().ln() as f32;
        let scale = (max - min) / 65535.0;
        bytes.extend(scale.to_le_bytes());
        bytes.extend((min - max - log_sum).to_le_bytes());
        row.iter().for_each(|&x| bytes.extend((((x - min) / scale).round().max(0.0) as u16).to_le_bytes()));
        if row.len() % 2 == 1 {
            bytes.extend([0, 0]);
        }
    }
    bytes
}

#[test]
fn perplexity_of_a_text_and_divergence_from_a_base_file() {
    let folder = folder();
    let model = tiny(&folder, "llama-tiny", DType::Q8_0);
    let (story, npy) = (folder.path().join("story.txt"), folder.path().join("x.npy"));
    std::fs::write(&story, "All work and no play makes a dull day. ".repeat(4)).unwrap();
    let ran = loadmaster(&["perplexity", text(&model), "-f", text(&story), "-c", "32", "-t", "1"]);
    assert_eq!(ran.code, 0, "{}", ran.err);
    let value: f64 =
        ran.out.strip_prefix("Final estimate: PPL = ").unwrap().split(' ').next().unwrap().parse().unwrap();
    // Random weights know nothing: about as unsure as the vocabulary of 512 is large.
    assert!((100.0..5000.0).contains(&value), "{}", ran.out);
    refused(&["perplexity", text(&model), "-f", text(&story), "-c", "512"], 1, &["needed 1024"]);

    // Our own logits as base: the same distribution, so no divergence but the file's rounding.
    let tokens: Vec<i32> = (0..16).map(|i| 3 + 31 * i).collect();
    let fed: Vec<String> = [1].iter().chain(&tokens[1..]).map(i32::to_string).collect();
    let args = ["logits", text(&model), "--tokens", &fed.join(","), "--out", text(&npy), "-t", "1"];
    assert_eq!(loadmaster(&args).code, 0);
    let bytes = std::fs::read(&npy).unwrap();
    let floats: Vec<f32> = bytes[128..].chunks_exact(4).map(|b| f32::from_le_bytes([b[0], b[1], b[2], b[3]])).collect();
    let rows: Vec<Vec<f32>> = floats.chunks(512).map(<[f32]>::to_vec).skip(8).take(7).collect();
    let base = base_file(16, 512, &tokens, &rows);
    let path = folder.path().join("base.kld");
    std::fs::write(&path, &base).unwrap();
    let ran = loadmaster(&["perplexity", text(&model), "--kl-divergence-base", text(&path), "-t", "1"]);
    assert_eq!(ran.code, 0, "{}", ran.err);
    let number = |name: &str| -> f64 {
        let line = ran.out.lines().find(|l| l.starts_with(name)).unwrap_or_else(|| panic!("{name}: {}", ran.out));
        line.split_once(": ").unwrap().1.split_whitespace().next().unwrap().parse().unwrap()
    };
    assert_eq!(number("Scored tokens"), 7.0);
    assert!(number("Mean    KLD").abs() < 1e-5, "{}", ran.out);
    assert!((number("Mean PPL(Q)/PPL(base)") - 1.0).abs() < 1e-3, "{}", ran.out);
    assert_eq!(number("Same top p"), 100.0);

    let hostile = |name: &str, bytes: &[u8], part: &str| {
        let path = folder.path().join(name);
        std::fs::write(&path, bytes).unwrap();
        refused(&["perplexity", text(&model), "--kl-divergence-base", text(&path), "-t", "1"], 1, &[part]);
    };
    let patched = |at: usize, value: i32| {
        let mut bytes = base.clone();
        bytes[at..at + 4].copy_from_slice(&value.to_le_bytes());
        bytes
    };
    hostile("magic", b"_logitz_", "magic");
    hostile("empty", b"", "magic");
    hostile("header", &base[..18], "20 bytes of header, found 18");
    hostile("short", &base[..base.len() - 1], "bytes, found");
    hostile("context", &patched(8, -5), "context is -5");
    hostile("vocab", &patched(12, i32::MAX), "vocabulary is 2147483647");
    hostile("chunks", &patched(16, i32::MAX), "bytes, found");
    hostile("token", &patched(20, 512), "token is 512");
    hostile("scale", &patched(20 + 64, f32::NAN.to_bits() as i32), "scale");
    let other = base_file(4, 600, &[1, 2, 3, 4], &[vec![0.5; 600]]);
    hostile("model", &other, "different models");
}

#[cfg(unix)]
#[test]
fn an_interrupt_ends_the_text_and_still_reports() {
    use std::io::Read;
    let folder = folder();
    let (path, session) = (folder.path().join("long.gguf"), folder.path().join("s.session"));
    let made = loadmaster(&["synth", "llama-tiny", "--type", "q8_0", "--context", "60000", "-o", text(&path)]);
    assert_eq!(made.code, 0, "{}", made.err);
    let mut child = Command::new(env!("CARGO_BIN_EXE_loadmaster"))
        .args(["run", text(&path), "-p", "a", "-c", "0", "--ignore-eos", "-t", "1", "--save-session", text(&session)])
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    // Text has begun once the prompt and something after it are there.
    let mut out = child.stdout.take().unwrap();
    out.read_exact(&mut [0; 2]).unwrap();
    let drained = std::thread::spawn(move || std::io::copy(&mut out, &mut std::io::sink()));
    assert!(Command::new("sh").args(["-c", &format!("kill -INT {}", child.id())]).status().unwrap().success());
    let ran = ran(child.wait_with_output().unwrap());
    drained.join().unwrap().unwrap();
    assert_eq!(ran.code, 0, "{}", ran.err);
    assert!(ran.err.contains("; stopped") && ran.err.contains("memory:"), "{}", ran.err);
    // What was written until then is saved, and goes on.
    let more = ["run", text(&path), "-c", "0", "-n", "3", "-t", "1", "--ignore-eos", "--load-session", text(&session)];
    let more = loadmaster(&more);
    assert!(more.code == 0 && more.err.contains("generation:  3 tokens"), "{}", more.err);
}

#[test]
fn help_has_examples_everywhere_and_completions_exist() {
    for command in ["run", "logits", "tokenize", "inspect", "synth", "sim", "bench", "perplexity", "completions"] {
        let ran = loadmaster(&[command, "--help"]);
        assert_eq!(ran.code, 0);
        assert!(ran.out.contains("Examples:\n  loadmaster ") || ran.out.contains("loadmaster tokenize"), "{}", ran.out);
    }
    for shell in ["bash", "zsh", "fish", "powershell", "elvish"] {
        let ran = loadmaster(&["completions", shell]);
        assert!(ran.code == 0 && ran.out.contains("perplexity"), "{shell}");
    }
    assert_eq!(loadmaster(&["--version"]).out, format!("loadmaster {}\n", env!("CARGO_PKG_VERSION")));
}

#[test]
fn a_reader_that_goes_away_ends_the_program_quietly() {
    for args in [&["run", "--temp", "0", "-n", "400", "-t", "1"][..], &["completions", "bash"][..]] {
        let mut child = Command::new(env!("CARGO_BIN_EXE_loadmaster"))
            .args(args)
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        drop(child.stdout.take());
        let ran = ran(child.wait_with_output().unwrap());
        assert_eq!((ran.code, ran.err.as_str()), (0, ""), "{args:?}");
    }
}

#[test]
fn a_shape_is_emitted_alone() {
    let folder = folder();
    let path = folder.path().join("x.gguf");
    let path = text(&path);
    assert_eq!(loadmaster(&["synth", "qwen2-tiny", "--type", "q4_k", "-o", path]).code, 0);
    let ran = loadmaster(&["inspect", path, "--emit", "shape"]);
    assert_eq!(ran.code, 0, "{}", ran.err);
    let shape = loadmaster::models::ShapeFile::parse("out", &ran.out).unwrap();
    assert_eq!(shape.tensors().len(), Gguf::open(Path::new(path)).unwrap().tensors().len());
    let both = loadmaster(&["inspect", path, "--emit", "shape", "--format", "json"]);
    assert_eq!(both.code, 2, "{}", both.err);
}

#[test]
fn models_without_weights_are_planned_for_machines_that_are_not_here() {
    let base = ["inspect", "qwen3-30b-a3b-q4_k_m", "--machine", "rtx4080"];
    let with = |args: &[&str]| loadmaster(&[&base[..], args].concat());
    let shown = with(&[]);
    assert_eq!((shown.code, shown.err.as_str()), (0, ""), "{}", shown.err);
    let first = shown.out.lines().find(|l| l.starts_with("  blk.0.ffn_down_exps ")).map(str::split_whitespace);
    assert_eq!(first.unwrap().skip(1).collect::<Vec<_>>(), ["moe", "q6_k", "cuda:0", "weight-home"]);
    let streams = ["--batch", "512", "--offload", "32"];
    let cut = with(&streams).out;
    let name = cut.split_whitespace().find(|word| word.starts_with("blk.47.ffn_down_exps[0..")).unwrap();
    let why = with(&[&streams[..], &["--why", name]].concat());
    assert_eq!(why.code, 0, "{}", why.err);
    assert!(why.out.contains("512 rows >= 32: the policy moves it to cuda:0"), "{}", why.out);
    assert!(why.out.contains("streamed as p"), "{}", why.out);
    let data = with(&[&streams[..], &["--why", name, "--format", "json"]].concat()).out;
    let data: serde_json::Value = serde_json::from_str(&data).unwrap();
    assert_eq!((&data["node"], &data["reason"]), (&name.into(), &"offloaded 512 rows >= 32".into()));
    assert!(data["reads"].as_array().unwrap().iter().any(|read| read["streamed"]["way"]["rate"].is_f64()), "{data}");
    let page = with(&["--format", "html"]).out;
    assert!(page.starts_with("<!doctype html>") && page.ends_with("</html>\n"));
    let dot = with(&["--format", "dot"]).out;
    assert!(dot.contains("cuda:0") && dot.contains("\\ncpu"));
}

#[test]
fn plans_are_compared_and_saved() {
    let folder = folder();
    let base = ["inspect", "qwen3-30b-a3b-q4_k_m", "--machine", "rtx4080", "--offload", "never"];
    let with = |args: &[&str]| loadmaster(&[&base[..], args].concat());
    assert!(with(&["--against-offload", "never"]).out.starts_with("the plans are equal\n"));
    let moved = with(&["--against-machine", "cpu-2core"]);
    let down =
        |line: &str| line.starts_with("  blk.0-") && line.ends_with(".ffn_down_exps: cpu -> cuda:0, weight-home");
    assert!(moved.out.lines().any(down), "{}{}", moved.out, moved.err);
    let grown = with(&["--batch", "64", "--against-batch", "1", "--format", "json"]);
    let document: serde_json::Value = serde_json::from_str(&grown.out).unwrap();
    assert_eq!((&document["before"]["tokens"], &document["after"]["tokens"]), (&1.into(), &64.into()));
    // Past the usual step, too, both plans have the homes of the larger one: no cache moves.
    let dense = ["inspect", "qwen2.5-32b-q4_k_m", "--machine", "rtx4080", "--batch", "2048", "--against-batch", "1"];
    let ran = loadmaster(&dense);
    assert!(ran.out.contains("attn_q: cpu -> cuda:0") && !ran.out.contains("cache: "), "{}{}", ran.out, ran.err);
    let saved = folder.path().join("saved.json");
    std::fs::write(&saved, with(&["--format", "json"]).out).unwrap();
    let same = with(&["--against-plan", text(&saved)]);
    assert!(same.out.starts_with("the plans are equal\n"), "{}{}", same.out, same.err);
    std::fs::write(&saved, "{}").unwrap();
    let asked = [&base[..], &["--against-plan", text(&saved)]].concat();
    refused(&asked, 1, &["saved.json", "this is no saved plan"]);
}

#[test]
fn what_inspect_cannot_plan_is_refused_with_what_there_is() {
    let folder = folder();
    let base = ["inspect", "qwen3-30b-a3b-q4_k_m", "--machine", "rtx4090"];
    let with = |args: &[&'static str]| [&base[..], args].concat();
    refused(&with(&["--why", "blk.3.fn_down_exps"]), 1, &["no node is called", "blk.3.ffn_down_exps"]);
    refused(&with(&["--offload", "0"]), 2, &["needed never, auto, or a number"]);
    refused(&with(&["--why", "output", "--format", "dot"]), 2, &["text or json"]);
    refused(&with(&["--against-batch", "1", "--format", "dot"]), 2, &["text or json"]);
    let short = with(&["-c", "4000000"]);
    let shown = loadmaster(&short).out;
    assert!(
        shown.contains("\nno plan: ") && shown.contains(" lacks ") && shown.contains("blk.47.attention"),
        "{shown}"
    );
    refused(&[&short[..], &["--why", "output"]].concat(), 1, &[" lacks "]);
    refused(&["inspect", "qwen3-30b"], 1, &["nearest are qwen3-30b-a3b-q4_k_m"]);
    refused(&["inspect", "qwen3-30b-a3b-q4_k_m", "--machine", "nowhere.json"], 2, &["nowhere.json"]);
    let odd = folder.path().join("odd.json");
    let card = include_str!("../../graphs/machines/rtx4090.json");
    std::fs::write(&odd, card.replace("\"memory\": \"cuda:0\"", "\"memory\": \"cuda:8\"")).unwrap();
    refused(&["inspect", "qwen3-30b-a3b-q4_k_m", "--machine", text(&odd)], 1, &["memory", "cuda:8"]);
}

#[test]
fn sim_says_how_fast_and_why_not() {
    let usual = ["sim", "qwen2.5-32b-q4_k_m", "--machine", "rtx4080"];
    let with = |more: &[&str]| loadmaster(&[&usual[..], more].concat());
    let shown = with(&["-ngl", "20", "-ub", "256", "--workload", "512:16"]);
    assert!(shown.code == 0 && shown.out.contains("prefill: 512 tokens in 2 steps"), "{} {}", shown.out, shown.err);
    let json = with(&["-ngl", "0", "-nkvo", "--no-overlap", "--json"]);
    let report: serde_json::Value = serde_json::from_str(&json.out).unwrap();
    assert!(report["phases"][1]["tokens_per_second"].as_f64().unwrap() > 0.1);
    for (args, why) in [
        (&["-ngl", "64"][..], "cuda:0 lacks"),
        (&["--workload", "0:0"], "needed two numbers"),
        (&["--offload", "often"], "never, auto, or a number of rows"),
        (&["--offload", "0"], "never, auto, or a number of rows"),
        (&["--calibrate", "missing.json"], "missing.json: No such file"),
    ] {
        let ran = with(args);
        assert!(ran.code != 0 && ran.err.contains(why), "{args:?}: {}", ran.err);
    }
    refused(&["sim", "qwen3-30b", "--machine", "rtx4080"], 1, &["nearest are qwen3-30b-a3b-q4_k_m"]);
    // Not told how many layers, the fit decides, and both promise the same speed but for the mean context.
    let free = with(&["--workload", "512:128"]).out;
    let rate = |text: &str, phase: &str| -> f64 {
        let line = text.lines().find(|line| line.contains(phase)).unwrap();
        line.split(phase)
            .nth(1)
            .unwrap()
            .split_once(" tokens/s")
            .unwrap()
            .0
            .rsplit(' ')
            .next()
            .unwrap()
            .parse()
            .unwrap()
    };
    let fitted = loadmaster(&["fit", "qwen2.5-32b-q4_k_m", "--machine", "rtx4080", "-c", "640"]).out;
    for (phase, promised) in [("prefill:", "predicted: prompt "), ("decode:", ", generation ")] {
        let (simulated, promised) = (rate(&free, phase), rate(&fitted, promised));
        assert!((simulated / promised - 1.0).abs() < 0.02, "{phase} {simulated} {promised}");
    }
}

#[test]
fn fit_says_where_everything_lives_and_how_other_engines_are_told() {
    let usual = ["fit", "qwen3-30b-a3b-q4_k_m", "--machine", "rtx4080"];
    let with = |more: &[&str]| loadmaster(&[&usual[..], more].concat());
    let shown = with(&[]);
    assert!(shown.code == 0 && shown.out.contains("predicted: prompt"), "{} {}", shown.out, shown.err);
    let document: serde_json::Value = serde_json::from_str(&with(&["--emit", "json"]).out).unwrap();
    let bytes = |key: &str| document["devices"][1][key].as_u64().unwrap();
    assert!(bytes("weight_bytes") > 1 << 33 && bytes("kv_bytes") > 0 && bytes("arena_bytes") > 0);
    let flags = with(&["--emit", "llama.cpp"]).out;
    assert!(flags.starts_with("-ngl 49 -ot 'blk\\.("), "{flags}");
    assert!(with(&["-cmoe", "--emit", "llama.cpp"]).out.contains("(0|1|2|"));
    assert!(with(&["-nkvo", "--emit", "llama.cpp"]).out.contains(" -nkvo"));
    for (args, code, why) in [
        (&["--fit-margin", "cuda:9=100"][..], 1, "--fit-margin names cuda:9"),
        (&["--fit-margin", "many"], 2, "needed a number of MiB"),
        (&["-ts", "1,2,3"], 1, "needed 1 to 1 proportions"),
        (&["-ot", "exps"], 2, "needed REGEX=DEVICE"),
        (&["-ot", "exps=CUDA3"], 1, "-ot names CUDA3, needed CPU or one of cpu, cuda:0, host"),
        (&["--kv", "host", "-nkvo"], 2, "cannot be used with"),
        (&["-ts", "0"], 1, "not all 0"),
        (&["--workload", "0:1"], 2, "needed two numbers"),
        (&["-c", "4000000", "-ngl", "99"], 1, "cuda:0 lacks"),
    ] {
        let ran = with(args);
        assert!(ran.code == code && ran.err.contains(why), "{args:?}: {} {}", ran.code, ran.err);
    }
}

/// A run that is cut in two, the second half on other devices and another layout, writes what one run writes.
#[test]
fn a_saved_session_goes_on_where_its_run_ended() {
    let folder = folder();
    let (first, second) = (folder.path().join("a.session"), folder.path().join("b.session"));
    let (first, second) = (text(&first), text(&second));
    let run = |more: &[&str]| {
        let ran = loadmaster(&[&["run", "--temp", "0", "-t", "1"], more].concat());
        assert_eq!(ran.code, 0, "{more:?}: {}", ran.err);
        ran
    };
    let whole = run(&["-p", "Once upon a time", "-n", "40"]).out;
    let begun = run(&["-p", "Once upon a time", "-n", "15", "--save-session", first]);
    assert!(begun.err.contains(" tokens to ") && begun.err.contains("a.session"), "{}", begun.err);
    let rest = ["--load-session", first, "--save-session", second, "-n", "10", "--kv", "contiguous"];
    let middle = run(&[&rest[..], &["--devices", "cpu,cpu"]].concat());
    assert!(middle.err.contains("session: ") && middle.err.contains(" tokens from "), "{}", middle.err);
    let end = run(&["--load-session", second, "-n", "15"]);
    let said = [&begun, &middle, &end].map(|ran| ran.out.strip_suffix('\n').unwrap());
    assert_eq!(format!("{}\n", said.concat()), whole);
    // A session replaces itself, and a prompt goes on behind it.
    let told = run(&["--load-session", first, "--save-session", first, "-p", "The end", "-n", "0"]);
    assert_eq!(told.out, "The end\n");
    let read = |ran: &Ran, word: &str| {
        let line = ran.err.lines().find(|line| line.contains(word)).unwrap();
        line.split_whitespace().nth(1).unwrap().parse::<u32>().unwrap()
    };
    assert!(read(&told, " tokens to ") > read(&told, " tokens from "), "{}", told.err);
}

/// With a context that is full the same, whatever was dropped.
#[test]
fn a_session_that_was_shifted_goes_on_too() {
    let folder = folder();
    let session = folder.path().join("s.session");
    let run = |more: &[&str]| {
        let always = ["run", "--temp", "0", "-t", "1", "-c", "64", "--context-shift", "--ignore-eos"];
        let ran = loadmaster(&[&always, more].concat());
        assert_eq!(ran.code, 0, "{more:?}: {}", ran.err);
        ran.out.trim_end_matches('\n').to_owned()
    };
    let whole = run(&["-n", "140"]);
    let mut told = run(&["-n", "80", "--save-session", text(&session)]);
    told.push_str(&run(&["-n", "60", "--load-session", text(&session)]));
    assert_eq!(told, whole);
}

#[test]
fn sessions_that_will_not_do_are_refused() {
    let folder = folder();
    let session = folder.path().join("s.session");
    let session = text(&session);
    let model = tiny(&folder, "llama-tiny", DType::F32);
    let model = text(&model);
    let other = tiny(&folder, "qwen2-tiny", DType::F32);
    let saved = loadmaster(&["run", model, "-p", "abc", "-n", "3", "-t", "1", "--save-session", session]);
    assert_eq!(saved.code, 0, "{}", saved.err);
    let load =
        |more: &[&'static str]| [&["run", model, "-n", "1", "-t", "1", "--load-session", session], more].concat();
    refused(&["run", text(&other), "--load-session", session], 1, &["s.session", "another model", "qwen2", "llama"]);
    refused(&load(&["-ctk", "q8_0"]), 1, &["s.session", "another cache", "blk.0.cache_k q8_0", "cache_k f16"]);
    refused(&load(&["--parallel", "2", "-f", "x"]), 2, &["--load-session", "cannot be used with", "--parallel"]);
    refused(&load(&["-cnv"]), 2, &["--load-session", "cannot be used with", "--conversation"]);
    refused(&load(&["-c", "16", "-p", "a long prompt for so little room"]), 1, &["are held", "has room for 16", "-c"]);
    refused(&["run", model, "--load-session", model], 1, &["llama-tiny", "is no saved session", "GGUF"]);
    refused(&["run", "-p", "a", "--save-session", text(folder.path())], 1, &["needed a regular file"]);
    refused(&["run", "-p", "a", "--save-session", "/nowhere/x"], 1, &["/nowhere/x", "its folder"]);
    let bytes = std::fs::read(session).unwrap();
    std::fs::write(session, &bytes[..bytes.len() - 9]).unwrap();
    refused(&load(&[]), 1, &["s.session", "cut off", &format!("needed {} bytes", bytes.len())]);
}
