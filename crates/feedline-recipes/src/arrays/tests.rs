//! Arrays from every kind of source, delivered by the pool and by the plain loader; and sources that are refused.

use super::ArrayData;
use feedline::deliver::{Loader, LoaderOptions};
use feedline::pipeline::Pipeline;
use feedline::plan::Plan;
use feedline::read::Storage;
use feedline::{Array, Batch, DType, Element, Result};
use std::path::Path;
use std::sync::Arc;

fn open(path: &Path, shape: Option<&[usize]>) -> Result<Arc<ArrayData>> {
    super::open(path, shape, &Storage::default())
}

fn open_with(path: &Path, shape: Option<&[usize]>, held_bytes_max: u64) -> Result<Arc<ArrayData>> {
    super::open_with(path, shape, &Storage::default(), held_bytes_max)
}

/// Asserts that the samples at `path` are the same by its URL and, unless it is a file, in an archive.
fn same_elsewhere(path: &Path, shape: Option<&[usize]>) {
    let here = open(path, shape).unwrap();
    let url = format!("file://{}", path.display());
    let mut others = vec![(url.clone().into(), 0), (url.into(), u64::MAX)];
    let dir = tempfile::tempdir().unwrap();
    let storage = Storage { listings_dir: dir.path().join("listings"), ..Storage::default() };
    if path.is_dir() {
        let mut archive = tar::Builder::new(std::fs::File::create(dir.path().join("all.tar")).unwrap());
        archive.append_dir_all(".", path).unwrap();
        archive.finish().unwrap();
        others.extend([(dir.path().to_path_buf(), 0), (dir.path().join("all.tar"), 0)]);
    }
    for (other, held_bytes_max) in others {
        let there = super::open_with(&other, shape, &storage, held_bytes_max).unwrap();
        assert_eq!(there.fingerprint(), here.fingerprint(), "{}", other.display());
        assert_eq!(delivered(&there), delivered(&here), "{}", other.display());
    }
}

/// A `.npy` file as NumPy writes it.
fn npy<T: Element>(descr: &str, shape: &[usize], values: &[T]) -> Vec<u8> {
    let axes: String = shape.iter().map(|axis| format!("{axis}, ")).collect();
    let text = format!("{{'descr': '{descr}', 'fortran_order': False, 'shape': ({axes}), }}");
    let mut bytes = [b"\x93NUMPY\x01\0".as_slice(), &118u16.to_le_bytes()].concat();
    bytes.extend(format!("{text:<117}\n").bytes());
    bytes.extend_from_slice(Array::from_slice([values.len()], values).as_bytes());
    bytes
}

/// A 16-bit grey PNG.
fn png(width_px: u32, height_px: u32, values: &[u16]) -> Vec<u8> {
    let mut bytes = Vec::new();
    let mut encoder = png::Encoder::new(&mut bytes, width_px, height_px);
    encoder.set_color(png::ColorType::Grayscale);
    encoder.set_depth(png::BitDepth::Sixteen);
    let data: Vec<u8> = values.iter().flat_map(|value| value.to_be_bytes()).collect();
    encoder.write_header().unwrap().write_image_data(&data).unwrap();
    bytes
}

/// A folder with these files in it.
fn folder(files: &[(&str, Vec<u8>)]) -> tempfile::TempDir {
    let dir = tempfile::tempdir().unwrap();
    for (name, content) in files {
        std::fs::write(dir.path().join(name), content).unwrap();
    }
    dir
}

/// The arrays of two shuffled epochs by their sample's number, from the plain loader, after the pool gave the same.
fn delivered(data: &Arc<ArrayData>) -> Vec<Array> {
    let epochs = |num_workers| -> Vec<Batch> {
        let options = LoaderOptions { batch_size: 3, num_workers, end_epoch: Some(2), ..LoaderOptions::default() };
        let plan = Plan::new(data.len(), 1).unwrap();
        let mut loader = Loader::new(Arc::clone(data) as Arc<dyn Pipeline>, plan, options).unwrap();
        let mut batches = Vec::new();
        for _ in 0..2 {
            while let Some(batch) = loader.next_batch().unwrap() {
                batches.push(batch);
            }
        }
        batches
    };
    let batches = epochs(0);
    assert_eq!(batches, epochs(2));
    let spec = &data.fields()[0];
    let mut samples: Vec<Option<Array>> = vec![None; data.len() as usize];
    for batch in &batches {
        let array = batch.stacked("array").unwrap();
        assert_eq!((array.dtype(), &array.shape()[1..]), (spec.dtype, &spec.shape[..]));
        let sample_bytes = array.as_bytes().len() / batch.len();
        for (bytes, index) in array.as_bytes().chunks_exact(sample_bytes).zip(&batch.indices) {
            let mut sample = Array::zeros(spec.dtype, spec.shape.clone());
            sample.as_bytes_mut().copy_from_slice(bytes);
            let place = &mut samples[*index as usize];
            assert!(place.is_none() || place.as_ref() == Some(&sample), "sample {index} is the same in each epoch");
            *place = Some(sample);
        }
    }
    samples.into_iter().map(|sample| sample.expect("every sample is delivered")).collect()
}

