"""OpenPCDet's batches: their keys, shapes and numbers against plain NumPy, given what was drawn; other layouts."""

import json
import pickle
import shutil
import subprocess
import sys
from pathlib import Path

import feedline
import numpy as np
import pytest
import torch
from feedline.recipes.lidar import CustomDataset, KittiDataset, build_dataloader, load_data_to_gpu
from lidar_reference import (
    CLASSES,
    FLIP,
    IMAGE,
    MASK,
    RANGE,
    ROTATION,
    SCALING,
    SHUFFLE,
    Calib,
    augmented,
    boxes_in_range,
    config,
    difficulty,
    frame_info,
    grid_of,
    in_range,
    inside,
    limit_period,
    overlap_bev,
    sampling,
    turned,
    voxelise,
    voxels,
    write_kitti,
)

REAL = Path(__file__).resolve().parents[4] / "shared/data/kitti"
CALIB = Calib()
ALWAYS = {"points", "frame_id", "calib", "image_shape", "use_lead_xyz", "lidar_aug_matrix", "batch_size"}


def loader(config, batch_size=1, workers=0, classes=CLASSES, **options):
    return build_dataloader(config, classes, batch_size, False, workers=workers, **options)[1]


def stored(folder, name, part="training"):
    return np.fromfile(folder / f"{part}/velodyne/{name}.bin", np.float32).reshape(-1, 4)


def seen(folder, name, part="training"):
    points = stored(folder, name, part)
    return points[CALIB.seen(points)]


def truth(dataset, name, classes=CLASSES):
    """(n, 8) boxes of the classes that count, in the order of the labels."""
    (annos,) = [info["annos"] for info in dataset.infos if info["point_cloud"]["lidar_idx"] == name]
    rows = [at for at, kind in enumerate(annos["name"]) if kind in classes]
    labels = [classes.index(annos["name"][at]) + 1 for at in rows]
    return np.column_stack([annos["gt_boxes_lidar"][rows], labels]).reshape(-1, 8)


def rows_of(batch, key, at):
    return batch[key][batch[key][:, 0] == at][:, 1:]


def boxes_of(batch, at):
    boxes = batch["gt_boxes"][at]
    return boxes[boxes[:, 7] > 0]


def same_heading(found, expect, atol=1e-5):
    assert np.abs(limit_period(found - expect)).max(initial=0) < atol


# As for evaluation: bit for bit.


@pytest.mark.parametrize("workers", [0, 2])
def test_frames_for_evaluation_are_the_references_bit_for_bit(kitti, workers):
    dataset, batches, sampler = build_dataloader(config(kitti), CLASSES, 2, False, workers=workers, training=False)
    assert sampler is None and len(dataset) == 3 and len(batches) == 2
    ids = []
    for batch in batches:
        voxel_keys = {"voxels", "voxel_coords", "voxel_num_points", "gt_boxes"}
        assert set(batch) == ALWAYS | voxel_keys and batch["batch_size"] == len(batch["frame_id"]) == batch.valid
        assert not any(batch["lidar_aug_matrix"].ravel() - np.tile(np.eye(4).ravel(), batch["batch_size"]))
        at_voxel = 0
        for at, name in enumerate(batch["frame_id"]):
            points = seen(kitti, name)
            points = points[in_range(points, RANGE)]
            assert np.array_equal(rows_of(batch, "points", at), points)
            expect = voxelise(points, RANGE, (0.16, 0.16, 4), 32, 40000)
            own = slice(at_voxel, at_voxel + len(expect[0]))
            assert (batch["voxel_coords"][own, 0] == at).all()
            found = batch["voxels"][own], batch["voxel_coords"][own, 1:], batch["voxel_num_points"][own]
            assert all(np.array_equal(*pair) for pair in zip(found, expect, strict=True))
            at_voxel = own.stop
            expect = truth(dataset, name).astype(np.float32)
            assert np.array_equal(boxes_of(batch, at), expect) and not batch["gt_boxes"][at, len(expect) :].any()
            calib = batch["calib"][at]
            assert np.array_equal(calib.P2, CALIB.p2[:3]) and np.array_equal(calib.V2C, CALIB.tr[:3])
        assert at_voxel == len(batch["voxels"]) == len(batch["voxel_coords"])
        assert batch["gt_boxes"].shape[1] == max(len(boxes_of(batch, at)) for at in range(batch["batch_size"]))
        ids += batch["frame_id"].tolist()
    assert ids == ["000006", "000007", "000008"]


