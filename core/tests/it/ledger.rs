//! The ledgers: numbers, damage, loss, interruption, and two writers at once.

use crate::images::Folder;
use stage1_core::{
    artifact::Digest,
    certificate::Constraint,
    ledger::{
        Attempt, Begun, Entry, Error, Kind, Ledger, LedgerState, Outcome, Result, Ruling, Verdict,
    },
};
use std::{collections::BTreeSet, fs, thread};

fn digest(name: &str) -> Digest {
    Digest::of_bytes(name.as_bytes())
}

fn open(folder: &Folder, kind: Kind) -> Ledger {
    Ledger::open(&folder.path("splits.json"), digest("splits"), kind).unwrap()
}

/// An attempt whose plan depends on its number, as that of spending attempts does.
fn attempt(model: &str) -> impl Fn(u64) -> Result<Attempt> {
    move |number| {
        Ok(Attempt {
            number,
            model_digest: digest(model),
            plan_digest: digest(&format!("plan {number}")),
            variant: "fp32".to_owned(),
            alpha: 0.05,
            constraints: vec![Constraint::SelectiveError { alpha: 0.05 }],
            delta: Some(0.1),
            level: Some(0.1),
            rows: 300,
            units: 290,
        })
    }
}

/// A ledger of three attempts and an outcome.
fn filled(folder: &Folder) -> Ledger {
    let mut ledger = open(folder, Kind::Calib);
    for model in ["a", "b", "c"] {
        ledger.begin_attempt(attempt(model)).unwrap();
    }
    let outcome = Outcome {
        attempt: 3,
        policy_digest: None,
    };
    ledger.append(Entry::Outcome(outcome)).unwrap();
    ledger
}

fn is_unknown(state: &LedgerState, want: &str) -> bool {
    matches!(state, LedgerState::Unknown { reason } if reason.contains(want))
}

#[test]
fn attempts_are_counted_once_each_and_survive() {
    let folder = Folder::new();
    let mut ledger = filled(&folder);
    let again = ledger.begin_attempt(attempt("b")).unwrap();
    assert_eq!(
        again,
        Begun {
            number: 2,
            repeated: true
        }
    );
    let state = ledger.state();
    assert!(matches!(state, LedgerState::Known { entries: 4, .. }));

    let mut reopened = open(&folder, Kind::Calib);
    assert_eq!(reopened.state(), state);
    assert!(reopened.entries().eq(ledger.entries()));
    assert_eq!(
        reopened.begin_attempt(attempt("d")).unwrap(),
        Begun {
            number: 4,
            repeated: false
        }
    );
    assert_eq!(reopened.outcome(3).unwrap().policy_digest, None);
    assert!(reopened.outcome(1).is_none());
    let name = reopened
        .path()
        .file_name()
        .unwrap()
        .to_str()
        .unwrap()
        .to_owned();
    assert_eq!(
        name,
        format!("splits.{}.calib-ledger.jsonl", digest("splits").short())
    );

    // The other ledger, and that of other splits, are other files.
    assert_eq!(open(&folder, Kind::Test).entries().count(), 0);
    let other = Ledger::open(&folder.path("splits.json"), digest("other"), Kind::Calib).unwrap();
    assert_eq!(other.entries().count(), 0);
}

#[test]
fn openings_are_counted_by_bundle() {
    let folder = Folder::new();
    let mut ledger = open(&folder, Kind::Test);
    let mut begin = |bundle| ledger.begin_opening(digest(bundle), 0.05).unwrap();
    assert_eq!(
        begin("a"),
        Begun {
            number: 1,
            repeated: false
        }
    );
    assert_eq!(
        begin("b"),
        Begun {
            number: 2,
            repeated: false
        }
    );
    assert_eq!(
        begin("a"),
        Begun {
            number: 1,
            repeated: true
        }
    );
    let verdict = Verdict {
        opening: 1,
        verdict: Ruling::Held,
        answered: 400,
        errors: 10,
        units: 900,
        rows: 900,
    };
    ledger.append(Entry::Verdict(verdict.clone())).unwrap();
    assert_eq!(open(&folder, Kind::Test).verdict(1), Some(&verdict));
    let refused = ledger
        .begin_opening(digest("a"), 0.4)
        .unwrap_err()
        .to_string();
    for part in ["gamma 0.05", "opening 1", "at 0.4"] {
        assert!(refused.contains(part), "{part}: {refused}");
    }
    assert_eq!(ledger.openings().count(), 2);
}

