//! Arrays as the bytes of NumPy's files: `.npy`, and `.npz`, a zip archive of them. Owns these formats as far as the
//! demo data needs them.

use rawzip::{CompressionMethod, DataDescriptorOutput, ZipArchiveWriter};
use std::io::{self, Write};
use zlib_rs::{Deflate, DeflateFlush, Status};

/// Raw Deflate has no header; its window is as large as can be.
const LEVEL: i32 = 6;
const WINDOW_BITS: u8 = 15;

/// An array in memory, as NumPy calls its type.
pub struct NumpyArray<'a> {
    descr: &'static str,
    shape: &'a [usize],
    bytes: Vec<u8>,
}

impl<'a> NumpyArray<'a> {
    pub fn of_u8(values: &[u8], shape: &'a [usize]) -> NumpyArray<'a> {
        NumpyArray { descr: "|u1", shape, bytes: values.to_vec() }
    }

    pub fn of_i64(values: &[i64], shape: &'a [usize]) -> NumpyArray<'a> {
        NumpyArray { descr: "<i8", shape, bytes: values.iter().flat_map(|value| value.to_le_bytes()).collect() }
    }

    pub fn of_f32(values: &[f32], shape: &'a [usize]) -> NumpyArray<'a> {
        NumpyArray { descr: "<f4", shape, bytes: values.iter().flat_map(|value| value.to_le_bytes()).collect() }
    }
}

/// The bytes of a `.npy` file of version 1.0.
pub fn npy(array: &NumpyArray<'_>) -> Vec<u8> {
    let axes: String = array.shape.iter().map(|axis| format!("{axis}, ")).collect();
    let axes = if array.shape.len() == 1 { axes.trim_end() } else { axes.trim_end_matches(", ") };
    let header = format!("{{'descr': '{}', 'fortran_order': False, 'shape': ({axes}), }}", array.descr);
    // The elements begin at a multiple of 64 bytes; the header ends with a line's end.
    let total = (10 + header.len() + 1).next_multiple_of(64);
    let length = (total - 10) as u16;
    let mut bytes = b"\x93NUMPY\x01\x00".to_vec();
    bytes.extend(length.to_le_bytes());
    bytes.extend(format!("{header:<width$}\n", width = total - 11).into_bytes());
    bytes.extend(&array.bytes);
    bytes
}

/// The bytes of a `.npz` file with the members `arr_0.npy`, `arr_1.npy` and so on, deflated.
///
/// # Errors
/// An error of the archive's writer or of Deflate; no known input causes one.
pub fn npz(arrays: &[NumpyArray<'_>]) -> io::Result<Vec<u8>> {
    let mut archive = ZipArchiveWriter::new(Vec::new());
    for (number, array) in arrays.iter().enumerate() {
        let member = npy(array);
        let name = format!("arr_{number}.npy");
        let builder = archive.new_file(name.as_str()).compression_method(CompressionMethod::DEFLATE);
        let (mut entry, _) = builder.start().map_err(io::Error::other)?;
        entry.write_all(&deflate(&member)?)?;
        let whole = DataDescriptorOutput::new(rawzip::crc32(&member), member.len() as u64);
        entry.finish(whole).map_err(io::Error::other)?;
    }
    archive.finish().map_err(io::Error::other)
}

fn deflate(bytes: &[u8]) -> io::Result<Vec<u8>> {
    let mut packed = vec![0; zlib_rs::compress_bound(bytes.len())];
    let mut stream = Deflate::new(LEVEL, false, WINDOW_BITS);
    match stream.compress(bytes, &mut packed, DeflateFlush::Finish) {
        Ok(Status::StreamEnd) => {
            packed.truncate(stream.total_out() as usize);
            Ok(packed)
        }
        Ok(_) => Err(io::Error::other("deflated data do not fit into the bound of their size")),
        Err(error) => Err(io::Error::other(error.as_str())),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use feedline::decode::NpyHeader;

    #[test]
    fn headers_are_those_of_numpy() {
        for (shape, text) in [(&[7][..], "(7,)"), (&[2, 3, 1], "(2, 3, 1)")] {
            let bytes = npy(&NumpyArray::of_i64(&vec![-5; shape.iter().product()], shape));
            let header = NpyHeader::parse(&bytes).unwrap();
            assert_eq!((header.shape.as_slice(), header.dtype), (shape, feedline::DType::I64));
            assert_eq!(header.data_offset_bytes, 128);
            assert!(String::from_utf8_lossy(&bytes).contains(&format!("'shape': {text}, }}")), "{bytes:?}");
            assert_eq!(bytes[128..136], (-5_i64).to_le_bytes());
            assert_eq!(bytes.len(), 128 + 8 * shape.iter().product::<usize>());
        }
    }

    #[test]
    fn members_come_out_as_they_went_in() {
        let (shape, values) = ([5000], (0..5000).map(|i| (i / 7) as f32).collect::<Vec<_>>());
        let bytes = npz(&[NumpyArray::of_f32(&values, &shape), NumpyArray::of_u8(&[3; 5000], &shape)]).unwrap();
        assert!(bytes.len() < 10_000);
        let archive = rawzip::ZipArchive::from_slice(&bytes).unwrap();
        let mut names = Vec::new();
        for entry in archive.entries() {
            let entry = entry.unwrap();
            names.push(String::from_utf8(entry.file_path().as_ref().to_vec()).unwrap());
            let packed = archive.get_entry(entry.wayfinder()).unwrap();
            let mut member = vec![0; entry.uncompressed_size_hint() as usize];
            zlib_rs::Inflate::new(false, 15)
                .decompress(packed.data(), &mut member, zlib_rs::InflateFlush::Finish)
                .unwrap();
            assert_eq!(rawzip::crc32(&member), entry.crc32());
            let header = NpyHeader::parse(&member).unwrap();
            assert_eq!(header.shape, shape);
        }
        assert_eq!(names, ["arr_0.npy", "arr_1.npy"]);
    }
}
