//! `feedline report` and `feedline compare`: of runs that ended, were stopped, lost their data, or are none.

use super::scenes::{rooms, scenes};
use super::{copy_of_data, data, expect, feedline, run, short, wait_for_steps};
use roxmltree::{Document, Node, ParsingOptions};
use std::fs;
use std::path::Path;
use std::process::{Command, Stdio};

/// A class as nobody should name one.
const HOSTILE: &str = "<script>alert('1')<∕script> & \"猫\"";

fn text(path: &Path) -> &str {
    path.to_str().unwrap()
}

/// The page as XML: it is well-formed, and asks for nothing from outside.
fn parsed(page: &str) -> Document<'_> {
    let document = Document::parse_with_options(page, ParsingOptions { allow_dtd: true, ..Default::default() });
    let document = document.unwrap();
    for part in ["http://", "https://", "url(", "@import", "<script", "<link", "<iframe"] {
        assert!(!page.contains(part), "{part} stands in the page");
    }
    let pictures = || document.descendants().filter(|node| node.has_tag_name("img"));
    for picture in pictures() {
        assert!(picture.attribute("src").unwrap().starts_with("data:image/png;base64,iVBORw0KGgo"));
        assert!(!picture.attribute("alt").unwrap().is_empty());
    }
    document
}

/// All text in a node.
fn words(node: Node<'_, '_>) -> String {
    node.descendants().filter(Node::is_text).filter_map(|node| node.text()).collect()
}

fn headings(document: &Document<'_>) -> Vec<String> {
    let is_heading = |node: &Node<'_, '_>| ["h2", "h3"].iter().any(|name| node.has_tag_name(*name));
    document.descendants().filter(is_heading).map(words).collect()
}

#[test]
fn a_report_tells_what_eval_and_verify_tell_and_says_what_is_left_out() {
    let dir = tempfile::tempdir().unwrap();
    let (root, out) = (copy_of_data(&dir.path().join("data")), dir.path().join("run"));
    for split in ["train", "test"] {
        fs::rename(root.join(split).join("ring"), root.join(split).join(HOSTILE)).unwrap();
    }
    expect(&run(&short(&root, &out)), 0, &[]);
    let report = run(&["report", text(&out)]);
    expect(&report, 0, &[]);
    let path = out.join("report.html");
    assert_eq!(String::from_utf8_lossy(&report.stdout), format!("{}\n", path.display()));
    let page = fs::read_to_string(&path).unwrap();
    let document = parsed(&page);
    let expect_headings = [
        "Curves",
        "Evaluation",
        "Confusion matrix",
        "Classes",
        "Worst mistakes",
        "A training batch",
        "Data",
        "Was every sample delivered?",
        "Was the data fast enough?",
        "Epochs",
        "What was trained",
        "Settings that differ from the defaults",
    ];
    assert_eq!(headings(&document), expect_headings);

    // The matrix is that of `eval`, cell for cell, and its classes have their names, letter for letter.
    let best = out.join("checkpoints/best");
    let evaluated = dir.path().join("eval");
    expect(&run(&["eval", text(&best), "--out", text(&evaluated)]), 0, &[]);
    let csv = fs::read_to_string(evaluated.join("confusion_matrix.csv")).unwrap();
    let matrix = document.descendants().find(|node| node.attribute("class") == Some("matrix")).unwrap();
    let rows = matrix.descendants().filter(|node| node.has_tag_name("tr")).skip(1);
    let rows: Vec<Vec<String>> = rows.map(|row| row.children().filter(Node::is_element).map(words).collect()).collect();
    let cells = |line: &str| -> Vec<String> {
        // Names with a comma or quotes are in quotes.
        let (name, counts) =
            line.split_at(line.len() - line.split(',').rev().take(6).map(|c| c.len() + 1).sum::<usize>());
        let quoted = name.strip_prefix('"').and_then(|name| name.strip_suffix('"'));
        let name = quoted.map_or(name.to_string(), |name| name.replace("\"\"", "\""));
        [name].into_iter().chain(counts[1..].split(',').map(String::from)).collect()
    };
    assert_eq!(rows, csv.lines().skip(1).map(cells).collect::<Vec<_>>());
    assert!(rows.iter().any(|row| row[0] == HOSTILE), "{rows:?}");
    let counted: u64 = rows.iter().flat_map(|row| &row[1..]).map(|cell| cell.parse::<u64>().unwrap()).sum();
    assert_eq!(counted, 24);

    // As many mistakes as the matrix has, up to 12, with the highest probability first; and 12 pictures of the batch.
    let captions: Vec<String> = document.descendants().filter(|n| n.has_tag_name("figcaption")).map(words).collect();
    let sure: Vec<f64> = captions
        .iter()
        .filter_map(|caption| caption.split_once(" with ")?.1.split_once(" %")?.0.parse().ok())
        .collect();
    let wrong = 24 - rows.iter().enumerate().map(|(at, row)| row[at + 1].parse::<usize>().unwrap()).sum::<usize>();
    assert!(wrong > 0 && sure.len() == wrong.min(12), "{wrong} are wrong, and {} are shown", sure.len());
    assert!(sure.is_sorted_by(|a, b| a >= b), "{sure:?}");
    assert_eq!(document.descendants().filter(|node| node.has_tag_name("img")).count(), sure.len() + 12);

    // The proof in the words of `verify`.
    let proof = String::from_utf8(run(&["verify", text(&out)]).stdout).unwrap();
    let told: Vec<String> = document.descendants().filter(|node| node.has_tag_name("pre")).map(words).collect();
    assert_eq!(told, [proof.trim_end()]);
    // Settings: what the flags said, in the order of the settings, and where the data is.
    let mut tables = document.descendants().filter(|node| node.has_tag_name("table"));
    let settings = words(tables.next_back().unwrap());
    for key in ["seed70", "data.dir", "train.epochs310", "train.batch_size1632", "train.checkpoint_steps2"] {
        assert!(settings.replace('\n', "").contains(key), "{key} is not in {settings}");
    }
    assert!(!settings.contains("train.optimizer"), "{settings}");

    // The same run gives the same page; another file stays.
    expect(&run(&["report", text(&out)]), 0, &[]);
    assert!(fs::read_to_string(&path).unwrap() == page, "two reports of one run differ");
    let foreign = out.join("config.toml");
    let config = fs::read(&foreign).unwrap();
    let refused = run(&["report", text(&out), "--out", text(&foreign)]);
    expect(&refused, 2, &["config.toml", "is not a report of Feedline", "Name another file"]);
    assert_eq!(fs::read(&foreign).unwrap(), config);
    expect(&run(&["report", text(&root)]), 6, &["not a run folder"]);

    // Without its data and its ledger there is less to tell, which the page and the command say.
    fs::rename(&root, dir.path().join("moved")).unwrap();
    fs::remove_file(out.join("ledger.jsonl")).unwrap();
    let less = dir.path().join("less.html");
    let output = run(&["report", text(&out), "--out", text(&less)]);
    expect(&output, 0, &["left out: the evaluation of the best checkpoint", "left out: what was trained on what"]);
    let page = fs::read_to_string(&less).unwrap();
    let document = parsed(&page);
    let gone = ["Evaluation", "Confusion matrix", "Classes", "Worst mistakes", "A training batch"];
    let kept = expect_headings.iter().filter(|heading| !gone.contains(heading));
    assert_eq!(headings(&document), kept.copied().collect::<Vec<_>>());
    let note = document.descendants().find(|node| node.attribute("class") == Some("note")).map(words).unwrap();
    assert!(note.contains(text(&root)) && note.starts_with("Note\nleft out: what was trained on what"), "{note}");
    assert!(words(document.root_element()).contains("It cannot be said"));
}

