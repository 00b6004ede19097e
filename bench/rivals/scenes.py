"""Scenes in TorchSSC's layout by a torch DataLoader with NumPy and OpenCV or Pillow: what a port of its loader writes."""

import pathlib

import numpy as np
import torch
from loop import MEAN, STD, run
from torch.utils.data import DataLoader, Dataset
from torch_loader import one_thread

MEAN64, STD64 = np.array(MEAN), np.array(STD)


def picture(path, kind):
    """(H, W, 3) float32, channels as RGB."""
    if kind == "opencv":
        import cv2

        return np.array(cv2.imread(str(path)), dtype=np.float32)[:, :, ::-1]
    from PIL import Image

    return np.array(Image.open(path).convert("RGB"), dtype=np.float32)


def normalised(image):
    image = (image / 255.0 - MEAN64) / STD64
    return torch.from_numpy(np.ascontiguousarray(image.transpose(2, 0, 1))).float()


class Scenes(Dataset):
    def __init__(self, args):
        self.root, self.kind = pathlib.Path(args.data), args.rival.removeprefix("torch-")
        self.ids = (self.root / "train.txt").read_text().split()

    def __len__(self):
        return len(self.ids)

    def __getitem__(self, i):
        root, name = self.root, self.ids[i]
        voxels = np.load(root / f"TSDF/{name}.npz")
        label = np.load(root / f"Label/{name}.npz")["arr_0"].astype(np.int64)
        mapping = np.load(root / f"Mapping/{name}.npz")["arr_0"].astype(np.int64)
        sketch = np.load(root / f"sketch3D/{name}.npy").astype(np.int64)
        return {
            "data": normalised(picture(root / f"RGB/NYU{name}_colors.png", self.kind)),
            "label": torch.from_numpy(label),
            "label_weight": torch.from_numpy(voxels["arr_1"].astype(np.float32)),
            "depth_mapping_3d": torch.from_numpy(mapping),
            "tsdf": torch.from_numpy(voxels["arr_0"].astype(np.float32).reshape(1, 60, 36, 60)),
            "sketch_gt": torch.from_numpy(sketch),
            "hha_img": normalised(picture(root / f"HHA/{name}.png", self.kind)[:, :, ::-1]),
            "fn": name,
            "n": len(self.ids),
        }


def build(args):
    loader = DataLoader(
        Scenes(args), args.batch_size, shuffle=True, num_workers=args.workers, persistent_workers=True,
        prefetch_factor=4, worker_init_fn=one_thread,
    )  # fmt: skip
    return lambda: (batch["data"] for batch in loader)


if __name__ == "__main__":
    run(build)
