//! Unusual servers: each oddity is either handled correctly, or refused at once with an error in words.

use feedline::read::{Folder, ImageList, RangeRequest, ReadErrorKind, Source, Stop, Storage};
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::path::Path;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

/// Unusual treatment of lengths, ranges, versions and methods by a server.
#[derive(Debug, Clone, Copy, PartialEq)]
enum Way {
    /// As RFC 9110 specifies, with weak ETags: `If-Match` with one of them never matches.
    Weak,
    /// The same with the time of change, and no ETag.
    Dated,
    /// The whole file, for any requested part.
    Whole,
    /// A part in chunks, without its length.
    Chunks,
    /// No length at all: a file ends with the connection.
    NoLength,
    /// `Content-Range: bytes 0-9/*`.
    NoTotal,
    /// 405 to `HEAD`.
    NoHead,
    /// A listing whose pages all name the same next page.
    SamePage,
    /// A listing that starts over with each page; all pages have different names.
    Again,
}

struct Server {
    address: String,
    way: Arc<Mutex<Way>>,
    requests: Arc<AtomicUsize>,
    edition: Arc<AtomicUsize>,
}

impl Server {
    fn start(way: Way) -> Server {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let server = Server {
            address: listener.local_addr().unwrap().to_string(),
            way: Arc::new(Mutex::new(way)),
            requests: Arc::default(),
            edition: Arc::default(),
        };
        let shared = (Arc::clone(&server.way), Arc::clone(&server.requests), Arc::clone(&server.edition));
        std::thread::spawn(move || {
            for client in listener.incoming().flatten() {
                let (way, requests, edition) = shared.clone();
                std::thread::spawn(move || serve(client, &way, &requests, &edition));
            }
        });
        server
    }

    fn open(&self, url: &str) -> Arc<dyn Source> {
        self.storage().open(&url.replace("HOST", &self.address)).unwrap()
    }

    /// With a long `retry_s`, so that an unnecessary retry is noticed.
    fn storage(&self) -> Storage {
        Storage { endpoint: format!("http://{}", self.address), anonymous: true, retry_s: 600.0, ..Storage::default() }
    }

    /// The number of requests that `work` makes.
    fn count<T>(&self, work: impl FnOnce() -> T) -> (T, usize) {
        let before = self.requests.load(Relaxed);
        let result = work();
        (result, self.requests.load(Relaxed) - before)
    }
}

fn serve(client: TcpStream, way: &Mutex<Way>, requests: &AtomicUsize, edition: &AtomicUsize) -> Option<()> {
    let (mut from, mut to) = (BufReader::new(client.try_clone().ok()?), client);
    loop {
        let mut lines = Vec::new();
        loop {
            let mut line = String::new();
            if from.read_line(&mut line).ok()? == 0 {
                return None;
            }
            match line.trim_end() {
                "" => break,
                line => lines.push(line.to_owned()),
            }
        }
        let value = |name: &str| {
            let line = lines.iter().find(|line| line.to_ascii_lowercase().starts_with(name));
            line.map(|line| line[name.len()..].trim().to_owned())
        };
        let length = value("content-length:").map_or(0, |length| length.parse().unwrap());
        from.read_exact(&mut vec![0; length]).ok()?;
        let number = requests.fetch_add(1, Relaxed);
        let way = *way.lock().unwrap();
        let (method, rest) = lines[0].split_once(' ')?;
        let target = rest.split(' ').next()?;
        if let Some((_, query)) = target.split_once('?').filter(|(_, query)| query.contains("list-type=2")) {
            assert!(!query.is_empty());
            let page: String = (0..1000)
                .map(|i| format!("<Contents><Key>d/{i:04}</Key><LastModified>2024-01-01T00:00:00Z</LastModified><ETag>\"x\"</ETag><Size>1</Size></Contents>"))
                .collect();
            let token = if way == Way::SamePage { "same".into() } else { format!("page-{number}") };
            let xml = format!(
                "<ListBucketResult><IsTruncated>true</IsTruncated><NextContinuationToken>{token}</NextContinuationToken>{page}</ListBucketResult>"
            );
            write!(to, "HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n{xml}", xml.len()).ok()?;
            continue;
        }
        let (found, version) = (content(target), edition.load(Relaxed));
        let status = match (method, &found) {
            ("GET" | "HEAD", None) => "404 Not Found",
            ("HEAD", _) if way == Way::NoHead => "405 Method Not Allowed",
            ("GET" | "HEAD", _) if value("if-match:").is_some() => "412 Precondition Failed",
            ("GET" | "HEAD", _) => "",
            _ => "501 Not Implemented",
        };
        if !status.is_empty() {
            write!(to, "HTTP/1.1 {status}\r\nContent-Length: 0\r\n\r\n").ok()?;
            continue;
        }
        let bytes = found?;
        let tag = match way {
            Way::Dated => format!("Last-Modified: Mon, 01 Jan 2024 00:00:{version:02} GMT\r\n"),
            _ => format!("ETag: W/\"v{version}\"\r\n"),
        };
        let range = value("range:").filter(|_| way != Way::Whole).and_then(|range| {
            let (start, last) = range.strip_prefix("bytes=")?.split_once('-')?;
            let (start, last): (usize, usize) = (start.parse().ok()?, last.parse().ok()?);
            Some(start..(last + 1).min(bytes.len()))
        });
        if range.as_ref().is_some_and(|range| range.start >= bytes.len()) {
            write!(to, "HTTP/1.1 416 Range Not Satisfiable\r\nContent-Length: 0\r\n\r\n").ok()?;
            continue;
        }
        let total = if way == Way::NoTotal { "*".into() } else { bytes.len().to_string() };
        let status = match &range {
            Some(range) => {
                format!("206 Partial Content\r\nContent-Range: bytes {}-{}/{total}", range.start, range.end - 1)
            }
            None => "200 OK".into(),
        };
        let part = &bytes[range.unwrap_or(0..bytes.len())];
        let length = match way {
            Way::NoLength => "Connection: close\r\n".into(),
            Way::Chunks if method == "GET" => "Transfer-Encoding: chunked\r\n".into(),
            _ => format!("Content-Length: {}\r\n", part.len()),
        };
        write!(to, "HTTP/1.1 {status}\r\n{tag}{length}\r\n").ok()?;
        match method {
            "HEAD" => {}
            _ if way == Way::Chunks => {
                for chunk in part.chunks(1000) {
                    write!(to, "{:x}\r\n", chunk.len()).ok()?;
                    to.write_all(&[chunk, b"\r\n"].concat()).ok()?;
                }
                to.write_all(b"0\r\n\r\n").ok()?;
            }
            _ => to.write_all(part).ok()?,
        }
        if way == Way::NoLength {
            return None;
        }
    }
}

