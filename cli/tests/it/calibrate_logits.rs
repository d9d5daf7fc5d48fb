//! `stage1 calibrate --logits`.

use crate::cli::{Cli, Outcome};
use serde_json::{Value, json};
use stage1_core::artifact::tensors::{self, Tensor};
use std::{collections::BTreeMap, fmt::Write as _};

/// Rows of three classes, reproducible; the larger the margin, the rarer an error.
pub(crate) fn rows(n: u32, seed: u32) -> Vec<(u32, [f32; 3])> {
    let mut state = seed.wrapping_mul(2_654_435_761).wrapping_add(12_345);
    let mut uniform = move || {
        state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        f64::from(state >> 8) / f64::from(1 << 24)
    };
    let mut row = |i: u32| {
        let margin = 6.0 * uniform();
        let wrong = uniform() < 0.5 * (-margin).exp();
        let label = i % 3;
        let winner = if wrong { (label + 1) % 3 } else { label };
        let mut logits = [0.0; 3];
        logits[winner as usize] = margin as f32;
        (label, logits)
    };
    (0..n).map(&mut row).collect()
}

pub(crate) fn csv(rows: &[(u32, [f32; 3])], prefix: &str) -> String {
    let mut text = "id,label,logit_0,logit_1,logit_2\n".to_owned();
    for (i, (label, [a, b, c])) in rows.iter().enumerate() {
        writeln!(text, "{prefix}{i},{label},{a},{b},{c}").unwrap();
    }
    text
}

fn calibrate(cli: &Cli, more: &[&str]) -> Outcome {
    cli.run([&["calibrate", "--logits"], more].concat())
}

#[test]
fn rows_without_splits_are_divided_and_that_is_said() {
    let cli = Cli::new();
    cli.write("mine.csv", csv(&rows(1500, 1), ""));
    let outcome = calibrate(&cli, &["mine.csv", "--json"]);
    assert_eq!(outcome.code, 0, "{outcome}");
    let told = "a hash seeded with 42 divides the rows 1:2, 500 to select and 1000 to certify";
    assert!(outcome.stderr.contains(told), "{outcome}");
    let document = outcome.json();
    assert_eq!(document["certified"], true, "{outcome}");
    assert_eq!(
        document["division"],
        json!({"by": "seeded_hash", "seed": 42})
    );
    assert_eq!(
        (&document["select_rows"], &document["calib_rows"]),
        (&json!(500), &json!(1000))
    );
    let certificate = &document["certificate"];
    assert_eq!(certificate["attempt"], 1);
    assert!(
        certificate["upper_bound"].as_f64().unwrap() <= 0.05,
        "{certificate}"
    );
    assert!(certificate["fingerprint"].is_null(), "{certificate}");
    let files = ["plan.json", "policy.json", "certificate.json"]
        .map(|name| cli.path("mine-policy").join(name));
    assert!(files.iter().all(|file| file.is_file()));
    let policy: Value = serde_json::from_str(&cli.read("mine-policy/policy.json")).unwrap();
    assert_eq!(policy, document["policy"]);

    let selection = &document["calibrator_selection"];
    assert_eq!(
        (&selection["rows"], &selection["folds"]),
        (&json!(1000), &json!(5))
    );
    let candidates = selection["candidates"].as_array().unwrap();
    let families: Vec<_> = candidates.iter().map(|c| &c["choice"]).collect();
    assert_eq!(families, ["none", "ts_mix", "svs", "sms"]);
    let chosen: Vec<_> = candidates
        .iter()
        .filter(|c| c["verdict"]["kind"] == "chosen")
        .collect();
    assert_eq!(chosen.len(), 1, "{selection}");
    assert_eq!(
        chosen[0]["choice"], policy["calibrator"]["kind"],
        "{selection}"
    );

    let text = calibrate(&cli, &["mine.csv", "--out", "text"]);
    for part in [
        "chosen by 5-fold cross-validation on 1000 independent rows",
        "NLL 0.",
        " ± ",
        ": chosen",
        "certified: answers are wrong at a rate of at most 5 % with confidence 90 %",
        "answered",
        "NLL",
        "max softmax",
    ] {
        assert!(text.stdout.contains(part), "{part}\n{text}");
    }
}

