//! Discovery of golden files for integration tests; include it with
//! `#[path = "../../../goldens/suite.rs"] mod goldens;` in `<crate>/tests/it/main.rs`.
//!
//! A suite finds its files (it does not list them), hands them out, and fails if one of them was not used:
//!
//! ```ignore
//! let mut suite = Suite::discover("bounds", "calibration", |p| p.to_string_lossy().starts_with("bounds_"), &[]);
//! for path in suite.paths() {
//!     check(&path);
//!     suite.mark_used(&path);
//! }
//! suite.finish();
//! ```
//!
//! The files are those of the folder in `STAGE1_GOLDENS`, of which any subset may be present, else the repository's own
//! copies, where finding none is an error. A file that holds many cases is counted by case: see [`Suite::expand`].
#![allow(
    dead_code,
    reason = "every test binary that includes this file uses its own part of it"
)]

use std::collections::BTreeMap;
use std::fs;
use std::io::Write as _;
use std::path::{Path, PathBuf};

/// The variable that names another folder of goldens.
const VARIABLE: &str = "STAGE1_GOLDENS";

/// The golden items (files, or cases in files) that one test is responsible for.
#[must_use = "call `finish`: it fails the test when an item was not used"]
pub(crate) struct Suite {
    name: String,
    root: PathBuf,
    /// Item → was it used? An item is a path relative to `root` (with `/`), or `<path>#<case>`.
    items: BTreeMap<String, bool>,
    exceptions: Vec<(String, String)>,
    finished: bool,
}

impl Suite {
    /// Finds all files below `<goldens>/<subdir>` whose path relative to that folder satisfies `matcher`.
    ///
    /// `exceptions` are (pattern, reason) pairs: items that match a pattern (`*` stands for any run of characters; items
    /// are `<subdir>/<file>` or `<subdir>/<file>#<case>`) may stay unused, and are printed with the reason.
    pub(crate) fn discover(
        name: &str,
        subdir: &str,
        matcher: fn(&Path) -> bool,
        exceptions: &[(&str, &str)],
    ) -> Self {
        let (root, own_copies) = root();
        let suite = Self::below(root, name, subdir, matcher, exceptions);
        assert!(
            !(own_copies && suite.items.is_empty()),
            "goldens [{name}]: no matching file in {}, where the repository's own copies should be",
            suite.root.join(subdir).display()
        );
        suite
    }

    /// [`Suite::discover`] with the folder of goldens given; finding nothing is fine.
    pub(crate) fn below(
        root: PathBuf,
        name: &str,
        subdir: &str,
        matcher: fn(&Path) -> bool,
        exceptions: &[(&str, &str)],
    ) -> Self {
        let folder = root.join(subdir);
        let mut files = Vec::new();
        walk(&folder, &mut files);
        files.retain(|file| matcher(file.strip_prefix(&folder).expect("walk stays below")));
        let items = files.iter().map(|file| (item(&root, file), false));
        Self {
            name: name.to_owned(),
            items: items.collect(),
            root,
            exceptions: exceptions
                .iter()
                .map(|&(pattern, reason)| (pattern.to_owned(), reason.to_owned()))
                .collect(),
            finished: false,
        }
    }

    /// The absolute paths of all files found (not of cases), sorted.
    pub(crate) fn paths(&self) -> Vec<PathBuf> {
        let files = self
            .items
            .keys()
            .map(|item| item.split_once('#').map_or(&**item, |pair| pair.0));
        let mut paths: Vec<_> = files.map(|file| self.root.join(file)).collect();
        paths.dedup();
        paths
    }

    /// Counts the file at `path` by its cases from here on: each of them must be marked by [`Suite::mark_case`].
    pub(crate) fn expand<S: AsRef<str>>(
        &mut self,
        path: &Path,
        cases: impl IntoIterator<Item = S>,
    ) {
        let file = item(&self.root, path);
        let found = self.items.remove(&file);
        assert!(
            found.is_some(),
            "goldens [{}]: {file} was not discovered",
            self.name
        );
        for case in cases {
            self.items
                .insert(format!("{file}#{}", case.as_ref()), false);
        }
    }