def test_a_batch_has_openpcdets_shapes_and_types(kitti):
    step = {"NAME": "random_world_flip", "ALONG_AXIS_LIST": ["x", "y"]}
    batch = next(iter(loader(config(kitti, augment=[step, ROTATION, SCALING]), 3)))
    count, boxes = len(batch["points"]), batch["gt_boxes"].shape[1]
    number = len(batch["voxels"])
    assert {key: (value.shape, value.dtype.str) for key, value in batch.items() if isinstance(value, np.ndarray)} == {
        "points": ((count, 5), "<f4"),
        "voxels": ((number, 32, 4), "<f4"),
        "voxel_coords": ((number, 4), "<i4"),
        "voxel_num_points": ((number,), "<i4"),
        "gt_boxes": ((3, boxes, 8), "<f4"),
        "frame_id": ((3,), "<U6"),
        "image_shape": ((3, 2), "<i4"),
        "use_lead_xyz": ((3,), "|b1"),
        "flip_x": ((3,), "|b1"),
        "flip_y": ((3,), "|b1"),
        "noise_rot": ((3,), "<f8"),
        "noise_scale": ((3,), "<f8"),
        "lidar_aug_matrix": ((3, 4, 4), "<f8"),
    }
    assert type(batch["batch_size"]) is int and batch["batch_size"] == len(batch["calib"]) == 3
    assert batch["use_lead_xyz"].all() and (batch["image_shape"] == IMAGE).all()
    tensors = next(iter(loader(config(kitti, augment=[step, ROTATION, SCALING]), 3, output="torch")))
    for key, value in batch.items():
        if key in ("calib", "batch_size", "frame_id"):
            assert key == "calib" or np.array_equal(tensors[key], value)
        else:
            assert np.array_equal(tensors[key].numpy(), value) and tensors[key].numpy().dtype == value.dtype, key
    load_data_to_gpu(batch, "cpu")
    assert batch["voxel_coords"].dtype == torch.float32 and batch["image_shape"].dtype == torch.int32


def test_a_data_set_tells_what_networks_are_built_from(kitti):
    dataset = KittiDataset(config(kitti, process=[MASK, SHUFFLE, voxels((0.05, 0.05, 0.1), 5)]), CLASSES)
    assert dataset.grid_size.tolist() == grid_of(RANGE, (0.05, 0.05, 0.1)).tolist() == [1382, 1587, 40]
    assert dataset.voxel_size == [0.05, 0.05, 0.1] and dataset.depth_downsample_factor is None
    assert dataset.point_cloud_range.dtype == np.float32 and np.allclose(dataset.point_cloud_range, RANGE)
    assert dataset.point_feature_encoder.num_point_features == 4 and dataset.class_names == CLASSES
    assert (dataset.mode, KittiDataset(config(kitti), CLASSES, training=False).mode) == ("train", "test")
    assert dataset.sample_id_list == [f"{number:06}" for number in range(6)]
    without = KittiDataset(config(kitti, process=[MASK]), CLASSES)
    assert without.grid_size is None and without.voxel_size is None and "voxels" not in next(iter(loader(config(kitti, process=[MASK]))))


def test_infos_have_openpcdets_keys_and_types(kitti):
    dataset = KittiDataset(config(kitti), CLASSES)
    for number, info in enumerate(dataset.kitti_infos):
        name = f"{number:06}"
        labels = (kitti / f"training/label_2/{name}.txt").read_text()
        expect = frame_info(kitti, "train", name, stored(kitti, name), CALIB, labels)
        assert info["point_cloud"] == expect["point_cloud"] and info["image"]["image_idx"] == name
        assert info["image"]["image_shape"].dtype == np.int32 and info["image"]["image_shape"].tolist() == list(IMAGE)
        for key, matrix in expect["calib"].items():
            assert info["calib"][key].dtype == np.float32 and np.array_equal(info["calib"][key], matrix)
        assert info["annos"].keys() == expect["annos"].keys()
        for key, values in expect["annos"].items():
            found = info["annos"][key]
            assert found.dtype == values.dtype and np.array_equal(found, values), key
    # Frames without labels.
    test = config(kitti, INFO_PATH={"train": [], "test": ["kitti_infos_test.pkl"]}, DATA_SPLIT={"train": "train", "test": "test"})
    dataset, batches, _ = build_dataloader(test, CLASSES, 2, False, training=False)
    (batch,) = batches
    assert "annos" not in dataset.infos[0] and "gt_boxes" not in batch
    assert np.array_equal(rows_of(batch, "points", 1)[:9], seen(kitti, "000010", "testing")[in_range(seen(kitti, "000010", "testing"), RANGE)][:9])
    assert dataset.evaluation([], CLASSES) == ("No ground-truth boxes for evaluation", {})


