//! Buckets: S3, Google Cloud Storage, Azure Blob Storage and plain HTTP servers, through the crate `object_store`. Owns
//! the one runtime for all of them, the rule that no credential gets into a message, and which keys can be requested.
//! `answer.rs` interprets answers; the wrappers beside this file retry, limit and cache.

use super::answer;
use crate::error::{Error, Result};
use crate::read::location::{check_url, unreadable};
use crate::read::source::answer::{CHANGED, CHANGED_AT, LISTED_MAX, Listed, Seen};
use crate::read::source::settings::{Credentials, Storage};
use crate::read::source::{Object, RangeRequest, ReadError, ReadErrorKind, Source};
use crate::read::text::without_bom;
use crate::stop::{PATIENCE, Stop};
use crate::url::without_secrets;
use futures_util::{StreamExt, TryStreamExt};
use object_store::StaticCredentialProvider;
use object_store::aws::{AmazonS3Builder, AmazonS3ConfigKey, AwsCredential};
use object_store::azure::MicrosoftAzureBuilder;
use object_store::client::{
    HttpClient, HttpConnector, HttpError, HttpRequest, HttpResponse, HttpService, ReqwestConnector,
};
use object_store::gcp::GoogleCloudStorageBuilder;
use object_store::http::HttpBuilder;
use object_store::path::{Path, PathPart};
use object_store::{ClientOptions, GetOptions, GetRange, ObjectMeta, ObjectStore, ObjectStoreExt, RetryConfig};
use std::collections::BTreeMap;
use std::sync::mpsc::{RecvTimeoutError, sync_channel};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::time::{Duration, Instant};
use tokio::runtime::Runtime;

/// The supported URL schemes.
pub(in crate::read) const SCHEMES: [&str; 5] = ["s3", "gs", "az", "http", "https"];

/// A bucket, or a folder of one.
#[derive(Debug)]
pub struct Cloud {
    store: Arc<dyn ObjectStore>,
    /// `s3://bucket/`: the prefix of each key in messages.
    base: String,
    /// The folder of the bucket, with `/` at its end; empty for the whole bucket.
    folder: String,
    timeout: Duration,
}

tokio::task_local! {
    static SEEN: Arc<Mutex<Seen>>;
}

