//! Verbs that need no run: config, completions, import; and how predict and bench fail.

use crate::cli::{Cli, Outcome};
use serde_json::Value;
use std::path::Path;

#[test]
fn the_schema_is_one_json_document() {
    let cli = Cli::new();
    for args in [&["config", "schema"][..], &["config", "schema", "--json"]] {
        let outcome = cli.run(args);
        assert_eq!(outcome.code, 0, "{outcome}");
        let schema = outcome.json();
        assert_eq!(schema["title"], "Stage1 configuration");
        assert!(schema["properties"]["train"].is_object(), "{outcome}");
    }
}

#[test]
fn a_configuration_is_shown_with_defaults_and_overrides() {
    let cli = Cli::new();
    assert_eq!(cli.run(["init"]).code, 0);
    let outcome = cli.run(["config", "show", "--json", "--set", "train.epochs=3"]);
    assert_eq!(outcome.code, 0, "{outcome}");
    assert_eq!(outcome.json()["train"]["epochs"], 3);

    let shown = cli.run(["config", "show"]);
    cli.write("shown.yaml", &shown.stdout);
    let again = cli.run(["config", "show", "-c", "shown.yaml"]);
    assert_eq!((again.code, again.stdout), (0, shown.stdout));

    cli.refuses(
        &["config", "show", "--set", "train.epohcs=3"],
        &["unknown key `train.epohcs`; did you mean `train.epochs`?"],
    );
    cli.refuses(&["config", "show", "-c", "none.yaml"], &["none.yaml"]);
}

#[test]
fn failures_are_json_too_if_asked() {
    let cli = Cli::new();
    let outcome = cli.run(["config", "show", "-c", "none.yaml", "--json"]);
    assert_eq!(outcome.code, 2, "{outcome}");
    assert!(
        outcome.json()["error"]
            .as_str()
            .unwrap()
            .contains("none.yaml"),
        "{outcome}"
    );
}

#[test]
fn a_wrong_line_is_json_too_if_asked() {
    let cli = Cli::new();
    let outcome = cli.run(["predict", "--json"]);
    assert_eq!(outcome.code, 2, "{outcome}");
    let error = outcome.json()["error"].to_string();
    assert!(error.contains("--bundle"), "{outcome}");
    let help = cli.run(["predict", "--help"]);
    assert_eq!(help.code, 0, "{help}");
    assert!(help.stdout.contains("--max-pixels"), "{help}");
}

#[test]
fn absurd_numbers_are_refused_before_anything_starts() {
    let cli = Cli::new();
    assert_eq!(cli.run(["init"]).code, 0);
    for (set, want) in [
        ("threads=100000", "at most 1024"),
        ("data.max_pixels=0", "data.max_pixels"),
        ("data.near.correlation=2", "at most 1"),
    ] {
        cli.refuses(&["config", "show", "--set", set], &[want]);
    }
    cli.refuses(
        &["predict", "--bundle", "b", "a.png", "--threads", "100000"],
        &["--threads is above 1024"],
    );
    for size in ["0", "4112", "224x1600000", "18446744073709551616"] {
        let export = [
            "export",
            "--backbone",
            "b",
            "--out",
            "x.onnx",
            "--image-size",
        ];
        cli.refuses(
            &[&export[..], &[size]].concat(),
            &["--image-size", "at most 4096"],
        );
    }
}

#[test]
fn completions_know_the_verbs() {
    let cli = Cli::new();
    for shell in ["bash", "zsh", "fish", "powershell", "elvish"] {
        let outcome = cli.run(["completions", shell]);
        assert_eq!(outcome.code, 0, "{outcome}");
        for verb in ["calibrate", "predict", "doctor"] {
            assert!(outcome.stdout.contains(verb), "{shell}: {verb}");
        }
    }
}

#[test]
fn import_refuses_what_is_no_model_and_what_is_there() {
    let cli = Cli::new();
    cli.write("model.onnx", "not a model");
    cli.refuses(
        &["import", "model.onnx", "--out", "backbone"],
        &["model.onnx: neither a file of torch.save, nor safetensors, nor ONNX"],
    );
    cli.refuses(
        &[
            "import",
            "model.onnx",
            "--out",
            "backbone",
            "--config",
            "dinov4",
        ],
        &[
            "--config dinov4 is neither a file nor a preset",
            "dinov3-vitb16",
        ],
    );
    cli.refuses(
        &["import", "none.onnx", "--out", "backbone"],
        &["none.onnx: cannot read"],
    );
    cli.write("backbone/config.json", "{}");
    cli.refuses(
        &["import", "model.onnx", "--out", "backbone"],
        &["backbone/config.json exists", "--overwrite"],
    );
    assert_eq!(cli.read("backbone/config.json"), "{}");
}

