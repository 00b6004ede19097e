"""TorchSSC's loader: its arrays against NumPy and Pillow, its calls, epochs, ranks, bad files, and where data may lie."""

import json
import logging
import pickle
import shutil
import warnings
from collections import Counter
from pathlib import Path
from types import SimpleNamespace

import feedline
import numpy as np
import pytest
import torch
from feedline.recipes import scene_completion
from feedline.recipes.scene_completion import (
    Config,
    NYUv2,
    SceneLoader,
    TrainPre,
    ValPre,
    data_setting,
    get_train_loader,
    get_val_loader,
)
from feedline.recipes.s3client import storage_of
from PIL import Image
from scene_files import write_scenes
from torch.utils.data import DistributedSampler

NYU = Path(__file__).resolve().parents[4] / "shared/data/nyu"
MEAN, STD = np.array([0.485, 0.456, 0.406]), np.array([0.229, 0.224, 0.225])
ALONE = SimpleNamespace(distributed=False)
KEYS = ["data", "label", "label_weight", "depth_mapping_3d", "tsdf", "sketch_gt", "fn", "n", "hha_img"]


def rank_of(rank, world_size):
    return SimpleNamespace(distributed=True, rank=rank, world_size=world_size)


def small(folder, **settings):
    """Settings for scenes of 24 x 32 pixels and 6 x 4 x 6 voxels."""
    sizes = {"image_height": 24, "image_width": 32, "grid": (6, 4, 6), "batch_size": 1, "niters_per_epoch": 7}
    return Config(**({"dataset_path": str(folder)} | sizes | settings))


def train(config, engine=ALONE, dataset=NYUv2, **options):
    return get_train_loader(engine, dataset, config=config, **({"num_workers": 1} | options))[0]


def passes(loader, epochs):
    return [batch for _ in range(epochs) for batch in loader]


def seen(loader, epochs=1):
    return [index for batch in passes(loader, epochs) for index in batch.indices]


def picture(path, mean=MEAN, std=STD, turned=False):
    pixels = np.asarray(Image.open(path).convert("RGB")).astype(np.float32)
    pixels = pixels[:, :, ::-1] if turned else pixels
    return ((pixels / 255 - mean) / std).astype(np.float32).transpose(2, 0, 1)


def reference(folder, name, count, grid, turned=True):
    """A sample as NumPy and Pillow read it."""
    voxels = np.load(folder / f"TSDF/{name}.npz")
    return {
        "data": picture(folder / f"RGB/NYU{name}_colors.png"),
        "label": np.load(folder / f"Label/{name}.npz")["arr_0"].astype(np.int64),
        "label_weight": voxels["arr_1"].astype(np.float32).reshape(-1),
        "depth_mapping_3d": np.load(folder / f"Mapping/{name}.npz")["arr_0"].astype(np.int64).reshape(-1),
        "tsdf": voxels["arr_0"].astype(np.float32).reshape(1, *grid),
        "sketch_gt": np.load(folder / f"sketch3D/{name}.npy").astype(np.int64),
        "fn": name,
        "n": np.int64(count),
        "hha_img": picture(folder / f"HHA/{name}.png", turned=turned),
    }


def assert_is_reference(batch, folder, count, grid, turned=True):
    assert sorted(batch) == sorted(KEYS)
    for row, name in enumerate(batch["fn"]):
        expect = reference(folder, name, count, grid, turned)
        for key in set(KEYS) - {"fn"}:
            found = batch[key][row].numpy()
            assert found.dtype == expect[key].dtype and np.array_equal(found, expect[key]), (key, name)


@pytest.mark.parametrize("order", ["bgr", "rgb"])
def test_small_scenes_are_what_numpy_and_pillow_read(scenes, order):
    config = small(scenes, batch_size=2, niters_per_epoch=4, hha_order=order)
    batches = list(train(config))
    assert len(batches) == 4
    for batch in batches:
        assert_is_reference(batch, scenes, 7, (6, 4, 6), turned=order == "bgr")


