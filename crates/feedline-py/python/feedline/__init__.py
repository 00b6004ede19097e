"""Feedline feeds distributed training: PyTorch's words, a Rust engine.

    import feedline

    source = feedline.images("data/train").random_resized_crop(224).hflip().normalize()
    loader = feedline.DataLoader(source, batch_size=64, shuffle=True)
    for images, labels in loader:
        ...

This module needs NumPy only; ``feedline.torch`` has what belongs to torch.
"""

from ._native import __version__
from .batch import Batch, DictBatch
from .errors import (
    ConfigError,
    DatasetError,
    FeedlineError,
    FileError,
    LoaderTimeoutError,
    OutOfMemoryError,
    RanksError,
    SampleError,
    StateError,
    TooManyBadSamplesError,
    UnsupportedError,
    WorkerError,
)
from .loader import DataLoader
from .pictures import Images, images
from .source import Source, arrays, dataset

__all__ = [
    "Batch",
    "ConfigError",
    "DataLoader",
    "DatasetError",
    "DictBatch",
    "FeedlineError",
    "FileError",
    "Images",
    "LoaderTimeoutError",
    "OutOfMemoryError",
    "RanksError",
    "SampleError",
    "Source",
    "StateError",
    "TooManyBadSamplesError",
    "UnsupportedError",
    "WorkerError",
    "__version__",
    "arrays",
    "dataset",
    "images",
]
