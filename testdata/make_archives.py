"""Makes testdata/archives: archives as people have them, which hold more than samples, as the usual tools write them.

    python3 -m venv venv && venv/bin/pip install pillow numpy webdataset==1.0.2
    venv/bin/python testdata/make_archives.py

- labels.tar: webdataset's writer; each sample has `cls` and `fine.cls`, which stands later and is another number.
- mac.tar, mac.zip: what macOS's tar and Finder add: `._NAME` (AppleDouble) before each file, `.DS_Store`, `__MACOSX/`.
- sparse_0.0.tar, sparse_0.1.tar, sparse_1.0.tar: GNU tar with --sparse and each of its pax formats; sparse_old.tar: its own.
- nul.tar: a pax record gives a member a name with a NUL byte.
"""

import io
import os
import shutil
import subprocess
import tarfile
import tempfile
import zipfile
from pathlib import Path

import numpy as np
import webdataset
from PIL import Image

HERE = Path(__file__).resolve().parent / "archives"

# An AppleDouble file: magic, version, 16 bytes of nothing, no entries.
FORK = b"\x00\x05\x16\x07\x00\x02\x00\x00" + b"Mac OS X        " + b"\x00\x00"


def picture(number):
    y, x = np.mgrid[0:8, 0:8]
    pixels = np.stack([x * 30, y * 30, (x + y) * 15 + number * 10], axis=-1) % 256
    encoded = io.BytesIO()
    Image.fromarray(pixels.astype(np.uint8)).save(encoded, "JPEG", quality=85)
    return encoded.getvalue()


def add(out, name, content, **facts):
    info = tarfile.TarInfo(name)
    info.size = len(content)
    for key, value in facts.items():
        setattr(info, key, value)
    out.addfile(info, io.BytesIO(content))


def mac():
    with tarfile.open(HERE / "mac.tar", "w", format=tarfile.PAX_FORMAT) as out:
        add(out, ".DS_Store", b"Bud1")
        for number in range(2):
            for name, content in ((f"{number:03}.cls", str(number).encode()), (f"{number:03}.jpg", picture(number))):
                add(out, f"._{name}", FORK)
                add(out, f"{name}", content)
    with zipfile.ZipFile(HERE / "mac.zip", "w") as out:
        for number in range(2):
            name = f"train/{'ab'[number]}/{number}.jpg"
            folder, file = name.rsplit("/", 1)
            out.writestr(name, picture(number), zipfile.ZIP_DEFLATED)
            out.writestr(f"__MACOSX/{folder}/._{file}", FORK)
            out.writestr(f"{folder}/._{file}", FORK)
            out.writestr(f"{folder}/.DS_Store", b"Bud1")


def sparse():
    with tempfile.TemporaryDirectory() as folder:
        os.mkdir(f"{folder}/a")
        for number in range(2):
            Path(f"{folder}/a/{number}.jpg").write_bytes(picture(number))
        with open(f"{folder}/a/holes.jpg", "wb") as file:
            file.write(picture(2))
            file.truncate(1 << 20)
        fixed = ["--sort=name", "--owner=0", "--group=0", "--mtime=2020-01-01", "-C", folder, "-b", "1"]
        for version in ("0.0", "0.1", "1.0"):
            how = ["--sparse", "--format=pax", f"--sparse-version={version}", "--pax-option=delete=atime,delete=ctime"]
            subprocess.run(["tar", "-cf", HERE / f"sparse_{version}.tar", *how, *fixed, "a"], check=True)
        subprocess.run(["tar", "-cf", HERE / "sparse_old.tar", "--sparse", "--format=gnu", *fixed, "a"], check=True)


def main():
    shutil.rmtree(HERE, ignore_errors=True)
    HERE.mkdir()
    with webdataset.TarWriter(str(HERE / "labels.tar"), mtime=0) as out:
        for number in range(3):
            sample = {"jpg": picture(number), "cls": number, "fine.cls": 90 + number, "json": {"n": number}}
            out.write({"__key__": f"{number:03}", **sample})
    mac()
    sparse()
    with tarfile.open(HERE / "nul.tar", "w", format=tarfile.PAX_FORMAT) as out:
        add(out, "a/1.jpg", picture(0), pax_headers={"path": "a/1.jpg\0.txt"})


if __name__ == "__main__":
    main()
