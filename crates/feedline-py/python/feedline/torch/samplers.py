"""Samplers for torch's DataLoader. The indices equal torch's; the state can be saved, and loaded on any number of ranks."""

from __future__ import annotations

import json
import operator
import warnings
import weakref
from collections.abc import Iterator, Sequence, Sized
from itertools import chain, islice
from typing import Any, Literal

from torch.utils.data import ConcatDataset, Sampler
from torch.utils.data import DistributedSampler as TorchDistributedSampler

from .. import _native
from ..errors import ConfigError, as_json, whole_number
from ..loader import DataLoader
from ..ranks import discover, log

Tail = Literal["pad", "drop", "exact"]
Permutation = Literal["torch", "feistel"]


class _PlanSampler(TorchDistributedSampler[Any]):
    """One rank's indices of a plan, epoch after epoch. It is one of torch's by name only: Lightning would give it to ranks again."""

    plan: _native.Plan
    shuffle: bool
    epoch: int

    def _begin(self, length: int, num_replicas: int | None, rank: int | None, **order: Any) -> None:
        self._ranks = _place(num_replicas, rank)
        self._arguments = (length, self.num_replicas), order
        self.epoch = 0
        # Position at which the next pass begins, in the epoch of a loaded state.
        self._start = 0
        # The running pass: its epoch and start, the number of indices in earlier lists, and this list's length and iterator.
        self._pass: tuple[int, int] | None = None
        self._before = 0
        self._list: tuple[int, Iterator[int]] = (0, iter(()))
        self._warned = False
        # The Feedline loader that follows this sampler and tracks its position.
        self._driver: weakref.ref[DataLoader] | None = None
        self._make_plan()

    @property
    def num_replicas(self) -> int:  # type: ignore[override]  # torch's are plain attributes
        return self._ranks[0]

    @property
    def rank(self) -> int:  # type: ignore[override]
        """Read-only, as num_replicas. torch allows setting it later, but indices that are already dealt would not change."""
        return self._ranks[1]

    def _make_plan(self) -> None:
        arguments, order = self._arguments
        if not arguments[0]:
            raise ConfigError("the dataset of the sampler has no samples. Give one that has some, or make no sampler for it")
        self.plan = _native.Plan(*arguments, **order)

    @property
    def num_samples(self) -> int:  # type: ignore[override]
        """Indices of this rank in a whole epoch."""
        return self.plan.num_samples(self.rank, 0)

    @property
    def total_size(self) -> int:  # type: ignore[override]
        """Indices of all ranks in a whole epoch."""
        return self.plan.total_size()

    def __len__(self) -> int:
        return self.num_samples

    def __iter__(self) -> Iterator[int]:
        now = (self.epoch, self._start)
        if self.shuffle and not self._warned and self._pass is not None and self._pass[0] == self.epoch:
            self._warned = True
            warnings.warn(
                f"epoch {self.epoch} is sampled a second time, in the same order as before. Call "
                "sampler.set_epoch(epoch) at the beginning of each epoch",
                UserWarning,
                stacklevel=2,
            )
        self._pass, self._before, self._list, self._start = now, 0, (0, iter(())), 0
        return chain.from_iterable(self._lists(*now))

    def _lists(self, epoch: int, start: int) -> Iterator[Iterator[int]]:
        # chain iterates the lists without a Python step per index, and the number of indices taken can still be read.
        for indices in self.plan.indices(epoch, self.rank, start):
            self._before += self._list[0]
            self._list = len(indices), iter(indices)
            yield self._list[1]

    def set_epoch(self, epoch: int) -> None:
        """Sets the epoch of the next pass. After :meth:`load_state_dict` the loaded epoch continues from its saved position."""
        epoch = whole_number("epoch", epoch, 0)
        if epoch != self.epoch:
            self._start = 0
        self.epoch = epoch

    def state_dict(self, consumed: int | None = None) -> dict[str, Any]:
        """Returns the position in this epoch: a few hundred bytes, JSON-serialisable, the same on every rank.

        ``consumed`` is the number of indices of this rank used for training since the pass began (steps times batch
        size). Without it all indices that were handed out count; torch's DataLoader takes more than it has delivered. If a
        ``feedline.DataLoader`` follows this sampler, that loader counts the indices.
        """
        loader = None if self._driver is None else self._driver()
        if loader is not None and loader._follows is not None and not loader._follows.is_moved:
            if consumed is not None:
                raise ConfigError("a feedline.DataLoader delivers by this sampler and counts by itself. Leave consumed out")
            return loader.state_dict() | {"dataset": f"{0:016x}", "bad_samples": 0}
        if self._pass is None or self._pass[0] != self.epoch:
            return self._cursor(self.epoch, self._start)
        epoch, start = self._pass
        count = self.plan.num_samples(self.rank, start)
        handed = self._before + self._list[0] - operator.length_hint(self._list[1])
        if consumed is not None and not 0 <= consumed <= handed:
            raise ConfigError(f"consumed={consumed}, but {handed} indices were handed out in this pass")
        taken = min(handed if consumed is None else consumed, count)
        return self._cursor(epoch, start + taken * self.num_replicas)

    def _cursor(self, epoch: int, position: int) -> dict[str, Any]:
        state: dict[str, Any] = json.loads(self.plan.cursor(epoch, position))
        return state

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """The next pass gives exactly the rest of the saved epoch, dealt to this sampler's ranks.

        Raises :class:`feedline.StateError` if the state belongs to another order; nothing changes then.
        """
        self.plan, self.epoch, self._start = self.plan.resume(as_json(state_dict))
        self._pass, self._before, self._list = None, 0, (0, iter(()))

    def __getstate__(self) -> dict[str, Any]:
        gone = ("plan", "_list", "_pass", "_before", "_driver")
        state = {key: value for key, value in self.__dict__.items() if key not in gone}
        return state | {"_state": self.state_dict()}

    def __setstate__(self, state: dict[str, Any]) -> None:
        saved = state.pop("_state")
        self.__dict__.update(state, _driver=None)
        self._make_plan()
        self.load_state_dict(saved)


