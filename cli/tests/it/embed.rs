//! `stage1 embed`: pictures to features, as Hugging Face's processor and the exported backbone make them.

use crate::cli::Cli;
use serde_json::Value;
use stage1_core::{artifact::tensors::TensorFile, model::Weights};
use stage1_exporter::export_embedding;
use stage1_runtime::{OrtSession, SessionOptions};
use std::{
    collections::BTreeMap,
    fs,
    path::{Path, PathBuf},
};

/// The side of the golden pixels.
pub(crate) const SIDE: usize = 56;

/// The pipeline of the golden pixels, of pictures that every decoder decodes alike.
const PIPELINE: &str = "hf.dinov3.square56";

pub(crate) fn goldens() -> PathBuf {
    let goldens = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../goldens");
    goldens.canonicalize().unwrap()
}

/// Golden backbones whose patches divide the golden pixels.
pub(crate) const BACKBONES: [&str; 4] = [
    "dinov2",
    "dinov2-registers-swiglu",
    "dinov3-vit-mlp",
    "dinov3-vit-swiglu",
];

/// Copies the golden PNGs into the folder `pictures`; returns their pixels as Hugging Face's processor makes them.
pub(crate) fn pictures(cli: &Cli) -> BTreeMap<String, Vec<f32>> {
    let folder = goldens().join("preprocess");
    let cases = TensorFile::open(&folder.join("cases.safetensors")).unwrap();
    let mut pixels = BTreeMap::new();
    for entry in fs::read_dir(&folder).unwrap() {
        let path = entry.unwrap().path();
        if path.extension().is_none_or(|extension| extension != "png") {
            continue;
        }
        let name = path.file_name().unwrap().to_str().unwrap().to_owned();
        cli.write(&format!("pictures/{name}"), fs::read(&path).unwrap());
        let stem = path.file_stem().unwrap().to_str().unwrap();
        let (_, values) = cases.f32(&format!("{stem}/{PIPELINE}")).unwrap();
        pixels.insert(format!("pictures/{name}"), values);
    }
    assert!(pixels.len() >= 2, "golden pictures");
    pixels
}

/// The rows of a file of features.
fn read(cli: &Cli, name: &str) -> BTreeMap<String, Vec<f32>> {
    let file = TensorFile::open(&cli.path(name)).unwrap();
    let (shape, features) = file.f32("features").unwrap();
    let (text, ids) = file.u8("id").unwrap();
    assert_eq!(shape[0], text[0]);
    let id = |row: &[u8]| {
        String::from_utf8_lossy(row)
            .trim_end_matches('\0')
            .to_owned()
    };
    let rows = features.chunks_exact(shape[1]).map(<[f32]>::to_vec);
    ids.chunks_exact(text[1]).map(id).zip(rows).collect()
}

/// The largest |a - b|, as a share of the largest |b|.
fn relative_error(a: &[f32], b: &[f32]) -> f32 {
    assert_eq!(a.len(), b.len());
    let scale = b.iter().fold(0.0_f32, |max, b| max.max(b.abs()));
    let worst = a.iter().zip(b).map(|(a, b)| (a - b).abs());
    worst.fold(0.0, f32::max) / scale
}

fn backbone(name: &str) -> String {
    goldens().join("backbones").join(name).display().to_string()
}

#[test]
fn features_are_the_backbones_of_the_golden_pixels() {
    let cli = Cli::new();
    let pixels = pictures(&cli);
    for name in BACKBONES {
        let (backbone, side) = (backbone(name), SIDE.to_string());
        let outcome = cli.run([
            "embed",
            "pictures",
            "--backbone",
            &backbone,
            "--image-size",
            &side,
            "--out",
            "a.safetensors",
            "--overwrite",
            "--json",
        ]);
        assert_eq!(outcome.code, 0, "{outcome}");
        let document = outcome.json();
        assert_eq!(document["rows"], pixels.len(), "{outcome}");
        assert_eq!(document["made"]["provider"], "cpu", "{outcome}");
        assert_eq!(
            document["made"]["preprocess"]["resize"]["exact"]["height"],
            SIDE
        );
        let rows = read(&cli, "a.safetensors");
        assert!(rows.keys().eq(pixels.keys()), "{:?}", rows.keys());

        let weights = Weights::open(&goldens().join("backbones").join(name)).unwrap();
        let model = export_embedding(&weights, SIDE, SIDE).unwrap().model;
        let options = SessionOptions::default();
        let mut session = OrtSession::from_bytes(&model, name, &options).unwrap();
        for (id, pixels) in &pixels {
            let outputs = session.run_named(pixels, [1, 3, SIDE, SIDE], &["features"]);
            let error = relative_error(&rows[id], &outputs.unwrap()[0].values);
            assert!(error <= 1e-4, "{name} {id}: {error:e}");
        }
    }
}

