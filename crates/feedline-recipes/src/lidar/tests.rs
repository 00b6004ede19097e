//! Tests of the recipe's data. The frames are made here: a camera ahead, boxes with points in them, and what else there is.

mod delivery;
mod geometry;
mod refusals;
mod yaml;

use super::options::{Augment, Axis, PerMode, Process, SampleGroup};
use super::*;
use feedline::augment::boxes::Box3d;
use feedline::deliver::{Loader, LoaderOptions};
use feedline::pipeline::Pipeline;
use feedline::plan::Plan;
use feedline::plan::rng::SampleRng;
use feedline::read::Storage;
use feedline::{Batch, BatchField, Result};
use std::path::Path;
use std::sync::Arc;

/// Classes of the boxes that are drawn, the last of which does not count.
const NAMES: [&str; 4] = ["Car", "Pedestrian", "Cyclist", "Van"];

fn calib() -> Calib {
    let one = |rows: [[f32; 4]; 3]| [rows[0], rows[1], rows[2], [0.0, 0.0, 0.0, 1.0]];
    Calib {
        p2: one([[700.0, 0.0, 620.0, 45.0], [0.0, 700.0, 180.0, -0.3], [0.0, 0.0, 1.0, 0.005]]),
        r0_rect: one([[1.0, 0.0, 0.0, 0.0], [0.0, 1.0, 0.0, 0.0], [0.0, 0.0, 1.0, 0.0]]),
        tr_velo_to_cam: one([[0.0, -1.0, 0.0, 0.0], [0.0, 0.0, -1.0, -0.08], [1.0, 0.0, 0.0, -0.27]]),
    }
}

fn a_box(rng: &mut SampleRng, class: usize) -> Box3d {
    let size = [[3.9, 1.6, 1.56], [0.8, 0.6, 1.73], [1.76, 0.6, 1.73], [5.0, 1.9, 2.2]][class];
    let x = rng.uniform(8.0, 60.0);
    let center = [x, rng.uniform(-0.5, 0.5) * x, rng.uniform(-1.2, -0.6)];
    Box3d { center, size: size.map(|side: f64| side * rng.uniform(0.9, 1.1)), heading: rng.uniform(-4.0, 4.0) }
}

/// `count` points inside of a box, in its own turned coordinates from its middle.
fn inside(rng: &mut SampleRng, own: &Box3d, count: usize) -> Vec<[f64; 3]> {
    let (sin, cos) = own.heading.sin_cos();
    (0..count)
        .map(|_| {
            let [x, y, z] = own.size.map(|side| side * rng.uniform(-0.49, 0.49));
            [x * cos - y * sin, x * sin + y * cos, z]
        })
        .collect()
}

fn write_rows(path: &Path, rows: &[[f32; 4]]) {
    std::fs::create_dir_all(path.parent().unwrap()).unwrap();
    std::fs::write(path, rows.as_flattened().iter().flat_map(|v| v.to_le_bytes()).collect::<Vec<u8>>()).unwrap();
}

fn lines<T: serde::Serialize>(path: &Path, values: &[T]) {
    let text: String = values.iter().map(|value| serde_json::to_string(value).unwrap() + "\n").collect();
    std::fs::write(path, text).unwrap();
}

/// Writes `count` frames and a data base of 40 objects. A point's fourth number says which box of its frame it is in, from 1,
/// or 0 for none; of a pasted object it is 100 more than its number. Frame 2 has no box that counts.
fn scenes(root: &Path, count: usize) {
    let mut frames = Vec::new();
    for number in 0..count {
        let mut rng = SampleRng::new(1, 0, number as u64, "frame");
        let id = format!("{number:06}");
        let mut boxes: Vec<(usize, Box3d)> = Vec::new();
        for class in [0, 0, 1, 2, 3, 0] {
            let class = if number == 2 { 3 } else { class };
            let own = a_box(&mut rng, class);
            let larger = |own: &Box3d| Box3d { size: own.size.map(|side| side + 1.0), ..*own };
            if !boxes.iter().any(|(_, other)| larger(&own).overlaps_xy(&larger(other))) {
                boxes.push((class, own));
            }
        }
        let mut rows: Vec<[f32; 4]> = Vec::new();
        for (at, (_, own)) in boxes.iter().enumerate() {
            for point in inside(&mut rng, own, 30) {
                let [x, y, z] = std::array::from_fn(|axis| (own.center[axis] + point[axis]) as f32);
                rows.push([x, y, z, at as f32 + 1.0]);
            }
        }
        while rows.len() < 1500 {
            let place = [rng.uniform(-20.0, 80.0), rng.uniform(-50.0, 50.0), rng.uniform(-3.0, 1.5)];
            let point = place.map(|value| value as f32);
            if !boxes.iter().any(|(_, own)| own.bounds().contains(point)) {
                rows.push([point[0], point[1], point[2], 0.0]);
            }
        }
        write_rows(&root.join("training/velodyne").join(format!("{id}.bin")), &rows);
        let names: Vec<String> =
            boxes.iter().map(|(class, _)| NAMES[*class].to_owned()).chain(["DontCare".into()]).collect();
        let annos = Annos {
            bbox: (0..names.len()).map(|at| [at as f64; 4]).collect(),
            name: names,
            gt_boxes_lidar: boxes.iter().map(|(_, own)| *own).collect(),
            ..Annos::default()
        };
        frames.push(Frame {
            point_cloud: frame::PointCloud { num_features: 4, lidar_idx: id.clone() },
            image: Some(frame::Image { image_idx: id, image_shape: [375, 1242] }),
            calib: Some(calib()),
            annos: Some(annos),
            road_plane: Some([0.0, -1.0, 0.02, 1.7]),
        });
    }
    lines(&root.join("kitti_infos_train.jsonl"), &frames);
    let (mut objects, mut points) = (Vec::new(), Vec::new());
    for number in 0..40usize {
        let mut rng = SampleRng::new(2, 0, number as u64, "object");
        let own = a_box(&mut rng, number % 3);
        let count = 4 + number % 8;
        objects.push(DbObject {
            name: NAMES[number % 3].into(),
            path: "gt_database/train.bin".into(),
            offset_bytes: Some(16 * points.len() as u64),
            image_idx: "000000".into(),
            gt_idx: number as i64,
            box3d_lidar: own,
            num_points_in_gt: count as u64,
            difficulty: if number % 5 == 0 { -1 } else { 0 },
            bbox: [0.0; 4],
            score: -1.0,
        });
        points.extend(
            inside(&mut rng, &own, count)
                .into_iter()
                .map(|[x, y, z]| [x as f32, y as f32, z as f32, 101.0 + number as f32]),
        );
    }
    write_rows(&root.join("gt_database/train.bin"), &points);
    lines(&root.join("kitti_dbinfos_train.jsonl"), &objects);
}

