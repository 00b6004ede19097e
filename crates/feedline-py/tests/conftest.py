"""What the tests share: drawn pictures, and fresh processes."""

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
