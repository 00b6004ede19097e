//! Tests of the recipe, and what they share: small scenes as NumPy and Pillow write them.

mod delivery;
mod refusals;
#[cfg(feature = "burn")]
mod training;

use super::{SceneFiles, SceneOptions, Scenes, open};
use feedline::decode::RgbImage;
use feedline::plan::rng::SampleRng;
use feedline::plot::encode_png;
use feedline::read::Storage;
use std::fs;
use std::io::Write;
use std::path::Path;

pub(super) const IMAGE_PX: [u32; 2] = [24, 32];
pub(super) const GRID: [usize; 3] = [6, 4, 6];
pub(super) const VOXELS: usize = 6 * 4 * 6;

pub(super) fn options() -> SceneOptions {
    SceneOptions { image_px: IMAGE_PX, grid: GRID, ..SceneOptions::default() }
}

/// A `.npy` file as NumPy writes it.
pub(super) fn npy(descr: &str, shape: &[usize], data: &[u8]) -> Vec<u8> {
    let shape: String = shape.iter().map(|axis| format!("{axis}, ")).collect();
    let text = format!("{{'descr': '{descr}', 'fortran_order': False, 'shape': ({shape}), }}");
    let length = (10 + text.len() + 1).next_multiple_of(64) - 10;
    let mut file = [&b"\x93NUMPY\x01\x00"[..], &(length as u16).to_le_bytes()].concat();
    file.extend(format!("{text:<width$}\n", width = length - 1).bytes());
    file.extend(data);
    file
}

/// A `.npz` file with these arrays, not compressed.
pub(super) fn npz(members: &[(&str, Vec<u8>)]) -> Vec<u8> {
    let mut file = Vec::new();
    let mut archive = rawzip::ZipArchiveWriter::new(&mut file);
    for (name, content) in members {
        let (mut entry, config) = archive.new_file(format!("{name}.npy")).start().unwrap();
        let mut writer = config.wrap(&mut entry);
        writer.write_all(content).unwrap();
        let (_, descriptor) = writer.finish().unwrap();
        entry.finish(descriptor).unwrap();
    }
    archive.finish().unwrap();
    file
}

pub(super) fn floats(values: &[f32]) -> Vec<u8> {
    values.iter().flat_map(|value| value.to_le_bytes()).collect()
}

pub(super) fn longs(values: &[i64]) -> Vec<u8> {
    values.iter().flat_map(|value| value.to_le_bytes()).collect()
}

pub(super) fn write(path: &Path, bytes: &[u8]) {
    fs::create_dir_all(path.parent().unwrap()).unwrap();
    fs::write(path, bytes).unwrap();
}

pub(super) fn noise(rng: &mut SampleRng, [height_px, width_px]: [u32; 2]) -> RgbImage {
    let pixels = (0..3 * height_px * width_px).map(|_| rng.below(256) as u8).collect();
    RgbImage { width_px, height_px, pixels }
}

/// Writes the sample `id` of TorchSSC's layout.
pub(super) fn write_scene(dir: &Path, id: &str, seed: u64) {
    let mut rng = SampleRng::new(seed, 0, 0, id);
    write(&dir.join(format!("RGB/NYU{id}_colors.png")), &encode_png(&noise(&mut rng, IMAGE_PX)).unwrap());
    write(&dir.join(format!("HHA/{id}.png")), &encode_png(&noise(&mut rng, IMAGE_PX)).unwrap());
    let label: Vec<u8> = (0..VOXELS).map(|at| if at % 17 == 0 { 255 } else { rng.below(12) as u8 }).collect();
    write(&dir.join(format!("Label/{id}.npz")), &npz(&[("arr_0", npy("|u1", &[VOXELS], &label))]));
    let tsdf: Vec<f32> = (0..VOXELS).map(|_| rng.uniform(-1.0, 1.0) as f32).collect();
    let weight: Vec<f32> = (0..VOXELS).map(|_| f32::from(u8::from(rng.chance(0.6)))).collect();
    let tsdf =
        npz(&[("arr_0", npy("<f4", &[VOXELS], &floats(&tsdf))), ("arr_1", npy("<f4", &[VOXELS], &floats(&weight)))]);
    write(&dir.join(format!("TSDF/{id}.npz")), &tsdf);
    let mapping: Vec<i64> = (0..VOXELS).map(|_| rng.below(24 * 32 + 1) as i64).collect();
    write(&dir.join(format!("Mapping/{id}.npz")), &npz(&[("arr_0", npy("<i8", &[VOXELS], &longs(&mapping)))]));
    let sketch: Vec<u8> = (0..VOXELS).map(|_| rng.below(2) as u8).collect();
    write(&dir.join(format!("sketch3D/{id}.npy")), &npy("|u1", &GRID, &sketch));
}

/// A data set of samples 0001, 0002, ... and where its files are.
pub(super) fn scenes(dir: &Path, count: usize) -> SceneFiles {
    let ids: Vec<String> = (1..=count).map(|number| format!("{number:04}")).collect();
    ids.iter().for_each(|id| write_scene(dir, id, 5));
    write(&dir.join("train.txt"), (ids.join("\n") + "\n").as_bytes());
    SceneFiles::in_folder(dir, "train.txt", "train")
}

pub(super) fn opened(files: &SceneFiles) -> Scenes {
    open(files, &options(), &Storage::default()).unwrap()
}
