//! What must be on the machine before set-up and compilation can work, and how to get it.

use std::env;
use std::process::{Command, Stdio};

use anyhow::{Result, bail};

use crate::progress::say;

/// The C++ compiler that build scripts look for when `CXX` is not set.
const USUAL_COMPILER: &str = "c++";
/// Other names that it goes by.
const OTHER_COMPILERS: [&str; 2] = ["g++", "clang++"];

/// Something that is missing, with the packages that bring it.
struct Missing {
    what: &'static str,
    apt: &'static str,
    dnf: &'static str,
    brew: &'static str,
}

const NO_COMPILER: Missing = Missing {
    what: "a C++ compiler (c++, g++ or clang++)",
    apt: "g++",
    dnf: "gcc-c++",
    brew: "gcc",
};
const NO_PYTHON: Missing = Missing {
    what: "python3",
    apt: "python3 python3-pip",
    dnf: "python3 python3-pip",
    brew: "python",
};
const NO_PIP: Missing = Missing {
    what: "pip for python3",
    apt: "python3-pip",
    dnf: "python3-pip",
    brew: "python",
};

/// Fails naming everything that is missing, and how to get it: a C++ compiler, which the trainer's build takes, and pip if
/// there is something to download.
pub(crate) fn check(downloads: bool) -> Result<()> {
    let mut missing = Vec::new();
    if find_compiler(own_compiler().as_deref(), runs).is_none() {
        missing.push(&NO_COMPILER);
    }
    if downloads && !runs("python3", &["--version"]) {
        missing.push(&NO_PYTHON);
    } else if downloads && !runs("python3", &["-m", "pip", "--version"]) {
        missing.push(&NO_PIP);
    }
    if !missing.is_empty() {
        bail!("{}", advice(&missing));
    }
    Ok(())
}

/// Tells the build scripts below `command` which C++ compiler there is, where it does not go by the name they look for.
pub(crate) fn name_compiler(command: &mut Command) {
    if let Some(Compiler::Other(name)) = find_compiler(own_compiler().as_deref(), runs) {
        say(format!(
            "there is no `{USUAL_COMPILER}` here: building with CXX={name} (set it for plain cargo commands)"
        ));
        command.env("CXX", name);
    }
}

/// How the C++ compiler is found.
#[derive(Debug, PartialEq)]
enum Compiler {
    /// As build scripts do: by `CXX` or by the usual name.
    Usual,
    /// By this name only.
    Other(&'static str),
}

fn own_compiler() -> Option<String> {
    env::var("CXX").ok().filter(|own| !own.is_empty())
}

fn find_compiler(own: Option<&str>, runs: impl Fn(&str, &[&str]) -> bool) -> Option<Compiler> {
    let usual = own
        .and_then(|own| own.split_whitespace().next())
        .unwrap_or(USUAL_COMPILER);
    if runs(usual, &["--version"]) {
        return Some(Compiler::Usual);
    }
    let others = if own.is_none() {
        OTHER_COMPILERS.as_slice()
    } else {
        &[]
    };
    others
        .iter()
        .find(|name| runs(name, &["--version"]))
        .map(|name| Compiler::Other(name))
}

fn runs(program: &str, arguments: &[&str]) -> bool {
    let mut command = Command::new(program);
    command
        .args(arguments)
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null());
    command.status().is_ok_and(|status| status.success())
}

fn advice(missing: &[&Missing]) -> String {
    let list = |part: fn(&Missing) -> &'static str, join: &str| {
        missing
            .iter()
            .map(|one| part(one))
            .collect::<Vec<_>>()
            .join(join)
    };
    format!(
        "this machine lacks {}; get it with one of\n  sudo apt-get install {}\n  sudo dnf install {}\n  brew install {}",
        list(|one| one.what, " and "),
        list(|one| one.apt, " "),
        list(|one| one.dnf, " "),
        list(|one| one.brew, " "),
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn advice_names_everything_that_is_missing_and_how_to_get_it() {
        let text = advice(&[&NO_COMPILER, &NO_PIP]);
        for part in [
            "C++ compiler",
            "pip",
            "apt-get install g++ python3-pip",
            "dnf install gcc-c++ python3-pip",
            "brew install gcc python",
        ] {
            assert!(text.contains(part), "{text} lacks {part}");
        }
    }

    #[test]
    fn a_compiler_is_found_as_build_scripts_find_it_else_by_other_names() {
        let cases: [(Option<&str>, &[&str], Option<Compiler>); 6] = [
            (None, &["c++", "g++"], Some(Compiler::Usual)),
            (None, &["clang++", "g++"], Some(Compiler::Other("g++"))),
            (None, &["clang++"], Some(Compiler::Other("clang++"))),
            (None, &[], None),
            (
                Some("ccache clang++-17"),
                &["ccache"],
                Some(Compiler::Usual),
            ),
            (Some("no-such"), &["c++"], None),
        ];
        for (own, present, want) in cases {
            let found = find_compiler(own, |name, _| present.contains(&name));
            assert_eq!(found, want, "CXX {own:?}, present {present:?}");
        }
    }

    #[test]
    fn a_program_that_does_not_exist_does_not_run() {
        assert!(!runs("no-such-program-here", &["--version"]));
        assert!(runs("sh", &["-c", "exit 0"]));
        assert!(!runs("sh", &["-c", "exit 1"]));
    }
}
