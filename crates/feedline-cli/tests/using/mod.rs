//! A trained network in use: `export` and `predict` as a user meets them. What other programs make of the files is tested in
//! `tests/test_models.py`.

use super::{copy_of_data, data, expect, feedline, run, scenes, short};
use std::fs;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Output, Stdio};
use std::sync::OnceLock;

/// A run of one epoch on [`data`], made once for all tests here.
fn trained() -> &'static Path {
    static RUN: OnceLock<(tempfile::TempDir, PathBuf)> = OnceLock::new();
    let (_, out) = RUN.get_or_init(|| {
        let dir = tempfile::tempdir().unwrap();
        let out = dir.path().join("birds");
        let mut args = short(data(), &out);
        args[6] = "1"; // epoch
        expect(&run(&args), 0, &[]);
        (dir, out)
    });
    out
}

fn text(path: &Path) -> &str {
    path.to_str().unwrap()
}

#[track_caller]
fn rows(output: &Output) -> Vec<String> {
    String::from_utf8(output.stdout.clone()).unwrap().lines().map(str::to_owned).collect()
}

/// What `predict` prints of these words, in CSV.
#[track_caller]
fn predicted(model: &Path, words: &[&str]) -> Vec<String> {
    let output = run(&[&["predict", text(model), "--format", "csv"], words].concat());
    expect(&output, 0, &["images/s"]);
    rows(&output)
}

fn pictures(folder: &str, class: &str) -> Vec<PathBuf> {
    let mut files: Vec<PathBuf> =
        fs::read_dir(data().join(folder).join(class)).unwrap().map(|entry| entry.unwrap().path()).collect();
    files.sort();
    files
}

#[test]
fn pictures_come_in_the_order_in_which_they_are_named() {
    let dir = tempfile::tempdir().unwrap();
    let (star, ring) = (&pictures("test", "star")[0], &pictures("test", "ring")[1]);
    let folder = data().join("test/cross");
    let list = dir.path().join("list.txt");
    fs::write(&list, format!("{}\r\n\n2;{}\n", text(ring), text(star))).unwrap();
    let mut expected = vec![star.clone(), ring.clone()];
    expected.extend(pictures("test", "cross"));
    expected.extend([ring.clone(), star.clone(), star.clone()]);

    let mut child = feedline(&["predict", text(trained()), "--format", "csv", "--batch-size", "3"])
        .args([star, ring, &folder, &list, Path::new("-")])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    writeln!(child.stdin.take().unwrap(), "{}", text(star)).unwrap();
    let output = child.wait_with_output().unwrap();
    expect(&output, 0, &["note         of the run the best checkpoint is taken, ep001-step"]);
    let found = rows(&output);
    assert_eq!(
        found[0],
        "path,class_1,probability_1,class_2,probability_2,class_3,probability_3,class_4,probability_4,class_5,probability_5"
    );
    let paths: Vec<&str> = found[1..].iter().map(|row| row.split(',').next().unwrap()).collect();
    assert_eq!(paths, expected.iter().map(|path| text(path)).collect::<Vec<_>>());
    // The same picture has the same row wherever it stands, and whoever is beside it.
    assert_eq!((&found[1], &found[2]), (found.last().unwrap(), &found[found.len() - 3]));
    for workers in ["0", "3"] {
        let alone = predicted(trained(), &[text(star), text(ring), "--num-workers", workers]);
        assert_eq!(alone[1..], found[1..3]);
    }
    // All classes where fewer are asked for than there are, and their probabilities sum up to 1.
    let all = predicted(trained(), &[text(star), "--top-k", "99"]);
    let cells: Vec<&str> = all[1].split(',').collect();
    assert_eq!(cells.len(), 1 + 2 * 6);
    let shares: Vec<f64> = cells[2..].iter().step_by(2).map(|cell| cell.parse().unwrap()).collect();
    assert!((shares.iter().sum::<f64>() - 1.0).abs() < 1e-12 && shares.is_sorted_by(|a, b| a >= b), "{shares:?}");
}

