// Numbers as kernels name them, and what a device does with one alone: conversions, byte products, roundings. Pure: no
// thread knows of another here.

#pragma once

#include <math.h>
#include <string.h>

typedef unsigned char u8;
typedef signed char i8;
typedef unsigned short u16;
typedef short i16;
typedef unsigned int u32;
typedef int i32;
typedef unsigned long long u64;
typedef float f32;

#define DEVICE inline __attribute__((always_inline))

namespace emulated {

typedef i8 Bytes8 __attribute__((vector_size(8)));
typedef i16 Words8 __attribute__((vector_size(16)));
typedef i32 Sums4 __attribute__((vector_size(16)));

DEVICE Words8 widened(u32 low, u32 high) {
    const u64 both = u64(high) << 32 | low;
    Bytes8 bytes;
    memcpy(&bytes, &both, 8);
    return __builtin_convertvector(bytes, Words8);
}

// Products of eight numbers, summed in pairs.
DEVICE Sums4 products(Words8 a, Words8 b) {
#ifdef __SSE2__
    return __builtin_ia32_pmaddwd128(a, b);
#else
    Sums4 sums;
    for (u32 i = 0; i < 4; i++) sums[i] = i32(a[2 * i]) * b[2 * i] + i32(a[2 * i + 1]) * b[2 * i + 1];
    return sums;
#endif
}

}  // namespace emulated

DEVICE u32 bits_of(f32 x) {
    u32 bits;
    memcpy(&bits, &x, 4);
    return bits;
}

DEVICE f32 from_bits(u32 bits) {
    f32 x;
    memcpy(&x, &bits, 4);
    return x;
}

DEVICE f32 from_half(u16 bits) {
    const u32 sign = u32(bits & 0x8000) << 16, rest = bits & 0x7fff;
    if (rest > 0x7c00) return from_bits(0x7fffffff);
    if (rest == 0x7c00) return from_bits(sign | 0x7f800000);
    if (rest < 0x400) return from_bits(sign | bits_of(f32(rest) * 0x1p-24f));
    return from_bits(sign | ((rest << 13) + (112u << 23)));
}

// Rounded to the nearest, ties to even; what is no number becomes the one that the device has.
DEVICE u16 to_half(f32 x) {
    const u32 bits = bits_of(x), rest = bits & 0x7fffffff;
    const u16 sign = u16(bits >> 16 & 0x8000);
    if (rest > 0x7f800000) return 0x7fff;
    if (rest >= 0x477ff000) return sign | 0x7c00;
    // Below the normal halves, an addition leaves 24 bits behind the point and rounds the rest away.
    if (rest < 0x38800000) return sign | u16(bits_of(from_bits(rest) + 0.5f) - 0x3f000000);
    return sign | u16((rest - (112u << 23) + 0xfff + (rest >> 13 & 1)) >> 13);
}

DEVICE f32 from_bf16(u16 bits) {
    return from_bits(u32(bits) << 16);
}

DEVICE u16 to_bf16(f32 x) {
    const u32 bits = bits_of(x);
    if ((bits & 0x7fffffffu) > 0x7f800000u) return u16(bits >> 16 | 0x40);
    return u16((bits + 0x7fffu + (bits >> 16 & 1)) >> 16);
}

DEVICE f32 divided(f32 a, f32 b) {
    return a / b;
}

DEVICE f32 root(f32 x) {
    return __builtin_sqrtf(x);
}

// Numbers below the normal ones become 0.
DEVICE f32 power_of_two(f32 x) {
    return x < -126.0f ? 0.0f : exp2f(x);
}

DEVICE u32 two_halves(f32 low, f32 high) {
    return u32(to_half(high)) << 16 | to_half(low);
}

DEVICE u32 two_bf16s(f32 low, f32 high) {
    return u32(to_bf16(high)) << 16 | to_bf16(low);
}

// Single precision holds so much more that a second rounding changes nothing.
DEVICE u32 halves_sum(u32 a, u32 b) {
    return two_halves(from_half(u16(a)) + from_half(u16(b)), from_half(u16(a >> 16)) + from_half(u16(b >> 16)));
}

DEVICE u32 halves_product(u32 a, u32 b) {
    return two_halves(from_half(u16(a)) * from_half(u16(b)), from_half(u16(a >> 16)) * from_half(u16(b >> 16)));
}

// `c` and the products of four signed bytes of each; sums wrap.
DEVICE i32 dot4(u32 a, u32 b, i32 c) {
    const emulated::Sums4 sums = emulated::products(emulated::widened(a, 0), emulated::widened(b, 0));
    return i32(u32(c) + u32(sums[0] + sums[1]));
}

// Three bits of a digit name a byte; with the fourth, its sign is meant, eight times over.
DEVICE u32 bytes_of(u32 a, u32 b, u32 choice) {
    const u64 from = u64(b) << 32 | a;
    u32 result = 0;
    for (int i = 0; i < 4; i++) {
        const u32 digit = choice >> (4 * i);
        u32 byte = u32(from >> (8 * (digit & 7))) & 0xff;
        if (digit & 8) byte = byte & 0x80 ? 0xff : 0;
        result |= byte << (8 * i);
    }
    return result;
}