impl Cloud {
    /// Opens `url`, of one of the schemes above. Sends no request.
    ///
    /// # Errors
    /// A URL or settings that cannot be understood.
    pub fn open(url: &str, storage: &Storage) -> Result<Cloud> {
        let wrong = |problem: String| Error::config(format!("{}: {problem}", without_secrets(url)), "Check the URL");
        let Some((scheme, rest)) = url.split_once("://") else { return Err(wrong("it has no scheme".into())) };
        let (bucket, folder) = rest.split_once('/').unwrap_or((rest, ""));
        if bucket.is_empty() {
            return Err(wrong(format!("there is no bucket in it; write {scheme}://BUCKET/FOLDER")));
        }
        check_url(url)?;
        let variables = ["AWS_ENDPOINT_URL_S3", "AWS_ENDPOINT_URL", "AWS_ENDPOINT"];
        let said = variables.map(|name| (name, std::env::var(name).unwrap_or_default()));
        for (name, endpoint) in said.into_iter().chain([("storage.endpoint", storage.endpoint.clone())]) {
            if scheme == "s3" && !endpoint.is_empty() && !is_endpoint(&endpoint) {
                let problem = format!("{name} is no URL of a server that begins with http:// or https://");
                return Err(Error::config(problem, format!("For example {name}=http://127.0.0.1:9000")));
            }
        }
        // Fails if another part of this process has installed a provider; that one works, too.
        let _ = rustls::crypto::ring::default_provider().install_default();
        let timeout = Duration::from_secs_f64(storage.timeout_s);
        let client = ClientOptions::new()
            .with_allow_http(true)
            .with_connect_timeout(timeout.min(Duration::from_secs(10)))
            .with_timeout_disabled()
            .with_pool_max_idle_per_host(storage.requests_in_flight.max(1));
        let once = RetryConfig { max_retries: 0, ..RetryConfig::default() };
        let store: object_store::Result<Arc<dyn ObjectStore>> = match scheme {
            "s3" => s3(bucket, storage)
                .with_client_options(client)
                .with_retry(once)
                .with_http_connector(Watching)
                .build()
                .map(|store| Arc::new(store) as _),
            "gs" => GoogleCloudStorageBuilder::from_env()
                .with_bucket_name(bucket)
                .with_skip_signature(storage.anonymous)
                .with_client_options(client)
                .with_retry(once)
                .with_http_connector(Watching)
                .build()
                .map(|store| Arc::new(store) as _),
            "az" => {
                let mut builder = MicrosoftAzureBuilder::from_env()
                    .with_container_name(bucket)
                    .with_skip_signature(storage.anonymous)
                    .with_client_options(client)
                    .with_retry(once)
                    .with_http_connector(Watching);
                if !storage.endpoint.is_empty() {
                    builder = builder.with_endpoint(storage.endpoint.clone());
                }
                builder.build().map(|store| Arc::new(store) as _)
            }
            "http" | "https" => HttpBuilder::new()
                .with_url(format!("{scheme}://{bucket}"))
                .with_client_options(client)
                .with_retry(once)
                .with_http_connector(Watching)
                .build()
                .map(|store| Arc::new(store) as _),
            _ => return Err(wrong(format!("the scheme {scheme} is unknown; known are {}", SCHEMES.join(", ")))),
        };
        let folder = folder.trim_end_matches('/');
        if let Some(why) = unreadable(folder).filter(|_| !folder.is_empty()) {
            return Err(wrong(format!("{why}, which no request can name; is there a `/` too many?")));
        }
        let folder = if folder.is_empty() { String::new() } else { format!("{folder}/") };
        let store = store.map_err(|e| {
            let problem = format!("{}: {}", without_secrets(url), without_secrets(&e.to_string()));
            Error::config(problem, "Check the URL, and the credentials in the environment")
        })?;
        Ok(Cloud { store, base: format!("{scheme}://{bucket}/{folder}"), folder, timeout })
    }

    /// The name of an object for `object_store`; of the folder itself, if `key` is empty.
    fn path(&self, key: &str) -> Result<Path, ReadError> {
        let wrong = |problem: String| ReadError::new(ReadErrorKind::Other, self.location(key), problem);
        let whole = if key.is_empty() { self.folder.trim_end_matches('/') } else { &format!("{}{key}", self.folder) };
        if let Some(why) = unreadable(whole).filter(|_| !whole.is_empty()) {
            return Err(wrong(format!("{why}, which no request can name; give the object another name")));
        }
        if !whole.contains("//") {
            return Path::parse(whole).map_err(|e| wrong(e.to_string()));
        }
        // Empty parts are valid in a key, but a path parser would drop them.
        whole
            .split('/')
            .try_fold(Path::ROOT, |path, part| Ok(path.join(PathPart::parse(part).map_err(|e| wrong(e.to_string()))?)))
    }

    fn object(&self, meta: ObjectMeta) -> Object {
        let whole = answer::shown(meta.location.as_ref());
        let key = whole.strip_prefix(&self.folder).unwrap_or(&whole).to_owned();
        let changed_ns =
            meta.last_modified.timestamp_nanos_opt().and_then(|time| time.try_into().ok()).unwrap_or_default();
        Object { key, size_bytes: meta.size, version: version(&meta), changed_ns }
    }

