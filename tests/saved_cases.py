"""Batches and states that `testdata/make_saved.py` records in testdata/saved/ and `test_saved.py` computes anew.

All input is made here from integers or lies in testdata/, so that no other library's version is in a digest.

A digest is the beginning of a SHA-256 over type, shape and bytes. Feedline's own arithmetic gives the same bits with and
without AVX2, so floats are digested, too. What also depends on the system's sine, cosine, exponential or logarithm is named in
`USES_LIBM`: where `libm()` is not that of the recording, of such a case only indices, types and shapes are compared.
"""

import json
import math
import random
import re
import shutil
import warnings
from contextlib import contextmanager
from itertools import islice
from pathlib import Path
from types import SimpleNamespace

import feedline
import numpy as np
import pytest
import torch
from feedline.recipes import lidar, scene_completion
from feedline.recipes.classification import DataGenerator
from PIL import Image
from saved_orders import SAMPLERS, noise, short, weights

TESTDATA = Path(__file__).resolve().parent.parent / "testdata"
SAVED = TESTDATA / "saved"

# Beginnings of names of cases.
USES_LIBM = ("demo ", "lidar ", "scenes of the demo", "show ")


def libm():
    """What sin, cos, exp, log, pow and atan2 of this machine give for a thousand numbers."""
    found = []
    for number in range(1, 1000):
        x = number * 0.7310585786300049
        found += [math.sin(x), math.cos(x), math.exp(-x / 50), math.log(x), math.pow(x, 0.9), math.atan2(x - 300, x)]
    return short(repr(found).encode())


def digest(value):
    """Type, shape and digest of an array, a tensor, or a list of names or calibrations."""
    if isinstance(value, list) and isinstance(value[0], lidar.Calibration):
        value = np.stack([np.concatenate([one.P2, one.R0 @ one.V2C]) for one in value])
    array = np.asarray(value)
    if array.dtype.kind == "U":
        return f"names {len(array)} {short(json.dumps(array.tolist()).encode())}"
    shape = "x".join(map(str, array.shape))
    return f"{array.dtype} {shape} {short(f'{array.dtype} {shape} '.encode() + np.ascontiguousarray(array).tobytes())}"


def without_digests(recorded):
    """A record with types and shapes alone."""
    if isinstance(recorded, dict):
        return {key: without_digests(value) for key, value in recorded.items() if key != "sha256"}
    if isinstance(recorded, list):
        return [without_digests(value) for value in recorded]
    return recorded.rsplit(" ", 1)[0] if isinstance(recorded, str) else recorded


def tree(folder):
    """A digest of the names and contents of all files in a folder."""
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    sums = [f"{path.relative_to(folder)} {short(path.read_bytes())}" for path in files]
    return f"{len(sums)} files {short(json.dumps(sums).encode())}"


# Sources.


def picture_folder(folder):
    """DIR/{a,b,c}/*: the pictures of testdata/images."""
    files = sorted((TESTDATA / "images/jpeg").glob("*.jpg")) + sorted((TESTDATA / "images/png").glob("*.png"))
    for number, file in enumerate(files):
        target = folder / "abc"[number * 5 % 3] / file.name
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(file, target)
    return folder


def spoilt_folder(folder):
    """Nine pictures, three of which cannot be decoded."""
    files = [TESTDATA / "images/jpeg" / f"{name}.jpg" for name in ("rgb", "grey", "ycbcr420", "ycbcr422", "ycck", "narrow")]
    files += [TESTDATA / "hostile" / name for name in ("truncated.jpg", "bad_crc.png", "text.jpg")]
    for number, file in enumerate(files):
        target = folder / "ab"[number % 2] / file.name
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(file, target)
    return folder


