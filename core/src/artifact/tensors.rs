//! Safetensors files, read whole and handed out as checked slices.

use super::{Digest, Error, Result, atomic};
use safetensors::{Dtype, SafeTensors, tensor::TensorView};
use std::{
    collections::{BTreeMap, HashMap},
    fs,
    path::{Path, PathBuf},
};

/// The values of one tensor, little-endian in the file.
#[derive(Debug, Clone, PartialEq)]
pub enum Values {
    /// 32-bit floats.
    F32(Vec<f32>),
    /// 64-bit integers.
    I64(Vec<i64>),
    /// Bytes.
    U8(Vec<u8>),
}

/// A tensor in memory, row-major.
#[derive(Debug, Clone, PartialEq)]
pub struct Tensor {
    /// Its shape; the product is the number of values.
    pub shape: Vec<usize>,
    /// Its values.
    pub values: Values,
}

impl Tensor {
    /// A float tensor.
    pub fn f32(shape: impl Into<Vec<usize>>, values: Vec<f32>) -> Self {
        Self::new(shape.into(), Values::F32(values))
    }

    /// An integer tensor.
    pub fn i64(shape: impl Into<Vec<usize>>, values: Vec<i64>) -> Self {
        Self::new(shape.into(), Values::I64(values))
    }

    /// A byte tensor.
    pub fn u8(shape: impl Into<Vec<usize>>, values: Vec<u8>) -> Self {
        Self::new(shape.into(), Values::U8(values))
    }

    fn new(shape: Vec<usize>, values: Values) -> Self {
        let count = match &values {
            Values::F32(v) => v.len(),
            Values::I64(v) => v.len(),
            Values::U8(v) => v.len(),
        };
        assert_eq!(shape.iter().product::<usize>(), count, "shape {shape:?}");
        Self { shape, values }
    }

    fn bytes(&self) -> (Dtype, Vec<u8>) {
        match &self.values {
            Values::F32(v) => (Dtype::F32, v.iter().flat_map(|x| x.to_le_bytes()).collect()),
            Values::I64(v) => (Dtype::I64, v.iter().flat_map(|x| x.to_le_bytes()).collect()),
            Values::U8(v) => (Dtype::U8, v.clone()),
        }
    }
}

/// Writes tensors and string metadata as one safetensors file; returns the digest of its bytes, which depend on the
/// content alone (names sorted).
///
/// # Errors
/// [`Error::Io`].
pub fn save(
    path: &Path,
    tensors: &BTreeMap<String, Tensor>,
    metadata: &BTreeMap<String, String>,
) -> Result<Digest> {
    let bytes = to_bytes(tensors, metadata);
    atomic::write_bytes(path, &bytes)?;
    Ok(Digest::of_bytes(&bytes))
}

/// The bytes that [`save`] writes.
pub fn to_bytes(
    tensors: &BTreeMap<String, Tensor>,
    metadata: &BTreeMap<String, String>,
) -> Vec<u8> {
    let raw: Vec<_> = tensors
        .iter()
        .map(|(name, t)| (name, &t.shape, t.bytes()))
        .collect();
    let views = raw.iter().map(|(name, shape, (dtype, bytes))| {
        let view = TensorView::new(*dtype, (*shape).clone(), bytes)
            .expect("shape and bytes agree by construction");
        (name.as_str(), view)
    });
    // The library keeps metadata in a hash map, whose order varies: one sorted JSON string keeps the bytes the same.
    let header = (!metadata.is_empty()).then(|| {
        let json = serde_json::to_string(metadata).expect("strings have a JSON form");
        HashMap::from([("stage1".to_owned(), json)])
    });
    safetensors::serialize(views, header).expect("names are unique and shapes fit")
}

/// A safetensors file that was read and whose layout was checked.
#[derive(Debug)]
pub struct TensorFile {
    path: PathBuf,
    bytes: Vec<u8>,
}

