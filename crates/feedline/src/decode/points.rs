//! Point clouds in files: rows of little-endian f32. Owns the check of their bytes and the choice of columns; the caller
//! knows the meaning of the numbers.

use crate::decode::fault::{Fault, no_memory};

/// Rows that are processed together.
const BLOCK: usize = 256;

/// The bits of an f32 that are all set if it is not finite.
const EXPONENT: u32 = 0x7F80_0000;

/// Reads rows of `columns` f32, appends the columns `used` of each (x, y, z first) to `into` if `keep` is true of (x, y, z), and
/// returns the number of rows read. `keep` must depend on (x, y, z) alone: it may also be called for points that do not exist.
///
/// # Errors
/// Bytes that are not a whole number of rows, or a value of a used column that is not finite.
///
/// # Panics
/// If `used` names no three numbers, or one beyond the columns.
pub fn decode_points(
    bytes: &[u8],
    columns: usize,
    used: &[usize],
    keep: impl Fn([f32; 3]) -> bool,
    into: &mut Vec<f32>,
) -> Result<usize, Fault> {
    assert!(used.len() >= 3 && used.iter().all(|at| *at < columns), "{used:?} of {columns} columns");
    match (columns, used) {
        // KITTI's columns, for which the compiler makes specialised loops.
        (4, [0, 1, 2, 3]) => rows(bytes, 4, &[0, 1, 2, 3], keep, into),
        _ => rows(bytes, columns, used, keep, into),
    }
}

