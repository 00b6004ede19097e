//! Arrays of NumPy's `.npy` and `.npz` files as numbers of the wanted type. Owns the rule which conversions are lossless;
//! a member whose elements already have that type is inflated straight into the output.

use super::npy::{self, Head, NPY_HEADER_BYTES_MAX};
use crate::decode::fault::{Fault, grown};
use crate::sample::Element;
use rawzip::{CompressionMethod, ZipArchive};
use std::cell::RefCell;
use std::fmt::Display;
use zlib_rs::{Inflate, InflateFlush, Status};

/// Largest size of an array; larger ones are refused.
const ARRAY_BYTES_MAX: usize = 1 << 30;

/// Deflate's largest expansion of one byte; a directory that claims more is wrong.
const BYTES_PER_BYTE_MAX: u64 = 1032;

/// Most memory that a thread keeps from one array to the next.
const KEPT_BYTES_MAX: usize = 32 << 20;

/// Element types of NumPy that are plain numbers; bytes in the order of this machine, which is little-endian.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[doc(hidden)]
pub enum Stored {
    Bool,
    I8,
    U8,
    I16,
    U16,
    I32,
    U32,
    I64,
    U64,
    F32,
    F64,
}

impl Stored {
    fn parse(descr: &str) -> Result<Stored, String> {
        use Stored::*;
        let kinds = ["b1", "i1", "u1", "i2", "u2", "i4", "u4", "i8", "u8", "f4", "f8"];
        let stored = [Bool, I8, U8, I16, U16, I32, U32, I64, U64, F32, F64];
        // NumPy writes `|` for the byte order of single bytes.
        let is = |kind: &str| descr == format!("<{kind}") || (kind.ends_with('1') && descr == format!("|{kind}"));
        if let Some(at) = kinds.iter().position(|kind| is(kind)) {
            return Ok(stored[at]);
        }
        Err(match descr {
            "|O" | "O" => {
                "it holds pickled Python objects, which are never loaded; save an array of plain numbers".into()
            }
            _ => format!(
                "its elements are of type '{}'; save array.astype(t) with t a little-endian integer, bool, '<f4' or '<f8'",
                descr.escape_debug()
            ),
        })
    }

    fn size_bytes(self) -> usize {
        match self {
            Stored::Bool | Stored::I8 | Stored::U8 => 1,
            Stored::I16 | Stored::U16 => 2,
            Stored::I32 | Stored::U32 | Stored::F32 => 4,
            Stored::I64 | Stored::U64 | Stored::F64 => 8,
        }
    }
}

/// Types that an array can be read as: i64 and f32.
pub trait Number: Element {
    /// The file's element type that equals this type in memory.
    #[doc(hidden)]
    const SAME: Stored;
    /// Converts elements of another type.
    #[doc(hidden)]
    fn convert(stored: Stored, bytes: &[u8], out: &mut [Self]) -> Result<(), String>;
}

/// Converts little-endian elements of `N` bytes; `to` names a value that cannot be converted.
fn each<const N: usize, S: Copy + Display, T>(
    bytes: &[u8],
    out: &mut [T],
    read: fn([u8; N]) -> S,
    to: impl Fn(S) -> Option<T>,
) -> Result<(), String> {
    for (at, (out, element)) in out.iter_mut().zip(bytes.as_chunks::<N>().0).enumerate() {
        let value = read(*element);
        *out = to(value).ok_or_else(|| format!("element {at} is {value}, which is no whole number of 64 bits"))?;
    }
    Ok(())
}

impl Number for i64 {
    const SAME: Stored = Stored::I64;

