"""Fixtures of the tests: drawn pictures, scenes in TorchSSC's layout, and new processes."""

import subprocess
import sys
from dataclasses import dataclass

import numpy as np
import pytest
from PIL import Image, ImageDraw


@pytest.fixture(scope="session")
def pictures(tmp_path_factory):
    """A folder with 20 pictures of each of three classes, 36 to 59 pixels a side."""
    folder = tmp_path_factory.mktemp("pictures")
    rng = np.random.default_rng(0)
    for kind in ("disc", "square", "stripes"):
        (folder / kind).mkdir()
        for number in range(20):
            height, width = (int(side) for side in rng.integers(36, 60, 2))
            picture = Image.fromarray(rng.integers(0, 70, (height, width, 3), dtype=np.uint8))
            draw = ImageDraw.Draw(picture)
            colour = tuple(int(c) for c in rng.integers(150, 256, 3))
            if kind == "disc":
                draw.ellipse([8, 8, 28, 28], fill=colour)
            elif kind == "square":
                draw.rectangle([8, 8, 28, 28], fill=colour)
            else:
                for row in range(0, height, 6):
                    draw.line([0, row, width, row], fill=colour, width=2)
            picture.save(folder / kind / f"{number:03}.jpg", quality=90)
    return folder


def write_scenes(folder, train, val=0, image_px=(24, 32), grid=(6, 4, 6), seed=0):
    """Scenes of noise in TorchSSC's layout: `train` ids in train.txt, `val` more in test.txt."""
    rng = np.random.default_rng(seed)
    for kind in ("RGB", "HHA", "Label", "TSDF", "Mapping", "sketch3D"):
        (folder / kind).mkdir(parents=True, exist_ok=True)
    ids = [f"{number:04}" for number in range(1, 1 + 3 * (train + val), 3)]
    voxels, pixels = int(np.prod(grid)), int(np.prod(image_px))
    for number, name in enumerate(ids):
        for path in (f"RGB/NYU{name}_colors.png", f"HHA/{name}.png"):
            Image.fromarray(rng.integers(0, 256, (*image_px, 3), dtype=np.uint8)).save(folder / path)
        label = rng.integers(0, 12, voxels)
        label[rng.random(voxels) < 0.1] = 255
        # Any element type that a user may have saved.
        np.savez_compressed(folder / f"Label/{name}.npz", label.astype([np.uint8, np.int64, np.float32][number % 3]))
        weight = (rng.random(voxels) < 0.7).astype(np.float32)
        save = np.savez if number % 2 else np.savez_compressed
        save(folder / f"TSDF/{name}.npz", rng.uniform(-1, 1, voxels).astype(np.float32), weight)
        shown = rng.random(voxels) < 0.7
        save(folder / f"Mapping/{name}.npz", np.where(shown, rng.integers(0, pixels, voxels), pixels))
        np.save(folder / f"sketch3D/{name}.npy", rng.integers(0, 2, grid, dtype=np.uint8))
    (folder / "train.txt").write_text("".join(f"{name}\tmore\n" for name in ids[:train]), "utf-8")
    (folder / "test.txt").write_text("".join(f"{name}\n" for name in ids[train:]), "utf-8")
    return folder


@pytest.fixture(scope="session")
def scenes(tmp_path_factory):
    """7 small scenes for training and 3 others."""
    return write_scenes(tmp_path_factory.mktemp("scenes"), train=7, val=3)


@dataclass
class Ended:
    """A process that ended."""

    code: int
    stdout: str
    stderr: str


@pytest.fixture
def python(tmp_path):
    """Runs code in a fresh interpreter; one that does not end within `timeout` seconds fails the test."""

    def run(code, *args, timeout=60, env=None):
        command = [sys.executable, "-c", code, *(str(arg) for arg in args)]
        process = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=timeout, env=env)
        return Ended(process.returncode, process.stdout, process.stderr)

    return run


@pytest.fixture(scope="session")
def kitti(tmp_path_factory):
    """Made-up clouds in KITTI's layout: 6 frames to train on, 3 to validate on, 2 without labels."""
    from lidar_reference import write_kitti

    return write_kitti(tmp_path_factory.mktemp("kitti"), train=6, val=3, test=2)
