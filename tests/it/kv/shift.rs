//! Shifts and the rotations they owe.

use loadmaster::kv::{CellId, KvError, Rotation};
use loadmaster::units::Tokens;

use super::{grow, ids, paged, positions, started, told};

#[test]
fn shifts_add_up_to_one_rotation() {
    let mut kv = paged(160);
    let id = started(&mut kv, 40);
    kv.remove(id, 4, 8).unwrap();
    let mut copies = Vec::new();
    kv.shift(id, 8, 40, -3, &mut copies).unwrap();
    kv.shift(id, 5, 37, -1, &mut copies).unwrap();
    assert_eq!(positions(&kv, id), ids(36));
    assert_eq!(kv.rotations(), [Rotation { first: CellId(8), len: Tokens(32), delta: -4 }]);
    assert_eq!(kv.rotations(), []);
    kv.shift(id, 20, 36, 9, &mut copies).unwrap();
    kv.shift(id, 29, 45, -9, &mut copies).unwrap();
    assert_eq!((kv.rotations(), copies), (vec![], vec![]));
    let refused = kv.shift(id, 10, 20, 5, &mut Vec::new());
    assert_eq!(refused, Err(KvError::Shift { from: 10, to: 20, delta: 5, above: 10, below: 20 }));
    assert_eq!(kv.next_position(id), Ok(36));
}

#[test]
fn a_shift_copies_only_shared_pages_that_it_moves() {
    let mut kv = paged(160);
    let one = started(&mut kv, 48);
    let two = kv.fork(one).unwrap();
    let mut copies = Vec::new();
    kv.shift(two, 20, 48, 2, &mut copies).unwrap();
    assert_eq!(told(&copies), "16 > 48 x 16\n32 > 64 x 16");
    assert_eq!(kv.rotations(), [Rotation { first: CellId(52), len: Tokens(28), delta: 2 }]);
    assert_eq!(positions(&kv, one), ids(48));
    let mut full = paged(64);
    let one = started(&mut full, 48);
    let two = full.fork(one).unwrap();
    let refused = full.shift(two, 0, 48, 2, &mut copies);
    assert_eq!(refused, Err(KvError::Full { needed: 3, free: 1, total: 4 }));
}

/// Three times the oldest tokens behind the first four go: asked for at the end, each key has been rotated once.
#[test]
fn rotations_are_counted_by_key() {
    for (each_time, turns) in [(false, 1), (true, 3)] {
        let mut kv = paged(160);
        let id = started(&mut kv, 100);
        for _ in 0..3 {
            kv.remove(id, 4, 24).unwrap();
            kv.shift(id, 24, 100, -20, &mut Vec::new()).unwrap();
            grow(&mut kv, id, 20);
            if each_time {
                kv.rotations();
            }
        }
        kv.rotations();
        assert_eq!(kv.turns(id), Ok(turns));
        // Those that were written after the last shift were not rotated, and nothing stays of those that are gone.
        kv.remove(id, 0, 80).unwrap();
        assert_eq!(kv.turns(id), Ok(0));
    }
}

/// A page that was copied has the keys of the one that it was copied from; a fork that is not shifted keeps its own.
#[test]
fn forks_are_rotated_apart() {
    let mut kv = paged(160);
    let one = started(&mut kv, 32);
    kv.shift(one, 20, 32, 5, &mut Vec::new()).unwrap();
    kv.rotations();
    let two = kv.fork(one).unwrap();
    kv.shift(two, 25, 37, 5, &mut Vec::new()).unwrap();
    assert_eq!([kv.turns(one), kv.turns(two)], [Ok(1), Ok(1)], "it is owed");
    kv.rotations();
    assert_eq!([kv.turns(one), kv.turns(two)], [Ok(1), Ok(2)]);
}
