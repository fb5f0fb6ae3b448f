// Products for many rows: a workgroup takes TILE rows of x and 64 of a matrix, of which it decodes each run once into
// workgroup memory. Each member sums a block of the tile in registers.

// Members along the rows of the weight, and along those of x.
const WIDE: u32 = 16u;
const HIGH: u32 = 8u;
const WEIGHTS: u32 = 64u;
// Sums of a member.
const ACROSS: u32 = WEIGHTS / WIDE;
const DOWN: u32 = TILE / HIGH;

// Where rows of x and of the value begin.
var<workgroup> x_rows: array<u32, TILE>;

// The sums of the class at hand.
var<private> sums: array<array<f32, ACROSS>, DOWN>;

// One workgroup: a tile.
@compute @workgroup_size(128)
fn matmul_tiles(@builtin(workgroup_id) group: vec3<u32>, @builtin(num_workgroups) groups: vec3<u32>, @builtin(local_invocation_index) own: u32) {
    let t = number(group, groups);
    // Neighbours share rows of the weight.
    let end_row = min(p.to_row, rows_of(p.dim));
    let high = (end_row - p.from_row + TILE - 1u) / TILE;
    let tiles = (p.rows + WEIGHTS - 1u) / WEIGHTS;
    let head = p.first / p.rows + t / high / tiles;
    let n0 = t / high % tiles * WEIGHTS;
    let row0 = t % high * TILE;
    if (head * p.rows >= p.end) {
        return;
    }
    let last = end_row - p.from_row - 1u;
    if (own < TILE) {
        x_rows[own] = p.x_at + min(row0 + own, last) * p.x_row + head * p.x_head;
    }
    workgroupBarrier();
    let w_flat = clamp(head * p.rows + min(n0 + own % WEIGHTS, p.rows - 1u), p.first, p.end - 1u);
    let w_row = p.w_at + (w_flat - p.first) * p.row_bytes;
    let across = own % WIDE;
    let down = own / WIDE;
    var totals: array<array<f32, ACROSS>, DOWN>;
    for (var first_run = 0u; first_run < CLASSES; first_run++) {
        sums = array<array<f32, ACROSS>, DOWN>();
        for (var run = first_run; run * 32u < p.cols; run += CLASSES) {
            workgroupBarrier();
            // Half of the members decode the weight, the others copy x.
            if (own < WEIGHTS) {
                bring_weight(own, w_row, run);
            } else {
                bring_values(own - WEIGHTS, run);
            }
            workgroupBarrier();
            add_run(across, down);
        }
        for (var d = 0u; d < DOWN; d++) {
            for (var a = 0u; a < ACROSS; a++) {
                totals[d][a] += sums[d][a];
            }
        }
    }
    for (var d = 0u; d < DOWN; d++) {
        for (var a = 0u; a < ACROSS; a++) {
            let row = row0 + d * HIGH + down;
            let n = n0 + a * WIDE + across;
            let flat = head * p.rows + n;
            if (row <= last && n < p.rows && flat >= p.first && flat < p.end) {
                put(totals[d][a], n, row * p.out_row + head * p.out_head + n);
            }
        }
    }
}
