//! Tests of info files: made anew they are those of the demo data, and what is wrong is said.

use super::super::frame::Frame;
use super::super::kitti;
use super::super::options::Layout;
use super::*;
use crate::lidar::demo::{DemoOptions, write_demo_data};
use feedline::augment::boxes::Box3d;
use feedline::read::Storage;
use std::fs;
use std::path::Path;
use tempfile::TempDir;

const KITTI: InfoOptions = InfoOptions { layout: Layout::Kitti, num_threads: 1, overwrite: true };

fn street() -> TempDir {
    let dir = tempfile::tempdir().unwrap();
    let options = DemoOptions { train: 3, val: 2, test: 1, seed: 5, beams: 24, steps: 200 };
    write_demo_data(&dir.path().join("street"), &options, |_, _| ()).unwrap();
    dir
}

fn made(root: &Path, options: &InfoOptions) -> (Built, Vec<Vec<u8>>) {
    let built = build(root, options, &|_, _| ()).unwrap();
    let files = built.files.iter().map(|(name, _)| name.as_str()).chain(["gt_database/train.bin"]);
    let bytes = files.map(|name| fs::read(root.join(name)).unwrap()).collect();
    (built, bytes)
}

#[test]
fn the_same_files_come_of_any_number_of_threads() {
    let dir = street();
    let root = dir.path().join("street");
    let counts = std::sync::Mutex::new(Vec::new());
    let built = build(&root, &KITTI, &|done, total| counts.lock().unwrap().push((done, total))).unwrap();
    assert_eq!(*counts.lock().unwrap(), (1..=6).map(|done| (done, 6)).collect::<Vec<_>>());
    let objects = built.files[0].1;
    let expected =
        [("dbinfos_train", objects), ("infos_train", 3), ("infos_val", 2), ("infos_test", 1), ("infos_trainval", 5)];
    let expected = expected.map(|(name, count)| (format!("kitti_{name}.jsonl"), count));
    assert_eq!(built.files, expected);
    assert_eq!(built.objects.values().flatten().sum::<usize>(), objects);
    let one = made(&root, &KITTI);
    assert_eq!(made(&root, &InfoOptions { num_threads: 4, ..KITTI }), one);

    // Every object is there with its points, which lie in its box.
    let storage = Storage::default();
    let frames = read_infos(&root, &["kitti_infos_train.pkl".into()], &storage).unwrap();
    let db = read_db(&root, &["kitti_dbinfos_train.pkl".into()], &storage).unwrap();
    let points = fs::read(root.join("gt_database/train.bin")).unwrap();
    let mut own = db.iter();
    let mut end_bytes = 0;
    for frame in &frames {
        let annos = frame.annos.as_ref().unwrap();
        for (at, bounds) in annos.gt_boxes_lidar.iter().enumerate() {
            let object = own.next().unwrap();
            assert_eq!((&object.name, object.gt_idx), (&annos.name[at], at as i64));
            assert_eq!(object.image_idx, frame.point_cloud.lidar_idx);
            assert_eq!(object.offset_bytes, Some(end_bytes as u64));
            // Those that the camera does not see are cut out too.
            assert!(object.num_points_in_gt >= annos.num_points_in_gt[at] as u64 && annos.num_points_in_gt[at] > 0);
            let centred = Box3d { center: [0.0; 3], ..*bounds };
            let wider = Box3d { size: bounds.size.map(|side| side + 1e-5), ..centred };
            let end = end_bytes + 16 * object.num_points_in_gt as usize;
            for row in points[end_bytes..end].chunks(16) {
                let point = std::array::from_fn(|axis| f32::from_le_bytes(row[4 * axis..][..4].try_into().unwrap()));
                assert!(wider.bounds().contains(point), "{point:?} in {centred:?}");
            }
            end_bytes = end;
        }
    }
    assert!(own.next().is_none() && end_bytes == points.len());
}

