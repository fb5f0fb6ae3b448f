// Runs a block of a kernel: its threads as fibers on one processor thread, warp by warp and lane by lane, each until it
// waits for others. In which order is drawn anew after each wait, from a seed, so that a missing one is seen. Shared memory
// is garbage until written. A thread that has ended no longer counts for block_sync; a warp of which a lane is missing
// where the others wait for it ends the process with words that say where.

#pragma once

#include "fiber.h"

namespace emulated {

// What a thread waits for. All lanes of a warp must wait for the same, or for the block, or be done.
enum class Wait : u8 {
    NONE,
    DONE,
    BLOCK,
    SYNC,
    TAKE,
    XOR,
    BALLOT,
    MMA_BYTES,
    MMA_HALVES,
    MMA_BF16S,
    MATRICES,
    MATRICES_TRANSPOSED
};

constexpr const char *NAMES[] = {"nothing",    "an end",    "block_sync",    "warp_sync",
                                 "warp_take",  "warp_xor",  "warp_ballot",   "mma_bytes",
                                 "mma_halves", "mma_bf16s", "load_matrices", "load_matrices_transposed"};

// A kernel, as what loads its file finds it.
struct Entry {
    const char *name;
    u64 params_bytes;
    u32 threads, blocks;
    void (*body)(const void *params);
    void (*run)(const struct Launch &, Point block, struct Worker &);
};

struct Launch {
    const Entry *entry;
    const void *params;
    Point grid, block;
    u32 shared_bytes;
    u32 shared_limit;
    u64 seed;
};

// What lanes show each other: two places each, used in turn, so that one wait is enough.
struct alignas(64) Shown {
    u32 words[16];
};

struct Warp {
    Shown shown[2][32];
    Fiber *fibers[32];
    Wait waits[32];
    u32 lanes;
    // The lanes of a pass are multiples of `stride` and `from`, of which `next` are done.
    u32 stride, from, next;
};

constexpr u32 ARRAYS = 64, SHARED_ROOM = 256 << 10, WARPS = 32;

struct Block {
    const Launch *launch;
    Point at;
    Place scheduler;
    Stacks *stacks;
    u8 *shared;
    u32 shared_used;
    // The arrays of SHARED that this block has met so far, and where they lie.
    u32 arrays;
    struct {
        const void *declaration;
        u32 at;
    } array[ARRAYS];
    u64 random;

