//! Pictures of six kinds of shapes, in class folders: data for a classifier. Owns their appearance; `folder.rs` writes them
//! to disk atomically.
//!
//! The class is in the outline alone: area, colour, place, turn, background and stray lines are drawn from the same
//! distributions for all classes, so that no linear function of the pixels tells them apart.
#![expect(clippy::disallowed_methods, reason = "writes the files of a drawn data set")]

use crate::folder::{Marker, write_each, write_whole};
use feedline::plan::rng::SampleRng;
use feedline::{Error, Result};
use serde::{Deserialize, Serialize};
use std::f64::consts::{PI, TAU};
use std::fs;
use std::path::Path;

/// The options of a demo data set.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct DemoOptions {
    /// Training images, spread evenly over the classes.
    pub train: u64,
    /// Test images.
    pub test: u64,
    /// The pictures are a function of this.
    pub seed: u64,
}

impl Default for DemoOptions {
    fn default() -> DemoOptions {
        DemoOptions { train: 2000, test: 400, seed: 0 }
    }
}

/// Names of the classes, in the order of their labels.
pub const DEMO_CLASSES: [&str; 6] = ["circle", "cross", "ring", "square", "star", "triangle"];

/// Incremented whenever the pictures change.
const VERSION: u32 = 3;

/// Writes the demo data set `dir/{train,test}/<class>/NNNN.jpg`, unless it is there already, whole and with the same
/// options. It is written beside `dir` and renamed at the end, so that `dir` is never half-written. `progress` is told
/// (images done, images in all) after each image. Equal options give equal bytes.
///
/// # Errors
/// Fewer than one image per class and split; a folder `dir` that holds something else, which stays untouched; a file
/// that cannot be written, with nothing left behind.
pub fn write_demo_data(dir: &Path, options: &DemoOptions, progress: impl FnMut(u64, u64)) -> Result<()> {
    let classes = DEMO_CLASSES.len() as u64;
    if options.train < classes || options.test < classes {
        return Err(Error::config(
            format!("a demo data set of {} train and {} test images is too small", options.train, options.test),
            format!("Ask for {classes} of each or more, one per class"),
        ));
    }
    let splits = [("train", options.train), ("test", options.test)];
    write_whole(dir, &Marker { version: VERSION, options: *options }, |folder| {
        for (split, class) in splits.iter().flat_map(|(split, _)| DEMO_CLASSES.map(|class| (split, class))) {
            let folder = folder.join(split).join(class);
            fs::create_dir_all(&folder).map_err(|source| Error::io("make the folder", folder, source))?;
        }
        let images = splits.iter().flat_map(|&(split, count)| (0..count).map(move |index| (split, index)));
        let images: Vec<_> = images.collect();
        write_each(&images, progress, |&(split, index)| write_image(folder, options.seed, split, index))
    })
}

fn write_image(folder: &Path, seed: u64, split: &str, index: u64) -> Result<()> {
    let classes = DEMO_CLASSES.len() as u64;
    let class = DEMO_CLASSES[(index % classes) as usize];
    let path = folder.join(split).join(class).join(format!("{:04}.jpg", index / classes));
    let mut rng = SampleRng::new(seed, 0, index, &format!("demo {split}"));
    let (width_px, height_px) = (72 + rng.below(49) as usize, 72 + rng.below(49) as usize);
    let quality = 80 + rng.below(16) as u8;
    let pixels = draw(class, width_px, height_px, &mut rng);
    let jpeg = libjpeg_turbo_rs::Encoder::new(&pixels, width_px, height_px, libjpeg_turbo_rs::PixelFormat::Rgb)
        .quality(quality)
        .encode()
        .map_err(|error| Error::io("write", &path, std::io::Error::other(error.to_string())))?;
    fs::write(&path, jpeg).map_err(|source| Error::io("write", path, source))
}

type Point = (f64, f64);
type Colour = [f64; 3];

