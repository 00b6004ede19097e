//! Tests of the demo data: the files, and that points, labels, pictures and the ground tell of the same street.

use super::*;
use crate::folder::tests::files as files_of;
use feedline::augment::boxes::{Box3d, wrapped};
use feedline::augment::points::Affine;
use feedline::decode::{Limits, RgbImage, decode_rgb, dimensions};
use std::collections::{BTreeMap, BTreeSet};
use std::f64::consts::FRAC_PI_2;

const SMALL: DemoOptions = DemoOptions { train: 3, val: 1, test: 1, seed: 3, beams: 24, steps: 200 };

/// For `add`.
fn nothing(_: &Path) -> Result<()> {
    Ok(())
}

fn text(files: &BTreeMap<String, Vec<u8>>, name: &str) -> String {
    String::from_utf8(files[name].clone()).unwrap()
}

#[test]
fn equal_options_give_equal_bytes_and_every_frame_differs() {
    let dir = tempfile::tempdir().unwrap();
    let mut calls = Vec::new();
    write_demo_data(&dir.path().join("a"), &SMALL, |done, total| calls.push((done, total)), nothing).unwrap();
    assert_eq!(calls, (1..=5).map(|done| (done, 5)).collect::<Vec<_>>());
    write_demo_data(&dir.path().join("deep/er/b"), &SMALL, |_, _| (), nothing).unwrap();
    let (a, b) = (files_of(&dir.path().join("a")), files_of(&dir.path().join("deep/er/b")));
    assert_eq!(a.keys().collect::<Vec<_>>(), b.keys().collect::<Vec<_>>());
    assert!(a == b, "two runs differ");
    let clouds: BTreeSet<_> = a.iter().filter(|(name, _)| name.ends_with(".bin")).map(|(_, bytes)| bytes).collect();
    assert_eq!(clouds.len(), 5, "two frames look alike");
    write_demo_data(&dir.path().join("c"), &DemoOptions { seed: 4, ..SMALL }, |_, _| (), nothing).unwrap();
    assert_ne!(files_of(&dir.path().join("c"))["training/label_2/000000.txt"], a["training/label_2/000000.txt"]);
}

#[test]
fn files_are_where_kitti_has_them_and_read_as_such() {
    let dir = tempfile::tempdir().unwrap();
    write_demo_data(&dir.path().join("a"), &SMALL, |_, _| (), nothing).unwrap();
    let files = files_of(&dir.path().join("a"));
    for (split, ids) in [("train", "000000\n000001\n000002\n"), ("val", "000003\n"), ("test", "000000\n")] {
        assert_eq!(text(&files, &format!("ImageSets/{split}.txt")), ids);
    }
    for (folder, count, labelled) in [("training", 4, true), ("testing", 1, false)] {
        for number in 0..count {
            let name = |kind: &str, end: &str| format!("{folder}/{kind}/{number:06}.{end}");
            let points = &files[&name("velodyne", "bin")];
            assert!(points.len().is_multiple_of(16) && points.len() > 16 * 1000, "{}", points.len());
            for row in points.chunks(16) {
                let [x, y, z, intensity]: [f32; 4] =
                    std::array::from_fn(|at| f32::from_le_bytes(row[4 * at..][..4].try_into().unwrap()));
                assert!((0.0..76.0).contains(&x) && y.abs() <= x * 1.001, "{x} {y}");
                assert!((-4.0..5.0).contains(&z) && (0.0..=0.99).contains(&intensity), "{z} {intensity}");
            }
            let calib = text(&files, &name("calib", "txt"));
            let names: Vec<&str> = calib.lines().filter_map(|line| line.split(' ').next()).collect();
            assert_eq!(names, ["P0:", "P1:", "P2:", "P3:", "R0_rect:", "Tr_velo_to_cam:", "Tr_imu_to_velo:", ""]);
            assert!(calib.contains("P0: 7.200000000000e+02 0.000000000000e+00 6.120000000000e+02"), "{calib}");
            assert!(calib.contains(" -7.630000000000e-02 "), "{calib}");
            assert_eq!(dimensions(&files[&name("image_2", "png")]).unwrap(), (1242, 375));
            assert_eq!(files.contains_key(&name("label_2", "txt")), labelled);
            if labelled {
                assert_eq!(text(&files, &name("planes", "txt")).lines().count(), 4);
                let labels = text(&files, &name("label_2", "txt"));
                for line in labels.lines() {
                    let words: Vec<&str> = line.split(' ').collect();
                    assert!(
                        words.len() == 15 && (words[0] == "DontCare" || DEMO_CLASSES.contains(&words[0])),
                        "{line}"
                    );
                    assert!(
                        words[0] != "DontCare" || words[8..] == ["-1", "-1", "-1", "-1000", "-1000", "-1000", "-10"]
                    );
                }
            }
        }
    }
}