    u32 draw() {
        random = random * 6364136223846793005u + 1442695040888963407u;
        return u32(random >> 33);
    }
};

// What a processor thread needs to run blocks, again and again.
struct Worker {
    Stacks stacks;
    Block block;
    Warp warps[WARPS];
    alignas(128) u8 shared[SHARED_ROOM + 128];
};

[[noreturn]] __attribute__((cold, noinline)) inline void fail(const Fiber &at, const char *what,
                                                              const char *which = "") {
    const Point b = at.block->at, t = at.thread;
    fprintf(stderr, "emulated: kernel %s, block (%u, %u, %u), thread (%u, %u, %u): %s%s\n",
            at.block->launch->entry->name, b.x, b.y, b.z, t.x, t.y, t.z, what, which);
    abort();
}

// The next lane of a pass that has not ended.
inline Fiber *following(Warp &warp) {
    while (warp.next < 32) {
        const u32 lane = (warp.next++ * warp.stride + warp.from) & 31;
        if (lane < warp.lanes && warp.waits[lane] != Wait::DONE) return warp.fibers[lane];
    }
    return nullptr;
}

// Ends a turn of the running thread: the next lane goes on, or the block's scheduler does.
inline void leave(Fiber &fiber, Wait wait) {
    Warp &warp = *fiber.warp;
    warp.waits[fiber.lane] = wait;
    Fiber *next = following(warp);
    go(&fiber.at, next ? &next->at : &fiber.block->scheduler);
}

inline void fiber_main(Fiber &fiber) {
    fiber.block->launch->entry->body(fiber.block->launch->params);
    fiber.block->stacks->give(fiber);
    leave(fiber, Wait::DONE);
}

// Lets each lane of a warp that has not ended go on until it waits again.
inline void again(Block &block, Warp &warp) {
    const u32 drawn = block.draw();
    warp.stride = drawn * 2 + 1;
    warp.from = drawn >> 8;
    warp.next = 0;
    go(&block.scheduler, &following(warp)->at);
}

[[noreturn]] __attribute__((cold, noinline)) inline void disagree(const Fiber &one, const Fiber &other) {
    const Point t = other.thread;
    fprintf(stderr, "emulated: thread (%u, %u, %u) waits for %s, but in its warp\n", t.x, t.y, t.z,
            NAMES[int(other.warp->waits[other.lane])]);
    fail(one, "waits for ", NAMES[int(one.warp->waits[one.lane])]);
}

// What the lanes of a warp wait for after a pass.
inline Wait agreed(const Warp &warp) {
    const Fiber *one = nullptr;
    u32 waiting = 0;
    for (u32 lane = 0; lane < warp.lanes; lane++) {
        if (warp.waits[lane] == Wait::DONE) continue;
        if (one != nullptr && warp.waits[lane] != warp.waits[one->lane]) disagree(*one, *warp.fibers[lane]);
        one = warp.fibers[lane];
        waiting++;
    }
    if (one == nullptr) return Wait::DONE;
    const Wait all = warp.waits[one->lane];
    if (all != Wait::BLOCK && waiting != 32)
        fail(*one, "lanes of its warp have ended that should take part in ", NAMES[int(all)]);
    return all;
}

// Begins a thread and runs it until it first waits. One that ends without leaves its stack to the next.
inline void start_lane(Block &block, Warp &warp, u32 index) {
    Fiber &fiber = block.stacks->take();
    const Point size = block.launch->block;
    fiber.main = fiber_main;
    fiber.block = &block;
    fiber.warp = &warp;
    fiber.thread = {index % size.x, index / size.x % size.y, index / size.x / size.y};
    fiber.lane = index % 32;
    fiber.shows = fiber.copying = fiber.group = 0;
    warp.fibers[fiber.lane] = &fiber;
    warp.next = 32;
    prepare(fiber, index);
    go(&block.scheduler, &fiber.at);
}

inline void start_warp(Block &block, Warp &warp, u32 first, u32 threads) {
    warp.lanes = threads - first < 32 ? threads - first : 32;
    const u32 drawn = block.draw(), stride = drawn * 2 + 1;
    for (u32 i = 0; i < 32; i++) {
        const u32 lane = (i * stride + (drawn >> 8)) & 31;
        if (lane < warp.lanes) start_lane(block, warp, first + lane);
    }
}

// Runs a warp until its lanes wait for the block or are done; whether any are not.
inline bool run_warp(Block &block, Warp &warp) {
    for (Wait wait = agreed(warp); wait != Wait::DONE; wait = agreed(warp)) {
        if (wait == Wait::BLOCK) return true;
        again(block, warp);
    }
    return false;
}

inline void ready(Worker &worker, const Launch &launch, Point at) {
    Block &block = worker.block;
    block.launch = &launch;
    block.at = at;
    block.stacks = &worker.stacks;
    const u64 base = reinterpret_cast<u64>(worker.shared);
    block.shared = reinterpret_cast<u8 *>((base + 127) & ~u64(127));
    block.random = launch.seed + (at.x + u64(launch.grid.x) * (at.y + u64(launch.grid.y) * at.z)) * 0x9e3779b97f4a7c15u;
    block.arrays = 0;
    memset(block.shared, 0xff, launch.shared_bytes);
    block.shared_used = (launch.shared_bytes + 15) / 16 * 16;
}

// Runs one block to its end. Between two block_syncs, the warps follow each other in an order that is drawn.
inline void run_block(const Launch &launch, Point at, Worker &worker) {
    ready(worker, launch, at);
    Block &block = worker.block;
    const u32 threads = launch.block.x * launch.block.y * launch.block.z, warps = (threads + 31) / 32;
    bool first = true;
    for (u32 waiting = 1; waiting != 0; first = false) {
        const u32 stride = block.draw() * 2 + 1, from = block.draw();
        waiting = 0;
        for (u32 i = 0; i < WARPS; i++) {
            const u32 index = (i * stride + from) % WARPS;
            if (index >= warps) continue;
            Warp &warp = worker.warps[index];
            if (first) start_warp(block, warp, index * 32, threads);
            if (!first && agreed(warp) == Wait::BLOCK) again(block, warp);
            waiting += run_warp(block, warp);
        }
    }
}

// The place of a shared array in the running block: garbage when a block first comes to it.
inline u8 *shared_array(const void *declaration, u64 bytes) {
    const Fiber &fiber = self();
    Block &block = *fiber.block;
    for (u32 i = 0; i < block.arrays; i++) {
        if (block.array[i].declaration == declaration) return block.shared + block.array[i].at;
    }
    if (block.arrays == ARRAYS) fail(fiber, "too many shared arrays");
    const u32 at = block.shared_used;
    block.array[block.arrays++] = {declaration, at};
    block.shared_used += (bytes + 15) / 16 * 16;
    if (block.shared_used > block.launch->shared_limit) fail(fiber, "more shared memory than a block may have");
    memset(block.shared + at, 0xff, bytes);
    return block.shared + at;
}

}  // namespace emulated
