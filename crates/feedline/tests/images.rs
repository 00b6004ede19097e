//! Pipelines of pictures against the plain code: decode the file, apply one step after the other, write the numbers; and
//! what is declared in a chain of calls against the same parts put together by hand.

use feedline::augment::normalize::Normalize;
use feedline::augment::{Augmentation, Filter, ImageOp, apply_all};
use feedline::decode::{Fault, Limits, RgbImage, decode_rgb};
use feedline::deliver::{Loader, LoaderOptions, SampleContext};
use feedline::pipeline::{
    CustomTransform, DecodeMode, Exif, Images, ImagesBuilder, ImagesOptions, Pipeline, PixelOutput, Step, StepError,
    make_sample,
};
use feedline::plan::{Plan, Request, Tail};
use feedline::read::{ImageEntry, ImageList, Storage};
use feedline::{Array, Batch, Error, Result};
use std::path::{Path, PathBuf};
use std::sync::Arc;

const SIZE_PX: [u32; 2] = [40, 56];

fn decoded(path: &Path) -> Result<RgbImage, Fault> {
    let mut image = RgbImage::default();
    decode_rgb(&std::fs::read(path).unwrap(), &Limits::default(), &mut image).map(|()| image)
}

fn list() -> ImageList {
    let folder = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../../testdata/images/jpeg");
    let mut paths: Vec<_> = std::fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path()).collect();
    paths.retain(|path| path.extension().is_some_and(|extension| extension == "jpg"));
    paths.retain(|path| decoded(path).is_ok());
    paths.sort();
    assert!(paths.len() > 5);
    let entries = paths.into_iter().zip(0..).map(|(path, class)| ImageEntry { path, class }).collect();
    ImageList::from_entries(entries, "test", None, &Storage::default()).unwrap()
}

fn images(steps: Vec<Step>, numbers: PixelOutput) -> Images {
    let options = ImagesOptions {
        steps,
        size_px: Some(SIZE_PX),
        numbers,
        limits: Limits::default(),
        decode: DecodeMode::Whole,
        exif: Exif::Ignore,
        cache: None,
        labels: None,
    };
    Images::new(list(), options).unwrap()
}

fn request(index: u64, epoch: u64) -> Request {
    Request { seed: 7, epoch, pass: epoch, position: index, index, padded: false }
}

fn sample(images: &Images, request: &Request) -> Result<Vec<Array>> {
    make_sample(images, request, &mut SampleContext::default()).map(|sample| sample.fields)
}

fn ops() -> Vec<ImageOp> {
    let mut ops = Augmentation::Upstream.train_ops(48);
    ops.push(ImageOp::Resize { size_px: SIZE_PX, filter: Filter::Bilinear });
    ops.push(ImageOp::HorizontalFlip { p: 0.5 });
    ops
}

fn plain(request: &Request) -> RgbImage {
    let mut image = decoded(&list().entries[request.index as usize].path).unwrap();
    apply_all(&ops(), &mut image, |stream| request.rng(stream));
    image
}

/// Adds a random number; or fails on sample 3.
#[derive(Debug)]
struct Shift {
    fails: bool,
}

impl CustomTransform for Shift {
    fn picture(&self, image: &mut RgbImage, request: &Request, stream: &str) -> Result<(), StepError> {
        if self.fails && request.index == 3 {
            return Err("three is no good".into());
        }
        let by = request.rng(stream).below(200) as u8;
        image.pixels.iter_mut().for_each(|value| *value = value.wrapping_add(by));
        Ok(())
    }

    fn values(&self, values: &mut [f32], size_px: [u32; 2], request: &Request, stream: &str) -> Result<(), StepError> {
        assert_eq!(values.len(), 3 * size_px.map(|px| px as usize).iter().product::<usize>());
        let by = request.rng(stream).unit() as f32;
        values.iter_mut().for_each(|value| *value += by);
        Ok(())
    }
}

fn own(fails: bool) -> Step {
    Step::Custom { name: "shift".into(), step: Arc::new(Shift { fails }) }
}

