//! Fashion-MNIST: fetched as a Debian package, or read from a folder of the user's.

use std::fs::{self, File};
use std::io::Read;
use std::path::Path;
use std::process::{Command, Stdio};

use anyhow::{Context, Result, bail, ensure};
use flate2::read::GzDecoder;

use super::idx::{self, Images};
use crate::digest;
use crate::files;
use crate::progress::say;
use crate::workspace::{perform, succeed};

const PACKAGE: &str = "dataset-fashion-mnist";
/// Where the package puts the files.
const IN_PACKAGE: &str = "usr/share/datasets/fashion-mnist";

/// One of the four files.
#[derive(Clone, Copy)]
pub(crate) struct DataFile {
    pub(crate) name: &'static str,
    /// SHA-256 of the content *unpacked*: the same data in another compression is welcome.
    pub(crate) sha256: &'static str,
}

/// The four files: images and labels of the training set, then of the test set.
pub(crate) const FILES: [DataFile; 4] = [
    DataFile {
        name: "train-images-idx3-ubyte.gz",
        sha256: "c59f468a2f672dc815687fe0f83887768d799fd8a3f3276145d20f83aa44d888",
    },
    DataFile {
        name: "train-labels-idx1-ubyte.gz",
        sha256: "bad3541b69d912435c50bb6ba87bec294ff4f6a2e1246121d8633921760443d9",
    },
    DataFile {
        name: "t10k-images-idx3-ubyte.gz",
        sha256: "5b4141f0afbad91edebe8549f8fcffe087ea10ca49f1dbef5c9a5cd8815ce37b",
    },
    DataFile {
        name: "t10k-labels-idx1-ubyte.gz",
        sha256: "0402a96d92fd2663957122ceb108a494c5af83dab82d92729df917d7dec38c34",
    },
];

/// The classes, in the order of their labels, as folder names.
pub(crate) const CLASSES: [&str; 10] = [
    "t-shirt-top",
    "trouser",
    "pullover",
    "dress",
    "coat",
    "sandal",
    "shirt",
    "sneaker",
    "bag",
    "ankle-boot",
];

/// One of the two sets.
pub(crate) struct Set {
    /// `train` or `t10k`.
    pub(crate) name: &'static str,
    pub(crate) images: Images,
    /// Indices into [`CLASSES`], one per image.
    pub(crate) labels: Vec<u8>,
}

/// Reads and checks the four files in `folder`.
pub(crate) fn read(folder: &Path) -> Result<[Set; 2]> {
    let [train_images, train_labels, test_images, test_labels] = FILES;
    Ok([
        read_set("train", folder, train_images, train_labels)?,
        read_set("t10k", folder, test_images, test_labels)?,
    ])
}

fn read_set(name: &'static str, folder: &Path, images: DataFile, labels: DataFile) -> Result<Set> {
    let at = |file: DataFile| format!("cannot read {}", folder.join(file.name).display());
    let images = Images::parse(&unpack(folder, images)?).with_context(|| at(images))?;
    let classes = idx::parse_labels(&unpack(folder, labels)?).with_context(|| at(labels))?;
    let counts = (images.iter().len(), classes.len());
    ensure!(
        counts.0 == counts.1,
        "{}: {} labels for {} images",
        at(labels),
        counts.1,
        counts.0
    );
    if let Some(label) = classes
        .iter()
        .find(|&&label| usize::from(label) >= CLASSES.len())
    {
        bail!(
            "{}: label {label}, expected 0 to {}",
            at(labels),
            CLASSES.len() - 1
        );
    }
    Ok(Set {
        name,
        images,
        labels: classes,
    })
}

/// The file's content, unpacked and checked.
fn unpack(folder: &Path, file: DataFile) -> Result<Vec<u8>> {
    let path = folder.join(file.name);
    let compressed =
        File::open(&path).with_context(|| format!("cannot open {}", path.display()))?;
    let mut bytes = Vec::new();
    let read = GzDecoder::new(compressed).read_to_end(&mut bytes);
    read.with_context(|| format!("{} is truncated, or not gzip", path.display()))?;
    let got = digest::of_bytes(&bytes);
    ensure!(
        got == file.sha256,
        "{} is not the file of Fashion-MNIST: its content has SHA-256 {got}, expected {}; for data of your own give a \
         folder of images, one sub-folder per class",
        path.display(),
        file.sha256
    );
    Ok(bytes)
}

