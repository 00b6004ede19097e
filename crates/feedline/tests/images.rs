//! Pipelines of pictures against the plain code: decode the file, apply one step after the other, write the numbers.

use feedline::augment::normalize::Normalize;
use feedline::augment::{Augmentation, Filter, ImageOp, apply_all};
use feedline::decode::{Fault, Limits, RgbImage, decode_rgb};
use feedline::deliver::SampleContext;
use feedline::pipeline::{
    CustomTransform, DecodeMode, Images, ImagesOptions, PixelOutput, Step, StepError, make_sample,
};
use feedline::plan::Request;
use feedline::read::{ImageEntry, ImageList, Storage};
use feedline::{Array, Error, Result};
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
        size_px: SIZE_PX,
        numbers,
        limits: Limits::default(),
        decode: DecodeMode::Whole,
        cache: None,
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
