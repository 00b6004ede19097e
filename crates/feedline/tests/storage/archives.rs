//! Samples inside archives: the same as the files they were packed from, and nothing else whatever an archive holds.

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

#[test]
fn archives_hold_the_data_set_of_the_folder() {
    let (dir, out) = (data(), tempfile::tempdir().unwrap());
    let expect = content(dir.path(), &Storage::default());
    let fingerprint =
        |dir: &Path| ImageList::train(Folder::open(dir, &storage(out.path())).unwrap()).unwrap().fingerprint();
    for (round, shard_bytes) in [1, 60_000, 1 << 30].into_iter().enumerate() {
        let shards = out.path().join(round.to_string());
        let packed = pack(dir.path(), &shards, shard_bytes, 3).unwrap();
        let archives = files_in(&shards).iter().filter(|name| name.ends_with(".tar")).count() as u64;
        assert_eq!(packed, Packed { files: 47, archives, bytes: packed.bytes });
        assert!([45..=47, 9..=13, 2..=2][round].contains(&archives), "{archives} archives");
        assert_eq!(content(&shards, &storage(out.path())), expect);
        assert_eq!(fingerprint(&shards), fingerprint(dir.path()));
        // Without the indexes beside them they are indexed, once: then they may even be damaged where only headers were.
        for name in files_in(&shards).iter().filter(|name| name.ends_with(".index")) {
            fs::remove_file(shards.join(name)).unwrap();
        }
        let storage = storage(&out.path().join(format!("kept {round}")));
        assert_eq!(content(&shards, &storage), expect);
        assert_eq!(content(&shards, &storage), expect);
        let kept = fs::read_dir(&storage.listings_dir).unwrap().count() as u64;
        assert_eq!(kept, archives, "an index for each");
        // The same files give the same bytes.
        let again = out.path().join(format!("again {round}"));
        pack(dir.path(), &again, shard_bytes, 1).unwrap();
        for name in files_in(&shards) {
            assert!(fs::read(shards.join(&name)).unwrap() == fs::read(again.join(&name)).unwrap(), "{name}");
        }
    }
    let error = pack(dir.path(), out.path(), 1 << 20, 1).unwrap_err().to_string();
    assert!(error.contains("is not empty"), "{error}");
    let empty = tempfile::tempdir().unwrap();
    let error = pack(empty.path(), &out.path().join("new"), 1, 1).unwrap_err().to_string();
    assert!(error.contains("no file in it"), "{error}");
}

#[test]
fn a_list_is_packed_with_its_labels_in_its_order() {
    let (dir, out) = (data(), tempfile::tempdir().unwrap());
    let names: Vec<String> = files_in(dir.path()).into_iter().filter(|name| name.ends_with(".jpg")).collect();
    let lines = names.iter().enumerate().map(|(i, name)| format!("{};{name}\n", i * 7 % 3));
    let file = dir.path().join("list.txt");
    fs::write(&file, lines.collect::<String>()).unwrap();
    let classes = ["cat", "猫", "dog"].map(String::from);
    let list = ImageList::from_list(&file, "x", &classes, &Storage::default()).unwrap();
    for shard_bytes in [1, 60_000, 1 << 30] {
        let shards = out.path().join(shard_bytes.to_string());
        let options = PackOptions { shard_bytes, threads: 2, progress: &|_, _| () };
        let packed = pack_list(&list, &shards, options).unwrap();
        assert_eq!(packed.files, 47);
        let folder = Folder::open(&shards, &storage(out.path())).unwrap();
        let read = ImageList::from_folder(folder, "x", None).unwrap();
        assert_eq!(read.classes, classes);
        assert_eq!(read.entries.len(), names.len());
        for (i, entry) in read.entries.iter().enumerate() {
            let mut bytes = Vec::new();
            read.stored.as_ref().unwrap().read_into(i as u64, &Stop::default(), &mut bytes).unwrap();
            assert_eq!(entry.class, list.entries[i].class);
            assert!(bytes == fs::read(dir.path().join(&names[i])).unwrap(), "{}", names[i]);
        }
    }
}

/// Label and SHA-256 of each picture of `place`, in order.
fn digests(place: &str) -> Vec<(u32, String)> {
    use sha2::{Digest, Sha256};
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../testdata/shards").join(place);
    let listings = tempfile::tempdir().unwrap();
    let folder = Folder::open(&path, &storage(listings.path())).unwrap();
    let list = ImageList::from_folder(folder, "x", None).unwrap();
    assert_eq!(list.classes, ["0", "1", "2"]);
    let digest = |(at, entry): (u64, &feedline::read::ImageEntry)| {
        let mut bytes = Vec::new();
        list.stored.as_ref().unwrap().read_into(at, &Stop::default(), &mut bytes).unwrap();
        (entry.class, Sha256::digest(&bytes).iter().map(|byte| format!("{byte:02x}")).collect())
    };
    (0..).zip(&list.entries).map(digest).collect()
}

#[test]
fn shards_of_the_usual_writers_are_read() {
    let facts = include_str!("../../../../testdata/shards/samples.json");
    let facts: Vec<serde_json::Value> = serde_json::from_str(facts).unwrap();
    let mut expect: Vec<(u32, String)> = facts
        .iter()
        .map(|fact| (fact["label"].as_u64().unwrap() as u32, fact["sha256"].as_str().unwrap().to_owned()))
        .collect();
    assert_eq!(digests("webdataset"), expect);
    assert_eq!(digests("webdataset/shard-{000000..000001}.tar"), expect);
    assert_eq!(digests("webdataset/shard-000001.tar"), expect[4..]);
    assert_eq!(digests("mds"), expect);
    expect.sort_by_key(|(label, _)| *label); // stable
    assert_eq!(digests("zip"), expect);
    assert_eq!(digests("zip/all.zip"), expect);
}