/// The file at a path: of 100,000 bytes, or of five million.
fn content(path: &str) -> Option<Vec<u8>> {
    let len = match path {
        "/d/file.bin" | "/d/other.bin" => 100_000,
        "/d/large.bin" => 5_000_000,
        _ => return None,
    };
    Some((0..len as u32).map(|i| (i.wrapping_mul(2_654_435_761) >> 13) as u8).collect())
}

/// Checks that some parts of a file are read correctly.
fn reads(server: &Server, key: &str, ranges: &[(u64, u64)]) {
    let (source, stop) = (server.open("http://HOST/d"), Stop::default());
    let object = source.head(key, &stop).unwrap();
    let content = content(&format!("/d/{key}")).unwrap();
    assert_eq!(object.size_bytes, content.len() as u64);
    for &(start, end) in ranges {
        let (version, mut bytes) = (&*object.version, Vec::new());
        let want = RangeRequest { key, range: start..end, version, until: None, stop: &stop };
        source.get(&want, &mut bytes).unwrap();
        assert!(bytes == content[start as usize..end as usize], "{start}..{end}");
    }
}

#[test]
fn weak_versions_are_kept_to_without_asking_for_them() {
    for way in [Way::Weak, Way::Dated] {
        let server = Server::start(way);
        reads(&server, "file.bin", &[(0, 100_000), (7, 9), (0, 0), (99_999, 100_000)]);
        // A changed object is still an error.
        let (source, stop) = (server.open("http://HOST/d"), Stop::default());
        let object = source.head("file.bin", &stop).unwrap();
        server.edition.fetch_add(1, Relaxed);
        for range in [0..100_000, 5..10, 3..3] {
            let want = RangeRequest { key: "file.bin", range, version: &object.version, until: None, stop: &stop };
            let error = source.get(&want, &mut Vec::new()).unwrap_err();
            assert!(
                error.kind == ReadErrorKind::Changed && error.problem.contains("feedline index"),
                "{way:?}: {error}"
            );
        }
    }
}

