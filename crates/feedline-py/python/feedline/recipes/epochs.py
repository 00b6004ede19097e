"""Shared by the loaders of recipes: batches that are dicts, passes over an epoch that end with their last batch, and a
stand-in for a ``DistributedSampler``. Order, threads and resuming are :class:`feedline.DataLoader`'s.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from typing import Any

from .. import _native
from ..batch import DictBatch
from ..errors import whole_number
from ..loader import DataLoader, _Pass


class Minibatch(DictBatch):
    """A batch as a dict of its fields."""


class EpochPass(_Pass):
    """One pass over an epoch, with ``.next()``. It ends with its last batch, not when one more is asked for: the loops of
    the programs that recipes replace take exactly as many batches as there are.
    """

    def __init__(self, loader: DataLoader) -> None:
        super().__init__(loader)
        self.ended = threading.Event()

    def __next__(self) -> Any:
        try:
            batch = super().__next__()
        except StopIteration:
            self.ended.set()
            raise
        with self._one_at_a_time:
            # Does not wait: no batch is left to be made.
            if not self.over and self._engine.left() == 0 and self._engine.next(self._timeout_s) is None:
                self.over = True
                self.ended.set()
        return batch

    def next(self) -> Any:
        """As ``next(iterator)``."""
        try:
            return self.__next__()
        except StopIteration:
            raise StopIteration(
                "the epoch has no more batches; after going on in the middle of one there are fewer than in a whole one. "
                "Take as many as loader.batches_left says when the epoch begins"
            ) from None


class EpochLoader(DataLoader):
    """:class:`feedline.DataLoader` with its arguments, whose batches are :class:`Minibatch` and whose iterators have
    ``.next()``.
    """

    _make_batch: Callable[..., Any]
    # Set when the newest pass is over.
    _ended: threading.Event | None = None

    def _make_pass(self) -> _Pass:
        return EpochPass(self)

    def _begin(self, newest: _Pass) -> _native.Loader:
        engine = super()._begin(newest)
        self._ended = newest.ended if isinstance(newest, EpochPass) else None
        return engine

    def __iter__(self) -> Iterator[Minibatch]:
        return super().__iter__()

    def set_epoch(self, epoch: int) -> None:
        """Sets the epoch of the next iterator. No call is needed. For the epoch that is next anyway it changes nothing:
        prefetched batches are kept, and so is a loaded position in the middle of it.
        """
        epoch = whole_number("epoch", epoch, 0)
        between = self._ended is None or self._ended.is_set()
        if not between or self._engine.place() != (epoch, 0):
            super().set_epoch(epoch)


class EpochSampler:
    """A stand-in for a ``DistributedSampler``. The loader itself deals samples to ranks and counts epochs."""

    def __init__(self, loader: EpochLoader, samples: int) -> None:
        self._loader = loader
        self._samples = samples
        self.num_replicas = loader.num_replicas
        self.rank = loader.rank

    def __len__(self) -> int:
        """Samples of an epoch on this rank."""
        return self._samples

    @property
    def epoch(self) -> int:
        """The epoch that is being delivered, or will be next."""
        return self._loader.epoch

    def set_epoch(self, epoch: int) -> None:
        """As the loader's ``set_epoch``."""
        self._loader.set_epoch(epoch)
