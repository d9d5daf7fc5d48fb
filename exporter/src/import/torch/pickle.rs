//! The stack machine of Python's pickles (protocols 2 to 5), as far as `torch.save` uses it for tensors.
//!
//! The instructions are those of Python's `pickletools`. Their number, and with it the memory, is limited by the length of
//! the pickle and by [`MAX_VALUES`].

use super::{
    TorchError,
    error::Result,
    value::{Arena, Element, Global, Root, Storage, TensorRef, Value},
};
use std::{collections::BTreeMap, io::Read, rc::Rc};

/// A backbone's pickle has some hundred kilobytes.
const MAX_BYTES: u64 = 16 << 20;
/// Values that are on the stack, memoised or in containers, together.
const MAX_VALUES: usize = 1 << 20;
/// More axes than this no tensor has.
const MAX_AXES: usize = 8;
/// More arguments than this no call that makes a tensor has.
const MAX_ARGUMENTS: usize = 8;

/// Runs the pickle that `reader` is at, and stops behind it.
pub(super) fn run(reader: &mut impl Read, start: u64) -> Result<Root> {
    let mut machine = Machine {
        reader,
        start,
        position: start,
        instruction: start,
        stack: Vec::new(),
        marks: Vec::new(),
        memo: BTreeMap::new(),
        arena: Arena::default(),
        pushed: 0,
    };
    while !machine.step()? {}
    let value = machine.pop()?;
    Ok(Root {
        value,
        arena: machine.arena,
    })
}

struct Machine<'a, R> {
    reader: &'a mut R,
    start: u64,
    position: u64,
    /// Where the present instruction begins.
    instruction: u64,
    stack: Vec<Value>,
    /// Lengths of the stack.
    marks: Vec<usize>,
    memo: BTreeMap<u32, Value>,
    arena: Arena,
    pushed: usize,
}

