"""The package itself: what it imports, its types, its command line, and its wheel in clean environments."""

import ast
import importlib.metadata
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import feedline
import feedline._native
import pytest

PACKAGE = Path(feedline.__file__).parent
SOURCE = Path(__file__).parent.parent


def test_importing_it_loads_numpy_and_nothing_else(python):
    code = """
import sys
before = set(sys.modules)
import numpy
numpy_too = set(sys.modules)
import feedline
new = {name.split(".")[0] for name in set(sys.modules) - numpy_too}
print(sorted(new - set(sys.stdlib_module_names)))
"""
    assert python(code).stdout == "['feedline']\n"


def test_it_works_without_torch_and_says_what_needs_it(python):
    code = """
import sys, importlib.abc

class NoTorch(importlib.abc.MetaPathFinder):
    def find_spec(self, name, path, target=None):
        if name.split(".")[0] == "torch":
            raise ModuleNotFoundError("No module named 'torch'", name="torch")

sys.meta_path.insert(0, NoTorch())
import numpy as np, feedline
(value,) = next(iter(feedline.DataLoader(np.arange(6), batch_size=3, pin_memory=True)))
print(type(value).__name__, value)
import feedline.recipes.classification
try:
    import feedline.torch
except ImportError as error:
    print(error)
"""
    ended = python(code)
    assert ended.stdout.splitlines()[0] == "ndarray [0 1 2]", ended.stderr
    assert "pip install torch" in ended.stdout.splitlines()[1]
    assert "pin_memory=True has no effect" in ended.stderr


def test_every_public_name_is_documented():
    import feedline.recipes.classification
    import feedline.torch

    for module in (feedline, feedline.torch):
        for name in module.__all__:
            assert name == "__version__" or getattr(module, name).__doc__, name
    assert feedline.__version__ == importlib.metadata.version("feedline")


def test_the_stubs_name_what_is_there():
    stubs = ast.parse((PACKAGE / "_native.pyi").read_text("utf-8"))

    def names(body):
        for node in body:
            if isinstance(node, (ast.FunctionDef, ast.ClassDef)):
                yield node.name
            elif isinstance(node, ast.AnnAssign):
                yield node.target.id

    def public(thing):
        return {name for name in vars(thing) if not name.startswith("_")}

    special = {"__version__", "__init__", "__len__", "__dlpack__", "__dlpack_device__", "__array_interface__"}
    assert set(names(stubs.body)) - special == public(feedline._native)
    for node in stubs.body:
        if isinstance(node, ast.ClassDef):
            assert set(names(node.body)) - special == public(getattr(feedline._native, node.name)), node.name


PROGRAM = """
import torch
import feedline
from feedline.torch import DistributedSampler

source = feedline.images("data").random_resized_crop(224).hflip().normalize()
loader = feedline.DataLoader(source, batch_size=8, shuffle=True)
epoch: int = loader.epoch
for batch in loader:
    valid: int = batch.valid
state: dict[str, object] = loader.state_dict()
sampler = DistributedSampler(source, num_replicas=2, rank=0)
plain = torch.utils.data.DataLoader(torch.utils.data.TensorDataset(torch.ones(2)), sampler=sampler)
try:
    pass
except feedline.SampleError as error:
    index: int = error.index
WRONG
"""


WRONG = {
    "right": ("", None),
    "argument": ('feedline.DataLoader(source, tail="wrap")', "arg-type"),
    "attribute": ("loader.batchez", "attr-defined"),
}


@pytest.fixture(scope="module")
def mypy(tmp_path_factory):
    """Runs mypy. The first run reads the types of torch and NumPy, which takes most of the time, and the others find them."""
    pytest.importorskip("mypy")
    cache = tmp_path_factory.mktemp("mypy")

    def run(*arguments, cwd):
        command = [sys.executable, "-m", "mypy", "--cache-dir", cache, *arguments]
        return subprocess.run(command, cwd=cwd, capture_output=True, text=True, timeout=300)

    return run


