//! The header of a `.npy` file (NumPy enhancement proposal 1, versions 1.0 to 3.0): element type, shape, and offset of the
//! elements. Owns the grammar of the header; elements are delivered unchanged, or converted to another type by npz.rs.

use crate::sample::DType;

/// Longest header that is read: NumPy's are 128 bytes for up to a dozen axes.
pub const NPY_HEADER_BYTES_MAX: usize = 4096;

/// The header of a `.npy` file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NpyHeader {
    /// Element type.
    pub dtype: DType,
    /// Length of each axis; the elements stand row-major.
    pub shape: Vec<usize>,
    /// Bytes before the first element.
    pub data_offset_bytes: usize,
}

impl NpyHeader {
    /// Reads the header at the start of `bytes`: the first [`NPY_HEADER_BYTES_MAX`] bytes of the file suffice.
    ///
    /// # Errors
    /// A text with the reason: not a `.npy` file, truncated, an element type or memory order that cannot be
    /// delivered unchanged (with the line of NumPy that converts it), a shape whose size overflows. Never panics.
    pub fn parse(bytes: &[u8]) -> Result<NpyHeader, String> {
        let Head { descr, shape, data_offset_bytes } = head(bytes)?;
        let dtype = dtype(descr)?;
        let size = shape.iter().try_fold(dtype.size_bytes(), |size, &axis| size.checked_mul(axis));
        match size {
            Some(size) if size <= isize::MAX as usize => Ok(NpyHeader { dtype, shape, data_offset_bytes }),
            _ => Err(format!("damaged .npy header: no memory holds the shape {shape:?}")),
        }
    }
}

impl NpyHeader {
    /// The shape alone, for any element type.
    ///
    /// # Errors
    /// As [`NpyHeader::parse`], except that any element type is accepted.
    pub fn shape(bytes: &[u8]) -> Result<Vec<usize>, String> {
        head(bytes).map(|head| head.shape)
    }
}

/// A header with any element type.
pub(super) struct Head<'a> {
    /// NumPy's name of the element type.
    pub(super) descr: &'a str,
    pub(super) shape: Vec<usize>,
    pub(super) data_offset_bytes: usize,
}

/// Length of the header in bytes, from its first 12 bytes; `None` if it is not a header.
pub(super) fn header_bytes(start: &[u8; 12]) -> Option<usize> {
    let length = match (start.strip_prefix(b"\x93NUMPY")?, &start[8..]) {
        ([1, ..], [low, high, ..]) => 10 + usize::from(u16::from_le_bytes([*low, *high])),
        ([2 | 3, ..], [a, b, c, d]) => 12 + u32::from_le_bytes([*a, *b, *c, *d]) as usize,
        _ => return None,
    };
    (12..=NPY_HEADER_BYTES_MAX).contains(&length).then_some(length)
}

/// Reads a header; see [`NpyHeader::parse`].
pub(super) fn head(bytes: &[u8]) -> Result<Head<'_>, String> {
    let Some(rest) = bytes.strip_prefix(b"\x93NUMPY") else {
        let start = &bytes[..bytes.len().min(12)];
        return Err(format!("not a .npy file (starts with '{}')", start.escape_ascii()));
    };
    let cut = || format!("truncated .npy file: the header ends early ({} bytes)", bytes.len());
    let (length_bytes, header_start) = match rest.first() {
        Some(1) => (2, 10),
        Some(2 | 3) => (4, 12),
        Some(other) => return Err(format!(".npy files of version {other} are not known; save it anew with NumPy")),
        None => return Err(cut()),
    };
    let length = rest.get(2..2 + length_bytes).ok_or_else(cut)?;
    let length = length.iter().rev().fold(0, |value, byte| value << 8 | usize::from(*byte));
    let data_offset_bytes = header_start + length;
    if data_offset_bytes > NPY_HEADER_BYTES_MAX {
        return Err(format!(
            "the .npy header has {data_offset_bytes} bytes, more than the {NPY_HEADER_BYTES_MAX} allowed; \
                 save the array without field names"
        ));
    }
    let text = bytes.get(header_start..data_offset_bytes).ok_or_else(cut)?;
    let text = std::str::from_utf8(text).map_err(|_| "damaged .npy header: it is not text".to_owned())?;
    let entries = Entries::parse(text).ok_or_else(|| format!("damaged .npy header: {}", text.trim().escape_debug()))?;
    if entries.fortran_order && entries.shape.len() > 1 {
        return Err("the array is stored column by column (fortran_order); \
                        save numpy.ascontiguousarray(array) instead"
            .into());
    }
    Ok(Head { descr: entries.descr, shape: entries.shape, data_offset_bytes })
}

