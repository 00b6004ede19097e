"""Makes testdata/seeds: small files of the formats that no other folder here has, for the fuzzer to start from.

    python3 -m venv venv && venv/bin/pip install pillow numpy
    venv/bin/python testdata/make_seeds.py [FEEDLINE]

FEEDLINE is the program `feedline`; what a run leaves behind is made anew only if it is named.
"""

import io
import shutil
import struct
import json
import subprocess
import sys
import tarfile
import tempfile
from pathlib import Path

import numpy as np
from PIL import Image

HERE = Path(__file__).resolve().parent / "seeds"

TEXTS = {
    # KITTI's own digits.
    "label.txt": """\
Car 0.00 0 -1.58 587.01 173.33 614.12 200.12 1.65 1.67 3.64 -0.65 1.71 46.70 -1.59
Pedestrian 0.00 1 0.21 423.17 173.67 433.17 224.03 1.60 0.38 0.30 -5.87 1.63 23.11 -0.03 0.9
DontCare -1 -1 -10 503.89 169.71 590.61 190.13 -1 -1 -1 -1000 -1000 -1000 -10
""",
    "calib.txt": """\
P0: 7.215377e+02 0.0 6.095593e+02 0.0 0.0 7.215377e+02 1.728540e+02 0.0 0.0 0.0 1.0 0.0
P1: 7.215377e+02 0.0 6.095593e+02 -3.875744e+02 0.0 7.215377e+02 1.728540e+02 0.0 0.0 0.0 1.0 0.0
P2: 7.215377e+02 0.0 6.095593e+02 4.485728e+01 0.0 7.215377e+02 1.728540e+02 2.163791e-01 0.0 0.0 1.0 2.745884e-03
P3: 7.215377e+02 0.0 6.095593e+02 -3.395242e+02 0.0 7.215377e+02 1.728540e+02 2.199936e+00 0.0 0.0 1.0 2.729905e-03
R0_rect: 9.999239e-01 9.837760e-03 -7.445048e-03 -9.869795e-03 9.999421e-01 -4.278459e-03 7.402527e-03 4.351614e-03 9.999631e-01
Tr_velo_to_cam: 7.533745e-03 -9.999714e-01 -6.166020e-04 -4.069766e-03 1.480249e-02 7.280733e-04 -9.998902e-01 -7.631618e-02 9.998621e-01 7.523790e-03 1.480755e-02 -2.717806e-01
Tr_imu_to_velo: 9.999976e-01 7.553071e-04 -2.035826e-03 -8.086759e-01 -7.854027e-04 9.998898e-01 -1.482298e-02 3.195559e-01 2.024406e-03 1.482454e-02 9.998881e-01 -7.997231e-01
""",
    "plane.txt": "# Matrix\nWidth 4\nHeight 1\n-7.051e-03 -9.997e-01 -2.091e-02 1.690e+00\n",
    "custom.txt": "1.5 1.46 0.1 5.12 1.85 4.13 1.56 Vehicle\n5.54 0.57 0.41 1.08 0.74 1.95 1.57 Pedestrian\n",
    "sets.txt": "000000\n",
    "list.txt": "0;a/1.jpg\n0;a/2 3.jpg\n1;b/1.png\n",
    "classes.txt": "cat\ndog\n猫 头鹰\n",
    "scenes.tsv": "0003\n0004\tanything\n1449\n",
    "pairs.scenes.tsv": "RGB/2.jpg\tLabel/2.png\nRGB/3.jpg\tLabel/3.png\n",
    "listing.txt": "feedline listing 3\t2\nheld://\n5\tabc\t1700000000000000000\ta/1.jpg\n0\t\t0\tb\nend\n",
    "kitti.yaml": """\
CLASS_NAMES: ['Car', 'Pedestrian', 'Cyclist']
DATA_CONFIG:
    DATASET: 'KittiDataset'
    DATA_PATH: '../data/kitti'
    POINT_CLOUD_RANGE: [0, -39.68, -3, 69.12, 39.68, 1]
    DATA_SPLIT: {'train': train, 'test': val}
    INFO_PATH: {'train': [kitti_infos_train.pkl], 'test': [kitti_infos_val.pkl]}
    GET_ITEM_LIST: ["points"]
    FOV_POINTS_ONLY: True
    DATA_AUGMENTOR:
        DISABLE_AUG_LIST: ['placeholder']
        AUG_CONFIG_LIST:
            - NAME: gt_sampling
              USE_ROAD_PLANE: True
              DB_INFO_PATH: [kitti_dbinfos_train.pkl]
              PREPARE: {filter_by_min_points: ['Car:5', 'Pedestrian:5'], filter_by_difficulty: [-1]}
              SAMPLE_GROUPS: ['Car:15', 'Pedestrian:15']
              NUM_POINT_FEATURES: 4
              DATABASE_WITH_FAKELIDAR: False
              REMOVE_EXTRA_WIDTH: [0.0, 0.0, 0.0]
              LIMIT_WHOLE_SCENE: False
            - NAME: random_world_flip
              ALONG_AXIS_LIST: ['x']
            - NAME: random_world_rotation
              WORLD_ROT_ANGLE: [-0.78539816, 0.78539816]
            - NAME: random_world_scaling
              WORLD_SCALE_RANGE: [0.95, 1.05]
    POINT_FEATURE_ENCODING: {
        encoding_type: absolute_coordinates_encoding,
        used_feature_list: ['x', 'y', 'z', 'intensity'],
        src_feature_list: ['x', 'y', 'z', 'intensity'],
    }
    DATA_PROCESSOR:
        - NAME: mask_points_and_boxes_outside_range
          REMOVE_OUTSIDE_BOXES: True
        - NAME: shuffle_points
          SHUFFLE_ENABLED: {'train': True, 'test': False}
        - NAME: transform_points_to_voxels
          VOXEL_SIZE: [0.16, 0.16, 4]
          MAX_POINTS_PER_VOXEL: 32
          MAX_NUMBER_OF_VOXELS: {'train': 16000, 'test': 40000}
""",
}


