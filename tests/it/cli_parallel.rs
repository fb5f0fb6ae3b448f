//! Prompts side by side, full contexts and their measurements, as a person meets them.

use std::path::PathBuf;

use serde_json::Value;
use tempfile::TempDir;

use crate::cli::{loadmaster, refused};

fn prompts(folder: &TempDir, text: &str) -> PathBuf {
    let path = folder.path().join("prompts.txt");
    std::fs::write(&path, text).unwrap();
    path
}

const LINES: &str = "Once upon a time\nThe dog was\n\nLily had a big red ball. One day,\nTom said: \\\"Hello\\\"\n";

#[test]
fn prompts_of_a_file_are_continued_side_by_side_as_one_by_one() {
    let folder = tempfile::tempdir().unwrap();
    let path = prompts(&folder, LINES);
    let trace = folder.path().join("trace.json");
    let base = ["run", "-f", path.to_str().unwrap(), "-n", "20", "--temp", "0", "--ignore-eos", "-t", "2"];
    let with = |more: &[&str]| loadmaster(&[&base[..], more].concat());
    let text = with(&["--parallel", "3"]);
    assert_eq!(text.code, 0, "{}", text.err);
    let json = with(&["-np", "2", "--json", "--trace", trace.to_str().unwrap(), "--kv", "contiguous"]);
    assert_eq!(json.code, 0, "{}", json.err);
    let lines: Vec<Value> = json.out.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    assert_eq!(lines.len(), 4);
    for (line, prompt) in lines.iter().zip(LINES.lines().filter(|line| !line.is_empty())) {
        let alone = loadmaster(&["run", "-p", prompt, "-n", "20", "--temp", "0", "--ignore-eos", "-t", "2"]);
        let whole = format!("{}{}", line["prompt"].as_str().unwrap(), line["text"].as_str().unwrap());
        assert_eq!(alone.out, format!("{whole}\n"), "{prompt}");
        assert!(text.out.contains(&whole), "{prompt}: {}", text.out);
        assert_eq!((&line["finish"], &line["generated_tokens"]), (&Value::from("length"), &Value::from(20)));
    }
    assert!(text.err.contains("texts:       4 of 4"), "{}", text.err);
    let trace: Value = serde_json::from_str(&std::fs::read_to_string(trace).unwrap()).unwrap();
    let events = trace["traceEvents"].as_array().unwrap();
    let steps: Vec<&Value> = events.iter().filter(|event| event["name"] == "step").collect();
    let rows: u64 = steps.iter().map(|step| step["args"]["rows"].as_u64().unwrap()).sum();
    let fed: u64 = lines.iter().map(|line| line["prompt_tokens"].as_u64().unwrap() + 19).sum();
    let shared: u64 = lines.iter().map(|line| line["shared_tokens"].as_u64().unwrap()).sum();
    assert_eq!(rows, fed - shared, "every token but the last of each text was a row");
    assert!(steps.iter().all(|step| step["args"]["sequences"].as_u64().unwrap() <= 2));
}

#[test]
fn a_trace_has_what_every_device_did() {
    let folder = tempfile::tempdir().unwrap();
    let trace = folder.path().join("trace.json");
    let ran = loadmaster(&[
        "run",
        "-p",
        "Once upon a time",
        "-n",
        "6",
        "-t",
        "1",
        "--devices",
        "cpu,cpu",
        "--budget",
        "100",
        "--trace",
        trace.to_str().unwrap(),
    ]);
    assert_eq!(ran.code, 0, "{}", ran.err);
    let trace: Value = serde_json::from_str(&std::fs::read_to_string(trace).unwrap()).unwrap();
    let events = trace["traceEvents"].as_array().unwrap();
    let named = |name: &str| {
        let named = events.iter().find(|event| event["name"] == "process_name" && event["args"]["name"] == name);
        named.unwrap_or_else(|| panic!("no process {name}"))["pid"].as_u64().unwrap()
    };
    let of = |pid: u64, tid: u64| {
        let here = |event: &&Value| event["ph"] == "X" && event["pid"] == pid && event["tid"] == tid;
        events.iter().filter(here).count()
    };
    // A prompt and five steps of one token: a split of each device at least, and a value from the first to the second.
    for device in [named("cpu:0"), named("cpu:1")] {
        assert!(of(device, 1) >= 6, "{} splits", of(device, 1));
    }
    assert!(of(named("cpu:1"), 2) >= 6, "{} transfers", of(named("cpu:1"), 2));
}