fn dtype(descr: &str) -> Result<DType, String> {
    let known = ["u1", "u2", "i4", "i8", "f4", "f8"];
    let dtypes = [DType::U8, DType::U16, DType::I32, DType::I64, DType::F32, DType::F64];
    // NumPy writes `|` for the byte order of single bytes; all other types must be little-endian.
    let found = known.iter().position(|name| descr == format!("<{name}") || (*name == "u1" && descr == "|u1"));
    found.map(|at| dtypes[at]).ok_or_else(|| {
        format!(
            "elements of type '{}' cannot be delivered; save array.astype(t) with t one of '<f4', '<f8', '<i4', \
             '<i8', '<u2', '|u1'",
            descr.escape_debug()
        )
    })
}

/// The three entries of the header's dictionary.
struct Entries<'a> {
    descr: &'a str,
    fortran_order: bool,
    shape: Vec<usize>,
}

impl<'a> Entries<'a> {
    /// `{'descr': '<f4', 'fortran_order': False, 'shape': (3, 4), }` with the entries in any order, each once.
    fn parse(text: &'a str) -> Option<Entries<'a>> {
        let mut rest = text.trim().strip_prefix('{')?.strip_suffix('}')?.trim();
        let (mut descr, mut fortran_order, mut shape) = (None, None, None);
        while !rest.is_empty() {
            let (key, after) = quoted(rest)?;
            let value = after.trim_start().strip_prefix(':')?.trim_start();
            let fresh;
            (fresh, rest) = match key {
                "descr" if value.starts_with('[') => {
                    // A record: its fields are not parsed, and the caller refuses it by its first character.
                    let end = value.rfind(']')? + 1;
                    (descr.replace(&value[..end]).is_none(), &value[end..])
                }
                "descr" => {
                    let (value, after) = quoted(value)?;
                    (descr.replace(value).is_none(), after)
                }
                "fortran_order" => {
                    let is_true = value.starts_with("True");
                    let after = value.strip_prefix(if is_true { "True" } else { "False" })?;
                    (fortran_order.replace(is_true).is_none(), after)
                }
                "shape" => {
                    let (inside, after) = value.strip_prefix('(')?.split_once(')')?;
                    // One axis is written `(3,)`, none `()`.
                    let inside = inside.trim();
                    let inside = inside.strip_suffix(',').unwrap_or(inside);
                    let axes = inside.split(',').filter(|_| !inside.trim().is_empty());
                    let axes: Option<Vec<usize>> = axes.map(|axis| axis.trim().parse().ok()).collect();
                    (shape.replace(axes?).is_none(), after)
                }
                _ => return None,
            };
            rest = rest.trim_start();
            if !fresh || !(rest.is_empty() || rest.starts_with(',')) {
                return None;
            }
            rest = rest.strip_prefix(',').unwrap_or(rest).trim_start();
        }
        Some(Entries { descr: descr?, fortran_order: fortran_order?, shape: shape? })
    }
}

/// A string in single or double quotes at the start of `text`, and what follows.
fn quoted(text: &str) -> Option<(&str, &str)> {
    let quote = text.chars().next().filter(|c| matches!(c, '\'' | '"'))?;
    text[1..].split_once(quote)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A file as NumPy writes it: the text padded with spaces and a newline to 64 bytes.
    fn npy(version: u8, text: &str) -> Vec<u8> {
        let start = if version == 1 { 10 } else { 12 };
        let length = (start + text.len() + 1).next_multiple_of(64) - start;
        let mut bytes = [b"\x93NUMPY", &[version, 0][..]].concat();
        bytes.extend(&(length as u32).to_le_bytes()[..start - 8]);
        bytes.extend(format!("{text:<width$}\n", width = length - 1).bytes());
        bytes
    }

    fn parse(text: &str) -> Result<NpyHeader, String> {
        NpyHeader::parse(&npy(1, text))
    }

    #[test]
    fn headers_as_numpy_writes_them_are_read() {
        let cases = [
            ("{'descr': '<f4', 'fortran_order': False, 'shape': (3, 224, 224), }", DType::F32, &[3, 224, 224][..]),
            ("{'descr': '|u1', 'fortran_order': False, 'shape': (7,), }", DType::U8, &[7]),
            ("{'descr': '<u2', 'fortran_order': False, 'shape': (), }", DType::U16, &[]),
            ("{'descr': '<i8', 'fortran_order': True, 'shape': (0,), }", DType::I64, &[0]),
            ("{\"shape\":(2,3),\"fortran_order\":False,\"descr\":\"<f8\"}", DType::F64, &[2, 3]),
            ("{'fortran_order': False, 'descr': '<i4', 'shape': (1, 2,)}", DType::I32, &[1, 2]),
        ];
        for (text, dtype, shape) in cases {
            for version in [1, 2, 3] {
                let bytes = npy(version, text);
                let expect = NpyHeader { dtype, shape: shape.to_vec(), data_offset_bytes: bytes.len() };
                assert_eq!(NpyHeader::parse(&bytes), Ok(expect.clone()), "{text}");
                assert_eq!(NpyHeader::parse(&[&bytes[..], b"elements"].concat()), Ok(expect), "{text}");
            }
        }
    }

    #[test]
    fn what_cannot_be_delivered_is_refused_with_the_remedy() {
        let with = |descr: &str| parse(&format!("{{'descr': {descr}, 'fortran_order': False, 'shape': (2, 3), }}"));
        for descr in ["'>f4'", "'<f2'", "'|b1'", "'|O'", "'<c8'", "'<U5'", "[('a', '<f4'), ('b', '<i8')]"] {
            let text = with(descr).unwrap_err();
            assert!(text.contains("cannot be delivered") && text.contains("astype"), "{descr}: {text}");
        }
        let text = parse("{'descr': '<f4', 'fortran_order': True, 'shape': (2, 3), }").unwrap_err();
        assert!(text.contains("ascontiguousarray"), "{text}");
    }

    #[test]
    fn damaged_headers_are_refused_in_words() {
        let good = "{'descr': '<f4', 'fortran_order': False, 'shape': (2, 3), }";
        for (bad, words) in [
            (good.replace("(2, 3)", "(2, -3)"), "damaged"),
            (good.replace("(2, 3)", "(2, 3"), "damaged"),
            (good.replace("(2, 3)", "(2 3)"), "damaged"),
            (good.replace("(2, 3)", "(99999999999, 99999999999)"), "no memory holds"),
            (good.replace("(2, 3)", "(99999999999999999999999, 1)"), "damaged"),
            (good.replace("False", "Maybe"), "damaged"),
            (good.replace("'fortran_order': False, ", ""), "damaged"),
            (good.replace("'shape'", "'descr'"), "damaged"),
            (good.replace(", 'shape'", " 'shape'"), "damaged"),
            (good.replace('}', ""), "damaged"),
            (String::new(), "damaged"),
            ("é".repeat(30), "damaged"),
        ] {
            let text = parse(&bad).unwrap_err();
            assert!(text.contains(words), "{bad}: {text}");
        }
        assert!(NpyHeader::parse(b"hello").unwrap_err().contains("not a .npy file (starts with 'hello')"));
        assert!(NpyHeader::parse(b"\x93NUMPY\x09\0").unwrap_err().contains("version 9"));
        assert!(NpyHeader::parse(b"\x93NUMPY\x02\0\xff\xff\xff\x7f").unwrap_err().contains("more than the 4096"));
        let whole = npy(1, good);
        for end in 0..whole.len() {
            assert!(NpyHeader::parse(&whole[..end]).is_err(), "{end}");
        }
        // Any changed byte gives a result or an error, never a panic.
        for at in 0..whole.len() {
            for value in [0, b'(', b',', b'\'', b'}', 0xFF] {
                let mut bytes = whole.clone();
                bytes[at] = value;
                let _ = NpyHeader::parse(&bytes);
            }
        }
    }
}
