//! Sequences that are saved and restored.

use loadmaster::kv::{CellId, KvError, Rotation, SavedRun, SavedSequence, Writes};
use loadmaster::units::Tokens;

use super::{ids, paged, positions, started};

#[test]
fn damaged_sequences_are_refused() {
    let run = |len, position, key_at| SavedRun { len, position, key_at, turns: 0 };
    let saved = |tokens: u32, runs: &[SavedRun]| SavedSequence { version: 1, tokens: ids(tokens), runs: runs.to_vec() };
    let cases = [
        (saved(4, &[run(4, 0, 0), run(0, 9, 9)]), 1),
        (saved(4, &[run(2, 5, 5), run(2, 6, 6)]), 1),
        (saved(4, &[run(4, u32::MAX, 0)]), 0),
        (saved(4, &[run(4, 0, (1 << 31) - 3)]), 0),
        (saved(4, &[run(5, 0, 0)]), 0),
        (saved(4, &[run(3, 0, 0)]), 1),
        (saved(4, &[]), 0),
    ];
    let mut kv = paged(64);
    for (saved, at) in cases {
        let refused = kv.restore(&saved, &mut Writes::default());
        assert!(matches!(refused, Err(KvError::SavedDamaged { run, .. }) if run == at), "{refused:?} for {saved:?}");
    }
    let foreign = SavedSequence { version: 2, ..saved(4, &[run(4, 0, 0)]) };
    let refused = kv.restore(&foreign, &mut Writes::default());
    assert_eq!(refused, Err(KvError::SavedVersion { found: 2, known: 1 }));
    let large = kv.restore(&saved(65, &[run(65, 0, 0)]), &mut Writes::default());
    assert_eq!(large, Err(KvError::Full { needed: 5, free: 4, total: 4 }));
    assert_eq!((kv.free_pages(), kv.sequences().count()), (4, 0));
    let last = kv.restore(&saved(4, &[run(4, (1 << 31) - 4, 0)]), &mut Writes::default()).unwrap();
    let refused = kv.append(last, &[1], &mut Writes::default());
    assert_eq!(refused, Err(KvError::Positions { next: 1 << 31, needed: 1 }));
}

/// What is saved between a shift and its rotation is rotated where it is restored.
#[test]
fn a_saved_sequence_keeps_the_rotation_it_is_owed() {
    let mut kv = paged(64);
    let id = started(&mut kv, 10);
    kv.shift(id, 4, 10, 3, &mut Vec::new()).unwrap();
    let saved = kv.save(id).unwrap();
    let mut other = paged(64);
    let restored = other.restore(&saved, &mut Writes::default()).unwrap();
    assert_eq!(other.rotations(), [Rotation { first: CellId(4), len: Tokens(6), delta: 3 }]);
    assert_eq!(positions(&other, restored), positions(&kv, id));
}

#[test]
fn a_saved_sequence_keeps_how_often_it_was_rotated() {
    let mut kv = paged(64);
    let id = started(&mut kv, 10);
    kv.shift(id, 4, 10, 3, &mut Vec::new()).unwrap();
    kv.rotations();
    let saved = kv.save(id).unwrap();
    let run = |len, position, turns| SavedRun { len, position, key_at: position, turns };
    assert_eq!(saved.runs, [run(4, 0, 0), run(6, 7, 1)]);
    let mut other = paged(64);
    let restored = other.restore(&saved, &mut Writes::default()).unwrap();
    assert_eq!((other.turns(restored), other.save(restored)), (Ok(1), Ok(saved)));
}
