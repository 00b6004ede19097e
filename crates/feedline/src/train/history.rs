//! The history of a run, epoch by epoch, and the files that show it: `epoch_loss.txt`, `epoch_val_loss.txt` and
//! `epoch_loss.png`. Part of a checkpoint, so a resumed run rewrites the same files.

use super::disk::write_whole;
use crate::error::Result;
use crate::event::EpochRecord;
use crate::plot::{Series, encode_png, line_chart};
use std::path::Path;

/// Writes the three files of `epochs` into `dir`, each atomically: a reader sees the old file or the new one. The text
/// files hold one number per line, exact to the last bit.
///
/// # Errors
/// If a file cannot be written; the old ones are then untouched.
pub fn write_history(dir: &Path, epochs: &[EpochRecord]) -> Result<()> {
    let lines = |number: fn(&EpochRecord) -> f64| -> String {
        epochs.iter().map(|record| format!("{}\n", number(record))).collect()
    };
    write_whole(&dir.join("epoch_loss.txt"), lines(|record| record.train_loss).as_bytes())?;
    write_whole(&dir.join("epoch_val_loss.txt"), lines(|record| record.val_loss).as_bytes())?;
    write_whole(&dir.join("epoch_loss.png"), &loss_chart(epochs)?)
}

/// The loss curves as a PNG file: train red, validation coral, smoothed dashed green and brown.
fn loss_chart(epochs: &[EpochRecord]) -> Result<Vec<u8>> {
    let numbers = || epochs.iter().map(|record| record.epoch as f64);
    let train: Vec<f64> = epochs.iter().map(|record| record.train_loss).collect();
    let val: Vec<f64> = epochs.iter().map(|record| record.val_loss).collect();
    let mut curves = vec![("train loss", [255, 0, 0], false, train), ("val loss", [255, 127, 80], false, val)];
    let smooth: Vec<_> = [("smooth train loss", [0, 128, 0]), ("smooth val loss", [139, 69, 19])]
        .into_iter()
        .zip(&curves)
        .filter_map(|((name, colour), curve)| Some((name, colour, true, smoothed(&curve.3)?)))
        .collect();
    curves.extend(smooth);
    let points: Vec<Vec<_>> = curves.iter().map(|curve| numbers().zip(curve.3.iter().copied()).collect()).collect();
    let series: Vec<_> = curves
        .iter()
        .zip(&points)
        .map(|(&(name, colour, dashed, _), points)| Series { name, colour, dashed, points })
        .collect();
    encode_png(line_chart("Loss per epoch", "Epoch", "Loss", &series).image())
}

/// Upstream's smoothing: window 5 below 25 points, else 15; cubic. None if there are fewer points than the window.
fn smoothed(values: &[f64]) -> Option<Vec<f64>> {
    let window = if values.len() < 25 { 5 } else { 15 };
    (values.len() >= window).then(|| savitzky_golay(values, window))
}

