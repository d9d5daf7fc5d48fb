//! The demo's image files: a fixed, class-balanced selection of Fashion-MNIST, as PNG, one folder per class.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, ensure};
use serde::{Deserialize, Serialize};

use super::fashion::{self, CLASSES, Set};
use crate::digest;
use crate::files;
use crate::progress::{self, say};

const SEED: u64 = 42;
const PER_CLASS: usize = 1_000;
const SCHEMA: u32 = 1;

/// The content of `data.json`, which is written last: it says that the folder is whole, and what is in it.
#[derive(Debug, Deserialize, PartialEq, Serialize)]
#[serde(deny_unknown_fields)]
struct Stamp {
    schema_version: u32,
    /// SHA-256 of each source file's content.
    source: BTreeMap<String, String>,
    seed: u64,
    images: usize,
    /// SHA-256 over the names and digests of all image files.
    digest: String,
}

/// Makes sure that `demo/data` holds the images; the source is `given`, else fetched.
pub(crate) fn provide(demo: &Path, given: Option<&Path>) -> Result<()> {
    let data = demo.join("data");
    if is_whole(demo, &data) {
        say(format!(
            "demo: {} images are in place",
            CLASSES.len() * PER_CLASS
        ));
        return Ok(());
    }
    say("demo: images");
    let sets = match given {
        Some(folder) => fashion::read(folder)?,
        None => fetch(demo)?,
    };
    write_all(&sets, PER_CLASS, &data)?;
    let stamp = Stamp::of(&data)?;
    files::write_whole(&stamp_path(demo), &serde_json::to_vec_pretty(&stamp)?)?;
    say(format!(
        "  {} images in {} classes: {}",
        stamp.images,
        CLASSES.len(),
        data.display()
    ));
    Ok(())
}

fn fetch(demo: &Path) -> Result<[Set; 2]> {
    files::create_folder(demo)?;
    let folder = demo.join("fashion-mnist");
    fashion::fetch(&folder)?;
    let sets = fashion::read(&folder);
    if sets.is_err() {
        files::remove_folder(&folder)?;
    }
    sets.context("the fetched files were damaged and have been removed: run this again")
}

/// Removes the images; what was downloaded stays.
pub(crate) fn remove(demo: &Path) -> Result<()> {
    files::remove_file(&stamp_path(demo))?;
    files::remove_folder(&demo.join("data"))
}

fn stamp_path(demo: &Path) -> PathBuf {
    demo.join("data.json")
}

fn is_whole(demo: &Path, data: &Path) -> bool {
    let stamp = fs::read(stamp_path(demo))
        .ok()
        .and_then(|bytes| serde_json::from_slice::<Stamp>(&bytes).ok());
    stamp.is_some_and(|stamp| {
        stamp.images == CLASSES.len() * PER_CLASS && Stamp::of(data).is_ok_and(|now| now == stamp)
    })
}

impl Stamp {
    /// Describes the folder as it is on disk.
    fn of(data: &Path) -> Result<Self> {
        let mut lines = Vec::new();
        for class in CLASSES {
            let folder = data.join(class);
            for entry in fs::read_dir(&folder)
                .with_context(|| format!("cannot read {}", folder.display()))?
            {
                let path = entry?.path();
                let bytes =
                    fs::read(&path).with_context(|| format!("cannot read {}", path.display()))?;
                let name = path.file_name().unwrap_or_default().display();
                lines.push(format!("{class}/{name} {}\n", digest::of_bytes(&bytes)));
            }
        }
        lines.sort();
        let source = fashion::FILES
            .iter()
            .map(|file| (file.name.to_owned(), file.sha256.to_owned()))
            .collect();
        let digest = digest::of_bytes(lines.concat().as_bytes());
        Ok(Self {
            schema_version: SCHEMA,
            source,
            seed: SEED,
            images: lines.len(),
            digest,
        })
    }
}

/// An image by its set and its place there.
#[derive(Clone, Copy, Debug, Eq, Ord, PartialEq, PartialOrd)]
struct Chosen {
    set: usize,
    index: usize,
}

/// The `per_class` images of each class with the smallest seeded hashes of their ids, so that the choice depends on nothing
/// but the ids and the seed.
fn select(sets: &[Set], per_class: usize) -> Result<Vec<(usize, Vec<Chosen>)>> {
    let mut by_class: BTreeMap<usize, Vec<(String, Chosen)>> = BTreeMap::new();
    for (set, content) in sets.iter().enumerate() {
        for (index, label) in content.labels.iter().enumerate() {
            let order = digest::of_bytes(format!("{SEED}:{}", id(content.name, index)).as_bytes());
            by_class
                .entry(usize::from(*label))
                .or_default()
                .push((order, Chosen { set, index }));
        }
    }
    let choose = |(class, mut all): (usize, Vec<(String, Chosen)>)| {
        ensure!(
            all.len() >= per_class,
            "class {} has {} images, expected {per_class}",
            CLASSES[class],
            all.len()
        );
        all.sort();
        Ok((
            class,
            all.into_iter()
                .take(per_class)
                .map(|(_, chosen)| chosen)
                .collect(),
        ))
    };
    by_class.into_iter().map(choose).collect()
}

/// Such as `train-00042`.
fn id(set: &str, index: usize) -> String {
    format!("{set}-{index:05}")
}

