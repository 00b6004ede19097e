//! KITTI's text files: labels, calibration, the ground, and the labels of custom data sets. Owns their grammar; where they lie
//! belongs to `infos`.

use super::frame::{Annos, Calib};
use feedline::augment::boxes::{Box3d, wrapped};
use std::f64::consts::FRAC_PI_2;

/// The labels of a frame: lines of type, truncation, occlusion, alpha, four of the box in the picture, h, w, l, x, y, z,
/// rotation_y, and perhaps a score. `DontCare` comes last, whatever the order of the lines.
///
/// # Errors
/// The line, the column, and what it has.
pub(crate) fn parse_labels(text: &str) -> Result<Annos, String> {
    let mut annos = Annos::default();
    let mut lines: Vec<(&str, [f64; 15])> = Vec::new();
    for (number, line) in (1..).zip(text.lines()).filter(|(_, line)| !line.trim().is_empty()) {
        let mut words = line.split_whitespace();
        let name = words.next().unwrap_or_default();
        let mut values = numbers(words, number)?;
        match values.len() {
            14 => values.push(-1.0),
            15 => {}
            other => return Err(format!("line {number}: it has {} columns, not 15 or 16", other + 1)),
        }
        let Ok(values) = <[f64; 15]>::try_from(values) else { continue };
        if name != "DontCare" && values[7..10].iter().any(|side| *side <= 0.0) {
            return Err(format!("line {number}: a {name} of {:?} m (h, w, l)", &values[7..10]));
        }
        lines.push((name, values));
    }
    lines.sort_by_key(|(name, _)| *name == "DontCare");
    for (at, (name, values)) in (0..).zip(lines) {
        let [truncated, occluded, alpha, left, top, right, bottom, h, w, l, x, y, z, rotation_y, score] = values;
        annos.name.push(name.into());
        annos.truncated.push(truncated);
        annos.occluded.push(occluded);
        annos.alpha.push(alpha);
        annos.bbox.push([left, top, right, bottom]);
        annos.dimensions.push([l, h, w]);
        annos.location.push([x, y, z]);
        annos.rotation_y.push(rotation_y);
        annos.score.push(score);
        annos.difficulty.push(difficulty(bottom - top + 1.0, truncated, occluded));
        annos.index.push(if name == "DontCare" { -1 } else { at });
    }
    Ok(annos)
}

/// KITTI's difficulty of an object: from its height in the picture, its truncation and its occlusion.
fn difficulty(height_px: f64, truncated: f64, occluded: f64) -> i32 {
    let limits = [(40.0, 0.15, 0.0), (25.0, 0.3, 1.0), (25.0, 0.5, 2.0)];
    let fits = |(height, truncation, occlusion): (f64, f64, f64)| {
        height_px >= height && truncated <= truncation && occluded <= occlusion
    };
    limits.into_iter().position(fits).map_or(-1, |at| at as i32)
}

/// The calibration of a frame, by the number of the line as OpenPCDet reads it; a line that has a name must have the right one.
///
/// # Errors
/// The line and what is wrong with it.
pub(crate) fn parse_calib(text: &str) -> Result<Calib, String> {
    let lines: Vec<&str> = text.lines().collect();
    let row = |at: usize, name: &str, count: usize| -> Result<Vec<f32>, String> {
        let number = at + 1;
        let line = lines.get(at).ok_or_else(|| format!("line {number} is missing: {name}"))?;
        let mut words = line.split_whitespace();
        let found = words.next().unwrap_or_default().trim_end_matches(':');
        if found != name {
            return Err(format!("line {number} is {found:?}, not {name}"));
        }
        let values = numbers(words, number)?;
        if values.len() != count {
            return Err(format!("line {number}: {name} has {} numbers, not {count}", values.len()));
        }
        Ok(values.into_iter().map(|value| value as f32).collect())
    };
    let matrix = |values: &[f32], columns: usize| {
        let mut matrix = [[0f32; 4]; 4];
        matrix[3][3] = 1.0;
        for (row, values) in matrix.iter_mut().zip(values.chunks(columns)) {
            row[..columns].copy_from_slice(values);
        }
        matrix
    };
    Ok(Calib {
        p2: matrix(&row(2, "P2", 12)?, 4),
        r0_rect: matrix(&row(4, "R0_rect", 9)?, 3),
        tr_velo_to_cam: matrix(&row(5, "Tr_velo_to_cam", 12)?, 4),
    })
}

