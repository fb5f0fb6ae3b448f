//! Machine files: what is shipped, what defaults mean, what is refused and in which words, and hostile text.

use std::path::Path;

use loadmaster::device::file::{MOST_BYTES, MachineFile};
use loadmaster::device::{BackendKind, BusId, DeviceId, Machine, MemoryId, Types};
use loadmaster::index::Id;
use loadmaster::units::{Bytes, BytesPerSec, Nanos, OpsPerSec};
use proptest::prelude::*;
use serde_json::{Value, json};

const HOST: MemoryId = MemoryId(0);
const CARD: MemoryId = MemoryId(1);

/// Two memories, two devices, a link on a bus; every field that must be there and few others.
fn small() -> Value {
    json!({
        "version": 1,
        "memories": [{ "name": "host", "total_mib": 1000 }, { "name": "cuda:0", "total_mib": 500, "free_mib": 400.5 }],
        "devices": [
            { "name": "cpu", "kind": "cpu", "memory": "host",
              "rates": { "read_gb_s": 40, "int8_tops": 1.5, "f16_tops": 0.25, "f32_tops": 0.2 } },
            { "name": "cuda:0", "kind": "cuda", "memory": "cuda:0", "overhead_mib": 100,
              "rates": { "read_gb_s": 900, "int8_tops": 160, "f16_tops": 120, "f32_tops": 60 } },
        ],
        "links": [{ "a": "host", "b": "cuda:0", "rate_gib_s": 14, "bus": "root" }],
        "buses": [{ "name": "root", "rate_gb_s": 16 }],
    })
}

fn read(file: &Value) -> Result<Machine, String> {
    Machine::from_json(&file.to_string()).map_err(|e| e.to_string())
}

/// Puts `value` at a JSON pointer of the small machine; `None` takes the field away.
fn with(pointer: &str, value: impl Into<Option<Value>>) -> Value {
    let mut file = small();
    let (parent, field) = pointer.rsplit_once('/').unwrap();
    let parent = file.pointer_mut(parent).unwrap();
    match (value.into(), parent) {
        (Some(value), Value::Object(map)) => drop(map.insert(field.into(), value)),
        (None, Value::Object(map)) => drop(map.remove(field).unwrap()),
        (Some(value), Value::Array(list)) if field == "-" => list.push(value),
        (value, parent) => panic!("{pointer}: {value:?} in {parent}"),
    }
    file
}

#[track_caller]
fn check(pointer: &str, value: impl Into<Option<Value>>, message: &str) {
    let file = with(pointer, value);
    assert_eq!(read(&file).expect_err(&file.to_string()), format!("machine file: {message}"));
}

#[test]
fn what_a_file_leaves_out_has_the_documented_default() {
    let machine = read(&small()).unwrap();
    let [host, card] = [HOST, CARD].map(|m| &machine.memories[m]);
    assert_eq!((host.total, host.free, host.reserve), (Bytes::mib(1000), Bytes::mib(1000), Bytes::ZERO));
    assert_eq!((card.total, card.free), (Bytes::mib(500), Bytes(801 << 19)));
    let [cpu, cuda] = [0, 1].map(|d| &machine.devices[DeviceId(d)]);
    assert_eq!((cpu.uid.as_str(), cpu.workers, cpu.alignment, cpu.overlaps), ("cpu", 1, 64, false));
    assert_eq!((cuda.kind, cuda.alignment, cuda.overlaps), (BackendKind::Cuda, 256, true));
    assert_eq!((cpu.types, cuda.types, cuda.memory), (Types::All, Types::All, CARD));
    assert_eq!((cpu.overhead, cuda.overhead), (Bytes::ZERO, Bytes::mib(100)));
    assert_eq!(machine.budget(CARD), Bytes(601 << 19));
    assert_eq!((cpu.rates.read, cpu.rates.int8), (BytesPerSec(40e9), OpsPerSec(1.5e12)));
    assert_eq!((cpu.rates.node, cpu.rates.split, cpu.rates.hides), (Nanos(2_000), Nanos(5_000), 0.5));
    assert_eq!((cuda.rates.node, cuda.rates.split, cuda.rates.hides), (Nanos(3_000), Nanos(10_000), 0.8));
    let link = machine.link(CARD, HOST).unwrap();
    let rate = BytesPerSec(14.0 * f64::from(1 << 30));
    assert_eq!((link.rate, link.pageable, link.latency), (rate, rate, Nanos(10_000)));
    assert_eq!((link.bus, machine.buses[BusId(0)].rate), (Some(BusId(0)), BytesPerSec(16e9)));
}