fn message<T>(result: Result<T>, parts: &[&str]) {
    let text = result.err().expect("an error").to_string();
    for part in parts {
        assert!(text.contains(part), "`{part}` is not in: {text}");
    }
}

fn rows_are_delivered<T: Element>(descr: &str, row_shape: &[usize]) {
    let (rows, row_len) = (10, row_shape.iter().product::<usize>());
    let values: Vec<T> = (0..rows * row_len).map(|i| T::from_f64(i as f64 * 1.5)).collect();
    let dir = folder(&[("rows.npy", npy(descr, &[&[rows], row_shape].concat(), &values))]);
    for held_bytes_max in [0, u64::MAX] {
        let data = open_with(&dir.path().join("rows.npy"), None, held_bytes_max).unwrap();
        assert_eq!(data.len(), 10);
        let expect: Vec<Array> = values.chunks(row_len).map(|row| Array::from_slice(row_shape, row)).collect();
        assert_eq!(delivered(&data), expect, "{descr}");
    }
    same_elsewhere(&dir.path().join("rows.npy"), None);
}

#[test]
fn rows_of_a_file_are_delivered_whatever_their_elements() {
    rows_are_delivered::<f32>("<f4", &[3, 4, 5]);
    rows_are_delivered::<f64>("<f8", &[7]);
    rows_are_delivered::<i64>("<i8", &[]);
    rows_are_delivered::<i32>("<i4", &[1]);
    rows_are_delivered::<u16>("<u2", &[2, 3]);
    rows_are_delivered::<u8>("|u1", &[3]);
}

#[test]
fn raw_rows_need_a_shape_that_divides_the_file() {
    let values: Vec<f32> = (0..60).map(|i| i as f32).collect();
    let dir = folder(&[("rows.bin", Array::from_slice([60], &values).as_bytes().to_vec())]);
    let path = dir.path().join("rows.bin");
    let expect: Vec<Array> = values.chunks(12).map(|row| Array::from_slice([3, 4], row)).collect();
    assert_eq!(delivered(&open(&path, Some(&[3, 4])).unwrap()), expect);
    same_elsewhere(&path, Some(&[3, 4]));
    let url = format!("file://{}", path.display());
    message(open(url.as_ref(), Some(&[7])), &["rows.bin", "8 rows of 28 bytes", "240 bytes"]);
    message(open(url.replace("rows", "none").as_ref(), Some(&[7])), &["none.bin"]);
    message(open(&path, None), &["rows.bin", "--shape"]);
    message(open(&path, Some(&[7])), &["rows.bin", "8 rows of 28 bytes", "240 bytes"]);
    message(open(&path, Some(&[100])), &["rows.bin", "no sample in it"]);
    message(open(&path, Some(&[0])), &["rows.bin", "no sample has the shape [0]"]);
    message(open(&path, Some(&[usize::MAX, 2])), &["no sample has the shape"]);
}

#[test]
fn a_folder_of_files_is_delivered_in_the_order_of_names() {
    let values = |n: usize| [n as f32, 0.5, -1.0, f32::MAX, 7.0, 1e-9];
    let array = |n| Array::from_slice([2, 3], &values(n));
    let names = ["10", "9", "a", "b", "c", "d", "e"];
    let (mut npys, mut bins) = (Vec::new(), Vec::new());
    let (npy_names, bin_names) = (names.map(|n| format!("{n}.npy")), names.map(|n| format!("{n}.bin")));
    for n in 0..names.len() {
        npys.push((npy_names[n].as_str(), npy("<f4", &[2, 3], &values(n))));
        bins.push((bin_names[n].as_str(), array(n).as_bytes().to_vec()));
    }
    let expect: Vec<Array> = (0..names.len()).map(array).collect();
    let (npys, bins) = (folder(&npys), folder(&bins));
    assert_eq!(delivered(&open(npys.path(), Some(&[2, 3])).unwrap()), expect);
    let data = open(bins.path(), Some(&[2, 3])).unwrap();
    assert_eq!(delivered(&data), expect);
    same_elsewhere(npys.path(), None);
    same_elsewhere(bins.path(), Some(&[2, 3]));
    assert!(data.location(0).ends_with("10.bin"));
    // The folder's own name is not part of what the data is; names and sizes are.
    let elsewhere = folder(&[("10.bin", vec![0; 24])]);
    assert_ne!(open(elsewhere.path(), Some(&[6])).unwrap().fingerprint(), data.fingerprint());
}

