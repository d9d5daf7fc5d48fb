//! The form before PyTorch 1.6: a magic number, a protocol, facts about the machine, the object and the keys of its
//! storages, each a pickle; then the storages in the order of their keys, each its length and its elements.

use super::{
    TorchError,
    error::Result,
    pickle, position, take,
    value::{Element, Root, Storage, Value},
};
use std::{
    collections::BTreeMap,
    io::{Read, Seek, SeekFrom},
};

const MAGIC: i128 = 0x1950_a86a_20f9_469c_fc6c;
const PROTOCOL: i128 = 1001;

pub(super) struct Legacy<R> {
    reader: R,
    /// Where a storage's elements begin, and how many they are.
    places: BTreeMap<String, (u64, usize)>,
}

impl<R: Read + Seek> Legacy<R> {
    pub(super) fn open(mut reader: R) -> Result<(Root, Self)> {
        expect_int(&mut reader, MAGIC, "its magic number")?;
        expect_int(&mut reader, PROTOCOL, "its protocol")?;
        check_machine(&next(&mut reader)?)?;
        let root = next(&mut reader)?;
        let keys = keys(&next(&mut reader)?)?;
        let elements = elements(&root)?;
        let places = places(&mut reader, keys, &elements)?;
        Ok((root, Self { reader, places }))
    }

    pub(super) fn storage(&mut self, storage: &Storage) -> Result<Vec<u8>> {
        let what = format!("storage `{}`", storage.key);
        let place = self.places.get(&*storage.key);
        match (place, storage.bytes()) {
            (Some(&(start, count)), Some(bytes)) if count == storage.count => {
                seek(&mut self.reader, start)?;
                take(&mut self.reader, bytes, &what)
            }
            (place, _) => Err(TorchError::Container {
                reason: format!(
                    "{what} has {} elements, the pickle announces {}",
                    place.map_or(0, |(_, count)| *count),
                    storage.count
                ),
            }),
        }
    }
}

fn next(reader: &mut (impl Read + Seek)) -> Result<Root> {
    let start = position(reader)?;
    pickle::run(reader, start)
}

fn expect_int(reader: &mut (impl Read + Seek), want: i128, what: &str) -> Result<()> {
    match next(reader)?.value {
        Value::Int(got) if got == want => Ok(()),
        Value::Int(got) => Err(container(format!("{what} is {got:#x}, expected {want:#x}"))),
        other => Err(container(format!("{what} is {}", other.kind()))),
    }
}

/// The dictionary `protocol_version`, `little_endian`, `type_sizes`.
fn check_machine(facts: &Root) -> Result<()> {
    let little = match facts.value {
        Value::Dict(at) => facts.arena.get(at, "little_endian"),
        _ => None,
    };
    match little {
        Some(Value::Bool(true)) => Ok(()),
        _ => Err(container(
            "it doesn't say that it was written on a little-endian machine".to_owned(),
        )),
    }
}

fn keys(root: &Root) -> Result<Vec<String>> {
    let items = match root.value {
        Value::List(at) => root.arena.items(at),
        ref other => {
            return Err(container(format!(
                "the keys of the storages are {}, expected a list",
                other.kind()
            )));
        }
    };
    let key = |item: &Value| match item {
        Value::Str(key) => Ok(key.to_string()),
        other => Err(container(format!("a storage's key is {}", other.kind()))),
    };
    items.iter().map(key).collect()
}

/// The element type of each storage that a tensor shows.
fn elements(root: &Root) -> Result<BTreeMap<String, Element>> {
    let mut elements = BTreeMap::new();
    for storage in root.storages() {
        let known = elements.insert(storage.key.to_string(), storage.element);
        if known.is_some_and(|known| known != storage.element) {
            return Err(container(format!(
                "storage `{}` has two element types",
                storage.key
            )));
        }
    }
    Ok(elements)
}

fn places(
    reader: &mut (impl Read + Seek),
    keys: Vec<String>,
    elements: &BTreeMap<String, Element>,
) -> Result<BTreeMap<String, (u64, usize)>> {
    let mut places = BTreeMap::new();
    for key in keys {
        let Some(element) = elements.get(&key) else {
            return Err(container(format!("storage `{key}` belongs to no tensor")));
        };
        let length = take(reader, 8, &format!("the length of storage `{key}`"))?;
        let length = u64::from_le_bytes(length.try_into().expect("8 bytes were asked for"));
        let start = position(reader)?;
        let bytes = length.checked_mul(element.size() as u64);
        let end = bytes.and_then(|bytes| start.checked_add(bytes));
        let (Some(end), Ok(count)) = (end, usize::try_from(length)) else {
            return Err(container(format!("storage `{key}` has {length} elements")));
        };
        seek(reader, end)?;
        places.insert(key, (start, count));
    }
    Ok(places)
}

fn seek(reader: &mut impl Seek, to: u64) -> Result<()> {
    let moved = reader.seek(SeekFrom::Start(to));
    moved
        .map(drop)
        .map_err(|source| TorchError::Read { source })
}

fn container(reason: String) -> TorchError {
    TorchError::Container { reason }
}
