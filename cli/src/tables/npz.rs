use super::{LogitTable, Result, TableError};
use npyz::{DType, Deserialize, NpyFile, Order, TypeChar, npz::NpzArchive};
use stage1_core::logits::LogitSet;
use std::{
    fs::File,
    io::{BufReader, Read},
    path::Path,
};

const FLOATS: Form = Form {
    want: "float32 or float64",
    example: "\"float32\"",
};
const INTEGERS: Form = Form {
    want: "integers",
    example: "\"int64\"",
};
const NAMES: Form = Form {
    want: "integers or fixed-width strings (U or S)",
    example: "str",
};

/// What an array should hold, in words and in Python.
struct Form {
    want: &'static str,
    example: &'static str,
}

/// An array whose type isn't decided yet.
struct Array<'a, R: Read> {
    path: &'a Path,
    name: &'static str,
    npy: NpyFile<R>,
}

/// Names, or the numbers that stand for them.
enum Names {
    Numbers(Vec<i64>),
    Texts(Vec<String>),
}

pub(super) fn read(path: &Path) -> Result<LogitTable> {
    let file = File::open(path).map_err(|source| TableError::Open {
        path: path.to_owned(),
        source,
    })?;
    let mut archive = NpzArchive::new(BufReader::new(file)).map_err(|source| TableError::Npz {
        path: path.to_owned(),
        array: None,
        source,
    })?;
    // First: a misspelt name is told as such, not as the lack of what it should have been.
    refuse_unknown(&archive, path)?;
    let mut notes = Vec::new();
    let (classes, logits) = required(&mut archive, path, "logits")?.logits(&mut notes)?;
    let labels = required(&mut archive, path, "labels")?.integers()?;
    let ids = names(&mut archive, path, "id")?;
    let groups = names(&mut archive, path, "group")?;
    let splits = names(&mut archive, path, "split")?;
    let gate = optional(&mut archive, path, "gate")?
        .map(|array| array.gates(&mut notes))
        .transpose()?;
    let set = LogitSet {
        logits,
        classes,
        labels,
        ids: ids.map(Names::into_texts).unwrap_or_default(),
        units: groups.map(Names::into_units),
        split: splits.map(Names::into_texts),
        gate,
        source: None,
    };
    Ok(LogitTable { set, notes })
}

type Archive = NpzArchive<BufReader<File>>;

fn refuse_unknown(archive: &Archive, path: &Path) -> Result<()> {
    let known = |name: &&str| ["logits", "labels", "group", "split", "id", "gate"].contains(name);
    // The archive lists them in an order that varies.
    match archive.array_names().filter(|name| !known(name)).min() {
        None => Ok(()),
        Some(array) => Err(TableError::UnknownArray {
            path: path.to_owned(),
            array: array.to_owned(),
        }),
    }
}

fn required<'a>(
    archive: &'a mut Archive,
    path: &'a Path,
    name: &'static str,
) -> Result<Array<'a, impl Read + use<'a>>> {
    let mut found: Vec<_> = archive.array_names().map(str::to_owned).collect();
    found.sort();
    optional(archive, path, name)?.ok_or_else(|| TableError::MissingArray {
        path: path.to_owned(),
        array: name,
        found: found.join(", "),
    })
}

fn optional<'a>(
    archive: &'a mut Archive,
    path: &'a Path,
    name: &'static str,
) -> Result<Option<Array<'a, impl Read + use<'a>>>> {
    let npy = archive.by_name(name).map_err(|source| TableError::Npz {
        path: path.to_owned(),
        array: Some(name),
        source,
    })?;
    Ok(npy.map(|npy| Array { path, name, npy }))
}

fn names(archive: &mut Archive, path: &Path, name: &'static str) -> Result<Option<Names>> {
    optional(archive, path, name)?.map(Array::names).transpose()
}

