//! `stage1 predict`: what it takes, what it writes, how it goes on, and what becomes of bad images.

use crate::{
    cli::{Cli, Outcome},
    fixture::Fixture,
};
use serde_json::Value;
use std::{
    fmt::Write as _,
    fs,
    io::{BufRead, BufReader, Write},
    path::PathBuf,
    process::{Command, Stdio},
};

/// A bundle, and a folder in which `photos` has a red, a green and a blue picture.
struct Project {
    cli: Cli,
    fixture: Fixture,
}

const PHOTOS: [&str; 3] = ["photos/a/red.png", "photos/blue.png", "photos/green.png"];

impl Project {
    fn new() -> Self {
        let project = Self {
            cli: Cli::new(),
            fixture: Fixture::calibrated(),
        };
        for (name, colour) in PHOTOS.iter().zip([[255, 0, 0], [0, 0, 255], [0, 255, 0]]) {
            let picture = project.fixture.picture("x.png", colour);
            project.cli.write(name, fs::read(picture).unwrap());
        }
        project
    }

    fn command(&self, args: &[&str]) -> Command {
        let mut command = self.cli.command(["predict", "--bundle"]);
        command.arg(self.fixture.bundle()).args(args);
        command
    }

    fn run(&self, args: &[&str]) -> Outcome {
        Outcome::of(&mut self.command(args))
    }

    /// Runs, and expects success.
    fn ok(&self, args: &[&str]) -> Outcome {
        let outcome = self.run(args);
        assert_eq!(outcome.code, 0, "{args:?}\n{outcome}");
        outcome
    }

    fn refuses(&self, args: &[&str], want: &str) {
        let outcome = self.run(args);
        assert_eq!(outcome.code, 2, "{args:?}\n{outcome}");
        assert!(
            outcome.stderr.contains(want),
            "{args:?}: expected {want:?}\n{outcome}"
        );
    }

    fn files(&self) -> Vec<String> {
        let entries = fs::read_dir(self.cli.path("")).unwrap();
        let mut names: Vec<_> = entries
            .map(|entry| entry.unwrap().file_name().into_string().unwrap())
            .collect();
        names.sort();
        names
    }
}

fn records(text: &str) -> Vec<Value> {
    text.lines()
        .map(|line| serde_json::from_str(line).unwrap())
        .collect()
}

fn paths(text: &str) -> Vec<String> {
    let records = records(text).into_iter();
    records
        .map(|record| record["path"].as_str().unwrap().to_owned())
        .collect()
}