#[inline(always)]
fn rows(
    bytes: &[u8],
    columns: usize,
    used: &[usize],
    keep: impl Fn([f32; 3]) -> bool,
    into: &mut Vec<f32>,
) -> Result<usize, Fault> {
    let row_bytes = 4 * columns;
    if !bytes.len().is_multiple_of(row_bytes) {
        return Err(format!(
            "it has {} bytes, which is no whole number of points of {columns} f32 ({row_bytes} bytes each): it was cut, or its \
             points have another number of features",
            bytes.len()
        )
        .into());
    }
    let is_whole = used.len() == columns && used.iter().enumerate().all(|(place, at)| place == *at);
    // In blocks whose loops have no branches, so that the compiler vectorises them.
    let (mut places, mut kept) = ([[0f32; BLOCK]; 3], [false; BLOCK]);
    for (block, rows) in bytes.as_chunks::<4>().0.chunks(BLOCK * columns).enumerate() {
        let each = || rows.chunks_exact(columns);
        let is_bad = |bad: bool, value: &[u8; 4]| bad | (u32::from_le_bytes(*value) & EXPONENT == EXPONENT);
        let some_bad = match is_whole {
            true => rows.iter().fold(false, is_bad),
            false => used.iter().any(|at| each().map(|row| &row[*at]).fold(false, is_bad)),
        };
        if some_bad {
            let bad = |row: &[[u8; 4]]| used.iter().any(|at| !f32::from_le_bytes(row[*at]).is_finite());
            let number = each().position(bad).unwrap_or_default();
            let point: Vec<f32> = used.iter().map(|at| f32::from_le_bytes(rows[number * columns + at])).collect();
            return Err(format!(
                "point {} is {point:?}: not a finite number. Remove such points from the file; what a sensor did not see is no \
                 point",
                block * BLOCK + number
            )
            .into());
        }
        for (places, at) in places.iter_mut().zip(used) {
            places.iter_mut().zip(each()).for_each(|(place, row)| *place = f32::from_le_bytes(row[*at]));
        }
        let [x, y, z] = &places;
        for (kept, ((x, y), z)) in kept.iter_mut().zip(x.iter().zip(y).zip(z)) {
            *kept = keep([*x, *y, *z]);
        }
        let most = BLOCK * used.len();
        into.try_reserve(most).map_err(|_| no_memory("a cloud of points", 4 * (into.len() + most) as u64))?;
        for (row, _) in each().zip(&kept).filter(|(_, kept)| **kept) {
            match is_whole {
                true => into.extend(row.iter().map(|value| f32::from_le_bytes(*value))),
                false => into.extend(used.iter().map(|at| f32::from_le_bytes(row[*at]))),
            }
        }
    }
    Ok(bytes.len() / row_bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn bytes(values: &[f32]) -> Vec<u8> {
        values.iter().flat_map(|value| value.to_le_bytes()).collect()
    }

    #[test]
    fn rows_are_read_kept_and_picked_from() {
        let file = bytes(&[1.0, 2.0, 3.0, 0.5, 9.0, 4.0, 5.0, 6.0, 0.25, 8.0]);
        let mut points = vec![7.0];
        assert_eq!(decode_points(&file, 5, &[0, 1, 2, 4], |_| true, &mut points), Ok(2));
        assert_eq!(points, [7.0, 1.0, 2.0, 3.0, 9.0, 4.0, 5.0, 6.0, 8.0]);
        points.clear();
        assert_eq!(decode_points(&file, 5, &[0, 1, 2], |[x, ..]| x > 2.0, &mut points), Ok(2));
        assert_eq!(points, [4.0, 5.0, 6.0]);
        assert_eq!(decode_points(&[], 5, &[0, 1, 2], |_| true, &mut points), Ok(0));
    }

    #[test]
    fn blocks_have_what_rows_one_by_one_have() {
        let (columns, rows) = (5, 3 * BLOCK + 17);
        let values: Vec<f32> = (0..rows * columns).map(|at| (at * 7919 % 1000) as f32 - 500.0).collect();
        let keep = |[x, y, z]: [f32; 3]| x + y - z > 100.0;
        // Five columns, and KITTI's four.
        let cases =
            [(5, &[0, 1, 2, 3, 4][..]), (5, &[0, 1, 2]), (5, &[2, 0, 1, 4]), (4, &[0, 1, 2, 3]), (4, &[0, 1, 3])];
        for (columns, used) in cases {
            let values = &values[..rows * columns];
            let mut points = Vec::new();
            assert_eq!(decode_points(&bytes(values), columns, used, keep, &mut points), Ok(rows));
            let mut plain = Vec::new();
            for row in values.chunks(columns) {
                let point: Vec<f32> = used.iter().map(|at| row[*at]).collect();
                if keep([point[0], point[1], point[2]]) {
                    plain.extend(point);
                }
            }
            assert!(plain.len() > rows / 4 && points == plain, "{used:?}");
        }
        let mut values = values;
        for (at, value) in [(2 * BLOCK + 3, f32::INFINITY), (rows - 1, f32::NAN)] {
            values[at * columns + 4] = value;
            let error =
                decode_points(&bytes(&values), columns, &[0, 1, 2, 4], keep, &mut Vec::new()).unwrap_err().to_string();
            assert!(error.contains(&format!("point {} is", 2 * BLOCK + 3)), "{error}");
            assert_eq!(decode_points(&bytes(&values), columns, &[0, 1, 2, 3], keep, &mut Vec::new()), Ok(rows));
        }
    }

    #[test]
    fn what_is_no_cloud_is_told() {
        let file = bytes(&[1.0, 2.0, 3.0, 0.5, 1.0, f32::NAN, 3.0, 0.5]);
        let mut points = Vec::new();
        let error = decode_points(&file[..30], 4, &[0, 1, 2], |_| true, &mut points).unwrap_err().to_string();
        assert!(error.contains("30 bytes") && error.contains("16 bytes each"), "{error}");
        let error = decode_points(&file, 4, &[0, 1, 2], |_| true, &mut points).unwrap_err().to_string();
        assert!(error.contains("point 1") && error.contains("NaN"), "{error}");
        // Unused columns may hold any values.
        let file = bytes(&[1.0, 2.0, 3.0, f32::NAN]);
        assert_eq!(decode_points(&file, 4, &[0, 1, 2], |_| true, &mut points), Ok(1));
    }
}