/// Makes sure that `folder` holds the four files, from the Debian package (no root needed).
pub(crate) fn fetch(folder: &Path) -> Result<()> {
    if FILES.iter().all(|file| folder.join(file.name).is_file()) {
        return Ok(());
    }
    ensure!(
        exists("apt-get") && exists("dpkg-deb"),
        "there is no apt here to fetch Fashion-MNIST with: give `--data DIR` a folder with its four files ({}; they are at \
         github.com/zalandoresearch/fashion-mnist), or one of your own with one folder of images per class",
        FILES.map(|file| file.name).join(", ")
    );
    say("  downloading Fashion-MNIST (30 MB, Debian package)");
    let making = files::sibling(folder, "partial");
    files::remove_folder(&making)?;
    files::create_folder(&making)?;
    download(&making)?;
    unpack_package(&making)?;
    files::swap_folder(&making.join(IN_PACKAGE), folder)?;
    files::remove_folder(&making)
}

fn download(to: &Path) -> Result<()> {
    let mut get = Command::new("apt-get");
    // The sandbox is a user who may not write here; only root is asked to use it.
    get.args(["-o", "APT::Sandbox::User=root", "download", PACKAGE])
        .current_dir(to);
    if succeed(&mut get).is_ok() {
        return Ok(());
    }
    if is_root() {
        say("  apt's package lists may be missing or old: updating them");
        perform(Command::new("apt-get").arg("update"))?;
        return succeed(&mut get);
    }
    bail!(
        "apt-get cannot download {PACKAGE}: run `sudo apt-get update`, then this again (or see `--data`)"
    )
}

fn unpack_package(folder: &Path) -> Result<()> {
    let entries =
        fs::read_dir(folder).with_context(|| format!("cannot read {}", folder.display()))?;
    let packages: Vec<_> = entries
        .map(|entry| entry.map(|entry| entry.path()))
        .collect::<Result<_, _>>()?;
    let package = packages
        .iter()
        .find(|path| path.extension().is_some_and(|extension| extension == "deb"));
    let package =
        package.with_context(|| format!("apt-get put no package into {}", folder.display()))?;
    succeed(
        Command::new("dpkg-deb")
            .arg("--extract")
            .arg(package)
            .arg(folder),
    )
}

fn exists(program: &str) -> bool {
    let mut command = Command::new(program);
    command
        .arg("--version")
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null());
    command.status().is_ok()
}

fn is_root() -> bool {
    Command::new("id")
        .arg("-u")
        .output()
        .is_ok_and(|output| output.stdout.trim_ascii() == b"0")
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use super::*;

    fn gzip(bytes: &[u8]) -> Vec<u8> {
        let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
        encoder.write_all(bytes).unwrap();
        encoder.finish().unwrap()
    }

    const ABC: DataFile = DataFile {
        name: "abc.gz",
        sha256: "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad",
    };

    #[test]
    fn a_file_is_checked_by_its_content() {
        let folder = tempfile::tempdir().unwrap();
        fs::write(folder.path().join(ABC.name), gzip(b"abc")).unwrap();
        assert_eq!(unpack(folder.path(), ABC).unwrap(), b"abc");
    }

    #[test]
    fn a_bad_file_is_named_with_what_is_wrong() {
        let cases: [(&str, Vec<u8>, &str); 3] = [
            (
                "other content",
                gzip(b"abd"),
                "not the file of Fashion-MNIST",
            ),
            (
                "truncated",
                gzip(&[7; 1000])[..15].to_vec(),
                "truncated, or not gzip",
            ),
            ("not gzip", b"abc".to_vec(), "truncated, or not gzip"),
        ];
        for (name, bytes, want) in cases {
            let folder = tempfile::tempdir().unwrap();
            fs::write(folder.path().join(ABC.name), bytes).unwrap();
            let error = unpack(folder.path(), ABC).unwrap_err().to_string();
            assert!(
                error.contains("abc.gz") && error.contains(want),
                "{name}: {error}"
            );
        }
        let folder = tempfile::tempdir().unwrap();
        let error = unpack(folder.path(), ABC).unwrap_err().to_string();
        assert!(
            error.contains("cannot open") && error.contains("abc.gz"),
            "missing: {error}"
        );
    }

    #[test]
    fn files_that_are_there_are_not_fetched() {
        let folder = tempfile::tempdir().unwrap();
        for file in FILES {
            fs::write(folder.path().join(file.name), "x").unwrap();
        }
        fetch(folder.path()).unwrap();
        assert_eq!(fs::read(folder.path().join(FILES[0].name)).unwrap(), b"x");
    }
}
