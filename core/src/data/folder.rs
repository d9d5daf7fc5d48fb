//! A folder per class.

use super::{DataOptions, Dataset, Error, Listing, Result, Sample};
use std::{
    fs,
    path::{Path, PathBuf},
};

/// The extensions of images; contents decide when they are decoded.
const IMAGES: [&str; 12] = [
    "bmp", "gif", "jpeg", "jpg", "pbm", "pgm", "png", "pnm", "ppm", "tif", "tiff", "webp",
];

/// Names of splits as data sets use them: a root of such folders has its classes one level below.
const SPLITS: [&str; 9] = [
    "test",
    "train",
    "training",
    "val",
    "val_calib",
    "val_select",
    "val_test",
    "valid",
    "validation",
];

pub(super) fn open(root: &Path, options: &DataOptions) -> Result<Dataset> {
    let labels = labels(root)?;
    let mut walk = Walk::default();
    let mut empty = Listing::default();
    for (label, name) in labels.iter().enumerate() {
        let before = walk.samples.len();
        let folder = root.join(name);
        let canonical = canonical(&folder)?;
        walk.folder(&folder, name, label, &mut vec![canonical])?;
        if walk.samples.len() == before {
            empty.push(name);
        }
    }
    if let Some(folders) = empty.non_empty() {
        return Err(Error::EmptyClasses {
            root: root.to_owned(),
            folders,
        });
    }
    walk.samples.sort_unstable_by(|a, b| a.id.cmp(&b.id));
    walk.others.sort_unstable();
    Ok(Dataset {
        root: root.to_owned(),
        labels,
        samples: walk.samples,
        skipped: walk.others.into_iter().collect(),
        options: options.clone(),
    })
}

/// All images below a folder, whatever the folders in it mean, sorted by path. Names that begin with a dot and files without
/// an image's extension are passed over; symbolic links are followed.
///
/// # Errors
/// [`Error::Io`], [`Error::LinkLoop`], [`Error::NotUtf8`].
pub fn images_below(folder: &Path) -> Result<Vec<PathBuf>> {
    let mut walk = Walk::default();
    walk.folder(folder, ".", 0, &mut vec![canonical(folder)?])?;
    let relative = |sample: Sample| folder.join(sample.id.trim_start_matches("./"));
    let mut paths: Vec<_> = walk.samples.into_iter().map(relative).collect();
    paths.sort_unstable();
    Ok(paths)
}

/// The class folders, sorted.
fn labels(root: &Path) -> Result<Vec<String>> {
    let entries = entries(root)?;
    let stray = entries.iter().filter(|entry| entry.is_image());
    let stray: Listing = stray.map(|entry| entry.name.clone()).collect();
    if let Some(images) = stray.non_empty() {
        return Err(Error::StrayImages {
            root: root.to_owned(),
            images,
        });
    }
    let folders = entries.into_iter().filter(|entry| entry.is_folder);
    let labels: Vec<_> = folders.map(|entry| entry.name).collect();
    if labels.is_empty() {
        return Err(Error::NoClasses {
            root: root.to_owned(),
        });
    }
    let is_split = |name: &String| SPLITS.contains(&name.to_lowercase().as_str());
    if labels.iter().all(is_split) {
        return Err(Error::SplitFolders {
            root: root.to_owned(),
            folders: labels.into_iter().collect(),
        });
    }
    Ok(labels)
}

#[derive(Default)]
struct Walk {
    samples: Vec<Sample>,
    others: Vec<String>,
}

impl Walk {
    /// Collects what is below `folder`; `above` holds the real paths of the folders that lead to it.
    fn folder(
        &mut self,
        folder: &Path,
        id: &str,
        label: usize,
        above: &mut Vec<PathBuf>,
    ) -> Result<()> {
        for entry in entries(folder)? {
            let path = folder.join(&entry.name);
            let id = format!("{id}/{}", entry.name);
            if entry.is_folder {
                let real = canonical(&path)?;
                if above.contains(&real) {
                    return Err(Error::LinkLoop { path });
                }
                above.push(real);
                self.folder(&path, &id, label, above)?;
                above.pop();
            } else if entry.is_image() {
                self.samples.push(Sample {
                    id,
                    label,
                    group: None,
                    given: None,
                });
            } else {
                self.others.push(id);
            }
        }
        Ok(())
    }
}

struct Entry {
    name: String,
    is_folder: bool,
}

impl Entry {
    fn is_image(&self) -> bool {
        !self.is_folder && has_image_extension(Path::new(&self.name))
    }
}

/// Whether a file is called like an image of a format that can be decoded; its contents decide when it is read.
pub fn has_image_extension(path: &Path) -> bool {
    let extension = path.extension().and_then(|text| text.to_str());
    extension.is_some_and(|text| IMAGES.contains(&text.to_ascii_lowercase().as_str()))
}

/// What is in a folder, sorted by name, without hidden files; links are taken for what they lead to.
fn entries(folder: &Path) -> Result<Vec<Entry>> {
    let mut entries = Vec::new();
    for entry in fs::read_dir(folder).map_err(Error::io("list", folder))? {
        let entry = entry.map_err(Error::io("list", folder))?;
        let path = entry.path();
        let name = entry
            .file_name()
            .into_string()
            .map_err(|_| Error::NotUtf8 { path: path.clone() })?;
        if name.starts_with('.') {
            continue;
        }
        let kind = entry
            .file_type()
            .map_err(Error::io("read the type of", &path))?;
        let is_folder = if kind.is_symlink() {
            fs::metadata(&path)
                .map_err(Error::io("follow the link", &path))?
                .is_dir()
        } else {
            kind.is_dir()
        };
        entries.push(Entry { name, is_folder });
    }
    entries.sort_unstable_by(|a, b| a.name.cmp(&b.name));
    Ok(entries)
}

fn canonical(path: &Path) -> Result<PathBuf> {
    fs::canonicalize(path).map_err(Error::io("resolve", path))
}