#[test]
fn archives_and_files_may_lie_side_by_side_but_not_twice() {
    let (dir, out) = (data(), tempfile::tempdir().unwrap());
    let expect = content(dir.path(), &Storage::default());
    let shards = out.path().join("shards");
    pack(dir.path(), &shards, 50_000, 2).unwrap();
    // The test split unpacked beside the archives of the training split.
    fs::remove_dir_all(shards.join("test")).unwrap();
    let copy = |from: &Path, to: &Path| {
        fs::create_dir_all(to.parent().unwrap()).unwrap();
        fs::copy(from, to).unwrap();
    };
    for name in files_in(dir.path()).iter().filter(|name| name.starts_with("test/")) {
        copy(&dir.path().join(name), &shards.join(name));
    }
    assert_eq!(content(&shards, &storage(&out.path().join("1"))), expect);
    // Pictures beside archives that hold others: is that the data, or were they forgotten?
    let refused = |name: &str, words: &[&str]| {
        let error = Folder::open(&shards, &storage(&out.path().join(name))).unwrap_err().to_string();
        assert!(words.iter().all(|word| error.contains(word)), "{words:?} in: {error}");
    };
    copy(&dir.path().join("train/a/4.jpg"), &shards.join("train/a/4.jpg"));
    refused(
        "2",
        &["which does not lie beside it, though other data does: train/a/4.jpg", "move the archive elsewhere"],
    );
    fs::remove_dir_all(shards.join("train/a")).unwrap();
    copy(&shards.join("train/000000.tar"), &shards.join("train/again.tar"));
    refused("3", &["is in it, and in", "again.tar"]);
    fs::remove_file(shards.join("train/again.tar")).unwrap();
    // An archive that cannot be understood may not belong there.
    fs::write(shards.join("notes.zip"), "none").unwrap();
    refused("4", &["notes.zip: it is no zip archive", "or move it elsewhere"]);
}

#[test]
fn an_archive_beside_what_was_unpacked_from_it_changes_nothing() {
    let (dir, out) = (data(), tempfile::tempdir().unwrap());
    let expect = content(dir.path(), &Storage::default());
    let names = files_in(dir.path());
    let entries: Vec<zip::Entry> =
        names.iter().map(|name| zip::Entry::new(name, &fs::read(dir.path().join(name)).unwrap())).collect();
    fs::write(dir.path().join("birds.zip"), zip::written(&entries)).unwrap();
    fs::write(dir.path().join("notes.zip"), zip::written(&[zip::Entry::new("read me.txt", b"x")])).unwrap();
    // Deeper than the folders of the splits nobody looks for archives, here and at a URL.
    fs::write(dir.path().join("train/a/more.zip"), zip::written(&[zip::Entry::new("2.jpg", b"x")])).unwrap();
    let url = format!("file://{}", dir.path().display());
    for place in [dir.path(), Path::new(&url)] {
        assert_eq!(content(place, &storage(out.path())), expect);
    }
    let list = dir.path().join("list.txt");
    fs::write(&list, format!("0;{url}/train/a/4.jpg\n")).unwrap();
    // A list of files needs no archive, not even one that is broken.
    fs::write(dir.path().join("train/broken.zip"), "x").unwrap();
    let list = ImageList::from_list(&list, "x", &["a".into()], &storage(out.path())).unwrap();
    assert_eq!(list.entries.len(), 1);
}

#[test]
fn archives_in_one_folder_lie_in_the_splits_that_they_are_called_after() {
    let (dir, out) = (data(), tempfile::tempdir().unwrap());
    let expect = content(dir.path(), &Storage::default());
    let flat = out.path().join("flat");
    fs::create_dir(&flat).unwrap();
    for split in ["train", "test"] {
        let folder = dir.path().join(split);
        let names = files_in(&folder).into_iter().filter(|name| name.ends_with(".jpg"));
        let entry = |name: String| zip::Entry::new(&name, &fs::read(folder.join(&name)).unwrap());
        fs::write(flat.join(format!("{split}.zip")), zip::written(&names.map(entry).collect::<Vec<_>>())).unwrap();
    }
    assert_eq!(content(&flat, &storage(out.path())), expect);
    // One that holds the folder of its split needs no other.
    let whole = zip::Entry::new("train/a/1.jpg", b"x");
    fs::write(flat.join("train.zip"), zip::written(&[whole])).unwrap();
    let folder = Folder::open(&flat, &storage(out.path())).unwrap();
    assert_eq!(ImageList::train(folder).unwrap().names(), ["1.jpg"]);

    let shards = out.path().join("shards");
    fs::create_dir(&shards).unwrap();
    for (name, label) in [("train-0.tar", "1"), ("train-1.tar", "0"), ("val-0.tar", "1")] {
        fs::write(shards.join(name), webdataset(&[("a.jpg", name), ("a.cls", label)])).unwrap();
    }
    let folder = Folder::open(&shards, &storage(out.path())).unwrap();
    let train = ImageList::train(folder.clone()).unwrap();
    assert_eq!(train.names(), ["train-0.tar/a.jpg", "train-1.tar/a.jpg"]);
    assert_eq!(ImageList::val(folder.clone(), &train.classes).unwrap().entries[0].class, 1);
    let error = ImageList::from_folder(folder, "x", None).unwrap_err().to_string();
    assert!(error.contains("it holds the splits train, val") && error.contains("shards/train"), "{error}");
    let named = Folder::open(&shards.join("train-{0..1}.tar"), &storage(out.path())).unwrap();
    assert_eq!(ImageList::from_folder(named, "x", None).unwrap().names(), train.names());

    // Compressed ones would be missed, wherever they are.
    let error = Folder::open(&shards.join("x.tar.gz"), &storage(out.path())).unwrap_err().to_string();
    assert!(error.contains("x.tar.gz: compressed archives are not read"), "{error}");
    fs::write(shards.join("train-2.tar.gz"), "x").unwrap();
    let error = Folder::open(&shards, &storage(out.path())).unwrap_err().to_string();
    assert!(error.contains("train-2.tar.gz: compressed archives are not read"), "{error}");
    let (wrapped, alone) = (out.path().join("wrapped"), out.path().join("alone"));
    for (folder, name, content) in [
        (&wrapped, "w.zip", zip::written(&[zip::Entry::new("dataset/train/a/1.jpg", b"x")])),
        (&alone, "train.tgz", b"x".to_vec()),
    ] {
        fs::create_dir(folder).unwrap();
        fs::write(folder.join(name), content).unwrap();
    }
    let error = ImageList::train(Folder::open(&wrapped, &storage(out.path())).unwrap()).unwrap_err().to_string();
    assert!(error.contains("no folder `train` in it, but dataset") && error.contains("ARCHIVE/DIR"), "{error}");
    let inside = Folder::open(&wrapped.join("w.zip/dataset"), &storage(out.path())).unwrap();
    assert_eq!(ImageList::train(inside).unwrap().entries.len(), 1);
    let error = ImageList::train(alone.as_path()).unwrap_err().to_string();
    assert!(error.contains("train.tgz: compressed archives are not read"), "{error}");
}