def scene_folder(folder):
    """Seven scenes of 24 x 32 pixels and 6 x 4 x 6 voxels in TorchSSC's layout, and segmentation lists beside them."""
    for kind in ("RGB", "HHA", "Label", "TSDF", "Mapping", "sketch3D"):
        (folder / kind).mkdir(parents=True)
    ids = [f"{number:04}" for number in range(1, 8)]
    for number, name in enumerate(ids):
        for path, seed in ((f"RGB/NYU{name}_colors.png", 0), (f"HHA/{name}.png", 1), (f"RGB/{name}.png", 2)):
            Image.fromarray(noise((24, 32, 3), 10 * number + seed)).save(folder / path)
        Image.fromarray(noise((24, 32), 10 * number + 3) % 13).save(folder / f"Label/{name}.png")
        label = noise(144, 10 * number + 4) % 13
        label[label == 12] = 255
        np.savez_compressed(folder / f"Label/{name}.npz", label.astype([np.uint8, np.int64, np.float32][number % 3]))
        values = noise(288, 10 * number + 5).reshape(2, 144)
        tsdf, weight = values[0].astype(np.float32) / 128 - 1, (values[1] > 80).astype(np.float32)
        (np.savez if number % 2 else np.savez_compressed)(folder / f"TSDF/{name}.npz", tsdf, weight)
        np.savez(folder / f"Mapping/{name}.npz", noise(144, 10 * number + 6).astype(np.int64) * 3 + 1)
        np.save(folder / f"sketch3D/{name}.npy", noise((6, 4, 6), 10 * number + 7) % 2)
    (folder / "train.txt").write_text("".join(f"{name}\n" for name in ids[:5]))
    (folder / "test.txt").write_text("".join(f"{name}\n" for name in ids[5:]))
    (folder / "all.txt").write_text("".join(f"{name}\n" for name in ids))
    (folder / "pixels.txt").write_text("".join(f"RGB/{name}.png\tLabel/{name}.png\n" for name in ids))
    return folder


def array_files(folder):
    """Rows in each kind of file."""
    rows = noise((11, 3, 4)).astype(np.float32) / 4
    folder.mkdir(parents=True)
    np.save(folder / "rows.npy", rows)
    np.savez(folder / "rows.npz", x=rows.astype(np.uint16))
    np.savez_compressed(folder / "packed.npz", x=rows.astype(np.float64))
    rows.tofile(folder / "rows.bin")
    for kind in ("npys", "depths"):
        (folder / kind).mkdir()
    for number in range(11):
        np.save(folder / f"npys/{number:02}.npy", rows[number])
        depth = noise((6, 5, 2), number).view(np.uint16)[:, :, 0]
        Image.fromarray(depth).save(folder / f"depths/{number:02}.png")
    return folder


class Squares(torch.utils.data.Dataset):
    """A person's own data set, which draws nothing."""

    def __len__(self):
        return 13

    def __getitem__(self, index):
        return {"square": np.full((2, 3), index**2, np.int32), "half": np.float32(index / 2), "label": index % 3}


class Drawing(torch.utils.data.Dataset):
    """Draws from the program's generators, those whose numbers stay the same from version to version."""

    def __len__(self):
        return 13

    def __getitem__(self, index):
        return np.array([index, random.getrandbits(20), np.random.randint(1 << 20)])


