"""Writes scenes of noise in the layout of TorchSSC."""

import numpy as np
from PIL import Image


def write_scenes(folder, train, val=0, image_px=(24, 32), grid=(6, 4, 6), seed=0):
    """Scenes of noise in TorchSSC's layout: `train` ids in train.txt, `val` more in test.txt."""
    rng = np.random.default_rng(seed)
    for kind in ("RGB", "HHA", "Label", "TSDF", "Mapping", "sketch3D"):
        (folder / kind).mkdir(parents=True, exist_ok=True)
    ids = [f"{number:04}" for number in range(1, 1 + 3 * (train + val), 3)]
    voxels, pixels = int(np.prod(grid)), int(np.prod(image_px))
    for number, name in enumerate(ids):
        for path in (f"RGB/NYU{name}_colors.png", f"HHA/{name}.png"):
            Image.fromarray(rng.integers(0, 256, (*image_px, 3), dtype=np.uint8)).save(folder / path)
        label = rng.integers(0, 12, voxels)
        label[rng.random(voxels) < 0.1] = 255
        # Any element type that a user may have saved.
        np.savez_compressed(folder / f"Label/{name}.npz", label.astype([np.uint8, np.int64, np.float32][number % 3]))
        weight = (rng.random(voxels) < 0.7).astype(np.float32)
        save = np.savez if number % 2 else np.savez_compressed
        save(folder / f"TSDF/{name}.npz", rng.uniform(-1, 1, voxels).astype(np.float32), weight)
        shown = rng.random(voxels) < 0.7
        save(folder / f"Mapping/{name}.npz", np.where(shown, rng.integers(0, pixels, voxels), pixels))
        np.save(folder / f"sketch3D/{name}.npy", rng.integers(0, 2, grid, dtype=np.uint8))
    (folder / "train.txt").write_text("".join(f"{name}\tmore\n" for name in ids[:train]), "utf-8")
    (folder / "test.txt").write_text("".join(f"{name}\n" for name in ids[train:]), "utf-8")
    return folder
