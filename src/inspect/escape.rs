//! Text of unknown origin → text that does nothing to a terminal but appear: control characters, marks that reorder or
//! hide text, and the escape character itself come out as `\u{..}`.

/// The text on one line, harmless.
pub fn escape(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for c in text.chars() {
        match c {
            '\n' => out.push_str("\\n"),
            '\t' => out.push_str("\\t"),
            '\r' => out.push_str("\\r"),
            '\\' => out.push_str("\\\\"),
            c if is_dangerous(c) => out.extend(c.escape_unicode()),
            c => out.push(c),
        }
    }
    out
}

/// A message on one line, harmless, with backslashes as they are: for messages that quote what they name.
pub fn one_line(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for c in text.chars() {
        match c {
            '\n' | '\r' | '\t' => out.push(' '),
            c if is_dangerous(c) => out.extend(c.escape_unicode()),
            c => out.push(c),
        }
    }
    out
}

/// Prose with its lines and tabs; control characters and marks that override the direction of text come out as
/// `\u{..}`, all that scripts and emoji need stays.
pub fn prose(text: &str) -> String {
    let drives = |c: char| c.is_control() && !matches!(c, '\n' | '\t');
    let overrides = |c: char| matches!(c, '\u{202a}'..='\u{202e}');
    let mut out = String::with_capacity(text.len());
    for c in text.chars() {
        if drives(c) || overrides(c) { out.extend(c.escape_unicode()) } else { out.push(c) }
    }
    out
}

/// A JSON document whose strings do nothing to a terminal either; it stays the same document.
pub(super) fn json_document(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for c in text.chars() {
        if c.is_ascii() && c != '\u{7f}' || !is_dangerous(c) {
            out.push(c);
        } else {
            c.encode_utf16(&mut [0; 2]).iter().for_each(|unit| out.push_str(&format!("\\u{unit:04x}")));
        }
    }
    out
}

/// Control characters, and the format characters of Unicode that reorder (UAX #9), join, hide or tag text.
fn is_dangerous(c: char) -> bool {
    c.is_control()
        || matches!(c,
            '\u{00ad}' | '\u{061c}' | '\u{180e}' | '\u{200b}'..='\u{200f}' | '\u{2028}'..='\u{202e}'
            | '\u{2060}'..='\u{206f}' | '\u{feff}' | '\u{fff9}'..='\u{fffb}' | '\u{e0000}'..='\u{e007f}')
}
