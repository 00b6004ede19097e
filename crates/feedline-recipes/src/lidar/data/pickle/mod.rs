//! Python's pickles, read as data: a pickle is a program, and this is a machine that knows only the part of its language that
//! builds texts, numbers, lists, dictionaries and NumPy arrays (opcodes of protocols 2 to 5, as the source of Python's
//! `pickletools` lists them). It never calls anything: every other opcode, and every name but seven of NumPy's and Python's own,
//! is refused. Owns the opcodes; arrays belong to `numpy`.
#![expect(clippy::disallowed_types, reason = "the memo of a pickle is looked up by number, never listed")]

mod numpy;

use numpy::{Dtype, NdArray};
use serde_json::{Map, Number, Value};
use std::borrow::Cow;
use std::collections::HashMap;

/// Largest depth of nested lists and dictionaries.
const DEPTH_MAX: usize = 32;
/// Most values per byte of the pickle: one that is written once and referenced repeatedly could grow without limit.
const VALUES_PER_BYTE: usize = 16;

/// The content of the pickle, arrays as lists. A number that is not finite becomes null.
///
/// # Errors
/// The offset in bytes from the start, and the refused or damaged element.
pub(super) fn read(bytes: &[u8]) -> Result<Value, String> {
    let mut machine = Machine {
        bytes,
        at: 0,
        objects: Vec::new(),
        stack: Vec::new(),
        marks: Vec::new(),
        memo: HashMap::new(),
        encoded_bytes: 0,
    };
    loop {
        let at = machine.at;
        match machine.step() {
            Ok(None) => {}
            Ok(Some(top)) => {
                let mut left = bytes.len() * VALUES_PER_BYTE;
                return machine.value(top, 0, &mut left);
            }
            Err(problem) => return Err(format!("byte {at} of the pickle: {problem}")),
        }
    }
}

/// The number of an object.
type Id = usize;

/// The names that are known, and what a call of them makes.
#[derive(Debug, Clone, Copy, PartialEq)]
enum Name {
    /// numpy's `_reconstruct(ndarray, (0,), b"b")`: an array that `BUILD` fills.
    Reconstruct,
    /// numpy's `_frombuffer(bytes, dtype, shape, order)`.
    FromBuffer,
    /// numpy's `scalar(dtype, bytes)`.
    Scalar,
    /// `dtype("f4", False, True)`, which `BUILD` gives an order of bytes.
    Dtype,
    NdArray,
    /// `_codecs.encode(text, "latin1")`: bytes in protocol 2.
    Encode,
    /// `bytes()`: no bytes at all in protocol 2.
    Bytes,
}

#[derive(Debug, Clone)]
enum Object<'p> {
    None,
    Bool(bool),
    Int(i64),
    Float(f64),
    Text(&'p str),
    Bytes(Cow<'p, [u8]>),
    Tuple(Vec<Id>),
    List(Vec<Id>),
    Dict(Vec<(Id, Id)>),
    Name(Name),
    Dtype(Dtype),
    /// None until it is filled.
    Array(Option<NdArray>),
}

struct Machine<'p> {
    bytes: &'p [u8],
    at: usize,
    objects: Vec<Object<'p>>,
    stack: Vec<Id>,
    /// Lengths of the stack.
    marks: Vec<usize>,
    memo: HashMap<usize, Id>,
    encoded_bytes: usize,
}

const GROWS: &str = "it grows to many times its size";
const SHORT: &str = "the pickle ends too early";
const EMPTY: &str = "it takes from a stack that is empty";