impl TensorFile {
    /// Reads the file.
    ///
    /// # Errors
    /// [`Error::Io`] or [`Error::Safetensors`].
    pub fn open(path: &Path) -> Result<Self> {
        let bytes = fs::read(path).map_err(|source| Error::Io {
            action: "read",
            path: path.to_owned(),
            source,
        })?;
        let file = Self {
            path: path.to_owned(),
            bytes,
        };
        file.parse()?;
        Ok(file)
    }

    /// As [`TensorFile::open`], and the bytes must have the recorded digest.
    ///
    /// # Errors
    /// As [`TensorFile::open`], and [`Error::DigestMismatch`].
    pub fn open_verified(path: &Path, want: Digest) -> Result<Self> {
        let file = Self::open(path)?;
        let got = file.digest();
        if got == want {
            return Ok(file);
        }
        Err(Error::DigestMismatch {
            path: path.to_owned(),
            want,
            got,
        })
    }

    /// The file's path, for messages.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The digest of the file's bytes.
    pub fn digest(&self) -> Digest {
        Digest::of_bytes(&self.bytes)
    }

    /// Names and shapes, sorted by name.
    ///
    /// # Errors
    /// [`Error::Safetensors`].
    pub fn shapes(&self) -> Result<BTreeMap<String, Vec<usize>>> {
        let parsed = self.parse()?;
        Ok(parsed
            .iter()
            .map(|(name, view)| (name.to_owned(), view.shape().to_vec()))
            .collect())
    }

    /// The metadata that [`save`] wrote; empty for other writers' files.
    ///
    /// # Errors
    /// [`Error::Safetensors`].
    pub fn metadata(&self) -> Result<BTreeMap<String, String>> {
        let (_, header) = SafeTensors::read_metadata(&self.bytes).map_err(|e| self.broken(&e))?;
        let json = header.metadata().as_ref().and_then(|map| map.get("stage1"));
        json.map_or_else(
            || Ok(BTreeMap::new()),
            |json| serde_json::from_str(json).map_err(|e| self.broken(&e)),
        )
    }

    /// Whether a tensor of this name is there.
    ///
    /// # Errors
    /// [`Error::Safetensors`].
    pub fn contains(&self, name: &str) -> Result<bool> {
        Ok(self.parse()?.tensor(name).is_ok())
    }

    /// A float tensor: its shape and values. `F16` and `BF16` files are widened.
    ///
    /// # Errors
    /// [`Error::MissingTensor`] or [`Error::TensorDtype`].
    pub fn f32(&self, name: &str) -> Result<(Vec<usize>, Vec<f32>)> {
        let parsed = self.parse()?;
        let view = self.view(&parsed, name)?;
        let data = view.data();
        let values = match view.dtype() {
            Dtype::F32 => data
                .as_chunks()
                .0
                .iter()
                .map(|b| f32::from_le_bytes(*b))
                .collect(),
            Dtype::F16 => data
                .as_chunks()
                .0
                .iter()
                .map(|b| half::f16::from_le_bytes(*b).to_f32())
                .collect(),
            Dtype::BF16 => data
                .as_chunks()
                .0
                .iter()
                .map(|b| half::bf16::from_le_bytes(*b).to_f32())
                .collect(),
            other => return Err(self.dtype(name, other, "F32, F16 or BF16")),
        };
        Ok((view.shape().to_vec(), values))
    }

    /// As [`TensorFile::f32`], and the shape must be `shape`.
    ///
    /// # Errors
    /// As [`TensorFile::f32`], and [`Error::TensorShape`].
    pub fn f32_of_shape(&self, name: &str, shape: &[usize]) -> Result<Vec<f32>> {
        let (got, values) = self.f32(name)?;
        if got == shape {
            return Ok(values);
        }
        Err(Error::TensorShape {
            path: self.path.clone(),
            name: name.to_owned(),
            got,
            want: format!("{shape:?}"),
        })
    }