    /// Notes that the file at `path` was used.
    pub(crate) fn mark_used(&mut self, path: &Path) {
        self.mark(item(&self.root, path));
    }

    /// Notes that `case` of the file at `path` was used.
    pub(crate) fn mark_case(&mut self, path: &Path, case: &str) {
        self.mark(format!("{}#{case}", item(&self.root, path)));
    }

    fn mark(&mut self, item: String) {
        match self.items.get_mut(&item) {
            Some(used) => *used = true,
            None => panic!("goldens [{}]: {item} was not discovered", self.name),
        }
    }

    /// Prints `goldens: N used / N found` and the exceptions; panics if an item was not used and is not excepted, or was
    /// used although it is excepted (then the exception is out of date).
    pub(crate) fn finish(mut self) {
        self.finished = true;
        let used = self.items.values().filter(|used| **used).count();
        // Not `println!`: the harness would swallow the line of a passing test.
        let mut out = std::io::stderr().lock();
        let mut lines = format!(
            "goldens: {used} used / {} found [{}]\n",
            self.items.len(),
            self.name
        );
        for (pattern, reason) in &self.exceptions {
            lines += &format!("goldens: except {pattern} [{}]: {reason}\n", self.name);
        }
        out.write_all(lines.as_bytes())
            .expect("standard error is open");
        drop(out);

        let excepted = |item: &str| self.exceptions.iter().any(|(p, _)| matches(p, item));
        let unused: Vec<_> = self.wrong(|item, used| !used && !excepted(item));
        let outdated: Vec<_> = self.wrong(|item, used| used && excepted(item));
        assert!(
            unused.is_empty(),
            "goldens [{}]: found and not used: {unused:#?}",
            self.name
        );
        assert!(
            outdated.is_empty(),
            "goldens [{}]: excepted, but used: {outdated:#?}",
            self.name
        );
    }

    fn wrong(&self, is_wrong: impl Fn(&str, bool) -> bool) -> Vec<&str> {
        let wrong = self
            .items
            .iter()
            .filter(|(item, used)| is_wrong(item, **used));
        wrong.map(|(item, _)| &**item).collect()
    }
}

impl Drop for Suite {
    fn drop(&mut self) {
        assert!(
            self.finished || std::thread::panicking(),
            "goldens [{}]: the test never called `finish`",
            self.name
        );
    }
}

/// The folder of goldens, and whether it is the repository's own.
fn root() -> (PathBuf, bool) {
    match std::env::var_os(VARIABLE).filter(|value| !value.is_empty()) {
        Some(value) => {
            let root = PathBuf::from(value);
            assert!(
                root.is_dir(),
                "{VARIABLE} names {}, which is no folder",
                root.display()
            );
            (root, false)
        }
        None => (
            Path::new(env!("CARGO_MANIFEST_DIR")).join("../goldens"),
            true,
        ),
    }
}

/// All files below `folder` (none if it does not exist), sorted.
fn walk(folder: &Path, files: &mut Vec<PathBuf>) {
    if !folder.exists() {
        return;
    }
    let entries = fs::read_dir(folder).unwrap_or_else(|e| panic!("{}: {e}", folder.display()));
    let mut paths: Vec<_> = entries.map(|entry| entry.expect("entry").path()).collect();
    paths.sort();
    for path in paths {
        if path.is_dir() {
            walk(&path, files);
        } else {
            files.push(path);
        }
    }
}

/// `path` relative to `root`, with `/` on every system.
fn item(root: &Path, path: &Path) -> String {
    let relative = path
        .strip_prefix(root)
        .unwrap_or_else(|_| panic!("{} is not below {}", path.display(), root.display()));
    let parts: Vec<_> = relative.iter().map(|part| part.to_string_lossy()).collect();
    parts.join("/")
}

/// Does `text` match `pattern`, in which `*` stands for any run of characters?
fn matches(pattern: &str, text: &str) -> bool {
    let Some((head, rest)) = pattern.split_once('*') else {
        return pattern == text;
    };
    let Some(text) = text.strip_prefix(head) else {
        return false;
    };
    (0..=text.len())
        .filter(|&at| text.is_char_boundary(at))
        .any(|at| matches(rest, &text[at..]))
}