/// One picture, as interleaved RGB bytes.
fn draw(class: &str, width_px: usize, height_px: usize, rng: &mut SampleRng) -> Vec<u8> {
    let (width, height) = (width_px as f64, height_px as f64);
    let mut picture = Picture::textured(width_px, height_px, rng);
    for _ in 0..1 + rng.below(4) {
        picture.stray_line(rng);
    }

    let shape = Shape::of(class);
    // The same distribution of areas for every class.
    let area_px = rng.uniform(0.14, 0.24) * width.min(height).powi(2);
    let stretch = rng.uniform(0.9, 1.1);
    let radius = (area_px / shape.area()).sqrt();
    let (radius_x, radius_y) = (radius * stretch, radius / stretch);
    let reach = radius * 1.1;
    let place = |rng: &mut SampleRng, side: f64| match 0.9 * reach {
        margin if 2.0 * margin < side => rng.uniform(margin, side - margin),
        _ => side / 2.0,
    };
    let centre = (place(rng, width), place(rng, height));
    let (sin, cos) = rng.uniform(0.0, TAU).sin_cos();
    // Lighter than the background, for any hue, so that a network need not learn which is the figure.
    let near = random_colour(rng, 120.0, 245.0);
    let far: Colour = std::array::from_fn(|i| (near[i] + rng.uniform(-30.0, 30.0)).clamp(0.0, 255.0));
    picture.paint(centre, reach + 1.0, |x, y| {
        let (u, v) = ((cos * x + sin * y) / radius_x, (cos * y - sin * x) / radius_y);
        let part = (0.5 + 0.5 * u).clamp(0.0, 1.0);
        let colour = std::array::from_fn(|i| near[i] + (far[i] - near[i]) * part);
        (0.5 - shape.distance(u, v) * radius, colour)
    });

    // One line may cross the shape.
    for _ in 0..rng.below(2) {
        picture.stray_line(rng);
    }
    let noise = rng.uniform(2.0, 8.0);
    picture.pixels.iter().flatten().map(|value| (value + noise * rng.normal()).round() as u8).collect()
}

/// An outline around the origin that fits into the unit circle.
enum Shape {
    Disc,
    /// A disc with a concentric hole.
    Ring,
    Polygon(Vec<Point>),
}

const HOLE_RADIUS: f64 = 0.58;

impl Shape {
    fn of(class: &str) -> Shape {
        let star = |corners: u32, inner: f64| {
            let corner = |i: u32| {
                let radius = if i.is_multiple_of(2) { 1.0 } else { inner };
                let (sin, cos) = (PI * f64::from(i) / f64::from(corners)).sin_cos();
                (radius * cos, radius * sin)
            };
            Shape::Polygon((0..2 * corners).map(corner).collect())
        };
        match class {
            "circle" => Shape::Disc,
            "ring" => Shape::Ring,
            // A regular polygon is a star whose inner corners lie on its sides.
            "triangle" => star(3, 0.5),
            "square" => star(4, std::f64::consts::FRAC_1_SQRT_2),
            "star" => star(5, 0.42),
            _ => {
                let (arm, end) = (0.28, 0.96);
                let quarter = [(end, -arm), (end, arm), (arm, arm)];
                let turn = |(x, y): Point, quarters: u32| (0..quarters).fold((x, y), |(x, y), _| (-y, x));
                Shape::Polygon((0..4).flat_map(|quarters| quarter.map(|point| turn(point, quarters))).collect())
            }
        }
    }

    fn area(&self) -> f64 {
        match self {
            Shape::Disc => PI,
            Shape::Ring => PI * (1.0 - HOLE_RADIUS * HOLE_RADIUS),
            Shape::Polygon(corners) => edges(corners).map(|((ax, ay), (bx, by))| ax * by - ay * bx).sum::<f64>() / 2.0,
        }
    }

    /// Distance to the outline, negative inside.
    fn distance(&self, x: f64, y: f64) -> f64 {
        let radius = x.hypot(y);
        match self {
            Shape::Disc => radius - 1.0,
            Shape::Ring => (radius - 1.0).max(HOLE_RADIUS - radius),
            Shape::Polygon(corners) => {
                let (mut nearest, mut inside) = (f64::MAX, false);
                for ((ax, ay), (bx, by)) in edges(corners) {
                    nearest = nearest.min(distance_to_segment((x, y), (ax, ay), (bx, by)));
                    // Counts the edges that a ray to the right crosses.
                    if (ay > y) != (by > y) && x < ax + (bx - ax) * (y - ay) / (by - ay) {
                        inside = !inside;
                    }
                }
                if inside { -nearest } else { nearest }
            }
        }
    }
}

fn edges(corners: &[Point]) -> impl Iterator<Item = (Point, Point)> + '_ {
    corners.iter().copied().zip(corners.iter().copied().cycle().skip(1))
}

