// What is done to cells of a cache between steps. `list` holds cells, or for turns pairs of a cell and the start of its
// cosines and sines in `table`.

struct Params {
    zero: u32,
    // Bytes of a row: an even number.
    row_bytes: u32,
    state_at: u32,
    // The rotation: heads of a row, elements of one, those before the rotated ones, pairs, how they lie.
    heads: u32,
    head_dim: u32,
    offset: u32,
    pairs: u32,
    interleaved: u32,
    // Runs of 32 elements of a head that it reaches into, and bytes of a head and of a run.
    first_run: u32,
    end_run: u32,
    head_bytes: u32,
    run_bytes: u32,
}

@group(0) @binding(0) var<uniform> p: Params;
@group(0) @binding(1) var<storage, read_write> state: array<atomic<u32>>;
// How many cells there are, from where in `list` on, then the cells.
@group(0) @binding(2) var<storage, read> list: array<u32>;
@group(0) @binding(3) var<storage, read> table: array<f32>;
@group(0) @binding(4) var<storage, read_write> rows: array<u32>;

fn state_two(at: u32) -> u32 {
    return (atomicLoad(&state[at >> 2u]) >> ((at & 2u) * 8u)) & 0xffffu;
}

// Two bytes of the listed rows, from byte `at` of all of them on.
fn listed(at: u32, first: u32) -> u32 {
    let cell = list[first + at / p.row_bytes];
    return p.state_at + cell * p.row_bytes + at % p.row_bytes;
}

// One invocation: four bytes of the listed rows, out of the cache.
@compute @workgroup_size(64)
fn gather(@builtin(workgroup_id) group: vec3<u32>, @builtin(num_workgroups) groups: vec3<u32>, @builtin(local_invocation_index) own: u32) {
    let at = 4u * (number(group, groups) * 64u + own);
    let bytes = list[0] * p.row_bytes;
    if (at >= bytes) {
        return;
    }
    var word = state_two(listed(at, 1u));
    if (at + 2u < bytes) {
        word |= state_two(listed(at + 2u, 1u)) << 16u;
    }
    rows[at >> 2u] = word;
}

// Four bytes of rows into the cells that are listed from `first` on.
fn scatter_from(first: u32, i: u32) {
    let at = 4u * i;
    let bytes = list[0] * p.row_bytes;
    if (at >= bytes) {
        return;
    }
    let word = rows[i];
    store_two(listed(at, first), word & 0xffffu);
    if (at + 2u < bytes) {
        store_two(listed(at + 2u, first), word >> 16u);
    }
}

// Rows into the listed cells.
@compute @workgroup_size(64)
fn scatter(@builtin(workgroup_id) group: vec3<u32>, @builtin(num_workgroups) groups: vec3<u32>, @builtin(local_invocation_index) own: u32) {
    scatter_from(1u, number(group, groups) * 64u + own);
}

// Rows that were gathered into the cells that are listed behind those.
@compute @workgroup_size(64)
fn scatter_on(@builtin(workgroup_id) group: vec3<u32>, @builtin(num_workgroups) groups: vec3<u32>, @builtin(local_invocation_index) own: u32) {
    scatter_from(1u + list[0], number(group, groups) * 64u + own);
}

var<private> head_x: array<f32, HEAD>;

// One invocation: one head of a row that was gathered, turned and written back to its cell.
@compute @workgroup_size(64)
fn turn(@builtin(workgroup_id) group: vec3<u32>, @builtin(num_workgroups) groups: vec3<u32>, @builtin(local_invocation_index) own: u32) {
    let i = number(group, groups) * 64u + own;
    let row = i / p.heads;
    if (row >= list[0]) {
        return;
    }
    let head = i % p.heads * p.head_bytes;
    for (var run = p.first_run; run < p.end_run; run++) {
        rows_run(row * p.row_bytes + head, run);
        for (var k = 0u; k < min(32u, p.head_dim - run * 32u); k++) {
            head_x[run * 32u + k] = rows_x[k];
        }
    }
    let angles = list[1u + list[0] + row];
    for (var pair = 0u; pair < p.pairs; pair++) {
        let cosine = table[angles + 2u * pair];
        let sine = table[angles + 2u * pair + 1u];
        let first = p.offset + select(pair, 2u * pair, p.interleaved != 0u);
        let second = select(first + p.pairs, first + 1u, p.interleaved != 0u);
        let a = head_x[first];
        let b = head_x[second];
        head_x[first] = a * cosine - b * sine;
        head_x[second] = a * sine + b * cosine;
    }
    let at = p.state_at + list[1u + row] * p.row_bytes + head;
    for (var run = p.first_run; run < p.end_run; run++) {
        let count = min(32u, p.head_dim - run * 32u);
        for (var k = 0u; k < count; k++) {
            run_x[k] = head_x[run * 32u + k];
        }
        STORE(at + run * p.run_bytes, count);
    }
}