#[test]
fn a_folder_with_something_in_it_is_used_or_left_alone() {
    let dir = tempfile::tempdir().unwrap();
    let data = dir.path().join("data");
    write_demo_data(&data, &SMALL, |_, _| (), nothing).unwrap();
    let before = files_of(dir.path());
    write_demo_data(&data, &SMALL, |_, _| (), |_| panic!("written twice")).unwrap();
    let text = write_demo_data(&data, &DemoOptions { seed: 9, ..SMALL }, |_, _| (), nothing).unwrap_err().to_string();
    assert!(text.contains("other options") && text.contains("Choose another folder"), "{text}");
    assert!(files_of(dir.path()) == before);
    for options in
        [DemoOptions { val: 0, ..SMALL }, DemoOptions { beams: 1, ..SMALL }, DemoOptions { steps: 5000, ..SMALL }]
    {
        let text = write_demo_data(&dir.path().join("none"), &options, |_, _| (), nothing).unwrap_err().to_string();
        assert!(text.contains("Ask for"), "{text}");
    }
    assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 1, "something was left behind");
}

#[test]
fn added_files_come_into_place_with_the_others_and_an_error_leaves_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let add = |folder: &Path| {
        // The frames are there by now.
        let points = fs::read(folder.join("training/velodyne/000000.bin")).unwrap().len() / 16;
        write(&folder.join("counts.txt"), format!("{points}\n").as_bytes())
    };
    write_demo_data(&dir.path().join("a"), &SMALL, |_, _| (), add).unwrap();
    let files = files_of(&dir.path().join("a"));
    let points = files["training/velodyne/000000.bin"].len() / 16;
    assert_eq!(text(&files, "counts.txt"), format!("{points}\n"));

    let fail = |folder: &Path| {
        write(&folder.join("half.txt"), b"1")?;
        Err(Error::config("there is no more to add", "Nothing"))
    };
    let error = write_demo_data(&dir.path().join("b"), &SMALL, |_, _| (), fail).unwrap_err().to_string();
    assert!(error.contains("there is no more to add"), "{error}");
    assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 1, "something was left behind");
}

/// The numbers of a line, behind the words that `skip` counts.
fn numbers<const N: usize>(line: &str, skip: usize) -> [f64; N] {
    let values: Vec<f64> = line.split(' ').skip(skip).map(|word| word.parse().unwrap()).collect();
    values.try_into().unwrap()
}

#[test]
fn what_is_printed_of_the_camera_is_the_camera_to_the_last_bit() {
    let text = files::calib_text();
    let lines: Vec<&str> = text.lines().collect();
    let kept = |value: f64| f64::from(value as f32);
    let [fx, _, u, tx, _, fy, v, ty, ..]: [f64; 12] = numbers(lines[2], 1).map(kept);
    let [a, b, c, d, e, f, g, h, i] = numbers(lines[4], 1).map(kept);
    let rectified = Affine([[a, b, c, 0.0], [d, e, f, 0.0], [g, h, i, 0.0]]);
    let rows: [f64; 12] = numbers(lines[5], 1).map(kept);
    let to_camera = Affine([0, 4, 8].map(|at| [rows[at], rows[at + 1], rows[at + 2], rows[at + 3]]));
    let camera = Camera::new();
    assert_eq!(camera.lidar_to_rect, to_camera.then(&rectified));
    assert_eq!(camera.rect_to_lidar, camera.lidar_to_rect.inverse());
    assert_eq!((camera.focal_px, camera.focal_px, camera.centre_px, camera.shift), (fx, fy, [u, v], [tx, ty]));
}

