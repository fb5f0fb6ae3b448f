// Slots grouped by the expert that they chose: for each expert where its slots begin and how many there are, then all
// slots, in their order within a group. Experts from `first` to `end` have groups.
//
// group_slots: grid experts that have groups; block 256; no shared memory of the launch.

#include "step.cuh"

struct Params {
    const u32 *args;
    // Of each slot the expert and its weight.
    const u32 *routing;
    u32 *groups;
    u32 dim;
    // Slots of a row.
    u32 used;
    u32 first;
    u32 end;
};

constexpr u32 WARPS = 8;

// Choices of experts before, and of the expert itself.
struct Found {
    u32 before, own;
};

DEVICE u32 bits_set(u32 x) {
    x -= x >> 1 & 0x55555555;
    x = (x & 0x33333333) + (x >> 2 & 0x33333333);
    return ((x + (x >> 4)) & 0x0f0f0f0f) * 0x01010101 >> 24;
}

DEVICE u32 chosen(const Params &p, u32 slot, u32 end) {
    return slot < end ? p.routing[2 * u64(slot)] : 0xffffffff;
}

// What a warp finds in its share of the slots.
DEVICE Found count(const Params &p, u32 expert, u32 from, u32 end) {
    Found found = {0, 0};
    for (u32 slot = from + threadIdx.x % 32; slot < end; slot += 32) {
        const u32 choice = chosen(p, slot, end);
        found.before += choice >= p.first && choice < expert;
        found.own += choice == expert;
    }
    for (u32 mask = 16; mask > 0; mask /= 2) {
        found.before += warp_xor(found.before, mask);
        found.own += warp_xor(found.own, mask);
    }
    return found;
}

// Writes an expert's slots of a share, the first at `at`.
DEVICE void list_slots(const Params &p, u32 expert, u32 from, u32 end, u32 *at) {
    const u32 lane = threadIdx.x % 32;
    for (u32 slot = from; slot < end; slot += 32) {
        const bool own = chosen(p, slot + lane, end) == expert;
        const u32 all = warp_ballot(own);
        if (own) at[bits_set(all & ((1u << lane) - 1))] = slot + lane;
        at += bits_set(all);
    }
}

// One block: an expert; each warp a share of the slots, one behind the other.
KERNEL(group_slots, 32 * WARPS, 4) {
    const u32 expert = p.first + blockIdx.x, warp = threadIdx.x / 32;
    if (expert >= p.end) return;
    SHARED(Found, found, WARPS);
    const u32 slots = rows_of(p.args, p.dim) * p.used, share = (slots + 32 * WARPS - 1) / (32 * WARPS) * 32;
    const u32 from = warp * share < slots ? warp * share : slots, end = slots - from < share ? slots : from + share;
    const Found mine = count(p, expert, from, end);
    if (threadIdx.x % 32 == 0) found[warp] = mine;
    block_sync();
    u32 start = 0, own = 0, before = 0;
    for (u32 i = 0; i < WARPS; i++) {
        start += found[i].before;
        before += i < warp ? found[i].own : 0;
        own += found[i].own;
    }
    if (threadIdx.x == 0) {
        p.groups[2 * blockIdx.x] = start;
        p.groups[2 * blockIdx.x + 1] = own;
    }
    list_slots(p, expert, from, end, p.groups + 2 * (p.end - p.first) + start + before);
}