    /// Runs `work` on the runtime and waits for it; cancels it when it is stopped or late.
    fn wait<T: Send + 'static>(
        &self,
        key: &str,
        until: Option<Instant>,
        stop: &Stop,
        work: impl Future<Output = object_store::Result<T>> + Send + 'static,
    ) -> Result<T, ReadError> {
        let seen = Arc::new(Mutex::new(Seen::default()));
        let (done, answer) = sync_channel(1);
        let task = runtime().spawn(SEEN.scope(Arc::clone(&seen), async move {
            let _ = done.send(work.await); // nobody waits any more: it was called off
        }));
        let failure = loop {
            let left = until.map_or(PATIENCE, |until| until.saturating_duration_since(Instant::now()).min(PATIENCE));
            match answer.recv_timeout(left) {
                Ok(Ok(value)) => return Ok(value),
                Ok(Err(error)) => {
                    let seen = seen.lock().unwrap_or_else(PoisonError::into_inner);
                    return Err(self.failure(key, &error, &seen));
                }
                Err(RecvTimeoutError::Disconnected) => {
                    break ReadError::new(ReadErrorKind::Broken, self.location(key), "the request was lost");
                }
                Err(RecvTimeoutError::Timeout) if stop.is_stopped() => break ReadError::stopped(self.location(key)),
                Err(RecvTimeoutError::Timeout) if until.is_some_and(|until| Instant::now() >= until) => {
                    break ReadError::new(ReadErrorKind::TimedOut, self.location(key), "there was no whole answer");
                }
                Err(RecvTimeoutError::Timeout) => {}
            }
        };
        task.abort();
        Err(failure)
    }

    fn failure(&self, key: &str, error: &object_store::Error, seen: &Seen) -> ReadError {
        let (kind, problem) = seen.meaning(error);
        ReadError { retry_after: seen.retry_after, ..ReadError::new(kind, self.location(key), problem) }
    }
}

impl Source for Cloud {
    fn location(&self, key: &str) -> String {
        format!("{}{key}", self.base)
    }

    fn get(&self, want: &RangeRequest<'_>, into: &mut Vec<u8>) -> Result<(), ReadError> {
        into.clear();
        if want.stop.is_stopped() {
            return Err(ReadError::stopped(self.location(want.key)));
        }
        let (store, path, len_bytes) = (Arc::clone(&self.store), self.path(want.key)?, want.len_bytes());
        let etag = Some(want.version).filter(|version| answer::is_strong(version));
        let options = GetOptions {
            // An empty range cannot be requested; a HEAD request checks the object instead.
            head: len_bytes == 0,
            range: (len_bytes > 0).then(|| GetRange::Bounded(want.range.clone())),
            if_match: etag.map(str::to_owned),
            ..GetOptions::default()
        };
        let mut bytes = std::mem::take(into);
        let (meta, bytes) = self.wait(want.key, want.until, want.stop, async move {
            let answer = store.get_opts(&path, options).await?;
            let meta = answer.meta.clone();
            if len_bytes > 0 {
                bytes.reserve_exact(len_bytes as usize);
                let mut body = answer.into_stream();
                while let Some(part) = body.next().await {
                    let part = part?;
                    // A body that is too long is an error like one too short, and must not fill the memory.
                    if bytes.len() as u64 + part.len() as u64 > len_bytes {
                        bytes.resize(len_bytes as usize + 1, 0);
                        break;
                    }
                    bytes.extend_from_slice(&part);
                }
            }
            Ok((meta, bytes))
        })?;
        if !want.version.is_empty() && !answer::is_same_version(&version(&meta), want.version) {
            return Err(ReadError::new(ReadErrorKind::Changed, self.location(want.key), CHANGED));
        }
        if meta.size < want.range.end {
            let problem = format!("the object has {} bytes, fewer than when it was listed", meta.size);
            return Err(ReadError::new(ReadErrorKind::Changed, self.location(want.key), problem));
        }
        if bytes.len() as u64 != len_bytes {
            let problem = format!("the answer has {} bytes instead of {len_bytes}", bytes.len());
            return Err(ReadError::new(ReadErrorKind::Broken, self.location(want.key), problem));
        }
        *into = bytes;
        Ok(())
    }

