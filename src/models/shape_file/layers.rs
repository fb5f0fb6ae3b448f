//! Sets of layers as text: `0-7,10,13-16`, ascending.

use super::MOST_LAYERS;

/// Layers in ascending order → text, runs of them as `first-last`.
pub(super) fn write(layers: &[u32]) -> String {
    let mut parts: Vec<String> = Vec::new();
    let mut rest = layers;
    while let Some(&first) = rest.first() {
        let run = rest.iter().zip(first..).take_while(|(layer, next)| *layer == next).count();
        let last = rest[run - 1];
        parts.push(if run == 1 { first.to_string() } else { format!("{first}-{last}") });
        rest = &rest[run..];
    }
    parts.join(",")
}

/// Text → layers, or `None` where it is no ascending list of layers below [`MOST_LAYERS`].
pub(super) fn read(text: &str) -> Option<Vec<u32>> {
    let mut layers: Vec<u32> = Vec::new();
    for part in text.split(',') {
        let (first, last) = part.split_once('-').unwrap_or((part, part));
        let (first, last) = (number(first)?, number(last)?);
        let ascends = layers.last().is_none_or(|&before| before < first);
        if !ascends || first > last || last >= MOST_LAYERS {
            return None;
        }
        layers.extend(first..=last);
    }
    Some(layers)
}

/// Digits alone: no sign, no leading zero.
pub(super) fn number(text: &str) -> Option<u32> {
    let digits = text.bytes().all(|b| b.is_ascii_digit());
    let canonical = text == "0" || !text.starts_with('0');
    if digits && canonical { text.parse().ok() } else { None }
}
