//! Verbs that need no run: config, completions, import; and how predict and bench fail.

use crate::cli::Cli;

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
fn import_refuses_what_is_no_onnx_file_and_what_is_there() {
    let cli = Cli::new();
    cli.write("model.onnx", "not a model");
    cli.refuses(
        &["import", "model.onnx", "--out", "backbone"],
        &["model.onnx"],
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
                &["images", "--bundle", "none", "--device", "cuda"],
                &["cuda"],
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
