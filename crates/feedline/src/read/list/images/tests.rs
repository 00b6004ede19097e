//! Tests of image lists: which files of a folder or a list are samples, their order and labels, and which are left out.

use super::*;
use crate::read::read_classes;
use std::fs;

/// A folder with these (empty) files in it.
fn tree(files: &[&str]) -> tempfile::TempDir {
    let dir = tempfile::tempdir().unwrap();
    for file in files {
        let path = dir.path().join(file);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, "").unwrap();
    }
    dir
}

fn labelled(list: &ImageList, root: &Path) -> Vec<(u32, String)> {
    let relative = |path: &Path| path.strip_prefix(root).unwrap().to_str().unwrap().to_owned();
    list.entries.iter().map(|entry| (entry.class, relative(&entry.path))).collect()
}

fn message<T: std::fmt::Debug>(result: Result<T>, parts: &[&str]) {
    let text = result.unwrap_err().to_string();
    for part in parts {
        assert!(text.contains(part), "`{part}` is not in: {text}");
    }
}

#[test]
fn class_folders_are_listed_in_bytewise_order() {
    let dir = tree(&[
        "train/b/2.png",
        "train/b/10.JPG",
        "train/b/note.txt",
        "train/b/.hidden.jpg",
        "train/Z/x.Jpeg",
        "train/a b;c/1.jpg",
        "train/.cache/1.jpg",
        "train/readme.md",
        "test/b/7.png",
        "test/a b;c/8.png",
    ]);
    fs::create_dir(dir.path().join("train/b/folder.jpg")).unwrap();
    let train = ImageList::train(dir.path()).unwrap();
    assert_eq!(train.classes, ["Z", "a b;c", "b"]);
    let expect = [(0, "train/Z/x.Jpeg"), (1, "train/a b;c/1.jpg"), (2, "train/b/10.JPG"), (2, "train/b/2.png")];
    assert_eq!(labelled(&train, dir.path()), expect.map(|(class, name)| (class, name.to_owned())));
    let test = ImageList::val(dir.path(), &train.classes).unwrap();
    assert_eq!((test.split.as_str(), &test.classes), ("test", &train.classes));
    let expect = [(1, "test/a b;c/8.png"), (2, "test/b/7.png")];
    assert_eq!(labelled(&test, dir.path()), expect.map(|(class, name)| (class, name.to_owned())));
}

#[test]
fn the_validation_split_may_have_three_names_and_takes_the_training_labels() {
    for split in ["val", "valid", "test"] {
        let dir = tree(&[&format!("{split}/b/1.png"), &format!("{split}/a/1.png")]);
        let classes = ["b", "none", "a"].map(String::from);
        let list = ImageList::val(dir.path(), &classes).unwrap();
        assert_eq!(list.split, split);
        let expect = [(0, format!("{split}/b/1.png")), (2, format!("{split}/a/1.png"))];
        assert_eq!(labelled(&list, dir.path()), expect);
    }
    let dir = tree(&["test/a/1.png", "val/a/2.png"]);
    assert_eq!(ImageList::val(dir.path(), &["a".into()]).unwrap().split, "test");
}

#[test]
fn unusable_trees_are_errors_that_name_the_folder() {
    let classes = ["a".to_owned()];
    let nothing = ["no folder `train` and no class folder", "but 1.jpg, notes.txt", "DIR/{train,test}/<class>"];
    message(ImageList::train(tree(&["1.jpg", "notes.txt", "Thumbs.db"]).path()), &nothing);
    message(ImageList::train(tree(&[]).path().join("gone").as_path()), &["gone: there is no such folder"]);
    message(ImageList::train(tree(&["test/a/1.jpg"]).path()), &["there is no folder `train` in it"]);
    message(
        ImageList::train(tree(&["train/1.jpg"]).path()),
        &["train: there is no class folder in it, but 1 *.jpg (1.jpg)"],
    );
    message(
        ImageList::train(tree(&["train/a/1.jpg", "train/b/1.doc", "train/b/x/2.doc"]).path()),
        &["train/b:", "no image", "in it, but 2 *.doc (1.doc, x/2.doc)"],
    );
    message(ImageList::val(tree(&["train/a/1.jpg"]).path(), &classes), &["no folder `test`"]);
    message(ImageList::val(tree(&["test/b/1.jpg"]).path(), &classes), &["test/b:", "not one of the 1 classes"]);
}

