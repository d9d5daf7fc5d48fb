//! Unlabelled images beside a divided data set: those that are also in its held-out splits must not be trained on.

use super::{
    Error, Result, Split, SplitManifest, SplitSample,
    near::{Signature, near_to},
};
use crate::{
    artifact::Digest,
    data::{DataOptions, Listing, OnBadImage},
    preprocess::{self, Limits},
    progress::Progress,
};
use rayon::prelude::*;
use std::{
    collections::BTreeSet,
    fs,
    path::{Path, PathBuf},
};

/// An unlabelled image.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Unlabelled {
    /// The file.
    pub path: PathBuf,
    /// Of its bytes.
    pub digest: Digest,
}

/// Unlabelled images, told apart.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Admitted {
    /// Those that may be trained on, in the order of their digests.
    pub images: Vec<Unlabelled>,
    /// How many are in val_select, val_calib or val_test, byte for byte.
    pub held_out: usize,
    /// How many are near-duplicates of one there.
    pub nearly_held_out: usize,
    /// How many are copies of others, or of images of `train`.
    pub repeated: usize,
    /// Those that can't be decoded.
    pub unreadable: Listing,
    /// How many couldn't be compared with everything that looked alike.
    pub crowded: usize,
}

/// The digests of `files`, read in parallel.
///
/// # Errors
/// [`Error::Data`] for the first file that can't be read.
pub fn digests(files: Vec<PathBuf>, progress: &dyn Progress) -> Result<Vec<Unlabelled>> {
    progress.start("checking unlabelled images", files.len() as u64);
    let read = |path: PathBuf| {
        let digest = Digest::of_file(&path);
        progress.advance(1);
        match digest {
            Ok(digest) => Ok(Unlabelled { path, digest }),
            Err(error) => Err(Error::Unlabelled {
                reason: error.to_string(),
            }),
        }
    };
    let read: Vec<_> = files.into_par_iter().map(read).collect();
    progress.finish();
    read.into_iter().collect()
}

/// Which of `images` may be trained on: none that is in a split that chooses, certifies or judges, and no near-duplicate of
/// one there if `options` search for such; each content once.
///
/// The hash that proposes near-duplicates finds most, not all: see `split::near`.
///
/// # Errors
/// [`Error::Unlabelled`] for images that can't be used, unless `options` skip them.
pub fn admit(
    images: Vec<Unlabelled>,
    splits: &SplitManifest,
    root: &Path,
    options: &DataOptions,
    progress: &dyn Progress,
) -> Result<Admitted> {
    let (train, held): (Vec<&SplitSample>, Vec<_>) = splits
        .samples
        .iter()
        .partition(|sample| sample.split == Split::Train);
    let (train, held_digests) = (known(&train, root)?, known(&held, root)?);
    let mut admitted = Admitted::default();
    let mut seen = train;
    let mut images = images;
    images.sort_unstable_by(|a, b| (a.digest, &a.path).cmp(&(b.digest, &b.path)));
    images.retain(|image| {
        if held_digests.contains(&image.digest) {
            admitted.held_out += 1;
            return false;
        }
        let new = seen.insert(image.digest);
        admitted.repeated += usize::from(!new);
        new
    });
    let paths: Vec<_> = images.iter().map(|image| image.path.clone()).collect();
    let read = signatures(&paths, "reading unlabelled images", options, progress);
    let (mut readable, mut found) = (Vec::new(), Vec::new());
    for (image, read) in images.into_iter().zip(read) {
        match read {
            Ok(signature) => {
                readable.push(image);
                found.push(signature);
            }
            Err(reason) => admitted
                .unreadable
                .push(format!("{}: {reason}", image.path.display())),
        }
    }
    if options.on_bad_image == OnBadImage::Fail && !admitted.unreadable.is_empty() {
        return Err(Error::Unlabelled {
            reason: format!(
                "{} image(s) can't be used: {}; repair or remove them, or leave them out with `data.on_bad_image: skip`",
                admitted.unreadable.count, admitted.unreadable
            ),
        });
    }
    if options.near.enabled && !readable.is_empty() {
        let paths: Vec<_> = held.iter().map(|sample| root.join(&sample.path)).collect();
        let held = signatures(&paths, "reading held-out images", options, progress);
        // What can't be decoded there looks like nothing.
        let held: Vec<_> = held.iter().filter_map(|read| read.as_ref().ok()).collect();
        let near = near_to(
            &held,
            &found.iter().collect::<Vec<_>>(),
            options.near.correlation,
        );
        admitted.crowded = near.crowded;
        let mut near = near.found.into_iter();
        readable.retain(|_| {
            let is_near = near.next().unwrap_or(false);
            admitted.nearly_held_out += usize::from(is_near);
            !is_near
        });
    }
    admitted.images = readable;
    Ok(admitted)
}

/// The digests of samples, read where the splits don't know them.
fn known(samples: &[&SplitSample], root: &Path) -> Result<BTreeSet<Digest>> {
    let digest = |sample: &&SplitSample| match sample.digest {
        Some(digest) => Ok(digest),
        None => Digest::of_file(&root.join(&sample.path)).map_err(|error| Error::Unlabelled {
            reason: format!(
                "{error}; without it, it can't be told which unlabelled images are held out"
            ),
        }),
    };
    samples.par_iter().map(digest).collect()
}