/// Writes the selection beside its place, then renames it there: the folder is whole, or it is not there.
fn write_all(sets: &[Set], per_class: usize, data: &Path) -> Result<()> {
    let selection = select(sets, per_class)?;
    let making = files::sibling(data, "partial");
    files::remove_folder(&making)?;
    let bar = progress::items("  writing", (CLASSES.len() * per_class) as u64);
    for (class, chosen) in selection {
        let folder = making.join(CLASSES[class]);
        files::create_folder(&folder)?;
        for Chosen { set, index } in chosen {
            let set = &sets[set];
            let pixels = set
                .images
                .iter()
                .nth(index)
                .context("a label without an image")?;
            let path = folder.join(id(set.name, index)).with_extension("png");
            write_png(
                &path,
                [set.images.width, set.images.height],
                png::ColorType::Grayscale,
                pixels,
            )?;
            bar.inc(1);
        }
    }
    bar.finish_and_clear();
    files::swap_folder(&making, data)
}

/// Writes an 8-bit PNG file.
pub(super) fn write_png(
    path: &Path,
    [width, height]: [u32; 2],
    color: png::ColorType,
    pixels: &[u8],
) -> Result<()> {
    let mut bytes = Vec::new();
    let mut encoder = png::Encoder::new(&mut bytes, width, height);
    encoder.set_color(color);
    encoder.set_depth(png::BitDepth::Eight);
    let encode = |encoder: png::Encoder<'_, _>| encoder.write_header()?.write_image_data(pixels);
    encode(encoder).with_context(|| format!("cannot encode {}", path.display()))?;
    fs::write(path, bytes).with_context(|| format!("cannot write {}", path.display()))
}

#[cfg(test)]
mod tests {
    use super::super::idx::Images;
    use super::*;

    /// Two sets with `n` images of each class, 2 x 2 pixels, all different.
    fn sets(n: u8) -> [Set; 2] {
        ["train", "t10k"].map(|name| {
            let labels: Vec<u8> = (0..10 * n).map(|index| index % 10).collect();
            let mut bytes = vec![0, 0, 8, 3, 0, 0, 0, 10 * n, 0, 0, 0, 2, 0, 0, 0, 2];
            bytes.extend((0..10 * n).flat_map(|index| [index, name.as_bytes()[1], 0, 255]));
            Set {
                name,
                images: Images::parse(&bytes).unwrap(),
                labels,
            }
        })
    }

    #[test]
    fn the_selection_is_balanced_and_repeats() {
        let selection = select(&sets(5), 4).unwrap();
        assert_eq!(selection.len(), 10);
        assert!(selection.iter().all(|(_, chosen)| chosen.len() == 4));
        assert_eq!(selection, select(&sets(5), 4).unwrap());
    }

    #[test]
    fn the_selection_is_of_the_class_and_without_repetition() {
        let sets = sets(5);
        for (class, mut chosen) in select(&sets, 10).unwrap() {
            assert!(
                chosen
                    .iter()
                    .all(|one| usize::from(sets[one.set].labels[one.index]) == class)
            );
            chosen.sort();
            chosen.dedup();
            assert_eq!(chosen.len(), 10);
        }
    }

    #[test]
    fn too_few_images_are_an_error_that_names_the_class() {
        let error = select(&sets(1), 3).unwrap_err().to_string();
        assert!(
            error.contains("t-shirt-top has 2 images, expected 3"),
            "{error}"
        );
    }

    #[test]
    fn files_are_written_that_decode_to_the_pixels() {
        let folder = tempfile::tempdir().unwrap();
        let data = folder.path().join("data");
        write_all(&sets(2), 4, &data).unwrap();
        assert!(!files::sibling(&data, "partial").exists());
        let file = fs::File::open(data.join("trouser/t10k-00011.png")).unwrap();
        let mut reader = png::Decoder::new(std::io::BufReader::new(file))
            .read_info()
            .unwrap();
        let mut pixels = vec![0; reader.output_buffer_size().unwrap()];
        let info = reader.next_frame(&mut pixels).unwrap();
        assert_eq!(
            (info.width, info.height, info.color_type),
            (2, 2, png::ColorType::Grayscale)
        );
        assert_eq!(pixels, [11, b'1', 0, 255]);
        assert_eq!(Stamp::of(&data).unwrap().images, 40);
    }

    #[test]
    fn a_stamp_sees_a_missing_a_changed_and_an_added_file() {
        let folder = tempfile::tempdir().unwrap();
        let data = folder.path().join("data");
        write_all(&sets(2), 4, &data).unwrap();
        let whole = Stamp::of(&data).unwrap();
        let file = data.join("bag/train-00008.png");
        let content = fs::read(&file).unwrap();
        fs::write(&file, &content[..10]).unwrap();
        assert_ne!(Stamp::of(&data).unwrap(), whole, "truncated");
        fs::remove_file(&file).unwrap();
        assert_ne!(Stamp::of(&data).unwrap(), whole, "removed");
        fs::write(&file, &content).unwrap();
        assert_eq!(Stamp::of(&data).unwrap(), whole);
        fs::write(data.join("bag/other.png"), &content).unwrap();
        assert_ne!(Stamp::of(&data).unwrap(), whole, "added");
    }

    #[test]
    fn what_a_killed_run_left_is_replaced() {
        let folder = tempfile::tempdir().unwrap();
        let data = folder.path().join("data");
        let partial = files::sibling(&data, "partial");
        fs::create_dir_all(partial.join("bag")).unwrap();
        fs::write(partial.join("bag/half.png"), "x").unwrap();
        write_all(&sets(2), 4, &data).unwrap();
        assert!(!data.join("bag/half.png").exists());
    }

    #[test]
    fn nothing_is_whole_without_a_stamp() {
        let folder = tempfile::tempdir().unwrap();
        let data = folder.path().join("data");
        write_all(&sets(2), 4, &data).unwrap();
        assert!(!is_whole(folder.path(), &data));
    }
}
