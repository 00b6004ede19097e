"""datago: its Rust threads read and decode the files; crop, resize and normalise follow in Python by OpenCV."""

import json
import random

import cv2
import numpy as np
from datago import DatagoClient
from loop import count, random_crop, run
from samples import normalised


def build(args):
    cv2.setNumThreads(args.workers)
    samples = count(args)
    config = {
        "source_type": "file",
        "source_config": {"root_path": args.data, "rank": 0, "world_size": 1, "random_sampling": False},
        "limit": samples,
        "prefetch_buffer_size": 128,
        "samples_buffer_size": 64,
        "num_threads": args.workers,
    }

    def one(sample):
        image = np.asarray(sample.image.to_pil_image() if hasattr(sample.image, "to_pil_image") else sample.image)
        image = image[..., :3]
        height, width = image.shape[:2]
        if args.train:
            top, left, h, w = random_crop(width, height)
        else:
            h = w = min(width, height) * 224 // 256
            top, left = (height - h) // 2, (width - w) // 2
        image = image[top : top + h, left : left + w]
        image = cv2.resize(image, (224, 224), interpolation=cv2.INTER_AREA if min(h, w) > 224 else cv2.INTER_LINEAR)
        return normalised(cv2.flip(image, 1) if args.train and random.random() < 0.5 else image)

    def epoch():
        client, batch = DatagoClient(json.dumps(config)), []
        for _ in range(samples):
            sample = client.get_sample()
            if sample is None or sample.id == "":
                break
            batch.append(one(sample))
            if len(batch) == args.batch_size:
                yield np.stack(batch)
                batch = []
        if batch:
            yield np.stack(batch)
        client.stop()

    return epoch


if __name__ == "__main__":
    run(build)