def _place(num_replicas: int | None, rank: int | None) -> tuple[int, int]:
    """(number of ranks, rank) as in torch: the arguments, else the process group; in addition the launcher's variables.
    Raises torch's error if none gives them."""
    if num_replicas is not None and rank is not None:
        if rank >= num_replicas or rank < 0:
            raise ValueError(f"Invalid rank {rank}, rank should be in the interval [0, {num_replicas - 1}]")
        return num_replicas, rank
    import torch.distributed

    if not torch.distributed.is_available():
        raise RuntimeError("Requires distributed package to be available")
    found, world_size, rule = discover()
    if rule == "no launcher":
        raise ValueError("Default process group has not been initialized, please make sure to call init_process_group.")
    log.info("sampler: rank %d of %d, %s", found, world_size, rule)
    return _place(world_size if num_replicas is None else num_replicas, found if rank is None else rank)


class DistributedSampler(_PlanSampler):
    """``torch.utils.data.DistributedSampler``: the same arguments, attributes, errors and indices.

    Args:
        dataset: Any object with a length, which is read once.
        num_replicas, rank: By default from the process group, or the variables of torchrun and other launchers.
        shuffle, seed, drop_last: As torch's.
        tail: "pad" and "drop" are torch's ``drop_last``; "exact" gives every sample once: ranks may differ by one.
        epoch_length: Indices of an epoch over all ranks; passes over the data are joined and cut into such epochs.
        merge_epochs: Number of copies of the data in one permutation, which is one epoch.
        permutation: "feistel" takes any length and needs no memory; its order is not torch's.
    """

    def __init__(
        self,
        dataset: Sized,
        num_replicas: int | None = None,
        rank: int | None = None,
        shuffle: bool = True,
        seed: int = 0,
        drop_last: bool = False,
        *,
        tail: Tail | None = None,
        epoch_length: int | None = None,
        merge_epochs: int | None = None,
        permutation: Permutation = "torch",
    ) -> None:
        if tail is not None and drop_last and tail != "drop":
            raise ConfigError(f'tail="{tail}" and drop_last=True contradict each other. Leave one out')
        if permutation != "torch" and not shuffle:
            raise ConfigError(f"permutation={permutation!r} has no effect with shuffle=False. Leave one out")
        self.dataset = dataset  # type: ignore[assignment]  # any object with a length
        self.shuffle = shuffle
        self.seed = seed
        self.drop_last = drop_last or tail == "drop"
        self._begin(
            len(dataset),
            num_replicas,
            rank,
            permutation=permutation if shuffle else "none",
            seed=seed % 2**64,
            tail=tail or ("drop" if drop_last else "pad"),
            epoch_length=epoch_length,
            merge_epochs=merge_epochs,
        )


def order_of_torchs(sampler: Any) -> dict[str, Any]:
    """What the order of a distributed sampler is made of, as an entry of a state; empty if none of torch's could have that order."""
    order = dict(sampler._arguments[1]) if isinstance(sampler, _PlanSampler) else {}
    tail = order.pop("tail", "drop" if getattr(sampler, "drop_last", False) else "pad")
    permutation, _ = order.pop("permutation", "torch"), order.pop("seed", None)
    if permutation == "feistel" or any(value is not None for value in order.values()):
        return {}
    return {"order": {"length": len(sampler.dataset), "shuffle": sampler.shuffle, "seed": sampler.seed, "tail": tail}}


class DistributedWeightedSampler(_PlanSampler):
    """Draws with replacement by ``weights``, one for each sample: torch's ``WeightedRandomSampler`` for many ranks.

    ``num_samples_per_epoch`` counts indices over all ranks; the default is the number of weights. The order is not torch's: a
    draw depends on (seed, epoch, position) alone, so ranks agree, and any number of them can resume.
    """

    def __init__(
        self,
        weights: Sequence[float],
        num_samples_per_epoch: int | None = None,
        num_replicas: int | None = None,
        rank: int | None = None,
        seed: int = 0,
        *,
        tail: Tail = "pad",
    ) -> None:
        self.weights = [float(weight) for weight in weights]
        self.shuffle = True
        self.seed = seed
        self._begin(
            len(self.weights),
            num_replicas,
            rank,
            permutation="feistel",
            seed=seed % 2**64,
            tail=tail,
            epoch_length=num_samples_per_epoch,
            weights=self.weights,
        )


