"""litdata, mosaicml-streaming and webdataset on their own shard formats, holding the work's JPEG bytes unchanged.

Each runs under torch DataLoader workers as its docs say, decodes by torchvision.io and transforms tensors.
"""

import io
import os

import samples
import torch
from loop import count, files, run
from torchvision.io import ImageReadMode, decode_jpeg


class Picture:
    def __init__(self, train):
        self.transform = samples.torch_transform(train, True)

    def __call__(self, data):
        torch.set_num_threads(1)
        data = torch.frombuffer(bytearray(data), dtype=torch.uint8)
        return self.transform(decode_jpeg(data, mode=ImageReadMode.RGB))


def jpeg_bytes(item):
    path, label = item
    with open(path, "rb") as file:
        return {"jpeg": file.read(), "label": label}


def litdata(args):
    import litdata as ld

    if args.prepare:
        return ld.optimize(jpeg_bytes, files(args), args.shards, chunk_bytes="64MB", num_workers=1)
    picture = Picture(args.train)

    class Pictures(ld.StreamingDataset):
        def __getitem__(self, i):
            return picture(super().__getitem__(i)["jpeg"])

    data = Pictures(args.shards, shuffle=True, drop_last=False)
    return ld.StreamingDataLoader(
        data, batch_size=args.batch_size, num_workers=args.workers, persistent_workers=True, prefetch_factor=4
    )


def mosaic(args):
    import streaming

    if args.prepare:
        with streaming.MDSWriter(out=args.shards, columns={"jpeg": "bytes", "label": "int"}) as out:
            for item in files(args):
                out.write(jpeg_bytes(item))
        return None
    picture = Picture(args.train)

    class Pictures(streaming.StreamingDataset):
        def __getitem__(self, i):
            return picture(super().__getitem__(i)["jpeg"])

    streaming.base.util.clean_stale_shared_memory()
    data = Pictures(local=args.shards, shuffle=True, batch_size=args.batch_size)
    return torch.utils.data.DataLoader(
        data, args.batch_size, num_workers=args.workers, persistent_workers=True, prefetch_factor=4
    )


def webdataset(args):
    import webdataset as wds

    if args.prepare:
        with wds.ShardWriter(os.path.join(args.shards, "%06d.tar"), maxcount=125, verbose=0) as out:
            for i, item in enumerate(files(args)):
                sample = jpeg_bytes(item)
                out.write({"__key__": f"{i:06}", "jpg": sample["jpeg"], "cls": sample["label"]})
        return None
    picture = Picture(args.train)
    urls = sorted(os.path.join(args.shards, name) for name in os.listdir(args.shards) if name.endswith(".tar"))
    data = wds.WebDataset(urls, shardshuffle=len(urls), seed=1).shuffle(500).to_tuple("jpg").map(lambda s: picture(s[0]))
    data = data.batched(args.batch_size, collation_fn=torch.stack, partial=True)
    return wds.WebLoader(data, batch_size=None, num_workers=args.workers, persistent_workers=True, prefetch_factor=4)


def build(args):
    loader = {"litdata": litdata, "mosaicml-streaming": mosaic, "webdataset": webdataset}[args.rival](args)
    return lambda: iter(loader)


if __name__ == "__main__":
    run(build)
