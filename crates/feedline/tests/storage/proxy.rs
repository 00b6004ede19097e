//! A proxy in front of an HTTP server that behaves as networks and busy servers do: answers are late, refused, cut off,
//! or wrong.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

/// The fate of one request.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Fate {
    Fine,
    /// 503 SlowDown, with this many seconds to wait.
    SlowDown(u64),
    /// The full length is announced, half of the body arrives.
    Cut,
    /// Half of the length is announced, and arrives.
    Short,
    /// More is announced than was requested, and arrives.
    Long,
    /// Half of the body arrives, and then nothing.
    Stall,
    /// The connection is closed without an answer.
    Reset,
    /// 500 InternalError.
    Broken,
    /// 400 ExpiredToken, as AWS sends it.
    Expired,
    /// 403 AccessDenied.
    Denied,
    /// 429, with these words in `Retry-After`.
    RetryAfter(&'static str),
    /// Another status, without a body.
    Status(&'static str),
    /// Other content under the ETag that was asked for is not what a server does: it answers that the ETag is another.
    Changed,
}

type Choose = Box<dyn FnMut(&str) -> Fate + Send>;

/// The properties of the line.
#[derive(Clone, Copy, Default)]
pub struct Line {
    /// Minimum time from a request to the first byte of its answer.
    pub latency: Duration,
    /// Over all connections; 0 is no limit.
    pub bytes_per_second: u64,
}

/// A proxy that runs until its process ends.
pub struct Proxy {
    /// `127.0.0.1:port`.
    pub address: String,
    shared: Arc<Shared>,
}

struct Shared {
    upstream: String,
    choose: Mutex<Choose>,
    line: Mutex<Line>,
    /// Time when the line is free again.
    free_at: Mutex<Instant>,
    requests: AtomicU64,
    faults: AtomicU64,
}

impl Proxy {
    pub fn start(upstream: &str) -> Proxy {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap().to_string();
        let shared = Arc::new(Shared {
            upstream: upstream.into(),
            choose: Mutex::new(Box::new(|_| Fate::Fine)),
            line: Mutex::default(),
            free_at: Mutex::new(Instant::now()),
            requests: AtomicU64::new(0),
            faults: AtomicU64::new(0),
        });
        let for_thread = Arc::clone(&shared);
        std::thread::spawn(move || {
            for client in listener.incoming().flatten() {
                let shared = Arc::clone(&for_thread);
                // Broken connections are the purpose.
                std::thread::spawn(move || shared.serve(client).ok());
            }
        });
        Proxy { address, shared }
    }

    /// From now on `choose` decides by the first line of the request.
    pub fn set(&self, choose: impl FnMut(&str) -> Fate + Send + 'static) {
        *self.shared.choose.lock().unwrap() = Box::new(choose);
    }

    /// From now on one request in `one_in` meets the next of `fates`. The choice depends on `seed` and the order in
    /// which requests arrive.
    pub fn set_faults(&self, one_in: u64, fates: Vec<Fate>, seed: u64) {
        let (mut state, mut next) = (seed, 0);
        self.set(move |_| {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            if !(state >> 33).is_multiple_of(one_in) {
                return Fate::Fine;
            }
            next += 1;
            fates[next % fates.len()]
        });
    }

    pub fn set_line(&self, line: Line) {
        *self.shared.line.lock().unwrap() = line;
    }

    /// Requests and faults so far.
    pub fn counts(&self) -> (u64, u64) {
        (self.shared.requests.load(Relaxed), self.shared.faults.load(Relaxed))
    }
}

/// A message's head, without its last empty line, and the number of bytes of its body; `None` if it is chunked.
fn head(from: &mut impl BufRead) -> std::io::Result<Option<(String, Option<usize>)>> {
    let mut head = String::new();
    loop {
        let mut line = String::new();
        if from.read_line(&mut line)? == 0 {
            return Ok(None);
        }
        if line == "\r\n" {
            break;
        }
        head += &line;
    }
    let value = |name: &str| {
        let line = head.lines().find(|line| line.to_ascii_lowercase().starts_with(name));
        line.map(|line| line.split_once(':').unwrap_or_default().1.trim().to_owned())
    };
    let in_chunks = value("transfer-encoding:").is_some();
    let length = value("content-length:").map_or(0, |length| length.parse().unwrap_or(0));
    Ok(Some((head, (!in_chunks).then_some(length))))
}

fn with_length(head: &str, length: usize) -> String {
    let lines = head.lines().map(|line| match line.to_ascii_lowercase().starts_with("content-length:") {
        true => format!("Content-Length: {length}\r\n"),
        false => format!("{line}\r\n"),
    });
    lines.collect()
}

impl Shared {
    fn serve(&self, client: TcpStream) -> std::io::Result<()> {
        client.set_nodelay(true)?;
        let server = TcpStream::connect(&self.upstream)?;
        server.set_nodelay(true)?;
        let (mut from_client, mut to_client) = (BufReader::new(client.try_clone()?), client);
        let (mut from_server, mut to_server) = (BufReader::with_capacity(1 << 17, server.try_clone()?), server);
        while let Some((request, length)) = head(&mut from_client)? {
            let begun = Instant::now();
            let mut body = vec![0; length.unwrap_or(0)];
            from_client.read_exact(&mut body)?;
            let first = request.lines().next().unwrap_or_default().to_owned();
            self.requests.fetch_add(1, Relaxed);
            let fate = (self.choose.lock().unwrap())(&first);
            if fate != Fate::Fine {
                self.faults.fetch_add(1, Relaxed);
            }
            let line = *self.line.lock().unwrap();
            let refusal = match fate {
                Fate::SlowDown(wait) => Some(("503 Slow Down", "SlowDown", format!("Retry-After: {wait}\r\n"))),
                Fate::Broken => Some(("500 Internal Server Error", "InternalError", String::new())),
                Fate::Expired => Some(("400 Bad Request", "ExpiredToken", String::new())),
                Fate::Denied => Some(("403 Forbidden", "AccessDenied", String::new())),
                Fate::RetryAfter(value) => {
                    Some(("429 Too Many Requests", "TooManyRequests", format!("Retry-After: {value}\r\n")))
                }
                Fate::Status(status) => Some((status, "", String::new())),
                Fate::Changed => Some(("412 Precondition Failed", "PreconditionFailed", String::new())),
                Fate::Reset => return Ok(()),
                _ => None,
            };
            if let Some((status, code, more)) = refusal {
                let xml = format!("<Error><Code>{code}</Code><AWSAccessKeyId>hidden</AWSAccessKeyId></Error>");
                write!(to_client, "HTTP/1.1 {status}\r\nContent-Length: {}\r\n{more}\r\n{xml}", xml.len())?;
                continue;
            }
            // In one write: the second of two would wait for the peer's acknowledgement of the first.
            to_server.write_all(&[request.as_bytes(), b"\r\n", &body].concat())?;
            let Some((answer, length)) = head(&mut from_server)? else { return Ok(()) };
            std::thread::sleep(line.latency.saturating_sub(begun.elapsed()));
            let Some(length) = length.filter(|_| !first.starts_with("HEAD ")) else {
                to_client.write_all(&[answer.as_bytes(), b"\r\n"].concat())?;
                if !first.starts_with("HEAD ") {
                    self.pass_chunks(&mut from_server, &mut to_client)?;
                }
                continue;
            };
            let mut body = vec![0; length];
            from_server.read_exact(&mut body)?;
            let announced = match fate {
                Fate::Short => length / 2,
                Fate::Long => length + 9,
                _ => length,
            };
            body.resize(if matches!(fate, Fate::Cut | Fate::Stall) { length / 2 } else { announced }, b'x');
            let head = with_length(&answer, announced);
            if line.bytes_per_second == 0 {
                to_client.write_all(&[head.as_bytes(), b"\r\n", &body].concat())?;
            } else {
                to_client.write_all(&[head.as_bytes(), b"\r\n"].concat())?;
                for part in body.chunks(16 << 10) {
                    self.wait_for_the_line(part.len(), line.bytes_per_second);
                    to_client.write_all(part)?;
                }
            }
            match fate {
                Fate::Cut => return to_client.shutdown(Shutdown::Both),
                Fate::Stall => {
                    // Until the client gives up.
                    let _ = to_client.read(&mut [0]);
                    return Ok(());
                }
                _ => {}
            }
        }
        Ok(())
    }

    fn wait_for_the_line(&self, bytes: usize, bytes_per_second: u64) {
        let until = {
            let mut free_at = self.free_at.lock().unwrap();
            *free_at = (*free_at).max(Instant::now()) + Duration::from_secs_f64(bytes as f64 / bytes_per_second as f64);
            *free_at
        };
        std::thread::sleep(until.saturating_duration_since(Instant::now()));
    }

    fn pass_chunks(&self, from: &mut impl BufRead, to: &mut impl Write) -> std::io::Result<()> {
        loop {
            let mut line = String::new();
            from.read_line(&mut line)?;
            to.write_all(line.as_bytes())?;
            let length = usize::from_str_radix(line.trim(), 16).unwrap_or(0);
            let mut chunk = vec![0; length + 2];
            from.read_exact(&mut chunk)?;
            to.write_all(&chunk)?;
            if length == 0 {
                return Ok(());
            }
        }
    }
}
