//! From a name that a person wrote to a source: which names are URLs, which wrappers stand before a backend, and the
//! listing of a bucket, which is made once and kept.

use super::cache::Cache;
use super::cache_folder::CacheMode;
use super::coalesce::Coalesce;
use super::limit::Limit;
use super::local::LocalFiles;
use super::retry::Retry;
use super::timeout::Timeout;
use super::{Object, ReadError, Source, Stop};
use crate::error::{Error, Result};
use crate::plan::rng::{hash_name, hash_words};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;
use std::{fmt, fs};

/// How objects are read. Changes speed and patience, never what is read. Credentials are not settings: they come from
/// where the provider's own tools take them, or from a client of the caller's.
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
    /// What the cache may hold.
    pub cache_bytes: u64,
    /// Who shares it.
    pub cache_mode: CacheMode,
    /// `PREFIX=URL`: a path that begins with PREFIX is read from URL instead. Empty is none.
    pub map: String,
    /// Where listings are kept; empty is `feedline/listings` in the user's folder for caches.
    pub listings_dir: PathBuf,
    /// What another client of the caller's signs with, in place of the environment. Never written anywhere.
    #[serde(skip)]
    pub credentials: Option<Credentials>,
}

/// Keys of an S3 account.
#[derive(Clone, PartialEq, Eq)]
pub struct Credentials {
    pub access_key_id: String,
    pub secret_access_key: String,
    pub session_token: Option<String>,
}

impl fmt::Debug for Credentials {
    /// Without them.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Credentials(...)")
    }
}

/// What lies in a source.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Listing {
    /// The objects, sorted by key.
    pub objects: Vec<Object>,
    /// Why each of some others is left out, and where it is.
    pub left_out: Vec<(&'static str, String)>,
}

impl Listing {
    /// Passes over the marks of folders among all `objects` of a bucket, and leaves out what cannot be read.
    fn of(mut objects: Vec<Object>, source: &dyn Source) -> Listing {
        let mut left_out = Vec::new();
        // A name counts from the bucket on.
        let base = source.location("");
        let rest = base.split_once("://").map_or("", |(_, rest)| rest);
        let folder = rest.split_once('/').map_or("", |(_, folder)| folder);
        objects.retain(|object| {
            if is_mark(object) {
                return false;
            }
            match unreadable(&format!("{folder}{}", object.key)) {
                None => true,
                Some(why) => {
                    left_out.push((why, source.location(&object.key)));
                    false
                }
            }
        });
        Listing { objects, left_out }
    }

    /// What is left out, in words: a sentence for each reason.
    pub fn words(&self) -> Vec<String> {
        let mut found: BTreeMap<&str, Vec<&str>> = BTreeMap::new();
        self.left_out.iter().for_each(|(why, location)| found.entry(why).or_default().push(location));
        let sentence = |(why, locations): (&str, Vec<&str>)| {
            let first: Vec<String> = locations.iter().take(3).map(|location| format!("{location:?}")).collect();
            let more = if locations.len() > first.len() { ", ..." } else { "" };
            let (count, first) = (locations.len(), first.join(", "));
            format!("{count} of the objects cannot be read and are left out, as {why}: {first}{more}")
        };
        found.into_iter().map(sentence).collect()
    }
}

/// Whether an object is no file but says that there is a folder: consoles and many tools leave an empty object called
/// `folder/`, older Hadoop `folder_$folder$`.
fn is_mark(object: &Object) -> bool {
    let is_named_so = object.key.is_empty() || object.key.ends_with('/') || object.key.ends_with("_$folder$");
    is_named_so && object.size_bytes == 0
}