#[test]
fn entries_that_are_given_keep_their_order_and_their_labels() {
    let entry = |path: &str, class| ImageEntry { path: path.into(), class };
    let entries = vec![entry("b.jpg", 2), entry("a.jpg", 0)];
    let list = ImageList::from_entries(entries.clone(), "given", None, &Storage::default()).unwrap();
    assert_eq!((&list.entries, &list.classes[..]), (&entries, &["0", "1", "2"].map(String::from)[..]));
    let classes = ["x", "y"].map(String::from);
    message(
        ImageList::from_entries(entries, "given", Some(classes.into()), &Storage::default()),
        &["b.jpg", "label 2 is outside the 2 classes", "Labels count from 0"],
    );
    message(ImageList::from_entries(Vec::new(), "given", None, &Storage::default()), &["the list of images is empty"]);
}

#[test]
fn what_is_left_out_of_class_folders_is_counted_and_named() {
    let dir = tree(&[
        "train/a/1.jpg",
        "train/a/2.xcf",
        "train/a/3.XCF",
        "train/a/deep/2.jpg",
        "train/a/deep/notes.txt",
        "train/a/deep/.git/5.jpg",
        "train/a/empty/notes.txt",
        "train/a/.4.png",
        "train/a/.keep",
        "train/a/._1.jpg",
        "train/a/.DS_Store",
        "train/__MACOSX/1.jpg",
        "train/b/1.jpg",
        "train/b/notes",
        "train/b/thumbs.db",
        "train/.cache/1.jpg",
        "train/top.png",
        "test/a/1.jpg",
        "val/a/1.jpg",
    ]);
    crate::read::file::tests::fifo(&dir.path().join("train/b/pipe.png"));
    std::os::unix::fs::symlink("gone.jpg", dir.path().join("train/b/2.jpg")).unwrap();
    let list = ImageList::train(dir.path()).unwrap();
    assert_eq!(list.entries.len(), 3);
    let expect = "train: 16 files and folders skipped: 1 *.png (top.png), 2 *.txt (a/deep/notes.txt, a/empty/notes.txt), \
                  2 *.xcf (a/2.xcf, a/3.XCF), 1 FIFOs (b/pipe.png), 1 broken links (b/2.jpg), 1 hidden files (a/.keep), \
                  2 hidden folders (.cache, a/deep/.git), 1 hidden pictures (a/.4.png), 2 more kinds. Images are *.jpg";
    let not_read = "`val` is not read, since there is `test`";
    assert!(
        matches!(&list.warnings[..], [one, other] if one.contains(expect) && other.ends_with(not_read)),
        "{list:?}"
    );
    let kinds = list.skipped.as_ref().map(|skipped| &skipped.kinds).unwrap();
    let junk = ["__MACOSX", "a/.DS_Store", "a/._1.jpg"].map(String::from).to_vec();
    assert_eq!((kinds["system files"].clone(), kinds["without an extension"].0), ((4, junk), 1));
    let val = ImageList::val(dir.path(), &list.classes).unwrap();
    assert!(matches!(&val.warnings[..], [one] if one.ends_with(not_read)), "{val:?}");
    // The data is the same as without them.
    let other = tree(&["train/a/1.jpg", "train/a/deep/2.jpg", "train/b/1.jpg"]);
    let plain = ImageList::train(other.path()).unwrap();
    assert_eq!((plain.fingerprint(), plain.warnings, plain.skipped), (list.fingerprint(), Vec::new(), None));
}

#[test]
fn nested_folders_come_in_the_order_of_os_walk() {
    // A folder is sorted by its path as a text, where `-` and `.` come before `/`. `feedline.images` is compared with torchvision.
    let names = ["b.jpg", "s.jpg", "s/9.jpg", "s-t/1.jpg", "s.jpg.d/1.jpg", "s/a/1.jpg", "s/a/10.jpg", "sa/0.jpg"];
    let files: Vec<String> = names.iter().map(|name| format!("c/{name}")).collect();
    let dir = tree(&files.iter().rev().map(String::as_str).chain(["a/1.jpg"]).collect::<Vec<_>>());
    let list = ImageList::from_folder(dir.path(), "x", None).unwrap();
    let expect: Vec<(u32, String)> =
        std::iter::once((0, "a/1.jpg".into())).chain(files.iter().map(|name| (1, name.clone()))).collect();
    assert_eq!(labelled(&list, dir.path()), expect);
}