#[test]
fn numbers_out_of_range_are_refused_by_field() {
    let rate = "needed 0.000001 to 1000000";
    for (value, found) in [(json!(-3), "-3"), (json!(0), "0"), (json!(1e-7), "1e-7"), (json!(1e300), "1e300")] {
        for field in ["read_gb_s", "int8_tops", "f16_tops", "f32_tops"] {
            let needed = format!("devices[1].rates.{field} is {found}, {rate}");
            check(&format!("/devices/1/rates/{field}"), value.clone(), &needed);
        }
        check("/links/0/rate_gib_s", value.clone(), &format!("links[0].rate_gib_s is {found}, {rate}"));
        check("/links/0/pageable_gb_s", value.clone(), &format!("links[0].pageable_gb_s is {found}, {rate}"));
        check("/buses/0/rate_gb_s", value, &format!("buses[0].rate_gb_s is {found}, {rate}"));
    }
    check("/devices/0/rates/hides", json!(1.5), "devices[0].rates.hides is 1.5, needed 0 to 1");
    check("/devices/0/rates/node_us", json!(-1), "devices[0].rates.node_us is -1, needed 0 to 1000000000");
    check("/devices/0/rates/split_us", json!(1e10), "devices[0].rates.split_us is 10000000000, needed 0 to 1000000000");
    check("/links/0/latency_us", json!(-0.5), "links[0].latency_us is -0.5, needed 0 to 1000000000");
    check("/devices/0/workers", json!(0), "devices[0].workers is 0, needed 1 to 65536");
    check("/devices/0/workers", json!(65537), "devices[0].workers is 65537, needed 1 to 65536");
    for alignment in [0u64, 3, 48, 1 << 31, u64::MAX] {
        let needed = format!("devices[0].alignment is {alignment}, needed a power of two up to 1073741824");
        check("/devices/0/alignment", json!(alignment), &needed);
    }
}

#[test]
fn memories_that_do_not_add_up_are_refused() {
    check("/memories/1/free_mib", json!(501), "memories[1].free_mib is 501, needed 0 to 500");
    check("/memories/1/reserve_mib", json!(-1), "memories[1].reserve_mib is -1, needed 0 to 500");
    check("/memories/1/total_mib", json!(0), "memories[1].total_mib is 0, needed more than 0");
    check("/devices/1/overhead_mib", json!(500.1), "devices[1].overhead_mib is 500.1, needed 0 to 500");
    let all = 2f64.powi(43);
    check("/memories/1/total_mib", json!(all), "memories[1].total_mib is 8796093022208, needed 0 to 8796093022208");
    let most = (1u64 << 63) - 1;
    let (found, before) = ((1u64 << 63) - (1 << 20), 1000u64 << 20);
    assert!(found + before > most);
    check(
        "/memories/1/total_mib",
        json!(all - 1.0),
        &format!(
            "memories[1].total_mib is {found} bytes, needed at most {most} bytes in this and all memories before it"
        ),
    );
}

