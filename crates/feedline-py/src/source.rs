//! Sources: converts declarations from Python to pipelines. Owns only the parsing of the declaration.

use crate::array::{Array, type_name};
use crate::errors::raise;
use crate::memory::Memory;
use crate::steps::{Mapped, Number, Numbers, PyStep, Taken};
use feedline::augment::ImageOp;
use feedline::augment::normalize::Normalize;
use feedline::decode::{DecodedCache, Limits};
use feedline::deliver::{SampleContext, one_sample};
use feedline::pipeline::{Concat, DecodeMode, Exif, Images, ImagesOptions, Pipeline, Step, Subset, make_sample};
use feedline::plan::{Plan, Request};
use feedline::read::{Credentials, ImageEntry, ImageList, Storage, read_classes};
use feedline::{Error, Result};
use feedline_recipes::scene_completion;
use pyo3::prelude::*;
use std::path::PathBuf;
use std::sync::Arc;

/// A pipeline for the loader.
#[pyclass(frozen, name = "Source", module = "feedline._native")]
pub struct PySource {
    pub pipeline: Arc<dyn Pipeline>,
    /// The list of the pictures, if the samples are pictures.
    list: Option<Arc<ImageList>>,
    /// The numbers of the samples in the list, if they are not all of it.
    numbers: Option<Arc<[u64]>>,
}

impl PySource {
    pub fn new(pipeline: Arc<dyn Pipeline>) -> PySource {
        PySource { pipeline, list: None, numbers: None }
    }

    /// A value for each picture in the list, of the pictures that are samples here.
    fn listed<T: Clone>(&self, all: impl FnOnce(&ImageList) -> Vec<T>) -> Option<Vec<T>> {
        let all = all(self.list.as_deref()?);
        Some(match &self.numbers {
            None => all,
            Some(numbers) => numbers.iter().map(|number| all[*number as usize].clone()).collect(),
        })
    }
}

/// A step as Python declares it: an operation in JSON, or a name, a function and true if it takes a generator.
#[derive(FromPyObject)]
pub enum Declared {
    Op(String),
    Own(String, Py<PyAny>, bool),
}

impl Declared {
    fn step(self) -> Result<Step> {
        match self {
            Declared::Op(json) => {
                let op: ImageOp = serde_json::from_str(&json)
                    .map_err(|e| Error::config(format!("{json}: {e}"), "See the documentation of the step"))?;
                op.validate()?;
                Ok(Step::Op(op))
            }
            Declared::Own(name, function, with_rng) => {
                Ok(Step::Custom { name, step: Arc::new(PyStep::new(function, with_rng)) })
            }
        }
    }
}

/// The kinds of input that `images` accepts.
#[derive(FromPyObject)]
pub enum Files {
    /// Paths and labels.
    Listed(Vec<(PathBuf, u32)>),
    /// A folder of class folders, or a list file of `class;path` lines.
    Path(PathBuf),
}

/// The conversion of pictures to floats: mean, std, and the steps after it.
type Floats = ([f64; 3], [f64; 3], Vec<Declared>);

#[pymethods]
impl PySource {
    /// Labelled pictures; `classes` are names. `labels`, an array with a row for each picture, is delivered instead of classes.
    #[staticmethod]
    #[pyo3(signature = (files, classes, labels, steps, floats, size_px, max_pixels, decode, cache_bytes, exif, storage))]
    #[expect(clippy::too_many_arguments, reason = "one keyword argument each")]
    fn images(
        py: Python<'_>,
        files: Files,
        classes: Option<Vec<String>>,
        labels: Option<Bound<'_, PyAny>>,
        steps: Vec<Declared>,
        floats: Option<Floats>,
        size_px: Option<[u32; 2]>,
        max_pixels: Option<u64>,
        decode: &str,
        cache_bytes: u64,
        exif: &str,
        storage: &str,
    ) -> PyResult<PySource> {
        let labels = labels.map(|labels| Taken::new(&labels)?.array(py)).transpose()?;
        let make = || -> Result<PySource> {
            let list = image_list(files, classes, &parse_storage(storage)?)?;
            let steps = steps.into_iter().map(Declared::step).collect::<Result<Vec<_>>>()?;
            let numbers = match floats {
                None => feedline::pipeline::PixelOutput::Bytes,
                Some((mean, std, after)) => feedline::pipeline::PixelOutput::Floats {
                    normalize: Normalize::new(mean, std),
                    after: after
                        .into_iter()
                        .map(|declared| match declared.step()? {
                            Step::Custom { name, step } => Ok((name, step)),
                            Step::Op(op) => Err(Error::config(
                                format!("{} comes after normalize()", op.name()),
                                "Steps on pictures come before normalize()",
                            )),
                        })
                        .collect::<Result<_>>()?,
                },
            };
            let decode = match decode {
                "fused" => DecodeMode::Fused,
                "region" => DecodeMode::Region,
                "whole" => DecodeMode::Whole,
                _ => {
                    let problem = format!("decode mode {decode:?} is unknown");
                    return Err(Error::config(problem, "Use \"fused\", \"region\" or \"whole\""));
                }
            };
            let exif = match exif {
                "ignore" => Exif::Ignore,
                "apply" => Exif::Apply,
                _ => return Err(Error::config(format!("exif={exif:?} is unknown"), "Use \"ignore\" or \"apply\"")),
            };
            let limits = max_pixels.map_or_else(Limits::default, |max_pixels| Limits { max_pixels });
            let cache = (cache_bytes > 0).then(|| DecodedCache::new(cache_bytes));
            let options = ImagesOptions { steps, size_px, numbers, limits, decode, exif, cache, labels };
            let pipeline = Arc::new(Images::new(list.clone(), options)?);
            Ok(PySource { list: Some(Arc::new(list)), ..PySource::new(pipeline) })
        };
        py.detach(make).map_err(|e| raise(py, e))
    }

