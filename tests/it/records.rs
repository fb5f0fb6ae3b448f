//! Records of `bench`: what is read of them, what differs between two, and the page that shows a folder of them.

use loadmaster::bench::{
    ActivityKind, ActivityTime, Adapter, DeviceTime, FamilyNanos, Foresight, Kind, MachineFacts, MemoryFacts, Model,
    Record, RecordDiff, Reported, Row, Settings, Verdict, diff_records, parse_record, report,
};
use loadmaster::graph::Family;
use proptest::prelude::*;
use serde_json::{Value, json};

use crate::cli::{loadmaster, refused};
use crate::html::HOSTILE;
use crate::json_smoke::smoke;
use crate::json_walk;

fn activity(device: &str, id: u32, time: u64) -> ActivityTime {
    let (device, kind) = (device.to_owned(), ActivityKind::Split);
    ActivityTime { kind, id, device, predicted_ns: time / 2, measured_ns: time }
}

/// A row that ran.
fn row(devices: &str, (n_prompt, n_gen): (u32, u32), samples: &[u64]) -> Row {
    let memory = |name: &str| MemoryFacts {
        memory: name.to_owned(),
        budget: 1 << 33,
        weights: 700 << 20,
        states: 32 << 20,
        arenas: 3 << 20,
        rings: 0,
        allocated: Some(735 << 20),
    };
    Row {
        model: Model {
            model_filename: "m.gguf".to_owned(),
            model_type: "llama 1.2B Q4_K".to_owned(),
            model_size: 700 << 20,
            model_n_params: 1_200_000_000,
        },
        settings: Settings { devices: devices.to_owned(), n_threads: 2, n_prompt, n_gen, ..Settings::default() },
        samples_ns: samples.to_vec(),
        foresight: Foresight {
            n_steps: n_gen.max(1),
            predicted_ns: Some(samples[0] / 2),
            plan: Some(format!(
                "xxh64 {:016x}",
                (devices.len() as u64 + u64::from(n_gen)).wrapping_mul(0x9e37_79b9_7f4a_7c15)
            )),
        },
        memories: devices.split(',').map(memory).collect(),
        activities: devices.split(',').zip(0..).map(|(device, id)| activity(device, id, samples[0])).collect(),
        ..Row::default()
    }
}

fn record(commit: &str, date: &str, rows: Vec<Row>) -> Record<Row> {
    let adapter = Adapter { device: "vulkan:0".into(), name: "a card".into(), driver: "a driver 1.0".into() };
    let machine = MachineFacts {
        cpu: "a processor".to_owned(),
        target: "x86_64-linux".to_owned(),
        cores: 2,
        memory_available: None,
        load_average: Some([0.5; 3]),
        adapters: vec![adapter],
    };
    let families = [(Family::MatMul, 15, 900_000), (Family::Attention, 2, 200_000), (Family::Norm, 5, 38_000)];
    let families = |factor| {
        let time = |(family, nodes, ns): (Family, u32, u64)| FamilyNanos { family, nodes, nanoseconds: ns * factor };
        families.map(time).to_vec()
    };
    let time = |device: &str, factor| DeviceTime { device: device.to_owned(), tokens: 256, families: families(factor) };
    let time_by_family = vec![time("cpu", 1), time("vulkan:0", 3)];
    Record { machine, time_by_family, ..Record::new(Kind::Bench, "a test", rows, commit.to_owned(), date.to_owned()) }
}

/// Three records: a second commit is faster on the card, a third fails on both together.
fn three() -> Vec<(String, Record<Row>)> {
    let ns = |base: u64| [0, 1, 2, 3, 4].map(|i| base + i * base / 100);
    let rows = |card: u64| {
        let mut rows = Vec::new();
        for (devices, factor) in [("cpu", 100), ("vulkan:0", card), ("cpu,vulkan:0", (100 + card) / 2)] {
            rows.push(row(devices, (256, 0), &ns(factor * 5_000_000)));
            rows.push(row(devices, (0, 32), &ns(factor * 3_700_000)));
        }
        rows
    };
    let mut last = rows(30);
    for row in &mut last[4..] {
        row.not_run = Some("m1 needs 735.0 MiB, its budget is 10.0 MiB".to_owned());
        (row.samples_ns, row.memories, row.activities) = (Vec::new(), Vec::new(), Vec::new());
        row.foresight = Foresight::default();
    }
    let records = [("aaaaaaaaaaaaaaa", rows(60)), ("bbbbbbb", rows(30)), ("ccccccc", last)];
    let named = records
        .into_iter()
        .enumerate()
        .map(|(i, (commit, rows))| (format!("{i}.json"), record(commit, &format!("2026-11-2{i}T10:00:00Z"), rows)));
    named.collect()
}