#[test]
fn nothing_is_replaced_and_the_same_again_is_the_same_attempt() {
    let cli = Cli::new();
    cli.write("mine.csv", csv(&rows(1500, 1), ""));
    assert_eq!(calibrate(&cli, &["mine.csv"]).code, 0);
    cli.refuses(
        &["calibrate", "--logits", "mine.csv"],
        &["mine-policy/plan.json exists", "--overwrite"],
    );
    let before =
        ["policy.json", "certificate.json"].map(|name| cli.read(&format!("mine-policy/{name}")));
    let again = calibrate(&cli, &["mine.csv", "--overwrite"]);
    assert_eq!(again.code, 0, "{again}");
    assert!(again.stderr.contains("the same as attempt 1"), "{again}");
    assert_eq!(
        ["policy.json", "certificate.json"].map(|name| cli.read(&format!("mine-policy/{name}"))),
        before
    );
}

#[test]
fn the_order_of_rows_changes_nothing() {
    let cli = Cli::new();
    let text = csv(&rows(900, 3), "");
    let (header, body) = text.split_once('\n').unwrap();
    let reversed: Vec<_> = body.lines().rev().collect();
    cli.write("a/mine.csv", &text);
    cli.write("b/mine.csv", format!("{header}\n{}\n", reversed.join("\n")));
    for folder in ["a", "b"] {
        let outcome = calibrate(&cli, &[&format!("{folder}/mine.csv")]);
        assert_eq!(outcome.code, 0, "{outcome}");
    }
    for file in ["plan.json", "policy.json", "certificate.json"] {
        assert_eq!(
            cli.read(&format!("a/mine-policy/{file}")),
            cli.read(&format!("b/mine-policy/{file}")),
            "{file}"
        );
    }
}

#[test]
fn every_attempt_counts_wherever_its_results_go() {
    let cli = Cli::new();
    cli.write("mine.csv", csv(&rows(1500, 1), ""));
    let attempts = [
        (&["--out", "a"][..], 1),
        (&["--out", "b", "--alpha", "0.04"], 2),
        (&["--out", "c", "--delta", "0.05"], 3),
        (&["--out", "d", "--seed", "7"], 4),
        (&["--out", "e"], 1),
    ];
    for (more, want) in attempts {
        let outcome = calibrate(&cli, &[&["mine.csv", "--json"], more].concat());
        let document = outcome.json();
        assert_eq!(
            document["certificate"]["attempt"], want,
            "{more:?}\n{outcome}"
        );
        let warned = outcome
            .stderr
            .contains(&format!("warning: attempt {want} on the rows of this file"));
        assert_eq!(warned, want > 1, "{outcome}");
    }
}

#[test]
fn what_can_not_be_certified_says_what_it_would_take_and_exits_1() {
    let cli = Cli::new();
    cli.write("few.csv", csv(&rows(1500, 1), ""));
    assert_eq!(calibrate(&cli, &["few.csv"]).code, 0);
    let outcome = calibrate(
        &cli,
        &["few.csv", "--alpha", "0.001", "--overwrite", "--json"],
    );
    assert_eq!(outcome.code, 1, "{outcome}");
    let document = outcome.json();
    assert_eq!(
        (&document["certified"], &document["reason"]),
        (&json!(false), &json!("too_few_units")),
        "{outcome}"
    );
    // ⌈ln 0.1 / ln 0.999⌉
    assert_eq!(document["needed_answered_if_no_error"], 2302);
    assert!(cli.path("few-policy/not-certified.json").is_file());
    assert!(
        !cli.path("few-policy/policy.json").exists()
            && !cli.path("few-policy/certificate.json").exists()
    );
    let text = calibrate(&cli, &["few.csv", "--alpha", "0.001", "--overwrite"]);
    assert!(
        text.stdout
            .contains("would take   2302 answers without an error"),
        "{text}"
    );
}

