"""What the tests share: the binary under test, and one small training run."""

import os
import subprocess
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageDraw

REPOSITORY = Path(__file__).resolve().parent.parent


@dataclass
class Ended:
    """A process that ended."""

    code: int
    stdout: str
    stderr: str


class Feedline:
    """Runs the binary; every call ends within `timeout` seconds or fails."""

    def __init__(self, binary, folder):
        self.binary, self.folder = binary, folder

    def __call__(self, *args, timeout=120):
        command = [self.binary, *(str(arg) for arg in args)]
        process = subprocess.run(
            command, cwd=self.folder, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=timeout
        )
        return Ended(process.returncode, process.stdout, process.stderr)

    def ok(self, *args, timeout=120):
        """As a call, but an exit code other than 0 fails the test and shows what was said."""
        ended = self(*args, timeout=timeout)
        assert ended.code == 0, f"feedline {' '.join(map(str, args))} ended with {ended.code}:\n{ended.stderr}"
        return ended


@pytest.fixture(scope="session")
def feedline(tmp_path_factory):
    binary = Path(os.environ.get("FEEDLINE_BIN", REPOSITORY / "target/release/feedline")).resolve()
    if not binary.is_file():
        pytest.exit(f"{binary} is not there: cargo build --release, or set FEEDLINE_BIN", returncode=2)
    # A folder of its own: what a command writes where it stands does not lie in the repository.
    return Feedline(binary, tmp_path_factory.mktemp("cwd"))


def draw_shapes(folder, train, val, seed=0):
    """DIR/{train,test}/{disc,square,stripes}/*.jpg, `train` and `val` pictures of each class."""
    rng = np.random.default_rng(seed)
    for split, count in [("train", train), ("test", val)]:
        for kind in ("disc", "square", "stripes"):
            (folder / split / kind).mkdir(parents=True)
            for number in range(count):
                side = int(rng.integers(36, 60))
                picture = Image.fromarray(rng.integers(0, 70, (side, side, 3), dtype=np.uint8))
                draw = ImageDraw.Draw(picture)
                colour = tuple(int(c) for c in rng.integers(150, 256, 3))
                x, y = (int(v) for v in rng.integers(4, 12, 2))
                box = [x, y, x + 20, y + 20]
                if kind == "disc":
                    draw.ellipse(box, fill=colour)
                elif kind == "square":
                    draw.rectangle(box, fill=colour)
                else:
                    for row in range(0, side, 6):
                        draw.line([0, row, side, row], fill=colour, width=2)
                picture.save(folder / split / kind / f"{number:03}.jpg", quality=90)
    return folder


@pytest.fixture(scope="session")
def demo_run(feedline, tmp_path_factory):
    """The folder of a run of 3 epochs on 90 + 30 drawn pictures."""
    folder = tmp_path_factory.mktemp("demo")
    data = draw_shapes(folder / "data", train=30, val=10)
    feedline.ok("train", "--data", data, "--epochs", 3, "--batch-size", 16, "--input-px", 32, "--out", folder / "run")
    return folder / "run"