/// a, b, c, d of the ground, in line 4: (a, b, c) made of length 1, and b below 0.
///
/// # Errors
/// The first problem of the label.
pub(crate) fn parse_plane(text: &str) -> Result<[f64; 4], String> {
    let line = text.lines().nth(3).ok_or("it has no line 4, which holds the ground")?;
    let values = numbers(line.split_whitespace(), 4)?;
    let [a, b, c, d] = values[..] else { return Err(format!("line 4 has {} numbers, not a, b, c, d", values.len())) };
    let length = (a * a + b * b + c * c).sqrt();
    if b == 0.0 || !length.is_finite() {
        return Err(format!("line 4 is no ground: {a} {b} {c} {d}"));
    }
    let length = if b > 0.0 { -length } else { length };
    let plane = [a, b, c, d].map(|value| value / length);
    match plane.iter().all(|value| value.is_finite()) {
        true => Ok(plane),
        false => Err(format!("line 4 is no ground: {a} {b} {c} {d}")),
    }
}

/// The labels of a custom frame: lines of x, y, z, dx, dy, dz, heading, class.
///
/// # Errors
/// The line, the column, and what it has.
pub(super) fn parse_custom_labels(text: &str) -> Result<Annos, String> {
    let mut annos = Annos::default();
    for (number, line) in (1..).zip(text.lines()).filter(|(_, line)| !line.trim().is_empty()) {
        let Some((values, name)) = line.trim().rsplit_once(char::is_whitespace) else {
            return Err(format!("line {number}: it has one column, not 8"));
        };
        let values = numbers(values.split_whitespace(), number)?;
        let Ok(values) = <[f64; 7]>::try_from(values) else {
            return Err(format!("line {number}: it does not have 8 columns: x y z dx dy dz heading class"));
        };
        if values[3..6].iter().any(|side| *side <= 0.0) {
            return Err(format!("line {number}: a {name} of {:?} m (dx, dy, dz)", &values[3..6]));
        }
        annos.name.push(name.into());
        annos.gt_boxes_lidar.push(Box3d::from(values));
    }
    Ok(annos)
}

fn numbers<'t>(words: impl Iterator<Item = &'t str>, line: usize) -> Result<Vec<f64>, String> {
    let number = |(column, word): (usize, &str)| match word.parse::<f64>() {
        // Calibrations are kept as f32, and a number beyond would become an infinite one.
        Ok(value) if value.is_finite() && !(value as f32).is_finite() => {
            Err(format!("line {line}: column {column} is {word:?}, beyond what 32 bits hold"))
        }
        Ok(value) if value.is_finite() => Ok(value),
        _ => Err(format!("line {line}: column {column} is {word:?}, not a number")),
    };
    (2..).zip(words).map(number).collect()
}

/// The box of an object in lidar coordinates: by where its bottom is in camera coordinates, its length, height and width.
pub(crate) fn to_lidar(rect_to_lidar: &feedline::augment::points::Affine, annos: &Annos, at: usize) -> Box3d {
    let [l, h, w] = annos.dimensions[at];
    let [x, y, z] = rect_to_lidar.place(annos.location[at]);
    let heading = wrapped(-(annos.rotation_y[at] + FRAC_PI_2));
    Box3d { center: [x, y, z + h / 2.0], size: [l, w, h], heading }
}

#[cfg(test)]
mod tests {
    use super::super::camera::Camera;
    use super::*;

    const CALIB: &str = "P0: 7 0 6 0 0 7 1 0 0 0 1 0\nP1: 7 0 6 0 0 7 1 0 0 0 1 0\nP2: 700 0 600 45 0 700 180 0 0 0 1 0.005\n\
        P3: 7 0 6 0 0 7 1 0 0 0 1 0\nR0_rect: 1 0 0 0 1 0 0 0 1\nTr_velo_to_cam: 0 -1 0 0 0 0 -1 -0.08 1 0 0 -0.27\n\
        Tr_imu_to_velo: 1 0 0 0 0 1 0 0 0 0 1 0\n";

