//! The parsers: for each its corpus, its dictionary, and the properties that must hold for any input. Owns their table;
//! each family has a file of its own next to this one.
//!
//! A target's behaviour depends on the input's bytes alone, so that a file reproduces a failure.

mod archives;
mod arrays;
mod lidar;
mod pictures;
mod runs;
mod texts;

use crate::Flags;
use crate::mutate::Mend;
use crate::pillow::Pillow;
use feedline::decode::RgbImage;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};

/// A parser under test.
pub struct Target {
    pub name: &'static str,
    /// Its share of the time.
    pub weight: u32,
    pub seeds: fn() -> io::Result<Vec<Vec<u8>>>,
    /// Dictionary: byte strings that mutations insert.
    pub words: &'static [&'static [u8]],
    pub mend: Mend,
    /// No input is longer.
    pub most_bytes: usize,
    /// Memory allowed for each byte of the input, besides 64 MiB.
    pub bytes_per_byte: usize,
    pub run: fn(&mut Bench, &[u8]) -> Verdict,
}

/// The result of running an input.
pub enum Verdict {
    Accepted {
        compared: Option<String>,
    },
    Refused {
        said: String,
        compared: Option<String>,
    },
    /// A required property is violated.
    Wrong(String),
}

impl Verdict {
    fn of<T, E: ToString>(result: Result<T, E>) -> Verdict {
        match result {
            Ok(_) => Verdict::Accepted { compared: None },
            Err(said) => Verdict::Refused { said: said.to_string(), compared: None },
        }
    }
}

/// Words without what differs from input to input: numbers, names, and all that is quoted or in brackets.
pub fn kind(said: &str) -> String {
    let mut plain = String::new();
    let mut open = Vec::new();
    let mut before = ' ';
    for letter in said.chars().take(1000) {
        let closes = open.last() == Some(&letter);
        match letter {
            _ if closes => drop(open.pop()),
            '{' => open.push('}'),
            '[' => open.push(']'),
            '`' | '"' => open.push(letter),
            // But not the one in `Pillow's`.
            '\'' if !before.is_alphanumeric() => open.push(letter),
            _ if open.is_empty() => plain.push(letter),
            _ => {}
        }
        before = letter;
    }
    let is_word = |word: &&str| {
        word.chars().all(|letter| letter.is_ascii_graphic() && !letter.is_ascii_digit() && letter != '\\')
    };
    let mut kind = String::new();
    for word in plain.split_whitespace() {
        let word = if is_word(&word) { word } else { "#" };
        if word != "#" || !kind.ends_with('#') {
            kind += if kind.is_empty() { "" } else { " " };
            kind += word;
        }
    }
    kind.chars().take(160).collect()
}

/// What targets work with.
pub struct Bench {
    /// A folder for the files that they read.
    pub dir: PathBuf,
    /// Pillow as it is, and with libjpeg-turbo's plain code.
    pub pillow: Option<[Pillow; 2]>,
    pub whole: RgbImage,
    pub part: RgbImage,
}

impl Bench {
    pub fn new(flags: &Flags) -> Result<Bench, String> {
        let dir = flags.scratch.join("files");
        fs::create_dir_all(&dir).map_err(|e| format!("{}: {e}", dir.display()))?;
        let both = |python| Ok([Pillow::start(python, true)?, Pillow::start(python, false)?]);
        let pillow = flags.pillow.as_deref().map(both).transpose();
        let pillow = pillow.map_err(|e: io::Error| format!("--pillow: {e}"))?;
        Ok(Bench { dir, pillow, whole: RgbImage::default(), part: RgbImage::default() })
    }

    /// Writes a file of the data set that the input is part of.
    fn write(&self, name: &str, bytes: &[u8]) -> PathBuf {
        let path = self.dir.join(name);
        let written = fs::write(&path, bytes).or_else(|_| {
            path.parent().map_or(Ok(()), fs::create_dir_all)?;
            fs::write(&path, bytes)
        });
        // A full disk is no finding, but it would hide an input, so it must not be silent.
        written.unwrap_or_else(|e| panic!("{}: {e}", path.display()));
        path
    }
}

