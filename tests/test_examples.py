"""The examples of docs/rust.md, run as a reader runs them: each ends well and shows what it promises. A copy of the recipe too."""

import json
import os
import re
import shutil
import subprocess
import textwrap
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).resolve().parent.parent
EXAMPLES = {
    "1_plan": ["pad    4 5 0 2  |  1 3 8 4*  |  7 9 6 1*", "after,  rank 0: [0, 6]", "index 57136044 after"],
    "2_read": ["2000 files", "label 4: star            333 files", "there is no folder `train` and no class folder in it"],
    "3_decode": ["(101, 100)", "truncated JPEG", "the file has 0 bytes", "more than the 1000 allowed"],
    "4_augment": ["4_augment.png", "random_resized_crop, horizontal_flip, autoaugment_imagenet"],
    "5_collate": ["pad [3, 4, 2], true counts [2, 4, 1]", "offsets [0, 2, 6, 7]", "cannot stack arrays"],
    "6_deliver": ["epoch 0 step 2", "position: 12", "epoch 0 step 4"],
    "7_train": ["stopped after 30 steps", "epoch 1: train loss", "best val accuracy", "rings are taken for rings"],
}


@pytest.fixture(scope="session")
def folder(tmp_path_factory, demo_data):
    """Where the examples run, with the demo data set that they would draw there."""
    folder = tmp_path_factory.mktemp("examples")
    shutil.copytree(demo_data("classification"), folder / "demo-data/classification")
    return folder


@pytest.mark.parametrize("name", EXAMPLES)
def test_an_example_shows_its_stage(feedline, folder, name):
    binary = feedline.binary.parent / "examples" / name
    if not binary.is_file():
        pytest.skip(f"{binary} is not built: cargo build --release -p feedline-recipes --examples")
    # What an example writes into the system's temporary folder goes away with the others' files.
    environment = os.environ | {"TMPDIR": str(folder)}
    command = [binary, "1"] if name == "7_train" else [binary]
    ended = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, timeout=120)
    assert ended.returncode == 0, ended.stderr
    for part in EXAMPLES[name]:
        assert part in ended.stdout, ended.stdout


def test_a_copy_of_the_recipe_outside_the_repository_is_a_package(tmp_path):
    if shutil.which("cargo") is None:
        pytest.skip("cargo is not there")
    copy = tmp_path / "own_recipe"
    shutil.copytree(REPOSITORY / "examples/own_recipe", copy)
    shutil.copy(REPOSITORY / "Cargo.lock", copy)
    [manifest] = re.findall(r"(?ms)^ *```toml\n( *\[package\]\n.*?)^ *```$", (REPOSITORY / "CONTRIBUTING.md").read_text())
    (copy / "Cargo.toml").write_text(textwrap.dedent(manifest).replace("../feedline/", f"{REPOSITORY}/"))
    # For this machine only: the crates of other systems were not fetched.
    [host] = re.findall(r"(?m)^host: (.*)$", subprocess.run(["rustc", "-vV"], capture_output=True, text=True, check=True).stdout)
    command = ["cargo", "metadata", "--offline", "--filter-platform", host, "--format-version", "1"]
    ended = subprocess.run(command, cwd=copy, capture_output=True, text=True, timeout=60)
    assert ended.returncode == 0, ended.stderr
    # It names the crates that the example itself names.
    command = ["cargo", "metadata", "--offline", "--no-deps", "--format-version", "1"]
    ours = subprocess.run(command, cwd=REPOSITORY, capture_output=True, check=True, timeout=60).stdout
    assert dependencies(ended.stdout) == dependencies(ours)


def dependencies(metadata):
    """The crates that the package own_recipe names, each with its kind."""
    [package] = [package for package in json.loads(metadata)["packages"] if package["name"] == "own_recipe"]
    return [(dep["name"], dep["kind"]) for dep in package["dependencies"]]
