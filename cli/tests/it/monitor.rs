//! `stage1 monitor`.

use crate::cli::{Cli, Outcome};
use serde_json::{Value, json};
use stage1_core::{
    artifact::{Digest, json as documents},
    bundle::{
        self, DecisionKind, Existing, FP32, InputSpec, NewBundle, Parity, Prediction, Provenance,
    },
    certificate::{BatchMode, Certificate, Fingerprint},
    config::Phase,
    logits::{LogitSet, Source},
    policy::{Outcome as Decided, Policy},
    preprocess::{PixelFormat, PreprocessSpec},
};
use std::{collections::BTreeMap, fmt::Write as _, fs};

const CLASSES: [&str; 3] = ["ant", "bee", "cow"];

/// A row: logits and the true class.
type Row = ([f32; 3], usize);

/// Rows whose margins are spread up to `widest`; the larger, the rarer an error. `rate` times as many are wrong.
fn rows(n: usize, seed: u32, widest: f64, rate: f64) -> Vec<Row> {
    let mut state = seed.wrapping_mul(2_654_435_761).wrapping_add(12_345);
    let mut uniform = move || {
        state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        f64::from(state >> 8) / f64::from(1 << 24)
    };
    let row = |_| {
        let margin = widest * uniform();
        let label = (3.0 * uniform()) as usize;
        let wrong = uniform() < rate * 0.4 * (-margin).exp();
        let mut logits = [0.0; 3];
        logits[if wrong { (label + 1) % 3 } else { label }] = margin as f32;
        (logits, label)
    };
    (0..n).map(row).collect()
}

fn csv(rows: &[Row], prefix: &str) -> String {
    let mut text = "id,label,logit_0,logit_1,logit_2\n".to_owned();
    for (i, ([a, b, c], label)) in rows.iter().enumerate() {
        writeln!(text, "{prefix}{i},{label},{a},{b},{c}").unwrap();
    }
    text
}

/// A folder with a reference, a policy and its certificate.
struct Watched {
    cli: Cli,
    policy: Policy,
}

impl Watched {
    fn new() -> Self {
        let cli = Cli::new();
        cli.write("reference.csv", csv(&rows(3000, 1, 6.0, 1.0), "r"));
        let args = ["calibrate", "--logits", "reference.csv", "--out", "policy"];
        let calibrated = cli.run(args);
        assert_eq!(calibrated.code, 0, "{calibrated}");
        let policy = documents::load(&cli.path("policy/policy.json")).unwrap().0;
        Self { cli, policy }
    }

    fn run(&self, args: &[&str]) -> Outcome {
        let fixed = [
            "monitor",
            "--policy",
            "policy/policy.json",
            "--reference",
            "reference.csv",
        ];
        self.cli.run([&fixed, args].concat())
    }

    /// Runs, expects this exit code, and returns the document.
    fn json(&self, code: i32, args: &[&str]) -> Value {
        let outcome = self.run(&[&["--json"], args].concat());
        assert_eq!(outcome.code, code, "{args:?}\n{outcome}");
        outcome.json()
    }

    fn refuses(&self, args: &[&str], parts: &[&str]) {
        let fixed = [
            "monitor",
            "--policy",
            "policy/policy.json",
            "--reference",
            "reference.csv",
        ];
        self.cli.refuses(&[&fixed, args].concat(), parts);
    }

    /// What `predict --json` would write of these rows, as lines.
    fn log(&self, rows: &[Row], prefix: &str) -> Vec<String> {
        let line = |(i, (logits, _)): (usize, &Row)| {
            let prediction = self.prediction(format!("{prefix}{i}.png"), logits);
            serde_json::to_string(&prediction).unwrap() + "\n"
        };
        rows.iter().enumerate().map(line).collect()
    }

