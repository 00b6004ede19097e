//! Indexes a shard of MosaicML's streaming format (MDS): samples as rows of columns, one of which holds a picture and
//! one its label. Owns the layout, which is that of `streaming/base/format/mds` of mosaicml-streaming 0.13, and the
//! choice of columns.
//!
//! A shard is the number of its samples N (u32), N + 1 offsets (u32), where each sample begins and the last ends, a
//! JSON text with the columns, and the samples. A sample is the sizes (u32) of its columns of variable size, and then
//! all of its columns.

use crate::read::archive::encoding::Encoding;
use crate::read::archive::member::{ArchiveReader, FormatError, Member, Problem};
use serde::Deserialize;
use std::io::{Read, Seek, SeekFrom};

/// Encodings of columns that hold unchanged picture files.
const PICTURES: [&str; 3] = ["jpeg", "png", "jpeg_array"];

/// Accepted names of the label column, where several columns hold whole numbers.
const LABELS: [&str; 5] = ["label", "class", "cls", "target", "y"];

#[derive(Deserialize)]
struct Config {
    column_names: Vec<String>,
    column_encodings: Vec<String>,
    /// `null` where the size differs from sample to sample.
    column_sizes: Vec<Option<u32>>,
}

/// The pictures in the shard, named by their number, with their labels.
pub(in crate::read) fn index(mut reader: ArchiveReader<'_>) -> Result<Vec<Member>, Problem> {
    let size_bytes = reader.size_bytes();
    let samples = u64::from(u32::from_le_bytes(read(&mut reader, 0)?));
    let table_bytes = 4 * (samples + 2);
    if table_bytes > size_bytes {
        return Err(
            FormatError(format!("it is no MDS shard: {samples} samples do not fit into {size_bytes} bytes")).into()
        );
    }
    // Grows with the bytes that arrive, not with the size that is claimed.
    let mut table = Vec::new();
    let read = reader.seek(SeekFrom::Start(0)).and_then(|_| (&mut reader).take(table_bytes).read_to_end(&mut table));
    read.map_err(|e| Problem::of(e, |e| e.to_string()))?;
    let places: Vec<u64> =
        table.as_chunks::<4>().0[1..].iter().map(|place| u64::from(u32::from_le_bytes(*place))).collect();
    let is_sorted = places.is_sorted() && places[0] >= table_bytes && places[places.len() - 1] == size_bytes;
    if !is_sorted {
        return Err(FormatError(
            "it is no MDS shard, damaged or cut: the places of its samples are not in order".into(),
        )
        .into());
    }
    let mut config = vec![0; (places[0] - table_bytes) as usize];
    read_into(&mut reader, table_bytes, &mut config)?;
    let config: Config = serde_json::from_slice(&config).map_err(|e| {
        FormatError(format!("it is no MDS shard, or damaged: its description of the columns is wrong: {e}"))
    })?;
    let columns = Columns::choose(&config)?;
    let mut members = Vec::new();
    let mut sizes = vec![0; 4 * config.column_sizes.iter().filter(|size| size.is_none()).count()];
    for (number, place) in places.array_windows().enumerate() {
        let [start, end] = *place;
        let wrong = |problem: &str| FormatError(format!("sample {number}: {problem}"));
        let body = start + sizes.len() as u64;
        if body > end {
            return Err(wrong("it is too short").into());
        }
        read_into(&mut reader, start, &mut sizes)?;
        let mut variable = sizes.as_chunks::<4>().0.iter().map(|size| u32::from_le_bytes(*size));
        let mut at = body;
        let parts: Vec<(u64, u64)> = config
            .column_sizes
            .iter()
            .map(|size| {
                let (start, size) = (at, u64::from(size.or_else(|| variable.next()).unwrap_or_default()));
                at += size;
                (start, size)
            })
            .collect();
        let ((start, stored_bytes), (label_at, label_bytes)) = (parts[columns.picture], parts[columns.label]);
        if at != end {
            return Err(wrong("its columns do not add up to its size").into());
        }
        let mut word = [0; 8];
        let Some(word_part) = word.get_mut(..label_bytes as usize) else {
            return Err(wrong("its label has more than eight bytes").into());
        };
        read_into(&mut reader, label_at, word_part)?;
        let is_negative = label_bytes > 0
            && word[label_bytes as usize - 1] >= 0x80
            && config.column_encodings[columns.label].starts_with("int");
        let Some(class) = u32::try_from(u64::from_le_bytes(word)).ok().filter(|_| !is_negative) else {
            return Err(wrong("its label is negative or too large").into());
        };
        let name = format!("{number:07}");
        members.push(Member { name, start, stored_bytes, encoding: Encoding::Plain, class: Some(class) });
    }
    Ok(members)
}

/// The columns that are read.
struct Columns {
    picture: usize,
    label: usize,
}

impl Columns {
    fn choose(config: &Config) -> Result<Columns, FormatError> {
        let Config { column_names, column_encodings, column_sizes } = config;
        if column_names.len() != column_encodings.len() || column_names.len() != column_sizes.len() {
            return Err(FormatError("it is damaged: its columns have not as many names as kinds and sizes".into()));
        }
        let columns = || column_encodings.iter().enumerate();
        let of = |is: &dyn Fn(&str) -> bool| -> Vec<usize> {
            columns().filter(|(_, encoding)| is(encoding)).map(|(at, _)| at).collect()
        };
        let mut pictures = of(&|encoding| PICTURES.contains(&encoding));
        if pictures.is_empty() {
            pictures = of(&|encoding| encoding == "bytes");
        }
        let mut labels = of(&|encoding| {
            let digits = encoding.trim_start_matches("uint").trim_start_matches("int");
            digits.len() < encoding.len() && ["", "8", "16", "32", "64"].contains(&digits)
        });
        if labels.len() > 1 {
            labels.retain(|at| LABELS.contains(&&*column_names[*at]));
        }
        match (&*pictures, &*labels) {
            ([picture], [label]) => Ok(Columns { picture: *picture, label: *label }),
            _ => {
                let found: Vec<String> =
                    columns().map(|(at, encoding)| format!("{}: {encoding}", column_names[at])).collect();
                Err(FormatError(format!(
                    "its columns are {}; one of jpeg, png or bytes must hold the picture, and one of whole numbers (of \
                     several the one called label, class, cls, target or y) its label",
                    found.join(", ")
                )))
            }
        }
    }
}

fn read<const N: usize>(reader: &mut ArchiveReader<'_>, at: u64) -> Result<[u8; N], Problem> {
    let mut bytes = [0; N];
    read_into(reader, at, &mut bytes).map(|()| bytes)
}

fn read_into(reader: &mut ArchiveReader<'_>, at: u64, into: &mut [u8]) -> Result<(), Problem> {
    let read = reader.seek(SeekFrom::Start(at)).and_then(|_| reader.read_exact(into));
    read.map_err(|e| {
        Problem::of(e, |_| format!("it is no MDS shard, or cut: it ends before byte {}", at + into.len() as u64))
    })
}
