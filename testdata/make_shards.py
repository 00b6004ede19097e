"""Makes testdata/shards: eight tiny pictures with labels, as the usual writers of shards write them.

    python3 -m venv venv && venv/bin/pip install pillow numpy webdataset==1.0.2 mosaicml-streaming==0.13.0
    venv/bin/python testdata/make_shards.py

`samples.json` has the label and the SHA-256 of each picture, in order.
"""

import hashlib
import io
import json
import shutil
import zipfile
from pathlib import Path

import numpy as np
import streaming
import webdataset
from PIL import Image

HERE = Path(__file__).resolve().parent / "shards"


def pictures():
    for number in range(8):
        y, x = np.mgrid[0:24, 0 : 20 + number]
        pixels = np.stack([x * 9 + number, y * 9, (x + y) * 4], axis=-1) % 256
        encoded = io.BytesIO()
        Image.fromarray(pixels.astype(np.uint8)).save(encoded, "JPEG", quality=85)
        yield encoded.getvalue(), number * 5 % 3


def main():
    shutil.rmtree(HERE, ignore_errors=True)
    samples = list(pictures())
    for folder in ("webdataset", "zip"):
        (HERE / folder).mkdir(parents=True)
    facts = [{"label": label, "sha256": hashlib.sha256(picture).hexdigest()} for picture, label in samples]
    (HERE / "samples.json").write_text(json.dumps(facts, indent=1) + "\n")
    for shard in range(2):
        with webdataset.TarWriter(str(HERE / f"webdataset/shard-{shard:06d}.tar")) as out:
            for number, (picture, label) in enumerate(samples):
                if number // 4 == shard:
                    out.write({"__key__": f"sample{number:04d}", "jpg": picture, "cls": label, "json": {"n": number}})
    columns = {"image": "bytes", "label": "int", "name": "str"}
    with streaming.MDSWriter(out=str(HERE / "mds"), columns=columns, size_limit=4000) as out:
        for number, (picture, label) in enumerate(samples):
            out.write({"image": picture, "label": label, "name": "x" * number})
    with zipfile.ZipFile(HERE / "zip/all.zip", "w") as out:
        for number, (picture, label) in enumerate(samples):
            kind = zipfile.ZIP_DEFLATED if number % 2 else zipfile.ZIP_STORED
            out.writestr(f"{label}/{number}.jpg", picture, kind)


if __name__ == "__main__":
    main()
