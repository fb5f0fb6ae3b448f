//! The bytes of a saved session, summed as they pass. A length that is read is checked against what is left before anything
//! is allocated for it: a file costs no more memory than it has bytes, whatever it claims.

use std::hash::Hasher;
use std::io::{self, BufReader, Read, Seek, SeekFrom, Write};

use twox_hash::XxHash64;

use super::{MAGIC, SavedError, VERSION};
use crate::units::Bytes;

/// Magic, version, length of the file.
const HEAD: u64 = 8 + 4 + 8;

/// The checksum.
const TAIL: u64 = 8;

/// Longer texts are not written.
const MOST_TEXT: u32 = 4096;

/// Bytes of a text that is none which a message shows.
const SHOWN: usize = 32;

pub(super) fn damaged(file: &str, field: &'static str, needed: String, found: String) -> SavedError {
    SavedError::Damaged { file: file.into(), field, needed, found }
}

pub(super) fn failed(file: &str, action: &'static str) -> impl FnOnce(io::Error) -> SavedError + use<> {
    let file = file.to_owned();
    move |source| SavedError::Io { file, action, source }
}

/// Writes and sums.
pub(super) struct Writer<'a> {
    file: &'a str,
    to: &'a mut dyn Write,
    hash: XxHash64,
}

impl<'a> Writer<'a> {
    pub fn new(file: &'a str, to: &'a mut dyn Write) -> Writer<'a> {
        Writer { file, to, hash: XxHash64::with_seed(0) }
    }

    /// The head of a file with so many bytes between head and checksum.
    pub fn head(&mut self, body: Bytes) -> Result<(), SavedError> {
        self.put(&MAGIC)?;
        self.put(&VERSION.to_le_bytes())?;
        self.put(&(Bytes(HEAD + TAIL) + body).0.to_le_bytes())
    }

    pub fn put(&mut self, bytes: &[u8]) -> Result<(), SavedError> {
        self.hash.write(bytes);
        self.to.write_all(bytes).map_err(failed(self.file, "write it"))
    }

    /// The checksum.
    pub fn seal(self) -> Result<(), SavedError> {
        let sum = self.hash.finish().to_le_bytes();
        self.to.write_all(&sum).map_err(failed(self.file, "write it"))
    }
}

/// Reads and sums what is between head and checksum.
pub(super) struct Reader<'a, R> {
    file: &'a str,
    from: BufReader<&'a mut R>,
    hash: XxHash64,
    /// Bytes to the checksum.
    left: u64,
}

impl<'a, R: Read + Seek> Reader<'a, R> {
    /// Reads all of it for its checksum; what comes next is what follows the head.
    pub fn verified(file: &'a str, from: &'a mut R) -> Result<Reader<'a, R>, SavedError> {
        let found = from.seek(SeekFrom::End(0)).map_err(failed(file, "read its size"))?;
        let mut reader = Reader::rewound(file, from)?;
        reader.head(found)?;
        let mut bytes = vec![0; reader.left.min(1 << 20) as usize];
        while reader.left > 0 {
            let next = reader.left.min(1 << 20) as usize;
            reader.take(&mut bytes[..next], "checksum")?;
        }
        reader.sealed()?;
        let Reader { from, .. } = reader;
        let mut reader = Reader::rewound(file, from.into_inner())?;
        reader.head(found)?;
        Ok(reader)
    }

    fn rewound(file: &'a str, from: &'a mut R) -> Result<Reader<'a, R>, SavedError> {
        from.rewind().map_err(failed(file, "read it"))?;
        Ok(Reader { file, from: BufReader::new(from), hash: XxHash64::with_seed(0), left: HEAD })
    }

    /// Reads the head of a file of `found` bytes.
    fn head(&mut self, found: u64) -> Result<(), SavedError> {
        let cut = |needed| SavedError::Truncated { file: self.file.into(), needed, found };
        let magic = MAGIC.len().min(found as usize);
        let mut head = [0; HEAD as usize];
        let there = &mut head[..HEAD.min(found) as usize];
        self.from.read_exact(there).map_err(failed(self.file, "read it"))?;
        if there[..magic] != MAGIC[..magic] {
            return Err(SavedError::Foreign { file: self.file.into(), found: there[..magic].to_vec() });
        } else if found < HEAD {
            return Err(cut(HEAD + TAIL));
        }
        self.hash.write(&head);
        let [_, _, _, _, _, _, _, _, a, b, c, d, length @ ..] = head;
        let (version, needed) = (u32::from_le_bytes([a, b, c, d]), u64::from_le_bytes(length));
        if version != VERSION {
            return Err(SavedError::Version { file: self.file.into(), found: version });
        } else if needed > found || found < HEAD + TAIL {
            return Err(cut(needed.max(HEAD + TAIL)));
        } else if needed < found {
            return Err(damaged(self.file, "length", format!("{needed} bytes"), format!("{found} bytes")));
        }
        self.left = found - HEAD - TAIL;
        Ok(())
    }
}

