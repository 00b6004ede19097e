//! Delivered batches: their values, which depend only on (data, seed, epoch, position).

use super::*;
use crate::scene_completion::{ChannelOrder, Layout, SceneAugment, picture};
use feedline::augment::normalize::{IMAGENET_MEAN, IMAGENET_STD};
use feedline::deliver::{Loader, LoaderOptions, SampleContext};
use feedline::pipeline::{Pipeline, make_sample};
use feedline::plan::{Plan, Tail};
use feedline::{Array, Batch, BatchField, Result};
use png::{BitDepth, ColorType, Encoder};
use std::path::PathBuf;
use std::sync::Arc;

fn loader(data: &Arc<dyn Pipeline>, plan: Plan, rank: u64, batch_size: u64, num_workers: usize) -> Loader {
    let options = LoaderOptions { rank, batch_size, num_workers, ..LoaderOptions::default() };
    Loader::new(Arc::clone(data), plan, options).unwrap()
}

fn epochs(loader: &mut Loader, count: usize) -> Vec<Batch> {
    (0..count).flat_map(|_| loader.iter().collect::<Result<Vec<_>>>().unwrap()).collect()
}

/// The list of RGB-D segmentation with pictures of several sizes.
fn segmentation(dir: &Path, count: usize) -> SceneFiles {
    let mut list = String::new();
    for number in 0..count {
        let mut rng = SampleRng::new(9, 0, number as u64, "segmentation");
        let px = [20 + 5 * number as u32, 30 + 4 * number as u32];
        write(&dir.join(format!("RGB/{number}.png")), &encode_png(&noise(&mut rng, px)).unwrap());
        write(&dir.join(format!("HHA/{number}.png")), &encode_png(&noise(&mut rng, px)).unwrap());
        let labels: Vec<u8> = (0..px[0] * px[1]).map(|_| rng.below(41) as u8).collect();
        let mut file = Vec::new();
        let mut encoder = Encoder::new(&mut file, px[1], px[0]);
        encoder.set_color(ColorType::Grayscale);
        encoder.set_depth(BitDepth::Eight);
        encoder.write_header().unwrap().write_image_data(&labels).unwrap();
        write(&dir.join(format!("Label/{number}.png")), &file);
        list += &format!("RGB/{number}.png\tLabel/{number}.png\n");
    }
    write(&dir.join("train.txt"), list.as_bytes());
    SceneFiles::in_folder(dir, "train.txt", "train")
}

fn augmented(dir: &Path, count: usize) -> Arc<dyn Pipeline> {
    let files = segmentation(dir, count);
    let augment = SceneAugment { mirror: true, scales: vec![0.5, 1.0, 1.75] };
    let options = SceneOptions { num_classes: 40, augment: Some(augment), ..options() };
    Arc::new(open(&files, &options, &Storage::default()).unwrap())
}

#[test]
fn batches_are_equal_for_any_workers_after_any_resume_and_on_every_run() {
    let dir = tempfile::tempdir().unwrap();
    let voxels: Arc<dyn Pipeline> = Arc::new(opened(&scenes(&dir.path().join("voxels"), 7)));
    for data in [voxels, augmented(&dir.path().join("pixels"), 7)] {
        let plan = || Plan::new(7, 1).unwrap().with_seed(3);
        let whole = epochs(&mut loader(&data, plan(), 0, 2, 0), 3);
        assert_eq!(whole.len(), 12);
        for workers in [1, 2, 5] {
            assert!(epochs(&mut loader(&data, plan(), 0, 2, workers), 3) == whole, "{workers} workers");
        }
        for cut in 0..4 {
            let mut first = loader(&data, plan(), 0, 2, 2);
            (0..cut).for_each(|_| drop(first.next_batch().unwrap()));
            let mut second = loader(&data, plan(), 0, 2, 3);
            second.load_state_dict(&first.state_dict()).unwrap();
            assert!(epochs(&mut second, 3) == whole[cut..], "resumed after {cut}");
        }
        // One by one, the plain way.
        for batch in &whole {
            for (at, index) in batch.indices.iter().enumerate() {
                let place = (batch.step * 2) as usize + at;
                let request = plan().epoch(batch.epoch).rank(0).nth(place).unwrap();
                assert_eq!(request.index, *index);
                let sample = make_sample(&*data, &request, &mut SampleContext::default()).unwrap();
                for ((name, field), expect) in batch.fields.iter().zip(&sample.fields) {
                    match field {
                        BatchField::Stack(array) => {
                            let each = array.as_bytes().len() / batch.len();
                            assert!(array.as_bytes()[at * each..][..each] == *expect.as_bytes(), "{name}");
                        }
                        BatchField::List(ids) => assert_eq!(ids[at], expect.as_bytes()),
                        _ => unreachable!("no such field is declared"),
                    }
                }
            }
        }
    }
}

