//! Finds the files of a work and draws crops.

use std::error::Error;
use std::fs::File;
use std::path::{Path, PathBuf};

use memmap2::Mmap;

/// Every file below `root`, in name order.
pub fn pictures(root: &str) -> Result<Vec<PathBuf>, Box<dyn Error>> {
    fn walk(folder: &Path, found: &mut Vec<PathBuf>) -> std::io::Result<()> {
        for entry in std::fs::read_dir(folder)? {
            let path = entry?.path();
            if path.is_dir() {
                walk(&path, found)?;
            } else {
                found.push(path);
            }
        }
        Ok(())
    }
    let mut found = Vec::new();
    walk(Path::new(root), &mut found)?;
    found.sort();
    if found.is_empty() {
        return Err(format!("no pictures in {root}").into());
    }
    Ok(found)
}

/// Rows of a C-ordered f32 `.npy` file by memory map. The map lives as long as the process.
#[derive(Clone, Copy)]
pub struct Rows {
    values: &'static [f32],
    pub count: usize,
    pub width: usize,
}

impl Rows {
    pub fn open(path: &str) -> Result<Self, Box<dyn Error>> {
        // SAFETY: the bench's own file; nothing writes to it while the bench runs.
        let map: &'static Mmap = Box::leak(Box::new(unsafe { Mmap::map(&File::open(path)?)? }));
        let header_len = u16::from_le_bytes([map[8], map[9]]) as usize;
        let header = std::str::from_utf8(&map[10..10 + header_len])?;
        if !header.contains("'<f4'") || header.contains("'fortran_order': True") {
            return Err("not a C-ordered f32 array of .npy version 1".into());
        }
        let shape = header.split('(').nth(1).and_then(|rest| rest.split(')').next()).ok_or("no shape")?;
        let shape = shape
            .split(',')
            .map(str::trim)
            .filter(|word| !word.is_empty())
            .map(str::parse)
            .collect::<Result<Vec<usize>, _>>()?;
        let bytes = &map[10 + header_len..];
        // SAFETY: every bit pattern is an f32, and align_to keeps the alignment.
        let (before, values, after) = unsafe { bytes.align_to::<f32>() };
        if !before.is_empty() || !after.is_empty() || values.len() != shape.iter().product::<usize>() {
            return Err("the array is cut short or not aligned".into());
        }
        Ok(Self { values, count: shape[0], width: shape[1..].iter().product() })
    }

    pub fn row(&self, index: usize) -> &'static [f32] {
        &self.values[index * self.width..(index + 1) * self.width]
    }

    pub fn all(&self) -> &'static [f32] {
        self.values
    }
}

/// A crop box in pixels of the source.
pub struct Crop {
    pub left: usize,
    pub top: usize,
    pub width: usize,
    pub height: usize,
}

/// RandomResizedCrop's box: scale 0.08 to 1, ratio 3/4 to 4/3, ten tries, then the largest centred one.
pub fn random_crop(rng: &mut fastrand::Rng, width: usize, height: usize) -> Crop {
    let (w, h) = (width as f64, height as f64);
    for _ in 0..10 {
        let area = w * h * (0.08 + 0.92 * rng.f64());
        let (low, high) = ((0.75f64).ln(), (4.0f64 / 3.0).ln());
        let ratio = (low + (high - low) * rng.f64()).exp();
        let crop_w = (area * ratio).sqrt().round() as usize;
        let crop_h = (area / ratio).sqrt().round() as usize;
        if (1..=width).contains(&crop_w) && (1..=height).contains(&crop_h) {
            let left = rng.usize(0..=width - crop_w);
            let top = rng.usize(0..=height - crop_h);
            return Crop { left, top, width: crop_w, height: crop_h };
        }
    }
    let crop_w = width.min((h * 4.0 / 3.0).round() as usize);
    let crop_h = height.min((w * 4.0 / 3.0).round() as usize);
    Crop { left: (width - crop_w) / 2, top: (height - crop_h) / 2, width: crop_w, height: crop_h }
}

/// The source square that "resize the short side to 256, then centre crop 224" shows.
pub fn centre_crop(width: usize, height: usize) -> Crop {
    let side = (width.min(height) * 224).div_ceil(256);
    Crop { left: (width - side) / 2, top: (height - side) / 2, width: side, height: side }
}
