//! Which program this is, and which libtorch it has loaded.

use serde::Serialize;
use std::{
    fs,
    path::{Path, PathBuf},
};

/// What `stage1-train --about` prints.
#[derive(Serialize)]
pub(crate) struct About {
    version: &'static str,
    /// The file that was loaded; none where the system doesn't say (it says so on Linux).
    library: Option<PathBuf>,
    /// The version that libtorch's own folder names.
    libtorch: Option<String>,
}

impl About {
    pub(crate) fn this_program() -> Self {
        let maps = fs::read_to_string("/proc/self/maps").unwrap_or_default();
        let library = loaded(&maps);
        Self {
            version: env!("CARGO_PKG_VERSION"),
            libtorch: library.as_deref().and_then(version),
            library,
        }
    }
}

/// The path of `libtorch_cpu.so` in the list of what is mapped into a process.
fn loaded(maps: &str) -> Option<PathBuf> {
    let path = |line: &str| line.find('/').map(|start| PathBuf::from(&line[start..]));
    maps.lines().filter_map(path).find(|path| {
        path.file_name()
            .is_some_and(|name| name == "libtorch_cpu.so")
    })
}

/// `build-version` lies beside the folder `lib`.
fn version(library: &Path) -> Option<String> {
    let root = library.parent()?.parent()?;
    let text = fs::read_to_string(root.join("build-version")).ok()?;
    Some(text.trim().to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_library_is_found_among_what_is_mapped() {
        let maps = "7f00-7f01 r--p 00000000 08:01 12   /lib/libc.so.6\n\
                    7f02-7f03 r-xp 00000000 08:01 13   /a b/lib/libtorch_cpu.so\n\
                    7f04-7f05 rw-p 00000000 00:00 0\n";
        assert_eq!(
            loaded(maps),
            Some(PathBuf::from("/a b/lib/libtorch_cpu.so"))
        );
        assert_eq!(loaded(""), None);
    }
}
