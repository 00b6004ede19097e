"""The order of a sampler that torch does not have: it is asked as it is, and the place is a number of batches or its own state."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from typing import Any

import torch
from torch.utils.data import DistributedSampler as TorchDistributedSampler

from ..workers.fetch import Task
from ..workers.seeds import key_of_pass
from .order import DRAWN, Order, differs, generator_of, text_of


class Iterated(Order):
    """Any other sampler: the place is a number of batches, or the sampler's own state."""

    kind = "iterated"
    has_unknown_end = True
    is_drawn_at_once = False

    def __init__(self, batches: Any, sampler: Any, batch_size: int | None, drop_last: bool, generator: Any) -> None:
        super().__init__(batch_size, drop_last)
        self._batches = batches
        # The loader's generator. A sampler that draws from it does so among the draws of the loader, all of which are made again.
        self._generator = generator
        # Who has a state: the sampler of batches, or the one that torch's BatchSampler asks.
        self.sampler = next((one for one in (batches, sampler) if hasattr(one, "state_dict") and hasattr(one, "load_state_dict")), None)
        self._start = 0
        self._iterator: Iterator[Any] = iter(())
        # Batches, the sampler's state, the origin, whether the pass had begun, and what _asked was, of a loaded place.
        self._loaded: tuple[int, Any, str | None, bool, list[bool] | None] | None = None
        # Of a pass with the loader's generator: whether the seed was drawn after the sampler was asked, and whether it was asked again.
        self._asked: list[bool] | None = None
        # The generator's state before the first batch, if a sampler of torch's draws the order, or from the loader's generator.
        self._origin: str | None = None
        self._was_used = False
        # Batches that are left out before a pass goes on.
        self._left_out = 0
        self._key: int | None = None
        # The epoch of a pass or a loaded place, of subclasses of torch's DistributedSampler.
        self._epoch: int | None = None
        # That of the sampler when its iterator was made.
        self._epoch_asked: int | None = None
        # The newest epoch of theirs, and how often it was delivered; of a pass, before it.
        self._delivered: tuple[int | None, int] = (None, 0)

    def begin(self) -> Iterated:
        if self._loaded is not None and self._loaded[0] and self._epoch not in (None, self.epoch()):
            # The program has set another epoch.
            self._loaded = None
        begun = copy.copy(self)
        begun._start, state, begun._origin, begun.is_resumed, asked = self._loaded or (0, None, None, False, None)
        begun._resumed, self._loaded, self._was_used = self._loaded, None, True
        if state is not None:
            self.sampler.load_state_dict(state)
        generator = self._drawn_from()
        if begun._origin is not None:
            generator.set_state(generator_of(begun._origin))
        innermost = _innermost(self._batches)
        begun._key = _key_of_accelerates(innermost)
        begun._epoch = epoch = self.epoch()
        if epoch is not None:
            repeat = self._delivered[1] if self._delivered[0] == epoch else 0
            begun._delivered, self._delivered = (epoch, repeat), (epoch, repeat + 1)
            if isinstance(getattr(innermost, "seed", None), int):
                # As of torch's own class: ranks may be seeded apart, and a sample draws the same on each.
                begun._key = key_of_pass(1, innermost.seed, epoch, repeat)
        # As torch, which asks before it draws the seed of the workers.
        begun._asked = None
        if generator is not None and generator is self._generator:
            begun._origin = self._origin_now()
        begun.again()
        begun._asked = asked if begun.is_resumed else [False, False] if generator is self._generator is not None else None
        begun._left_out = begun._start if state is None else 0
        return begun

    def take_back(self, idle: Iterated) -> bool:
        is_resumed = super().take_back(idle)
        if idle._epoch is None or idle._epoch != self.epoch():
            return is_resumed
        self._delivered = idle._delivered
        return True

    def catch_up(self) -> None:
        if self._asked is not None and self._asked[0]:
            torch.empty((), dtype=torch.int64).random_(generator=self._drawn_from())
        if self._asked is not None and self._asked[1]:
            self._iterator = iter(self._batches)
        for _ in range(self._left_out):
            next(self._iterator, None)

    def again(self) -> None:
        if self._asked is not None:
            self._asked[1] = True
        before = self._origin_now()
        self._iterator = iter(self._batches)
        self._epoch_asked = self.epoch()
        if self._origin is None and self._origin_now() != before:
            # It draws when it is asked, not with its first batch.
            self._origin = before

    def key(self) -> int | None:
        return self._key

    def tasks(self) -> Iterator[Task]:
        self._origin = self._origin or self._origin_now()
        # With workers the first batch is drawn when the pass begins. Without, an epoch that is set after that must not count either.
        later = self.epoch()
        is_late = later != self._epoch_asked and not self._start
        # Not a for loop, which would ask the iterator for an iterator: a sampler that is its own begins again then.
        while True:
            if is_late:
                _innermost(self._batches).set_epoch(self._epoch_asked)
            try:
                keys = next(self._iterator)
            except StopIteration:
                return
            finally:
                if is_late:
                    _innermost(self._batches).set_epoch(later)
            is_late = False
            yield Task(keys, None)

    def snapshot(self) -> Any:
        return None if self.sampler is None else copy.deepcopy(self.sampler.state_dict())

    def place(self, batches: int, samples: int, snapshot: Any) -> dict[str, Any]:
        asked = None if self._asked is None else [self.has_drawn_seed or self._asked[0], self._asked[1]]
        return self._place(self._start + batches, snapshot, self._origin or self._origin_now(), True, asked)

    def at_rest(self) -> dict[str, Any]:
        if self._loaded is not None:
            return self._place(*self._loaded)
        return self._place(0, self.snapshot() if self._was_used else None, self._origin_now(), False, None)

    def _place(self, batches: int, state: Any, origin: str | None, begun: bool, asked: list[bool] | None) -> dict[str, Any]:
        place = {"batches": batches, "state": state, "origin": origin, "batch_size": self.batch_size, "begun": begun}
        place |= {"asked": asked, "drawn by": self._drawn_by()}
        if isinstance(innermost := _innermost(self._batches), TorchDistributedSampler):
            place |= {"epoch": self._epoch, "num_replicas": innermost.num_replicas, "length": len(innermost)}
            place["delivered"] = list(self._delivered)
        return place

    def epoch(self) -> int | None:
        innermost = _innermost(self._batches)
        return innermost.epoch if isinstance(innermost, TorchDistributedSampler) else None

    def ranks(self) -> int:
        innermost = _innermost(self._batches)
        return innermost.num_replicas if isinstance(innermost, TorchDistributedSampler) else super().ranks()

    def _drawn_by(self) -> str | None:
        """Whose generator gives the order, as far as that is to be kept: that of a sampler of torch's, or the loader's."""
        if self.sampler is not None:
            return None
        innermost = _innermost(self._batches)
        if type(innermost) in DRAWN and getattr(innermost, "generator", None) is not None:
            return "sampler"
        return None if self._generator is None else "loader"

    def _drawn_from(self) -> Any:
        by = self._drawn_by()
        return None if by is None else _innermost(self._batches).generator if by == "sampler" else self._generator

    def _origin_now(self) -> str | None:
        """The state of the generator from which the order would be drawn now."""
        generator = self._drawn_from()
        return None if generator is None else text_of(generator.get_state())

    def is_over(self, batches: int, samples: int) -> bool:
        try:
            # Equal, not more: some programs give a sampler of batches that never ends and has the length of an epoch.
            return self._start + batches == len(self._batches)
        except TypeError:
            return False

    def load(self, place: dict[str, Any]) -> None:
        if place["batches"] and place["state"] is None and place["batch_size"] != self.batch_size:
            raise differs("batch_size", place["batch_size"], self.batch_size)
        innermost, epoch = _innermost(self._batches), None
        if place["batches"] and place["state"] is None and isinstance(innermost, TorchDistributedSampler):
            # The batches of this rank are skipped, so that they must be dealt as before.
            for what, now in (("num_replicas", innermost.num_replicas), ("length", len(innermost))):
                if place.get(what, now) != now:
                    raise differs(what, place[what], now)
            epoch = place.get("epoch")
        if place["state"] is not None and self.sampler is None:
            raise differs("sampler", "one with a state_dict", "one without")
        origin = place.get("origin")
        if origin is not None and self._drawn_by() != place.get("drawn by", "sampler"):
            raise differs("sampler", "one with a generator", "one without")
        self._loaded, self._epoch = (place["batches"], place["state"], origin, place["begun"], place.get("asked")), epoch
        self._delivered = tuple(place.get("delivered", (None, 0)))
        if epoch is not None:
            innermost.set_epoch(epoch)


def _innermost(batches: Any) -> Any:
    """The sampler whose order is dealt to ranks, put into batches, or partly skipped by those around it; accelerate makes such."""
    while hasattr(batches, "batch_sampler"):
        batches = batches.batch_sampler
    return getattr(batches, "sampler", batches)


def _key_of_accelerates(sampler: Any) -> int | None:
    """The key of the coming pass for accelerate's sampler with a seed and an epoch of its own: a program that goes on has the same."""
    if (type(sampler).__module__, type(sampler).__name__) != ("accelerate.data_loader", "SeedableRandomSampler"):
        return None
    return key_of_pass(3, sampler.initial_seed, sampler.epoch)
