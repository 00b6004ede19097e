"""A sampler that a loader follows: which samplers are supported, and when the loader must read their state again. Owns no
order: that is the plan's.
"""

from __future__ import annotations

import sys
import weakref
from typing import Any, Protocol

from . import _native
from .errors import ConfigError


class Follower(Protocol):
    """The members of ``DataLoader`` through which a sampler leads it."""

    _loaded_epoch: int | None

    def state_dict(self) -> dict[str, Any]: ...
    def load_state_dict(self, state_dict: dict[str, Any]) -> None: ...
    def set_epoch(self, epoch: int) -> None: ...


class Followed:
    """A sampler whose order, rank, epoch and position a loader follows."""

    def __init__(self, sampler: Any, length: int) -> None:
        self.sampler = sampler
        self._is_ours = isinstance(getattr(sampler, "plan", None), _native.Plan)
        kind = type(sampler)
        known = _sampler_kind(sampler)
        if known is None:
            raise ConfigError(
                f"the sampler {kind.__name__} of {kind.__module__} is not one that can be resumed anywhere. Use torch's "
                "DistributedSampler, those of feedline.torch, or shuffle, weights and the other arguments of this loader"
            )
        own_order = [name for name in ("__iter__", "__len__", "set_epoch") if getattr(kind, name) is not getattr(known, name)]
        if own_order:
            raise ConfigError(
                f"the sampler {kind.__name__} has its own {' and '.join(own_order)}, which would not be asked: the loader follows "
                f"the order of {known.__name__}. Use that one, or torch's DataLoader with this one"
            )
        self.length = self._length()
        if self.length != length:
            raise ConfigError(
                f"the sampler is over {self.length} samples, the data set has {length}. Make the sampler from this data set"
            )
        self._seen: Any = None
        # True if the program sets the sampler's epoch; the loader then uses that epoch, else it counts epochs itself.
        self._leads = False
        self._facts = self._order()

    def _length(self) -> int:
        if self._is_ours:
            return int(self.sampler._arguments[0][0])
        return len(self.sampler.dataset)

    def _order(self) -> Any:
        if self._is_ours:
            return None
        one = self.sampler
        return (one.num_replicas, one.rank, one.shuffle, one.seed, one.drop_last)

    def plan(self, num_replicas: int) -> _native.Plan:
        if self._is_ours:
            return self.sampler.plan  # type: ignore[no-any-return]
        one = self.sampler
        plan = _native.Plan(
            self.length,
            num_replicas,
            permutation="torch" if one.shuffle else "none",
            seed=one.seed % 2**64,
            tail="drop" if one.drop_last else "pad",
        )
        if (one.num_samples, one.total_size) != (plan.num_samples(one.rank, 0), plan.total_size()):
            raise ConfigError(
                f"the sampler {type(one).__name__} says {one.num_samples} samples for a rank and {one.total_size} for all; a "
                f"DistributedSampler over {self.length} has {plan.num_samples(one.rank, 0)} and {plan.total_size()}"
            )
        return plan

    def _now(self) -> Any:
        return (self.sampler.epoch, self.sampler._start, self.sampler.plan) if self._is_ours else (self.sampler.epoch,)

    def lead(self, loader: Follower) -> None:
        """Brings the loader to where the sampler says that it is."""
        if self._order() != self._facts:
            raise ConfigError(
                f"the sampler's order has changed since the loader was made: (num_replicas, rank, shuffle, seed, drop_last) was "
                f"{self._facts} and is {self._order()}. Make a new loader"
            )
        now, seen, leads = self._now(), self._seen, self._leads
        # The state of a sampler that was not changed yet.
        before = seen or (0, 0, now[-1])[: len(now)]
        if now[1:] != before[1:]:
            # A state was loaded into the sampler. It does not name the data set, so the loader adds its own.
            self.sampler._driver = None
            mine = loader.state_dict()
            known = {name: mine[name] for name in ("dataset", "bad_samples")}
            loader.load_state_dict(self.sampler.state_dict() | known)
        elif now[0] != before[0] or (leads and loader._loaded_epoch is None):
            loader.set_epoch(now[0])
            leads = True
        self._seen, self._leads = now, leads
        if self._is_ours:
            self.sampler._driver = weakref.ref(loader)

    def overrule(self) -> None:
        """A state was loaded into the loader; the sampler's position is ignored until its epoch changes."""
        self._leads = False
        self._seen = self._now()

    @property
    def is_moved(self) -> bool:
        """True if the sampler's epoch was set, or a state was loaded into it, since the loader last checked."""
        return bool(self._now() != self._seen)


def _sampler_kind(sampler: Any) -> Any:
    """The class, Feedline's or torch's, whose order the sampler has."""
    torch_data, ours = sys.modules.get("torch.utils.data.distributed"), sys.modules.get("feedline.torch")
    kinds = [getattr(ours, f"Distributed{name}Sampler", None) for name in ("", "Weighted", "Mixture")]
    kinds += [getattr(torch_data, "DistributedSampler", None)]
    return next((kind for kind in kinds if kind is not None and isinstance(sampler, kind)), None)
