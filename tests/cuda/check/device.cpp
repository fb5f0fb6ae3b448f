// Checks the emulated machine against plain formulas: those of the PTX manual for fragments, the compiler's own half
// numbers for conversions. Ends with the number of what differs.

#include "device.cu"

#include <math.h>
#include <random>
#include <string.h>
#include <vector>

static u32 failures = 0;

static void expect(bool holds, const char *what, u64 at) {
    if (holds) return;
    if (failures++ < 20) fprintf(stderr, "check: %s differs at %llu\n", what, at);
}

static std::vector<u32> drawn(u64 count) {
    static std::mt19937 generator(7);
    std::vector<u32> words(count);
    for (u32 &word : words) word = generator();
    return words;
}

static bool same(u32 a, u32 b) {
    const bool nan_a = (a & 0x7fffffff) > 0x7f800000, nan_b = (b & 0x7fffffff) > 0x7f800000;
    return a == b || (nan_a && nan_b);
}

static void check_exchanges() {
    const u32 threads = 96;
    const std::vector<u32> x = drawn(threads);
    std::vector<u32> y(5 * threads);
    const Params p = {x.data(), y.data(), 0};
    emulated_launch(exchanges, p, {1}, {48, 2}, 0);
    for (u32 t = 0; t < threads; t++) {
        const u32 first = t & ~31u;
        u32 ballot = 0;
        for (u32 lane = 0; lane < 32; lane++) ballot |= (x[first + lane] & 1) << lane;
        expect(y[5 * t] == x[first + x[t] % 32], "warp_take", t);
        expect(y[5 * t + 1] == x[t ^ 5], "warp_xor", t);
        expect(y[5 * t + 2] == ballot, "warp_ballot", t);
        expect(y[5 * t + 3] == x[t ^ 16], "warp_xor of 64 bits", t);
        expect(from_bits(y[5 * t + 4]) == f32(first + 3), "warp_take of a number", t);
    }
}

static void check_turns(emulated::Point block) {
    const u32 threads = block.x * block.y * block.z, times = 9;
    std::vector<u32> x = drawn(threads), y(threads), next(threads);
    const Params p = {x.data(), y.data(), times};
    emulated_launch(turns, p, {1}, block, 4 * threads);
    for (u32 i = 0; i < times; i++) {
        for (u32 t = 0; t < threads; t++) next[t] = x[(t * 7 + i) % threads] * 3 + x[threads - 1 - (t + i) % threads];
        x = next;
    }
    for (u32 t = 0; t < threads; t++) expect(y[t] == x[t], "what threads share", t);
}

static void check_leavers() {
    for (u32 n = 0; n < 8; n++) {
        const u32 stay = 32 * (n + 1);
        const std::vector<u32> x = drawn(256);
        std::vector<u32> y(256);
        const Params p = {x.data(), y.data(), n};
        emulated_launch(leavers, p, {1}, {256}, 0);
        for (u32 t = 0; t < stay; t++) expect(y[t] == x[stay - 1 - t], "a wait that some left", t);
    }
}

static f32 as_float(u32 bits) {
    f32 x;
    memcpy(&x, &bits, 4);
    return x;
}

static u32 as_bits(f32 x) {
    u32 bits;
    memcpy(&bits, &x, 4);
    return bits;
}

static u16 half_of(f32 x) {
    const _Float16 half = _Float16(x);
    u16 bits;
    memcpy(&bits, &half, 2);
    return isnan(x) ? 0x7fff : bits;
}

static f32 of_half(u16 bits) {
    _Float16 half;
    memcpy(&half, &bits, 2);
    return f32(half);
}

// bf16 by the definition: the nearer of two neighbours, the even one of a tie.
static u16 bf16_of(f32 x) {
    const u32 bits = as_bits(x), low = bits & 0xffff;
    if (isnan(x)) return u16(bits >> 16 | 0x40);
    const bool up = low > 0x8000 || (low == 0x8000 && (bits >> 16 & 1));
    return u16((bits >> 16) + up);
}

static u32 permuted(u32 a, u32 b, u32 choice) {
    u8 bytes[8];
    memcpy(bytes, &a, 4);
    memcpy(bytes + 4, &b, 4);
    u32 result = 0;
    for (u32 i = 0; i < 4; i++) {
        const u32 digit = choice >> 4 * i & 15;
        const u8 byte = digit < 8 ? bytes[digit] : bytes[digit - 8] >= 128 ? 255 : 0;
        result += u32(byte) << 8 * i;
    }
    return result;
}

typedef double f64;

