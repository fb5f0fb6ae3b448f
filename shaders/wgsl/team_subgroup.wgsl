// A team that is one subgroup.

fn team_sum(x: f32, lane: u32) -> f32 {
    return subgroupAdd(x);
}

fn team_max(x: f32, lane: u32) -> f32 {
    return subgroupMax(x);
}

fn team_least(x: u32, lane: u32) -> u32 {
    return subgroupMin(x);
}

// What member `from` has; `from` is the same for all.
fn team_give(x: f32, lane: u32) {
    team_given = x;
}

fn team_take(lane: u32, from_lane: u32) -> f32 {
    return subgroupShuffle(team_given, from_lane);
}

var<private> team_given: f32;
