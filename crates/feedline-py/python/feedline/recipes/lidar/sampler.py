"""OpenPCDet's own sampler, for use with torch's loader; needs torch."""

from __future__ import annotations

from collections.abc import Sized

from ... import torch as feedline_torch


class DistributedSampler(feedline_torch.DistributedSampler):
    """OpenPCDet's sampler: torch's with seed 0 that always pads. If there are fewer samples than ranks they are repeated as
    often as needed; OpenPCDet's fails then. In addition its state can be saved and loaded.
    """

    def __init__(
        self, dataset: Sized, num_replicas: int | None = None, rank: int | None = None, shuffle: bool = True
    ) -> None:
        super().__init__(dataset, num_replicas, rank, shuffle)
