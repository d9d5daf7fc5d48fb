//! `stage1 validate --logits`.

use crate::calibrate_logits::{csv, rows};
use crate::cli::{Cli, Outcome};
use npyz::{WriterBuilder as _, npz::NpzWriter};
use serde_json::{Value, json};
use stage1_core::artifact::tensors::{self, Tensor};
use std::{
    collections::BTreeMap,
    fmt::Write as _,
    fs,
    path::{Path, PathBuf},
};

type Rows = Vec<(u32, [f32; 3])>;

/// A policy, certified on rows of its own.
fn calibrated() -> Cli {
    let cli = Cli::new();
    cli.write("mine.csv", csv(&rows(3000, 1), ""));
    let outcome = cli.run(["calibrate", "--logits", "mine.csv", "--out", "policy"]);
    assert_eq!(outcome.code, 0, "{outcome}");
    cli
}

fn validate(cli: &Cli, more: &[&str]) -> Outcome {
    cli.run(
        [
            &["validate", "--policy", "policy", "--json", "--logits"],
            more,
        ]
        .concat(),
    )
}

/// The same, with one sure answer in `every` made wrong.
fn spoilt(mut rows: Rows, every: usize) -> Rows {
    for (label, _) in rows.iter_mut().step_by(every) {
        *label = (*label + 1) % 3;
    }
    rows
}

#[test]
fn verdicts_and_exit_codes() {
    let cli = calibrated();
    let cases = [
        ("as certified, many rows", rows(4000, 9), "HELD", [0, 0]),
        (
            "as certified, few rows",
            rows(60, 9),
            "INCONCLUSIVE",
            [0, 1],
        ),
        ("much worse", spoilt(rows(2000, 9), 5), "REFUTED", [1, 1]),
    ];
    for (i, (name, rows, want, codes)) in cases.into_iter().enumerate() {
        let file = format!("test{i}.csv");
        cli.write(&file, csv(&rows, "t"));
        for (required, code) in [None, Some("--require-held")].into_iter().zip(codes) {
            let mut more = vec![&*file, "--out", name];
            more.extend(required);
            let outcome = validate(&cli, &more);
            assert_eq!(outcome.code, code, "{name}: {outcome}");
            let validation = outcome.json();
            assert_eq!(validation["verdict"], want, "{name}: {outcome}");
            // The same again is the same opening, and says the same.
            assert_eq!(validation["opening"], 1, "{name}");
            let power = &validation["power"];
            assert_eq!(
                power["held"].as_f64().unwrap() > 0.5,
                want == "HELD" || rows.len() > 1000,
                "{name}: {power}"
            );
            assert_eq!(validation["test"]["rows"], json!(rows.len()), "{name}");
            let written: Value =
                serde_json::from_str(&cli.read(&format!("{name}/validation.json"))).unwrap();
            assert_eq!(written, validation, "{name}");
        }
    }
    let text = cli.run([
        "validate",
        "--logits",
        "test0.csv",
        "--policy",
        "policy/policy.json",
    ]);
    for part in [
        "HELD",
        "chance of HELD",
        "95 % interval",
        "certified with confidence 90.0 %",
    ] {
        assert!(text.stdout.contains(part), "{part}: {text}");
    }
}

#[test]
fn what_a_file_is_written_in_changes_nothing() {
    let cli = calibrated();
    let rows = rows(1500, 9);
    cli.write("test.csv", csv(&rows, "t"));
    let logits: Vec<f32> = rows.iter().flat_map(|row| row.1).collect();
    let labels: Vec<i64> = rows.iter().map(|row| i64::from(row.0)).collect();
    let tensors: BTreeMap<_, _> = [
        ("logits", Tensor::f32([rows.len(), 3], logits.clone())),
        ("labels", Tensor::i64([rows.len()], labels.clone())),
    ]
    .map(|(name, tensor)| (name.to_owned(), tensor))
    .into();
    tensors::save(&cli.path("test.safetensors"), &tensors, &BTreeMap::new()).unwrap();
    npz(&cli.path("test.npz"), &logits, &labels);
    let counted = |file: &str| {
        let outcome = validate(&cli, &[file, "--out", file.rsplit('.').next().unwrap()]);
        assert_eq!(outcome.code, 0, "{file}: {outcome}");
        let validation = outcome.json();
        ["verdict", "answered", "errors", "p_held", "coverage"].map(|key| validation[key].clone())
    };
    let want = counted("test.csv");
    assert_eq!(want[0], "HELD");
    assert_eq!(counted("test.safetensors"), want);
    assert_eq!(counted("test.npz"), want);
}

