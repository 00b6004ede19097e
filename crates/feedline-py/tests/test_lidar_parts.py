"""The parts of OpenPCDet's names that read no clouds: settings, calibration, collating, predictions' boxes, the sampler."""

import copy
import pickle

import feedline
import numpy as np
import pytest
import torch
from feedline.recipes import lidar
from feedline.recipes.lidar import Calibration, Config, cfg_from_list, cfg_from_yaml_file, collate_batch, load_data_to_gpu
from feedline.recipes.lidar.dataset import dataset_class
from lidar_reference import P2, TR, Calib, bbox_of, boxes_to_camera
from torch.utils.data import DistributedSampler

BASE = """
DATASET: 'KittiDataset'
POINT_CLOUD_RANGE: [0, -40, -3, 70.4, 40, 1]
DATA_SPLIT: {'train': train, 'test': val}
FOV_POINTS_ONLY: True
DATA_AUGMENTOR:
    DISABLE_AUG_LIST: ['placeholder']
    AUG_CONFIG_LIST:
        - NAME: random_world_flip
          ALONG_AXIS_LIST: ['x']
"""
TOP = """
CLASS_NAMES: ['Car', 'Pedestrian']
DATA_CONFIG:
    _BASE_CONFIG_: {base}
    POINT_CLOUD_RANGE: [0, -39.68, -3, 69.12, 39.68, 1]
OPTIMIZATION:
    LR: 0.003
    NUM_EPOCHS: 80
    NAME: adam_onecycle
    DECAY: [35, 45]
    HEADS: {{A: 1, B: 0.5}}
    EMPTY: null
"""


@pytest.fixture
def yaml_file(tmp_path):
    (tmp_path / "base.yaml").write_text(BASE)
    (tmp_path / "top.yaml").write_text(TOP.format(base=tmp_path / "base.yaml"))
    return tmp_path / "top.yaml"


def test_settings_come_from_yaml_with_what_they_are_based_on(yaml_file):
    config = cfg_from_yaml_file(yaml_file)
    assert config.DATA_CONFIG.DATASET == "KittiDataset" and config["DATA_CONFIG"]["FOV_POINTS_ONLY"] is True
    assert config.DATA_CONFIG.POINT_CLOUD_RANGE == [0, -39.68, -3, 69.12, 39.68, 1]
    assert config.DATA_CONFIG.DATA_AUGMENTOR.AUG_CONFIG_LIST[0].ALONG_AXIS_LIST == ["x"]
    assert config.get("HOOK") is None and config.OPTIMIZATION.get("EMPTY", 1) is None
    into = Config(OWN=1, OPTIMIZATION={"LR": 1.0, "MORE": 2})
    assert cfg_from_yaml_file(str(yaml_file), into) is into
    assert (into.OWN, into.OPTIMIZATION.LR, into.OPTIMIZATION.MORE) == (1, 0.003, 2)
    with pytest.raises(feedline.FeedlineError, match="nothing.yaml"):
        cfg_from_yaml_file(yaml_file.parent / "nothing.yaml")


def test_settings_are_attributes_and_go_where_dicts_go(yaml_file):
    config = cfg_from_yaml_file(yaml_file)
    config.OPTIMIZATION.WARM = {"UP": [{"A": 1}]}
    assert config.OPTIMIZATION.WARM.UP[0].A == 1
    for other in (pickle.loads(pickle.dumps(config)), copy.deepcopy(config)):
        assert other == config and type(other.OPTIMIZATION.WARM.UP[0]) is Config
    with pytest.raises(AttributeError, match="no DATA_CONFG. Near it are DATA_CONFIG"):
        _ = config.DATA_CONFG
    del config.CLASS_NAMES
    assert not hasattr(config, "CLASS_NAMES") and {**config}.keys() == {"DATA_CONFIG", "OPTIMIZATION"}
    assert lidar.cfg.LOCAL_RANK == 0


