//! Loading ONNX Runtime. What fails, fails for the whole process, so each case has a process of its own.

use crate::onnx::{Input, channel_means};
use stage1_runtime::{Error, InitError, OrtSession, SessionOptions, init};
use std::{
    env, fs,
    path::Path,
    process::{Command, Output},
};

/// Runs the ignored test `name` of this binary in a new process.
fn child(name: &str, library: &Path) -> Output {
    Command::new(env::current_exe().unwrap())
        .args(["--exact", name, "--ignored", "--nocapture"])
        .env("ORT_DYLIB_PATH", library)
        .output()
        .unwrap()
}

fn assert_passed(output: &Output) {
    let text = String::from_utf8_lossy(&output.stdout);
    let all = format!("{text}\n{}", String::from_utf8_lossy(&output.stderr));
    assert!(
        output.status.success() && text.contains("1 passed"),
        "{:?}\n{all}",
        output.status
    );
}

#[test]
#[cfg(target_os = "linux")]
fn an_unusable_library_is_one_clean_error_for_the_whole_process() {
    let dir = tempfile::tempdir().unwrap();
    let text = dir.path().join("text.so");
    fs::write(&text, "not a library").unwrap();
    // A real library that isn't ONNX Runtime: one that this process has loaded.
    let maps = fs::read_to_string("/proc/self/maps").unwrap();
    let mut loaded = maps
        .lines()
        .filter_map(|line| line.split_whitespace().nth(5));
    let libc = loaded
        .find(|path| path.contains("libc.so") || path.contains("libc-"))
        .unwrap();
    for library in [&dir.path().join("absent.so"), &text, Path::new(libc)] {
        assert_passed(&child("init::child_with_an_unusable_library", library));
    }
}

#[test]
#[ignore = "run in a process of its own by `an_unusable_library_is_one_clean_error_for_the_whole_process`"]
fn child_with_an_unusable_library() {
    let path = env::var("ORT_DYLIB_PATH").unwrap();
    let first = init(None).unwrap_err();
    let message = first.to_string();
    for part in [path.as_str(), "ORT_DYLIB_PATH", "cargo xtask setup", "1.24"] {
        assert!(message.contains(part), "{message:?} should name {part}");
    }
    let Error::Init(InitError::NotFound { tried }) = first else {
        panic!("{first:?}");
    };
    assert_eq!(tried.len(), 1, "a user's choice isn't replaced: {tried:?}");
    // A failed load used to leave `ort` on uninitialised memory: the second call must give the first one's error.
    assert_eq!(init(None).unwrap_err().to_string(), message);
    let model = channel_means(&Input::default(), 4, &[[0.0; 3]; 3], [0.0; 3]);
    let opened = OrtSession::from_bytes(&model, "model", &SessionOptions::default());
    assert_eq!(opened.unwrap_err().to_string(), message);
}

#[test]
fn the_library_is_loaded_once_and_named() {
    let info = init(None).unwrap();
    assert!(
        info.library.is_absolute() && info.library.is_file(),
        "{info:?}"
    );
    assert!(info.version.starts_with("1."), "{info:?}");
    assert!(info.compiled_providers.contains(&"cpu"), "{info:?}");
    assert_eq!(init(Some(&info.library)).unwrap(), info);
    let other = init(Some(Path::new("/other/libonnxruntime.so")));
    assert!(
        matches!(other, Err(Error::AnotherLibrary { .. })),
        "{other:?}"
    );
}