#[test]
fn splits_are_found_under_their_usual_names_and_never_guessed() {
    for (files, train, val) in [
        (&["train/a/1.jpg", "test/a/1.jpg"][..], "train", Some("test")),
        (&["Train/a/1.jpg", "Val/a/1.jpg"], "Train", Some("Val")),
        (&["training/a/1.jpg", "VALIDATION/a/1.jpg"], "training", Some("VALIDATION")),
        (&["images/train/a/1.jpg", "images/val/a/1.jpg", "labels/train/1.txt"], "images/train", Some("images/val")),
        (&["birds/train/a/1.jpg", "birds/valid/a/1.jpg", "__MACOSX/birds/._x"], "birds/train", Some("birds/valid")),
        (&["train/a/1.jpg"], "train", None),
        (&["a/1.jpg", "b/x/1.jpg"], "", None),
        // Classes that are called as splits.
        (&["bus/1.jpg", "train/1.jpg", "test/1.jpg"], "", None),
        (&["train/bus/1.jpg", "train/train/1.jpg", "test/bus/1.jpg"], "train", Some("test")),
    ] {
        let dir = tree(files);
        let layout = Layout::of(&dir.path().into()).unwrap();
        let (list, val_list) = (ImageList::train_of(&layout).unwrap(), ImageList::val_of(&layout, None).unwrap());
        let place = |list: &ImageList| Path::new(&list.place).strip_prefix(dir.path()).unwrap().display().to_string();
        assert_eq!((place(&list), val_list.as_ref().map(place)), (train.into(), val.map(String::from)), "{files:?}");
    }
    for (files, parts) in [
        (&["train/a/1.jpg", "Train/a/2.jpg"][..], ["`Train` and `train`", "only one of them"]),
        (&["train/a/1.jpg", "val/a/1.jpg", "validation/a/2.jpg"], ["`val` and `validation`", "only one of them"]),
        (&["images/a.txt"], ["images: this class folder has no image", "but 1 *.txt (a.txt)"]),
    ] {
        message(ImageList::train(tree(files).path()), &parts);
    }
    let dir = tree(&["train/a/1.jpg", "test/a/1.jpg", "extra/1.txt"]);
    let beside = "1 folder beside the splits not read: extra";
    let warnings = ImageList::train(dir.path()).unwrap().warnings;
    assert!(matches!(&warnings[..], [one] if one.ends_with(beside)), "{warnings:?}");
    // Read as classes, the splits would be two of them.
    message(ImageList::from_folder(dir.path(), "x", None), &["it holds splits", "Name one of them", "/train"]);
}

#[test]
fn a_share_that_is_held_out_follows_from_names_and_seed() {
    let classes = [("a", 1), ("b", 2), ("c", 100), ("d", 13)];
    let files = |more: usize| -> Vec<String> {
        let of = |(class, count): (&str, usize)| {
            let count = if class == "c" { count + more } else { count };
            (0..count).map(|n| format!("{class}/{}/{n}.jpg", n % 3)).collect::<Vec<_>>()
        };
        classes.into_iter().flat_map(of).collect()
    };
    let split = |more: usize, seed: u64| {
        let (names, at) = (files(more), tempfile::tempdir().unwrap());
        let root = at.path().join("d");
        for name in &names {
            fs::create_dir_all(root.join(name).parent().unwrap()).unwrap();
            fs::write(root.join(name), "").unwrap();
        }
        let list = ImageList::from_folder(&*root, "x", None).unwrap();
        let (train, val) = list.split(0.2, seed);
        let count = |list: &ImageList| -> Vec<usize> {
            (0..4).map(|class| list.entries.iter().filter(|entry| entry.class == class).count()).collect()
        };
        assert_eq!((count(&val), count(&train)), (vec![0, 1, 20 + more / 5, 3], vec![1, 1, 80 + more - more / 5, 10]));
        // Together they are the list, each in its order.
        let (mut train, val) = (labelled(&train, &root).into_iter().peekable(), labelled(&val, &root));
        let mut rest = val.iter().peekable();
        for one in labelled(&list, &root) {
            assert!(
                rest.next_if(|held| **held == one).is_some() || train.next_if(|kept| *kept == one).is_some(),
                "{one:?}"
            );
        }
        val
    };
    let (first, grown) = (split(0, 0), split(10, 0));
    assert_eq!(split(0, 0), first);
    assert_ne!(split(0, 1), first);
    let moved = first.iter().filter(|one| !grown.contains(one)).count();
    assert!(moved <= 2, "{moved} of 24 moved when 10 of 110 files were added");
    // Must never change: runs that go on have the same split.
    let names: Vec<&str> = first.iter().map(|(_, name)| name.as_str()).filter(|name| !name.starts_with('c')).collect();
    assert_eq!(names, ["b/1/1.jpg", "d/0/12.jpg", "d/1/1.jpg", "d/2/11.jpg"]);
}

