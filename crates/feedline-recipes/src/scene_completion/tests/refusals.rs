//! Bad input gets an error that names file, member and value.

use super::*;
use feedline::deliver::{Loader, LoaderOptions, OnBadSample};
use feedline::pipeline::Pipeline;
use feedline::plan::Plan;
use std::sync::Arc;

fn said(result: feedline::Result<Scenes>, parts: &[&str]) {
    let text = result.unwrap_err().to_string();
    parts.iter().for_each(|part| assert!(text.contains(part), "`{part}` is not in: {text}"));
}

/// The error of delivering the first batch of a data set in which `path` was overwritten.
fn failure(path: &str, bytes: &[u8]) -> String {
    let dir = tempfile::tempdir().unwrap();
    let files = scenes(dir.path(), 2);
    write(&dir.path().join(path), bytes);
    let data: Arc<dyn Pipeline> = Arc::new(opened(&files));
    let options = LoaderOptions { batch_size: 2, ..LoaderOptions::default() };
    let mut loader = Loader::new(data, Plan::unshuffled(2, 1).unwrap(), options).unwrap();
    let text = loader.next_batch().unwrap_err().to_string();
    assert!(text.contains(path), "{path} is not in: {text}");
    text
}

#[test]
fn what_is_wrong_with_an_array_is_named_with_file_member_and_value() {
    let long = |values: &[i64]| npy("<i8", &[values.len()], &longs(values));
    let float = |values: &[f32]| npy("<f4", &[values.len()], &floats(values));
    let with = |at: usize, value: i64| {
        let mut values = vec![0i64; VOXELS];
        values[at] = value;
        npz(&[("arr_0", long(&values))])
    };
    let plain = vec![0.5f32; VOXELS];
    let mut broken = plain.clone();
    broken[7] = f32::NAN;
    let object = npy("|O", &[VOXELS], &[0; 8 * VOXELS]);
    for (path, bytes, parts) in [
        ("Label/0002.npz", with(5, 12), &["arr_0: voxel 5 is 12", "not below 12 or 255"][..]),
        ("Label/0002.npz", with(6, -1), &["arr_0: voxel 6 is -1"]),
        ("Label/0002.npz", npz(&[("arr_0", long(&[0; VOXELS + 1]))]), &["arr_0: its shape is [145], not [6, 4, 6]"]),
        ("Label/0002.npz", npz(&[("arr_0", float(&plain))]), &["arr_0: element 0 is 0.5"]),
        ("Label/0002.npz", npz(&[("arr_0", object.clone())]), &["arr_0: it holds pickled Python objects"]),
        ("Label/0002.npz", npz(&[("label", long(&[0; VOXELS]))]), &["there is no arr_0 in it: it has label"]),
        ("Mapping/0002.npz", with(17, 24 * 32 + 1), &["arr_0: voxel 17 is 769", "0 to 768 (none)"]),
        ("Mapping/0002.npz", with(18, -5), &["arr_0: voxel 18 is -5"]),
        ("TSDF/0002.npz", npz(&[("arr_0", float(&plain))]), &["there is no arr_1 in it: it has arr_0"]),
        ("TSDF/0002.npz", npz(&[("arr_0", float(&plain)), ("arr_1", float(&broken))]), &["arr_1: voxel 7 is NaN"]),
        ("TSDF/0002.npz", npz(&[("arr_0", object), ("arr_1", float(&plain))]), &["arr_0: it holds pickled"]),
        ("TSDF/0002.npz", b"no zip archive".to_vec(), &["no .npz file"]),
        ("sketch3D/0002.npy", long(&[7; VOXELS]), &["the array: voxel 0 is 7"]),
        ("sketch3D/0002.npy", npy("|u1", &[4, 6, 6], &[0; VOXELS]), &["[4, 6, 6], not [6, 4, 6]"]),
        ("RGB/NYU0002_colors.png", b"text".to_vec(), &["not a JPEG, PNG, WebP"]),
        (
            "HHA/0002.png",
            encode_png(&noise(&mut SampleRng::new(0, 0, 0, "x"), [24, 33])).unwrap(),
            &["it has 24 x 33 px (height x width), not 24 x 32"],
        ),
    ] {
        let text = failure(path, &bytes);
        parts.iter().for_each(|part| assert!(text.contains(part), "`{part}` is not in: {text}"));
    }
}

