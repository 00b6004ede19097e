//! Arrays and clouds of points.

use super::{Bench, Verdict};
use feedline::decode::{Fault, NpyHeader, decode_npy, decode_npz, decode_points, npz_shape};

pub const NPY: &[&[u8]] = &[
    b"\x93NUMPY\x01\0",
    b"\x93NUMPY\x02\0",
    b"\x93NUMPY\x03\0",
    b"'descr': '<f4'",
    b"'descr': '>f4'",
    b"'descr': '|O'",
    b"'fortran_order': True",
    b"'fortran_order': False",
    b"'shape': ()",
    b"'shape': (3,)",
    b"'shape': (2, 3)",
    b", ",
    b"(",
    b")",
    b"}",
    b"L",
    b"'<i8'",
    b"'|u1'",
    b"'|b1'",
    b"'<f8'",
    b"'<f2'",
    b"\n",
    b" ",
];

/// No array that an input asks for is larger.
const ELEMENTS: usize = 1 << 20;

fn elements(shape: &[usize]) -> Option<usize> {
    let count = shape.iter().try_fold(1usize, |count, axis| count.checked_mul(*axis))?;
    (count <= ELEMENTS).then_some(count)
}

pub fn npy(_: &mut Bench, bytes: &[u8]) -> Verdict {
    let parsed = NpyHeader::parse(bytes);
    let shape = match NpyHeader::shape(bytes) {
        Ok(shape) => shape,
        Err(said) if parsed.is_ok() => return Verdict::Wrong(format!("a header without a shape: {said}")),
        Err(said) => return Verdict::Refused { said, compared: None },
    };
    let Some(count) = elements(&shape) else { return Verdict::of(parsed) };
    let (mut whole, mut real) = (vec![0i64; count], vec![0f32; count]);
    let one = decode_npy(bytes, &shape, &mut whole);
    let other = decode_npy(bytes, &shape, &mut real);
    // An array that reads as integers must also read as floats.
    if one.is_ok()
        && let Err(said) = &other
    {
        return Verdict::Wrong(format!("whole numbers, but no numbers: {said}"));
    }
    Verdict::of(other)
}

pub fn npz(_: &mut Bench, bytes: &[u8]) -> Verdict {
    let mut last = Err(Fault::from("no member"));
    for member in ["a", "arr_0", "b"] {
        let shape = match npz_shape(bytes, member) {
            Ok(shape) => shape,
            Err(said) => {
                last = last.or(Err(said.into()));
                continue;
            }
        };
        let Some(count) = elements(&shape) else { continue };
        let (mut whole, mut real) = (vec![0i64; count], vec![0f32; count]);
        let one = decode_npz(bytes, member, &shape, &mut whole);
        let other = decode_npz(bytes, member, &shape, &mut real);
        if one.is_ok()
            && let Err(said) = &other
        {
            return Verdict::Wrong(format!("{member} holds whole numbers, but no numbers: {said}"));
        }
        last = other;
    }
    Verdict::of(last)
}

pub fn points(_: &mut Bench, bytes: &[u8]) -> Verdict {
    let mut last = Ok(0);
    for (columns, used) in [(4, &[0, 1, 2, 3][..]), (5, &[0, 1, 2, 4]), (3, &[2, 1, 0])] {
        let mut into = Vec::new();
        let read = decode_points(bytes, columns, used, |[x, _, _]| x >= 0.0, &mut into);
        if let Ok(rows) = read
            && (rows * 4 * columns != bytes.len()
                || into.len() > rows * used.len()
                || into.iter().any(|v| !v.is_finite()))
        {
            return Verdict::Wrong(format!(
                "{rows} rows of {columns}, {} numbers of {} bytes",
                into.len(),
                bytes.len()
            ));
        }
        last = if read.is_ok() { read } else { last.and(read) };
    }
    Verdict::of(last)
}
