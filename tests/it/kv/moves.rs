//! The moves of a map: as few as the algorithm makes that the project started from, together where pieces fit.

use loadmaster::kv::{CellId, Move, gather};
use loadmaster::units::Tokens;
use proptest::prelude::*;

use super::told;

fn map(text: &str) -> Vec<bool> {
    text.bytes().map(|b| b == b'#').collect()
}

/// llama.cpp's `defrag_prepare` as the seed patches it, line by line.
pub(super) fn seed_moves(cells: &[bool]) -> Vec<Move> {
    let mut cells = cells.to_vec();
    let n_kv = cells.iter().rposition(|&live| live).map_or(0, |last| last + 1);
    let n_used = cells.iter().filter(|&&live| live).count();
    let mut ids = vec![n_kv; n_kv];
    let mut moves: Vec<Move> = Vec::new();
    let mut i0 = 0;
    while i0 < n_used {
        if cells[i0] {
            ids[i0] = i0;
            i0 += 1;
            continue;
        }
        let mut nh = 1;
        while i0 + nh < n_used && !cells[i0 + nh] {
            nh += 1;
        }
        let mut nf = 0;
        let mut is = n_kv - 1;
        while is > i0 {
            if cells[is] && ids[is] == n_kv {
                nf += 1;
                if nf == nh {
                    break;
                }
            }
            is -= 1;
        }
        assert_eq!(nf, nh);
        nf = 0;
        let mut cont = false;
        for i1 in is..n_kv {
            if !cells[i1] || ids[i1] != n_kv {
                cont = false;
                continue;
            }
            ids[i1] = i0 + nf;
            cells[i0 + nf] = true;
            cells[i1] = false;
            if cont {
                moves.last_mut().unwrap().len.0 += 1;
            } else {
                moves.push(Move { src: CellId(i1 as u32), dst: CellId((i0 + nf) as u32), len: Tokens(1) });
                cont = true;
            }
            nf += 1;
            if nf == nh {
                break;
            }
        }
        i0 += nh;
    }
    moves
}

fn moved(moves: &[Move]) -> u32 {
    moves.iter().map(|step| step.len.0).sum()
}

/// Maps of runs, as caches have them, and of cells at random.
fn maps() -> impl Strategy<Value = Vec<bool>> {
    let runs = prop::collection::vec((any::<bool>(), 1usize..12), 0..60);
    let runs = runs.prop_map(|runs| runs.into_iter().flat_map(|(live, len)| vec![live; len]).collect());
    prop_oneof![runs, prop::collection::vec(any::<bool>(), 0..200)]
}

proptest! {
    #![proptest_config(ProptestConfig { cases: crate::cases(1000), failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn moves_are_no_more_than_the_seeds(live in maps()) {
        let (moves, seed) = (gather(&live, Tokens(1)), seed_moves(&live));
        prop_assert!(moves.len() <= seed.len(), "{}\nseed\n{}", told(&moves), told(&seed));
        prop_assert_eq!(moved(&moves), moved(&seed));
        let count = live.iter().filter(|&&is| is).count();
        let mut cells: Vec<Option<usize>> = live.iter().enumerate().map(|(i, &is)| is.then_some(i)).collect();
        for step in &moves {
            for i in 0..step.len.index() {
                let held = cells[step.src.0 as usize + i].take();
                let place = &mut cells[step.dst.0 as usize + i];
                prop_assert!(held.is_some() && place.is_none());
                *place = held;
            }
        }
        prop_assert!(cells[..count].iter().all(Option::is_some) && cells[count..].iter().all(Option::is_none));
    }
}

#[test]
fn runs_stay_together_where_they_fit() {
    insta::assert_snapshot!(told(&gather(&map("##...#..##.....###.##..."), Tokens(1))), @r"
    15 > 2 x 3
    19 > 6 x 2
    ");
    insta::assert_snapshot!(told(&seed_moves(&map("##...#..##.....###.##..."))), @r"
    17 > 2 x 1
    19 > 3 x 2
    15 > 6 x 2
    ");
    insta::assert_snapshot!(told(&gather(&map("#.#..####"), Tokens(16))), @r"
    128 > 16 x 16
    96 > 48 x 32
    ");
    assert_eq!(gather(&map("####...."), Tokens(1)), []);
    assert_eq!(gather(&[], Tokens(1)), []);
}