    fn prediction(&self, path: String, logits: &[f32]) -> Prediction {
        let decision = self.policy.decide(logits).unwrap();
        let label = match decision.outcome {
            Decided::Answer { label } => Some(CLASSES[label].to_owned()),
            Decided::Defer => None,
        };
        Prediction {
            path,
            decision: if label.is_some() {
                DecisionKind::Answer
            } else {
                DecisionKind::Defer
            },
            reason: label.is_none().then(|| "unsure".to_owned()),
            label,
            probability: Some(decision.probability),
            logits: Some(logits.to_vec()),
            gate: None,
            certified: true,
            error: None,
        }
    }
}

/// Labels of every `step`-th row.
fn labels(rows: &[Row], prefix: &str, step: usize) -> String {
    let mut text = "path,label\n".to_owned();
    for (i, (_, label)) in rows.iter().enumerate().step_by(step) {
        writeln!(text, "{prefix}{i}.png,{}", CLASSES[*label]).unwrap();
    }
    text
}

fn with(line: &str, key: &str, value: Value) -> String {
    let mut record: Value = serde_json::from_str(line).unwrap();
    record[key] = value;
    format!("{record}\n")
}

#[test]
fn rows_like_those_of_val_calib_raise_no_alarm() {
    let watched = Watched::new();
    let stream = rows(2000, 2, 6.0, 1.0);
    watched
        .cli
        .write("log.jsonl", watched.log(&stream, "s").concat());
    watched.cli.write("labels.csv", labels(&stream, "s", 3));
    let got = watched.json(0, &["log.jsonl", "--labels", "labels.csv"]);
    assert_eq!(got["alarm"], false);
    assert_eq!(got["rows"]["new"], 2000);
    assert_eq!(
        (&got["drift"]["rows"], &got["drift"]["calib_rows"]),
        (&json!(2000), &json!(2000))
    );
    assert_eq!(got["risk"]["alpha"], 0.05);
    let labelled = got["risk"]["labelled"].as_u64().unwrap();
    assert!((100..667).contains(&labelled), "{got}");
    assert_eq!(
        labelled + got["rows"]["labelled_deferred"].as_u64().unwrap(),
        667
    );
    let text = watched.run(&["log.jsonl"]);
    assert_eq!(text.code, 0, "{text}");
    for part in [
        "no alarm after 2000 rows, compared with 2000 of val_calib",
        "an alarm is raised at 100.0",
        "no labels yet",
        "raised for nothing with probability at most 1 %, however long and often you look",
    ] {
        assert!(text.stdout.contains(part), "{part}\n{text}");
    }
}

#[test]
fn other_scores_raise_the_alarm_that_says_so() {
    let watched = Watched::new();
    let stream = rows(800, 2, 2.0, 1.0);
    watched
        .cli
        .write("log.jsonl", watched.log(&stream, "s").concat());
    let got = watched.json(1, &["log.jsonl"]);
    assert_eq!(
        (&got["alarm"], &got["drift"]["alarm"]),
        (&json!(true), &json!(true))
    );
    assert!(got["drift"]["alarm_at"].as_u64().unwrap() < 800);
    assert_eq!(got["risk"]["alarm"], false);
    let text = watched.run(&["log.jsonl"]);
    assert_eq!(text.code, 1, "{text}");
    assert!(
        text.stdout.contains("this doesn't say that errors rose"),
        "{text}"
    );
    // What was raised stays raised.
    watched.json(1, &["log.jsonl", "--state", "state.json"]);
    let nothing_new = watched.json(1, &["log.jsonl", "--state", "state.json"]);
    assert_eq!(nothing_new["rows"]["new"], 0);
    assert_eq!(nothing_new["drift"], got["drift"]);
}

