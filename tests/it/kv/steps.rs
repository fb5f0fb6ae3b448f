//! Steps that fail are taken back.

use loadmaster::kv::{CellId, KvError, PageId, Writes};
use loadmaster::units::Tokens;

use super::{grow, ids, paged, positions, prompted, started, told};

/// Twice the step fails, twice it can be tried again with what was reserved, though nothing else is free.
#[test]
fn what_was_reserved_for_a_failed_step_is_reserved_again() {
    let mut kv = paged(16 * 6);
    let [one, two] = [started(&mut kv, 10), kv.start()];
    kv.reserve(one, Tokens(60)).unwrap();
    let booked = kv.clone();
    for _ in 0..2 {
        let mark = kv.mark(one).unwrap();
        grow(&mut kv, one, 40);
        assert_eq!((kv.usage().promised, kv.mark(one).unwrap().promised), (1, Tokens(20)));
        kv.take_back(one, mark).unwrap();
        assert_eq!((kv.usage(), kv.mark(one)), (booked.usage(), Ok(mark)));
    }
    kv.reserve(two, Tokens(16)).unwrap();
    assert_eq!(kv.reserve(two, Tokens(17)), Err(KvError::Full { needed: 2, free: 1, total: 6 }));
    assert_eq!(grow(&mut kv, one, 60).len(), 60);
}

/// Ten tokens end at position 100, so no position tells how many are to go.
#[test]
fn tokens_are_taken_back_by_their_number() {
    let mut kv = paged(16 * 6);
    let id = started(&mut kv, 20);
    kv.remove(id, 3, 5).unwrap();
    kv.shift(id, 10, 20, 90, &mut Vec::new()).unwrap();
    let before = (positions(&kv, id), kv.usage());
    let mark = kv.mark(id).unwrap();
    grow(&mut kv, id, 30);
    kv.take_back(id, mark).unwrap();
    assert_eq!((positions(&kv, id), kv.usage(), kv.next_position(id)), (before.0, before.1, Ok(110)));
    kv.truncate(id, 5).unwrap();
    kv.take_back(id, mark).unwrap();
    assert_eq!(kv.length(id), Ok(Tokens(3)), "nothing was appended since");
}

/// The copy stays: its page is the fork's own, with the reservation that is left.
#[test]
fn a_copy_outlasts_the_step_that_asked_for_it() {
    let mut kv = paged(16 * 3);
    let one = started(&mut kv, 20);
    let two = kv.fork(one).unwrap();
    kv.reserve(two, Tokens(12)).unwrap();
    let mark = kv.mark(two).unwrap();
    let mut writes = Writes::default();
    kv.append(two, &ids(2), &mut writes).unwrap();
    kv.take_back(two, mark).unwrap();
    assert_eq!(told(&writes.copies), "16 > 32 x 4");
    assert_eq!((kv.table(two).unwrap().pages, kv.usage().promised), (&[PageId(0), PageId(2)][..], 0));
    assert_eq!(kv.mark(two), Ok(mark));
    assert_eq!(grow(&mut kv, two, 12), (36..48).map(CellId).collect::<Vec<_>>());
}

/// The pages of the step are now the fork's too.
#[test]
fn a_step_whose_tokens_were_forked_is_not_taken_back_at_the_cost_of_a_promise() {
    let mut kv = paged(16 * 4);
    let one = started(&mut kv, 16);
    kv.reserve(one, Tokens(48)).unwrap();
    let mark = kv.mark(one).unwrap();
    grow(&mut kv, one, 32);
    let fork = kv.fork(one).unwrap();
    let booked = kv.clone();
    assert_eq!(kv.take_back(one, mark), Err(KvError::Full { needed: 3, free: 1, total: 4 }));
    assert_eq!(kv, booked);
    kv.end(fork).unwrap();
    assert_eq!(kv.take_back(one, mark), Ok(()));
}

#[test]
fn what_was_shared_before_a_failed_step_still_is() {
    let mut kv = paged(16 * 8);
    let id = prompted(&mut kv, &ids(40));
    let mark = kv.mark(id).unwrap();
    grow(&mut kv, id, 20);
    kv.take_back(id, mark).unwrap();
    kv.append(id, &(40..48).collect::<Vec<_>>(), &mut Writes::default()).unwrap();
    kv.written(id).unwrap();
    assert_eq!(kv.start_with_prefix(&ids(60)).1, Tokens(48), "and the page that the step had filled otherwise");
}
