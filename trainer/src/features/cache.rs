//! Features on disk, addressed by the digests of image, preprocessing and backbone.
//!
//! `<root>/features/<backbone>-<preprocessing>/shard-<images>.safetensors` holds up to some hundred images: `images`
//! (digests, `[n, 32]` bytes), `class` and `patch_mean` (`[n, D]`). A shard is written whole or not at all and carries
//! the digest of its content. One that can't be read is as good as absent: its images are computed again.

use crate::Result;
use stage1_core::{
    artifact::{
        self, Digest, Hasher,
        tensors::{self, Tensor, TensorFile},
    },
    model::Features,
};
use std::{
    collections::BTreeMap,
    fs, io,
    io::Write as _,
    path::{Path, PathBuf},
};

const IMAGES: &str = "images";
const CLASS: &str = "class";
const PATCH_MEAN: &str = "patch_mean";
const CONTENT: &str = "content";

/// The features of one backbone for one preprocessing.
pub struct FeatureCache {
    dir: PathBuf,
    /// Width D of a token.
    width: usize,
    /// The backbone's and the preprocessing's digest: folder names are short forms, shards hold the whole.
    source: [Digest; 2],
    shards: Vec<PathBuf>,
    /// Image → shard and row.
    index: BTreeMap<Digest, (usize, usize)>,
}

/// A shard's content, checked.
struct Shard {
    images: Vec<Digest>,
    class: Vec<f32>,
    patch_mean: Vec<f32>,
}

impl FeatureCache {
    /// Indexes what is there below `root`, for a backbone of width `width`. `warn` is told of each shard that can't be
    /// used.
    ///
    /// # Errors
    /// [`artifact::Error::Io`] when the folder can't be read.
    pub fn open(
        root: &Path,
        backbone: Digest,
        preprocessing: Digest,
        width: usize,
        warn: &dyn Fn(&str),
    ) -> Result<Self> {
        let name = format!("{}-{}", backbone.short(), preprocessing.short());
        let mut cache = Self {
            dir: root.join("features").join(name),
            width,
            source: [backbone, preprocessing],
            shards: Vec::new(),
            index: BTreeMap::new(),
        };
        for path in shard_files(&cache.dir)? {
            match cache.read_shard(&path) {
                Ok(shard) => cache.add(path, &shard.images),
                Err(reason) => warn(&format!("{reason}; its features are computed again")),
            }
        }
        Ok(cache)
    }

    /// Whether an image's features are known.
    pub fn contains(&self, image: Digest) -> bool {
        self.index.contains_key(&image)
    }

    /// Writes a shard: `class` and `patch_mean` are `[n, D]` for `n` images.
    ///
    /// # Errors
    /// [`artifact::Error::Io`].
    pub fn store(
        &mut self,
        images: &[Digest],
        class: Vec<f32>,
        patch_mean: Vec<f32>,
    ) -> Result<()> {
        let content = content_digest(&self.source, images, &class, &patch_mean);
        let shape = [images.len(), self.width];
        let digests: Vec<u8> = images.iter().flat_map(|digest| digest.0).collect();
        let tensors = BTreeMap::from([
            (
                IMAGES.to_owned(),
                Tensor::u8([images.len(), 32], digests.clone()),
            ),
            (CLASS.to_owned(), Tensor::f32(shape, class)),
            (PATCH_MEAN.to_owned(), Tensor::f32(shape, patch_mean)),
        ]);
        let path = self.dir.join(format!(
            "shard-{}.safetensors",
            Digest::of_bytes(&digests).short()
        ));
        tensors::save(
            &path,
            &tensors,
            &BTreeMap::from([(CONTENT.to_owned(), content.to_string())]),
        )?;
        self.add(path, images);
        Ok(())
    }

    /// What a head reads of each of `images`, `[n, F]` row-major, in their order.
    ///
    /// # Errors
    /// [`artifact::Error`] when a shard was changed since it was indexed.
    ///
    /// # Panics
    /// When an image isn't [contained](FeatureCache::contains).
    pub fn gather(&self, images: &[Digest], features: Features) -> Result<Vec<f32>> {
        let mut wanted: BTreeMap<usize, Vec<(usize, usize)>> = BTreeMap::new();
        for (position, image) in images.iter().enumerate() {
            let (shard, row) = self.index[image];
            wanted.entry(shard).or_default().push((position, row));
        }
        let mut rows = vec![0.0; images.len() * features.width(self.width)];
        for (shard, places) in wanted {
            let shard = self.read_shard(&self.shards[shard])?;
            for (position, row) in places {
                self.copy_row(&shard, row, features, position, &mut rows);
            }
        }
        Ok(rows)
    }

    fn copy_row(
        &self,
        shard: &Shard,
        row: usize,
        features: Features,
        position: usize,
        rows: &mut [f32],
    ) {
        let (d, f) = (self.width, features.width(self.width));
        let from = row * d..(row + 1) * d;
        let out = &mut rows[position * f..(position + 1) * f];
        out[..d].copy_from_slice(&shard.class[from.clone()]);
        match features {
            Features::Cls => {}
            Features::ClsMeanPatch => out[d..].copy_from_slice(&shard.patch_mean[from]),
        }
    }

    fn add(&mut self, path: PathBuf, images: &[Digest]) {
        let shard = self.shards.len();
        self.shards.push(path);
        for (row, image) in images.iter().enumerate() {
            self.index.entry(*image).or_insert((shard, row));
        }
    }

