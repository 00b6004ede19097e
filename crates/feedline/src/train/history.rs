//! The history of a run, epoch by epoch: read from its events, and the files that show it, `epoch_loss.txt`,
//! `epoch_val_loss.txt` and `epoch_loss.png`. Part of a checkpoint, so a resumed run rewrites the same files.
#![expect(clippy::disallowed_methods, reason = "reads the events of a run")]

use super::disk::write_whole;
use crate::error::{Error, Result};
use crate::event::EpochRecord;
use crate::plot::{Series, encode_png, line_chart};
use serde::Deserialize;
use std::fs::File;
use std::io::{BufRead, BufReader, ErrorKind};
use std::path::Path;

/// Name of the file with every event.
pub(super) const EVENTS: &str = "events.jsonl";

/// The epochs of a run as its events tell them, which is true of a run under way, killed, resumed or finished.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct History {
    /// The epochs that are done, in order. One that a resumed run did anew stands here once, as it was done last.
    pub epochs: Vec<EpochRecord>,
    /// The names of the metrics in them; empty if an older version made the run.
    pub metric_names: Vec<String>,
}

/// The events that a history is made of.
#[derive(Deserialize)]
#[serde(tag = "event", rename_all = "snake_case")]
enum Line {
    EpochStart {
        #[serde(default)]
        metric_names: Vec<String>,
    },
    EpochEnd(Box<EpochRecord>),
    Resumed {
        epoch: u64,
    },
}

/// The first bytes of their lines: most lines are steps, and are passed over unread.
const LINES: [&[u8]; 2] = [b"{\"event\":\"epoch_", b"{\"event\":\"resumed\""];

impl History {
    /// Reads the history of the run in `dir`; one without events has no epoch. A last line that has no end is being written, or
    /// was when its process was killed, and is no event yet.
    ///
    /// # Errors
    /// A file that cannot be read; a line that is no event, by its number.
    pub fn read(dir: &Path) -> Result<History> {
        let path = dir.join(EVENTS);
        let mut file = match File::open(&path) {
            Err(e) if e.kind() == ErrorKind::NotFound => return Ok(History::default()),
            file => BufReader::new(file.map_err(|e| Error::io("read", &path, e))?),
        };
        let (mut history, mut bytes) = (History::default(), Vec::new());
        for number in 1.. {
            bytes.clear();
            file.read_until(b'\n', &mut bytes).map_err(|e| Error::io("read", &path, e))?;
            if !bytes.ends_with(b"\n") {
                break;
            }
            if !LINES.iter().any(|start| bytes.starts_with(start)) {
                continue;
            }
            let epochs = &mut history.epochs;
            match serde_json::from_slice(&bytes) {
                Ok(Line::EpochStart { metric_names }) => history.metric_names = metric_names,
                Ok(Line::EpochEnd(record)) => {
                    epochs.retain(|done| done.epoch < record.epoch);
                    epochs.push(*record);
                }
                Ok(Line::Resumed { epoch }) => epochs.retain(|done| done.epoch < epoch),
                Err(e) => {
                    return Err(Error::Checkpoint {
                        path,
                        problem: format!("line {number} is no event of this version: {e}"),
                        remedy: "Bring the file back from a copy, or read it with the version that wrote it".into(),
                    });
                }
            }
        }
        Ok(history)
    }

    /// The values of the first metric on the validation split, for each epoch; `None` if there is no metric.
    pub fn first_metric(&self) -> Option<Vec<f64>> {
        self.epochs.iter().map(|record| record.val_metrics.first().copied()).collect()
    }

    /// Samples a second and share of the time spent waiting for data, both means over the time of training; NaN without
    /// an epoch.
    pub fn speed(&self) -> (f64, f64) {
        let mean = |of: fn(&EpochRecord) -> f64| -> f64 {
            let seconds: f64 = self.epochs.iter().map(|record| record.train_seconds).sum();
            self.epochs.iter().map(|record| of(record) * record.train_seconds).sum::<f64>() / seconds
        };
        (mean(|record| record.images_per_second), mean(|record| record.data_wait_share))
    }

    /// Seconds of training and validation.
    pub fn seconds(&self) -> f64 {
        self.epochs.iter().map(|record| record.train_seconds + record.val_seconds).sum()
    }
}

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
    use crate::event::Event;
    use crate::plan::rng::SampleRng;

    fn history(epochs: u64) -> Vec<EpochRecord> {
        let mut rng = SampleRng::new(5, 0, 0, "history");
        let records = (1..=epochs).map(|epoch| {
            let train_loss = 2.3 * (-(epoch as f64) / 12.0).exp() + 0.1 * rng.unit();
            EpochRecord { epoch, train_loss, val_loss: train_loss * 1.1 + 0.15 * rng.unit(), ..EpochRecord::default() }
        });
        records.collect()
    }

    #[test]
    fn a_history_is_what_the_last_life_of_a_run_did() {
        let dir = tempfile::tempdir().unwrap();
        let read = |text: &str| {
            std::fs::write(dir.path().join(EVENTS), text).unwrap();
            History::read(dir.path())
        };
        assert_eq!(History::read(dir.path()).unwrap(), History::default());
        let record =
            |epoch, train_loss| EpochRecord { epoch, train_loss, val_metrics: vec![0.5], ..Default::default() };
        let start = Event::EpochStart {
            epoch: 1,
            epochs: 3,
            steps: 2,
            step: 0,
            frozen: false,
            batch_size: 4,
            lr: 0.1,
            metric_names: &["accuracy"],
        };
        let lines = |events: &[Event]| -> String {
            events.iter().map(|event| serde_json::to_string(event).unwrap() + "\n").collect()
        };
        let nan = EpochRecord { val_metrics: vec![f64::NAN], ..record(2, 0.25) };
        let first = lines(&[start.clone(), Event::EpochEnd(record(1, 1.0)), Event::EpochEnd(record(2, 0.5))]);
        let resumed = lines(&[Event::Resumed { epoch: 2, step: 1 }]);
        let losses = |history: History| -> Vec<_> {
            history.epochs.iter().map(|record| (record.epoch, record.train_loss)).collect()
        };
        let history = read(&first).unwrap();
        assert_eq!((&history.metric_names[..], history.first_metric()), (&["accuracy".into()][..], Some(vec![0.5; 2])));
        assert_eq!(losses(history), [(1, 1.0), (2, 0.5)]);
        // What no checkpoint kept is undone by a resume, and then done anew.
        assert_eq!(losses(read(&format!("{first}{resumed}")).unwrap()), [(1, 1.0)]);
        let anew = read(&format!("{first}{resumed}{}{{\"event\":\"epoch_e", lines(&[Event::EpochEnd(nan)]))).unwrap();
        assert!(anew.first_metric().unwrap()[1].is_nan());
        assert_eq!(losses(anew), [(1, 1.0), (2, 0.25)]);
        let error = read(&format!("{first}{{\"event\":\"epoch_end\"}}\n")).unwrap_err().to_string();
        assert!(error.contains("events.jsonl") && error.contains("line 4"), "{error}");
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
