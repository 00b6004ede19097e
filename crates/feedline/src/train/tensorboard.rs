//! TensorBoard event files: scalars only. Owns the record framing (TFRecord) and the messages of `event.proto` and
//! `summary.proto` as far as scalars need them; it must not know what is logged.
#![expect(clippy::disallowed_methods, reason = "owns the event file, whose records have the time")]

use crate::error::{Error, Result};
use prost::Message;
use std::fs::{self, File};
use std::io::{BufWriter, Write};
use std::path::{Path, PathBuf};
use std::time::{SystemTime, UNIX_EPOCH};

#[derive(Clone, PartialEq, prost::Message)]
struct Event {
    #[prost(double, tag = "1")]
    wall_time: f64,
    #[prost(int64, tag = "2")]
    step: i64,
    #[prost(string, optional, tag = "3")]
    file_version: Option<String>,
    #[prost(message, optional, tag = "5")]
    summary: Option<Summary>,
}

#[derive(Clone, PartialEq, prost::Message)]
struct Summary {
    #[prost(message, repeated, tag = "1")]
    value: Vec<Value>,
}

#[derive(Clone, PartialEq, prost::Message)]
struct Value {
    #[prost(string, tag = "1")]
    tag: String,
    #[prost(float, optional, tag = "2")]
    simple_value: Option<f32>,
}

/// Writes one event file. Records are only ever appended; a killed run leaves at most its last record cut off, which
/// readers ignore.
#[derive(Debug)]
pub struct EventWriter {
    path: PathBuf,
    file: BufWriter<File>,
}

impl EventWriter {
    /// Starts a new event file in `dir`, which is created if needed. Event files of earlier runs there stay untouched:
    /// TensorBoard reads them all in order of their names, which begin with the time.
    ///
    /// # Errors
    /// The folder or the file cannot be created.
    pub fn create(dir: &Path) -> Result<EventWriter> {
        fs::create_dir_all(dir).map_err(|source| Error::io("make the folder", dir, source))?;
        let wall_time_s = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0.0, |time| time.as_secs_f64());
        let mut serial = 0u32;
        let (path, file) = loop {
            // A serial number, in case the same process starts twice within a second.
            let name =
                format!("events.out.tfevents.{:010}.feedline.{}.{serial}", wall_time_s as u64, std::process::id());
            let path = dir.join(name);
            match File::create_new(&path) {
                Ok(file) => break (path, file),
                Err(source) if source.kind() == std::io::ErrorKind::AlreadyExists => serial += 1,
                Err(source) => return Err(Error::io("create the event file", path, source)),
            }
        };
        let mut writer = EventWriter { path, file: BufWriter::new(file) };
        let version = Some("brain.Event:2".into());
        writer.write(&Event { wall_time: wall_time_s, step: 0, file_version: version, summary: None })?;
        writer.flush()?;
        Ok(writer)
    }

    /// Appends one number, as 32-bit float. `wall_time_s` counts from 1970.
    ///
    /// # Errors
    /// If the file cannot be written.
    pub fn scalar(&mut self, tag: &str, step: u64, value: f64, wall_time_s: f64) -> Result<()> {
        let value = Value { tag: tag.into(), simple_value: Some(value as f32) };
        let summary = Some(Summary { value: vec![value] });
        let step = i64::try_from(step).unwrap_or(i64::MAX);
        self.write(&Event { wall_time: wall_time_s, step, file_version: None, summary })
    }

    /// Hands everything written so far to the operating system, so that a running TensorBoard sees it.
    ///
    /// # Errors
    /// If the file cannot be written.
    pub fn flush(&mut self) -> Result<()> {
        self.file.flush().map_err(|source| Error::io("write", &self.path, source))
    }

    /// One TFRecord: length, its checksum, the message, its checksum; all little-endian.
    fn write(&mut self, event: &Event) -> Result<()> {
        let message = event.encode_to_vec();
        let length = (message.len() as u64).to_le_bytes();
        let mut record = Vec::with_capacity(message.len() + 16);
        record.extend(length);
        record.extend(masked_crc(&length).to_le_bytes());
        record.extend(&message);
        record.extend(masked_crc(&message).to_le_bytes());
        self.file.write_all(&record).map_err(|source| Error::io("write", &self.path, source))
    }
}