impl<'p> Machine<'p> {
    /// Does the next opcode; the last one gives the result.
    fn step(&mut self) -> Result<Option<Id>, String> {
        match self.take(1)?[0] {
            // PROTO, FRAME: how long a frame is says nothing that the opcodes do not say.
            0x80 => match self.take(1)?[0] {
                2..=5 => {}
                version => return Err(format!("it is of protocol {version}; 2 to 5 are read")),
            },
            0x95 => {
                self.take(8)?;
            }
            b'.' => return self.pop().map(Some),
            b'(' => self.marks.push(self.stack.len()),
            b'0' => {
                self.pop()?;
            }
            b'1' => {
                self.above_mark()?;
            }
            b'2' => {
                let top = *self.stack.last().ok_or(EMPTY)?;
                self.stack.push(top);
            }
            b'N' => self.push(Object::None),
            0x88 => self.push(Object::Bool(true)),
            0x89 => self.push(Object::Bool(false)),
            b'K' => self.push_int(1)?,
            b'M' => self.push_int(2)?,
            b'J' => {
                let value = i32::from_le_bytes(self.array()?);
                self.push(Object::Int(value.into()));
            }
            0x8a => self.push_long(1)?,
            0x8b => self.push_long(4)?,
            b'G' => {
                let value = f64::from_be_bytes(self.array()?);
                self.push(Object::Float(value));
            }
            0x8c => self.push_text(1)?,
            b'X' => self.push_text(4)?,
            0x8d => self.push_text(8)?,
            b'C' => self.push_bytes(1)?,
            b'B' => self.push_bytes(4)?,
            // BINBYTES8, BYTEARRAY8
            0x8e | 0x96 => self.push_bytes(8)?,
            b']' => self.push(Object::List(Vec::new())),
            b'}' => self.push(Object::Dict(Vec::new())),
            b')' => self.push(Object::Tuple(Vec::new())),
            tuple @ 0x85..=0x87 => {
                let len = usize::from(tuple - 0x84);
                let start = self.stack.len().checked_sub(len).ok_or(EMPTY)?;
                let items = self.stack.split_off(start);
                self.push(Object::Tuple(items));
            }
            b't' => {
                let items = self.above_mark()?;
                self.push(Object::Tuple(items));
            }
            b'l' => {
                let items = self.above_mark()?;
                self.push(Object::List(items));
            }
            b'd' => {
                let items = self.above_mark()?;
                self.push(Object::Dict(Vec::new()));
                self.set(items)?;
            }
            b'a' => {
                let item = self.pop()?;
                self.append(vec![item])?;
            }
            b'e' => {
                let items = self.above_mark()?;
                self.append(items)?;
            }
            b's' => {
                let value = self.pop()?;
                let key = self.pop()?;
                self.set(vec![key, value])?;
            }
            b'u' => {
                let items = self.above_mark()?;
                self.set(items)?;
            }
            b'q' => self.put(1)?,
            b'r' => self.put(4)?,
            0x94 => {
                let top = *self.stack.last().ok_or(EMPTY)?;
                self.memo.insert(self.memo.len(), top);
            }
            b'h' => self.get(1)?,
            b'j' => self.get(4)?,
            b'c' => {
                let module = self.line()?;
                let name = self.line()?;
                self.push_name(module, name)?;
            }
            0x93 => {
                let (name, module) = (self.pop()?, self.pop()?);
                match (&self.objects[module], &self.objects[name]) {
                    (Object::Text(module), Object::Text(name)) => self.push_name(module, name)?,
                    _ => return Err("a name is no text".into()),
                }
            }
            b'R' => self.call()?,
            b'b' => self.build()?,
            other => return Err(format!("{} is not data, and is never executed", opcode(other))),
        }
        Ok(None)
    }