#[test]
fn a_split_column_decides() {
    let cli = Cli::new();
    let mut text = "split,label,logit_0,logit_1,logit_2\n".to_owned();
    for (i, (label, [a, b, c])) in rows(1600, 5).iter().enumerate() {
        let split = ["train", "val_select", "val_calib", "val_calib"][i % 4];
        writeln!(text, "{split},{label},{a},{b},{c}").unwrap();
    }
    cli.write("named.csv", &text);
    let outcome = calibrate(&cli, &["named.csv", "--json"]);
    assert_eq!(outcome.code, 0, "{outcome}");
    let document = outcome.json();
    assert_eq!(document["division"], json!({"by": "split_column"}));
    assert_eq!(
        (&document["select_rows"], &document["calib_rows"]),
        (&json!(400), &json!(800))
    );

    cli.write("half.csv", text.replace("val_select", "train"));
    cli.refuses(
        &["calibrate", "--logits", "half.csv"],
        &["half.csv: no rows of split val_select; it holds train (800 rows), val_calib (800 rows)"],
    );
}

#[test]
fn a_second_file_may_select_if_it_shares_no_row() {
    let cli = Cli::new();
    cli.write("calib.csv", csv(&rows(800, 1), "c"));
    cli.write("select.csv", csv(&rows(400, 2), "s"));
    let outcome = calibrate(&cli, &["calib.csv", "--select", "select.csv", "--json"]);
    assert_eq!(outcome.code, 0, "{outcome}");
    let document = outcome.json();
    assert_eq!(document["division"], json!({"by": "two_files"}));
    assert_eq!(
        (&document["select_rows"], &document["calib_rows"]),
        (&json!(400), &json!(800))
    );

    cli.refuses(
        &[
            "calibrate",
            "--logits",
            "calib.csv",
            "--select",
            "calib.csv",
            "--out",
            "x",
        ],
        &["row `c0` is both among those that select and those that certify"],
    );
    let grouped = |n, prefix: &str| {
        let rows: Vec<_> = (0..n)
            .map(|i| format!("{prefix}{i},g{},{},{}\n", i / 4, i % 2, i % 5))
            .collect();
        format!("id,group,label,logit\n{}", rows.concat())
    };
    cli.write("g1.csv", grouped(40, "a"));
    cli.write("g2.csv", grouped(40, "b"));
    cli.refuses(
        &["calibrate", "--logits", "g1.csv", "--select", "g2.csv"],
        &["row `a0`: its group is also among the rows that select"],
    );
    assert!(
        !cli.path("g1-policy").exists(),
        "nothing was recorded or written"
    );
}

/// Copies of a row tell nothing new, so that one of each is used.
#[test]
fn one_row_of_each_group_is_used_where_that_certifies_more() {
    let cli = Cli::new();
    let mut text = "group,label,logit_0,logit_1,logit_2\n".to_owned();
    for (i, (label, [a, b, c])) in rows(900, 5).iter().enumerate() {
        for _ in 0..2 {
            writeln!(text, "patient-{i},{label},{a},{b},{c}").unwrap();
        }
    }
    cli.write("groups.csv", &text);
    let outcome = calibrate(&cli, &["groups.csv", "--json"]);
    let document = outcome.json();
    assert_eq!(document["calib_rows"], 1200, "{outcome}");
    assert_eq!(
        document["certificate"]["calib"],
        json!({"rule": "one_per_unit", "rows": 1200, "units": 600}),
        "{outcome}"
    );
}

#[test]
fn bad_levels_are_refused_before_anything_is_recorded() {
    let cli = Cli::new();
    cli.write("mine.csv", csv(&rows(300, 1), ""));
    for (flag, value) in [
        ("--alpha", "0"),
        ("--alpha", "1"),
        ("--delta", "2"),
        ("--alpha", "nan"),
    ] {
        cli.refuses(
            &["calibrate", "--logits", "mine.csv", flag, value],
            &[&flag[2..], "a number between 0 and 1"],
        );
    }
    let outcome = calibrate(&cli, &["mine.csv", "--json", "--alpha", "0.2"]);
    assert_eq!(outcome.json()["certificate"]["attempt"], 1, "{outcome}");
}

#[test]
fn more_rows_in_the_file_are_a_later_attempt() {
    let cli = Cli::new();
    for (attempt, n) in [(1, 600), (2, 900), (3, 1500)] {
        cli.write("mine.csv", csv(&rows(n, 1), ""));
        let outcome = calibrate(&cli, &["mine.csv", "--json", "--out", &format!("out{n}")]);
        let document = outcome.json();
        let counted = match document["certified"] == true {
            true => &document["certificate"]["attempt"],
            false => &document["attempt"],
        };
        assert_eq!(counted, attempt, "{outcome}");
    }
}

