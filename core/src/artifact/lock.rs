//! One writer to a folder: locks that the system takes back when their holder dies, however it dies.

use super::{Error, Result};
use std::{
    fs::{self, File, TryLockError},
    path::Path,
    thread,
    time::{Duration, Instant},
};

const RETRY: Duration = Duration::from_millis(50);

/// An advisory lock; dropped, or with the process, it is free again.
#[derive(Debug)]
pub struct Lock {
    _file: File,
}

impl Lock {
    /// Locks the file `path`, which is made (with its folder) if need be, and waits up to `patience` for another holder.
    ///
    /// # Errors
    /// [`Error::Locked`] when somebody else still holds it, [`Error::Io`].
    pub fn take(path: &Path, patience: Duration) -> Result<Self> {
        let file = open(path)?;
        let started = Instant::now();
        loop {
            match file.try_lock() {
                Ok(()) => return Ok(Self { _file: file }),
                Err(TryLockError::Error(source)) => return Err(io(path, "lock")(source)),
                Err(TryLockError::WouldBlock) if started.elapsed() < patience => {
                    thread::sleep(RETRY);
                }
                Err(TryLockError::WouldBlock) => {
                    return Err(Error::Locked {
                        path: path.to_owned(),
                    });
                }
            }
        }
    }

    /// Shares the file `path` with others that share it. Whoever finds nobody there first does `alone`.
    ///
    /// # Errors
    /// [`Error::Io`], or what `alone` returns.
    pub fn share(path: &Path, alone: impl FnOnce() -> Result<()>) -> Result<Self> {
        let file = open(path)?;
        if file.try_lock().is_ok() {
            alone()?;
            file.unlock().map_err(io(path, "unlock"))?;
        }
        file.lock_shared().map_err(io(path, "lock"))?;
        Ok(Self { _file: file })
    }
}

fn open(path: &Path) -> Result<File> {
    if let Some(folder) = path.parent() {
        fs::create_dir_all(folder).map_err(io(path, "create the folder of"))?;
    }
    File::options()
        .create(true)
        .truncate(false)
        .write(true)
        .open(path)
        .map_err(io(path, "open"))
}

fn io(path: &Path, action: &'static str) -> impl FnOnce(std::io::Error) -> Error {
    let path = path.to_owned();
    move |source| Error::Io {
        action,
        path,
        source,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_lock_keeps_others_out_until_it_is_dropped() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("run/.lock");
        let held = Lock::take(&path, Duration::ZERO).unwrap();
        let refused = Lock::take(&path, Duration::ZERO).unwrap_err();
        assert!(matches!(refused, Error::Locked { .. }), "{refused}");
        drop(held);
        Lock::take(&path, Duration::ZERO).unwrap();
    }

    #[test]
    fn only_one_that_is_alone_may_clean_up() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join(".lock");
        let mut cleaned = 0;
        let first = Lock::share(&path, || {
            cleaned += 1;
            Ok(())
        });
        let second = Lock::share(&path, || panic!("somebody else is there"));
        assert!(first.is_ok() && second.is_ok());
        assert_eq!(cleaned, 1);
    }
}