def test_openpcdets_own_pickles_give_the_same_batches(kitti, tmp_path):
    other = write_kitti(tmp_path, train=6, val=3, test=2, infos="pkl")
    assert (other / "kitti_infos_train.pkl").is_file() and (kitti / "kitti_infos_train.jsonl").is_file()
    for augment in ([], [sampling(), FLIP]):
        pairs = zip(*(loader(config(folder, augment=augment), 2, seed=3) for folder in (kitti, other)), strict=True)
        for ours, theirs in pairs:
            assert_equal(ours, theirs)
    one, two = (KittiDataset(config(folder), CLASSES).infos[1]["annos"] for folder in (kitti, other))
    assert all(np.array_equal(one[key], two[key]) for key in one)
    # Taken over, they need no Python any more.
    said = feedline_command("lidar", "infos", "--data", other, "--from-pickles")
    assert "kitti_infos_train.jsonl: 6 frames" in said
    for path in other.glob("*.pkl"):
        path.unlink()
    pairs = zip(*(loader(config(folder, augment=[sampling()]), 2, seed=4) for folder in (kitti, other)), strict=True)
    for ours, theirs in pairs:
        assert_equal(ours, theirs)


def assert_equal(one, other):
    assert one.keys() == other.keys()
    for key in one.keys() - {"calib"}:
        assert np.array_equal(one[key], other[key]), key


def test_single_samples_are_those_of_batches_and_collate_to_them(kitti):
    for training in (True, False):
        dataset, batches, _ = build_dataloader(config(kitti), CLASSES, 3, False, workers=0, training=training)
        for batch in batches:
            samples = [dataset[index] for index in batch.indices]
            assert samples[0]["frame_id"] == batch["frame_id"][0] and samples[0]["points"].shape[1] == 4
            assert samples[0]["use_lead_xyz"] is True
            again = dataset.collate_batch(samples)
            assert_equal(again, batch)
            assert all(again[key].dtype == batch[key].dtype for key in batch if isinstance(batch[key], np.ndarray))
    with pytest.raises(IndexError, match="sample 3 of 3"):
        dataset[3]
    assert dataset[-1]["frame_id"] == "000008" and len(list(dataset)) == 3
    # In another epoch another draw, and always the same.
    dataset = KittiDataset(config(kitti), CLASSES)
    first = dataset[0]["noise_rot"]
    dataset.epoch = 1
    assert dataset[0]["noise_rot"] != first and dataset[0]["noise_rot"] == dataset[0]["noise_rot"]
    loaded = torch.utils.data.DataLoader(dataset, batch_size=2, collate_fn=dataset.collate_batch, num_workers=2)
    assert [batch["batch_size"] for batch in loaded] == [2, 2, 2]


# Augmentation changes points and boxes alike.


def test_training_frames_are_the_references_given_what_was_drawn(kitti):
    both = {"NAME": "random_world_flip", "ALONG_AXIS_LIST": ["x", "y"]}
    shift = {"NAME": "random_world_translation", "NOISE_TRANSLATE_STD": [0.5, 0.5, 0.2]}
    # On all sides, or most boxes would be turned out of it.
    around = [-69.12, -39.68, -3, 69.12, 39.68, 1]
    cfg = config(kitti, augment=[both, ROTATION, SCALING, shift], POINT_CLOUD_RANGE=around)
    dataset, batches, _ = build_dataloader(cfg, CLASSES, 2, False, workers=2)
    drawn = []
    for batch in (batch for _ in range(4) for batch in batches):
        for at, name in enumerate(batch["frame_id"]):
            what = {
                "flip_x": batch["flip_x"][at], "flip_y": batch["flip_y"][at], "rotation": batch["noise_rot"][at],
                "scale": batch["noise_scale"][at], "shift": batch["noise_translate"][at],
            }  # fmt: skip
            drawn.append([what["flip_x"], what["flip_y"], what["rotation"], what["scale"], *what["shift"]])
            original = seen(kitti, name)
            points, boxes = augmented(original, truth(dataset, name), **what)
            compare_points(rows_of(batch, "points", at), points, around)
            kept = boxes_in_range(boxes, np.float32(around))
            found = boxes_of(batch, at)
            np.testing.assert_allclose(found[:, :6], boxes[kept, :6], atol=1e-4)
            same_heading(found[:, 6], boxes[kept, 6])
            assert np.array_equal(found[:, 7], boxes[kept, 7]) and np.abs(found[:, 6]).max(initial=0) <= np.pi + 1e-6
            homogeneous = np.column_stack([original[:, :3], np.ones(len(original))]) @ batch["lidar_aug_matrix"][at].T
            np.testing.assert_allclose(homogeneous[:, :3], points[:, :3], atol=1e-4)
    flips, rest = np.array(drawn)[:, :2], np.array(drawn)[:, 2:]
    assert 0 < flips.mean() < 1 and len(np.unique(rest[:, 0])) == len(rest), "no draw comes twice"
    assert np.abs(rest[:, 0]).max() <= 0.78539816 and 0.95 <= rest[:, 1].min() < rest[:, 1].max() <= 1.05


