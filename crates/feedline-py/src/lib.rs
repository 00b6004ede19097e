//! The native half of the Python package `feedline`: converts between Python and the library, releases the interpreter
//! while the library works, and turns its errors into exceptions. No logic of its own; the public functions are in `python/`.
#![expect(unsafe_code, reason = "DLPack and the memory of NumPy arrays are raw pointers")]

mod array;
mod errors;
mod history;
mod lidar;
mod loader;
mod memory;
mod plan;
mod source;
mod steps;

use pyo3::prelude::*;

/// The module; free-threaded interpreters may run it without a global lock.
#[pymodule(gil_used = false)]
mod _native {
    use super::*;

    #[pymodule_export]
    use array::Array;
    #[pymodule_export]
    use history::History;
    #[pymodule_export]
    use lidar::Clouds;
    #[pymodule_export]
    use lidar::read_yaml;
    #[pymodule_export]
    use loader::Loader;
    #[pymodule_export]
    use loader::inside;
    #[pymodule_export]
    use loader::settle;
    #[pymodule_export]
    use plan::Plan;
    #[pymodule_export]
    use source::PySource;
    #[pymodule_export]
    use source::classes_of;
    #[pymodule_export]
    use steps::is_of_the_sample;

    #[pymodule_init]
    fn init(module: &Bound<'_, PyModule>) -> PyResult<()> {
        module.add("__version__", env!("CARGO_PKG_VERSION"))
    }

    /// Runs a command line, its program's name included, and returns the exit code.
    #[pyfunction]
    fn main(py: Python<'_>, words: Vec<std::ffi::OsString>) -> u8 {
        py.detach(|| feedline_cli::run(words))
    }

    /// What is known of the network of a checkpoint, or of a run's best one, as JSON, and the file of its weights.
    #[pyfunction]
    fn run_model(py: Python<'_>, path: std::path::PathBuf) -> PyResult<(String, std::path::PathBuf)> {
        let open = || -> feedline::Result<_> {
            let opened = feedline_recipes::classification::export::open(&path, "load_model")?;
            opened.weights()?; // checks them
            Ok((opened.facts.to_json()?, opened.checkpoint.join("model.safetensors")))
        };
        py.detach(open).map_err(|e| errors::raise(py, e))
    }

    /// (rank, world_size, the rule used) of this process.
    #[pyfunction]
    #[pyo3(signature = (explicit, group))]
    fn discover(
        py: Python<'_>,
        explicit: Option<(u64, u64)>,
        group: Option<(u64, u64)>,
    ) -> PyResult<(u64, u64, String)> {
        let env = |name: &str| std::env::var(name).ok();
        let found = feedline::train::ranks::discover(explicit, group, &env).map_err(|e| errors::raise(py, e))?;
        Ok((found.rank, found.world_size, found.rule.to_string()))
    }
}
