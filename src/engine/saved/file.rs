//! Saved sessions under a path. One that is written appears under its name when it is whole: until then, and if that fails,
//! what was there before is still there.

use std::fs::{self, File};
use std::io::ErrorKind;
use std::path::{Path, PathBuf};

use super::wire::failed;
use super::{Loaded, SavedError};
use crate::engine::{Engine, EngineError};
use crate::kv::SequenceId;
use crate::text::TokenId;

/// Where a session can be saved.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SavedFile {
    /// What the caller calls it.
    name: String,
    /// Where it is, links followed.
    path: PathBuf,
}

impl SavedFile {
    /// Checks a path, so that one that will not do is refused before there is something to save.
    ///
    /// # Errors
    /// It is a folder, a device or anything else but a regular file; or the folder that it would be in is none.
    pub fn at(path: &Path) -> Result<SavedFile, SavedError> {
        let name = path.display().to_string();
        let (file, found) = match fs::canonicalize(path) {
            Ok(there) => (fs::metadata(&there).map_err(failed(&name, "open it"))?.is_file(), there),
            Err(why) if why.kind() == ErrorKind::NotFound => (path.file_name().is_some(), path.to_owned()),
            Err(why) => return Err(failed(&name, "open it")(why)),
        };
        if !file {
            return Err(SavedError::NotAFile { file: name });
        }
        let folder = found.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
        match fs::metadata(folder).map_err(failed(&name, "write into its folder"))?.is_dir() {
            true => Ok(SavedFile { name, path: found }),
            false => Err(failed(&name, "write into its folder")(ErrorKind::NotADirectory.into())),
        }
    }

    /// What the caller calls it.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Where it is written to until it is whole.
    fn partial(&self) -> PathBuf {
        let mut name = self.path.as_os_str().to_owned();
        name.push(format!(".{}.partial", std::process::id()));
        name.into()
    }
}

impl Engine {
    /// As [`Engine::save`], to a file.
    ///
    /// # Errors
    /// As for [`Engine::save`]; what was under the name is as before.
    pub fn save_file(&mut self, sequence: SequenceId, next: &[TokenId], target: &SavedFile) -> Result<(), EngineError> {
        let (name, partial) = (target.name.as_str(), target.partial());
        let mut file = File::create_new(&partial).map_err(failed(name, "create it"))?;
        let saved = like_the_old(&file, target)
            .map_err(EngineError::from)
            .and_then(|()| self.save(sequence, next, name, &mut file))
            .and_then(|()| Ok(put(&file, &partial, target)?));
        if saved.is_err() {
            // The first error is the one to report.
            let _ = fs::remove_file(&partial);
        }
        saved
    }

    /// As [`Engine::load`], from a file.
    ///
    /// # Errors
    /// As for [`Engine::load`]; it is no regular file.
    pub fn load_file(&mut self, path: &Path) -> Result<Loaded, EngineError> {
        let name = path.display().to_string();
        // Opening a pipe would wait for its writer, so the kind comes first.
        if !fs::metadata(path).map_err(failed(&name, "open it"))?.is_file() {
            return Err(SavedError::NotAFile { file: name }.into());
        }
        let mut file = File::open(path).map_err(failed(&name, "open it"))?;
        self.load(&name, &mut file)
    }
}

/// Gives a file the permissions of the one that it will replace.
fn like_the_old(file: &File, target: &SavedFile) -> Result<(), SavedError> {
    match fs::metadata(&target.path) {
        Ok(old) => file.set_permissions(old.permissions()).map_err(failed(&target.name, "keep its permissions")),
        Err(_) => Ok(()),
    }
}

/// Gives a whole file its name.
fn put(file: &File, partial: &Path, target: &SavedFile) -> Result<(), SavedError> {
    file.sync_all().map_err(failed(&target.name, "write it"))?;
    fs::rename(partial, &target.path).map_err(failed(&target.name, "rename it"))
}
