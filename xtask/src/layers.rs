//! The dependency rule of the workspace, checked against `cargo metadata`.
//!
//! Siblings never import each other, only the trainer sees libtorch, only the runtime sees ONNX Runtime, nothing depends
//! on the command line, and no package pairs the two native libraries, tests included: they corrupt each other's heap in
//! one process.

use std::collections::{BTreeMap, BTreeSet};

use anyhow::{Context, Result, bail};
use serde::Deserialize;

use crate::workspace::Workspace;

/// What a package of the workspace may see.
struct Rule {
    package: &'static str,
    /// Packages of the workspace that it may depend on.
    may: &'static [&'static str],
    /// Packages of the workspace that it must depend on.
    must: &'static [&'static str],
}

const CORE: &str = "stage1-core";
const RUNTIME: &str = "stage1-runtime";
const SERVER: &str = "stage1-server";
const COMPOSED: &[&str] = &[
    "stage1-calibration",
    CORE,
    "stage1-exporter",
    RUNTIME,
    SERVER,
];

/// The table of crates. A package without a row is a violation: a new crate gets one.
const RULES: [Rule; 9] = [
    Rule {
        package: CORE,
        may: &[],
        must: &[],
    },
    Rule {
        package: "stage1-trainer",
        may: &[CORE],
        must: &[CORE],
    },
    Rule {
        package: "stage1-exporter",
        may: &[CORE],
        must: &[CORE],
    },
    Rule {
        package: "stage1-calibration",
        may: &[CORE],
        must: &[CORE],
    },
    Rule {
        package: RUNTIME,
        may: &[CORE],
        must: &[CORE],
    },
    // It composes, as the command line does, so that the runtime's own dependencies stay few.
    Rule {
        package: SERVER,
        may: &[CORE, RUNTIME],
        must: &[CORE, RUNTIME],
    },
    Rule {
        package: "stage1",
        may: COMPOSED,
        must: COMPOSED,
    },
    Rule {
        package: "stage1-benches",
        may: COMPOSED,
        must: &[],
    },
    Rule {
        package: "xtask",
        may: &[CORE, "stage1-exporter"],
        must: &[],
    },
];

/// A native library's binding, and the one package that may name it.
struct Binding {
    crates: &'static [&'static str],
    owner: &'static str,
}

const LIBTORCH: Binding = Binding {
    crates: &["tch", "torch-sys"],
    owner: "stage1-trainer",
};
const ONNX_RUNTIME: Binding = Binding {
    crates: &["ort", "ort-sys"],
    owner: RUNTIME,
};

/// Fails listing every violation of the table.
pub(crate) fn check(workspace: &Workspace) -> Result<()> {
    let violations = violations(&Metadata::read(workspace)?);
    if !violations.is_empty() {
        bail!(
            "the dependency rule is broken:\n  {}",
            violations.join("\n  ")
        );
    }
    Ok(())
}

/// What is read of `cargo metadata`.
#[derive(Deserialize)]
pub(crate) struct Metadata {
    packages: Vec<Package>,
    workspace_members: Vec<String>,
    resolve: Resolve,
}

#[derive(Deserialize)]
struct Package {
    id: String,
    name: String,
    #[serde(default)]
    manifest_path: std::path::PathBuf,
    dependencies: Vec<Dependency>,
}

/// A dependency as the manifest declares it (`name` is the package's own, whatever it is renamed to).
#[derive(Deserialize)]
struct Dependency {
    name: String,
    kind: Option<String>,
}

impl Dependency {
    fn is_for_tests_only(&self) -> bool {
        self.kind.as_deref() == Some("dev")
    }
}

#[derive(Deserialize)]
struct Resolve {
    nodes: Vec<Node>,
}

#[derive(Deserialize)]
struct Node {
    id: String,
    deps: Vec<Edge>,
}

#[derive(Deserialize)]
struct Edge {
    pkg: String,
    dep_kinds: Vec<EdgeKind>,
}

#[derive(Deserialize)]
struct EdgeKind {
    kind: Option<String>,
}

impl Edge {
    fn is_for_tests_only(&self) -> bool {
        self.dep_kinds
            .iter()
            .all(|kind| kind.kind.as_deref() == Some("dev"))
    }
}

impl Metadata {
    /// What cargo says of the workspace, dependencies resolved.
    pub(crate) fn read(workspace: &Workspace) -> Result<Self> {
        let json = workspace.metadata(&["--filter-platform", "x86_64-unknown-linux-gnu"])?;
        serde_json::from_slice(&json).context("cannot read `cargo metadata`")
    }

    /// The folder of each package of the workspace, relative to its root.
    pub(crate) fn folders(&self, workspace: &Workspace) -> Vec<String> {
        let manifests = self
            .members()
            .map(|package| package.manifest_path.as_path());
        let folders =
            manifests.filter_map(|path| path.parent()?.strip_prefix(workspace.root()).ok());
        folders.map(|folder| folder.display().to_string()).collect()
    }

