//! Opens a URL as a source: chooses the backend, and the wrappers around it.

#[cfg(not(feature = "cloud"))]
use crate::error::Error;
use crate::error::Result;
use crate::read::location::check_url;
use crate::read::source::Source;
use crate::read::source::cache::Cache;
use crate::read::source::coalesce::Coalesce;
use crate::read::source::limit::Limit;
use crate::read::source::local::LocalFiles;
use crate::read::source::retry::Retry;
use crate::read::source::settings::Storage;
use crate::read::source::timeout::Timeout;
use std::sync::Arc;
use std::time::Duration;

impl Storage {
    /// The source at `url`: its backend, wrapped in timeout, limit, retry, coalescing and cache.
    ///
    /// # Errors
    /// A URL or settings that cannot be understood, a build without the feature `cloud`, a cache that cannot be opened.
    pub fn open(&self, url: &str) -> Result<Arc<dyn Source>> {
        self.check()?;
        check_url(url)?;
        let source: Arc<dyn Source> = match url.strip_prefix("file://") {
            Some("" | "/") => Arc::new(LocalFiles::new("/")),
            Some(folder) => Arc::new(LocalFiles::new(folder.trim_end_matches('/'))),
            None => cloud(url, self)?,
        };
        let source = Arc::new(Timeout::new(source, Duration::from_secs_f64(self.timeout_s)));
        let source = Arc::new(Limit::new(source, self.requests_in_flight));
        let source = Arc::new(Retry::new(source, Duration::from_secs_f64(self.retry_s)));
        let source: Arc<dyn Source> = Arc::new(Coalesce::new(source));
        if self.cache_bytes == 0 {
            return Ok(source);
        }
        Ok(Arc::new(Cache::open(source, &self.cache_dir, self.cache_bytes, self.cache_mode)?))
    }
}

#[cfg(feature = "cloud")]
fn cloud(url: &str, storage: &Storage) -> Result<Arc<dyn Source>> {
    Ok(Arc::new(super::cloud::Cloud::open(url, storage)?))
}

#[cfg(not(feature = "cloud"))]
fn cloud(url: &str, _: &Storage) -> Result<Arc<dyn Source>> {
    Err(Error::Unsupported {
        what: format!("reading from {}", url.split("://").next().unwrap_or_default().to_owned() + "://"),
        remedy: "Build with the feature `cloud`: cargo install --path crates/feedline-cli --features cloud".into(),
    })
}
