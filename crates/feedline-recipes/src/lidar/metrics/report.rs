//! The figures of an evaluation: which there are, their names and their words.

use super::kitti_ap::{Figures, Kind, Scene, average_precision, min_overlaps};
use crate::lidar::data::frame::Annos;
use feedline::{Error, Result};
use serde::{Deserialize, Serialize};

const LEVELS: [&str; 3] = ["easy", "moderate", "hard"];

/// The figures of a class at one set of least overlaps; each easy, moderate and hard.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct ClassFigures {
    pub class: String,
    /// Overlaps from which on an object is found: in the picture, from above, in space.
    pub min_overlaps: [f64; 3],
    pub bbox: [Figures; 3],
    pub bev: [Figures; 3],
    #[serde(rename = "3d")]
    pub volume: [Figures; 3],
    /// Orientation; None where the detections say no alpha (-10, as OpenPCDet writes).
    pub aos: Option<[Figures; 3]>,
}

/// The result of [`evaluate`].
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Report {
    /// For each class first the strict overlaps, then the loose ones.
    pub classes: Vec<ClassFigures>,
}

/// KITTI's average precision of detections, frame by frame those of the labels, as OpenPCDet's `get_official_eval_result`
/// counts it: an object is found in the picture, from above and in space, by the overlaps 0.7 (Car, Van, Truck) or 0.5 (every
/// other class); and again by the looser 0.5 and 0.25 from above and in space. A class without a label has 0.
///
/// Labels need `name`, `truncated`, `occluded`, `alpha`, `bbox`, `dimensions`, `location`, `rotation_y`; detections `name`,
/// `bbox`, `dimensions`, `location`, `rotation_y`, `score`, and `alpha` for orientation.
///
/// # Errors
/// Not as many frames of detections as of labels; a frame whose lists do not fit; a number that is not finite.
pub fn evaluate(truth: &[&Annos], found: &[Annos], class_names: &[String]) -> Result<Report> {
    if truth.len() != found.len() {
        return Err(Error::config(
            format!("there are detections for {} frames, but labels for {}", found.len(), truth.len()),
            "Give the detections of each labelled frame, be it none",
        ));
    }
    for (at, (truth, found)) in truth.iter().zip(found).enumerate() {
        check(truth, true).map_err(|problem| wrong(at, "labels", problem))?;
        check(found, false).map_err(|problem| wrong(at, "detections", problem))?;
    }
    let said = found.iter().find_map(|frame| frame.alpha.first());
    let is_oriented = said.is_some_and(|alpha| *alpha != -10.0);
    if let Some(at) = found.iter().position(|frame| is_oriented && frame.alpha.len() != frame.name.len()) {
        return Err(wrong(at, "detections", "they say no alpha, but those of other frames do".into()));
    }
    let scenes =
        |kind| -> Vec<Scene> { truth.iter().zip(found).map(|(truth, found)| Scene::new(truth, found, kind)).collect() };
    let [image, bev, volume] = [Kind::Image, Kind::Bev, Kind::Volume].map(scenes);
    let mut classes = Vec::new();
    for class in class_names {
        for min_overlaps in min_overlaps(class) {
            let [in_image, from_above, in_space] = min_overlaps;
            let of = |scenes: &[Scene], min_overlap| {
                [0, 1, 2].map(|level| average_precision(scenes, class, level, min_overlap))
            };
            let of_image = of(&image, in_image);
            classes.push(ClassFigures {
                class: class.clone(),
                min_overlaps,
                bbox: of_image.map(|[precision, _]| precision),
                aos: is_oriented.then(|| of_image.map(|[_, orientation]| orientation)),
                bev: of(&bev, from_above).map(|[precision, _]| precision),
                volume: of(&volume, in_space).map(|[precision, _]| precision),
            });
        }
    }
    Ok(Report { classes })
}

fn wrong(frame: usize, what: &str, problem: String) -> Error {
    Error::config(format!("the {what} of frame {frame} (from 0): {problem}"), "Give what predictions::annos makes")
}

fn check(annos: &Annos, is_truth: bool) -> Result<(), String> {
    let count = annos.name.len();
    let mut lists = vec![
        ("bbox", annos.bbox.len()),
        ("dimensions", annos.dimensions.len()),
        ("location", annos.location.len()),
        ("rotation_y", annos.rotation_y.len()),
    ];
    if is_truth {
        lists.extend([("truncated", annos.truncated.len()), ("occluded", annos.occluded.len())]);
    } else {
        lists.push(("score", annos.score.len()));
    }
    if is_truth || !annos.alpha.is_empty() {
        lists.push(("alpha", annos.alpha.len()));
    }
    if let Some((key, len)) = lists.iter().find(|(_, len)| *len != count) {
        return Err(format!("there are {count} names, but {len} of {key}"));
    }
    let numbers = [annos.bbox.as_flattened(), annos.dimensions.as_flattened(), annos.location.as_flattened()];
    let numbers = numbers.into_iter().chain([&annos.rotation_y[..], &annos.score, &annos.alpha]);
    match numbers.flatten().all(|number| number.is_finite()) {
        true => Ok(()),
        false => Err("a number is not finite".into()),
    }
}

impl Report {
    /// OpenPCDet's text: for each class and set of overlaps the figures easy, moderate, hard.
    pub fn text(&self) -> String {
        let mut text = String::new();
        for class in &self.classes {
            let overlaps = class.min_overlaps.map(|overlap| format!("{overlap:.2}")).join(", ");
            for (suffix, of) in [("", (|figures| figures.r11) as fn(&Figures) -> f64), ("_R40", |figures| figures.r40)]
            {
                text += &format!("{} AP{suffix}@{overlaps}:\n", class.class);
                for (name, figures) in [("bbox", &class.bbox), ("bev ", &class.bev), ("3d  ", &class.volume)] {
                    let figures = figures.each_ref().map(|figures| format!("{:.4}", of(figures)));
                    text += &format!("{name} AP:{}\n", figures.join(", "));
                }
                if let Some(aos) = &class.aos {
                    let figures = aos.each_ref().map(|figures| format!("{:.2}", of(figures)));
                    text += &format!("aos  AP:{}\n", figures.join(", "));
                }
            }
        }
        text
    }

    /// The figures of the strict overlaps by OpenPCDet's names, such as `Car_3d/moderate_R40`.
    pub fn flat(&self) -> Vec<(String, f64)> {
        let mut flat = Vec::new();
        for class in self.strict() {
            let name = &class.class;
            for (level, word) in LEVELS.iter().enumerate() {
                if let Some(aos) = &class.aos {
                    flat.push((format!("{name}_aos/{word}"), aos[level].r11));
                    flat.push((format!("{name}_aos/{word}_R40"), aos[level].r40));
                }
                for (kind, figures) in [("3d", &class.volume), ("bev", &class.bev), ("image", &class.bbox)] {
                    flat.push((format!("{name}_{kind}/{word}"), figures[level].r11));
                    flat.push((format!("{name}_{kind}/{word}_R40"), figures[level].r40));
                }
            }
        }
        flat
    }

    /// The figures of the strict overlaps, class by class.
    pub fn strict(&self) -> impl Iterator<Item = &ClassFigures> {
        self.classes.iter().step_by(2)
    }

    /// The figure that one number stands for: average precision in space, moderate, R40, mean over the classes; in percent.
    pub fn mean_3d(&self) -> f64 {
        let figures: Vec<f64> = self.strict().map(|class| class.volume[1].r40).collect();
        figures.iter().sum::<f64>() / figures.len().max(1) as f64
    }
}