#[test]
fn images_come_from_folders_patterns_lists_and_standard_input() {
    let project = Project::new();
    assert_eq!(paths(&project.ok(&["--json", "photos"]).stdout), PHOTOS);
    let pattern = project.ok(&["--json", "photos/**/*r*.png", "photos/blue.png"]);
    assert_eq!(paths(&pattern.stdout), [PHOTOS[0], PHOTOS[2], PHOTOS[1]]);
    project
        .cli
        .write("photos/list.csv", "id,path\n1,green.png\n2,a/red.png\n");
    let listed = project.ok(&["--json", "photos/list.csv"]);
    assert_eq!(
        paths(&listed.stdout),
        ["green.png", "a/red.png"],
        "as the list names them"
    );
    project.cli.write("list.txt", "blue.png\n");
    let listed = project.ok(&["--json", "list.txt", "--root", "photos"]);
    assert_eq!(paths(&listed.stdout), ["blue.png"]);

    let mut child = project
        .command(&["--json", "-"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    let mut stdin = child.stdin.take().unwrap();
    writeln!(stdin, "{}\n{}", PHOTOS[1], PHOTOS[0]).unwrap();
    drop(stdin);
    let output = child.wait_with_output().unwrap();
    assert_eq!(
        paths(&String::from_utf8(output.stdout).unwrap()),
        [PHOTOS[1], PHOTOS[0]]
    );

    // What it wrote names images, too.
    project.ok(&["photos", "-o", "first.jsonl"]);
    let again = project.ok(&["--json", "first.jsonl"]);
    assert_eq!(again.stdout, project.cli.read("first.jsonl"));
}

#[test]
fn every_format_says_the_same() {
    let project = Project::new();
    let lines = project.ok(&["photos", "--json"]).stdout;
    let labels = ["red", "blue", "green"];
    for (record, want) in records(&lines).iter().zip(labels) {
        assert_eq!(
            (&record["decision"], &record["label"]),
            (&"answer".into(), &want.into())
        );
    }
    assert_eq!(project.ok(&["photos", "--format", "jsonl"]).stdout, lines);
    let table = project.ok(&["photos"]).stdout;
    assert!(
        table.starts_with("decision  label  probability  path\nanswer    red "),
        "{table}"
    );
    let csv = project.ok(&["photos", "--format", "csv"]).stdout;
    assert!(
        csv.starts_with("path,decision,label,") && csv.lines().count() == 4,
        "{csv}"
    );
    for (name, format, want) in [
        ("a.jsonl", None, &lines),
        ("a.CSV", None, &csv),
        ("a", Some("csv"), &csv),
    ] {
        let mut args = vec!["photos", "-o", name, "--json"];
        args.extend(format.iter().flat_map(|format| ["--format", format]));
        let outcome = project.ok(&args);
        let report = outcome.json();
        assert_eq!(
            (&report["images"], &report["answered"]),
            (&3.into(), &3.into()),
            "{outcome}"
        );
        assert_eq!(project.cli.read(name), *want, "{name}");
    }
    project.ok(&["photos", "-o", "new/a.parquet"]);
    assert_eq!(
        &fs::read(project.cli.path("new/a.parquet")).unwrap()[..4],
        b"PAR1"
    );
}

#[test]
fn lines_that_make_no_sense_are_refused() {
    let project = Project::new();
    project.cli.write("a.csv", "old");
    let cases: [(&[&str], &str); 9] = [
        (
            &["photos", "-o", "a.csv"],
            "a.csv exists; choose another --output",
        ),
        (
            &["photos", "-o", "a.csv", "--resume"],
            "it wasn't written with --resume",
        ),
        (
            &["photos", "-o", "a.csv", "--resume", "--overwrite"],
            "--overwrite",
        ),
        (
            &["photos", "-o", "a.parquet", "--resume"],
            "--resume needs JSON lines or CSV",
        ),
        (&["photos", "-o", "a.png"], "its extension says no format"),
        (&["photos", "--format", "parquet"], "needs --output"),
        (
            &["photos", "--format", "csv", "--json"],
            "leave out --json or --format",
        ),
        (&["photos", "--resume"], "--output"),
        (&["photos/*.gif"], "no file matches this pattern"),
    ];
    for (args, want) in cases {
        project.refuses(args, want);
    }
    assert_eq!(project.cli.read("a.csv"), "old");
    project.ok(&["photos", "-o", "a.csv", "--overwrite"]);
    assert!(project.cli.read("a.csv").starts_with("path,"));
    assert_eq!(project.files(), ["a.csv", "photos"]);
}

#[test]
fn an_interrupted_job_is_gone_on_with() {
    let project = Project::new();
    for name in ["a.jsonl", "a.csv"] {
        let args = ["photos", "-o", name, "--resume", "--json"];
        let whole = project.ok(&args);
        assert_eq!(whole.json()["resumed"], 0, "{whole}");
        let text = project.cli.read(name);
        project.cli.write(name, &text[..text.len() - 20]);
        let again = project.ok(&args);
        assert_eq!(
            (&again.json()["resumed"], &again.json()["images"]),
            (&2.into(), &3.into()),
            "{again}"
        );
        assert!(again.stderr.contains("has 2 records, going on"), "{again}");
        assert_eq!(project.cli.read(name), text, "{name}");
        let nothing = project.ok(&args);
        assert_eq!(nothing.json()["resumed"], 3, "{nothing}");
        assert_eq!(project.cli.read(name), text, "{name}");

        project.refuses(
            &[&args[..], &["--max-pixels", "1000"]].concat(),
            "`max_pixels` was 67108864, now it is 1000",
        );
        project.cli.write(
            "photos/b.png",
            fs::read(project.cli.path(PHOTOS[0])).unwrap(),
        );
        project.refuses(
            &args,
            "record 2 is of `photos/blue.png`, but image 2 is `photos/b.png` now",
        );
        fs::remove_file(project.cli.path("photos/b.png")).unwrap();
        project.cli.write(
            "photos/x.png",
            fs::read(project.cli.path(PHOTOS[0])).unwrap(),
        );
        let grown = project.ok(&args);
        assert_eq!(grown.json()["images"], 4, "more at the end: {grown}");
        fs::remove_file(project.cli.path("photos/x.png")).unwrap();
    }
}

/// Images that are no picture, half of one, or not what they are called; and whether each is judged.
fn bad_images(project: &Project) -> Vec<(&'static str, Option<&'static str>)> {
    let png = fs::read(project.fixture.picture("y.png", [255, 0, 0])).unwrap();
    let mut jpeg = Vec::new();
    let red = image::RgbImage::from_pixel(64, 48, image::Rgb([255, 0, 0]));
    image::codecs::jpeg::JpegEncoder::new(&mut jpeg)
        .encode_image(&red)
        .unwrap();
    project
        .cli
        .write("bad/truncated.jpg", &jpeg[..jpeg.len() - 40]);
    project.cli.write("bad/huge.png", huge_png());
    project.cli.write("bad/called.png", &jpeg);
    project.cli.write("bad/zero.jpg", "");
    project.cli.write("bad/text.jpg", "no picture");
    fs::create_dir_all(project.cli.path("bad/folder.jpg")).unwrap();
    project.cli.write("bad/good.png", png);
    for name in ["cmyk.jpg", "animated.gif", "animated.webp", "animated.png"] {
        let pictures = concat!(
            env!("CARGO_MANIFEST_DIR"),
            "/../core/tests/fixtures/pictures"
        );
        let picture = fs::read(PathBuf::from(pictures).join(name)).unwrap();
        project.cli.write(&format!("bad/{name}"), picture);
    }
    vec![
        ("bad/truncated.jpg", Some("truncated JPEG image")),
        (
            "bad/huge.png",
            Some(
                "PNG image of 100000x100000 pixels, the limit is 67108864 pixels; raise `max_pixels`",
            ),
        ),
        ("bad/called.png", None),
        ("bad/zero.jpg", Some("the image file is empty (0 bytes)")),
        (
            "bad/text.jpg",
            Some("not an image: no known format starts with `no pictu`"),
        ),
        (
            "bad/missing.jpg",
            Some("cannot read the image: No such file"),
        ),
        ("bad/cmyk.jpg", None),
        ("bad/animated.gif", None),
        ("bad/animated.webp", None),
        ("bad/animated.png", None),
        ("bad/good.png", None),
    ]
}

/// A PNG whose header promises 10^10 pixels.
fn huge_png() -> Vec<u8> {
    let mut header = b"IHDR".to_vec();
    header.extend(100_000_u32.to_be_bytes());
    header.extend(100_000_u32.to_be_bytes());
    header.extend([8, 2, 0, 0, 0]);
    let mut png = b"\x89PNG\r\n\x1a\n\0\0\0\x0d".to_vec();
    png.extend(&header);
    png.extend(crc32(&header).to_be_bytes());
    png.extend(b"\0\0\0\x01IDAT\0");
    png
}

fn crc32(bytes: &[u8]) -> u32 {
    let step = |crc: u32, _| (crc >> 1) ^ (0xedb8_8320 & (crc & 1).wrapping_neg());
    !bytes
        .iter()
        .fold(!0, |crc, &byte| (0..8).fold(crc ^ u32::from(byte), step))
}

#[test]
fn a_bad_image_is_a_record_and_not_an_end() {
    let project = Project::new();
    let cases = bad_images(&project);
    let mut list = String::new();
    for (path, _) in &cases {
        writeln!(list, "{path}").unwrap();
    }
    project.cli.write("list.txt", &list);
    for (args, lines) in [
        (&["list.txt", "--json"][..], None),
        (&["list.txt", "-o", "a.jsonl"], Some("a.jsonl")),
        (
            &["list.txt", "-o", "b.jsonl", "--resume", "--batch", "3"],
            Some("b.jsonl"),
        ),
    ] {
        let outcome = project.run(args);
        assert_eq!(outcome.code, 1, "some couldn't be judged: {outcome}");
        assert!(
            outcome
                .stderr
                .contains("5 of 11 images could not be judged"),
            "{outcome}"
        );
        let text = lines.map_or(outcome.stdout, |name| project.cli.read(name));
        let found = records(&text);
        assert_eq!(found.len(), cases.len());
        for (record, (path, error)) in found.iter().zip(&cases) {
            assert_eq!(record["path"], *path);
            match error {
                None => assert_ne!(record["decision"], "error", "{record}"),
                Some(want) => {
                    assert_eq!(record["decision"], "error", "{record}");
                    let error = record["error"].as_str().unwrap();
                    assert!(error.starts_with(path) && error.contains(want), "{error}");
                }
            }
        }
    }
    let red = project.run(&["bad/called.png", "bad/good.png", "--json"]);
    for record in records(&red.stdout) {
        assert_eq!(record["label"], "red", "{record}");
    }
    let outcome = project.run(&["bad/zero.jpg", "bad/text.jpg", "--json"]);
    assert_eq!(outcome.code, 2, "none could be judged: {outcome}");
    assert_eq!(records(&outcome.stdout).len(), 2, "{outcome}");
    project.refuses(&["bad/folder.jpg"], "no images in this folder");
}

/// A file with a folder's name among a list's images, and one that may not be read.
#[cfg(unix)]
#[test]
fn what_cannot_be_read_says_why() {
    use std::os::unix::fs::{PermissionsExt, symlink};
    let project = Project::new();
    project.cli.write("locked.png", "x");
    fs::set_permissions(
        project.cli.path("locked.png"),
        fs::Permissions::from_mode(0o0),
    )
    .unwrap();
    symlink("nowhere.png", project.cli.path("link.png")).unwrap();
    project.cli.write(
        "list.txt",
        format!("photos\nlocked.png\nlink.png\n{}\n", PHOTOS[0]),
    );
    let outcome = project.run(&["list.txt", "--json"]);
    assert_eq!(outcome.code, 1, "{outcome}");
    let found = records(&outcome.stdout);
    let error = |i: usize| found[i]["error"].as_str().unwrap();
    assert!(error(0).contains("Is a directory"), "{}", error(0));
    // Root may read everything: then it is no image.
    assert!(
        ["Permission denied", "not an image"]
            .iter()
            .any(|want| error(1).contains(want)),
        "{}",
        error(1)
    );
    assert!(error(2).contains("No such file"), "{}", error(2));
    assert_eq!(found[3]["decision"], "answer");
}

#[cfg(unix)]
#[test]
fn a_signal_ends_it_in_order() {
    let project = Project::new();
    let signalled = |args: &[&str]| {
        let mut child = project
            .command(args)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let mut stdin = child.stdin.take().unwrap();
        // Enough for some records; then it waits for more.
        for _ in 0..400 {
            writeln!(stdin, "{}", PHOTOS[0]).unwrap();
        }
        stdin.flush().unwrap();
        (child, stdin)
    };
    let interrupt = |child: &std::process::Child| {
        let id = child.id().to_string();
        assert!(
            Command::new("kill")
                .args(["-INT", &id])
                .status()
                .unwrap()
                .success()
        );
    };

    let (child, mut stdin) = signalled(&["-", "--json"]);
    let mut child = child;
    let mut first = String::new();
    BufReader::new(child.stdout.as_mut().unwrap())
        .read_line(&mut first)
        .unwrap();
    assert_eq!(records(&first)[0]["decision"], "answer");
    interrupt(&child);
    // It may be waiting for a path.
    _ = writeln!(stdin, "{}", PHOTOS[0]);
    drop(stdin);
    let output = child.wait_with_output().unwrap();
    let stderr = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(2), "{stderr}");
    assert!(stderr.contains("interrupted after"), "{stderr}");
    assert_eq!(project.files(), ["photos"]);
}

/// Half of the memory of a list of a million paths would be more.
#[cfg(target_os = "linux")]
#[test]
fn many_images_take_no_more_memory_than_few() {
    let project = Project::new();
    let peak = |images: usize| {
        let mut list = format!("{}\n", PHOTOS[0]);
        for i in 0..images {
            writeln!(list, "missing/with/a/rather/long/path/{i:08}.png").unwrap();
        }
        project.cli.write("list.txt", list);
        let mut child = project
            .command(&["list.txt", "-o", "a.jsonl", "--overwrite", "--quiet"])
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let status = PathBuf::from(format!("/proc/{}/status", child.id()));
        let mut peak = 0;
        while child.try_wait().unwrap().is_none() {
            let text = fs::read_to_string(&status).unwrap_or_default();
            let line = text.lines().find_map(|line| line.strip_prefix("VmHWM:"));
            let kib = line.and_then(|line| line.trim().strip_suffix(" kB")?.parse().ok());
            peak = peak.max(kib.unwrap_or(0));
            std::thread::sleep(std::time::Duration::from_millis(2));
        }
        assert_eq!(project.cli.read("a.jsonl").lines().count(), images + 1);
        peak
    };
    let (few, many): (u64, u64) = (peak(1_000), peak(200_000));
    // The paths alone would be 10 MiB, their records 30.
    assert!(
        few > 0 && many < few + 6 * 1024,
        "{few} KiB, and {many} KiB for 200 times as many"
    );
}
