// Products for many rows: a workgroup takes TILE rows of x and 64 of a matrix, of which it decodes each run once into
// workgroup memory. Each member sums a block of the tile in registers. Neighbours share rows of the weight.

// Members along the rows of the weight, and along those of x.
const WIDE: u32 = 16u;
const HIGH: u32 = 8u;
const WEIGHTS: u32 = 64u;
// Sums of a member.
const ACROSS: u32 = WEIGHTS / WIDE;
const DOWN: u32 = TILE / HIGH;

// Where rows of x and of the value begin.
var<workgroup> x_rows: array<u32, TILE>;
var<workgroup> out_rows: array<u32, TILE>;

// The sums of the class at hand.
var<private> sums: array<array<f32, ACROSS>, DOWN>;

// Rows `n0` on of a matrix for `count` rows, which are known to all; each matrix has a bias of its own, or all the one.
fn tile(own: u32, matrix: u32, n0: u32, count: u32, biases: u32) {
    workgroupBarrier();
    let w_flat = clamp(matrix * p.rows + min(n0 + own % WEIGHTS, p.rows - 1u), p.first, p.end - 1u);
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
            let m = d * HIGH + down;
            let n = n0 + a * WIDE + across;
            let flat = matrix * p.rows + n;
            if (m < count && n < p.rows && flat >= p.first && flat < p.end) {
                put(totals[d][a], biases + n, out_rows[m] + n);
            }
        }
    }
}

// Rows of tiles that a matrix has.
fn tiles_of_matrix() -> u32 {
    return (p.rows + WEIGHTS - 1u) / WEIGHTS;
}

// One workgroup: a tile of the one matrix, or of a head's.
@compute @workgroup_size(128)
fn matmul_tiles(@builtin(workgroup_id) group: vec3<u32>, @builtin(num_workgroups) groups: vec3<u32>, @builtin(local_invocation_index) own: u32) {
    let t = number(group, groups);
    let rows = min(p.to_row, rows_of(p.dim)) - p.from_row;
    let high = (rows + TILE - 1u) / TILE;
    let head = p.first / p.rows + t / high / tiles_of_matrix();
    let row0 = t % high * TILE;
    if (head * p.rows >= p.end) {
        return;
    }
    if (own < TILE) {
        x_rows[own] = p.x_at + min(row0 + own, rows - 1u) * p.x_row + head * p.x_head;
        out_rows[own] = (row0 + own) * p.out_row + head * p.out_head;
    }
    tile(own, head, t / high % tiles_of_matrix() * WEIGHTS, min(TILE, rows - row0), 0u);
}

// One workgroup: a tile of an expert's matrix, for slots of its group. There are groups where the choices were.
@compute @workgroup_size(128)
fn experts_tiles(@builtin(workgroup_id) group: vec3<u32>, @builtin(num_workgroups) groups: vec3<u32>, @builtin(local_invocation_index) own: u32) {
    let t = number(group, groups);
    let high = (rows_of(p.dim) + TILE - 1u) / TILE;
    let expert = max(p.first / p.rows, p.first_expert) + t / high / tiles_of_matrix();
    let slot0 = t % high * TILE;
    if (expert >= p.end_expert || expert * p.rows >= p.end) {
        return;
    }
    let at = p.routing_at + 2u * (expert - p.first_expert);
    let slots = routing[at + 1u];
    if (slot0 >= slots) {
        return;
    }
    if (own < TILE) {
        let first_slot = p.routing_at + 2u * (p.end_expert - p.first_expert) + routing[at];
        let slot = routing[first_slot + min(slot0 + own, slots - 1u)];
        x_rows[own] = p.x_at + select(slot / p.used, slot, p.slotted != 0u) * p.cols;
        out_rows[own] = slot * p.rows;
    }
    tile(own, expert, t / high % tiles_of_matrix() * WEIGHTS, min(TILE, slots - slot0), expert * p.rows);
}
