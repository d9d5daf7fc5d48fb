//! `stage1 export --triton`: a model repository for NVIDIA's Triton Inference Server.

use crate::pipeline::Project;
use std::fs;

/// What a text says in protobuf's text form, with a bracket or a field on each line: fields by their path, in order.
fn parse(text: &str) -> Vec<(String, String)> {
    let (mut path, mut found) = (Vec::new(), Vec::new());
    for line in text.lines().map(str::trim) {
        if let Some(name) = line.strip_suffix(" {") {
            path.push(name);
        } else if line == "}" {
            path.pop()
                .expect("no more brackets are closed than were opened");
        } else {
            let (name, value) = line.split_once(": ").unwrap_or_else(|| panic!("{line}"));
            let name = [&path[..], &[name]].concat().join(".");
            found.push((name, value.replace('"', "")));
        }
    }
    assert!(path.is_empty(), "a bracket is open: {text}");
    found
}

fn values<'a>(config: &'a [(String, String)], path: &str) -> Vec<&'a str> {
    let found = config.iter().filter(|(name, _)| name == path);
    found.map(|(_, value)| value.as_str()).collect()
}

#[test]
fn a_repository_has_a_model_per_variant_whole_or_not_at_all() {
    let project = Project::new();
    let more = ["--set", "export.variants=[fp16]", "--triton", "repository"];
    let exported = project.stage1("export", "flowers", &more);
    assert_eq!(exported.code, 0, "{exported}");
    assert!(
        exported.stdout.contains("flowers_fp16, flowers_fp32"),
        "{exported}"
    );
    for (variant, precision) in [("fp32", "FP32"), ("fp16", "FP16")] {
        let folder = format!("repository/flowers_{variant}");
        let config = String::from_utf8(project.read(&format!("{folder}/config.pbtxt"))).unwrap();
        let config = parse(&config);
        let name = format!("flowers_{variant}");
        let cases = [
            ("name", vec![name.as_str()]),
            ("backend", vec!["onnxruntime"]),
            ("max_batch_size", vec!["8"]),
            ("input.name", vec!["pixel_values"]),
            ("input.data_type", vec!["TYPE_FP32"]),
            ("input.dims", vec!["[ 3, 32, 32 ]"]),
            ("output.name", vec!["logits"]),
            ("output.dims", vec!["[ 2 ]"]),
            ("output.label_filename", vec!["labels.txt"]),
            (
                "dynamic_batching.max_queue_delay_microseconds",
                vec!["2000"],
            ),
            ("instance_group.kind", vec!["KIND_GPU"]),
            (
                "optimization.execution_accelerators.gpu_execution_accelerator.name",
                vec!["tensorrt"],
            ),
            (
                "optimization.execution_accelerators.gpu_execution_accelerator.parameters.value",
                vec![precision, "1073741824"],
            ),
        ];
        for (path, want) in cases {
            assert_eq!(values(&config, path), want, "{path} of {config:?}");
        }
        assert_eq!(
            project.read(&format!("{folder}/labels.txt")),
            b"blue\nred\n"
        );
        let model = format!("flowers/bundle/variants/{variant}/model.onnx");
        assert_eq!(
            project.read(&format!("{folder}/1/model.onnx")),
            project.read(&model)
        );
    }

    let again = project.stage1("export", "flowers", &more);
    assert_eq!(again.code, 2, "{again}");
    assert!(again.stderr.contains("--overwrite"), "{again}");
    // A bundle that is damaged leaves the repository as it was, and nothing beside it.
    let before = project.read("repository/flowers_fp32/config.pbtxt");
    let replaced = project.stage1("export", "flowers", &[&more[..], &["--overwrite"]].concat());
    assert_eq!(replaced.code, 0, "{replaced}");
    assert_eq!(project.read("repository/flowers_fp32/config.pbtxt"), before);
    let beside = fs::read_dir(project.cli.path("")).unwrap();
    let names = beside.map(|entry| entry.unwrap().file_name().into_string().unwrap());
    let left: Vec<_> = names
        .filter(|name| name.starts_with(".repository"))
        .collect();
    assert!(left.is_empty(), "{left:?}");
}