    /// Takes whole numbers only: `astype(int64)` would truncate the others.
    fn convert(stored: Stored, bytes: &[u8], out: &mut [i64]) -> Result<(), String> {
        let whole = |value: f64| (value.fract() == 0.0 && value.abs() < 9.2e18).then_some(value as i64);
        match stored {
            Stored::Bool | Stored::U8 => each(bytes, out, u8::from_le_bytes, |v| Some(v.into())),
            Stored::I8 => each(bytes, out, i8::from_le_bytes, |v| Some(v.into())),
            Stored::I16 => each(bytes, out, i16::from_le_bytes, |v| Some(v.into())),
            Stored::U16 => each(bytes, out, u16::from_le_bytes, |v| Some(v.into())),
            Stored::I32 => each(bytes, out, i32::from_le_bytes, |v| Some(v.into())),
            Stored::U32 => each(bytes, out, u32::from_le_bytes, |v| Some(v.into())),
            Stored::I64 => each(bytes, out, i64::from_le_bytes, Some),
            Stored::U64 => each(bytes, out, u64::from_le_bytes, |v| v.try_into().ok()),
            Stored::F32 => each(bytes, out, f32::from_le_bytes, |v| whole(v.into())),
            Stored::F64 => each(bytes, out, f64::from_le_bytes, whole),
        }
    }
}

impl Number for f32 {
    const SAME: Stored = Stored::F32;

    /// Rounded as by `astype(float32)`.
    fn convert(stored: Stored, bytes: &[u8], out: &mut [f32]) -> Result<(), String> {
        match stored {
            Stored::Bool | Stored::U8 => each(bytes, out, u8::from_le_bytes, |v| Some(v.into())),
            Stored::I8 => each(bytes, out, i8::from_le_bytes, |v| Some(v.into())),
            Stored::I16 => each(bytes, out, i16::from_le_bytes, |v| Some(v.into())),
            Stored::U16 => each(bytes, out, u16::from_le_bytes, |v| Some(v.into())),
            Stored::I32 => each(bytes, out, i32::from_le_bytes, |v| Some(v as f32)),
            Stored::U32 => each(bytes, out, u32::from_le_bytes, |v| Some(v as f32)),
            Stored::I64 => each(bytes, out, i64::from_le_bytes, |v| Some(v as f32)),
            Stored::U64 => each(bytes, out, u64::from_le_bytes, |v| Some(v as f32)),
            Stored::F32 => each(bytes, out, f32::from_le_bytes, Some),
            Stored::F64 => each(bytes, out, f64::from_le_bytes, |v| Some(v as f32)),
        }
    }
}

/// True if [`decode_npy`] takes an array of `shape` for one of `wanted`: the shapes are equal, or `shape` is flat with equally
/// many elements; axes of length 1 do not count. Another order of axes does not fit, though it has as many elements.
pub fn array_fits(shape: &[usize], wanted: &[usize]) -> bool {
    let long = |shape: &[usize]| shape.iter().copied().filter(|axis| *axis != 1).collect::<Vec<_>>();
    let (shape, wanted) = (long(shape), long(wanted));
    shape == wanted || shape == [wanted.iter().product::<usize>()]
}

/// Checks a header against `wanted`; returns the stored type and the number of bytes before the elements.
fn check(header: &[u8], wanted: &[usize]) -> Result<(Stored, usize), String> {
    let Head { descr, shape, data_offset_bytes } = npy::head(header)?;
    let stored = Stored::parse(descr)?;
    if !array_fits(&shape, wanted) {
        return Err(format!("its shape is {shape:?}, not {wanted:?}"));
    }
    Ok((stored, data_offset_bytes))
}

/// Decodes a whole `.npy` file into `out`, which has the shape `wanted`, row-major. The array may have that shape or be
/// flat, and its elements may be of any integer type, bool, float32 or float64.
///
/// # Errors
/// Not a `.npy` file, truncated, another shape, elements of another kind, or a value that i64 cannot
/// hold. The content of `out` is then unspecified. Never panics, whatever the bytes.
///
/// # Panics
/// If `out` does not hold exactly the elements of `wanted`.
pub fn decode_npy<T: Number>(bytes: &[u8], wanted: &[usize], out: &mut [T]) -> Result<(), Fault> {
    assert_eq!(out.len(), wanted.iter().product::<usize>(), "{wanted:?}");
    let (stored, start) = check(bytes, wanted)?;
    let (data, expect) = (&bytes[start..], out.len() * stored.size_bytes());
    if data.len() != expect {
        return Err(format!(
            "it has {} bytes of elements instead of {expect}: it was cut, or more was appended",
            data.len()
        )
        .into());
    }
    Ok(put(stored, data, out)?)
}