    fn members(&self) -> impl Iterator<Item = &Package> {
        self.packages
            .iter()
            .filter(|package| self.workspace_members.contains(&package.id))
    }
}

fn violations(metadata: &Metadata) -> Vec<String> {
    let mut found = Vec::new();
    let ours: BTreeSet<&str> = metadata
        .members()
        .map(|package| package.name.as_str())
        .collect();
    for package in metadata.members() {
        match RULES.iter().find(|rule| rule.package == package.name) {
            Some(rule) => declared(package, rule, &ours, &mut found),
            None => found.push(format!(
                "`{}` has no row in the table of layers.rs: give it one",
                package.name
            )),
        }
        named(package, &mut found);
    }
    paired(metadata, &mut found);
    found
}

/// Dependencies within the workspace against the package's row.
fn declared(package: &Package, rule: &Rule, ours: &BTreeSet<&str>, found: &mut Vec<String>) {
    for dependency in package
        .dependencies
        .iter()
        .filter(|dependency| ours.contains(dependency.name.as_str()))
    {
        let name = dependency.name.as_str();
        let tests_may = dependency.is_for_tests_only() && (name == RUNTIME || name == package.name);
        if !rule.may.contains(&name) && !tests_may {
            let kind = dependency.kind.as_deref().unwrap_or("normal");
            found.push(format!(
                "`{}` may not depend on `{name}` ({kind} dependency)",
                package.name
            ));
        }
    }
    for must in rule.must {
        if !package
            .dependencies
            .iter()
            .any(|one| one.name == *must && one.kind.is_none())
        {
            found.push(format!("`{}` must depend on `{must}`", package.name));
        }
    }
}

/// Bindings that a package names though they belong to another.
fn named(package: &Package, found: &mut Vec<String>) {
    for Binding { crates, owner } in [LIBTORCH, ONNX_RUNTIME] {
        for dependency in &package.dependencies {
            if crates.contains(&dependency.name.as_str()) && package.name != owner {
                found.push(format!(
                    "`{}` may not see `{}`: only `{owner}` may",
                    package.name, dependency.name
                ));
            }
        }
    }
}

/// Packages that reach both bindings, through whatever they depend on, their tests included.
fn paired(metadata: &Metadata, found: &mut Vec<String>) {
    let names: BTreeMap<&str, &str> = metadata
        .packages
        .iter()
        .map(|package| (package.id.as_str(), package.name.as_str()))
        .collect();
    for package in metadata.members() {
        let reached = reach(&package.id, &metadata.resolve);
        let reached: BTreeSet<&str> = reached
            .iter()
            .filter_map(|id| names.get(id).copied())
            .collect();
        let sees = |binding: Binding| {
            binding
                .crates
                .iter()
                .find(|name| reached.contains(**name))
                .copied()
        };
        if let (Some(one), Some(other)) = (sees(LIBTORCH), sees(ONNX_RUNTIME)) {
            found.push(format!(
                "`{}` pairs `{one}` with `{other}` in one process",
                package.name
            ));
        }
    }
}