    fn list(&self, prefix: &str, stop: &Stop) -> Result<Vec<Object>, ReadError> {
        // The store lists whole folders; the rest of the prefix is matched here.
        let folder = prefix.rsplit_once('/').map_or("", |(folder, _)| folder);
        let (store, path) = (Arc::clone(&self.store), self.path(folder)?);
        let timeout = self.timeout;
        let metas: Vec<ObjectMeta> = self.wait(prefix, None, stop, async move {
            let mut pages = store.list(Some(&path));
            let mut listed = Listed::new(LISTED_MAX);
            fn name(meta: &ObjectMeta) -> &str {
                meta.location.as_ref()
            }
            let failed = |source| object_store::Error::Generic { store: "list", source };
            loop {
                let next = tokio::time::timeout(timeout, pages.try_next()).await;
                match next.map_err(|e| failed(e.into()))?? {
                    Some(meta) => listed.push(meta, name).map_err(|e| failed(e.into()))?,
                    None => return listed.done(name).map_err(|e| failed(e.into())),
                }
            }
        })?;
        let mut objects: Vec<Object> = metas.into_iter().map(|meta| self.object(meta)).collect();
        objects.retain(|object| object.key.starts_with(prefix));
        objects.sort_by(|a, b| a.key.cmp(&b.key));
        Ok(objects)
    }

    fn head(&self, key: &str, stop: &Stop) -> Result<Object, ReadError> {
        let (store, path) = (Arc::clone(&self.store), self.path(key)?);
        let until = Instant::now().checked_add(self.timeout);
        let meta = self.wait(key, until, stop, async move { store.head(&path).await })?;
        Ok(Object { key: key.into(), ..self.object(meta) })
    }
}

fn version(meta: &ObjectMeta) -> String {
    let changed = || format!("{CHANGED_AT}{}", meta.last_modified.timestamp_micros());
    meta.e_tag.clone().unwrap_or_else(changed)
}

/// True if requests can be sent to this URL: `object_store` panics at any other.
fn is_endpoint(endpoint: &str) -> bool {
    let url = reqwest::Url::parse(endpoint);
    url.is_ok_and(|url| matches!(url.scheme(), "http" | "https") && url.host_str().is_some_and(|host| !host.is_empty()))
}

/// S3 and compatible servers, with the credentials of the environment, else of the file that `aws configure` writes,
/// else of the machine (web identity, container, instance).
fn s3(bucket: &str, storage: &Storage) -> AmazonS3Builder {
    let mut builder = AmazonS3Builder::from_env().with_bucket_name(bucket).with_skip_signature(storage.anonymous);
    if let Some(Credentials { access_key_id, secret_access_key, session_token }) = &storage.credentials {
        builder = builder.with_credentials(Arc::new(StaticCredentialProvider::new(AwsCredential {
            key_id: access_key_id.clone(),
            secret_key: secret_access_key.clone(),
            token: session_token.clone(),
        })));
    }
    let profile = profile();
    let given = |builder: &AmazonS3Builder, key: AmazonS3ConfigKey| builder.get_config_value(&key).is_some();
    if !given(&builder, AmazonS3ConfigKey::AccessKeyId) && !storage.anonymous {
        for (name, key) in [
            ("aws_access_key_id", AmazonS3ConfigKey::AccessKeyId),
            ("aws_secret_access_key", AmazonS3ConfigKey::SecretAccessKey),
            ("aws_session_token", AmazonS3ConfigKey::Token),
        ] {
            if let Some(value) = profile.get(name) {
                builder = builder.with_config(key, value);
            }
        }
    }
    if !storage.region.is_empty() {
        builder = builder.with_region(&storage.region);
    } else if !given(&builder, AmazonS3ConfigKey::Region)
        && let Some(region) = profile.get("region")
    {
        builder = builder.with_region(region);
    }
    match storage.endpoint.as_str() {
        "" => builder,
        endpoint => builder.with_endpoint(endpoint),
    }
}

