//! Import of weights: what matches is loaded, the rest is reported, and a broken file is named.

use super::options;
use crate::classification::network::weights::{Mismatch, Wanted, load_into};
use crate::classification::{Backbone, ClassificationTask, TaskOptions};
use feedline::Error;
use feedline::train::Task;
use safetensors::tensor::{Dtype, TensorView};
use std::path::Path;

/// Takes whatever fits.
const ANY: Wanted<'static> = Wanted { classes: &[], partial: true };

fn write(path: &Path, tensors: &[(&str, Dtype, Vec<usize>, Vec<u8>)]) {
    let views = tensors
        .iter()
        .map(|(name, dtype, shape, bytes)| (*name, TensorView::new(*dtype, shape.clone(), bytes).unwrap()));
    safetensors::serialize_to_file(views, None, path).unwrap();
}

fn bytes<const N: usize>(values: impl IntoIterator<Item = [u8; N]>) -> Vec<u8> {
    values.into_iter().flatten().collect()
}

#[test]
fn loads_what_fits_and_reports_the_rest() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("other.safetensors");
    let half = |v: f32| burn::tensor::f16::from_f32(v).to_le_bytes();
    write(
        &path,
        &[
            ("state_dict.module.classifier.bias", Dtype::F64, vec![7], bytes([[0u8; 8]; 7])),
            ("state_dict.module.features.0.1.weight", Dtype::F16, vec![16], bytes((0..16).map(|i| half(i as f32)))),
            ("state_dict.module.features.0.1.bias", Dtype::I64, vec![16], bytes([[0u8; 8]; 16])),
            ("state_dict.module.features.0.1.num_batches_tracked", Dtype::I64, vec![], vec![0; 8]),
            ("state_dict.module.fc.weight", Dtype::F32, vec![1], vec![0; 4]),
            ("optimizer.features.0.1.running_mean", Dtype::F32, vec![16], vec![0; 64]),
        ],
    );
    let mut task = ClassificationTask::new(options(Backbone::Small)).unwrap();
    let before = task.state().unwrap().model;
    let report = load_into(&mut task, &path, ANY).unwrap();
    assert_eq!(report.loaded, ["features.0.1.weight"]);
    let why = |name: &str| report.unmatched.iter().find(|(n, _)| n == name).map(|(_, why)| why.clone());
    assert_eq!(why("classifier.bias"), Some(Mismatch::Shape { file: vec![7], model: vec![5] }));
    assert_eq!(why("features.0.1.bias"), Some(Mismatch::Type("I64".into())));
    assert_eq!(why("features.0.1.running_mean"), Some(Mismatch::Missing));
    assert_eq!(why("fc.weight"), Some(Mismatch::Unknown));
    assert_eq!(report.unmatched.len(), before.len() - 1 + 1, "{report}");
    assert!(report.to_string().contains("\n  classifier.bias: [7] in the file, [5] in the model"), "{report}");
    let after = task.state().unwrap().model;
    for (name, value) in &before {
        assert_eq!(after[name] != *value, name == "features.0.1.weight", "{name}");
    }
    assert_eq!(after["features.0.1.weight"].as_slice::<f32>()[15], 15.0);
}

#[test]
fn a_broken_file_is_named_and_changes_nothing() {
    let folder = tempfile::tempdir().unwrap();
    let whole = folder.path().join("whole.safetensors");
    write(&whole, &[("features.0.1.weight", Dtype::F32, vec![16], vec![1; 64])]);
    let whole = std::fs::read(whole).unwrap();
    let mut task = ClassificationTask::new(options(Backbone::Small)).unwrap();
    let before = task.state().unwrap().model;
    for (name, content) in [
        ("cut.safetensors", &whole[..whole.len() - 1]),
        ("empty.safetensors", &[][..]),
        ("huge_header.safetensors", &[0xFF; 64][..]),
        ("text.pth", b"not a model"),
        ("empty.pth", b""),
        ("cut_zip.pt", b"PK\x03\x04\x00\x00"),
        ("safetensors_inside.pth", &whole),
        // Calls os.system("touch ran") when unpickled.
        ("hostile.pth", b"\x80\x02cos\nsystem\nX\x09\x00\x00\x00touch ran\x85R."),
        ("weights.onnx", b"x"),
    ] {
        let path = folder.path().join(name);
        std::fs::write(&path, content).unwrap();
        let error = load_into(&mut task, &path, ANY).unwrap_err();
        assert!(matches!(&error, Error::Checkpoint { path: p, .. } if *p == path), "{name}: {error}");
    }
    assert!(!Path::new("ran").exists());
    let missing = load_into(&mut task, &folder.path().join("missing.pth"), ANY).unwrap_err();
    assert!(matches!(missing, Error::Io { .. }), "{missing}");
    assert_eq!(task.state().unwrap().model, before);
}

