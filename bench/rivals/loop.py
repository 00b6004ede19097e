"""Shared by all Python rivals: arguments, sample lists, the epoch loop and its checks, the JSON report.

A rival's file defines `build(args) -> loader`; `for batch in loader()` is one epoch. `run(build)` does the rest. What
`loader.empty()` does, where there is such a thing, happens between epochs and is not timed.
"""

import argparse
import json
import math
import os
import pathlib
import random
import sys
import time

MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
SHAPES = {  # of one delivered sample
    "A": (3, 224, 224), "B": (3, 224, 224), "C": (3, 224, 224), "D": (3, 28, 28),
    "E1": (3, 224, 224), "E2": (256,), "F": (120_000, 4), "G": (480, 640), "H": (3, 480, 640),
    "L": (3, 64, 64), "P": (1, 8), "S": (3, 224, 224), "T": (3, 224, 224),
}  # fmt: skip


def arguments():
    parser = argparse.ArgumentParser()
    parser.add_argument("rival")
    parser.add_argument("--work", required=True)
    parser.add_argument("--data", required=True)
    parser.add_argument("--shards", help="a folder for the rival's own format")
    parser.add_argument("--prepare", action="store_true", help="only write the rival's own format")
    parser.add_argument("--url", help="where the data lies in a bucket; --data is the same on the disk, for counting")
    parser.add_argument("--scratch", type=pathlib.Path, help="an empty folder for caches and listings")
    parser.add_argument("--requests-in-flight", type=int, default=64)
    parser.add_argument("--batch-size", type=int, required=True)
    parser.add_argument("--workers", type=int, required=True)
    parser.add_argument("--seconds", type=float, default=3.0)
    parser.add_argument("--epochs", type=int, default=50)
    args = parser.parse_args()
    args.train = args.work[0] in "ABST"
    return args


def files(args):
    """Every file of the work in name order, with its class number."""
    found = sorted(p for p in pathlib.Path(args.data).rglob("*") if p.suffix in (".jpg", ".png", ".bin"))
    names = sorted({p.parent.name for p in found})
    return [(str(p), names.index(p.parent.name)) for p in found]


def count(args):
    if args.data.endswith(".npy"):
        import numpy as np

        return np.load(args.data, mmap_mode="r").shape[0]
    if args.work == "P":
        return len((pathlib.Path(args.data) / "ImageSets/train.txt").read_text().split())
    if args.work == "H":
        return len((pathlib.Path(args.data) / "train.txt").read_text().split())
    return len(files(args))


def random_crop(width, height):
    """RandomResizedCrop's box (top, left, height, width), as torchvision draws it."""
    for _ in range(10):
        area = width * height * random.uniform(0.08, 1.0)
        ratio = math.exp(random.uniform(math.log(3 / 4), math.log(4 / 3)))
        w, h = round(math.sqrt(area * ratio)), round(math.sqrt(area / ratio))
        if 0 < w <= width and 0 < h <= height:
            return random.randint(0, height - h), random.randint(0, width - w), h, w
    w, h = min(width, round(height * 4 / 3)), min(height, round(width * 4 / 3))
    return (height - h) // 2, (width - w) // 2, h, w


def cpu_seconds():
    """CPU time of this process and all below it, the finished ones included."""
    parents, times = {}, {}
    for name in os.listdir("/proc"):
        if name.isdigit():
            try:
                stat = pathlib.Path(f"/proc/{name}/stat").read_text().rpartition(")")[2].split()
            except OSError:
                continue
            parents[int(name)], times[int(name)] = int(stat[1]), sum(map(int, stat[11:15]))
    mine, grew = {os.getpid()}, True
    while grew:
        more = {p for p, parent in parents.items() if parent in mine} - mine
        mine, grew = mine | more, bool(more)
    return sum(times.get(p, 0) for p in mine) / os.sysconf("SC_CLK_TCK")


def run(build):
    args = arguments()
    if args.prepare:
        return build(args)
    shape = SHAPES.get(args.work) or SHAPES[args.work[0]]

    def take(batch, is_first):
        if is_first:
            kind = str(batch.dtype).rpartition(".")[2].strip("'>")
            assert tuple(batch.shape[1:]) == shape, f"a batch of {tuple(batch.shape)}, wanted {shape}"
            assert kind in ("float32", "uint16"), f"delivered as {kind}"
        batch[(0,) * len(batch.shape)]  # the consumer touches each batch
        return batch.shape[0]

    epochs(args, count(args), lambda: build(args), take)


def epochs(args, samples, start, take):
    """Times epochs of `samples` and prints the report. `start()` makes the loader; `take(batch, is_first)` counts samples."""
    started = time.perf_counter()
    loader = start()
    rates, first, warm_seconds, cpu = [], None, 0.0, 0.0
    while len(rates) < args.epochs and (len(rates) < 3 or warm_seconds < args.seconds):
        if rates and hasattr(loader, "empty"):
            loader.empty()
        at, delivered = time.perf_counter(), 0
        for batch in loader():
            is_first = first is None
            if is_first:
                first = time.perf_counter() - started
            delivered += take(batch, is_first)
        seconds = time.perf_counter() - at
        assert delivered == samples, f"{delivered} of {samples} samples were delivered"
        if rates:
            warm_seconds += seconds
        else:
            cpu = cpu_seconds()
        rates.append(samples / seconds)
    warm = samples * (len(rates) - 1)
    print(json.dumps({
        "images_per_second": rates,
        "first_batch_seconds": first,
        "cpu_seconds_per_1000": (cpu_seconds() - cpu) * 1000 / max(warm, 1),
    }))  # fmt: skip
    sys.stdout.flush()
    os._exit(0)  # some rivals' threads never end
