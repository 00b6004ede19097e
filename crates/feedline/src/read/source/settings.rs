//! The settings of storage, and the mapping of paths to URLs.

use crate::error::{Error, Result};
use crate::read::location::{Location, check_url};
use crate::read::source::Source;
use crate::read::source::cache_folder::CacheMode;
use crate::url::{is_url, without_query};
use serde::{Deserialize, Serialize};
use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// Settings of storage. They change speed and patience, never the bytes that are read. Credentials are not among them:
/// they come from where the provider's own tools take them, or from the caller's own client.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Storage {
    /// URL of a server that speaks S3; empty is `AWS_ENDPOINT_URL`, or AWS itself.
    pub endpoint: String,
    /// Region of the bucket; empty is `AWS_REGION`, or the profile's.
    pub region: String,
    /// Reads without credentials what is public.
    pub anonymous: bool,
    /// Requests under way at once, in each process.
    pub requests_in_flight: usize,
    /// Time for one request of up to 16 MiB, and again for each further 16 MiB.
    pub timeout_s: f64,
    /// Time for one read with all its tries.
    pub retry_s: f64,
    /// Folder that keeps what was read, for all ranks and jobs of a machine; empty is none.
    pub cache_dir: PathBuf,
    /// Size limit of the cache in bytes.
    pub cache_bytes: u64,
    /// The users who share the cache.
    pub cache_mode: CacheMode,
    /// `PREFIX=URL`: a path that begins with PREFIX is read from URL instead. Empty is none.
    pub map: String,
    /// Folder of cached listings; empty is `feedline/listings` in the user's cache folder.
    pub listings_dir: PathBuf,
    /// Credentials of a client of the caller's, used instead of the environment. Never written anywhere.
    #[serde(skip)]
    pub credentials: Option<Credentials>,
    /// A source of the caller's own. A URL that begins with its location is read from it through the same wrappers as a
    /// bucket: timeout, limit, retry, coalescing and cache. Other URLs, except `file://`, are then errors. It is listed
    /// each time that a folder of it is opened. It must not be set with `endpoint`, `region`, `anonymous` or `credentials`,
    /// which say how a bucket is reached.
    #[serde(skip)]
    pub source: Option<Arc<dyn Source>>,
}

/// Keys of an S3 account.
#[derive(Clone, PartialEq, Eq)]
pub struct Credentials {
    pub access_key_id: String,
    pub secret_access_key: String,
    pub session_token: Option<String>,
}

impl fmt::Debug for Credentials {
    /// Omits the keys.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Credentials(...)")
    }
}

impl Default for Storage {
    fn default() -> Storage {
        Storage {
            endpoint: String::new(),
            region: String::new(),
            anonymous: false,
            requests_in_flight: 64,
            timeout_s: 30.0,
            retry_s: 120.0,
            cache_dir: PathBuf::new(),
            cache_bytes: 0,
            cache_mode: CacheMode::Private,
            map: String::new(),
            listings_dir: PathBuf::new(),
            credentials: None,
            source: None,
        }
    }
}

impl Storage {
    /// Checks that the settings are valid.
    ///
    /// # Errors
    /// The first setting that is not.
    pub fn check(&self) -> Result<()> {
        let positive = |value: f64| value > 0.0 && value <= 1e9;
        let checks = [
            ((1..=4096).contains(&self.requests_in_flight), "storage.requests_in_flight", "1 to 4096"),
            (positive(self.timeout_s), "storage.timeout_s", "above 0"),
            (positive(self.retry_s), "storage.retry_s", "above 0"),
            (
                self.map.is_empty() || self.mapping().is_some_and(|(_, url)| check_url(url).is_ok()),
                "storage.map",
                "PREFIX=URL, for example /data=s3://bucket/data, with a URL that holds no credentials and no query",
            ),
            (
                self.cache_dir.as_os_str().is_empty() == (self.cache_bytes == 0),
                "storage.cache_bytes",
                "above 0 together with storage.cache_dir, or neither",
            ),
            (!self.endpoint.contains(['@', '?']), "storage.endpoint", "a URL without credentials"),
            (
                self.endpoint.is_empty()
                    || self.endpoint.starts_with("http://")
                    || self.endpoint.starts_with("https://"),
                "storage.endpoint",
                "a URL that begins with http:// or https://",
            ),
        ];
        match checks.into_iter().find(|(good, ..)| !good) {
            Some((_, key, range)) => {
                Err(Error::config(format!("{key} is out of range"), format!("It must be {range}")))
            }
            None => self.check_source(),
        }
    }

