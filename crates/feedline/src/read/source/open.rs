//! Opens a URL as a source: chooses the backend, and the wrappers around it.

use crate::error::{Error, Result};
use crate::read::location::check_url;
use crate::read::source::Source;
use crate::read::source::cache::Cache;
use crate::read::source::coalesce::Coalesce;
use crate::read::source::limit::Limit;
use crate::read::source::local::LocalFiles;
use crate::read::source::retry::Retry;
use crate::read::source::settings::Storage;
use crate::read::source::subfolder::Subfolder;
use crate::read::source::timeout::Timeout;
use std::sync::Arc;
use std::time::Duration;

impl Storage {
    /// The source at `url`: its backend, or [`Storage::source`] if that holds it, and before it timeout, limit, retry,
    /// coalescing and cache.
    ///
    /// # Errors
    /// A URL or settings that cannot be understood, a URL that [`Storage::source`] does not hold, a build without the
    /// feature `cloud`, a cache that cannot be opened.
    pub fn open(&self, url: &str) -> Result<Arc<dyn Source>> {
        self.check()?;
        check_url(url)?;
        let source: Arc<dyn Source> = match (self.own(url), url.strip_prefix("file://"), &self.source) {
            (Some(own), ..) => own,
            (None, Some("" | "/"), _) => Arc::new(LocalFiles::new("/")),
            (None, Some(folder), _) => Arc::new(LocalFiles::new(folder.trim_end_matches('/'))),
            (None, None, Some(own)) => {
                return Err(Error::config(
                    format!("{url} is no place in your own source, which is at {}", own.location("")),
                    "Name a place in it, or open this one by a storage without the source",
                ));
            }
            (None, None, None) => cloud(url, self)?,
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

    /// The caller's own source, or a folder of it; `None` if `url` does not lie in it.
    fn own(&self, url: &str) -> Option<Arc<dyn Source>> {
        let own = self.source.as_ref()?;
        let root = own.location("");
        let folder = match url.strip_prefix(&root) {
            None if Some(url) == root.strip_suffix('/') => "",
            folder => folder?.trim_end_matches('/'),
        };
        Some(if folder.is_empty() { Arc::clone(own) } else { Arc::new(Subfolder::new(Arc::clone(own), folder)) })
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
        remedy: "Build with the feature `cloud`: cargo install --locked --path crates/feedline-cli --features cloud"
            .into(),
    })
}