    /// Arrays in files; see `feedline_recipes::arrays::open`.
    #[staticmethod]
    fn array_files(py: Python<'_>, path: PathBuf, shape: Option<Vec<usize>>, storage: &str) -> PyResult<PySource> {
        let opened = py.detach(|| feedline_recipes::arrays::open(&path, shape.as_deref(), &parse_storage(storage)?));
        Ok(PySource::new(opened.map_err(|e| raise(py, e))?))
    }

    /// Files for scene completion: `files`, `options` and `storage` of `feedline_recipes::scene_completion::open` in one JSON
    /// object; what is null is the default. `credentials` are an access key, a secret and perhaps a token.
    #[staticmethod]
    #[pyo3(signature = (options, credentials))]
    fn scenes(
        py: Python<'_>,
        options: &str,
        credentials: Option<(String, String, Option<String>)>,
    ) -> PyResult<PySource> {
        let open = || -> Result<PySource> {
            let wrong = |e: serde_json::Error| Error::config(format!("scenes: {e}"), "See NYUv2 for the settings");
            let mut said: serde_json::Map<String, serde_json::Value> = serde_json::from_str(options).map_err(wrong)?;
            said.retain(|_, value| !value.is_null());
            let storage = said.remove("storage").map_or(Ok("{}".into()), |storage| serde_json::to_string(&storage));
            let mut storage = parse_storage(&storage.map_err(wrong)?)?;
            storage.credentials = credentials.map(|(access_key_id, secret_access_key, session_token)| Credentials {
                access_key_id,
                secret_access_key,
                session_token,
            });
            let roots = ["img_root", "gt_root", "hha_root", "mapping_root", "list", "split"];
            let files = roots.map(|name| (name.to_owned(), said.remove(name).unwrap_or_default()));
            let files =
                serde_json::from_value(serde_json::Value::Object(files.into_iter().collect())).map_err(wrong)?;
            let options = serde_json::from_value(serde_json::Value::Object(said)).map_err(wrong)?;
            let pipeline = Arc::new(scene_completion::open(&files, &options, &storage)?);
            Ok(PySource::new(pipeline))
        };
        py.detach(open).map_err(|e| raise(py, e))
    }