def test_scenes_of_full_size_are_what_numpy_and_pillow_read(tmp_path):
    folder = write_scenes(tmp_path, train=2, val=1, image_px=(480, 640), grid=(60, 36, 60))
    config = Config(dataset_path=str(folder), batch_size=2, num_train_imgs=2)
    (batch,) = train(config)
    assert_is_reference(batch, folder, 2, (60, 36, 60))
    assert {key: (tuple(value.shape), value.dtype) for key, value in batch.items() if key != "fn"} == {
        "data": ((2, 3, 480, 640), torch.float32),
        "label": ((2, 129600), torch.int64),
        "label_weight": ((2, 129600), torch.float32),
        "depth_mapping_3d": ((2, 129600), torch.int64),
        "tsdf": ((2, 1, 60, 36, 60), torch.float32),
        "sketch_gt": ((2, 60, 36, 60), torch.int64),
        "n": ((2,), torch.int64),
        "hha_img": ((2, 3, 480, 640), torch.float32),
    }
    assert batch["n"].tolist() == [2, 2] and batch["fn"] == ["0001", "0004"]
    (batch,) = get_val_loader(ALONE, NYUv2, config=config, num_workers=0)
    assert batch["fn"] == ["0007"] and batch.valid == 1
    assert_is_reference(batch, folder, 1, (60, 36, 60))


@pytest.mark.skipif(not NYU.is_dir(), reason="the real frame is not here")
def test_the_real_frame_is_what_numpy_and_pillow_read():
    config = Config(dataset_path=str(NYU), batch_size=3, num_train_imgs=3)
    (batch,) = train(config)
    assert sorted(batch["fn"]) == ["0003", "0011", "0020"]
    assert_is_reference(batch, NYU, 3, (60, 36, 60))
    (batch,) = get_val_loader(ALONE, NYUv2, config=config)
    assert_is_reference(batch, NYU, 1, (60, 36, 60))


def test_other_numbers_of_the_settings_are_used(scenes):
    mean, std = [0.1, 0.2, 0.3], np.array([0.5, 0.6, 0.7])
    batch = next(iter(train(small(scenes, image_mean=mean, image_std=std))))
    name = batch["fn"][0]
    assert np.array_equal(batch["data"][0].numpy(), picture(scenes / f"RGB/NYU{name}_colors.png", np.array(mean), std))


def test_torchsscs_loop_runs_as_it_is(scenes):
    config = small(scenes, batch_size=2, niters_per_epoch=3, num_workers=2)
    train_loader, train_sampler = get_train_loader(rank_of(0, 2), NYUv2, config=config)
    once = [batch.indices for batch in passes(train(config, rank_of(0, 2)), 3)]
    indices, native = [], train_loader._engine
    for epoch in range(3):
        if epoch < 2:
            train_sampler.set_epoch(epoch)
        dataloader = iter(train_loader)
        for idx in range(config.niters_per_epoch):
            minibatch = dataloader.next()
            assert (minibatch.epoch, minibatch.step) == (epoch, idx)
            assert minibatch["data"].shape == (1, 3, 24, 32) and isinstance(minibatch["fn"][0], str)
            indices.append(minibatch.indices)
    with pytest.raises(StopIteration, match="batches_left"):
        dataloader.next()
    assert indices == once and train_loader._engine is native, "its threads go on over the epochs"
    assert (len(train_loader), len(train_sampler), train_sampler.rank, train_sampler.num_replicas) == (3, 3, 0, 2)
    moved = minibatch.to("cpu")
    assert moved["fn"] == minibatch["fn"] and (moved.epoch, moved.indices) == (minibatch.epoch, minibatch.indices)


def test_telling_the_next_epoch_keeps_what_is_made_ahead_and_another_one_goes_there(scenes):
    loader, sampler = get_train_loader(rank_of(0, 1), NYUv2, config=small(scenes), num_workers=1)
    expect = [[batch.indices for batch in loader] for _ in range(3)]
    sampler.set_epoch(1)
    assert [batch.indices for batch in loader] == expect[1]
    engine = loader._engine
    sampler.set_epoch(2)
    assert [batch.indices for batch in loader] == expect[2] and loader._engine is engine
    # A pass that was left early and is begun again, whether or not its iterator is still there.
    for keep in (True, False):
        sampler.set_epoch(0)
        begun = iter(loader)
        begun = begun if keep else None
        sampler.set_epoch(0)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # that it comes a second time
            assert [batch.indices for batch in loader] == expect[0]


