// Reading rows of a type. DATA stands for the name of a binding of words; bytes count from its start.

// Thirty-two numbers, as DATA_run leaves them.
var<private> DATA_x: array<f32, 32>;

// Four bytes from byte `at` on; where WHOLE words are all that is read, one that is a multiple of four.
fn DATA_word(at: u32) -> u32 {
    let low = DATA[at >> 2u];
    let shift = (at & 3u) * 8u;
    if (WHOLE || shift == 0u) {
        return low;
    }
    return (low >> shift) | (DATA[(at >> 2u) + 1u] << (32u - shift));
}

fn DATA_byte(at: u32) -> u32 {
    return (DATA[at >> 2u] >> ((at & 3u) * 8u)) & 255u;
}

// Two bytes from an even byte on.
fn DATA_two(at: u32) -> u32 {
    return (DATA[at >> 2u] >> ((at & 2u) * 8u)) & 0xffffu;
}

fn DATA_half(at: u32) -> f32 {
    return half_bits_to_f32(DATA_two(at));
}