fn npz(path: &Path, logits: &[f32], labels: &[i64]) {
    let mut file = NpzWriter::create(path).unwrap();
    let n = labels.len() as u64;
    let mut array = file
        .array("logits", Default::default())
        .unwrap()
        .default_dtype()
        .shape(&[n, 3])
        .begin_nd()
        .unwrap();
    array.extend(logits.iter().copied()).unwrap();
    array.finish().unwrap();
    let mut array = file
        .array("labels", Default::default())
        .unwrap()
        .default_dtype()
        .shape(&[n])
        .begin_nd()
        .unwrap();
    array.extend(labels.iter().copied()).unwrap();
    array.finish().unwrap();
}

#[test]
fn neither_a_new_folder_nor_more_rows_make_a_first_opening_of_a_later_one() {
    let cli = calibrated();
    cli.write("test.csv", csv(&rows(400, 9), "t"));
    assert_eq!(
        validate(&cli, &["test.csv", "--out", "a"]).json()["opening"],
        1
    );
    let again = validate(&cli, &["test.csv", "--out", "b"]);
    assert_eq!(again.json()["opening"], 1, "{again}");
    assert!(again.stderr.contains("the same as opening 1"), "{again}");
    cli.write("test.csv", csv(&rows(800, 9), "t"));
    cli.refuses(
        &[
            "validate", "--logits", "test.csv", "--policy", "policy", "--out", "a",
        ],
        &["validation.json exists", "--overwrite"],
    );
    let more = validate(&cli, &["test.csv", "--out", "c"]);
    assert_eq!(more.json()["opening"], 2, "{more}");
    assert!(more.stderr.contains("exploratory"), "{more}");
    // Another policy on the same rows is one more.
    let other = cli.run([
        "calibrate",
        "--logits",
        "mine.csv",
        "--out",
        "other",
        "--alpha",
        "0.1",
    ]);
    assert_eq!(other.code, 0, "{other}");
    let third = cli.run([
        "validate", "--logits", "test.csv", "--policy", "other", "--json",
    ]);
    assert_eq!(third.json()["opening"], 3, "{third}");
}

#[test]
fn a_cut_ledger_is_unknown() {
    let cli = calibrated();
    cli.write("test.csv", csv(&rows(400, 9), "t"));
    assert_eq!(validate(&cli, &["test.csv"]).code, 0);
    let ledger = ledger_of(&cli, "test").unwrap();
    fs::remove_file(&ledger).unwrap();
    let outcome = validate(&cli, &["test.csv"]);
    let state = &outcome.json()["test_ledger"];
    assert!(state.to_string().contains("missing"), "{outcome}");
}

#[test]
fn only_rows_of_val_test_judge() {
    let cli = calibrated();
    let all = rows(1600, 9);
    let mut text = "id,split,group,label,logit_0,logit_1,logit_2\n".to_owned();
    for (i, (label, [a, b, c])) in all.iter().enumerate() {
        let split = if i < 600 { "val_calib" } else { "val_test" };
        writeln!(text, "t{i},{split},g{i},{label},{a},{b},{c}").unwrap();
    }
    cli.write("all.csv", &text);
    let outcome = validate(&cli, &["all.csv"]);
    assert_eq!(outcome.json()["test"]["rows"], 1000, "{outcome}");
    let cases: [(&str, String, &str); 3] = [
        (
            "row",
            format!("{text}t0,val_test,new,0,1,0,0\n"),
            "id `t0` occurs twice",
        ),
        (
            "group",
            format!("{text}new,val_test,g5,0,1,0,0\n"),
            "its group is both",
        ),
        (
            "none",
            text.replace("val_test", "train"),
            "no rows of split val_test",
        ),
    ];
    for (name, text, want) in cases {
        let file = format!("{name}.csv");
        cli.write(&file, text);
        cli.refuses(
            &[
                "validate", "--logits", &file, "--policy", "policy", "--out", name,
            ],
            &[want],
        );
    }
}

