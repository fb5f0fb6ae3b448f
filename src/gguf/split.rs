//! Split models: the names of sibling shards, and the proof that shards belong together.
//! Never searches a folder: a shard's name gives all the others.

use std::path::{Path, PathBuf};

use super::{GgufError, Metadata};

/// Keys that every shard has, as llama.cpp's gguf-split writes them.
pub(super) const KEY_NO: &str = "split.no";
pub(super) const KEY_COUNT: &str = "split.count";
pub(super) const KEY_TENSORS: &str = "split.tensors.count";

/// What a shard says of its place: its position from 0, and how many there are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Place {
    pub(super) no: u64,
    pub(super) count: u64,
}

/// The place of a shard, or `None` for a whole model.
pub(super) fn place(metadata: &Metadata) -> Result<Option<Place>, GgufError> {
    let count = metadata.u64(KEY_COUNT)?.unwrap_or(0);
    let no = metadata.u64(KEY_NO)?.unwrap_or(0);
    Ok((count > 1).then_some(Place { no, count }))
}

/// The path of shard `no` (from 0) of `count`: the prefix, then `-00001-of-0000N.gguf`.
pub fn shard_path(prefix: &Path, no: u64, count: u64) -> PathBuf {
    let mut path = prefix.as_os_str().to_owned();
    path.push(suffix(no, count));
    path.into()
}

/// What `path` has before the suffix of shard `place`, or an error that names the suffix it should have or the place
/// that there is not.
pub(super) fn prefix(path: &Path, file: &str, place: Place) -> Result<PathBuf, GgufError> {
    if place.no >= place.count {
        let (needed, found) = (format!("below {KEY_COUNT}, {}", place.count), place.no.to_string());
        return Err(GgufError::Shards { file: file.to_owned(), key: KEY_NO, needed, found });
    }
    let suffix = suffix(place.no, place.count);
    let name = path.file_name().and_then(|name| name.to_str());
    match name.and_then(|name| name.strip_suffix(&suffix)) {
        Some(stem) => Ok(path.with_file_name(stem)),
        None => Err(GgufError::ShardName {
            file: file.to_owned(),
            no: place.no.saturating_add(1),
            count: place.count,
            needed: format!("model{suffix}"),
        }),
    }
}

/// Shard `no` of `count` must say that it is that one.
pub(super) fn check_place(file: &str, found: Option<Place>, needed: Place) -> Result<(), GgufError> {
    let found = found.unwrap_or(Place { no: 0, count: 1 });
    let differs = |key, needed: u64, found: u64| {
        let (needed, found) = (needed.to_string(), found.to_string());
        Err(GgufError::Shards { file: file.to_owned(), key, needed, found })
    };
    if found.count != needed.count {
        return differs(KEY_COUNT, needed.count, found.count);
    }
    if found.no != needed.no {
        return differs(KEY_NO, needed.no, found.no);
    }
    Ok(())
}

/// All shards together must hold as many tensors as the first one says.
pub(super) fn check_tensors(file: &str, metadata: &Metadata, found: usize) -> Result<(), GgufError> {
    match metadata.u64(KEY_TENSORS)? {
        Some(needed) if needed != found as u64 => Err(GgufError::Shards {
            file: file.to_owned(),
            key: KEY_TENSORS,
            needed: format!("the number of tensors in all shards, {found}"),
            found: needed.to_string(),
        }),
        Some(_) | None => Ok(()),
    }
}

fn suffix(no: u64, count: u64) -> String {
    format!("-{:05}-of-{count:05}.gguf", no.saturating_add(1))
}
