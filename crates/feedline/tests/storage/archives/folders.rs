//! Archives in and beside folders: each file in them counts once, and together they are the folder's data set.

use super::*;

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
        // Without the indexes beside them they are indexed, once; later reads need no headers.
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
    let facts = include_str!("../../../../../testdata/shards/samples.json");
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
    // Pictures beside archives that hold others: they may be the data, or forgotten.
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
    // An invalid archive may not belong there.
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
    // Archives deeper than the folders of the splits are not searched for, locally and at a URL.
    fs::write(dir.path().join("train/a/more.zip"), zip::written(&[zip::Entry::new("2.jpg", b"x")])).unwrap();
    let url = format!("file://{}", dir.path().display());
    for place in [dir.path(), Path::new(&url)] {
        assert_eq!(content(place, &storage(out.path())), expect);
    }
    let list = dir.path().join("list.txt");
    fs::write(&list, format!("0;{url}/train/a/4.jpg\n")).unwrap();
    // A list of files needs no archive, not even a broken one.
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
    // An archive that contains its split's folder needs no other.
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

    // Compressed archives would be missed, wherever they are.
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
    let list = ImageList::train(Folder::open(&wrapped, &storage(out.path())).unwrap()).unwrap();
    assert!(list.place.ends_with("wrapped/dataset/train") && list.entries.len() == 1, "{list:?}");
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
    // A picture of a list may have any name.
    fs::rename(dir.path().join("train/a/4.jpg"), dir.path().join("train/a/4.photo")).unwrap();
    let file = dir.path().join("list.txt");
    fs::write(&file, "0;train/a/4.photo\n").unwrap();
    let list = ImageList::from_list(&file, "x", &["a".into()], &Storage::default()).unwrap();
    let options = PackOptions { shard_bytes: 1, threads: 1, progress: &|_, _| () };
    pack_list(&list, &out.path().join("3"), options).unwrap();
    assert_eq!(names(&out.path().join("3")), ["00000000.jpg"]);
    // A failed pack leaves nothing half done.
    fs::remove_file(dir.path().join("train/a/4.photo")).unwrap();
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
    // Killed before the first archive got its name.
    let early = out.path().join("early");
    fs::create_dir_all(early.join("train")).unwrap();
    fs::write(early.join("train/pack.incomplete"), "").unwrap();
    refused(open(&early));
    // Beside other data, a folder that is not searched may hold anything.
    fs::create_dir_all(shards.join("old/pack")).unwrap();
    fs::write(shards.join("old/pack/pack.incomplete"), "").unwrap();
    assert!(open(&shards).unwrap() > 0);
    let error = pack(dir.path(), &early.join("train"), 1 << 30, 1).unwrap_err().to_string();
    assert!(error.contains("a pack that is not finished"), "{error}");
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