/// All packages that the tests of `start` link or build with: its own dependencies of every kind, and what those need.
fn reach<'a>(start: &str, resolve: &'a Resolve) -> BTreeSet<&'a str> {
    let nodes: BTreeMap<&str, &Node> = resolve
        .nodes
        .iter()
        .map(|node| (node.id.as_str(), node))
        .collect();
    let mut reached = BTreeSet::new();
    let mut open: Vec<&str> = vec![start];
    while let Some(id) = open.pop() {
        let edges = nodes.get(id).map_or(&[][..], |node| &node.deps);
        for edge in edges
            .iter()
            .filter(|edge| id == start || !edge.is_for_tests_only())
        {
            if reached.insert(edge.pkg.as_str()) {
                open.push(&edge.pkg);
            }
        }
    }
    reached
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    #[test]
    fn the_workspace_keeps_the_rule() {
        check(&Workspace::find().unwrap()).unwrap();
    }

    /// The workspace as the table wants it, as (package, dependencies); a dependency is a name, or `dev:name`, `build:name`.
    fn lawful() -> BTreeMap<&'static str, Vec<&'static str>> {
        let mut packages = BTreeMap::from([
            (CORE, vec!["serde"]),
            ("stage1-trainer", vec![CORE, "tch"]),
            ("stage1-exporter", vec![CORE, "dev:stage1-runtime"]),
            ("stage1-calibration", vec![CORE]),
            (RUNTIME, vec![CORE, "ort"]),
            (SERVER, vec![CORE, RUNTIME]),
            ("stage1", COMPOSED.to_vec()),
            ("stage1-benches", COMPOSED.to_vec()),
            ("xtask", vec![CORE]),
        ]);
        packages.extend([
            ("serde", vec![]),
            ("tch", vec!["torch-sys"]),
            ("torch-sys", vec![]),
        ]);
        packages.extend([("ort", vec!["ort-sys"]), ("ort-sys", vec![])]);
        packages
    }

    /// `cargo metadata` of these packages.
    fn metadata(packages: &BTreeMap<&str, Vec<&str>>) -> Metadata {
        let parse = |spec: &str| match spec.split_once(':') {
            Some((kind, name)) => (json!(kind), name.to_owned()),
            None => (Value::Null, spec.to_owned()),
        };
        let external = ["serde", "tch", "torch-sys", "ort", "ort-sys", "innocent"];
        let members: Vec<_> = packages
            .keys()
            .filter(|name| !external.contains(name))
            .collect();
        let list = packages.iter().map(|(name, deps)| {
            let deps = deps
                .iter()
                .map(|spec| parse(spec))
                .map(|(kind, name)| json!({ "name": name, "kind": kind }));
            json!({ "id": name, "name": name, "dependencies": deps.collect::<Vec<_>>() })
        });
        let nodes = packages.iter().map(|(name, deps)| {
            let deps = deps.iter().map(|spec| parse(spec));
            let deps =
                deps.map(|(kind, name)| json!({ "pkg": name, "dep_kinds": [{ "kind": kind }] }));
            json!({ "id": name, "deps": deps.collect::<Vec<_>>() })
        });
        let whole = json!({
            "packages": list.collect::<Vec<_>>(),
            "workspace_members": members,
            "resolve": { "nodes": nodes.collect::<Vec<_>>() },
        });
        serde_json::from_value(whole).unwrap()
    }

    #[test]
    fn a_lawful_workspace_has_no_violations() {
        assert_eq!(violations(&metadata(&lawful())), Vec::<String>::new());
    }

    #[test]
    fn each_broken_rule_is_reported_with_both_packages() {
        let cases: [(&str, &str, &str, &[&str]); 11] = [
            (
                "a sibling",
                "stage1-exporter",
                "stage1-calibration",
                &["`stage1-exporter` may not depend on `stage1-calibration`"],
            ),
            (
                "a sibling in a build script",
                "stage1-exporter",
                "build:stage1-calibration",
                &["build dependency"],
            ),
            (
                "a sibling in tests",
                "stage1-calibration",
                "dev:stage1-exporter",
                &["dev dependency"],
            ),
            (
                "core upwards",
                CORE,
                "stage1-exporter",
                &["`stage1-core` may not depend on"],
            ),
            (
                "somebody on the command line",
                "stage1-benches",
                "stage1",
                &["may not depend on `stage1`"],
            ),
            (
                "the command line on the trainer",
                "stage1",
                "stage1-trainer",
                &[
                    "may not depend on `stage1-trainer`",
                    "pairs `tch` with `ort`",
                ],
            ),
            (
                "libtorch elsewhere",
                "stage1-exporter",
                "tch",
                &["may not see `tch`", "pairs"],
            ),
            (
                "torch-sys elsewhere",
                "stage1-calibration",
                "torch-sys",
                &["may not see `torch-sys`"],
            ),
            (
                "ONNX Runtime elsewhere",
                "stage1-calibration",
                "ort",
                &["may not see `ort`"],
            ),
            (
                "both in the trainer's tests",
                "stage1-trainer",
                "dev:stage1-runtime",
                &["`stage1-trainer` pairs `tch` with `ort`"],
            ),
            (
                "libtorch in the runtime's tests",
                RUNTIME,
                "dev:tch",
                &["may not see `tch`", "pairs"],
            ),
        ];
        for (case, package, dependency, want) in cases {
            let mut packages = lawful();
            packages.get_mut(package).unwrap().push(dependency);
            let found = violations(&metadata(&packages)).join("\n");
            for part in want {
                assert!(found.contains(part), "{case}: {part:?} is not in {found:?}");
            }
        }
    }

    #[test]
    fn a_binding_that_comes_through_another_package_is_found() {
        let mut packages = lawful();
        packages.insert("innocent", vec!["ort"]);
        packages.get_mut("stage1-trainer").unwrap().push("innocent");
        assert_eq!(
            violations(&metadata(&packages)),
            ["`stage1-trainer` pairs `tch` with `ort` in one process"]
        );
    }

    #[test]
    fn tests_of_a_dependency_are_not_reached() {
        let mut packages = lawful();
        packages.insert("innocent", vec!["dev:ort"]);
        packages.get_mut("stage1-trainer").unwrap().push("innocent");
        assert_eq!(violations(&metadata(&packages)), Vec::<String>::new());
    }

    #[test]
    fn a_missing_part_of_the_command_line_is_reported() {
        let mut packages = lawful();
        packages
            .get_mut("stage1")
            .unwrap()
            .retain(|name| *name != RUNTIME);
        assert_eq!(
            violations(&metadata(&packages)),
            ["`stage1` must depend on `stage1-runtime`"]
        );
    }

    #[test]
    fn a_package_without_a_row_is_reported() {
        let mut packages = lawful();
        packages.insert("stage1-serving", vec![RUNTIME]);
        let found = violations(&metadata(&packages)).join("\n");
        assert!(found.contains("`stage1-serving` has no row"), "{found}");
    }
}