// What a function of two halves gives, rounded once, for both halves of two words: doubles hold all sums and products.
template <typename F>
static u32 of_pairs(u32 a, u32 b, F function) {
    u32 both = 0;
    for (u32 shift = 0; shift < 32; shift += 16) {
        const f64 exact = function(f64(of_half(u16(a >> shift))), f64(of_half(u16(b >> shift))));
        const _Float16 half = _Float16(exact);
        u16 bits;
        memcpy(&bits, &half, 2);
        both |= u32(isnan(exact) ? 0x7fff : bits) << shift;
    }
    return both;
}

static bool is_power(f32 x, f32 got) {
    const f64 exact = exp2(f64(x));
    if (isnan(x)) return isnan(got);
    if (exact > 0x1.fffffep127) return isinf(got);
    return fabs(f64(got) - exact) <= exact * 0x1p-22 || (exact < 0x1p-126 && got == 0);
}

static void check_words() {
    // All halves, then numbers near those that halves can hold and drawn ones.
    std::vector<u32> x = drawn(2 * 400000);
    for (u32 i = 0; i < 65536; i++) x[2 * i] = i;
    for (u32 i = 0; i < 65536; i++) x[2 * i + 1] = as_bits(of_half(u16(i))) + i % 3 - 1;
    for (u32 i = 65536; i < 200000; i++)
        x[2 * i + 1] = as_bits(ldexpf(1 + f32(x[2 * i + 1] >> 8) * 0x1p-24f, int(i % 50) - 30));
    const u32 n = u32(x.size() / 2);
    std::vector<u32> y(14 * n);
    const Params p = {x.data(), y.data(), n};
    emulated_launch(words, p, {(n + 255) / 256}, {256}, 0);
    for (u32 i = 0; i < n; i++) {
        const u32 a = x[2 * i], b = x[2 * i + 1], *got = y.data() + 14 * i;
        i32 dot = i32(a ^ b);
        for (u32 k = 0; k < 32; k += 8) dot = i32(u32(dot) + u32(i32(i8(a >> k)) * i8(b >> k)));
        expect(same(got[0], as_bits(of_half(u16(a)))), "from_half", a);
        expect(got[1] == half_of(as_float(b)), "to_half", b);
        expect(got[2] == a << 16, "from_bf16", a);
        expect(got[3] == bf16_of(as_float(b)), "to_bf16", b);
        expect(i32(got[4]) == dot, "dot4", i);
        expect(got[5] == permuted(a, b, a ^ b >> 7), "bytes_of", i);
        expect(same(got[6], as_bits(as_float(a) / as_float(b))), "divided", i);
        expect(same(got[7], as_bits(sqrtf(as_float(a)))), "root", i);
        expect(same(got[8], as_bits(fmaf(as_float(a), as_float(b), as_float(a ^ b)))), "fmaf", i);
        expect(is_power(as_float(b), as_float(got[9])), "power_of_two", b);
        if (!TENSOR_CORES) continue;
        expect(got[10] == (half_of(as_float(a)) | u32(half_of(as_float(b))) << 16), "two_halves", i);
        expect(got[11] == (bf16_of(as_float(a)) | u32(bf16_of(as_float(b))) << 16), "two_bf16s", i);
        expect(got[12] == of_pairs(a, b, [](f64 x, f64 y) { return x + y; }), "halves_sum", i);
        expect(got[13] == of_pairs(a, b, [](f64 x, f64 y) { return x * y; }), "halves_product", i);
    }
}

// The manual's places of element i of a lane's fragment; `wide` elements a word.
struct Place {
    u32 row, column;
};

static Place place_in_a(u32 lane, u32 i, u32 wide) {
    const u32 word = i / wide;
    return {lane / 4 + (word % 2) * 8, lane % 4 * wide + i % wide + word / 2 * 4 * wide};
}

static Place place_in_b(u32 lane, u32 i, u32 wide) {
    return {lane % 4 * wide + i % wide + i / wide * 4 * wide, lane / 4};
}

static Place place_in_d(u32 lane, u32 i) {
    return {lane / 4 + i / 2 * 8, lane % 4 * 2 + i % 2};
}

static f32 element(const u32 *words, u32 i, u32 kind) {
    if (kind % 3 == 0) return f32(i8(words[i / 4] >> i % 4 * 8));
    const u16 bits = u16(words[i / 2] >> i % 2 * 16);
    return kind == 1 ? of_half(bits) : as_float(u32(bits) << 16);
}