#[test]
fn a_list_names_regular_files() {
    let dir = tree(&["1.jpg", "folder.png/x"]);
    crate::read::file::tests::fifo(&dir.path().join("pipe.png"));
    let list = dir.path().join("list.txt");
    for (name, kind) in [("pipe.png", "FIFO"), ("folder.png", "folder"), ("/dev/null", "device")] {
        fs::write(&list, format!("0;1.jpg\n0;{name}\n")).unwrap();
        let read = ImageList::from_list(&list, "x", &["a".into()], &Storage::default());
        message(read, &["1 of the 2 files", &format!("line 2: {name}; it is a {kind}, and no regular file")]);
    }
    // A list may itself be a pipe.
    let pipe = dir.path().join("list.pipe");
    crate::read::file::tests::fifo(&pipe);
    std::thread::scope(|scope| {
        scope.spawn(|| fs::write(&pipe, "\u{feff}0;1.jpg\n").unwrap());
        assert_eq!(ImageList::from_list(&pipe, "x", &["a".into()], &Storage::default()).unwrap().entries.len(), 1);
    });
}

#[cfg(unix)]
#[test]
fn symlinks_are_followed_and_broken_or_endless_ones_named() {
    let dir = tree(&["elsewhere/cat/1.jpg", "elsewhere/2.jpg"]);
    let train = dir.path().join("train");
    fs::create_dir_all(train.join("dog")).unwrap();
    std::os::unix::fs::symlink("../elsewhere/cat", train.join("cat")).unwrap();
    std::os::unix::fs::symlink("../../elsewhere/2.jpg", train.join("dog/2.jpg")).unwrap();
    let list = ImageList::train(dir.path()).unwrap();
    assert_eq!(labelled(&list, dir.path()), [(0, "train/cat/1.jpg".into()), (1, "train/dog/2.jpg".into())]);
    std::os::unix::fs::symlink("loop", train.join("loop")).unwrap();
    std::os::unix::fs::symlink(".", train.join("all")).unwrap();
    std::os::unix::fs::symlink("../../train", train.join("dog/up")).unwrap();
    // A circle of two, each of which leads to the other's folder.
    std::os::unix::fs::symlink("../../train/dog", dir.path().join("elsewhere/cat/dog")).unwrap();
    std::os::unix::fs::symlink("../cat", train.join("dog/cat")).unwrap();
    let list = ImageList::train(dir.path()).unwrap();
    let expect = ["cat/1.jpg", "cat/dog/2.jpg", "dog/2.jpg", "dog/cat/1.jpg"];
    let found: Vec<String> = labelled(&list, &train).into_iter().map(|(_, name)| name).collect();
    assert_eq!(found, expect);
    let kinds = list.skipped.unwrap().kinds;
    let links = (5, ["all", "cat/dog/cat", "cat/dog/up"].map(String::from).to_vec());
    assert_eq!((&kinds["links to a folder that they lie in"], kinds["broken links"].0), (&links, 1));
}

#[test]
fn lists_keep_spaces_and_semicolons_in_paths() {
    let dir = tree(&["img/a b;c.jpg", "img/d.jpg"]);
    let list = dir.path().join("cls_train.txt");
    let absolute = dir.path().join("img/d.jpg");
    let text = format!("\u{feff}1;img/a b;c.jpg\r\n\r\n 0 ; {} \r\n", absolute.display());
    fs::write(&list, text).unwrap();
    let classes = dir.path().join("cls_classes.txt");
    fs::write(&classes, "\u{feff}cat\r\nhot dog\r\n\r\n").unwrap();
    let classes = read_classes(&classes, &Storage::default()).unwrap();
    assert_eq!(classes, ["cat", "hot dog"]);
    let list = ImageList::from_list(&list, "train", &classes, &Storage::default()).unwrap();
    assert_eq!(labelled(&list, dir.path()), [(1, "img/a b;c.jpg".into()), (0, "img/d.jpg".into())]);
}