#[test]
fn names_that_are_unknown_or_taken_are_refused() {
    let taken = "a name that memories[0] does not have";
    check("/memories/1/name", json!("host"), &format!("memories[1].name is \"host\", needed {taken}"));
    let taken = "a name that devices[0] does not have";
    check("/devices/1/name", json!("cpu"), &format!("devices[1].name is \"cpu\", needed {taken}"));
    let taken = "a uid that devices[0] does not have";
    check("/devices/1/uid", json!("cpu"), &format!("devices[1].uid is \"cpu\", needed {taken}"));
    let again = json!({ "name": "root", "rate_gb_s": 1 });
    check("/buses/-", again, "buses[1].name is \"root\", needed a name that buses[0] does not have");
    let known = "needed a name of memories (cuda:0, host)";
    check("/devices/1/memory", json!("hots"), &format!("devices[1].memory is \"hots\", {known}"));
    check("/links/0/b", json!("gpu"), &format!("links[0].b is \"gpu\", {known}"));
    check("/links/0/bus", json!("rot"), "links[0].bus is \"rot\", needed a name of buses (root)");
    check("/buses", json!([]), "links[0].bus is \"root\", needed a name of buses (there are none)");
    check("/links/0/b", json!("host"), "links[0].b is \"host\", needed another memory than a");
    let back = json!({ "a": "cuda:0", "b": "host", "rate_gb_s": 1 });
    let needed = "needed two memories that links[0] does not link";
    check("/links/-", back, &format!("links[1] is between \"cuda:0\" and \"host\", {needed}"));
    for name in ["", "a b", "\u{1b}[2J", "größe"] {
        let needed = format!("memories[0].name is {name:?}, needed 1 to 64 visible ASCII characters");
        check("/memories/0/name", json!(name), &needed);
    }
    let long = "n".repeat(1000);
    let needed = "1 to 64 visible ASCII characters";
    check("/devices/0/uid", json!(long), &format!("devices[0].uid is {:?}..., needed {needed}", &long[..64]));
}

#[test]
fn files_of_another_form_are_refused() {
    check("/memories", json!([]), "memories is a list of 0, needed 1 to 256 entries");
    check("/devices", json!([]), "devices is a list of 0, needed 1 to 256 entries");
    check("/links/0/rate_gb_s", json!(15), "links[0].rate_gib_s is 14, needed nothing beside links[0].rate_gb_s");
    check("/links/0/rate_gib_s", None, "links[0].rate_gb_s is absent, needed a rate there or in rate_gib_s");
    check("/buses/0/rate_gb_s", None, "buses[0].rate_gb_s is absent, needed a rate there or in rate_gib_s");
    let error = read(&with("/version", json!(2))).unwrap_err();
    assert_eq!(error, "machine file has version 2, this program reads version 1");
    for (pointer, value, part) in [
        ("/devices/0/rates/read", json!(1), "unknown field `read`"),
        ("/devices/0/kind", json!("tpu"), "unknown variant `tpu`, expected one of `null`, `cpu`, `cuda`, `vulkan`"),
        ("/devices/0/workers", json!(-1), "invalid value: integer `-1`, expected u32"),
        ("/memories/0/total_mib", json!("8"), "invalid type: string \"8\", expected f64"),
    ] {
        let error = read(&with(pointer, value)).unwrap_err();
        assert!(error.starts_with("machine file: ") && error.contains(part), "{error}");
    }
    let twice = small().to_string().replacen("\"kind\"", "\"name\":\"x\",\"kind\"", 1);
    assert!(Machine::from_json(&twice).unwrap_err().to_string().contains("duplicate field `name`"));
    let endless = small().to_string().replacen("40", "1e999", 1);
    assert!(Machine::from_json(&endless).unwrap_err().to_string().contains("number out of range"));
    let long = " ".repeat(MOST_BYTES) + &small().to_string();
    let error = Machine::from_json(&long).unwrap_err().to_string();
    assert_eq!(error, format!("machine file: needed at most {MOST_BYTES} bytes, found {}", long.len()));
}