#[test]
fn a_model_a_table_and_another_batch_give_the_same_rows() {
    let cli = Cli::new();
    let pixels = pictures(&cli);
    let (backbone, side) = (backbone("dinov3-vit-mlp"), SIDE.to_string());
    let names: Vec<String> = pixels.keys().map(|id| format!("{id}\n")).collect();
    cli.write("list.csv", format!("path\n{}", names.concat()));
    for (batch, out) in [("dynamic", "any.onnx"), ("3", "three.onnx")] {
        let outcome = cli.run([
            "export",
            "--backbone",
            &backbone,
            "--image-size",
            &side,
            "--batch",
            batch,
            "--out",
            out,
        ]);
        assert_eq!(outcome.code, 0, "{outcome}");
    }
    let ways: [&[&str]; 4] = [
        &["pictures", "--backbone", &backbone, "--image-size", &side],
        &[
            "pictures",
            "--model",
            "any.onnx",
            "--batch",
            "1",
            "--threads",
            "1",
        ],
        &["list.csv", "--model", "any.onnx"],
        &["list.csv", "--root", ".", "--model", "three.onnx"],
    ];
    let mut first = None;
    for (i, way) in ways.into_iter().enumerate() {
        let out = format!("{i}.safetensors");
        let outcome = cli.run([&["embed", "-o", &out], way].concat());
        assert_eq!(outcome.code, 0, "{way:?}\n{outcome}");
        let rows = read(&cli, &out);
        let first = first.get_or_insert_with(|| rows.clone());
        assert!(rows.keys().eq(first.keys()), "{way:?}: {:?}", rows.keys());
        for (id, row) in &rows {
            let error = relative_error(row, &first[id]);
            assert!(error <= 1e-5, "{way:?} {id}: {error:e}");
        }
    }
}

#[test]
fn bad_images_stop_it_or_are_counted() {
    let cli = Cli::new();
    let good = pictures(&cli).len();
    cli.write("pictures/0-bad.png", "no picture");
    let (backbone, side) = (backbone("dinov2"), SIDE.to_string());
    let embed = |paths: &str, out: &str, more: &[&str]| {
        let args = [
            "embed",
            paths,
            "--backbone",
            &backbone,
            "--image-size",
            &side,
            "--out",
            out,
        ];
        cli.run([&args, more].concat())
    };
    let outcome = embed("pictures", "a.parquet", &[]);
    assert_eq!(outcome.code, 2, "{outcome}");
    for part in ["0-bad.png", "--on-bad-image skip"] {
        assert!(outcome.stderr.contains(part), "{outcome}");
    }
    let skip = ["--on-bad-image", "skip", "--json"];
    let outcome = embed("pictures/0-bad.png", "a.parquet", &skip);
    assert_eq!(outcome.code, 2, "{outcome}");
    assert!(outcome.stderr.contains("nothing was written"), "{outcome}");
    let left = || {
        let entries = fs::read_dir(cli.path("")).unwrap();
        let mut names: Vec<_> = entries.map(|entry| entry.unwrap().file_name()).collect();
        names.sort();
        names
    };
    assert_eq!(left(), ["pictures"], "nothing, and no half of it");

    let outcome = embed("pictures", "a.parquet", &skip);
    assert_eq!(outcome.code, 0, "{outcome}");
    let document: Value = outcome.json();
    assert_eq!(
        (&document["rows"], &document["skipped"]["count"]),
        (&good.into(), &1.into())
    );
    assert!(outcome.stderr.contains("0-bad.png"), "{outcome}");
    let before = fs::read(cli.path("a.parquet")).unwrap();
    assert_eq!(&before[..4], b"PAR1");
    let outcome = embed("pictures", "a.parquet", &skip);
    assert!(outcome.stderr.contains("--overwrite"), "{outcome}");
    assert_eq!(fs::read(cli.path("a.parquet")).unwrap(), before);
    assert_eq!(
        embed(
            "pictures",
            "a.parquet",
            &[&skip[..], &["--overwrite"]].concat()
        )
        .code,
        0
    );
    assert_eq!(
        fs::read(cli.path("a.parquet")).unwrap(),
        before,
        "the same again"
    );
    assert_eq!(left(), ["a.parquet", "pictures"]);
}