#[test]
fn a_bad_picture_is_named_and_changes_no_other_row() {
    let dir = tempfile::tempdir().unwrap();
    let root = copy_of_data(&dir.path().join("d")).join("test");
    let before = predicted(trained(), &[text(&root), "--batch-size", "4"]);
    assert_eq!(before.len(), 1 + 24);
    let files: Vec<&str> = before[1..].iter().map(|row| row.split(',').next().unwrap()).collect();
    // One at the beginning, two in one batch in the middle, one at the end; one of them is not there at all.
    for (at, content) in [(0, "no picture"), (9, ""), (10, "\u{fffd}"), (23, "GIF89a")] {
        fs::write(files[at], content).unwrap();
    }
    let list = dir.path().join("list.txt");
    fs::write(&list, files.join("\n")).unwrap();
    fs::remove_file(files[10]).unwrap();
    let is_good = |at: &usize| ![0, 9, 10, 23].contains(at);
    let good: Vec<&String> = (0..24).filter(is_good).map(|at| &before[1 + at]).collect();
    let out = dir.path().join("rows.csv");
    for workers in ["0", "2"] {
        let args =
            ["predict", text(trained()), text(&list), "--format", "csv", "--batch-size", "4", "--out", text(&out)];
        let output = run(&[&args[..], &["--workers", workers]].concat());
        expect(
            &output,
            4,
            &["4 of 24 pictures could not be used", files[0], files[9], files[10], files[23], "0 bytes"],
        );
        assert!(output.stdout.is_empty());
        assert_eq!(fs::read_to_string(&out).unwrap().lines().skip(1).collect::<Vec<_>>(), good, "{workers} workers");
    }
    // Where nearly all are bad, none is found to stand in: the good one still has its row.
    for file in &files[2..] {
        fs::write(file, "no picture").unwrap();
    }
    let output = run(&["predict", text(trained()), text(&list), "--format", "csv", "--batch-size", "4"]);
    expect(&output, 4, &["23 of 24 pictures could not be used"]);
    assert_eq!(rows(&output)[1..], before[2..3]);
    let output = run(&["predict", text(trained()), files[5]]);
    expect(&output, 4, &["1 of 1 pictures", "failed to decode", files[5]]);
}

#[test]
fn rows_are_for_people_or_for_programs_and_mistakes_are_ranked() {
    let dir = tempfile::tempdir().unwrap();
    let folder = data().join("test");
    let predict = |words: &[&str]| run(&[&["predict", text(trained()), text(&folder)], words].concat());
    let lines: Vec<serde_json::Value> = rows(&predict(&["--format", "jsonl", "--top-k", "2"]))
        .iter()
        .map(|line| serde_json::from_str(line).unwrap())
        .collect();
    assert_eq!(lines.len(), 24);
    assert!(lines.iter().all(|line| line["top"].as_array().unwrap().len() == 2 && line.get("label").is_none()));

    // The mistakes of all of them, by hand.
    let share = |line: &serde_json::Value| line["top"][0]["probability"].as_f64().unwrap();
    let of = |line: &serde_json::Value| {
        let path = Path::new(line["path"].as_str().unwrap());
        path.parent().unwrap().file_name().unwrap().to_str().unwrap().to_owned()
    };
    let mut mistakes: Vec<&serde_json::Value> =
        lines.iter().filter(|line| line["top"][0]["class"] != of(line)).collect();
    mistakes.sort_by(|a, b| share(b).total_cmp(&share(a)));
    assert!(mistakes.len() > 3, "one epoch leaves some");
    let sheet = dir.path().join("worst.png");
    let output = predict(&["--worst", "3", "--format", "jsonl", "--show", text(&sheet)]);
    expect(&output, 0, &[&format!("{} of 24 pictures are taken for a class that is not theirs", mistakes.len())]);
    let found: Vec<serde_json::Value> = rows(&output).iter().map(|line| serde_json::from_str(line).unwrap()).collect();
    assert_eq!(found.len(), 3);
    for (found, expected) in found.iter().zip(&mistakes) {
        assert_eq!((&found["path"], &found["label"]), (&expected["path"], &of(expected).into()));
    }
    assert!(fs::read(&sheet).unwrap().starts_with(b"\x89PNG"));
    // A table has the label too; its columns line up.
    let table = rows(&predict(&["--worst", "2", "--top-k", "1"]));
    assert!(
        table.len() == 2 && table.iter().all(|row| row.contains("  is ") && row.starts_with(text(&folder))),
        "{table:?}"
    );

    let flat = dir.path().join("flat");
    fs::create_dir(&flat).unwrap();
    fs::copy(&pictures("test", "star")[0], flat.join("a.jpg")).unwrap();
    fs::write(flat.join("notes.md"), "").unwrap();
    expect(&run(&["predict", text(trained()), text(&flat)]), 0, &["1 *.md (notes.md)"]);
    expect(
        &run(&["predict", text(trained()), text(&flat), "--worst"]),
        2,
        &["of no picture the class is known", "circle"],
    );
    let empty = dir.path().join("empty");
    fs::create_dir(&empty).unwrap();
    expect(&run(&["predict", text(trained()), text(&empty)]), 3, &["there is no picture", "empty"]);
    let list = dir.path().join("list.txt");
    fs::write(&list, "6;a.jpg").unwrap();
    expect(&run(&["predict", text(trained()), text(&list)]), 3, &["line 1: label 6 is outside the 6 classes"]);
    expect(&run(&["eval", text(&flat.join("a.jpg"))]), 2, &["is a picture", "feedline predict"]);
}

