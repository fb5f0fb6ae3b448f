// Slots grouped by the expert that they chose: for each expert where its slots begin and how many there are, then all
// slots, in their order within a group.

struct Params {
    dim: u32,
    used: u32,
    // The experts that have groups.
    first: u32,
    end: u32,
    routing_at: u32,
    groups_at: u32,
}

@group(0) @binding(0) var<uniform> p: Params;
@group(0) @binding(1) var<storage, read_write> routing: array<u32>;
@group(0) @binding(2) var<storage, read_write> groups_of: array<u32>;

// What members found in their shares of the slots: choices of experts before, and of the expert itself.
var<workgroup> found: array<vec2<u32>, 64>;

// One workgroup: an expert; each member a share of the slots, one behind the other.
@compute @workgroup_size(64)
fn group_slots(@builtin(workgroup_id) group: vec3<u32>, @builtin(num_workgroups) groups: vec3<u32>, @builtin(local_invocation_index) own: u32) {
    let expert = p.first + number(group, groups);
    if (expert >= p.end) {
        return;
    }
    let slots = rows_of(p.dim) * p.used;
    let share = (slots + 63u) / 64u;
    let from_slot = min(own * share, slots);
    let end_slot = min(from_slot + share, slots);
    var mine = vec2<u32>();
    for (var slot = from_slot; slot < end_slot; slot++) {
        let chosen = routing[p.routing_at + 2u * slot];
        mine += vec2<u32>(select(0u, 1u, chosen >= p.first && chosen < expert), select(0u, 1u, chosen == expert));
    }
    found[own] = mine;
    workgroupBarrier();
    var start = 0u;
    var count = 0u;
    var before = 0u;
    for (var i = 0u; i < 64u; i++) {
        start += found[i].x;
        before += select(0u, found[i].y, i < own);
        count += found[i].y;
    }
    let experts = p.end - p.first;
    if (own == 0u) {
        groups_of[p.groups_at + 2u * (expert - p.first)] = start;
        groups_of[p.groups_at + 2u * (expert - p.first) + 1u] = count;
    }
    var at = p.groups_at + 2u * experts + start + before;
    for (var slot = from_slot; slot < end_slot; slot++) {
        if (routing[p.routing_at + 2u * slot] == expert) {
            groups_of[at] = slot;
            at += 1u;
        }
    }
}
