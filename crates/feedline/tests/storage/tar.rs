//! Samples inside tar archives: the same as the files they were packed from, and nothing else whatever an archive holds.

use ::tar::{Builder, EntryType, Header};
use feedline::read::pack::{Packed, pack};
use feedline::read::tar::{index, to_text};
use feedline::read::{Folder, ImageList, LocalFiles, Source, Stop, Storage};
use std::fs;
use std::path::Path;

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

fn storage(dir: &Path) -> Storage {
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
        let packed = pack(dir.path(), &shards, shard_bytes, 3, &|_, _| ()).unwrap();
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
        pack(dir.path(), &again, shard_bytes, 1, &|_, _| ()).unwrap();
        for name in files_in(&shards) {
            assert!(fs::read(shards.join(&name)).unwrap() == fs::read(again.join(&name)).unwrap(), "{name}");
        }
    }
    let error = pack(dir.path(), out.path(), 1 << 20, 1, &|_, _| ()).unwrap_err().to_string();
    assert!(error.contains("is not empty"), "{error}");
    let empty = tempfile::tempdir().unwrap();
    let error = pack(empty.path(), &out.path().join("new"), 1, 1, &|_, _| ()).unwrap_err().to_string();
    assert!(error.contains("no file in it"), "{error}");
}

#[test]
fn archives_and_files_may_lie_side_by_side_but_not_twice() {
    let (dir, out) = (data(), tempfile::tempdir().unwrap());
    let expect = content(dir.path(), &Storage::default());
    let shards = out.path().join("shards");
    pack(dir.path(), &shards, 50_000, 2, &|_, _| ()).unwrap();
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
    copy(&dir.path().join("train/a/4.jpg"), &shards.join("train/a/4.jpg"));
    let error = Folder::open(&shards, &storage(&out.path().join("2"))).unwrap_err().to_string();
    assert!(error.contains("train/a/4.jpg is in it, and in") && error.contains(".tar"), "{error}");
}

/// The index of an archive with these bytes, or what is said.
fn indexed(bytes: &[u8]) -> Result<Vec<(String, Vec<u8>)>, String> {
    let dir = tempfile::tempdir().unwrap();
    fs::write(dir.path().join("x.tar"), bytes).unwrap();
    let source = LocalFiles::new(dir.path());
    let object = source.head("x.tar", &Stop::default()).unwrap();
    let members = index(&source, &object).map_err(|e| {
        let text = e.to_string();
        assert!(text.contains("x.tar"), "{text}");
        text
    })?;
    Ok(members
        .into_iter()
        .map(|member| (member.name, bytes[member.start as usize..][..member.size_bytes as usize].to_vec()))
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
    pack(dir.path(), &shards, 1 << 30, 2, &|_, _| ()).unwrap();
    let path = shards.join("train/000000.tar.index");
    let good = fs::read_to_string(&path).unwrap();
    for bad in [&good[..good.len() / 2], "", &good.replacen('\t', "\t9", 1), &good.replacen("512", "999999999", 1)] {
        fs::write(&path, bad).unwrap();
        let listings = tempfile::tempdir().unwrap();
        let error = Folder::open(&shards, &storage(listings.path())).unwrap_err().to_string();
        assert!(error.contains("000000.tar.index: this index is damaged"), "{error}");
    }
    assert!(to_text(&[], 5).starts_with("feedline tar index 1\t5\n"));
}
