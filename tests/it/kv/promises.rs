//! Pages set aside are there when they are needed.

use loadmaster::kv::{KvError, SequenceId, Writes};
use loadmaster::units::Tokens;

use super::{grow, ids, paged, started};

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
