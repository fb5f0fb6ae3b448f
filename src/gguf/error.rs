//! What can be wrong with a file, as facts: which file, which field, what was needed and what was found.
//! Names that come from the file are quoted and escaped, so a message is safe to print.

use std::io;

use crate::tensor::{DType, Shape, ShapeError};
use crate::units::Bytes;

/// Why a GGUF file cannot be read, or why a metadata value is not what a caller needs.
#[derive(Debug, thiserror::Error)]
#[allow(missing_docs, reason = "the messages name the fields; `file` is the path or name given, `at` a byte position")]
pub enum GgufError {
    /// The operating system refused.
    #[error("{file}: cannot {action}: {source}")]
    Io { file: String, action: &'static str, source: io::Error },
    /// A directory, a pipe or a device.
    #[error("{file}: needed a regular file, found something else")]
    NotAFile { file: String },
    /// Not a GGUF file.
    #[error("{file}: needed the magic \"GGUF\", found \"{}\"", .found.escape_ascii())]
    Magic { file: String, found: [u8; 4] },
    /// Written for or by a big-endian machine.
    #[error(
        "{file}: big-endian file (version {version} with its bytes swapped), needed little-endian; convert it again"
    )]
    BigEndian { file: String, version: u32 },
    /// A version that was never released or is retired.
    #[error("{file}: GGUF version {found}, needed 2 or 3; convert the model again")]
    Version { file: String, found: u32 },
    /// The file ends inside a field.
    #[error("{file}: {field} at byte {at} needs {needed} bytes, found {found} to the end of the file")]
    Truncated { file: String, field: String, at: u64, needed: u64, found: u64 },
    /// A count that cannot be true, because so many items do not fit the rest of the file.
    #[error("{file}: {field} is {count}, but the {left} bytes that follow hold at most {most}")]
    Count { file: String, field: String, count: u64, left: u64, most: u64 },
    /// So many tiny tensors, or such long names, that the directory would outgrow the file.
    #[error("{file}: the directory of {count} tensors takes {memory} of memory or more, needed at most {most}")]
    DirectorySize { file: String, count: u64, memory: Bytes, most: Bytes },
    /// Text that is not UTF-8.
    #[error("{file}: {field} at byte {at} needs UTF-8, found \"{}\"", .found.escape_ascii())]
    Text { file: String, field: String, at: u64, found: Vec<u8> },
    /// A metadata type id that the format does not have.
    #[error("{file}: type of {field} is {found}, needed 0 to 12")]
    ValueType { file: String, field: String, found: u32 },
    /// A truth value other than 0 and 1.
    #[error("{file}: {field} is the truth value {found}, needed 0 or 1")]
    Truth { file: String, field: String, found: u8 },
    /// Arrays of arrays of arrays …
    #[error("{file}: {field} is nested deeper than {most} arrays")]
    Nesting { file: String, field: String, most: u32 },
    /// A key twice.
    #[error("{file}: metadata key {key:?} is there twice")]
    DuplicateKey { file: String, key: String },
    /// A tensor twice, maybe in two shards.
    #[error("{file}: tensor {tensor:?} is there twice, first in {first}")]
    DuplicateTensor { file: String, tensor: String, first: String },
    /// `general.alignment` that aligns nothing.
    #[error("{file}: general.alignment is {found}, needed a power of two")]
    Alignment { file: String, found: u64 },
    /// A tensor type id that the format does not have.
    #[error("{file}: tensor {tensor:?} has the unknown type id {found}")]
    TensorType { file: String, tensor: String, found: u32 },
    /// Dimensions that are no shape.
    #[error("{file}: tensor {tensor:?}: {source}")]
    Shape { file: String, tensor: String, source: ShapeError },
    /// A row that does not end with a block.
    #[error("{file}: tensor {tensor:?} of type {dtype} needs rows of a multiple of {block} elements, found {row}")]
    PartialBlock { file: String, tensor: String, dtype: DType, block: u32, row: u64 },
    /// More bytes than 64 bits count.
    #[error("{file}: tensor {tensor:?} of type {dtype} and shape {shape} takes more than 2^64 bytes")]
    TooLarge { file: String, tensor: String, dtype: DType, shape: Shape },
    /// A tensor that does not start where the alignment says.
    #[error("{file}: tensor {tensor:?} has offset {offset}, needed a multiple of the alignment {alignment}")]
    Misaligned { file: String, tensor: String, offset: u64, alignment: u64 },
    /// Tensor data past the end.
    #[error("{file}: tensor {tensor:?} takes {bytes} bytes from byte {at}, but the file ends at byte {end}")]
    OutOfFile { file: String, tensor: String, at: u128, bytes: u64, end: u64 },
    /// Two tensors in the same bytes.
    #[error(
        "{file}: tensors {first:?} and {second:?} overlap: one ends at byte {end}, the other starts at byte {start}"
    )]
    Overlap { file: String, first: String, second: String, end: u64, start: u64 },
    /// A shard whose name does not tell its siblings' names.
    #[error("{file}: shard {no} of {count} must be named like \"{needed}\" to find the other shards")]
    ShardName { file: String, no: u64, count: u64, needed: String },
    /// Shards that do not belong together.
    #[error("{file}: {key} is {found}, needed {needed}")]
    Shards { file: String, key: &'static str, needed: String, found: String },
    /// A metadata value of another type.
    #[error("{file}: {key:?} needs {needed}, found {found}")]
    WrongType { file: String, key: String, needed: &'static str, found: String },
    /// A metadata number that does not fit.
    #[error("{file}: {key:?} needs {needed}, found {found}, which does not fit")]
    OutOfRange { file: String, key: String, needed: &'static str, found: String },
}