/// The settings of the profile `AWS_PROFILE`, or `default`, in `~/.aws`.
fn profile() -> BTreeMap<String, String> {
    let name = std::env::var("AWS_PROFILE").unwrap_or_else(|_| "default".into());
    let home = std::env::home_dir().unwrap_or_default().join(".aws");
    let file = |variable: &str, name: &str| std::env::var_os(variable).map_or_else(|| home.join(name), Into::into);
    let mut found = BTreeMap::new();
    for path in [file("AWS_CONFIG_FILE", "config"), file("AWS_SHARED_CREDENTIALS_FILE", "credentials")] {
        let text = std::fs::read_to_string(path).unwrap_or_default();
        let mut is_ours = false;
        for line in without_bom(&text).lines().map(str::trim) {
            if let Some(section) = line.strip_prefix('[').and_then(|line| line.strip_suffix(']')) {
                is_ours = section.trim().trim_start_matches("profile ").trim() == name;
            } else if let Some((key, value)) = line.split_once('=').filter(|_| is_ours) {
                found.insert(key.trim().to_owned(), value.trim().to_owned());
            }
        }
    }
    found
}

/// The runtime of all buckets: two threads that move bytes; callers block in threads of their own.
///
/// Threads do not survive a fork, so a process that was forked makes its own.
fn runtime() -> Arc<Runtime> {
    static RUNTIMES: OnceLock<Mutex<BTreeMap<u32, Arc<Runtime>>>> = OnceLock::new();
    let mut runtimes = RUNTIMES.get_or_init(Mutex::default).lock().unwrap_or_else(PoisonError::into_inner);
    Arc::clone(runtimes.entry(std::process::id()).or_insert_with(|| {
        let threads = std::thread::available_parallelism().map_or(1, usize::from).min(2);
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(threads)
            .thread_name("feedline:net")
            .enable_all()
            .build();
        Arc::new(runtime.unwrap_or_else(|e| panic!("the threads for the network cannot be started: {e}")))
    }))
}

/// Creates the default HTTP client, and inspects its answers.
#[derive(Debug)]
struct Watching;

#[derive(Debug)]
struct Watched(HttpClient);

impl HttpConnector for Watching {
    fn connect(&self, options: &ClientOptions) -> object_store::Result<HttpClient> {
        Ok(HttpClient::new(Watched(ReqwestConnector::default().connect(options)?)))
    }
}

#[async_trait::async_trait]
impl HttpService for Watched {
    async fn call(&self, request: HttpRequest) -> Result<HttpResponse, HttpError> {
        let element = answer::listed_in(request.uri().query().unwrap_or_default());
        let asked = see(|seen| seen.begin(&request)).unwrap_or_else(|| Seen::default().begin(&request))?;
        let response = self.0.execute(request).await?;
        if response.status().is_success() {
            let (response, found) = Seen::fit(asked, response).await?;
            see(|seen| seen.note(found));
            let Some(element) = element else { return Ok(response) };
            let (mut parts, body) = response.into_parts();
            let body = answer::with_hidden(&body.bytes().await?, element);
            parts.headers.remove("content-length");
            return Ok(HttpResponse::from_parts(parts, body.into()));
        }
        let (parts, body) = response.into_parts();
        let body = body.bytes().await?;
        let retry_after = parts.headers.get("retry-after").and_then(|value| value.to_str().ok());
        see(|seen| seen.failed(parts.status.as_u16(), retry_after, &body));
        Ok(HttpResponse::from_parts(parts, body.into()))
    }
}

