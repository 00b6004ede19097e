//! Lists and settings.

use super::{Bench, Verdict};
use feedline::read::{ImageList, Storage, read_classes};
use feedline_recipes::scene_completion::{SceneFiles, SceneOptions};
use feedline_recipes::settings::{Settings, SettingsBuilder, recipe_named};
use feedline_recipes::{classification, lidar, scene_completion};
use std::io;

/// `class;path` lines; three files are there.
pub fn image_list(bench: &mut Bench, bytes: &[u8]) -> Verdict {
    for name in ["list/a/1.jpg", "list/a/2 3.jpg", "list/b/1.png"] {
        if !bench.dir.join(name).exists() {
            bench.write(name, b"x");
        }
    }
    let path = bench.write("list/list.txt", bytes);
    let classes = ["a".to_owned(), "b".to_owned()];
    let list = ImageList::from_list(&path, "train", &classes, &Storage::default());
    if let Ok(list) = &list {
        let said = String::from_utf8_lossy(bytes);
        let lines = said.lines().filter(|line| !line.trim_start_matches('\u{feff}').trim().is_empty()).count();
        if list.entries.len() != lines || list.entries.iter().any(|entry| entry.class > 1) {
            return Verdict::Wrong(format!("{lines} lines give {} entries", list.entries.len()));
        }
        if list.names().len() != list.entries.len() {
            return Verdict::Wrong("not every entry has a name".into());
        }
    }
    Verdict::of(list)
}

pub fn classes(bench: &mut Bench, bytes: &[u8]) -> Verdict {
    let path = bench.write("classes.txt", bytes);
    let classes = read_classes(&path, &Storage::default());
    if let Ok(classes) = &classes
        && let Some(name) = classes.iter().find(|name| name.trim().is_empty() || name.contains('\n'))
    {
        return Verdict::Wrong(format!("a class of the name {name:?}"));
    }
    Verdict::of(classes)
}

/// Ids, or pairs of files; none of the files exists, so that only the list is read.
pub fn scene_list(bench: &mut Bench, bytes: &[u8]) -> Verdict {
    bench.write("scenes/train.txt", bytes);
    let files = SceneFiles::in_folder(&bench.dir.join("scenes"), "train.txt", "train");
    match scene_completion::open(&files, &SceneOptions::default(), &Storage::default()) {
        Err(error) if !error.to_string().contains("has no file") => {
            Verdict::Refused { said: error.to_string(), compared: None }
        }
        _ => Verdict::Accepted { compared: None },
    }
}

pub fn configs() -> io::Result<Vec<Vec<u8>>> {
    let texts = [
        classification::config::Config::reference(),
        scene_completion::config::Config::reference(),
        lidar::config::Config::reference(),
    ];
    // The text without the comments on each key, and the whole text.
    let bare = |text: &str| {
        let lines = text.lines().map(|line| line.split('#').next().unwrap_or_default().trim());
        lines.filter(|line| !line.is_empty()).collect::<Vec<_>>().join("\n").replacen("dir = \"\"", "dir = \"data\"", 1)
    };
    Ok(texts.iter().flat_map(|text| [bare(text).into_bytes(), text.as_bytes().to_vec()]).collect())
}

/// Settings, of each recipe.
pub fn config(_: &mut Bench, bytes: &[u8]) -> Verdict {
    let Ok(text) = std::str::from_utf8(bytes) else {
        return Verdict::Refused { said: "no UTF-8".into(), compared: None };
    };
    fn resolved<C: Settings>(text: &str) -> Result<(), String> {
        let builder = SettingsBuilder::<C>::defaults().table(text.to_owned()).map_err(|e| e.to_string())?;
        let _ = builder.clone().storage();
        builder.resolve().map(drop).map_err(|e| e.to_string())
    }
    let _ = recipe_named(text);
    let all = [
        resolved::<classification::config::Config>(text),
        resolved::<scene_completion::config::Config>(text),
        resolved::<lidar::config::Config>(text),
    ];
    let words: Vec<&str> = all.iter().filter_map(|result| result.as_ref().err()).map(String::as_str).collect();
    Verdict::of(if words.len() < 3 { Ok(()) } else { Err(words.join("; ")) })
}
