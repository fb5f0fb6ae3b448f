//! Compiled kernels in files of the user's cache folder: a file a kernel, named by all that decides it: device, driver and
//! text. What is missing, damaged or of another device is as if it were not there, and nothing here fails a run.

use std::fs;
use std::io::{Read, Write};
use std::path::{Path, PathBuf};

use twox_hash::XxHash64;

/// The first bytes of a file; behind them the sum of the rest, and that.
const MAGIC: &[u8; 8] = b"LMKERN01";

/// Bytes before what the driver gave.
const HEADER: usize = 16;

/// The most that is read of a file: far more than a kernel takes.
const MOST: u64 = 64 << 20;

/// Where kernels of one device and driver are kept.
#[derive(Clone, Debug)]
pub struct Kept {
    folder: PathBuf,
    /// What names every kernel of this device apart from others.
    seed: u64,
}

/// The user's folder for such files, if the environment names one.
pub fn folder() -> Option<PathBuf> {
    let named = |name: &str| std::env::var_os(name).map(PathBuf::from).filter(|path| path.is_absolute());
    let caches = named("XDG_CACHE_HOME").or_else(|| named("HOME").map(|home| home.join(".cache")));
    caches.map(|caches| caches.join("loadmaster").join("kernels"))
}

impl Kept {
    /// Those of a device, in a folder that need not exist; `device` says all of it and its compiler that decides code.
    pub fn of(folder: &Path, device: &str) -> Kept {
        Kept { folder: folder.to_owned(), seed: XxHash64::oneshot(0, device.as_bytes()) }
    }

    /// What was kept for a kernel of this text.
    pub fn find(&self, text: &str) -> Option<Vec<u8>> {
        let mut bytes = Vec::new();
        fs::File::open(self.path(text)).ok()?.take(MOST).read_to_end(&mut bytes).ok()?;
        let (magic, rest) = bytes.split_first_chunk::<8>()?;
        let (sum, data) = rest.split_first_chunk::<8>()?;
        let whole = magic == MAGIC && u64::from_le_bytes(*sum) == self.sum(data);
        whole.then(|| bytes.split_off(HEADER))
    }

    /// Keeps it; others see all of the file or none.
    pub fn keep(&self, text: &str, data: &[u8]) {
        let write = || -> std::io::Result<()> {
            fs::create_dir_all(&self.folder)?;
            let mut file = tempfile::NamedTempFile::new_in(&self.folder)?;
            for part in [&MAGIC[..], &self.sum(data).to_le_bytes(), data] {
                file.write_all(part)?;
            }
            file.persist(self.path(text)).map(|_| ()).map_err(|error| error.error)
        };
        // A folder that cannot be written costs the next run its time, nothing else.
        let _ = write();
    }

    fn path(&self, text: &str) -> PathBuf {
        self.folder.join(format!("{:016x}", XxHash64::oneshot(self.seed, text.as_bytes())))
    }

    fn sum(&self, data: &[u8]) -> u64 {
        XxHash64::oneshot(self.seed, data)
    }
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::Kept;

    #[test]
    fn what_is_kept_is_found_unless_it_was_damaged_or_is_of_another_device() {
        let folder = tempfile::tempdir().unwrap();
        let (one, other) = (Kept { folder: folder.path().join("new"), seed: 1 }, 2);
        let other = Kept { seed: other, ..one.clone() };
        assert_eq!(one.find("text"), None);
        one.keep("text", b"compiled");
        one.keep("another", b"");
        assert_eq!(one.find("text").as_deref(), Some(&b"compiled"[..]));
        assert_eq!(one.find("another").as_deref(), Some(&b""[..]));
        assert_eq!(other.find("text"), None);
        // The file of one under the name of the other, then every byte changed and every length.
        fs::copy(one.path("text"), other.path("text")).unwrap();
        assert_eq!(other.find("text"), None);
        let whole = fs::read(one.path("text")).unwrap();
        for at in 0..whole.len() {
            let mut damaged = whole.clone();
            damaged[at] ^= 64;
            fs::write(one.path("text"), damaged).unwrap();
            assert_eq!(one.find("text"), None, "byte {at}");
            fs::write(one.path("text"), &whole[..at]).unwrap();
            assert_eq!(one.find("text"), None, "{at} bytes");
        }
        one.keep("text", b"again");
        assert_eq!(one.find("text").as_deref(), Some(&b"again"[..]));
        // A folder that is none keeps nothing.
        let file = Kept { folder: one.path("text"), ..one.clone() };
        file.keep("text", b"lost");
        assert_eq!(file.find("text"), None);
    }
}
