"""torch DataLoader with Pillow, torchvision.io, OpenCV or numpy; persistent workers, prefetch_factor 4, one thread each."""

import numpy as np
import samples
import torch
from loop import count, files, run
from torch.utils.data import DataLoader, Dataset


class Items(Dataset):
    def __init__(self, args):
        self.args, self.kind = args, args.rival.removeprefix("torch-")
        self.array = np.load(args.data, mmap_mode="r") if args.data.endswith(".npy") else None
        self.files = [] if self.array is not None else files(args)
        if args.work in "ABC":
            self.transform = samples.torch_transform(args.train, self.kind == "torchvision")

    def __len__(self):
        return len(self.array) if self.array is not None else len(self.files)

    def __getitem__(self, i):
        work = self.args.work
        if self.array is not None:
            return torch.from_numpy(self.array[i].copy())
        path = self.files[i][0]
        if work == "F":
            return torch.from_numpy(np.fromfile(path, np.float32).reshape(-1, 4))
        if work == "G":
            if self.kind == "opencv":
                import cv2

                return torch.from_numpy(cv2.imread(path, cv2.IMREAD_UNCHANGED).astype(np.float32))
            from PIL import Image

            return torch.from_numpy(np.asarray(Image.open(path)).astype(np.float32))
        if work == "D":
            return torch.from_numpy(samples.gray_png(path))
        if self.kind == "opencv":
            return torch.from_numpy(samples.opencv(path, self.args.train))
        if self.kind == "torchvision":
            from torchvision.io import ImageReadMode, decode_jpeg, read_file

            return self.transform(decode_jpeg(read_file(path), mode=ImageReadMode.RGB))
        from PIL import Image

        return self.transform(Image.open(path).convert("RGB"))

    def __getitems__(self, rows):
        """The batched fetch that torch offers; for E's small rows one numpy gather beats a loop."""
        if self.array is not None and self.args.work == "E2":
            return torch.from_numpy(self.array[rows])
        return [self[i] for i in rows]


def one_thread(_):
    torch.set_num_threads(1)
    try:
        import cv2

        cv2.setNumThreads(0)
    except ImportError:
        pass


def gather(rows):
    return rows if isinstance(rows, torch.Tensor) else torch.utils.data.default_collate(rows)


def build(args):
    in_process = args.rival == "torch-in-process"  # num_workers=0: what small rows are best served by
    items = Items(args)
    workers = {} if in_process else dict(persistent_workers=True, prefetch_factor=4, worker_init_fn=one_thread)
    loader = DataLoader(
        items, args.batch_size, shuffle=True, num_workers=0 if in_process else args.workers, collate_fn=gather, **workers
    )
    return lambda: iter(loader)


if __name__ == "__main__":
    run(build)
