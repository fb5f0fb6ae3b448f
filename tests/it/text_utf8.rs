//! Bytes in pieces become the same text as all of them at once, and never a part of a character.

use loadmaster::text::Utf8Stream;
use proptest::prelude::*;

/// Bytes that are often text, often cut short, sometimes noise.
fn bytes() -> impl Strategy<Value = Vec<u8>> {
    let piece = prop_oneof![
        any::<String>().prop_map(String::into_bytes),
        any::<Vec<u8>>(),
        any::<char>().prop_map(|c| {
            let text = c.to_string().into_bytes();
            text[..text.len().div_ceil(2)].to_vec()
        }),
        Just(vec![0xf0, 0x9f, 0x91]),
        Just(vec![0xed, 0xa0, 0x80]),
        Just(vec![0xe2, 0x82]),
    ];
    prop::collection::vec(piece, 0..6).prop_map(|pieces| pieces.concat())
}

fn in_pieces(bytes: &[u8], cuts: &[usize]) -> (String, bool) {
    let mut stream = Utf8Stream::new();
    let (mut text, mut whole, mut at) = (String::new(), true, 0);
    for cut in cuts.iter().copied().chain([bytes.len()]) {
        let end = cut.clamp(at, bytes.len());
        text.push_str(stream.push(&bytes[at..end]));
        // What is held back is the beginning of one character at most.
        let lossy = String::from_utf8_lossy(&bytes[..end]);
        whole &= lossy.starts_with(&text) && lossy[text.len()..].chars().count() <= 1;
        at = end;
    }
    text.push_str(stream.flush());
    whole &= stream.flush().is_empty();
    (text, whole)
}

proptest! {
    #[test]
    fn any_split_gives_the_same_text(bytes in bytes(), mut cuts in prop::collection::vec(0usize..60, 0..12)) {
        cuts.sort_unstable();
        let (text, whole) = in_pieces(&bytes, &cuts);
        prop_assert_eq!(text, String::from_utf8_lossy(&bytes));
        prop_assert!(whole);
        let each: Vec<usize> = (1..bytes.len()).collect();
        prop_assert_eq!(in_pieces(&bytes, &each).0, String::from_utf8_lossy(&bytes));
    }
}

#[test]
fn characters_come_whole() {
    let mut stream = Utf8Stream::new();
    let family = "👨‍👩‍👧".as_bytes();
    let pushed: Vec<String> = family.iter().map(|b| stream.push(&[*b]).to_owned()).collect();
    assert!(pushed.iter().all(|p| p.chars().count() <= 1), "{pushed:?}");
    assert_eq!(pushed.concat(), "👨‍👩‍👧");
    assert_eq!((stream.push(&[0xe6, 0x97]).to_owned(), stream.flush()), (String::new(), "\u{fffd}"));
}
