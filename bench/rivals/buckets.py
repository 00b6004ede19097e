"""Pictures in a bucket, one object each, under torch DataLoader: s3torchconnector, boto3, litdata's raw files.

All decode by torchvision.io, as a user of torch would.
"""

import os
from concurrent.futures import ThreadPoolExecutor
from urllib.parse import urlparse

import boto3
import botocore.config
from loop import run
from shards import Picture, litdata_options
from torch.utils.data import DataLoader, Dataset

THREADS = 16  # of `boto3-threads`, in each worker


def listed(url):
    """(key, size) of every picture below a URL."""
    at = urlparse(url)
    pages = boto3.client("s3").get_paginator("list_objects_v2").paginate(Bucket=at.netloc, Prefix=at.path.strip("/") + "/")
    return at.netloc, [(o["Key"], o["Size"]) for page in pages for o in page["Contents"]]


class Boto3(Dataset):
    """A client for each worker; with `threads` a worker fetches its batch by that many threads."""

    def __init__(self, args, threads):
        self.bucket, self.objects = listed(args.url)
        self.picture, self.threads, self.client = Picture(args.train), threads, None

    def __len__(self):
        return len(self.objects)

    def get(self, i):
        return self.client.get_object(Bucket=self.bucket, Key=self.objects[i][0])["Body"].read()

    def __getitems__(self, rows):
        if self.client is None:
            self.client = boto3.client("s3", config=botocore.config.Config(max_pool_connections=max(self.threads, 1)))
            self.pool = ThreadPoolExecutor(self.threads) if self.threads else None
        fetched = self.pool.map(self.get, rows) if self.pool else map(self.get, rows)
        return [self.picture(data) for data in fetched]


def connector(args):
    from s3torchconnector import S3ClientConfig, S3MapDataset

    picture = Picture(args.train)
    return S3MapDataset.from_prefix(
        args.url + "/",
        region=os.environ["AWS_REGION"],
        endpoint=os.environ["AWS_ENDPOINT_URL"],
        transform=lambda reader: picture(reader.read()),
        s3client_config=S3ClientConfig(force_path_style=True),
    )


def litdata_raw(args):
    from litdata.raw.dataset import StreamingRawDataset
    from litdata.raw.indexer import BaseIndexer, FileMetadata

    class Indexer(BaseIndexer):
        """Its own one wants s3fs, whose botocore is another, and writes into the bucket."""

        def discover_files(self, input_dir, storage_options):
            bucket, objects = listed(input_dir)
            return [FileMetadata(f"s3://{bucket}/{key}", size) for key, size in objects]

        def build_or_load_index(self, input_dir, cache_dir, storage_options, recompute_index=False):
            return self.discover_files(input_dir, storage_options)

    options = litdata_options()
    return StreamingRawDataset(
        args.url, str(args.scratch), Indexer(), options, transform=Picture(args.train), max_prefetch=0
    )


def build(args):
    data = {
        "s3torchconnector": connector,
        "boto3": lambda args: Boto3(args, 0),
        "boto3-threads": lambda args: Boto3(args, THREADS),
        "litdata-raw": litdata_raw,
    }[args.rival](args)
    loader = DataLoader(
        data, args.batch_size, shuffle=True, num_workers=args.workers, persistent_workers=True, prefetch_factor=4
    )
    return lambda: iter(loader)


if __name__ == "__main__":
    run(build)
