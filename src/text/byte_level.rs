//! The printable alphabet in which byte-level BPE files write raw bytes, one character a byte.
//! Source: `bytes_to_unicode` of the GPT-2 release (`encoder.py`): printable Latin-1 stands for itself, the other
//! 68 bytes take the characters from U+0100 on, in byte order.

/// Appends the bytes that `token` stands for; characters outside the alphabet stand for their own UTF-8.
pub(super) fn decode(token: &str, bytes: &mut Vec<u8>) {
    for c in token.chars() {
        match byte_of(c) {
            Some(b) => bytes.push(b),
            None => bytes.extend_from_slice(c.encode_utf8(&mut [0; 4]).as_bytes()),
        }
    }
}

/// The bytes that `token` stands for, or `None` when it is not wholly written in the alphabet.
pub(super) fn decode_exact(token: &str) -> Option<Vec<u8>> {
    token.chars().map(byte_of).collect()
}

/// The byte that `c` stands for, or `None` outside the alphabet.
fn byte_of(c: char) -> Option<u8> {
    match u32::from(c) {
        n @ (0x21..=0x7e | 0xa1..=0xac | 0xae..=0xff) => u8::try_from(n).ok(),
        n @ 0x100..=0x120 => u8::try_from(n - 0x100).ok(), // 0x00..=0x20
        n @ 0x121..=0x142 => u8::try_from(n - 0x121 + 0x7f).ok(), // 0x7f..=0xa0
        0x143 => Some(0xad),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_byte_has_one_character() {
        let mut seen = [0; 256];
        for c in (0..0x200).filter_map(char::from_u32) {
            if let Some(b) = byte_of(c) {
                seen[usize::from(b)] += 1;
            }
        }
        assert_eq!(seen, [1; 256]);
        assert_eq!((byte_of('Ġ'), byte_of('Ċ'), byte_of('Ń')), (Some(b' '), Some(b'\n'), Some(0xad)));
    }

    #[test]
    fn text_outside_the_alphabet_stands_for_itself() {
        let mut bytes = Vec::new();
        decode("Ġa日 ", &mut bytes);
        assert_eq!(bytes, " a日 ".as_bytes());
        assert_eq!((decode_exact("Ġa日"), decode_exact("ĠaÃ")), (None, Some(vec![b' ', b'a', 0xc3])));
    }
}