#[test]
fn a_prompt_that_does_not_fit_is_said_and_the_others_go_on() {
    let folder = tempfile::tempdir().unwrap();
    let path = prompts(&folder, &format!("Once upon a time\n{}\n", "The dog was happy. ".repeat(40)));
    let ran = loadmaster(&["run", "-f", path.to_str().unwrap(), "--parallel", "2", "-n", "8", "-c", "64"]);
    assert_eq!(ran.code, 1, "{}", ran.err);
    assert!(ran.err.contains("prompt 2: ") && ran.err.contains("tokens do not fit the context of 64"), "{}", ran.err);
    assert!(ran.err.contains("error: 1 of 2 prompts could not be continued"), "{}", ran.err);
    assert!(ran.out.starts_with("[1/2] Once upon a time") && !ran.out.contains("[2/2]"), "{}", ran.out);
    let empty = prompts(&folder, "\n \n");
    refused(&["run", "-f", empty.to_str().unwrap(), "--parallel", "2"], 2, &["has no prompts, needed one a line"]);
    refused(&["run", "--parallel", "2", "-p", "x"], 2, &["--file"]);
    refused(&["run", "-f", "x", "--parallel", "0"], 2, &["--parallel"]);
}

#[test]
fn a_full_context_ends_the_text_or_drops_its_middle() {
    let base = ["run", "-p", "Once upon a time", "--temp", "0", "--ignore-eos", "-c", "64", "-t", "2"];
    let with = |more: &[&str]| loadmaster(&[&base[..], more].concat());
    let ended = with(&["-n", "-1"]);
    assert!(ended.code == 0 && ended.err.contains("the context is full"), "{}", ended.err);
    let shifted = with(&["-n", "300", "--context-shift", "--keep", "4"]);
    assert!(shifted.code == 0 && shifted.err.contains("300 tokens"), "{}", shifted.err);
    assert!(shifted.out.starts_with(ended.out.trim_end()), "{}\n{}", ended.out, shifted.out);
    for cache in ["q8_0", "q4_0"] {
        let ran = with(&["-n", "150", "--context-shift", "-ctk", cache, "-ctv", cache]);
        assert!(ran.code == 0 && ran.err.contains("150 tokens"), "{}", ran.err);
    }
    refused(&["run", "-p", "x", "--keep", "3"], 2, &["--context-shift"]);
    refused(&[&base[..], &["-n", "300"]].concat(), 1, &["the context has room for 64"]);
}

#[test]
fn sequences_side_by_side_are_measured() {
    let folder = tempfile::tempdir().unwrap();
    let model = folder.path().join("m.gguf");
    let made = loadmaster(&["synth", "llama-tiny", "--type", "q4_k", "-o", model.to_str().unwrap()]);
    assert_eq!(made.code, 0, "{}", made.err);
    let bench = |more: &[&str]| loadmaster(&[&["bench", model.to_str().unwrap(), "-r", "1", "-t", "2"], more].concat());
    let json = bench(&["-npl", "1,3", "-p", "20", "-n", "4", "-ub", "16", "--json"]);
    assert_eq!(json.code, 0, "{}", json.err);
    let rows: Vec<Value> = serde_json::from_str(&json.out).unwrap();
    let sizes: Vec<[u64; 4]> =
        rows.iter().map(|row| ["pp", "tg", "pl", "n_kv"].map(|key| row[key].as_u64().unwrap())).collect();
    assert_eq!(sizes, [[20, 4, 1, 24], [20, 4, 3, 72]]);
    assert!(rows.iter().all(|row| row["speed_pp"].as_f64().unwrap() > 0.0 && row["t_tg"].as_f64().unwrap() > 0.0));
    let table = bench(&["--parallel", "2", "-p", "8", "-n", "2"]);
    assert!(table.out.lines().nth(2).unwrap().starts_with("|     8 |      2 |    2 |     20 |"), "{}", table.out);
    refused(&["bench", "x", "--parallel", "4096", "-p", "60000", "-n", "1"], 2, &["67108864 at most"]);
}
