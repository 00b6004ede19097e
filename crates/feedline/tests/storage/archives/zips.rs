//! Zip archives: the folder that they were made of, damage, and the refusal of hostile ones.

use super::*;

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
    // Any byte up to the directory; in a header only the lengths matter, all else is in the directory, too.
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
    // Any change gives an answer and no panic, and no name leads outside.
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
