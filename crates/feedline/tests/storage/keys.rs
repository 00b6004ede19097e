//! Keys of buckets with all kinds of odd characters, and as many keys as a data set may have.

use super::cloud::storage;
use feedline::read::{Folder, ImageList, RangeRequest, ReadErrorKind, Stop, Storage};
use std::io::{BufRead, BufReader, Write};
use std::net::TcpListener;
use std::path::Path;
use std::time::{Duration, Instant};

/// A server that has objects with these keys, listed as by AWS: keys may be any text. The content of each is its key.
fn server_of(keys: &'static [&'static str]) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap().to_string();
    let answer = move |head: &str| -> (String, Vec<u8>) {
        let (_, target) = head.split_once(' ').unwrap();
        let target = target.split(' ').next().unwrap();
        if target.contains("list-type=2") {
            let escape = |key: &str| {
                let text = key.replace('&', "&amp;").replace('<', "&lt;");
                text.replace('\n', "&#10;").replace('\t', "&#9;").replace('\r', "&#13;")
            };
            let object = |key: &&str| {
                let size = if key.ends_with('/') { 0 } else { key.len() };
                let time = "2026-01-02T03:04:05.000Z";
                format!(
                    "<Contents><Key>{}</Key><LastModified>{time}</LastModified><ETag>&quot;1&quot;</ETag><Size>{size}</Size>\
                     <StorageClass>STANDARD</StorageClass></Contents>",
                    escape(key)
                )
            };
            let objects: String = keys.iter().map(object).collect();
            let body = format!(
                "<?xml version=\"1.0\" encoding=\"UTF-8\"?>\n<ListBucketResult xmlns=\"http://s3.amazonaws.com/doc/2006-03-01/\">\
                 <Name>b</Name><Prefix>d/</Prefix><KeyCount>{}</KeyCount><MaxKeys>1000</MaxKeys>\
                 <IsTruncated>false</IsTruncated>{objects}</ListBucketResult>",
                keys.len()
            );
            return ("200 OK\r\n".into(), body.into());
        }
        let path = target.strip_prefix("/b/").unwrap().replace("%20", " ").replace("%25", "%");
        match keys.iter().find(|key| **key == path) {
            None => ("404 Not Found\r\n".into(), Vec::new()),
            Some(key) => {
                let range = format!("Content-Range: bytes 0-{}/{}\r\n", key.len() - 1, key.len());
                ("206 Partial Content\r\n".to_owned() + &range, key.as_bytes().to_vec())
            }
        }
    };
    std::thread::spawn(move || {
        for client in listener.incoming().flatten() {
            std::thread::spawn(move || {
                let (mut from, mut to) = (BufReader::new(client.try_clone().unwrap()), client);
                let mut head = String::new();
                while from.read_line(&mut head).is_ok_and(|read| read > 0) {
                    if !head.ends_with("\r\n\r\n") {
                        continue;
                    }
                    let (status, body) = answer(&head);
                    let more = "ETag: \"1\"\r\nLast-Modified: Fri, 02 Jan 2026 03:04:05 GMT\r\n";
                    let head_of = format!("HTTP/1.1 {status}{more}Content-Length: {}\r\n\r\n", body.len());
                    to.write_all(&[head_of.as_bytes(), &body].concat()).unwrap();
                    head.clear();
                }
            });
        }
    });
    address
}