#[test]
fn pictures_become_numbers_as_the_plain_code_makes_them() {
    let normalize = Normalize::default;
    let steps = || ops().into_iter().map(Step::Op).collect::<Vec<_>>();
    let bytes = images(steps(), PixelOutput::Bytes);
    let floats = images(steps(), PixelOutput::Floats { normalize: normalize(), after: vec![] });
    for index in 0..list().entries.len() as u64 {
        let request = request(index, 2);
        let image = plain(&request);
        let planes = (0..3).flat_map(|c| image.pixels.iter().skip(c).step_by(3).copied());
        let fields = sample(&bytes, &request).unwrap();
        assert_eq!(fields[0], Array::from_slice([3, 40, 56], &planes.collect::<Vec<u8>>()), "{index}");
        assert_eq!(fields[1], Array::from_slice([], &[index as i64]));
        let mut values = vec![0.0; image.pixels.len()];
        normalize().write_chw(&image, false, &mut values);
        assert_eq!(sample(&floats, &request).unwrap()[0], Array::from_slice([3, 40, 56], &values), "{index}");
    }
}

#[test]
fn a_step_of_ones_own_has_its_place_and_its_own_randomness() {
    // The indexes of the steps after it move by one.
    let mut steps = ops().into_iter().map(Step::Op).collect::<Vec<_>>();
    steps.insert(2, own(false));
    let with_own = images(steps, PixelOutput::Bytes);
    for (index, epoch) in [(0, 0), (1, 0), (1, 5)] {
        let request = request(index, epoch);
        let mut image = decoded(&list().entries[index as usize].path).unwrap();
        let mut scratch = RgbImage::default();
        for (place, op) in ops().iter().enumerate() {
            if place == 2 {
                Shift { fails: false }.picture(&mut image, &request, "augment.2.shift").unwrap();
            }
            let place = if place < 2 { place } else { place + 1 };
            op.apply(&mut image, &mut scratch, &mut request.rng(&op.stream(place)));
        }
        let planes = (0..3).flat_map(|c| image.pixels.iter().skip(c).step_by(3).copied());
        let fields = sample(&with_own, &request).unwrap();
        assert_eq!(fields[0], Array::from_slice([3, 40, 56], &planes.collect::<Vec<u8>>()));
    }
    let steps = || ops().into_iter().map(Step::Op).collect::<Vec<_>>();
    let after = vec![("shift".to_owned(), Arc::new(Shift { fails: false }) as Arc<dyn CustomTransform>)];
    let (plain, shifted) = (
        images(steps(), PixelOutput::Floats { normalize: Normalize::default(), after: vec![] }),
        images(steps(), PixelOutput::Floats { normalize: Normalize::default(), after }),
    );
    let request = request(1, 0);
    let by = request.rng("augment.0.values.shift").unit() as f32;
    let expect: Vec<f32> =
        sample(&plain, &request).unwrap()[0].as_slice::<f32>().iter().map(|value| value + by).collect();
    assert_eq!(sample(&shifted, &request).unwrap()[0], Array::from_slice([3, 40, 56], &expect));
}

#[test]
fn a_step_that_fails_or_ends_in_another_size_is_named() {
    let mut steps = ops().into_iter().map(Step::Op).collect::<Vec<_>>();
    steps.push(own(true));
    let failing = images(steps.clone(), PixelOutput::Bytes);
    assert!(sample(&failing, &request(2, 0)).is_ok());
    let error = sample(&failing, &request(3, 0)).unwrap_err();
    assert!(matches!(&error, Error::Step { name, index: 3, .. } if name == "shift"), "{error:?}");
    assert!(error.to_string().contains("step shift failed on sample 3 (") && error.to_string().ends_with("no good"));

    steps.push(Step::Op(ImageOp::Resize { size_px: [8, 9], filter: Filter::Bilinear }));
    let error = sample(&images(steps, PixelOutput::Bytes), &request(0, 0)).unwrap_err().to_string();
    assert!(error.contains("8 x 9 px") && error.contains("40 x 56 are declared"), "{error}");
    let steps = vec![Step::Op(ImageOp::Resize { size_px: [8, 9], filter: Filter::Bilinear })];
    let error = sample(&images(steps, PixelOutput::Bytes), &request(0, 0)).unwrap_err().to_string();
    assert!(error.contains("8 x 9 px"), "{error}");
}