#[test]
fn rows_that_select_can_not_certify_even_without_ids() {
    let cli = Cli::new();
    let without_ids = |rows: &[(u32, [f32; 3])]| {
        let text = csv(rows, "");
        let cut = |line: &str| line.split_once(',').unwrap().1.to_owned() + "\n";
        text.lines().map(cut).collect::<String>()
    };
    let all = rows(1500, 1);
    cli.write("all.csv", without_ids(&all));
    cli.write("some.csv", without_ids(&all[..500]));
    cli.write("others.csv", without_ids(&rows(500, 2)));
    cli.write("named.csv", csv(&rows(500, 2), ""));
    for select in ["all.csv", "some.csv"] {
        cli.refuses(
            &["calibrate", "--logits", "all.csv", "--select", select],
            &["every row of one of the two files is in the other"],
        );
    }
    cli.refuses(
        &["calibrate", "--logits", "all.csv", "--select", "named.csv"],
        &["only one of the two files has ids"],
    );
    let apart = calibrate(&cli, &["all.csv", "--select", "others.csv"]);
    assert_eq!(apart.code, 0, "{apart}");
}

#[test]
fn a_misspelt_tensor_is_refused() {
    let cli = Cli::new();
    let path = cli.path("mine.safetensors");
    let tensors = [
        ("logits", Tensor::f32([2, 2], vec![0.0, 1.0, 1.0, 0.0])),
        ("labels", Tensor::i64([2], vec![1, 0])),
        ("groups", Tensor::i64([2], vec![0, 0])),
    ];
    let tensors = tensors.map(|(name, tensor)| (name.to_owned(), tensor));
    tensors::save(&path, &tensors.into(), &BTreeMap::new()).unwrap();
    cli.refuses(
        &["calibrate", "--logits", "mine.safetensors"],
        &["mine.safetensors: unknown tensor `groups`", "`group`"],
    );
}

#[test]
fn what_else_is_wanted_is_set_as_in_a_configuration() {
    let cli = Cli::new();
    cli.write("mine.csv", csv(&rows(1500, 1), ""));
    let settings = [
        "mine.csv",
        "--json",
        "--set",
        "calibrate.score=energy",
        "--set",
        "calibrate.constraints=[{kind: class_error, class: 2, alpha: 0.1}, {kind: coverage, at_least: 0.2}]",
    ];
    let outcome = calibrate(&cli, &settings);
    assert_eq!(outcome.code, 0, "{outcome}");
    let document = outcome.json();
    assert_eq!(document["policy"]["score"]["kind"], "energy", "{outcome}");
    let claims = document["certificate"]["claims"].as_array().unwrap();
    assert_eq!(claims.len(), 2, "{outcome}");
    assert_eq!(claims[0]["constraint"]["class"], 2);
    cli.refuses(
        &[
            "calibrate",
            "--logits",
            "mine.csv",
            "--set",
            "train.epochs=3",
            "--out",
            "x",
        ],
        &["train.epochs=3", "only keys of `calibrate`"],
    );
    cli.refuses(
        &[
            "calibrate",
            "--logits",
            "mine.csv",
            "--set",
            "calibrate.group_risk=row",
            "--out",
            "x",
        ],
        &["calibrate.max_group_size"],
    );
}

#[test]
fn groups_are_named_with_the_rate_that_is_controlled() {
    let cli = Cli::new();
    let mut text = "id,group,label,logit_0,logit_1,logit_2\n".to_owned();
    for (i, (label, [a, b, c])) in rows(4000, 5).iter().enumerate() {
        writeln!(text, "{i},g{},{label},{a},{b},{c}", i / 8).unwrap();
    }
    cli.write("mine.csv", text);
    let outcome = calibrate(&cli, &["mine.csv", "--alpha", "0.1", "--json"]);
    assert_eq!(outcome.code, 0, "{outcome}");
    let certificate = &outcome.json()["certificate"];
    assert_eq!(certificate["calib"]["rule"], "betting", "{outcome}");
    assert_eq!(certificate["test"], "betting");
    assert_eq!(certificate["risk"], "image_of_unit");
    let text = calibrate(&cli, &["mine.csv", "--alpha", "0.1", "--overwrite"]);
    assert!(
        text.stdout.contains("not a guarantee: they ignore groups"),
        "{text}"
    );
}