#[test]
fn import_reads_tensors_and_executes_nothing() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
    let file = |name: &str| root.join(name).display().to_string();
    let cli = Cli::new();
    for name in ["command.pth", "command-legacy.pth"] {
        let file = file(&format!("exporter/tests/data/{name}"));
        let arguments = ["import", &file, "--out", "x", "--config", "dinov3-vits16"];
        cli.refuses(&arguments, &[name, "system`", "nothing is executed"]);
        assert!(!cli.path("x").exists());
    }
    let golden = "goldens/backbones/dinov3-convnext";
    let (model, config) = (
        file(&format!("{golden}/model.safetensors")),
        file(&format!("{golden}/config.json")),
    );
    let outcome = cli.run([
        "import", &model, "--out", "x", "--config", &config, "--json",
    ]);
    assert_eq!(outcome.code, 0, "{outcome}");
    let report: Value = serde_json::from_str(&outcome.stdout).unwrap();
    assert_eq!(report["format"], "safetensors");
    assert!(cli.path("x/config.json").is_file());
    let exported = [
        "export",
        "--backbone",
        "x",
        "--image-size",
        "64x32",
        "--out",
        "e.onnx",
    ];
    let outcome = cli.run(exported);
    assert_eq!(outcome.code, 0, "{outcome}");
    assert!(outcome.stdout.contains("tokens [N, 3, 32]"), "{outcome}");
    let rounded = [&exported[..], &["--overwrite", "--rope-periods", "bf16"]].concat();
    cli.refuses(
        &rounded,
        &["dinov3_convnext backbone has no rotary positions"],
    );
}

#[test]
fn an_export_can_be_cut_and_inspected() {
    let golden = Path::new(env!("CARGO_MANIFEST_DIR")).join("../goldens/backbones/dinov3-vit-mlp");
    let golden = golden.display().to_string();
    let cli = Cli::new();
    let export = |out: &str, more: &[&str]| {
        let fixed = [
            "export",
            "--backbone",
            &golden,
            "--image-size",
            "32",
            "--out",
            out,
        ];
        cli.run([&fixed[..], &["--json", "--inspect"], more].concat())
    };
    let (whole, cut) = (
        export("whole.onnx", &[]),
        export("cut.onnx", &["--blocks", "1"]),
    );
    assert_eq!((whole.code, cut.code), (0, 0), "{whole} {cut}");
    let number = |outcome: &Outcome, key: &str| outcome.json()["inspection"][key].as_u64().unwrap();
    for key in ["flops_per_image", "parameters", "bytes"] {
        assert!(number(&cut, key) < number(&whole, key), "{key}: {cut}");
    }
    let again = cli.run(["export", "--inspect", "cut.onnx", "--json"]);
    assert_eq!(
        again.json()["inspection"],
        cut.json()["inspection"],
        "{again}"
    );
    let words = cli.run(["export", "--inspect", "cut.onnx"]);
    for want in [
        "FLOPs per image 0.0",
        "1 Softmax",
        "LayerScale into the layer before it",
    ] {
        assert!(words.stdout.contains(want), "{want}: {words}");
    }
    cli.write("notes.txt", "no model");
    cli.refuses(&["export", "--inspect", "notes.txt"], &["not an ONNX file"]);
    let too_many = export("x.onnx", &["--blocks", "99"]);
    assert!(
        too_many.code == 2 && too_many.stdout.contains("99 blocks"),
        "{too_many}"
    );
}

#[test]
fn large_weights_lie_beside_the_model() {
    let golden = Path::new(env!("CARGO_MANIFEST_DIR")).join("../goldens/backbones/dinov3-vit-mlp");
    let golden = golden.display().to_string();
    let cli = Cli::new();
    let export = |more: &[&str]| {
        let fixed = [
            "export",
            "--backbone",
            &golden,
            "--image-size",
            "32",
            "--out",
            "x.onnx",
            "--json",
        ];
        let outcome = cli.run([&fixed[..], more].concat());
        assert_eq!(outcome.code, 0, "{outcome}");
        outcome.json()
    };
    let data = cli.path("x.onnx.data");
    assert_eq!(export(&["--external-above", "1000"])["data"], "x.onnx.data");
    assert!(data.is_file());
    std::fs::remove_file(cli.path("x.onnx")).unwrap();
    let again = [
        "export",
        "--backbone",
        &golden,
        "--image-size",
        "32",
        "--out",
        "x.onnx",
    ];
    cli.refuses(&again, &["x.onnx.data exists"]);
    assert!(export(&["--overwrite"])["data"].is_null());
    assert!(!data.exists(), "nothing refers to the old weights");
}