/// Batches of three epochs.
fn batches(loader: &mut Loader) -> Vec<Batch> {
    (0..3).flat_map(|_| loader.iter().collect::<Result<Vec<_>>>().unwrap()).collect()
}

#[test]
fn a_declared_loader_delivers_the_bytes_of_one_put_together_from_its_parts() {
    let steps = [
        ImageOp::RandomResizedCrop {
            size_px: [40, 56],
            scale: [0.08, 1.0],
            ratio: [3.0 / 4.0, 4.0 / 3.0],
            filter: Filter::Bilinear,
        },
        ImageOp::HorizontalFlip { p: 0.5 },
        ImageOp::AutoaugmentImagenet {},
        ImageOp::ColorJitter { brightness: 0.2, contrast: 0.1, saturation: 0.3 },
        ImageOp::RandomAffine { degrees: 10.0, translate: 0.1 },
    ];
    let by_hand = |num_workers: usize, drop_last: bool| {
        let options = ImagesOptions {
            steps: steps.iter().cloned().map(Step::Op).collect(),
            size_px: Some([40, 56]),
            numbers: PixelOutput::Floats { normalize: Normalize::default(), after: vec![] },
            limits: Limits::default(),
            decode: DecodeMode::Fused,
            exif: Exif::Ignore,
            cache: None,
            labels: None,
        };
        let images = Arc::new(Images::new(list(), options).unwrap());
        let tail = if drop_last { Tail::Drop } else { Tail::Pad };
        let plan = Plan::new(images.len(), 2).unwrap().with_seed(7).with_tail(tail);
        let options = LoaderOptions { batch_size: 4, rank: 1, num_workers, drop_last, ..LoaderOptions::default() };
        Loader::new(images, plan, options).unwrap()
    };
    let declared = |num_workers: usize, drop_last: bool| {
        let pictures = ImagesBuilder::new(list()).random_resized_crop((40, 56)).hflip().autoaugment();
        let pictures = pictures.color_jitter(0.2, 0.1, 0.3).random_affine(10.0, 0.1).normalize();
        let loader = Loader::over(pictures).batch_size(4).shuffle(true).seed(7).rank(1, 2);
        loader.num_workers(num_workers).drop_last(drop_last).build().unwrap()
    };
    for drop_last in [false, true] {
        let expect = batches(&mut by_hand(0, drop_last));
        assert!(expect.len() > 10);
        for num_workers in [0, 1, 3] {
            let mut loader = declared(num_workers, drop_last);
            assert_eq!(batches(&mut loader), expect, "{num_workers} workers");
            assert_eq!(loader.state_dict().epoch, 3);

            let mut stopped = declared(num_workers, drop_last);
            stopped.set_epoch(1);
            let before: Vec<Batch> = stopped.iter().take(2).map(Result::unwrap).collect();
            let mut resumed = declared(3 - num_workers, drop_last);
            resumed.load_state_dict(&stopped.state_dict()).unwrap();
            let mut after = by_hand(0, drop_last);
            after.load_state_dict(&stopped.state_dict()).unwrap();
            let rest: Vec<Batch> = resumed.iter().map(Result::unwrap).collect();
            assert!(rest.iter().eq(after.iter().map(Result::unwrap).collect::<Vec<_>>().iter()));
            let whole: Vec<Batch> = before.into_iter().chain(rest).collect();
            assert!(whole.iter().eq(expect.iter().filter(|batch| batch.epoch == 1)));
        }
    }
}

