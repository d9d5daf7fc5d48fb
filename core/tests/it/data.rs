//! Reading a source: a folder per class, or a CSV file.

use crate::images::{self, Folder};
use stage1_core::data::{self, Content, DataOptions, Dataset, Error, GivenSplit};
use std::fs;

fn open(folder: &Folder, source: &str) -> Result<Dataset, Error> {
    data::open(&folder.path(source), &DataOptions::default())
}

fn listed(content: Content) -> DataOptions {
    DataOptions {
        content,
        ..DataOptions::default()
    }
}

/// A CSV with these lines, of images that aren't looked for.
fn open_csv(text: &str) -> Result<Dataset, Error> {
    let folder = Folder::new();
    folder.write("list.csv", text);
    data::open(&folder.path("list.csv"), &listed(Content::None))
}

#[test]
fn a_folder_per_class_is_listed_in_order() {
    let folder = Folder::new();
    for name in [
        "dog/b.JPG",
        "dog/a/deep.png",
        "cat/z.webp",
        "cat/a.tiff",
        "cat/.hidden.png",
        ".git/x.png",
    ] {
        folder.write(name, "not looked into");
    }
    for name in ["cat/notes.txt", "dog/a/more.csv", "README.md"] {
        folder.write(name, "text");
    }
    let dataset = open(&folder, "").unwrap();
    assert_eq!(dataset.labels, ["cat", "dog"]);
    let ids: Vec<_> = dataset
        .samples
        .iter()
        .map(|s| (s.id.as_str(), s.label))
        .collect();
    assert_eq!(
        ids,
        [
            ("cat/a.tiff", 0),
            ("cat/z.webp", 0),
            ("dog/a/deep.png", 1),
            ("dog/b.JPG", 1)
        ]
    );
    assert_eq!(dataset.skipped.count, 2);
    assert_eq!(
        dataset.skipped.examples,
        ["cat/notes.txt", "dog/a/more.csv"]
    );
    assert!(dataset.path(&dataset.samples[0]).ends_with("cat/a.tiff"));
}

#[cfg(unix)]
#[test]
fn a_folder_takes_no_root() {
    let folder = Folder::new();
    folder.write("cat/a.png", "");
    folder.write("dog/a.png", "");
    let options = DataOptions {
        root: Some("elsewhere".into()),
        ..DataOptions::default()
    };
    let error = data::open(&folder.path(""), &options).unwrap_err();
    assert!(matches!(error, Error::RootOfFolder { .. }), "{error}");
    assert!(
        error.to_string().contains("data.root is elsewhere"),
        "{error}"
    );
}

#[test]
fn links_are_followed_but_not_in_circles() {
    use std::os::unix::fs::symlink;
    let elsewhere = Folder::new();
    elsewhere.write("images/1.png", "");
    let folder = Folder::new();
    folder.write("cat/a.png", "");
    folder.write("dog/a.png", "");
    symlink(elsewhere.path("images"), folder.path("dog/more")).unwrap();
    symlink(folder.path("cat/a.png"), folder.path("dog/linked.png")).unwrap();
    let ids: Vec<_> = open(&folder, "")
        .unwrap()
        .samples
        .into_iter()
        .map(|s| s.id)
        .collect();
    assert_eq!(
        ids,
        ["cat/a.png", "dog/a.png", "dog/linked.png", "dog/more/1.png"]
    );

    symlink(folder.path("dog"), folder.path("dog/more/again")).unwrap();
    let error = open(&folder, "").unwrap_err();
    assert!(
        matches!(&error, Error::LinkLoop { path } if path.ends_with("dog/more/again")),
        "{error}"
    );
    fs::remove_file(folder.path("dog/more/again")).unwrap();

    symlink(folder.path("nowhere"), folder.path("dog/broken.png")).unwrap();
    let error = open(&folder, "").unwrap_err().to_string();
    assert!(
        error.contains("dog/broken.png") && error.contains("follow the link"),
        "{error}"
    );
}