#[test]
fn an_export_needs_no_run_and_replaces_nothing_silently() {
    let dir = tempfile::tempdir().unwrap();
    let output = run(&["export", text(trained())]);
    expect(&output, 0, &["note         of the run the best checkpoint is taken", "small, 6 classes, input 64x64 px"]);
    let file = PathBuf::from(rows(&output).remove(0));
    assert_eq!(file.parent().unwrap(), trained().canonicalize().unwrap().join("export"));
    assert!(text(&file).contains("/birds-ep001-step") && text(&file).ends_with(".safetensors"), "{file:?}");
    // The same again is no change; something else is not written over.
    expect(&run(&["export", text(trained())]), 0, &[]);
    let out = dir.path().join("mine.pt");
    fs::write(&out, "mine").unwrap();
    let export = |words: &[&str]| run(&[&["export", text(&trained().join("checkpoints/best"))], words].concat());
    expect(&export(&["--out", text(&out)]), 2, &["mine.pt is there already", "--overwrite"]);
    assert_eq!(fs::read(&out).unwrap(), b"mine");
    expect(&export(&["--out", text(&out), "--overwrite"]), 0, &[]);
    let onnx = dir.path().join("mine.onnx");
    expect(&export(&["--format", "torch", "--out", text(&onnx)]), 2, &["ends in .pt or .pth"]);
    expect(&export(&["--out", text(&onnx)]), 0, &[]);

    // It predicts without the run, which is not touched.
    let alone = dir.path().join("net.safetensors");
    fs::copy(&file, &alone).unwrap();
    let folder = data().join("test");
    let words = [text(&folder), "--top-k", "6"];
    assert_eq!(predicted(&alone, &words), predicted(&trained().join("checkpoints/best"), &words));
    let output = run(&["predict", text(&alone), text(&folder), "--set", "augment.std=[1.0, 1.0, 1.0]"]);
    expect(&output, 2, &["augment.std is another than the network was trained with"]);
    let output = run(&["predict", text(&alone), text(&folder), "--set", "data.exif=apply"]);
    expect(&output, 2, &["data.exif is another than the network was trained with"]);
    expect(&run(&["predict", text(&onnx), text(&folder)]), 7, &["mine.onnx", "--format safetensors"]);
    // A file of another program, a cut one, and one of a later version.
    let model = trained().join("checkpoints/best/model.safetensors");
    expect(&run(&["predict", text(&model), text(&folder)]), 6, &["it says nothing of its classes"]);
    let bytes = fs::read(&file).unwrap();
    fs::write(&alone, &bytes[..bytes.len() - 9]).unwrap();
    expect(&run(&["predict", text(&alone), text(&folder)]), 6, &["not a complete safetensors file"]);
    let at = bytes.windows(14).position(|part| part == b"{\\\"format\\\":1,").unwrap();
    fs::write(&alone, [&bytes[..at + 12], b"2", &bytes[at + 13..]].concat()).unwrap();
    expect(&run(&["predict", text(&alone), text(&folder)]), 7, &["format 2 of an exported network (known is 1)"]);

    // All of its tensors begin another run, in both forms.
    for weights in [&file, &out] {
        let next = dir.path().join("next");
        let mut args = short(data(), &next);
        args[6] = "1";
        args.extend(["--pretrained", text(weights)]);
        expect(&run(&args), 0, &["loaded 27 tensors, 0 did not match"]);
        fs::remove_dir_all(&next).unwrap();
    }
    // Where an output means another class, it begins anew, though there are as many of them.
    let other = copy_of_data(&dir.path().join("other"));
    for split in ["train", "test"] {
        fs::rename(other.join(split).join("ring"), other.join(split).join("hoop")).unwrap();
    }
    let next = dir.path().join("next");
    let mut args = short(&other, &next);
    args[6] = "1";
    args.extend(["--pretrained", text(&file)]);
    expect(&run(&args), 0, &["loaded 25 tensors, 2 did not match", "classifier.bias: of other classes"]);
}

#[test]
fn the_networks_of_other_recipes_are_refused_in_words() {
    let dir = tempfile::tempdir().unwrap();
    let (data, out) = (scenes::rooms(dir.path()), dir.path().join("run"));
    let mut args = scenes::scenes(&data, &out);
    args[8] = "1"; // epoch
    expect(&run(&args), 0, &[]);
    for command in [&["export", text(&out)][..], &["predict", text(&out), text(&data)]] {
        let words = format!("{0} for a network of the recipe scene_completion is not supported", command[0]);
        expect(&run(command), 7, &[&words, "is for the recipe classification"]);
    }
    expect(&run(&["export", text(&data)]), 6, &["it lies in no run folder"]);
}