    #[test]
    fn labels_are_columns_and_dont_care_comes_last() {
        let text = "DontCare -1 -1 -10 1 2 3 4 -1 -1 -1 -1000 -1000 -1000 -10\n\
            Car 0.00 0 -1.58 587.0 173.3 614.1 215.1 1.65 1.67 3.64 -0.65 1.71 46.70 -1.59\n\n\
            Pedestrian 0.2 1 0.5 10 100 20 130 1.7 0.6 0.8 3 1.5 12 0.1 0.9\n";
        let annos = parse_labels(text).unwrap();
        assert_eq!(annos.name, ["Car", "Pedestrian", "DontCare"]);
        assert_eq!((annos.dimensions[0], annos.score[0], annos.score[1]), ([3.64, 1.65, 1.67], -1.0, 0.9));
        assert_eq!((annos.index, annos.difficulty), (vec![0, 1, -1], vec![0, 1, -1]));
        for (height, truncated, occluded, expect) in [
            (40.0, 0.15, 0.0, 0),
            (39.9, 0.0, 0.0, 1),
            (50.0, 0.0, 2.0, 2),
            (24.0, 0.0, 0.0, -1),
            (60.0, 0.51, 0.0, -1),
        ] {
            assert_eq!(difficulty(height, truncated, occluded), expect);
        }
        for (text, part) in [
            ("Car 0 0 0\n", "line 1: it has 4 columns"),
            (
                "\nCar 0.00 zero -1.58 587.0 173.3 614.1 200.1 1.65 1.67 3.64 -0.65 1.71 46.70 -1.59",
                "line 2: column 3 is \"zero\"",
            ),
            ("Car 0.00 0 -1.58 587.0 173.3 614.1 200.1 0 1.67 3.64 -0.65 1.71 46.70 -1.59", "line 1: a Car of [0.0"),
            ("Car 0.00 0 nan 587.0 173.3 614.1 200.1 1 1.67 3.64 -0.65 1.71 46.70 -1.59", "column 4 is \"nan\""),
        ] {
            let error = parse_labels(text).unwrap_err();
            assert!(error.contains(part), "{error}");
        }
    }

    #[test]
    fn a_box_comes_from_the_camera_to_the_lidar() {
        let calib = parse_calib(CALIB).unwrap();
        assert_eq!((calib.p2[0][3], calib.r0_rect[3], calib.tr_velo_to_cam[1][3]), (45.0, [0.0, 0.0, 0.0, 1.0], -0.08));
        let annos = parse_labels("Car 0 0 0 0 0 9 9 1.5 1.6 4.0 -2.0 1.7 20.0 -1.5707963267948966\n").unwrap();
        let own = to_lidar(&Camera::new(&calib).rect_to_lidar, &annos, 0);
        let expect = [20.27, 2.0, -1.78 + 0.75, 4.0, 1.6, 1.5, 0.0];
        let found: [f64; 7] = own.into();
        assert!(found.iter().zip(expect).all(|(one, other)| (one - other).abs() < 1e-6), "{found:?}");
        for (from, to, part) in [
            ("P2:", "P9:", "line 3 is \"P9\", not P2"),
            ("R0_rect: 1 0", "R0_rect: 1", "line 5: R0_rect has 8 numbers, not 9"),
            ("Tr_velo_to_cam: 0", "Tr_velo_to_cam: x", "line 6: column 2 is \"x\""),
            ("R0_rect: 1", "R0_rect: 1e39", "line 5: column 2 is \"1e39\", beyond what 32 bits hold"),
        ] {
            let error = parse_calib(&CALIB.replacen(from, to, 1)).unwrap_err();
            assert!(error.contains(part), "{error}");
        }
        assert!(parse_calib("P0: 1\n").unwrap_err().contains("line 3 is missing: P2"));
    }

    #[test]
    fn the_ground_points_up_and_has_length_1() {
        let plane = parse_plane("# Matrix\nWIDTH 4\nHEIGHT 1\n0.0 2.0 0.1 -3.3\n").unwrap();
        assert!(plane[1] < 0.0 && (plane[..3].iter().map(|v| v * v).sum::<f64>() - 1.0).abs() < 1e-12);
        assert!((plane[3] / plane[1] + 1.65).abs() < 1e-12);
        for text in ["1 2 3 4", "a\nb\nc\n1 2 3", "a\nb\nc\n1 0 3 4", "a\nb\nc\n0 1e-300 0 1e30"] {
            assert!(parse_plane(text).is_err());
        }
    }

    #[test]
    fn custom_labels_end_with_their_class() {
        let annos = parse_custom_labels("1.50 1.46 0.10 5.12 1.85 4.13 1.56 Vehicle\n").unwrap();
        assert_eq!((annos.name, annos.gt_boxes_lidar[0].heading), (vec!["Vehicle".to_string()], 1.56));
        for (text, part) in
            [("Car", "one column"), ("1 2 Car", "8 columns"), ("1 2 3 4 -5 6 7 Car", "[4.0, -5.0, 6.0]")]
        {
            assert!(parse_custom_labels(text).unwrap_err().contains(part));
        }
    }
}