#[cfg(target_os = "linux")]
#[test]
fn names_that_are_no_text_are_refused() {
    use std::{ffi::OsStr, os::unix::ffi::OsStrExt};
    let folder = Folder::new();
    folder.write("cat/a.png", "");
    fs::write(folder.path("cat").join(OsStr::from_bytes(b"b\xff.png")), "").unwrap();
    folder.write("dog/a.png", "");
    assert!(matches!(open(&folder, ""), Err(Error::NotUtf8 { .. })));
}

#[test]
fn what_is_no_data_set_is_said() {
    let cases: [(&str, &[&str], &str, &[&str]); 8] = [
        (
            "missing",
            &[],
            "nothing",
            &[
                "nothing",
                "no such file or folder",
                "one folder of images per class",
            ],
        ),
        (
            "stray images",
            &["x.png", "y.jpg", "cat/a.png", "dog/b.png"],
            "",
            &["x.png, y.jpg", "without a label"],
        ),
        (
            "no folders",
            &["README.md"],
            "",
            &["no class folders", "cat/1.jpg"],
        ),
        (
            "one class",
            &["cat/a.png"],
            "",
            &["the only label is `cat`", "at least two"],
        ),
        (
            "a class of two lines",
            &["cat/a.png", "d\nog/b.png"],
            "",
            &[r#"the label "d\nog" has control characters"#, "rename"],
        ),
        (
            "an empty class",
            &["cat/a.png", "dog/b.txt"],
            "",
            &["no images in the class folder(s) dog"],
        ),
        (
            "split folders",
            &["train/cat/a.png", "val/cat/b.png"],
            "",
            &["train, val", "named like splits"],
        ),
        (
            "not a CSV",
            &["a.png"],
            "a.png",
            &["a.png", "no column `path` in the header"],
        ),
    ];
    for (name, files, source, want) in cases {
        let folder = Folder::new();
        files.iter().for_each(|file| folder.write(file, "bytes"));
        let error = open(&folder, source).expect_err(name).to_string();
        assert!(
            want.iter().all(|part| error.contains(part)),
            "{name}: {error}"
        );
    }
}

#[test]
fn a_csv_is_listed_in_order() {
    let text = "\u{feff}label, path ,split,group\n10, b.png,val,g\n9,./x//a.png,train,\n\"10\",\"c,d.png\",val,g\n";
    let dataset = open_csv(text).unwrap();
    assert_eq!(dataset.labels, ["9", "10"]);
    let rows: Vec<_> = dataset
        .samples
        .iter()
        .map(|s| (s.id.as_str(), s.label, s.group.as_deref(), s.given.unwrap()))
        .collect();
    let want = [
        ("b.png", 1, Some("g"), GivenSplit::Val),
        ("c,d.png", 1, Some("g"), GivenSplit::Val),
        ("x/a.png", 0, None, GivenSplit::Train),
    ];
    assert_eq!(rows, want);
    let words = open_csv("path,label\na,10\nb,9\nc,x\n").unwrap();
    assert_eq!(words.labels, ["10", "9", "x"]);
    assert!(
        words
            .samples
            .iter()
            .all(|s| s.given.is_none() && s.group.is_none())
    );
}

#[test]
fn a_csv_with_a_fault_is_refused_with_its_place() {
    let cases: [(&str, &str, &[&str]); 20] = [
        (
            "stray column",
            "path,label,grp\na,b,c\n",
            &[
                "unknown column `grp`",
                "did you mean `group`?",
                "expected path,label[,group][,split]",
            ],
        ),
        (
            "stray column of another kind",
            "path,label,weight\na,b,1\n",
            &["unknown column `weight`;"],
        ),
        (
            "capital",
            "Path,label\na,b\n",
            &["unknown column `Path`, did you mean `path`?"],
        ),
        (
            "no label",
            "path,group\na,b\n",
            &["no column `label`", "`path,group`"],
        ),
        (
            "no header",
            "images/a.png,cat\nb,dog\n",
            &["no column `path` in the header `images/a.png,cat`"],
        ),
        (
            "column twice",
            "path,label,path\na,b,c\n",
            &["the column `path` is there twice"],
        ),
        ("empty file", "", &["no column `path`"]),
        ("no rows", "path,label\n", &["no rows below the header"]),
        (
            "short row",
            "path,label\na,x\nb\n",
            &["line: 3", "not a valid CSV"],
        ),
        (
            "empty path",
            "path,label\na,x\n,y\n",
            &["line 3: the column `path` is empty"],
        ),
        (
            "empty label",
            "path,label\na,\n",
            &["line 2: the column `label` is empty"],
        ),
        (
            "path twice",
            "path,label\na,x\nb,y\n./a,y\n",
            &["a (lines 2 and 4)", "more than once"],
        ),
        (
            "above the root",
            "path,label\n../a,x\nb,y\n",
            &["line 2", "`../a` has `..`", "option `root`"],
        ),
        (
            "absolute",
            "path,label\n/etc/a,x\nb,y\n",
            &["line 2", "`/etc/a` lies elsewhere"],
        ),
        (
            "no file",
            "path,label\n.,x\nb,y\n",
            &["line 2", "`.` names no file"],
        ),
        (
            "unknown split",
            "path,label,split\na,x,train\nb,y,test\n",
            &["line 3: unknown split `test`, did you mean `val_test`?"],
        ),
        (
            "split on some rows",
            "path,label,split\na,x,train\nb,y,\n",
            &["line 3 has no split, line 2 has one"],
        ),
        (
            "mixed splits",
            "path,label,split\na,x,train\nb,y,val_test\nc,y,val\n",
            &["line 4 says `val`, line 3 says `val_test`"],
        ),
        (
            "control characters",
            "path,label\na,x\nb,\"y\u{7}z\"\n",
            &[r#"the label "y\u{7}z" has control characters"#],
        ),
        (
            "one label",
            "path,label\na,x\nb,x\n",
            &["the only label is `x`"],
        ),
    ];
    for (name, text, want) in cases {
        let error = open_csv(text).expect_err(name).to_string();
        assert!(error.contains("list.csv"), "{name}: {error}");
        assert!(
            want.iter().all(|part| error.contains(part)),
            "{name}: {error}"
        );
    }
}

#[test]
fn missing_images_are_counted_and_named() {
    let folder = Folder::new();
    folder.write("lists/all.csv", "path,label\na.png,x\nb.png,y\nc.png,y\n");
    folder.write("lists/b.png", "");
    let error = open(&folder, "lists/all.csv").unwrap_err().to_string();
    assert!(
        error.contains("2 of 3 images are missing") && error.contains("a.png, c.png;"),
        "{error}"
    );

    // The option `root` says where they are.
    images::NAMES
        .iter()
        .for_each(|name| folder.write(&format!("images/{name}.png"), ""));
    let options = DataOptions {
        root: Some(folder.path("images")),
        ..DataOptions::default()
    };
    let dataset = data::open(&folder.path("lists/all.csv"), &options).unwrap();
    assert_eq!(dataset.root, folder.path("images"));
    // With `content: none` nothing is looked for.
    assert!(data::open(&folder.path("lists/all.csv"), &listed(Content::None)).is_ok());
}

#[test]
fn an_absolute_path_below_the_root_is_made_relative() {
    let folder = Folder::new();
    let inside = folder.path("images/a.png");
    folder.write(
        "list.csv",
        format!("path,label\n{},x\nimages/b.png,y\n", inside.display()),
    );
    let dataset = data::open(&folder.path("list.csv"), &listed(Content::None)).unwrap();
    assert_eq!(dataset.samples[0].id, "images/a.png");
}

#[test]
fn options_without_meaning_are_refused() {
    let folder = Folder::new();
    let mut options = DataOptions::default();
    options.near.correlation = 1.5;
    let error = data::open(&folder.path(""), &options)
        .unwrap_err()
        .to_string();
    assert!(error.contains("`near.correlation` is 1.5"), "{error}");
    let unknown = serde_json::from_str::<DataOptions>(r#"{"near": {"corelation": 0.9}}"#);
    assert!(unknown.unwrap_err().to_string().contains("corelation"));
}