def test_set_changes_what_is_there_to_values_of_its_type(yaml_file):
    config = cfg_from_yaml_file(yaml_file)
    words = "OPTIMIZATION.LR 0.1 OPTIMIZATION.NUM_EPOCHS 3 OPTIMIZATION.NAME sgd OPTIMIZATION.DECAY 1,2,3"
    words += " OPTIMIZATION.HEADS A:7,B:2 OPTIMIZATION.EMPTY 4 DATA_CONFIG.FOV_POINTS_ONLY False CLASS_NAMES ['Car']"
    cfg_from_list(words.split(), config)
    assert (config.OPTIMIZATION.LR, config.OPTIMIZATION.NUM_EPOCHS, config.OPTIMIZATION.NAME) == (0.1, 3, "sgd")
    assert config.OPTIMIZATION.DECAY == [1, 2, 3] and config.OPTIMIZATION.HEADS == {"A": 7, "B": 2.0}
    assert config.DATA_CONFIG.FOV_POINTS_ONLY is False and config.CLASS_NAMES == ["Car"] and config.OPTIMIZATION.EMPTY == 4
    cfg_from_list(["OPTIMIZATION.LR", "1"], config)
    assert config.OPTIMIZATION.LR == 1.0 and isinstance(config.OPTIMIZATION.LR, float)


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ("OPTIMIZATION.LRR 1", "NotFoundKey: LRR .in OPTIMIZATION.LRR.. Near it are LR"),
        ("OPTIM.LR 1", "NotFoundKey: OPTIM"),
        ("OPTIMIZATION.LR.MORE 1", "NotFoundKey: MORE"),
        ("OPTIMIZATION.HEADS C:1", "NotFoundKey: C"),
        ("OPTIMIZATION.NUM_EPOCHS 1.5", "NUM_EPOCHS 1.5: type float does not match original type int"),
        ("OPTIMIZATION.DECAY a,b", "DECAY a: type str does not match original type int"),
        ("OPTIMIZATION.LR fast", "type str does not match original type float"),
        ("OPTIMIZATION.LR", "names and values in turn"),
    ],
)
def test_set_refuses_what_is_not_there_or_of_another_type(yaml_file, words, said):
    with pytest.raises(feedline.ConfigError, match=said):
        cfg_from_list(words.split(), cfg_from_yaml_file(yaml_file))


def test_data_sets_of_another_kind_are_named():
    assert dataset_class({"DATASET": "CustomDataset"}) is lidar.CustomDataset
    for wrong in ({"DATASET": "NuScenesDataset"}, {}, 5):
        with pytest.raises(feedline.ConfigError, match="KittiDataset, CustomDataset"):
            dataset_class(wrong)
    for arguments, said in [
        ((5, ["Car"]), "dataset_cfg is int"),
        (({"DATA_PATH": "x"}, "Car"), "class_names is 'Car'"),
        (({"DATA_PATH": "x"}, []), "class_names"),
        (({"DATASET": "CustomDataset", "DATA_PATH": "x"}, ["Car"]), "CustomDataset, which is not for KittiDataset"),
        (({}, ["Car"]), "root_path, or set DATA_PATH"),
        (({"DATA_PATH": "x", "OWN": object()}, ["Car"]), "object"),
    ]:
        with pytest.raises(feedline.ConfigError, match=said):
            lidar.KittiDataset(*arguments)


def calibrations():
    return Calibration({"P2": P2, "R0": np.eye(3), "Tr_velo2cam": TR}), Calib()


def test_calibration_moves_points_as_its_formulas_say(tmp_path):
    ours, reference = calibrations()
    points = np.random.default_rng(0).uniform([2, -20, -2], [60, 20, 2], (200, 3))
    rect = ours.lidar_to_rect(points)
    np.testing.assert_allclose(rect, reference.to_rect(points), atol=1e-6)
    np.testing.assert_allclose(ours.rect_to_lidar(rect), points, atol=1e-9)
    pixels, depth = ours.lidar_to_img(points)
    expect = reference.to_pixels(rect)
    np.testing.assert_allclose(pixels, expect[0], rtol=1e-6)
    np.testing.assert_allclose(depth, expect[1], atol=1e-6)
    assert ours.lidar_to_rect(points.astype(np.float32)).dtype == np.float32
    # A pixel with its depth is the point again, but for the third row of P2, which this formula leaves out.
    flat = Calibration({"P2": P2 * [[1], [1], [0]] + [[0] * 4, [0] * 4, [0, 0, 1, 0]], "R0": np.eye(3), "Tr_velo2cam": TR})
    pixels, depth = flat.rect_to_img(rect)
    np.testing.assert_allclose(flat.img_to_rect(pixels[:, 0], pixels[:, 1], depth), rect, atol=1e-3)
    rows = {"P0": P2, "P1": P2, "P2": P2, "P3": P2 * 2, "R0_rect": np.eye(3), "Tr_velo_to_cam": TR}
    lines = [f"{name}: " + " ".join(map(str, matrix.ravel())) for name, matrix in rows.items()]
    (tmp_path / "0.txt").write_text("\n".join(lines))
    read = Calibration(tmp_path / "0.txt")
    # As Windows' editors save it.
    text = (tmp_path / "0.txt").read_text("utf-8")
    (tmp_path / "bom.txt").write_bytes(("\ufeff" + text.replace("\n", "\r\n")).encode())
    assert np.array_equal(Calibration(tmp_path / "bom.txt").P2, read.P2)
    (tmp_path / "bom.txt").write_bytes(text.encode("utf-16"))
    with pytest.raises(feedline.ConfigError, match="bom.txt is not in UTF-8"):
        Calibration(tmp_path / "bom.txt")
    assert all(np.array_equal(getattr(read, name), getattr(ours, name)) for name in ("P2", "R0", "V2C"))
    (tmp_path / "0.txt").write_text("\n".join(lines[:5]))
    with pytest.raises(feedline.ConfigError, match="0.txt, line 6.*12 numbers"):
        Calibration(tmp_path / "0.txt")
    with pytest.raises(feedline.ConfigError, match="no R0"):
        Calibration({"P2": P2})
    with pytest.raises(feedline.ConfigError, match=r"R0 of the calibration is \(2, 2\)"):
        Calibration({"P2": P2, "R0": np.eye(2), "Tr_velo2cam": TR})


