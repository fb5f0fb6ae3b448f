//! The page of a plan: what hostile names become in it, that it is complete, and that large graphs make no large page.

use loadmaster::device::DeviceId;
use loadmaster::graph::Graph;
use loadmaster::inspect::{Report, Source, html};
use loadmaster::models::ShapeFile;
use loadmaster::plan::Offload;
use loadmaster::units::Tokens;
use serde_json::Value as Json;

use crate::placements::Case;

/// What ends a script, an attribute, a tag, a string of JSON or JavaScript, or reorders text.
pub const HOSTILE: [&str; 8] = [
    "</script><script>alert(1)</script>",
    "\"><img src=x onerror=alert(1)>",
    "'><svg/onload=alert(1)>",
    "<!--<script>",
    "]]>&lt;b&gt;",
    "\\\"});alert(1);//",
    "\u{2028}\u{2029}\u{202e}\u{0}",
    "`${alert(1)}`",
];

fn page(case: &Case, name: &str) -> String {
    let text = include_str!("../../graphs/models/qwen2.5-32b-q4_k_m.json");
    let shape = ShapeFile::parse(name, text).unwrap();
    html(&Report {
        source: Source::Shape(&shape),
        machine: &case.machine,
        graph: Ok(&case.graph),
        plan: Ok(case.planned()),
        unused: &[],
        notes: &[],
    })
}

/// The text between the tags of the page's data.
fn data(page: &str) -> Json {
    let start = page.find("id=\"data\">").unwrap() + "id=\"data\">".len();
    let end = start + page[start..].find("</script").unwrap();
    serde_json::from_str(&page[start..end]).unwrap()
}

#[test]
fn names_from_files_stay_text() {
    for (i, odd) in HOSTILE.into_iter().enumerate() {
        let mut case = Case::new("llama-tiny", "tiny-card", 512, Offload::AtLeast(Tokens(32)));
        case.machine.devices[DeviceId(1)].name = odd.into();
        case.machine.memories.ids().for_each(|id| case.machine.memories[id].name = format!("{odd}{id}"));
        let mut file: Json = serde_json::from_str(&case.graph.to_json()).unwrap();
        for list in ["nodes", "weights", "states"] {
            let named = file[list].as_array_mut().unwrap();
            named.iter_mut().for_each(|item| item["name"] = format!("{odd}{}", item["name"]).into());
        }
        case.graph = Graph::from_json(&file.to_string()).unwrap();
        let page = page(&case, odd);
        assert_eq!(page.matches("<script").count(), 2, "{odd}");
        assert_eq!(page.matches("</script").count(), 2, "{odd}");
        for part in ["<img", "<svg/", "<!--", "onload=alert(1)>", "onerror=alert(1)>", "\u{2028}", "\u{202e}", "\u{0}"]
        {
            assert!(!page.contains(part), "{odd}: {part} is in the page");
        }
        let quotes = |line: &str| line.matches('"').count().is_multiple_of(2);
        let markup = page.lines().filter(|l| l.starts_with('<') && !l.starts_with("<script type"));
        markup.for_each(|line| assert!(quotes(line), "{odd}: a quote is open in {line}"));
        let data = data(&page);
        assert_eq!(data["nodes"].as_array().unwrap().len(), case.graph.len());
        let first = data["nodes"][0][0].as_str().unwrap();
        assert!(first.ends_with("\"token_embd\""), "{first}");
        if i != 5 && i != 6 {
            assert!(first.starts_with(odd), "{first}");
        }
    }
}

#[test]
fn large_graphs_make_no_large_page() {
    let field = Offload::AtLeast(Tokens(32));
    let cases = [("deepseek-v3-iq1_s", "rtx3090x2-ddr4", field), ("kimi-k2.5-ud-iq3_xxs", "kimi-8gpu", Offload::Auto)];
    for (name, place, offload) in cases {
        let case = Case::new(name, place, 512, offload);
        let page = page(&case, name);
        assert!(case.graph.len() > 1200 && page.len() < 2 << 20, "{name}: {} bytes", page.len());
        assert_eq!(data(&page)["nodes"].as_array().unwrap().len(), case.graph.len());
        held_fits(&page);
        assert!(!page.contains("http://") && !page.contains("https://") && !page.contains("NaN"), "{name}");
    }
}

/// What a device holds of its arena and ring is never more than their size.
fn held_fits(page: &str) {
    let bytes = |text: &str| {
        let (number, unit) = text.trim().split_once(' ').unwrap();
        let power = ["B", "KiB", "MiB", "GiB"].iter().position(|u| *u == unit).unwrap();
        number.parse::<f64>().unwrap() * 1024f64.powi(power as i32)
    };
    let notes: Vec<&str> = page.split("<small>").filter_map(|part| part.split_once("</small>").map(|p| p.0)).collect();
    let curves: Vec<_> = notes.iter().filter_map(|note| note.split_once(" at most, of ")).collect();
    assert!(curves.len() > 1, "{notes:?}");
    for (most, size) in curves {
        assert!(bytes(most) > 0.0 && bytes(most) <= bytes(size), "{most} at most, of {size}");
    }
}

#[test]
fn every_device_and_layer_is_on_the_page() {
    let case = Case::new("deepseek2-tiny", "two-tiny-cards", 512, Offload::Auto);
    let page = page(&case, "a model");
    for part in
        ["<title>a model</title>", "cuda:1 computes", "<b>0</b>", "<b>1</b>", "<b>other</b>", "weights streamed"]
    {
        assert!(page.contains(part), "no {part}");
    }
    let reasons: Vec<Json> = data(&page)["nodes"].as_array().unwrap().iter().map(|n| n[4].clone()).collect();
    assert!(reasons.iter().all(|reason| !reason.as_str().unwrap().is_empty()));
    let none = html(&Report {
        source: Source::Shape(&ShapeFile::shipped("qwen2.5-32b-q4_k_m").unwrap().unwrap()),
        machine: &case.machine,
        graph: Ok(&case.graph),
        plan: Err("too <small>".into()),
        unused: &[],
        notes: &[],
    });
    assert!(none.contains("no plan: too &lt;small&gt;") && !none.contains("<script"));
}
