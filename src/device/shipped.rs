//! The machines that are described inside the program, by name: `graphs/machines`. A table, nothing else.

use super::Machine;

macro_rules! shipped {
    ($($name:literal),+ $(,)?) => {
        &[$(($name, include_str!(concat!("../../graphs/machines/", $name, ".json")))),+]
    };
}

/// Names and files, in the order of their names.
const SHIPPED: &[(&str, &str)] = shipped![
    "cpu-2core",
    "h200x8",
    "kimi-8gpu",
    "laptop-igpu",
    "numa-2node",
    "rtx3090x2-ddr4",
    "rtx4080",
    "rtx4090",
    "ten-gpu",
];

impl Machine {
    /// The names of the machines inside the program, ascending.
    pub fn shipped_names() -> impl ExactSizeIterator<Item = &'static str> {
        SHIPPED.iter().map(|(name, _)| *name)
    }

    /// The file of the machine of that name, or `None` where there is none.
    pub fn shipped_file(name: &str) -> Option<&'static str> {
        SHIPPED.iter().find(|(n, _)| *n == name).map(|(_, text)| *text)
    }

    /// The machine of that name, or `None` where there is none.
    ///
    /// # Panics
    /// Never: a test reads them all.
    pub fn shipped(name: &str) -> Option<Machine> {
        Machine::shipped_file(name)
            .map(|text| Machine::from_json(text).expect("every shipped machine is read in tests"))
    }
}
