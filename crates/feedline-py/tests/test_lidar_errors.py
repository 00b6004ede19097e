"""Errors of OpenPCDet's data: what is missing, damaged or set wrongly is named, with what to do about it."""

import json
import shutil

import feedline
import numpy as np
import pytest
from feedline.recipes.lidar import build_dataloader
from lidar_reference import CLASSES, config, sampling


def loader(config, batch_size=1, workers=0, classes=CLASSES, **options):
    return build_dataloader(config, classes, batch_size, False, workers=workers, **options)[1]


@pytest.fixture
def damaged(kitti, tmp_path):
    shutil.copytree(kitti, tmp_path / "kitti")
    return tmp_path / "kitti"


def everything(cfg, **options):
    return [batch for batch in loader(cfg, 2, **options)]


def test_missing_infos_are_an_error_with_the_command_that_makes_them(damaged):
    (damaged / "kitti_infos_train.jsonl").unlink()
    with pytest.raises(feedline.FeedlineError, match="kitti_infos_train.*feedline lidar infos --data"):
        everything(config(damaged))
    assert len(everything(config(damaged), training=False)) == 2


@pytest.mark.parametrize(
    ("harm", "said"),
    [
        (lambda path: path.unlink(), []),
        (lambda path: path.write_bytes(path.read_bytes()[:-6]), ["bytes"]),
        (lambda path: np.full((9, 4), np.nan, np.float32).tofile(path), ["NaN|finite"]),
    ],
)
def test_damaged_clouds_are_named(damaged, harm, said):
    harm(damaged / "training/velodyne/000002.bin")
    with pytest.raises(feedline.FeedlineError) as caught:
        everything(config(damaged))
    for word in [r"velodyne/000002.bin", *said]:
        assert any(part in str(caught.value) for part in word.split("|")), str(caught.value)


def test_a_damaged_cloud_can_be_replaced(damaged):
    np.full((9, 4), np.nan, np.float32).tofile(damaged / "training/velodyne/000002.bin")
    frames = [name for batch in everything(config(damaged), on_bad_sample="replace") for name in batch["frame_id"]]
    assert len(frames) == 6 and "000002" not in frames


def test_classes_that_nobody_has_are_an_error_that_names_those_that_are_there(kitti):
    with pytest.raises(feedline.FeedlineError, match="Bus") as caught:
        everything(config(kitti, augment=[]), classes=["Bus"])
    assert "Car" in str(caught.value)


def test_frames_without_boxes_are_drawn_anew_within_limits(kitti, damaged):
    lines = [json.loads(line) for line in (damaged / "kitti_infos_train.jsonl").read_text().splitlines()]
    names = lines[1]["annos"]["name"]
    names[:] = [name if name == "DontCare" else "Van" for name in names]
    (damaged / "kitti_infos_train.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    _, batches, _ = build_dataloader(config(damaged), CLASSES, 2, False)
    frames = [name for batch in batches for name in batch["frame_id"]]
    assert len(frames) == 6 and "000001" not in frames and batches.redrawn == 1
    # All boxes out of range: an error that says so, and no recursion.
    far = [100, -39.68, -3, 169.12, 39.68, 1]
    with pytest.raises(feedline.FeedlineError, match="(?i)box") as caught:
        everything(config(kitti, POINT_CLOUD_RANGE=far))
    assert "Recursion" not in str(caught.value)


def test_planes_that_are_wanted_and_missing_are_named(damaged):
    lines = [json.loads(line) for line in (damaged / "kitti_infos_train.jsonl").read_text().splitlines()]
    del lines[3]["road_plane"]
    (damaged / "kitti_infos_train.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    shutil.rmtree(damaged / "training/planes")
    with pytest.raises(feedline.FeedlineError, match="(?s)USE_ROAD_PLANE|plane") as caught:
        everything(config(damaged, augment=[sampling(USE_ROAD_PLANE=True)]))
    assert "plane" in str(caught.value)


def test_objects_of_the_database_that_are_missing_are_named(damaged):
    objects = [json.loads(line) for line in (damaged / "kitti_dbinfos_train.jsonl").read_text().splitlines()]
    for path in (damaged / "gt_database").iterdir():
        path.unlink()
    with pytest.raises(feedline.FeedlineError, match="gt_database/") as caught:
        everything(config(damaged, augment=[sampling()]))
    assert any(entry["path"] in str(caught.value) for entry in objects)
    (damaged / "kitti_dbinfos_train.jsonl").unlink()
    with pytest.raises(feedline.FeedlineError, match="kitti_dbinfos_train"):
        everything(config(damaged, augment=[sampling()]))


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"augment": [{"NAME": "random_world_flipp"}]}, "random_world_flipp"),
        ({"augment": [{"NAME": "random_world_flip", "ALONG_AXIS": ["x"]}]}, "ALONG_AXIS"),
        ({"process": [{"NAME": "voxels"}]}, "voxels"),
        ({"POINT_CLOUD_RANGE": [0, 1, 2]}, "POINT_CLOUD_RANGE"),
        ({"INFO_PATH": {"test": []}}, "INFO_PATH"),
        ({"augment": [sampling(SAMPLE_GROUPS=["Car"])]}, "Car"),
    ],
)
def test_settings_that_make_no_sense_are_named(kitti, changes, said):
    with pytest.raises(feedline.FeedlineError, match=said):
        everything(config(kitti, **changes))


def test_arguments_that_make_no_sense_are_named(kitti):
    for options, said in [
        ({"output": "jax"}, "output is 'jax'"),
        ({"merge_order": "random"}, "merge_order is 'random'"),
        ({"tail": "exact"}, "tail is 'exact'"),
        ({"merge_all_iters_to_one_epoch": True}, "epochs"),
        ({"workers": -1}, "num_workers"),
        ({"batch_size": 0}, "batch_size"),
    ]:
        with pytest.raises(feedline.ConfigError, match=said):
            loader(config(kitti), **options)
    with pytest.raises(TypeError, match="colate"):
        loader(config(kitti), colate=1)