#[test]
fn the_batches_of_two_ranks_are_those_of_one() {
    let dir = tempfile::tempdir().unwrap();
    let data = augmented(dir.path(), 8);
    let plan = |ranks| Plan::new(8, ranks).unwrap().with_seed(1).with_tail(Tail::Drop);
    let whole = epochs(&mut loader(&data, plan(1), 0, 4, 2), 2);
    let ranks = [0, 1].map(|rank| epochs(&mut loader(&data, plan(2), rank, 2, 2), 2));
    let values = |batch: &Batch, at: usize| {
        let array = batch.stacked("data").unwrap();
        let each = array.as_bytes().len() / batch.len();
        array.as_bytes()[at * each..][..each].to_vec()
    };
    for (step, batch) in whole.iter().enumerate() {
        for at in 0..4 {
            let (rank, place) = (at % 2, at / 2);
            assert_eq!(batch.indices[at], ranks[rank][step].indices[place]);
            assert!(values(batch, at) == values(&ranks[rank][step], place));
        }
    }
}

#[test]
fn an_epoch_of_another_length_takes_every_sample_before_any_comes_again() {
    let dir = tempfile::tempdir().unwrap();
    let data: Arc<dyn Pipeline> = Arc::new(opened(&scenes(dir.path(), 7)));
    let plan = Plan::new(7, 1).unwrap().with_epoch_length(5).unwrap();
    let indices: Vec<u64> =
        epochs(&mut loader(&data, plan, 0, 1, 1), 7).into_iter().flat_map(|batch| batch.indices).collect();
    assert_eq!(indices.len(), 35);
    for pass in indices.chunks(7) {
        let mut sorted = pass.to_vec();
        sorted.sort_unstable();
        assert_eq!(sorted, [0, 1, 2, 3, 4, 5, 6]);
    }
}

#[test]
fn values_are_those_of_the_files() {
    let dir = tempfile::tempdir().unwrap();
    let files = scenes(dir.path(), 1);
    let mut rng = SampleRng::new(5, 0, 0, "0001");
    let [rgb, hha] = [(); 2].map(|()| noise(&mut rng, IMAGE_PX));
    let value = |byte: u8, c: usize| ((f64::from(f32::from(byte) / 255.0) - IMAGENET_MEAN[c]) / IMAGENET_STD[c]) as f32;
    for order in [ChannelOrder::Bgr, ChannelOrder::Rgb] {
        let options = SceneOptions { hha_order: order, ..options() };
        let data: Arc<dyn Pipeline> = Arc::new(open(&files, &options, &Storage::default()).unwrap());
        let batch = epochs(&mut loader(&data, Plan::unshuffled(1, 1).unwrap(), 0, 1, 0), 1).remove(0);
        let plane = 24 * 32;
        for (name, image, turned) in [("data", &rgb, false), ("hha_img", &hha, order == ChannelOrder::Bgr)] {
            let array = batch.stacked(name).unwrap();
            assert_eq!(array.shape(), [1, 3, 24, 32]);
            for (at, pixel) in image.pixels.as_chunks::<3>().0.iter().enumerate() {
                for c in 0..3 {
                    let byte = pixel[if turned { 2 - c } else { c }];
                    assert_eq!(array.as_slice::<f32>()[c * plane + at], value(byte, c), "{name} pixel {at}");
                }
            }
        }
        let label = batch.stacked("label").unwrap();
        assert_eq!((label.shape(), label.as_slice::<i64>()[0]), (&[1, VOXELS][..], 255));
        assert_eq!(batch.stacked("tsdf").unwrap().shape(), [1, 1, 6, 4, 6]);
        assert_eq!(batch.stacked("sketch_gt").unwrap().shape(), [1, 6, 4, 6]);
        assert_eq!(batch.field("fn"), Some(&BatchField::List(vec![b"0001".to_vec()])));
        assert_eq!(batch.stacked("n").unwrap(), &Array::from_slice([1], &[1i64]));
        // The picture of it has a panel for each of them.
        let (pictures, each) = picture::pictures(&batch, &options).unwrap();
        assert_eq!((pictures.len(), each), (6, 6));
        assert!(pictures[0].0 == rgb && pictures[1].0 == hha, "denormalised they are the files' again");
    }
}