    /// An integer tensor: its shape and values. `I32`, `U8` and `BOOL` are widened.
    ///
    /// # Errors
    /// [`Error::MissingTensor`] or [`Error::TensorDtype`].
    pub fn i64(&self, name: &str) -> Result<(Vec<usize>, Vec<i64>)> {
        let parsed = self.parse()?;
        let view = self.view(&parsed, name)?;
        let data = view.data();
        let values = match view.dtype() {
            Dtype::I64 => data
                .as_chunks()
                .0
                .iter()
                .map(|b| i64::from_le_bytes(*b))
                .collect(),
            Dtype::I32 => data
                .as_chunks()
                .0
                .iter()
                .map(|b| i64::from(i32::from_le_bytes(*b)))
                .collect(),
            Dtype::U8 | Dtype::BOOL => data.iter().map(|b| i64::from(*b)).collect(),
            other => return Err(self.dtype(name, other, "I64, I32 or U8")),
        };
        Ok((view.shape().to_vec(), values))
    }

    /// A byte tensor: its shape and values.
    ///
    /// # Errors
    /// [`Error::MissingTensor`] or [`Error::TensorDtype`].
    pub fn u8(&self, name: &str) -> Result<(Vec<usize>, Vec<u8>)> {
        let parsed = self.parse()?;
        let view = self.view(&parsed, name)?;
        match view.dtype() {
            Dtype::U8 => Ok((view.shape().to_vec(), view.data().to_vec())),
            other => Err(self.dtype(name, other, "U8")),
        }
    }

    fn parse(&self) -> Result<SafeTensors<'_>> {
        SafeTensors::deserialize(&self.bytes).map_err(|error| self.broken(&error))
    }

    fn view<'a>(&self, parsed: &SafeTensors<'a>, name: &str) -> Result<TensorView<'a>> {
        parsed.tensor(name).map_err(|_| Error::MissingTensor {
            path: self.path.clone(),
            name: name.to_owned(),
        })
    }

    fn dtype(&self, name: &str, got: Dtype, want: &'static str) -> Error {
        Error::TensorDtype {
            path: self.path.clone(),
            name: name.to_owned(),
            got: format!("{got:?}"),
            want,
        }
    }

    fn broken(&self, reason: &dyn std::fmt::Display) -> Error {
        Error::Safetensors {
            path: self.path.clone(),
            reason: reason.to_string(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_saved_is_read_back_and_the_bytes_repeat() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("a.safetensors");
        let tensors = BTreeMap::from([
            ("x".to_owned(), Tensor::f32([2, 1], vec![1.5, -2.0])),
            ("ids".to_owned(), Tensor::u8([3], vec![1, 2, 3])),
            ("y".to_owned(), Tensor::i64([1], vec![-7])),
        ]);
        let metadata = BTreeMap::from([
            ("b".to_owned(), "1".to_owned()),
            ("a".to_owned(), "2".to_owned()),
        ]);
        let digest = save(&path, &tensors, &metadata).unwrap();
        let file = TensorFile::open_verified(&path, digest).unwrap();
        assert_eq!(file.f32("x").unwrap(), (vec![2, 1], vec![1.5, -2.0]));
        assert_eq!(file.i64("y").unwrap(), (vec![1], vec![-7]));
        assert_eq!(file.u8("ids").unwrap().1, [1, 2, 3]);
        assert_eq!(file.metadata().unwrap(), metadata);
        assert_eq!(save(&path, &tensors, &metadata).unwrap(), digest);
        assert!(matches!(file.f32("z"), Err(Error::MissingTensor { .. })));
        assert!(matches!(file.f32("y"), Err(Error::TensorDtype { .. })));
        assert!(matches!(
            file.f32_of_shape("x", &[1, 2]),
            Err(Error::TensorShape { .. })
        ));
    }

    #[test]
    fn truncated_and_foreign_files_are_refused() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("a.safetensors");
        save(
            &path,
            &BTreeMap::from([("x".to_owned(), Tensor::f32([4], vec![0.0; 4]))]),
            &BTreeMap::new(),
        )
        .unwrap();
        let whole = fs::read(&path).unwrap();
        for bytes in [&whole[..whole.len() - 1], &whole[..5], b"hello", b""] {
            fs::write(&path, bytes).unwrap();
            assert!(matches!(
                TensorFile::open(&path),
                Err(Error::Safetensors { .. })
            ));
        }
    }
}