#[test]
fn a_gate_decides_where_it_is_asked_to() {
    let cli = Cli::new();
    let mut text = "id,label,logit_0,logit_1,logit_2,gate\n".to_owned();
    for (i, (label, [a, b, c])) in rows(1500, 1).iter().enumerate() {
        writeln!(text, "{i},{label},{a},{b},{c},{}", a.max(*b).max(*c) / 6.0).unwrap();
    }
    cli.write("mine.csv", text);
    let outcome = calibrate(
        &cli,
        &["mine.csv", "--set", "calibrate.score=gate", "--json"],
    );
    assert_eq!(outcome.code, 0, "{outcome}");
    assert_eq!(outcome.json()["policy"]["kind"], "gate", "{outcome}");
    let metrics = cli.run([
        "metrics",
        "--logits",
        "mine.csv",
        "--policy",
        "mine-policy/policy.json",
    ]);
    assert_eq!(metrics.code, 0, "{metrics}");
    cli.write("none.csv", csv(&rows(1500, 1), ""));
    cli.refuses(
        &[
            "metrics",
            "--logits",
            "none.csv",
            "--policy",
            "mine-policy/policy.json",
        ],
        &["gate, which this model does not have"],
    );
}

#[test]
fn sessions_are_certified_together() {
    let cli = Cli::new();
    let first = rows(1500, 1);
    // The other session errs more often.
    let other: Vec<_> = first
        .iter()
        .enumerate()
        .map(|(i, (label, [a, b, c]))| match i % 40 {
            0 => (*label, [*b, *c, *a]),
            _ => (*label, [*a, *b, *c]),
        })
        .collect();
    cli.write("one.csv", csv(&first, ""));
    cli.write("two.csv", csv(&other, ""));
    let alone = calibrate(&cli, &["one.csv", "--json", "--out", "alone"]);
    let joint = calibrate(
        &cli,
        &["one.csv", "--joint", "two.csv", "--json", "--out", "joint"],
    );
    assert_eq!((alone.code, joint.code), (0, 0), "{joint}");
    let coverage = |outcome: &Outcome| outcome.json()["certificate"]["coverage"].as_f64().unwrap();
    assert!(coverage(&joint) < coverage(&alone), "{joint}");
    assert_eq!(joint.json()["certificate"]["attempt"], 2, "{joint}");
    let files = serde_json::json!(["one.csv", "two.csv"]);
    assert_eq!(joint.json()["certificate"]["jointly"], files, "{joint}");
    cli.write("less.csv", csv(&other[..900], ""));
    cli.refuses(
        &[
            "calibrate",
            "--logits",
            "one.csv",
            "--joint",
            "less.csv",
            "--out",
            "x",
        ],
        &["less.csv: no row"],
    );
}

/// What a score needs is fitted on the rows that select: those that certify have no say in it.
#[test]
fn a_score_may_be_a_fitted_probability_of_the_answer() {
    let cli = Cli::new();
    // Class 0 is announced too loudly: its answers are surer than they are right.
    let loud = |mut rows: Vec<(u32, [f32; 3])>| {
        rows.iter_mut().for_each(|(_, logits)| logits[0] += 0.8);
        rows
    };
    cli.write("select.csv", csv(&loud(rows(1000, 1)), "s"));
    cli.write("calib.csv", csv(&loud(rows(2000, 2)), "c"));
    cli.write("other.csv", csv(&loud(rows(2000, 3)), "o"));
    for family in ["vector", "svs", "sms"] {
        let set = format!("calibrate.score={family}");
        let of = |file: &str, more: &[&str]| {
            let out = format!("{family}-{file}-{}", more.len());
            let fixed = [
                "--select",
                "select.csv",
                "--set",
                &set,
                "--json",
                "--out",
                &out,
            ];
            let outcome = calibrate(&cli, &[&[file][..], &fixed, more].concat());
            assert_eq!(outcome.code, 0, "{family}: {outcome}");
            outcome.json()["policy"].clone()
        };
        let policy = of("calib.csv", &[]);
        assert_eq!(policy["score"]["kind"], "calibrated", "{policy}");
        assert_eq!(policy["score"]["by"]["kind"], family, "{policy}");
        let other = of("other.csv", &[]);
        assert_eq!(other["score"], policy["score"]);
        let expectation = of("calib.csv", &["--set", "calibrate.guarantee=expectation"]);
        assert_eq!(expectation["score"], policy["score"]);
        assert_eq!(expectation["kind"], "scrc");
    }
    let judged = cli.run([
        "validate",
        "--logits",
        "other.csv",
        "--policy",
        "sms-calib.csv-0",
        "--json",
    ]);
    // Rows that certified another policy can't judge.
    assert_eq!(judged.code, 2, "{judged}");
    cli.write("test.csv", csv(&loud(rows(3000, 9)), "t"));
    let judged = cli.run([
        "validate",
        "--logits",
        "test.csv",
        "--policy",
        "sms-calib.csv-0",
        "--json",
    ]);
    assert_eq!(judged.code, 0, "{judged}");
    assert_ne!(judged.json()["verdict"], "REFUTED", "{judged}");

    cli.write(
        "two.csv",
        (0..100).fold("id,label,logit_0,logit_1\n".to_owned(), |text, i| {
            format!("{text}{i},{},0,{}\n", i % 2, i % 7)
        }),
    );
    cli.refuses(
        &[
            "calibrate",
            "--logits",
            "two.csv",
            "--set",
            "calibrate.score=svs",
        ],
        &["score svs is for three classes or more"],
    );
}

