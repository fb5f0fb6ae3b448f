//! Rows → llama-bench's table, with a column for each setting that varies.

use super::sweep::Varied;
use crate::bench::{Model, Row};
use crate::inspect::{escape, one_line};

/// What a column says of a row.
type Cell = fn(&Row) -> String;

/// The columns of a table: title, width, whether cells lie to the right.
pub(super) struct Table {
    columns: Vec<(&'static str, usize, bool, Cell)>,
}

impl Table {
    /// A table for rows in which these settings differ; what plans predicted is shown `beside` what was measured.
    pub fn new(varied: Varied, beside: bool) -> Table {
        let columns: [(bool, &'static str, usize, bool, Cell); 14] = [
            (true, "model", 30, false, |row| escape(&row.model.model_type)),
            (true, "size", 10, true, |row| size(&row.model)),
            (true, "params", 10, true, |row| parameters(&row.model)),
            (true, "backend", 10, false, |row| row.backends.clone()),
            (true, "threads", 7, true, |row| row.settings.n_threads.to_string()),
            (varied.devices, "devices", 16, false, |row| row.settings.devices.clone()),
            (varied.n_gpu_layers, "ngl", 4, true, |row| row.settings.layers()),
            (varied.split_mode, "sm", 6, false, |row| row.settings.split_mode.clone()),
            (varied.offload, "offload", 7, false, |row| row.settings.offload.clone()),
            (varied.n_batch, "n_batch", 7, true, |row| row.settings.n_batch.to_string()),
            (varied.n_ubatch, "n_ubatch", 8, true, |row| row.settings.n_ubatch.to_string()),
            (varied.type_k, "type_k", 6, false, |row| row.settings.type_k.to_string()),
            (varied.type_v, "type_v", 6, false, |row| row.settings.type_v.to_string()),
            (true, "test", 15, true, |row| row.settings.test()),
        ];
        let mut columns: Vec<_> = columns
            .into_iter()
            .filter(|column| column.0)
            .map(|(_, title, width, right, cell)| (title, width, right, cell))
            .collect();
        columns.push(("t/s", 20, true, measured));
        if beside {
            columns.push(("predicted t/s", 13, true, predicted));
        }
        Table { columns }
    }

    /// The two lines above the rows.
    pub fn head(&self) -> String {
        let titles = self.columns.iter().map(|&(title, width, right, _)| padded(title, width, right));
        let rules = self.columns.iter().map(|&(_, width, right, _)| match right {
            true => format!("{}:", "-".repeat(width - 1)),
            false => "-".repeat(width),
        });
        format!("| {} |\n| {} |\n", titles.collect::<Vec<_>>().join(" | "), rules.collect::<Vec<_>>().join(" | "))
    }

    /// A row; what did not run says why behind its last column.
    pub fn line(&self, row: &Row) -> String {
        let cells = self.columns.iter().map(|&(_, width, right, cell)| padded(&cell(row), width, right));
        let line = format!("| {} |", cells.collect::<Vec<_>>().join(" | "));
        match &row.not_run {
            Some(why) => format!("{line} {}", one_line(why)),
            None => line,
        }
    }
}

fn padded(text: &str, width: usize, right: bool) -> String {
    if right { format!("{text:>width$}") } else { format!("{text:width$}") }
}

fn measured(row: &Row) -> String {
    match &row.not_run {
        Some(_) => "not run".to_owned(),
        None => format!("{:.2} ± {:.2}", row.avg_ts, row.stddev_ts),
    }
}

fn predicted(row: &Row) -> String {
    row.predicted_rate().map_or_else(String::new, |rate| format!("{rate:.2}"))
}

fn size(model: &Model) -> String {
    const GIB: f64 = (1u64 << 30) as f64;
    let size = model.model_size as f64;
    if size >= GIB { format!("{:.2} GiB", size / GIB) } else { format!("{:.2} MiB", size / GIB * 1024.0) }
}

fn parameters(model: &Model) -> String {
    let parameters = model.model_n_params as f64;
    if parameters >= 1e9 { format!("{:.2} B", parameters / 1e9) } else { format!("{:.2} M", parameters / 1e6) }
}
