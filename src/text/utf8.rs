//! Bytes in pieces → text in whole characters.
//! Holds back at most three bytes, of a character that is not complete yet; never emits part of one.

/// Bytes of a piece that need no allocation.
const PIECE: usize = 64;

/// Decodes a stream of UTF-8 in which a character may be split over pieces.
///
/// All text returned, put together, is what [`String::from_utf8_lossy`] makes of all bytes put together.
#[derive(Clone, Debug, Default)]
pub struct Utf8Stream {
    held: Vec<u8>,
    text: String,
}

impl Utf8Stream {
    /// A stream that has seen nothing.
    pub fn new() -> Utf8Stream {
        Utf8Stream { held: Vec::with_capacity(PIECE), text: String::with_capacity(PIECE) }
    }

    /// Adds bytes; gives every character that is complete now, invalid sequences as U+FFFD.
    pub fn push(&mut self, bytes: &[u8]) -> &str {
        self.held.extend_from_slice(bytes);
        self.text.clear();
        let mut rest = self.held.as_slice();
        loop {
            let fault = match std::str::from_utf8(rest) {
                Ok(valid) => {
                    self.text.push_str(valid);
                    rest = &[];
                    break;
                }
                Err(fault) => fault,
            };
            let (valid, tail) = rest.split_at(fault.valid_up_to());
            self.text.push_str(std::str::from_utf8(valid).unwrap_or_default());
            let Some(bad) = fault.error_len() else {
                rest = tail;
                break;
            };
            self.text.push(char::REPLACEMENT_CHARACTER);
            rest = &tail[bad..];
        }
        self.held.drain(..self.held.len() - rest.len());
        &self.text
    }

    /// Ends the stream: U+FFFD for a character that stayed incomplete, else nothing.
    pub fn flush(&mut self) -> &str {
        self.text.clear();
        if !self.held.is_empty() {
            self.held.clear();
            self.text.push(char::REPLACEMENT_CHARACTER);
        }
        &self.text
    }
}