#[test]
fn a_byte_order_mark_and_other_line_ends_change_no_info() {
    let dir = street();
    let root = dir.path().join("street");
    let (_, expect) = made(&root, &KITTI);
    let mut texts = 0;
    for folder in ["ImageSets", "training/calib", "training/label_2", "training/planes", "testing/calib"] {
        for entry in fs::read_dir(root.join(folder)).unwrap() {
            let path = entry.unwrap().path();
            let text = fs::read_to_string(&path).unwrap();
            fs::write(&path, format!("\u{feff}{}", text.replace('\n', "\r\n"))).unwrap();
            texts += 1;
        }
    }
    assert!(texts > 15);
    assert!(made(&root, &KITTI).1 == expect);
    // The infos themselves, too.
    let read = || read_infos(&root, &["kitti_infos_val.jsonl".into()], &Storage::default());
    let (infos, frames) = (root.join("kitti_infos_val.jsonl"), read().unwrap());
    let text = fs::read_to_string(&infos).unwrap();
    fs::write(&infos, format!("\u{feff}{}", text.replace('\n', "\r\n"))).unwrap();
    assert_eq!(read().unwrap().len(), frames.len());
    let label = root.join("training/label_2/000000.txt");
    let utf16: Vec<u8> = "\u{feff}Car".encode_utf16().flat_map(u16::to_le_bytes).collect();
    fs::write(&label, utf16).unwrap();
    let error = build(&root, &KITTI, &|_, _| ()).unwrap_err().to_string();
    assert!(error.contains("000000.txt: the text is in UTF-16. Save the file in UTF-8"), "{error}");
}

#[test]
fn frames_that_no_list_names_are_counted_and_named() {
    let dir = street();
    let root = dir.path().join("street");
    assert_eq!(build(&root, &KITTI, &|_, _| ()).unwrap().warnings, Vec::<String>::new());
    for name in [
        "training/velodyne/900001.bin",
        "training/velodyne/900000.bin",
        "testing/velodyne/9.bin",
        "testing/velodyne/.9.bin",
    ] {
        fs::write(root.join(name), [0; 16]).unwrap();
    }
    let expect = [
        "training/velodyne: 2 frames are left out, as none of train.txt, val.txt names them (900000, ...)",
        "testing/velodyne: 1 frame is left out, as none of test.txt names them (9)",
    ];
    assert_eq!(build(&root, &KITTI, &|_, _| ()).unwrap().warnings, expect);
}

#[test]
fn nothing_is_replaced_unless_it_is_asked_for() {
    let dir = street();
    let root = dir.path().join("street");
    let error = build(&root, &InfoOptions { overwrite: false, ..KITTI }, &|_, _| ()).unwrap_err().to_string();
    assert!(error.contains("kitti_infos_train.jsonl") && error.contains("--overwrite"), "{error}");
}

#[test]
fn no_old_file_stands_beside_a_new_one_of_another_time() {
    let dir = street();
    let root = dir.path().join("street");
    assert!(root.join("kitti_infos_train.jsonl").is_file() && root.join("kitti_dbinfos_train.jsonl").is_file());
    // The first file to be written cannot be: what goes with the old one is away by then.
    fs::remove_file(root.join("gt_database/train.bin")).unwrap();
    fs::create_dir_all(root.join("gt_database/train.bin/x")).unwrap();
    let error = build(&root, &KITTI, &|_, _| ()).unwrap_err().to_string();
    assert!(error.contains("gt_database/train.bin"), "{error}");
    assert!(!root.join("kitti_infos_train.jsonl").exists() && !root.join("kitti_dbinfos_train.jsonl").exists());
}