fn signatures(
    paths: &[PathBuf],
    what: &str,
    options: &DataOptions,
    progress: &dyn Progress,
) -> Vec<std::result::Result<Signature, String>> {
    let limits = Limits {
        max_pixels: options.max_pixels,
        ..Limits::default()
    };
    progress.start(what, paths.len() as u64);
    let one = |path: &PathBuf| {
        let read = fs::read(path).map_err(|error| error.to_string());
        let picture = read.and_then(|bytes| {
            preprocess::decode(&bytes, limits).map_err(|error| error.to_string())
        });
        progress.advance(1);
        Ok(Signature::of(&picture?))
    };
    let read = paths.par_iter().map(one).collect();
    progress.finish();
    read
}

#[cfg(test)]
mod tests {
    use super::{super::near::picture, *};
    use crate::{
        data::{self, NearOptions},
        progress::Silent,
        split::{SplitOptions, make_splits},
    };

    /// A data set of two classes, divided, and an empty folder beside it.
    struct Fixture {
        dir: tempfile::TempDir,
        splits: SplitManifest,
        options: DataOptions,
    }

    impl Fixture {
        fn new(options: DataOptions) -> Self {
            let dir = tempfile::tempdir().unwrap();
            for (label, first) in [("a", 0), ("b", 100)] {
                let folder = dir.path().join("images").join(label);
                fs::create_dir_all(&folder).unwrap();
                for n in 0..12 {
                    let path = folder.join(format!("{n}.png"));
                    picture(first + n, 48, 1.0, 0.0).save(path).unwrap();
                }
            }
            fs::create_dir(dir.path().join("more")).unwrap();
            let dataset = data::open(&dir.path().join("images"), &options).unwrap();
            let splits = make_splits(&dataset, &SplitOptions::default(), &Silent).unwrap();
            Self {
                dir,
                splits,
                options,
            }
        }

        fn more(&self, name: &str) -> PathBuf {
            self.dir.path().join("more").join(name)
        }

        fn image(&self, split: Split) -> PathBuf {
            let sample = self.splits.of(split).next().unwrap();
            self.dir.path().join("images").join(&sample.path)
        }

        fn admit(&self) -> Result<Admitted> {
            let files = data::images_below(&self.dir.path().join("more"))?;
            let images = digests(files, &Silent)?;
            let root = self.dir.path().join("images");
            admit(images, &self.splits, &root, &self.options, &Silent)
        }
    }

    fn names(admitted: &Admitted) -> BTreeSet<String> {
        let name = |image: &Unlabelled| {
            image
                .path
                .file_name()
                .unwrap()
                .to_string_lossy()
                .into_owned()
        };
        admitted.images.iter().map(name).collect()
    }

    #[test]
    fn what_is_held_out_is_left_out_and_counted() {
        let cases = [(true, 3, 1), (false, 3, 0)];
        for (near, held_out, nearly_held_out) in cases {
            let mut options = DataOptions::default();
            options.near.enabled = near;
            let fixture = Fixture::new(options);
            for split in Split::ALL {
                fs::copy(fixture.image(split), fixture.more(&format!("{split}.png"))).unwrap();
            }
            // The same picture as one of val_test, stored otherwise.
            let held = image::open(fixture.image(Split::ValTest)).unwrap();
            held.save(fixture.more("other-format.bmp")).unwrap();
            picture(500, 48, 1.0, 0.0)
                .save(fixture.more("new.png"))
                .unwrap();
            fs::copy(fixture.more("new.png"), fixture.more("new-again.png")).unwrap();
            fs::write(fixture.more("notes.txt"), "not an image's name").unwrap();
            let admitted = fixture.admit().unwrap();
            assert_eq!(admitted.held_out, held_out, "near {near}");
            assert_eq!(admitted.nearly_held_out, nearly_held_out, "near {near}");
            // One of train, and the second copy of the new one.
            assert_eq!(admitted.repeated, 2, "near {near}");
            let mut want = BTreeSet::from(["new-again.png".to_owned()]);
            if !near {
                want.insert("other-format.bmp".to_owned());
            }
            assert_eq!(names(&admitted), want, "near {near}");
        }
    }

    #[test]
    fn contents_are_compared_even_if_the_splits_do_not_know_them() {
        let options = DataOptions {
            content: data::Content::None,
            near: NearOptions {
                enabled: false,
                ..NearOptions::default()
            },
            ..DataOptions::default()
        };
        let fixture = Fixture::new(options);
        fs::copy(fixture.image(Split::ValCalib), fixture.more("copy.png")).unwrap();
        let admitted = fixture.admit().unwrap();
        assert_eq!((admitted.held_out, admitted.images.len()), (1, 0));
    }

    #[test]
    fn images_that_can_not_be_decoded_are_named_or_skipped() {
        let mut fixture = Fixture::new(DataOptions::default());
        fs::write(fixture.more("broken.png"), "not an image").unwrap();
        picture(500, 48, 1.0, 0.0)
            .save(fixture.more("new.png"))
            .unwrap();
        let message = fixture.admit().unwrap_err().to_string();
        assert!(
            message.contains("broken.png") && message.contains("on_bad_image: skip"),
            "{message}"
        );
        fixture.options.on_bad_image = OnBadImage::Skip;
        let admitted = fixture.admit().unwrap();
        assert_eq!((admitted.unreadable.count, admitted.images.len()), (1, 1));
    }
}
