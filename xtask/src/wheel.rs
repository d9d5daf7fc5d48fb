//! Taking chosen members out of a wheel (a zip archive).

use std::fs::{self, File};
use std::io;
use std::path::{Component, Path};

use anyhow::{Context, Result, bail, ensure};
use zip::ZipArchive;
use zip::read::ZipFile;

use crate::files;
use crate::progress;

/// What to take, and where to put it below the destination.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Take {
    /// One member, under a path of its own.
    File {
        member: &'static str,
        to: &'static str,
    },
    /// All members below `prefix`, with their paths kept below `to`. Both end in `/`.
    Folder {
        prefix: &'static str,
        to: &'static str,
    },
}

impl Take {
    /// Where `member` goes, if this takes it.
    fn destination(&self, member: &str) -> Option<String> {
        match self {
            Self::File { member: wanted, to } => (member == *wanted).then(|| (*to).to_owned()),
            Self::Folder { prefix, to } => {
                let rest = member
                    .strip_prefix(prefix)
                    .filter(|rest| !rest.is_empty())?;
                Some(format!("{to}{rest}"))
            }
        }
    }
}

/// Extracts what `takes` choose from the wheel into `destination`.
///
/// # Errors
/// If the wheel cannot be read, a choice matches nothing in it, or a member would land outside of `destination`.
pub(crate) fn extract(wheel: &Path, takes: &[Take], destination: &Path) -> Result<()> {
    let name = wheel.file_name().unwrap_or_default().display();
    let file = File::open(wheel).with_context(|| format!("cannot open {}", wheel.display()))?;
    let mut archive = ZipArchive::new(io::BufReader::new(file))
        .with_context(|| format!("{name} is no zip archive"))?;
    let chosen = choose(&archive, takes).with_context(|| format!("cannot unpack {name}"))?;
    let bar = progress::bytes("  unpacking", 0);
    for (member, to) in chosen {
        let mut entry = archive
            .by_name(&member)
            .with_context(|| format!("cannot read `{member}` of {name}"))?;
        bar.inc_length(entry.size());
        write_member(&mut entry, &destination.join(to), &bar)
            .with_context(|| format!("cannot unpack `{member}` of {name}"))?;
    }
    bar.finish_and_clear();
    Ok(())
}

/// The members to take, with their destinations.
fn choose<R>(archive: &ZipArchive<R>, takes: &[Take]) -> Result<Vec<(String, String)>>
where
    R: io::Read + io::Seek,
{
    let mut chosen = Vec::new();
    for take in takes {
        let before = chosen.len();
        for member in archive.file_names().filter(|member| !member.ends_with('/')) {
            if let Some(to) = take.destination(member) {
                ensure!(
                    stays_inside(&to),
                    "member `{member}` would be written outside of the folder"
                );
                chosen.push((member.to_owned(), to));
            }
        }
        if chosen.len() == before {
            bail!("nothing in it matches {take:?}: is it the pinned version?");
        }
    }
    chosen.sort();
    Ok(chosen)
}

fn stays_inside(path: &str) -> bool {
    Path::new(path)
        .components()
        .all(|component| matches!(component, Component::Normal(_)))
}

fn write_member(entry: &mut ZipFile<'_>, to: &Path, bar: &indicatif::ProgressBar) -> Result<()> {
    if let Some(parent) = to.parent() {
        files::create_folder(parent)?;
    }
    let size = entry.size();
    let mut file = File::create(to).with_context(|| format!("cannot create {}", to.display()))?;
    let written = io::copy(entry, &mut bar.wrap_write(&mut file))?;
    ensure!(written == size, "expected {size} bytes, got {written}");
    Ok(())
}

/// Lets the owner run a file that was extracted.
#[cfg(unix)]
pub(crate) fn make_executable(path: &Path) -> Result<()> {
    use std::os::unix::fs::PermissionsExt;
    let permissions = fs::Permissions::from_mode(0o755);
    fs::set_permissions(path, permissions)
        .with_context(|| format!("cannot make {} executable", path.display()))
}

/// Nothing to do where files carry no such permission.
#[cfg(not(unix))]
pub(crate) fn make_executable(path: &Path) -> Result<()> {
    fs::metadata(path)
        .map(|_| ())
        .with_context(|| format!("cannot read {}", path.display()))
}

#[cfg(test)]
pub(crate) mod tests {
    use std::io::Write;

    use super::*;

    /// Writes a wheel with these members.
    pub(crate) fn write_wheel(path: &Path, members: &[(&str, &str)]) {
        let mut zip = zip::ZipWriter::new(File::create(path).unwrap());
        for (name, text) in members {
            let options = zip::write::FileOptions::default()
                .compression_method(zip::CompressionMethod::Deflated);
            zip.start_file(*name, options).unwrap();
            zip.write_all(text.as_bytes()).unwrap();
        }
        zip.finish().unwrap();
    }

    const MEMBERS: [(&str, &str); 4] = [
        ("torch/include/a.h", "a"),
        ("torch/include/deep/b.h", "b"),
        ("torch/lib/libc10.so", "c10"),
        ("torch/x.py", ""),
    ];

    #[test]
    fn chosen_members_are_extracted_and_no_others() {
        let folder = tempfile::tempdir().unwrap();
        let wheel = folder.path().join("t.whl");
        write_wheel(&wheel, &MEMBERS);
        let takes = [
            Take::Folder {
                prefix: "torch/include/",
                to: "include/",
            },
            Take::File {
                member: "torch/lib/libc10.so",
                to: "lib/libc10.so",
            },
        ];
        let out = folder.path().join("out");
        extract(&wheel, &takes, &out).unwrap();
        for (path, text) in [
            ("include/a.h", "a"),
            ("include/deep/b.h", "b"),
            ("lib/libc10.so", "c10"),
        ] {
            assert_eq!(fs::read_to_string(out.join(path)).unwrap(), text);
        }
        assert!(!out.join("x.py").exists() && !out.join("torch").exists());
    }

    #[test]
    fn a_member_that_is_missing_is_named() {
        let folder = tempfile::tempdir().unwrap();
        let wheel = folder.path().join("t.whl");
        write_wheel(&wheel, &MEMBERS);
        let takes = [Take::File {
            member: "torch/lib/libtorch.so",
            to: "libtorch.so",
        }];
        let error = format!("{:#}", extract(&wheel, &takes, folder.path()).unwrap_err());
        assert!(
            error.contains("t.whl") && error.contains("torch/lib/libtorch.so"),
            "{error}"
        );
    }

    #[test]
    fn a_member_cannot_leave_the_folder() {
        let folder = tempfile::tempdir().unwrap();
        let wheel = folder.path().join("t.whl");
        write_wheel(&wheel, &[("torch/include/../../evil.h", "x")]);
        let takes = [Take::Folder {
            prefix: "torch/include/",
            to: "include/",
        }];
        let error = format!(
            "{:#}",
            extract(&wheel, &takes, &folder.path().join("out")).unwrap_err()
        );
        assert!(error.contains("outside of the folder"), "{error}");
    }

    #[test]
    fn a_truncated_wheel_is_refused() {
        let folder = tempfile::tempdir().unwrap();
        let wheel = folder.path().join("t.whl");
        write_wheel(&wheel, &MEMBERS);
        let bytes = fs::read(&wheel).unwrap();
        fs::write(&wheel, &bytes[..bytes.len() / 2]).unwrap();
        let error = format!("{:#}", extract(&wheel, &[], folder.path()).unwrap_err());
        assert!(error.contains("t.whl is no zip archive"), "{error}");
    }
}
