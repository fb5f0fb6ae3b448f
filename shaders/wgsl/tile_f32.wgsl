// A run of a tile, in single precision.

// Fours of a run, all rows of one after those of the other. Rows of x are turned by their four, so that both writing
// and reading touch every bank.
var<workgroup> w_tile: array<vec4<f32>, 8u * WEIGHTS>;
var<workgroup> x_tile: array<vec4<f32>, 8u * TILE>;

fn bring_weight(own: u32, row: u32, run: u32) {
    let count = min(32u, p.cols - run * 32u);
    w_take(row, run);
    for (var i = 0u; i < 8u; i++) {
        w_tile[i * WEIGHTS + own] = w_four(i, count);
    }
}

fn bring_values(own: u32, run: u32) {
    let count = min(32u, p.cols - run * 32u);
    for (var k = own; k < 8u * TILE; k += 64u) {
        let i = k % 8u;
        let row = k / 8u;
        x_tile[i * TILE + (row ^ i)] = x_four(x_rows[row] + run * 32u, i, count);
    }
}

fn add_run(across: u32, down: u32) {
    for (var i = 0u; i < 8u; i++) {
        var ws: array<vec4<f32>, ACROSS>;
        for (var a = 0u; a < ACROSS; a++) {
            ws[a] = w_tile[i * WEIGHTS + a * WIDE + across];
        }
        for (var d = 0u; d < DOWN; d++) {
            let four = x_tile[i * TILE + ((d * HIGH + down) ^ i)];
            for (var a = 0u; a < ACROSS; a++) {
                sums[d][a] = four_sum(ws[a], four, sums[d][a]);
            }
        }
    }
}