#[test]
fn every_change_to_a_line_is_noticed() {
    let folder = Folder::new();
    let path = filled(&folder).path().to_owned();
    let text = fs::read_to_string(&path).unwrap();
    let lines: Vec<_> = text.lines().collect();
    let cases = [
        (
            "changed",
            text.replacen("0.05", "0.06", 1),
            "line 1 was changed",
        ),
        (
            "number changed",
            text.replacen("\"units\":290", "\"units\":291", 3),
            "line 1 was changed",
        ),
        (
            "line removed",
            [lines[0], lines[2], lines[3], ""].join("\n"),
            "line 2 doesn't follow",
        ),
        (
            "first removed",
            [lines[1], lines[2], ""].join("\n"),
            "line 1 doesn't follow",
        ),
        (
            "swapped",
            [lines[1], lines[0], ""].join("\n"),
            "line 1 doesn't follow",
        ),
        (
            "rubbish",
            format!("{text}rubbish\n"),
            "line 5 can't be read",
        ),
        (
            "unknown field",
            text.replacen("\"rows\"", "\"rose\"", 1),
            "line 1 can't be read",
        ),
        ("empty line", format!("{text}\n"), "line 5 can't be read"),
    ];
    for (name, spoilt, want) in cases {
        fs::write(&path, spoilt).unwrap();
        let mut ledger = open(&folder, Kind::Calib);
        assert!(
            is_unknown(&ledger.state(), want),
            "{name}: {:?}",
            ledger.state()
        );
        let error = ledger.begin_attempt(attempt("d")).unwrap_err();
        assert!(matches!(error, Error::Damaged { .. }), "{name}: {error}");
    }
    // A ledger of other splits under this one's name.
    fs::write(&path, &text).unwrap();
    let other = Ledger::open(&folder.path("splits.json"), digest("other"), Kind::Calib).unwrap();
    fs::rename(&path, other.path()).unwrap();
    let other = Ledger::open(&folder.path("splits.json"), digest("other"), Kind::Calib).unwrap();
    assert!(is_unknown(&other.state(), "line 1 doesn't follow"));
}

#[test]
fn an_append_that_was_killed_leaves_no_trace_and_no_harm() {
    let folder = Folder::new();
    let path = filled(&folder).path().to_owned();
    let text = fs::read_to_string(&path).unwrap();
    let last = text.trim_end().rfind('\n').unwrap() + 1;
    // Cut anywhere inside the last line: it was never acknowledged.
    for cut in [last + 1, last + 40, text.len() - 2] {
        fs::write(&path, &text[..cut]).unwrap();
        let mut ledger = open(&folder, Kind::Calib);
        assert!(matches!(
            ledger.state(),
            LedgerState::Known { entries: 3, .. }
        ));
        assert_eq!(ledger.begin_attempt(attempt("d")).unwrap().number, 4);
        let reopened = open(&folder, Kind::Calib);
        assert!(
            matches!(reopened.state(), LedgerState::Known { entries: 4, .. }),
            "{cut}"
        );
    }
    // The line is whole, its newline isn't there: it counts.
    fs::write(&path, &text[..text.len() - 1]).unwrap();
    let mut ledger = open(&folder, Kind::Calib);
    assert!(matches!(
        ledger.state(),
        LedgerState::Known { entries: 4, .. }
    ));
    ledger.begin_attempt(attempt("d")).unwrap();
    assert!(matches!(
        open(&folder, Kind::Calib).state(),
        LedgerState::Known { entries: 5, .. }
    ));
}

