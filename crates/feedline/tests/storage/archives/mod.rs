//! Samples inside archives: they equal the files they were packed from, and hostile archives yield nothing else.

mod folders;
mod labelled;
mod tars;
mod zip;
mod zips;

use ::tar::{Builder, EntryType, Header};
use feedline::read::archive::{Index, Member, index, index_beside, to_text};
use feedline::read::pack::{PackOptions, Packed, pack_list};
use feedline::read::{Folder, ImageList, LocalFiles, Source, Stop, Storage};
use std::fs;
use std::path::{Path, PathBuf};

/// A folder {train,test}/<class>/*.jpg with names short and long.
fn data() -> tempfile::TempDir {
    let dir = tempfile::tempdir().unwrap();
    for (split, count) in [("train", 40), ("test", 7)] {
        for i in 0..count {
            let class = ["a", "b-b", "b", "ümlaut 猫"][i % 4];
            let name = if i % 5 == 0 { format!("{}{i}.jpg", "long".repeat(40)) } else { format!("{i}.jpg") };
            let folder = dir.path().join(split).join(class);
            fs::create_dir_all(&folder).unwrap();
            fs::write(folder.join(name), vec![i as u8; 700 * i]).unwrap();
        }
    }
    fs::write(dir.path().join("train/.hidden"), "x").unwrap();
    dir
}

pub(super) fn storage(dir: &Path) -> Storage {
    Storage { listings_dir: dir.join("listings"), ..Storage::default() }
}

/// Labels, names and contents of both splits.
fn content(dir: &Path, storage: &Storage) -> Vec<(u32, String, Vec<u8>)> {
    let folder = Folder::open(dir, storage).unwrap();
    let train = ImageList::train(folder.clone()).unwrap();
    let test = ImageList::val(folder, &train.classes).unwrap();
    let mut all = Vec::new();
    for list in [train, test] {
        for (sample, (entry, name)) in list.entries.iter().zip(list.names()).enumerate() {
            let mut bytes = Vec::new();
            let stored = list.stored.as_ref();
            feedline::read::read_sample(stored, sample as u64, &entry.path, &Stop::default(), &mut bytes).unwrap();
            all.push((entry.class, name, bytes));
        }
    }
    all
}

fn pack(dir: &Path, out: &Path, shard_bytes: u64, threads: usize) -> feedline::Result<Packed> {
    feedline::read::pack::pack(
        dir,
        &Storage::default(),
        out,
        PackOptions { shard_bytes, threads, progress: &|_, _| () },
    )
}

fn files_in(dir: &Path) -> Vec<String> {
    let listed = LocalFiles::new(dir).list("", &Stop::default()).unwrap();
    listed.into_iter().map(|object| object.key).collect()
}

#[cfg(not(feature = "parquet"))]
#[test]
fn without_the_feature_a_parquet_file_is_an_error_that_says_so() {
    let out = tempfile::tempdir().unwrap();
    fs::create_dir(out.path().join("train")).unwrap();
    fs::write(out.path().join("train/0.parquet"), "PAR1").unwrap();
    for path in [out.path().to_path_buf(), out.path().join("train/0.parquet")] {
        let error = Folder::open(&path, &storage(out.path())).unwrap_err().to_string();
        assert!(error.contains("0.parquet") && error.contains("--features parquet"), "{error}");
    }
}

/// An archive written by a common tool.
fn written(name: &str) -> Vec<u8> {
    fs::read(Path::new(env!("CARGO_MANIFEST_DIR")).join("../../testdata/archives").join(name)).unwrap()
}

/// The index of an archive with this name and these bytes, or its error.
pub(super) fn indexed_as(name: &str, bytes: &[u8]) -> Result<Vec<Member>, String> {
    let dir = tempfile::tempdir().unwrap();
    fs::write(dir.path().join(name), bytes).unwrap();
    let source = LocalFiles::new(dir.path());
    let object = source.head(name, &Stop::default()).unwrap();
    index(&source, &object).map(|index| index.members).map_err(|e| {
        let text = e.to_string();
        assert!(text.contains(name), "{text}");
        text
    })
}

/// Names and contents of a tar archive with these bytes, or its error.
fn indexed(bytes: &[u8]) -> Result<Vec<(String, Vec<u8>)>, String> {
    Ok(indexed_as("x.tar", bytes)?
        .into_iter()
        .map(|member| (member.name, bytes[member.start as usize..][..member.stored_bytes as usize].to_vec()))
        .collect())
}

fn archive(add: impl FnOnce(&mut Builder<Vec<u8>>)) -> Vec<u8> {
    let mut builder = Builder::new(Vec::new());
    add(&mut builder);
    builder.into_inner().unwrap()
}

/// A header whose name is written unchecked.
fn header(name: &str, size: u64, kind: EntryType) -> Header {
    let mut header = Header::new_gnu();
    header.as_gnu_mut().unwrap().name[..name.len()].copy_from_slice(name.as_bytes());
    header.set_size(size);
    header.set_entry_type(kind);
    header.set_cksum();
    header
}

fn file(name: &str, content: &[u8]) -> Vec<u8> {
    archive(|builder| builder.append(&header(name, content.len() as u64, EntryType::Regular), content).unwrap())
}

/// A shard as WebDataset writes it.
fn webdataset(samples: &[(&str, &str)]) -> Vec<u8> {
    archive(|builder| {
        for (name, content) in samples {
            let header = header(name, content.len() as u64, EntryType::Regular);
            builder.append(&header, content.as_bytes()).unwrap();
        }
    })
}

/// The labels of the archive `name` in a folder of its own, and its warnings: twice, the second time from the cached
/// index.
fn labels(name: &str, bytes: &[u8]) -> (Vec<(u32, String)>, String) {
    let out = tempfile::tempdir().unwrap();
    let path = out.path().join(name);
    fs::write(&path, bytes).unwrap();
    let read = || {
        let folder = Folder::open(&path, &storage(out.path())).unwrap();
        let list = ImageList::from_folder(folder, "x", None).unwrap();
        (list.entries.iter().map(|entry| entry.class).zip(list.names()).collect(), list.warnings.join("\n"))
    };
    let first = read();
    assert_eq!(read(), first);
    first
}
