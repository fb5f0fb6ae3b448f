//! `devices`: what is shown and written is a machine that plans can be made for; measured rates are rates.

use loadmaster::bench::host;
use loadmaster::device::{BackendKind, DeviceId, Machine, MemoryId, Rates, Types};
use loadmaster::units::{Bytes, Nanos};

use crate::cli::{loadmaster, refused};

fn written(args: &[&str]) -> Machine {
    let ran = loadmaster(&[&["devices", "--json"], args].concat());
    assert_eq!(ran.code, 0, "{args:?}: {}", ran.err);
    let machine = Machine::from_json(&ran.out).unwrap();
    assert_eq!(Machine::from_json(&machine.to_json()).unwrap(), machine, "{args:?}");
    machine
}

fn assert_positive(rates: &Rates) {
    for rate in [rates.read.0, rates.int8.0, rates.f16.0, rates.f32.0] {
        assert!(rate.is_finite() && rate > 0.0, "{rates:?}");
    }
    assert!(rates.node > Nanos::ZERO && rates.split > Nanos::ZERO, "{rates:?}");
    assert!((0.0..=1.0).contains(&rates.hides), "{rates:?}");
}

#[test]
fn this_computer_is_a_machine_of_its_cores_and_memory() {
    let machine = written(&[]);
    assert_eq!((machine.memories.len(), machine.devices.len(), machine.links.len()), (1, 1, 0));
    let (memory, device) = (&machine.memories[MemoryId(0)], &machine.devices[DeviceId(0)]);
    assert_eq!((device.kind, device.types, device.workers), (BackendKind::Cpu, Types::Kernels, host::physical_cores()));
    assert!(Bytes::ZERO < memory.free && memory.free <= memory.total, "{memory:?}");
    if let Some(total) = host::total_memory() {
        assert_eq!(memory.total, total);
    }
    assert_positive(&device.rates);
    let ran = loadmaster(&["devices", "-t", "3"]);
    let row = ran.out.lines().find(|l| l.trim_start().starts_with("cpu ")).unwrap();
    assert_eq!(row.split_whitespace().take(3).collect::<Vec<_>>(), ["cpu", "host", "3"]);
    assert_eq!(written(&["-t", "3"]).devices[DeviceId(0)].workers, 3);
}

/// One command, so that the measuring is done once; how fast anything is stays open.
#[test]
fn measured_rates_are_positive_and_finite() {
    let usual = written(&["-t", "1"]).devices[DeviceId(0)].rates;
    let measured = written(&["-t", "2", "--calibrate"]).devices[DeviceId(0)].rates;
    assert_positive(&measured);
    assert_eq!(measured.hides, usual.hides);
    assert!(measured.read != usual.read && measured.int8 != usual.int8 && measured.f16 != measured.f32, "{measured:?}");
}

#[test]
fn every_shipped_machine_is_shown_and_written() {
    let folder = tempfile::tempdir().unwrap();
    for name in Machine::shipped_names() {
        let machine = Machine::shipped(name).unwrap();
        let ran = loadmaster(&["devices", "--machine", name]);
        assert_eq!(ran.code, 0, "{name}: {}", ran.err);
        let shown = |part: &str| ran.out.split_whitespace().any(|word| word == part);
        machine.memories.iter().for_each(|m| assert!(shown(&m.name), "{name}: no {}", m.name));
        machine.devices.iter().for_each(|d| assert!(shown(&d.name), "{name}: no {}", d.name));
        machine.buses.iter().for_each(|b| assert!(shown(&b.name), "{name}: no {}", b.name));
        let rows = machine.memories.len() + machine.devices.len() + machine.links.len() + machine.buses.len();
        assert!(ran.out.lines().count() >= rows + 4, "{name}: {}", ran.out);
        assert_eq!(written(&["--machine", name]), machine, "{name}");
        let path = folder.path().join(name);
        std::fs::write(&path, loadmaster(&["devices", "--json", "--machine", name]).out).unwrap();
        assert_eq!(written(&["--machine", path.to_str().unwrap()]), machine, "{name}: with its sources, as a file");
        assert!(std::fs::read_to_string(&path).unwrap().contains("\"source\""));
    }
}

#[test]
fn a_machine_table_is_what_its_file_says() {
    let ran = loadmaster(&["devices", "--machine", "rtx4080"]);
    insta::assert_snapshot!(ran.out, @r"
    A desktop with one RTX 4080 on a link of 14 GiB/s.

    memories:
      memory  total      free       reserve    for plans
      host    64.00 GiB  58.59 GiB  0 B        58.59 GiB
      cuda:0  15.99 GiB  15.53 GiB  256.0 MiB  14.89 GiB

    devices:
      device  memory  workers  read        int8       f16        f32        node    split    hides  takes      types
      cpu     host    32       67.0 GB/s   2.50 TOPS  1.20 TOPS  1.20 TOPS  2.0 us  5.0 us   50%    0 B        all
      cuda:0  cuda:0  1        609.0 GB/s  82 TOPS    78 TOPS    39 TOPS    3.0 us  10.0 us  80%    400.0 MiB  all

    links:
      between  and     rate       pageable   latency  bus
      host     cuda:0  15.0 GB/s  15.0 GB/s  10.0 us  -
    ");
}

#[test]
fn machines_that_are_none_are_refused() {
    let names: Vec<&str> = Machine::shipped_names().collect();
    refused(&["devices", "--machine", "rtx9999"], 2, &["rtx9999: there is no such file", &names.join(", ")]);
    refused(&["devices", "--machine", "x", "--calibrate"], 2, &["--calibrate", "--machine"]);
    refused(&["devices", "--machine", "x", "-t", "1"], 2, &["--threads"]);
    refused(&["devices", "-t", "0"], 2, &["1..=512"]);
    let folder = tempfile::tempdir().unwrap();
    refused(&["devices", "--machine", folder.path().to_str().unwrap()], 1, &["cannot read the machine file"]);
    let file = |name: &str, bytes: &[u8]| {
        let path = folder.path().join(name);
        std::fs::write(&path, bytes).unwrap();
        path.to_str().unwrap().to_owned()
    };
    let path = file("text.json", b"{}");
    refused(&["devices", "--machine", &path], 1, &["text.json", "missing field `version` at line 1"]);
    let path = file("bytes.json", b"\xff\xfe");
    refused(&["devices", "--machine", &path], 1, &["bytes.json", "cannot read the machine file"]);
    let path = file("long.json", &vec![b' '; 2 << 20]);
    refused(&["devices", "--machine", &path], 1, &["long.json", "needed at most 1048576 bytes, found 1048577"]);
    let wrong = Machine::shipped_file("rtx4090").unwrap().replace("\"rate_gb_s\": 25", "\"rate_gb_s\": -25");
    let path = file("wrong.json", wrong.as_bytes());
    refused(&["devices", "--machine", &path], 1, &["links[0].rate_gb_s is -25, needed 0.000001 to 1000000"]);
}