#[test]
fn runs_are_compared_by_what_they_did_and_what_was_asked_of_them() {
    let dir = tempfile::tempdir().unwrap();
    let (one, two, rooms_run) = (dir.path().join("one"), dir.path().join("two"), dir.path().join("rooms-run"));
    expect(&run(&short(data(), &one)), 0, &[]);
    // Stopped in an epoch, some of which are done.
    let args = ["train", "--data", text(data()), "--out", text(&two), "--epochs", "500", "--batch-size", "16"];
    let more =
        ["--seed", "7", "--init-lr", "0.01", "--set", "train.checkpoint_steps=2", "--set", "train.save_period=0"];
    let mut child = feedline(&[&args[..], &more].concat()).stderr(Stdio::null()).spawn().unwrap();
    wait_for_steps(&two, 6 * 2 + 2, &mut child);
    assert!(Command::new("kill").args(["-KILL", &child.id().to_string()]).status().unwrap().success());
    child.wait().unwrap();

    let png = dir.path().join("curves.png");
    let compare = |more: &[&str]| run(&[&["compare", text(&one), text(&two)], more].concat());
    let output = compare(&["--format", "json"]);
    expect(&output, 0, &[]);
    let found: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    for (at, dir) in [&one, &two].into_iter().enumerate() {
        let figures = &found[at];
        let losses = fs::read_to_string(dir.join("epoch_val_loss.txt")).unwrap();
        assert_eq!(figures["epochs"], losses.lines().count(), "{figures}");
        assert_eq!(figures["val_loss"].as_f64(), losses.lines().last().unwrap().parse().ok());
        assert_eq!((&figures["metric"], &figures["recipe"]), (&"accuracy".into(), &"classification".into()));
    }
    let summary: serde_json::Value = serde_json::from_slice(&fs::read(one.join("summary.json")).unwrap()).unwrap();
    assert_eq!(found[0]["metric_best"], summary["best_val_accuracy"]);
    assert_eq!(found[0]["metric_last"], summary["val_accuracy"]);
    let close = |a: &serde_json::Value, b: &serde_json::Value| (a.as_f64().unwrap() - b.as_f64().unwrap()).abs() < 1e-9;
    assert!(close(&found[0]["data_wait_share"], &summary["data_wait_share"]), "{found}");
    let settings = serde_json::json!([
        { "train.epochs": "3", "train.init_lr": "0.02" },
        { "train.epochs": "500", "train.init_lr": "0.01" },
    ]);
    assert_eq!(serde_json::json!([found[0]["settings"], found[1]["settings"]]), settings);

    let output = compare(&["--out", text(&png)]);
    expect(&output, 0, &["curves.png"]);
    assert!(fs::read(&png).unwrap().starts_with(b"\x89PNG"));
    let table = String::from_utf8(output.stdout).unwrap();
    let lines: Vec<Vec<&str>> = table.lines().map(|line| line.split_whitespace().collect()).collect();
    assert_eq!(lines[0][..3], ["recipe", "epochs", "train"], "{table}");
    assert_eq!((lines[1][..3].to_vec(), lines[1].last()), (vec!["#1", "classification", "3/3"], Some(&text(&one))));
    assert_eq!(
        lines[4..],
        [
            vec!["settings", "that", "differ", "#1", "#2"],
            vec!["train.epochs", "3", "500"],
            vec!["train.init_lr", "0.02", "0.01"],
        ]
    );
    // Many runs: the settings key by key, each value once.
    let many = [&["compare"][..], &[text(&one); 16], &[text(&two)]].concat();
    let output = run(&many);
    expect(&output, 0, &[]);
    let table = String::from_utf8(output.stdout).unwrap();
    assert!(table.contains("train.epochs\n    3  #1 #2 #3"), "{table}");
    assert!(
        table.ends_with(
            "train.init_lr\n    0.02  #1 #2 #3 #4 #5 #6 #7 #8 #9 #10 #11 #12 #13 #14 #15 #16\n    0.01  #17\n"
        ),
        "{table}"
    );
    let csv = String::from_utf8(compare(&["--format", "csv"]).stdout).unwrap();
    assert!(csv.lines().next().unwrap().ends_with(",hours,train.epochs,train.init_lr"), "{csv}");
    assert_eq!(csv.lines().count(), 3);

    // Refusals leave what is there.
    let refused = compare(&["--out", text(&one.join("config.toml"))]);
    expect(&refused, 2, &["config.toml", "is not a PNG picture"]);
    expect(&run(&["compare", text(&one), text(dir.path())]), 6, &["not a run folder"]);
    // Another recipe: figures yes, a common chart no.
    let rooms = rooms(dir.path());
    let args = scenes(&rooms, &rooms_run);
    expect(&run(&args), 0, &[]);
    let mixed = ["compare", text(&one), text(&rooms_run)];
    let output = run(&mixed);
    expect(&output, 0, &["the recipes differ", "cannot be compared"]);
    let table = String::from_utf8(output.stdout).unwrap();
    let row: Vec<&str> = table.lines().nth(2).unwrap().split_whitespace().collect();
    assert_eq!((row[..3].to_vec(), row[5]), (vec!["#2", "scene_completion", "3/3"], "ssc_miou"), "{table}");
    let none = dir.path().join("none.png");
    expect(&run(&[&mixed[..], &["--out", text(&none)]].concat()), 2, &["have no chart in common"]);
    assert!(!none.exists());
    // A page of it has the parts that every recipe has.
    expect(&run(&["report", text(&rooms_run)]), 0, &[]);
    let page = fs::read_to_string(rooms_run.join("report.html")).unwrap();
    let document = parsed(&page);
    let told = words(document.root_element());
    assert!(told.contains("SSC mIoU") && told.contains("proved up to the last checkpoint"), "{told}");
    assert!(document.descendants().any(|node| node.has_tag_name("img")));
}

