//! What differs between two plans, and plans that are saved and read again.

use std::collections::BTreeMap;

use loadmaster::inspect::{Report, Saved, Source, diff, json};
use loadmaster::models::ShapeFile;
use loadmaster::plan::{Offload, Reason};
use loadmaster::units::Tokens;
use serde_json::Value as Json;

use crate::placements::Case;

const FIELD: Offload = Offload::AtLeast(Tokens(32));

fn case(name: &str, place: &str, tokens: u32, offload: Offload) -> Case {
    Case::new(name, place, tokens, offload)
}

#[test]
fn equal_plans_say_so() {
    let (a, b) = (case("llama-tiny", "tiny-card", 512, FIELD), case("llama-tiny", "tiny-card", 512, FIELD));
    let same = diff(&a.planned(), &b.planned());
    assert!(same.equal && same.moved.is_empty() && same.reasons.is_empty());
    assert_eq!(same.before, same.after);
    assert!(same.to_text().starts_with("the plans are equal\n"), "{}", same.to_text());
    let document: Json = serde_json::from_str(&same.to_json()).unwrap();
    assert_eq!(document["equal"], true);
}

/// Every node on another device, or of one graph alone, is told once, and none that stayed.
fn told_once(before: &Case, after: &Case) {
    let found = diff(&before.planned(), &after.planned());
    let devices = |case: &Case| -> BTreeMap<String, String> {
        let device = |id| case.machine.devices[case.plan.placements[id].device].name.clone();
        case.graph.nodes().map(|(id, node)| (node.name.clone(), device(id))).collect()
    };
    let (old, new) = (devices(before), devices(after));
    let moved = old.iter().filter(|&(name, device)| new.get(name) != Some(device)).count();
    let added = new.keys().filter(|name| !old.contains_key(*name)).count();
    assert_eq!(found.moved.iter().map(|m| m.count).sum::<usize>(), moved + added);
    assert!(found.equal == (before.plan == after.plan));
}

#[test]
fn moves_are_told_in_runs_of_layers_with_reasons() {
    let dense = |place, tokens, offload| case("qwen2.5-32b-q4_k_m", place, tokens, offload);
    let (never, field) = (dense("rtx4080", 512, Offload::Never), dense("rtx4080", 512, FIELD));
    told_once(&never, &field);
    let found = diff(&never.planned(), &field.planned());
    let down = found.moved.iter().find(|m| m.nodes.ends_with(".ffn_down")).unwrap();
    assert_eq!((down.from.as_deref(), down.to.as_deref()), (Some("cpu"), Some("cuda:0")));
    assert_eq!(down.why, "offloaded 512 rows >= 32");
    assert!(down.nodes.starts_with("blk.0-"), "{}", down.nodes);
    insta::assert_snapshot!("rule", found.to_text());
    let (one, many) = (dense("rtx4080", 1, Offload::Auto), dense("rtx4080", 512, Offload::Auto));
    assert_eq!(one.homes, many.homes);
    told_once(&one, &many);
    insta::assert_snapshot!("batch", diff(&one.planned(), &many.planned()).to_text());
    let (cpu, card) = (dense("cpu-2core", 1, Offload::Never), dense("rtx4090", 1, Offload::Never));
    told_once(&cpu, &card);
    insta::assert_snapshot!("machine", diff(&cpu.planned(), &card.planned()).to_text());
}

#[test]
fn experts_that_are_cut_in_one_plan_alone_are_told() {
    let moe = |offload| case("qwen3-30b-a3b-q4_k_m", "rtx4080", 512, offload);
    let (never, field) = (moe(Offload::Never), moe(FIELD));
    assert!(never.graph.len() < field.graph.len());
    told_once(&never, &field);
    told_once(&field, &never);
}

#[test]
fn a_reason_that_changes_in_place_is_told() {
    let mut cases =
        [case("llama-tiny", "tiny-card", 1, Offload::Never), case("llama-tiny", "tiny-card", 1, Offload::Never)];
    let last = cases[1].graph.output();
    cases[1].plan.placements[last].reason = Reason::FirstDevice;
    let found = diff(&cases[0].planned(), &cases[1].planned());
    assert!(!found.equal && found.moved.is_empty());
    assert!(found.to_text().contains("same device, other reason: 1 nodes\n  output: first-device\n"));
}

