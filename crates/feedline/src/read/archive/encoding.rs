//! The encodings of a file in an archive (plain, behind a zip header, in a Parquet page), and their text in an index.

#[cfg(feature = "parquet")]
use super::parquet_value::ParquetValue;

/// The encoding of a file in an archive.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Encoding {
    /// Stored as it is.
    Plain,
    /// Behind a header of its own, perhaps compressed, with a checksum.
    Zip(ZipEntry),
    /// In a page of a Parquet file.
    #[cfg(feature = "parquet")]
    Parquet(ParquetValue),
}

impl Encoding {
    /// Size of the decoded file; `stored_bytes` is its size in the archive.
    pub(in crate::read) fn size_bytes(self, stored_bytes: u64) -> u64 {
        match self {
            Encoding::Plain => stored_bytes,
            Encoding::Zip(packed) => packed.size_bytes,
            #[cfg(feature = "parquet")]
            Encoding::Parquet(packed) => packed.size_bytes(),
        }
    }

    pub(super) fn to_text(self) -> String {
        match self {
            Encoding::Plain => "-".to_owned(),
            Encoding::Zip(packed) => packed.to_text(),
            #[cfg(feature = "parquet")]
            Encoding::Parquet(packed) => packed.to_text(),
        }
    }

    pub(super) fn parse(text: &str) -> Option<Encoding> {
        if text == "-" {
            return Some(Encoding::Plain);
        }
        let encoding = ZipEntry::parse(text).map(Encoding::Zip);
        #[cfg(feature = "parquet")]
        let encoding = encoding.or_else(|| ParquetValue::parse(text).map(Encoding::Parquet));
        encoding
    }

    /// True for the class names that an archive brings, which are no sample and no member in their own right.
    pub(in crate::read) fn is_class_names(self) -> bool {
        match self {
            #[cfg(feature = "parquet")]
            Encoding::Parquet(ParquetValue::Names { .. }) => true,
            _ => false,
        }
    }
}

/// Deflate expands one byte to at most this many, so a directory that promises more is damaged or hostile.
const BYTES_PER_BYTE_MAX: u64 = 1032;

/// Maximum size of an unpacked sample.
const UNPACKED_BYTES_MAX: u64 = 1 << 30;

/// The encoding of a zip member.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct ZipEntry {
    /// Bytes behind the header.
    pub packed_bytes: u64,
    /// Size of the file.
    pub size_bytes: u64,
    /// Checksum of the file.
    pub crc32: u32,
    /// True for Deflate; else it is stored uncompressed.
    pub is_deflated: bool,
}

impl ZipEntry {
    fn to_text(self) -> String {
        let how = if self.is_deflated { "deflated" } else { "stored" };
        format!("{how}:{}:{}:{:08x}", self.packed_bytes, self.size_bytes, self.crc32)
    }

    /// Rejects sizes that Deflate cannot reach.
    fn parse(text: &str) -> Option<ZipEntry> {
        let mut parts = text.split(':');
        let is_deflated = match parts.next()? {
            "deflated" => true,
            "stored" => false,
            _ => return None,
        };
        let (packed_bytes, size_bytes) = (parts.next()?.parse().ok()?, parts.next()?.parse().ok()?);
        let crc32 = u32::from_str_radix(parts.next()?, 16).ok()?;
        let packed = ZipEntry { packed_bytes, size_bytes, crc32, is_deflated };
        packed.check("").ok().filter(|()| parts.next().is_none())?;
        Some(packed)
    }

    pub(super) fn check(self, name: &str) -> Result<(), String> {
        let ZipEntry { packed_bytes, size_bytes, is_deflated, .. } = self;
        let claims = || format!("the member {name} claims to be {size_bytes} bytes, packed into {packed_bytes}");
        if !is_deflated && size_bytes != packed_bytes {
            return Err(format!("{}, though it is not compressed", claims()));
        }
        if is_deflated && size_bytes > packed_bytes.saturating_mul(BYTES_PER_BYTE_MAX) {
            return Err(format!("{}, which cannot be", claims()));
        }
        if is_deflated && size_bytes > UNPACKED_BYTES_MAX {
            return Err(format!("{}; more than {UNPACKED_BYTES_MAX} bytes are not unpacked", claims()));
        }
        Ok(())
    }
}