def compare_points(found, points, bounds, atol=1e-4):
    """The same points in any order, those at the edge of the range aside; each is known by its intensity."""
    order = np.argsort(points[:, 3], kind="stable")
    places = order[np.searchsorted(points[order, 3].astype(np.float32), found[:, 3])]
    assert len(np.unique(places)) == len(places)
    np.testing.assert_allclose(found[:, :3], points[places, :3], atol=atol)
    missing = np.delete(points, places, axis=0)
    edge = np.array(bounds) + [1e-3, 1e-3, 0, -1e-3, -1e-3, 0]
    assert not in_range(missing, edge).any()


def test_points_are_shuffled_for_training_and_voxels_follow_their_order(kitti):
    process = [MASK, SHUFFLE, voxels((0.5, 0.5, 4), points=4, train=150, test=40000)]
    dataset, batches, _ = build_dataloader(config(kitti, augment=[], process=process), CLASSES, 2, False)
    orders = []
    for epoch in range(2):
        for batch in batches:
            at_voxel = 0
            for at, name in enumerate(batch["frame_id"]):
                points = rows_of(batch, "points", at)
                expect = seen(kitti, name)
                expect = expect[in_range(expect, RANGE)]
                assert not np.array_equal(points, expect), "they come in another order"
                assert np.array_equal(points[np.argsort(points[:, 3])], expect[np.argsort(expect[:, 3])])
                caps = voxelise(points, RANGE, (0.5, 0.5, 4), 4, 150)
                assert len(caps[0]) == 150 and caps[2].max() == 4, "both limits are met"
                own = slice(at_voxel, at_voxel + 150)
                found = batch["voxels"][own], batch["voxel_coords"][own, 1:], batch["voxel_num_points"][own]
                assert all(np.array_equal(*pair) for pair in zip(found, caps, strict=True))
                at_voxel += 150
                if name == "000002":
                    orders.append(points[:, 3])
    assert not np.array_equal(*orders), "another order in each epoch"


@pytest.mark.parametrize("planes", [False, True])
def test_pasted_objects_are_those_of_the_database_and_touch_nothing(kitti, planes):
    # In the order in which they come, without a range.
    cfg = config(kitti, augment=[sampling(USE_ROAD_PLANE=planes)], process=[], FOV_POINTS_ONLY=False)
    dataset, batches, _ = build_dataloader(cfg, CLASSES, 3, False, workers=2)
    database = [json.loads(line) for line in (kitti / "kitti_dbinfos_train.jsonl").read_text().splitlines()]
    database = [entry for entry in database if entry["num_points_in_gt"] >= 5 and entry["difficulty"] != -1]
    wanted, pasted_at_all = {"Car": 8, "Pedestrian": 5, "Cyclist": 5}, 0
    columns = [0, 1, 2, 3, 4, 5, 7]
    for batch in (batch for _ in range(3) for batch in batches):
        assert len(batch["calib"]) == 3, "none is lost where objects are pasted"
        for at, name in enumerate(batch["frame_id"]):
            present, found = truth(dataset, name), boxes_of(batch, at)
            info = next(info for info in dataset.infos if info["point_cloud"]["lidar_idx"] == name)
            first, pasted = found[: len(present)], found[len(present) :]
            assert np.array_equal(first[:, columns], present[:, columns].astype(np.float32)), "those of the frame come first"
            same_heading(first[:, 6], present[:, 6])
            points, at_point = rows_of(batch, "points", at), 0
            everything = [*info["annos"]["gt_boxes_lidar"]]
            for box in pasted:
                kind = CLASSES[int(box[7]) - 1]
                flat = [0, 1, 3, 4, 5] if planes else [0, 1, 2, 3, 4, 5]
                (entry,) = [
                    entry for entry in database
                    if entry["name"] == kind and np.allclose(np.array(entry["box3d_lidar"])[flat], box[flat], atol=1e-4)
                ]  # fmt: skip
                same_heading(box[6], entry["box3d_lidar"][6])
                own = np.fromfile(kitti / entry["path"], np.float32).reshape(-1, 4)
                moved = own + np.append(box[:3], 0).astype(np.float32)
                np.testing.assert_allclose(points[at_point : at_point + len(own)], moved, atol=1e-4)
                at_point += len(own)
                assert not any(overlap_bev(box[:7].astype(float), other) for other in everything)
                everything.append(box[:7].astype(float))
                if planes:
                    a, b, c, d = (-7.0e-03, -9.9997e-01, 3.0e-04, 1.70)
                    rect = CALIB.to_rect(box[None, :3].astype(float))[0]
                    rect[1] = -(a * rect[0] + c * rect[2] + d) / b
                    ground = CALIB.to_lidar(rect[None])[0, 2]
                    assert abs(box[2] - box[5] / 2 - ground) < 1e-3
            rest, original = points[at_point:], stored(kitti, name)
            # The rest are the frame's points, in order, without those that pasted boxes hide.
            hidden = np.zeros(len(original), bool)
            unsure = np.zeros(len(original), bool)
            for box in pasted:
                hidden |= inside(original, box[:7].astype(float), -1e-3)
                unsure |= inside(original, box[:7].astype(float), 1e-3)
            kept = np.isin(original[:, 3], rest[:, 3])
            assert np.array_equal(rest, original[kept]) and not kept[hidden].any() and kept[~unsure].all()
            for number, kind in enumerate(CLASSES):
                before = int((info["annos"]["name"] == kind).sum())
                assert int((found[:, 7] == number + 1).sum()) <= max(wanted[kind], before)
            pasted_at_all += len(pasted)
    assert pasted_at_all > 30


