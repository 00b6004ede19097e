"""What is left of an epoch whose state is of another kind of order: programs give ``shuffle=True`` on one process and a
``DistributedSampler`` on several, so a restart on another number of processes meets the other one's state.

The rest of that epoch is one pass in the order of the state. The epochs behind it are in the order of the loader's own sampler.
"""

from __future__ import annotations

import json
import warnings
from collections.abc import Iterator
from typing import Any

import torch
from torch.utils.data import DistributedSampler as TorchDistributedSampler
from torch.utils.data import RandomSampler, SequentialSampler

from ..errors import StateError
from ..workers.fetch import Task
from .order import Drawn, Order, Planned, differs
from .samplers import DistributedSampler


def rest_of(own: Order, kind: str, place: dict[str, Any]) -> Order | None:
    """The rest of the epoch of a state that is of another kind than the loader's own order; None if a new epoch begins there.

    Raises :class:`feedline.StateError` unless both give all samples once, in torch's random order or as they are.
    """
    if (kind, own.kind) not in (("plan", "drawn"), ("drawn", "plan")):
        raise differs("kind", kind, own.kind)
    saved, now = _order(place), _order(own.at_rest())
    if saved is None or now is None or saved != now:
        raise StateError(
            "the state is of a DistributedSampler, or of shuffle=True, and this loader has the other one. One goes on with the rest of "
            f"the other's epoch if both have the same length and both shuffle or neither: the state's is {_said(saved)}, this loader's "
            f"{_said(now)}. Give the sampler of the state; on a single process, sampler=DistributedSampler(dataset, 1, 0, ...)",
            field="kind",
            saved=kind,
            now=own.kind,
        )
    rest: Order
    if kind == "plan":
        if place["done"] or not place["cursor"]["position"]:
            return None
        order = place["order"]
        sampler = DistributedSampler(range(order["length"]), 1, 0, order["shuffle"], order["seed"], tail=order["tail"])
        rest = Planned(sampler, own.batch_size, own.drop_last)
        rest.load(place)
        told = "is delivered in the order of the DistributedSampler that the state is of; later epochs are those of this loader's sampler"
    else:
        if not place["samples"]:
            return None
        rest = Dealt(place, own)
        told = "is shared by the ranks in the order of the state; later epochs are those of this loader's DistributedSampler"
    warnings.warn(f"the state is of another kind of sampler: what is left of its epoch {told}", UserWarning, stacklevel=3)
    return rest


def behind_rest(own: Order) -> dict[str, Any]:
    """The place of a loader's own order behind such a rest: the epoch that a distributed sampler stands at is complete with it."""
    if not isinstance(own, Planned):
        return own.at_rest()
    plan = own._plan()
    cursor = json.loads(plan.cursor(own.sampler.epoch, plan.total_size()))
    return own.at_rest() | {"cursor": cursor, "repeat": 0, "begun": False, "done": True}


def _order(place: dict[str, Any]) -> tuple[int, bool] | None:
    """Number of samples, and whether they are shuffled as torch does; None for every other order."""
    if "cursor" in place:
        order = place.get("order")
        return None if order is None else (order["length"], order["shuffle"])
    if place["sampler"] == "SequentialSampler":
        return place["length"], False
    if place["sampler"] == "RandomSampler" and not place["replacement"] and place.get("is whole", True):
        return place["length"], True
    return None


def _said(order: tuple[int, bool] | None) -> str:
    return "another order" if order is None else f"{order[0]} samples, {'shuffled' if order[1] else 'not shuffled'}"


class Dealt(Drawn):
    """The rest of an epoch of one process, dealt to the ranks of a distributed sampler as it deals."""

    def __init__(self, place: dict[str, Any], own: Order) -> None:
        samples = range(place["length"])
        sampler: SequentialSampler | RandomSampler = SequentialSampler(samples)
        if place["sampler"] == "RandomSampler":
            sampler = RandomSampler(samples, generator=torch.Generator() if place["has a generator"] else None)
        super().__init__(sampler, own.batch_size, own.drop_last)
        self._ranks = own.sampler
        self.load(place)

    def _count(self) -> int:
        """Samples of rank 0, which has the most."""
        left, ranks = len(self.sampler) - self._start, self._ranks.num_replicas
        return left // ranks if self._tail == "drop" else -(-left // ranks)  # type: ignore[no-any-return]

    def ranks(self) -> int:
        return self._ranks.num_replicas  # type: ignore[no-any-return]

    @property
    def _tail(self) -> str:
        one = self._ranks
        if type(one) is TorchDistributedSampler:
            return "drop" if one.drop_last else "pad"
        return str(one._arguments[1]["tail"])

    def tasks(self) -> Iterator[Task]:
        every, ranks = list(self._keys()), self._ranks.num_replicas
        end = len(every) if self._tail == "exact" else self._start + self._count() * ranks
        # As torch, which fills the ranks up from the beginning of the epoch.
        mine = (every[at % len(every)] for at in range(self._start + self._ranks.rank, end, ranks))
        yield from self._batched(mine, None, 1)

    def finish(self) -> None:
        """Nothing is drawn: the sampler is the state's, not the program's."""

    def place(self, batches: int, samples: int, snapshot: Any) -> dict[str, Any]:
        return super().place(batches, samples * self._ranks.num_replicas, snapshot)

    def is_over(self, batches: int, samples: int) -> bool:
        size = self.batch_size or 1
        return batches >= (self._count() // size if self.drop_last else -(-self._count() // size))