    /// (name, array) of equal length in memory.
    #[staticmethod]
    fn arrays(arrays: Vec<(String, Bound<'_, PyAny>)>, fingerprint: u64) -> PyResult<PySource> {
        Ok(PySource::new(Arc::new(Memory::new(arrays, fingerprint)?)))
    }

    /// Items of a Python dataset: sample i is what `function` returns for i. Sample `first` is made at once, to learn the fields.
    #[staticmethod]
    fn items(
        py: Python<'_>,
        len: u64,
        fingerprint: u64,
        function: Py<PyAny>,
        name: String,
        first: u64,
    ) -> PyResult<PySource> {
        let numbers = Arc::new(Numbers::new(len, fingerprint, Number::Index));
        let mapped = Mapped::new(py, numbers, PyStep::new(function, false), name, first)?;
        Ok(PySource::new(Arc::new(mapped)))
    }

    /// The random numbers that seed the items of a Python dataset, which other processes make.
    #[staticmethod]
    fn seeds(len: u64, fingerprint: u64) -> PySource {
        PySource::new(Arc::new(Numbers::new(len, fingerprint, Number::Random)))
    }

    /// The samples of this source through a function of the user's. Sample `first` is made at once, to learn the fields.
    fn map(&self, py: Python<'_>, name: String, function: Py<PyAny>, with_rng: bool, first: u64) -> PyResult<PySource> {
        let mapped = Mapped::new(py, Arc::clone(&self.pipeline), PyStep::new(function, with_rng), name, first)?;
        Ok(PySource::new(Arc::new(mapped)))
    }

    /// The samples of this source with these numbers, in this order.
    fn subset(&self, py: Python<'_>, numbers: Vec<u64>) -> PyResult<PySource> {
        let of_list = self.list.as_ref().map(|_| match &self.numbers {
            None => numbers.clone().into(),
            Some(mine) => numbers.iter().filter_map(|number| mine.get(*number as usize).copied()).collect(),
        });
        let subset = py.detach(|| Subset::new(Arc::clone(&self.pipeline), numbers)).map_err(|e| raise(py, e))?;
        Ok(PySource { pipeline: Arc::new(subset), list: self.list.clone(), numbers: of_list })
    }

    /// The samples of several sources, one after the other.
    #[staticmethod]
    fn concat(py: Python<'_>, parts: Vec<Py<PySource>>) -> PyResult<PySource> {
        let parts = parts.iter().map(|part| Arc::clone(&part.get().pipeline)).collect();
        let all = py.detach(|| Concat::new(parts)).map_err(|e| raise(py, e))?;
        Ok(PySource::new(Arc::new(all)))
    }

    /// The fields of one sample, as a loader with this seed makes it in this epoch.
    fn sample(&self, py: Python<'_>, index: u64, epoch: u64, seed: u64) -> PyResult<Vec<Array>> {
        let request = Request { seed, epoch, pass: epoch, position: index, index, padded: false };
        let made = py.detach(|| one_sample(&*self.pipeline, &request)).map_err(|e| raise(py, e))?;
        Ok(made.fields.into_iter().map(Array::new).collect())
    }

    /// Makes the first sample in the calling thread, so that its steps learn from it; true if that succeeded.
    fn try_first(&self, py: Python<'_>) -> bool {
        py.detach(|| {
            let first = Plan::unshuffled(self.pipeline.len().max(1), 1).map(|plan| plan.epoch(0).at(0));
            first.and_then(|first| make_sample(&*self.pipeline, &first, &mut SampleContext::default())).is_ok()
        })
    }

    fn __len__(&self) -> usize {
        self.pipeline.len() as usize
    }

    /// Names of the fields.
    #[getter]
    fn fields(&self) -> Vec<String> {
        self.pipeline.fields().iter().map(|field| field.name.clone()).collect()
    }

    /// Warnings about files that were left out of the data, for a person.
    #[getter]
    fn warnings(&self) -> Vec<String> {
        self.pipeline.warnings()
    }

    /// Kind, number and first names of what was skipped among pictures.
    #[getter]
    fn skipped(&self) -> Vec<(String, u64, Vec<String>)> {
        let kinds = self.pipeline.skipped().into_iter().flat_map(|skipped| skipped.kinds);
        kinds.map(|(kind, (count, first))| (kind, count, first)).collect()
    }

    /// Hash of what the samples are.
    #[getter]
    fn fingerprint(&self) -> u64 {
        self.pipeline.fingerprint()
    }

    /// NumPy's name of the type and the shape of each field.
    #[getter]
    fn specs(&self) -> Vec<(&'static str, Vec<usize>)> {
        self.pipeline.fields().iter().map(|field| (type_name(field.dtype), field.shape.clone())).collect()
    }

    /// Class names of pictures.
    #[getter]
    fn classes(&self) -> Option<Vec<String>> {
        self.list.as_ref().map(|list| list.classes.clone())
    }

    /// Classes of pictures.
    #[getter]
    fn labels(&self) -> Option<Vec<u32>> {
        self.listed(|list| list.entries.iter().map(|entry| entry.class).collect())
    }

    /// Paths or URLs of pictures.
    #[getter]
    fn files(&self) -> Option<Vec<String>> {
        self.listed(|list| list.entries.iter().map(|entry| entry.path.display().to_string()).collect())
    }

    /// Names of pictures from the deepest folder on that all of the list have in common.
    #[getter]
    fn names(&self, py: Python<'_>) -> Option<Vec<String>> {
        py.detach(|| self.listed(ImageList::names))
    }

    /// The file or row of a sample.
    fn location(&self, index: u64) -> PyResult<String> {
        if index >= self.pipeline.len() {
            let problem = format!("sample {index} of {}", self.pipeline.len());
            return Err(pyo3::exceptions::PyIndexError::new_err(problem));
        }
        Ok(self.pipeline.location(index))
    }
}

/// Settings of `Storage` as JSON.
pub fn parse_storage(json: &str) -> Result<Storage> {
    let storage: Storage = serde_json::from_str(json)
        .map_err(|e| Error::config(format!("storage: {e}"), "Its keys are those of [storage] in the settings"))?;
    storage.check()?;
    Ok(storage)
}

fn image_list(files: Files, classes: Option<Vec<String>>, storage: &Storage) -> Result<ImageList> {
    match files {
        Files::Listed(files) => ImageList::from_entries(
            files.into_iter().map(|(path, class)| ImageEntry { path, class }).collect(),
            "given",
            classes,
            storage,
        ),
        Files::Path(path) => ImageList::open(&path, "given", classes, storage),
    }
}

/// Names of the classes, one a line of a file.
#[pyfunction]
pub fn classes_of(py: Python<'_>, path: PathBuf, storage: &str) -> PyResult<Vec<String>> {
    py.detach(|| read_classes(&path, &parse_storage(storage)?)).map_err(|e| raise(py, e))
}
