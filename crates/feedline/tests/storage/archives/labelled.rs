//! Archives whose samples carry their labels: WebDataset and the shards of MosaicML.

use super::*;

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
        // The second time from the cached indexes.
        assert_eq!(content(out.path(), &storage(out.path())), expect);
    }
    let folder = Folder::open(out.path(), &storage(out.path())).unwrap();
    assert_eq!(ImageList::train(folder.clone()).unwrap().classes, ["0", "1", "2"]);
    // Class names beside them, found or named.
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

#[test]
fn the_label_is_that_of_the_exact_extension() {
    let bytes = written("labels.tar");
    let (found, said) = labels("x.tar", &bytes);
    assert_eq!(found, [0, 1, 2].map(|label| (label, format!("00{label}.jpg"))));
    assert!(
        said.contains("3 *.fine.cls (x.tar/000.fine.cls, x.tar/001.fine.cls, x.tar/002.fine.cls), 3 *.json"),
        "{said}"
    );
    // In any order, and in capital letters, which WebDataset accepts.
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
    // An old index of an archive without labels stays valid.
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