/// The document that --format json writes.
fn saved(name: &str, case: &Case) -> Json {
    let shape = ShapeFile::shipped(name).unwrap().unwrap();
    let report = Report {
        source: Source::Shape(&shape),
        machine: &case.machine,
        graph: Ok(&case.graph),
        plan: Ok(case.planned()),
        unused: &[],
        notes: &[],
    };
    serde_json::from_str(&json(&report)).unwrap()
}

#[test]
fn a_saved_plan_is_read_again_and_proven_again() {
    let name = "qwen2.5-32b-q4_k_m";
    let case = case(name, "rtx4080", 1, Offload::Never);
    let document = saved(name, &case);
    let read = Saved::parse(&document.to_string()).unwrap();
    assert_eq!((&read.plan, &read.homes, &read.policy), (&case.plan, &case.homes, &case.policy));
    assert!(!case.plan.transfers.is_empty(), "nothing crosses");
    assert!(diff(&read.planned(), &case.planned()).equal);
    let refused = |change: &dyn Fn(&mut Json), why: &str| {
        let mut document = document.clone();
        change(&mut document);
        let error = Saved::parse(&document.to_string()).map(|_| why).unwrap_err().to_string();
        assert!(error.contains(why), "{error}\nneeded {why}");
    };
    refused(&|d| d["plan"]["memories"][0]["weights"] = 1.into(), "memory host needs");
    refused(&|d| d["plan"]["placements"][7]["device"] = 1.into(), "is placed on d1 but runs in");
    refused(&|d| d["plan"]["placements"][7]["device"] = 9.into(), "placements names 9, of which there are 2");
    refused(&|d| d["plan"]["values"][4]["offset"] = u64::MAX.into(), "cannot be executed");
    refused(&|d| d["plan"]["batch"]["tokens"] = 2.into(), "for a step of");
    refused(&|d| d["homes"]["weights"][0][0]["memory"] = 2.into(), "homes names 2, of which there are 2");
    refused(&|d| d["graph"]["output"] = u32::MAX.into(), "graph");
    refused(&|d| d["machine"]["devices"][0]["memory"] = 7.into(), "cpu names m7");
    refused(&|d| d["plan"] = serde_json::json!({"error": "none"}), "this is no saved plan");
    assert!(Saved::parse("{}").unwrap_err().to_string().contains("this is no saved plan"));
}

/// Calls `change` on every number, by its place in the document.
fn numbers(at: &mut Json, path: &mut Vec<String>, found: &mut Vec<String>) {
    match at {
        Json::Number(_) => found.push(format!("/{}", path.join("/"))),
        Json::Array(items) => {
            for (i, item) in items.iter_mut().enumerate() {
                path.push(i.to_string());
                numbers(item, path, found);
                path.pop();
            }
        }
        Json::Object(members) => {
            for (key, member) in members.iter_mut() {
                path.push(key.clone());
                numbers(member, path, found);
                path.pop();
            }
        }
        Json::Null | Json::Bool(_) | Json::String(_) => {}
    }
}

#[test]
fn no_number_in_a_saved_plan_panics() {
    let case = case("llama-tiny", "tiny-card", 4, Offload::Never);
    let mut document = saved("qwen2.5-32b-q4_k_m", &case);
    for part in ["metadata", "tensors", "unused_tensors", "notes"] {
        document.as_object_mut().unwrap().remove(part);
    }
    let mut found = Vec::new();
    numbers(&mut document, &mut Vec::new(), &mut found);
    assert!(found.len() > 500, "{}", found.len());
    for (i, place) in found.iter().enumerate() {
        for odd in [0u64, 1, 2, u64::from(u32::MAX), u64::MAX].into_iter().skip(i % 3).step_by(3) {
            let mut document = document.clone();
            *document.pointer_mut(place).unwrap() = odd.into();
            if let Ok(read) = Saved::parse(&document.to_string()) {
                diff(&read.planned(), &case.planned()).to_text();
            }
        }
    }
}