def test_predictions_become_labels_of_the_camera_and_files(tmp_path):
    ours, reference = calibrations()
    rng = np.random.default_rng(1)
    boxes = np.column_stack(
        [rng.uniform(8, 40, 7), rng.uniform(-3, 3, 7), rng.uniform(-2, 0, 7), rng.uniform(0.5, 4, (7, 3)), rng.uniform(-3, 3, 7)]
    )
    batch = {"frame_id": np.array(["000007", "000008"]), "calib": [ours, ours], "image_shape": np.array([[375, 1242]] * 2)}
    said = [
        {"pred_boxes": torch.tensor(boxes), "pred_scores": torch.rand(7), "pred_labels": torch.tensor([1, 2, 1, 2, 1, 1, 2])},
        {"pred_boxes": torch.zeros(0, 7), "pred_scores": torch.zeros(0), "pred_labels": torch.zeros(0, dtype=torch.int64)},
    ]
    dataset = lidar.KittiDataset({"DATA_PATH": "nowhere"}, ["Car", "Cyclist"], training=False)
    found, empty = dataset.generate_prediction_dicts(batch, said, ["Car", "Cyclist"], tmp_path / "out")
    location, dimensions, rotation = boxes_to_camera(boxes, reference)
    for name, expect in (("location", location), ("dimensions", dimensions), ("rotation_y", rotation)):
        np.testing.assert_allclose(found[name], expect, atol=1e-6)
    bbox = np.array([bbox_of(*one, reference) for one in zip(location, dimensions, rotation)])
    np.testing.assert_allclose(found["bbox"], bbox, atol=1e-4)
    np.testing.assert_allclose(found["alpha"], rotation - np.arctan2(-boxes[:, 1], boxes[:, 0]), atol=1e-9)
    assert found["name"].tolist() == ["Car", "Cyclist", "Car", "Cyclist", "Car", "Car", "Cyclist"]
    assert (found["frame_id"], empty["frame_id"], len(empty["name"])) == ("000007", "000008", 0)
    assert empty["bbox"].shape == (0, 4) and found["boxes_lidar"].shape == (7, 7)
    lines = (tmp_path / "out/000007.txt").read_text().splitlines()
    assert len(lines) == 7 and (tmp_path / "out/000008.txt").read_text() == ""
    words = lines[1].split()
    assert words[:3] == ["Cyclist", "-1", "-1"] and len(words) == 16
    np.testing.assert_allclose([float(word) for word in words[4:8]], bbox[1], atol=1e-3)
    np.testing.assert_allclose([float(word) for word in words[8:11]], boxes[1, [5, 4, 3]], atol=1e-4)
    said[0]["pred_labels"][0] = 0
    with pytest.raises(feedline.ConfigError, match="from 0 to 2: they must be from 1 to 2"):
        dataset.generate_prediction_dicts(batch, said, ["Car", "Cyclist"])
    with pytest.raises(feedline.ConfigError, match="predictions for 1 samples of a batch of 2"):
        dataset.generate_prediction_dicts(batch, said[:1], ["Car", "Cyclist"])


def sample(rng, points, boxes, name, **more):
    count = 2 * points
    return {
        "points": rng.normal(size=(points, 4)).astype(np.float32),
        "voxels": rng.normal(size=(count, 5, 4)).astype(np.float32),
        "voxel_coords": rng.integers(0, 9, (count, 3)).astype(np.int32),
        "voxel_num_points": rng.integers(1, 5, count).astype(np.int32),
        "gt_boxes": rng.normal(size=(boxes, 8)).astype(np.float32),
        "frame_id": name,
        "image_shape": np.array([375, 1242], np.int32),
        "calib": object(),
        "use_lead_xyz": True,
        "noise_rot": 0.5,
        "lidar_aug_matrix": np.eye(4),
        "roi_boxes": rng.normal(size=(2, boxes, 7)),
        "roi_scores": rng.normal(size=(2, boxes)),
        "images": rng.random((4 + boxes, 6, 3), dtype=np.float32),
        "depth_maps": rng.random((4, 6 + boxes), dtype=np.float32),
        "points_2d": rng.random((points, 2)),
    } | more


