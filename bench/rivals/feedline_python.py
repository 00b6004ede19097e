"""Feedline through its Python package, as a person would use it: what crossing into Python costs."""

import pathlib
import subprocess
import sys

import feedline
import torch  # noqa: F401  as a training program does; or the first batch would
from loop import run


def build(args):
    path = pathlib.Path(args.data)
    if args.prepare:
        return subprocess.run([sys.executable, "-m", "feedline", "pack", path, "--out", args.shards], check=True)
    storage = {}
    if args.url:
        storage = {"listings_dir": args.scratch / "listings", "requests_in_flight": args.requests_in_flight}
        if args.rival.endswith("-cache"):
            storage |= {"cache_dir": args.scratch / "cache", "cache_bytes": 10**9}
    if args.work in ("H", "P"):
        return {"H": scenes, "P": clouds}[args.work](args, path)
    if args.work[0] in "ABCDLST":
        images = feedline.images(f"{args.url}/train" if args.url else path / "train", storage=storage)
        steps = {
            "A": lambda: images.random_resized_crop(224).hflip(),
            "B": lambda: images.random_resized_crop(224).hflip(),
            "C": lambda: images.resize(256).center_crop(224),
            "D": lambda: images.resize(28).center_crop(28),
            "L": lambda: images.resize(64).center_crop(64),
            "S": lambda: images.random_resized_crop(224).hflip(),
            "T": lambda: images.random_resized_crop(224).hflip(),
        }
        source = steps[args.work[0]]().normalize()
    else:
        source = feedline.arrays(path, shape=(120_000, 4) if args.work == "F" else None)
    loader = feedline.DataLoader(source, args.batch_size, shuffle=True, num_workers=args.workers)
    return lambda: (batch[0] for batch in loader)


def scenes(args, path):
    """TorchSSC's own call."""
    from feedline.recipes.scene_completion import Engine, NYUv2, config, get_train_loader

    config.dataset_path, config.batch_size = str(path), args.batch_size
    config.niters_per_epoch = len((path / "train.txt").read_text().split()) // args.batch_size
    loader, _ = get_train_loader(Engine(argv=[]), NYUv2, num_workers=args.workers)
    return lambda: (batch["data"] for batch in loader)


def clouds(args, path):
    """OpenPCDet's own call."""
    from feedline.recipes.lidar import Config, build_dataloader, cfg_from_yaml_file

    cfg = cfg_from_yaml_file(str(path / "pointpillar.yaml"), Config())
    _, loader, _ = build_dataloader(cfg.DATA_CONFIG, cfg.CLASS_NAMES, args.batch_size, False, workers=args.workers)
    return lambda: (batch["gt_boxes"][:, :1] for batch in loader)


if __name__ == "__main__":
    run(build)
