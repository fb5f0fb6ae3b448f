//! Bytes of a file, read front to back: every read checks its bounds first and says which field did not fit.
//! Never allocates for what the file claims, only for the message of an error.

use std::fmt::Display;

use super::GgufError;

/// A position in a file.
#[derive(Clone, Copy)]
pub(super) struct Cursor<'a> {
    file: &'a str,
    bytes: &'a [u8],
    at: usize,
}

macro_rules! numbers {
    ($($name:ident)+) => {$(
        pub(super) fn $name(&mut self, field: &dyn Display) -> Result<$name, GgufError> {
            Ok($name::from_le_bytes(self.array(field)?))
        }
    )+};
}

impl<'a> Cursor<'a> {
    /// At byte `at` of `bytes`; `file` is its name in messages.
    pub(super) fn new(file: &'a str, bytes: &'a [u8], at: usize) -> Self {
        Self { file, bytes, at: at.min(bytes.len()) }
    }

    numbers!(u8 u16 u32 u64 i8 i16 i32 i64 f32 f64);

    /// The file's name.
    pub(super) fn file(&self) -> &'a str {
        self.file
    }

    /// The byte position.
    pub(super) fn at(&self) -> usize {
        self.at
    }

    /// Bytes to the end.
    pub(super) fn left(&self) -> u64 {
        (self.bytes.len() - self.at) as u64
    }

    /// The next `len` bytes.
    pub(super) fn take(&mut self, len: u64, field: &dyn Display) -> Result<&'a [u8], GgufError> {
        let rest = &self.bytes[self.at..];
        match usize::try_from(len).ok().and_then(|len| rest.get(..len)) {
            Some(taken) => {
                self.at += taken.len();
                Ok(taken)
            }
            None => Err(GgufError::Truncated {
                file: self.file.to_owned(),
                field: field.to_string(),
                at: self.at as u64,
                needed: len,
                found: self.left(),
            }),
        }
    }

    /// A length of 64 bits, then so many bytes of UTF-8.
    pub(super) fn text(&mut self, field: &dyn Display) -> Result<&'a str, GgufError> {
        const SHOWN: usize = 32;
        let len = self.u64(&format_args!("length of {field}"))?;
        let at = self.at as u64;
        let bytes = self.take(len, field)?;
        std::str::from_utf8(bytes).map_err(|bad| {
            let found = bytes[bad.valid_up_to()..].iter().copied().take(SHOWN).collect();
            let at = at + bad.valid_up_to() as u64;
            GgufError::Text { file: self.file.to_owned(), field: field.to_string(), at, found }
        })
    }

    /// As [`Cursor::text`], for long runs of text: stays in place and gives no reason where that fails.
    #[inline]
    pub(super) fn try_text(&mut self) -> Option<&'a str> {
        let rest = &self.bytes[self.at..];
        let len = usize::try_from(u64::from_le_bytes(*rest.first_chunk()?)).ok()?;
        let bytes = rest[size_of::<u64>()..].get(..len)?;
        let text = std::str::from_utf8(bytes).ok()?;
        self.at += size_of::<u64>() + len;
        Some(text)
    }

    /// A count of 64 bits whose items take at least `least` bytes each of what follows.
    pub(super) fn count(&mut self, least: u64, field: &dyn Display) -> Result<u64, GgufError> {
        let count = self.u64(field)?;
        self.check_count(count, least, field)?;
        Ok(count)
    }

    /// Whether `count` items of at least `least` bytes each fit what follows.
    pub(super) fn check_count(&self, count: u64, least: u64, field: &dyn Display) -> Result<(), GgufError> {
        let (left, most) = (self.left(), self.left() / least);
        if count <= most {
            return Ok(());
        }
        Err(GgufError::Count { file: self.file.to_owned(), field: field.to_string(), count, left, most })
    }

    fn array<const N: usize>(&mut self, field: &dyn Display) -> Result<[u8; N], GgufError> {
        let bytes = self.take(N as u64, field)?;
        Ok(*bytes.first_chunk().expect("take gives the length that it was asked for"))
    }
}
