//! Archives: an index lists only members inside the archive, and each member can be read or is refused.

use super::{Bench, Verdict};
use feedline::read::archive::{Index, Member, index, indexes, to_text};
use feedline::read::{
    FileList, Folder, ImageList, Object, RangeRequest, ReadError, ReadErrorKind, Source, Stop, Storage,
};
use std::collections::BTreeMap;

pub const TAR: &[&[u8]] = &[
    b"ustar\x0000",
    b"ustar  \0",
    b"././@LongLink",
    b"././@PaxHeader",
    b"path=",
    b"GNU.sparse.major=1",
    b"GNU.sparse.name=x",
    b"size=",
    b"17 path=a/b.jpg\n",
    b"sample.cls",
    b".jpg",
    b"0000000",
    b"7777777",
    b"\x80\0\0\0",
    b"x",
    b"g",
    b"L",
    b"S",
    b"1",
    b"2",
    b"5",
    b"../",
    b"/",
    b"\0",
];
pub const ZIP: &[&[u8]] = &[
    b"PK\x01\x02",
    b"PK\x03\x04",
    b"PK\x05\x06",
    b"PK\x06\x06",
    b"PK\x06\x07",
    b"PK\x07\x08",
    b"\x01\0\x10\0",
    b"\x08\0",
    b"\0\0",
    b"\x08\x08",
    b"\xFF\xFF\xFF\xFF",
    b"\xFF\xFF",
    b"a.npy",
    b"../",
    b"/",
    b"\\",
    b"\x99\0",
];
pub const MDS: &[&[u8]] = &[
    b"\"column_names\"",
    b"\"column_encodings\"",
    b"\"column_sizes\"",
    b"\"bytes\"",
    b"\"int\"",
    b"\"str\"",
    b"\"jpeg\"",
    b"null",
    b"[",
    b"]",
    b"{",
    b"}",
    b"\"compression\"",
    b"\"image\"",
    b"\"label\"",
];
pub const PARQUET: &[&[u8]] = &[
    b"PAR1",
    b"PARE",
    b"\x15\0",
    b"\x15\x02",
    b"\x19",
    b"\x1C",
    b"\x18",
    b"\x16",
    b"\x26",
    b"\xFF\xFF\xFF\xFF\x0F",
    b"bytes",
    b"path",
    b"huggingface",
];

/// Objects in memory.
#[derive(Debug)]
struct Held(BTreeMap<String, Vec<u8>>);

impl Held {
    fn object(&self, key: &str) -> Object {
        let size_bytes = self.0.get(key).map_or(0, |bytes| bytes.len() as u64);
        // Without a version nothing is kept from one input to the next.
        Object { key: key.into(), size_bytes, version: String::new(), changed_ns: 0 }
    }
}

impl Source for Held {
    fn location(&self, key: &str) -> String {
        format!("held://{key}")
    }

    fn get(&self, want: &RangeRequest<'_>, into: &mut Vec<u8>) -> Result<(), ReadError> {
        let bytes =
            self.0.get(want.key).and_then(|bytes| bytes.get(want.range.start as usize..want.range.end as usize));
        let bytes =
            bytes.ok_or_else(|| ReadError::new(ReadErrorKind::Missing, self.location(want.key), "no such bytes"))?;
        into.clear();
        into.extend_from_slice(bytes);
        Ok(())
    }

    fn list(&self, prefix: &str, _: &Stop) -> Result<Vec<Object>, ReadError> {
        Ok(self.0.keys().filter(|key| key.starts_with(prefix)).map(|key| self.object(key)).collect())
    }

    fn head(&self, key: &str, _: &Stop) -> Result<Object, ReadError> {
        match self.0.contains_key(key) {
            true => Ok(self.object(key)),
            false => Err(ReadError::new(ReadErrorKind::Missing, self.location(key), "no such object")),
        }
    }
}

fn storage(bench: &Bench) -> Storage {
    Storage { listings_dir: bench.dir.join("listings"), requests_in_flight: 2, ..Storage::default() }
}

/// Checks the index of an archive of `size_bytes`; returns the violated property, if any.
fn wrong_with(members: &[Member], size_bytes: u64) -> Option<String> {
    let outside = |member: &&Member| member.start.checked_add(member.stored_bytes).is_none_or(|end| end > size_bytes);
    if let Some(member) = members.iter().find(outside) {
        return Some(format!("a member lies outside of the archive: {member:?}"));
    }
    let parts = |name: &str| name.split('/').any(|part| matches!(part, "" | "." | ".."));
    let is_odd = |name: &str| parts(name) || name.contains(['\0', '\n', '\t', '\r', '\\']);
    if let Some(member) = members.iter().find(|member| is_odd(&member.name)) {
        return Some(format!("a member has a name that is no place in a folder: {member:?}"));
    }
    let twice = members.array_windows().find(|[one, other]| one.name >= other.name);
    twice.map(|[one, other]| format!("members out of order: {one:?} {other:?}"))
}

