// Blocks of 32 codes of four bits that stand for values of a table, under a scale: 18 bytes.
var<private> DATA_values: array<f32, 16> = array<f32, 16>(
    -127.0, -104.0, -83.0, -65.0, -49.0, -35.0, -22.0, -10.0, 1.0, 13.0, 25.0, 38.0, 53.0, 69.0, 89.0, 113.0);

fn DATA_run(row: u32, run: u32) {
    let at = row + run * 18u;
    let d = DATA_half(at);
    for (var i = 0u; i < 4u; i++) {
        let four = DATA_word(at + 2u + 4u * i);
        for (var k = 0u; k < 4u; k++) {
            DATA_x[4u * i + k] = d * DATA_values[(four >> (8u * k)) & 15u];
            DATA_x[4u * i + k + 16u] = d * DATA_values[(four >> (8u * k + 4u)) & 15u];
        }
    }
}
