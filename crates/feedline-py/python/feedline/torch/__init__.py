"""The torch interface: ``DataLoader`` in place of torch's, and samplers whose state can be saved.

Change one import::

    from feedline.torch import DataLoader, DistributedSampler

A library that makes its loaders itself gets this one by :func:`patch`, or by ``python -m feedline.torch script.py``.

The batches and indices equal torch's. In addition the place in the data can be saved, and loaded on any number of ranks.
"""

try:
    import torch as _torch  # noqa: F401
except ModuleNotFoundError as error:
    raise ImportError("feedline.torch needs torch: pip install torch. Without it, feedline.DataLoader gives NumPy") from error

from .hosts import patch, unpatch
from .loader import DataLoader
from .samplers import (
    DistributedBatchSampler,
    DistributedMixtureSampler,
    DistributedSampler,
    DistributedWeightedSampler,
)

__all__ = [
    "DataLoader",
    "DistributedBatchSampler",
    "DistributedMixtureSampler",
    "DistributedSampler",
    "DistributedWeightedSampler",
    "patch",
    "unpatch",
]
