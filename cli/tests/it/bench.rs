//! `stage1 bench`: what it measures, compares and searches. The figures themselves are not tested.

use crate::{
    cli::{Cli, Outcome},
    fixture::Fixture,
};
use serde_json::Value;

struct Project {
    cli: Cli,
    fixture: Fixture,
    picture: String,
}

impl Project {
    fn new() -> Self {
        let fixture = Fixture::calibrated();
        let picture = fixture
            .picture("red.png", [255, 0, 0])
            .display()
            .to_string();
        Self {
            cli: Cli::new(),
            fixture,
            picture,
        }
    }

    fn run(&self, more: &[&str]) -> Outcome {
        let bundle = self.fixture.bundle().display().to_string();
        let fixed = [
            "bench",
            &self.picture,
            "--bundle",
            &bundle,
            "--iterations",
            "5",
            "--warmup",
            "1",
        ];
        self.cli.run([&fixed, more].concat())
    }

    fn json(&self, more: &[&str]) -> Value {
        let outcome = self.run(&[more, &["--json"]].concat());
        assert_eq!(outcome.code, 0, "{outcome}");
        outcome.json()
    }
}

const IN_PROCESS: [&str; 4] = ["--cold-starts", "0", "--memory-images", "0"];

#[test]
fn one_configuration_has_all_figures() {
    let project = Project::new();
    let args = [
        "--batch",
        "1",
        "--threads",
        "2",
        "--cold-starts",
        "2",
        "--concurrency",
        "3",
    ];
    let report = project.json(&args);
    let [one] = &report["configurations"].as_array().unwrap()[..] else {
        panic!("{report}");
    };
    assert_eq!(
        (&one["variant"], &one["device"]),
        (&"fp32".into(), &"cpu".into())
    );
    assert_eq!((&one["batch"], &one["threads"]), (&1.into(), &2.into()));
    assert_eq!(one["certified"], true);
    for stage in ["decode", "preprocess", "inference", "decide", "end_to_end"] {
        let times = ["p50", "p90", "p95", "p99", "max"]
            .map(|p| one["latency_ms"][stage][p].as_f64().unwrap());
        assert!(times[0] > 0.0 && times.is_sorted(), "{stage}: {one}");
    }
    let number = |path: &str| {
        one.pointer(path)
            .and_then(Value::as_f64)
            .unwrap_or_else(|| panic!("{path}: {one}"))
    };
    assert!(number("/throughput/images_per_second") > 0.0);
    assert!(number("/concurrent/latency_ms/p99") >= number("/concurrent/latency_ms/p50"));
    assert!((number("/concurrent/clients") - 3.0).abs() < 1e-9);
    assert!(number("/cold_start_ms/max") >= number("/cold_start_ms/p50"));
    // A process takes longer to start than a running one to answer.
    assert!(number("/cold_start_ms/min") > number("/latency_ms/end_to_end/p50"));
    if cfg!(target_os = "linux") {
        assert!(number("/memory_mib/peak") >= number("/memory_mib/steady"));
        assert!(
            number("/memory_mib/steady") > 10.0,
            "ONNX Runtime alone takes more"
        );
    }
}

#[test]
fn configurations_are_compared() {
    let project = Project::new();
    let lists = [&["--batch", "4,1", "--threads", "1,2"], &IN_PROCESS[..]].concat();
    let report = project.json(&lists);
    let found: Vec<_> = report["configurations"]
        .as_array()
        .unwrap()
        .iter()
        .map(|one| {
            assert!(
                one.get("cold_start_ms").is_none() && one.get("memory_mib").is_none(),
                "{one}"
            );
            (
                one["threads"].as_u64().unwrap(),
                one["batch"].as_u64().unwrap(),
            )
        })
        .collect();
    assert_eq!(found, [(1, 1), (1, 4), (2, 1), (2, 4)]);
    let outcome = project.run(&lists);
    assert_eq!(outcome.code, 0, "{outcome}");
    for part in [
        "fp32 on cpu, batches of 4, 1 threads",
        "variant  device",
        "a request, end to end",
    ] {
        assert!(outcome.stdout.contains(part), "{part}: {outcome}");
    }
    let usual = project.json(&IN_PROCESS);
    assert_eq!(
        usual["configurations"].as_array().unwrap().len(),
        2,
        "a camera's and a folder's batch"
    );
}

#[test]
fn a_budget_is_met_by_the_best_or_by_none() {
    let project = Project::new();
    let wide = [&["--p99-budget", "60s", "--threads", "1"], &IN_PROCESS[..]].concat();
    let report = project.json(&wide);
    let all = report["configurations"].as_array().unwrap();
    let batches: Vec<_> = all
        .iter()
        .map(|one| one["batch"].as_u64().unwrap())
        .collect();
    assert_eq!(batches, [1, 2, 4, 8, 16, 32]);
    let rate = |one: &Value| one["throughput"]["images_per_second"].as_f64().unwrap();
    let best = all
        .iter()
        .max_by(|a, b| rate(a).total_cmp(&rate(b)))
        .unwrap();
    assert_eq!(report["budget"]["best"]["batch"], best["batch"], "{report}");

    let narrow = [
        &["--p99-budget", "1us", "--threads", "1", "--json"],
        &IN_PROCESS[..],
    ]
    .concat();
    let outcome = project.run(&narrow);
    assert_eq!(outcome.code, 1, "{outcome}");
    let report = outcome.json();
    assert_eq!(report["budget"]["best"], Value::Null, "{outcome}");
    assert_eq!(report["budget"]["nearest"]["batch"], 1, "{outcome}");
    assert_eq!(
        report["configurations"].as_array().unwrap().len(),
        1,
        "larger batches take longer"
    );
    let text = project.run(&narrow[..4]);
    assert!(
        text.stdout
            .contains("nothing is within p99 ≤ 0.001 ms; the nearest is fp32"),
        "{text}"
    );
}

#[test]
fn lines_that_make_no_sense_are_refused() {
    let project = Project::new();
    let cases: [(&[&str], &str); 6] = [
        (&["--batch", "1,0"], "--batch is 0"),
        (&["--threads", "1,2000"], "--threads is above 1024"),
        (&["--variant", "fp32,int9"], "int9"),
        (&["--p99-budget", "20"], "with its unit, as 20ms"),
        (&["--p99-budget", "0ms"], "above zero"),
        (&["--concurrency", "0"], "at least 1"),
    ];
    for (more, want) in cases {
        let outcome = project.run(more);
        assert_eq!(outcome.code, 2, "{more:?}: {outcome}");
        assert!(
            outcome.stderr.contains(want),
            "{more:?}: expected {want:?}\n{outcome}"
        );
    }
    project.cli.write("bad.png", "no picture");
    let bundle = project.fixture.bundle().display().to_string();
    let outcome = project
        .cli
        .run([&["bench", "bad.png", "--bundle", &bundle], &IN_PROCESS[..]].concat());
    assert_eq!(outcome.code, 2, "{outcome}");
    assert!(
        outcome
            .stderr
            .contains("only images that can be judged can be measured"),
        "{outcome}"
    );
}