#[test]
fn what_is_missing_or_broken_is_named() {
    let dir = street();
    let root = dir.path().join("street");
    let training = root.join("training");
    type Case<'a> = (&'a str, Option<&'a [u8]>, &'a [&'a str]);
    let cases: &[Case] = &[
        ("training/calib/000001.txt", None, &["calib/000001.txt"]),
        ("training/calib/000001.txt", Some(b"P0: 1 2\n"), &["calib/000001.txt", "line"]),
        ("training/label_2/000002.txt", Some(b"Car 0 0\n"), &["label_2/000002.txt", "line 1"]),
        ("training/velodyne/000000.bin", Some(&[0; 17]), &["velodyne/000000.bin", "17"]),
        ("training/image_2/000000.png", Some(b"no picture"), &["image_2/000000.png"]),
        ("training/planes/000000.txt", Some(b"1\n2\n"), &["planes/000000.txt"]),
        ("testing/velodyne/000000.bin", None, &["testing/velodyne/000000.bin"]),
        ("ImageSets/val.txt", Some(b"000003\n000003\n"), &["val.txt", "000003 is listed twice"]),
        ("ImageSets/val.txt", Some(b"\n"), &["val.txt", "empty"]),
    ];
    for (name, harm, said) in cases {
        let path = root.join(name);
        let before = fs::read(&path).unwrap();
        match harm {
            Some(bytes) => fs::write(&path, bytes).unwrap(),
            None => fs::remove_file(&path).unwrap(),
        }
        let error = build(&root, &KITTI, &|_, _| ()).unwrap_err().to_string();
        assert!(said.iter().all(|part| error.contains(part)), "{error}");
        fs::write(&path, before).unwrap();
    }
    // The ground is not needed, and neither is a list of each split.
    fs::remove_dir_all(training.join("planes")).unwrap();
    fs::remove_file(root.join("ImageSets/test.txt")).unwrap();
    let built = build(&root, &KITTI, &|_, _| ()).unwrap();
    assert_eq!(built.without_list, ["test"]);
    let frames = read_infos(&root, &["kitti_infos_val.pkl".into()], &Storage::default()).unwrap();
    assert!(frames.iter().all(|frame| frame.road_plane.is_none()));
}

#[test]
fn a_custom_data_set_has_points_of_any_width() {
    let dir = tempfile::tempdir().unwrap();
    let root = dir.path();
    for folder in ["ImageSets", "points", "labels"] {
        fs::create_dir(root.join(folder)).unwrap();
    }
    let rows: [[f32; 5]; 3] = [[1.0, 2.0, 0.5, 0.1, 7.0], [9.0, 9.0, 9.0, 0.2, 8.0], [1.5, 2.2, 0.0, 0.3, 9.0]];
    let header = "{'descr': '<f4', 'fortran_order': False, 'shape': (3, 5), }";
    let mut npy = b"\x93NUMPY\x01\x00".to_vec();
    let padded = format!("{header:<117}\n");
    npy.extend((padded.len() as u16).to_le_bytes());
    npy.extend(padded.as_bytes());
    npy.extend(rows.as_flattened().iter().flat_map(|value| value.to_le_bytes()));
    for id in ["a", "b"] {
        fs::write(root.join(format!("points/{id}.npy")), &npy).unwrap();
        fs::write(root.join(format!("labels/{id}.txt")), "1 2 0 4 2 2 0 Vehicle\n30 0 0 1 1 1 0.5 Tree\n").unwrap();
    }
    fs::write(root.join("ImageSets/train.txt"), "a\n").unwrap();
    fs::write(root.join("ImageSets/val.txt"), "b\n").unwrap();
    let built = build(root, &InfoOptions { layout: Layout::Custom, ..KITTI }, &|_, _| ()).unwrap();
    assert_eq!(built.files.iter().map(|(_, count)| *count).collect::<Vec<_>>(), [2, 1, 1]);
    let db = read_db(root, &["custom_dbinfos_train.jsonl".into()], &Storage::default()).unwrap();
    let found: Vec<_> = db.iter().map(|object| (object.name.as_str(), object.num_points_in_gt)).collect();
    assert_eq!(found, [("Vehicle", 2), ("Tree", 0)]);
    let points: Vec<f32> = fs::read(root.join(&db[0].path))
        .unwrap()
        .chunks(4)
        .map(|bytes| f32::from_le_bytes(bytes.try_into().unwrap()))
        .collect();
    assert_eq!(points, [0.0, 0.0, 0.5, 0.1, 7.0, 0.5, 0.2_f32 + 2.0 - 2.0, 0.0, 0.3, 9.0]);
    let frames = read_infos(root, &["custom_infos_val.pkl".into()], &Storage::default()).unwrap();
    assert_eq!((frames.len(), frames[0].point_cloud.num_features, &frames[0].calib), (1, 5, &None));
}

#[test]
fn infos_that_do_not_fit_are_refused_with_their_line() {
    let dir = street();
    let root = dir.path().join("street");
    let path = root.join("kitti_infos_val.jsonl");
    let good = fs::read_to_string(&path).unwrap();
    let first = good.lines().next().unwrap();
    let mut frame: Frame = serde_json::from_str(first).unwrap();
    let line = |frame: &Frame| serde_json::to_string(frame).unwrap();
    let refused = |text: String, said: &[&str]| {
        fs::write(&path, text).unwrap();
        let error = read_infos(&root, &["kitti_infos_val.pkl".into()], &Storage::default()).unwrap_err().to_string();
        assert!(error.contains("kitti_infos_val.jsonl") && said.iter().all(|part| error.contains(part)), "{error}");
    };
    refused(format!("{first}\n{first}\n"), &["frame 2", "comes twice"]);
    refused(format!("{first}\n{{\"point_cloud\"\n"), &["line 2"]);
    refused("[1]\n".into(), &["frame 1"]);
    refused("{}\n".into(), &["frame 1", "point_cloud"]);
    let annos = frame.annos.as_mut().unwrap();
    let bounds = annos.gt_boxes_lidar.pop().unwrap();
    refused(line(&frame), &["frame 1", "boxes"]);
    let flat = Box3d { size: [1.0, 0.0, 1.0], ..bounds };
    frame.annos.as_mut().unwrap().gt_boxes_lidar.push(flat);
    refused(line(&frame), &["a box is"]);
    frame.annos.as_mut().unwrap().gt_boxes_lidar.pop();
    frame.annos.as_mut().unwrap().gt_boxes_lidar.push(bounds);
    frame.annos.as_mut().unwrap().bbox.pop();
    refused(line(&frame), &["of bbox"]);
    frame.annos = None;
    frame.road_plane = Some([0.0, 0.0, 1.0, 2.0]);
    refused(line(&frame), &["its ground"]);
    frame.road_plane = None;
    frame.calib.as_mut().unwrap().r0_rect = [[0.0; 4]; 4];
    refused(line(&frame), &["no inverse"]);
}

#[test]
fn the_real_frames_become_infos() {
    let data = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../../shared/data/kitti/training");
    if !data.is_dir() {
        eprintln!("the real frames are not here: skipped");
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    fs::create_dir(dir.path().join("ImageSets")).unwrap();
    fs::write(dir.path().join("ImageSets/train.txt"), "000000\n000001\n000002\n").unwrap();
    std::os::unix::fs::symlink(&data, dir.path().join("training")).unwrap();
    let built = build(dir.path(), &KITTI, &|_, _| ()).unwrap();
    assert_eq!(built.files.iter().map(|(_, count)| *count).collect::<Vec<_>>(), [6, 3]);
    let frames = read_infos(dir.path(), &["kitti_infos_train.pkl".into()], &Storage::default()).unwrap();
    for frame in &frames {
        let text = fs::read_to_string(data.join(format!("label_2/{}.txt", frame.point_cloud.lidar_idx))).unwrap();
        let (labels, annos) = (kitti::parse_labels(&text).unwrap(), frame.annos.as_ref().unwrap());
        assert_eq!((&labels.name, &labels.bbox, &labels.difficulty), (&annos.name, &annos.bbox, &annos.difficulty));
        let counts = annos.num_points_in_gt.iter().zip(&annos.name);
        assert!(counts.into_iter().all(|(count, name)| (*count > 0) == (name != "DontCare")));
    }
    assert_eq!(frames[0].annos.as_ref().unwrap().num_points_in_gt, [377]);
}