/// The files of a folder of `testdata` whose names end with one of `ends`, in the order of their names.
fn testdata(folder: &str, ends: &[&str]) -> io::Result<Vec<Vec<u8>>> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../testdata").join(folder);
    let mut names: Vec<PathBuf> = fs::read_dir(&folder)?.map(|entry| Ok(entry?.path())).collect::<io::Result<_>>()?;
    names.retain(|name| name.to_str().is_some_and(|name| ends.iter().any(|end| name.ends_with(end))));
    names.sort();
    names.iter().map(fs::read).collect()
}

/// Several folders of `testdata`.
fn of_all(parts: &[(&str, &[&str])]) -> io::Result<Vec<Vec<u8>>> {
    let parts: Vec<Vec<Vec<u8>>> =
        parts.iter().map(|(folder, ends)| testdata(folder, ends)).collect::<io::Result<_>>()?;
    Ok(parts.concat())
}

const PLAIN: Target = Target {
    name: "",
    weight: 1,
    seeds: || Ok(Vec::new()),
    words: &[],
    mend: Mend::Nothing,
    most_bytes: 1 << 16,
    bytes_per_byte: 64,
    run: |_, _| Verdict::Wrong("no target".into()),
};

/// Words of text files.
const TEXT: &[&[u8]] = &[
    b"\xEF\xBB\xBF",
    b"\r\n",
    b"\n\n",
    b"\t",
    b";",
    b",",
    b" ",
    b"\0",
    b"..",
    b"/",
    b"//",
    b"\\",
    b"\"",
    b"'",
    b"#",
    b"[",
    b"]",
    b"{",
    b"}",
    b":",
    b"=",
    b"-",
    b"\xFF",
    b"\xE2\x80\xA8",
    b"e308",
    b"inf",
    b"null",
    b"true",
];