def test_more_is_pasted_where_the_scene_has_less_and_the_number_is_not_limited_otherwise(kitti):
    groups = {"SAMPLE_GROUPS": ["Car:3"], "PREPARE": {"filter_by_min_points": ["Car:5"], "filter_by_difficulty": [-1]}}
    counts = {}
    for limit in (True, False):
        cfg = config(kitti, augment=[sampling(LIMIT_WHOLE_SCENE=limit, **groups)], process=[])
        dataset, batches, _ = build_dataloader(cfg, CLASSES, 1, False)
        for batch in batches:
            before = int((truth(dataset, batch["frame_id"][0])[:, 7] == 1).sum())
            after = int((boxes_of(batch, 0)[:, 7] == 1).sum())
            assert before <= after <= (max(3, before) if limit else before + 3)
            counts[limit] = counts.get(limit, 0) + after - before
    assert 0 < counts[True] < counts[False]


@pytest.mark.parametrize(
    "step",
    [
        {"NAME": "random_local_rotation", "LOCAL_ROT_ANGLE": [-0.15, 0.15]},
        {"NAME": "random_local_scaling", "LOCAL_SCALE_RANGE": [0.95, 1.05]},
        {"NAME": "random_local_translation", "LOCAL_TRANSLATION_RANGE": [0.01, 0.02], "ALONG_AXIS_LIST": ["x", "y", "z"]},
    ],
)
def test_points_of_an_object_stay_in_its_box_when_each_is_moved_alone(kitti, step):
    dataset, batches, _ = build_dataloader(config(kitti, augment=[step], process=[]), CLASSES, 1, False)
    moved = 0
    for batch in batches:
        name = batch["frame_id"][0]
        before, after = truth(dataset, name), boxes_of(batch, 0).astype(float)
        original, points = seen(kitti, name), rows_of(batch, "points", 0)
        assert len(points) == len(original) and np.array_equal(points[:, 3], original[:, 3]), "in their order"
        others = np.ones(len(points), bool)
        for one, other in zip(before, after, strict=True):
            held = inside(original, one, -1e-3)
            assert held.sum() >= 3 and inside(points[held], other, 1e-3).all()
            # In the box's own axes they lie where they lay.
            other[6] = one[6] + limit_period(other[6] - one[6])
            old = turned(original[held, :3] - one[:3], -one[6]) / one[3:6]
            new = turned(points[held, :3] - other[:3], -other[6]) / other[3:6]
            np.testing.assert_allclose(new, old, atol=1e-4)
            others &= ~inside(original, one, 0.01)
            moved += not np.allclose(one[:7], other[:7])
        info = next(info for info in dataset.infos if info["point_cloud"]["lidar_idx"] == name)
        for box in info["annos"]["gt_boxes_lidar"]:
            others &= ~inside(original, box, 0.01)
        assert np.array_equal(points[others], original[others]), "all else stays"
    assert moved > 10


