//! What is in a tar archive. Owns which entries are files, and the grouping of WebDataset; the headers are read by the
//! crate `tar`.
#![expect(clippy::disallowed_types, reason = "labels are looked up by key; of those left over the smallest is named")]

use crate::read::archive::encoding::Encoding;
use crate::read::archive::member::{ArchiveReader, FormatError, Member, Problem, clean_name, is_of_macos};
use crate::read::names::is_picture;
use crate::read::remarks::Remarks;
use crate::read::source::ReadError;
use crate::read::text::without_bom;
use std::collections::HashMap;
use std::io::{self, Read};
use std::path::Path;
use tar::EntryType;

/// Extension of the member that holds a sample's label in WebDataset's archives: a number, as text.
const LABEL_EXTENSION: &str = "cls";

/// Maximum length of a label.
const LABEL_BYTES_MAX: u64 = 32;

/// Part of the placeholder name that GNU tar gives to a sparse member, for readers that do not know its true name.
const SPARSE: &str = "GNUSparseFile.";

/// Size of a header; members are padded to a multiple of it.
const BLOCK_BYTES: u64 = 512;

/// True if a member may be a sparse one whose true name is unknown.
pub(in crate::read) fn may_be_sparse(name: &str) -> bool {
    name.split('/').any(|part| part.starts_with(SPARSE))
}

/// The files in the archive, in its order. A label in a member of its own (`key.cls`) belongs to the picture with the
/// same key.
pub(in crate::read) fn index(reader: ArchiveReader<'_>, remarks: &mut Remarks) -> Result<Vec<Member>, Problem> {
    let name_of_archive = reader.name();
    let mut archive = tar::Archive::new(reader);
    let mut members: Vec<Member> = Vec::new();
    let mut labels: HashMap<String, u32> = HashMap::new();
    let mut end = 0;
    let failed = |e: io::Error, after: Option<&Member>| {
        Problem::of(e, |e| match after {
            None => format!("it is no tar archive: {e}"),
            Some(member) => format!("it is damaged or cut after the member {}: {e}", member.name),
        })
    };
    for entry in archive.entries_with_seek().map_err(|e| failed(e, None))? {
        let mut entry = entry.map_err(|e| failed(e, members.last()))?;
        let padded_bytes = entry.size().checked_next_multiple_of(BLOCK_BYTES).unwrap_or(u64::MAX);
        end = entry.raw_file_position().saturating_add(padded_bytes);
        let path = entry.path_bytes().into_owned();
        if let Some(name) = sparse(&mut entry).map_err(|e| failed(e, members.last()))? {
            // Records that apply to all members that follow have no name.
            let name = if name.is_empty() { String::from_utf8_lossy(&path).into_owned() } else { name };
            let problem = format!("the member {name} is a sparse file; write the archive without --sparse");
            return Err(FormatError(problem).into());
        }
        let kind = match entry.header().entry_type() {
            EntryType::Directory => continue,
            EntryType::XGlobalHeader => {
                let decides = |key: &[u8]| matches!(key, b"path" | b"size" | b"linkpath");
                let records = entry.pax_extensions().map_err(|e| failed(e, members.last()))?;
                let mut keys = records.into_iter().flatten().flatten().map(|record| record.key_bytes());
                if let Some(key) = keys.find(|key| decides(key)) {
                    let key = String::from_utf8_lossy(key);
                    return Err(FormatError(format!(
                        "it gives all members that follow one {key}, which is not understood"
                    ))
                    .into());
                }
                continue;
            }
            EntryType::Regular | EntryType::Continuous => None,
            EntryType::Link | EntryType::Symlink => Some("a link"),
            EntryType::GNUSparse => Some("a sparse file"),
            _ => Some("no file"),
        };
        if is_of_macos(&path) {
            continue;
        }
        if let Some(kind) = kind {
            return Err(FormatError(format!("the member {} is {kind}", String::from_utf8_lossy(&path))).into());
        }
        let name = clean_name(&path)?;
        if let Some(key) = labelled_key(&name) {
            let mut text = String::new();
            let read = (&mut entry).take(LABEL_BYTES_MAX).read_to_string(&mut text);
            let label = match read {
                Err(e) if e.kind() != io::ErrorKind::InvalidData => return Err(failed(e, members.last())),
                _ if entry.size() > LABEL_BYTES_MAX => None,
                _ => without_bom(&text).trim().parse().ok(),
            };
            let Some(label) = label else {
                return Err(
                    FormatError(format!("the member {name} is no label: a whole number from 0 on, as text")).into()
                );
            };
            if labels.insert(key.to_owned(), label).is_some() {
                return Err(FormatError(format!("the sample {key} has two labels, the second is {name}")).into());
            }
        }
        let (start, stored_bytes) = (entry.raw_file_position(), entry.size());
        members.push(Member { name, start, stored_bytes, encoding: Encoding::Plain, class: None });
    }
    remark_end(archive.into_inner(), end, remarks)?;
    if !labels.is_empty() {
        label(&mut members, labels, name_of_archive, remarks)?;
    }
    Ok(members)
}