/// What a page says, a line a piece, without what is drawn.
fn words(page: &str) -> String {
    let body = page.split_once("<body>").unwrap().1;
    let pieces = body.split('<').filter_map(|piece| piece.split_once('>')).map(|(_, text)| text.trim());
    pieces.filter(|text| !text.is_empty()).collect::<Vec<_>>().join("\n")
}

#[test]
fn a_page_says_what_records_hold() {
    let left_out = vec![("old.json".to_owned(), "it has no `kind`".to_owned())];
    let page = report(&Reported { records: three(), left_out: left_out.clone() });
    insta::assert_snapshot!(words(&page));
    let mut turned = three();
    turned.reverse();
    assert_eq!(report(&Reported { records: turned, left_out }), page);
    assert!(!page.contains("NaN") && !page.contains("inf") && !page.contains("<script") && !page.contains("no chart"));
    let outside = page.replace("xmlns=\"http://www.w3.org/2000/svg\"", "");
    assert!(!outside.contains("http://") && !outside.contains("https://"));
    // Two of speed, one of families, three of plans, two of history.
    assert_eq!(page.matches("<svg ").count(), 8);
    assert_eq!(page.matches("<svg ").count(), page.matches("aria-label=\"").count() - 1);
}

#[test]
fn bars_are_as_long_as_what_they_show() {
    let records = vec![(
        "a".to_owned(),
        record(
            "a",
            "2026",
            vec![row("cpu", (100, 0), &[1_000_000_000; 3]), row("cpu,cpu", (100, 0), &[4_000_000_000; 3])],
        ),
    )];
    let page = report(&Reported { records, left_out: Vec::new() });
    let svg = &page[page.find("<svg").unwrap()..page.find("</svg>").unwrap()];
    let width = |rect: &str| {
        let number = rect.split_once(" width=\"").unwrap().1;
        number[..number.find('"').unwrap()].parse::<f64>().unwrap()
    };
    let bars: Vec<f64> = svg.split("<rect ").skip(1).map(width).collect();
    assert_eq!(bars.len(), 2, "{svg}");
    assert!((bars[0] / bars[1] - 4.0).abs() < 0.05, "{bars:?}");
}

#[test]
fn text_from_records_stays_text_on_the_page() {
    for odd in HOSTILE {
        let mut records = three();
        for (name, record) in &mut records {
            (*name, record.commit) = (odd.to_owned(), odd.to_owned());
            (record.date, record.machine.cpu) = (odd.to_owned(), odd.to_owned());
            record.time_by_family.iter_mut().for_each(|time| time.device = odd.to_owned());
            for row in &mut record.rows {
                (row.model.model_type, row.settings.devices) =
                    (odd.to_owned(), format!("{odd}{}", row.settings.devices));
                (row.settings.offload, row.settings.split_mode) =
                    (format!("{odd}{}", row.settings.n_gen), odd.to_owned());
                row.foresight.plan = Some(odd.to_owned());
                row.not_run = row.not_run.as_ref().map(|_| odd.to_owned());
            }
        }
        let page = report(&Reported { records, left_out: vec![(odd.to_owned(), odd.to_owned())] });
        for part in ["<script", "<img", "<svg/", "<!--", "onload=alert(1)>", "\u{2028}", "\u{202e}", "\u{0}"] {
            assert!(!page.contains(part), "{odd}: {part} is in the page");
        }
        let quotes = |line: &str| line.matches('"').count().is_multiple_of(2);
        let markup = page.lines().filter(|line| line.starts_with('<'));
        markup.for_each(|line| assert!(quotes(line), "{odd}: a quote is open in {line}"));
    }
}

