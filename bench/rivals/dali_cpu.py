"""NVIDIA DALI on the CPU: fused decoders.image_random_crop, one native thread a core, prefetch 2."""

import numpy as np
import nvidia.dali.fn as fn
import nvidia.dali.types as types
from loop import MEAN, STD, count, files, run
from nvidia.dali import pipeline_def


def build(args):
    listed = files(args)

    @pipeline_def(batch_size=args.batch_size, num_threads=args.workers, device_id=None, seed=1)
    def pipeline():
        names, labels = [p for p, _ in listed], [c for _, c in listed]
        jpegs, _ = fn.readers.file(
            files=names, labels=labels, random_shuffle=True, initial_fill=len(listed), name="reader", prefetch_queue_depth=2
        )
        if args.train:
            pixels = fn.decoders.image_random_crop(
                jpegs, device="cpu", random_area=[0.08, 1.0], random_aspect_ratio=[3 / 4, 4 / 3], num_attempts=10
            )
            pixels = fn.resize(pixels, resize_x=224, resize_y=224, interp_type=types.INTERP_LINEAR, antialias=True)
            mirror = fn.random.coin_flip(probability=0.5)
        else:
            pixels = fn.decoders.image(jpegs, device="cpu")
            pixels = fn.resize(pixels, resize_shorter=256, interp_type=types.INTERP_LINEAR, antialias=True)
            mirror = 0
        return fn.crop_mirror_normalize(
            pixels,
            dtype=types.FLOAT,
            output_layout="CHW",
            crop=(224, 224),
            mean=[255 * m for m in MEAN],
            std=[255 * s for s in STD],
            mirror=mirror,
        )

    pipe = pipeline()
    pipe.build()
    samples, rest = count(args), []

    def epoch():
        # The reader runs on over the end of an epoch: a batch may hold pictures of two. Cut it at the count.
        left = samples
        while left > 0:
            batch = rest.pop() if rest else np.asarray(pipe.run()[0].as_array())
            if batch.shape[0] > left:
                rest.append(batch[left:])
            yield batch[:left]
            left -= batch.shape[0]

    return epoch


if __name__ == "__main__":
    run(build)
