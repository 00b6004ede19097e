//! Cuts the boxes of a Pascal VOC data set into a tree of class folders that `feedline train --data` takes.
//!
//!     cargo run --release -p feedline-recipes --example voc_crops -- VOC_DIR OUT [--max-per-class N]
//!
//! VOC_DIR holds Annotations/, JPEGImages/ and ImageSets/Main/. The training split is trainval.txt, or train.txt and
//! val.txt together; the test split is test.txt. Boxes are clipped to the picture; boxes without a pixel are skipped
//! and counted. At most N crops of each class and split are written, the first ones.

use feedline::decode::RgbImage;
use feedline::plot::encode_png;
use std::collections::BTreeMap;
use std::error::Error;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

const USAGE: &str = "usage: voc_crops VOC_DIR OUT [--max-per-class N]";

type Result<T> = std::result::Result<T, Box<dyn Error>>;

fn main() -> ExitCode {
    match run() {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error}");
            ExitCode::FAILURE
        }
    }
}

fn run() -> Result<()> {
    let (voc, out, max_per_class) = arguments()?;
    if fs::read_dir(&out).is_ok_and(|mut entries| entries.next().is_some()) {
        return Err(format!("{} is not empty. Choose a new folder", out.display()).into());
    }
    for split in ["train", "test"] {
        let (mut written, mut degenerate) = (BTreeMap::new(), 0);
        for id in ids(&voc, split)? {
            let objects = objects(&voc.join("Annotations").join(format!("{id}.xml")))?;
            let path = voc.join("JPEGImages").join(format!("{id}.jpg"));
            let picture = libjpeg_turbo_rs::decompress_to(&read(&path)?, libjpeg_turbo_rs::PixelFormat::Rgb)
                .map_err(|error| format!("failed to decode {}: {error}", path.display()))?;
            for (number, object) in objects.iter().enumerate() {
                let Some(crop) = object.cut(&picture.data, picture.width, picture.height) else {
                    degenerate += 1;
                    continue;
                };
                let count = written.entry(object.class.clone()).or_insert(0u64);
                if *count < max_per_class {
                    *count += 1;
                    let folder = out.join(split).join(&object.class);
                    fs::create_dir_all(&folder)
                        .map_err(|error| format!("failed to make {}: {error}", folder.display()))?;
                    let file = folder.join(format!("{id}_{number:03}.png"));
                    fs::write(&file, encode_png(&crop)?)
                        .map_err(|error| format!("failed to write {}: {error}", file.display()))?;
                }
            }
        }
        let counts: Vec<_> = written.iter().map(|(class, count)| format!("{class} {count}")).collect();
        println!("{split}: {}; {degenerate} boxes without a pixel skipped", counts.join(", "));
    }
    Ok(())
}

fn arguments() -> Result<(PathBuf, PathBuf, u64)> {
    let (mut folders, mut max_per_class) = (Vec::new(), u64::MAX);
    let mut arguments = std::env::args_os().skip(1);
    while let Some(argument) = arguments.next() {
        if argument == "--max-per-class" {
            let number = arguments.next().and_then(|number| number.to_str()?.parse().ok()).filter(|&number| number > 0);
            max_per_class = number.ok_or("--max-per-class needs a number of 1 or more")?;
        } else if argument.to_str().is_some_and(|text| text.starts_with("--")) {
            return Err(format!("unknown option {}\n{USAGE}", argument.display()).into());
        } else {
            folders.push(PathBuf::from(argument));
        }
    }
    let [voc, out] = <[PathBuf; 2]>::try_from(folders).map_err(|_| USAGE)?;
    Ok((voc, out, max_per_class))
}

/// The picture names of a split, in the order of the list.
fn ids(voc: &Path, split: &str) -> Result<Vec<String>> {
    let list = |name: &str| voc.join("ImageSets/Main").join(name);
    let files = match split {
        "train" if list("trainval.txt").exists() => vec![list("trainval.txt")],
        "train" => vec![list("train.txt"), list("val.txt")],
        _ => vec![list("test.txt")],
    };
    let mut ids = Vec::new();
    for file in files {
        let text = String::from_utf8(read(&file)?).map_err(|_| format!("{} is not UTF-8", file.display()))?;
        ids.extend(text.lines().filter_map(|line| line.split_whitespace().next()).map(str::to_owned));
    }
    Ok(ids)
}

/// A labelled box; VOC counts pixels from 1 and includes both ends.
struct Object {
    class: String,
    x_min: f64,
    y_min: f64,
    x_max: f64,
    y_max: f64,
}

impl Object {
    /// The part of the picture in the box, if there is any.
    fn cut(&self, pixels: &[u8], width_px: usize, height_px: usize) -> Option<RgbImage> {
        if self.x_max <= self.x_min || self.y_max <= self.y_min {
            return None;
        }
        // A float to integer cast saturates, so a box left of the picture begins at its edge.
        let span = |min: f64, max: f64, limit: usize| ((min - 1.0).floor() as usize, (max.ceil() as usize).min(limit));
        let (left, right) = span(self.x_min, self.x_max, width_px);
        let (top, bottom) = span(self.y_min, self.y_max, height_px);
        if left >= right || top >= bottom {
            return None;
        }
        let row = |y: usize| &pixels[3 * (y * width_px + left)..3 * (y * width_px + right)];
        let pixels = (top..bottom).flat_map(row).copied().collect();
        Some(RgbImage { width_px: (right - left) as u32, height_px: (bottom - top) as u32, pixels })
    }
}

fn objects(path: &Path) -> Result<Vec<Object>> {
    let bad = |problem: String| format!("{}: {problem}", path.display());
    let text = String::from_utf8(read(path)?).map_err(|_| bad("not UTF-8".into()))?;
    let document = roxmltree::Document::parse(&text).map_err(|error| bad(error.to_string()))?;
    let child = |node: roxmltree::Node<'_, '_>, name: &str| -> Result<String> {
        let text = node.children().find(|child| child.has_tag_name(name)).and_then(|child| child.text());
        Ok(text.map(str::trim).ok_or_else(|| bad(format!("an object without <{name}>")))?.to_owned())
    };
    let object = |node: roxmltree::Node<'_, '_>| -> Result<Object> {
        let class = child(node, "name")?;
        if class.is_empty() || class.starts_with('.') || class.contains(['/', '\\']) {
            return Err(bad(format!("the class `{class}` cannot be the name of a folder")).into());
        }
        let corners = node.children().find(|child| child.has_tag_name("bndbox"));
        let corners = corners.ok_or_else(|| bad("an object without <bndbox>".into()))?;
        let number = |name: &str| -> Result<f64> {
            let text = child(corners, name)?;
            Ok(text.parse().map_err(|_| bad(format!("<{name}> is `{text}`, not a number")))?)
        };
        let (x_min, y_min, x_max, y_max) = (number("xmin")?, number("ymin")?, number("xmax")?, number("ymax")?);
        Ok(Object { class, x_min, y_min, x_max, y_max })
    };
    document.root_element().children().filter(|node| node.has_tag_name("object")).map(object).collect()
}

fn read(path: &Path) -> Result<Vec<u8>> {
    fs::read(path).map_err(|error| format!("failed to read {}: {error}", path.display()).into())
}