/// What the tests and examples count on, and that every number says where it comes from.
#[test]
fn every_shipped_machine_reads_and_names_its_sources() {
    let names: Vec<&str> = Machine::shipped_names().collect();
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("graphs/machines");
    let listed = std::fs::read_to_string(folder.join("README.md")).unwrap();
    let mut files: Vec<String> =
        std::fs::read_dir(&folder).unwrap().map(|e| e.unwrap().file_name().into_string().unwrap()).collect();
    files.retain(|f| f.ends_with(".json"));
    files.sort();
    assert_eq!(files, names.iter().map(|n| format!("{n}.json")).collect::<Vec<_>>());
    for name in names {
        assert!(listed.contains(&format!("`{name}`")), "{name} is not in the README");
        let file = MachineFile::parse(Machine::shipped_file(name).unwrap()).unwrap();
        let machine = Machine::shipped(name).unwrap();
        let rates = file.devices.iter().map(|d| &d.rates.source);
        let links = file.links.iter().map(|l| &l.source);
        let rest = file.memories.iter().map(|m| &m.source).chain(file.buses.iter().map(|b| &b.source));
        let sources: Vec<&String> = rates.chain(links).chain(rest).collect();
        assert!(sources.iter().all(|s| s.len() > 10) && file.about.len() > 10, "{name}: {sources:?}");
        for device in machine.devices.iter() {
            assert_eq!(device.types, Types::All, "{name} {}", device.name);
            assert_eq!(device.overlaps, device.kind == BackendKind::Cuda, "{name} {}", device.name);
            assert!(machine.budget(device.memory) > Bytes::ZERO, "{name} {}", device.name);
        }
        assert_eq!(Machine::from_json(&machine.to_json()).unwrap(), machine, "{name}");
        assert_eq!(Machine::from_json(&MachineFile::parse(&file.to_json()).unwrap().to_json()).unwrap(), machine);
    }
    assert!(Machine::shipped("cpu-3core").is_none() && Machine::shipped_file("").is_none());
}

#[test]
fn shipped_rigs_are_those_of_their_reports() {
    let cards = |name: &str| {
        let machine = Machine::shipped(name).unwrap();
        let cards: Vec<u64> = machine
            .devices
            .iter()
            .filter(|d| d.kind == BackendKind::Cuda)
            .map(|d| machine.memories[d.memory].free.0 >> 20)
            .collect();
        (machine, cards)
    };
    let (kimi, free) = cards("kimi-8gpu");
    assert_eq!(free, [31600, 31600, 31600, 31600, 23688, 23688, 48270, 48270]);
    assert_eq!(kimi.budget(CARD), Bytes::mib(31600 - 1024));
    assert_eq!(kimi.memories[HOST].total, Bytes::mib(512 << 10));
    let (ten, free) = cards("ten-gpu");
    assert_eq!((free.len(), ten.links.len(), ten.buses.len()), (10, 10 + 45, 10));
    let lanes = [8, 8, 4, 8, 4, 4, 8, 8, 8, 4];
    let memory = |i: usize| MemoryId::from_index(i + 1);
    for (i, lanes) in lanes.into_iter().enumerate() {
        let rate = |a, b| ten.link(a, b).unwrap().rate.0;
        let host = rate(HOST, memory(i));
        assert_eq!(host / rate(HOST, memory(2)), f64::from(lanes) / 4.0, "cuda:{i}");
        for j in 0..i {
            assert_eq!(rate(memory(i), memory(j)), host.min(rate(HOST, memory(j))), "cuda:{i} and cuda:{j}");
        }
    }
    let (laptop, _) = cards("laptop-igpu");
    assert_eq!((laptop.memories.len(), laptop.devices.len(), laptop.links.len()), (1, 2, 0));
    assert_eq!(laptop.device_of(HOST), Some(DeviceId(0)));
    let (numa, _) = cards("numa-2node");
    assert!(numa.is_host(HOST) && numa.is_host(CARD) && numa.link(HOST, CARD).is_some());
    let (two, _) = cards("rtx3090x2-ddr4");
    assert_eq!((two.devices.len(), two.devices[DeviceId(0)].workers), (3, 18));
    assert_eq!(cards("h200x8").0.links.len(), 8 + 28);
    for name in ["rtx4080", "rtx4090", "cpu-2core"] {
        assert!(cards(name).1.len() == usize::from(name != "cpu-2core"), "{name}");
    }
    let link = Machine::shipped("rtx4080").unwrap();
    assert_eq!(link.link(HOST, CARD).unwrap().rate, BytesPerSec(14.0 * f64::from(1 << 30)));
}