#[test]
fn pictures_are_found_in_a_folder_an_archive_and_at_a_url() {
    let testdata = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../../testdata").canonicalize().unwrap();
    let labels = |location: &str| {
        let pictures = feedline::images(location).unwrap().resize(20).center_crop(16);
        let mut loader = Loader::over(pictures).num_workers(0).build().unwrap();
        let labels = loader.iter().map(|batch| batch.unwrap().stacked("label").unwrap().as_slice::<i64>()[0]);
        labels.collect::<Vec<i64>>()
    };
    let zip = labels(testdata.join("shards/zip/all.zip").to_str().unwrap());
    assert_eq!(zip, [0, 0, 0, 1, 1, 2, 2, 2]);
    assert_eq!(labels(testdata.join("shards/webdataset").to_str().unwrap()).len(), 8);
    assert_eq!(labels(&format!("file://{}/shards/zip/all.zip", testdata.display())), zip);
    let error = feedline::images(testdata.join("nothing")).unwrap_err().to_string();
    assert!(error.contains("nothing"), "{error}");
    let error = feedline::images(testdata.join("seeds/list.txt")).unwrap_err().to_string();
    assert!(error.contains("the classes of the list"), "{error}");
}

#[test]
fn a_word_in_the_wrong_place_is_told_when_the_declaration_ends() {
    let declared = || ImagesBuilder::new(list());
    for (pictures, part) in [
        (declared(), "the pictures are of any size"),
        (declared().hflip().normalize(), "the pictures are of any size"),
        (declared().resize(20).normalize(), "Add .center_crop(n)"),
        (declared().resize(20).hflip().center_crop(8), "Add .center_crop(n)"),
        (declared().center_crop(20), "center_crop has to follow resize(n)"),
        (declared().normalize().resize((20, 30)), "resize comes after normalize()"),
        (declared().resize([20, 30]).normalize().normalize(), "normalize() stands twice"),
        (declared().random_resized_crop(0), "size_px of random_resized_crop"),
        (declared().resize((20, 30)).random_affine(200.0, 0.0), "degrees of random_affine"),
    ] {
        let error = pictures.build().unwrap_err().to_string();
        assert!(error.contains(part), "{error:?} is without {part:?}");
    }
    assert!(Loader::over(declared()).build().err().unwrap().to_string().contains("the pictures are of any size"));
    // A step of one's own decides the size, and takes its place among the others.
    let shifted = declared().map("shift", Shift { fails: false }).resize([40, 56]);
    let fields = |images: Images| sample(&images, &request(1, 0)).unwrap();
    let steps = vec![own(false), Step::Op(ImageOp::Resize { size_px: SIZE_PX, filter: Filter::Bilinear })];
    assert_eq!(fields(shifted.decode(DecodeMode::Whole).build().unwrap()), fields(images(steps, PixelOutput::Bytes)));
}

#[test]
fn exif_data_that_are_ignored_are_told_once_and_applied_they_are_other_data() {
    let declared = |exif| ImagesBuilder::new(list()).resize([8, 8]).exif(exif).build().unwrap();
    let told = Arc::new(Told::default());
    let loader = |exif, num_workers, passes| {
        let images = Arc::new(declared(exif));
        let plan = Plan::unshuffled(images.len(), 1).unwrap();
        let options = LoaderOptions { batch_size: 4, num_workers, sink: told.clone(), ..LoaderOptions::default() };
        // A sample without a loader tells nobody, and keeps nothing from being told.
        (0..images.len()).for_each(|index| drop(sample(&images, &request(index, 0)).unwrap()));
        let mut loader = Loader::new(images, plan, options).unwrap();
        (0..passes).for_each(|_| loader.iter().for_each(|batch| drop(batch.unwrap())));
        std::mem::take(&mut *told.0.lock().unwrap())
    };
    for num_workers in [0, 2] {
        let words = loader(Exif::Ignore, num_workers, 2);
        assert!(
            matches!(&words[..], [one] if one.contains("exif_rotated.jpg: its EXIF") && one.contains("data.exif = \"apply\"")),
            "{words:?}"
        );
        assert_eq!(loader(Exif::Apply, num_workers, 1), Vec::<String>::new());
    }
    let (ignored, applied) = (declared(Exif::Ignore), declared(Exif::Apply));
    assert_eq!(ignored.fingerprint(), list().fingerprint(), "the fingerprint of runs of before");
    assert_ne!(applied.fingerprint(), ignored.fingerprint());
    let differ =
        |index: &u64| sample(&ignored, &request(*index, 0)).unwrap() != sample(&applied, &request(*index, 0)).unwrap();
    let differing: Vec<String> = (0..ignored.len()).filter(differ).map(|index| ignored.location(index)).collect();
    assert!(matches!(&differing[..], [one] if one.ends_with("exif_rotated.jpg")), "{differing:?}");
}

