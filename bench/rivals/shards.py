"""litdata, mosaicml-streaming and webdataset on their own shard formats, holding the work's JPEG bytes unchanged.

Each runs under torch DataLoader workers as its docs say, decodes by torchvision.io and transforms tensors. In work T the
shards lie in a bucket, and what keeps a cache has it emptied before each epoch, unless it runs as `NAME-cache`.
"""

import os
import pathlib

import samples
import torch
from loop import count, files, run
from torchvision.io import ImageReadMode, decode_jpeg

SHARD_BYTES = 8 << 20  # in a bucket: some 16 shards, for what is loaded shard by shard


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


class Emptied:
    """A loader whose cache `empty` empties between epochs."""

    def __init__(self, loader, empty):
        self.loader, self.empty = loader, empty

    def __call__(self):
        return iter(self.loader)


def chunks(args, names):
    """The files in the cache. All must be there, which proves that they were loaded in this epoch."""
    found, wanted = list(args.scratch.rglob(names)), len(list(pathlib.Path(args.shards).glob(names)))
    assert len(found) == wanted, f"{len(found)} of {wanted} {names} are in the cache"
    return found


def litdata_options():
    """litdata's options for the local server. litdata refuses servers without TLS unless `allow_http` is set."""
    from litdata.streaming import downloader

    downloader._OBSTORE_CLIENT_OPTIONS["allow_http"] = True
    return {"endpoint_url": os.environ["AWS_ENDPOINT_URL"], "region_name": os.environ["AWS_REGION"]}


def litdata(args):
    import litdata as ld

    if args.prepare:
        size = f"{SHARD_BYTES >> 20}MB" if args.url else "64MB"
        return ld.optimize(jpeg_bytes, files(args), args.shards, chunk_bytes=size, num_workers=1)
    picture = Picture(args.train)

    class Pictures(ld.StreamingDataset):
        def __getitem__(self, i):
            return picture(super().__getitem__(i)["jpeg"])

    if args.url:
        where = {"input_dir": args.url, "cache_dir": str(args.scratch), "storage_options": litdata_options()}
        where["max_pre_download"] = 8
    else:
        where = {"input_dir": args.shards}
    data = Pictures(**where, shuffle=True, drop_last=False)
    loader = ld.StreamingDataLoader(
        data, batch_size=args.batch_size, num_workers=args.workers, persistent_workers=True, prefetch_factor=4
    )

    def empty():
        for chunk in chunks(args, "*.bin"):
            chunk.unlink()

    return Emptied(loader, empty) if args.url and not args.rival.endswith("-cache") else loader


def mosaic(args):
    import streaming

    if args.prepare:
        size = {"size_limit": SHARD_BYTES} if args.url else {}
        with streaming.MDSWriter(out=args.shards, columns={"jpeg": "bytes", "label": "int"}, **size) as out:
            for item in files(args):
                out.write(jpeg_bytes(item))
        return None
    picture = Picture(args.train)

    class Pictures(streaming.StreamingDataset):
        def __getitem__(self, i):
            return picture(super().__getitem__(i)["jpeg"])

    streaming.base.util.clean_stale_shared_memory()
    places = {"remote": args.url, "local": str(args.scratch / "cache")} if args.url else {"local": args.shards}
    data = Pictures(**places, shuffle=True, batch_size=args.batch_size)
    if args.url:
        for stream in data.streams:
            stream._downloader.clean_up()  # or the workers inherit one connection and wait for each other's answers
    loader = torch.utils.data.DataLoader(
        data, args.batch_size, num_workers=args.workers, persistent_workers=True, prefetch_factor=4
    )

    def empty():
        for shard in range(len(chunks(args, "*.mds"))):
            data.evict_shard(shard)

    return Emptied(loader, empty) if args.url and not args.rival.endswith("-cache") else loader


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
    if args.url:
        urls = [signed(f"{args.url}/{os.path.basename(url)}") for url in urls]
    keep = {"cache_dir": str(args.scratch)} if args.rival.endswith("-cache") else {}
    data = wds.WebDataset(urls, shardshuffle=len(urls), seed=1, **keep).shuffle(500)
    data = data.to_tuple("jpg").map(lambda s: picture(s[0]))
    data = data.batched(args.batch_size, collation_fn=torch.stack, partial=True)
    return wds.WebLoader(data, batch_size=None, num_workers=args.workers, persistent_workers=True, prefetch_factor=4)


def signed(url):
    """An address that holds a signature, for webdataset's curl."""
    import boto3

    bucket, key = url.removeprefix("s3://").split("/", 1)
    return boto3.client("s3").generate_presigned_url("get_object", {"Bucket": bucket, "Key": key}, ExpiresIn=86400)


def build(args):
    make = {"litdata": litdata, "mosaicml-streaming": mosaic, "webdataset": webdataset}[args.rival.removesuffix("-cache")]
    loader = make(args)
    return loader if args.prepare or isinstance(loader, Emptied) else lambda: iter(loader)


if __name__ == "__main__":
    run(build)