def test_samples_are_collated_key_by_key():
    rng = np.random.default_rng(0)
    one, two = sample(rng, 5, 3, "000001"), sample(rng, 2, 0, "000002")
    batch = collate_batch([one, two])
    assert batch["batch_size"] == 2 and batch["frame_id"].tolist() == ["000001", "000002"]
    assert batch["points"].shape == (7, 5) and batch["points"].dtype == np.float32
    assert batch["points"][:, 0].tolist() == [0] * 5 + [1] * 2 and np.array_equal(batch["points"][5:, 1:], two["points"])
    assert batch["voxel_coords"].shape == (14, 4) and batch["voxel_coords"][10:, 0].tolist() == [1] * 4
    assert np.array_equal(batch["voxels"], np.concatenate([one["voxels"], two["voxels"]]))
    assert batch["voxel_num_points"].dtype == np.int32
    assert batch["gt_boxes"].shape == (2, 3, 8) and not batch["gt_boxes"][1].any()
    assert np.array_equal(batch["gt_boxes"][0], one["gt_boxes"])
    assert batch["roi_boxes"].shape == (2, 2, 3, 7) and batch["roi_scores"].shape == (2, 2, 3)
    assert batch["images"].shape == (2, 7, 6, 3) and not batch["images"][1, 4:].any()
    assert batch["depth_maps"].shape == (2, 4, 9) and np.array_equal(batch["depth_maps"][1, :, :6], two["depth_maps"])
    assert batch["points_2d"].shape == (2, 5, 2) and batch["calib"] == [one["calib"], two["calib"]]
    assert batch["image_shape"].shape == (2, 2) and batch["use_lead_xyz"].tolist() == [True, True]
    assert batch["lidar_aug_matrix"].shape == (2, 4, 4) and batch["lidar_aug_matrix"].dtype == np.float64
    # Both halves of a sample that is flipped for testing.
    twice = [{"points": [one["points"], two["points"]], "voxels": [one["voxels"]] * 2} for _ in range(2)]
    batch = collate_batch(twice)
    assert batch["batch_size"] == 4 and batch["points"][:, 0].max() == 3 and len(batch["voxels"]) == 40


def test_what_does_not_go_together_is_named_with_samples_and_shapes():
    rng = np.random.default_rng(0)
    one, two = sample(rng, 5, 3, "000001"), sample(rng, 2, 1, "000002")
    for change, said in [
        ({"image_shape": np.zeros(3)}, r"'image_shape' of samples 000001, 000002: .*shapes are \(2,\), \(3,\)"),
        ({"gt_boxes": np.zeros((2, 7))}, r"'gt_boxes' of samples 000001, 000002: only axis 0 may differ.*\(3, 8\), \(2, 7\)"),
        ({"voxels": np.zeros((2, 4, 4))}, "'voxels' of samples"),
        ({"extra": 1}, "'extra': samples 000001 lack it"),
    ]:
        with pytest.raises(feedline.ConfigError, match=said):
            collate_batch([one, two | change])
    with pytest.raises(feedline.ConfigError, match="empty batch"):
        collate_batch([])


def test_a_batch_goes_to_the_device_as_float():
    rng = np.random.default_rng(0)
    batch = collate_batch([sample(rng, 5, 3, "000001"), sample(rng, 2, 0, "000002")])
    kept = batch["frame_id"], batch["calib"]
    load_data_to_gpu(batch, "cpu")
    assert (batch["frame_id"], batch["calib"], batch["batch_size"]) == (*kept, 2)
    kinds = {key: value.dtype for key, value in batch.items() if isinstance(value, torch.Tensor)}
    assert kinds.pop("image_shape") == torch.int32 and set(kinds.values()) == {torch.float32}
    assert batch["images"].shape == (2, 3, 7, 6) and batch["use_lead_xyz"].tolist() == [1, 1]


@pytest.mark.parametrize(("length", "world"), [(7, 2), (12, 4), (3, 8), (1, 5), (100, 3)])
def test_the_sampler_is_torchs_and_pads_small_data_too(length, world):
    shares = []
    for rank in range(world):
        for shuffle in (True, False):
            ours = lidar.DistributedSampler(range(length), world, rank, shuffle)
            theirs = DistributedSampler(range(length), world, rank, shuffle)
            for epoch in (0, 5):
                ours.set_epoch(epoch)
                theirs.set_epoch(epoch)
                assert list(ours) == list(theirs)
        shares.append(list(ours))
    assert len({len(share) for share in shares}) == 1 and set(sum(shares, [])) == set(range(length))