static void check_product(const u32 *x, const u32 *y, u32 kind) {
    const u32 wide = kind % 3 == 0 ? 4 : 2, deep = kind == 3 ? 16 : 8 * wide;
    static f32 a[16][32], b[32][8];
    for (u32 lane = 0; lane < 32; lane++) {
        for (u32 i = 0; i < 4 * wide; i++)
            a[place_in_a(lane, i, wide).row][place_in_a(lane, i, wide).column] = element(x + 10 * lane, i, kind);
        for (u32 i = 0; i < 2 * wide; i++)
            b[place_in_b(lane, i, wide).row][place_in_b(lane, i, wide).column] = element(x + 10 * lane + 4, i, kind);
    }
    for (u32 i = 0; i < 128; i++) {
        const u32 lane = i / 4;
        const Place at = place_in_d(lane, i % 4);
        const u32 start = x[10 * lane + 6 + i % 4];
        long long whole = i32(start);
        f32 sum = as_float(start);
        for (u32 k = 0; k < deep; k++)
            whole += (long long)(a[at.row][k]) * (long long)(kind % 3 == 0 ? b[k][at.column] : 0);
        for (u32 k = 0; k < deep; k++) sum = sum + a[at.row][k] * b[k][at.column];
        expect(same(y[4 * lane + i % 4], kind % 3 == 0 ? u32(whole) : as_bits(sum)), "a product of fragments",
               i + 1000 * kind);
    }
}

static u32 small(u32 drawn, u32 kind) {
    const f32 low = f32(i32(drawn << 16) >> 16) * 0x1p-12f, high = f32(i32(drawn) >> 16) * 0x1p-12f;
    if (kind == 1) return u32(half_of(low)) | u32(half_of(high)) << 16;
    return u32(bf16_of(low)) | u32(bf16_of(high)) << 16;
}

static void check_products() {
    for (u32 kind = 0; kind < 4; kind++) {
        if (!TENSOR_CORES && kind % 3 != 0) continue;
        const u32 blocks = 8;
        std::vector<u32> x = drawn(blocks * 320), y(blocks * 128);
        for (u32 i = 0; kind % 3 != 0 && i < x.size(); i++)
            x[i] = i % 10 < 6 ? small(x[i], kind) : as_bits(f32(i32(x[i])) * 0x1p-30f);
        const Params p = {x.data(), y.data(), kind};
        emulated_launch(products, p, {blocks}, {32}, 0);
        for (u32 block = 0; block < blocks; block++)
            check_product(x.data() + block * 320, y.data() + block * 128, kind);
    }
}

static void check_matrices() {
    std::vector<u32> x = drawn(288), y(256);
    for (u32 i = 256; i < 288; i++) x[i] %= 64;
    const Params p = {x.data(), y.data(), 0};
    emulated_launch(matrices, p, {1}, {32}, 0);
    const auto pair = [&](u32 matrix, u32 row, u32 column) {
        return x[4 * x[256 + matrix * 8 + row] + column / 2] >> column % 2 * 16 & 0xffff;
    };
    for (u32 i = 0; i < 128; i++) {
        const u32 lane = i / 4, m = i % 4, row = lane / 4, column = lane % 4 * 2;
        expect(y[8 * lane + m] == (pair(m, row, column) | pair(m, row, column + 1) << 16), "load_matrices", i);
        if (TENSOR_CORES)
            expect(y[8 * lane + 4 + m] == (pair(m, column, row) | pair(m, column + 1, row) << 16),
                   "load_matrices_transposed", i);
    }
}

static void check_copies() {
    const std::vector<u32> x = drawn(16 * 256);
    std::vector<u32> y(64), hasty(64);
    const Params p = {x.data(), y.data(), 0}, early = {x.data(), hasty.data(), 1};
    emulated_launch(copies, p, {1}, {64}, 0);
    emulated_launch(copies, early, {1}, {64}, 0);
    u32 equal = 0;
    for (u32 t = 0; t < 64; t++) {
        u32 sum = 0;
        for (u32 i = 0; i < 16; i++) {
            for (u32 k = 0; k < 4; k++) sum = sum * 5 + x[(i * 64 + (t + 9) % 64) * 4 + k];
        }
        expect(y[t] == sum, "a pipeline of copies", t);
        equal += hasty[t] == sum;
    }
    expect(!TENSOR_CORES || equal == 0, "a copy that was not waited for", equal);
}

int main() {
    check_exchanges();
    check_turns({1});
    check_turns({33});
    check_turns({7, 5, 4});
    check_turns({1024});
    check_leavers();
    check_words();
    check_products();
    check_matrices();
    check_copies();
    fprintf(stderr, "check: %u differ\n", failures);
    return failures != 0;
}