#[test]
fn odd_keys_are_read_or_left_out_by_name() {
    const KEYS: [&str; 13] = [
        "d/",
        "d/train/ a/1 .jpg",
        "d/train/../x.jpg",
        "d/train/./x.jpg",
        "d/train//x.jpg",
        "d/train/a/",
        "d/train/a/line\nbreak.jpg",
        "d/train/a/perc%20.jpg",
        "d/train/a/tab\t.jpg",
        "d/train/a/x//y.jpg",
        "d/train/a/x.jpg ",
        "d/train/a/x.jpg",
        "d/train/b/&<x.jpg",
    ];
    let dir = tempfile::tempdir().unwrap();
    let address = server_of(&KEYS);
    let storage = Storage { anonymous: true, listings_dir: dir.path().into(), ..storage(&address) };
    let source = storage.open("s3://b/d").unwrap();
    for _ in ["listed", "kept"] {
        let listing = storage.listing(&*source, false).unwrap();
        let found: Vec<String> = listing.objects.iter().map(|object| format!("d/{}", object.key)).collect();
        let readable = [1, 4, 7, 11, 10, 9, 12].map(|at| KEYS[at]);
        assert_eq!(found, readable);
        let lost: Vec<&str> = listing.left_out.iter().map(|(_, location)| &location["s3://b/".len()..]).collect();
        assert_eq!(lost, [2, 3, 6, 8].map(|at| KEYS[at]));
        let words = listing.words();
        assert!(words[0].starts_with("2 of the objects cannot be read and are left out"), "{words:?}");
        assert!(words[0].contains("a part of its name is `.` or `..`: \"s3://b/d/train/../x.jpg\", "), "{words:?}");
        assert!(words[1].contains("control character") && words[1].contains("tab\\t.jpg"), "{words:?}");
        let (stop, mut bytes) = (Stop::default(), Vec::new());
        for object in &listing.objects {
            let whole = format!("d/{}", object.key);
            if whole.contains(['&', '<']) {
                continue; // the server of this test does not understand how they are written in a request
            }
            let (key, version, range) = (&*object.key, &*object.version, 0..whole.len() as u64);
            source.get(&RangeRequest { key, range, version, until: None, stop: &stop }, &mut bytes).unwrap();
            assert_eq!(bytes, whole.as_bytes());
        }
    }
    // A list may name keys that no folder could hold.
    let list = dir.path().join("list.txt");
    std::fs::write(&list, "0;s3://b/d/train//x.jpg\n0;s3://b/d/train/a/x//y.jpg\n").unwrap();
    let list = ImageList::from_list(&list, "train", &["a".into()], &storage).unwrap();
    let (mut bytes, stop) = (Vec::new(), Stop::default());
    for (at, key) in [(0, KEYS[4]), (1, KEYS[9])] {
        list.stored.as_ref().unwrap().read_into(at, &stop, &mut bytes).unwrap();
        assert_eq!(bytes, key.as_bytes());
    }
    // As a folder it has the classes and samples that can be read, and reports those left out.
    let train = ImageList::train(Folder::open(Path::new("s3://b/d"), &storage).unwrap()).unwrap();
    assert_eq!(train.classes, [" a", "a", "b"]);
    assert_eq!(train.names(), [" a/1 .jpg", "a/perc%20.jpg", "a/x.jpg", "b/&<x.jpg"]);
    let said = train.warnings.join("\n");
    for part in
        ["2 objects that cannot be read, since a part of its name is `.` or `..`", "control character", "//x.jpg"]
    {
        assert!(said.contains(part), "{part} is not in: {said}");
    }
    // A key that cannot be requested is refused at once, not after `retry_s`.
    let begun = Instant::now();
    let error = source.head("train/a/tab\t.jpg", &Stop::default()).unwrap_err();
    assert!(error.kind == ReadErrorKind::Other && error.problem.contains("control character"), "{error}");
    assert!(begun.elapsed() < Duration::from_secs(10));
}

/// Were it quadratic, it would take an hour.
#[test]
fn a_million_samples_in_as_many_classes_open_in_seconds() {
    const SAMPLES: usize = 1_000_000;
    let dir = tempfile::tempdir().unwrap();
    let storage = Storage { listings_dir: dir.path().into(), anonymous: true, ..Storage::default() };
    let source = storage.open("s3://none/birds").unwrap();
    let path = storage.listing_path(&*source);
    let begun = Instant::now();
    let objects: String = (0..SAMPLES).map(|at| format!("9\t1\t0\ttrain/c{at:07}/x.jpg\n")).collect();
    std::fs::write(&path, format!("feedline listing 3\t{SAMPLES}\ns3://none/birds/\n{objects}end\n")).unwrap();
    let names: String = (0..SAMPLES).rev().map(|at| format!("c{at:07}\n")).collect();
    let file = dir.path().join("classes.txt");
    std::fs::write(&file, names).unwrap();
    println!("{:?} for writing the list", begun.elapsed());
    let classes = feedline::read::read_classes(&file, &storage).unwrap();
    println!("{:?} with the classes", begun.elapsed());
    let folder = Folder::open(Path::new("s3://none/birds"), &storage).unwrap();
    println!("{:?} with the folder", begun.elapsed());
    let list = ImageList::from_folder(folder.join("train"), "train", Some(classes)).unwrap();
    println!("{:?} with the list", begun.elapsed());
    assert_eq!((list.entries.len(), list.entries[0].class, list.names()[0].as_str()), (SAMPLES, 0, "c0999999/x.jpg"));
    list.fingerprint();
    println!("{:?} with its fingerprint", begun.elapsed());
}