/// Features name the model that made them: weights beside it that aren't its own are refused.
#[test]
fn weights_beside_the_model_are_its_own() {
    let cli = Cli::new();
    pictures(&cli);
    let (backbone, side) = (backbone("dinov2"), SIDE.to_string());
    let outside = ["--external-above", "1000", "--out", "m.onnx"];
    let export = ["export", "--backbone", &backbone, "--image-size", &side];
    let exported = cli.run([&export[..], &outside].concat());
    assert_eq!(exported.code, 0, "{exported}");
    let embed = ["embed", "pictures", "--model", "m.onnx", "-o", "a.parquet"];
    let good = cli.run(embed);
    assert_eq!(good.code, 0, "{good}");
    let data = cli.path("m.onnx.data");
    let mut bytes = fs::read(&data).unwrap();
    let last = bytes.len() - 3;
    bytes[last] ^= 1;
    fs::write(&data, bytes).unwrap();
    let refused = ["embed", "pictures", "--model", "m.onnx", "-o", "b.parquet"];
    cli.refuses(&refused, &["its weights: ", "with digest"]);
    fs::remove_file(&data).unwrap();
    cli.refuses(&refused, &["no file", "m.onnx.data"]);
    assert!(!cli.path("b.parquet").exists());
}

/// Also a licence of the backbone goes with what is exported of it.
#[test]
fn a_model_of_grey_levels_gets_them() {
    let cli = Cli::new();
    pictures(&cli);
    let (golden, side) = (backbone("dinov3-vit-mlp"), SIDE.to_string());
    for name in ["config.json", "model.safetensors"] {
        cli.write(
            &format!("backbone/{name}"),
            fs::read(Path::new(&golden).join(name)).unwrap(),
        );
    }
    for (input, out) in [("float32", "float.onnx"), ("uint8", "bytes.onnx")] {
        let export = ["export", "--backbone", "backbone", "--image-size", &side];
        let outcome = cli.run([&export[..], &["--input", input, "--out", out]].concat());
        assert_eq!(outcome.code, 0, "{outcome}");
        let told = outcome.stderr.contains("backbone has no file LICENSE");
        assert_eq!(told, input == "float32", "{outcome}");
        let text = cli.path(out).with_added_extension("LICENSE.md");
        assert_eq!(text.exists(), input == "uint8", "{outcome}");
        cli.write("backbone/LICENSE.md", "as you like");
    }
    let embed = |model: &str, preprocess: &str| {
        let embed = [
            "embed",
            "pictures",
            "-o",
            "features.safetensors",
            "--overwrite",
        ];
        cli.run([&embed[..], &["--model", model, "--preprocess", preprocess]].concat())
    };
    let [float, bytes] = ["float.onnx", "bytes.onnx"].map(|model| {
        let outcome = embed(model, "dinov2");
        assert_eq!(outcome.code, 0, "{outcome}");
        read(&cli, "features.safetensors")
    });
    for (id, row) in &float {
        let error = relative_error(row, &bytes[id]);
        assert!(error <= 1e-5, "{id}: {error:e}");
    }
    let outcome = embed("bytes.onnx", "dinov3");
    assert_ne!(outcome.code, 0, "{outcome}");
    assert!(outcome.stderr.contains("takes grey levels"), "{outcome}");
}

#[test]
fn lines_that_make_no_sense_are_refused() {
    let cli = Cli::new();
    pictures(&cli);
    let backbone = backbone("dinov2");
    let cases: [(&[&str], &str); 6] = [
        (
            &["--backbone", &backbone, "--out", "a.csv"],
            ".safetensors or .parquet",
        ),
        (&["--out", "a.parquet"], "--backbone"),
        (
            &[
                "--model",
                "m.onnx",
                "--image-size",
                "56",
                "--out",
                "a.parquet",
            ],
            "--image-size",
        ),
        (&["--model", "m.onnx", "--out", "a.parquet"], "m.onnx"),
        (
            &[
                "--backbone",
                &backbone,
                "--image-size",
                "57",
                "--out",
                "a.parquet",
            ],
            "57",
        ),
        (
            &[
                "--backbone",
                &backbone,
                "--batch",
                "0",
                "--out",
                "a.parquet",
            ],
            "--batch is 0",
        ),
    ];
    for (more, want) in cases {
        cli.refuses(&[&["embed", "pictures"], more].concat(), &[want]);
    }
}