fn archive(bench: &Bench, bytes: &[u8], end: &str) -> Verdict {
    let key = format!("x.{end}");
    let held = Held(BTreeMap::from([(key.clone(), bytes.to_vec())]));
    let object = held.object(&key);
    let index = match index(&held, &object) {
        Ok(index) => index,
        Err(error) => return Verdict::Refused { said: error.to_string(), compared: None },
    };
    if let Some(problem) = wrong_with(&index.members, object.size_bytes) {
        return Verdict::Wrong(problem);
    }
    // Writing and reading an index gives the same index.
    let text = to_text(&index, object.size_bytes);
    let beside = Held(BTreeMap::from([(key.clone(), bytes.to_vec()), (format!("{key}.index"), text.into_bytes())]));
    let objects = beside.list("", &Stop::default()).unwrap_or_default();
    match indexes(&beside, &[&object], &objects, &storage(bench), &|_| {}) {
        Err(error) => return Verdict::Wrong(format!("its index cannot be read again: {error}")),
        Ok(again) if again != [index] => return Verdict::Wrong("its index is another when it is read again".into()),
        Ok(_) => {}
    }
    let path = bench.write(&key, bytes);
    match read_all(bench, &path) {
        Ok(_) => Verdict::Accepted { compared: None },
        Err(said) if said.starts_with("WRONG") => Verdict::Wrong(said),
        Err(said) => Verdict::Refused { said, compared: None },
    }
}

/// Reads files of an archive, as a recipe would: pictures with their labels, in folders of classes, or plain files.
fn read_all(bench: &Bench, path: &std::path::Path) -> Result<usize, String> {
    let words = |e: feedline::Error| e.to_string();
    let folder = Folder::open(path, &storage(bench)).map_err(words)?;
    let train = folder.join("train");
    let classes = if train.is_dir() { train } else { folder.clone() };
    let mut read = 0;
    if let Ok(list) = ImageList::from_folder(classes, "train", None) {
        let Some(stored) = &list.stored else { return Ok(0) };
        let mut bytes = Vec::new();
        for sample in 0..list.entries.len().min(8) {
            stored.read_into(sample as u64, &Stop::default(), &mut bytes).map_err(|e| e.into_error().to_string())?;
            if bytes.len() as u64 != stored.size_bytes(sample as u64) {
                return Err(format!("WRONG: {} bytes of {}", bytes.len(), stored.size_bytes(sample as u64)));
            }
            read += bytes.len();
        }
        return Ok(read);
    }
    let list = FileList::of_folder(folder, &["jpg", "png", "npy", "bin", "cls", "json"]).map_err(words)?;
    for at in 0..list.entries.len().min(8) {
        read += list.read_whole(at).map_err(words)?.len();
    }
    Ok(read)
}

pub fn tar(bench: &mut Bench, bytes: &[u8]) -> Verdict {
    archive(bench, bytes, "tar")
}

pub fn zip(bench: &mut Bench, bytes: &[u8]) -> Verdict {
    archive(bench, bytes, "zip")
}

pub fn mds(bench: &mut Bench, bytes: &[u8]) -> Verdict {
    archive(bench, bytes, "mds")
}

pub fn parquet(bench: &mut Bench, bytes: &[u8]) -> Verdict {
    archive(bench, bytes, "parquet")
}

/// Indexes as they are written now, of the tars of the corpus, and as they were.
pub fn index_texts() -> std::io::Result<Vec<Vec<u8>>> {
    let mut texts = super::testdata("seeds", &[".index"])?;
    for tar in super::testdata("shards/webdataset", &[".tar"])? {
        let held = Held(BTreeMap::from([("x.tar".to_owned(), tar)]));
        let object = held.object("x.tar");
        let index: Index = index(&held, &object).map_err(std::io::Error::other)?;
        texts.push(to_text(&index, object.size_bytes).into_bytes());
    }
    Ok(texts)
}

/// The index that lies beside an archive of 30,720 bytes, which is the one of the corpus.
pub fn kept_index(bench: &mut Bench, bytes: &[u8]) -> Verdict {
    let size_bytes = 30_720;
    let files = [("x.tar", vec![0; size_bytes]), ("x.tar.index", bytes.to_vec())];
    let held = Held(files.map(|(key, bytes)| (key.to_owned(), bytes)).into());
    let objects = held.list("", &Stop::default()).unwrap_or_default();
    match indexes(&held, &[&objects[0]], &objects, &storage(bench), &|_| {}) {
        Ok(found) => {
            let outside = |m: &Member| m.start.checked_add(m.stored_bytes).is_none_or(|end| end > size_bytes as u64);
            match found.into_iter().flat_map(|index| index.members).find(outside) {
                Some(member) => Verdict::Wrong(format!("a member lies outside of the archive: {member:?}")),
                None => Verdict::Accepted { compared: None },
            }
        }
        Err(error) => Verdict::Refused { said: error.to_string(), compared: None },
    }
}

/// The listing that is kept of a bucket.
pub fn listing(bench: &mut Bench, bytes: &[u8]) -> Verdict {
    let (held, storage) = (Held(BTreeMap::new()), storage(bench));
    let path = storage.listing_path(&held);
    let name = format!("listings/{}", path.file_name().unwrap_or_default().display());
    bench.write(&name, bytes);
    Verdict::of(storage.listing(&held, false))
}
