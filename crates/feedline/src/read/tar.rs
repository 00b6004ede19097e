//! What is in a tar archive. Owns which entries are files, and the grouping of WebDataset; the headers are read by the
//! crate `tar`.

use super::archive::{Member, Packing, Problem, Windows, Wrong, clean_name};
use super::image_list::is_picture;
use std::collections::HashMap;
use std::io::{self, Read};
use std::path::Path;
use tar::EntryType;

/// What holds the label of a sample in WebDataset's archives: a number, as text.
const LABEL_EXTENSION: &str = "cls";

/// No label is longer.
const LABEL_BYTES_MAX: u64 = 32;

/// The files in the archive, in its order. Labels in members of their own (`key.cls`) are those of the pictures with
/// the same key.
pub(super) fn index(windows: Windows<'_>) -> Result<Vec<Member>, Problem> {
    let mut archive = tar::Archive::new(windows);
    let mut members: Vec<Member> = Vec::new();
    let mut labels: HashMap<String, u32> = HashMap::new();
    let failed = |e: io::Error, after: Option<&Member>| {
        Problem::of(e, |e| match after {
            None => format!("it is no tar archive: {e}"),
            Some(member) => format!("it is damaged or cut after the member {}: {e}", member.name),
        })
    };
    for entry in archive.entries_with_seek().map_err(|e| failed(e, None))? {
        let mut entry = entry.map_err(|e| failed(e, members.last()))?;
        let path = entry.path_bytes().into_owned();
        let kind = match entry.header().entry_type() {
            EntryType::Directory | EntryType::XGlobalHeader => continue,
            EntryType::Regular | EntryType::Continuous => None,
            EntryType::Link | EntryType::Symlink => Some("a link"),
            EntryType::GNUSparse => Some("a sparse file"),
            _ => Some("no file"),
        };
        if let Some(kind) = kind {
            return Err(Wrong(format!("the member {} is {kind}", String::from_utf8_lossy(&path))).into());
        }
        let name = clean_name(&path)?;
        if let (key, LABEL_EXTENSION) = key_and_extension(&name) {
            let mut text = String::new();
            let read = (&mut entry).take(LABEL_BYTES_MAX).read_to_string(&mut text);
            let label = match read {
                Err(e) if e.kind() != io::ErrorKind::InvalidData => return Err(failed(e, members.last())),
                _ if entry.size() > LABEL_BYTES_MAX => None,
                _ => text.trim().parse().ok(),
            };
            let Some(label) = label else {
                return Err(Wrong(format!("the member {name} is no label: a whole number from 0 on, as text")).into());
            };
            labels.insert(key.to_owned(), label);
        }
        let (start, stored_bytes) = (entry.raw_file_position(), entry.size());
        members.push(Member { name, start, stored_bytes, packing: Packing::Plain, class: None });
    }
    if !labels.is_empty() {
        label(&mut members, labels)?;
    }
    Ok(members)
}

/// Gives each picture the label of its key, and leaves out the labels.
fn label(members: &mut Vec<Member>, mut labels: HashMap<String, u32>) -> Result<(), Wrong> {
    let mut last = None;
    members.sort_by(|a, b| a.name.cmp(&b.name));
    for member in &mut *members {
        let (key, _) = key_and_extension(&member.name);
        if !is_picture(Path::new(&member.name)) {
            continue;
        }
        match labels.remove(key) {
            Some(class) => member.class = Some(class),
            None if last.as_deref() == Some(key) => {
                return Err(Wrong(format!("the sample {key} has two pictures, the second is {}", member.name)));
            }
            None => return Err(Wrong(format!("the picture {} has no label: there is no {key}.cls", member.name))),
        }
        last = Some(key.to_owned());
    }
    match labels.keys().min() {
        Some(key) => Err(Wrong(format!("the label {key}.cls has no picture (.jpg, .jpeg, .png)"))),
        None => {
            members.retain(|member| member.class.is_some());
            Ok(())
        }
    }
}

/// The key of a sample is all before the first dot of the file's name, as in WebDataset; the extension all behind the
/// last one.
fn key_and_extension(name: &str) -> (&str, &str) {
    let file = name.rfind('/').map_or(0, |at| at + 1);
    let key = name[file..].find('.').map_or(name, |at| &name[..file + at]);
    (key, name[key.len()..].rsplit_once('.').map_or("", |(_, extension)| extension))
}
