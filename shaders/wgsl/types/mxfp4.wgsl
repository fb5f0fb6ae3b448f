// Blocks of 32 codes of four bits that stand for values of a table, under a power of two: 17 bytes.
var<private> DATA_values: array<f32, 16> = array<f32, 16>(
    0.0, 1.0, 2.0, 3.0, 4.0, 6.0, 8.0, 12.0, 0.0, -1.0, -2.0, -3.0, -4.0, -6.0, -8.0, -12.0);

fn DATA_run(row: u32, run: u32) {
    let at = row + run * 17u;
    let e = DATA_byte(at);
    let d = bitcast<f32>(select((e - 1u) << 23u, 0x200000u << e, e < 2u));
    for (var i = 0u; i < 4u; i++) {
        let four = DATA_word(at + 1u + 4u * i);
        for (var k = 0u; k < 4u; k++) {
            DATA_x[4u * i + k] = d * DATA_values[(four >> (8u * k)) & 15u];
            DATA_x[4u * i + k + 16u] = d * DATA_values[(four >> (8u * k + 4u)) & 15u];
        }
    }
}