#[test]
fn what_can_not_be_judged_is_refused() {
    let cli = calibrated();
    cli.write("test.csv", csv(&rows(400, 9), "t"));
    let refuses = |more: &[&str], parts: &[&str]| {
        cli.refuses(
            &[&["validate", "--logits", "test.csv"], more].concat(),
            parts,
        );
    };
    cli.refuses(
        &["validate", "--logits", "mine.csv", "--policy", "policy"],
        &["rows of this file certified a policy"],
    );
    refuses(&[], &["--policy"]);
    refuses(&["--policy", "nothing"], &["policy.json"]);
    refuses(&["--policy", "policy", "--gamma", "1.5"], &["gamma"]);
    refuses(
        &["--policy", "policy", "--set", "train.epochs=3"],
        &["only keys of `validate`"],
    );
    cli.write("two.csv", "label,logit_0,logit_1\n0,1,0\n1,0,1\n");
    cli.refuses(
        &["validate", "--logits", "two.csv", "--policy", "policy"],
        &["2 classes, the policy decides among 3"],
    );
    let policy = cli
        .read("policy/policy.json")
        .replace("\"at_least\": 0.", "\"at_least\": 0.1");
    cli.write("policy/policy.json", policy);
    refuses(
        &["--policy", "policy"],
        &["the certificate is another policy's"],
    );
    let opened = ["test", "two"].map(|stem| ledger_of(&cli, stem));
    assert_eq!(opened, [None, None], "what is refused opens nothing");
}

/// The ledger of a file's openings.
fn ledger_of(cli: &Cli, stem: &str) -> Option<PathBuf> {
    let files = fs::read_dir(cli.path(".")).unwrap();
    files.map(|entry| entry.unwrap().path()).find(|path| {
        let name = path.file_name().unwrap().to_string_lossy();
        name.starts_with(&format!("{stem}.")) && name.ends_with("ledger.jsonl")
    })
}

/// Another seed keeps other rows of the groups: a verdict could be chosen by it.
#[test]
fn another_seed_is_another_opening() {
    let cli = calibrated();
    cli.write("test.csv", csv(&rows(900, 9), "t"));
    let first = validate(&cli, &["test.csv", "--out", "a"]);
    assert_eq!(first.json()["opening"], 1, "{first}");
    let other = validate(&cli, &["test.csv", "--out", "b", "--seed", "7"]);
    assert_eq!(other.json()["opening"], 2, "{other}");
}

/// Under whatever name they come, all or most of them.
#[test]
fn rows_that_certified_do_not_judge() {
    let cli = calibrated();
    let text = csv(&rows(3000, 1), "");
    let (header, body) = text.split_once('\n').unwrap();
    let lines: Vec<_> = body.lines().rev().collect();
    let file = |lines: &[String]| format!("{header}\n{}\n", lines.join("\n"));
    let owned = |lines: &[&str]| {
        lines
            .iter()
            .map(|line| (*line).to_owned())
            .collect::<Vec<_>>()
    };
    let renamed: Vec<_> = lines.iter().map(|line| format!("other-{line}")).collect();
    let few = csv(&rows(900, 9), "t");
    let mixed: Vec<_> = few
        .lines()
        .skip(1)
        .map(str::to_owned)
        .chain(renamed[..900].iter().cloned())
        .collect();
    let same_ids = csv(&rows(900, 9), "")
        .lines()
        .skip(1)
        .map(str::to_owned)
        .collect();
    let cases = [
        ("all", owned(&lines), "has the id of a row"),
        ("but-one", owned(&lines[1..]), "has the id of a row"),
        ("same-ids", same_ids, "has the id of a row"),
        (
            "renamed",
            renamed.clone(),
            "3000 of the 3000 rows of val_test",
        ),
        ("mixed", mixed.clone(), " of the 1800 rows of val_test"),
    ];
    for (name, lines, says) in cases {
        cli.write(&format!("{name}.csv"), file(&lines));
        cli.refuses(
            &[
                "validate",
                "--logits",
                &format!("{name}.csv"),
                "--policy",
                "policy",
            ],
            &[says, "val_test must be other rows"],
        );
        assert_eq!(ledger_of(&cli, name), None, "{name}");
    }
    // Three copies are told of.
    cli.write("copies.csv", file(&mixed[..903]));
    let told = validate(&cli, &["copies.csv", "--out", "copies"]);
    assert!(
        told.stderr.contains(" of the 903 rows of val_test"),
        "{told}"
    );
    // Without the file that tells them, nothing is judged.
    fs::remove_file(cli.path("policy/used-rows.safetensors")).unwrap();
    cli.write("few.csv", few);
    cli.refuses(
        &["validate", "--logits", "few.csv", "--policy", "policy"],
        &["used-rows.safetensors", "certificate.json"],
    );
}

