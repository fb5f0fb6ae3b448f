//! The tensor directory: names, types, shapes and byte ranges, every one checked against the file and its neighbours.
//! Never reads tensor data.

use super::GgufError;
use super::cursor::Cursor;
use crate::tensor::{DType, MAX_DIMS, Shape, ShapeError};
use crate::units::Bytes;

/// A tensor of a model.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TensorInfo {
    /// The name, unique in the model.
    pub name: String,
    /// The element type.
    pub dtype: DType,
    /// The shape, innermost dimension first.
    pub shape: Shape,
    /// The size of the data.
    pub bytes: Bytes,
    /// Which shard holds the data.
    pub(super) shard: u32,
    /// The data's first byte in that shard, once placed; before that, relative to the data section.
    pub(super) offset: u64,
}

/// The fewest bytes of an entry: the length of a name, one dimension and their count, a type, an offset.
pub(super) const LEAST_ENTRY: u64 = 8 + 4 + 8 + 4 + 8;

/// What an entry takes in memory beside its name: the struct, the allocator's part, its place in two orders.
const ENTRY_MEMORY: u64 = size_of::<TensorInfo>() as u64 + 16 + 2 * size_of::<u32>() as u64;

/// A directory may take this much memory however small its file is.
const FREE_MEMORY: u64 = 1 << 20;

impl TensorInfo {
    /// The position of the shard that holds the data.
    pub fn shard(&self) -> usize {
        self.shard as usize
    }

    /// The data's first byte in its shard.
    pub fn offset(&self) -> u64 {
        self.offset
    }
}

/// Reads `count` entries; their offsets stay relative to the data section, which starts behind them.
/// Refuses a directory that takes more memory than half of its file: a real tensor is larger than its entry.
pub(super) fn read(cursor: &mut Cursor<'_>, count: u64, size: u64) -> Result<Vec<TensorInfo>, GgufError> {
    let mut memory = count.saturating_mul(ENTRY_MEMORY);
    let most = (size / 2).max(FREE_MEMORY);
    let check = |memory: u64| match memory <= most {
        true => Ok(()),
        false => Err(GgufError::DirectorySize {
            file: cursor.file().to_owned(),
            count,
            memory: Bytes(memory),
            most: Bytes(most),
        }),
    };
    check(memory)?;
    let mut tensors = Vec::with_capacity(count as usize);
    let mut entries = *cursor;
    for i in 0..count {
        let tensor = read_entry(&mut entries, i)?;
        memory += tensor.name.len() as u64;
        check(memory)?;
        tensors.push(tensor);
    }
    *cursor = entries;
    Ok(tensors)
}

/// Makes offsets absolute and checks alignment, the end of the file and that no two tensors share a byte.
pub(super) fn place(
    tensors: &mut [TensorInfo],
    file: &str,
    data_start: u64,
    file_end: u64,
    alignment: u64,
) -> Result<(), GgufError> {
    for t in tensors.iter_mut() {
        let (file, tensor, offset) = (|| file.to_owned(), || t.name.clone(), t.offset);
        if !offset.is_multiple_of(alignment) {
            return Err(GgufError::Misaligned { file: file(), tensor: tensor(), offset, alignment });
        }
        let at = u128::from(data_start) + u128::from(offset);
        if at + u128::from(t.bytes.0) > u128::from(file_end) {
            return Err(GgufError::OutOfFile { file: file(), tensor: tensor(), at, bytes: t.bytes.0, end: file_end });
        }
        t.offset += data_start;
    }
    check_overlap(tensors, file)
}

fn read_entry(cursor: &mut Cursor<'_>, i: u64) -> Result<TensorInfo, GgufError> {
    let name = cursor.text(&format_args!("name of tensor {i}"))?;
    let shape = read_shape(cursor, name)?;
    let found = cursor.u32(&format_args!("type of tensor {name:?}"))?;
    let offset = cursor.u64(&format_args!("offset of tensor {name:?}"))?;
    let (file, tensor) = (|| cursor.file().to_owned(), || name.to_owned());
    let dtype =
        DType::from_ggml(found).ok_or_else(|| GgufError::TensorType { file: file(), tensor: tensor(), found })?;
    let (block, row) = (dtype.block().elements, shape.row_len());
    if !row.is_multiple_of(block.into()) {
        return Err(GgufError::PartialBlock { file: file(), tensor: tensor(), dtype, block, row });
    }
    let bytes = dtype.row_bytes(row).and_then(|bytes| bytes.0.checked_mul(shape.rows()));
    let bytes = bytes.ok_or_else(|| GgufError::TooLarge { file: file(), tensor: tensor(), dtype, shape })?;
    Ok(TensorInfo { name: tensor(), dtype, shape, bytes: Bytes(bytes), shard: 0, offset })
}

fn read_shape(cursor: &mut Cursor<'_>, name: &str) -> Result<Shape, GgufError> {
    let bad = |file: &str, source| GgufError::Shape { file: file.to_owned(), tensor: name.to_owned(), source };
    let rank = cursor.u32(&format_args!("dimension count of tensor {name:?}"))?;
    let mut dims = [0; MAX_DIMS];
    let Some(dims) = dims.get_mut(..rank as usize) else {
        return Err(bad(cursor.file(), ShapeError::Rank { found: rank as usize }));
    };
    for (axis, dim) in dims.iter_mut().enumerate() {
        *dim = cursor.u64(&format_args!("dimension {axis} of tensor {name:?}"))?;
    }
    Shape::new(dims).map_err(|source| bad(cursor.file(), source))
}

/// Neighbours in the order of offsets must not share a byte.
fn check_overlap(tensors: &[TensorInfo], file: &str) -> Result<(), GgufError> {
    let mut by_offset: Vec<u32> = (0..tensors.len() as u32).collect();
    by_offset.sort_unstable_by_key(|&i| tensors[i as usize].offset);
    for pair in by_offset.windows(2) {
        let (first, second) = (&tensors[pair[0] as usize], &tensors[pair[1] as usize]);
        let end = first.offset + first.bytes.0;
        if end > second.offset {
            return Err(GgufError::Overlap {
                file: file.to_owned(),
                first: first.name.clone(),
                second: second.name.clone(),
                end,
                start: second.offset,
            });
        }
    }
    Ok(())
}
