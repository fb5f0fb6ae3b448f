// What all kernels share: run-time arguments, how work is numbered, and teams.
//
// Before this text stand constants: LANES, the invocations of a workgroup. A workgroup is a team: its members share sums,
// maxima and each other's numbers, through the subgroup that the workgroup is, or through workgroup memory.

// Token rows, output rows, then for each class of caches where its words begin. These are: whether there are holes, then
// three numbers a token row (the cell that it is written to, the cells that it attends to and its own counted from the
// start of its sequence, where its table would begin if it left out none), then the tables: pages, or with holes cells.
@group(1) @binding(0) var<storage, read> args: array<u32>;

const CLASSES_AT: u32 = 2u;

fn row_at(of_class: u32, row: u32) -> u32 {
    return args[CLASSES_AT + of_class] + 1u + 3u * row;
}

// Rows of a kind: 0 token rows, 1 output rows.
fn rows_of(dim: u32) -> u32 {
    return args[dim];
}

fn cell_written(of_class: u32, row: u32) -> u32 {
    return args[row_at(of_class, row)];
}

// The cells of its sequence up to a row's own.
fn cells_up_to(of_class: u32, row: u32) -> u32 {
    return args[row_at(of_class, row) + 1u];
}

// The cache cell at a place of the sequence that a row belongs to.
fn cell_at(of_class: u32, row: u32, place: u32) -> u32 {
    let table = args[row_at(of_class, row) + 2u];
    if (args[args[CLASSES_AT + of_class]] != 0u) {
        return args[table + place];
    }
    return args[table + place / 16u] * 16u + place % 16u;
}

// The number of a workgroup: an axis has at most 65,535.
fn number(group: vec3<u32>, groups: vec3<u32>) -> u32 {
    return group.y * groups.x + group.x;
}