def test_exactly_so_many_points_come_where_they_are_sampled_far_ones_first(kitti):
    counts = []
    for number in (600, 20000, 2500):
        sample = {"NAME": "sample_points", "NUM_POINTS": {"train": number, "test": number}}
        for batch in loader(config(kitti, augment=[], process=[MASK, sample]), 1, training=False):
            points, name = rows_of(batch, "points", 0), batch["frame_id"][0]
            expect = seen(kitti, name)
            expect = expect[in_range(expect, RANGE)]
            counts.append(len(expect))
            assert len(points) == number and np.isin(points[:, 3], expect[:, 3]).all()
            known = {row[3]: row for row in expect}
            assert all(np.array_equal(row, known[row[3]]) for row in points)
            distinct = len(np.unique(points[:, 3]))
            far = expect[np.linalg.norm(expect[:, :3], axis=1) >= 40.1]
            if number <= len(expect):
                assert distinct == number and (len(far) > number or np.isin(far[:, 3], points[:, 3]).all())
            else:
                assert distinct == len(expect), "each at least once"
    assert 600 < min(counts) and max(counts) < 20000


def test_fewer_features_are_delivered_where_fewer_are_used(kitti):
    encoding = {
        "encoding_type": "absolute_coordinates_encoding",
        "used_feature_list": ["x", "y", "z"],
        "src_feature_list": ["x", "y", "z", "intensity"],
    }
    dataset, batches, _ = build_dataloader(config(kitti, POINT_FEATURE_ENCODING=encoding), CLASSES, 2, False, training=False)
    batch = next(iter(batches))
    assert batch["points"].shape[1] == 4 and batch["voxels"].shape[2] == 3
    assert dataset.point_feature_encoder.num_point_features == 3


def test_steps_that_are_disabled_are_left_out_from_the_start_or_in_the_last_epochs(kitti):
    augmentor = config(kitti)["DATA_AUGMENTOR"] | {"DISABLE_AUG_LIST": ["random_world_rotation"]}
    batch = next(iter(loader(config(kitti, DATA_AUGMENTOR=augmentor), 2)))
    assert "noise_rot" not in batch and "noise_scale" in batch
    hook = {"DisableAugmentationHook": {"NUM_LAST_EPOCHS": 2, "DISABLE_AUG_LIST": ["random_world_rotation"]}}
    batches = loader(config(kitti), 6, hook=hook, total_epochs=4)
    plain = loader(config(kitti), 6)
    for epoch in range(4):
        (batch,), (other,) = batches, plain
        assert np.array_equal(batch["noise_scale"], other["noise_scale"])
        turns = batch.get("noise_rot", np.zeros(6))
        assert np.array_equal(turns, other["noise_rot"]) if epoch < 2 else not turns.any()
    for wrong, said in [
        ({"NUM_LAST_EPOCHS": 4}, "last 4 epochs .NUM_LAST_EPOCHS. of total_epochs=4"),
        ({"NUM_LAST_EPOCHS": 0}, "NUM_LAST_EPOCHS"),
    ]:
        with pytest.raises(feedline.ConfigError, match=said):
            loader(config(kitti), 6, hook={"DisableAugmentationHook": wrong}, total_epochs=4)
    with pytest.raises(feedline.ConfigError, match="HOOK has Other"):
        loader(config(kitti), hook={"Other": 1})


def test_openpcdets_hook_disables_steps_while_it_runs(kitti):
    dataset, batches, _ = build_dataloader(config(kitti), CLASSES, 3, False, workers=2)
    expect = [[batch["noise_scale"].tolist() for batch in loader(config(kitti), 3, workers=2)]]
    assert [batch["noise_scale"].tolist() for batch in batches] == expect[0]
    dataset.data_augmentor.disable_augmentation({"DISABLE_AUG_LIST": ["random_world_rotation", "random_world_flip"]})
    later = list(batches)
    assert [batch.epoch for batch in later] == [1, 1] and all("noise_rot" not in batch or not batch["noise_rot"].any() for batch in later)
    plain = loader(config(kitti), 3)
    plain.set_epoch(1)
    assert [batch["noise_scale"].tolist() for batch in later] == [batch["noise_scale"].tolist() for batch in plain]


def test_pictures_and_depth_come_where_they_are_asked_for(kitti, tmp_path):
    folder = tmp_path / "kitti"
    shutil.copytree(kitti, folder)
    from PIL import Image

    (folder / "training/depth_2").mkdir()
    rng = np.random.default_rng(0)
    depths = {}
    for name in ("000006", "000007", "000008"):
        depths[name] = rng.integers(0, 20000, IMAGE).astype(np.uint16)
        Image.fromarray(depths[name]).save(folder / f"training/depth_2/{name}.png")
    cfg = config(folder, augment=[], GET_ITEM_LIST=["points", "images", "depth_maps", "gt_boxes2d"])
    dataset, batches, _ = build_dataloader(cfg, CLASSES, 2, False, training=False)
    for batch in batches:
        assert batch["images"].dtype == np.float32 and batch["images"].shape[1:] == (*IMAGE, 3)
        for at, name in enumerate(batch["frame_id"]):
            picture = np.asarray(Image.open(folder / f"training/image_2/{name}.png"))
            np.testing.assert_allclose(batch["images"][at], picture.astype(np.float32) / 255, atol=1e-7)
            np.testing.assert_allclose(batch["depth_maps"][at], depths[name].astype(np.float32) / 256, atol=1e-6)
            annos = next(info["annos"] for info in dataset.infos if info["point_cloud"]["lidar_idx"] == name)
            rows = [at for at, kind in enumerate(annos["name"]) if kind in CLASSES]
            assert np.array_equal(batch["gt_boxes2d"][at, : len(rows)], annos["bbox"][rows].astype(np.float32))
        sample = dataset[batch.indices[0]]
        assert np.array_equal(sample["images"], batch["images"][0]) and np.array_equal(sample["depth_maps"], batch["depth_maps"][0])


