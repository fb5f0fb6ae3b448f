//! Rows of floats → a NumPy file, format 1.0 (NumPy's `numpy.lib.format`), little-endian f32, written as they come.

use std::io::{self, Write};

/// A file of `[rows, columns]` floats under way.
pub(super) struct Npy<W> {
    out: W,
}

impl<W: Write> Npy<W> {
    /// Writes the header.
    pub fn new(mut out: W, rows: usize, columns: usize) -> io::Result<Npy<W>> {
        const PREAMBLE: usize = 10;
        let mut header = format!("{{'descr': '<f4', 'fortran_order': False, 'shape': ({rows}, {columns}), }}");
        let whole = (PREAMBLE + header.len() + 1).next_multiple_of(64);
        header.push_str(&" ".repeat(whole - PREAMBLE - header.len() - 1));
        header.push('\n');
        out.write_all(b"\x93NUMPY\x01\x00")?;
        out.write_all(&(header.len() as u16).to_le_bytes())?;
        out.write_all(header.as_bytes())?;
        Ok(Npy { out })
    }

    /// Appends floats.
    pub fn write(&mut self, values: &[f32]) -> io::Result<()> {
        values.iter().try_for_each(|v| self.out.write_all(&v.to_le_bytes()))
    }

    /// Ends the file.
    pub fn finish(mut self) -> io::Result<()> {
        self.out.flush()
    }
}