#[test]
fn labels_show_that_the_certified_risk_is_exceeded() {
    let watched = Watched::new();
    // The scores are the same; far more answers are wrong.
    let stream = rows(3000, 2, 6.0, 8.0);
    watched
        .cli
        .write("log.jsonl", watched.log(&stream, "s").concat());
    watched.cli.write("labels.csv", labels(&stream, "s", 2));
    let got = watched.json(1, &["log.jsonl", "--labels", "labels.csv"]);
    assert_eq!(
        (&got["drift"]["alarm"], &got["risk"]["alarm"]),
        (&json!(false), &json!(true))
    );
    assert_eq!(got["risk"]["meaning"], "the certified risk is exceeded");
    let text = watched.run(&["log.jsonl", "--labels", "labels.csv"]);
    assert!(
        text.stdout.contains("don't rely on the certificate"),
        "{text}"
    );

    // The label may stand in the log itself.
    let lines = watched.log(&stream, "s");
    let labelled = lines
        .iter()
        .zip(&stream)
        .enumerate()
        .map(|(i, (line, (_, label)))| {
            if i % 2 == 0 {
                with(line, "label_true", json!(CLASSES[*label]))
            } else {
                line.clone()
            }
        });
    watched
        .cli
        .write("labelled.jsonl", labelled.collect::<String>());
    assert_eq!(watched.json(1, &["labelled.jsonl"])["risk"], got["risk"]);

    // Answers that the certificate doesn't cover aren't held against it.
    let uncertified = lines
        .iter()
        .map(|line| with(line, "certified", json!(false)));
    watched
        .cli
        .write("uncertified.jsonl", uncertified.collect::<String>());
    let got = watched.json(0, &["uncertified.jsonl", "--labels", "labels.csv"]);
    assert_eq!(
        (&got["risk"]["labelled"], &got["rows"]["uncertified"]),
        (&json!(0), &json!(3000))
    );
}

/// However the reading is interrupted, the state is the same file, byte by byte.
#[test]
fn going_on_is_the_same_as_never_having_stopped() {
    let watched = Watched::new();
    let stream = rows(900, 2, 6.0, 2.0);
    let groups = |(i, line): (usize, &String)| with(line, "group", json!(i / 3));
    let lines: Vec<String> = watched
        .log(&stream, "s")
        .iter()
        .enumerate()
        .map(groups)
        .collect();
    let cli = &watched.cli;
    let all = labels(&stream, "s", 5);
    cli.write("labels.csv", &all);
    cli.write("log.jsonl", lines.concat());
    let straight = [
        "log.jsonl",
        "--labels",
        "labels.csv",
        "--state",
        "straight.json",
    ];
    let want = watched.json(0, &straight);
    assert_eq!(want["drift"]["rows"], 300, "one row of each group");
    assert_eq!(want["rows"]["of_a_seen_unit"], 600);

    // The log and the labels grow.
    for upto in [1, 200, 201, 700, 900] {
        cli.write("growing.jsonl", lines[..upto].concat());
        let lines: Vec<_> = all
            .split_inclusive('\n')
            .take(1 + upto.div_ceil(5))
            .collect();
        cli.write("growing.csv", lines.concat());
        let grown = [
            "growing.jsonl",
            "--labels",
            "growing.csv",
            "--state",
            "grown.json",
        ];
        let got = watched.json(0, &grown);
        assert_eq!(got["rows"]["labels_without_row"], 0);
    }
    assert_eq!(cli.read("grown.json"), cli.read("straight.json"));

    // The log is rotated; the labels come last.
    for (i, part) in lines.chunks(250).enumerate() {
        cli.write(&format!("part{i}.jsonl"), part.concat());
        watched.json(0, &[&format!("part{i}.jsonl"), "--state", "rotated.json"]);
    }
    let parts = ["part0.jsonl", "part1.jsonl", "part2.jsonl", "part3.jsonl"];
    let late = ["--labels", "labels.csv", "--state", "rotated.json"];
    let got = watched.json(0, &[&parts[..], &late].concat());
    assert_eq!(
        (&got["drift"], &got["risk"]),
        (&want["drift"], &want["risk"])
    );
    assert_eq!(
        (&got["rows"]["new"], &got["rows"]["read_before"]),
        (&json!(0), &json!(900))
    );
    let monitor = |name| -> Value {
        serde_json::from_str::<Value>(&cli.read(name)).unwrap()["monitor"].clone()
    };
    assert_eq!(monitor("rotated.json"), monitor("straight.json"));

    // Labels that were counted aren't counted again.
    let again = watched.json(0, &straight);
    assert_eq!(again["risk"], want["risk"]);
}

