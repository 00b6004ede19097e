//! Objects of other frames that may be pasted: which there are of each class, which are drawn for a frame, and where their
//! points lie. Owns the draw; whether an object fits is the plan's to say.

use super::frame::DbObject;
use super::options::{LidarOptions, SampleGroup};
use feedline::plan::rng::SampleRng;
use feedline::read::{FileList, FileSlice, FileSlices, Storage};
use feedline::{Error, Result};
use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

/// The objects that one step may paste.
#[derive(Debug)]
pub(super) struct Database {
    pub(super) objects: Vec<DbObject>,
    /// The points of each.
    pub(super) pieces: FileSlices,
    /// For each group its objects.
    groups: Vec<Vec<u32>>,
}

impl Database {
    /// The objects that the groups may take.
    ///
    /// # Errors
    /// A class that has none; an object whose points are not there, by the index and the object.
    pub(super) fn new(
        root: &Path,
        all: Vec<DbObject>,
        groups: &[SampleGroup],
        removed_difficulties: &[i32],
        options: &LidarOptions,
        storage: &Storage,
    ) -> Result<Database> {
        let group_of = |object: &DbObject| groups.iter().position(|group| group.name == object.name);
        let seen: BTreeSet<&str> = all.iter().map(|object| object.name.as_str()).collect();
        for group in groups {
            if !seen.contains(group.name.as_str()) && group.count > 0 {
                let names: Vec<&str> = seen.into_iter().collect();
                return Err(Error::dataset(
                    root,
                    format!("the data base has no object of the class {:?} that gt_sampling shall paste", group.name),
                    format!("It has {}; correct SAMPLE_GROUPS, or build it anew", names.join(", ")),
                ));
            }
        }
        let usable = |object: &DbObject| {
            group_of(object).is_some_and(|at| object.num_points_in_gt >= groups[at].min_points)
                && !removed_difficulties.contains(&object.difficulty)
        };
        let objects: Vec<DbObject> = all.into_iter().filter(usable).collect();
        let mut members = vec![Vec::new(); groups.len()];
        for (at, object) in (0..).zip(&objects) {
            if let Some(group) = group_of(object) {
                members[group].push(at);
            }
        }
        let names: BTreeSet<&str> = objects.iter().map(|object| object.path.as_str()).collect();
        let names: Vec<&str> = names.into_iter().collect();
        if names.is_empty() {
            return Err(Error::dataset(
                root,
                "no object of the data base has enough points to be pasted",
                "Lower filter_by_min_points, or leave gt_sampling out",
            ));
        }
        let paths: Vec<PathBuf> = names.iter().map(|name| root.join(name)).collect();
        let owner = |name: &str| objects.iter().find(|object| object.path == name);
        let missing = |at: usize| {
            let object = owner(names[at]).map_or(String::new(), |object| {
                format!(
                    "the data base names {} number {} of frame {}, but ",
                    object.name, object.gt_idx, object.image_idx
                )
            });
            Error::dataset(root, format!("{object}there is no file {}", names[at]), rebuild())
        };
        let files = FileList::of_paths(paths, storage, missing)?;
        let row_bytes = 4 * options.src_features.len() as u64;
        let place: BTreeMap<&str, usize> = names.iter().enumerate().map(|(at, name)| (*name, at)).collect();
        let piece = |object: &DbObject| {
            let file = place[object.path.as_str()];
            match object.offset_bytes {
                None => FileSlice { file, start: 0, size_bytes: files.entries[file].size_bytes },
                Some(start) => FileSlice { file, start, size_bytes: object.num_points_in_gt * row_bytes },
            }
        };
        let outside = |at: usize| {
            let DbObject { name, image_idx, path, num_points_in_gt, .. } = &objects[at];
            let problem = format!("{path} ends before the {num_points_in_gt} points of a {name} of frame {image_idx}");
            Error::dataset(root, problem, rebuild())
        };
        let pieces = FileSlices::new(&files, objects.iter().map(piece).collect(), outside)?;
        Ok(Database { objects, pieces, groups: members })
    }

    /// `count` different objects of a group in a drawn order, or as many as there are.
    pub(super) fn drawn(&self, group: usize, count: u64, rng: &mut SampleRng) -> Vec<u32> {
        let members = &self.groups[group];
        let n = members.len() as u64;
        let count = count.min(n);
        // The first steps of Fisher and Yates's shuffle, whose swaps alone are kept.
        let mut swapped: BTreeMap<u64, u32> = BTreeMap::new();
        (0..count)
            .map(|at| {
                let other = at + rng.below(n - at);
                let taken = swapped.get(&other).copied().unwrap_or(members[other as usize]);
                let here = swapped.get(&at).copied().unwrap_or(members[at as usize]);
                swapped.insert(other, here);
                taken
            })
            .collect()
    }
}

fn rebuild() -> &'static str {
    "Build the infos and the data base anew: feedline lidar infos --overwrite"
}
