"""Grain's dataset API with OpenCV: shuffle, map, batch; mp_prefetch with one process a core (threads for E)."""

import grain
import numpy as np
import samples
from loop import count, files, run


class Source:
    def __init__(self, args):
        self.args = args
        self.array = np.load(args.data, mmap_mode="r") if args.data.endswith(".npy") else None
        self.files = [] if self.array is not None else files(args)

    def __len__(self):
        return len(self.array) if self.array is not None else len(self.files)

    def __getitem__(self, i):
        if self.array is not None:
            return np.array(self.array[i])
        path = self.files[i][0]
        if self.args.work == "D":
            return samples.gray_png(path)
        import cv2

        cv2.setNumThreads(0)
        return samples.opencv(path, self.args.train)


def build(args):
    data = grain.MapDataset.source(Source(args)).shuffle(seed=1)
    reads = grain.ReadOptions(num_threads=args.workers if args.work.startswith("E") else 1, prefetch_buffer_size=64)
    if args.work == "E2":
        reads = grain.ReadOptions(num_threads=0, prefetch_buffer_size=0)
    data = data.batch(args.batch_size) if args.work == "E2" else data
    data = data.to_iter_dataset(reads)
    data = data if args.work == "E2" else data.batch(args.batch_size, drop_remainder=False)
    if not args.work.startswith("E"):
        data = data.mp_prefetch(grain.MultiprocessingOptions(num_workers=args.workers, per_worker_buffer_size=4))
    return lambda: iter(data)


if __name__ == "__main__":
    from absl import app

    import sys

    words, sys.argv = sys.argv, sys.argv[:1]

    def main(_):
        sys.argv = words
        run(build)

    app.run(main)