#[test]
fn what_cannot_be_packed_is_refused_and_nothing_is_lost() {
    let (dir, out) = (data(), tempfile::tempdir().unwrap());
    // Before and behind the splits, in the order of names.
    for name in ["annotations.txt", "unlabeled/9.jpg", "words.txt"] {
        fs::create_dir_all(dir.path().join(name).parent().unwrap()).unwrap();
        fs::write(dir.path().join(name), name).unwrap();
    }
    let packed = pack(dir.path(), &out.path().join("1"), 1 << 30, 3).unwrap();
    assert_eq!((packed.files, packed.archives), (50, 3));
    let names = |place: &Path| -> Vec<String> {
        let source = LocalFiles::new(place);
        let listed = source.list("", &Stop::default()).unwrap().into_iter().filter(|file| file.key.ends_with(".tar"));
        let in_archive = |object: feedline::read::Object| -> Vec<String> {
            let folder = object.key.rsplit_once('/').map_or(String::new(), |(folder, _)| format!("{folder}/"));
            let members = index(&source, &object).unwrap();
            members.members.into_iter().map(|member| format!("{folder}{}", member.name)).collect()
        };
        let mut names: Vec<String> = listed.flat_map(in_archive).collect();
        names.sort();
        names
    };
    let files: Vec<String> = files_in(dir.path()).into_iter().filter(|name| !name.contains("/.")).collect();
    assert_eq!(names(&out.path().join("1")), files);
    for (name, words) in [("train/a/1.cls", "label of a picture"), ("old.tar", "an archive in another")] {
        fs::write(dir.path().join(name), "x").unwrap();
        let error = pack(dir.path(), &out.path().join("2"), 1 << 30, 3).unwrap_err().to_string();
        assert!(error.contains(words) && error.contains(name), "{error}");
        fs::remove_file(dir.path().join(name)).unwrap();
    }
    let error = pack(dir.path(), Path::new("s3://bucket/x"), 1 << 30, 3).unwrap_err().to_string();
    assert!(error.contains("no folder of this machine"), "{error}");
    // A picture of a list may be called anything.
    fs::rename(dir.path().join("train/a/4.jpg"), dir.path().join("train/a/4.JFIF")).unwrap();
    let file = dir.path().join("list.txt");
    fs::write(&file, "0;train/a/4.JFIF\n").unwrap();
    let list = ImageList::from_list(&file, "x", &["a".into()], &Storage::default()).unwrap();
    let options = PackOptions { shard_bytes: 1, threads: 1, progress: &|_, _| () };
    pack_list(&list, &out.path().join("3"), options).unwrap();
    assert_eq!(names(&out.path().join("3")), ["00000000.jpg"]);
    // What fails leaves nothing half done.
    fs::remove_file(dir.path().join("train/a/4.JFIF")).unwrap();
    fs::create_dir(out.path().join("4")).unwrap();
    pack_list(&list, &out.path().join("4"), options).unwrap_err();
    assert!(
        fs::read_dir(out.path().join("4")).is_ok_and(|mut left| left.next().is_none())
            || !out.path().join("4").exists()
    );
}

#[test]
fn of_several_archives_that_are_not_there_the_first_is_named() {
    let out = tempfile::tempdir().unwrap();
    let url = PathBuf::from(format!("file://{}/{{0..9}}.tar", out.path().display()));
    for _ in 0..50 {
        let error = Folder::open(&url, &storage(out.path())).unwrap_err().to_string();
        assert!(error.contains("/0.tar"), "{error}");
    }
}

#[test]
fn a_pack_that_was_not_finished_is_no_data_set() {
    let (dir, out) = (data(), tempfile::tempdir().unwrap());
    let shards = out.path().join("shards");
    pack(dir.path(), &shards, 1 << 30, 2).unwrap();
    assert!(!files_in(&shards).iter().any(|name| name.ends_with("pack.incomplete")), "{:?}", files_in(&shards));
    let refused = |what: feedline::Result<usize>| {
        let error = what.unwrap_err().to_string();
        assert!(error.contains("has not finished this folder") && error.contains("pack.incomplete"), "{error}");
    };
    let open = |path: &Path| Folder::open(path, &storage(out.path())).map(|folder| folder.files());
    let url = |path: &Path| PathBuf::from(format!("file://{}", path.display()));
    for split in ["", "train"] {
        let folder = shards.join(split);
        assert!(open(&shards).unwrap() > 0);
        fs::write(folder.join("pack.incomplete"), "").unwrap();
        refused(open(&shards));
        refused(open(&url(&shards)));
        refused(index_beside(&shards, None, &storage(out.path()), &|_, _| ()).map(|(archives, ..)| archives));
        if split == "train" {
            refused(open(&folder));
            refused(open(&url(&folder)));
            refused(open(&folder.join("000000.tar")));
            refused(open(&url(&folder.join("{000000..000000}.tar"))));
            let named = ["000000.tar".to_owned()];
            refused(
                index_beside(&folder, Some(&named), &storage(out.path()), &|_, _| ()).map(|(archives, ..)| archives),
            );
        }
        fs::remove_file(folder.join("pack.incomplete")).unwrap();
    }
    // Killed before the first archive had its name.
    let early = out.path().join("early");
    fs::create_dir_all(early.join("train")).unwrap();
    fs::write(early.join("train/pack.incomplete"), "").unwrap();
    refused(open(&early));
    // Beside other data a folder that nobody looks into may be anything.
    fs::create_dir_all(shards.join("old/pack")).unwrap();
    fs::write(shards.join("old/pack/pack.incomplete"), "").unwrap();
    assert!(open(&shards).unwrap() > 0);
    let error = pack(dir.path(), &early.join("train"), 1 << 30, 1).unwrap_err().to_string();
    assert!(error.contains("a pack that is not finished"), "{error}");
}