/// The cubic Savitzky-Golay filter (Savitzky and Golay, Analytical Chemistry 36, 1964): each value is replaced by that
/// of the least-squares cubic through the `window` (odd, at least 5) values around it. Near the ends it is the cubic
/// of the first or last window, as scipy's mode "interp" does it.
fn savitzky_golay(values: &[f64], window: usize) -> Vec<f64> {
    let half = window / 2;
    // The fit is a projection onto polynomials that are orthogonal over -half..=half (Gram's).
    let places = || (0..window).map(|at| at as f64 - half as f64);
    let moment = |power: i32| places().map(|x| x.powi(power)).sum::<f64>();
    let (n, m2, m4) = (window as f64, moment(2), moment(4));
    let gram = |x: f64| [1.0, x, x * x - m2 / n, x * (x * x - m4 / m2)];
    let mut norms = [0.0; 4];
    places().for_each(|x| norms.iter_mut().zip(gram(x)).for_each(|(norm, p)| *norm += p * p));
    let fitted = |at: usize| {
        let start = at.saturating_sub(half).min(values.len() - window);
        let mut parts = [0.0; 4];
        for (x, value) in places().zip(&values[start..start + window]) {
            parts.iter_mut().zip(gram(x)).for_each(|(part, p)| *part += p * value);
        }
        let here = gram(at as f64 - (start + half) as f64);
        (0..4).map(|k| here[k] * parts[k] / norms[k]).sum()
    };
    (0..values.len()).map(fitted).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::plan::rng::SampleRng;

    fn history(epochs: u64) -> Vec<EpochRecord> {
        let mut rng = SampleRng::new(5, 0, 0, "history");
        let records = (1..=epochs).map(|epoch| {
            let train_loss = 2.3 * (-(epoch as f64) / 12.0).exp() + 0.1 * rng.unit();
            EpochRecord { epoch, train_loss, val_loss: train_loss * 1.1 + 0.15 * rng.unit(), ..EpochRecord::default() }
        });
        records.collect()
    }

    /// Values of scipy 1.17.1: `savgol_filter(values, window, 3)`.
    #[test]
    fn smoothing_equals_scipys() {
        let check = |values: &[f64], expect: &[f64]| {
            let smooth = smoothed(values).unwrap();
            assert_eq!(smooth.len(), expect.len());
            for (value, expect) in smooth.iter().zip(expect) {
                assert!((value - expect).abs() < 1e-9, "{value} is not {expect}");
            }
        };
        check(
            &[3.0, 1.0, 4.0, 1.0, 5.0, 9.0, 2.0, 6.0],
            &[
                2.6571428571428615,
                2.371428571428563,
                1.9428571428571437,
                2.7142857142857153,
                5.342857142857145,
                6.171428571428575,
                3.8857142857143345,
                5.528571428571498,
            ],
        );
        let values: Vec<f64> = (0..30).map(|i| f64::from(i * i * 7 % 31)).collect();
        check(
            &values,
            &[
                5.257843137254916,
                8.480532212885175,
                10.789355742296943,
                12.301206636500778,
                13.13297780650724,
                13.401562163326888,
                13.22385261797028,
                12.71674208144805,
                10.268778280543057,
                8.803619909502324,
                11.771945701357547,
                11.991855203619991,
                12.633484162896014,
                14.538461538461638,
                14.115837104072494,
                13.834389140271586,
                13.834389140271586,
                14.115837104072494,
                14.538461538461638,
                12.633484162896014,
                11.991855203619991,
                11.771945701357547,
                8.803619909502324,
                8.874078862314143,
                9.450642821231039,
                10.525518925518906,
                12.090914314443706,
                14.139036127271398,
                16.66209150326794,
                19.652287581699305,
            ],
        );
        assert!(smoothed(&values[..4]).is_none() && smoothed(&values[..5]).is_some());
    }

    #[test]
    fn files_hold_every_epoch_and_are_replaced_as_a_whole() {
        let dir = tempfile::tempdir().unwrap();
        for epochs in [0, 1, 4, 5, 60] {
            let history = history(epochs);
            write_history(dir.path(), &history).unwrap();
            let read = |name: &str| std::fs::read_to_string(dir.path().join(name)).unwrap();
            let back = |name| -> Vec<f64> { read(name).lines().map(|line| line.parse().unwrap()).collect() };
            let train: Vec<_> = history.iter().map(|record| record.train_loss).collect();
            let val: Vec<_> = history.iter().map(|record| record.val_loss).collect();
            assert_eq!((back("epoch_loss.txt"), back("epoch_val_loss.txt")), (train, val));
            let mut names: Vec<_> =
                std::fs::read_dir(dir.path()).unwrap().map(|entry| entry.unwrap().file_name()).collect();
            names.sort();
            assert_eq!(names, ["epoch_loss.png", "epoch_loss.txt", "epoch_val_loss.txt"]);
        }
        if let Ok(folder) = std::env::var("FEEDLINE_PICTURES") {
            std::fs::copy(dir.path().join("epoch_loss.png"), Path::new(&folder).join("epoch_loss.png")).unwrap();
        }
    }

    #[test]
    fn smoothed_curves_need_a_window_of_points() {
        let colours = |epochs| {
            let png = loss_chart(&history(epochs)).unwrap();
            let mut reader = png::Decoder::new(std::io::Cursor::new(png)).read_info().unwrap();
            let mut pixels = vec![0; reader.output_buffer_size().unwrap()];
            reader.next_frame(&mut pixels).unwrap();
            let has = |colour: [u8; 3]| pixels.chunks_exact(3).any(|pixel| pixel == colour);
            [[255, 0, 0], [255, 127, 80], [0, 128, 0], [139, 69, 19]].map(has)
        };
        assert_eq!(colours(4), [true, true, false, false]);
        assert_eq!(colours(5), [true, true, true, true]);
    }

    #[test]
    fn a_folder_that_is_not_there_is_named() {
        let dir = tempfile::tempdir().unwrap();
        let text = write_history(&dir.path().join("gone"), &history(3)).unwrap_err().to_string();
        assert!(text.contains("failed to write") && text.contains("gone/epoch_loss.txt"), "{text}");
    }
}
