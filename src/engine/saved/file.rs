//! Saved sessions under a path. One that is written appears under its name when it is whole: until then, and if that fails,
//! what was there before is still there.

use std::fs::{self, File};
use std::io::ErrorKind;
use std::path::{Path, PathBuf};

use tempfile::{Builder, NamedTempFile};

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
    /// It is a folder, a device or anything else but a regular file; or nothing can be written into its folder.
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
        let target = SavedFile { name, path: found };
        target.partial()?;
        Ok(target)
    }

    /// What the caller calls it.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// A file beside it, to be written until it is whole; it goes away by itself.
    fn partial(&self) -> Result<NamedTempFile, SavedError> {
        let folder = self.path.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
        let anyone = std::os::unix::fs::PermissionsExt::from_mode(0o666);
        let made = Builder::new().prefix(".session").suffix(".partial").permissions(anyone).tempfile_in(folder);
        made.map_err(failed(&self.name, "write into its folder"))
    }
}

impl Engine {
    /// As [`Engine::save`], to a file.
    ///
    /// # Errors
    /// As for [`Engine::save`]; what was under the name is as before.
    pub fn save_file(&mut self, sequence: SequenceId, next: &[TokenId], target: &SavedFile) -> Result<(), EngineError> {
        let mut partial = target.partial()?;
        like_the_old(partial.as_file(), target)?;
        self.save(sequence, next, &target.name, partial.as_file_mut())?;
        Ok(put(partial, target)?)
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

/// Gives a file the permissions of the one that it will replace, if there is one.
fn like_the_old(file: &File, target: &SavedFile) -> Result<(), SavedError> {
    match fs::metadata(&target.path) {
        Ok(old) => file.set_permissions(old.permissions()).map_err(failed(&target.name, "keep its permissions")),
        Err(why) if why.kind() == ErrorKind::NotFound => Ok(()),
        Err(why) => Err(failed(&target.name, "read its permissions")(why)),
    }
}

/// Gives a whole file its name.
fn put(partial: NamedTempFile, target: &SavedFile) -> Result<(), SavedError> {
    partial.as_file().sync_all().map_err(failed(&target.name, "write it"))?;
    partial.persist(&target.path).map_err(|why| failed(&target.name, "rename it")(why.error))?;
    Ok(())
}
