//! Tar archives: hostile and truncated ones, and the content of their index.

use super::*;

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
    // Some writers omit the two empty blocks at the end.
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
    // False sizes: beyond the end, and beyond all numbers.
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

    // Cut at any place, it is refused, or the rest of it is complete.
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
    // Any changed byte of a header is detected, or changes nothing that matters.
    for at in (0..512).chain(1024..1536) {
        let mut bytes = whole.clone();
        bytes[at] ^= 0x55;
        if let Ok(some) = indexed(&bytes) {
            assert_eq!(some, members, "byte {at}");
        }
    }
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
    // Each warning is given once, wherever the archive is.
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
    // A member that claims more bytes than there are.
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
    // An archive that was rewritten is indexed again, though its size is the same.
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
