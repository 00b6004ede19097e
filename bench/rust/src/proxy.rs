//! `bench-rust proxy HOST:PORT LATENCY_MS BYTES_PER_SECOND`: adds latency to a server. Prints its own address, and ends
//! with its standard input.
//!
//! Each byte of an answer is passed on after the latency, independent of the bytes in flight, on any number of
//! connections. Nothing is parsed or buffered until its end. All connections together get `BYTES_PER_SECOND`;
//! 0 is no limit.

use std::error::Error;
use std::io::{Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::sync::mpsc::sync_channel;
use std::sync::{Arc, Mutex};
use std::thread::{sleep, spawn};
use std::time::{Duration, Instant};

struct Line {
    upstream: String,
    latency: Duration,
    bytes_per_second: f64,
    free_at: Mutex<Instant>,
}

/// Most parts of an answer in flight on one connection: some 10 MB, as TCP's windows.
const PARTS: usize = 256;

pub fn run(mut words: impl Iterator<Item = String>) -> Result<(), Box<dyn Error>> {
    let mut word = || words.next().ok_or("usage: bench-rust proxy HOST:PORT LATENCY_MS BYTES_PER_SECOND");
    let line = Arc::new(Line {
        upstream: word()?,
        latency: Duration::from_millis(word()?.parse()?),
        bytes_per_second: word()?.parse()?,
        free_at: Mutex::new(Instant::now()),
    });
    let listener = TcpListener::bind("127.0.0.1:0")?;
    println!("{}", listener.local_addr()?);
    spawn(|| {
        let _ = std::io::stdin().read(&mut [0]);
        std::process::exit(0);
    });
    for client in listener.incoming().flatten() {
        let line = Arc::clone(&line);
        spawn(move || line.serve(client).ok()); // a side that hangs up ends its connection, nothing else
    }
    Ok(())
}

impl Line {
    fn serve(&self, mut to_client: TcpStream) -> std::io::Result<()> {
        let mut from_server = TcpStream::connect(&self.upstream)?;
        let (mut from_client, mut to_server) = (to_client.try_clone()?, from_server.try_clone()?);
        to_client.set_nodelay(true)?;
        to_server.set_nodelay(true)?;
        spawn(move || {
            let _ = std::io::copy(&mut from_client, &mut to_server);
            let _ = to_server.shutdown(Shutdown::Write);
        });
        let (sender, parts) = sync_channel(PARTS);
        let (latency, most) = (self.latency, if self.bytes_per_second > 0.0 { 16 << 10 } else { 64 << 10 });
        spawn(move || {
            let mut part = vec![0; most];
            while let Ok(length @ 1..) = from_server.read(&mut part) {
                if sender.send((Instant::now() + latency, part[..length].to_vec())).is_err() {
                    break;
                }
            }
            let _ = from_server.shutdown(Shutdown::Both);
        });
        for (due, part) in parts {
            sleep(due.max(self.free(part.len())).saturating_duration_since(Instant::now()));
            to_client.write_all(&part)?;
        }
        to_client.shutdown(Shutdown::Both)
    }

    /// The time at which the line, which all connections share, has sent `bytes` more.
    fn free(&self, bytes: usize) -> Instant {
        if self.bytes_per_second == 0.0 {
            return Instant::now();
        }
        let mut free_at = self.free_at.lock().unwrap();
        *free_at = (*free_at).max(Instant::now()) + Duration::from_secs_f64(bytes as f64 / self.bytes_per_second);
        *free_at
    }
}
