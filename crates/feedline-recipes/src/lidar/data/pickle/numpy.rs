//! NumPy's arrays in pickles. Owns their dtypes and the order of their values.

use serde_json::{Number, Value};

/// NumPy's own limit was 32 for long.
const DIMENSIONS_MAX: usize = 32;

/// The type of an array's values.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct Dtype {
    kind: Kind,
    /// Of one value: for texts of all their letters.
    size_bytes: usize,
    is_big_endian: bool,
}

#[derive(Debug, Clone, Copy, PartialEq)]
enum Kind {
    Bool,
    Int,
    Unsigned,
    Float,
    /// Four bytes a letter, padded with zeros.
    Text,
    Object,
}

impl Dtype {
    /// A code such as `f4` or `U10`.
    pub(super) fn parse(code: &str) -> Result<Dtype, String> {
        let other = || format!("an array of dtype {code:?}; numbers, texts and objects are read");
        let (kind, number) = code.split_at_checked(1).ok_or_else(other)?;
        let number: usize = number.parse().map_err(|_| other())?;
        let (kind, size_bytes) = match (kind, number) {
            ("b", 1) => (Kind::Bool, 1),
            ("i", 1 | 2 | 4 | 8) => (Kind::Int, number),
            ("u", 1 | 2 | 4 | 8) => (Kind::Unsigned, number),
            ("f", 4 | 8) => (Kind::Float, number),
            ("U", letters) => (Kind::Text, letters.checked_mul(4).ok_or_else(other)?),
            ("O", _) => (Kind::Object, number),
            _ => return Err(other()),
        };
        Ok(Dtype { kind, size_bytes, is_big_endian: false })
    }

    pub(super) fn with_order(self, order: &str) -> Result<Dtype, String> {
        match order {
            // Pickles of machines with another native order say so.
            "<" | "|" | "=" => Ok(self),
            ">" => Ok(Dtype { is_big_endian: true, ..self }),
            _ => Err(format!("a dtype has the order of bytes {order:?}")),
        }
    }

    fn value(self, bytes: &[u8]) -> Result<Value, String> {
        let word = |bytes: &[u8]| {
            let mut word = [0; 8];
            word[..bytes.len()].copy_from_slice(bytes);
            if self.is_big_endian {
                word[..bytes.len()].reverse();
            }
            word
        };
        let bits = || u64::from_le_bytes(word(bytes));
        Ok(match self.kind {
            Kind::Bool => (bytes[0] != 0).into(),
            Kind::Unsigned => bits().into(),
            Kind::Int => {
                let unused = 64 - 8 * self.size_bytes as u32;
                (((bits() << unused) as i64) >> unused).into()
            }
            Kind::Float if self.size_bytes == 4 => Number::from_f64(f32::from_bits(bits() as u32).into()).into(),
            Kind::Float => Number::from_f64(f64::from_bits(bits())).into(),
            Kind::Text => {
                let letters = bytes.chunks_exact(4).map(|letter| u64::from_le_bytes(word(letter)) as u32);
                let mut letters: Vec<u32> = letters.collect();
                while letters.last() == Some(&0) {
                    letters.pop();
                }
                let text: Option<String> = letters.into_iter().map(char::from_u32).collect();
                text.ok_or("a text of an array is no Unicode")?.into()
            }
            Kind::Object => return Err("an array of objects holds bytes".into()),
        })
    }
}

/// An array whose values lie in another object, which it knows by number.
#[derive(Debug, Clone)]
pub(super) struct NdArray {
    /// Empty for a scalar.
    shape: Vec<usize>,
    is_fortran: bool,
    dtype: Dtype,
    pub(super) data: usize,
}

impl NdArray {
    /// An array whose values are `bytes` bytes, or as many objects, of `data`.
    pub(super) fn new(
        dtype: Dtype,
        shape: Vec<usize>,
        is_fortran: bool,
        data: usize,
        bytes: usize,
    ) -> Result<Self, String> {
        let unit = if dtype.kind == Kind::Object { 1 } else { dtype.size_bytes };
        let values = shape.iter().try_fold(1_usize, |all, side| all.checked_mul(*side));
        if values.and_then(|values| values.checked_mul(unit)) != Some(bytes) || shape.len() > DIMENSIONS_MAX {
            return Err(format!("an array of shape {shape:?} and {dtype:?} has {bytes} bytes or objects"));
        }
        // Texts without a letter take no byte, and may be as many as somebody likes to say.
        if unit == 0 && values > Some(1 << 20) {
            return Err(format!("an array of {shape:?} texts without a letter"));
        }
        Ok(Self { shape, is_fortran, dtype, data })
    }

    pub(super) fn holds_objects(dtype: Dtype) -> bool {
        dtype.kind == Kind::Object
    }

    /// Number of its values, lists that hold them included.
    pub(super) fn len(&self) -> usize {
        self.shape.iter().product::<usize>() * self.shape.len().max(1)
    }

    /// The value at a place within the bytes of an array that holds no objects.
    pub(super) fn value_at(&self, place: usize, bytes: &[u8]) -> Result<Value, String> {
        self.dtype.value(&bytes[place * self.dtype.size_bytes..][..self.dtype.size_bytes])
    }

    /// Its values in lists of lists, as `tolist` gives them; `item` gives the value at a place.
    pub(super) fn value(&self, item: &mut dyn FnMut(usize) -> Result<Value, String>) -> Result<Value, String> {
        if self.len() == 0 { Ok(Value::Array(Vec::new())) } else { self.nested(0, 0, item) }
    }

    fn nested(
        &self,
        axis: usize,
        offset: usize,
        item: &mut dyn FnMut(usize) -> Result<Value, String>,
    ) -> Result<Value, String> {
        let Some(length) = self.shape.get(axis) else { return item(offset) };
        let stride: usize = match self.is_fortran {
            true => self.shape[..axis].iter().product(),
            false => self.shape[axis + 1..].iter().product(),
        };
        (0..*length).map(|at| self.nested(axis + 1, offset + at * stride, item)).collect()
    }
}
