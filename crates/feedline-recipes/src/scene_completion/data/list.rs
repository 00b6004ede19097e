//! The lists of the recipe, `train.txt` and `test.txt`: which files a sample consists of. Owns the two layouts and how a
//! line means one of them; opens nothing but the list.

use feedline::read::{FileList, Storage, text_of};
use feedline::{Error, Result};
use serde::{Deserialize, Serialize};
use std::path::{Path, PathBuf};

/// Locations of the files of a data set. Any of them may be a URL, or lead into an archive.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SceneFiles {
    /// Holds `RGB` and `TSDF`; of a segmentation list, what the first column is relative to.
    pub img_root: PathBuf,
    /// Holds `Label` and `sketch3D`; of a segmentation list, what the second column is relative to.
    pub gt_root: PathBuf,
    /// Holds `ID.png` of each HHA picture, or `STEM.jpg` or `.png`; empty for none.
    pub hha_root: PathBuf,
    /// Holds `ID.npz` of each mapping.
    pub mapping_root: PathBuf,
    /// The list, one sample a line.
    pub list: PathBuf,
    /// Name of the split, for messages.
    pub split: String,
}

impl SceneFiles {
    /// TorchSSC's layout: `list`, `RGB`, `TSDF`, `Label`, `sketch3D`, `HHA` and `Mapping` in `dir`.
    pub fn in_folder(dir: &Path, list: &str, split: &str) -> SceneFiles {
        SceneFiles {
            img_root: dir.to_path_buf(),
            gt_root: dir.to_path_buf(),
            hha_root: dir.join("HHA"),
            mapping_root: dir.join("Mapping"),
            list: dir.join(list),
            split: split.into(),
        }
    }
}

/// The parts of a sample.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Layout {
    /// TorchSSC's: pictures, voxels, and which pixel shows which voxel. A line begins with the id.
    Voxels,
    /// RGB-D segmentation: pictures and a label for each pixel. A line is `RGB/2.jpg<TAB>Label/2.png`.
    Segmentation,
}

/// The files of a sample, in the order in which they are read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Part {
    Rgb,
    Hha,
    Label,
    Tsdf,
    Mapping,
    Sketch,
}

/// A list and the files of its samples, all of which are there.
#[derive(Debug, Clone)]
pub(super) struct SceneList {
    pub(super) layout: Layout,
    /// Of each sample.
    pub(super) ids: Vec<String>,
    /// The parts of every sample.
    pub(super) parts: Vec<Part>,
    /// Sample by sample, each in the order of `parts`.
    pub(super) files: FileList,
}

/// A line of the list.
struct Line {
    number: usize,
    first: String,
    second: Option<String>,
}

impl Line {
    /// The id: the first column, or the name of the label without its folder and end.
    fn id(&self) -> String {
        match &self.second {
            None => self.first.clone(),
            Some(label) => {
                let name = label.rsplit('/').next().unwrap_or(label);
                name.split('.').next().unwrap_or(name).to_owned()
            }
        }
    }
}

impl SceneList {
    /// Reads the list and looks for every file of its samples.
    ///
    /// # Errors
    /// A list that cannot be read, is empty or mixes layouts; files that are not there: the first, with its id and line.
    pub(super) fn open(files: &SceneFiles, storage: &Storage) -> Result<SceneList> {
        let unreadable = |_| {
            let remedy = "Name the list: DIR/train.txt and DIR/test.txt, or data.train_list and data.val_list";
            Error::dataset(&files.list, "there is no such list", remedy)
        };
        let bytes = FileList::of_paths(vec![files.list.clone()], storage, unreadable)?.read_whole(0)?;
        let (layout, lines) = parse(&text_of(bytes, &files.list)?, &files.list)?;
        let mut parts = match layout {
            Layout::Voxels => vec![Part::Rgb, Part::Hha, Part::Label, Part::Tsdf, Part::Mapping, Part::Sketch],
            Layout::Segmentation => vec![Part::Rgb, Part::Hha, Part::Label],
        };
        if files.hha_root.as_os_str().is_empty() {
            parts.retain(|part| *part != Part::Hha);
        }
        let find = |hha_end: &str| {
            let paths: Vec<PathBuf> = lines
                .iter()
                .flat_map(|line| parts.iter().map(move |part| path(files, layout, line, *part, hha_end)))
                .collect();
            let names: Vec<String> = paths.iter().map(|path| path.display().to_string()).collect();
            FileList::of_paths(paths, storage, |at| {
                let line = &lines[at / parts.len()];
                let problem = format!("line {}: sample {} has no file {}", line.number, line.id(), names[at]);
                Error::dataset(&files.list, problem, "Correct the list, or the folders that hold the files")
            })
        };
        // HHA pictures of segmentation lists come as either, all of a list as the first.
        let is_first = |end: &str| {
            let first = path(files, layout, &lines[0], Part::Hha, end);
            FileList::of_paths(vec![first], storage, |_| Error::dataset(&files.list, "", "")).is_ok()
        };
        let ask = layout == Layout::Segmentation && parts.contains(&Part::Hha);
        let files = find(if ask && is_first("png") { "png" } else { "jpg" })?;
        Ok(SceneList { layout, ids: lines.iter().map(Line::id).collect(), parts, files })
    }