    /// Checks the location of the caller's own source, and that no setting is for a bucket.
    fn check_source(&self) -> Result<()> {
        let Some(source) = &self.source else { return Ok(()) };
        let for_buckets = [
            ("endpoint", !self.endpoint.is_empty()),
            ("region", !self.region.is_empty()),
            ("anonymous", self.anonymous),
            ("credentials", self.credentials.is_some()),
        ];
        if let Some((key, _)) = for_buckets.into_iter().find(|(_, is_set)| *is_set) {
            return Err(Error::config(
                format!("storage.{key} is set together with a source of your own, which has no use for it"),
                "Leave it out: it says how a bucket is reached, and your source knows that for itself",
            ));
        }
        let location = source.location("");
        check_url(&location)?;
        if !is_url(Path::new(&location)) || !location.ends_with('/') || location.ends_with("://") {
            return Err(Error::config(
                format!("the location of your source for the empty key is {:?}", without_query(&location)),
                "It must be a URL that ends in `/`, with a scheme of lower-case letters and digits, for example memory://pets/",
            ));
        }
        Ok(())
    }

    fn mapping(&self) -> Option<(&str, &str)> {
        self.map.split_once('=').filter(|(prefix, url)| !prefix.is_empty() && is_url(Path::new(url)))
    }

    /// The parsed location that `path` is read from.
    ///
    /// # Errors
    /// As [`Location::parse`].
    pub(in crate::read) fn locate(&self, path: &Path) -> Result<Location> {
        Location::parse(self.resolve(path))
    }

    /// The place that `path` is read from: a URL if it falls under [`Storage::map`], else `path`.
    pub fn resolve(&self, path: &Path) -> PathBuf {
        let mapped = self.mapping().and_then(|(prefix, url)| {
            let rest = path.strip_prefix(prefix).ok()?.to_str()?;
            Some(PathBuf::from(format!("{}/{rest}", url.trim_end_matches('/')).trim_end_matches('/')))
        });
        mapped.unwrap_or_else(|| path.to_path_buf())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_are_mapped_to_urls() {
        let storage = Storage { map: "/data/imagenet=s3://bucket/in/".into(), ..Storage::default() };
        storage.check().unwrap();
        for (path, expect) in [
            ("/data/imagenet/train/a.jpg", "s3://bucket/in/train/a.jpg"),
            ("/data/imagenet", "s3://bucket/in"),
            ("/data/imagenet2/a.jpg", "/data/imagenet2/a.jpg"),
            ("s3://other/x", "s3://other/x"),
        ] {
            assert_eq!(storage.resolve(Path::new(path)), PathBuf::from(expect));
        }
        for map in ["/data", "=s3://b", "/data=/other"] {
            assert!(Storage { map: map.into(), ..Storage::default() }.check().is_err(), "{map}");
        }
    }

    #[test]
    fn a_url_of_data_holds_no_secret() {
        for url in
            ["https://h/x?X-Amz-Signature=hidden", "s3://key:hidden@bucket/x", "az://c/x?sig=hidden", "http://h#hidden"]
        {
            let text = check_url(url).unwrap_err().to_string();
            assert!(!text.contains("hidden") && text.contains("downloaded"), "{text}");
            let map = Storage { map: format!("/data={url}"), ..Storage::default() };
            assert!(!map.check().unwrap_err().to_string().contains("hidden"));
        }
        for path in ["/data/a?b", "s3://bucket/a@b", "file:///a?b#c", "a@b"] {
            check_url(path).unwrap();
        }
    }
}
