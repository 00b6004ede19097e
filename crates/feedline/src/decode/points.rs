//! Clouds of points as files hold them: rows of little-endian f32. Owns the check of their bytes and which numbers of a row are
//! taken; what the numbers mean belongs to whoever asks.

/// Reads rows of `columns` f32, appends the numbers `used` of each (x, y, z first) to `into` if `keep` is true of (x, y, z), and
/// returns how many rows there were.
///
/// # Errors
/// A text that says what is wrong: bytes that are no whole number of rows, or a number that is taken but not finite.
///
/// # Panics
/// If `used` names no three numbers, or one beyond the columns.
pub fn decode_points(
    bytes: &[u8],
    columns: usize,
    used: &[usize],
    keep: impl Fn([f32; 3]) -> bool,
    into: &mut Vec<f32>,
) -> Result<usize, String> {
    assert!(used.len() >= 3 && used.iter().all(|at| *at < columns), "{used:?} of {columns} columns");
    let row_bytes = 4 * columns;
    if !bytes.len().is_multiple_of(row_bytes) {
        return Err(format!(
            "it has {} bytes, which is no whole number of points of {columns} f32 ({row_bytes} bytes each): it was cut, or its \
             points have another number of features",
            bytes.len()
        ));
    }
    let mut point = vec![0f32; used.len()];
    for (number, row) in bytes.chunks_exact(row_bytes).enumerate() {
        let values = row.as_chunks::<4>().0;
        for (value, &at) in point.iter_mut().zip(used) {
            *value = f32::from_le_bytes(values[at]);
        }
        if !point.iter().all(|value| value.is_finite()) {
            return Err(format!(
                "point {number} is {point:?}: not a finite number. Remove such points from the file; what a sensor did not see \
                 is no point"
            ));
        }
        if keep([point[0], point[1], point[2]]) {
            into.extend_from_slice(&point);
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
    fn what_is_no_cloud_is_told() {
        let file = bytes(&[1.0, 2.0, 3.0, 0.5, 1.0, f32::NAN, 3.0, 0.5]);
        let mut points = Vec::new();
        let error = decode_points(&file[..30], 4, &[0, 1, 2], |_| true, &mut points).unwrap_err();
        assert!(error.contains("30 bytes") && error.contains("16 bytes each"), "{error}");
        let error = decode_points(&file, 4, &[0, 1, 2], |_| true, &mut points).unwrap_err();
        assert!(error.contains("point 1") && error.contains("NaN"), "{error}");
        // What is not taken may be anything.
        let file = bytes(&[1.0, 2.0, 3.0, f32::NAN]);
        assert_eq!(decode_points(&file, 4, &[0, 1, 2], |_| true, &mut points), Ok(1));
    }
}
