"""A Dataset of one's own under torch's DataLoader or Feedline's: the same Dataset, only the loader's class differs.

    python own_datasets.py "torch" --work M1 ...
    python own_datasets.py "feedline seeds=worker" --work M6 ...
    python own_datasets.py "torch spawn" --work M7 ...

Each Dataset knows what a batch of it must hold: `count` checks a batch and returns its number of samples.
"""

import importlib
import json
import os
import sys
import time

import samples
import torch
from loop import arguments, cpu_seconds, epochs, files
from torch.utils.data import Dataset

CLASSES = {"torch": "torch.utils.data", "feedline": "feedline.torch"}
START_METHODS = ("fork", "forkserver", "spawn")
FIELDS = 114


class Pictures(Dataset):
    """M1: torchvision's ImageFolder in short, with its v2 transforms, decoded by Pillow."""

    def __init__(self, args):
        self.files, self.transform = files(args), samples.torch_transform(train=True, tensors=False)

    def __len__(self):
        return len(self.files)

    def __getitem__(self, i):
        from PIL import Image

        path, label = self.files[i]
        with Image.open(path) as image:
            return self.transform(image.convert("RGB")), label

    def count(self, batch):
        images, labels = batch
        assert images.shape == (len(labels), 3, 224, 224) and images.dtype == torch.float32 and labels.dtype == torch.int64
        assert images[-1, -1, -1, -1].abs() < 3
        return len(labels)


class Interpreted(Dataset):
    """M2: about a millisecond of the interpreter's time for a sample, and hardly anything to hand over."""

    steps = 13_000

    def __init__(self, args):
        pass

    def __len__(self):
        return 1024

    def __getitem__(self, i):
        state = i
        for _ in range(self.steps):
            state = (state * 1_103_515_245 + 12_345) & 0x7FFF_FFFF
        return torch.full((16,), float(i)), state

    def count(self, batch):
        rows, states = batch
        assert rows.shape == (len(states), 16) and states.dtype == torch.int64
        return len(states)


class Stored(Dataset):
    """M3, M4 and M6: rows of a tensor in memory, as TensorDataset hands them out, with the sample's number as its label."""

    def __init__(self, length, rows, *shape):
        self.length, self.rows = length, torch.arange(rows, dtype=torch.float32)[:, None].repeat(1, torch.Size(shape).numel())
        self.rows = self.rows.reshape(rows, *shape)

    def __len__(self):
        return self.length

    def __getitem__(self, i):
        return self.rows[i % len(self.rows)], i

    def count(self, batch):
        rows, labels = batch
        assert rows.shape == (len(labels), *self.rows.shape[1:]) and rows.dtype == torch.float32
        ends = rows.flatten(1)[[0, 0, -1, -1], [0, -1, 0, -1]].tolist()
        wanted = [label % len(self.rows) for label in labels[[0, 0, -1, -1]].tolist()]
        assert ends == wanted, f"the batch holds {ends}, wanted {wanted}"
        return len(labels)


class Fields(Dataset):
    """M5: a dictionary of many small tensors, as detection and robotics have them."""

    def __init__(self, args):
        first = torch.arange(512, dtype=torch.float32)[:, None] * FIELDS
        self.tables = {f"field_{k:03}": (first + k).repeat(1, k % 16 + 1) for k in range(FIELDS)}

    def __len__(self):
        return 512

    def __getitem__(self, i):
        return {name: table[i] for name, table in self.tables.items()}

    def count(self, batch):
        first, last = batch["field_000"], batch[f"field_{FIELDS - 1:03}"]
        assert len(batch) == FIELDS and last.shape == (len(first), (FIELDS - 1) % 16 + 1)
        assert last[-1, -1] - first[-1, 0] == FIELDS - 1, f"the batch holds {last[-1, -1]} beside {first[-1, 0]}"
        return len(first)


class Paths(Dataset):
    """M7: a list of a million path strings, which workers inherit or are sent."""

    def __init__(self, args):
        self.paths = [f"/data/train/class_{i % 1000:04}/picture_{i:07}.jpg" for i in range(10**6)]

    def __len__(self):
        return len(self.paths)

    def __getitem__(self, i):
        return int(self.paths[i][-11:-4]), i

    def count(self, batch):
        numbers, labels = batch
        assert numbers.equal(labels)
        return len(labels)


DATASETS = {
    "M1": Pictures,
    "M2": Interpreted,
    "M3": lambda args: Stored(256, 8, 3, 512, 512),
    "M4": lambda args: Stored(64, 4, 4, 1024, 1024),
    "M5": Fields,
    "M6": lambda args: Stored(131_072, 131_072, 64),
    "M7": Paths,
}


def loader_of(rival, dataset, batch_size, workers):
    """The loader that a rival's name asks for: the class, then `seeds=` and the start method (fork unless named)."""
    name, *words = rival.split()
    cls = importlib.import_module(CLASSES[name]).DataLoader
    start_method = next((word for word in words if word in START_METHODS), "fork")
    more = dict(word.split("=") for word in words if word not in START_METHODS)
    return cls(dataset, batch_size, shuffle=True, num_workers=workers, persistent_workers=True,
               multiprocessing_context=start_method, **more)  # fmt: skip


def first_batch(args, dataset):
    """Reports the time to the first batch; then one pass goes on for a while, as memory grows when workers touch the list."""
    started, warm = time.perf_counter(), 0
    for number, batch in enumerate(loader_of(args.rival, dataset, args.batch_size, args.workers)):
        if number == 0:
            first = time.perf_counter() - started
        delivered = dataset.count(batch)
        if number < 2 * args.workers:  # until each worker has started
            at, cpu = time.perf_counter(), cpu_seconds()
            continue
        warm += delivered
        if time.perf_counter() - at > args.seconds:
            break
    print(json.dumps({
        "images_per_second": [warm / (time.perf_counter() - at)],
        "first_batch_seconds": first,
        "cpu_seconds_per_1000": (cpu_seconds() - cpu) * 1000 / warm,
    }))  # fmt: skip
    sys.stdout.flush()
    os._exit(0)


def main():
    args = arguments()
    importlib.import_module(CLASSES[args.rival.split()[0]])  # or it would count in the first batch
    dataset = DATASETS[args.work](args)
    if args.work == "M7":
        first_batch(args, dataset)

    def start():
        loader = loader_of(args.rival, dataset, args.batch_size, args.workers)
        return lambda: iter(loader)

    epochs(args, len(dataset), start, lambda batch, is_first: dataset.count(batch))


if __name__ == "__main__":
    main()
