"""Writes pickles/: info files as OpenPCDet pickles them, in protocols 2 to 5, and what they hold as JSON.

Run it once with NumPy 1 and once with NumPy 2: the names in their pickles differ.
"""

import json
import pickle
from pathlib import Path

import numpy as np

FOLDER = Path(__file__).parent / "pickles"


def infos() -> list:
    """Two frames, and arrays of every kind that is read."""
    shared = np.array([375, 1242], np.int32)
    numbers = {str(np.dtype(kind)): np.array([1, 2, 250], kind) for kind in ("u1", "u2", "u4", "u8", "i2", "i4", "i8", "f4", "f8")}
    return [
        {
            "point_cloud": {"num_features": 4, "lidar_idx": "000000"},
            "image": {"image_idx": "000000", "image_shape": shared},
            "calib": {"P2": np.vstack([np.arange(12.0).reshape(3, 4) / 7, [0, 0, 0, 1]])},
            "annos": {
                "name": np.array(["Car", "Person_sitting", "DontCare"]),
                "truncated": np.array([0.0, 0.25, -1.0]),
                "bbox": np.array([[1.5, 2.5, 3.5, 4.5]] * 3, np.float32),
                "index": np.array([0, 1, -1], np.int32),
                "gt_boxes_lidar": np.arange(14.0).reshape(2, 7),
                "difficulty": np.int32(-1),
                "score": np.float64(0.1),
                "is_first": np.bool_(True),
            },
        },
        {
            "image_shape": shared,
            "empty": np.zeros((0, 7)),
            "columns": np.asfortranarray(np.arange(6, dtype=np.int16).reshape(2, 3)),
            "foreign": np.array([[1.5, -2.5]], ">f4"),
            "foreign_text": np.array(["Zürich", "京", ""], ">U6"),
            "objects": np.array(["Van", 3, None, [True, False]], object),
            "flags": np.array([True, False]),
            "bytes_like": np.array([0, 127, 128, 255], np.uint8),
            "numbers": numbers,
            "integers": [0, 255, 256, 65535, 65536, -1, 2**31 - 1, -(2**31), 2**40, -(2**63)],
            "not_finite": [float("nan"), np.float32("inf")],
            "tuples": [(), (1,), (1, 2), (1, 2, 3), (1, 2, 3, 4)],
            "long": "x" * 300,
            "none": None,
        },
    ]


def plain(value):
    """Without NumPy; numbers that are not finite become None."""
    if isinstance(value, dict):
        return {key: plain(item) for key, item in value.items()}
    if isinstance(value, np.ndarray | np.generic):
        value = value.tolist()
    if isinstance(value, list | tuple):
        return [plain(item) for item in value]
    return None if isinstance(value, float) and not np.isfinite(value) else value


version = np.__version__.split(".")[0]
for protocol in range(2, 6):
    (FOLDER / f"numpy{version}_protocol{protocol}.pkl").write_bytes(pickle.dumps(infos(), protocol))
(FOLDER / "expected.json").write_text(json.dumps(plain(infos()), ensure_ascii=False))
