//! Tests of `.npz` archives: every type and size is read as NumPy casts it, damage is refused.

use super::*;
use crate::plan::rng::SampleRng;

/// A `.npy` file as NumPy writes it.
fn npy(descr: &str, shape: &str, data: &[u8]) -> Vec<u8> {
    let text = format!("{{'descr': '{descr}', 'fortran_order': False, 'shape': {shape}, }}");
    let length = (10 + text.len() + 1).next_multiple_of(64) - 10;
    let header = format!("{text:<width$}\n", width = length - 1);
    [b"\x93NUMPY\x01\x00", &(length as u16).to_le_bytes()[..], header.as_bytes(), data].concat()
}

fn deflate(bytes: &[u8]) -> Vec<u8> {
    let mut out = vec![0; bytes.len() + 1000];
    let mut deflate = zlib_rs::Deflate::new(6, false, 15);
    let status = deflate.compress(bytes, &mut out, zlib_rs::DeflateFlush::Finish).unwrap();
    assert_eq!(status, Status::StreamEnd);
    out.truncate(deflate.total_out() as usize);
    out
}

/// A zip archive, its members deflated or stored.
fn npz(members: &[(&str, &[u8])], deflated: bool) -> Vec<u8> {
    let (mut file, mut directory) = (Vec::new(), Vec::new());
    for (name, content) in members {
        let (packed, method) = if deflated { (deflate(content), 8u16) } else { (content.to_vec(), 0) };
        let sum = crc32fast::hash(content).to_le_bytes();
        let mut common = [&20u16.to_le_bytes()[..], &[0, 0], &method.to_le_bytes(), &[0; 4], &sum].concat();
        common.extend((packed.len() as u32).to_le_bytes());
        common.extend((content.len() as u32).to_le_bytes());
        common.extend((name.len() as u16).to_le_bytes());
        common.extend([0, 0]);
        let start = file.len() as u32;
        file.extend([b"PK\x03\x04", &common[..], name.as_bytes(), &packed].concat());
        directory
            .extend([b"PK\x01\x02\x14\x00", &common[..], &[0; 10], &start.to_le_bytes(), name.as_bytes()].concat());
    }
    let (start, size, count) = (file.len() as u32, directory.len() as u32, members.len() as u16);
    file.extend(directory);
    file.extend([b"PK\x05\x06\0\0\0\0", &count.to_le_bytes()[..], &count.to_le_bytes(), &size.to_le_bytes()].concat());
    file.extend([&start.to_le_bytes()[..], &[0, 0]].concat());
    file
}

fn bytes_of<const N: usize, T: Copy>(values: &[T], to: fn(T) -> [u8; N]) -> Vec<u8> {
    values.iter().flat_map(|value| to(*value)).collect()
}

#[test]
fn arrays_of_every_type_are_read_as_numpy_casts_them() {
    let whole: Vec<i64> = vec![0, 1, 100, 5, 127, 3];
    let floats: Vec<f32> = whole.iter().map(|v| *v as f32).collect();
    let stored = [
        ("|u1", bytes_of(&whole, |v| (v as u8).to_le_bytes())),
        ("|i1", bytes_of(&whole, |v| (v as i8).to_le_bytes())),
        ("<u2", bytes_of(&whole, |v| (v as u16).to_le_bytes())),
        ("<i2", bytes_of(&whole, |v| (v as i16).to_le_bytes())),
        ("<u4", bytes_of(&whole, |v| (v as u32).to_le_bytes())),
        ("<i4", bytes_of(&whole, |v| (v as i32).to_le_bytes())),
        ("<u8", bytes_of(&whole, |v| (v as u64).to_le_bytes())),
        ("<i8", bytes_of(&whole, i64::to_le_bytes)),
        ("<f4", bytes_of(&floats, f32::to_le_bytes)),
        ("<f8", bytes_of(&whole, |v| (v as f64).to_le_bytes())),
    ];
    for (descr, data) in &stored {
        for shape in ["(6,)", "(2, 3)", "(1, 2, 3)"] {
            let file = npy(descr, shape, data);
            let (mut ints, mut reals) = ([-1; 6], [-1.0; 6]);
            assert_eq!(decode_npy(&file, &[2, 3], &mut ints), Ok(()), "{descr} {shape}");
            assert_eq!(decode_npy(&file, &[2, 3], &mut reals), Ok(()), "{descr} {shape}");
            assert_eq!((&ints[..], &reals[..]), (&whole[..], &floats[..]), "{descr} {shape}");
            for deflated in [false, true] {
                let archive = npz(&[("other.npy", &npy("<i8", "(0,)", b"")), ("arr_0.npy", &file)], deflated);
                let (mut ints, mut reals) = ([-1; 6], [-1.0; 6]);
                assert_eq!(decode_npz(&archive, "arr_0", &[2, 3], &mut ints), Ok(()), "{descr} {shape}");
                assert_eq!(decode_npz(&archive, "arr_0", &[2, 3], &mut reals), Ok(()), "{descr} {shape}");
                assert_eq!((&ints[..], &reals[..]), (&whole[..], &floats[..]), "{descr} {shape}");
                assert!(npz_shape(&archive, "arr_0").unwrap().ends_with(if shape == "(6,)" { &[6] } else { &[2, 3] }));
            }
        }
    }
    let mut flags = [9; 2];
    assert_eq!(decode_npy(&npy("|b1", "(2,)", &[1, 0]), &[2], &mut flags), Ok(()));
    assert_eq!(flags, [1, 0]);
}

