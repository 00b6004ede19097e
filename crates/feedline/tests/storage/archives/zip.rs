//! Zip archives written by hand, since some of them are invalid.

use zlib_rs::{Deflate, DeflateFlush};

#[derive(Clone)]
pub struct Entry {
    pub name: String,
    pub content: Vec<u8>,
    pub is_deflated: bool,
    pub extra: Vec<u8>,
    pub mode: u32,
    pub flags: u16,
    pub method: Option<u16>,
    pub claims: Option<u32>,
    pub packed_claims: Option<u32>,
    pub at: Option<u32>,
}

impl Entry {
    pub fn new(name: &str, content: &[u8]) -> Entry {
        Entry {
            name: name.into(),
            content: content.into(),
            is_deflated: false,
            extra: Vec::new(),
            mode: 0o100_644,
            flags: 0,
            method: None,
            claims: None,
            packed_claims: None,
            at: None,
        }
    }
}

/// As PKWARE's APPNOTE 6.3.10 says.
pub fn written(entries: &[Entry]) -> Vec<u8> {
    let (mut bytes, mut directory) = (Vec::new(), Vec::new());
    for entry in entries {
        let mut packed = entry.content.clone();
        if entry.is_deflated {
            packed = vec![0; entry.content.len() + 100];
            let mut deflate = Deflate::new(6, false, 15);
            deflate.compress(&entry.content, &mut packed, DeflateFlush::Finish).unwrap();
            packed.truncate(deflate.total_out() as usize);
        }
        let method = entry.method.unwrap_or(if entry.is_deflated { 8 } else { 0 });
        let at = entry.at.unwrap_or(bytes.len() as u32);
        let (crc, name) = (crc32fast::hash(&entry.content), entry.name.as_bytes());
        let sizes =
            [entry.packed_claims.unwrap_or(packed.len() as u32), entry.claims.unwrap_or(entry.content.len() as u32)];
        let common = |into: &mut Vec<u8>, extra: usize| {
            for word in [20, entry.flags, method, 0, 0x5921] {
                into.extend(word.to_le_bytes());
            }
            for word in [crc, sizes[0], sizes[1]] {
                into.extend(word.to_le_bytes());
            }
            into.extend((name.len() as u16).to_le_bytes());
            into.extend((extra as u16).to_le_bytes());
        };
        bytes.extend(b"PK\x03\x04");
        common(&mut bytes, entry.extra.len());
        bytes.extend([name, &entry.extra, &packed].concat());
        directory.extend(b"PK\x01\x02\x14\x03"); // made by Unix
        common(&mut directory, 0);
        directory.extend([0; 6]); // no comment, first disk, binary
        directory.extend((entry.mode << 16).to_le_bytes());
        directory.extend(at.to_le_bytes());
        directory.extend(name);
    }
    let start = bytes.len() as u32;
    bytes.extend(&directory);
    bytes.extend(b"PK\x05\x06\0\0\0\0");
    for _ in 0..2 {
        bytes.extend((entries.len() as u16).to_le_bytes());
    }
    bytes.extend((directory.len() as u32).to_le_bytes());
    bytes.extend(start.to_le_bytes());
    bytes.extend([0; 2]);
    bytes
}