fn put<T: Number>(stored: Stored, data: &[u8], out: &mut [T]) -> Result<(), String> {
    if stored == T::SAME {
        bytemuck::cast_slice_mut(out).copy_from_slice(data);
        return Ok(());
    }
    T::convert(stored, data, out)
}

/// As [`decode_npy`], for the array `member` of a whole `.npz` file: `arr_0` is the first that was saved without a name.
/// Its checksum is checked.
///
/// # Errors
/// As [`decode_npy`], with the member's name in front; a file that is no zip archive, or damaged; no such member (the text
/// lists the existing ones); a compression that is not Deflate.
///
/// # Panics
/// As [`decode_npy`].
pub fn decode_npz<T: Number>(bytes: &[u8], member: &str, wanted: &[usize], out: &mut [T]) -> Result<(), Fault> {
    assert_eq!(out.len(), wanted.iter().product::<usize>(), "{wanted:?}");
    let found = Member::find(bytes, member)?;
    found.decode(wanted, out).map_err(|fault| fault.of(member))
}

/// The shape of the array `member` of a whole `.npz` file.
///
/// # Errors
/// As [`decode_npz`], as far as the header shows it.
pub fn npz_shape(bytes: &[u8], member: &str) -> Result<Vec<usize>, String> {
    let found = Member::find(bytes, member)?;
    let wrong = |problem: String| format!("{member}: {problem}");
    let mut start = Vec::new();
    if found.is_deflated {
        start.resize(NPY_HEADER_BYTES_MAX.min(found.size_bytes as usize), 0);
        INFLATE.with_borrow_mut(|inflate| {
            inflate.reset(false);
            fill(inflate, &mut &*found.data, &mut start)
        });
    } else {
        start.extend(&found.data[..found.data.len().min(NPY_HEADER_BYTES_MAX)]);
    }
    npy::head(&start).map(|head| head.shape).map_err(wrong)
}

/// A member of the archive, still compressed.
struct Member<'a> {
    data: &'a [u8],
    size_bytes: u64,
    crc32: u32,
    is_deflated: bool,
}

thread_local! {
    static INFLATE: RefCell<Inflate> = RefCell::new(Inflate::new(false, 15));
    static UNPACKED: RefCell<Vec<u8>> = const { RefCell::new(Vec::new()) };
}

/// Inflates `data` until `out` is full, and removes the used bytes from its front. False if the data was not enough.
fn fill(inflate: &mut Inflate, data: &mut &[u8], mut out: &mut [u8]) -> bool {
    while !out.is_empty() {
        let before = (inflate.total_in(), inflate.total_out());
        let status = inflate.decompress(data, out, InflateFlush::NoFlush);
        let (used, made) = ((inflate.total_in() - before.0) as usize, (inflate.total_out() - before.1) as usize);
        *data = &data[used..];
        out = &mut std::mem::take(&mut out)[made..];
        match status {
            Ok(Status::Ok) if used + made > 0 => {}
            Ok(Status::StreamEnd) => break,
            _ => return false,
        }
    }
    out.is_empty()
}

