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

/// Run directories with the same splits have one history, wherever they lie and whichever of them writes.
#[test]
fn a_new_run_directory_resets_nothing() {
    let folder = Folder::new();
    for run in ["data/cat", "runs/a", "runs/b", "elsewhere/deep/c"] {
        fs::create_dir_all(folder.path(run)).unwrap();
    }
    let open = |run: &str, splits: &str, kind| {
        let path = folder.path(run).join("splits.json");
        Ledger::open_of_run(&path, (&folder.path("data"), None), digest(splits), kind).unwrap()
    };
    let attempts = [
        ("runs/a", "one", 1),
        ("runs/b", "two", 2),
        ("runs/a", "three", 3),
        ("elsewhere/deep/c", "two", 2),
    ];
    for (run, model, want) in attempts {
        let begun = open(run, "splits", Kind::Calib)
            .begin_attempt(attempt(model))
            .unwrap();
        assert_eq!(begun.number, want, "{run} {model}");
    }
    let openings = [
        ("runs/b", "one", 1),
        ("elsewhere/deep/c", "one", 1),
        ("runs/a", "two", 2),
    ];
    for (run, bundle, want) in openings {
        let mut ledger = open(run, "splits", Kind::Test);
        let begun = ledger.begin_opening(digest(bundle), 0.05).unwrap();
        assert_eq!(begun.number, want, "{run} {bundle}");
        assert!(!ledger.is_private());
    }
    // Other splits are other rows.
    assert_eq!(open("runs/b", "others", Kind::Calib).entries().count(), 0);
    // Nor does one that comes after the others are gone.
    fs::remove_dir_all(folder.path("runs")).unwrap();
    fs::remove_dir_all(folder.path("elsewhere")).unwrap();
    fs::create_dir_all(folder.path("d")).unwrap();
    assert_eq!(open("d", "splits", Kind::Calib).attempts().count(), 3);
    let begun = open("d", "splits", Kind::Calib).begin_attempt(attempt("four"));
    assert_eq!(begun.unwrap().number, 4);
    // When the data moves, the run directory's own file goes on, and is put beside the data again.
    fs::rename(folder.path("data"), folder.path("moved")).unwrap();
    fs::remove_dir_all(folder.path("moved/.stage1")).unwrap();
    let path = folder.path("d/splits.json");
    let moved = || {
        Ledger::open_of_run(
            &path,
            (&folder.path("moved"), None),
            digest("splits"),
            Kind::Calib,
        )
        .unwrap()
    };
    let begun = moved().begin_attempt(attempt("five"));
    assert_eq!(begun.unwrap().number, 5);
    fs::remove_dir_all(folder.path("d")).unwrap();
    fs::create_dir_all(folder.path("d")).unwrap();
    assert_eq!(moved().attempts().count(), 5);
}

/// What a copy that was made earlier lacks, it learns; what a certificate recorded is missed when both files are gone.
#[test]
fn a_copied_run_directory_catches_up() {
    let folder = Folder::new();
    for run in ["a", "b", "data"] {
        fs::create_dir_all(folder.path(run)).unwrap();
    }
    let source = folder.path("data/images.csv");
    fs::write(&source, "").unwrap();
    let open = |run: &str| {
        let path = folder.path(run).join("splits.json");
        Ledger::open_of_run(&path, (&source, None), digest("splits"), Kind::Calib).unwrap()
    };
    open("a").begin_attempt(attempt("one")).unwrap();
    let name = open("a").path().file_name().unwrap().to_owned();
    fs::copy(open("a").path(), folder.path("b").join(&name)).unwrap();
    open("a").begin_attempt(attempt("two")).unwrap();
    let mut copied = open("b");
    assert_eq!(copied.attempts().count(), 2);
    assert_eq!(copied.begin_attempt(attempt("three")).unwrap().number, 3);
    let lines = |path| fs::read_to_string(path).unwrap().lines().count();
    assert_eq!(lines(folder.path("b").join(&name)), 3);
    assert_eq!(lines(folder.path("data/.stage1").join(&name)), 3);

    let recorded = open("a").state();
    fs::remove_dir_all(folder.path("a")).unwrap();
    fs::remove_dir_all(folder.path("b")).unwrap();
    fs::remove_dir_all(folder.path("data/.stage1")).unwrap();
    fs::create_dir_all(folder.path("a")).unwrap();
    let mut ledger = open("a");
    ledger.check(&recorded);
    assert!(is_unknown(&ledger.state(), "missing"));
}

