"""The committed pictures are what testdata/make_images.py makes with the Pillow they say they were made with."""

import json
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import PIL
import pytest
from PIL import Image

TESTDATA = Path(__file__).resolve().parent.parent / "testdata"


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    made_with = json.loads((TESTDATA / "images/cases.json").read_text())["made_with"]
    if (PIL.__version__, np.__version__) != (made_with["pillow"], made_with["numpy"]):
        pytest.skip(f"the pictures were made with {made_with}, here are Pillow {PIL.__version__}, numpy {np.__version__}")
    # The script writes beside itself.
    folder = tmp_path_factory.mktemp("testdata")
    script = shutil.copy(TESTDATA / "make_images.py", folder)
    shutil.copy(TESTDATA / "make_formats.py", folder)
    subprocess.run([sys.executable, script], check=True, timeout=120)
    return folder


def names(folder):
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file())


@pytest.mark.parametrize("folder", ["images", "hostile"])
def test_the_files_are_the_same(made, folder):
    assert names(made / folder) == names(TESTDATA / folder)
    for name in names(made / folder):
        here, there = made / folder / name, TESTDATA / folder / name
        if name == "cases.json" or here.read_bytes() == there.read_bytes():
            continue
        # Another zlib packs the same pixels otherwise; what is broken on purpose has no pixels to compare.
        assert name.endswith(".png"), f"{name} differs"
        if folder == "images":
            assert np.array_equal(np.asarray(Image.open(here)), np.asarray(Image.open(there))), f"{name} differs"


def test_the_cases_are_the_same(made):
    cases = [json.loads((folder / "images/cases.json").read_text())["cases"] for folder in (made, TESTDATA)]
    assert cases[0] and cases[0] == cases[1]
