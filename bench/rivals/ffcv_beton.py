"""FFCV from its own format: the JPEGs of the work unchanged (mode "jpg"), its fused crop decoder, its compiled ops."""

import os

import numpy as np
from loop import MEAN, STD, files, run


def build(args):
    from ffcv.fields import IntField, RGBImageField
    from ffcv.fields.rgb_image import CenterCropRGBImageDecoder, RandomResizedCropRGBImageDecoder
    from ffcv.loader import Loader, OrderOption
    from ffcv.transforms import NormalizeImage, RandomHorizontalFlip, ToTensor, ToTorchImage
    from ffcv.writer import DatasetWriter

    path = os.path.join(args.shards, "data.beton")
    if args.prepare:
        from PIL import Image

        class Pictures:
            listed = files(args)

            def __len__(self):
                return len(self.listed)

            def __getitem__(self, i):
                return np.asarray(Image.open(self.listed[i][0]).convert("RGB")), self.listed[i][1]

        # Its writer encodes anew; quality 94 gives the mean size of the originals.
        writer = DatasetWriter(path, {"image": RGBImageField(write_mode="jpg", jpeg_quality=94), "label": IntField()}, num_workers=1)
        writer.from_indexed_dataset(Pictures())
        return None
    if args.train:
        decoder = [RandomResizedCropRGBImageDecoder((224, 224), scale=(0.08, 1), ratio=(3 / 4, 4 / 3)), RandomHorizontalFlip()]
    else:
        decoder = [CenterCropRGBImageDecoder((224, 224), ratio=224 / 256)]
    mean, std = np.array(MEAN) * 255, np.array(STD) * 255
    steps = [*decoder, NormalizeImage(mean, std, np.float32), ToTensor(), ToTorchImage(channels_last=False)]
    loader = Loader(
        path,
        batch_size=args.batch_size,
        num_workers=args.workers,
        order=OrderOption.RANDOM,
        os_cache=True,
        drop_last=False,
        pipelines={"image": steps, "label": None},
    )
    return lambda: (batch[0] for batch in loader)


if __name__ == "__main__":
    run(build)
