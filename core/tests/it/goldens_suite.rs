//! The golden suites' own contract: what was found and not used fails the test.

use std::fs;
use std::path::{Path, PathBuf};

use crate::goldens::Suite;

/// A folder of goldens with `sub/{a,b}.json` and a file that no pattern names.
fn folder() -> (tempfile::TempDir, PathBuf) {
    let dir = tempfile::tempdir().expect("temporary folder");
    let sub = dir.path().join("sub");
    fs::create_dir(&sub).expect("folder");
    for name in ["a.json", "b.json", "README.md"] {
        fs::write(sub.join(name), "{}").expect("file");
    }
    (dir, sub)
}

fn is_json(path: &Path) -> bool {
    path.extension().is_some_and(|e| e == "json")
}

fn discover(root: &Path, exceptions: &[(&str, &str)]) -> Suite {
    Suite::below(root.to_owned(), "self-test", "sub", is_json, exceptions)
}

#[test]
fn all_used_passes() {
    let (dir, sub) = folder();
    let mut suite = discover(dir.path(), &[]);
    assert_eq!(suite.paths(), [sub.join("a.json"), sub.join("b.json")]);
    suite.mark_used(&sub.join("a.json"));
    suite.expand(&sub.join("b.json"), ["x", "y"]);
    suite.mark_case(&sub.join("b.json"), "x");
    suite.mark_case(&sub.join("b.json"), "y");
    suite.finish();
}

#[test]
#[should_panic(expected = "found and not used: [\n    \"sub/b.json\",\n]")]
fn an_unused_file_fails() {
    let (dir, sub) = folder();
    let mut suite = discover(dir.path(), &[("sub/c*", "matches nothing")]);
    suite.mark_used(&sub.join("a.json"));
    suite.finish();
}

#[test]
#[should_panic(expected = "sub/b.json#y")]
fn an_unused_case_fails() {
    let (dir, sub) = folder();
    let mut suite = discover(dir.path(), &[]);
    suite.mark_used(&sub.join("a.json"));
    suite.expand(&sub.join("b.json"), ["x", "y"]);
    suite.mark_case(&sub.join("b.json"), "x");
    suite.finish();
}

#[test]
fn an_excepted_file_may_stay_unused() {
    let (dir, sub) = folder();
    let mut suite = discover(dir.path(), &[("*/b*n", "a reason")]);
    suite.mark_used(&sub.join("a.json"));
    suite.finish();
}

#[test]
#[should_panic(expected = "excepted, but used")]
fn an_outdated_exception_fails() {
    let (dir, sub) = folder();
    let mut suite = discover(dir.path(), &[("sub/*", "a reason")]);
    suite.mark_used(&sub.join("a.json"));
    suite.finish();
}

#[test]
#[should_panic(expected = "never called `finish`")]
fn a_forgotten_finish_fails() {
    let (dir, _) = folder();
    drop(discover(dir.path(), &[]));
}