/// Each session has its own counts and probability, at the threshold that all share.
#[test]
fn each_session_of_a_joint_calibration_gets_its_policy() {
    let cli = Cli::new();
    let one = rows(2400, 1);
    // The other session is a little less sure of everything.
    let two: Vec<_> = one
        .iter()
        .map(|(label, logits)| (*label, logits.map(|z| 0.9 * z)))
        .collect();
    cli.write("one.csv", csv(&one, "r"));
    cli.write("two.csv", csv(&two, "r"));
    let joint = calibrate(&cli, &["one.csv", "--joint", "two.csv", "--json"]);
    assert_eq!(joint.code, 0, "{joint}");
    let read = |path: &str| -> Value { serde_json::from_str(&cli.read(path)).unwrap() };
    let (first, second) = (
        read("one-policy/certificate.json"),
        read("one-policy/two/certificate.json"),
    );
    assert_eq!(joint.json()["certificate"], first);
    assert_eq!(joint.json()["also"][0]["certificate"], second);
    assert!(
        second["answered"].as_u64() < first["answered"].as_u64(),
        "{joint}"
    );
    assert_eq!(
        (&first["attempt"], &second["attempt"]),
        (&json!(1), &json!(1))
    );
    let policies = ["one-policy/policy.json", "one-policy/two/policy.json"].map(read);
    assert_eq!(policies[0]["threshold"], policies[1]["threshold"]);
    // The rows of neither session can judge, by whichever policy.
    for (file, policy) in [
        ("two.csv", "one-policy/two"),
        ("two.csv", "one-policy"),
        ("one.csv", "one-policy/two"),
    ] {
        cli.refuses(
            &[
                "validate", "--logits", file, "--policy", policy, "--out", "judged",
            ],
            &["rows of this file certified a policy"],
        );
    }
    // A policy that happens to lie in the folder isn't this calibration's to replace.
    cli.write("single.csv", csv(&rows(1500, 8), "s"));
    let single = calibrate(&cli, &["single.csv", "--out", "one-policy/mine"]);
    assert_eq!(single.code, 0, "{single}");
    // Each can be judged on rows of its own session.
    cli.write("test.csv", csv(&rows(900, 5), "t"));
    let judged = cli.run([
        "validate",
        "--logits",
        "test.csv",
        "--policy",
        "one-policy/two",
    ]);
    assert_eq!(judged.code, 0, "{judged}");
    // What couldn't be certified together says so, and leaves no policy of either.
    let strict = [
        "one.csv",
        "--joint",
        "two.csv",
        "--alpha",
        "0.0005",
        "--overwrite",
        "--json",
    ];
    let refused = calibrate(&cli, &strict);
    assert_eq!(refused.code, 1, "{refused}");
    assert_eq!(
        refused.json()["jointly"],
        json!(["one.csv", "two.csv"]),
        "{refused}"
    );
    assert!(!cli.path("one-policy/policy.json").exists());
    for name in ["policy.json", "used-rows.safetensors", "validation.json"] {
        assert!(!cli.path("one-policy/two").join(name).exists(), "{name}");
    }
    assert!(cli.path("one-policy/mine/policy.json").is_file());
    let text = calibrate(&cli, &[&strict[..5], &["--overwrite"]].concat());
    assert!(
        text.stdout.contains("of the session that did worst"),
        "{text}"
    );

    cli.write("sub/one.csv", csv(&two, "r"));
    for (other, message) in [
        ("one.csv", "named twice"),
        ("./one.csv", "named twice"),
        ("sub/one.csv", "have the same name"),
    ] {
        cli.refuses(
            &[
                "calibrate",
                "--logits",
                "one.csv",
                "--joint",
                other,
                "--out",
                "new",
            ],
            &[message],
        );
    }
}

