"""Feedline feeds distributed training: PyTorch's words, a Rust engine.

    import feedline

    source = feedline.images("data/train").random_resized_crop(224).hflip().normalize()
    loader = feedline.DataLoader(source, batch_size=64, shuffle=True)
    for images, labels in loader:
        ...

This module needs NumPy only; ``feedline.torch`` has what belongs to torch.
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

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

if TYPE_CHECKING:
    from .models import Model

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
    "load_model",
]


def load_model(path: str | os.PathLike[str]) -> Model:
    """A trained network in PyTorch, in evaluation mode, with the way from a picture to its input and the names of its classes:
    ``net, preprocess, classes = feedline.load_model(path)``, then ``net(preprocess("bird.jpg"))``.

    ``path`` is a ``.safetensors`` or ``.pt`` file of ``feedline export``, a run folder for its best checkpoint, or a checkpoint.
    ``net`` is torchvision's own class, or :class:`feedline.models.Small`; ``preprocess`` takes paths, PIL images and uint8 arrays
    (:class:`feedline.models.Preprocess`). Needs torch, and torchvision for its networks. Raises
    :class:`feedline.StateError` for a file that is damaged or was not written by Feedline.
    """
    try:
        from .models import load_model as load
    except ModuleNotFoundError as error:
        raise ImportError(f"feedline.load_model needs torch: pip install torch ({error})") from error
    return load(path)
