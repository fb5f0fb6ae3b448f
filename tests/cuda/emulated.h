// The machine as kernels see it, on a processor: the twin of the device side of `machine.cuh`, word for word. Threads are
// fibers (see block.h), so what a device does at once is done in an order that is drawn; results that do not depend on one
// are those of a device, except for those of libm and the order in which products of halves are summed.

#pragma once

#include "block.h"
#include "tensor.h"

// The device that is emulated, if nothing else is said.
#ifndef __CUDA_ARCH__
#define __CUDA_ARCH__ 900
#endif

#if __CUDA_ARCH__ >= 800
#define TENSOR_CORES 1
#else
#define TENSOR_CORES 0
#endif

#define threadIdx (emulated::self().thread)
#define blockIdx (emulated::self().block->at)
#define blockDim (emulated::self().block->launch->block)
#define gridDim (emulated::self().block->launch->grid)

// A kernel, what a loader finds of it, and a function that runs all its blocks in this process for those who have no driver.
#define KERNEL(name, threads, blocks)                                                                       \
    static void name(const Params &p);                                                                      \
    static void name##_body(const void *params) {                                                           \
        name(*static_cast<const Params *>(params));                                                         \
    }                                                                                                       \
    static_assert(__is_trivially_copyable(Params) && sizeof(Params) <= 4096, "a kernel's parameters");      \
    extern "C" __attribute__((visibility("default"), used)) const emulated::Entry emulated_entry_##name = { \
        #name, sizeof(Params), threads, blocks, name##_body, emulated::run_block};                          \
    extern "C" __attribute__((visibility("default"), used)) void emulated_run_##name(                       \
        const void *params, u32 grid_x, u32 grid_y, u32 grid_z, u32 x, u32 y, u32 z, u32 shared_bytes) {    \
        emulated::launch(emulated_entry_##name, params, {grid_x, grid_y, grid_z}, {x, y, z}, shared_bytes); \
    }                                                                                                       \
    static void name([[maybe_unused]] const Params &p)

// An array that the threads of a block share, known by the place of its declaration.
#define SHARED(type, name, count) \
    static u8 name##_here;        \
    type(&name)[count] = *reinterpret_cast<type(*)[count]>(emulated::shared_array(&name##_here, sizeof(type[count])))

#define LAUNCH_SHARED(type, name) type *name = reinterpret_cast<type *>(emulated::self().block->shared)

namespace emulated {

// Runs all blocks of a launch, the last first. Each file has its own worker: files may be of different makes.
static inline void launch(const Entry &entry, const void *params, Point grid, Point block, u32 shared_bytes) {
    static Worker *worker = new Worker;
    static u64 seed = getenv("EMULATED_SEED") ? strtoull(getenv("EMULATED_SEED"), nullptr, 10) : 1;
    const u64 threads = u64(block.x) * block.y * block.z;
    if (threads == 0 || threads > entry.threads || shared_bytes > SHARED_ROOM) {
        fprintf(stderr, "emulated: kernel %s is for %u threads: not %llu with %u shared bytes\n", entry.name,
                entry.threads, threads, shared_bytes);
        abort();
    }
    const Launch launch = {
        &entry, params, grid, block, shared_bytes, shared_bytes > (48 << 10) ? SHARED_ROOM : 48 << 10, seed++};
    for (u32 z = grid.z; z-- > 0;)
        for (u32 y = grid.y; y-- > 0;)
            for (u32 x = grid.x; x-- > 0;) entry.run(launch, {x, y, z}, *worker);
}

}  // namespace emulated

#define emulated_launch(name, params, ...) emulated::launch(emulated_entry_##name, &(params), __VA_ARGS__)

DEVICE void block_sync() {
    emulated::leave(emulated::self(), emulated::Wait::BLOCK);
}

DEVICE void warp_sync() {
    emulated::leave(emulated::self(), emulated::Wait::SYNC);
}

template <typename T>
DEVICE T warp_take(T value, u32 lane) {
    return emulated::exchanged(emulated::self(), emulated::Wait::TAKE, value, lane & 31);
}

template <typename T>
DEVICE T warp_xor(T value, u32 mask) {
    emulated::Fiber &fiber = emulated::self();
    return emulated::exchanged(fiber, emulated::Wait::XOR, value, fiber.lane ^ (mask & 31));
}

DEVICE u32 warp_ballot(bool holds) {
    emulated::Fiber &fiber = emulated::self();
    const emulated::Shown *shown = emulated::show(fiber, emulated::Wait::BALLOT, u32(holds));
    u32 ballot = 0;
    for (u32 lane = 0; lane < 32; lane++) ballot |= shown[lane].words[0] << lane;
    return ballot;
}

DEVICE void mma_bytes(i32 (&d)[4], const u32 (&a)[4], const u32 (&b)[2]) {
    emulated::multiply_bytes(emulated::self(), d, a, b);
}

DEVICE void mma_bytes_half(i32 (&d)[4], const u32 (&a)[2], u32 b) {
    emulated::multiply_bytes(emulated::self(), d, {a[0], a[1], 0, 0}, {b, 0});
}

DEVICE void load_matrices(u32 (&r)[4], const void *row) {
    emulated::load_words(emulated::self(), r, row);
}

#if TENSOR_CORES

DEVICE void mma_halves(f32 (&d)[4], const u32 (&a)[4], const u32 (&b)[2]) {
    emulated::multiply_floats<from_half>(emulated::self(), emulated::Wait::MMA_HALVES, d, a, b);
}

DEVICE void mma_bf16s(f32 (&d)[4], const u32 (&a)[4], const u32 (&b)[2]) {
    emulated::multiply_floats<from_bf16>(emulated::self(), emulated::Wait::MMA_BF16S, d, a, b);
}

DEVICE void load_matrices_transposed(u32 (&r)[4], const void *row) {
    emulated::load_columns(emulated::self(), r, row);
}

DEVICE void copy4(void *shared, const void *global) {
    emulated::begin_copy(emulated::self(), shared, global, 4);
}

DEVICE void copy16(void *shared, const void *global) {
    emulated::begin_copy(emulated::self(), shared, global, 16);
}

DEVICE void copies_mark() {
    emulated::self().group++;
}

template <int groups>
DEVICE void copies_wait() {
    emulated::end_copies(emulated::self(), groups);
}

#else

DEVICE void copy4(void *shared, const void *global) {
    memcpy(emulated::checked(emulated::self(), shared, 4), emulated::aligned(emulated::self(), global, 4), 4);
}

DEVICE void copy16(void *shared, const void *global) {
    memcpy(emulated::checked(emulated::self(), shared, 16), emulated::aligned(emulated::self(), global, 16), 16);
}

DEVICE void copies_mark() {
}

template <int groups>
DEVICE void copies_wait() {
}

#endif

DEVICE void copy4_if(bool holds, void *shared, const void *global) {
    if (holds) copy4(shared, global);
}

DEVICE void copy16_if(bool holds, void *shared, const void *global) {
    if (holds) copy16(shared, global);
}
