//! How the parts of a TIFF are compressed: PackBits, LZW and Deflate, differences between neighbours, and JPEG data whose
//! tables stand elsewhere. Knows no layout.

use crate::decode::fault::{Fault, no_memory};
use weezl::decode::Configuration;
use weezl::{BitOrder, LzwStatus};
use zlib_rs::{Inflate, InflateFlush};

/// A compression that is known.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Codec {
    None,
    PackBits,
    /// `differs`: each sample is stored minus that to its left.
    Lzw {
        differs: bool,
    },
    Deflate {
        differs: bool,
    },
    Jpeg,
}

impl Codec {
    /// By the numbers of the tags "compression" and "predictor"; what is not known as a text.
    pub(super) fn of(compression: u64, predictor: u64) -> Result<Codec, String> {
        let differs = predictor == 2;
        let codec = match compression {
            1 => Codec::None,
            5 => Codec::Lzw { differs },
            7 => Codec::Jpeg,
            8 | 32946 => Codec::Deflate { differs },
            32773 => Codec::PackBits,
            2..=4 => return Err("fax compression".into()),
            6 => return Err("JPEG of the old kind".into()),
            other => return Err(format!("compression {other}")),
        };
        match (codec, predictor) {
            (Codec::Lzw { .. } | Codec::Deflate { .. }, 3..) => Err(format!("predictor {predictor}")),
            _ => Ok(codec),
        }
    }

    /// The most bytes that a byte of data can stand for.
    pub(super) fn bytes_per_byte_max(self) -> u64 {
        match self {
            Codec::None => 1,
            Codec::PackBits => 64,
            // A code of 12 bits stands for at most 4096 bytes.
            Codec::Lzw { .. } => 2731,
            Codec::Deflate { .. } => 1032,
            // Two bits for each block of 64 pixels of three samples, and its decoder looks again.
            Codec::Jpeg => 4096,
        }
    }

    /// Fills `out`.
    pub(super) fn unpack(self, data: &[u8], out: &mut [u8]) -> Result<(), Fault> {
        let all = out.len();
        let done = match self {
            Codec::PackBits => pack_bits(data, out),
            Codec::Lzw { .. } => lzw(data, out)?,
            Codec::Deflate { .. } => {
                let mut inflate = Inflate::new(true, 15);
                match inflate.decompress(data, out, InflateFlush::Finish) {
                    // Without room for more it is no error that more may follow.
                    _ if inflate.total_out() == all as u64 => all,
                    Ok(_) => inflate.total_out() as usize,
                    Err(error) => return Err(format!("damaged TIFF: its Deflate data: {error:?}").into()),
                }
            }
            Codec::None | Codec::Jpeg => unreachable!("there is nothing to unpack, or a decoder of its own"),
        };
        if done < all {
            return Err(format!("truncated TIFF: a part of its pixels ends after {done} of {all} bytes").into());
        }
        Ok(())
    }

    /// Undoes the differences of a row of `samples` samples per pixel.
    pub(super) fn undo_differences(self, row: &mut [u8], samples: usize, bits: usize, is_big_endian: bool) {
        let (Codec::Lzw { differs: true } | Codec::Deflate { differs: true }) = self else { return };
        match bits {
            16 => {
                let load = |two| if is_big_endian { u16::from_be_bytes(two) } else { u16::from_le_bytes(two) };
                let store = |value: u16| if is_big_endian { value.to_be_bytes() } else { value.to_le_bytes() };
                let values = row.as_chunks_mut::<2>().0;
                for at in samples..values.len() {
                    values[at] = store(load(values[at]).wrapping_add(load(values[at - samples])));
                }
            }
            _ => (samples..row.len()).for_each(|at| row[at] = row[at].wrapping_add(row[at - samples])),
        }
    }
}

/// Returns the number of bytes that were filled, here and below.
fn pack_bits(mut data: &[u8], out: &mut [u8]) -> usize {
    let mut done = 0;
    while done < out.len() {
        let Some((&count, rest)) = data.split_first() else { break };
        data = rest;
        match count {
            0..=127 => {
                let count = (usize::from(count) + 1).min(out.len() - done).min(data.len());
                if count == 0 {
                    break;
                }
                out[done..done + count].copy_from_slice(&data[..count]);
                (data, done) = (&data[count..], done + count);
            }
            128 => {}
            129.. => {
                let Some((&value, rest)) = data.split_first() else { break };
                data = rest;
                let end = out.len().min(done + 257 - usize::from(count));
                out[done..end].fill(value);
                done = end;
            }
        }
    }
    done
}

fn lzw(mut data: &[u8], out: &mut [u8]) -> Result<usize, Fault> {
    if let [0, second, ..] = data
        && second & 1 == 1
    {
        return Err("unsupported kind of TIFF: LZW of the old kind, with its bits reversed".into());
    }
    let codes = Configuration::with_tiff_size_switch(BitOrder::Msb, 8).with_yield_on_full_buffer(true);
    let (mut decoder, mut done) = (codes.build(), 0);
    while done < out.len() {
        let result = decoder.decode_bytes(data, &mut out[done..]);
        (data, done) = (&data[result.consumed_in..], done + result.consumed_out);
        match result.status {
            Ok(LzwStatus::Ok) if result.consumed_in > 0 || result.consumed_out > 0 => {}
            Ok(_) => break,
            Err(_) if done == out.len() => break,
            Err(error) => return Err(format!("damaged TIFF: its LZW data: {error}").into()),
        }
    }
    Ok(done)
}

/// A JPEG of its own of the data of a part: with the tables that stand elsewhere, and with the colours that the TIFF names.
pub(super) fn jpeg_of(data: &[u8], tables: Option<&[u8]>, is_ycbcr: bool) -> Result<Vec<u8>, Fault> {
    const START: &[u8] = b"\xFF\xD8";
    let Some(data) = data.strip_prefix(START) else { return Err("damaged TIFF: a part is no JPEG".into()) };
    let tables = tables.and_then(|tables| tables.strip_prefix(START)).unwrap_or_default();
    let tables = tables.strip_suffix(b"\xFF\xD9").unwrap_or(tables);
    // Adobe's segment names the colours: 0 is RGB or grey, 1 is YCbCr.
    let adobe = [0xFF, 0xEE, 0, 14, b'A', b'd', b'o', b'b', b'e', 0, 100, 0, 0, 0, 0, u8::from(is_ycbcr)];
    let mut whole = Vec::new();
    let len = START.len() + adobe.len() + tables.len() + data.len();
    whole.try_reserve_exact(len).map_err(|_| no_memory("a part of a TIFF", len as u64))?;
    [START, &adobe, tables, data].into_iter().for_each(|piece| whole.extend_from_slice(piece));
    Ok(whole)
}
