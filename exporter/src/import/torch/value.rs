//! What the pickle's stack machine handles.

use super::{TorchError, error::Result};
use std::{collections::BTreeMap, rc::Rc};

/// Dictionaries may lie in dictionaries (`{"model": {…}}`), this deep.
const MAX_NESTING: usize = 4;
/// Entries of all dictionaries, counted wherever they show: one that lies in many places at once makes much of a small file.
const MAX_ENTRIES: usize = 1_000_000;

#[derive(Debug, Clone)]
pub(super) enum Value {
    None,
    Bool(bool),
    Int(i128),
    Float,
    Str(Rc<str>),
    Global(Global),
    Storage(Rc<Storage>),
    Tensor(Rc<TensorRef>),
    /// A container in the [`Arena`].
    Tuple(usize),
    List(usize),
    Dict(usize),
}

impl Value {
    pub(super) fn kind(&self) -> &'static str {
        match self {
            Self::None => "None",
            Self::Bool(_) => "a boolean",
            Self::Int(_) => "an integer",
            Self::Float => "a float",
            Self::Str(_) => "a string",
            Self::Global(_) => "a function or class",
            Self::Storage(_) => "a storage",
            Self::Tensor(_) => "a tensor",
            Self::Tuple(_) => "a tuple",
            Self::List(_) => "a list",
            Self::Dict(_) => "a dictionary",
        }
    }
}

/// The names that may be called, or stand for a type.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Global {
    OrderedDict,
    RebuildTensor,
    RebuildParameter,
    StorageOf(Element),
}

impl Global {
    pub(super) fn find(module: &str, name: &str) -> Option<Self> {
        match (module, name) {
            ("collections", "OrderedDict") => Some(Self::OrderedDict),
            ("torch._utils", "_rebuild_tensor_v2") => Some(Self::RebuildTensor),
            ("torch._utils", "_rebuild_parameter") => Some(Self::RebuildParameter),
            ("torch", storage) => {
                let element = name_of_element(storage.strip_suffix("Storage")?)?;
                Some(Self::StorageOf(element))
            }
            _ => None,
        }
    }
}

fn name_of_element(name: &str) -> Option<Element> {
    Some(match name {
        "Float" => Element::F32,
        "Half" => Element::F16,
        "BFloat16" => Element::Bf16,
        "Double" => Element::Other("float64", 8),
        "Long" => Element::Other("int64", 8),
        "Int" => Element::Other("int32", 4),
        "Short" => Element::Other("int16", 2),
        "Char" => Element::Other("int8", 1),
        "Byte" => Element::Other("uint8", 1),
        "Bool" => Element::Other("booleans", 1),
        _ => return None,
    })
}

/// The type of a tensor's elements.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Element {
    F32,
    F16,
    Bf16,
    /// By name and size in bytes: may be in a file, but not in a backbone.
    Other(&'static str, usize),
}

impl Element {
    pub(super) fn size(self) -> usize {
        match self {
            Self::F32 => 4,
            Self::F16 | Self::Bf16 => 2,
            Self::Other(_, size) => size,
        }
    }

    pub(super) fn name(self) -> &'static str {
        match self {
            Self::F32 => "float32",
            Self::F16 => "float16",
            Self::Bf16 => "bfloat16",
            Self::Other(name, _) => name,
        }
    }

    pub(super) fn is_weight(self) -> bool {
        !matches!(self, Self::Other(..))
    }
}

/// A run of elements in the file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Storage {
    pub(super) key: Rc<str>,
    pub(super) element: Element,
    /// Number of elements.
    pub(super) count: usize,
}

impl Storage {
    /// Its size in bytes, if that is a number.
    pub(super) fn bytes(&self) -> Option<usize> {
        self.count.checked_mul(self.element.size())
    }
}

/// A view of a storage.
#[derive(Debug, Clone)]
pub(super) struct TensorRef {
    pub(super) storage: Rc<Storage>,
    /// In elements, as the strides.
    pub(super) offset: usize,
    pub(super) shape: Vec<usize>,
    pub(super) strides: Vec<usize>,
}