fn gt_sampling() -> Augment {
    let group = |name: &str, count| SampleGroup { name: name.into(), count, min_points: 5 };
    Augment::GtSampling {
        db_info_path: vec!["kitti_dbinfos_train.pkl".into()],
        sample_groups: vec![group("Car", 10), group("Pedestrian", 6), group("Cyclist", 6)],
        removed_difficulties: vec![-1],
        use_road_plane: false,
        limit_whole_scene: true,
        remove_extra_width: [0.0; 3],
    }
}

/// `kitti_dataset.yaml`'s, with wide voxels.
#[expect(clippy::approx_constant, reason = "the digits of the YAML file")]
fn options() -> LidarOptions {
    LidarOptions {
        augment: vec![
            gt_sampling(),
            Augment::RandomWorldFlip { along_axis: vec![Axis::X] },
            Augment::RandomWorldRotation { angle_rad: [-0.78539816, 0.78539816] },
            Augment::RandomWorldScaling { factor: [0.95, 1.05] },
        ],
        process: vec![
            Process::MaskPointsAndBoxesOutsideRange { remove_outside_boxes: true },
            Process::ShufflePoints { enabled: PerMode { train: true, test: false } },
            Process::TransformPointsToVoxels {
                voxel_size: [0.4, 0.4, 4.0],
                max_points_per_voxel: 5,
                max_number_of_voxels: PerMode { train: 300, test: 40_000 },
            },
        ],
        ..LidarOptions::default()
    }
}

fn files(root: &Path, training: bool) -> LidarFiles {
    LidarFiles {
        root: root.to_path_buf(),
        split_dir: "training".into(),
        info_path: vec!["kitti_infos_train.pkl".into()],
        training,
    }
}

fn opened(root: &Path, training: bool, options: &LidarOptions) -> Result<Clouds> {
    open(&files(root, training), options, &Storage::default())
}

fn loader(data: &Arc<dyn Pipeline>, plan: Plan, rank: u64, batch_size: u64, num_workers: usize) -> Loader {
    let options = LoaderOptions { rank, batch_size, num_workers, ..LoaderOptions::default() };
    Loader::new(Arc::clone(data), plan, options).unwrap()
}

fn epochs(loader: &mut Loader, count: usize) -> Vec<Batch> {
    (0..count).flat_map(|_| loader.iter().collect::<Result<Vec<_>>>().unwrap()).collect()
}

/// The delivered points of a sample of a batch, without its number: x, y, z, tag.
fn points_of(batch: &Batch, at: usize) -> Vec<[f32; 4]> {
    let Some(BatchField::Concat { values, offsets }) = batch.field("points") else { panic!("no points") };
    let own = offsets.as_slice::<i64>();
    values.as_slice::<f32>()[5 * own[at] as usize..5 * own[at + 1] as usize]
        .chunks(5)
        .map(|row| {
            assert_eq!(row[0], at as f32);
            [row[1], row[2], row[3], row[4]]
        })
        .collect()
}

/// The delivered boxes of a sample, and whether they were pasted.
fn boxes_of(batch: &Batch, at: usize) -> Vec<(Box3d, f32, bool)> {
    let Some(BatchField::Pad { values, counts }) = batch.field("gt_boxes") else { panic!("no boxes") };
    let (most, count) = (values.shape()[1], counts.as_slice::<i64>()[at] as usize);
    let pasted = match batch.field("gt_pasted") {
        Some(BatchField::Pad { values, .. }) => values.as_slice::<u8>()[at * most..][..count].to_vec(),
        _ => vec![0; count],
    };
    let rows = values.as_slice::<f32>()[8 * at * most..].chunks(8).take(count).zip(pasted);
    rows.map(|(row, pasted)| {
        let own: [f64; 7] = std::array::from_fn(|column| f64::from(row[column]));
        (Box3d::from(own), row[7], pasted == 1)
    })
    .collect()
}
