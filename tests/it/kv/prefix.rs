//! What begins alike shares its pages.

use loadmaster::kv::{Mark, PagedKv, SequenceId};
use loadmaster::units::Tokens;

use super::{grow, ids, paged, prompted, started};

#[test]
fn what_begins_alike_shares_its_whole_pages() {
    let mut kv = paged(16 * 20);
    let first = prompted(&mut kv, &ids(70));
    let (second, shared) = kv.start_with_prefix(&ids(70));
    assert_eq!((shared, kv.length(second), kv.usage().used), (Tokens(64), Ok(Tokens(64)), 5));
    assert_eq!(kv.next_position(second), Ok(64));
    // The same tokens after others are another content.
    let (third, shared) = kv.start_with_prefix(&ids(70)[16..]);
    assert_eq!((shared, kv.length(third)), (Tokens(0), Ok(Tokens(0))));
    let mut other = ids(70);
    other[20] = 99;
    assert_eq!(kv.start_with_prefix(&other).1, Tokens(16));
    // All have ended, and still it is there, though every page counts as free.
    let kept: Vec<SequenceId> = kv.sequences().collect();
    kept.into_iter().for_each(|id| kv.end(id).unwrap());
    assert_eq!((kv.free_pages(), kv.usage().cached, kv.length(first).is_err()), (20, 4, true));
    assert_eq!(kv.start_with_prefix(&ids(48)).1, Tokens(48));
}

#[test]
fn what_was_not_written_is_not_shared() {
    let mut kv = paged(16 * 20);
    let id = started(&mut kv, 40);
    assert_eq!(kv.start_with_prefix(&ids(40)).1, Tokens(0));
    kv.truncate(id, 20).unwrap();
    kv.written(id).unwrap();
    assert_eq!(kv.start_with_prefix(&ids(40)).1, Tokens(16));
    // Tokens behind a removed one were made from it.
    kv.remove(id, 3, 4).unwrap();
    grow(&mut kv, id, 40);
    kv.written(id).unwrap();
    assert_eq!(kv.start_with_prefix(&ids(40)).1, Tokens(16), "only what was there before");
}

/// Of two prompts the one that was used last stays, and of each its beginning longest.
#[test]
fn cached_pages_go_least_recently_used_first() {
    let mut kv = paged(16 * 6);
    let (one, two): (Vec<u32>, Vec<u32>) = ((100..148).collect(), (200..248).collect());
    for prompt in [&one, &two] {
        let id = prompted(&mut kv, prompt);
        kv.end(id).unwrap();
    }
    let (again, shared) = kv.start_with_prefix(&one);
    assert_eq!(shared, Tokens(48));
    kv.end(again).unwrap();
    started(&mut kv, 32);
    let cached = |kv: &PagedKv, prompt: &[u32]| kv.clone().start_with_prefix(prompt).1;
    assert_eq!((cached(&kv, &one), cached(&kv, &two)), (Tokens(48), Tokens(16)));
    started(&mut kv, 32);
    assert_eq!((cached(&kv, &one), cached(&kv, &two)), (Tokens(32), Tokens(0)));
}

/// A cached page that a reservation counts on cannot be taken out of the free ones.
#[test]
fn sharing_keeps_promises() {
    let mut kv = paged(16 * 4);
    let id = prompted(&mut kv, &ids(64));
    kv.end(id).unwrap();
    let other = kv.start();
    kv.reserve(other, Tokens(40)).unwrap();
    assert_eq!(kv.start_with_prefix(&ids(64)).1, Tokens(16));
    grow(&mut kv, other, 40);
}

/// However pages are given back: the beginning of a prefix, without which the rest is never found, stays longest.
#[test]
fn a_cached_prefix_loses_its_end_first() {
    type GiveBack = fn(&mut PagedKv, SequenceId);
    let ways: [(&str, GiveBack); 4] = [
        ("end", |kv, id| kv.end(id).unwrap()),
        ("truncate", |kv, id| kv.truncate(id, 0).unwrap()),
        ("remove", |kv, id| kv.remove(id, 0, 64).unwrap()),
        ("take back", |kv, id| {
            let mark = kv.mark(id).unwrap();
            kv.truncate(id, 64).unwrap();
            kv.take_back(id, Mark { count: Tokens(0), ..mark }).unwrap();
        }),
    ];
    for (way, give_back) in ways {
        let mut kv = paged(16 * 16);
        let id = prompted(&mut kv, &ids(64));
        give_back(&mut kv, id);
        let cached = kv.usage().cached;
        let blank = kv.free_pages() - cached;
        assert!(cached >= 3, "{way}: {cached} cached");
        let mut found = Vec::new();
        for more in 0..=2 {
            let mut kv = kv.clone();
            started(&mut kv, (blank + more) * 16);
            found.push(kv.start_with_prefix(&ids(64)).1.0 / 16);
        }
        assert_eq!(found, [cached, cached - 1, cached - 2], "{way}");
    }
}