#[test]
fn a_zip_is_the_folder_it_was_made_of() {
    let (dir, out) = (data(), tempfile::tempdir().unwrap());
    let expect = content(dir.path(), &Storage::default());
    let names = files_in(dir.path());
    let entries = names.iter().enumerate().map(|(i, name)| zip::Entry {
        is_deflated: i % 3 != 0,
        extra: vec![7; i % 5],
        ..zip::Entry::new(name, &fs::read(dir.path().join(name)).unwrap())
    });
    let mac = zip::Entry::new("__MACOSX/train/a/._4.jpg", b"fork");
    let mut entries: Vec<zip::Entry> = entries.chain([zip::Entry::new("train/", b""), mac]).collect();
    let path = out.path().join("birds.zip");
    fs::write(&path, zip::written(&entries)).unwrap();
    assert_eq!(content(&path, &storage(out.path())), expect, "named");
    assert_eq!(content(out.path(), &storage(out.path())), expect, "found");
    // Each split in an archive of its own, and those of a pattern.
    let parts = out.path().join("parts");
    fs::create_dir_all(parts.join("test")).unwrap();
    entries.reverse();
    for number in 8..=10 {
        let part = entries.iter().skip(number - 8).step_by(3).cloned().collect::<Vec<_>>();
        fs::write(parts.join(format!("part-{number:02}.zip")), zip::written(&part)).unwrap();
    }
    assert_eq!(content(&parts.join("part-{08..10}.zip"), &storage(out.path())), expect);
    let inside = Folder::open(&parts.join("part-{08..10}.zip/train"), &storage(out.path())).unwrap();
    assert_eq!(ImageList::from_folder(inside, "x", None).unwrap().entries.len(), 40);
    let error = Folder::open(&parts.join("part-{08..11}.zip"), &storage(out.path())).unwrap_err().to_string();
    assert!(error.contains("part-11.zip"), "{error}");
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

#[test]
fn a_member_that_was_damaged_is_an_error_that_names_it() {
    let out = tempfile::tempdir().unwrap();
    let content = vec![5; 3000];
    let entries = [true, false].map(|is_deflated| {
        let name = format!("train/a/{is_deflated}.jpg");
        zip::Entry { is_deflated, ..zip::Entry::new(&name, &content) }
    });
    let good = zip::written(&entries);
    let path = out.path().join("x.zip");
    let mut told = std::collections::BTreeSet::new();
    // Any byte up to the directory; of a header only the lengths count, the rest stands in the directory too.
    for at in (0..200).chain((200..3100).step_by(97)) {
        let mut bytes = good.clone();
        bytes[at] ^= 0x11;
        fs::write(&path, bytes).unwrap();
        let list = ImageList::train(Folder::open(&path, &storage(&out.path().join(at.to_string()))).unwrap()).unwrap();
        for sample in 0..2 {
            let mut read = Vec::new();
            match list.stored.as_ref().unwrap().read_into(sample, &Stop::default(), &mut read) {
                Ok(()) => assert_eq!(read, content, "byte {at}"),
                Err(error) => {
                    assert!(error.location.ends_with("x.zip"), "{error:?}");
                    told.insert(error.problem.split(':').next().unwrap_or_default().to_owned());
                }
            }
        }
    }
    assert!(told.len() >= 4, "{told:?}");
}

#[test]
fn hostile_zips_are_refused_in_words() {
    let refused = |bytes: &[u8], words: &[&str]| {
        let text = indexed_as("x.zip", bytes).unwrap_err();
        assert!(words.iter().all(|word| text.contains(word)), "{words:?} in: {text}");
    };
    let one = |entry: zip::Entry| zip::written(&[entry]);
    let new = || zip::Entry::new("a.jpg", &[3; 2000]);
    for name in ["../x.jpg", "a/../../x.jpg", "/etc/passwd", "..", "a\nb"] {
        refused(&one(zip::Entry::new(name, b"x")), &["leads out of its folder"]);
    }
    refused(&one(zip::Entry::new("a\\..\\b.jpg", b"x")), &["has a backslash"]);
    refused(&one(zip::Entry { mode: 0o120_777, ..new() }), &["a.jpg is a link"]);
    refused(&one(zip::Entry { flags: 1, ..new() }), &["a.jpg is encrypted"]);
    refused(&one(zip::Entry { method: Some(93), ..new() }), &["a.jpg is compressed by", "only Deflate"]);
    refused(&one(zip::Entry { claims: Some(1 << 31), ..new() }), &["though it is not compressed"]);
    let deflated = zip::Entry { is_deflated: true, ..new() };
    refused(&one(zip::Entry { claims: Some(1 << 31), ..deflated.clone() }), &["claims to be", "which cannot be"]);
    let bomb = zip::Entry { is_deflated: true, ..zip::Entry::new("bomb.jpg", &vec![0; 4 << 20]) };
    refused(&one(zip::Entry { claims: Some((1 << 30) + 1), packed_claims: Some(2 << 20), ..bomb }), &["not unpacked"]);
    refused(&one(zip::Entry { packed_claims: Some(5000), claims: Some(5000), ..new() }), &["claims too many bytes"]);
    // Two members of the same bytes.
    refused(&zip::written(&[new(), zip::Entry { at: Some(0), ..zip::Entry::new("b.jpg", &[3; 2000]) }]), &["overlaps"]);
    refused(&zip::written(&[new(), new()]), &["two members of the name a.jpg"]);
    refused(&zip::written(&[]), &["no file in it"]);
    for none in [&b""[..], b"PK", &[7; 4096]] {
        refused(none, &["it is no zip archive"]);
    }
    let whole = zip::written(&[new(), deflated]);
    for end in 0..whole.len() {
        assert!(indexed_as("x.zip", &whole[..end]).is_err(), "cut at {end}");
    }
    // Whatever is changed, it is an answer and no panic, and no name leads out.
    for at in 0..whole.len() {
        for value in [0, 0x2f, 0xff] {
            let mut bytes = whole.clone();
            bytes[at] = value;
            if let Ok(members) = indexed_as("x.zip", &bytes) {
                assert!(members.iter().all(|member| !member.name.starts_with(['/', '.'])), "{members:?}");
            }
        }
    }
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

#[test]
fn labels_of_webdataset_are_those_of_the_pictures() {
    let out = tempfile::tempdir().unwrap();
    for (shard, samples) in [
        ("train/0.tar", &[("b.jpg", "B"), ("b.cls", "2"), ("b.json", "{}"), ("a.png", "A"), ("a.cls", "0\n")][..]),
        ("train/1.tar", &[("x.1/a.seg.JPEG", "A2"), ("x.1/a.cls", " 1 ")]),
        ("val/0.tar", &[("a.cls", "2"), ("a.jpg", "V")]),
    ] {
        fs::create_dir_all(out.path().join(shard).parent().unwrap()).unwrap();
        fs::write(out.path().join(shard), webdataset(samples)).unwrap();
    }
    let expect =
        [(0, "0.tar/a.png", "A"), (2, "0.tar/b.jpg", "B"), (1, "1.tar/x.1/a.seg.JPEG", "A2"), (2, "a.jpg", "V")];
    let expect = expect.map(|(class, name, content)| (class, name.to_owned(), content.as_bytes().to_vec()));
    for _ in 0..2 {
        // The second time from the indexes that were kept.
        assert_eq!(content(out.path(), &storage(out.path())), expect);
    }
    let folder = Folder::open(out.path(), &storage(out.path())).unwrap();
    assert_eq!(ImageList::train(folder.clone()).unwrap().classes, ["0", "1", "2"]);
    // Names of classes beside them, found or named.
    fs::write(out.path().join("train/classes.txt"), "x\ny\nz\nnone\n").unwrap();
    for place in ["train", "train/{0..1}.tar"] {
        let folder = Folder::open(&out.path().join(place), &storage(out.path())).unwrap();
        let list = ImageList::from_folder(folder, "x", None).unwrap();
        assert_eq!((list.classes.len(), list.entries.len()), (4, 3), "{place}");
    }
    fs::remove_file(out.path().join("train/classes.txt")).unwrap();
    let error = ImageList::val(folder, &["x".into(), "y".into()]).unwrap_err().to_string();
    assert!(error.contains("0.tar/a.jpg: its label 2 is outside the 2 classes"), "{error}");

    fs::create_dir_all(out.path().join("train/cat")).unwrap();
    fs::write(out.path().join("train/cat/1.jpg"), "x").unwrap();
    let error = Folder::open(out.path(), &storage(out.path())).unwrap_err().to_string();
    assert!(error.contains("though other data does: train/cat/1.jpg"), "{error}");
    fs::remove_dir_all(out.path().join("train/cat")).unwrap();
    fs::write(out.path().join("train/2.zip"), zip::written(&[zip::Entry::new("cat/1.jpg", b"x")])).unwrap();
    let mixed = Folder::open(out.path(), &storage(out.path())).unwrap();
    let error = ImageList::train(mixed).unwrap_err().to_string();
    assert!(error.contains("train/cat/1.jpg: this picture has no label") && error.contains("apart"), "{error}");

    let refused = |samples: &[(&str, &str)], words: &str| {
        let text = indexed_as("x.tar", &webdataset(samples)).unwrap_err();
        assert!(text.contains(words), "{words} in: {text}");
    };
    refused(&[("a.jpg", ""), ("a.cls", "cat")], "a.cls is no label");
    refused(&[("a.jpg", ""), ("a.cls", "-1")], "a.cls is no label");
    refused(&[("a.jpg", ""), ("a.cls", &"1".repeat(40))], "a.cls is no label");
    refused(&[("a.jpg", ""), ("a.cls", "1"), ("b.jpg", "")], "the picture b.jpg has no label");
    refused(&[("a.jpg", ""), ("a.cls", "1"), ("b.cls", "1")], "the label b.cls has no picture");
    refused(&[("a.jpg", ""), ("a.cls", "1"), ("a.png", "")], "a has two pictures, the second is a.png");
}

/// An archive that a usual tool has written.
fn written(name: &str) -> Vec<u8> {
    fs::read(Path::new(env!("CARGO_MANIFEST_DIR")).join("../../testdata/archives").join(name)).unwrap()
}

/// The labels of the archive `name` in a folder of its own, and what is said of it: twice, the second time from the index
/// that was kept.
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

#[test]
fn the_label_is_that_of_the_exact_extension() {
    let bytes = written("labels.tar");
    let (found, said) = labels("x.tar", &bytes);
    assert_eq!(found, [0, 1, 2].map(|label| (label, format!("00{label}.jpg"))));
    assert!(
        said.contains("3 *.fine.cls (x.tar/000.fine.cls, x.tar/001.fine.cls, x.tar/002.fine.cls), 3 *.json"),
        "{said}"
    );
    // In any order, and in capital letters as WebDataset has it.
    let samples = [
        ("a.jpg", "A"),
        ("a.CLS", "1"),
        ("a.fine.cls", "7"),
        ("b.fine.cls", "no number"),
        ("b.jpg", "B"),
        ("b.cls", "0"),
    ];
    assert_eq!(labels("x.tar", &webdataset(&samples)).0, [(1, "a.jpg".into()), (0, "b.jpg".into())]);
    let text = indexed_as("x.tar", &webdataset(&[("a.jpg", ""), ("a.cls", "1"), ("a.Cls", "2")])).unwrap_err();
    assert!(text.contains("the sample a has two labels, the second is a.Cls"), "{text}");
    // A label with a byte order mark.
    assert_eq!(labels("x.tar", &webdataset(&[("a.jpg", ""), ("a.cls", "\u{feff}3\r\n")])).0, [(3, "a.jpg".into())]);
}

#[test]
fn an_index_of_labels_that_an_older_version_kept_is_made_anew() {
    let out = tempfile::tempdir().unwrap();
    let (path, beside) = (out.path().join("x.tar"), out.path().join("x.tar.index"));
    let open = |name: &str| {
        let folder = Folder::open(&path, &storage(&out.path().join(name))).unwrap();
        ImageList::from_folder(folder, "x", None).unwrap().entries[0].class
    };
    fs::write(&path, written("labels.tar")).unwrap();
    let source = LocalFiles::new(out.path());
    let object = source.head("x.tar", &Stop::default()).unwrap();
    let text = to_text(&index(&source, &object).unwrap(), object.size_bytes);
    let wrong = text.replace("\t0\t000.jpg", "\t90\t000.jpg");
    assert_ne!(wrong, text);
    fs::write(&beside, &wrong).unwrap();
    assert_eq!(open("1"), 90, "an index is believed");
    let old: String =
        wrong.lines().filter(|line| !line.starts_with(['-', '!'])).map(|line| format!("{line}\n")).collect();
    fs::write(&beside, old.replace("feedline index 3", "feedline index 2")).unwrap();
    assert_eq!(open("2"), 0, "but not one of before");
    // Of archives without labels an old one stays good.
    let (dir, shards) = (data(), out.path().join("shards"));
    pack(dir.path(), &shards, 1 << 30, 1).unwrap();
    let beside = shards.join("train/000000.tar.index");
    let text = fs::read_to_string(&beside).unwrap();
    assert!(text.starts_with("feedline index 3"), "{text}");
    fs::write(&beside, text.replacen("feedline index 3", "feedline index 2", 1)).unwrap();
    let kept = storage(&out.path().join("3"));
    assert_eq!(content(&shards, &kept), content(dir.path(), &Storage::default()));
    assert!(!kept.listings_dir.exists(), "nothing had to be indexed");
}

#[test]
fn what_macos_adds_to_archives_is_passed_over() {
    let (found, said) = labels("x.tar", &written("mac.tar"));
    assert_eq!((found, &*said), (vec![(0, "000.jpg".into()), (1, "001.jpg".into())], ""));
    let out = tempfile::tempdir().unwrap();
    fs::write(out.path().join("mac.zip"), written("mac.zip")).unwrap();
    let list = ImageList::train(Folder::open(out.path(), &storage(out.path())).unwrap()).unwrap();
    assert_eq!((list.names(), list.warnings), (vec!["a/0.jpg".to_owned(), "b/1.jpg".into()], Vec::new()));
    assert_eq!(list.classes, ["a", "b"]);
}

#[test]
fn sparse_members_of_every_kind_are_refused_by_name() {
    for name in ["sparse_0.0.tar", "sparse_0.1.tar", "sparse_1.0.tar", "sparse_old.tar"] {
        let text = indexed_as("x.tar", &written(name)).unwrap_err();
        assert!(text.contains("the member a/holes.jpg is a sparse file"), "{name}: {text}");
    }
}

#[test]
fn an_archive_that_was_cut_or_joined_is_told_of() {
    let whole = written("labels.tar");
    let (expect, said) = labels("x.tar", &whole);
    let end = whole.len() - whole.iter().rev().take_while(|byte| **byte == 0).count();
    let end = end.next_multiple_of(512);
    for (len, is_cut) in [(end, true), (end + 512, true), (end + 1024, false), (end + 1536, false)] {
        let (found, words) = labels("x.tar", &whole[..len]);
        assert_eq!(found, expect);
        let more = words.lines().nth(said.lines().count()).unwrap_or_default();
        assert_eq!(
            more.contains("archives without an end mark, as those are that were cut: 1 (x.tar)"),
            is_cut,
            "{more}"
        );
        assert!(is_cut || more.is_empty());
    }
    // Within the last member's padding, too.
    assert!(labels("x.tar", &whole[..end - 200]).1.contains("without an end mark"));
    let joined = [&whole[..], &written("mac.tar")].concat();
    let (found, words) = labels("x.tar", &joined);
    assert_eq!(found, expect);
    let expect = format!(
        "go on behind their end mark, which is not read (were several joined into one?): 1 (x.tar at byte {}",
        whole.len()
    );
    assert!(words.contains(&expect), "{words}");
    // Each is told of once, wherever it lies.
    let out = tempfile::tempdir().unwrap();
    fs::create_dir(out.path().join("train")).unwrap();
    for (name, label) in [("train/0.tar", "0"), ("train/1.tar", "1")] {
        let bytes = webdataset(&[("a.jpg", name), ("a.cls", label)]);
        fs::write(out.path().join(name), &bytes[..2048]).unwrap();
    }
    let list = ImageList::train(Folder::open(out.path(), &storage(out.path())).unwrap()).unwrap();
    assert!(
        matches!(&list.warnings[..], [one] if one.ends_with("were cut: 2 (train/0.tar, train/1.tar)")),
        "{:?}",
        list.warnings
    );
}

#[test]
fn names_with_a_nul_byte_are_refused_in_every_archive() {
    let text = indexed_as("x.tar", &written("nul.tar")).unwrap_err();
    assert!(text.contains(r"a/1.jpg\0.txt") && text.contains("NUL byte"), "{text}");
    let text = indexed_as("x.zip", &zip::written(&[zip::Entry::new("a\0b.jpg", b"x")])).unwrap_err();
    assert!(text.contains("NUL byte"), "{text}");
    let out = tempfile::tempdir().unwrap();
    fs::write(out.path().join("x.zip"), zip::written(&[zip::Entry::new("a/b.jpg", b"x")])).unwrap();
    feedline::read::archive::index_beside(out.path(), None, &storage(out.path()), &|_, _| ()).unwrap();
    let beside = out.path().join("x.zip.index");
    fs::write(&beside, fs::read_to_string(&beside).unwrap().replace("a/b.jpg", "a/b\0.jpg")).unwrap();
    let error = Folder::open(out.path(), &storage(out.path())).unwrap_err().to_string();
    assert!(error.contains("this index is damaged"), "{error}");
}

#[test]
fn what_is_no_regular_file_is_no_archive_and_no_sample() {
    let out = tempfile::tempdir().unwrap();
    fs::write(out.path().join("train.zip"), zip::written(&[zip::Entry::new("train/a/1.jpg", b"x")])).unwrap();
    let mkfifo = |name: &str| {
        assert!(std::process::Command::new("mkfifo").arg(out.path().join(name)).status().unwrap().success());
    };
    mkfifo("control");
    assert_eq!(ImageList::train(Folder::open(out.path(), &storage(out.path())).unwrap()).unwrap().entries.len(), 1);
    mkfifo("x.tar");
    let error = Folder::open(out.path(), &storage(out.path())).unwrap_err().to_string();
    assert!(error.contains("x.tar") && error.contains("it is a FIFO, and no regular file"), "{error}");
    let error = Folder::open(&out.path().join("x.tar"), &storage(out.path())).unwrap_err().to_string();
    assert!(error.contains("it is a FIFO, and no regular file"), "{error}");
}

/// A shard of MosaicML's format with the columns `image`: bytes of any kind, `label`: int64, `weight`: f64.
fn mds(samples: &[(&[u8], i64)], image: &str) -> Vec<u8> {
    let config = format!(
        r#"{{"column_encodings": ["{image}", "int", "float64"], "column_names": ["image", "label", "weight"],
        "column_sizes": [null, 8, 8], "compression": null, "format": "mds", "hashes": [], "version": 2}}"#
    );
    let samples: Vec<Vec<u8>> = samples
        .iter()
        .map(|(image, label)| {
            [&(image.len() as u32).to_le_bytes()[..], image, &label.to_le_bytes(), &1f64.to_le_bytes()].concat()
        })
        .collect();
    let mut place = (4 + 4 * (samples.len() + 1) + config.len()) as u32;
    let mut shard = (samples.len() as u32).to_le_bytes().to_vec();
    shard.extend(place.to_le_bytes());
    for sample in &samples {
        place += sample.len() as u32;
        shard.extend(place.to_le_bytes());
    }
    [shard, config.into_bytes(), samples.concat()].concat()
}