@pytest.mark.parametrize("name", WRONG)
def test_types_are_strict_and_reach_the_user(tmp_path, mypy, name):
    wrong, said = WRONG[name]
    (tmp_path / "program.py").write_text(PROGRAM.replace("WRONG", wrong), "utf-8")
    done = mypy("--strict", "program.py", cwd=tmp_path)
    assert (done.returncode == 0) == (said is None) and (said or "Success") in done.stdout, done.stdout


ARGUMENTS = """
from typing import Any

import feedline
import torch
from feedline.torch import DataLoader
from torch.utils.data import Dataset, TensorDataset

class Squares(Dataset[int]):
    def __len__(self) -> int:
        return 9

    def __getitem__(self, index: int) -> int:
        return index * index

def total(batch: list[int]) -> int:
    return sum(batch)

def begin(worker: int) -> None: ...

data, source = Squares(), feedline.arrays([1, 2])
loader: DataLoader[int] = DataLoader(data, 4, True, collate_fn=total, worker_init_fn=begin, num_workers=2, seeds="worker")
whole: torch.utils.data.DataLoader[int] = DataLoader(data, multiprocessing_context="spawn", generator=torch.Generator())
ragged = DataLoader(data, collate="pad")
kept: Dataset[int] = ragged.dataset
for batch in loader:
    batch.anything  # what the collate function gives is not known
state: dict[str, Any] = loader.state_dict()
loader.load_state_dict(state)
steps: int = len(loader)
DataLoader(data, shufle=True)  # call-arg
DataLoader(data, batch_size="8")  # arg-type
DataLoader(data, shuffle="yes")  # arg-type
DataLoader(data, num_workers=None)  # arg-type
DataLoader(data, seeds="batch")  # arg-type
DataLoader(data, collate="stack")  # arg-type
DataLoader(data, collate_fn=begin)  # arg-type
DataLoader(data, worker_init_fn=total)  # arg-type
DataLoader(data, generator=3)  # arg-type
DataLoader(data, multiprocessing_context=3)  # arg-type
DataLoader(data, 4, True, None, None, 0, total, False, False, 0, begin, None, None, 2)  # call-arg
DataLoader()  # call-arg
other: DataLoader[str] = DataLoader(data)  # arg-type
loader.set_epoch("1")  # arg-type
loader.batchez  # attr-defined
feedline.DataLoader(source, persistent_workers=True, prefetch_factor=2, collate_fn=None)
feedline.DataLoader(source, shufle=True)  # call-arg
feedline.DataLoader(source, batch_size="8")  # arg-type
feedline.DataLoader(source, num_workers="all")  # arg-type
feedline.DataLoader(source, output="jax")  # arg-type
feedline.DataLoader(source, generator=torch.Generator())  # arg-type
feedline.DataLoader(source, persistent_workers="yes")  # arg-type
"""


def test_a_wrong_argument_is_an_error_of_types(tmp_path, mypy):
    (tmp_path / "arguments.py").write_text(ARGUMENTS, "utf-8")
    done = mypy("--strict", "arguments.py", cwd=tmp_path)
    lines = enumerate(ARGUMENTS.splitlines(), 1)
    expected = [f"{number} {line.split('#')[1].strip()}" for number, line in lines if re.search(r"# [a-z]+(-[a-z]+)?$", line)]
    said = re.findall(r"^arguments.py:(\d+): error: .*\[([a-z-]+)\]$", done.stdout, re.MULTILINE)
    assert [" ".join(one) for one in said] == expected, done.stdout


def test_the_package_itself_passes_strict_mypy(mypy):
    # Its source, as pyproject.toml says: mypy keeps silent on what is installed.
    done = mypy(cwd=SOURCE)
    assert done.returncode == 0, done.stdout


