//! Pages set aside are there when they are needed.

use loadmaster::kv::{KvError, SequenceId, Writes};
use loadmaster::units::Tokens;

use super::{grow, ids, paged, prompted, started, told};

#[test]
fn reserved_pages_are_nobody_elses() {
    let mut kv = paged(16 * 8);
    let [one, two] = [started(&mut kv, 10), kv.start()];
    kv.reserve(one, Tokens(70)).unwrap();
    assert_eq!((kv.usage().promised, kv.free_pages()), (4, 7));
    assert_eq!(kv.reserve(two, Tokens(49)), Err(KvError::Full { needed: 4, free: 3, total: 8 }));
    kv.reserve(two, Tokens(48)).unwrap();
    let refused = kv.append(two, &ids(49), &mut Writes::default());
    assert_eq!(refused, Err(KvError::Full { needed: 4, free: 3, total: 8 }));
    assert_eq!(kv.length(two), Ok(Tokens(0)));
    grow(&mut kv, two, 48);
    (0..70).for_each(|_| _ = grow(&mut kv, one, 1));
    assert_eq!((kv.usage().promised, kv.free_pages()), (0, 0));
}

/// What a shortened sequence no longer reads is not free while another reads it, and its last page would have to be copied.
#[test]
fn a_removal_that_would_break_a_promise_is_refused() {
    let mut kv = paged(16 * 5);
    let one = started(&mut kv, 48);
    let two = kv.fork(one).unwrap();
    kv.reserve(one, Tokens(32)).unwrap();
    assert_eq!(kv.remove(one, 20, 48), Err(KvError::Full { needed: 3, free: 2, total: 5 }));
    assert_eq!(kv.fork(one), Ok(SequenceId(2)), "whole pages ask for no copy");
    kv.remove(one, 32, 48).unwrap();
    assert_eq!(kv.fork(one), Ok(SequenceId(3)));
    kv.keep(one).unwrap();
    assert_eq!((kv.length(two), kv.remove(one, 20, 48)), (Err(KvError::NoSequence(two)), Ok(())));
    assert_eq!(grow(&mut kv, one, 32).len(), 32);
}

/// The one free page is set aside for the copy that the shift makes: afterwards nothing needs to be set aside.
#[test]
fn a_shift_takes_the_copy_that_was_reserved() {
    let mut kv = paged(16 * 3);
    let one = started(&mut kv, 20);
    let two = kv.fork(one).unwrap();
    kv.reserve(two, Tokens(12)).unwrap();
    assert_eq!((kv.usage().promised, kv.free_pages()), (1, 1));
    let mut copies = Vec::new();
    kv.shift(two, 16, 20, 3, &mut copies).unwrap();
    assert_eq!((told(&copies), kv.usage().promised, kv.free_pages()), ("16 > 32 x 4".to_owned(), 0, 0));
    assert_eq!(grow(&mut kv, two, 12).len(), 12);
    assert_eq!(grow(&mut kv, one, 12).len(), 12, "nobody else reads its last page now");
}

/// A page of which nothing was promised is still one more.
#[test]
fn a_shift_leaves_what_is_promised_beyond_its_copies() {
    let mut kv = paged(16 * 4);
    let one = started(&mut kv, 36);
    let two = kv.fork(one).unwrap();
    kv.reserve(two, Tokens(12)).unwrap();
    assert_eq!((kv.usage().promised, kv.free_pages()), (1, 1));
    let refused = kv.shift(two, 16, 36, 3, &mut Vec::new());
    assert_eq!(refused, Err(KvError::Full { needed: 2, free: 1, total: 4 }));
    kv.shift(two, 32, 36, 3, &mut Vec::new()).unwrap();
    assert_eq!((kv.usage().promised, kv.free_pages()), (0, 0));
}

