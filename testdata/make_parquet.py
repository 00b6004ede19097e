"""Makes testdata/parquet: labelled pictures as `datasets` and pyarrow write them, and what is in them.

    python3 -m venv venv && venv/bin/pip install datasets pillow && venv/bin/python testdata/make_parquet.py

What is expected (parquet/expected.json, with the versions) comes from pyarrow's own reader, never from Feedline.
"""

import hashlib
import io
import json
from pathlib import Path

import datasets
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from PIL import Image

OUT = Path(__file__).resolve().parent / "parquet"
CLASSES = ["tench, Tinca tinca", "Möwe", "猫"]
LABELS = [2, 0, 1, 1, 0, 2, 0]


def picture(number):
    """A JPEG or a PNG of 16 x 12 px, each another one."""
    image = Image.new("RGB", (16, 12), (20 * number, 255 - 20 * number, 90))
    for x in range(16):
        image.putpixel((x, number % 12), (255, 16 * x, 0))
    file = io.BytesIO()
    image.save(file, "JPEG" if number % 3 else "PNG")
    return file.getvalue()


def main():
    OUT.mkdir(exist_ok=True)
    pictures = [{"bytes": picture(number), "path": f"{number}.jpg"} for number in range(len(LABELS))]
    features = datasets.Features({"image": datasets.Image(), "label": datasets.ClassLabel(names=CLASSES)})
    dataset = datasets.Dataset.from_dict({"image": pictures, "label": LABELS}, features=features)
    dataset.to_parquet(OUT / "datasets.parquet", batch_size=3)
    table = pq.read_table(OUT / "datasets.parquet")
    for name, options in {
        "none": {"compression": "none", "use_dictionary": False},
        "snappy": {"compression": "snappy"},  # as older versions of `datasets`: by dictionary
        "gzip": {"compression": "gzip", "write_page_checksum": True},
        "lz4": {"compression": "lz4", "use_dictionary": False, "column_encoding": {"label": "DELTA_BINARY_PACKED"}},
        "zstd_v2": {"compression": "zstd", "use_dictionary": False, "data_page_version": "2.0", "data_page_size": 1},
    }.items():
        pq.write_table(table, OUT / f"{name}.parquet", row_group_size=4, write_batch_size=2, write_statistics=False, **options)
    expected = {"pyarrow": pa.__version__, "datasets": datasets.__version__, "classes": CLASSES, "files": {}}
    for path in sorted(OUT.glob("*.parquet")):
        rows = pq.read_table(path).to_pylist()
        sums = [[row["label"], hashlib.sha256(row["image"]["bytes"]).hexdigest()] for row in rows]
        expected["files"][path.name] = sums
    (OUT / "expected.json").write_text(json.dumps(expected, indent=1, ensure_ascii=False) + "\n")
    # One column of `.npy` files: row i is arange(12) + i, as float32 (3, 4).
    files = []
    for row in range(7):
        file = io.BytesIO()
        np.save(file, (np.arange(12, dtype=np.float32) + row).reshape(3, 4))
        files.append(file.getvalue())
    (OUT / "arrays").mkdir(exist_ok=True)
    pq.write_table(pa.table({"array": files}), OUT / "arrays/rows.parquet", row_group_size=3)


main()
