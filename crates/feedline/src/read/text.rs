//! Text files as people and their editors write them. All text that this project reads passes through here: a byte
//! order mark is removed, and anything but UTF-8 is refused.

use crate::error::{Error, Result};
use std::fs;
use std::path::Path;

/// Text without the byte order mark that some editors add.
pub(crate) fn without_bom(text: &str) -> &str {
    text.strip_prefix('\u{feff}').unwrap_or(text)
}

/// The bytes of a file as text, without a byte order mark.
///
/// # Errors
/// Bytes that are not UTF-8 text, in words.
pub fn text_in(bytes: Vec<u8>) -> Result<String, String> {
    if let [0xff, 0xfe, ..] | [0xfe, 0xff, ..] = bytes[..] {
        return Err("the text is in UTF-16".into());
    }
    let text = match String::from_utf8(bytes) {
        Ok(text) => text,
        Err(e) => return Err(format!("the text is not UTF-8: byte {} is none", e.utf8_error().valid_up_to())),
    };
    if let Some(at) = text.find('\0') {
        return Err(format!("it is no text, or not in UTF-8: byte {at} is 0"));
    }
    Ok(match without_bom(&text).len() {
        len if len == text.len() => text,
        len => text[text.len() - len..].to_owned(),
    })
}

/// As [`text_in`]; the error names the file.
///
/// # Errors
/// Bytes that are no text.
pub fn text_of(bytes: Vec<u8>, file: &Path) -> Result<String> {
    text_in(bytes).map_err(|problem| Error::dataset(file, problem, "Save the file in UTF-8"))
}

/// The text of a local file, which need not be on disk: a pipe is read to its end.
///
/// # Errors
/// Any error of the file system; bytes that are not text.
pub fn read_text(file: &Path) -> Result<String> {
    text_of(fs::read(file).map_err(|e| Error::io("read", file, e))?, file)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_byte_order_mark_is_no_part_of_the_text_and_other_encodings_are_refused() {
        for (bytes, text) in [
            (&b"Car 1\r\n"[..], "Car 1\r\n"),
            (b"\xef\xbb\xbfCar", "Car"),
            (b"\xef\xbb\xbf", ""),
            (b"", ""),
            ("猫\u{feff}".as_bytes(), "猫\u{feff}"),
        ] {
            assert_eq!(text_in(bytes.to_vec()).unwrap(), text);
        }
        let utf16 = |mark: &[u8], order: fn(u16) -> [u8; 2]| {
            [mark, &"Car".encode_utf16().flat_map(order).collect::<Vec<_>>()].concat()
        };
        for (bytes, words) in [
            (utf16(b"\xff\xfe", u16::to_le_bytes), "UTF-16"),
            (utf16(b"\xfe\xff", u16::to_be_bytes), "UTF-16"),
            (utf16(b"", u16::to_le_bytes), "byte 1 is 0"),
            (b"Car\xe9".to_vec(), "not UTF-8: byte 3 is none"),
        ] {
            let error = text_of(bytes, Path::new("list.txt")).unwrap_err().to_string();
            assert!(
                error.contains(words) && error.contains("list.txt") && error.contains("Save the file in UTF-8"),
                "{error}"
            );
        }
    }
}