impl<R: Read> Array<'_, R> {
    fn gates(self, notes: &mut Vec<String>) -> Result<Vec<f32>> {
        self.one_per_row()?;
        self.floats(notes)
    }

    fn floats(self, notes: &mut Vec<String>) -> Result<Vec<f32>> {
        match self.kind(&FLOATS)? {
            (TypeChar::Float, 4) => self.values(),
            (TypeChar::Float, 8) => {
                notes.push(format!(
                    "{}: the {} are float64; they are rounded to float32",
                    self.path.display(),
                    if self.name == "gate" {
                        "gates"
                    } else {
                        self.name
                    }
                ));
                #[expect(
                    clippy::cast_possible_truncation,
                    reason = "said above; what becomes infinite is refused"
                )]
                let rounded = |z: f64| z as f32;
                Ok(self.values::<f64>()?.into_iter().map(rounded).collect())
            }
            _ => Err(self.dtype_error(&FLOATS)),
        }
    }

    /// The number of classes and `[n, classes]`, row-major.
    fn logits(self, notes: &mut Vec<String>) -> Result<(usize, Vec<f32>)> {
        let (path, shape, order) = (
            self.path.to_owned(),
            self.npy.shape().to_vec(),
            self.npy.order(),
        );
        let values = self.floats(notes)?;
        match (&sizes(&shape, values.len())[..], order) {
            ([_] | [_, 1], _) => Ok((2, LogitSet::binary_columns(&values))),
            (&[_, classes], Order::C) => Ok((classes, values)),
            (&[rows, classes], Order::Fortran) => Ok((classes, transposed(&values, rows, classes))),
            _ => Err(TableError::Shape {
                path,
                array: "logits",
                got: shape,
                want: "[N, K], or [N] for two classes",
            }),
        }
    }

    fn integers(self) -> Result<Vec<i64>> {
        self.one_per_row()?;
        match self.kind(&INTEGERS)? {
            (TypeChar::Bool, 1) => Ok(self.values::<bool>()?.into_iter().map(i64::from).collect()),
            (TypeChar::Int, 1) => self.widened::<i8>(),
            (TypeChar::Int, 2) => self.widened::<i16>(),
            (TypeChar::Int, 4) => self.widened::<i32>(),
            (TypeChar::Int, 8) => self.values(),
            (TypeChar::Uint, 1) => self.widened::<u8>(),
            (TypeChar::Uint, 2) => self.widened::<u16>(),
            (TypeChar::Uint, 4) => self.widened::<u32>(),
            // Above 2⁶³ they become negative: no label then, and still one number per group or id.
            (TypeChar::Uint, 8) => Ok(self
                .values::<u64>()?
                .into_iter()
                .map(u64::cast_signed)
                .collect()),
            _ => Err(self.dtype_error(&INTEGERS)),
        }
    }

    fn names(self) -> Result<Names> {
        self.one_per_row()?;
        match self.kind(&NAMES)?.0 {
            TypeChar::UnicodeStr | TypeChar::ByteStr => Ok(Names::Texts(self.values()?)),
            TypeChar::Int | TypeChar::Uint => Ok(Names::Numbers(self.integers()?)),
            _ => Err(self.dtype_error(&NAMES)),
        }
    }

    fn one_per_row(&self) -> Result<()> {
        match self.npy.shape() {
            [_] => Ok(()),
            other => Err(TableError::Shape {
                path: self.path.to_owned(),
                array: self.name,
                got: other.to_vec(),
                want: "[N]",
            }),
        }
    }

    /// The kind of its elements and their width.
    fn kind(&self, form: &Form) -> Result<(TypeChar, u64)> {
        if self.npy.uses_pickled_array() {
            return Err(TableError::Pickle {
                path: self.path.to_owned(),
                array: self.name,
                want: form.want,
                example: form.example,
            });
        }
        match self.npy.dtype() {
            DType::Plain(kind) => Ok((kind.type_char(), kind.size_field())),
            _ => Err(self.dtype_error(form)),
        }
    }

    fn dtype_error(&self, form: &Form) -> TableError {
        TableError::Dtype {
            path: self.path.to_owned(),
            array: self.name,
            got: self.npy.dtype().descr(),
            want: form.want,
        }
    }

    fn values<T: Deserialize>(self) -> Result<Vec<T>> {
        self.npy.into_vec().map_err(|source| TableError::Npz {
            path: self.path.to_owned(),
            array: Some(self.name),
            source,
        })
    }

    fn widened<T: Deserialize + Into<i64>>(self) -> Result<Vec<i64>> {
        Ok(self.values::<T>()?.into_iter().map(Into::into).collect())
    }
}

impl Names {
    fn into_texts(self) -> Vec<String> {
        match self {
            Self::Numbers(numbers) => numbers.iter().map(i64::to_string).collect(),
            Self::Texts(texts) => texts,
        }
    }

    fn into_units(self) -> Vec<u64> {
        match self {
            Self::Numbers(numbers) => numbers.into_iter().map(i64::cast_unsigned).collect(),
            Self::Texts(texts) => texts
                .iter()
                .map(|text| LogitSet::unit_of_name(text))
                .collect(),
        }
    }
}

/// The shape, or nothing if it isn't that of `count` values.
fn sizes(shape: &[u64], count: usize) -> Vec<usize> {
    let sizes: Vec<_> = shape
        .iter()
        .filter_map(|size| usize::try_from(*size).ok())
        .collect();
    let product = sizes
        .iter()
        .try_fold(1_usize, |product, size| product.checked_mul(*size));
    if sizes.len() == shape.len() && product == Some(count) {
        sizes
    } else {
        Vec::new()
    }
}

/// Column-major `[rows, classes]` as row-major.
fn transposed(values: &[f32], rows: usize, classes: usize) -> Vec<f32> {
    let row = |i: usize| (0..classes).map(move |k| values[k * rows + i]);
    (0..rows).flat_map(row).collect()
}