    fn take(&mut self, len: usize) -> Result<&'p [u8], String> {
        let taken = self.bytes[self.at..].get(..len).ok_or(SHORT)?;
        self.at += len;
        Ok(taken)
    }

    fn array<const N: usize>(&mut self) -> Result<[u8; N], String> {
        let mut array = [0; N];
        array.copy_from_slice(self.take(N)?);
        Ok(array)
    }

    /// A number without sign of up to eight bytes.
    fn unsigned(&mut self, len: usize) -> Result<usize, String> {
        let bytes = self.take(len)?;
        let value = bytes.iter().rev().fold(0_u64, |value, byte| value << 8 | u64::from(*byte));
        usize::try_from(value).map_err(|_| SHORT.into())
    }

    fn line(&mut self) -> Result<&'p str, String> {
        let rest = &self.bytes[self.at..];
        let len = rest.iter().position(|byte| *byte == b'\n').ok_or(SHORT)?;
        self.at += len + 1;
        std::str::from_utf8(&rest[..len]).map_err(|_| "a name is no UTF-8".into())
    }

    fn push(&mut self, object: Object<'p>) {
        self.stack.push(self.objects.len());
        self.objects.push(object);
    }

    fn push_int(&mut self, len: usize) -> Result<(), String> {
        let value = self.unsigned(len)?;
        self.push(Object::Int(value as i64));
        Ok(())
    }

    /// An integer in two's complement with its length in front.
    fn push_long(&mut self, prefix: usize) -> Result<(), String> {
        let len = self.unsigned(prefix)?;
        if len > 8 {
            return Err(format!("an integer of {len} bytes; up to 8 are read"));
        }
        let bytes = self.take(len)?;
        let sign = bytes.last().map_or(0, |last| if last & 0x80 != 0 { -1 } else { 0 });
        let value = bytes.iter().rev().fold(sign, |value: i64, byte| value << 8 | i64::from(*byte));
        self.push(Object::Int(value));
        Ok(())
    }

    fn push_text(&mut self, prefix: usize) -> Result<(), String> {
        let len = self.unsigned(prefix)?;
        let text = std::str::from_utf8(self.take(len)?).map_err(|_| "a text is no UTF-8")?;
        self.push(Object::Text(text));
        Ok(())
    }

    fn push_bytes(&mut self, prefix: usize) -> Result<(), String> {
        let len = self.unsigned(prefix)?;
        let bytes = self.take(len)?;
        self.push(Object::Bytes(Cow::Borrowed(bytes)));
        Ok(())
    }

    fn push_name(&mut self, module: &str, name: &str) -> Result<(), String> {
        let known = match (module, name) {
            // NumPy 2 renamed the module.
            ("numpy.core.multiarray" | "numpy._core.multiarray", "_reconstruct") => Name::Reconstruct,
            ("numpy.core.multiarray" | "numpy._core.multiarray", "scalar") => Name::Scalar,
            ("numpy.core.numeric" | "numpy._core.numeric", "_frombuffer") => Name::FromBuffer,
            ("numpy", "ndarray") => Name::NdArray,
            ("numpy", "dtype") => Name::Dtype,
            ("_codecs", "encode") => Name::Encode,
            ("__builtin__", "bytes") => Name::Bytes,
            _ => return Err(format!("it asks for {module}.{name}, which is not data and is never executed")),
        };
        self.push(Object::Name(known));
        Ok(())
    }

    fn pop(&mut self) -> Result<Id, String> {
        // Values below a mark belong to the operation that set it.
        let floor = self.marks.last().copied().unwrap_or(0);
        if self.stack.len() <= floor {
            return Err(EMPTY.into());
        }
        self.stack.pop().ok_or_else(|| EMPTY.into())
    }

    fn above_mark(&mut self) -> Result<Vec<Id>, String> {
        let mark = self.marks.pop().ok_or("there is no mark")?;
        match mark <= self.stack.len() {
            true => Ok(self.stack.split_off(mark)),
            false => Err(EMPTY.into()),
        }
    }

    fn top(&mut self) -> Result<&mut Object<'p>, String> {
        let top = *self.stack.last().ok_or(EMPTY)?;
        Ok(&mut self.objects[top])
    }

    fn append(&mut self, items: Vec<Id>) -> Result<(), String> {
        match self.top()? {
            Object::List(list) => list.extend(items),
            _ => return Err("it appends to what is no list".into()),
        }
        Ok(())
    }

    fn set(&mut self, items: Vec<Id>) -> Result<(), String> {
        let (pairs, rest) = items.as_chunks::<2>();
        match self.top()? {
            Object::Dict(dict) if rest.is_empty() => dict.extend(pairs.iter().map(|[key, value]| (*key, *value))),
            Object::Dict(_) => return Err("a key has no value".into()),
            _ => return Err("it sets a key of what is no dictionary".into()),
        }
        Ok(())
    }

    fn put(&mut self, len: usize) -> Result<(), String> {
        let number = self.unsigned(len)?;
        let top = *self.stack.last().ok_or(EMPTY)?;
        self.memo.insert(number, top);
        Ok(())
    }

    fn get(&mut self, len: usize) -> Result<(), String> {
        let number = self.unsigned(len)?;
        let known = *self.memo.get(&number).ok_or_else(|| format!("it uses value {number}, which was never kept"))?;
        self.stack.push(known);
        Ok(())
    }

    /// `REDUCE`: what a known name makes of its arguments.
    fn call(&mut self) -> Result<(), String> {
        let (arguments, callee) = (self.pop()?, self.pop()?);
        let (Object::Tuple(arguments), Object::Name(name)) = (&self.objects[arguments], &self.objects[callee]) else {
            return Err("it calls what is no name".into());
        };
        let ids = arguments;
        let arguments: Vec<&Object> = ids.iter().map(|id| &self.objects[*id]).collect();
        let made = match (name, &arguments[..]) {
            (Name::Reconstruct, _) => Object::Array(None),
            (Name::Bytes, []) => Object::Bytes(Cow::Borrowed(&[])),
            (Name::Dtype, [Object::Text(code), ..]) => Object::Dtype(Dtype::parse(code)?),
            (Name::Encode, [Object::Text(text), Object::Text("latin1")]) => {
                let letters = text.chars().map(|c| u8::try_from(c).map_err(|_| "bytes hold what is none"));
                let bytes = letters.collect::<Result<Vec<u8>, _>>()?;
                // The same text, encoded again and again, would grow without end.
                self.encoded_bytes += bytes.len();
                if self.encoded_bytes > self.bytes.len() {
                    return Err(GROWS.into());
                }
                Object::Bytes(Cow::Owned(bytes))
            }
            (Name::Scalar, [Object::Dtype(dtype), Object::Bytes(bytes)]) if !NdArray::holds_objects(*dtype) => {
                Object::Array(Some(NdArray::new(*dtype, Vec::new(), false, ids[1], bytes.len())?))
            }
            (
                Name::FromBuffer,
                [Object::Bytes(bytes), Object::Dtype(dtype), Object::Tuple(shape), Object::Text(order)],
            ) => {
                let shape = self.shape(shape)?;
                Object::Array(Some(NdArray::new(*dtype, shape, *order == "F", ids[0], bytes.len())?))
            }
            _ => return Err(format!("{name:?} has arguments that are not understood")),
        };
        self.push(made);
        Ok(())
    }

    /// `BUILD`: the state of a dtype or an array.
    fn build(&mut self) -> Result<(), String> {
        let state = self.pop()?;
        let top = *self.stack.last().ok_or(EMPTY)?;
        let Object::Tuple(state) = &self.objects[state] else {
            return Err("the state of an object is no tuple".into());
        };
        let ids = state;
        let state: Vec<&Object> = ids.iter().map(|id| &self.objects[*id]).collect();
        let built = match (&self.objects[top], &state[..]) {
            // Version, order of bytes, subarray, names, fields, sizes, flags. Datetimes have one more.
            (
                Object::Dtype(dtype),
                [Object::Int(3), Object::Text(order), Object::None, Object::None, Object::None, _, _, _],
            ) => Object::Dtype(dtype.with_order(order)?),
            (Object::Dtype(_), _) => return Err("a dtype has fields".into()),
            (
                Object::Array(None),
                [Object::Int(1), Object::Tuple(shape), Object::Dtype(dtype), Object::Bool(fortran), data],
            ) => {
                let len = match data {
                    Object::Bytes(bytes) if !NdArray::holds_objects(*dtype) => bytes.len(),
                    Object::List(items) if NdArray::holds_objects(*dtype) => items.len(),
                    _ => return Err("an array holds neither bytes nor a list".into()),
                };
                Object::Array(Some(NdArray::new(*dtype, self.shape(shape)?, *fortran, ids[4], len)?))
            }
            _ => return Err("it sets the state of what has none".into()),
        };
        self.objects[top] = built;
        Ok(())
    }

    fn shape(&self, shape: &[Id]) -> Result<Vec<usize>, String> {
        let length = |id: &Id| match self.objects[*id] {
            Object::Int(length) => usize::try_from(length).map_err(|_| "an array has a side below 0".to_owned()),
            _ => Err("the shape of an array is no shape".into()),
        };
        shape.iter().map(length).collect()
    }

    fn value(&self, id: Id, depth: usize, left: &mut usize) -> Result<Value, String> {
        if depth > DEPTH_MAX {
            return Err(format!("its values are nested deeper than {DEPTH_MAX}"));
        }
        *left = left.checked_sub(1).ok_or(GROWS)?;
        Ok(match &self.objects[id] {
            Object::None => Value::Null,
            Object::Bool(value) => Value::Bool(*value),
            Object::Int(value) => (*value).into(),
            Object::Float(value) => Number::from_f64(*value).into(),
            Object::Text(text) => (*text).into(),
            Object::Tuple(items) | Object::List(items) => {
                items.iter().map(|item| self.value(*item, depth + 1, left)).collect::<Result<_, _>>()?
            }
            Object::Dict(items) => {
                let entry = |(key, value): &(Id, Id)| match self.objects[*key] {
                    Object::Text(key) => Ok((key.to_owned(), self.value(*value, depth + 1, left)?)),
                    _ => Err("a key of a dictionary is no text".to_owned()),
                };
                Value::Object(items.iter().map(entry).collect::<Result<Map<_, _>, _>>()?)
            }
            Object::Array(Some(array)) => array.value(self, depth, left)?,
            Object::Array(None) => return Err("an array was never filled".into()),
            Object::Bytes(_) => return Err("it holds bytes where a text or a number was expected".into()),
            Object::Dtype(_) | Object::Name(_) => return Err("it holds a type where a value was expected".into()),
        })
    }
}

/// The remedy for an opcode that is refused.
fn opcode(code: u8) -> String {
    let name = match code {
        b'i' => "INST",
        b'o' => "OBJ",
        0x81 => "NEWOBJ",
        0x92 => "NEWOBJ_EX",
        b'P' | b'Q' => "a persistent id",
        0x82..=0x84 => "an extension",
        0x97 | 0x98 => "a buffer outside of the file",
        0x8f..=0x91 => "a set",
        b'F' | b'I' | b'L' | b'S' | b'V' | b'T' | b'U' | b'p' | b'g' => "an opcode of protocol 0 or 1",
        _ => "an unknown opcode",
    };
    match code.is_ascii_graphic() {
        true => format!("{name} ({})", char::from(code)),
        false => format!("{name} ({code:#04x})"),
    }
}

#[cfg(test)]
mod tests;