#[test]
fn any_numbers_make_a_page() {
    let numbers = [0, 1, 1_000_000, u64::MAX / 2, u64::MAX];
    let mut rows = Vec::new();
    for most in numbers {
        for tokens in [0, 1, u32::MAX] {
            let mut odd = row("cpu", (tokens, 0), &[most, 0, most]);
            odd.foresight = Foresight { n_steps: tokens, predicted_ns: Some(most), plan: None };
            odd.activities = vec![activity("cpu", u32::MAX, most)];
            odd.memories.iter_mut().for_each(|memory| {
                (memory.weights, memory.states, memory.allocated) = (most, most, Some(most));
            });
            (odd.settings.n_gen, odd.settings.n_batch) = (tokens, most as u32);
            rows.push(odd);
        }
    }
    rows.push(Row::default());
    let mut first = record("a", "", rows);
    first.time_by_family.iter_mut().flat_map(|time| &mut time.families).for_each(|f| f.nanoseconds = u64::MAX);
    let records = vec![("a".to_owned(), first.clone()), ("b".to_owned(), first.clone())];
    let page = report(&Reported { records, left_out: Vec::new() });
    assert!(!page.contains("NaN") && !page.contains("inf\"") && !page.contains("no chart"));
    assert!(page.len() < 1 << 20, "{}", page.len());
    assert!(diff_records(&first, &first).is_empty());
    let empty = report(&Reported::default());
    assert_eq!(empty.matches("No record has any.").count(), 4);
}

fn text(record: &Record<Row>) -> String {
    serde_json::to_string_pretty(record).unwrap()
}

#[test]
fn records_are_read_as_they_were_written() {
    for (name, record) in three() {
        assert_eq!(parse_record(&name, text(&record).as_bytes()).unwrap(), record);
    }
}

#[test]
fn what_is_no_record_is_refused_by_file_and_field() {
    #[track_caller]
    fn check(edit: impl Fn(&mut Value), parts: &[&str]) {
        let mut document = serde_json::to_value(&three()[0].1).unwrap();
        edit(&mut document);
        let error = parse_record("a.json", document.to_string().as_bytes()).unwrap_err().to_string();
        for part in ["a.json: "].iter().chain(parts) {
            assert!(error.contains(part), "no {part:?} in {error:?}");
        }
        assert!(error.len() < 400, "{error}");
    }
    fn remove(document: &mut Value, key: &str) {
        document.as_object_mut().unwrap().remove(key);
    }
    check(|d| *d = json!([1]), &["no object"]);
    check(|d| *d = json!({"what": "tokens a second", "results": []}), &["no `kind`", "bench --record"]);
    check(|d| d["kind"] = json!("compare"), &["\"compare\"", "\"bench\""]);
    check(|d| d["version"] = json!(2), &["version 2", "1, the latest"]);
    check(|d| d["version"] = json!(99999999999u64), &["version 99999999999"]);
    check(|d| d["version"] = json!("1"), &["version: ", "invalid type"]);
    check(|d| remove(d, "version"), &["missing field `version`"]);
    check(|d| d["rows"] = json!(7), &["rows: "]);
    check(|d| d["rows"][3] = json!("x"), &["rows[3]: "]);
    check(|d| d["rows"][3]["n_prompt"] = json!("x"), &["rows[3] n_prompt: ", "invalid type"]);
    check(|d| d["rows"][2]["n_batch"] = json!(-1), &["rows[2] n_batch: "]);
    check(|d| d["rows"][2]["model_size"] = json!(1.5), &["rows[2] model_size: "]);
    check(|d| d["rows"][1]["samples_ns"][2] = json!(null), &["rows[1] samples_ns: "]);
    check(|d| d["rows"][1]["memories"][0]["weights"] = json!([]), &["rows[1] memories: "]);
    check(|d| d["rows"][0]["type_k"] = json!("q17"), &["rows[0] type_k: ", "q17"]);
    check(|d| remove(&mut d["rows"][0], "devices"), &["rows[0] fields: missing field `devices`"]);
    check(|d| d["machine"]["cores"] = json!([]), &["machine: "]);
    check(|d| d["time_by_family"][0]["families"][0]["family"] = json!("magic"), &["time_by_family: ", "magic"]);
    for (bytes, part) in [(&b"\xff\xfe"[..], "no JSON"), (b"", "no JSON"), (b"{\"kind\": \"bench\"", "no JSON")] {
        let error = parse_record("b.json", bytes).unwrap_err().to_string();
        assert!(error.starts_with("b.json: ") && error.contains(part), "{error}");
    }
    let long = vec![b' '; (16 << 20) + 1];
    assert!(parse_record("c.json", &long).unwrap_err().to_string().contains("16777216 bytes at most"));
    let deep = "[".repeat(100_000);
    assert!(parse_record("d.json", deep.as_bytes()).unwrap_err().to_string().contains("recursion"));
}