#[test]
fn arrays_of_the_grids_shape_are_those_that_are_flat() {
    let dir = tempfile::tempdir().unwrap();
    let files = scenes(dir.path(), 2);
    let batch = || {
        let data: Arc<dyn Pipeline> = Arc::new(opened(&files));
        epochs(&mut loader(&data, Plan::unshuffled(2, 1).unwrap(), 0, 2, 0), 1).remove(0)
    };
    let flat = batch();
    let values = |name: &str| flat.stacked(name).unwrap();
    let second = |array: &Array| array.as_bytes()[array.as_bytes().len() / 2..].to_vec();
    // The second sample has them in the grid's shape, with an axis of length 1 besides.
    let shape = [1, 6, 4, 6];
    let member = |descr: &str, name: &str| npy(descr, &shape, &second(values(name)));
    write(&dir.path().join("Mapping/0002.npz"), &npz(&[("arr_0", member("<i8", "depth_mapping_3d"))]));
    write(&dir.path().join("Label/0002.npz"), &npz(&[("arr_0", member("<i8", "label"))]));
    let tsdf = npz(&[("arr_0", member("<f4", "tsdf")), ("arr_1", member("<f4", "label_weight"))]);
    write(&dir.path().join("TSDF/0002.npz"), &tsdf);
    assert!(batch() == flat);
}

#[test]
fn archives_and_files_give_the_same_batches() {
    let dir = tempfile::tempdir().unwrap();
    let files = scenes(&dir.path().join("files"), 4);
    let packed = dir.path().join("packed");
    fs::create_dir_all(&packed).unwrap();
    let mut archive = tar::Builder::new(fs::File::create(packed.join("nyu.tar")).unwrap());
    archive.append_dir_all("", dir.path().join("files")).unwrap();
    archive.finish().unwrap();
    let batches = |files: &SceneFiles| {
        let data: Arc<dyn Pipeline> = Arc::new(opened(files));
        (data.fingerprint(), epochs(&mut loader(&data, Plan::new(4, 1).unwrap(), 0, 2, 2), 2))
    };
    let whole = batches(&files);
    assert!(batches(&SceneFiles::in_folder(&packed, "train.txt", "train")) == whole, "a tar in the folder");
    let named = SceneFiles::in_folder(&packed.join("nyu.tar"), "train.txt", "train");
    assert!(batches(&named) == whole, "a tar that is named");
    let url = PathBuf::from(format!("file://{}", dir.path().join("files").display()));
    assert!(batches(&SceneFiles::in_folder(&url, "train.txt", "train")) == whole, "a URL");
}

#[test]
fn a_crop_shows_the_same_place_of_all_pictures_and_pads_what_lacks() {
    let dir = tempfile::tempdir().unwrap();
    let data = augmented(dir.path(), 8);
    let batches = epochs(&mut loader(&data, Plan::unshuffled(8, 1).unwrap(), 0, 8, 2), 2);
    let mut padded = 0;
    for batch in &batches {
        let [data, hha, label] = ["data", "hha_img", "label"].map(|name| batch.stacked(name).unwrap());
        let label = label.as_slice::<i64>();
        assert!(label.iter().all(|label| (0..40).contains(label) || *label == 255));
        let (plane, width) = (24 * 32, 32);
        for sample in 0..8 {
            let empty = |array: &Array, at: usize| {
                (0..3).all(|c| array.as_slice::<f32>()[(3 * sample + c) * plane + at] == 0.0)
            };
            for at in 0..plane {
                // No byte becomes exactly 0, so this is padding; and it is that of both pictures and of the label.
                let outside = empty(data, at);
                assert_eq!(outside, empty(hha, at), "sample {sample} row {} column {}", at / width, at % width);
                padded += usize::from(outside);
                assert!(!outside || label[sample * plane + at] == 255);
            }
        }
    }
    assert!(padded > 0, "some were smaller than the crop");
    assert!(batches[0].fields != batches[1].fields, "other changes in the next epoch");
}

#[test]
fn the_layout_is_that_of_the_list() {
    let dir = tempfile::tempdir().unwrap();
    assert_eq!(opened(&scenes(&dir.path().join("a"), 1)).layout(), Layout::Voxels);
    let files = segmentation(&dir.path().join("b"), 2);
    let options =
        SceneOptions { num_classes: 40, augment: Some(SceneAugment { mirror: false, scales: vec![] }), ..options() };
    let data = open(&files, &options, &Storage::default()).unwrap();
    assert_eq!((data.layout(), data.sample_list().as_str()), (Layout::Segmentation, "0\n1\n"));
    fs::remove_file(dir.path().join("b/Label/1.png")).unwrap();
    let text = open(&files, &options, &Storage::default()).unwrap_err().to_string();
    assert!(text.contains("line 2: sample 1 has no file") && text.contains("Label/1.png"), "{text}");
}
