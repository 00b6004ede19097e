"""Fixtures of the tests: drawn pictures, scenes in TorchSSC's layout, and other processes."""

import subprocess
import sys
from dataclasses import dataclass

import numpy as np
import pytest
from forked import Forks
from PIL import Image, ImageDraw
from scene_files import write_scenes


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
def forks(tmp_path_factory):
    """Runs programs in forks of a process that has imported torch."""
    made = Forks(tmp_path_factory.mktemp("forks"))
    yield made
    made.close()


@pytest.fixture(scope="session")
def kitti(tmp_path_factory):
    """Made-up clouds in KITTI's layout: 6 frames to train on, 3 to validate on, 2 without labels."""
    from lidar_reference import write_kitti

    return write_kitti(tmp_path_factory.mktemp("kitti"), train=6, val=3, test=2)