#[test]
fn weights_of_another_network_are_refused() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("other.safetensors");
    write(&path, &[("fc.bias", Dtype::F32, vec![5], vec![0; 20])]);
    let mut task = ClassificationTask::new(TaskOptions { num_classes: 3, ..options(Backbone::Mobilenetv2) }).unwrap();
    let error = load_into(&mut task, &path, ANY).unwrap_err().to_string();
    assert!(error.contains("none of its 1 tensors fits the backbone mobilenetv2"), "{error}");
}

#[test]
fn weights_of_half_a_network_or_of_a_larger_one_are_refused_unless_they_are_asked_for() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("w.safetensors");
    let mut task = ClassificationTask::new(options(Backbone::Small)).unwrap();
    let before = task.state().unwrap().model;
    let whole: Vec<_> = before
        .iter()
        .map(|(name, values)| {
            let values = vec![1; values.as_slice::<f32>().len() * 4];
            (name.as_str(), Dtype::F32, before[name].shape().to_vec(), values)
        })
        .collect();
    let strict = Wanted { classes: &[], partial: false };
    let is_head = |name: &str| name.starts_with("classifier");
    // Without its head it is a backbone like any other, and a tensor or two of something else are no reason to refuse it.
    let mut backbone: Vec<_> = whole.iter().filter(|(name, ..)| !is_head(name)).cloned().collect();
    backbone.push(("aux.bias", Dtype::F32, vec![1], vec![0; 4]));
    write(&path, &backbone);
    let report = load_into(&mut task, &path, strict).unwrap();
    assert_eq!(report.loaded.len(), backbone.len() - 1);

    let mut task = ClassificationTask::new(options(Backbone::Small)).unwrap();
    let mut half: Vec<_> = whole.clone();
    half.sort_by_key(|(.., bytes)| bytes.len());
    half.pop(); // the largest is more than half of all
    let stranger: Vec<String> = (0..whole.len() / 5).map(|at| format!("layer9.{at}.weight")).collect();
    let mut larger = whole.clone();
    larger.extend(stranger.iter().map(|name| (name.as_str(), Dtype::F32, vec![1], vec![0; 4])));
    for (tensors, part) in [(&half, "fewer than half"), (&larger, "so it is of another network")] {
        write(&path, tensors);
        let error = load_into(&mut task, &path, strict).unwrap_err().to_string();
        assert!(error.contains(part) && error.contains("--partial") && error.contains("backbone small"), "{error}");
        assert_eq!(task.state().unwrap().model, before, "nothing was changed");
        let mut task = ClassificationTask::new(options(Backbone::Small)).unwrap();
        assert!(load_into(&mut task, &path, ANY).is_ok());
    }
}

#[test]
fn the_head_of_a_run_is_taken_for_the_same_classes_alone() {
    let folder = tempfile::tempdir().unwrap();
    let checkpoint = folder.path().join("checkpoints/ep001-step00000000");
    std::fs::create_dir_all(&checkpoint).unwrap();
    let path = checkpoint.join("model.safetensors");
    let of = |names: [&str; 5]| names.map(str::to_owned);
    let (own, other) = (of(["a", "b", "c", "d", "e"]), of(["b", "a", "c", "d", "e"]));
    std::fs::write(folder.path().join("classes.txt"), own.join("\n")).unwrap();
    let mut task = ClassificationTask::new(options(Backbone::Small)).unwrap();
    let model = task.state().unwrap().model;
    let tensors = model.iter().map(|(name, values)| {
        let bytes = vec![0; values.as_slice::<f32>().len() * 4];
        (name.as_str(), Dtype::F32, values.shape().to_vec(), bytes)
    });
    write(&path, &tensors.collect::<Vec<_>>());
    let report = load_into(&mut task, &path, Wanted { classes: &other, partial: false }).unwrap();
    assert!(!report.unmatched.is_empty(), "{report}");
    assert!(
        report.unmatched.iter().all(|(name, why)| name.starts_with("classifier") && *why == Mismatch::OtherClasses)
    );
    assert_eq!(load_into(&mut task, &path, Wanted { classes: &own, partial: false }).unwrap().unmatched, []);
}
