"""What the tests share: the binary under test, drawn demo data, and one small training run."""

import os
import subprocess
from dataclasses import dataclass
from pathlib import Path

import pytest
from shapes import draw_shapes

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


@pytest.fixture(scope="session")
def demo_data(feedline, tmp_path_factory):
    """Gives the folder of a recipe's demo data, which all processes of the tests share: write into a copy only."""
    folder = tmp_path_factory.getbasetemp()
    if "PYTEST_XDIST_WORKER" in os.environ:
        folder = folder.parent

    def drawn(recipe):
        # The second call finds the folder complete.
        feedline.ok("demo-data", recipe, "--out", folder / "demo-data" / recipe)
        return folder / "demo-data" / recipe

    return drawn


@pytest.fixture(scope="session")
def demo_run(feedline, tmp_path_factory):
    """The folder of a run of 3 epochs on 90 + 30 drawn pictures."""
    folder = tmp_path_factory.mktemp("demo")
    data = draw_shapes(folder / "data", train=30, val=10)
    feedline.ok("train", "--data", data, "--epochs", 3, "--batch-size", 16, "--input-px", 32, "--out", folder / "run")
    return folder / "run"