/// TFRecord's checksum: CRC-32C, rotated and shifted so that a checksum of data holding checksums stays sound.
fn masked_crc(bytes: &[u8]) -> u32 {
    crc32c::crc32c(bytes).rotate_right(15).wrapping_add(0xA282_EAD8)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// All whole records of a file, checksums verified.
    fn read(path: &Path) -> Vec<Event> {
        let bytes = fs::read(path).unwrap();
        let (mut rest, mut events) = (&bytes[..], Vec::new());
        while !rest.is_empty() {
            let (length, tail) = rest.split_at(8);
            let (length_crc, tail) = tail.split_at(4);
            assert_eq!(length_crc, masked_crc(length).to_le_bytes());
            let (message, tail) = tail.split_at(u64::from_le_bytes(length.try_into().unwrap()) as usize);
            let (message_crc, tail) = tail.split_at(4);
            assert_eq!(message_crc, masked_crc(message).to_le_bytes());
            events.push(Event::decode(message).unwrap());
            rest = tail;
        }
        events
    }

    fn files(dir: &Path) -> Vec<PathBuf> {
        let mut files: Vec<_> = fs::read_dir(dir).unwrap().map(|entry| entry.unwrap().path()).collect();
        files.sort();
        files
    }

    /// The checksum of RFC 3720 B.4 (32 bytes of zeros), masked by hand; and the bytes of a message as TensorBoard's own
    /// Python package encodes it.
    #[test]
    fn records_are_framed_as_tfrecord_says() {
        assert_eq!(crc32c::crc32c(&[0; 32]), 0x8A91_36AA);
        assert_eq!(masked_crc(&[0; 32]), 0x0FD7_FFFA);
        let event = Event { wall_time: 1.5, step: 3, file_version: Some("brain.Event:2".into()), summary: None };
        let expect = [9, 0, 0, 0, 0, 0, 0, 0xF8, 0x3F, 16, 3, 26, 13];
        assert_eq!(event.encode_to_vec()[..13], expect);
    }

    #[test]
    fn scalars_come_back_in_order_and_earlier_files_stay() {
        let dir = tempfile::tempdir().unwrap();
        let dir = dir.path().join("new/run");
        let mut writer = EventWriter::create(&dir).unwrap();
        writer.scalar("loss/train", 1, 0.5, 1000.25).unwrap();
        writer.scalar("lr", 2, 1e-3, 1001.0).unwrap();
        writer.scalar("loss/train", 3, f64::NAN, 1002.0).unwrap();
        writer.flush().unwrap();
        let first = files(&dir)[0].clone();
        let before = fs::read(&first).unwrap();
        // A resumed run.
        let mut second = EventWriter::create(&dir).unwrap();
        second.scalar("lr", 4, 2.0, 1003.0).unwrap();
        drop(second);
        assert_eq!(files(&dir).len(), 2);
        assert_eq!(fs::read(&first).unwrap(), before);

        let events = read(&first);
        assert_eq!(events[0].file_version.as_deref(), Some("brain.Event:2"));
        let scalars: Vec<_> = events[1..]
            .iter()
            .map(|event| {
                let value = &event.summary.as_ref().unwrap().value[0];
                (value.tag.as_str(), event.step, value.simple_value.unwrap(), event.wall_time)
            })
            .collect();
        assert_eq!(scalars[0], ("loss/train", 1, 0.5, 1000.25));
        assert_eq!(scalars[1], ("lr", 2, 1e-3, 1001.0));
        assert!(scalars[2].2.is_nan());
        let resumed = read(&files(&dir)[1]);
        assert_eq!((resumed.len(), resumed[1].step), (2, 4));
        // Kept for the test with TensorBoard's own reader.
        if let Ok(keep) = std::env::var("FEEDLINE_KEEP_EVENTS") {
            for file in files(&dir) {
                fs::create_dir_all(&keep).unwrap();
                fs::copy(&file, Path::new(&keep).join(file.file_name().unwrap())).unwrap();
            }
        }
    }

    #[test]
    fn a_folder_that_cannot_be_made_is_named() {
        let file = tempfile::NamedTempFile::new().unwrap();
        let text = EventWriter::create(&file.path().join("run")).unwrap_err().to_string();
        assert!(text.contains("failed to make the folder") && text.contains("run"), "{text}");
    }
}