impl<R: Read> Reader<'_, R> {
    /// What messages call it.
    pub fn file(&self) -> String {
        self.file.to_owned()
    }

    /// The next bytes.
    pub fn take(&mut self, bytes: &mut [u8], field: &'static str) -> Result<(), SavedError> {
        self.has(bytes.len() as u64, field)?;
        self.from.read_exact(bytes).map_err(failed(self.file, "read it"))?;
        self.left -= bytes.len() as u64;
        self.hash.write(bytes);
        Ok(())
    }

    /// The number of items of a list.
    pub fn count(&mut self, field: &'static str) -> Result<u32, SavedError> {
        let mut bytes = [0; 4];
        self.take(&mut bytes, field)?;
        Ok(u32::from_le_bytes(bytes))
    }

    /// The next `count` numbers.
    pub fn numbers(&mut self, count: u64, field: &'static str) -> Result<Vec<u32>, SavedError> {
        self.has(4 * count, field)?;
        let mut numbers = vec![0u32; count as usize];
        self.take(bytemuck::cast_slice_mut(&mut numbers), field)?;
        numbers.iter_mut().for_each(|n| *n = u32::from_le(*n));
        Ok(numbers)
    }

    /// A list of numbers.
    pub fn list(&mut self, field: &'static str) -> Result<Vec<u32>, SavedError> {
        let count = self.count(field)?;
        self.numbers(u64::from(count), field)
    }

    pub fn text(&mut self, field: &'static str) -> Result<String, SavedError> {
        let len = self.count(field)?;
        if len > MOST_TEXT {
            return Err(damaged(self.file, field, format!("at most {MOST_TEXT} bytes"), len.to_string()));
        }
        self.has(len.into(), field)?;
        let mut bytes = vec![0; len as usize];
        self.take(&mut bytes, field)?;
        let utf8 = |bytes: &[u8]| format!("\"{}\"", bytes[..bytes.len().min(SHOWN)].escape_ascii());
        String::from_utf8(bytes).map_err(|e| damaged(self.file, field, "UTF-8".into(), utf8(e.as_bytes())))
    }

    /// Refuses a file that has more or less than `needed` bytes left before its checksum.
    pub fn ends_behind(&self, field: &'static str, needed: Bytes) -> Result<(), SavedError> {
        let bytes = |n: u64| format!("{n} bytes");
        if needed.0 == self.left { Ok(()) } else { Err(damaged(self.file, field, bytes(needed.0), bytes(self.left))) }
    }

    /// Compares the checksum with what was read.
    pub fn sealed(&mut self) -> Result<(), SavedError> {
        let mut sum = [0; TAIL as usize];
        self.from.read_exact(&mut sum).map_err(failed(self.file, "read it"))?;
        let (needed, found) = (u64::from_le_bytes(sum), self.hash.finish());
        let hex = |sum: u64| format!("xxh64 {sum:016x}");
        if needed == found { Ok(()) } else { Err(damaged(self.file, "checksum", hex(needed), hex(found))) }
    }

    fn has(&self, needed: u64, field: &'static str) -> Result<(), SavedError> {
        if needed <= self.left {
            return Ok(());
        }
        Err(damaged(self.file, field, format!("{needed} bytes"), format!("{} bytes", self.left)))
    }
}
