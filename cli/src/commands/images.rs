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