/// Quantities as a machine may have them: sizes in bytes, rates and times as they were measured.
fn measured() -> impl Strategy<Value = Machine> {
    let device = (1u64..1 << 50, 0.0..1.0f64, 1u64..1 << 49, 1u64..1_000_000_000_000, 0u64..1 << 39, 0u32..31);
    prop::collection::vec(device, 1..6).prop_map(|parts| {
        let mut machine = Machine::isolated(BackendKind::Cuda, parts.len() as u32, 1, Bytes(1));
        for (i, &(total, share, rate, ops, nanos, alignment)) in parts.iter().enumerate() {
            let memory = &mut machine.memories[MemoryId::from_index(i)];
            memory.total = Bytes(total);
            memory.free = Bytes((total as f64 * share) as u64);
            memory.reserve = Bytes(total / 3);
            let device = &mut machine.devices[DeviceId::from_index(i)];
            (device.overhead, device.alignment) = (Bytes(total / 7), 1 << alignment);
            device.rates.read = BytesPerSec((rate + 1000) as f64);
            device.rates.int8 = OpsPerSec(ops as f64 * 1e6);
            (device.rates.node, device.rates.split) = (Nanos(nanos), Nanos(nanos / 3));
            device.rates.hides = (share * 1e9).round() / 1e9;
        }
        machine
    })
}

proptest! {
    #![proptest_config(ProptestConfig { cases: crate::cases(1000), failure_persistence: None, ..ProptestConfig::default() })]
    #[test]
    fn a_machine_survives_its_file(machine in measured()) {
        prop_assert_eq!(Machine::from_json(&machine.to_json()).unwrap(), machine);
    }

    /// Fields that change places, lose parts or get numbers of any size: read or refused, and what is read can be
    /// written, read again, and asked anything.
    #[test]
    fn changed_files_never_panic(
        shipped in any::<prop::sample::Index>(),
        changes in prop::collection::vec((any::<prop::sample::Index>(), 0usize..9, any::<f64>(), any::<u64>()), 1..5),
    ) {
        let names: Vec<&str> = Machine::shipped_names().collect();
        let mut file: Value = serde_json::from_str(Machine::shipped_file(names[shipped.index(names.len())]).unwrap()).unwrap();
        for (at, kind, float, whole) in changes {
            let mut paths = Vec::new();
            pointers(&file, String::new(), &mut paths);
            let other = file.pointer(&paths[at.index(paths.len())]).unwrap().clone();
            let target = file.pointer_mut(&paths[(whole as usize) % paths.len()]).unwrap();
            *target = match kind {
                0 => json!(float),
                1 => json!(whole),
                2 => json!(-(whole as i64 >> (whole % 63))),
                3 => json!(whole >> (whole % 63)),
                4 => json!("host"),
                5 => Value::Null,
                6 => json!([]),
                7 => json!("\u{0}\u{202e}"),
                _ => other,
            };
        }
        survives(&file.to_string());
    }
}

/// The paths to everything in a document.
fn pointers(value: &Value, at: String, found: &mut Vec<String>) {
    match value {
        Value::Object(map) => map.iter().for_each(|(k, v)| pointers(v, format!("{at}/{k}"), found)),
        Value::Array(list) => list.iter().enumerate().for_each(|(i, v)| pointers(v, format!("{at}/{i}"), found)),
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => {}
    }
    if !at.is_empty() {
        found.push(at);
    }
}

fn survives(text: &str) -> bool {
    match crate::json_walk::machine(text) {
        Ok(()) => true,
        Err(error) => {
            assert!(error.starts_with("machine file"), "{error}");
            false
        }
    }
}

#[test]
fn the_fuzz_corpus_never_panics() {
    crate::json_smoke::smoke("machine", 3000, survives);
}