impl TensorRef {
    /// `None` unless all of it lies inside of the storage and no larger than it: a small file must not ask for much
    /// memory by showing one element a million times.
    pub(super) fn new(
        storage: Rc<Storage>,
        offset: usize,
        shape: Vec<usize>,
        strides: Vec<usize>,
    ) -> Option<Self> {
        let count = shape
            .iter()
            .try_fold(1_usize, |n, size| n.checked_mul(*size))?;
        let last = shape
            .iter()
            .zip(&strides)
            .try_fold(offset, |at, (size, stride)| {
                at.checked_add(size.saturating_sub(1).checked_mul(*stride)?)
            })?;
        let inside = count == 0 || (last < storage.count && count <= storage.count);
        (inside && shape.len() == strides.len()).then_some(Self {
            storage,
            offset,
            shape,
            strides,
        })
    }
}

/// All containers of a pickle, by index: nothing is nested in memory, however deep a file nests, and a container may hold
/// itself without harm.
#[derive(Default)]
pub(super) struct Arena {
    lists: Vec<Vec<Value>>,
    dicts: Vec<Vec<(Value, Value)>>,
}

impl Arena {
    pub(super) fn len(&self) -> usize {
        self.lists.len() + self.dicts.len()
    }

    pub(super) fn tuple(&mut self, items: Vec<Value>) -> Value {
        self.lists.push(items);
        Value::Tuple(self.lists.len() - 1)
    }

    pub(super) fn list(&mut self) -> Value {
        self.lists.push(Vec::new());
        Value::List(self.lists.len() - 1)
    }

    pub(super) fn dict(&mut self) -> Value {
        self.dicts.push(Vec::new());
        Value::Dict(self.dicts.len() - 1)
    }

    /// The items of a tuple or list.
    pub(super) fn items(&self, at: usize) -> &[Value] {
        &self.lists[at]
    }

    pub(super) fn list_mut(&mut self, at: usize) -> &mut Vec<Value> {
        &mut self.lists[at]
    }

    pub(super) fn entries(&self, at: usize) -> &[(Value, Value)] {
        &self.dicts[at]
    }

    /// The value of a string key.
    pub(super) fn get(&self, dict: usize, key: &str) -> Option<&Value> {
        let mut entries = self.dicts[dict].iter();
        let found =
            entries.find(|(found, _)| matches!(found, Value::Str(found) if **found == *key));
        found.map(|(_, value)| value)
    }

    pub(super) fn dict_mut(&mut self, at: usize) -> &mut Vec<(Value, Value)> {
        &mut self.dicts[at]
    }
}

/// What a pickle leaves on the stack.
pub(super) struct Root {
    pub(super) value: Value,
    pub(super) arena: Arena,
}

impl Root {
    /// The storages of all tensors that are in some dictionary.
    pub(super) fn storages(&self) -> impl Iterator<Item = &Storage> {
        let values = self.arena.dicts.iter().flatten();
        values.filter_map(|(_, value)| match value {
            Value::Tensor(tensor) => Some(&*tensor.storage),
            _ => None,
        })
    }

    /// The tensors of a dictionary of tensors, or of dictionaries of them; names are joined with dots.
    pub(super) fn tensors(self) -> Result<BTreeMap<String, TensorRef>> {
        let (mut found, mut left) = (BTreeMap::new(), MAX_ENTRIES);
        match self.value {
            Value::Dict(at) => self.collect(at, "", 1, &mut left, &mut found)?,
            other => {
                return Err(TorchError::Container {
                    reason: format!("it holds {}, expected a dictionary", other.kind()),
                });
            }
        }
        Ok(found)
    }

    fn collect(
        &self,
        dict: usize,
        prefix: &str,
        depth: usize,
        left: &mut usize,
        found: &mut BTreeMap<String, TensorRef>,
    ) -> Result<()> {
        for (key, value) in self.arena.entries(dict) {
            *left = left.checked_sub(1).ok_or_else(|| TorchError::Container {
                reason: format!("its dictionaries have more than {MAX_ENTRIES} entries"),
            })?;
            let Value::Str(key) = key else {
                return Err(TorchError::Container {
                    reason: format!(
                        "a key of the dictionary is {}, expected a string",
                        key.kind()
                    ),
                });
            };
            let name = format!("{prefix}{key}");
            match value {
                Value::Tensor(tensor) => {
                    if found.insert(name.clone(), (**tensor).clone()).is_some() {
                        return Err(TorchError::Container {
                            reason: format!("two entries are called `{name}`"),
                        });
                    }
                }
                Value::Dict(at) if depth < MAX_NESTING => {
                    self.collect(*at, &format!("{name}."), depth + 1, left, found)?;
                }
                other => {
                    return Err(TorchError::NotATensor {
                        name,
                        got: other.kind(),
                    });
                }
            }
        }
        Ok(())
    }
}
