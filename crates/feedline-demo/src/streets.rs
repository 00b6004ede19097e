//! Streets in the files of KITTI's object data: data for detecting objects in lidar clouds. Owns the options and the file layout;
//! the streets belong to `street.rs`, their lidar and camera views to `sensors.rs`, the text files to `files.rs`.
//!
//! Classes are told by shape. There are walls, poles, trees, bushes and bins besides, and what hides what follows from the rays.
#![expect(clippy::disallowed_methods, reason = "writes the files of a drawn data set")]

mod camera;
mod cast;
mod files;
mod parts;
mod sensors;
mod street;

use crate::folder::{Marker, write_each, write_whole};
use camera::Camera;
use feedline::plan::rng::SampleRng;
use feedline::plot::encode_png;
use feedline::{Error, Result};
use serde::{Deserialize, Serialize};
use std::fs;
use std::path::Path;

/// The options of a demo data set.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct DemoOptions {
    /// Training frames.
    pub train: u64,
    /// Validation frames.
    pub val: u64,
    /// Test frames, which have no labels.
    pub test: u64,
    /// The streets are a function of this.
    pub seed: u64,
    /// Rays of the lidar above each other, 8 to 128, from 2.5 degrees up to 17.5 degrees down.
    pub beams: usize,
    /// Rays of each beam, 64 to 4096, from 45 degrees to the left to 45 degrees to the right.
    pub steps: usize,
}

impl Default for DemoOptions {
    fn default() -> DemoOptions {
        DemoOptions { train: 160, val: 40, test: 4, seed: 0, beams: 48, steps: 400 }
    }
}

/// Names of the labelled classes; `kitti_dataset.yaml` does not use the last.
pub const DEMO_CLASSES: [&str; 4] = ["Car", "Pedestrian", "Cyclist", "Van"];

/// Incremented whenever the files change.
const VERSION: u32 = 1;

const FOLDERS: [&str; 3] = ["velodyne", "calib", "image_2"];
const LABEL_FOLDERS: [&str; 2] = ["label_2", "planes"];

/// Writes the demo data set into `dir`, unless it is there already, whole and with the same options. It is written beside `dir`
/// and renamed at the end, so that `dir` is never half-written. `progress` is told (frames done, frames in all) after each
/// frame. Then `add` may add files that are made of the others, such as infos, to the folder that it is given. Equal options give
/// equal bytes.
///
/// | file | holds |
/// |---|---|
/// | `ImageSets/{train,val,test}.txt` | the ids `000000`, `000001` and so on, one a line; those of `test` count anew |
/// | `{training,testing}/velodyne/{id}.bin` | f32 (N, 4): x, y, z in metres, intensity 0 to 0.99 |
/// | `{training,testing}/calib/{id}.txt` | KITTI's matrices, the same for all frames |
/// | `{training,testing}/image_2/{id}.png` | the picture of camera 2, 1242 x 375 |
/// | `training/label_2/{id}.txt` | the objects in the picture; `DontCare` where the lidar sees hardly anything of one |
/// | `training/planes/{id}.txt` | the ground in camera coordinates |
///
/// # Errors
/// A split without a frame, rays out of bounds; a folder `dir` that holds something else, which stays untouched; what
/// `add` answers, or a file that cannot be written, with nothing left behind.
pub fn write_demo_data(
    dir: &Path,
    options: &DemoOptions,
    progress: impl FnMut(u64, u64),
    add: impl FnOnce(&Path) -> Result<()>,
) -> Result<()> {
    check(options)?;
    write_whole(dir, &Marker { version: VERSION, options: *options }, |folder| {
        let make =
            |folder: &Path| fs::create_dir_all(folder).map_err(|source| Error::io("make the folder", folder, source));
        for name in FOLDERS {
            make(&folder.join("training").join(name))?;
            make(&folder.join("testing").join(name))?;
        }
        for name in LABEL_FOLDERS {
            make(&folder.join("training").join(name))?;
        }
        make(&folder.join("ImageSets"))?;
        let DemoOptions { train, val, test, .. } = *options;
        for (name, ids) in [("train", 0..train), ("val", train..train + val), ("test", 0..test)] {
            let lines: String = ids.map(|number| format!("{}\n", id_of(number))).collect();
            write(&folder.join("ImageSets").join(format!("{name}.txt")), lines.as_bytes())?;
        }
        let frames: Vec<u64> = (0..train + val + test).collect();
        write_each(&frames, progress, |number| write_frame(folder, options, *number))?;
        add(folder)
    })
}

fn check(options: &DemoOptions) -> Result<()> {
    let DemoOptions { train, val, test, beams, steps, .. } = options;
    if [train, val, test].into_iter().any(|count| !(1..=300_000).contains(count)) {
        return Err(Error::config(
            format!("a demo data set of {train} train, {val} val and {test} test frames cannot be made"),
            "Ask for 1 to 300,000 of each",
        ));
    }
    if !(8..=128).contains(beams) || !(64..=4096).contains(steps) {
        return Err(Error::config(
            format!("frames of {beams} beams with {steps} rays cannot be drawn"),
            "Ask for 8 to 128 beams and 64 to 4096 rays of each",
        ));
    }
    Ok(())
}

fn id_of(number: u64) -> String {
    format!("{number:06}")
}

fn write_frame(folder: &Path, options: &DemoOptions, number: u64) -> Result<()> {
    let frame = draw(options, number);
    let labelled = options.train + options.val;
    let (split, id) = match number.checked_sub(labelled) {
        None => ("training", id_of(number)),
        Some(number) => ("testing", id_of(number)),
    };
    let path = |kind: &str, end: &str| folder.join(split).join(kind).join(format!("{id}.{end}"));
    let points: Vec<u8> = frame.points.as_flattened().iter().flat_map(|value| value.to_le_bytes()).collect();
    write(&path("velodyne", "bin"), &points)?;
    write(&path("calib", "txt"), frame.calib.as_bytes())?;
    write(&path("image_2", "png"), &encode_png(&frame.image)?)?;
    if number < labelled {
        write(&path("label_2", "txt"), frame.labels.as_bytes())?;
        write(&path("planes", "txt"), frame.plane.as_bytes())?;
    }
    Ok(())
}

/// The content of a frame.
struct Drawn {
    points: Vec<[f32; 4]>,
    image: feedline::decode::RgbImage,
    calib: String,
    labels: String,
    plane: String,
}

/// Frame `number`, from 0.
fn draw(options: &DemoOptions, number: u64) -> Drawn {
    let mut rng = SampleRng::new(options.seed, 0, number, "demo frame");
    let street = street::Street::draw(&mut rng);
    let camera = Camera::new();
    let cloud = sensors::scan(&street, [options.beams, options.steps], &mut rng);
    let view = sensors::photograph(&street, &camera);
    let labels = files::label_text(&street, &camera, &cloud, &view);
    let plane = files::plane_text(&street.ground, &camera);
    Drawn { points: cloud.points, image: view.image, calib: files::calib_text(), labels, plane }
}

fn write(path: &Path, bytes: &[u8]) -> Result<()> {
    fs::write(path, bytes).map_err(|source| Error::io("write", path, source))
}

#[cfg(test)]
mod tests;