/// The true name of a member that is a sparse file by its own records, as `tar --sparse --format=pax` writes them;
/// empty if the records do not give it. `None` for other members.
fn sparse(entry: &mut tar::Entry<'_, impl Read>) -> io::Result<Option<String>> {
    let mut found = None;
    // A record that cannot be parsed may be an attribute of arbitrary bytes.
    for record in entry.pax_extensions()?.into_iter().flatten().flatten() {
        if record.key_bytes().starts_with(b"GNU.sparse.") {
            let name = found.get_or_insert_default();
            if record.key_bytes() == b"GNU.sparse.name" {
                *name = String::from_utf8_lossy(record.value_bytes()).into_owned();
            }
        }
    }
    Ok(found)
}

/// Checks the end mark behind the last member, which ends at `end`: two blocks of zeros, and only zeros behind them.
fn remark_end(mut reader: ArchiveReader<'_>, end: u64, remarks: &mut Remarks) -> Result<(), ReadError> {
    let size_bytes = reader.size_bytes();
    let mut at = end;
    while at < size_bytes {
        let rest = reader.from(at, false)?;
        if let Some(place) = rest.iter().position(|byte| *byte != 0) {
            let place = at + place as u64;
            remarks.note(
                "archives that go on behind their end mark, which is not read (were several joined into one?)",
                format!("{} at byte {place}", reader.name()),
            );
            break;
        }
        at += rest.len().max(1) as u64;
    }
    if size_bytes < end.saturating_add(2 * BLOCK_BYTES) {
        remarks.note("archives without an end mark, as those are that were cut", reader.name());
    }
    Ok(())
}

/// Gives each picture the label of its key, and drops the label members.
fn label(
    members: &mut Vec<Member>,
    mut labels: HashMap<String, u32>,
    archive: &str,
    remarks: &mut Remarks,
) -> Result<(), FormatError> {
    let mut last = None;
    members.sort_by(|a, b| a.name.cmp(&b.name));
    for member in &mut *members {
        let (key, extension) = key_and_extension(&member.name);
        if !is_picture(Path::new(&member.name)) {
            if labelled_key(&member.name).is_none() {
                remarks.leave_out(&format!("*.{extension}"), format_args!("{archive}/{}", member.name));
            }
            continue;
        }
        match labels.remove(key) {
            Some(class) => member.class = Some(class),
            None if last.as_deref() == Some(key) => {
                return Err(FormatError(format!("the sample {key} has two pictures, the second is {}", member.name)));
            }
            None => {
                return Err(FormatError(format!("the picture {} has no label: there is no {key}.cls", member.name)));
            }
        }
        last = Some(key.to_owned());
    }
    match labels.keys().min() {
        Some(key) => Err(FormatError(format!("the label {key}.cls has no picture (.jpg, .jpeg, .png)"))),
        None => {
            members.retain(|member| member.class.is_some());
            Ok(())
        }
    }
}

/// Key and extension of a sample: all before and all behind the first dot of the file's name, as in WebDataset.
fn key_and_extension(name: &str) -> (&str, &str) {
    let file = name.rfind('/').map_or(0, |at| at + 1);
    match name[file..].find('.') {
        None => (name, ""),
        Some(at) => (&name[..file + at], &name[file + at + 1..]),
    }
}

/// The key of a member that holds a label: `key.cls`, and not `key.fine.cls`.
fn labelled_key(name: &str) -> Option<&str> {
    let (key, extension) = key_and_extension(name);
    extension.eq_ignore_ascii_case(LABEL_EXTENSION).then_some(key)
}