def arrays():
    rng = np.random.default_rng(7)
    numbers = {
        "f4": rng.random((6, 4), np.float32),
        "i8": np.arange(12).reshape(3, 4),
        "u1": np.arange(24, dtype=np.uint8).reshape(2, 3, 4),
        "f8_fortran": np.asfortranarray(rng.random((3, 5))),
        "bool_scalar": np.array(True),
        "big_endian": np.arange(5, dtype=">i4"),
    }
    for name, array in numbers.items():
        np.save(HERE / f"{name}.npy", array)
    np.savez(HERE / "stored.npz", a=numbers["f4"], b=numbers["u1"])
    np.savez_compressed(HERE / "deflated.npz", numbers["i8"], a=np.zeros((64, 64), np.float32))
    points = rng.uniform([0, -10, -2, 0], [40, 10, 1, 1], (20, 4)).astype(np.float32)
    points.tofile(HERE / "points.bin")


def pictures():
    rng = np.random.default_rng(8)
    noise = rng.integers(0, 256, (35, 50, 3), np.uint8)
    Image.fromarray(noise).save(HERE / "noise_q100.jpg", quality=100, subsampling=0)
    Image.fromarray(noise).save(HERE / "noise_q100_420.jpg", quality=100, subsampling=2)
    Image.fromarray(noise).save(HERE / "noise_q5.jpg", quality=5, subsampling=1)
    Image.fromarray(noise).save(HERE / "noise_progressive.jpg", quality=95, progressive=True)
    smooth = np.add.outer(np.arange(67) * 3, np.arange(90) * 2).astype(np.uint8)
    smooth = np.stack([smooth, smooth[::-1], smooth[:, ::-1]], axis=-1)
    Image.fromarray(smooth).save(HERE / "smooth_422.jpg", quality=80, subsampling=1)
    Image.fromarray(smooth).save(HERE / "smooth_restarts.jpg", quality=90, restart_marker_blocks=3)
    Image.fromarray(np.full((3, 4, 3), 9, np.uint8)).save(HERE / "image.png")


def tars():
    for name, format in (("pax.tar", tarfile.PAX_FORMAT), ("gnu.tar", tarfile.GNU_FORMAT)):
        with tarfile.open(HERE / name, "w", format=format) as out:
            for member in ("train/cat/1.jpg", "train/" + "long" * 30 + "/2.jpg", "train/猫/3.jpg"):
                info = tarfile.TarInfo(member)
                info.size = 5
                out.addfile(info, io.BytesIO(b"abcde"))


def tensors(name, tensors):
    head, data = {}, b""
    for key, array in tensors.items():
        head[key] = {"dtype": "F32", "shape": list(array.shape), "data_offsets": [len(data), len(data) + array.nbytes]}
        data += array.tobytes()
    text = json.dumps(head).encode()
    text += b" " * (-len(text) % 8)
    (HERE / name).write_bytes(struct.pack("<Q", len(text)) + text + data)


def run(feedline):
    """What a run of two epochs leaves behind, and the index of a tar."""
    with tempfile.TemporaryDirectory() as folder:
        folder = Path(folder)

        def call(*words):
            subprocess.run([feedline, *map(str, words)], check=True, cwd=folder, capture_output=True)

        names = ["ycbcr420", "ycbcr422", "ycbcr444", "grey", "rgb", "ycbcr420_coarse"]
        pictures = [HERE.parent / f"images/jpeg/{name}.jpg" for name in names]
        for number, picture in enumerate(2 * pictures):
            target = folder / "data" / ("train" if number < 8 else "test") / "ab"[number % 2] / f"{number}.jpg"
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(picture, target)
        settings = ["model.input_px=16", "train.batch_size=4", "train.checkpoint_steps=1", "data.num_workers=0"]
        words = [word for setting in settings for word in ("--set", setting)]
        call("train", "--data", folder / "data", "--out", folder / "run", "--epochs", 1, *words)
        shutil.copy(folder / "run/checkpoints/last/checkpoint.toml", HERE / "checkpoint.toml")
        for name in ("ledger.jsonl", "samples.txt"):
            shutil.copy(folder / "run" / name, HERE / name)
        tar = Path(__file__).resolve().parent / "shards/webdataset/shard-000000.tar"
        (folder / "train").mkdir()
        shutil.copy(tar, folder / "train/x.tar")
        call("index", folder)
        shutil.copy(folder / "train/x.tar.index", HERE / "x.tar.index")
        call("demo-data", "lidar", "--out", folder / "clouds")
        for kind in ("infos", "dbinfos"):
            lines = (folder / f"clouds/kitti_{kind}_train.jsonl").read_text().splitlines()
            (HERE / f"{kind}.infos.jsonl").write_text("\n".join(lines[:2]) + "\n")


def main():
    HERE.mkdir(exist_ok=True)
    for name, text in TEXTS.items():
        (HERE / name).write_text(text)
    arrays()
    pictures()
    tars()
    small = np.arange(6, dtype=np.float32).reshape(2, 3)
    tensors("model.safetensors", {"layer.weight": small, "layer.bias": small[:, 0].copy()})
    tensors("optimizer.safetensors", {"layer.weight.momentum": small})
    if len(sys.argv) > 1:
        run(Path(sys.argv[1]).resolve())


if __name__ == "__main__":
    main()
