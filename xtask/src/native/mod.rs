//! `cargo xtask setup`: libtorch and ONNX Runtime from pinned Python wheels into `.native/`.
//!
//! Each library is built in a folder of its own beside its place, stamped with what it was made from, and renamed into
//! place. A run that was killed is continued by the next; a finished one is recognised by its stamp.

mod component;
mod prerequisites;
mod recipes;
mod stamp;

use std::env;
use std::ffi::OsStr;
use std::fs::File;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail};
use clap::Args;

use self::component::Component;
use crate::files;
use crate::progress::say;
use crate::workspace::Workspace;

pub(crate) use self::prerequisites::{check as check_prerequisites, name_compiler};

/// Options of `cargo xtask setup`.
#[derive(Args, Default)]
pub(crate) struct Options {
    /// Keep the downloaded wheels (570 MB) in `.native/downloads/`.
    #[arg(long)]
    keep_downloads: bool,
    /// Lay out the libraries here instead (to try the set-up itself: nothing looks for them there).
    #[arg(long, hide = true, value_name = "DIR")]
    native_dir: Option<PathBuf>,
}

/// Makes sure that the native libraries are in place.
pub(crate) fn set_up(workspace: &Workspace, options: &Options) -> Result<()> {
    let standard = workspace.path(".native");
    let native = match &options.native_dir {
        Some(folder) => std::path::absolute(folder).context("--native-dir")?,
        None => standard.clone(),
    };
    let mut wanted: Vec<&Component> = Vec::new();
    for component in recipes::ALL {
        if wants(component, &standard)? {
            wanted.push(component);
        }
    }
    if !wanted.is_empty() && !is_supported_platform() {
        bail!("{}", unsupported(&wanted));
    }
    let lock = lock_folder(&native)?;
    let missing: Vec<&Component> = wanted
        .iter()
        .copied()
        .filter(|component| !component.is_up_to_date(&native))
        .collect();
    let must_download = |component: &&Component| !component.is_downloaded(&native);
    prerequisites::check(missing.iter().any(must_download))?;
    for component in wanted {
        if missing.iter().any(|other| other.folder == component.folder) {
            component.install(&native)?;
        } else {
            say(format!("setup: {} is up to date", component.title));
        }
    }
    if !options.keep_downloads && !missing.is_empty() {
        files::remove_folder(&component::downloads(&native))?;
    }
    drop(lock);
    Ok(())
}

/// Whether the component is ours to provide: the variable that points at it is unset, or has the value of
/// `.cargo/config.toml` (cargo sets it, so that set and unset look the same here).
fn wants(component: &Component, standard: &Path) -> Result<bool> {
    match users_own(
        env::var_os(component.variable).as_deref(),
        &standard.join(component.points_at),
    ) {
        None => Ok(true),
        Some(value) => {
            check_users_own(component, value)?;
            say(format!(
                "setup: {} is set to {}: {} is left to you",
                component.variable,
                value.display(),
                component.title
            ));
            Ok(false)
        }
    }
}

/// What is left to the user must at least be there.
fn check_users_own(component: &Component, value: &Path) -> Result<()> {
    if value.exists() {
        return Ok(());
    }
    bail!(
        "{} is set to {}, which doesn't exist; unset it, and set-up provides {}, or set it right: {}",
        component.variable,
        value.display(),
        component.title,
        component.by_hand
    )
}

/// The variable's value, if it is not the default one.
fn users_own<'a>(value: Option<&'a OsStr>, default: &Path) -> Option<&'a Path> {
    let value = Path::new(value.filter(|value| !value.is_empty())?);
    let same = value == default
        || matches!((value.canonicalize(), default.canonicalize()), (Ok(a), Ok(b)) if a == b);
    (!same).then_some(value)
}

/// Lets a program below find the libraries when cargo has not set their variables, as when this tool is not run by cargo.
pub(crate) fn point_at_libraries(workspace: &Workspace, command: &mut Command) {
    for component in recipes::ALL {
        if env::var_os(component.variable).is_none_or(|value| value.is_empty()) {
            command.env(
                component.variable,
                workspace.path(".native").join(component.points_at),
            );
        }
    }
}

fn is_supported_platform() -> bool {
    cfg!(all(
        target_os = "linux",
        target_arch = "x86_64",
        target_env = "gnu"
    ))
}

fn unsupported(wanted: &[&Component]) -> String {
    let mut text = format!(
        "set-up knows x86-64 Linux with glibc only, this is {} on {}; provide the libraries yourself and set",
        env::consts::OS,
        env::consts::ARCH
    );
    for component in wanted {
        text.push_str(&format!(
            "\n  {}  {}",
            component.variable, component.by_hand
        ));
    }
    text
}

/// Makes the folder if need be, and waits for another set-up of it.
pub(crate) fn lock_folder(native: &Path) -> Result<File> {
    files::create_folder(native)?;
    let path = native.join(".lock");
    let file = File::create(&path).with_context(|| format!("cannot create {}", path.display()))?;
    if file.try_lock().is_err() {
        say("setup: waiting for another set-up of this folder");
        file.lock()
            .with_context(|| format!("cannot lock {}", path.display()))?;
    }
    Ok(file)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_default_value_of_a_variable_is_not_the_users_own() {
        let default = Path::new("/clone/.native/libtorch");
        assert_eq!(users_own(None, default), None);
        assert_eq!(users_own(Some(OsStr::new("")), default), None);
        assert_eq!(users_own(Some(default.as_os_str()), default), None);
        let own = Path::new("/opt/libtorch");
        assert_eq!(users_own(Some(own.as_os_str()), default), Some(own));
    }

    #[test]
    fn a_library_of_the_users_own_must_be_there() {
        let folder = tempfile::tempdir().unwrap();
        for component in recipes::ALL {
            let nowhere = check_users_own(component, &folder.path().join("nope")).unwrap_err();
            for part in [component.variable, "nope", "unset it"] {
                assert!(nowhere.to_string().contains(part), "{nowhere}");
            }
            check_users_own(component, folder.path()).unwrap();
        }
    }

    #[test]
    fn another_spelling_of_the_default_is_the_default() {
        let folder = tempfile::tempdir().unwrap();
        std::fs::create_dir(folder.path().join("libtorch")).unwrap();
        let spelled = folder
            .path()
            .join(".")
            .join("libtorch")
            .join("..")
            .join("libtorch");
        assert_eq!(
            users_own(Some(spelled.as_os_str()), &folder.path().join("libtorch")),
            None
        );
    }

    #[test]
    fn an_unsupported_platform_is_told_which_variables_to_set() {
        let text = unsupported(&recipes::ALL);
        for part in [
            "x86-64 Linux",
            "LIBTORCH",
            "ORT_DYLIB_PATH",
            "2.11.0",
            "1.31",
        ] {
            assert!(text.contains(part), "{text}");
        }
    }

    #[test]
    fn cargo_points_the_variables_at_what_set_up_lays_out() {
        let workspace = Workspace::find().unwrap();
        let config = std::fs::read_to_string(workspace.path(".cargo/config.toml")).unwrap();
        for component in recipes::ALL {
            let line = format!(
                "{} = {{ value = \".native/{}\", relative = true }}",
                component.variable, component.points_at
            );
            assert!(
                config.lines().any(|other| other == line),
                "no line `{line}` in .cargo/config.toml"
            );
        }
    }
}
