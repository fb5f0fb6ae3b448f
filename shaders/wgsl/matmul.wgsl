// Products of rows with a weight, plus bias, plus residual: with one matrix, with a matrix a head, or with the matrices of
// the experts that a row chose. The weight's window holds the rows `first` to `end` of all its matrices, one after the
// other.
//
// A sum has one order in every kernel. Runs of 32 columns fall into eight classes, each run into that of its number modulo
// eight. A class is summed in the order of columns, each product fused with its sum: number by number, or run by run where
// those are exact sums of bytes. Then the classes are, the first first.

struct Params {
    dim: u32,
    // Columns, and rows of one matrix.
    cols: u32,
    rows: u32,
    first: u32,
    end: u32,
    row_bytes: u32,
    w_at: u32,
    // Rows of x that this takes.
    from_row: u32,
    to_row: u32,
    x_at: u32,
    // From a row of x to the next, and from a head to the next.
    x_row: u32,
    x_head: u32,
    out_at: u32,
    out_row: u32,
    out_head: u32,
    // Elements at the end of each head that are copied.
    carried: u32,
    heads: u32,
    has_bias: u32,
    bias_at: u32,
    has_residual: u32,
    residual_at: u32,
    // Experts a row, the first of the weight's and their end, whether x has slots.
    used: u32,
    first_expert: u32,
    end_expert: u32,
    slotted: u32,
    routing_at: u32,
    // Where scales of x begin, and its codes.
    scales_at: u32,
    codes_at: u32,
}

@group(0) @binding(0) var<uniform> p: Params;
@group(0) @binding(1) var<storage, read> w: array<u32>;
@group(0) @binding(2) var<storage, read> bias: array<f32>;
@group(0) @binding(4) var<storage, read_write> residual: array<f32>;
@group(0) @binding(5) var<storage, read_write> routing: array<u32>;
@group(0) @binding(6) var<storage, read_write> out: array<f32>;

const CLASSES: u32 = 8u;

// Writes a sum, plus bias, plus residual: of row `flat` of the weight, at `at` of the value.
fn put(sum: f32, flat_bias: u32, at: u32) {
    var all = sum;
    if (p.has_bias != 0u) {
        all += bias[p.bias_at + flat_bias];
    }
    if (p.has_residual != 0u) {
        all += residual[p.residual_at + at];
    }
    out[p.out_at + at] = all;
}