/// A label of an object as KITTI has it.
struct Label {
    class: String,
    truncated: f64,
    occluded: usize,
    alpha: f64,
    /// Left, top, right, bottom.
    bbox: [f64; 4],
    /// The middle of its bottom, in rectified camera coordinates.
    location: [f64; 3],
    rotation_y: f64,
    /// In lidar coordinates.
    bounds: Box3d,
}

impl Label {
    fn parse(line: &str, camera: &Camera) -> Label {
        let [truncated, occluded, alpha, left, top, right, bottom, height, width, length, x, y, z, rotation_y] =
            numbers(line, 1);
        let [ahead, aside, floor] = camera.rect_to_lidar.place([x, y, z]);
        Label {
            class: line.split(' ').next().unwrap().into(),
            truncated,
            occluded: occluded as usize,
            alpha,
            bbox: [left, top, right, bottom],
            location: [x, y, z],
            rotation_y,
            bounds: Box3d {
                center: [ahead, aside, floor + height / 2.0],
                size: [length, width, height],
                heading: wrapped(-(rotation_y + FRAC_PI_2)),
            },
        }
    }
}

/// A street with what is seen of it, and its labels.
struct Seen {
    street: street::Street,
    cloud: sensors::Cloud,
    photo: sensors::Photo,
    camera: Camera,
    labels: Vec<Label>,
    /// Number of `DontCare` labels.
    others: usize,
}

impl Seen {
    fn new(number: u64) -> Seen {
        let options = DemoOptions::default();
        let drawn = draw(&options, number);
        let mut rng = SampleRng::new(options.seed, 0, number, "demo frame");
        let street = street::Street::draw(&mut rng);
        let camera = Camera::new();
        let cloud = sensors::scan(&street, [options.beams, options.steps], &mut rng);
        let photo = sensors::photograph(&street, &camera);
        assert!(cloud.points == drawn.points && photo.image.pixels == drawn.image.pixels);
        let is_object = |line: &&str| !line.starts_with("DontCare ");
        let labels: Vec<Label> =
            drawn.labels.lines().filter(is_object).map(|line| Label::parse(line, &camera)).collect();
        let others = drawn.labels.lines().count() - labels.len();
        Seen { street, cloud, photo, camera, labels, others }
    }

    /// The object that a label is of.
    fn object(&self, own: &Box3d) -> usize {
        let away = |other: &Box3d| (0..3).map(|axis| (other.center[axis] - own.center[axis]).abs()).sum::<f64>();
        let near = |(_, other): &(usize, &(&str, Box3d))| away(&other.1) < 0.05;
        self.street.objects.iter().enumerate().find(near).unwrap().0
    }
}