/// Keeps the warnings of a loader.
#[derive(Default)]
struct Told(std::sync::Mutex<Vec<String>>);

impl feedline::event::Sink for Told {
    fn emit(&self, event: &feedline::event::Event) -> Result<()> {
        if let feedline::event::Event::Warning { message } = event {
            self.0.lock().unwrap().push(message.clone());
        }
        Ok(())
    }
}

#[test]
fn labels_of_any_shape_are_delivered_a_row_for_each_picture() {
    let len = list().entries.len();
    let resize = || vec![Step::Op(ImageOp::Resize { size_px: SIZE_PX, filter: Filter::Bilinear })];
    let options = |labels| ImagesOptions { steps: resize(), labels, ..ImagesOptions::default() };
    let values: Vec<f32> = (0..2 * len).map(|value| value as f32 / 4.0).collect();
    let labelled = Images::new(list(), options(Some(Array::from_slice([len, 2], &values)))).unwrap();
    let plain = Images::new(list(), options(None)).unwrap();
    for index in 0..len as u64 {
        let (with, without) =
            (sample(&labelled, &request(index, 0)).unwrap(), sample(&plain, &request(index, 0)).unwrap());
        assert_eq!(with[0], without[0]);
        assert_eq!(with[1], Array::from_slice([2], &values[2 * index as usize..][..2]));
    }
    let others: Vec<f32> = values.iter().map(|value| value + 1.0).collect();
    let other = Images::new(list(), options(Some(Array::from_slice([len, 2], &others)))).unwrap();
    let prints = std::collections::BTreeSet::from([&plain, &labelled, &other].map(Pipeline::fingerprint));
    assert_eq!(prints.len(), 3, "labels are part of what the data are");
    for labels in [Array::from_slice([1, 2], &[0.0f32; 2]), Array::from_slice([], &[0i64])] {
        let error = Images::new(list(), options(Some(labels))).unwrap_err().to_string();
        assert!(error.contains("Give one row for each picture"), "{error}");
    }
}

/// The names of all operations: serde lists them where it meets a name that is none.
fn operation_names() -> Vec<String> {
    let error = serde_json::from_str::<ImageOp>(r#"{"op": "none of them"}"#).unwrap_err().to_string();
    let (_, names) = error.split_once("expected one of ").expect("serde names what it expects");
    names.split('`').skip(1).step_by(2).map(str::to_owned).collect()
}

#[test]
fn every_operation_has_a_method_in_python_and_in_rust_and_a_row_in_the_docs() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../..");
    let text = |path: &str| std::fs::read_to_string(root.join(path)).unwrap();
    let python = text("crates/feedline-py/python/feedline/pictures.py");
    let rust = text("crates/feedline/src/pipeline/builder.rs");
    let docs = text("docs/python.md");
    let names = operation_names();
    assert!(names.len() >= 7 && names.contains(&"random_affine".to_owned()), "{names:?}");
    for name in names {
        let declared = format!("{{\"op\": \"{name}\"");
        let before = python.split_once(&declared).map(|(before, _)| before);
        let before = before.unwrap_or_else(|| panic!("no method of Images in pictures.py makes {declared}...}}"));
        let (_, method) = before.rsplit_once("\n    def ").unwrap();
        let method = method.split('(').next().unwrap();
        assert!(rust.contains(&format!("pub fn {method}(")), "builder.rs has no method {method}, for {name}");
        let is_row =
            |line: &str| line.starts_with(&format!("| `.{method}(")) && line.contains(&format!("| `{name}` |"));
        assert!(docs.lines().any(is_row), "docs/python.md has no row for .{method}(), which is `{name}` in settings");
    }
}