/// The certificate in the file's own folder remembers attempts whose ledger was removed.
#[test]
fn a_removed_ledger_is_noticed() {
    let cli = Cli::new();
    cli.write("mine.csv", csv(&rows(1500, 1), ""));
    assert_eq!(calibrate(&cli, &["mine.csv"]).code, 0);
    let ledger = std::fs::read_dir(cli.path(""))
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .find(|path| path.to_string_lossy().ends_with(".calib-ledger.jsonl"))
        .unwrap();
    std::fs::remove_file(ledger).unwrap();
    let other = ["mine.csv", "--alpha", "0.04", "--overwrite", "--json"];
    let outcome = calibrate(&cli, &other);
    assert_eq!(outcome.code, 0, "{outcome}");
    assert!(outcome.stderr.contains("isn't known any more"), "{outcome}");
    assert_eq!(
        outcome.json()["certificate"]["calib_ledger"]["state"],
        "unknown"
    );
}

#[test]
fn a_flag_and_its_key_are_not_both_given() {
    let cli = Cli::new();
    cli.write("mine.csv", csv(&rows(1500, 1), ""));
    cli.refuses(
        &[
            "calibrate",
            "--logits",
            "mine.csv",
            "--alpha",
            "0.1",
            "--set",
            "calibrate.alpha=0.2",
        ],
        &["--alpha and --set calibrate.alpha=… say the same thing"],
    );
    for (key, message) in [
        ("calibrate.alpha =0.2", "say the same thing"),
        (
            "calibrate.constraints=[{kind: selective_error, alpha: 0.1}]",
            "both say what is promised",
        ),
    ] {
        let alpha = ["calibrate", "--logits", "mine.csv", "--alpha", "0.1"];
        cli.refuses(&[&alpha[..], &["--set", key]].concat(), &[message]);
    }
    let set = calibrate(
        &cli,
        &["mine.csv", "--set", "calibrate.alpha=0.2", "--json"],
    );
    assert_eq!(set.json()["certificate"]["alpha"], 0.2, "{set}");
    cli.refuses(
        &[
            "validate",
            "--logits",
            "mine.csv",
            "--policy",
            "mine-policy",
            "--gamma",
            "0.1",
            "--set",
            "validate.gamma=0.2",
        ],
        &["--gamma and --set validate.gamma=… say the same thing"],
    );
}

/// Copies of an image that nobody put into one group can't be seen as such; that rows are alike can.
#[test]
fn rows_that_are_alike_are_told_of() {
    let cli = Cli::new();
    let mut some = rows(900, 1);
    let copies = some[..100].to_vec();
    some.extend(copies);
    cli.write("mine.csv", csv(&some, ""));
    let outcome = calibrate(&cli, &["mine.csv"]);
    assert!(
        outcome
            .stderr
            .contains("have the very logits of another one"),
        "{outcome}"
    );
    cli.write("other.csv", csv(&rows(900, 1), ""));
    let outcome = calibrate(&cli, &["other.csv"]);
    assert!(!outcome.stderr.contains("very logits"), "{outcome}");
}

