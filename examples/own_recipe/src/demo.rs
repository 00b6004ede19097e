//! The demo data set: bright squares on dark ground; the number is the square's share of the picture.

use feedline::decode::RgbImage;
use feedline::plan::rng::SampleRng;
use feedline::plot::encode_png;
use feedline::{Error, Result};
use std::fs;
use std::path::Path;

const SIDE_PX: u32 = 16;

/// Writes 128 + 32 pictures and their lists into `dir`, unless the lists are there.
///
/// # Errors
/// A file that cannot be written.
pub fn write(dir: &Path, progress: &mut dyn FnMut(u64, u64)) -> Result<()> {
    let splits = [("train", 128), ("test", 32)];
    if splits.iter().all(|(split, _)| dir.join(format!("{split}.csv")).is_file()) {
        return Ok(());
    }
    let mut done = 0;
    for (split, count) in splits {
        let folder = dir.join(split);
        fs::create_dir_all(&folder).map_err(|source| Error::io("make the folder", &folder, source))?;
        let mut list = String::new();
        for index in 0..count {
            let (image, value) = draw(&mut SampleRng::new(1, 0, index, split));
            let name = format!("{split}/{index:03}.png");
            save(&dir.join(&name), &encode_png(&image)?)?;
            list += &format!("{name},{value}\n");
            done += 1;
            progress(done, 160);
        }
        save(&dir.join(format!("{split}.csv")), list.as_bytes())?;
    }
    Ok(())
}

fn save(path: &Path, bytes: &[u8]) -> Result<()> {
    fs::write(path, bytes).map_err(|source| Error::io("write", path, source))
}

fn draw(rng: &mut SampleRng) -> (RgbImage, f64) {
    let size = 2 + rng.below(11) as u32;
    let [left, top] = [0; 2].map(|_| rng.below(u64::from(SIDE_PX - size + 1)) as u32);
    let mut pixels = Vec::new();
    for at in 0..SIDE_PX * SIDE_PX {
        let (x, y) = (at % SIDE_PX, at / SIDE_PX);
        let is_inside = (left..left + size).contains(&x) && (top..top + size).contains(&y);
        pixels.extend([if is_inside { 220 } else { 30 }; 3]);
    }
    let value = f64::from(size * size) / f64::from(SIDE_PX * SIDE_PX);
    (RgbImage { width_px: SIDE_PX, height_px: SIDE_PX, pixels }, value)
}