@pytest.mark.parametrize("augmented", [False, True])
def test_batches_do_not_depend_on_the_number_of_workers(scenes, tmp_path, augmented):
    config = small(scenes, batch_size=2, niters_per_epoch=4)
    if augmented:
        write_segmentation(tmp_path)
        config = Config(dataset_path=str(tmp_path), batch_size=2, niters_per_epoch=4, image_height=24, image_width=32)
        config.train_scale_array = [0.75, 1.5]
    expect = passes(train(config, num_workers=0), 2)
    assert len(expect) == 8
    for workers in (1, 3):
        for batch, other in zip(passes(train(config, num_workers=workers), 2), expect, strict=True):
            assert batch["fn"] == other["fn"] and batch.indices == other.indices
            assert all(torch.equal(batch[key], other[key]) for key in batch if key != "fn")


def test_numpy_arrays_come_where_they_are_asked_for(scenes):
    batch = next(iter(train(small(scenes), output="numpy", on_bad_sample="replace")))
    assert isinstance(batch["data"], np.ndarray) and batch.to("cpu")["n"] is batch["n"]


def test_ranks_share_the_batch_and_together_give_that_of_one_process(scenes):
    config = small(scenes, batch_size=6, niters_per_epoch=2)
    whole = [batch.indices for batch in passes(train(config), 3)]
    for world in (2, 3, 6):
        loaders = [train(config, rank_of(rank, world)) for rank in range(world)]
        shares = [[batch.indices for batch in passes(loader, 3)] for loader in loaders]
        together = [[index for place in zip(*step, strict=True) for index in place] for step in zip(*shares, strict=True)]
        assert together == whole and {len(step) for share in shares for step in share} == {6 // world}
    assert get_train_loader(ALONE, NYUv2, config=config)[1] is None
    order = DistributedSampler(range(7), 1, 0, seed=0)
    assert whole[0] + whole[1][:1] == list(order)


def test_without_an_engine_the_launcher_tells_the_rank(scenes, monkeypatch):
    config = small(scenes, batch_size=2, niters_per_epoch=3)
    for rank in range(2):
        monkeypatch.setenv("RANK", str(rank))
        monkeypatch.setenv("WORLD_SIZE", "2")
        loader, sampler = get_train_loader(None, NYUv2, config=config)
        assert (loader.rank, loader.num_replicas, loader.batch_size, sampler.rank) == (rank, 2, 1, rank)


def test_without_torch_numpy_arrays_come(scenes, python):
    code = """
import sys
sys.modules["torch"] = None
from feedline.recipes.scene_completion import Config, NYUv2, SSCScores, get_train_loader, get_val_loader
config = Config(dataset_path=sys.argv[1], image_height=24, image_width=32, grid=(6, 4, 6), batch_size=7, niters_per_epoch=1)
(batch,) = get_train_loader(None, NYUv2, config=config)[0]
scores = SSCScores(no_pixel=24 * 32)
scores.update(batch["label"] % 2, batch["label"], batch["label_weight"], batch["depth_mapping_3d"])
scores.all_reduce()
print(type(batch["data"]).__name__, batch["data"].dtype, scores.ssc_miou > 0, len(batch["fn"]))
"""
    done = python(code, scenes)
    assert done.stdout == "ndarray float32 True 7\n", done.stderr


def test_a_batch_that_does_not_divide_by_the_ranks_is_refused(scenes):
    for batch_size, world, words in [(4, 3, "batch_size is 4.*is 3 ranks.*3 or 6"), (2, 5, "batch_size is 2.*5 ranks.* 5$")]:
        with pytest.raises(feedline.ConfigError, match=words):
            train(small(scenes, batch_size=batch_size), rank_of(0, world))
    with pytest.raises(feedline.ConfigError, match="config.batch_size"):
        train(small(scenes, batch_size=0))
    with pytest.raises(feedline.ConfigError, match="num_train_imgs is 3, fewer than config.batch_size, which is 4"):
        train(Config(dataset_path=str(scenes), num_train_imgs=3))


def test_over_epochs_of_another_length_all_samples_come_equally_often(scenes):
    shorter = train(small(scenes, niters_per_epoch=5))
    assert len(shorter.dataset) == 7 and len(shorter) == 5 and shorter.dataset.file_length == 5
    counts = Counter(seen(shorter, epochs=3))
    assert sorted(counts) == list(range(7)) and set(counts.values()) == {2, 3}
    longer = Counter(seen(train(small(scenes, niters_per_epoch=10))))
    assert sorted(longer) == list(range(7)) and set(longer.values()) == {1, 2}


def test_upstreams_draws_are_independent_and_offered_for_short_epochs_only(scenes):
    config = small(scenes, niters_per_epoch=6)
    draws = [seen(train(config, upstream_random_names=True, seed=seed), epochs=50) for seed in (1, 2)]
    again = seen(train(config, upstream_random_names=True, seed=1, num_workers=0), epochs=50)
    assert draws[0] == again != draws[1]
    assert any(len(set(draws[0][at:at + 6])) < 6 for at in range(0, 300, 6)), "a sample comes twice in an epoch"
    counts = Counter(draws[0] + draws[1])
    # 600 draws of 7: 86 each, standard deviation 8.6.
    assert sorted(counts) == list(range(7)) and all(50 < count < 122 for count in counts.values())
    for niters in (7, 8):
        with pytest.raises(feedline.ConfigError, match=f"{niters} samples and the list 7"):
            train(small(scenes, niters_per_epoch=niters), upstream_random_names=True)


def test_settings_follow_each_other_and_unknown_ones_are_named():
    config = Config(dataset_path="D")
    assert (config.hha_root_folder, config.train_source) == ("D/HHA", "D/train.txt")
    assert (config.niters_per_epoch, config.seed, config.snapshot_dir) == (198, 12345, "log/snapshot")
    config.batch_size, config.dataset_path, config.train_source = 8, "s3://b/nyu", "list.txt"
    assert (config.niters_per_epoch, config.mapping_root_folder) == (99, "s3://b/nyu/Mapping")
    assert config.train_source == "list.txt" and config.eval_source == "s3://b/nyu/test.txt"
    config.image_mean[0] = 0.0
    assert config.image_mean[0] == 0.0 and Config().image_mean[0] == 0.485
    config.own = 3
    assert config.own == 3 and not hasattr(config, "others")
    with pytest.raises(AttributeError, match="no setting batchsize.*batch_size"):
        _ = config.batchsize
    assert pickle.loads(pickle.dumps(config)).batch_size == 8
    assert scene_completion.C is scene_completion.cfg is scene_completion.config


def test_settings_of_a_persons_own_are_taken(scenes):
    keys = small(scenes, batch_size=2, niters_per_epoch=3).__dict__
    expect = seen(train(Config(**keys)))
    for own in (SimpleNamespace(**keys), dict(keys), type("module", (), keys)):
        assert seen(train(own)) == expect
    for wrong in (5, {"nothing": 1}):
        with pytest.raises(feedline.ConfigError, match="none of TorchSSC's settings"):
            train(wrong)


def test_the_data_set_may_be_a_class_a_derived_one_or_made_already(scenes):
    config = small(scenes)

    class Own(NYUv2):
        def __init__(self, setting, split_name, preprocess=None, file_length=None, s3client=None):
            assert (split_name, file_length, s3client) == ("train", 7, None) and isinstance(preprocess, TrainPre)
            super().__init__(setting, split_name, preprocess, file_length, s3client)

    made = NYUv2(data_setting(config), "train", TrainPre(), 7)
    expect = seen(train(config))
    for dataset in (Own, made, lambda *args, **kwargs: NYUv2(*args, **kwargs)):
        assert seen(train(config, dataset=dataset)) == expect
    for wrong in (lambda *args, **kwargs: [1], 5):
        with pytest.raises(feedline.ConfigError, match="no source of Feedline's"):
            train(config, dataset=wrong)
    with pytest.raises(feedline.ConfigError, match="s3client comes too late"):
        train(config, dataset=made, s3client="s3://b/x")


def test_a_source_opens_late_pickles_and_goes_into_feedlines_own_loader(scenes):
    source = NYUv2(data_setting(small("nowhere")), "train")
    with pytest.raises(feedline.DatasetError, match=r"nowhere.*train\.txt"):
        len(source)
    source = pickle.loads(pickle.dumps(NYUv2(data_setting(small(scenes)), "val", ValPre())))
    assert len(source) == source.get_length() == 3 and source.location(0).endswith("RGB/NYU0022_colors.png")
    assert pickle.loads(pickle.dumps(source)).fields == source.fields and sorted(source.fields) == sorted(KEYS)
    batch = next(iter(feedline.DataLoader(source, batch_size=2)))
    assert batch["fn"] == [b"0022", b"0025"]
    exact = [SceneLoader(source, 2, num_replicas=2, rank=rank, tail="exact", num_workers=0) for rank in range(2)]
    assert [name for loader in exact for batch in loader for name in batch["fn"][:batch.valid]] == ["0022", "0028", "0025"]


def test_wrong_arguments_of_the_data_set_are_named(scenes):
    setting = data_setting(small(scenes))
    wrong = [
        ({"split_name": "test"}, "split_name is 'test'. It must be train or val"),
        ({"setting": setting | {"img_roots": "x"}}, "'img_roots'. Use img_root"),
        ({"setting": setting | {"train_source": None}}, "no train_source"),
        ({"setting": setting | {"hha_order": "gbr"}}, "hha_order is 'gbr'"),
        ({"setting": setting | {"grid": [6, 4]}}, "grid is"),
        ({"setting": setting | {"image_height": 0}}, "image_height"),
        ({"preprocess": lambda image, hha: image}, "preprocess is function"),
        ({"file_length": 0}, "file_length"),
    ]
    for arguments, words in wrong:
        with pytest.raises(feedline.ConfigError, match=words):
            NYUv2(**({"setting": setting, "split_name": "train"} | arguments))
    with pytest.raises(feedline.ConfigError, match="img_mean"):
        TrainPre([0.5], STD)


def write_segmentation(folder, count=7):
    rng = np.random.default_rng(3)
    for kind in ("RGB", "HHA", "Label"):
        (folder / kind).mkdir()
    for number in range(count):
        for kind in ("RGB", "HHA"):
            Image.fromarray(rng.integers(0, 256, (24, 32, 3), dtype=np.uint8)).save(folder / f"{kind}/{number}.png")
        Image.fromarray(rng.integers(0, 13, (24, 32), dtype=np.uint8)).save(folder / f"Label/{number}.png")
    lines = [f"RGB/{number}.png\tLabel/{number}.png\n" for number in range(count)]
    (folder / "train.txt").write_text("".join(lines), "utf-8")


def test_segmentation_lists_give_a_class_for_each_pixel(tmp_path):
    write_segmentation(tmp_path)
    (batch,) = train(Config(dataset_path=str(tmp_path), batch_size=7, num_train_imgs=7, image_height=24, image_width=32))
    assert sorted(batch) == ["data", "fn", "hha_img", "label", "n"]
    for row, name in enumerate(batch["fn"]):
        label = np.asarray(Image.open(tmp_path / f"Label/{name}.png")).astype(np.int64) - 1
        label[label == -1] = 255
        assert np.array_equal(batch["label"][row].numpy(), label)
        assert np.array_equal(batch["data"][row].numpy(), picture(tmp_path / f"RGB/{name}.png"))
        assert np.array_equal(batch["hha_img"][row].numpy(), picture(tmp_path / f"HHA/{name}.png", turned=True))


def test_random_changes_are_for_segmentation_lists_only(scenes):
    with pytest.raises(feedline.ConfigError, match="mapping of each voxel"):
        train(small(scenes, train_scale_array=[0.5, 1]))
    assert len(seen(train(small(scenes, train_scale_array=[1])))) == 7
    made = NYUv2(data_setting(small(scenes)), "train", TrainPre(mirror=True))
    with pytest.raises(feedline.ConfigError, match="mapping of each voxel"):
        train(small(scenes), dataset=made)


def damaged(what, folder):
    """Damages the second sample, and says the words of the error."""
    label, tsdf, mapping = (folder / f"{kind}/0004.npz" for kind in ("Label", "TSDF", "Mapping"))
    voxels, weight = np.load(tsdf)["arr_0"], np.load(tsdf)["arr_1"]
    match what:
        case "missing":
            mapping.unlink()
            return ["line 2", "0004", "Mapping/0004.npz"]
        case "label 12":
            np.savez(label, np.where(np.arange(144) == 5, 12, 0))
            return ["Label/0004.npz", "arr_0", "voxel 5 is 12"]
        case "label 2.5":
            np.savez(label, np.full(144, 2.5))
            return ["Label/0004.npz", "arr_0", "2.5"]
        case "shape":
            np.savez(tsdf, voxels[:100], weight)
            return ["TSDF/0004.npz", "arr_0", "100"]
        case "member":
            np.savez(tsdf, voxels, weights=weight)
            return ["TSDF/0004.npz", "arr_1", "weights"]
        case "pickled":
            np.savez(mapping, np.array([{}] * 144, dtype=object))
            return ["Mapping/0004.npz", "arr_0", "object|pickle"]
        case "mapping":
            np.savez(mapping, np.where(np.arange(144) == 17, 24 * 32 + 1, 0))
            return ["Mapping/0004.npz", "arr_0", "voxel 17 is 769"]
        case "nan":
            voxels[3] = np.nan
            np.savez(tsdf, voxels, weight)
            return ["TSDF/0004.npz", "arr_0", "voxel 3 is NaN"]
        case "size":
            Image.new("RGB", (31, 24)).save(folder / "HHA/0004.png")
            return ["HHA/0004.png", "24 x 31"]
        case "text":
            (folder / "sketch3D/0004.npy").write_text("no array")
            return ["sketch3D/0004.npy"]


@pytest.mark.parametrize(
    "what", ["missing", "label 12", "label 2.5", "shape", "member", "pickled", "mapping", "nan", "size", "text"]
)
def test_damaged_files_are_named_with_member_and_value(scenes, tmp_path, what):
    shutil.copytree(scenes, tmp_path / "scenes")
    words = damaged(what, tmp_path / "scenes")
    config = small(tmp_path / "scenes")
    with pytest.raises((feedline.SampleError, feedline.DatasetError)) as caught:
        seen(train(config))
    for word in words:
        assert any(part in str(caught.value) for part in word.split("|")), (word, str(caught.value))
    if what != "missing":
        indices = seen(train(config, on_bad_sample="replace"))
        assert len(indices) == 7 and 1 not in indices


ROOTS = {"img_root": "DATA/NYU", "hha_root": "DATA/NYU/HHA"}
URLS = {"img_root": "s3://bucket/nyu", "hha_root": "s3://bucket/nyu/HHA"}


def client(**options):
    boto3 = pytest.importorskip("boto3")
    keys = {"aws_access_key_id": "AKIAEXAMPLE", "aws_secret_access_key": "not-to-be-shown", "aws_session_token": "t0ken"}
    return boto3.client("s3", endpoint_url="http://127.0.0.1:9000", region_name="eu-central-1", **(keys | options))


def test_an_s3client_is_a_url_a_mapping_or_a_client_of_boto3():
    assert storage_of(None, "DATA/NYU", ROOTS) == ({}, None)
    mapped = {"map": "DATA/NYU=s3://bucket/nyu"}
    assert storage_of("s3://bucket/nyu", "DATA/NYU", ROOTS) == (mapped, None)
    settings = {"endpoint": "http://127.0.0.1:9000", "requests_in_flight": 8, "cache_dir": Path("c")}
    strings = settings | {"cache_dir": "c"}
    assert storage_of(settings | {"url": "s3://bucket/nyu"}, "DATA/NYU", ROOTS) == (strings | mapped, None)
    assert storage_of(settings | {"map": "DATA=s3://b"}, "DATA/NYU", ROOTS) == (strings | {"map": "DATA=s3://b"}, None)
    assert storage_of(settings, "s3://bucket/nyu", URLS) == (strings, None)
    where = {"endpoint": "http://127.0.0.1:9000", "region": "eu-central-1"}
    storage, keys = storage_of(client(), "s3://bucket/nyu", URLS)
    assert storage == where and keys.reveal() == ("AKIAEXAMPLE", "not-to-be-shown", "t0ken")


def test_an_unsigned_client_reads_without_keys_and_keys_that_expire_are_told_of(caplog):
    botocore = pytest.importorskip("botocore")
    from botocore.config import Config as BotoConfig
    from botocore.credentials import DeferredRefreshableCredentials

    unsigned = client(config=BotoConfig(signature_version=botocore.UNSIGNED))
    storage, keys = storage_of(unsigned, "s3://bucket/nyu", URLS)
    assert storage["anonymous"] is True and keys is None
    without = client()
    without._request_signer._credentials = None
    with pytest.raises(feedline.ConfigError, match="no credentials"):
        storage_of(without, "s3://bucket/nyu", URLS)
    expiring = client()
    fresh = {"access_key": "a", "secret_key": "not-to-be-shown", "token": "t", "expiry_time": "2999-01-01T00:00:00Z"}
    expiring._request_signer._credentials = DeferredRefreshableCredentials(lambda: fresh, "assume-role")
    with caplog.at_level(logging.DEBUG):
        assert storage_of(expiring, "s3://bucket/nyu", URLS)[1].reveal() == ("a", "not-to-be-shown", "t")
    assert "expire" in caplog.text and "not-to-be-shown" not in caplog.text


def test_an_s3client_that_is_none_of_these_or_changes_nothing_is_refused():
    wrong = [
        (5, "DATA/NYU", ROOTS, "s3client is int. Give a URL"),
        ("bucket/nyu", "DATA/NYU", ROOTS, "no URL"),
        ({"url": "bucket"}, "DATA/NYU", ROOTS, "url is 'bucket'"),
        ({"url": "s3://b", "map": "D=s3://b"}, "DATA/NYU", ROOTS, "leave one out"),
        ("s3://b", "s3://bucket/nyu", URLS, "Leave one of them out"),
        ("s3://b", "a=b", {"img_root": "a=b"}, "without ="),
        ("s3://b", "OTHER", ROOTS, "below OTHER.*img_root"),
        ({"endpoint": "http://x"}, "DATA/NYU", ROOTS, "is a URL.*read from the disk"),
        ({"aws_secret_access_key": "x"}, "s3://bucket/nyu", URLS, "credentials are no settings"),
    ]
    for s3client, dataset_path, roots, words in wrong:
        with pytest.raises(feedline.ConfigError, match=words):
            storage_of(s3client, dataset_path, roots)


def test_keys_of_a_client_are_neither_shown_nor_pickled_nor_logged(caplog, capfd):
    with caplog.at_level(logging.DEBUG):
        source = NYUv2(data_setting(small("s3://bucket/nyu")), "train", s3client=client())
    with pytest.raises(feedline.ConfigError, match="AWS_ACCESS_KEY_ID"):
        pickle.dumps(source)
    shown = f"{source!r} {vars(source)} {json.dumps(source._options)} {caplog.text} {capfd.readouterr()}"
    assert not any(secret in shown for secret in ("AKIAEXAMPLE", "not-to-be-shown", "t0ken"))
    # Sources with settings alone can go to other processes.
    source = NYUv2(data_setting(small("s3://bucket/nyu")), "train", s3client={"endpoint": "http://127.0.0.1:9000"})
    assert pickle.loads(pickle.dumps(source))._options == source._options


def test_a_url_stands_for_the_folder_of_the_settings(scenes):
    config = small(scenes)
    expect = seen(train(config))
    there = small("DATA/NYU")
    for s3client in (f"file://{scenes}", {"url": f"file://{scenes}"}, {"map": f"DATA/NYU=file://{scenes}"}):
        batches = passes(train(there, s3client=s3client, num_workers=2), 1)
        assert [index for batch in batches for index in batch.indices] == expect
        assert_is_reference(batches[0], scenes, 7, (6, 4, 6))
    # Without dataset_path the folder is what the paths have in common.
    setting = {key: value for key, value in data_setting(there).items() if key != "dataset_path"}
    assert len(NYUv2(setting, "val", s3client=f"file://{scenes}")) == 3
    with pytest.raises(feedline.ConfigError, match="retries"):
        len(NYUv2(setting, "val", s3client={"url": f"file://{scenes}", "retries": 1}))
    # A state knows the data, not its place.
    loader = train(there, s3client=f"file://{scenes}")
    next(iter(loader))
    config_loader = train(config)
    config_loader.load_state_dict(loader.state_dict())
    assert seen(config_loader) == expect[1:]