#[test]
fn shards_of_mosaicml_are_read_in_place() {
    let out = tempfile::tempdir().unwrap();
    for (shard, samples) in [
        ("train/shard.00000.mds", &[(&b"zero"[..], 3), (b"", 0)][..]),
        ("train/shard.00001.mds", &[(b"two", 1)]),
        ("test/shard.00000.mds", &[(b"three", 2)]),
    ] {
        fs::create_dir_all(out.path().join(shard).parent().unwrap()).unwrap();
        fs::write(out.path().join(shard), mds(samples, "jpeg")).unwrap();
        fs::write(out.path().join(shard).with_file_name("index.json"), "{}").unwrap();
    }
    let expect = [
        (3, "shard.00000.mds/0000000", "zero"),
        (0, "shard.00000.mds/0000001", ""),
        (1, "shard.00001.mds/0000000", "two"),
        (2, "0000000", "three"),
    ];
    let expect = expect.map(|(class, name, content)| (class, name.to_owned(), content.as_bytes().to_vec()));
    assert_eq!(content(out.path(), &storage(out.path())), expect);

    let compressed = tempfile::tempdir().unwrap();
    fs::write(compressed.path().join("shard.00000.mds.zstd"), "x").unwrap();
    let error = ImageList::from_folder(compressed.path(), "x", None).unwrap_err().to_string();
    assert!(error.contains("shard.00000.mds.zstd: compressed archives are not read"), "{error}");

    let refused = |bytes: &[u8], words: &[&str]| {
        let text = indexed_as("x.mds", bytes).unwrap_err();
        assert!(words.iter().all(|word| text.contains(word)), "{words:?} in: {text}");
    };
    for kind in ["pil", "ndarray", "int"] {
        refused(&mds(&[(b"x", 1)], kind), &["its columns are", &format!("image: {kind}")]);
    }
    for label in [-1, i64::MAX] {
        refused(&mds(&[(b"x", label)], "bytes"), &["sample 0: its label is negative or too large"]);
    }
    refused(&[], &["it is no MDS shard"]);
    refused(&u32::MAX.to_le_bytes(), &["it is no MDS shard: 4294967295 samples"]);
    refused(&[7; 4096], &["it is no MDS shard"]);
    refused(&mds(&[], "jpeg"), &["no file in it"]);
    let whole = mds(&[(b"one", 1), (b"two", 2), (b"three", 3)], "png");
    let members = indexed_as("x.mds", &whole).unwrap();
    for end in 0..whole.len() {
        assert!(indexed_as("x.mds", &whole[..end]).is_err(), "cut at {end}");
    }
    for at in 0..whole.len() {
        for value in [0, 0x80, 0xff] {
            let mut bytes = whole.clone();
            bytes[at] = value;
            if let Ok(some) = indexed_as("x.mds", &bytes) {
                assert_eq!(some.len(), members.len(), "byte {at}");
            }
        }
    }
}