class DistributedMixtureSampler(_PlanSampler):
    """Mixes the data sets of a ``ConcatDataset``; each is used in shuffled passes of its own.

    ``weights`` are the shares, in the order of the data sets; ``lengths`` may replace the data set. A state may be
    loaded with other weights, which apply from there on.
    """

    def __init__(
        self,
        dataset: ConcatDataset[Any] | None,
        weights: Sequence[float],
        num_samples_per_epoch: int | None = None,
        num_replicas: int | None = None,
        rank: int | None = None,
        seed: int = 0,
        *,
        lengths: Sequence[int] | None = None,
        tail: Tail = "pad",
        permutation: Permutation = "torch",
    ) -> None:
        if lengths is not None and dataset is not None:
            raise ConfigError("dataset and lengths both say how long the parts are. Leave one out (dataset=None)")
        if lengths is None:
            if not isinstance(dataset, ConcatDataset):
                raise ConfigError("a mixture is made of several data sets. Give a torch.utils.data.ConcatDataset")
            lengths = [len(part) for part in dataset.datasets]  # type: ignore[arg-type]
        if len(lengths) != len(weights):
            raise ConfigError(f"there are {len(lengths)} data sets and {len(weights)} weights. Give each one")
        self.weights = [float(weight) for weight in weights]
        self.shuffle = True
        self.seed = seed
        self._begin(
            sum(lengths),
            num_replicas,
            rank,
            permutation=permutation,
            seed=seed % 2**64,
            tail=tail,
            epoch_length=num_samples_per_epoch,
            mix=list(zip(lengths, self.weights)),
        )


class DistributedBatchSampler(Sampler[list[int]]):
    """Batches of this rank, for ``DataLoader(batch_sampler=...)``.

    ``lengths``, one for each sample, groups samples of about the same length: every ``window`` samples are
    sorted by length and cut into steps of all ranks, which come in random order. So a step needs little padding.
    """

    def __init__(
        self,
        dataset: Sized,
        batch_size: int,
        num_replicas: int | None = None,
        rank: int | None = None,
        shuffle: bool = True,
        seed: int = 0,
        drop_last: bool = False,
        *,
        lengths: Sequence[int] | None = None,
        window: int | None = None,
        tail: Tail | None = None,
    ) -> None:
        if isinstance(batch_size, bool) or not isinstance(batch_size, int) or batch_size < 1:
            raise ValueError(f"batch_size should be a positive integer value, but got batch_size={batch_size}")
        self.batch_size = batch_size
        self.drop_last = drop_last
        self.sampler = DistributedSampler(dataset, num_replicas, rank, shuffle, seed, drop_last, tail=tail)
        if window is not None and lengths is None:
            raise ConfigError(f"window={window} has no effect without lengths. Give lengths, or leave it out")
        if lengths is not None:
            step = batch_size * self.sampler.num_replicas
            window = max(1, (window or 100 * step) // step) * step
            arguments, order = self.sampler._arguments
            order = order | {"lengths": ([int(length) for length in lengths], window, step)}
            self.sampler._arguments = arguments, order
            self.sampler._make_plan()
        self._steps = 0

    def __iter__(self) -> Iterator[list[int]]:
        indices = iter(self.sampler)
        self._steps = 0
        while batch := list(islice(indices, self.batch_size)):
            if len(batch) < self.batch_size and self.drop_last:
                return
            self._steps += 1
            yield batch

    def __len__(self) -> int:
        samples, size = len(self.sampler), self.batch_size
        return samples // size if self.drop_last else -(-samples // size)

    def set_epoch(self, epoch: int) -> None:
        """As :meth:`DistributedSampler.set_epoch`."""
        self.sampler.set_epoch(epoch)

    def state_dict(self, steps: int | None = None) -> dict[str, Any]:
        """Returns the position in this epoch. ``steps`` of this pass were used for training; the default is all handed out."""
        steps = self._steps if steps is None else steps
        if steps > self._steps or steps < 0:
            raise ConfigError(f"steps={steps}, but {self._steps} batches were handed out in this pass")
        if steps == 0:
            return self.sampler.state_dict() if self.sampler._pass is None else self.sampler.state_dict(consumed=0)
        rest = self.sampler.plan.num_samples(self.sampler.rank, (self.sampler._pass or (0, 0))[1])
        return self.sampler.state_dict(consumed=min(steps * self.batch_size, rest))

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """As :meth:`DistributedSampler.load_state_dict`; the batch size may differ."""
        self.sampler.load_state_dict(state_dict)
        self._steps = 0