    fn read_shard(&self, path: &Path) -> artifact::Result<Shard> {
        let file = TensorFile::open(path)?;
        let (_, digests) = file.u8(IMAGES)?;
        let images: Vec<_> = digests
            .as_chunks()
            .0
            .iter()
            .map(|bytes| Digest(*bytes))
            .collect();
        let shape = [images.len(), self.width];
        let shard = Shard {
            class: file.f32_of_shape(CLASS, &shape)?,
            patch_mean: file.f32_of_shape(PATCH_MEAN, &shape)?,
            images,
        };
        let content = content_digest(&self.source, &shard.images, &shard.class, &shard.patch_mean);
        if file.metadata()?.get(CONTENT) == Some(&content.to_string()) {
            return Ok(shard);
        }
        Err(artifact::Error::Invalid {
            path: path.to_owned(),
            kind: "feature shard",
            reason:
                "its content isn't what was written, or is of another backbone or preprocessing"
                    .to_owned(),
        })
    }
}

fn content_digest(
    source: &[Digest; 2],
    images: &[Digest],
    class: &[f32],
    patch_mean: &[f32],
) -> Digest {
    let mut hasher = Hasher::new();
    hasher
        .field(b"stage1 features 1")
        .field(&source[0].0)
        .field(&source[1].0);
    let images: Vec<u8> = images.iter().flat_map(|digest| digest.0).collect();
    hasher.field(&images);
    for values in [class, patch_mean] {
        let bytes: Vec<u8> = values.iter().flat_map(|x| x.to_le_bytes()).collect();
        hasher.write_all(&bytes).expect("hashing can't fail");
    }
    hasher.finish()
}

/// The shards of a folder, sorted; none when the folder doesn't exist.
fn shard_files(dir: &Path) -> artifact::Result<Vec<PathBuf>> {
    let io = |source| artifact::Error::Io {
        action: "list",
        path: dir.to_owned(),
        source,
    };
    let entries = match fs::read_dir(dir) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        entries => entries.map_err(io)?,
    };
    let paths = entries.map(|entry| entry.map(|entry| entry.path()));
    let mut paths = paths.collect::<io::Result<Vec<_>>>().map_err(io)?;
    paths.retain(|path| {
        let name = path.file_name().unwrap_or_default().to_string_lossy();
        name.starts_with("shard-") && name.ends_with(".safetensors")
    });
    paths.sort();
    Ok(paths)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::cell::RefCell;

    fn digest(n: u8) -> Digest {
        Digest::of_bytes(&[n])
    }

    /// The warnings of opening, and the cache.
    fn open(root: &Path, preprocessing: u8) -> (Vec<String>, FeatureCache) {
        let warnings = RefCell::new(Vec::new());
        let warn = |text: &str| warnings.borrow_mut().push(text.to_owned());
        let cache = FeatureCache::open(root, digest(100), digest(preprocessing), 2, &warn).unwrap();
        (warnings.into_inner(), cache)
    }

    /// Two shards of images 0, 1 and 2.
    fn filled(root: &Path) -> FeatureCache {
        let (_, mut cache) = open(root, 101);
        cache
            .store(
                &[digest(0), digest(1)],
                vec![0., 1., 2., 3.],
                vec![4., 5., 6., 7.],
            )
            .unwrap();
        cache
            .store(&[digest(2)], vec![8., 9.], vec![10., 11.])
            .unwrap();
        cache
    }

    #[test]
    fn rows_come_back_in_the_order_asked_for_and_both_features_are_there() {
        let dir = tempfile::tempdir().unwrap();
        filled(dir.path());
        let (warnings, cache) = open(dir.path(), 101);
        assert!(warnings.is_empty());
        let images = [digest(2), digest(0), digest(2)];
        assert_eq!(
            cache.gather(&images, Features::Cls).unwrap(),
            [8., 9., 0., 1., 8., 9.]
        );
        let both = [8., 9., 10., 11., 0., 1., 4., 5., 8., 9., 10., 11.];
        assert_eq!(cache.gather(&images, Features::ClsMeanPatch).unwrap(), both);
        assert!(!cache.contains(digest(3)));
        assert!(
            !open(dir.path(), 102).1.contains(digest(0)),
            "another preprocessing has other features"
        );
    }

    #[test]
    fn a_damaged_shard_is_as_good_as_absent() {
        type Damage = fn(&mut Vec<u8>);
        let cases: [(&str, Damage); 3] = [
            ("truncated", |bytes| bytes.truncate(bytes.len() - 3)),
            ("empty", Vec::clear),
            ("one bit of a value", |bytes| {
                *bytes.last_mut().unwrap() ^= 1
            }),
        ];
        for (name, damage) in cases {
            let dir = tempfile::tempdir().unwrap();
            let path = filled(dir.path()).shards[0].clone();
            let mut bytes = fs::read(&path).unwrap();
            damage(&mut bytes);
            fs::write(&path, bytes).unwrap();
            let (warnings, mut cache) = open(dir.path(), 101);
            assert_eq!(warnings.len(), 1, "{name}");
            assert!(warnings[0].contains("shard-"), "{name}: {warnings:?}");
            assert!(
                !cache.contains(digest(0)) && cache.contains(digest(2)),
                "{name}"
            );
            cache
                .store(&[digest(0), digest(1)], vec![0.; 4], vec![0.; 4])
                .unwrap();
            assert!(open(dir.path(), 101).0.is_empty(), "{name}: written again");
        }
    }
}