#[test]
fn a_matrix_too_large_for_a_page_is_told_by_its_largest_cells() {
    let dir = tempfile::tempdir().unwrap();
    let (root, out) = (dir.path().join("data"), dir.path().join("run"));
    for split in ["train", "test"] {
        let files = fs::read_dir(data().join(split).join("circle")).unwrap().map(|file| file.unwrap().path());
        let file = files.min().unwrap();
        for class in 0..32 {
            let folder = root.join(split).join(format!("class {class:02}"));
            fs::create_dir_all(&folder).unwrap();
            fs::copy(&file, folder.join("0.jpg")).unwrap();
        }
    }
    expect(&run(&short(&root, &out)), 0, &[]);
    expect(&run(&["report", text(&out)]), 0, &[]);
    let page = fs::read_to_string(out.join("report.html")).unwrap();
    let document = parsed(&page);
    assert_eq!(headings(&document)[2..4], ["Classes that are mixed up most", "Classes"]);
    // One picture under 32 names: all but one are taken for the same class, each of them once.
    let tables: Vec<_> = document.descendants().filter(|node| node.has_tag_name("tbody")).collect();
    let pairs: Vec<String> = tables[0].descendants().filter(|node| node.has_tag_name("tr")).map(words).collect();
    assert_eq!(pairs.len(), 30);
    assert!(pairs.iter().all(|pair| pair.trim_end().ends_with('1')) && pairs.is_sorted(), "{pairs:?}");
    let told = words(document.root_element());
    assert!(told.contains("30 of 31 pairs") && told.contains("The 30 of 32 with the lowest recall"), "{told}");
}