/// Copies of data and run directory that went different ways can't be one history.
#[test]
fn histories_that_differ_are_unknown() {
    let folder = Folder::new();
    for run in ["a", "b", "data", "copy"] {
        fs::create_dir_all(folder.path(run)).unwrap();
    }
    let open = |run: &str, data: &str| {
        let path = folder.path(run).join("splits.json");
        Ledger::open_of_run(
            &path,
            (&folder.path(data), None),
            digest("splits"),
            Kind::Calib,
        )
        .unwrap()
    };
    open("a", "data").begin_attempt(attempt("one")).unwrap();
    open("b", "copy").begin_attempt(attempt("two")).unwrap();
    let mut both = open("a", "copy");
    assert!(is_unknown(&both.state(), "different entries"));
    let error = both.begin_attempt(attempt("three")).unwrap_err();
    assert!(matches!(error, Error::Damaged { .. }), "{error}");
}

/// Read-only data: run directories beside each other still have one history.
#[cfg(unix)]
#[test]
fn data_that_cannot_be_written_to_resets_nothing() {
    use std::os::unix::fs::PermissionsExt as _;
    let folder = Folder::new();
    for run in ["data", "runs/a", "runs/b"] {
        fs::create_dir_all(folder.path(run)).unwrap();
    }
    // A file where the folder would be: permissions don't hold back everybody.
    fs::write(folder.path("data/.stage1"), "").unwrap();
    fs::set_permissions(folder.path("data"), fs::Permissions::from_mode(0o555)).unwrap();
    let begin = |run: &str, model: &str| {
        let path = folder.path(run).join("splits.json");
        let source = folder.path("data");
        let mut ledger =
            Ledger::open_of_run(&path, (&source, None), digest("splits"), Kind::Calib).unwrap();
        let begun = ledger.begin_attempt(attempt(model)).unwrap();
        (begun.number, ledger.is_private())
    };
    assert_eq!(begin("runs/a", "one"), (1, true));
    assert_eq!(begin("runs/b", "two"), (2, true));
    fs::remove_dir_all(folder.path("runs/.stage1")).unwrap();
    fs::write(folder.path("runs/.stage1"), "").unwrap();
    assert_eq!(begin("runs/b", "three"), (3, true));
    fs::set_permissions(folder.path("data"), fs::Permissions::from_mode(0o755)).unwrap();
}

/// A run directory may be the folder that would be shared; data that isn't there makes no folder anywhere.
#[test]
fn unusual_run_directories_have_ledgers_too() {
    let folder = Folder::new();
    fs::create_dir_all(folder.path("data/.stage1")).unwrap();
    let begin = |run: &str, source: &str| {
        let path = folder.path(run).join("splits.json");
        let source = folder.path(source);
        let mut ledger =
            Ledger::open_of_run(&path, (&source, None), digest("splits"), Kind::Calib).unwrap();
        let number = ledger.begin_attempt(attempt(run)).unwrap().number;
        (number, ledger.is_private())
    };
    assert_eq!(begin("data/.stage1", "data"), (1, false));
    fs::create_dir_all(folder.path("runs/a")).unwrap();
    assert_eq!(begin("runs/a", "data"), (2, false));
    fs::create_dir_all(folder.path("runs/b")).unwrap();
    assert_eq!(begin("runs/b", "nowhere/images"), (1, true));
    assert!(!folder.path("nowhere").exists());
}

/// Who may write to the data may write to its ledgers; who may not doesn't go on without those that do.
#[cfg(unix)]
#[test]
fn users_of_one_data_folder_have_one_history() {
    use std::os::unix::fs::PermissionsExt as _;
    let folder = Folder::new();
    for run in ["data", "a", "b"] {
        fs::create_dir_all(folder.path(run)).unwrap();
    }
    let set = |path: &str, mode| {
        fs::set_permissions(folder.path(path), fs::Permissions::from_mode(mode)).unwrap();
    };
    set("data", 0o775);
    let begin = |run: &str| {
        let path = folder.path(run).join("splits.json");
        let source = folder.path("data");
        let mut ledger =
            Ledger::open_of_run(&path, (&source, None), digest("splits"), Kind::Calib).unwrap();
        ledger.begin_attempt(attempt(run)).map(|begun| begun.number)
    };
    assert_eq!(begin("a").unwrap(), 1);
    let mode = |path: &str| {
        fs::metadata(folder.path(path))
            .unwrap()
            .permissions()
            .mode()
            & 0o777
    };
    let name = format!("splits.{}.calib-ledger.jsonl", digest("splits").short());
    let shared = format!("data/.stage1/{name}");
    assert_eq!((mode("data/.stage1"), mode(&shared)), (0o775, 0o664));
    set(&shared, 0o444);
    // Permissions don't hold back everybody.
    match fs::OpenOptions::new()
        .append(true)
        .open(folder.path(&shared))
    {
        Ok(_) => assert_eq!(begin("b").unwrap(), 2),
        Err(_) => {
            let error = begin("b").unwrap_err();
            assert!(matches!(error, Error::NotWritable { .. }), "{error}");
            assert!(!folder.path("b").join(&name).exists());
        }
    }
}

