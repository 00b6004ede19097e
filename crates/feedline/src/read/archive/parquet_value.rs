//! The encoding of a file in a page of a Parquet file, and its text in an index.

/// Maximum size of a page, packed or unpacked.
pub(super) const PAGE_BYTES_MAX: u32 = 1 << 30;

/// The compression of pages, as `parquet.thrift` numbers it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Codec {
    Snappy = 1,
    Gzip = 2,
    Zstd = 6,
    Lz4 = 7,
}

pub(super) const CODECS: [(Codec, &str); 4] =
    [(Codec::Snappy, "snappy"), (Codec::Gzip, "gzip"), (Codec::Zstd, "zstd"), (Codec::Lz4, "lz4")];

/// The encoding of a file in a Parquet file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum ParquetValue {
    /// A range of the unpacked page.
    Value { codec: Codec, page_bytes: u32, at: u32, size_bytes: u32 },
    /// The class names, one per line, from the JSON description that has this checksum; `feature` is the index of the
    /// label among the features, sorted by name.
    Names { feature: u32, size_bytes: u32, crc32: u32 },
}

impl ParquetValue {
    pub(super) fn size_bytes(self) -> u64 {
        match self {
            ParquetValue::Value { size_bytes, .. } | ParquetValue::Names { size_bytes, .. } => size_bytes.into(),
        }
    }

    pub(super) fn to_text(self) -> String {
        match self {
            ParquetValue::Value { codec, page_bytes, at, size_bytes } => {
                let name = CODECS.iter().find(|(known, _)| *known == codec).map_or("", |(_, name)| name);
                format!("{name}:{page_bytes}:{at}:{size_bytes}")
            }
            ParquetValue::Names { feature, size_bytes, crc32 } => format!("names:{feature}:{size_bytes}:{crc32}"),
        }
    }

    pub(super) fn parse(text: &str) -> Option<ParquetValue> {
        let mut parts = text.split(':');
        let kind = parts.next()?;
        let numbers: Option<Vec<u32>> = parts.map(|part| part.parse().ok()).collect();
        match (kind, numbers?.as_slice()) {
            ("names", &[feature, size_bytes, crc32]) => Some(ParquetValue::Names { feature, size_bytes, crc32 }),
            (name, &[page_bytes, at, size_bytes]) => {
                let (codec, _) = CODECS.iter().find(|(_, known)| *known == name)?;
                let is_inside = u64::from(at) + u64::from(size_bytes) <= u64::from(page_bytes.min(PAGE_BYTES_MAX));
                is_inside.then_some(ParquetValue::Value { codec: *codec, page_bytes, at, size_bytes })
            }
            _ => None,
        }
    }
}