/// Zip archives written by hand, since some of them lie.
mod zip {
    use zlib_rs::{Deflate, DeflateFlush};

    #[derive(Clone)]
    pub struct Entry {
        pub name: String,
        pub content: Vec<u8>,
        pub is_deflated: bool,
        pub extra: Vec<u8>,
        pub mode: u32,
        pub flags: u16,
        pub method: Option<u16>,
        pub claims: Option<u32>,
        pub packed_claims: Option<u32>,
        pub at: Option<u32>,
    }

    impl Entry {
        pub fn new(name: &str, content: &[u8]) -> Entry {
            Entry {
                name: name.into(),
                content: content.into(),
                is_deflated: false,
                extra: Vec::new(),
                mode: 0o100_644,
                flags: 0,
                method: None,
                claims: None,
                packed_claims: None,
                at: None,
            }
        }
    }

    /// As PKWARE's APPNOTE 6.3.10 says.
    pub fn written(entries: &[Entry]) -> Vec<u8> {
        let (mut bytes, mut directory) = (Vec::new(), Vec::new());
        for entry in entries {
            let mut packed = entry.content.clone();
            if entry.is_deflated {
                packed = vec![0; entry.content.len() + 100];
                let mut deflate = Deflate::new(6, false, 15);
                deflate.compress(&entry.content, &mut packed, DeflateFlush::Finish).unwrap();
                packed.truncate(deflate.total_out() as usize);
            }
            let method = entry.method.unwrap_or(if entry.is_deflated { 8 } else { 0 });
            let at = entry.at.unwrap_or(bytes.len() as u32);
            let (crc, name) = (crc32fast::hash(&entry.content), entry.name.as_bytes());
            let sizes = [
                entry.packed_claims.unwrap_or(packed.len() as u32),
                entry.claims.unwrap_or(entry.content.len() as u32),
            ];
            let common = |into: &mut Vec<u8>, extra: usize| {
                for word in [20, entry.flags, method, 0, 0x5921] {
                    into.extend(word.to_le_bytes());
                }
                for word in [crc, sizes[0], sizes[1]] {
                    into.extend(word.to_le_bytes());
                }
                into.extend((name.len() as u16).to_le_bytes());
                into.extend((extra as u16).to_le_bytes());
            };
            bytes.extend(b"PK\x03\x04");
            common(&mut bytes, entry.extra.len());
            bytes.extend([name, &entry.extra, &packed].concat());
            directory.extend(b"PK\x01\x02\x14\x03"); // made by Unix
            common(&mut directory, 0);
            directory.extend([0; 6]); // no comment, first disk, binary
            directory.extend((entry.mode << 16).to_le_bytes());
            directory.extend(at.to_le_bytes());
            directory.extend(name);
        }
        let start = bytes.len() as u32;
        bytes.extend(&directory);
        bytes.extend(b"PK\x05\x06\0\0\0\0");
        for _ in 0..2 {
            bytes.extend((entries.len() as u16).to_le_bytes());
        }
        bytes.extend((directory.len() as u32).to_le_bytes());
        bytes.extend(start.to_le_bytes());
        bytes.extend([0; 2]);
        bytes
    }
}

