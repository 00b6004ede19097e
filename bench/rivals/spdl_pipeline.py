"""SPDL: a thread pipeline, decode + crop + resize by spdl.io (FFmpeg), as its docs' image loader; no processes."""

import random

import numpy as np
import spdl.io
import torch
from loop import MEAN, STD, files, run
from samples import normalised
from spdl.pipeline import PipelineBuilder


def build(args):
    paths = [path for path, _ in files(args)]
    mean, std = torch.tensor(MEAN).view(1, 3, 1, 1), torch.tensor(STD).view(1, 3, 1, 1)
    # FFmpeg's scaler crops to the RandomResizedCrop box only with a per-picture filter, drawn from the aspect 500x375.

    def decode(path):
        from loop import random_crop

        data = spdl.io.demux_image(path)
        codec = data.codec
        width, height = codec.width, codec.height
        if args.train:
            top, left, h, w = random_crop(width, height)
        else:
            h = w = min(width, height) * 224 // 256
            top, left = (height - h) // 2, (width - w) // 2
        flip = ",hflip" if args.train and random.random() < 0.5 else ""
        desc = f"crop={w}:{h}:{left}:{top}:exact=1,scale=224:224:flags=bilinear{flip},format=rgb24"
        frames = spdl.io.decode_packets(data, filter_desc=desc)
        return spdl.io.to_numpy(spdl.io.convert_frames(frames))

    def collate(items):
        return torch.from_numpy(np.stack([normalised(item) for item in items]))

    def epoch():
        random.shuffle(paths)
        pipeline = (
            PipelineBuilder()
            .add_source(paths)
            .pipe(decode, concurrency=args.workers)
            .aggregate(args.batch_size)
            .pipe(collate, concurrency=1)
            .add_sink(4)
            .build(num_threads=args.workers + 1)
        )
        with pipeline.auto_stop():
            yield from pipeline

    torch.set_num_threads(1)
    return epoch


if __name__ == "__main__":
    run(build)
