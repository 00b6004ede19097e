"""Feedline through its Python package, as a person would use it: what crossing into Python costs."""

import pathlib

import feedline
from loop import run


def build(args):
    path = pathlib.Path(args.data)
    if args.work in "ABCD":
        images = feedline.images(path / "train")
        steps = {
            "A": lambda: images.random_resized_crop(224).hflip(),
            "B": lambda: images.random_resized_crop(224).hflip(),
            "C": lambda: images.resize(256).center_crop(224),
            "D": lambda: images.resize(28).center_crop(28),
        }
        source = steps[args.work]().normalize()
    else:
        source = feedline.arrays(path, shape=(120_000, 4) if args.work == "F" else None)
    loader = feedline.DataLoader(source, args.batch_size, shuffle=True, num_workers=args.workers)
    return lambda: (batch[0] for batch in loader)


if __name__ == "__main__":
    run(build)