/// Applies `look` to the record of the request under way, if there is one.
fn see<T>(look: impl FnOnce(&mut Seen) -> T) -> Option<T> {
    SEEN.try_with(|seen| look(&mut seen.lock().unwrap_or_else(PoisonError::into_inner))).ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::read::source::answer::{hidden, listed_in, shown, unescaped, with_hidden};

    #[test]
    fn nothing_secret_is_left_of_a_url() {
        for url in ["s3://key:secret@bucket/x", "https://host/x?X-Amz-Signature=secret"] {
            let text = Cloud::open(url, &Storage::default()).unwrap_err().to_string();
            assert!(!text.contains("secret") && text.contains("environment"), "{text}");
        }
    }

    #[test]
    fn keys_stand_in_a_listing_as_they_are() {
        let keys = ["d/a/", "d//x.jpg", "/x", "d/./x", "d/../x", "tab\tx", "line\nx\r", " lead", "trail ", "..", "/"];
        let plain = ["a/b.jpg", "perc%20", "q?#.jpg", "a & b <c>.jpg", "ünï 猫", "'\""];
        for key in keys.into_iter().chain(plain) {
            let xml = key.replace('&', "&amp;").replace('<', "&lt;").replace('\t', "&#x9;").replace('\n', "&#10;");
            let body = format!("<R><Name>b</Name><Contents><Key>{xml}</Key><Size>1</Size></Contents><Key>x</Key></R>");
            let text = String::from_utf8(with_hidden(body.as_bytes(), "Key")).unwrap();
            let inner = text.split_once("<Key>").unwrap().1.split_once("</Key>").unwrap().0;
            assert_eq!(inner != xml, keys.contains(&key), "{key:?}");
            // As `object_store` parses it.
            let path = Path::parse(unescaped(inner).unwrap()).unwrap();
            assert_eq!(shown(path.as_ref()), key);
            assert!(text.starts_with("<R><Name>b</Name>") && text.ends_with("<Key>x</Key></R>"), "{text}");
        }
        let twice = hidden("d/");
        assert_eq!(shown(&hidden(&twice)), twice, "an object may be called as what is hidden");
        for body in [&b"<Key>&unknown;</Key>"[..], b"<Key>&#x110000;</Key>", b"<Key>no end", b"\xff<Key>d/</Key>"] {
            assert_eq!(with_hidden(body, "Key"), body);
        }
        for (query, element) in
            [("list-type=2&prefix=a%2F", Some("Key")), ("comp=list", Some("Name")), ("", None), ("x=comp=list", None)]
        {
            assert_eq!(listed_in(query), element);
        }
    }

    #[test]
    fn a_key_is_asked_for_as_it_is_or_not_at_all() {
        let bucket = Cloud::open("s3://bucket/some//folder/", &Storage::default()).unwrap();
        for (key, path) in [("", "some//folder"), ("a//b", "some//folder/a//b"), (" a%20", "some//folder/ a%20")] {
            assert_eq!(bucket.path(key).unwrap().as_ref(), path);
        }
        for key in ["a/", "a/../b", "./b", "a\tb"] {
            let error = bucket.path(key).unwrap_err();
            assert!(error.kind == ReadErrorKind::Other && error.problem.contains("no request can name"), "{error}");
        }
        let root = Cloud::open("s3://bucket", &Storage::default()).unwrap();
        assert_eq!((root.path("").unwrap().as_ref(), root.path("a").unwrap().as_ref()), ("", "a"));
        assert!(root.path("/a").is_err(), "it would be asked for as `a`");
        for url in ["s3://bucket//x", "s3://bucket/a/../x"] {
            let text = Cloud::open(url, &Storage::default()).unwrap_err().to_string();
            assert!(text.contains("no request can name"), "{text}");
        }
    }

    #[test]
    fn urls_that_are_none_are_refused() {
        for (url, part) in [("s3:///x", "no bucket"), ("ftp://b/x", "the scheme ftp is unknown"), ("x", "no scheme")] {
            let text = Cloud::open(url, &Storage::default()).unwrap_err().to_string();
            assert!(text.contains(part), "{text}");
        }
        for endpoint in ["http://", "http:// x", "https://:80", "127.0.0.1:9000", "ftp://host"] {
            let storage = Storage { endpoint: endpoint.into(), ..Storage::default() };
            let text = Cloud::open("s3://bucket/x", &storage).unwrap_err().to_string();
            assert!(text.contains("storage.endpoint is no URL of a server"), "{endpoint}: {text}");
        }
        for endpoint in ["http://127.0.0.1:9000", "https://s3.example.org/", "http://[::1]:80"] {
            assert!(is_endpoint(endpoint), "{endpoint}");
        }
    }
}