/// The index of an archive with this name and these bytes, or what is said.
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

/// Names and contents of a tar archive with these bytes, or what is said.
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

/// A header whose name is written as it is, whatever it is.
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

#[test]
fn ordinary_archives_of_all_kinds_are_understood() {
    let long = format!("{}/1.jpg", "folder".repeat(30));
    let made = archive(|builder| {
        builder.append(&header("./", 0, EntryType::Directory), &[][..]).unwrap();
        builder.append(&header("./b/2.jpg", 3, EntryType::Regular), &b"two"[..]).unwrap();
        builder.append_data(&mut header("", 3, EntryType::Regular), &long, &b"one"[..]).unwrap();
        builder.append_pax_extensions([("path", "päx/3.jpg".as_bytes())]).unwrap();
        builder.append(&header("short", 5, EntryType::Regular), &b"three"[..]).unwrap();
        builder.append(&header("empty", 0, EntryType::Regular), &[][..]).unwrap();
    });
    let expect = [("b/2.jpg", "two"), ("empty", ""), (&long, "one"), ("päx/3.jpg", "three")];
    let expect = expect.map(|(name, content)| (name.to_owned(), content.as_bytes().to_vec()));
    assert_eq!(indexed(&made).unwrap(), expect);
    // Some writers leave out the two empty blocks at the end.
    let end = made.iter().rposition(|byte| *byte != 0).unwrap() / 512 * 512 + 512;
    assert_eq!(indexed(&made[..end]).unwrap(), expect);
}