#[test]
fn large_arrays_go_in_pieces_through_the_window_of_deflate() {
    let mut rng = SampleRng::new(0, 0, 0, "array");
    // Repeats at all distances up to the window's 32 KiB, and noise.
    let mut values: Vec<f32> = (0..30_000).map(|_| rng.uniform(-1.0, 1.0) as f32).collect();
    for at in 1000..values.len() {
        if rng.chance(0.7) {
            values[at] = values[at - 1 - rng.below(at.min(8000) as u64 - 1) as usize];
        }
    }
    let file = npy("<f4", "(1, 300, 100)", &bytes_of(&values, f32::to_le_bytes));
    let archive = npz(&[("arr_0.npy", &file)], true);
    let mut out = vec![0.0f32; values.len()];
    for _ in 0..2 {
        assert_eq!(decode_npz(&archive, "arr_0", &[300, 100], &mut out), Ok(()));
        assert_eq!(out, values);
    }
}

#[test]
fn what_cannot_be_is_said() {
    let f4 = |values: &[f32]| npy("<f4", &format!("({},)", values.len()), &bytes_of(values, f32::to_le_bytes));
    let mut out = [0i64; 4];
    let mut problem = |file: &[u8]| decode_npy(file, &[2, 2], &mut out).unwrap_err().to_string();
    assert!(problem(&f4(&[1.0, 2.0, 2.5, 0.0])).contains("element 2 is 2.5"));
    assert!(problem(&f4(&[1.0, f32::NAN, 2.5, 0.0])).contains("element 1 is NaN"));
    assert!(problem(&f4(&[1.0; 5])).contains("its shape is [5], not [2, 2]"));
    assert!(problem(&npy("<f4", "(4, 1, 1, 2)", &[0; 32])).contains("its shape is [4, 1, 1, 2]"));
    assert!(problem(&npy("|O", "(4,)", &[0; 32])).contains("pickled Python objects"));
    assert!(problem(&npy(">f4", "(4,)", &[0; 16])).contains("'>f4'"));
    assert!(problem(&npy("<u8", "(4,)", &[0xFF; 32])).contains("element 0 is 18446744073709551615"));
    assert!(problem(&npy("|u1", "(4,)", &[0; 5])).contains("5 bytes of elements instead of 4"));
    assert!(problem(b"hello").contains("not a .npy file"));
    // The same elements in another order of axes are another array.
    let mut six = [0i64; 6];
    assert!(
        decode_npy(&npy("|u1", "(3, 2)", &[0; 6]), &[2, 3], &mut six)
            .unwrap_err()
            .to_string()
            .contains("[3, 2], not [2, 3]")
    );

    let archive = npz(&[("arr_0.npy", &f4(&[1.0; 4])), ("odd.npy", b"short")], true);
    let mut out = [0i64; 4];
    let mut problem = |member: &str, file: &[u8]| decode_npz(file, member, &[2, 2], &mut out).unwrap_err().to_string();
    assert_eq!(problem("arr_1", &archive), "there is no arr_1 in it: it has arr_0, odd");
    assert!(problem("odd", &archive).starts_with("odd: truncated"));
    assert!(problem("arr_0", b"PK").contains("no .npz file"));
    assert!(problem("arr_0", &npz(&[], true)).contains("it is empty"));
    let pickled = npz(&[("arr_0.npy", &npy("|O", "(4,)", &[0; 40]))], true);
    assert!(problem("arr_0", &pickled).starts_with("arr_0: it holds pickled"));
}

#[test]
fn no_damage_gets_through_or_panics() {
    let values: Vec<i64> = (0..50).map(|v| v * v % 37).collect();
    let mut out = vec![0i64; 50];
    for (descr, data) in
        [("<i8", bytes_of(&values, i64::to_le_bytes)), ("<i2", bytes_of(&values, |v| (v as i16).to_le_bytes()))]
    {
        for deflated in [true, false] {
            let good = npz(&[("arr_0.npy", &npy(descr, "(50,)", &data))], deflated);
            assert_eq!(decode_npz(&good, "arr_0", &[50], &mut out), Ok(()));
            for end in 0..good.len() {
                assert!(decode_npz(&good[..end], "arr_0", &[50], &mut out).is_err(), "{end} of {}", good.len());
            }
            for at in 0..good.len() {
                for bit in 0..8 {
                    let mut bad = good.clone();
                    bad[at] ^= 1 << bit;
                    let _ = npz_shape(&bad, "arr_0");
                    // Bytes such as the time of change may differ without harm.
                    if decode_npz(&bad, "arr_0", &[50], &mut out).is_ok() {
                        assert_eq!(out, values, "byte {at} bit {bit}");
                    }
                }
            }
        }
    }
}
