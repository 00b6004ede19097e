//! Point clouds with boxes for Python. Owns the parsing of Python's arguments; files, order and metrics are the recipe's.

use crate::array::Array;
use crate::errors::raise;
use crate::source::{PySource, parse_storage};
use feedline::deliver::SampleContext;
use feedline::pipeline::{Pipeline, make_sample};
use feedline::plan::Request;
use feedline::read::Credentials;
use feedline::{Error, Result};
use feedline_recipes::lidar::{self, Annos, LidarOptions, metrics, openpcdet_yaml};
use pyo3::prelude::*;
use serde_json::{Value, json};
use std::path::PathBuf;
use std::sync::Arc;

/// A data set of clouds; see `feedline_recipes::lidar::data`.
#[pyclass(frozen, module = "feedline._native")]
pub struct Clouds(Arc<lidar::Clouds>);

/// The arguments of `LidarDataset`.
#[derive(serde::Deserialize)]
#[serde(deny_unknown_fields)]
struct Declared {
    /// `DATA_CONFIG` of OpenPCDet's settings.
    config: Value,
    class_names: Vec<String>,
    root: PathBuf,
    training: bool,
    late_epoch: u64,
    late_disabled: Vec<String>,
    storage: Value,
}

fn wrong(error: serde_json::Error) -> Error {
    Error::config(format!("lidar: {error}"), "See LidarDataset for the settings")
}

#[pymethods]
impl Clouds {
    /// `options` as JSON; `credentials` are an access key, a secret and perhaps a token.
    #[new]
    fn new(py: Python<'_>, options: &str, credentials: Option<(String, String, Option<String>)>) -> PyResult<Clouds> {
        let open =
            || -> Result<lidar::Clouds> {
                let said: Declared = serde_json::from_str(options).map_err(wrong)?;
                let mut storage = parse_storage(&said.storage.to_string())?;
                storage.credentials = credentials.map(|(access_key_id, secret_access_key, session_token)| {
                    Credentials { access_key_id, secret_access_key, session_token }
                });
                let options = LidarOptions {
                    late_epoch: said.late_epoch,
                    late_disabled: said.late_disabled,
                    ..openpcdet_yaml::options(&said.config, &said.class_names)?
                };
                let files = openpcdet_yaml::files(&said.config, Some(&said.root), said.training)?;
                lidar::open(&files, &options, &storage)
            };
        py.detach(open).map(|clouds| Clouds(Arc::new(clouds))).map_err(|e| raise(py, e))
    }

    /// The data set as a source for the loader.
    fn source(&self) -> PySource {
        PySource::new(Arc::clone(&self.0) as Arc<dyn Pipeline>)
    }

    /// The facts that a network is built from, as JSON.
    fn facts(&self) -> String {
        let (options, grid, frames) = (self.0.options(), self.0.grid(), self.0.frames());
        json!({
            "point_cloud_range": options.point_cloud_range,
            "grid_size": grid.map(|grid| grid.size),
            "voxel_size": grid.map(|grid| grid.voxel_size),
            "src_features": options.src_features,
            "used_features": options.used_features,
            "has_annos": frames.iter().all(|frame| frame.annos.is_some()),
            "has_calib": frames.iter().all(|frame| frame.calib.is_some()),
        })
        .to_string()
    }

    /// The frames as JSON.
    fn infos(&self, py: Python<'_>) -> PyResult<String> {
        py.detach(|| serde_json::to_string(self.0.frames())).map_err(|e| raise(py, wrong(e)))
    }

    /// The frames' ids.
    fn ids(&self) -> Vec<String> {
        self.0.frames().iter().map(|frame| frame.point_cloud.lidar_idx.clone()).collect()
    }

    /// P2, R0_rect and Tr_velo_to_cam of each frame: float32 (N, 3, 4, 4); zeros without calibration.
    fn calibs(&self, py: Python<'_>) -> Array {
        let frames = self.0.frames();
        let values: Vec<f32> = py.detach(|| {
            let of = |frame: &lidar::Frame| match &frame.calib {
                Some(calib) => [calib.p2, calib.r0_rect, calib.tr_velo_to_cam],
                None => [[[0.0; 4]; 4]; 3],
            };
            frames.iter().flat_map(|frame| of(frame).into_iter().flatten().flatten()).collect()
        });
        Array::new(feedline::Array::from_slice([frames.len(), 3, 4, 4], &values))
    }

    /// The fields of one sample as made in an epoch.
    fn sample(&self, py: Python<'_>, index: u64, epoch: u64, seed: u64) -> PyResult<Vec<(String, Array)>> {
        let request = Request { seed, epoch, pass: epoch, position: index, index, padded: false };
        let sample =
            py.detach(|| make_sample(&*self.0, &request, &mut SampleContext::default())).map_err(|e| raise(py, e))?;
        let names = self.0.fields().iter().map(|spec| spec.name.clone());
        Ok(names.zip(sample.fields.into_iter().map(Array::new)).collect())
    }

    /// The metrics of predictions (JSON) for all frames: their text, and (name, number). `truth` replaces the labels of the
    /// frames in data sets without a camera.
    #[pyo3(signature = (predictions, class_names, truth))]
    fn evaluate(
        &self,
        py: Python<'_>,
        predictions: &str,
        class_names: Vec<String>,
        truth: Option<&str>,
    ) -> PyResult<(String, Vec<(String, f64)>)> {
        let count = || -> Result<(String, Vec<(String, f64)>)> {
            let found: Vec<Annos> = serde_json::from_str(predictions).map_err(wrong)?;
            let given: Option<Vec<Annos>> = truth.map(serde_json::from_str).transpose().map_err(wrong)?;
            let truth: Vec<&Annos> = match &given {
                Some(given) => given.iter().collect(),
                None => self.0.frames().iter().filter_map(|frame| frame.annos.as_ref()).collect(),
            };
            let report = metrics::evaluate(&truth, &found, &class_names)?;
            Ok((report.text(), report.flat()))
        };
        py.detach(count).map_err(|e| raise(py, e))
    }
}

/// A YAML file of OpenPCDet's, and those that it is based on, as JSON.
#[pyfunction]
pub fn read_yaml(py: Python<'_>, path: PathBuf) -> PyResult<String> {
    py.detach(|| openpcdet_yaml::read_yaml(&path)).map(|read| read.to_string()).map_err(|e| raise(py, e))
}
