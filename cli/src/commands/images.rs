//! Which images are meant by paths on the command line.

use anyhow::{Context, bail};
use stage1_core::data::has_image_extension;
use std::{
    fs, io,
    path::{Path, PathBuf},
};

/// Files as they are named, and what folders hold at any depth, sorted; hidden files and other kinds are left out.
///
/// A file that isn't there is kept: it becomes a record that says so.
pub(crate) fn list(paths: &[PathBuf]) -> anyhow::Result<Vec<PathBuf>> {
    let mut images = Vec::new();
    for path in paths {
        if path.is_dir() {
            let before = images.len();
            walk(path, &mut Vec::new(), &mut images)?;
            if images.len() == before {
                bail!("{}: no images in this folder", path.display());
            }
        } else {
            images.push(path.clone());
        }
    }
    Ok(images)
}

/// An image, and the name that it was given.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Image {
    /// As a CSV has it, else the path.
    pub(crate) id: String,
    pub(crate) path: PathBuf,
}

/// As [`list`], where a file that ends in `.csv` stands for the images in its column `path`: relative to `root`, or else to
/// the CSV's own folder.
pub(crate) fn list_with_tables(
    paths: &[PathBuf],
    root: Option<&Path>,
) -> anyhow::Result<Vec<Image>> {
    let is_table = |path: &Path| {
        let extension = path.extension();
        extension.is_some_and(|e| e.eq_ignore_ascii_case("csv")) && path.is_file()
    };
    let mut images = Vec::new();
    for path in paths {
        if is_table(path) {
            read_table(path, root, &mut images)?;
        } else {
            let listed = list(std::slice::from_ref(path))?;
            images.extend(listed.into_iter().map(|path| Image {
                id: path.display().to_string(),
                path,
            }));
        }
    }
    Ok(images)
}

fn read_table(table: &Path, root: Option<&Path>, images: &mut Vec<Image>) -> anyhow::Result<()> {
    let named = || format!("{}: cannot read the table", table.display());
    let mut reader = csv::ReaderBuilder::new()
        .trim(csv::Trim::All)
        .from_path(table)
        .with_context(named)?;
    let header = reader.headers().with_context(named)?.clone();
    let Some(column) = header.iter().position(|name| name == "path") else {
        let found: Vec<&str> = header.iter().collect();
        bail!(
            "{}: no column `path`, found {}",
            table.display(),
            found.join(", ")
        );
    };
    let folder = root.or(table.parent()).unwrap_or(Path::new(""));
    let before = images.len();
    for record in reader.into_records() {
        let record = record.with_context(named)?;
        let id = record.get(column).unwrap_or_default();
        if id.is_empty() {
            let line = record.position().map_or(0, csv::Position::line);
            bail!("{} line {line}: `path` is empty", table.display());
        }
        images.push(Image {
            id: id.to_owned(),
            path: folder.join(id),
        });
    }
    if images.len() == before {
        bail!("{}: no rows below the header", table.display());
    }
    Ok(())
}

/// Adds the images below `folder`; `above` holds the real paths of the folders that lead to it.
fn walk(folder: &Path, above: &mut Vec<PathBuf>, images: &mut Vec<PathBuf>) -> anyhow::Result<()> {
    let real = folder
        .canonicalize()
        .with_context(|| format!("{}: cannot open", folder.display()))?;
    if above.contains(&real) {
        bail!(
            "{}: this link leads back to a folder above it",
            folder.display()
        );
    }
    above.push(real);
    for path in entries(folder).with_context(|| format!("{}: cannot list", folder.display()))? {
        if path.is_dir() {
            walk(&path, above, images)?;
        } else if has_image_extension(&path) {
            images.push(path);
        }
    }
    above.pop();
    Ok(())
}

fn entries(folder: &Path) -> io::Result<Vec<PathBuf>> {
    let paths = fs::read_dir(folder)?.map(|entry| Ok(entry?.path()));
    let mut paths = paths.collect::<io::Result<Vec<_>>>()?;
    paths.retain(|path| !is_hidden(path));
    paths.sort();
    Ok(paths)
}

fn is_hidden(path: &Path) -> bool {
    path.file_name()
        .is_some_and(|name| name.to_string_lossy().starts_with('.'))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tree(files: &[&str]) -> tempfile::TempDir {
        let dir = tempfile::tempdir().unwrap();
        for file in files {
            let path = dir.path().join(file);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, "").unwrap();
        }
        dir
    }

    #[test]
    fn folders_give_their_images_sorted_and_files_stand_for_themselves() {
        let dir = tree(&[
            "b/2.PNG",
            "b/1.jpg",
            "a.webp",
            "b/notes.txt",
            ".hidden.png",
            "b/.cache/x.png",
            "odd",
        ]);
        let at = |name: &str| dir.path().join(name);
        let listed = list(&[at("odd"), dir.path().to_owned(), at("missing.png")]).unwrap();
        assert_eq!(
            listed,
            ["odd", "a.webp", "b/1.jpg", "b/2.PNG", "missing.png"].map(at)
        );
    }

    #[test]
    fn a_table_stands_for_the_images_in_its_column() {
        let dir = tree(&["a.png", "b/1.jpg"]);
        let at = |name: &str| dir.path().join(name);
        fs::write(at("t.CSV"), "label,path\nx, b/1.jpg\ny,a.png\n").unwrap();
        let image = |id: &str, path: PathBuf| Image {
            id: id.to_owned(),
            path,
        };
        let listed = |root| list_with_tables(&[at("t.CSV"), at("a.png")], root).unwrap();
        let alone = image(&at("a.png").display().to_string(), at("a.png"));
        let named = |folder: &Path| {
            ["b/1.jpg", "a.png"]
                .map(|id| image(id, folder.join(id)))
                .to_vec()
        };
        let mut want = named(dir.path());
        want.push(alone);
        assert_eq!(listed(None), want);
        assert_eq!(listed(Some(Path::new("far")))[..2], named(Path::new("far")));
        for (text, want) in [
            ("file\na.png\n", "no column `path`, found file"),
            ("path,label\n,x\n", "line 2: `path` is empty"),
            ("path\n", "no rows"),
        ] {
            fs::write(at("t.CSV"), text).unwrap();
            let error = list_with_tables(&[at("t.CSV")], None).unwrap_err();
            assert!(error.to_string().contains(want), "{error}");
        }
    }

    #[test]
    fn a_folder_without_images_is_an_error() {
        let dir = tree(&["notes.txt"]);
        let message = list(&[dir.path().to_owned()]).unwrap_err().to_string();
        assert!(message.contains("no images in this folder"), "{message}");
    }

    #[cfg(unix)]
    #[test]
    fn a_link_to_a_folder_above_is_an_error() {
        let dir = tree(&["a/1.png"]);
        std::os::unix::fs::symlink(dir.path(), dir.path().join("a/loop")).unwrap();
        let message = list(&[dir.path().to_owned()]).unwrap_err().to_string();
        assert!(message.contains("leads back"), "{message}");
    }
}