def module(*arguments, cwd, timeout=120):
    command = [sys.executable, "-m", "feedline", *map(str, arguments)]
    return subprocess.run(command, cwd=cwd, capture_output=True, text=True, timeout=timeout)


def test_the_command_line_has_the_data_commands(pictures, tmp_path):
    data = tmp_path / "data"
    for split in ("train", "test"):
        shutil.copytree(pictures, data / split)
    plan = module("plan", "--len", 10, "--num-replicas", 3, cwd=tmp_path)
    assert plan.returncode == 0 and "4 a rank, 2 positions padded" in plan.stdout
    indices = module("plan", "--len", 10, "--num-replicas", 3, "--rank", 1, "--format", "indices", cwd=tmp_path)
    from torch.utils.data import DistributedSampler

    assert [int(line) for line in indices.stdout.split()] == list(DistributedSampler(range(10), 3, 1))
    show = module("show", "--data", data, "--batch-size", 4, "--out", tmp_path / "batch.png", cwd=tmp_path)
    assert show.returncode == 0 and (tmp_path / "batch.png").read_bytes().startswith(b"\x89PNG"), show.stderr
    bench = module("bench", "--data", data, "--epochs", 1, "--json", cwd=tmp_path)
    assert bench.returncode == 0 and "images_per_second" in bench.stdout, bench.stderr
    verify = module("verify", tmp_path / "none", cwd=tmp_path)
    assert verify.returncode == 2 and "none" in verify.stderr
    wrong = module("plan", "--len", "ten", cwd=tmp_path)
    assert wrong.returncode == 2 and "invalid value 'ten' for '--len <N>'" in wrong.stderr
    train = module("train", cwd=tmp_path)
    assert train.returncode == 2 and "torch trains" in train.stderr


def test_ctrl_c_ends_a_command(pictures, tmp_path):
    shutil.copytree(pictures, tmp_path / "data" / "train")
    shutil.copytree(pictures, tmp_path / "data" / "test")
    command = [sys.executable, "-m", "feedline", "bench", "--data", "data", "--epochs", "1000000"]
    process = subprocess.Popen(command, cwd=tmp_path, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    time.sleep(2)
    assert process.poll() is None
    process.send_signal(signal.SIGINT)
    process.communicate(timeout=20)
    assert process.returncode in (130, -2)


@pytest.mark.parametrize("installer", ["pip", "uv"])
def test_the_wheel_is_small_and_works_in_a_clean_environment(tmp_path, installer):
    wheel = os.environ.get("FEEDLINE_WHEEL")
    if wheel is None:
        pytest.skip("FEEDLINE_WHEEL does not name a wheel")
    assert os.path.getsize(wheel) < 15 << 20
    place = tmp_path / "venv"
    if installer == "pip":
        # An own pip would be as new as this one, and takes seconds to install.
        subprocess.run([sys.executable, "-m", "venv", "--without-pip", place], check=True, timeout=120)
        install = [sys.executable, "-m", "pip", "--python", place / "bin/python", "install", "--quiet", wheel]
    else:
        pytest.importorskip("uv")
        subprocess.run([sys.executable, "-m", "uv", "venv", "--quiet", place], check=True, timeout=120)
        install = [sys.executable, "-m", "uv", "pip", "install", "--quiet", "--python", place / "bin/python", wheel]
    subprocess.run(install, check=True, timeout=300)
    code = """
import numpy as np, feedline, importlib.util
assert importlib.util.find_spec("torch") is None
loader = feedline.DataLoader(feedline.arrays(np.arange(10)), batch_size=4, shuffle=True)
print([index for batch in loader for index in batch[0].tolist()])
"""
    done = subprocess.run([place / "bin/python", "-c", code], capture_output=True, text=True, timeout=60, cwd=tmp_path)
    from torch.utils.data import DistributedSampler

    assert done.stdout == f"{list(DistributedSampler(range(10), 1, 0))}\n", done.stderr