/// Levels that no float can show in a few digits, and thresholds that answer nothing, are told in words that fit.
#[test]
fn extremes_are_told_briefly() {
    let cli = Cli::new();
    cli.write("mine.csv", csv(&rows(1500, 1), ""));
    let outcome = calibrate(&cli, &["mine.csv", "--delta", "1e-300"]);
    assert_eq!(outcome.code, 1, "{outcome}");
    assert!(outcome.stdout.contains("against 1e-300"), "{outcome}");
    assert!(
        outcome.stdout.lines().all(|line| line.len() < 200),
        "{outcome}"
    );
    let tiny = calibrate(&cli, &["mine.csv", "--alpha", "1e-100", "--out", "tiny"]);
    assert_eq!(tiny.code, 1, "{tiny}");
    let fnr = r#"calibrate.constraints=[{"kind":"fnr","alpha":0.1}]"#;
    cli.refuses(
        &[
            "calibrate",
            "--logits",
            "mine.csv",
            "--set",
            fnr,
            "--out",
            "b",
        ],
        &[r#""kind":"fnr""#, "need two classes"],
    );
    cli.refuses(
        &[
            "calibrate",
            "--logits",
            "mine.csv",
            "--set",
            "calibrate.calibrator=platt",
            "--out",
            "c",
        ],
        &["calibrator platt does not go with 3 classes"],
    );
}

/// An attempt on several files is one on each: what was tried before on any of them counts.
#[test]
fn a_joint_attempt_counts_what_any_of_its_files_was_tried() {
    let cli = Cli::new();
    let one = rows(2400, 1);
    let two: Vec<_> = one
        .iter()
        .map(|(label, logits)| (*label, logits.map(|z| 0.9 * z)))
        .collect();
    cli.write("one.csv", csv(&one, "r"));
    cli.write("two.csv", csv(&two, "r"));
    let spending = ["--set", "calibrate.attempts=spending"];
    for (alpha, out) in [("0.06", "a"), ("0.07", "b")] {
        let alone = ["two.csv", "--alpha", alpha, "--out", out];
        let alone = calibrate(&cli, &[&alone[..], &spending].concat());
        assert_eq!(alone.code, 0, "{alone}");
    }
    let joint = ["one.csv", "--joint", "two.csv", "--alpha", "0.08"];
    // What was paid for on one of the files has to be paid for on all.
    cli.refuses(
        &[&["calibrate", "--logits"], &joint[..], &["--out", "no"]].concat(),
        &["keep `spending`"],
    );
    let joint = [&joint[..], &spending, &["--json", "--out", "c"]].concat();
    let first = calibrate(&cli, &joint);
    assert_eq!(first.code, 0, "{first}");
    assert_eq!(first.json()["certificate"]["attempt"], 3, "{first}");
    let again = calibrate(&cli, &[&joint[..], &["--overwrite"]].concat());
    assert_eq!(
        again.json()["certificate"],
        first.json()["certificate"],
        "{again}"
    );
    let alone = ["one.csv", "--alpha", "0.09", "--out", "d", "--json"];
    let later = calibrate(&cli, &[&alone[..], &spending].concat());
    assert_eq!(later.json()["certificate"]["attempt"], 4, "{later}");
}

/// Without groups in both files nobody can see that no group is in both.
#[test]
fn both_files_have_groups_or_neither() {
    let cli = Cli::new();
    let grouped = |prefix: &str, seed| {
        let text = csv(&rows(1500, seed), prefix);
        let line = |(i, line): (usize, &str)| match i {
            0 => format!("{line},group"),
            _ => format!("{line},{prefix}{}", i / 2),
        };
        text.lines()
            .enumerate()
            .map(line)
            .collect::<Vec<_>>()
            .join("\n")
            + "\n"
    };
    cli.write("select.csv", grouped("s", 2));
    cli.write("calib.csv", csv(&rows(1500, 1), "c"));
    cli.refuses(
        &[
            "calibrate",
            "--logits",
            "calib.csv",
            "--select",
            "select.csv",
        ],
        &["only one of the two files has a `group` column"],
    );
    cli.write("grouped.csv", grouped("c", 1));
    let both = calibrate(
        &cli,
        &["grouped.csv", "--select", "select.csv", "--alpha", "0.1"],
    );
    assert_eq!(both.code, 0, "{both}");
    // Groups that certified don't judge under other ids.
    let test = cli.read("grouped.csv").replace("\nc", "\nt");
    cli.write("test.csv", test);
    cli.refuses(
        &[
            "validate",
            "--logits",
            "test.csv",
            "--policy",
            "grouped-policy",
        ],
        &["is of a group that the policy was chosen or certified on"],
    );
}
