//! To be written.
use super::{DbObject, Frame};
use feedline::read::{FileList, Storage};
use feedline::{Error, Result};
use std::path::Path;

pub fn read_infos(root: &Path, names: &[String], storage: &Storage) -> Result<Vec<Frame>> {
    lines(root, names, storage)
}
pub fn read_db(root: &Path, names: &[String], storage: &Storage) -> Result<Vec<DbObject>> {
    lines(root, names, storage)
}
fn lines<T: serde::de::DeserializeOwned>(root: &Path, names: &[String], storage: &Storage) -> Result<Vec<T>> {
    let mut all = Vec::new();
    for name in names {
        let path = root.join(name).with_extension("jsonl");
        let list = FileList::of_paths(vec![path.clone()], storage, |_| Error::dataset(&path, "missing", ""))?;
        for line in String::from_utf8_lossy(&list.read_whole(0)?).lines() {
            all.push(serde_json::from_str(line).map_err(|e| Error::dataset(&path, e.to_string(), ""))?);
        }
    }
    Ok(all)
}
pub(super) fn parse_plane(bytes: &[u8]) -> Result<[f64; 4], String> {
    let text = std::str::from_utf8(bytes).map_err(|e| e.to_string())?;
    let line = text.lines().nth(3).ok_or("no line 4")?;
    let values: Vec<f64> = line.split_whitespace().filter_map(|word| word.parse().ok()).collect();
    let [a, b, c, d] = values[..] else { return Err("not four numbers".into()) };
    let norm = (a * a + b * b + c * c).sqrt() * if b > 0.0 { -1.0 } else { 1.0 };
    Ok([a / norm, b / norm, c / norm, d / norm])
}