#[test]
fn a_line_that_is_being_written_is_left_for_the_next_time() {
    let watched = Watched::new();
    let lines = watched.log(&rows(20, 2, 6.0, 1.0), "s").concat();
    let (begun, _) = lines.split_at(lines.len() - 30);
    watched.cli.write("log.jsonl", begun);
    let outcome = watched.run(&["log.jsonl", "--state", "state.json", "--json"]);
    assert_eq!(
        (outcome.code, &outcome.json()["drift"]["rows"]),
        (0, &json!(19)),
        "{outcome}"
    );
    assert!(outcome.stderr.contains("isn't finished"), "{outcome}");
    watched.cli.write("log.jsonl", &lines);
    let got = watched.json(0, &["log.jsonl", "--state", "state.json"]);
    assert_eq!(
        (&got["rows"]["new"], &got["drift"]["rows"]),
        (&json!(1), &json!(20))
    );
}

#[test]
fn a_state_of_something_else_is_refused_and_kept() {
    let watched = Watched::new();
    let cli = &watched.cli;
    cli.write(
        "log.jsonl",
        watched.log(&rows(50, 2, 6.0, 1.0), "s").concat(),
    );
    let args = ["log.jsonl", "--state", "state.json"];
    watched.json(0, &args);
    let kept = cli.read("state.json");
    let cases: [(&[&str], &str); 4] = [
        (
            &["--level", "0.05"],
            "begun with --level 0.01, now it is 0.05",
        ),
        (&["--seed", "1"], "begun with --seed 42, now it is 1"),
        (
            &["--alpha", "0.2"],
            "holds answers to a risk of 0.05, now it is 0.2",
        ),
        (&["--select", "other.csv"], "the reference has changed"),
    ];
    cli.write("other.csv", csv(&rows(1000, 9, 6.0, 1.0), "o"));
    for (more, want) in cases {
        watched.refuses(
            &[&args[..], more].concat(),
            &["state.json", want, "name another file with --state"],
        );
        assert_eq!(cli.read("state.json"), kept);
    }
    let mut other = watched.policy.clone();
    other.plan_digest = Digest::of_bytes(b"another plan");
    documents::save(&other, &cli.path("other/policy.json")).unwrap();
    let policy = [
        "monitor",
        "--policy",
        "other/policy.json",
        "--reference",
        "reference.csv",
    ];
    cli.refuses(
        &[&policy, &args[..]].concat(),
        &["it is of another bundle or policy"],
    );
    cli.write("state.json", kept.replace("\"rows\": 50", "\"rows\": 5000"));
    watched.refuses(&args, &["state.json", "invalid state of a monitor", "5000"]);
    cli.write("state.json", "{");
    watched.refuses(&args, &["state.json"]);
}