# Other data.


def feedline_command(*words):
    done = subprocess.run([sys.executable, "-m", "feedline", *map(str, words)], capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.mark.skipif(not REAL.is_dir(), reason="the real frames are not here")
def test_real_frames_are_read_exactly(tmp_path):
    folder = tmp_path / "kitti"
    shutil.copytree(REAL, folder)
    (folder / "ImageSets").mkdir()
    names = ["000000", "000001", "000002"]
    for split in ("train", "val"):
        (folder / f"ImageSets/{split}.txt").write_text("\n".join(names) + "\n")
    feedline_command("lidar", "infos", "--data", folder)
    dataset, batches, _ = build_dataloader(config(folder), CLASSES, 3, False, training=False)
    (batch,) = batches
    at_voxel = 0
    for at, name in enumerate(names):
        lines = (folder / f"training/calib/{name}.txt").read_text().splitlines()
        p2, r0, tr = (np.array(lines[number].split()[1:], dtype=float).reshape(-1, width) for number, width in ((2, 4), (4, 3), (5, 4)))
        calib, points = Calib(p2, r0, tr), stored(folder, name)
        info = dataset.infos[at]
        shape = info["image"]["image_shape"]
        from PIL import Image

        assert tuple(shape) == Image.open(folder / f"training/image_2/{name}.png").size[::-1]
        labels = (folder / f"training/label_2/{name}.txt").read_text()
        expect = frame_info(folder, "train", name, points, calib, labels)["annos"]
        for key in expect.keys() - {"num_points_in_gt"}:
            found = info["annos"][key]
            assert np.array_equal(found, expect[key]) if found.dtype.kind in "Ui" else np.allclose(found, expect[key], atol=1e-5), key
        points = points[calib.seen(points, shape)]
        for count, box in zip(info["annos"]["num_points_in_gt"], expect["gt_boxes_lidar"]):
            assert inside(points, box, -1e-4).sum() <= count <= inside(points, box, 1e-4).sum()
        points = points[in_range(points, RANGE)]
        assert np.array_equal(rows_of(batch, "points", at), points)
        made = voxelise(points, RANGE, (0.16, 0.16, 4), 32, 40000)
        own = slice(at_voxel, at_voxel + len(made[0]))
        assert np.array_equal(batch["voxels"][own], made[0]) and np.array_equal(batch["voxel_coords"][own, 1:], made[1])
        at_voxel = own.stop
        boxes = boxes_of(batch, at)
        np.testing.assert_allclose(boxes, truth(dataset, name), atol=1e-5)
    # The whole way with objects of the database.
    for batch in loader(config(folder, augment=[sampling(), FLIP, ROTATION, SCALING]), 1):
        assert len(boxes_of(batch, 0)) and len(batch["calib"]) == 1


def with_directions(boxes):
    """Boxes with the sine and cosine of their heading, which labels give up to whole turns."""
    return np.concatenate([boxes[..., :6], np.sin(boxes[..., 6:7]), np.cos(boxes[..., 6:7]), boxes[..., 7:]], axis=-1)


def test_infos_that_feedline_makes_give_the_same_batches(kitti, tmp_path):
    folder = tmp_path / "kitti"
    shutil.copytree(kitti, folder)
    for path in [*folder.glob("kitti_*"), *folder.glob("gt_database/*")]:
        path.unlink()
    feedline_command("lidar", "infos", "--data", folder)
    one, two = (KittiDataset(config(each), CLASSES).infos for each in (kitti, folder))
    for expect, found in zip(one, two, strict=True):
        for key, values in expect["annos"].items():
            if key == "gt_boxes_lidar":
                np.testing.assert_allclose(with_directions(found["annos"][key]), with_directions(values), atol=1e-5)
            elif values.dtype.kind == "f":
                np.testing.assert_allclose(found["annos"][key], values, atol=1e-5, err_msg=key)
            else:
                assert np.array_equal(found["annos"][key], values), key
    for training in (True, False):
        # Nearly: the last digits of boxes may differ.
        for ours, theirs in zip(*(loader(config(each), 2, training=training) for each in (kitti, folder)), strict=True):
            np.testing.assert_allclose(ours["points"], theirs["points"], atol=1e-5)
            np.testing.assert_allclose(with_directions(ours["gt_boxes"]), with_directions(theirs["gt_boxes"]), atol=1e-4)
    pasted = next(iter(loader(config(folder, augment=[sampling()]), 6)))
    assert pasted["gt_boxes"].shape[1] > max(len(info["annos"]["name"]) for info in two)


def write_custom(folder, count=4):
    rng = np.random.default_rng(5)
    (folder / "points").mkdir()
    infos = {"train": [], "val": []}
    for number in range(count):
        points = rng.uniform([-70, -70, -2, 0], [70, 70, 3, 1], (3000, 4)).astype(np.float32)
        np.save(folder / f"points/{number:04}.npy", points)
        boxes = np.column_stack([rng.uniform(-60, 60, (3, 2)), rng.uniform(-1, 1, 3), rng.uniform(1, 4, (3, 3)), rng.uniform(-3, 3, 3)])
        annos = {"name": ["Vehicle", "Pedestrian", "Tree"], "gt_boxes_lidar": boxes.tolist()}
        entry = {"point_cloud": {"num_features": 4, "lidar_idx": f"{number:04}"}, "annos": annos}
        infos["val" if number == count - 1 else "train"].append(entry)
    for split, entries in infos.items():
        (folder / f"custom_infos_{split}.jsonl").write_text("".join(json.dumps(entry) + "\n" for entry in entries))
    return folder


def custom_config(folder, **changes):
    return config(
        folder,
        DATASET="CustomDataset",
        POINT_CLOUD_RANGE=[-75.2, -75.2, -2, 75.2, 75.2, 4],
        INFO_PATH={"train": ["custom_infos_train.pkl"], "test": ["custom_infos_val.pkl"]},
        MAP_CLASS_TO_KITTI={"Vehicle": "Car", "Pedestrian": "Pedestrian"},
        process=[MASK, SHUFFLE, voxels((0.2, 0.2, 6))],
        **changes,
    )


def test_custom_data_has_no_camera(tmp_path):
    folder, classes = write_custom(tmp_path), ["Vehicle", "Pedestrian"]
    dataset, batches, _ = build_dataloader(custom_config(folder), classes, 1, False, training=False)
    assert type(dataset) is CustomDataset and dataset.custom_infos[0]["annos"]["name"].tolist() == ["Vehicle", "Pedestrian", "Tree"]
    (batch,) = batches
    assert "calib" not in batch and "image_shape" not in batch and batch["frame_id"].tolist() == ["0003"]
    assert np.array_equal(rows_of(batch, "points", 0), np.load(folder / "points/0003.npy"))
    expect = dataset.infos[0]["annos"]["gt_boxes_lidar"][:2]
    assert np.array_equal(boxes_of(batch, 0), np.column_stack([expect, [1, 2]]).astype(np.float32))
    found = {"pred_boxes": torch.tensor(expect), "pred_scores": torch.ones(2), "pred_labels": torch.tensor([1, 2])}
    annos = dataset.generate_prediction_dicts(batch, [found], classes)
    assert annos[0]["name"].tolist() == classes and annos[0]["frame_id"] == "0003"
    text, figures = dataset.evaluation(annos, classes, eval_metric="kitti", output_path=None)
    assert "Car AP" in text and "Vehicle" not in text and "Pedestrian AP" in text
    # One object, found exactly, with nothing wrong.
    assert any(value for name, value in figures.items() if "3d" in name)
    annos[0]["boxes_lidar"] = annos[0]["boxes_lidar"] + 5
    assert not any(value for name, value in dataset.evaluation(annos, classes)[1].items() if "3d" in name or "bev" in name)
    with pytest.raises(feedline.ConfigError, match="eval_metric is 'waymo'"):
        dataset.evaluation(annos, classes, eval_metric="waymo")
    training = [frame for batch in loader(custom_config(folder), 2, classes=classes) for frame in batch["frame_id"]]
    assert sorted(training) == ["0000", "0001", "0002"]


def test_sources_pickle_without_what_is_open(kitti):
    import logging

    dataset = KittiDataset(config(kitti), CLASSES, logger=logging.getLogger("own"))
    assert len(dataset.infos) == 6
    again = pickle.loads(pickle.dumps(dataset))
    assert again.logger is None and np.array_equal(again[0]["points"], dataset[0]["points"])
    assert len(pickle.dumps(dataset)) < 10_000 and difficulty(0, 0, 50) == 0