#[test]
fn hostile_archives_are_refused_in_words() {
    let refused = |bytes: &[u8], words: &[&str]| {
        let text = indexed(bytes).unwrap_err();
        assert!(words.iter().all(|word| text.contains(word)), "{words:?} in: {text}");
    };
    for name in ["../x.jpg", "a/../../x.jpg", "/etc/passwd", "..", "."] {
        refused(&file(name, b"x"), &["leads out of its folder", name]);
    }
    refused(&file("a\nb.jpg", b"x"), &["leads out of its folder, or is none"]);
    for (kind, words) in [
        (EntryType::Symlink, "is a link"),
        (EntryType::Link, "is a link"),
        (EntryType::Char, "is no file"),
        (EntryType::Fifo, "is no file"),
        (EntryType::GNUSparse, "Write the archive again"),
    ] {
        let mut link = header("a.jpg", 0, kind);
        link.set_link_name("/etc/passwd").unwrap();
        link.set_cksum();
        refused(&archive(|builder| builder.append(&link, &[][..]).unwrap()), &[words]);
    }
    // Sizes that are lies: beyond the end, and beyond all numbers.
    for size in [1 << 20, 1 << 40, u64::MAX / 2, u64::MAX] {
        let mut bytes = file("a.jpg", b"x");
        let mut lying = header("a.jpg", 1, EntryType::Regular);
        lying.set_size(size);
        lying.set_cksum();
        bytes[..512].copy_from_slice(lying.as_bytes());
        assert!(indexed(&bytes).is_err(), "{size}");
    }
    let twice = archive(|builder| {
        for content in ["one", "two"] {
            builder.append(&header("a.jpg", 3, EntryType::Regular), content.as_bytes()).unwrap();
        }
    });
    refused(&twice, &["two members of the name a.jpg"]);
    let mut latin1 = header("caf.jpg", 0, EntryType::Regular);
    latin1.as_gnu_mut().unwrap().name[3] = 0xe9;
    latin1.set_cksum();
    refused(&archive(|builder| builder.append(&latin1, &[][..]).unwrap()), &["is not UTF-8", "caf"]);
    refused(&[], &["no file in it"]);
    refused(&[0; 1024], &["no file in it"]);
    refused(b"no archive at all", &["it is"]);
    refused(&vec![7; 4096], &["no tar archive"]);

    // Cut at any place, it is refused, or what is left of it is whole.
    let whole = archive(|builder| {
        for i in 0..6u8 {
            builder
                .append_data(
                    &mut header("", 700, EntryType::Regular),
                    format!("{i}{}.jpg", "x".repeat(110)),
                    &[i; 700][..],
                )
                .unwrap();
        }
    });
    let members = indexed(&whole).unwrap();
    for end in (0..whole.len()).step_by(100) {
        if let Ok(some) = indexed(&whole[..end]) {
            assert!(members.starts_with(&some), "cut at {end}");
        }
    }
    // Any byte of a header that is changed is noticed, or changes nothing that matters.
    for at in (0..512).chain(1024..1536) {
        let mut bytes = whole.clone();
        bytes[at] ^= 0x55;
        if let Ok(some) = indexed(&bytes) {
            assert_eq!(some, members, "byte {at}");
        }
    }
}

#[test]
fn an_index_that_does_not_fit_is_refused() {
    let (dir, out) = (data(), tempfile::tempdir().unwrap());
    let shards = out.path().join("shards");
    pack(dir.path(), &shards, 1 << 30, 2).unwrap();
    let path = shards.join("train/000000.tar.index");
    let good = fs::read_to_string(&path).unwrap();
    for bad in [&good[..good.len() / 2], "", &good.replacen('\t', "\t9", 1), &good.replacen("512", "999999999", 1)] {
        fs::write(&path, bad).unwrap();
        let listings = tempfile::tempdir().unwrap();
        let error = Folder::open(&shards, &storage(listings.path())).unwrap_err().to_string();
        assert!(error.contains("000000.tar.index: this index is damaged"), "{error}");
    }
    // A member that claims more than there is room for.
    let zipped = out.path().join("zipped");
    fs::create_dir_all(&zipped).unwrap();
    fs::write(zipped.join("x.zip"), zip::written(&[zip::Entry::new("train/a/1.jpg", &[3; 50])])).unwrap();
    feedline::read::archive::index_beside(&zipped, None, &storage(out.path()), &|_, _| ()).unwrap();
    let path = zipped.join("x.zip.index");
    let good = fs::read_to_string(&path).unwrap();
    for claim in [u64::MAX, u64::MAX - 29, 1 << 40, 64] {
        let bad = good.replacen("stored:50:50:", &format!("stored:{claim}:{claim}:"), 1);
        assert_ne!(bad, good);
        fs::write(&path, bad).unwrap();
        let error = Folder::open(&zipped, &storage(out.path())).unwrap_err().to_string();
        assert!(error.contains("x.zip.index: this index is damaged"), "{claim}: {error}");
    }
    // An archive that was written since is looked through again, though its size is the same.
    let labelled = |label| webdataset(&[("a.jpg", "A"), ("a.cls", label)]);
    fs::remove_dir_all(&zipped).unwrap();
    fs::create_dir_all(&zipped).unwrap();
    fs::write(zipped.join("x.tar"), labelled("3")).unwrap();
    feedline::read::archive::index_beside(&zipped, None, &storage(out.path()), &|_, _| ()).unwrap();
    std::thread::sleep(std::time::Duration::from_millis(20));
    fs::write(zipped.join("x.tar"), labelled("5")).unwrap();
    let folder = Folder::open(&zipped, &storage(out.path())).unwrap();
    assert_eq!(ImageList::from_folder(folder, "x", None).unwrap().entries[0].class, 5);
    assert!(to_text(&Index::default(), 5).starts_with("feedline index 3\t5\n"));
}