#[test]
fn labels_agree_with_the_points_and_the_picture() {
    let (mut counts, mut occluded, mut others, mut truncated) = (BTreeMap::new(), [0; 3], 0, 0);
    for number in 0..30 {
        let seen = Seen::new(number);
        assert!((8_000..20_000).contains(&seen.cloud.points.len()), "{}", seen.cloud.points.len());
        for label in &seen.labels {
            let (name, own) = (&label.class, &label.bounds);
            let object = seen.object(own);
            assert_eq!(name, seen.street.objects[object].0);
            let of_it: Vec<&[f32; 4]> = seen
                .cloud
                .points
                .iter()
                .zip(&seen.cloud.objects)
                .filter(|(_, of)| **of == Some(object))
                .map(|(p, _)| p)
                .collect();
            assert!(of_it.len() >= 5 && of_it.len() == seen.cloud.counts[object], "{number}: {name} {}", of_it.len());
            for [x, y, z, _] in &of_it {
                assert!(
                    own.bounds().contains([*x, *y, *z]),
                    "{number}: a point of {name} {own:?} is outside: {x} {y} {z}"
                );
            }
            let [left, top, right, bottom] = label.bbox;
            assert!(0.0 <= left && left < right && right <= 1241.0 && 0.0 <= top && top < bottom && bottom <= 374.0);
            if label.truncated == 0.0 {
                let [u, v] = seen.camera.rect_to_pixels(seen.camera.lidar_to_rect.place(own.center));
                assert!(left < u && u < right && top < v && v < bottom, "{name} {u} {v}: {:?}", label.bbox);
                let expect = label.rotation_y - label.location[0].atan2(label.location[2]);
                assert!((label.alpha - expect).sin().abs() < 0.02, "{name}");
            } else {
                truncated += 1;
            }
            assert!(seen.photo.seen[object] > 0.0);
            occluded[label.occluded] += 1;
            *counts.entry(name.clone()).or_insert(0) += 1;
        }
        // A point inside a label's box belongs to the label's own object, even if another object is nearer.
        for (point, object) in seen.cloud.points.iter().zip(&seen.cloud.objects) {
            let inside = |label: &&Label| label.bounds.bounds().contains([point[0], point[1], point[2]]);
            if let (Some(label), Some(object)) = (seen.labels.iter().find(inside), object) {
                assert_eq!(seen.object(&label.bounds), *object);
            }
        }
        others += seen.others;
    }
    assert!(
        counts["Car"] > 90 && counts["Pedestrian"] > 40 && counts["Cyclist"] > 25 && counts["Van"] > 3,
        "{counts:?}"
    );
    assert!(
        occluded.iter().all(|count| *count > 10) && truncated > 5 && others > 20,
        "{occluded:?} {truncated} {others}"
    );
}

#[test]
fn the_plane_lies_where_the_lidar_sees_the_ground() {
    for number in 0..5 {
        let seen = Seen::new(number);
        let text = files::plane_text(&seen.street.ground, &seen.camera);
        let [a, b, c, d] = numbers(text.lines().nth(3).unwrap(), 0);
        assert!(b < 0.0 && (a * a + b * b + c * c - 1.0).abs() < 1e-9, "{text}");
        let mut heights: Vec<f64> = Vec::new();
        for ([x, y, z, _], _) in seen.cloud.points.iter().zip(&seen.cloud.objects).filter(|(_, of)| of.is_none()) {
            let [x, y, z] = [x, y, z].map(|value| f64::from(*value));
            if x < 20.0 && (z - seen.street.ground.z([x, y])).abs() < 0.1 {
                let [x, y, z] = seen.camera.lidar_to_rect.place([x, y, z]);
                heights.push(a * x + b * y + c * z + d);
            }
        }
        let mean = heights.iter().sum::<f64>() / heights.len() as f64;
        assert!(heights.len() > 1000 && mean.abs() < 0.005, "{} at {mean}", heights.len());
    }
}

#[test]
fn an_object_is_where_the_picture_shows_it() {
    let seen = Seen::new(0);
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("a.png");
    write(&path, &encode_png(&seen.photo.image).unwrap()).unwrap();
    let mut image = RgbImage::default();
    decode_rgb(&fs::read(&path).unwrap(), &Limits::default(), &mut image).unwrap();
    assert_eq!(image.pixels, seen.photo.image.pixels);
    let mut checked = 0;
    for (point, object) in seen.cloud.points.iter().zip(&seen.cloud.objects) {
        // A lidar point has about the colour of one of its object's materials, except at edges and where only one sensor sees it.
        let Some(object) = object else { continue };
        let place = seen.camera.lidar_to_rect.place([point[0], point[1], point[2]].map(f64::from));
        let [u, v] = seen.camera.rect_to_pixels(place);
        if !(0.0..1242.0).contains(&u) || !(0.0..375.0).contains(&v) {
            continue;
        }
        let at = 3 * (v as usize * 1242 + u as usize);
        let pixel = &image.pixels[at..at + 3];
        let fits = |solid: &cast::Solid| {
            // Light changes the brightness alone.
            let colour = solid.material.colour;
            let factor = f64::from(pixel[0]) / f64::from(colour[0]);
            (1..3).all(|c| (f64::from(colour[c]) * factor - f64::from(pixel[c])).abs() < 6.0)
        };
        let good = seen.street.solids.iter().filter(|solid| solid.object == Some(*object)).any(fits);
        checked += if good { 1 } else { -9 };
    }
    assert!(checked > 500, "{checked}");
}