pub static ALL: &[Target] = &[
    Target {
        name: "jpeg",
        weight: 14,
        seeds: || of_all(&[("images/jpeg", &[".jpg"]), ("hostile", &[".jpg"]), ("seeds", &[".jpg"])]),
        words: pictures::JPEG,
        run: pictures::rgb,
        ..PLAIN
    },
    Target {
        name: "png",
        weight: 8,
        seeds: || {
            of_all(&[
                ("images/png", &[".png"]),
                ("hostile", &[".png"]),
                ("images/color", &[".png"]),
                ("seeds", &[".png"]),
            ])
        },
        words: pictures::PNG,
        mend: Mend::Png,
        run: pictures::rgb,
        ..PLAIN
    },
    Target {
        name: "formats",
        weight: 8,
        seeds: || {
            let ends = &[".bmp", ".gif", ".pbm", ".pgm", ".pnm", ".ppm", ".tif", ".webp"];
            of_all(&[("images/formats", ends), ("hostile", ends)])
        },
        words: pictures::FORMATS,
        run: pictures::rgb,
        ..PLAIN
    },
    Target {
        name: "depth_and_labels",
        weight: 2,
        seeds: || testdata("images/png", &[".png"]),
        words: pictures::PNG,
        mend: Mend::Png,
        run: pictures::numbers,
        ..PLAIN
    },
    Target { name: "npy", seeds: || testdata("seeds", &[".npy"]), words: arrays::NPY, run: arrays::npy, ..PLAIN },
    Target {
        name: "npz",
        weight: 2,
        seeds: || testdata("seeds", &[".npz"]),
        words: archives::ZIP,
        bytes_per_byte: 1100,
        run: arrays::npz,
        ..PLAIN
    },
    Target { name: "points", seeds: || testdata("seeds", &[".bin"]), run: arrays::points, ..PLAIN },
    Target {
        name: "tar",
        weight: 2,
        seeds: || of_all(&[("shards/webdataset", &[".tar"]), ("seeds", &[".tar"])]),
        words: archives::TAR,
        mend: Mend::Tar,
        run: archives::tar,
        ..PLAIN
    },
    Target {
        name: "zip",
        weight: 2,
        seeds: || of_all(&[("shards/zip", &[".zip"]), ("seeds", &[".npz"])]),
        words: archives::ZIP,
        bytes_per_byte: 1100,
        run: archives::zip,
        ..PLAIN
    },
    Target {
        name: "mds",
        seeds: || testdata("shards/mds", &[".mds"]),
        words: archives::MDS,
        run: archives::mds,
        ..PLAIN
    },
    Target {
        name: "parquet",
        weight: 3,
        seeds: || of_all(&[("parquet", &[".parquet"]), ("parquet/arrays", &[".parquet"])]),
        words: archives::PARQUET,
        bytes_per_byte: 2000,
        run: archives::parquet,
        ..PLAIN
    },
    Target { name: "archive_index", seeds: archives::index_texts, words: TEXT, run: archives::kept_index, ..PLAIN },
    Target {
        name: "listing",
        seeds: || testdata("seeds", &["listing.txt"]),
        words: TEXT,
        run: archives::listing,
        ..PLAIN
    },
    Target {
        name: "image_list",
        seeds: || testdata("seeds", &["list.txt"]),
        words: TEXT,
        run: texts::image_list,
        ..PLAIN
    },
    Target {
        name: "classes",
        seeds: || testdata("seeds", &["classes.txt"]),
        words: TEXT,
        run: texts::classes,
        ..PLAIN
    },
    Target {
        name: "scene_list",
        seeds: || testdata("seeds", &["scenes.tsv"]),
        words: TEXT,
        run: texts::scene_list,
        ..PLAIN
    },
    Target { name: "config", weight: 2, seeds: texts::configs, words: TEXT, run: texts::config, ..PLAIN },
    Target { name: "yaml", weight: 2, seeds: || testdata("seeds", &[".yaml"]), words: TEXT, run: lidar::yaml, ..PLAIN },
    Target {
        name: "kitti_label",
        seeds: || testdata("seeds", &["label.txt"]),
        words: TEXT,
        run: lidar::label,
        ..PLAIN
    },
    Target {
        name: "kitti_calib",
        seeds: || testdata("seeds", &["calib.txt"]),
        words: TEXT,
        run: lidar::calib,
        ..PLAIN
    },
    Target {
        name: "kitti_plane",
        seeds: || testdata("seeds", &["plane.txt"]),
        words: TEXT,
        run: lidar::plane,
        ..PLAIN
    },
    Target {
        name: "custom_label",
        seeds: || testdata("seeds", &["custom.txt"]),
        words: TEXT,
        run: lidar::custom,
        ..PLAIN
    },
    Target { name: "image_sets", seeds: || testdata("seeds", &["sets.txt"]), words: TEXT, run: lidar::sets, ..PLAIN },
    Target {
        name: "pickle",
        weight: 3,
        seeds: || testdata("pickles", &[".pkl"]),
        words: lidar::PICKLE,
        run: lidar::pickle,
        ..PLAIN
    },
    Target { name: "infos", seeds: || testdata("seeds", &["infos.jsonl"]), words: TEXT, run: lidar::infos, ..PLAIN },
    Target { name: "cursor", seeds: runs::cursors, words: TEXT, run: runs::cursor, ..PLAIN },
    Target {
        name: "checkpoint",
        seeds: || testdata("seeds", &["checkpoint.toml"]),
        words: TEXT,
        run: runs::checkpoint,
        ..PLAIN
    },
    Target {
        name: "tensors",
        seeds: || testdata("seeds", &[".safetensors"]),
        words: TEXT,
        run: runs::tensors,
        ..PLAIN
    },
    Target {
        name: "ledger",
        weight: 2,
        seeds: || testdata("seeds", &["ledger.jsonl"]),
        words: TEXT,
        run: runs::ledger,
        ..PLAIN
    },
];
