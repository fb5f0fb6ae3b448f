//! Records → what charts and tables are of: the latest row of every subject, groups of rows that compare with each other,
//! and their histories. Order depends on what is in the records, never on the order in which they were read.

use std::collections::{BTreeMap, BTreeSet};

use crate::bench::moved::Subject;
use crate::bench::record::{Record, Row, Settings};

/// A row, with the record that it is in.
#[derive(Clone, Copy, Debug)]
pub(super) struct Measured<'a> {
    pub record: &'a Record<Row>,
    pub row: &'a Row,
}

/// Rows that compare with each other: of one machine, model and test.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Group {
    pub cpu: String,
    pub cores: u32,
    pub model: String,
    pub size: u64,
    /// Whether tokens are generated, and how many there are.
    pub generated: bool,
    pub tokens: u32,
}

impl Group {
    pub fn of(found: Measured<'_>) -> Group {
        let Measured { record, row } = found;
        Group {
            cpu: record.machine.cpu.clone(),
            cores: record.machine.cores,
            model: row.model.model_type.clone(),
            size: row.model.model_size,
            generated: row.settings.n_gen > 0,
            tokens: row.settings.tokens(),
        }
    }

    /// The test, the model and the machine.
    pub fn title(&self) -> (String, String) {
        let Group { cpu, cores, model, generated, tokens, .. } = self;
        let test = if *generated { format!("generation of {tokens}") } else { format!("prompt of {tokens}") };
        (format!("{model}, {test}"), format!("{cpu}, {cores} cores"))
    }
}

/// All rows, from the oldest record to the latest.
pub(super) fn in_time<'a>(records: &'a [(String, Record<Row>)]) -> Vec<Measured<'a>> {
    let mut sorted: Vec<&(String, Record<Row>)> = records.iter().collect();
    sorted.sort_by(|a, b| (&a.1.date, &a.0).cmp(&(&b.1.date, &b.0)));
    let rows = |record: &'a Record<Row>| record.rows.iter().map(move |row| Measured { record, row });
    sorted.into_iter().flat_map(|(_, record)| rows(record)).collect()
}

/// Of every subject on every machine the last row, in groups.
pub(super) fn latest<'a>(rows: &[Measured<'a>]) -> BTreeMap<Group, BTreeMap<Settings, Measured<'a>>> {
    let mut groups: BTreeMap<Group, BTreeMap<Settings, Measured<'a>>> = BTreeMap::new();
    for &found in rows {
        groups.entry(Group::of(found)).or_default().insert(found.row.settings.clone(), found);
    }
    groups
}

/// Of every group the rows of all records, by settings.
pub(super) fn histories<'a>(rows: &[Measured<'a>]) -> BTreeMap<Group, BTreeMap<Subject, Vec<Measured<'a>>>> {
    let mut groups: BTreeMap<Group, BTreeMap<Subject, Vec<Measured<'a>>>> = BTreeMap::new();
    for &found in rows.iter().filter(|found| found.row.rate().is_some()) {
        groups.entry(Group::of(found)).or_default().entry(Subject::of(found.row)).or_default().push(found);
    }
    groups
}

/// A colour for every set of devices.
pub(super) struct Colours(Vec<String>);

impl Colours {
    pub fn of(rows: &[Measured<'_>]) -> Colours {
        let sets: BTreeSet<&str> = rows.iter().map(|found| found.row.settings.devices.as_str()).collect();
        Colours(sets.into_iter().map(str::to_owned).collect())
    }

    pub fn get(&self, devices: &str) -> usize {
        self.0.iter().position(|known| known == devices).unwrap_or(0)
    }
}

/// What a setting is called, and its value.
type Setting = (&'static str, fn(&Settings) -> String);

const SETTINGS: [Setting; 10] = [
    ("ngl", Settings::layers),
    ("sm", |s| s.split_mode.clone()),
    ("offload", |s| s.offload.clone()),
    ("budget", |s| s.budget_mib.iter().map(|&mib| budget(mib)).collect::<Vec<_>>().join(", ")),
    ("t", |s| s.n_threads.to_string()),
    ("b", |s| s.n_batch.to_string()),
    ("ub", |s| s.n_ubatch.to_string()),
    ("ctk", |s| s.type_k.to_string()),
    ("ctv", |s| s.type_v.to_string()),
    ("mmap", |s| if s.use_mmap { "yes".to_owned() } else { "no".to_owned() }),
];

/// Names of settings beside each other: their devices, and what else differs between them.
pub(super) fn labels<'a>(all: impl Iterator<Item = &'a Settings> + Clone) -> Vec<String> {
    let differs = |value: &fn(&Settings) -> String| all.clone().map(value).collect::<BTreeSet<_>>().len() > 1;
    let shown: Vec<Setting> = SETTINGS.into_iter().filter(|(_, value)| differs(value)).collect();
    let label = |settings: &Settings| {
        let others = shown.iter().map(|(name, value)| format!(" {name} {}", value(settings)));
        format!("{}{}", settings.devices, others.collect::<String>())
    };
    all.map(label).collect()
}

/// All settings in few words, but for devices.
pub(super) fn all_settings(settings: &Settings) -> String {
    let usual = Settings::default();
    let others = SETTINGS.iter().filter(|(name, value)| *name == "t" || value(settings) != value(&usual));
    others.map(|(name, value)| format!("{name} {}", value(settings))).collect::<Vec<_>>().join(", ")
}

fn budget(mib: u64) -> String {
    if mib == 0 { "its own".to_owned() } else { format!("{mib} MiB") }
}