#[test]
fn a_relative_path_falls_back_to_the_current_directory() {
    let dir = tree(&["sub/none"]);
    let list = dir.path().join("list.txt");
    // Tests run in the crate's folder.
    fs::write(&list, "0;Cargo.toml\n").unwrap();
    let list = ImageList::from_list(&list, "train", &["a".into()], &Storage::default()).unwrap();
    assert_eq!(list.entries[0].path, Path::new("Cargo.toml"));
}

#[test]
fn broken_lists_are_errors_that_name_line_and_remedy() {
    let dir = tree(&["1.jpg"]);
    let file = dir.path().join("list.txt");
    let classes = ["a", "b"].map(String::from);
    let check = |text: &[u8], parts: &[&str]| {
        fs::write(&file, text).unwrap();
        message(ImageList::from_list(&file, "train", &classes, &Storage::default()), parts);
        message(ImageList::from_list(&file, "train", &classes, &Storage::default()), &["list.txt"]);
    };
    check(b"0;1.jpg\n\n0 1.jpg\n", &["line 3: `0 1.jpg` has no `;`", "`class;path`"]);
    check(b"cat;1.jpg\n", &["line 1: the label `cat` is not a whole number", "counted from 0"]);
    check(b"-1;1.jpg\n", &["the label `-1` is not"]);
    check(b"0;1.jpg\n2;1.jpg\n", &["line 2: label 2 is outside the 2 classes", "from 0 to 1"]);
    check(b"0;1.jpg\n0; \n", &["line 2: there is no path"]);
    check(b" \n\n", &["the list is empty"]);
    check(b"0;1.jpg\n1;gone.jpg\n1;gone too.jpg\n", &["2 of the 3 files", "line 2: gone.jpg"]);
    check(b"0;\xff.jpg\n", &["not UTF-8"]);
    message(
        ImageList::from_list(&dir.path().join("none.txt"), "train", &classes, &Storage::default()),
        &["none.txt", "Check the path"],
    );
    let classes = dir.path().join("classes.txt");
    for (text, part) in [("\n", "no class"), ("a\n\nb\n", "line 2 is blank"), ("a\nb\na\n", "line 3 repeats")] {
        fs::write(&classes, text).unwrap();
        message(read_classes(&classes, &Storage::default()), &[part, "classes.txt"]);
    }
}

#[test]
fn the_fingerprint_ignores_the_root_and_nothing_else() {
    let files = ["train/a/1.jpg", "train/a/2.jpg", "train/b/1.jpg"];
    let (here, there) = (tree(&files), tree(&files));
    let list = ImageList::train(here.path()).unwrap();
    assert_eq!(list.fingerprint(), ImageList::train(there.path()).unwrap().fingerprint());
    // A list of the same files in the same order is the same data.
    let file = there.path().join("list.txt");
    fs::write(&file, "0;train/a/1.jpg\n0;train/a/2.jpg\n1;train/b/1.jpg\n").unwrap();
    let listed = ImageList::from_list(&file, "train", &list.classes, &Storage::default()).unwrap();
    assert_eq!(listed.fingerprint(), list.fingerprint());
    // Must never change: it is part of saved states.
    assert_eq!(list.fingerprint(), 9_713_077_929_871_191_952);
    let mut seen = std::collections::HashSet::from([list.fingerprint()]);
    let mut differs = |change: fn(&mut ImageList)| {
        let mut other = list.clone();
        change(&mut other);
        assert!(seen.insert(other.fingerprint()), "{other:?}");
    };
    differs(|list| list.entries.swap(0, 1));
    differs(|list| list.entries[0].class = 1);
    differs(|list| list.entries[2].path.set_file_name("3.jpg"));
    differs(|list| list.classes[1] = "c".into());
    differs(|list| drop(list.entries.pop()));
    differs(|list| list.classes.push("c".into()));
}
