// A team that is one subgroup.

fn team_sum(x: f32, lane: u32) -> f32 {
    return subgroupAdd(x);
}

// The sum over the eight members whose numbers differ in the last three bits, the first first.
fn eight_sum(x: f32, lane: u32) -> f32 {
    let first = lane & ~7u;
    var sum = 0.0;
    for (var i = 0u; i < 8u; i++) {
        sum += subgroupShuffle(x, first + i);
    }
    return sum;
}

fn team_max(x: f32, lane: u32) -> f32 {
    return subgroupMax(x);
}

fn team_least(x: u32, lane: u32) -> u32 {
    return subgroupMin(x);
}

// What members take from each other; `from_lane` is the same for all.
fn team_give_both(x: f32, word: u32, lane: u32) {
    team_given = x;
    team_given_word = word;
}

fn team_take(lane: u32, from_lane: u32) -> f32 {
    return subgroupShuffle(team_given, from_lane);
}

fn team_take_word(lane: u32, from_lane: u32) -> u32 {
    return subgroupShuffle(team_given_word, from_lane);
}

var<private> team_given: f32;
var<private> team_given_word: u32;