#[test]
fn a_server_that_sends_whole_files_is_read_or_refused_in_words() {
    let server = Server::start(Way::Whole);
    reads(&server, "file.bin", &[(0, 100_000), (7, 9), (0, 0), (50_000, 100_000)]);
    reads(&server, "large.bin", &[(0, 5_000_000)]);
    let (source, stop) = (server.open("http://HOST/d"), Stop::default());
    let get = |key: &str, range| {
        let want = RangeRequest { key, range, version: "", until: None, stop: &stop };
        server.count(|| source.get(&want, &mut Vec::new()).unwrap_err())
    };
    let (error, requests) = get("large.bin", 0..10);
    assert!(error.kind == ReadErrorKind::Other && error.problem.contains("whole files only"), "{error}");
    assert_eq!(requests, 1, "it would be so for ever");
    assert_eq!(get("file.bin", 100_000..100_001).0.kind, ReadErrorKind::Changed);
    assert_eq!(get("file.bin", 99_999..100_001).0.kind, ReadErrorKind::Changed);
    reads(&Server::start(Way::Chunks), "file.bin", &[(0, 100_000), (7, 9)]);
}

#[test]
fn what_no_further_try_changes_is_said_at_once_with_its_reason() {
    let stop = Stop::default();
    let server = Server::start(Way::Weak);
    let source = server.open("http://HOST/d");
    let get = || {
        let want = RangeRequest { key: "file.bin", range: 0..100, version: "", until: None, stop: &stop };
        source.get(&want, &mut Vec::new()).unwrap_err()
    };
    let head = || source.head("file.bin", &stop).unwrap_err();
    let list = || source.list("", &stop).unwrap_err();
    let cases: [(Way, &dyn Fn() -> feedline::read::ReadError, &str); 5] = [
        (Way::NoLength, &head, "no Content-Length"),
        (Way::NoTotal, &get, "no total in Content-Range"),
        (Way::NoHead, &head, "405 to a request with HEAD"),
        (Way::Weak, &list, "501; a web server lists nothing: name the files in a list"),
        (Way::Weak, &|| source.head("../d/file.bin", &stop).unwrap_err(), ".."),
    ];
    for (way, failing, words) in cases {
        *server.way.lock().unwrap() = way;
        let begun = Instant::now();
        let (error, requests) = server.count(failing);
        assert!(error.problem.contains(words), "{way:?}: {error}");
        assert!(error.kind == ReadErrorKind::Other && requests <= 1, "{way:?}: {requests} requests, {error:?}");
        assert!(begun.elapsed() < Duration::from_secs(60), "no waiting for what will not come");
    }
}

#[test]
fn a_listing_without_end_ends() {
    for (way, words, most) in [(Way::SamePage, "continuation token repeats", 2), (Way::Again, "twice", 10)] {
        let server = Server::start(way);
        let source = server.open("s3://bucket/d");
        let (error, requests) = server.count(|| source.list("", &Stop::default()).unwrap_err());
        assert!(error.kind == ReadErrorKind::Other && error.problem.contains(words), "{way:?}: {error}");
        assert!(requests <= most, "{way:?}: {requests} requests");
    }
}

#[test]
fn no_signature_and_no_password_is_ever_shown() {
    let dir = tempfile::tempdir().unwrap();
    let server = Server::start(Way::Weak);
    let host = &server.address;
    let storage = Storage { listings_dir: dir.path().into(), ..server.storage() };
    let classes = ["a".to_owned()];
    for url in [
        format!("http://{host}/d/file.bin?X-Amz-Credential=hidden&X-Amz-Signature=hidden/hidden"),
        format!("http://hidden:hidden@{host}/d/file.bin"),
        "s3://bucket/d/file.bin?X-Amz-Signature=hidden".into(),
        "s3://hidden:hidden@bucket/d/file.bin".into(),
        "az://container/d/file.bin?sv=2024&sig=hidden".into(),
    ] {
        let path = dir.path().join("list.txt");
        std::fs::write(&path, format!("0;{url}\n0;{url}\n")).unwrap();
        let mut errors = vec![
            ImageList::from_list(&path, "train", &classes, &storage).unwrap_err(),
            Folder::open(Path::new(&url), &storage).unwrap_err(),
            storage.open(&url).map(drop).unwrap_err(),
        ];
        // A line that is not in the list's format is quoted.
        std::fs::write(&path, format!("{url}\n")).unwrap();
        errors.push(ImageList::from_list(&path, "train", &classes, &storage).unwrap_err());
        std::fs::write(&path, format!("{url};x\n")).unwrap();
        errors.push(ImageList::from_list(&path, "train", &classes, &storage).unwrap_err());
        for error in errors {
            let (text, debug) = (error.to_string(), format!("{error:?}"));
            assert!(!text.contains("hidden") && !debug.contains("hidden"), "{url}:\n{text}\n{debug}");
        }
    }
    let kept: Vec<_> = std::fs::read_dir(dir.path()).unwrap().flatten().map(|entry| entry.path()).collect();
    assert_eq!(kept, [dir.path().join("list.txt")], "no listing has such a name");
}
