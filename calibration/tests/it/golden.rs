//! Golden files read so that what was not read is known: the leaves of a file are its cases.

use crate::goldens::Suite;
use serde_json::Value;
use std::cell::RefCell;
use std::collections::BTreeSet;
use std::path::Path;

/// Runs `check` on every file; leaves that it doesn't read and no exception names fail the suite.
pub(crate) fn check_files(
    name: &str,
    matcher: fn(&Path) -> bool,
    exceptions: &[(&str, &str)],
    check: impl Fn(&Node<'_>),
) {
    let mut suite = Suite::discover(name, "calibration", matcher, exceptions);
    for path in suite.paths() {
        let text = std::fs::read(&path).unwrap();
        let file: Value = serde_json::from_slice(&text).unwrap();
        let read = RefCell::new(BTreeSet::new());
        check(&Node {
            value: &file,
            path: String::new(),
            read: &read,
        });
        let mut leaves = BTreeSet::new();
        collect_leaves(&file, "", &mut leaves);
        suite.expand(&path, &leaves);
        read.borrow()
            .iter()
            .filter(|leaf| leaves.contains(*leaf))
            .for_each(|leaf| suite.mark_case(&path, leaf));
    }
    suite.finish();
}

/// Says about the file itself, not about values to be met.
const ABOUT: [&str; 5] = ["schema", "versions", "made_by", "note", "convention"];

fn collect_leaves(value: &Value, path: &str, leaves: &mut BTreeSet<String>) {
    match value {
        Value::Object(map) => {
            for (key, value) in map.iter().filter(|(key, _)| !ABOUT.contains(&key.as_str())) {
                collect_leaves(value, &join(path, key), leaves);
            }
        }
        Value::Array(items) if items.iter().any(Value::is_object) => {
            items
                .iter()
                .for_each(|item| collect_leaves(item, path, leaves));
        }
        _ => {
            leaves.insert(path.to_owned());
        }
    }
}

fn join(path: &str, key: &str) -> String {
    if path.is_empty() {
        key.to_owned()
    } else {
        format!("{path}.{key}")
    }
}

/// A value of a golden file that notes what is read of it.
pub(crate) struct Node<'a> {
    value: &'a Value,
    path: String,
    read: &'a RefCell<BTreeSet<String>>,
}

impl<'a> Node<'a> {
    /// The member `key`; panics if there is none.
    pub(crate) fn get(&self, key: &str) -> Node<'a> {
        self.find(key)
            .unwrap_or_else(|| panic!("{}: no `{key}`", self.path))
    }

    pub(crate) fn find(&self, key: &str) -> Option<Node<'a>> {
        let value = self.value.get(key)?;
        Some(Node {
            value,
            path: join(&self.path, key),
            read: self.read,
        })
    }

    /// The members of an object.
    pub(crate) fn members(&self) -> Vec<(&'a str, Node<'a>)> {
        let map = self
            .value
            .as_object()
            .unwrap_or_else(|| panic!("{}: no object", self.path));
        map.keys()
            .map(|key| (key.as_str(), self.get(key)))
            .collect()
    }

    /// The objects of a list; none if the key is missing.
    pub(crate) fn list(&self, key: &str) -> Vec<Node<'a>> {
        let Some(node) = self.find(key) else {
            return Vec::new();
        };
        let items = node
            .value
            .as_array()
            .unwrap_or_else(|| panic!("{}: no list", node.path));
        items
            .iter()
            .map(|value| Node {
                value,
                path: node.path.clone(),
                read: self.read,
            })
            .collect()
    }

    pub(crate) fn f64(&self, key: &str) -> f64 {
        let node = self.get(key).leaf();
        number(node.value).unwrap_or_else(|| panic!("{}: no number", node.path))
    }

    pub(crate) fn bool(&self, key: &str) -> bool {
        let node = self.get(key).leaf();
        node.value
            .as_bool()
            .unwrap_or_else(|| panic!("{}: neither true nor false", node.path))
    }

    pub(crate) fn u64(&self, key: &str) -> u64 {
        let node = self.get(key).leaf();
        node.value
            .as_u64()
            .unwrap_or_else(|| panic!("{}: no count", node.path))
    }

    pub(crate) fn str(&self, key: &str) -> &'a str {
        let node = self.get(key).leaf();
        node.value
            .as_str()
            .unwrap_or_else(|| panic!("{}: no text", node.path))
    }

    pub(crate) fn floats(&self, key: &str) -> Vec<f64> {
        let node = self.get(key).leaf();
        let items = node
            .value
            .as_array()
            .unwrap_or_else(|| panic!("{}: no list", node.path));
        items
            .iter()
            .map(|item| number(item).unwrap_or_else(|| panic!("{}: no numbers", node.path)))
            .collect()
    }

    /// A number, or none where the file says null.
    pub(crate) fn optional(&self, key: &str) -> Option<f64> {
        (!self.get(key).leaf().value.is_null()).then(|| self.f64(key))
    }

    /// Numbers, or none where the file says something else.
    pub(crate) fn numbers(&self, key: &str) -> Option<Vec<f64>> {
        self.get(key).value.is_array().then(|| self.floats(key))
    }

    pub(crate) fn counts(&self, key: &str) -> Vec<usize> {
        self.floats(key).into_iter().map(|x| x as usize).collect()
    }

    /// Rows of a matrix, and its width.
    pub(crate) fn matrix(&self, key: &str) -> (Vec<f64>, usize) {
        let node = self.get(key).leaf();
        let rows: Vec<Vec<f64>> = serde_json::from_value(node.value.clone()).unwrap();
        let width = rows.first().map_or(0, Vec::len);
        (rows.concat(), width)
    }

    fn leaf(self) -> Self {
        self.read.borrow_mut().insert(self.path.clone());
        self
    }

    pub(crate) fn path(&self) -> &str {
        &self.path
    }
}

fn number(value: &Value) -> Option<f64> {
    value.as_f64().or_else(|| value.as_str()?.parse().ok())
}

/// |got − want| ≤ abs + rel·|want|, and equal infinities.
#[track_caller]
pub(crate) fn close(got: f64, want: f64, rel: f64, abs: f64, what: &str) {
    let near = (got - want).abs() <= abs + rel * want.abs() || got.total_cmp(&want).is_eq();
    assert!(
        near,
        "{what}: got {got}, want {want} (rel {rel}, abs {abs})"
    );
}

#[track_caller]
pub(crate) fn all_close(got: &[f64], want: &[f64], abs: f64, what: &str) {
    assert_eq!(got.len(), want.len(), "{what}");
    for (i, (got, want)) in got.iter().zip(want).enumerate() {
        close(*got, *want, 0.0, abs, &format!("{what} [{i}]"));
    }
}

/// Whether the file's name is `<prefix>*.json`.
pub(crate) fn is_json_named(path: &Path, prefix: &str) -> bool {
    let name = path
        .file_name()
        .and_then(|name| name.to_str())
        .unwrap_or_default();
    name.starts_with(prefix) && name.ends_with(".json")
}