#[test]
fn what_is_wrong_with_a_log_is_named() {
    let watched = Watched::new();
    let cli = &watched.cli;
    let line = watched.log(&[([6.0, 0.0, 0.0], 0)], "s").concat();
    let unsure = watched.log(&[([0.0, 0.0, 0.0], 0)], "s").concat();
    let cases = [
        (with(&line, "gruop", json!("a")), "unknown field `gruop`"),
        ("nonsense\n".to_owned(), "line 2"),
        (
            with(&line, "label", json!(null)),
            "was this log written by another bundle?",
        ),
        (
            with(&unsure, "decision", json!("answer")),
            "answered without a label",
        ),
        (with(&line, "logits", json!([1.0, 2.0])), "3 classes"),
        (with(&line, "logits", json!(null)), "no logits"),
        (with(&line, "group", json!([1])), "`group` is [1]"),
        (with(&line, "label_true", json!(3)), "`label_true` is 3"),
    ];
    for (bad, want) in cases {
        cli.write("log.jsonl", format!("{line}{bad}"));
        watched.refuses(
            &["log.jsonl", "--state", "state.json"],
            &["log.jsonl", "line 2", want],
        );
        assert!(!cli.path("state.json").exists(), "{want}");
    }
    cli.write("log.jsonl", &line);
    for (text, want) in [
        ("path,labels\na,ant\n", "`path,label` is needed"),
        (
            "path,label\na,ant\na,bee\n",
            "`a` is `bee` here and `ant` above",
        ),
        ("path,label\na,\n", "line 2: a path and a label are needed"),
    ] {
        cli.write("labels.csv", text);
        watched.refuses(
            &["log.jsonl", "--labels", "labels.csv"],
            &["labels.csv", want],
        );
    }
    watched.refuses(&["none.jsonl"], &["none.jsonl"]);
    watched.refuses(&["log.jsonl", "--level", "1"], &["level is 1"]);
    watched.refuses(
        &["log.jsonl", "--alpha", "0.01"],
        &["the certificate promises a risk of at most 0.05"],
    );
    watched.refuses(&[], &["<LOG>"]);
    let failed = Prediction::failed("broken.png", "not an image");
    cli.write(
        "log.jsonl",
        serde_json::to_string(&failed).unwrap() + "\n" + &line,
    );
    let got = watched.json(0, &["log.jsonl"]);
    assert_eq!(
        (&got["rows"]["not_judged"], &got["rows"]["new"]),
        (&json!(1), &json!(1))
    );
}

#[test]
fn labels_without_a_certificate_need_a_risk() {
    let watched = Watched::new();
    let cli = &watched.cli;
    let stream = rows(100, 2, 6.0, 1.0);
    cli.write("log.jsonl", watched.log(&stream, "s").concat());
    cli.write(
        "labels.csv",
        labels(&stream, "s", 1) + "elsewhere.png,ant\n",
    );
    fs::remove_file(cli.path("policy/certificate.json")).unwrap();
    let args = ["log.jsonl", "--labels", "labels.csv"];
    watched.refuses(
        &args,
        &["say with --alpha what risk the answers are held to"],
    );
    let outcome = watched.run(&[&args[..], &["--alpha", "0.2", "--json"]].concat());
    assert_eq!(
        (outcome.code, &outcome.json()["risk"]["alpha"]),
        (0, &json!(0.2)),
        "{outcome}"
    );
    assert!(
        outcome
            .stderr
            .contains("1 labels are of images that aren't in these logs"),
        "{outcome}"
    );
    assert_eq!(watched.json(0, &["log.jsonl"])["risk"], json!(null));
}

#[test]
fn frequencies_of_classes_are_marked_conditional() {
    let watched = Watched::new();
    let stream = rows(3000, 2, 6.0, 1.0);
    let shifted: Vec<Row> = stream
        .into_iter()
        .enumerate()
        .filter(|(i, (_, label))| *label == 0 || i % 5 == 0)
        .map(|(_, row)| row)
        .collect();
    let truth =
        shifted.iter().filter(|(_, label)| *label == 0).count() as f64 / shifted.len() as f64;
    watched
        .cli
        .write("log.jsonl", watched.log(&shifted, "s").concat());
    let got = watched.json(0, &["log.jsonl", "--label-shift"]);
    let shift = &got["label_shift"];
    assert_eq!(
        (&shift["conditional_on"], &shift["em"]["conditional_on"]),
        (&json!("label_shift"), &json!("label_shift"))
    );
    assert!(
        shift["meaning"]
            .as_str()
            .unwrap()
            .starts_with("conditional on label shift"),
        "{shift}"
    );
    for method in ["em", "bbse"] {
        let share = shift[method]["target_shares"][0].as_f64().unwrap();
        assert!((share - truth).abs() < 0.05, "{method}: {share}, {truth}");
    }
    let text = watched.run(&["log.jsonl", "--label-shift"]);
    assert!(
        text.stdout.contains("conditional on label shift") && text.stdout.contains("now (BBSE)"),
        "{text}"
    );
    watched.cli.write("empty.jsonl", "");
    let none = watched.json(0, &["empty.jsonl", "--label-shift"]);
    assert!(
        none["label_shift"]["failure"]
            .as_str()
            .unwrap()
            .contains("no rows"),
        "{none}"
    );
}