#[test]
fn the_fuzz_corpus_of_records_never_panics() {
    smoke("record", 700, |text| json_walk::record(text).is_ok());
}

/// The verdict on two rows that differ in their samples alone.
#[track_caller]
fn verdict(before: &[u64], after: &[u64], expected: Verdict) {
    let of = |samples: &[u64]| record("a", "2026", vec![row("cpu", (10, 0), samples)]);
    let diff = diff_records(&of(before), &of(after));
    assert_eq!(diff.rows[0].verdict, expected, "{before:?} {after:?}");
}

#[test]
fn a_row_has_moved_where_it_is_beyond_the_noise() {
    let around = |middle: u64, away: u64| [middle - 2 * away, middle - away, middle, middle + away, middle + 2 * away];
    // An interval is 3 x 1.858 x away / √5 = 2.493 x away wide on each side.
    let (base, away) = (1_000_000, 20_000);
    verdict(&around(base, away), &around(base, away), Verdict::Alike);
    verdict(&around(base, away), &around(base + 99_000, away), Verdict::Alike);
    verdict(&around(base, away), &around(base + 101_000, away), Verdict::Slower);
    verdict(&around(base, away), &around(base - 101_000, away), Verdict::Faster);
    // Without noise 1 % decides.
    verdict(&[base; 3], &[base + 9_999; 3], Verdict::Alike);
    verdict(&[base; 3], &[base + 10_001; 3], Verdict::Slower);
    verdict(&[base; 2], &[2 * base; 3], Verdict::Unknown);
    verdict(&[base; 3], &[2 * base; 2], Verdict::Unknown);
}

#[test]
fn rows_are_matched_by_what_they_are_about() {
    let [before, after, last] = three().try_into().unwrap();
    let diff = diff_records(&before.1, &after.1);
    let verdicts: Vec<Verdict> = diff.rows.iter().map(|row| row.verdict).collect();
    let faster = Verdict::Faster;
    assert_eq!(verdicts, [Verdict::Alike, Verdict::Alike, faster, faster, faster, faster]);
    assert!((diff.rows[2].ratio.unwrap() - 2.0).abs() < 1e-9 && !diff.is_empty());
    let failed = diff_records(&after.1, &last.1);
    assert_eq!(failed.rows.iter().filter(|row| row.verdict == Verdict::Fails).count(), 2);
    let back = diff_records(&last.1, &after.1);
    assert_eq!(back.rows.iter().filter(|row| row.verdict == Verdict::Runs).count(), 2);
    let mut other = before.1.clone();
    other.rows.reverse();
    other.rows[0].settings.n_ubatch = 64;
    other.rows[1].foresight.plan = Some("another".to_owned());
    other.machine.adapters[0].driver = "a driver 2.0".to_owned();
    let diff: RecordDiff = diff_records(&before.1, &other);
    assert_eq!((diff.rows.len(), diff.only_before.len(), diff.only_after.len()), (5, 1, 1));
    assert_eq!(diff.only_before[0].settings.n_ubatch, 512);
    assert_eq!(diff.only_after[0].settings.n_ubatch, 64);
    assert_eq!(diff.rows.iter().filter(|row| row.other_plan).count(), 1);
    assert!(diff.rows.iter().all(|row| row.verdict == Verdict::Alike));
    let mut busy = before.1.clone();
    busy.machine.load_average = Some([3.2, 9.0, 9.0]);
    let beside = diff_records(&before.1, &busy);
    assert!(
        beside.is_empty() && beside.notes.len() == 1 && beside.notes[0].contains("load 3.2 on 2 cores"),
        "{beside:?}"
    );
    busy.machine.load_average = Some([3.0; 3]);
    assert!(diff_records(&busy, &busy).notes.is_empty());
    assert_eq!(diff.notes.len(), 1);
    assert!(diff.notes[0].contains("a driver 1.0 -> ") && diff.notes[0].contains("a driver 2.0"), "{:?}", diff.notes);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(crate::cases(64)))]

    #[test]
    fn a_record_does_not_differ_from_itself(
        rows in prop::collection::vec((0u32..4, 0u32..3, prop::collection::vec(any::<u64>(), 1..6)), 0..12)
    ) {
        let rows = rows.into_iter().map(|(n_prompt, n_gen, samples)| row("cpu", (n_prompt, n_gen), &samples));
        let record = record("a", "2026", rows.collect());
        let diff = diff_records(&record, &record);
        prop_assert!(diff.is_empty(), "{diff:?}");
        prop_assert_eq!(diff.rows.len(), record.rows.len());
        let again = parse_record("a", text(&record).as_bytes()).unwrap();
        prop_assert_eq!(again, record);
    }
}

