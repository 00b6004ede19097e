//! Descriptions of point clouds: KITTI's text files, OpenPCDet's pickles and settings, Feedline's own infos.

use super::{Bench, Verdict};
use feedline::read::Storage;
use feedline_recipes::lidar::infos::{InfoOptions, build, from_pickles, read_db, read_infos};
use feedline_recipes::lidar::openpcdet_yaml::{files, options, read_yaml};
use feedline_recipes::lidar::options::Layout;
use std::fs;
use std::path::Path;

pub const PICKLE: &[&[u8]] = &[
    b"\x80\x02",
    b"\x80\x04\x95",
    b".",
    b"(",
    b")",
    b"}",
    b"]",
    b"e",
    b"u",
    b"s",
    b"a",
    b"t",
    b"\x85",
    b"\x86",
    b"\x87",
    b"K\x01",
    b"M\xFF\xFF",
    b"J\xFF\xFF\xFF\xFF",
    b"\x8A\x08",
    b"G",
    b"X\x04\0\0\0name",
    b"\x8C\x04name",
    b"\x94",
    b"h\0",
    b"j\0\0\0\0",
    b"q\0",
    b"r\xFF\xFF\xFF\xFF",
    b"R",
    b"b",
    b"\x93",
    b"cnumpy\nndarray\n",
    b"cnumpy.core.multiarray\n_reconstruct\n",
    b"cos\nsystem\n",
    b"N",
    b"\x88",
    b"\x89",
    b"2",
    b"0",
    b"1",
    b"\x8E",
    b"B\xFF\xFF\xFF\x7F",
    b"C\x04",
    b"\x96",
];

fn seed(name: &str) -> Vec<u8> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../testdata/seeds").join(name);
    fs::read(&path).unwrap_or_else(|e| panic!("{}: {e}", path.display()))
}

/// A data set of one frame; `name` of it is the input.
fn kitti(bench: &Bench, name: &str, bytes: &[u8]) -> Verdict {
    let root = bench.dir.join("kitti");
    if !root.exists() {
        let parts = [
            ("ImageSets/train.txt", b"000000\n".to_vec()),
            ("training/calib/000000.txt", seed("calib.txt")),
            ("training/label_2/000000.txt", seed("label.txt")),
            ("training/planes/000000.txt", seed("plane.txt")),
            ("training/velodyne/000000.bin", seed("points.bin")),
            ("training/image_2/000000.png", seed("image.png")),
            ("labels/000000.txt", seed("custom.txt")),
            ("points/000000.npy", seed("f4.npy")),
        ];
        parts.iter().for_each(|(name, bytes)| drop(bench.write(&format!("kitti/{name}"), bytes)));
    }
    bench.write(&format!("kitti/{name}"), bytes);
    let layout = if name.starts_with("labels") { Layout::Custom } else { Layout::Kitti };
    let built = build(&root, &InfoOptions { layout, num_threads: 1, overwrite: true }, &|_, _| {});
    if let Ok(built) = &built {
        // The files it writes must be readable.
        for (file, count) in &built.files {
            let (names, storage) = (std::slice::from_ref(file), Storage::default());
            let read = match file.contains("dbinfos") {
                true => read_db(&root, names, &storage).map(|objects| objects.len()),
                false => read_infos(&root, names, &storage).map(|frames| frames.len()),
            };
            match read {
                Ok(read) if read == *count => {}
                Ok(read) => return Verdict::Wrong(format!("{file} has {read} entries instead of {count}")),
                Err(error) => return Verdict::Wrong(format!("{file} was written, and is refused: {error}")),
            }
        }
    }
    Verdict::of(built)
}

pub fn label(bench: &mut Bench, bytes: &[u8]) -> Verdict {
    kitti(bench, "training/label_2/000000.txt", bytes)
}

pub fn calib(bench: &mut Bench, bytes: &[u8]) -> Verdict {
    kitti(bench, "training/calib/000000.txt", bytes)
}

pub fn plane(bench: &mut Bench, bytes: &[u8]) -> Verdict {
    kitti(bench, "training/planes/000000.txt", bytes)
}

pub fn custom(bench: &mut Bench, bytes: &[u8]) -> Verdict {
    kitti(bench, "labels/000000.txt", bytes)
}

pub fn sets(bench: &mut Bench, bytes: &[u8]) -> Verdict {
    kitti(bench, "ImageSets/train.txt", bytes)
}

pub fn pickle(bench: &mut Bench, bytes: &[u8]) -> Verdict {
    bench.write("pickles/kitti_infos_train.pkl", bytes);
    bench.write("pickles/kitti_dbinfos_train.pkl", bytes);
    let (root, storage) = (bench.dir.join("pickles"), Storage::default());
    let frames = read_infos(&root, &["kitti_infos_train.pkl".into()], &storage);
    let objects = read_db(&root, &["kitti_dbinfos_train.pkl".into()], &storage);
    if frames.is_ok() && objects.is_ok() {
        let options = InfoOptions { layout: Layout::Kitti, num_threads: 1, overwrite: true };
        if let Err(error) = from_pickles(&root, &options) {
            return Verdict::Wrong(format!("they can be read, and not be written again: {error}"));
        }
    }
    match (frames, objects) {
        (Err(said), Err(more)) => Verdict::Refused { said: format!("{said}; {more}"), compared: None },
        _ => Verdict::Accepted { compared: None },
    }
}

pub fn infos(bench: &mut Bench, bytes: &[u8]) -> Verdict {
    bench.write("infos/x.jsonl", bytes);
    let (root, names, storage) = (bench.dir.join("infos"), ["x.jsonl".to_owned()], Storage::default());
    let frames = read_infos(&root, &names, &storage).map(|frames| frames.len());
    let objects = read_db(&root, &names, &storage).map(|objects| objects.len());
    Verdict::of(frames.or(objects))
}

pub fn yaml(bench: &mut Bench, bytes: &[u8]) -> Verdict {
    let path = bench.write("yaml/x.yaml", bytes);
    let config = match read_yaml(&path) {
        Ok(config) => config,
        Err(error) => return Verdict::Refused { said: error.to_string(), compared: None },
    };
    let config = config.get("DATA_CONFIG").cloned().unwrap_or(config);
    let names = ["Car", "Pedestrian", "Cyclist"].map(String::from);
    let places = files(&config, None, true).map(|_| ());
    let checked = options(&config, &names).and_then(|options| options.grid().and_then(|_| options.check()));
    Verdict::of(places.and(checked))
}
