//! Folders of small real image files.

use image::{Rgb, RgbImage};
use std::{
    fs,
    path::{Path, PathBuf},
};

/// Names of three images.
pub(crate) const NAMES: [&str; 3] = ["a", "b", "c"];

/// A temporary folder.
pub(crate) struct Folder(tempfile::TempDir);

impl Folder {
    pub(crate) fn new() -> Self {
        Self(tempfile::tempdir().unwrap())
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        if name.is_empty() {
            self.0.path().to_owned()
        } else {
            self.0.path().join(name)
        }
    }

    /// Writes a file; its folders are created.
    pub(crate) fn write(&self, name: &str, bytes: impl AsRef<[u8]>) {
        fs::write(self.created(name), bytes).unwrap();
    }

    /// Writes an image in the format of its extension.
    pub(crate) fn draw(&self, name: &str, image: &RgbImage) {
        image.save(self.created(name)).unwrap();
    }

    fn created(&self, name: &str) -> PathBuf {
        let path = self.path(name);
        fs::create_dir_all(path.parent().unwrap_or(Path::new("."))).unwrap();
        path
    }
}

/// A picture of 8 × 8 random blocks, with noise of up to `noise` grey levels that depends on `copy`.
pub(crate) fn picture(seed: u64, copy: u64, noise: u64) -> RgbImage {
    let blocks: Vec<u64> = (0..64).map(|i| 40 + mixed(seed * 64 + i) % 160).collect();
    RgbImage::from_fn(32, 32, |x, y| {
        let block = blocks[(y / 4 * 8 + x / 4) as usize];
        let draw = mixed(copy << 32 | u64::from(y * 32 + x)) % (2 * noise + 1);
        Rgb([(block + draw - noise) as u8; 3])
    })
}

fn mixed(x: u64) -> u64 {
    let z = x.wrapping_add(1).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    let z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}