#[test]
fn plain_logits_are_watched_once() {
    let watched = Watched::new();
    watched
        .cli
        .write("day1.csv", csv(&rows(500, 2, 6.0, 1.0), "s"));
    watched
        .cli
        .write("day2.csv", csv(&rows(500, 3, 6.0, 1.0), "t"));
    let both = watched.json(0, &["--logits", "day1.csv", "--logits", "day2.csv"]);
    assert_eq!(both["drift"]["rows"], 1000);
    assert_eq!(
        both["risk"]["labelled"], both["rows"]["answered"],
        "all of them are labelled"
    );
    for (file, new) in [("day1.csv", 500), ("day1.csv", 0), ("day2.csv", 500)] {
        let got = watched.json(0, &["--logits", file, "--state", "state.json"]);
        assert_eq!(got["rows"]["new"], new, "{file}");
        if file == "day2.csv" {
            assert_eq!(
                (&got["drift"], &got["risk"]),
                (&both["drift"], &both["risk"])
            );
        }
    }
    watched.cli.write("two.csv", "label,logit\n0,1\n");
    watched.refuses(
        &["--logits", "two.csv"],
        &["two.csv: 2 classes, the policy decides among 3"],
    );
}

/// Labels of other images that are called like those of an earlier file aren't lost in silence.
#[test]
fn ids_that_come_again_are_told_of() {
    let watched = Watched::new();
    watched
        .cli
        .write("one.csv", csv(&rows(300, 5, 6.0, 1.0), ""));
    watched
        .cli
        .write("two.csv", csv(&rows(300, 6, 6.0, 1.0), ""));
    let args = ["--logits", "one.csv", "--state", "state.json"];
    let first = watched.json(0, &args);
    assert_eq!(first["rows"]["labelled_again"], 0, "{first}");
    let outcome = watched.run(&["--logits", "two.csv", "--state", "state.json", "--json"]);
    let again = outcome.json()["rows"]["labelled_again"].as_u64().unwrap();
    assert!(again > 100, "{outcome}");
    assert!(outcome.stderr.contains("give them other ids"), "{outcome}");
}

#[test]
fn a_bundle_knows_its_classes_and_its_reference() {
    let watched = Watched::new();
    let cli = &watched.cli;
    deploy(&watched);
    let run = |more: &[&str]| cli.run([&["monitor", "--bundle", "run/bundle"], more].concat());
    let stream = rows(500, 2, 6.0, 1.0);
    cli.write("log.jsonl", watched.log(&stream, "s").concat());
    cli.write("labels.csv", labels(&stream, "s", 2));
    let outcome = run(&[
        "log.jsonl",
        "--labels",
        "labels.csv",
        "--label-shift",
        "--json",
    ]);
    assert_eq!(outcome.code, 0, "{outcome}");
    let got = outcome.json();
    assert_eq!(got["label_shift"]["classes"], json!(CLASSES));
    assert_eq!(got["drift"]["calib_rows"], 1000);

    let line = watched.log(&[([6.0, 0.0, 0.0], 0)], "s").concat();
    cli.write("log.jsonl", with(&line, "label", json!("bee")));
    let fixed = ["monitor", "--bundle", "run/bundle", "log.jsonl"];
    cli.refuses(
        &fixed,
        &[
            "line 1",
            "answered `bee`, but the policy would answer `ant`",
        ],
    );
    cli.write("log.jsonl", with(&line, "label_true", json!("dog")));
    cli.refuses(
        &fixed,
        &[
            "line 1",
            "`dog` is no class of the bundle; there are ant, bee, cow",
        ],
    );
    cli.write("log.jsonl", &line);
    save(&watched, "val_calib", 5, b"another model");
    cli.refuses(
        &fixed,
        &[
            "val_calib holds logits of model",
            "the run that made the bundle",
        ],
    );
    fs::remove_file(cli.path("run/logits/val_calib.safetensors")).unwrap();
    cli.refuses(&fixed, &["run/bundle/../logits", "--reference"]);
    fs::remove_dir_all(cli.path("run/logits")).unwrap();
    cli.refuses(&fixed, &["run/bundle/../logits", "--reference"]);
}