impl<'a> Member<'a> {
    fn find(bytes: &'a [u8], member: &str) -> Result<Member<'a>, String> {
        let damaged = |e: rawzip::Error| format!("it is no .npz file, damaged or cut: {e}");
        let archive = ZipArchive::from_slice(bytes).map_err(damaged)?;
        let mut entries = archive.entries();
        let mut names = Vec::new();
        while let Some(entry) = entries.next_entry().map_err(damaged)? {
            let path = entry.file_path();
            let name = String::from_utf8_lossy(path.as_ref()).into_owned();
            let name = name.strip_suffix(".npy").unwrap_or(&name);
            if name != member {
                names.push(name.to_owned());
                continue;
            }
            let is_deflated = match entry.compression_method() {
                CompressionMethod::STORE => false,
                CompressionMethod::DEFLATE => true,
                other => return Err(format!("{member} is compressed by {other:?}; only Deflate is understood")),
            };
            if entry.flags().is_encrypted() {
                return Err(format!("{member} is encrypted"));
            }
            let (size_bytes, crc32) = (entry.uncompressed_size_hint(), entry.crc32());
            let (start, end) = archive.get_entry(entry.wayfinder()).map_err(damaged)?.compressed_data_range();
            let data = bytes.get(start as usize..end as usize).ok_or("it is no .npz file, or cut")?;
            let most =
                if is_deflated { (data.len() as u64).saturating_mul(BYTES_PER_BYTE_MAX) } else { data.len() as u64 };
            if size_bytes > most || size_bytes > ARRAY_BYTES_MAX as u64 {
                return Err(format!("{member} claims to be {size_bytes} bytes, packed into {}", data.len()));
            }
            return Ok(Member { data, size_bytes, crc32, is_deflated });
        }
        let has = if names.is_empty() { "is empty".into() } else { format!("has {}", names.join(", ")) };
        Err(format!("there is no {member} in it: it {has}"))
    }

    fn decode<T: Number>(&self, wanted: &[usize], out: &mut [T]) -> Result<(), Fault> {
        if !self.is_deflated {
            let sum = crc32fast::hash(self.data);
            self.check_sum(sum)?;
            return decode_npy(self.data, wanted, out);
        }
        INFLATE.with_borrow_mut(|inflate| {
            inflate.reset(false);
            let (mut data, mut start) = (self.data, [0; 12]);
            let damaged = || "it does not unpack to what the file says: it is damaged".to_owned();
            let cut = || "truncated .npy file: the header ends early".to_owned();
            if self.size_bytes < 12 {
                return Err(cut().into());
            }
            if !fill(inflate, &mut data, &mut start) {
                return Err(damaged().into());
            }
            // If this is not a header, `check` returns the error.
            let length = npy::header_bytes(&start).unwrap_or(start.len());
            if (length as u64) > self.size_bytes {
                return Err(cut().into());
            }
            let mut header = start.to_vec();
            header.resize(length, 0);
            if !fill(inflate, &mut data, &mut header[start.len()..]) {
                return Err(damaged().into());
            }
            let (stored, _) = check(&header, wanted)?;
            let expect = out.len() * stored.size_bytes();
            if (length + expect) as u64 != self.size_bytes {
                let have = self.size_bytes - length as u64;
                return Err(format!("it has {have} bytes of elements instead of {expect}").into());
            }
            let mut sum = crc32fast::Hasher::new();
            sum.update(&header);
            let mut inflated = |into: &mut [u8]| -> Result<(), String> {
                let is_whole = fill(inflate, &mut data, into);
                // The end marker of the stream may follow the last element.
                let is_over = matches!(inflate.decompress(data, &mut [], InflateFlush::Finish), Ok(Status::StreamEnd));
                if !is_whole || !is_over || inflate.total_in() != self.data.len() as u64 {
                    return Err(damaged());
                }
                sum.update(into);
                self.check_sum(sum.clone().finalize())
            };
            if stored == T::SAME {
                return Ok(inflated(bytemuck::cast_slice_mut(out))?);
            }
            UNPACKED.with_borrow_mut(|unpacked| {
                grown(unpacked, expect, 0, "an array of a .npz file")?;
                let done = inflated(unpacked).and_then(|()| T::convert(stored, unpacked, out));
                if unpacked.capacity() > KEPT_BYTES_MAX {
                    *unpacked = Vec::new();
                }
                Ok(done?)
            })
        })
    }

    fn check_sum(&self, sum: u32) -> Result<(), String> {
        match self.crc32 {
            expect if expect == sum => Ok(()),
            expect => Err(format!("its checksum is {sum:08x}, the file says {expect:08x}: it is damaged")),
        }
    }
}

#[cfg(test)]
mod tests;
