//! Lists a source once, caches the listing in a file, and reports unreadable objects. Owns the format of that file.

use crate::error::{Error, Result};
use crate::hash::{hash_name, hash_words};
use crate::read::file::write_whole;
use crate::read::location::unreadable;
use crate::read::source::settings::Storage;
use crate::read::source::{Object, ReadError, Source};
use crate::stop::Stop;
use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

/// The objects of a source.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Listing {
    /// The objects, sorted by key.
    pub objects: Vec<Object>,
    /// Reason and location of each object that is left out.
    pub left_out: Vec<(&'static str, String)>,
}

impl Listing {
    /// Drops folder markers from all `objects` of a bucket, and leaves out objects that cannot be read.
    fn of(mut objects: Vec<Object>, source: &dyn Source) -> Listing {
        let mut left_out = Vec::new();
        // Names are checked from the bucket on.
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

    /// One sentence for each reason why objects are left out.
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

/// True if an object is no file but marks a folder: consoles and many tools leave an empty object called `folder/`,
/// older Hadoop `folder_$folder$`.
fn is_mark(object: &Object) -> bool {
    let is_named_so = object.key.is_empty() || object.key.ends_with('/') || object.key.ends_with("_$folder$");
    is_named_so && object.size_bytes == 0
}

impl Storage {
    /// All objects of `source`, from the listing that was kept, or else listed now and kept. A folder is listed each time,
    /// which costs no requests, and so is [`Storage::source`], whose content may change with the program.
    ///
    /// # Errors
    /// A place that cannot be listed; a damaged listing.
    pub fn listing(&self, source: &dyn Source, afresh: bool) -> Result<Listing> {
        let path = self.listing_path(source);
        if source.location("").starts_with("file://") {
            let objects = source.list("", &Stop::default()).map_err(ReadError::into_error)?;
            return Ok(Listing { objects, left_out: Vec::new() });
        }
        let is_own = self.source.as_ref().is_some_and(|own| source.location("").starts_with(&own.location("")));
        if !afresh
            && !is_own
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
        if !objects.is_empty() && !is_own {
            // If that is possible; a bucket can be listed again.
            let _ = keep(&path, &source.location(""), &objects);
        }
        Ok(Listing::of(objects, source))
    }

    /// The file that caches the listing of `source`.
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

const HEADER: &str = "feedline listing 3";

/// Begins a listing of an older version.
const OLD_HEADER: &str = "feedline listing 2\t";

/// Converts a listing of an older version to today's format; `None` if it has a name that is escaped differently now,
/// or an empty object, which may be a file or a folder marker: then the place is listed again.
fn as_now(text: String) -> Option<String> {
    let Some(rest) = text.strip_prefix(OLD_HEADER) else { return Some(text) };
    let is_plain = !rest.contains('%') && !rest.lines().any(|line| line.starts_with("0\t"));
    is_plain.then(|| format!("{HEADER}\t{rest}"))
}

/// Ends a complete listing.
const END: &str = "end\n";

/// Writes a header, a line with the location, then size, version, time and key of each object; nothing else.
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
    write_whole(path, &text)
}

/// Characters that would end a line of a listing, and their escapes; when read, the first is replaced last.
const ESCAPES: [(char, &str); 3] = [('%', "%25"), ('\n', "%0A"), ('\r', "%0D")];

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
    use super::super::local::LocalFiles;
    use super::*;
    use crate::read::source::RangeRequest;

    /// A folder that acts as a bucket.
    #[derive(Debug)]
    struct Bucket(LocalFiles);

    impl Source for Bucket {
        fn location(&self, key: &str) -> String {
            format!("s3://bucket/{key}")
        }
        fn get(&self, want: &RangeRequest<'_>, into: &mut Vec<u8>) -> Result<(), ReadError> {
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
        // A listing of an older version does not tell folder markers from files.
        fs::write(&path, "feedline listing 2\t1\ns3://bucket/\n0\t\t0\ta\nend\n").unwrap();
        assert_eq!(list(false).len(), 2);
        // Without an empty object, it can be converted.
        fs::write(&path, text.replace(HEADER, "feedline listing 2").replace("a/2", "a/4")).unwrap();
        assert_eq!(list(false)[1].key, "a/4");
        list(true);
        // A local folder is listed each time.
        let folder = storage.open(&format!("file://{}", data.display())).unwrap();
        assert_eq!(storage.listing(&*folder, false).unwrap().objects.len(), 2);
        fs::write(data.join("a/3\n%0A"), "three").unwrap();
        assert_eq!(storage.listing(&*folder, false).unwrap().objects.len(), 3);
        // Objects are left out of a cached listing, too.
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