/// Why no request can name the object with this key, if that is so. What a URL holds as it is: it is taken apart at each
/// `/`, and `..` leads out of a folder.
pub(in crate::read) fn unreadable(key: &str) -> Option<&'static str> {
    match key {
        "" => Some("its name is empty"),
        _ if key.starts_with('/') => Some("its name begins with `/`"),
        _ if key.ends_with('/') => Some("its name ends in `/`, as that of a folder"),
        _ if key.split('/').any(|part| matches!(part, "." | "..")) => Some("a part of its name is `.` or `..`"),
        _ if key.contains(|letter: char| letter.is_ascii_control()) => Some("its name holds a control character"),
        _ => None,
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
        }
    }
}

/// Whether a path is the URL of a source rather than a file of this machine.
pub fn is_url(path: &Path) -> bool {
    let scheme = path.to_str().and_then(|text| text.split_once("://")).map(|(scheme, _)| scheme);
    scheme.is_some_and(|scheme| {
        !scheme.is_empty() && scheme.bytes().all(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit())
    })
}

/// That the URL of data holds no secret: a query, as that of a presigned URL, which is a signature, or a user's name and
/// password. Whatever it is the name of, the name is printed, and stands in files.
///
/// # Errors
/// One that does.
pub fn check_url(url: &str) -> Result<()> {
    let Some((scheme, rest)) = url.split_once("://").filter(|_| is_url(Path::new(url))) else { return Ok(()) };
    let host = rest.split('/').next().unwrap_or_default();
    if scheme == "file" || !host.contains('@') && !rest.contains(['?', '#']) {
        return Ok(());
    }
    let shown = without_query(url);
    Err(Error::config(
        format!(
            "{}: a URL of data holds no credentials and no query, and nothing behind a `#`",
            shown.split('#').next().unwrap_or_default()
        ),
        "Give the credentials in the environment, with a bucket as s3://BUCKET/FOLDER; what presigned URLs name has to be \
         downloaded",
    ))
}

/// A text without what is secret in the URLs in it: what stands before an `@` in front of a host, and behind a `?`. For
/// whatever is printed or written.
pub(crate) fn without_secrets(text: &str) -> String {
    let mut shown = String::with_capacity(text.len());
    let mut rest = text;
    while let Some((before, after)) = rest.split_once("://") {
        let is_end = |letter: char| letter.is_whitespace() || "\"'`<>|\\".contains(letter);
        let (url, behind) = after.split_at(after.find(is_end).unwrap_or(after.len()));
        shown += before;
        shown += "://";
        let (host, path) = url.split_at(url.find(['/', '?', '#']).unwrap_or(url.len()));
        shown += host.rsplit_once('@').map_or(host, |(_, host)| host);
        match path.split_once('?') {
            None => shown += path,
            Some((path, query)) => {
                shown += path;
                // What the sentence goes on with.
                shown += &query[query.trim_end_matches([':', ',', ';', '.', ')']).len()..];
            }
        }
        rest = behind;
    }
    shown + rest
}

/// A whole URL, blanks and all, without what is secret in it; a path as it is.
pub(crate) fn without_query(path: &str) -> String {
    match path.split_once("://") {
        Some((scheme, rest)) if is_url(Path::new(path)) && scheme != "file" => {
            let rest = rest.split('?').next().unwrap_or_default();
            let (host, path) = rest.split_at(rest.find('/').unwrap_or(rest.len()));
            format!("{scheme}://{}{path}", host.rsplit_once('@').map_or(host, |(_, host)| host))
        }
        _ => path.to_owned(),
    }
}

