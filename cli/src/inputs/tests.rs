use super::*;
use std::fs;

fn tree(files: &[&str]) -> tempfile::TempDir {
    let dir = tempfile::tempdir().unwrap();
    for file in files {
        let path = dir.path().join(file);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, "").unwrap();
    }
    dir
}

fn collect(paths: &[PathBuf], root: Option<&Path>) -> anyhow::Result<Vec<Image>> {
    Inputs::new(paths, root)?.collect()
}

fn paths(inputs: &[PathBuf]) -> Vec<PathBuf> {
    let images = collect(inputs, None).unwrap().into_iter();
    images.map(|image| image.path).collect()
}

fn refusal(paths: &[PathBuf]) -> String {
    format!("{:#}", collect(paths, None).unwrap_err())
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
    let inputs = [at("odd"), dir.path().to_owned(), at("missing.png")];
    let want = ["odd", "a.webp", "b/1.jpg", "b/2.PNG", "missing.png"].map(at);
    assert_eq!(paths(&inputs), want);
    let inputs = Inputs::new(&inputs, None).unwrap();
    assert_eq!(inputs.count().unwrap(), Some(5));
}

#[test]
fn a_pattern_stands_for_the_files_that_match() {
    let dir = tree(&[
        "b/2.jpg",
        "b/c/1.jpg",
        "a.jpg",
        "a.png",
        ".b.jpg",
        "d.jpg/x.png",
        "[e].jpg",
    ]);
    let at = |name: &str| dir.path().join(name);
    assert_eq!(
        paths(&[at("*.jpg")]),
        ["[e].jpg", "a.jpg"].map(at),
        "hidden ones and folders aren't meant"
    );
    assert_eq!(paths(&[at("b/**/?.jpg")]), ["b/2.jpg", "b/c/1.jpg"].map(at));
    assert_eq!(
        paths(&[at("[e].jpg")]),
        [at("[e].jpg")],
        "a file of that name is no pattern"
    );
    let message = refusal(&[at("*.gif")]);
    assert!(
        message.contains("no file matches this pattern"),
        "{message}"
    );
    let message = refusal(&[at("***.gif")]);
    assert!(message.contains("not a pattern either"), "{message}");
}

#[test]
fn a_list_stands_for_the_images_that_it_names() {
    let dir = tree(&["a.png", "b/1.jpg"]);
    let at = |name: &str| dir.path().join(name);
    let named = |folder: &Path| {
        ["b/1.jpg", "a.png"].map(|id| Image {
            id: id.to_owned(),
            path: folder.join(id),
        })
    };
    for (name, text) in [
        ("t.CSV", "label,path\nx, b/1.jpg\ny,a.png\n"),
        ("t.txt", "b/1.jpg\r\n\n  \na.png"),
        (
            "t.jsonl",
            "{\"path\": \"b/1.jpg\", \"label\": 3}\n\n{\"path\": \"a.png\"}\n",
        ),
        ("t.ndjson", "{\"path\":\"b/1.jpg\"}\n{\"path\":\"a.png\"}"),
    ] {
        fs::write(at(name), text).unwrap();
        let listed = |root| collect(&[at(name), at("a.png")], root).unwrap();
        assert_eq!(listed(None)[..2], named(dir.path()), "{name}");
        assert_eq!(listed(None)[2], Image::at(at("a.png")), "{name}");
        assert_eq!(
            listed(Some(Path::new("far")))[..2],
            named(Path::new("far")),
            "{name}"
        );
    }
}

#[test]
fn damaged_lists_are_refused_with_the_line() {
    let dir = tempfile::tempdir().unwrap();
    for (name, text, want) in [
        ("t.csv", "file\na.png\n", "no column `path`, found file"),
        ("t.csv", "path,label\n,x\n", "line 2: `path` is empty"),
        ("t.csv", "path\n", "no images in this list"),
        ("t.txt", "\n \n", "no images in this list"),
        (
            "t.jsonl",
            "{\"path\": \"a\"}\n{\"file\": \"b\"}\n",
            "line 2: missing field `path`",
        ),
        ("t.jsonl", "{\"path\": \"\"}\n", "line 1: `path` is empty"),
        ("t.jsonl", "a.png\n", "t.jsonl line 1"),
    ] {
        let path = dir.path().join(name);
        fs::write(&path, text).unwrap();
        let message = refusal(&[path]);
        assert!(message.contains(want), "{message}");
    }
    let message = refusal(&[dir.path().join("missing.csv")]);
    assert!(
        message.contains("missing.csv: cannot open the list"),
        "{message}"
    );
}

#[cfg(unix)]
#[test]
fn names_need_not_be_text() {
    use std::os::unix::ffi::OsStrExt;
    let name = std::ffi::OsStr::from_bytes(b"\xff.png");
    let images: Vec<_> = list::lines(&b"\xff.png\n"[..], Path::new("x"), Path::new("r")).collect();
    let image = images.into_iter().next().unwrap().unwrap();
    assert_eq!(
        (image.path, &*image.id),
        (Path::new("r").join(name), "\u{fffd}.png")
    );
}

#[test]
fn standard_input_is_read_once() {
    let message = refusal(&["-".into(), "-".into()]);
    assert!(message.contains("only once"), "{message}");
    let inputs = Inputs::new(&["-".into(), "a.png".into()], None).unwrap();
    assert_eq!(inputs.count().unwrap(), None);
}

#[test]
fn a_folder_without_images_is_an_error() {
    let dir = tree(&["notes.txt"]);
    let message = refusal(&[dir.path().to_owned()]);
    assert!(message.contains("no images in this folder"), "{message}");
}

#[cfg(unix)]
#[test]
fn a_link_to_a_folder_above_is_an_error() {
    let dir = tree(&["a/1.png"]);
    std::os::unix::fs::symlink(dir.path(), dir.path().join("a/loop")).unwrap();
    let message = refusal(&[dir.path().to_owned()]);
    assert!(message.contains("leads back"), "{message}");
}