/// Of two readers of a last page one copies it: what the other was promised for that it needs no more.
#[test]
fn an_append_or_a_shift_may_take_the_copy_that_the_other_reader_reserved() {
    let mut kv = paged(16 * 3);
    let one = started(&mut kv, 20);
    let two = kv.fork(one).unwrap();
    kv.reserve(two, Tokens(12)).unwrap();
    let mut shifted = kv.clone();
    let mut writes = Writes::default();
    kv.append(one, &[7], &mut writes).unwrap();
    shifted.shift(one, 18, 20, 5, &mut Vec::new()).unwrap();
    for mut kv in [kv, shifted] {
        assert_eq!((kv.usage().promised, kv.free_pages()), (0, 0));
        assert_eq!(grow(&mut kv, two, 12).len(), 12);
    }
    // A third reader still has to copy.
    let mut kv = paged(16 * 3);
    let one = started(&mut kv, 20);
    let two = kv.fork(one).unwrap();
    kv.fork(one).unwrap();
    kv.reserve(two, Tokens(12)).unwrap();
    let refused = kv.append(one, &[7], &mut Writes::default());
    assert_eq!(refused, Err(KvError::Full { needed: 1, free: 0, total: 3 }));
}

/// Six pages are free, three of them cached: what is shared of these is taken from the free ones too.
#[test]
fn a_request_is_admitted_with_all_its_pages_or_not_at_all() {
    let mut kv = paged(16 * 6);
    let first = prompted(&mut kv, &ids(48));
    kv.end(first).unwrap();
    let full = |needed, free| Err(KvError::Full { needed, free, total: 6 });
    let before = kv.clone();
    assert_eq!(kv.admit(&ids(60), Tokens(97)), full(7, 6));
    assert_eq!(kv, before, "nothing was shared, nor has its turn to be forgotten come later");

    let (one, shared) = kv.admit(&ids(60), Tokens(64)).unwrap();
    assert_eq!((shared, kv.length(one), kv.mark(one).unwrap().promised), (Tokens(48), Ok(Tokens(48)), Tokens(16)));
    assert_eq!((kv.free_pages(), kv.usage().promised), (3, 1));
    // The same prefix is held now and takes no free page.
    assert_eq!(kv.pages_needed(Tokens(48), Tokens(81)), 3);
    assert_eq!(kv.admit(&ids(60), Tokens(81)), full(3, 2));
    let (two, shared) = kv.admit(&ids(60), Tokens(80)).unwrap();
    assert_eq!((shared, kv.free_pages(), kv.usage().promised), (Tokens(48), 3, 3));
    assert_eq!(kv.admit(&[9], Tokens(0)), full(1, 0));
    (0..32).for_each(|_| _ = grow(&mut kv, two, 1));
    // Cancelled before its first token: what was set aside can be had at once.
    kv.end(one).unwrap();
    assert_eq!(kv.admit(&[9], Tokens(0)).map(|(_, shared)| shared), Ok(Tokens(0)));
}

/// One ends in the middle of the page that is found and will go on there; shared, it has to be copied.
#[test]
fn an_admission_counts_the_copy_that_sharing_asks_of_another() {
    let mut kv = paged(16 * 3);
    let one = prompted(&mut kv, &ids(16));
    kv.truncate(one, 10).unwrap();
    kv.reserve(one, Tokens(6)).unwrap();
    assert_eq!((kv.free_pages(), kv.usage().promised), (2, 0));
    assert_eq!(kv.admit(&ids(16), Tokens(48)), Err(KvError::Full { needed: 3, free: 2, total: 3 }));
    let (two, shared) = kv.admit(&ids(16), Tokens(32)).unwrap();
    assert_eq!((shared, kv.free_pages(), kv.usage().promised), (Tokens(16), 2, 2));
    let mut writes = Writes::default();
    kv.append(one, &ids(6), &mut writes).unwrap();
    assert_eq!((told(&writes.copies), grow(&mut kv, two, 16).len()), ("0 > 16 x 10".to_owned(), 16));
}

#[test]
fn pages_needed_are_whole() {
    let kv = paged(16 * 6);
    let cases = [(0, 0, 0), (0, 1, 1), (0, 16, 1), (0, 17, 2), (16, 17, 1), (31, 32, 1), (32, 32, 0), (48, 32, 0)];
    for (shared, total, pages) in cases {
        assert_eq!(kv.pages_needed(Tokens(shared), Tokens(total)), pages, "{total} of which {shared} are shared");
    }
    assert_eq!(kv.pages_needed(Tokens(0), Tokens(u32::MAX)), 1 << 28);
}
