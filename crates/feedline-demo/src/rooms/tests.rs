//! Tests of the demo data: the files, and that pictures and voxels tell of the same room.

use super::*;
use crate::folder::tests::files;
use std::collections::BTreeSet;

const SMALL: DemoOptions = DemoOptions { train: 3, test: 2, seed: 3, image_px: [24, 32], grid: [6, 4, 6] };

/// Large enough for furniture to be told apart.
const MIDDLE: DemoOptions = DemoOptions { train: 12, test: 1, seed: 0, image_px: [60, 80], grid: [30, 18, 30] };

#[test]
fn equal_options_give_equal_bytes_and_every_scene_differs() {
    let dir = tempfile::tempdir().unwrap();
    let mut calls = Vec::new();
    write_demo_data(&dir.path().join("a"), &SMALL, |done, total| calls.push((done, total))).unwrap();
    assert_eq!(calls, (1..=5).map(|done| (done, 5)).collect::<Vec<_>>());
    write_demo_data(&dir.path().join("deep/er/b"), &SMALL, |_, _| ()).unwrap();
    let (a, b) = (files(&dir.path().join("a")), files(&dir.path().join("deep/er/b")));
    assert_eq!(a, b);
    assert_eq!(a.len(), 5 * 6 + 2 + 1);
    assert_eq!(a["train.txt"], b"0001\n0002\n0003\n");
    assert_eq!(a["test.txt"], b"0004\n0005\n");
    for id in ["0001", "0002", "0003", "0004", "0005"] {
        let sketch = feedline::decode::NpyHeader::parse(&a[&format!("sketch3D/{id}.npy")]).unwrap();
        assert_eq!((sketch.shape, sketch.dtype), (SMALL.grid.to_vec(), feedline::DType::U8));
        for name in [format!("RGB/NYU{id}_colors.png"), format!("HHA/{id}.png")] {
            let mut image = RgbImage::default();
            feedline::decode::decode_rgb(&a[&name], &feedline::decode::Limits::default(), &mut image).unwrap();
            assert_eq!((image.height_px, image.width_px), (24, 32), "{name}");
        }
    }
    let pictures: BTreeSet<_> = a.iter().filter(|(name, _)| name.starts_with("RGB")).map(|(_, bytes)| bytes).collect();
    assert_eq!(pictures.len(), 5, "two scenes look alike");
    write_demo_data(&dir.path().join("c"), &DemoOptions { seed: 4, ..SMALL }, |_, _| ()).unwrap();
    assert_ne!(files(&dir.path().join("c"))["HHA/0001.png"], a["HHA/0001.png"]);
}

#[test]
fn a_folder_with_something_in_it_is_used_or_left_alone() {
    let dir = tempfile::tempdir().unwrap();
    let data = dir.path().join("data");
    write_demo_data(&data, &SMALL, |_, _| ()).unwrap();
    let before = files(dir.path());
    write_demo_data(&data, &SMALL, |_, _| panic!("written twice")).unwrap();
    let text = write_demo_data(&data, &DemoOptions { seed: 9, ..SMALL }, |_, _| ()).unwrap_err().to_string();
    assert!(text.contains("other options") && text.contains("Choose another folder"), "{text}");
    assert_eq!(files(dir.path()), before);

    let other = dir.path().join("other");
    fs::create_dir(&other).unwrap();
    fs::write(other.join("mine.txt"), "mine").unwrap();
    let text = write_demo_data(&other, &SMALL, |_, _| ()).unwrap_err().to_string();
    assert!(text.contains("something else"), "{text}");
    assert_eq!(files(&other).len(), 1);
    let few = DemoOptions { test: 0, ..SMALL };
    let flat = DemoOptions { grid: [6, 3, 6], ..SMALL };
    let vast = DemoOptions { image_px: [24, 5000], ..SMALL };
    for options in [few, flat, vast] {
        let text = write_demo_data(&dir.path().join("none"), &options, |_, _| ()).unwrap_err().to_string();
        assert!(text.contains("Ask for"), "{text}");
    }
    assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 2, "something was left behind");
}

#[test]
fn pictures_and_voxels_tell_of_the_same_room() {
    let mut met = BTreeSet::new();
    let least = DemoOptions { train: 20, image_px: [8, 8], grid: [4, 4, 4], ..SMALL };
    for options in [least, SMALL, MIDDLE] {
        let [height_px, width_px] = options.image_px.map(|side| side as usize);
        for number in 1..=options.train {
            let mut rng = SampleRng::new(options.seed, 0, number, "demo scene");
            let room = room::Room::draw(options.grid, &mut rng);
            let view = view::look(&room, [height_px, width_px]);
            let voxels: usize = options.grid.iter().product();
            assert_eq!(view.colours.len(), 3 * height_px * width_px);
            assert_eq!(view.hha.len(), view.colours.len());
            let (mut mapped, mut occupied) = (0, 0);
            for voxel in 0..voxels {
                let (pixel, label, weight) = (view.pixel_of_voxel[voxel], view.labels[voxel], view.weights[voxel]);
                assert!((0..=(height_px * width_px) as i64).contains(&pixel));
                assert!(label <= 11 || label == view::IGNORED);
                assert!((-1.0..=1.0).contains(&view.tsdf[voxel]));
                assert!(weight == 0.0 || weight == 1.0);
                assert!(weight == 0.0 || label != view::IGNORED);
                assert!(weight == 1.0 || matches!(label, 0 | view::IGNORED));
                assert!(view.sketch[voxel] == 0 || (1..=11).contains(&label));
                occupied += u32::from((1..=11).contains(&label));
                met.insert(label);
                if pixel < (height_px * width_px) as i64 {
                    mapped += 1;
                    // The pixel has the colour of something of the voxel's class, up to the light on it.
                    let at = 3 * pixel as usize;
                    let seen = &view.colours[at..at + 3];
                    let fits = |solid: &room::Solid| {
                        let lights = room.light.as_flattened().iter().flat_map(|light| [*light, light * 0.8]);
                        solid.class == label
                            && lights.into_iter().any(|light| seen == solid.colour.map(|v| (v * light) as u8))
                    };
                    assert!(room.solids.iter().any(fits), "scene {number}, voxel {voxel} of class {label}: {seen:?}");
                }
            }
            assert!(view.hha.chunks(3).all(|bytes| bytes[0] > 0), "scene {number}: a ray leaves the room");
            assert!(mapped > 0 && occupied >= mapped, "scene {number}: {mapped} of {occupied}");
            assert!(options == least || view.sketch.contains(&1));
        }
    }
    assert_eq!(met.len(), 13, "{met:?}");
}

#[test]
fn what_is_seen_to_be_empty_is_in_front_of_a_surface_and_does_not_count() {
    let view = draw(&MIDDLE, 1);
    let (mut seen, mut hidden) = (0, 0);
    for (voxel, tsdf) in view.tsdf.iter().enumerate() {
        if view.labels[voxel] == 0 {
            assert_eq!(*tsdf > 0.0, view.weights[voxel] == 0.0);
            seen += u32::from(*tsdf > 0.0);
            hidden += u32::from(*tsdf <= 0.0);
        }
    }
    assert!(seen > hidden && hidden > 0, "{seen} seen, {hidden} hidden");
}
