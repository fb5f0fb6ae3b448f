// Writing rows of a cache as files hold them, rounded as on the processor: a warp has a run of 32 elements, a lane one. A
// run's bytes are its own, and begin at an even one; those of f32 at a multiple of four.
//
// store_run<Type>(at, x, count): the first `count` elements are there, all where a type has scales.

#pragma once

#include "types/types.cuh"

// Two bytes at an even one.
DEVICE void store_two(u8 *even, u32 bits) {
    *reinterpret_cast<u16 *>(even) = u16(bits);
}

// `1 / scale`; zero where that is none.
DEVICE f32 inverse_of(f32 scale) {
    return scale == 0.0f ? 0.0f : divided(1.0f, scale);
}

// Rounded towards zero and kept within two whole numbers; 0 for what is no number.
DEVICE i32 within(f32 x, f32 least, f32 most) {
    return x == x ? i32(fminf(fmaxf(x, least), most)) : 0;
}

// As bits, which are in the order of magnitudes; what is no number has none.
DEVICE u32 magnitude_of(f32 x) {
    return x == x ? bits_of(fabsf(x)) : 0;
}

DEVICE void store_as(type_f32, u8 *at, f32 x, u32 lane, u32 count) {
    if (lane < count) reinterpret_cast<f32 *>(at)[lane] = x;
}

DEVICE void store_as(type_f16, u8 *at, f32 x, u32 lane, u32 count) {
    if (lane < count) store_two(at + 2 * lane, to_half(x));
}

DEVICE void store_as(type_bf16, u8 *at, f32 x, u32 lane, u32 count) {
    if (lane < count) store_two(at + 2 * lane, to_bf16(x));
}

// The largest magnitude over 127 is the scale; codes round half away from zero.
DEVICE void store_as(type_q8_0, u8 *at, f32 x, u32 lane, u32) {
    const f32 scale = divided(from_bits(warp_max(magnitude_of(x))), 127.0f), v = x * inverse_of(scale);
    const f32 whole = truncf(fabsf(v)), rounded = whole + (fabsf(v) - whole >= 0.5f ? 1.0f : 0.0f);
    const u32 code = u32(within(v < 0.0f ? -rounded : v == v ? rounded : v, -128.0f, 127.0f)) & 255;
    const u32 next = warp_xor(code, 1);
    if (lane == 0) store_two(at, to_half(scale));
    if (lane % 2 == 0) store_two(at + 2 + lane, code | next << 8);
}

// The element of the largest magnitude, the first of several, over -8 is the scale; codes round half up. The first sixteen
// lie in the low nibbles.
DEVICE void store_as(type_q4_0, u8 *at, f32 x, u32 lane, u32) {
    const u32 most = warp_max(magnitude_of(x));
    const u32 first = 31 - warp_max(magnitude_of(x) == most ? 31 - lane : 0);
    const f32 scale = divided(most == 0 ? 0.0f : warp_take(x, first), -8.0f);
    const u32 code = u32(within(x * inverse_of(scale) + 8.5f, 0.0f, 15.0f));
    const u32 both = code | warp_xor(code, 16) << 4;
    const u32 next = warp_xor(both, 1);
    if (lane == 0) store_two(at, to_half(scale));
    if (lane < 16 && lane % 2 == 0) store_two(at + 2 + lane, both | next << 8);
}

template <typename Type>
DEVICE void store_run(u8 *at, f32 x, u32 count) {
    store_as(Type{}, at, x, threadIdx.x % 32, count);
}

// Bytes before an element of a row, the first of a run where a type has scales.
template <typename Type>
DEVICE u64 bytes_before(u32 element) {
    return u64(element) * Type::RUN_BYTES / 32;
}

// Writes elements from `first` to `end` of a row, read from `x`, by so many warps of a block.
template <typename Type>
DEVICE void store_row(u8 *row, const f32 *x, u32 first, u32 end, u32 warps) {
    const u32 warp = threadIdx.x / 32, lane = threadIdx.x % 32;
    for (u32 at = first + 32 * warp; at < end; at += 32 * warps) {
        const u32 count = end - at < 32 ? end - at : 32;
        store_run<Type>(row + bytes_before<Type>(at), lane < count ? x[at + lane] : 0.0f, count);
    }
}
