//! The Rust rivals: Burn's own DataLoader and dataloader-rs, both over the same two data sets.
//!
//! Pictures are decoded by the `image` crate and resized by `fast_image_resize` (bilinear, antialiased), the
//! batcher concatenates. Arrays are handed on as slices of the memory map, so that each row is copied once.

use std::error::Error;
use std::path::PathBuf;
use std::time::Instant;

use burn::data::dataloader::DataLoaderBuilder;
use burn::data::dataloader::batcher::Batcher;
use burn::data::dataset::{Dataset as BurnDataset, DatasetError};
use burn::tensor::Device;
use dataloader_rs::{Collator, DataLoader, Dataset, RandomSampler};
use fast_image_resize as fir;
use fir::images::{TypedImage, TypedImageRef};
use fir::pixels::U8x3;

use crate::bare::normalise_any;
use crate::input::{Rows, centre_crop, pictures, random_crop};
use crate::{Args, report};

const SIDE: u32 = 224;

/// A sample: pixels made by the worker, or a row of the memory map.
#[derive(Clone, Debug)]
enum Sample {
    Picture(Vec<f32>),
    Row(&'static [f32]),
}

impl Sample {
    fn values(&self) -> &[f32] {
        match self {
            Self::Picture(values) => values,
            Self::Row(values) => values,
        }
    }
}

enum LoaderInput {
    Pictures { files: Vec<PathBuf>, train: bool },
    Rows(Rows),
}

type Failure = Box<dyn Error + Send + Sync>;

impl LoaderInput {
    fn open(args: &Args) -> Result<Self, Box<dyn Error>> {
        Ok(if args.data.ends_with(".npy") {
            Self::Rows(Rows::open(&args.data)?)
        } else {
            Self::Pictures { files: pictures(&args.data)?, train: args.work != "C" }
        })
    }

    fn count(&self) -> usize {
        match self {
            Self::Pictures { files, .. } => files.len(),
            Self::Rows(rows) => rows.count,
        }
    }

    fn sample(&self, index: usize) -> Result<Sample, Failure> {
        match self {
            Self::Rows(rows) => Ok(Sample::Row(rows.row(index))),
            Self::Pictures { files, train } => {
                let picture = image::load_from_memory(&std::fs::read(&files[index])?)?.into_rgb8();
                let (width, height) = (picture.width() as usize, picture.height() as usize);
                let crop = if *train {
                    random_crop(&mut fastrand::Rng::new(), width, height)
                } else {
                    centre_crop(width, height)
                };
                let view = TypedImageRef::<U8x3>::from_buffer(width as u32, height as u32, picture.as_raw())?;
                let mut small = TypedImage::<U8x3>::new(SIDE, SIDE);
                let options = fir::ResizeOptions::new()
                    .resize_alg(fir::ResizeAlg::Convolution(fir::FilterType::Bilinear))
                    .use_alpha(false)
                    .crop(crop.left as f64, crop.top as f64, crop.width as f64, crop.height as f64);
                fir::Resizer::new().resize_typed(&view, &mut small, &options)?;
                let mut values = vec![0f32; (3 * SIDE * SIDE) as usize];
                normalise_any(small.pixels(), &mut values, *train && fastrand::bool());
                Ok(Sample::Picture(values))
            }
        }
    }
}

fn concatenate(items: &[Sample]) -> Vec<f32> {
    let mut batch = Vec::with_capacity(items.iter().map(|item| item.values().len()).sum());
    for item in items {
        batch.extend_from_slice(item.values());
    }
    batch
}

impl BurnDataset<Sample> for LoaderInput {
    fn get(&self, index: usize) -> Result<Sample, DatasetError> {
        Ok(self.sample(index).expect("the bench's pictures decode"))
    }

    fn len(&self) -> usize {
        self.count()
    }
}

struct Concatenate;

impl Batcher<Sample, Vec<f32>> for Concatenate {
    fn batch(&self, items: Vec<Sample>, _device: &Device) -> Vec<f32> {
        concatenate(&items)
    }
}

/// Burn's MultiThreadDataLoader. The batch stays a `Vec`, so that no tensor back end is measured.
pub fn burn(args: &Args) -> Result<serde_json::Value, Box<dyn Error>> {
    let started = Instant::now();
    let source = LoaderInput::open(args)?;
    let samples = source.count();
    let width = source.sample(0).map_err(|e| e.to_string())?.values().len();
    let loader = DataLoaderBuilder::new(Concatenate)
        .batch_size(args.batch_size)
        .shuffle(0)
        .num_workers(args.workers)
        .build(source);
    report::epochs(args, started, samples, |_, mark| {
        let mut delivered = 0;
        for batch in loader.iter() {
            let batch = batch?;
            mark();
            std::hint::black_box(batch[batch.len() / 2]);
            delivered += batch.len() / width;
        }
        Ok(delivered)
    })
}

impl Dataset for LoaderInput {
    type Item = Sample;

    fn get(&self, index: usize) -> dataloader_rs::error::Result<Sample> {
        self.sample(index)
    }

    fn len(&self) -> usize {
        self.count()
    }
}

impl Collator<Sample> for Concatenate {
    type Batch = Vec<f32>;

    fn collate(&self, items: Vec<Sample>) -> dataloader_rs::error::Result<Vec<f32>> {
        Ok(concatenate(&items))
    }
}

pub fn dataloader_rs(args: &Args) -> Result<serde_json::Value, Box<dyn Error>> {
    let started = Instant::now();
    let source = LoaderInput::open(args)?;
    let samples = source.count();
    let width = source.sample(0).map_err(|e| e.to_string())?.values().len();
    let mut loader = DataLoader::builder(source)
        .batch_size(args.batch_size)
        .sampler(RandomSampler::new(0))
        .collator(Concatenate)
        .num_workers(args.workers)
        .prefetch_depth(2)
        .build();
    report::epochs(args, started, samples, |_, mark| {
        let mut delivered = 0;
        for batch in &mut loader {
            let batch = batch.map_err(|e| e.to_string())?;
            mark();
            std::hint::black_box(batch[batch.len() / 2]);
            delivered += batch.len() / width;
        }
        Ok(delivered)
    })
}
