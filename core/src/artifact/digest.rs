use super::{Error, Result};
use schemars::JsonSchema;
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use sha2::{Digest as _, Sha256};
use std::{
    fmt, fs,
    io::{self, Read, Write},
    path::Path,
    str::FromStr,
    sync::mpsc,
    thread,
};

/// A SHA-256, shown and stored as 64 lower-case hexadecimal digits.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Digest(pub [u8; 32]);

impl Digest {
    /// Its bytes; digests are ordered by them.
    pub fn as_bytes(&self) -> &[u8; 32] {
        &self.0
    }

    /// The digest of `bytes`.
    pub fn of_bytes(bytes: &[u8]) -> Self {
        Self(Sha256::digest(bytes).into())
    }

    /// The digest of a file's bytes, read in blocks.
    ///
    /// # Errors
    /// [`Error::Io`] when the file can't be read.
    pub fn of_file(path: &Path) -> Result<Self> {
        let read = || -> io::Result<Self> {
            let mut file = fs::File::open(path)?;
            let mut hasher = Hasher::new();
            // Small: most files are, and fresh memory costs more than reading them.
            let mut block = vec![0; 1 << 16];
            loop {
                match file.read(&mut block)? {
                    0 => return Ok(hasher.finish()),
                    n => hasher.write_all(&block[..n])?,
                }
            }
        };
        read().map_err(|source| Error::Io {
            action: "read",
            path: path.to_owned(),
            source,
        })
    }

    /// The digest of a value's compact JSON form. Use types with a fixed field order and sorted maps.
    pub fn of_json<T: Serialize>(value: &T) -> Self {
        let mut hasher = Hasher::new();
        serde_json::to_writer(&mut hasher, value).expect("plain data has a JSON form");
        hasher.finish()
    }

    /// The first twelve digits: enough to tell artifacts apart on a screen or in a folder name.
    pub fn short(&self) -> String {
        self.to_string()[..12].to_owned()
    }

    /// The first eight bytes as a number: a seeded hash order sorts by it.
    pub fn as_u64(&self) -> u64 {
        u64::from_be_bytes(self.0[..8].try_into().expect("a digest has 32 bytes"))
    }

    /// Reads the file at `path`, which must have this digest: the bytes that are returned are those that were verified.
    /// Reading and hashing overlap, on two threads.
    ///
    /// # Errors
    /// [`Error::DigestMismatch`], or [`Error::Io`].
    pub fn read_file(self, path: &Path) -> Result<Vec<u8>> {
        let (bytes, got) = read_hashing(path).map_err(|source| Error::Io {
            action: "read",
            path: path.to_owned(),
            source,
        })?;
        self.check(got, path).map(|()| bytes)
    }

    /// Fails unless `bytes`, which were read from `path`, have this digest.
    ///
    /// # Errors
    /// [`Error::DigestMismatch`].
    pub fn verify_bytes(self, bytes: &[u8], path: &Path) -> Result<()> {
        self.check(Self::of_bytes(bytes), path)
    }

    /// Fails unless the file at `path` has this digest.
    ///
    /// # Errors
    /// [`Error::DigestMismatch`], or [`Error::Io`].
    pub fn verify_file(self, path: &Path) -> Result<()> {
        self.check(Self::of_file(path)?, path)
    }

    fn check(self, got: Self, path: &Path) -> Result<()> {
        if got == self {
            return Ok(());
        }
        Err(Error::DigestMismatch {
            path: path.to_owned(),
            want: self,
            got,
        })
    }
}

/// Hashes each block of a file while the next one is read.
fn read_hashing(path: &Path) -> io::Result<(Vec<u8>, Digest)> {
    let mut file = fs::File::open(path)?;
    let len = usize::try_from(file.metadata()?.len()).map_err(io::Error::other)?;
    let mut bytes = vec![0; len];
    let (read, blocks) = mpsc::channel::<&[u8]>();
    let digest = thread::scope(|scope| {
        let hashing = scope.spawn(move || {
            let mut hasher = Hasher::new();
            blocks.iter().for_each(|block| hasher.0.update(block));
            hasher.finish()
        });
        let blocks = bytes.chunks_mut(1 << 20);
        let outcome = blocks.map(|block| {
            file.read_exact(block)?;
            _ = read.send(block);
            Ok(())
        });
        let outcome: io::Result<()> = outcome.collect();
        drop(read);
        let digest = hashing.join().expect("hashing doesn't panic");
        outcome.map(|()| digest)
    })?;
    Ok((bytes, digest))
}

/// A SHA-256 in the making; also an [`io::Write`].
#[derive(Clone, Default)]
pub struct Hasher(Sha256);

impl Hasher {
    /// An empty hasher.
    pub fn new() -> Self {
        Self::default()
    }

    /// Adds a length-prefixed field, so that neighbouring fields can't run into one another.
    pub fn field(&mut self, bytes: &[u8]) -> &mut Self {
        self.0.update((bytes.len() as u64).to_be_bytes());
        self.0.update(bytes);
        self
    }

    /// The digest of all that was written.
    pub fn finish(self) -> Digest {
        Digest(self.0.finalize().into())
    }
}

impl Write for Hasher {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.update(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl fmt::Display for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

impl fmt::Debug for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Digest({self})")
    }
}

/// The text isn't 64 hexadecimal digits.
#[derive(Debug, thiserror::Error)]
#[error("`{0}` is not a SHA-256: expected 64 hexadecimal digits")]
pub struct ParseDigestError(String);

impl FromStr for Digest {
    type Err = ParseDigestError;

    fn from_str(text: &str) -> Result<Self, ParseDigestError> {
        let err = || ParseDigestError(text.to_owned());
        if text.len() != 64 || !text.is_ascii() {
            return Err(err());
        }
        let mut bytes = [0; 32];
        for (i, byte) in bytes.iter_mut().enumerate() {
            *byte = u8::from_str_radix(&text[2 * i..2 * i + 2], 16).map_err(|_| err())?;
        }
        Ok(Self(bytes))
    }
}

impl Serialize for Digest {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Digest {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = std::borrow::Cow::<str>::deserialize(deserializer)?;
        text.parse().map_err(serde::de::Error::custom)
    }
}

impl JsonSchema for Digest {
    fn schema_name() -> std::borrow::Cow<'static, str> {
        "Digest".into()
    }

    fn json_schema(_: &mut schemars::SchemaGenerator) -> schemars::Schema {
        schemars::json_schema!({"type": "string", "pattern": "^[0-9a-f]{64}$"})
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn known_digest_round_trips() {
        let empty = "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855";
        assert_eq!(Digest::of_bytes(b"").to_string(), empty);
        assert_eq!(empty.parse::<Digest>().unwrap(), Digest::of_bytes(b""));
        for bad in ["", "abc", &"g".repeat(64), &"é".repeat(32)] {
            assert!(bad.parse::<Digest>().is_err(), "{bad}");
        }
    }

    #[test]
    fn fields_do_not_run_into_one_another() {
        let of = |a: &[u8], b: &[u8]| {
            let mut hasher = Hasher::new();
            hasher.field(a).field(b);
            hasher.finish()
        };
        assert_ne!(of(b"ab", b"c"), of(b"a", b"bc"));
    }
}