#[test]
fn depth_pictures_keep_their_sixteen_bits() {
    let values = |n: u16| -> Vec<u16> { (0..35).map(|i| 257 * i + n * 1000 + (i % 5) * 13).collect() };
    let dir = folder(&[("0.png", png(7, 5, &values(0))), ("1.png", png(7, 5, &values(1)))]);
    let data = open(dir.path(), None).unwrap();
    assert_eq!((data.fields()[0].dtype, &data.fields()[0].shape), (DType::U16, &vec![5, 7]));
    assert_eq!(delivered(&data), [0, 1].map(|n| Array::from_slice([5, 7], &values(n))));
    same_elsewhere(dir.path(), None);
    message(open(dir.path(), Some(&[7, 5])), &["0.png", "[5, 7], not [7, 5]"]);
}

#[test]
fn files_that_differ_are_named_before_anything_is_read() {
    let good = || npy("<f4", &[2], &[1f32, 2.0]);
    let dir = folder(&[("a.npy", good()), ("b.npy", npy("<f4", &[3], &[1f32; 3])), ("c.npy", good()[..130].to_vec())]);
    message(open(dir.path(), None), &["b.npy", "140 bytes instead of 136", "F32 [3]", "a.npy", "and 1 more of the 3"]);
    let dir = folder(&[("a.bin", vec![0; 32]), ("b.bin", vec![0; 31])]);
    message(open(dir.path(), Some(&[4, 2])), &["b.bin", "31 bytes instead of 32", "f32 [4, 2] takes 32"]);
    message(open(dir.path(), None), &["--shape"]);
    let dir = folder(&[("a.npy", npy("<f2", &[2], &[0u16; 2])), ("b.txt", vec![])]);
    message(open(dir.path(), None), &["a.npy", "'<f2'", "astype"]);
    message(open(&dir.path().join("b.txt"), None), &["b.txt", "no file of arrays", ".npy"]);
    message(open(&dir.path().join("none.npy"), None), &["none.npy", "Check the path"]);
    let dir = folder(&[("rows.npy", good()[..135].to_vec()), ("one.npy", npy("<f4", &[], &[1f32]))]);
    message(open(&dir.path().join("rows.npy"), None), &["rows.npy", "135 bytes", "write it again"]);
    message(open(&dir.path().join("one.npy"), None), &["no axis"]);
    message(open(&dir.path().join("rows.npy"), Some(&[2])), &["shape [], not [2]"]);
}

/// The error of the first batch that has one.
fn first_error(data: &Arc<ArrayData>) -> Result<()> {
    let plan = Plan::unshuffled(data.len(), 1)?;
    let options = LoaderOptions { num_workers: 1, end_epoch: Some(1), ..LoaderOptions::default() };
    let mut loader = Loader::new(Arc::clone(data) as Arc<dyn Pipeline>, plan, options)?;
    while loader.next_batch()?.is_some() {}
    Ok(())
}

#[test]
fn what_changes_after_opening_is_the_samples_error() {
    let rows = npy("<f4", &[50_000, 4], &[1f32; 200_000]);
    let dir = folder(&[("rows.npy", rows)]);
    let path = dir.path().join("rows.npy");
    for held_bytes_max in [0, u64::MAX] {
        let data = open_with(&path, None, held_bytes_max).unwrap();
        cut(&path, 700_000);
        message(first_error(&data), &["failed to read sample", "row ", "cut while in use"]);
        std::fs::write(&path, npy("<f4", &[50_000, 4], &[1f32; 200_000])).unwrap();
    }
    let dir = folder(&[("0.npy", npy("<f4", &[2], &[1f32; 2])), ("1.npy", npy("<f4", &[2], &[1f32; 2]))]);
    let data = open(dir.path(), None).unwrap();
    cut(&dir.path().join("1.npy"), 135);
    message(first_error(&data), &["sample 1", "1.npy", "135 bytes instead of 136"]);
    // The same size, another meaning.
    std::fs::write(dir.path().join("1.npy"), npy("<i4", &[2], &[1i32; 2])).unwrap();
    message(first_error(&data), &["sample 1", "I32 [2]", "F32 [2]"]);
    let dir = folder(&[("0.png", png(2, 2, &[1; 4])), ("1.png", png(2, 1, &[1; 2])), ("2.png", png(2, 2, &[3; 4]))]);
    message(first_error(&open(dir.path(), None).unwrap()), &["decode sample 1", "2 x 1 px instead of 2 x 2"]);
}

#[test]
fn a_file_elsewhere_that_changes_is_the_samples_error() {
    let rows = || npy("<f4", &[50_000, 4], &[1f32; 200_000]);
    let dir = folder(&[("rows.npy", rows())]);
    let path = dir.path().join("rows.npy");
    let url = format!("file://{}", path.display());
    let data = open_with(url.as_ref(), None, 0).unwrap();
    cut(&path, 700_000);
    message(first_error(&data), &["rows.npy", "changed since it was listed"]);
    std::fs::write(&path, rows()).unwrap();
    let held = open_with(url.as_ref(), None, u64::MAX).unwrap();
    cut(&path, 700_000);
    first_error(&held).unwrap();
}

fn cut(path: &Path, size_bytes: u64) {
    std::fs::OpenOptions::new().write(true).open(path).unwrap().set_len(size_bytes).unwrap();
}