    /// The place of a part of a sample among the files.
    pub(super) fn file(&self, sample: u64, part: Part) -> usize {
        sample as usize * self.parts.len() + self.raw(part)
    }

    /// The place of a part among those that are read.
    pub(super) fn raw(&self, part: Part) -> usize {
        self.parts.iter().position(|other| *other == part).unwrap_or(self.parts.len())
    }
}

fn parse(text: &str, list: &Path) -> Result<(Layout, Vec<Line>)> {
    let is_picture = |name: &str| {
        let end = name.rsplit_once('.').map_or("", |(_, end)| end);
        ["png", "jpg", "jpeg"].iter().any(|known| known.eq_ignore_ascii_case(end))
    };
    let mut lines: Vec<Line> = Vec::new();
    let mut layout = None;
    for (number, line) in (1..).zip(text.lines()).filter(|(_, line)| !line.trim().is_empty()) {
        let mut columns = line.trim().split('\t').map(str::trim);
        let (first, second) = (columns.next().unwrap_or_default(), columns.next());
        // Behind an id there may be anything.
        let second = second.filter(|second| is_picture(first) && is_picture(second));
        let found = if second.is_some() { Layout::Segmentation } else { Layout::Voxels };
        let wrong =
            |problem: String, remedy: &str| Err(Error::dataset(list, format!("line {number}: {problem}"), remedy));
        if found == Layout::Voxels && (is_picture(first) || first.contains('/')) {
            return wrong(
                format!("`{first}` is a picture without a label behind a tab"),
                "A line is an id, such as 0003, or two files: RGB/2.jpg<TAB>Label/2.png",
            );
        }
        if layout.replace(found).is_some_and(|before| before != found) {
            return wrong("it is of another kind than the lines before".into(), "Keep ids and pairs of files apart");
        }
        lines.push(Line { number, first: first.into(), second: second.map(str::to_owned) });
    }
    match layout {
        Some(layout) => Ok((layout, lines)),
        None => Err(Error::dataset(list, "the list is empty", "Add an id, such as 0003, for each sample")),
    }
}

/// The location of a part of a sample, as TorchSSC and RGBD_Semantic_Segmentation_PyTorch have it.
fn path(files: &SceneFiles, layout: Layout, line: &Line, part: Part, hha_end: &str) -> PathBuf {
    let SceneFiles { img_root, gt_root, hha_root, mapping_root, .. } = files;
    let id = line.id();
    match (layout, part) {
        (Layout::Voxels, Part::Rgb) => img_root.join(format!("RGB/NYU{id}_colors.png")),
        (Layout::Voxels, Part::Hha) => hha_root.join(format!("{id}.png")),
        (Layout::Voxels, Part::Label) => gt_root.join(format!("Label/{id}.npz")),
        (_, Part::Tsdf) => img_root.join(format!("TSDF/{id}.npz")),
        (_, Part::Mapping) => mapping_root.join(format!("{id}.npz")),
        (_, Part::Sketch) => gt_root.join(format!("sketch3D/{id}.npy")),
        (Layout::Segmentation, Part::Rgb) => img_root.join(&line.first),
        (Layout::Segmentation, Part::Hha) => hha_root.join(format!("{id}.{hha_end}")),
        (Layout::Segmentation, Part::Label) => gt_root.join(line.second.as_deref().unwrap_or_default()),
    }
}
