//! How a classifier is exported: what its models take, and what they are made for.

use crate::pipeline::Project;
use serde_json::Value;

fn document(project: &Project, path: &str) -> Value {
    serde_json::from_slice(&project.read(path)).unwrap()
}

fn logits(project: &Project, bundle: &str, more: &[&str]) -> (Vec<f64>, Value) {
    let bundle = project.cli.path(bundle).display().to_string();
    let image = project.cli.path("images/red/00.png").display().to_string();
    let predict = ["predict", "--json", "--bundle", &bundle, &image];
    let outcome = project.cli.run([&predict, more].concat());
    assert_eq!(outcome.code, 0, "{outcome}");
    let record = outcome.json();
    let logits = record["logits"].as_array().unwrap().iter();
    let logits = logits.map(|x| x.as_f64().unwrap()).collect();
    (logits, record["certified"].clone())
}

/// From bytes in batches of three, for TensorRT, beside the same run on normalised planes: certified, with the same logits.
#[test]
fn a_model_of_bytes_goes_the_whole_way() {
    let project = Project::new();
    let levels = ["--set", "preprocess.arithmetic=pillow"];
    let planes = project.stage1("run", "planes", &levels);
    assert_eq!(planes.code, 0, "{planes}");
    let settings = [
        "export.input=uint8",
        "export.batch=3",
        "export.target=tensorrt",
        "export.variants=[fp16]",
    ];
    let settings: Vec<_> = settings.iter().flat_map(|key| ["--set", key]).collect();
    let bytes = project.stage1("run", "bytes", &[&levels[..], &settings].concat());
    assert_eq!(bytes.code, 0, "{bytes}");

    let record = document(&project, "bytes/bundle/bundle.json");
    assert_eq!(record["input"]["pixels"], "uint8", "{record}");
    let recipe = document(&project, "bytes/bundle/variants/fp16/recipe.json");
    assert_eq!(recipe["target"], "tensorrt", "{recipe}");
    let card = String::from_utf8(project.read("bytes/bundle/README.md")).unwrap();
    assert!(card.contains("uint8 `[3, 32, 32, 3]`"), "{card}");

    let (want, _) = logits(&project, "planes/bundle", &[]);
    let scale = want.iter().fold(0.0, |scale: f64, x| scale.max(x.abs()));
    for (variant, tolerance) in [("fp32", 1e-5), ("fp16", 5e-3)] {
        let (got, certified) = logits(&project, "bytes/bundle", &["--variant", variant]);
        assert_eq!(certified, true, "{variant}");
        for (got, want) in got.iter().zip(&want) {
            let error = (got - want).abs();
            assert!(
                error <= tolerance * scale,
                "{variant}: {error:e} of {scale}"
            );
        }
    }

    // The target decides further precisions only: for another one, fp16 is made anew, and fp32 stays.
    let portable = ["--target", "portable", "--precision", "fp16"];
    let more = [&levels[..], &settings, &portable].concat();
    let refused = project.stage1("export", "bytes", &more);
    assert_eq!(refused.code, 2, "{refused}");
    assert!(refused.stderr.contains("--overwrite"), "{refused}");
    let replaced = project.stage1("export", "bytes", &[&more[..], &["--overwrite"]].concat());
    assert_eq!(replaced.code, 0, "{replaced}");
    let after = document(&project, "bytes/bundle/bundle.json");
    assert_eq!(
        after["variants"]["fp32"]["certificate"], record["variants"]["fp32"]["certificate"],
        "{replaced}"
    );
    let portable = document(&project, "bytes/bundle/variants/fp16/recipe.json");
    assert_eq!(portable["target"], "portable", "{portable}");
    assert!(
        portable["lowered"].as_u64() > recipe["lowered"].as_u64(),
        "the attention's scores are in half precision: {portable}, {recipe}"
    );
    let int8 = ["--target", "tensorrt", "--precision", "int8"];
    let refused = project.stage1("export", "bytes", &[&levels[..], &settings, &int8].concat());
    assert_eq!(refused.code, 2, "{refused}");
    assert!(refused.stderr.contains("--target portable"), "{refused}");
}

#[test]
fn fractions_of_grey_levels_are_refused_before_anything_is_trained() {
    let project = Project::new();
    for more in [["--set", "export.input=uint8"], ["--input", "uint8"]] {
        let refused = project.stage1("export", "a", &more);
        assert_eq!(refused.code, 2, "{refused}");
        assert!(
            refused.stderr.contains("export.input")
                && refused.stderr.contains("preprocess.arithmetic"),
            "{refused}"
        );
        assert!(!project.cli.path("a").exists(), "{refused}");
    }
}