#[test]
fn ids_without_files_are_named_with_their_line_when_the_data_is_opened() {
    for path in [
        "RGB/NYU0002_colors.png",
        "HHA/0002.png",
        "Label/0002.npz",
        "TSDF/0002.npz",
        "Mapping/0002.npz",
        "sketch3D/0002.npy",
    ] {
        let dir = tempfile::tempdir().unwrap();
        let files = scenes(dir.path(), 2);
        fs::remove_file(dir.path().join(path)).unwrap();
        let result = open(&files, &options(), &Storage::default());
        said(result, &["train.txt", "line 2: sample 0002 has no file", path]);
    }
}

#[test]
fn lists_that_mean_nothing_are_refused() {
    let dir = tempfile::tempdir().unwrap();
    let files = scenes(dir.path(), 1);
    for (text, parts) in [
        ("", &["the list is empty"][..]),
        ("0001\nRGB/1.png\tLabel/1.png\n", &["line 2", "of another kind"]),
        ("RGB/1.png\n", &["line 1", "a picture without a label"]),
    ] {
        write(&files.list, text.as_bytes());
        said(open(&files, &options(), &Storage::default()), parts);
    }
    // Text after an id is ignored.
    write(&files.list, b"\xef\xbb\xbf0001\tsomething else\r\n\n");
    assert_eq!(opened(&files).ids(), ["0001"]);
    fs::remove_file(&files.list).unwrap();
    said(open(&files, &options(), &Storage::default()), &["train.txt", "there is no such list"]);
}

#[test]
fn options_that_cannot_be_are_refused() {
    let dir = tempfile::tempdir().unwrap();
    let files = scenes(dir.path(), 1);
    let augment = Some(crate::scene_completion::SceneAugment { mirror: true, scales: vec![] });
    for (options, part) in [
        (SceneOptions { augment, ..options() }, "mapping of each voxel names a pixel"),
        (SceneOptions { num_classes: 1, ..options() }, "number of classes"),
        (SceneOptions { grid: [0, 4, 6], ..options() }, "voxel grid"),
        (SceneOptions { image_px: [0, 4], ..options() }, "height and width"),
        (SceneOptions { std: [1.0, 0.0, 1.0], ..options() }, "std"),
        (SceneOptions { grid: [6, 6, 6], ..options() }, "the voxel grid is [6, 6, 6]"),
    ] {
        said(open(&files, &options, &Storage::default()), &[part]);
    }
}

#[test]
fn another_order_of_axes_is_refused_though_all_files_have_it() {
    for (path, other) in [("Label", true), ("sketch3D", false)] {
        let dir = tempfile::tempdir().unwrap();
        let files = scenes(dir.path(), 2);
        for id in ["0001", "0002"] {
            let array = npy("|u1", &[4, 6, 6], &[0; VOXELS]);
            let (end, bytes) = if other { ("npz", npz(&[("arr_0", array)])) } else { ("npy", array) };
            write(&dir.path().join(format!("{path}/{id}.{end}")), &bytes);
        }
        said(open(&files, &options(), &Storage::default()), &[path, "[4, 6, 6]", "the voxel grid is [6, 4, 6]"]);
    }
}

#[test]
fn a_bad_sample_is_replaced_by_another_if_that_is_asked_for() {
    let dir = tempfile::tempdir().unwrap();
    let files = scenes(dir.path(), 4);
    // The first one, of which the shape of the labels would have been taken.
    write(&dir.path().join("Label/0001.npz"), b"nothing");
    let data: Arc<dyn Pipeline> = Arc::new(opened(&files));
    let options = LoaderOptions { batch_size: 4, on_bad_sample: OnBadSample::Replace, ..LoaderOptions::default() };
    let mut loader = Loader::new(data, Plan::unshuffled(4, 1).unwrap(), options).unwrap();
    let batch = loader.next_batch().unwrap().unwrap();
    assert!(!batch.replaced.is_empty() && batch.replaced.iter().all(|replaced| replaced.index == 0));
    assert!(batch.indices.iter().all(|index| *index != 0));
    assert!(batch.replaced[0].location.contains("Label/0001.npz"), "{:?}", batch.replaced[0]);
}
