//! Random rooms in the files of TorchSSC's NYU data: data for scene completion. Owns the options and which file
//! holds what; the rooms belong to `room.rs`, their pictures and voxels to `view.rs`.
//!
//! Classes are told by colour and shape. Colours vary from object to object, and what is hidden must be guessed.
#![expect(clippy::disallowed_methods, reason = "writes the files of a drawn data set")]

mod files;
mod room;
mod view;

use crate::folder::{Marker, write_each, write_whole};
use feedline::decode::RgbImage;
use feedline::plan::rng::SampleRng;
use feedline::plot::encode_png;
use feedline::{Error, Result};
use files::{NumpyArray, npy, npz};
use serde::{Deserialize, Serialize};
use std::fs;
use std::path::Path;

/// The options of a demo data set.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct DemoOptions {
    /// Training scenes.
    pub train: u64,
    /// Test scenes.
    pub test: u64,
    /// The rooms are a function of this.
    pub seed: u64,
    /// Rows and columns of the pictures, 8 to 4096 each.
    pub image_px: [u32; 2],
    /// Voxels along x (to the right), y (up) and z (away from the camera), 4 to 256 each. The whole grid is 4.8 m wide,
    /// 2.88 m high and 4.8 m deep, for any number of voxels.
    pub grid: [usize; 3],
}

impl Default for DemoOptions {
    fn default() -> DemoOptions {
        DemoOptions { train: 48, test: 16, seed: 0, image_px: [480, 640], grid: [60, 36, 60] }
    }
}

/// Names of the classes, in the order of their labels.
pub const DEMO_CLASSES: [&str; 12] =
    ["empty", "ceiling", "floor", "wall", "window", "chair", "bed", "sofa", "table", "tvs", "furniture", "objects"];

/// Incremented whenever the files change.
const VERSION: u32 = 1;

const FOLDERS: [&str; 6] = ["RGB", "HHA", "Label", "TSDF", "Mapping", "sketch3D"];

/// Writes the demo data set into `dir`, unless it is there already, whole and with the same options. It is written
/// beside `dir` and renamed at the end, so that `dir` is never half-written. `progress` is told (scenes done, scenes in
/// all) after each scene. Equal options give equal bytes.
///
/// `train.txt` and `test.txt` list the scenes `0001`, `0002` and so on. V voxels stand row-major in the order of
/// [`DemoOptions::grid`]; pixels too, by row and column.
///
/// | file | holds |
/// |---|---|
/// | `RGB/NYU{id}_colors.png` | the picture, 8-bit RGB |
/// | `HHA/{id}.png` | horizontal disparity, height above the floor, angle with the vertical, as 8-bit R, G, B |
/// | `Label/{id}.npz` | `arr_0` u8 (V,): class of what holds the voxel's centre, 255 outside the room or the picture |
/// | `TSDF/{id}.npz` | `arr_0` f32 (V,): how far the surface seen lies behind the voxel's centre along the camera's axis, over three voxels' edges, -1 to 1; positive before it; -1 outside the picture. `arr_1` f32 (V,): 1 where the class counts, that is where something is or where it is hidden, else 0 |
/// | `Mapping/{id}.npz` | `arr_0` i64 (V,): the first pixel that shows a surface in the voxel, H * W if none does |
/// | `sketch3D/{id}.npy` | u8 (x, y, z): 1 where something borders on an empty voxel by a face |
///
/// # Errors
/// No training or no test scene, sizes out of bounds; a folder `dir` that holds something else, which stays untouched;
/// a file that cannot be written, with nothing left behind.
pub fn write_demo_data(dir: &Path, options: &DemoOptions, progress: impl FnMut(u64, u64)) -> Result<()> {
    check(options)?;
    write_whole(dir, &Marker { version: VERSION, options: *options }, |folder| {
        for name in FOLDERS {
            let folder = folder.join(name);
            fs::create_dir(&folder).map_err(|source| Error::io("make the folder", folder, source))?;
        }
        for (name, ids) in
            [("train.txt", 1..=options.train), ("test.txt", options.train + 1..=options.train + options.test)]
        {
            let lines: String = ids.map(|number| format!("{}\n", id_of(number))).collect();
            write(&folder.join(name), lines.into_bytes())?;
        }
        let numbers: Vec<u64> = (1..=options.train + options.test).collect();
        write_each(&numbers, progress, |number| write_scene(folder, options, *number))
    })
}

fn check(options: &DemoOptions) -> Result<()> {
    let DemoOptions { train, test, image_px, grid, .. } = options;
    if *train < 1 || *test < 1 || train.saturating_add(*test) > 1_000_000 {
        return Err(Error::config(
            format!("a demo data set of {train} train and {test} test scenes cannot be made"),
            "Ask for one of each or more, and for a million together at most",
        ));
    }
    if image_px.iter().any(|side| !(8..=4096).contains(side)) || grid.iter().any(|side| !(4..=256).contains(side)) {
        return Err(Error::config(
            format!("scenes of {image_px:?} pixels and {grid:?} voxels cannot be drawn"),
            "Ask for sides of 8 to 4096 pixels and 4 to 256 voxels",
        ));
    }
    Ok(())
}

fn id_of(number: u64) -> String {
    format!("{number:04}")
}

fn write_scene(folder: &Path, options: &DemoOptions, number: u64) -> Result<()> {
    let view = draw(options, number);
    let id = id_of(number);
    let [height_px, width_px] = options.image_px;
    let picture = |pixels| encode_png(&RgbImage { width_px, height_px, pixels });
    let flat = [options.grid.iter().product()];
    let path = |kind: &str, name: String| folder.join(kind).join(name);
    let archive = |kind: &str, arrays: &[NumpyArray<'_>]| {
        let path = path(kind, format!("{id}.npz"));
        let bytes = npz(arrays).map_err(|source| Error::io("write", &path, source))?;
        write(&path, bytes)
    };
    write(&path("RGB", format!("NYU{id}_colors.png")), picture(view.colours)?)?;
    write(&path("HHA", format!("{id}.png")), picture(view.hha)?)?;
    archive("Label", &[NumpyArray::of_u8(&view.labels, &flat)])?;
    archive("TSDF", &[NumpyArray::of_f32(&view.tsdf, &flat), NumpyArray::of_f32(&view.weights, &flat)])?;
    archive("Mapping", &[NumpyArray::of_i64(&view.pixel_of_voxel, &flat)])?;
    write(&path("sketch3D", format!("{id}.npy")), npy(&NumpyArray::of_u8(&view.sketch, &options.grid)))
}

/// Scene `number`, from 1.
fn draw(options: &DemoOptions, number: u64) -> view::RenderedRoom {
    let mut rng = SampleRng::new(options.seed, 0, number, "demo scene");
    let room = room::Room::draw(options.grid, &mut rng);
    view::look(&room, options.image_px.map(|side| side as usize))
}

fn write(path: &Path, bytes: Vec<u8>) -> Result<()> {
    fs::write(path, bytes).map_err(|source| Error::io("write", path, source))
}

#[cfg(test)]
mod tests;