impl Storage {
    /// That the settings make sense.
    ///
    /// # Errors
    /// The first that does not.
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
            None => Ok(()),
        }
    }

    fn mapping(&self) -> Option<(&str, &str)> {
        self.map.split_once('=').filter(|(prefix, url)| !prefix.is_empty() && is_url(Path::new(url)))
    }

    /// Where `path` is read from: another place if it falls under [`Storage::map`].
    pub fn resolve(&self, path: &Path) -> PathBuf {
        let mapped = self.mapping().and_then(|(prefix, url)| {
            let rest = path.strip_prefix(prefix).ok()?.to_str()?;
            Some(PathBuf::from(format!("{}/{rest}", url.trim_end_matches('/')).trim_end_matches('/')))
        });
        mapped.unwrap_or_else(|| path.to_path_buf())
    }

    /// The source at `url`: its backend, and before it timeout, limit, retry, coalescing and cache.
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

    /// All objects of `source`, from the listing that was kept, or else listed now and kept. A folder is listed each time,
    /// which costs no requests.
    ///
    /// # Errors
    /// A place that cannot be listed; a listing that is damaged.
    pub fn listing(&self, source: &dyn Source, afresh: bool) -> Result<Listing> {
        let path = self.listing_path(source);
        if source.location("").starts_with("file://") {
            let objects = source.list("", &Stop::default()).map_err(ReadError::into_error)?;
            return Ok(Listing { objects, left_out: Vec::new() });
        }
        if !afresh
            && let Ok(text) = fs::read_to_string(&path)
            && let Some(text) = as_now(text)
        {
            let objects = parse(&text, &source.location("")).ok_or_else(|| {
                Error::dataset(
                    &path,
                    "this listing is damaged or of another version",
                    "Remove the file; it is made anew",
                )
            })?;
            return Ok(Listing::of(objects, source));
        }
        let objects = source.list("", &Stop::default()).map_err(ReadError::into_error)?;
        // An empty folder may be filled tomorrow.
        if !objects.is_empty() {
            // If that is possible; a bucket can be listed again.
            let _ = keep(&path, &source.location(""), &objects);
        }
        Ok(Listing::of(objects, source))
    }

    /// Where the listing of `source` is kept.
    pub fn listing_path(&self, source: &dyn Source) -> PathBuf {
        let folder = match self.listings_dir.as_os_str().is_empty() {
            false => self.listings_dir.clone(),
            true => {
                let caches = std::env::var_os("XDG_CACHE_HOME").map(PathBuf::from).filter(|path| path.is_absolute());
                let caches = caches.or_else(|| std::env::home_dir().map(|home| home.join(".cache")));
                caches.unwrap_or_else(std::env::temp_dir).join("feedline/listings")
            }
        };
        let endpoint = match self.endpoint.as_str() {
            "" => ["AWS_ENDPOINT_URL_S3", "AWS_ENDPOINT_URL", "AWS_ENDPOINT"]
                .iter()
                .find_map(|name| std::env::var(name).ok()),
            endpoint => Some(endpoint.to_owned()),
        };
        let name = hash_words(&[hash_name(&source.location("")), hash_name(&endpoint.unwrap_or_default())]);
        folder.join(format!("{name:016x}.txt"))
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

const HEADER: &str = "feedline listing 3";

/// Begins what older versions kept.
const OLD_HEADER: &str = "feedline listing 2\t";

/// What an older version kept, in today's format; `None` if it holds a name that is written otherwise now, or something empty,
/// of which nothing tells whether it is a mark of a folder: then the place is listed anew.
fn as_now(text: String) -> Option<String> {
    let Some(rest) = text.strip_prefix(OLD_HEADER) else { return Some(text) };
    let is_plain = !rest.contains('%') && !rest.lines().any(|line| line.starts_with("0\t"));
    is_plain.then(|| format!("{HEADER}\t{rest}"))
}

/// Ends a listing that is whole.
const END: &str = "end\n";

/// A line of what it is, a line of whose, then size, version, time and key of each object; numbers and names only.
fn keep(path: &Path, location: &str, objects: &[Object]) -> std::io::Result<()> {
    let mut text = format!("{HEADER}\t{}\n{location}\n", objects.len());
    for Object { key, size_bytes, version, changed_ns } in objects {
        if version.contains(['\n', '\t', '\r']) {
            return Ok(()); // would need an escape; such a bucket is listed each time
        }
        let escape = |key: String, (letter, escape): (char, &str)| key.replace(letter, escape);
        let key = if key.contains(ESCAPES.map(|(letter, _)| letter)) {
            &ESCAPES.into_iter().fold(key.clone(), escape)
        } else {
            key
        };
        text += &format!("{size_bytes}\t{version}\t{changed_ns}\t{key}\n");
    }
    text += END;
    keep_text(path, &text)
}

/// What would end a line of a listing, and how it is written; the first one last when it is read.
const ESCAPES: [(char, &str); 3] = [('%', "%25"), ('\n', "%0A"), ('\r', "%0D")];

/// Writes a file so that it is there as a whole or not at all.
pub(in crate::read) fn keep_text(path: &Path, text: &str) -> std::io::Result<()> {
    let folder = path.parent().unwrap_or(Path::new(""));
    fs::create_dir_all(folder)?;
    let new = folder.join(format!("{}.{}.new", path.file_stem().unwrap_or_default().display(), std::process::id()));
    fs::write(&new, text)?;
    fs::rename(&new, path)
}

fn parse(text: &str, location: &str) -> Option<Vec<Object>> {
    let mut lines = text.strip_suffix(END)?.lines();
    let count: usize = lines.next()?.strip_prefix(HEADER)?.trim().parse().ok()?;
    if lines.next()? != location {
        return None;
    }
    let object = |line: &str| {
        let mut parts = line.splitn(4, '\t');
        let (size_bytes, version) = (parts.next()?.parse().ok()?, parts.next()?.into());
        let changed_ns = parts.next()?.parse().ok()?;
        let key = parts.next()?.to_owned();
        let unescape =
            |key: String, (letter, escape): (char, &str)| key.replace(escape, letter.encode_utf8(&mut [0; 4]));
        let key = if key.contains('%') { ESCAPES.into_iter().rev().fold(key, unescape) } else { key };
        Some(Object { key, size_bytes, version, changed_ns })
    };
    let objects: Option<Vec<Object>> = lines.map(object).collect();
    objects.filter(|objects| objects.len() == count)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::read::source::Get;

    #[test]
    fn urls_are_told_from_paths_and_mapped() {
        for (path, expect) in
            [("s3://b/x", true), ("/data/x", false), ("C://x", false), ("://x", false), ("a/b", false)]
        {
            assert_eq!(is_url(Path::new(path)), expect, "{path}");
        }
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
    fn nothing_secret_is_left_of_a_text_or_a_url() {
        for (text, shown) in [
            ("at https://me:pw@host/x?sig=abc failed", "at https://host/x failed"),
            ("https://host/x?sig=a/b: there is none", "https://host/x: there is none"),
            ("`https://host?sig=abc` is (s3://k:s@b/x?versionId=1), no?", "`https://host` is (s3://b/x), no?"),
            ("https://host/a@b.jpg, s3://b/x y?z", "https://host/a@b.jpg, s3://b/x y?z"),
            ("https://u:p@h/x\nhttps://u:p@h/y?q\"", "https://h/x\nhttps://h/y\""),
            ("a b?c @ d", "a b?c @ d"),
            ("://", "://"),
        ] {
            assert_eq!(without_secrets(text), shown);
        }
        assert_eq!(without_query("https://me:pw@host/a b?sig=c d"), "https://host/a b");
        assert_eq!(without_query("/data/what?/x@y"), "/data/what?/x@y");
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

    /// A folder that passes for a bucket.
    #[derive(Debug)]
    struct Bucket(LocalFiles);

    impl Source for Bucket {
        fn location(&self, key: &str) -> String {
            format!("s3://bucket/{key}")
        }
        fn get(&self, want: &Get<'_>, into: &mut Vec<u8>) -> Result<(), ReadError> {
            self.0.get(want, into)
        }
        fn list(&self, prefix: &str, stop: &Stop) -> Result<Vec<Object>, ReadError> {
            self.0.list(prefix, stop)
        }
        fn head(&self, key: &str, stop: &Stop) -> Result<Object, ReadError> {
            self.0.head(key, stop)
        }
    }

    #[test]
    fn a_listing_is_kept_and_a_damaged_one_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        let data = dir.path().join("data");
        fs::create_dir_all(data.join("a")).unwrap();
        fs::write(data.join("a/1"), "one").unwrap();
        let storage = Storage { listings_dir: dir.path().join("listings"), ..Storage::default() };
        let source = Bucket(LocalFiles::new(&data));
        let list = |afresh| storage.listing(&source, afresh).unwrap().objects;
        let first = list(false);
        assert_eq!((first.len(), first[0].key.as_str(), first[0].size_bytes), (1, "a/1", 3));
        fs::write(data.join("a/2"), "two").unwrap();
        assert_eq!(list(false), first, "kept");
        assert_eq!(list(true).len(), 2, "made anew");
        assert_eq!(list(false).len(), 2);
        let path = storage.listing_path(&source);
        let text = fs::read_to_string(&path).unwrap();
        for cut in [text.len() - 4, 5, 0] {
            fs::write(&path, &text[..cut]).unwrap();
            let error = storage.listing(&source, false).unwrap_err().to_string();
            assert!(error.contains("Remove the file"), "{error}");
        }
        // One of an older version does not tell marks of folders from files.
        fs::write(&path, "feedline listing 2\t1\ns3://bucket/\n0\t\t0\ta\nend\n").unwrap();
        assert_eq!(list(false).len(), 2);
        // Without anything empty in it, it does.
        fs::write(&path, text.replace(HEADER, "feedline listing 2").replace("a/2", "a/4")).unwrap();
        assert_eq!(list(false)[1].key, "a/4");
        list(true);
        // A folder of this machine is looked at each time.
        let folder = storage.open(&format!("file://{}", data.display())).unwrap();
        assert_eq!(storage.listing(&*folder, false).unwrap().objects.len(), 2);
        fs::write(data.join("a/3\n%0A"), "three").unwrap();
        assert_eq!(storage.listing(&*folder, false).unwrap().objects.len(), 3);
        // What is left out is so from a listing that was kept, too.
        let expect = Listing {
            objects: list(true),
            left_out: vec![("its name holds a control character", "s3://bucket/a/3\n%0A".into())],
        };
        assert_eq!(expect.objects.len(), 2);
        for afresh in [true, false] {
            assert_eq!(storage.listing(&source, afresh).unwrap(), expect);
        }
    }

    #[test]
    fn marks_of_folders_are_no_files_and_what_cannot_be_read_is_left_out() {
        let object = |key: &str, size_bytes| Object { key: key.into(), size_bytes, version: "1".into(), changed_ns: 0 };
        let files = ["a//b.jpg", "a/ b", "a/.../b", "a/b.jpg", "empty", "perc%2e%2E/x", "x_$folder$.jpg"];
        let marks = ["", "a/", "a/b/", "c_$folder$"];
        let lost = ["", "/x", "a/", "a/../x", "./x", "x/..", "x\ty", "x\ny", "x\u{7f}"];
        let mut objects: Vec<Object> = files.iter().map(|key| object(key, u64::from(*key != "empty"))).collect();
        objects.extend(marks.iter().map(|key| object(key, 0)));
        objects.extend(lost.iter().map(|key| object(key, 1)));
        let listing = Listing::of(objects, &Bucket(LocalFiles::new("/none")));
        assert_eq!(
            listing.objects.iter().map(|object| &object.key).collect::<Vec<_>>(),
            files.iter().collect::<Vec<_>>()
        );
        let named: Vec<&str> = listing.left_out.iter().map(|(_, location)| &location["s3://bucket/".len()..]).collect();
        assert_eq!(named, lost);
        assert!(listing.left_out.iter().all(|(why, _)| !why.is_empty()));
    }
}