fn distance_to_segment((x, y): Point, (ax, ay): Point, (bx, by): Point) -> f64 {
    let (dx, dy) = (bx - ax, by - ay);
    let part = (((x - ax) * dx + (y - ay) * dy) / (dx * dx + dy * dy).max(1e-12)).clamp(0.0, 1.0);
    (x - ax - part * dx).hypot(y - ay - part * dy)
}

fn random_colour(rng: &mut SampleRng, low: f64, high: f64) -> Colour {
    std::array::from_fn(|_| rng.uniform(low, high))
}

/// A picture that is being drawn; values 0 to 255.
struct Picture {
    width_px: usize,
    height_px: usize,
    pixels: Vec<Colour>,
}

impl Picture {
    /// A background: two colours mixed by smooth noise of two scales.
    fn textured(width_px: usize, height_px: usize, rng: &mut SampleRng) -> Picture {
        let from = random_colour(rng, 10.0, 120.0);
        let to: Colour = std::array::from_fn(|i| (from[i] + rng.uniform(-50.0, 50.0)).clamp(0.0, 255.0));
        let (coarse, fine) = (Noise::new(rng, 24.0), Noise::new(rng, 7.0));
        let at = |i: usize| {
            let (x, y) = ((i % width_px) as f64, (i / width_px) as f64);
            let part = 0.65 * coarse.at(x, y) + 0.35 * fine.at(x, y);
            std::array::from_fn(|i| from[i] + (to[i] - from[i]) * part)
        };
        Picture { width_px, height_px, pixels: (0..width_px * height_px).map(at).collect() }
    }

    /// Blends in the result of `shade` for the offset from `centre`: the coverage of a pixel (0 none, 1 all), and its
    /// colour. Only pixels within `reach` are visited.
    fn paint(&mut self, centre: Point, reach: f64, shade: impl Fn(f64, f64) -> (f64, Colour)) {
        let span = |centre: f64, limit: usize| {
            (centre - reach).clamp(0.0, limit as f64) as usize..(centre + reach + 1.0).clamp(0.0, limit as f64) as usize
        };
        for y in span(centre.1, self.height_px) {
            for x in span(centre.0, self.width_px) {
                let (coverage, colour) = shade(x as f64 + 0.5 - centre.0, y as f64 + 0.5 - centre.1);
                let pixel = &mut self.pixels[y * self.width_px + x];
                for (old, new) in pixel.iter_mut().zip(colour) {
                    *old += (new - *old) * coverage.clamp(0.0, 1.0);
                }
            }
        }
    }

    /// A straight line from anywhere to anywhere.
    fn stray_line(&mut self, rng: &mut SampleRng) {
        let (width, height) = (self.width_px as f64, self.height_px as f64);
        let mut end = || (rng.uniform(0.0, width), rng.uniform(0.0, height));
        let (a, b) = (end(), end());
        let (thickness, opacity) = (rng.uniform(0.8, 2.2), rng.uniform(0.3, 0.7));
        let colour = random_colour(rng, 15.0, 240.0);
        self.paint((0.0, 0.0), width + height, |x, y| {
            ((thickness / 2.0 + 0.5 - distance_to_segment((x, y), a, b)).min(1.0) * opacity, colour)
        });
    }
}

/// Smooth noise between 0 and 1: random values on a grid, interpolated.
struct Noise {
    grid: Vec<f64>,
    spacing_px: f64,
}

impl Noise {
    /// Nodes per side; enough for 120 px at the finest spacing.
    const NODES: usize = 20;

    fn new(rng: &mut SampleRng, spacing_px: f64) -> Noise {
        Noise { grid: (0..Noise::NODES * Noise::NODES).map(|_| rng.unit()).collect(), spacing_px }
    }

