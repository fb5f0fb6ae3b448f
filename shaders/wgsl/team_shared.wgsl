// A team that shares workgroup memory.

var<workgroup> team_numbers: array<f32, LANES>;
var<workgroup> team_words: array<u32, LANES>;

// Eights of members first, then what they found.
fn team_sum(x: f32, lane: u32) -> f32 {
    team_give(eight_sum(x, lane), lane);
    var sum = 0.0;
    for (var i = 0u; i < LANES; i += 8u) {
        sum += team_numbers[i];
    }
    return sum;
}

// The sum over the eight members whose numbers differ in the last three bits, the first first.
fn eight_sum(x: f32, lane: u32) -> f32 {
    team_give(x, lane);
    let first = lane & ~7u;
    var sum = 0.0;
    for (var i = 0u; i < 8u; i++) {
        sum += team_numbers[first + i];
    }
    return sum;
}

fn team_max(x: f32, lane: u32) -> f32 {
    team_give(x, lane);
    var most = x;
    for (var i = 0u; i < 8u; i++) {
        most = max(most, team_numbers[(lane & ~7u) + i]);
    }
    team_give(most, lane);
    for (var i = 0u; i < LANES; i += 8u) {
        most = max(most, team_numbers[i]);
    }
    return most;
}

fn team_least(x: u32, lane: u32) -> u32 {
    workgroupBarrier();
    team_words[lane] = x;
    workgroupBarrier();
    var least = x;
    for (var i = 0u; i < 8u; i++) {
        least = min(least, team_words[(lane & ~7u) + i]);
    }
    workgroupBarrier();
    team_words[lane] = least;
    workgroupBarrier();
    for (var i = 0u; i < LANES; i += 8u) {
        least = min(least, team_words[i]);
    }
    return least;
}

fn team_give(x: f32, lane: u32) {
    workgroupBarrier();
    team_numbers[lane] = x;
    workgroupBarrier();
}

fn team_give_both(x: f32, word: u32, lane: u32) {
    workgroupBarrier();
    team_numbers[lane] = x;
    team_words[lane] = word;
    workgroupBarrier();
}

// What member `from_lane` gave last.
fn team_take(lane: u32, from_lane: u32) -> f32 {
    return team_numbers[from_lane];
}

fn team_take_word(lane: u32, from_lane: u32) -> u32 {
    return team_words[from_lane];
}