def from_rng(image, rng):
    """A step of one's own with the sample's generator."""
    bits = rng.bit_generator.random_raw(image.size // 8 + 1)
    return image ^ (bits.view(np.uint8)[: image.size].reshape(image.shape) & 7)


def darker(image):
    """A step of one's own."""
    return image // 2


def inverted(image):
    """A step of one's own on floats."""
    return -image


def plus(x, rng):
    """A step of one's own on arrays."""
    return {"x": x, "drawn": np.int64(rng.bit_generator.random_raw() >> 40)}


STEPS = {
    "resize": lambda s: s.resize((16, 20)),
    "resize, bicubic": lambda s: s.resize((9, 70), interpolation="bicubic"),
    "evaluation": lambda s: s.resize(24).center_crop(20).normalize(),
    "evaluation, bicubic": lambda s: s.resize(30, interpolation="bicubic").center_crop((20, 28)),
    "random crop": lambda s: s.random_resized_crop(16),
    "random crop, bicubic": lambda s: s.random_resized_crop((12, 20), (0.3, 0.9), (0.5, 2.0), "bicubic"),
    "flip": lambda s: s.resize((16, 20)).hflip(),
    "flip first": lambda s: s.hflip(0.8).resize((16, 20)),
    "autoaugment": lambda s: s.resize((16, 20)).autoaugment(),
    "colour jitter": lambda s: s.resize((16, 20)).color_jitter(0.4, 0.3, 0.2),
    "affine": lambda s: s.resize((16, 20)).random_affine(30, 0.2),
    "normalize": lambda s: s.resize((16, 20)).normalize(),
    "normalize, own numbers": lambda s: s.resize((16, 20)).normalize((0.1, 0.2, 0.3), (0.5, 0.6, 0.7)),
    "training": lambda s: s.random_resized_crop(16).hflip().autoaugment().normalize(),
    "training, all": lambda s: s.random_affine(10, 0.1).random_resized_crop(16).hflip().color_jitter(0.2, 0.2, 0.2).normalize(),
    "decode region": lambda s: s.decode("region").random_resized_crop(8).normalize(),
    "decode whole": lambda s: s.decode("whole", max_pixels=100_000).random_resized_crop(8).normalize(),
    "decode fused, small": lambda s: s.decode("fused").random_resized_crop(8).normalize(),
    "decode cache": lambda s: s.decode(cache_bytes=1 << 20).random_resized_crop(8),
    "own steps": lambda s: s.map(darker).resize((16, 20)).map(from_rng, rng=True).normalize().map(inverted),
    "own step, size": lambda s: s.resize((16, 20)).map(lambda image: image[:8, ::2], size=(8, 10)),
}  # fmt: skip


def sources(root, feedline_ok):
    """A function for each kind of loader, which makes it; to be called in the folder `root`, which paths are relative to."""
    pictures = picture_folder(root / "pictures")
    files = [path.relative_to(root) for path in sorted(pictures.rglob("*.*"))[::6]]
    listed = [f"{number * 5 % 3};{path}" for number, path in enumerate(files)]
    (root / "list.txt").write_text("".join(f"{line}\n" for line in listed))
    (root / "classes.txt").write_text("a\nb\nhot dog\n")
    feedline_ok("pack", pictures, "--out", root / "packed", "--shard-bytes", 20_000, "--num-workers", 1)
    feedline_ok("pack", root / "list.txt", "--classes", root / "classes.txt", "--out", root / "packed list")
    spoilt, arrays, scenes = spoilt_folder(root / "spoilt"), array_files(root / "arrays"), scene_folder(root / "scenes")
    archives = {
        "tar": "shards/webdataset",
        "zip": "shards/zip/all.zip",
        "mds": "shards/mds",
        "tar, several labels": "archives/labels.tar",
        "tar of a Mac": "archives/mac.tar",
        "zip of a Mac": "archives/mac.zip/train",
        "parquet": "parquet/datasets.parquet",
        "parquet, zstd": "parquet/zstd_v2.parquet",
    }
    made = {
        "folder": lambda: feedline.images(pictures).resize((8, 8)),
        "list": lambda: feedline.images(root / "list.txt", classes=root / "classes.txt").random_resized_crop(8),
        "paths": lambda: feedline.images(files, [number % 2 for number in range(len(files))]).resize((8, 8)),
        "folder, own step": lambda: feedline.images(pictures).resize((8, 8)).map(from_rng, rng=True),
        "packed": lambda: feedline.images(root / "packed").resize((8, 8)),
        "packed list": lambda: feedline.images(root / "packed list").random_resized_crop(8),
        "classification, training": lambda: DataGenerator(listed, [16, 20]),
        "classification, training without autoaugment": lambda: DataGenerator(listed, [16, 16], autoaugment_flag=False),
        "classification, evaluation": lambda: DataGenerator(listed, [16, 16], random=False),
        "classification, evaluation, not square": lambda: DataGenerator(listed, [16, 20], random=False),
        "arrays": lambda: feedline.arrays(x=noise((17, 2, 3)), label=np.arange(17), half=np.arange(17) / 2),
        "arrays, own step": lambda: feedline.arrays(x=np.arange(17)).map(plus, rng=True),
        "npy": lambda: feedline.arrays(arrays / "rows.npy"),
        "npz": lambda: feedline.arrays(arrays / "rows.npz/x.npy"),
        "npz, deflated": lambda: feedline.arrays(arrays / "packed.npz"),
        "bin": lambda: feedline.arrays(arrays / "rows.bin", shape=(3, 4)),
        "folder of npy": lambda: feedline.arrays(arrays / "npys"),
        "folder of depths": lambda: feedline.arrays(arrays / "depths"),
        "parquet of arrays": lambda: feedline.arrays(TESTDATA / "parquet/arrays/rows.parquet"),
        "own dataset": lambda: feedline.dataset(Squares()),
        "own dataset that draws": lambda: feedline.dataset(Drawing()),
    }
    for name, path in archives.items():
        made[name] = lambda path=path: feedline.images(TESTDATA / path).resize((8, 8))
    for name, steps in STEPS.items():
        made[f"pictures: {name}"] = lambda steps=steps: steps(feedline.images(pictures))

    def plain(source, **options):
        return lambda rank=0, ranks=1, batch_size=5: _loader(source(), rank, ranks, batch_size, **options)

    loaders = {name: plain(source) for name, source in made.items()}
    # In worker processes its draws are others than those of the version that was saved.
    loaders["own dataset that draws"] = plain(made["own dataset that draws"], workers="threads", num_workers=0)
    loaders["replaced samples"] = plain(lambda: feedline.images(spoilt).resize((8, 8)).decode("whole"), on_bad_sample="replace")
    number = lambda: feedline.arrays(np.arange(23))
    for name, order in {
        "torch, dropped": {"tail": "drop"}, "torch, exact": {"tail": "exact"}, "torch, last batch dropped": {"drop_last": True},
        "unshuffled": {"shuffle": False}, "keyed": {"permutation": "feistel"}, "virtual epochs": {"epoch_length": 37},
        "merged": {"merge_epochs": 2}, "weighted": {"weights": weights(23), "epoch_length": 29},
    }.items():  # fmt: skip
        loaders[f"order: {name}"] = plain(number, **order)
    for name, make in SAMPLERS.items():
        if name != "trillion":

            def followed(rank=0, ranks=1, batch_size=5, make=make):
                sampler = make("pad", 5, ranks, rank)
                return feedline.DataLoader(feedline.arrays(np.arange(23)), batch_size, sampler=sampler, num_workers=2)

            loaders[f"sampler: {name}"] = followed
    sizes = {"dataset_path": str(scenes), "image_height": 24, "image_width": 32, "grid": (6, 4, 6)}
    loaders["scenes"] = _scenes(sizes, 12)
    loaders["scenes, other channels"] = _scenes(sizes | {"hha_order": "rgb", "image_mean": [0.1, 0.2, 0.3]}, 6)
    pixels = sizes | {"train_source": str(scenes / "pixels.txt")}
    loaders["scenes, random names"] = _scenes(sizes | {"train_source": str(scenes / "all.txt")}, 6, upstream_random_names=True)
    loaders["segmentation"] = _scenes(pixels, 12)
    loaders["segmentation, scaled"] = _scenes(pixels | {"train_scale_array": [0.75, 1, 1.5]}, 12)
    loaders["scenes, evaluation"] = lambda rank=0, ranks=1, batch_size=1: scene_completion.get_val_loader(
        _engine(rank, ranks), scene_completion.NYUv2, config=scene_completion.Config(**sizes), batch_size=batch_size
    )
    return loaders


def _loader(source, rank, ranks, batch_size, **options):
    options = {"shuffle": "weights" not in options, "seed": 7, "num_workers": 2, "num_replicas": ranks, "rank": rank} | options
    return feedline.DataLoader(source, batch_size, **options)


def _engine(rank, ranks):
    return SimpleNamespace(distributed=ranks > 1, rank=rank, world_size=ranks)


def _scenes(settings, samples, **options):
    def make(rank=0, ranks=1, batch_size=1):
        # An epoch has as many samples for any number of ranks.
        steps = {"batch_size": batch_size * ranks, "niters_per_epoch": samples // (batch_size * ranks)}
        config = scene_completion.Config(**settings, **steps)
        engine = _engine(rank, ranks)
        return scene_completion.get_train_loader(engine, scene_completion.NYUv2, config=config, num_workers=2, **options)[0]

    return make


# The demo data, of which few samples are used.

FEATURES = ["x", "y", "z", "intensity"]
SAMPLING = {
    "NAME": "gt_sampling", "USE_ROAD_PLANE": True, "DB_INFO_PATH": ["kitti_dbinfos_train.pkl"],
    "PREPARE": {"filter_by_min_points": ["Car:5", "Pedestrian:5", "Cyclist:5"], "filter_by_difficulty": [-1]},
    "SAMPLE_GROUPS": ["Car:15", "Pedestrian:10", "Cyclist:10"], "NUM_POINT_FEATURES": 4, "DATABASE_WITH_FAKELIDAR": False,
    "REMOVE_EXTRA_WIDTH": [0.0, 0.0, 0.0], "LIMIT_WHOLE_SCENE": True,
}  # fmt: skip
FLIP = {"NAME": "random_world_flip", "ALONG_AXIS_LIST": ["x"]}
ROTATION = {"NAME": "random_world_rotation", "WORLD_ROT_ANGLE": [-0.78539816, 0.78539816]}
SCALING = {"NAME": "random_world_scaling", "WORLD_SCALE_RANGE": [0.95, 1.05]}
AUGMENTATIONS = {
    "no augmentation": [],
    "database sampling": [SAMPLING],
    "database sampling without ground": [SAMPLING | {"USE_ROAD_PLANE": False, "REMOVE_EXTRA_WIDTH": [0.2, 0.2, 0.1]}],
    "flip": [FLIP | {"ALONG_AXIS_LIST": ["x", "y"]}],
    "rotation": [ROTATION],
    "scaling": [SCALING],
    "translation": [{"NAME": "random_world_translation", "NOISE_TRANSLATE_STD": [0.5, 0.5, 0.2]}],
    "local rotation": [{"NAME": "random_local_rotation", "LOCAL_ROT_ANGLE": [-0.2, 0.2]}],
    "local scaling": [{"NAME": "random_local_scaling", "LOCAL_SCALE_RANGE": [0.9, 1.1]}],
    "local translation": [
        {"NAME": "random_local_translation", "ALONG_AXIS_LIST": ["x", "y", "z"], "LOCAL_TRANSLATION_RANGE": [-0.3, 0.3]}
    ],
    "all": [SAMPLING, FLIP, ROTATION, SCALING],
}
MASK = {"NAME": "mask_points_and_boxes_outside_range", "REMOVE_OUTSIDE_BOXES": True}
SHUFFLE = {"NAME": "shuffle_points", "SHUFFLE_ENABLED": {"train": True, "test": False}}
VOXELS = {
    "NAME": "transform_points_to_voxels", "VOXEL_SIZE": [0.32, 0.32, 4], "MAX_POINTS_PER_VOXEL": 20,
    "MAX_NUMBER_OF_VOXELS": {"train": 3000, "test": 5000},
}  # fmt: skip
SAMPLES = {"NAME": "sample_points", "NUM_POINTS": {"train": 2048, "test": 1024}}


def lidar_config(folder, augment=(), process=(MASK, SHUFFLE, VOXELS), **changes):
    """`DATA_CONFIG` of OpenPCDet."""
    encoding = {"encoding_type": "absolute_coordinates_encoding", "used_feature_list": FEATURES, "src_feature_list": FEATURES}
    return {
        "DATASET": "KittiDataset",
        "DATA_PATH": str(folder),
        "POINT_CLOUD_RANGE": [0, -25.6, -3, 51.2, 25.6, 1],
        "DATA_SPLIT": {"train": "train", "test": "val"},
        "INFO_PATH": {"train": ["few_train.pkl"], "test": ["few_val.pkl"]},
        "GET_ITEM_LIST": ["points"],
        "FOV_POINTS_ONLY": True,
        "DATA_AUGMENTOR": {"DISABLE_AUG_LIST": ["placeholder"], "AUG_CONFIG_LIST": list(augment)},
        "POINT_FEATURE_ENCODING": encoding,
        "DATA_PROCESSOR": list(process),
    } | changes


def demo_data(feedline_ok, folder):
    """The demo data of each recipe, as `feedline demo-data` draws it: digests of it, and folders of which few samples are
    used: few pictures, or few samples in lists few_train and few_val of the whole.
    """
    digests, few = {}, {}
    for recipe in ("classification", "scene_completion", "lidar"):
        whole = folder / recipe
        feedline_ok("demo-data", recipe, "--out", whole)
        parts = sorted(path for path in whole.rglob("*") if path.is_dir() and not any(inner.is_dir() for inner in path.iterdir()))
        digests[recipe] = {str(path.relative_to(whole)): tree(path) for path in parts} | {"all": tree(whole)}
        few[recipe] = whole
    pictures, rooms, streets = few["classification"], few["scene_completion"], few["lidar"]
    few["classification"] = folder / "pictures"
    for split, count in (("train", 4), ("test", 2)):
        for kind in sorted(path for path in (pictures / split).iterdir() if path.is_dir()):
            (few["classification"] / split / kind.name).mkdir(parents=True)
            for file in sorted(kind.iterdir())[:count]:
                shutil.copy(file, few["classification"] / split / kind.name)
    for split, source, count in (("train", "train.txt", 5), ("val", "test.txt", 2)):
        _cut(rooms / source, rooms / f"few_{split}.txt", count)
    for split, count in (("train", 8), ("val", 3)):
        _cut(streets / f"kitti_infos_{split}.jsonl", streets / f"few_{split}.jsonl", count)
    return digests, few


def _cut(path, to, count):
    to.write_text("".join(path.read_text("utf-8").splitlines(keepends=True)[:count]), "utf-8")


def demo_cases(feedline_ok, digests, few, folder):
    """A function for each record of the demo data: what is drawn, and what `feedline show` makes of it."""

    def show(recipe, *words):
        data = few[recipe]
        words = ["show", "--recipe", recipe, "--data", data, "--out", folder / "batch.png", *words]
        if recipe == "scene_completion":
            words += ["--train-list", data / "few_train.txt", "--val-list", data / "few_val.txt"]
        if recipe == "lidar":
            words += ["--set", 'data.train_infos=["few_train.pkl"]', "--set", 'data.val_infos=["few_val.pkl"]']
        feedline_ok(*words)
        return [digest(np.asarray(Image.open(folder / "batch.png")))]

    found = {f"demo {recipe}": lambda recipe=recipe: digests[recipe] for recipe in digests}
    later = ("--epoch", 1, "--step", 1)
    for preset in ("light", "upstream", "none"):
        words = ("--augment", preset, "--batch-size", 6, "--seed", 5)
        found[f"show classification, {preset}"] = lambda words=words: show("classification", *words)
        found[f"show classification, {preset}, later"] = lambda words=words: show("classification", *words, *later)
    sizes = ("--batch-size", 6, "--input-px", 24, "--set", "data.decode=region", "--set", "augment.mean=[0.5, 0.5, 0.5]")
    found["show classification, sizes"] = lambda: show("classification", *sizes)
    found["show classification, val"] = lambda: show("classification", "--split", "val")
    for recipe in ("scene_completion", "lidar"):
        found[f"show {recipe}"] = lambda recipe=recipe: show(recipe, "--batch-size", 2, *later)
        found[f"show {recipe}, val"] = lambda recipe=recipe: show(recipe, "--batch-size", 2, "--split", "val")
    return found


def demo_sources(few):
    """A function for each kind of loader over the demo data of scene_completion and lidar."""
    rooms, streets = few["scene_completion"], few["lidar"]
    settings = {"dataset_path": str(rooms), "train_source": str(rooms / "few_train.txt"), "eval_source": str(rooms / "few_val.txt")}
    made = {"scenes of the demo": _scenes(settings, 6)}

    def clouds(config, **options):
        def make(rank=0, ranks=1, batch_size=2):
            with _launched(rank, ranks):
                return lidar.build_dataloader(
                    config, ["Car", "Pedestrian", "Cyclist"], batch_size, ranks > 1, workers=2, seed=3, **options
                )[1]

        return make

    for name, steps in AUGMENTATIONS.items():
        made[f"lidar {name}"] = clouds(lidar_config(streets, steps))
    augmented = lidar_config(streets, AUGMENTATIONS["all"])
    merged = {"merge_all_iters_to_one_epoch": True, "total_epochs": 3}
    made["lidar evaluation"] = clouds(augmented, training=False)
    made["lidar points alone"] = clouds(lidar_config(streets, [FLIP, SCALING], [MASK, SAMPLES, SHUFFLE]))
    made["lidar pictures"] = clouds(lidar_config(streets, [], GET_ITEM_LIST=["points", "images", "gt_boxes2d"]))
    made["lidar merged"] = clouds(augmented, **merged)
    made["lidar merged, pass after pass"] = clouds(augmented, **merged, merge_order="passes")
    hook = {"DisableAugmentationHook": {"NUM_LAST_EPOCHS": 1, "DISABLE_AUG_LIST": ["random_world_rotation"]}}
    made["lidar late"] = clouds(augmented, hook=hook, total_epochs=2)
    return made


@contextmanager
def _launched(rank, ranks):
    """As a launcher has it."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("RANK", str(rank))
        patch.setenv("WORLD_SIZE", str(ranks))
        yield


# Batches and states of any of them.

# The steps do not matter to a state, and from some sources no fifth sample comes.
WITHOUT_STATE = re.compile("pictures: (?!training$)|lidar (?!all|merged|evaluation)|.*several labels|.*of a Mac|.*evaluation$")


def has_state(name):
    """Whether a state of such a loader is recorded."""
    return not WITHOUT_STATE.match(name)


def record(batch):
    """What a batch is, with digests of its fields."""
    names = batch.keys() if isinstance(batch, dict) else batch.names
    fields = {name: batch[name] for name in names if name != "batch_size"}
    place = {"place": f"epoch {batch.epoch}, step {batch.step}", "indices": batch.indices, "valid": batch.valid}
    return place | {name: digest(value) for name, value in sorted(fields.items())}


@contextmanager
def opened(make, *place):
    """A loader, without its warnings: of what is left out of archives, and of a Dataset that draws."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        with make(*place) as loader:
            yield loader


def first_batches(make):
    """Two of epoch 0 and one of epoch 1."""
    with opened(make) as loader:
        zero = [record(batch) for batch in islice(loader, 2)]
        loader.set_epoch(1)
        return zero + [record(batch) for batch in islice(loader, 1)]


def state_of(make):
    """A state after two batches of epoch 1 on two ranks, of which each says the same."""
    states = []
    for rank in range(2):
        with opened(make, rank, 2, 1) as loader:
            loader.set_epoch(1)
            list(islice(loader, 2))
            states.append(loader.state_dict())
    assert states[0] | {"bad_samples": 0} == states[1] | {"bad_samples": 0}
    return states[0]


def goes_on(make, state):
    """What ranks get after a state to the end of its epoch, and first in the next one."""
    found = {}
    for ranks in (1, 2, 3):
        for rank in range(ranks):
            with opened(make, rank, ranks, 1 if ranks > 1 else 2) as loader:
                loader.load_state_dict(state)
                rest = [record(batch) for batch in loader]
                following = [record(batch) for batch in islice(loader, 1)]
            indices = [batch["indices"] for batch in rest]
            found[f"rank {rank} of {ranks}"] = [str(indices), f"sha256 {short(json.dumps(rest + following).encode())}"]
    return found


def state_record(make):
    """A state and what follows it."""
    state = state_of(make)
    return {"state": state, "goes on": goes_on(make, state)}