    fn at(&self, x: f64, y: f64) -> f64 {
        let (x, y) = (x / self.spacing_px, y / self.spacing_px);
        let (column, row) = ((x as usize).min(Noise::NODES - 2), (y as usize).min(Noise::NODES - 2));
        let smooth = |part: f64| part * part * (3.0 - 2.0 * part);
        let (px, py) = (smooth(x - column as f64), smooth(y - row as f64));
        let node = |dx: usize, dy: usize| self.grid[(row + dy) * Noise::NODES + column + dx];
        let along = |dy: usize| node(0, dy) + (node(1, dy) - node(0, dy)) * px;
        along(0) + (along(1) - along(0)) * py
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::folder::tests::files;
    use std::collections::BTreeSet;

    const SMALL: DemoOptions = DemoOptions { train: 62, test: 12, seed: 3 };

    #[test]
    fn equal_options_give_equal_bytes_and_every_picture_differs() {
        let dir = tempfile::tempdir().unwrap();
        let mut calls = Vec::new();
        write_demo_data(&dir.path().join("a"), &SMALL, |done, total| calls.push((done, total))).unwrap();
        assert_eq!(calls, (1..=74).map(|done| (done, 74)).collect::<Vec<_>>());
        write_demo_data(&dir.path().join("deep/er/b"), &SMALL, |_, _| ()).unwrap();
        let (a, b) = (files(&dir.path().join("a")), files(&dir.path().join("deep/er/b")));
        assert_eq!(a, b);
        assert_eq!(a.len(), 62 + 12 + 1);
        assert!(a.contains_key("train/circle/0010.jpg") && a.contains_key("test/triangle/0001.jpg"));
        assert_eq!(a.values().collect::<BTreeSet<_>>().len(), a.len(), "two files are equal");
        let list = feedline::read::ImageList::train(dir.path().join("a").as_path()).unwrap();
        assert_eq!(list.classes, DEMO_CLASSES);
        let counts: Vec<_> =
            (0..6).map(|class| list.entries.iter().filter(|entry| entry.class == class).count()).collect();
        assert_eq!(counts, [11, 11, 10, 10, 10, 10]);
        let sizes: BTreeSet<_> = list
            .entries
            .iter()
            .map(|entry| {
                let info = libjpeg_turbo_rs::decompress(&fs::read(&entry.path).unwrap()).unwrap();
                assert!((72..=120).contains(&info.width) && (72..=120).contains(&info.height));
                (info.width, info.height)
            })
            .collect();
        assert!(sizes.len() > 40, "{sizes:?}");
        write_demo_data(&dir.path().join("c"), &DemoOptions { seed: 4, ..SMALL }, |_, _| ()).unwrap();
        assert_ne!(files(&dir.path().join("c"))["test/star/0000.jpg"], a["test/star/0000.jpg"]);
    }

    #[test]
    fn a_folder_with_something_in_it_is_used_or_left_alone() {
        let dir = tempfile::tempdir().unwrap();
        let data = dir.path().join("data");
        write_demo_data(&data, &SMALL, |_, _| ()).unwrap();
        let before = files(dir.path());
        write_demo_data(&data, &SMALL, |_, _| panic!("written twice")).unwrap();
        let text = write_demo_data(&data, &DemoOptions { seed: 9, ..SMALL }, |_, _| ()).unwrap_err().to_string();
        assert!(text.contains("other options") && text.contains("Choose another folder"), "{text}");
        assert_eq!(files(dir.path()), before);

        let other = dir.path().join("other");
        fs::create_dir(&other).unwrap();
        fs::write(other.join("mine.txt"), "mine").unwrap();
        let text = write_demo_data(&other, &SMALL, |_, _| ()).unwrap_err().to_string();
        assert!(text.contains("something else"), "{text}");
        assert_eq!(files(&other).len(), 1);
        let text = write_demo_data(&other.join("mine.txt"), &SMALL, |_, _| ()).unwrap_err().to_string();
        assert!(text.contains("mine.txt"), "{text}");
        assert!(write_demo_data(&dir.path().join("few"), &DemoOptions { test: 5, ..SMALL }, |_, _| ()).is_err());
        let names: Vec<_> = fs::read_dir(dir.path()).unwrap().map(|entry| entry.unwrap().file_name()).collect();
        assert_eq!(names.len(), 2, "left behind: {names:?}");
    }

    #[test]
    fn outlines_enclose_the_area_they_say() {
        for class in DEMO_CLASSES {
            let shape = Shape::of(class);
            let steps = 400;
            let inside = (0..steps * steps)
                .filter(|i| {
                    let place = |at: i32| (f64::from(at) + 0.5) / f64::from(steps) * 2.2 - 1.1;
                    shape.distance(place(i % steps), place(i / steps)) < 0.0
                })
                .count();
            let area = inside as f64 * (2.2 / f64::from(steps)).powi(2);
            assert!((area - shape.area()).abs() < 0.01, "{class}: {area} is not {}", shape.area());
        }
    }
}