/// Of two classes a row is one number: many are near another, and few are the same.
#[test]
fn other_rows_of_two_classes_judge() {
    let cli = Cli::new();
    let margins = |n: u32, seed: u32, prefix: &str| {
        let mut text = "id,label,logit_0,logit_1\n".to_owned();
        for (i, (label, logits)) in rows(n, seed).iter().enumerate() {
            let margin = logits.iter().sum::<f32>();
            let winner = u32::from(logits[(*label % 3) as usize] > 0.0);
            let sign = if winner == 1 { 1.0 } else { -1.0 };
            writeln!(
                text,
                "{prefix}{i},1,{},{}",
                -sign * margin / 2.0,
                sign * margin / 2.0
            )
            .unwrap();
        }
        text
    };
    cli.write("many.csv", margins(30_000, 1, "c"));
    let certified = cli.run(["calibrate", "--logits", "many.csv", "--out", "policy"]);
    assert_eq!(certified.code, 0, "{certified}");
    cli.write("test.csv", margins(3000, 9, "t"));
    let judged = validate(&cli, &["test.csv"]);
    assert_eq!(judged.code, 0, "{judged}");
}

/// Links lead to the same rows, and so to the same ledger.
#[cfg(unix)]
#[test]
fn a_link_is_no_other_file() {
    let cli = calibrated();
    cli.write("test.csv", csv(&rows(900, 9), "t"));
    std::os::unix::fs::symlink("test.csv", cli.path("link.csv")).unwrap();
    let first = validate(&cli, &["test.csv", "--out", "a"]);
    assert_eq!(first.json()["opening"], 1, "{first}");
    let other = validate(&cli, &["link.csv", "--out", "b", "--seed", "7"]);
    assert_eq!(other.json()["opening"], 2, "{other}");
}

/// Rows of groups, of which there is no sign in val_test, would be taken for independent.
#[test]
fn a_promise_about_groups_is_judged_by_groups() {
    let grouped = |rows: &[(u32, [f32; 3])], prefix: &str| {
        let text = csv(rows, prefix);
        let lines = text.lines().enumerate().map(|(i, line)| match i {
            0 => format!("{line},group\n"),
            i => format!("{line},{prefix}{}\n", (i - 1) / 2),
        });
        lines.collect::<String>()
    };
    let cli = Cli::new();
    cli.write("mine.csv", grouped(&rows(4000, 1), "c"));
    let outcome = cli.run(["calibrate", "--logits", "mine.csv", "--out", "policy"]);
    assert_eq!(outcome.code, 0, "{outcome}");
    cli.write("single.csv", csv(&rows(900, 9), "t"));
    cli.refuses(
        &["validate", "--logits", "single.csv", "--policy", "policy"],
        &[
            "the certificate is about groups of rows",
            "no `group` column",
        ],
    );
    cli.write("groups.csv", grouped(&rows(900, 9), "t"));
    assert_eq!(validate(&cli, &["groups.csv"]).json()["test"]["units"], 450);
    // The other way round one row of each group judges what single rows certified.
    let single = calibrated();
    single.write("groups.csv", grouped(&rows(900, 9), "t"));
    let judged = validate(&single, &["groups.csv"]);
    assert_eq!(
        judged.json()["test"],
        json!({"rule": "one_per_unit", "rows": 900, "units": 450})
    );
}