/// A run folder: a bundle with a model that nobody runs, and the logits beside it.
fn deploy(watched: &Watched) {
    let dir = watched.cli.path("run/bundle");
    let preprocess = PreprocessSpec::dinov3(4, 2);
    let digest = |name: &str| Digest::of_bytes(name.as_bytes());
    let new = NewBundle {
        labels: CLASSES.map(str::to_owned).to_vec(),
        input: InputSpec {
            name: "pixel_values".to_owned(),
            height: 4,
            width: 2,
            batch: None,
            pixels: PixelFormat::Float32,
        },
        output: "logits".to_owned(),
        gate: None,
        preprocess: preprocess.clone(),
        variant: FP32.to_owned(),
        precision: "fp32".to_owned(),
        batch_mode: BatchMode::Any,
        model: MODEL,
        data: None,
        parity: &parity(),
        golden_inputs: &[0.5; 3 * 4 * 2],
        golden_logits: &[1.0, -2.0, 0.0],
        golden_gates: None,
        licences: BTreeMap::new(),
        metrics: BTreeMap::new(),
        provenance: Provenance {
            splits_digest: digest("splits"),
            checkpoint_digest: digest("checkpoint"),
            init_digest: None,
            backbone_digest: digest("backbone"),
            config_digest: digest("config"),
            phase: Phase::Baseline,
        },
    };
    bundle::create(&dir, new, Existing::Refuse).unwrap();
    let path = watched.cli.path("policy/certificate.json");
    let (mut certificate, _): (Certificate, _) = documents::load(&path).unwrap();
    certificate.fingerprint = Some(Fingerprint {
        model_digest: Digest::of_bytes(MODEL),
        provider: "cpu".to_owned(),
        provider_version: "onnxruntime 1.31.1".to_owned(),
        precision: "fp32".to_owned(),
        batch_mode: BatchMode::Any,
        preprocessing_digest: preprocess.digest(),
        cpu_isa: "x86_64-avx2".to_owned(),
    });
    bundle::attach_policy(&dir, FP32, &watched.policy, &certificate).unwrap();
    save(watched, "val_select", 11, MODEL);
    save(watched, "val_calib", 12, MODEL);
}

const MODEL: &[u8] = b"the model";

fn parity() -> Parity {
    Parity {
        schema_version: 1,
        images: 1,
        scale: 2.0,
        max_abs_error: 1e-6,
        mean_abs_error: 1e-7,
        tolerance: 1e-4,
        batch_max_abs_error: 0.0,
        batch_tolerance: 1e-5,
        same_labels: true,
        flips: None,
        passed: true,
    }
}

/// Logits of a split as a run keeps them.
fn save(watched: &Watched, split: &str, seed: u32, model: &[u8]) {
    let rows = rows(1000, seed, 6.0, 1.0);
    let set = LogitSet {
        logits: rows.iter().flat_map(|(logits, _)| *logits).collect(),
        classes: 3,
        labels: rows.iter().map(|(_, label)| *label as i64).collect(),
        ids: (0..rows.len())
            .map(|i| format!("{split}/{i}.png"))
            .collect(),
        units: Some(
            (0..rows.len() as u64)
                .map(|i| 10_000 * u64::from(seed) + i)
                .collect(),
        ),
        split: None,
        gate: None,
        source: Some(Source {
            provider: "cpu".to_owned(),
            provider_version: "onnxruntime 1.31.1".to_owned(),
            precision: "fp32".to_owned(),
            model_digest: Digest::of_bytes(model),
            preprocessing_digest: Digest::of_bytes(b"preprocessing"),
        }),
    };
    set.save(&watched.cli.path(&format!("run/logits/{split}.safetensors")))
        .unwrap();
}
