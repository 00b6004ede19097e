//! The data of the recipe: pictures and their numbers as batches of `pixels` f32 (B, side * side), 0 to 1, and `value` f32
//! (B,). Composes the stages read and decode; owns the CSV file and what a picture must be.

use crate::config::Config;
use feedline::decode::{Fault, Limits, RgbImage, decode_rgb};
use feedline::deliver::SampleContext;
use feedline::pipeline::{Pipeline, Raw};
use feedline::plan::Request;
use feedline::plan::rng::hash_words;
use feedline::read::{FileList, SampleReader, Storage, read_sample, text_of};
use feedline::{DType, Error, FieldSpec, Result, Slot, Stage};
use std::path::Path;

/// A split.
pub struct Numbered {
    names: Vec<String>,
    values: Vec<f32>,
    files: FileList,
    fields: Vec<FieldSpec>,
    side_px: u32,
    max_pixels: u64,
    is_augmented: bool,
}

impl Numbered {
    /// The pictures that the CSV file `list` in the folder of the data names.
    ///
    /// # Errors
    /// A list that cannot be read, a line that is no `name,value`, or a picture that is not there.
    pub fn open(config: &Config, list: &str, is_augmented: bool) -> Result<Numbered> {
        let (dir, side_px) = (&config.data.dir, config.data.side_px);
        let path = dir.join(list);
        let (names, values): (Vec<String>, Vec<f32>) = read_csv(&path, &config.storage)?.into_iter().unzip();
        let paths = names.iter().map(|name| dir.join(name)).collect();
        let files = FileList::of_paths(paths, &config.storage, |at| {
            Error::dataset(&path, format!("line {}: there is no file {}", at + 1, names[at]), "Correct the list")
        })?;
        let fields = vec![
            FieldSpec::stack("pixels", DType::F32, [(side_px * side_px) as usize]),
            FieldSpec::stack("value", DType::F32, []),
        ];
        Ok(Numbered { names, values, files, fields, side_px, max_pixels: config.data.max_pixels, is_augmented })
    }

    /// A line for each sample.
    pub fn sample_list(&self) -> String {
        self.names.iter().map(|name| format!("{name}\n")).collect()
    }

    /// The name of a sample.
    pub fn name(&self, index: u64) -> &str {
        &self.names[index as usize]
    }

    fn decode(&self, bytes: &[u8], image: &mut RgbImage) -> Result<(), Fault> {
        decode_rgb(bytes, &Limits { max_pixels: self.max_pixels }, image)?;
        match [image.width_px, image.height_px] == [self.side_px; 2] {
            true => Ok(()),
            false => {
                Err(format!("it has {} x {} px, not {} each", image.width_px, image.height_px, self.side_px).into())
            }
        }
    }
}

impl Pipeline for Numbered {
    fn len(&self) -> u64 {
        self.names.len() as u64
    }

    fn fingerprint(&self) -> u64 {
        let values = self.values.iter().map(|value| u64::from(value.to_bits()));
        hash_words(&[self.files.fingerprint()].into_iter().chain(values).collect::<Vec<_>>())
    }

    fn fields(&self) -> &[FieldSpec] {
        &self.fields
    }

    fn sample_reader(&self) -> Option<&SampleReader> {
        self.files.stored.as_ref()
    }

    fn location(&self, index: u64) -> String {
        self.files.entries[index as usize].path.display().to_string()
    }

    fn read(&self, request: &Request, raw: &mut Raw, clock: &mut SampleContext) -> Result<()> {
        raw.resize_with(1, Vec::new);
        let (stored, path) = (self.sample_reader(), &self.files.entries[request.index as usize].path);
        if let Some(reader) = stored {
            reader.reached(request.epoch, request.position);
        }
        read_sample(stored, request.index, path, clock.stop_signal(), &mut raw[0])?;
        clock.count_bytes(raw[0].len());
        Ok(())
    }

    fn make(&self, request: &Request, raw: &Raw, slot: &mut Slot<'_>, clock: &mut SampleContext) -> Result<()> {
        clock.enter(Stage::Decode);
        let mut image = RgbImage::default();
        self.decode(&raw[0], &mut image)
            .map_err(|fault| fault.at(Stage::Decode, request.index, self.location(request.index)))?;
        clock.enter(Stage::Augment);
        let is_mirrored = self.is_augmented && request.rng("mirror").chance(0.5);
        let side = self.side_px as usize;
        let rows = image.pixels.as_chunks::<3>().0.chunks_exact(side);
        for (place, row) in slot.dense::<f32>("pixels").chunks_exact_mut(side).zip(rows) {
            for (x, pixel) in row.iter().enumerate() {
                let grey = pixel.iter().map(|value| f32::from(*value)).sum::<f32>() / (3.0 * 255.0);
                place[if is_mirrored { side - 1 - x } else { x }] = grey;
            }
        }
        slot.dense::<f32>("value")[0] = self.values[request.index as usize];
        Ok(())
    }
}

/// The names and numbers of a CSV file without a head.
fn read_csv(path: &Path, storage: &Storage) -> Result<Vec<(String, f32)>> {
    let missing = |_| Error::dataset(path, "there is no such list", "Write lines of name,value into it");
    let bytes = FileList::of_paths(vec![path.to_path_buf()], storage, missing)?.read_whole(0)?;
    let line = |(at, line): (usize, &str)| {
        let (name, value) = line.rsplit_once(',')?;
        let value = value.trim().parse::<f32>().ok().filter(|value| value.is_finite())?;
        Some((at, name.trim().to_string(), value))
    };
    let text = text_of(bytes, path)?;
    let lines = text.lines().enumerate().map(|(at, text)| {
        let wrong = || Error::dataset(path, format!("line {}: `{text}` is no name,value", at + 1), "Correct the line");
        line((at, text)).map(|(_, name, value)| (name, value)).ok_or_else(wrong)
    });
    let lines: Vec<(String, f32)> = lines.collect::<Result<_>>()?;
    match lines.is_empty() {
        true => Err(Error::dataset(path, "the list is empty", "Write lines of name,value into it")),
        false => Ok(lines),
    }
}