/// A table of paths may be linked to from anywhere, or lie anywhere: the images are the same.
#[cfg(unix)]
#[test]
fn tables_of_the_same_images_have_one_history() {
    let folder = Folder::new();
    for dir in [
        "images", "tables", "links", "copies", "runs/a", "b", "c/d", "e/f/g",
    ] {
        fs::create_dir_all(folder.path(dir)).unwrap();
    }
    fs::write(folder.path("tables/t.csv"), "path,label\n").unwrap();
    fs::copy(folder.path("tables/t.csv"), folder.path("copies/t.csv")).unwrap();
    std::os::unix::fs::symlink("../tables/t.csv", folder.path("links/t.csv")).unwrap();
    let begin = |run: &str, source: &str, root: Option<&str>| {
        let path = folder.path(run).join("splits.json");
        let (source, root) = (folder.path(source), root.map(|root| folder.path(root)));
        let images = (&*source, root.as_deref());
        let mut ledger = Ledger::open_of_run(&path, images, digest("splits"), Kind::Calib).unwrap();
        ledger.begin_attempt(attempt(run)).unwrap().number
    };
    assert_eq!(begin("runs/a", "tables/t.csv", None), 1);
    assert_eq!(begin("b", "links/t.csv", None), 2);
    // What the table's folder has, the images' learns.
    assert_eq!(begin("c/d", "links/t.csv", Some("images")), 3);
    assert_eq!(begin("e/f/g", "copies/t.csv", Some("images")), 4);
}

/// A run's file may be a link to the shared one.
#[cfg(unix)]
#[test]
fn one_file_by_two_names_is_locked_once() {
    let folder = Folder::new();
    for run in ["data", "a", "b"] {
        fs::create_dir_all(folder.path(run)).unwrap();
    }
    let begin = |run: &str| {
        let path = folder.path(run).join("splits.json");
        let source = folder.path("data");
        let mut ledger =
            Ledger::open_of_run(&path, (&source, None), digest("splits"), Kind::Calib).unwrap();
        ledger.begin_attempt(attempt(run)).unwrap().number
    };
    assert_eq!(begin("a"), 1);
    let name = format!("splits.{}.calib-ledger.jsonl", digest("splits").short());
    let shared = folder.path("data/.stage1").join(&name);
    fs::hard_link(&shared, folder.path("b").join(&name)).unwrap();
    assert_eq!(begin("b"), 2);
    let lines = fs::read_to_string(shared).unwrap().lines().count();
    assert_eq!(lines, 2);
    // So may the folder of the one be to that of the other.
    fs::create_dir_all(folder.path("tables")).unwrap();
    fs::write(folder.path("tables/t.csv"), "").unwrap();
    std::os::unix::fs::symlink("../data/.stage1", folder.path("tables/.stage1")).unwrap();
    let path = folder.path("a/splits.json");
    let (table, root) = (folder.path("tables/t.csv"), folder.path("data"));
    let images = (&*table, Some(&*root));
    let mut ledger = Ledger::open_of_run(&path, images, digest("splits"), Kind::Calib).unwrap();
    assert_eq!(ledger.begin_attempt(attempt("c")).unwrap().number, 3);
}

/// Several ledgers of one attempt: it has one number, which none of them has given to another.
#[test]
fn an_attempt_has_one_number_in_several_ledgers() {
    let folder = Folder::new();
    let mut ledger = filled(&folder);
    let begin = |ledger: &mut Ledger, least, model| {
        let begun = ledger.begin_attempt_from(least, attempt(model)).unwrap();
        (begun.number, begun.repeated)
    };
    assert_eq!(begin(&mut ledger, 2, "b"), (2, true));
    assert_eq!(begin(&mut ledger, 3, "b"), (4, false));
    assert_eq!(begin(&mut ledger, 7, "d"), (7, false));
    let next = ledger.number_from(1, attempt("e")).unwrap();
    assert_eq!((next.number, next.repeated), (8, false));
    assert_eq!(ledger.attempts().count(), 5);
}
