//! Indexes a zip archive, or NumPy's `.npz`, by reading only the directory at its end. Owns what is refused, and the
//! decoding of members; the crate `rawzip` reads the directory.
//!
//! The position of a member's bytes is in a header right before them, which is read together with them: to read a
//! million headers first would take a million requests.

use crate::read::archive::encoding::{Encoding, ZipEntry};
use crate::read::archive::member::{ArchiveReader, FormatError, Member, Problem, clean_name, is_of_macos};
use crate::read::source::ReadError;
use rawzip::{CompressionMethod, ReaderAt, ZipArchive};
use std::cell::RefCell;
use std::io;
use zlib_rs::{Inflate, InflateFlush, Status};

/// Size of the fixed part of a member's header.
pub(in crate::read) const HEADER_BYTES: u64 = 30;

/// Maximum size of the extra field behind the name in a header.
const EXTRA_BYTES_MAX: u64 = 65_535;

/// Maximum memory that a thread keeps from one member to the next.
const KEPT_BYTES_MAX: usize = 32 << 20;

/// An archive that is read from its end.
struct FromEnd<'a>(RefCell<(ArchiveReader<'a>, Option<ReadError>)>);

impl ReaderAt for FromEnd<'_> {
    fn read_at(&self, into: &mut [u8], offset: u64) -> io::Result<usize> {
        let (reader, failure) = &mut *self.0.borrow_mut();
        match reader.from(offset, true) {
            Ok(rest) => {
                let count = rest.len().min(into.len());
                into[..count].copy_from_slice(&rest[..count]);
                Ok(count)
            }
            Err(error) => {
                *failure = Some(error.clone());
                Err(io::Error::other(error))
            }
        }
    }
}

/// The files in the archive.
pub(in crate::read) fn index(reader: ArchiveReader<'_>) -> Result<Vec<Member>, Problem> {
    let size = reader.size_bytes();
    let reader = FromEnd(RefCell::new((reader, None)));
    let mut buffer = vec![0; rawzip::RECOMMENDED_BUFFER_SIZE];
    let failed = |e: rawzip::Error| match reader.0.borrow_mut().1.take() {
        Some(error) => Problem::Read(error),
        None => Problem::Format(format!("it is no zip archive, damaged or cut: {e}")),
    };
    let located = ZipArchive::with_max_search_space(1 << 20).locate_in_reader(&reader, &mut buffer, size);
    let archive = located.map_err(|(_, e)| failed(e))?;
    let mut members: Vec<Member> = Vec::new();
    let mut entries = archive.entries(&mut buffer);
    while let Some(entry) = entries.next_entry().map_err(failed)? {
        let path = entry.file_path();
        let path: &[u8] = path.as_ref();
        if entry.is_dir() || is_of_macos(path) {
            continue;
        }
        let name = clean_name(path)?;
        if entry.mode().is_symlink() {
            return Err(FormatError(format!("the member {name} is a link")).into());
        }
        if entry.flags().is_encrypted() {
            return Err(FormatError(format!("the member {name} is encrypted")).into());
        }
        let is_deflated = match entry.compression_method() {
            CompressionMethod::STORE => false,
            CompressionMethod::DEFLATE => true,
            other => {
                let problem = format!("the member {name} is compressed by {other:?}; only Deflate is understood");
                return Err(FormatError(problem).into());
            }
        };
        let (packed_bytes, size_bytes) = (entry.compressed_size_hint(), entry.uncompressed_size_hint());
        let packed = ZipEntry { packed_bytes, size_bytes, crc32: entry.crc32(), is_deflated };
        packed.check(&name).map_err(FormatError)?;
        let start = entry.local_header_offset();
        let stored_bytes = (HEADER_BYTES + path.len() as u64 + EXTRA_BYTES_MAX).saturating_add(packed_bytes);
        members.push(Member { name, start, stored_bytes, encoding: Encoding::Zip(packed), class: None });
    }
    // A member ends where the next one or the directory begins. Overlapping members would be a zip bomb.
    members.sort_by_key(|member| member.start);
    let mut end = archive.directory_offset();
    for member in members.iter_mut().rev() {
        let Encoding::Zip(packed) = member.encoding else { continue };
        let room = end.saturating_sub(member.start);
        if packed.packed_bytes.checked_add(HEADER_BYTES).is_none_or(|least| least > room) {
            let problem = format!("the member {} overlaps what follows it, or claims too many bytes", member.name);
            return Err(FormatError(problem).into());
        }
        member.stored_bytes = member.stored_bytes.min(room);
        end = member.start;
    }
    Ok(members)
}

thread_local! {
    static SCRATCH: RefCell<(Inflate, Vec<u8>)> = RefCell::new((Inflate::new(false, 15), Vec::new()));
}

/// Start of a member's bytes, given its header.
pub(in crate::read) fn data_start(header: &[u8]) -> Option<usize> {
    let word = |at: usize| header.get(at..at + 2).map(|two| usize::from(u16::from_le_bytes([two[0], two[1]])));
    Some(HEADER_BYTES as usize + word(26)? + word(28)?).filter(|_| header.starts_with(b"PK\x03\x04"))
}

/// Decodes a header and the bytes behind it to the file, in place.
///
/// # Errors
/// A damaged member, in words.
pub(in crate::read) fn unpack(packed: ZipEntry, bytes: &mut Vec<u8>) -> Result<(), String> {
    let Some(start) = data_start(bytes) else {
        return Err("it is no member of a zip archive: its header is damaged".into());
    };
    let data = start..start.saturating_add(packed.packed_bytes as usize);
    if bytes.get(data.clone()).is_none() {
        return Err("the header of the member in its zip archive is damaged: too little follows it".into());
    }
    if packed.is_deflated {
        let is_whole = SCRATCH.with_borrow_mut(|(inflate, unpacked)| {
            unpacked.clear();
            unpacked.resize(packed.size_bytes as usize, 0);
            inflate.reset(false);
            let status = inflate.decompress(&bytes[data], unpacked, InflateFlush::Finish);
            std::mem::swap(bytes, unpacked);
            if unpacked.capacity() > KEPT_BYTES_MAX {
                *unpacked = Vec::new();
            }
            status == Ok(Status::StreamEnd)
                && inflate.total_in() == packed.packed_bytes
                && inflate.total_out() == packed.size_bytes
        });
        if !is_whole {
            return Err("it does not unpack to what its zip archive says: it is damaged".into());
        }
    } else {
        bytes.copy_within(data, 0);
        bytes.truncate(packed.packed_bytes as usize);
    }
    check_sum(packed, bytes)
}

/// Checks the file against its checksum.
///
/// # Errors
/// Both checksums, in words.
pub(in crate::read) fn check_sum(packed: ZipEntry, bytes: &[u8]) -> Result<(), String> {
    match crc32fast::hash(bytes) {
        sum if sum == packed.crc32 => Ok(()),
        sum => Err(format!("its checksum is {sum:08x}, the zip archive says {:08x}: it is damaged", packed.crc32)),
    }
}