#[test]
fn an_exports_input_is_as_asked_for() {
    let golden = Path::new(env!("CARGO_MANIFEST_DIR")).join("../goldens/backbones/dinov3-vit-mlp");
    let golden = golden.display().to_string();
    let cli = Cli::new();
    let fixed = [
        "export",
        "--backbone",
        &golden,
        "--image-size",
        "32",
        "--overwrite",
        "--out",
        "x.onnx",
    ];
    let forms = [
        ("dynamic", "float32", "float32 [N, 3, 32, 32]"),
        ("4", "float32", "float32 [4, 3, 32, 32]"),
        ("4", "uint8", "uint8 [4, 32, 32, 3]"),
    ];
    for (batch, input, shape) in forms {
        let outcome = cli.run([&fixed[..], &["--batch", batch, "--input", input]].concat());
        assert_eq!(outcome.code, 0, "{outcome}");
        assert!(outcome.stdout.contains(shape), "{outcome}");
    }
    let outcome = cli.run([&fixed[..], &["--batch", "0"]].concat());
    assert_ne!(outcome.code, 0, "{outcome}");
}

#[test]
fn exported_backbones_may_have_an_adapter() {
    let goldens = Path::new(env!("CARGO_MANIFEST_DIR")).join("../goldens/backbones/adapters");
    let path = |name: &str| goldens.join(name).display().to_string();
    let adapter = path("lora-qv");
    let cli = Cli::new();
    let base = cli.with_uneven_periods(&goldens.join("lora-qv/base"));
    let export = |out: &str, more: &[&str]| {
        let fixed = [
            "export",
            "--backbone",
            &base,
            "--image-size",
            "32",
            "--out",
            out,
        ];
        let outcome = cli.run([&fixed[..], more].concat());
        assert_eq!(outcome.code, 0, "{outcome}");
        std::fs::read(cli.path(out)).unwrap()
    };
    let plain = export("plain.onnx", &[]);
    let adapted = export("adapted.onnx", &["--adapter", &adapter]);
    let rounded = export("rounded.onnx", &["--rope-periods", "bf16"]);
    assert!(plain != adapted && plain != rounded && adapted != rounded);
    cli.refuses(
        &[
            "export",
            "--backbone",
            &base,
            "--image-size",
            "32",
            "--out",
            "x.onnx",
            "--adapter",
            &base,
        ],
        &["adapter_config.json: cannot read"],
    );
}

#[test]
fn predict_and_bench_name_what_they_lack() {
    let cli = Cli::new();
    cli.write("images/a.png", "");
    cli.write("empty/notes.txt", "");
    cli.write("broken/bundle.json", "{\"schema_version\": 99}");
    for verb in ["predict", "bench"] {
        let cases = [
            (
                &["images", "--bundle", "none"][..],
                &["none: not a bundle: it has no bundle.json", "stage1 export"][..],
            ),
            (
                &["images", "--bundle", "broken"],
                &["broken/bundle.json: bundle.json has schema_version 99"],
            ),
            (
                &["empty", "--bundle", "none"],
                &["empty: no images in this folder"],
            ),
            (
                &["images", "--bundle", "none", "--batch", "0"],
                &["--batch is 0"],
            ),
            (
                &["images", "--bundle", "none", "--threads", "0"],
                &["--threads is 0"],
            ),
            (
                &["images", "--bundle", "none", "--device", "rocm"],
                &["rocm", "tensorrt,cuda,cpu"],
            ),
            (
                &[
                    "images",
                    "--bundle",
                    "none",
                    "--provider-option",
                    "cuda.use_tf23=1",
                ],
                &["use_tf23", "did you mean `use_tf32`?"],
            ),
            (
                &[
                    "images",
                    "--bundle",
                    "none",
                    "--provider-option",
                    "tensorrt.trt_extra_plugin_lib_paths=/tmp/a.so",
                ],
                &["trt_extra_plugin_lib_paths", "native code"],
            ),
            (&["--bundle", "none"], &["PATH"]),
        ];
        for (more, parts) in cases {
            cli.refuses(&[&[verb], more].concat(), parts);
        }
    }
    cli.refuses(
        &["bench", "images", "--bundle", "none", "--iterations", "0"],
        &["--iterations is 0"],
    );
}