#[test]
fn what_was_recorded_elsewhere_and_is_gone_stays_unknown() {
    let folder = Folder::new();
    let ledger = filled(&folder);
    let (path, recorded) = (ledger.path().to_owned(), ledger.state());
    let text = fs::read_to_string(&path).unwrap();
    let checked = || {
        let mut ledger = open(&folder, Kind::Calib);
        ledger.check(&recorded);
        ledger
    };
    assert_eq!(checked().state(), recorded);
    checked().begin_attempt(attempt("d")).unwrap();
    assert!(matches!(
        checked().state(),
        LedgerState::Known { entries: 5, .. }
    ));

    let two_lines: String = text.split_inclusive('\n').take(2).collect();
    fs::write(&path, two_lines).unwrap();
    assert!(is_unknown(&checked().state(), "2 entries, 4 are recorded"));
    fs::remove_file(&path).unwrap();
    let mut ledger = checked();
    assert!(is_unknown(
        &ledger.state(),
        "missing, 4 entries are recorded"
    ));

    // A new attempt writes the loss down: from now on the file alone says so.
    assert_eq!(ledger.begin_attempt(attempt("d")).unwrap().number, 1);
    assert!(is_unknown(
        &ledger.state(),
        "missing, 4 entries are recorded"
    ));
    assert!(is_unknown(
        &open(&folder, Kind::Calib).state(),
        "missing, 4 entries are recorded"
    ));
    let breaks = ledger
        .entries()
        .filter(|entry| matches!(entry, Entry::Break(_)));
    assert_eq!(breaks.count(), 1);
}

#[test]
fn a_file_that_is_replaced_under_an_open_ledger_is_noticed() {
    let folder = Folder::new();
    let mut ledger = filled(&folder);
    fs::write(ledger.path(), "").unwrap();
    let error = ledger.begin_attempt(attempt("d")).unwrap_err();
    assert!(
        matches!(error, Error::Rewritten { entries: 4, .. }),
        "{error}"
    );
}

#[test]
fn writers_at_once_get_different_numbers() {
    let folder = Folder::new();
    let numbers = thread::scope(|scope| {
        let writer = |name: usize| {
            let folder = &folder;
            scope.spawn(move || {
                let mut ledger = open(folder, Kind::Calib);
                let begin = |i| {
                    ledger
                        .begin_attempt(attempt(&format!("{name}/{i}")))
                        .unwrap()
                        .number
                };
                (0..8).map(begin).collect::<Vec<_>>()
            })
        };
        let writers: Vec<_> = (0..4).map(writer).collect();
        writers
            .into_iter()
            .flat_map(|w| w.join().unwrap())
            .collect::<BTreeSet<_>>()
    });
    assert_eq!(numbers, (1..=32).collect());
    assert!(matches!(
        open(&folder, Kind::Calib).state(),
        LedgerState::Known { entries: 32, .. }
    ));
}

/// Two run directories with the same splits have one history, whichever of them writes.
#[test]
fn a_new_run_directory_resets_nothing() {
    let folder = Folder::new();
    for run in ["a", "b", "c"] {
        fs::create_dir_all(folder.path(run)).unwrap();
    }
    let open = |run: &str, splits: &str, kind| {
        let path = folder.path(run).join("splits.json");
        Ledger::open_among_runs(&path, digest(splits), kind).unwrap()
    };
    let attempts = [
        ("a", "one", 1),
        ("b", "two", 2),
        ("a", "three", 3),
        ("c", "two", 2),
    ];
    for (run, model, want) in attempts {
        let begun = open(run, "splits", Kind::Calib)
            .begin_attempt(attempt(model))
            .unwrap();
        assert_eq!(begun.number, want, "{run} {model}");
    }
    for (run, bundle, want) in [("b", "one", 1), ("c", "one", 1), ("a", "two", 2)] {
        let begun = open(run, "splits", Kind::Test)
            .begin_opening(digest(bundle), 0.05)
            .unwrap();
        assert_eq!(begun.number, want, "{run} {bundle}");
    }
    // Other splits are other rows.
    assert_eq!(open("c", "others", Kind::Calib).entries().count(), 0);
    // What a certificate recorded is missed when the folder that holds it is gone.
    let recorded = open("c", "splits", Kind::Calib).state();
    fs::remove_dir_all(folder.path("a")).unwrap();
    let mut ledger = open("c", "splits", Kind::Calib);
    ledger.check(&recorded);
    assert!(matches!(ledger.state(), LedgerState::Unknown { .. }));
}