#[test]
fn records_are_reported_and_compared_by_the_program() {
    let folder = tempfile::tempdir().unwrap();
    let path = |name: &str| folder.path().join(name).to_str().unwrap().to_owned();
    for (name, record) in three() {
        std::fs::write(path(&name), text(&record)).unwrap();
    }
    std::fs::write(path("old.json"), "{\"what\": \"an <old> file\"}").unwrap();
    std::fs::write(path("README.md"), "no record").unwrap();
    let page = path("report.html");
    let ran = loadmaster(&["bench", "report", folder.path().to_str().unwrap(), "-o", &page]);
    assert_eq!((ran.code, ran.out.as_str()), (0, ""), "{}", ran.err);
    assert_eq!(ran.err.lines().count(), 1, "{}", ran.err);
    assert!(ran.err.starts_with("note: left out: ") && ran.err.contains("old.json: it has no `kind`"), "{}", ran.err);
    let written = std::fs::read_to_string(&page).unwrap();
    assert!(written.contains("<li>old.json: it has no `kind`"), "the page names what is left out");
    assert!(!written.contains(folder.path().to_str().unwrap()));
    assert_eq!(loadmaster(&["bench", "report", folder.path().to_str().unwrap()]).out, written);
    let diff = |more: &[&str]| loadmaster(&[&["bench", "diff", &path("0.json"), &path("1.json")], more].concat());
    let shown = diff(&[]);
    assert_eq!(shown.code, 0, "{}", shown.err);
    insta::assert_snapshot!(shown.out);
    assert_eq!(diff(&["--all"]).out.lines().count(), shown.out.lines().count() + 2);
    let document: Value = serde_json::from_str(&diff(&["--json"]).out).unwrap();
    assert_eq!(document["rows"].as_array().unwrap().len(), 6);
    assert_eq!(
        (&document["rows"][2]["verdict"], &document["rows"][2]["devices"]),
        (&json!("faster"), &json!("vulkan:0"))
    );
    let same = loadmaster(&["bench", "diff", &path("0.json"), &path("0.json")]);
    assert_eq!(same.out, "rows of both records: 6 alike within the noise; only before: 0, only after: 0\n");
    std::fs::write(path("later.json"), text(&three()[0].1).replacen("\"version\": 1", "\"version\": 2", 1)).unwrap();
    refused(&["bench", "diff", &path("0.json"), &path("later.json")], 1, &["later.json: version 2 is later than 1"]);
    refused(&["bench", "diff", &path("0.json"), &path("none.json")], 1, &["none.json: cannot read it"]);
    refused(&["bench", "diff", &path("0.json")], 2, &["AFTER"]);
    let empty = tempfile::tempdir().unwrap();
    refused(&["bench", "report", empty.path().to_str().unwrap()], 1, &["no record of `bench`"]);
    refused(&["bench", "report", &path("none")], 1, &["none: cannot list it"]);
    // A model may have such a name.
    refused(&["bench", "-m", "report"], 1, &["report"]);
    refused(&["bench", "./diff"], 1, &["./diff"]);
    refused(&["bench"], 2, &["MODEL"]);
}