impl<R: Read> Machine<'_, R> {
    /// One instruction; whether it was the last.
    fn step(&mut self) -> Result<bool> {
        self.instruction = self.position;
        let [code] = self.take()?;
        match code {
            b'.' => return Ok(true),
            // Protocol and frame say nothing that matters here.
            0x80 => self.protocol()?,
            0x95 => self.take::<8>().map(drop)?,
            b'(' => self.marks.push(self.stack.len()),
            b'N' => self.push(Value::None)?,
            0x88 | 0x89 => self.push(Value::Bool(code == 0x88))?,
            b'J' | b'K' | b'M' | 0x8a => self.integer(code)?,
            b'G' => {
                self.take::<8>()?;
                self.push(Value::Float)?;
            }
            b'X' | 0x8c | b'T' | b'U' => self.string(code)?,
            b')' | b't' | 0x85..=0x87 => self.tuple(code)?,
            b']' => {
                let list = self.arena.list();
                self.push(list)?;
            }
            b'}' => {
                let dict = self.arena.dict();
                self.push(dict)?;
            }
            b'a' | b'e' => self.append(code)?,
            b's' | b'u' => self.set_items(code)?,
            b'q' | b'r' | 0x94 => self.memoise(code)?,
            b'h' | b'j' => self.recall(code)?,
            b'c' | 0x93 => self.global(code)?,
            b'Q' => self.persistent()?,
            b'R' => self.call()?,
            b'b' => self.build()?,
            other => {
                return Err(self.refuse(format!(
                    "instruction 0x{other:02x} is not among those that tensors need"
                )));
            }
        }
        Ok(false)
    }

    fn protocol(&mut self) -> Result<()> {
        match self.take()? {
            [2..=5] => Ok(()),
            [other] => Err(self.refuse(format!("pickle protocol {other}, expected 2 to 5"))),
        }
    }

    fn integer(&mut self, code: u8) -> Result<()> {
        let value = match code {
            b'J' => i128::from(i32::from_le_bytes(self.take()?)),
            b'K' => i128::from(u8::from_le_bytes(self.take()?)),
            b'M' => i128::from(u16::from_le_bytes(self.take()?)),
            _ => self.long()?,
        };
        self.push(Value::Int(value))
    }

    /// Two's complement of any length, of which 16 bytes are enough.
    fn long(&mut self) -> Result<i128> {
        let [length] = self.take()?;
        let bytes = self.take_many(usize::from(length))?;
        let negative = bytes.last().is_some_and(|byte| byte & 0x80 != 0);
        let mut wide = [if negative { 0xff } else { 0 }; 16];
        match wide.get_mut(..bytes.len()) {
            Some(low) => low.copy_from_slice(&bytes),
            None => return Err(self.refuse(format!("an integer of {length} bytes"))),
        }
        Ok(i128::from_le_bytes(wide))
    }

    fn string(&mut self, code: u8) -> Result<()> {
        let length = match code {
            b'X' | b'T' => u32::from_le_bytes(self.take()?) as usize,
            _ => usize::from(u8::from_le_bytes(self.take()?)),
        };
        let bytes = self.take_many(length)?;
        match String::from_utf8(bytes) {
            Ok(text) => self.push(Value::Str(text.into())),
            Err(_) => Err(self.refuse("a string that is not UTF-8".to_owned())),
        }
    }

    fn tuple(&mut self, code: u8) -> Result<()> {
        let items = match code {
            b')' => Vec::new(),
            b't' => self.since_mark()?,
            _ => {
                let count = usize::from(code - 0x84);
                let from = self.stack.len().checked_sub(count);
                let from = from.ok_or_else(|| self.underflow())?;
                self.stack.split_off(from)
            }
        };
        let tuple = self.arena.tuple(items);
        self.push(tuple)
    }

    fn append(&mut self, code: u8) -> Result<()> {
        let items = match code {
            b'a' => vec![self.pop()?],
            _ => self.since_mark()?,
        };
        match self.stack.last() {
            Some(&Value::List(at)) => self.arena.list_mut(at).extend(items),
            other => {
                let kind = other.map_or("nothing", Value::kind);
                return Err(self.refuse(format!("appending to {kind}")));
            }
        }
        Ok(())
    }

    fn set_items(&mut self, code: u8) -> Result<()> {
        let items = match code {
            b's' => {
                let value = self.pop()?;
                vec![self.pop()?, value]
            }
            _ => self.since_mark()?,
        };
        let (pairs, rest) = items.as_chunks::<2>();
        match self.stack.last() {
            Some(&Value::Dict(at)) if rest.is_empty() => {
                let pairs = pairs
                    .iter()
                    .map(|[key, value]| (key.clone(), value.clone()));
                self.arena.dict_mut(at).extend(pairs);
                Ok(())
            }
            other => {
                let kind = other.map_or("nothing", Value::kind);
                Err(self.refuse(format!("setting {} items of {kind}", items.len())))
            }
        }
    }

    fn memoise(&mut self, code: u8) -> Result<()> {
        let index = match code {
            b'q' => u32::from(u8::from_le_bytes(self.take()?)),
            b'r' => u32::from_le_bytes(self.take()?),
            _ => self.memo.len() as u32,
        };
        let top = self.stack.last().cloned();
        let top = top.ok_or_else(|| self.underflow())?;
        self.count()?;
        self.memo.insert(index, top);
        Ok(())
    }

    fn recall(&mut self, code: u8) -> Result<()> {
        let index = match code {
            b'h' => u32::from(u8::from_le_bytes(self.take()?)),
            _ => u32::from_le_bytes(self.take()?),
        };
        match self.memo.get(&index).cloned() {
            Some(value) => self.push(value),
            None => Err(self.refuse(format!("memo {index}, which was never set"))),
        }
    }

    fn global(&mut self, code: u8) -> Result<()> {
        let (module, name): (Rc<str>, Rc<str>) = match code {
            b'c' => (self.line()?.into(), self.line()?.into()),
            _ => match (self.pop()?, self.pop()?) {
                (Value::Str(name), Value::Str(module)) => (module, name),
                _ => return Err(self.refuse("a global whose name is no string".to_owned())),
            },
        };
        match Global::find(&module, &name) {
            Some(global) => self.push(Value::Global(global)),
            None => Err(self.refuse(format!("`{module}.{name}`"))),
        }
    }

    /// `('storage', type, key, location, count)`; old files add a view, which is always None in files of this century.
    fn persistent(&mut self) -> Result<()> {
        let id = self.pop()?;
        let items = match id {
            Value::Tuple(at) => self.arena.items(at),
            _ => &[],
        };
        let storage = match items {
            [
                Value::Str(tag),
                Value::Global(Global::StorageOf(element)),
                Value::Str(key),
                Value::Str(_),
                Value::Int(count),
                rest @ ..,
            ] if &**tag == "storage" && matches!(rest, [] | [Value::None]) => {
                storage(key, *element, *count)
            }
            _ => None,
        };
        match storage {
            Some(storage) => self.push(Value::Storage(Rc::new(storage))),
            None => Err(self.refuse("a persistent id that is no storage".to_owned())),
        }
    }

    fn call(&mut self) -> Result<()> {
        let arguments = self.pop()?;
        let function = self.pop()?;
        let items = match arguments {
            Value::Tuple(at) if self.arena.items(at).len() <= MAX_ARGUMENTS => {
                self.arena.items(at).to_vec()
            }
            other => return Err(self.refuse(format!("a call with {}", other.kind()))),
        };
        let result = match (&function, &items[..]) {
            (Value::Global(Global::OrderedDict), []) => Some(self.arena.dict()),
            (Value::Global(Global::RebuildTensor), arguments) => self.tensor(arguments),
            (Value::Global(Global::RebuildParameter), [data @ Value::Tensor(_), ..]) => {
                Some(data.clone())
            }
            _ => None,
        };
        match result {
            Some(value) => self.push(value),
            None => {
                let name = match function {
                    Value::Global(global) => format!("{global:?}"),
                    other => other.kind().to_owned(),
                };
                Err(self.refuse(format!(
                    "a call of {name} with arguments that make no tensor"
                )))
            }
        }
    }

    /// `(storage, offset, shape, strides, requires_grad, hooks[, metadata])`.
    fn tensor(&self, arguments: &[Value]) -> Option<Value> {
        let [
            Value::Storage(storage),
            Value::Int(offset),
            Value::Tuple(shape),
            Value::Tuple(strides),
            Value::Bool(_),
            Value::Dict(hooks),
            ..,
        ] = arguments
        else {
            return None;
        };
        if !self.arena.entries(*hooks).is_empty() {
            return None;
        }
        let offset = usize::try_from(*offset).ok()?;
        let (shape, strides) = (self.lengths(*shape)?, self.lengths(*strides)?);
        let tensor = TensorRef::new(storage.clone(), offset, shape, strides)?;
        Some(Value::Tensor(Rc::new(tensor)))
    }

    fn lengths(&self, tuple: usize) -> Option<Vec<usize>> {
        let items = self.arena.items(tuple);
        let length = |item: &Value| match item {
            Value::Int(length) => usize::try_from(*length).ok(),
            _ => None,
        };
        (items.len() <= MAX_AXES).then(|| items.iter().map(length).collect())?
    }

    /// An ordered dictionary's attributes (`_metadata`, the versions of modules) are dropped.
    fn build(&mut self) -> Result<()> {
        let state = self.pop()?;
        match (self.stack.last(), &state) {
            (Some(Value::Dict(_)), Value::Dict(_)) => Ok(()),
            (object, state) => {
                let object = object.map_or("nothing", Value::kind);
                let what = format!("setting the state of {object} from {}", state.kind());
                Err(self.refuse(what))
            }
        }
    }

    fn push(&mut self, value: Value) -> Result<()> {
        self.count()?;
        self.stack.push(value);
        Ok(())
    }

    fn count(&mut self) -> Result<()> {
        self.pushed += 1;
        match self.pushed + self.arena.len() > MAX_VALUES {
            true => Err(self.refuse(format!("more than {MAX_VALUES} values"))),
            false => Ok(()),
        }
    }

    /// The top of the stack, but not from under a mark.
    fn pop(&mut self) -> Result<Value> {
        let floor = self.marks.last().copied().unwrap_or(0);
        match self.stack.len() > floor {
            true => self.stack.pop().ok_or_else(|| self.underflow()),
            false => Err(self.underflow()),
        }
    }

    fn since_mark(&mut self) -> Result<Vec<Value>> {
        match self.marks.pop() {
            Some(mark) if mark <= self.stack.len() => Ok(self.stack.split_off(mark)),
            _ => Err(self.underflow()),
        }
    }

    fn take<const N: usize>(&mut self) -> Result<[u8; N]> {
        let mut bytes = [0; N];
        self.fill(&mut bytes)?;
        Ok(bytes)
    }

    fn take_many(&mut self, count: usize) -> Result<Vec<u8>> {
        self.allow(count)?;
        let mut bytes = vec![0; count];
        self.fill(&mut bytes)?;
        Ok(bytes)
    }

    fn line(&mut self) -> Result<String> {
        let mut line = Vec::new();
        loop {
            match self.take()? {
                [b'\n'] => break,
                [byte] => line.push(byte),
            }
        }
        let text = String::from_utf8(line);
        text.map_err(|_| self.refuse("a name that is not UTF-8".to_owned()))
    }

    fn fill(&mut self, bytes: &mut [u8]) -> Result<()> {
        self.allow(bytes.len())?;
        let read = self.reader.read_exact(bytes);
        read.map_err(|_| self.refuse("the pickle ends in the middle".to_owned()))?;
        self.position += bytes.len() as u64;
        Ok(())
    }

    fn allow(&self, count: usize) -> Result<()> {
        match self.position - self.start + count as u64 > MAX_BYTES {
            true => Err(self.refuse(format!("a pickle of more than {MAX_BYTES} bytes"))),
            false => Ok(()),
        }
    }

    fn underflow(&self) -> TorchError {
        self.refuse("an instruction that finds nothing on the stack".to_owned())
    }

    fn refuse(&self, what: String) -> TorchError {
        TorchError::Refused {
            position: self.instruction,
            what,
        }
    }
}

fn storage(key: &Rc<str>, element: Element, count: i128) -> Option<Storage> {
    Some(Storage {
        key: key.clone(),
        element,
        count: usize::try_from(count).ok()?,
    })
}
