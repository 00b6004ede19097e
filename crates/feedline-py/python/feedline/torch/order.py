"""The order of a pass: which keys make its batches, and how the place in it is written down and found again.

Four kinds. *Plan*: exactly torch's or Feedline's distributed samplers; any number of ranks can go on. *Drawn*: exactly torch's other
samplers; the generator's state at the beginning of the pass is the order. *Iterated*: any other sampler, asked as it is (``iterated``). An
iterable dataset has none: *streams*, one for each worker.
"""

from __future__ import annotations

import base64
import copy
import json
import warnings
import zlib
from collections.abc import Iterator
from itertools import islice
from typing import Any

import numpy as np
import torch
from torch.utils.data import RandomSampler, SequentialSampler, SubsetRandomSampler, WeightedRandomSampler
from torch.utils.data import (
    DistributedSampler as TorchDistributedSampler,
)

from .. import _native
from ..errors import StateError
from ..workers.fetch import Task
from ..workers.seeds import key_of_pass
from .samplers import (
    DistributedMixtureSampler,
    DistributedSampler,
    DistributedWeightedSampler,
    order_of_torchs,
)

_OURS = (DistributedSampler, DistributedWeightedSampler, DistributedMixtureSampler)
DISTRIBUTED = (TorchDistributedSampler, *_OURS)
DRAWN = (SequentialSampler, RandomSampler, SubsetRandomSampler, WeightedRandomSampler)


class Order:
    """Passes over the data, one after the other; a state may be loaded in between.

    ``begin`` gives a pass, which is a copy of the order: ``tasks`` are its batches, and ``place`` is the place after so many of
    them, which ``load`` takes up again.
    """

    kind = ""
    sampler: Any

    def __init__(self, batch_size: int | None, drop_last: bool) -> None:
        self.batch_size = batch_size
        self.drop_last = drop_last

    # Whether it goes on with a pass that had begun already, so that nothing is drawn for it.
    is_resumed = False
    # A loaded place until a pass begins with it, and of a pass the one that it began with.
    _loaded: Any = None
    _resumed: Any = None
    # Whether how far the sampler is asked ahead is seen by nobody: it draws at the beginning of a pass, or from a generator of its own.
    is_drawn_at_once = True
    # Whether it may turn out only when the next batch is asked for that there is none.
    has_unknown_end = False

    def begin(self) -> Any:
        """A pass: from where the loaded state says, or from the first sample."""
        return copy.copy(self)

    def again(self) -> None:
        """Asks the sampler a second time, as torch does where workers are started, so that it draws what it draws there."""

    # Whether the seed of the workers was drawn for this pass.
    has_drawn_seed = False

    def catch_up(self) -> None:
        """Brings a pass that goes on to its place, when its seed is known."""

    def draw_again(self) -> None:
        """Lets a pass that goes on draw from the main generator what it drew when it began, without effect on its order."""

    def take_back(self, idle: Any) -> bool:
        """Lets the next pass begin where this one did, of which nobody has asked for a batch: what was loaded is not lost with it.
        Says whether it does; a pass that was not resumed has its own draws in most orders.
        """
        self._loaded = idle._resumed
        return bool(idle.is_resumed)

    def key(self) -> int | None:
        """The key of the pass that began, if the order has a seed of its own."""
        return None

    def epoch(self) -> int | None:
        """The epoch that the sampler stands at, if it has one."""
        return None

    def ranks(self) -> int:
        """How many processes share the samples."""
        return torch.distributed.get_world_size() if torch.distributed.is_available() and torch.distributed.is_initialized() else 1

    def tasks(self) -> Iterator[Task]:
        """The rest of the pass."""
        raise NotImplementedError

    def snapshot(self) -> Any:
        """The sampler's own state, right after it has given a batch."""
        return None

    def place(self, batches: int, samples: int, snapshot: Any) -> dict[str, Any]:
        """The place after so many batches and samples of this pass since it began."""
        raise NotImplementedError

    def is_over(self, batches: int, samples: int) -> bool:
        """Whether nothing is left of the pass after so many of its batches and samples, as far as is known."""
        return False

    def finish(self) -> None:
        """Lets the sampler draw what it draws behind the last batch of this pass, when it is asked in vain for another one."""

    def at_rest(self) -> dict[str, Any]:
        """The place before the next pass."""
        raise NotImplementedError

    def behind(self) -> dict[str, Any] | None:
        """The place behind this pass, if that is another than the one before the next."""
        return None

    def coming(self, main: torch.Generator) -> dict[str, Any]:
        """The place before the next pass, with the draws that it would make now; the main generator is given, as a copy."""
        raise NotImplementedError

    @property
    def is_loaded(self) -> bool:
        """Whether a place is loaded that no pass has begun with."""
        return self._loaded is not None

    def load(self, place: dict[str, Any]) -> None:
        """Takes up a place for the next pass. Raises :class:`feedline.StateError` if it belongs to another order."""
        raise NotImplementedError

    def _batched(self, keys: Iterator[Any], first: int | None, step: int) -> Iterator[Task]:
        size, at = self.batch_size, first
        while batch := list(islice(keys, size or 1)):
            if self.drop_last and len(batch) < (size or 1):
                return
            yield Task(batch[0] if size is None else batch, None if at is None else range(at, at + step * len(batch), step))
            at = None if at is None else at + step * len(batch)

    def _whole(self, samples: int) -> int:
        """Samples of so many that are delivered: whole batches, if the rest is dropped."""
        return samples // self.batch_size * self.batch_size if self.drop_last and self.batch_size else samples


def differs(what: str, saved: Any, now: Any) -> StateError:
    """The error that a state belongs to another order."""
    return StateError(
        f"the state is of another order: its {what} is {saved}, this loader's is {now}. Make the loader as it was, or begin anew",
        field=what,
        saved=saved,
        now=now,
    )


class Planned(Order):
    """A distributed sampler: the place is one position over all ranks."""

    kind = "plan"

    def __init__(self, sampler: Any, batch_size: int | None, drop_last: bool) -> None:
        super().__init__(batch_size, drop_last)
        self.sampler = sampler
        self._is_ours = type(sampler) in _OURS
        self.plan: Any = None
        self._is_begun = False
        # Epoch that a loaded state says is complete, until a pass begins.
        self._done: int | None = None
        self._has_warned = False
        # Epoch and position of a loaded place, until a pass begins.
        self._loaded: tuple[int, int] | None = None
        self._now: tuple[int, int, int] = (0, 0, 0)
        # How often the epoch was delivered before, by this loader and those whose states it was loaded from.
        self._repeats: dict[int, int] = {}

    def _plan(self) -> Any:
        one = self.sampler
        if self._is_ours:
            return one.plan
        length = len(one.dataset)
        permutation = "torch" if one.shuffle else "none"
        tail = "drop" if one.drop_last else "pad"
        return _native.Plan(length, one.num_replicas, permutation=permutation, seed=one.seed % 2**64, tail=tail)

    def begin(self) -> Planned:
        one, start = self.sampler, 0
        plan = self._plan()
        if self._is_ours:
            start, one._start = one._start, 0
            one._pass, one._before, one._list = None, 0, (0, iter(()))
        elif self._loaded is not None and self._loaded[0] == one.epoch:
            start = self._loaded[1]
        if not self._is_ours and (one.num_samples, one.total_size) != (plan.num_samples(one.rank, 0), plan.total_size()):
            raise StateError(
                f"the sampler gives {one.num_samples} of {one.total_size} samples to a rank, but its dataset has "
                f"{len(one.dataset)} now. Make the sampler anew"
            )
        if self._done == one.epoch:
            start = plan.total_size()
            warnings.warn(
                f"the state was taken when all of epoch {one.epoch} had been handed out, so nothing is left of it. Go on with epoch "
                f"{one.epoch + 1}",
                UserWarning,
                stacklevel=6,
            )
        repeat = self._repeats.get(one.epoch, 0)
        if repeat and one.shuffle and not self._has_warned:
            self._has_warned = True
            warnings.warn(
                f"epoch {one.epoch} is delivered a second time, in the same order as before. Call sampler.set_epoch(epoch) at the "
                "beginning of each epoch",
                UserWarning,
                stacklevel=6,
            )
        self._repeats = {one.epoch: repeat + 1}
        begun = copy.copy(self)
        begun.plan, begun._now, begun.is_resumed = plan, (one.epoch, start, repeat), self._is_begun or start > 0
        self._loaded, self._is_begun, self._done = None, False, None
        return begun

    def take_back(self, idle: Planned) -> bool:
        epoch, start, repeat = idle._now
        one = self.sampler
        if one.epoch != epoch or (self._is_ours and one._start):
            return False
        self._repeats, self._is_begun = {epoch: repeat}, idle.is_resumed
        if self._is_ours:
            one._start = start
        else:
            self._loaded = epoch, start
        return True

    def epoch(self) -> int:
        return self.sampler.epoch  # type: ignore[no-any-return]

    def ranks(self) -> int:
        return self.sampler.num_replicas  # type: ignore[no-any-return]

    def key(self) -> int:
        epoch, _, repeat = self._now
        return key_of_pass(1, self.sampler.seed, epoch, repeat)

    def tasks(self) -> Iterator[Task]:
        one, (epoch, start, _) = self.sampler, self._now
        lists = self.plan.indices(epoch, one.rank, start)
        keys = (key for some in lists for key in some)
        # With replacement one sample may come several times in an epoch: then it is its position that seeds it.
        draws = type(one) is DistributedWeightedSampler
        return self._batched(keys, start + one.rank if draws else None, one.num_replicas)

    def place(self, batches: int, samples: int, snapshot: Any) -> dict[str, Any]:
        epoch, start, repeat = self._now
        position = start + samples * self.sampler.num_replicas
        cursor = json.loads(self.plan.cursor(epoch, position))
        return {"cursor": cursor, "repeat": repeat, "begun": True, "done": False} | order_of_torchs(self.sampler)

    def at_rest(self) -> dict[str, Any]:
        one = self.sampler
        start = one._start if self._is_ours else self._loaded[1] if self._loaded and self._loaded[0] == one.epoch else 0
        return {
            "cursor": json.loads(self._plan().cursor(one.epoch, start)),
            "repeat": self._repeats.get(one.epoch, 0),
            "begun": self._is_begun,
            "done": False,
        } | order_of_torchs(self.sampler)

    def behind(self) -> dict[str, Any]:
        epoch, _, repeat = self._now
        cursor = json.loads(self.plan.cursor(epoch, self.plan.total_size()))
        return {"cursor": cursor, "repeat": repeat, "begun": False, "done": True} | order_of_torchs(self.sampler)

    def is_over(self, batches: int, samples: int) -> bool:
        # By steps, and of rank 0, which has the most samples: the place must be the same on all ranks.
        size, most = self.batch_size or 1, self.plan.num_samples(0, self._now[1])
        return batches >= (most // size if self.drop_last else -(-most // size))  # type: ignore[no-any-return]

    def load(self, place: dict[str, Any]) -> None:
        cursor, repeat, begun, done = json.dumps(place["cursor"]), place["repeat"], place["begun"], place["done"]
        if self._is_ours:
            self.sampler.load_state_dict(place["cursor"])
            epoch = self.sampler.epoch
        else:
            _, epoch, position = self._plan().resume(cursor)
            self.sampler.set_epoch(epoch)
            self._loaded = epoch, position
        self._repeats = {epoch: repeat}
        self._is_begun = begun
        self._done = None
        if done:
            # As if the loop had gone on. A program that sets this epoch again finds nothing left of it.
            self._done = epoch
            self.sampler.set_epoch(epoch + 1)


def text_of(state: torch.Tensor) -> str:
    """The state of a generator, as text."""
    return base64.b64encode(state.numpy().tobytes()).decode()


def generator_of(text: str) -> torch.Tensor:
    """The state of a generator, from text."""
    return torch.frombuffer(bytearray(base64.b64decode(text)), dtype=torch.uint8)


class Drawn(Order):
    """One of torch's samplers: the place is a number of samples and the state of the generator before the first of them."""

    kind = "drawn"

    def __init__(self, sampler: Any, batch_size: int | None, drop_last: bool) -> None:
        super().__init__(batch_size, drop_last)
        self.sampler = sampler
        self._origin: Any = None
        self._start = 0
        # Origin, samples, and whether the sampler's draw from the main generator was made already, of a loaded place.
        self._loaded: tuple[Any, int, bool] | None = None
        self._is_drawn = False
        # What is left of this pass, once a batch or its end was asked for.
        self._left: Iterator[Any] | None = None
        # Samples with replacement may come twice in a pass: then the position seeds them.
        self._draws = bool(getattr(sampler, "replacement", False))
        self.is_drawn_at_once = not (self._draws and getattr(sampler, "generator", None) is not None)

    def begin(self) -> Drawn:
        begun = copy.copy(self)
        begun.is_resumed = self._loaded is not None
        begun._origin, begun._start, begun._is_drawn = self._loaded or (None, 0, False)
        begun._resumed, self._loaded = self._loaded, None
        return begun

    def draw_again(self) -> None:
        self._is_drawn = False

    def tasks(self) -> Iterator[Task]:
        yield from self._batched(self._rest(), self._start if self._draws else None, 1)

    def finish(self) -> None:
        for _ in self._rest():
            pass

    def _rest(self) -> Iterator[Any]:
        self._left = self._left or islice(self._keys(), self._start, None)
        return self._left

    def _keys(self) -> Iterator[Any]:
        one = self.sampler
        generator = getattr(one, "generator", None)
        if type(one) is SequentialSampler:
            return iter(one)
        if generator is not None:
            if self._origin is not None:
                generator.set_state(generator_of(self._origin["state"]))
            self._origin = {"state": text_of(generator.get_state())}
            self._is_drawn = True
            return iter(one)
        # What torch's sampler draws from the main generator is drawn once for each pass, and not again when it goes on.
        own = torch.Generator()
        if type(one) is RandomSampler:
            if not self._is_drawn:
                seed = int(torch.empty((), dtype=torch.int64).random_().item())
                self._origin = self._origin or {"seed": seed}
            own.manual_seed(self._origin["seed"])
        else:
            if not self._is_drawn:
                state = text_of(torch.default_generator.get_state())
                next(iter(one), None)
                self._origin = self._origin or {"state": state}
            own.set_state(generator_of(self._origin["state"]))
        self._is_drawn = True
        clone = copy.copy(one)
        clone.generator = own
        return iter(clone)

    def place(self, batches: int, samples: int, snapshot: Any) -> dict[str, Any]:
        origin = self._origin or self._origin_now(torch.default_generator)
        return self._place(self._start + samples, origin, True, self._is_drawn)

    def _place(self, samples: int, origin: Any, is_begun: bool, is_drawn: bool) -> dict[str, Any]:
        place: dict[str, Any] = {"samples": samples, "origin": origin, "begun": is_begun, "drawn": is_drawn} | self._facts()
        if type(self.sampler) is RandomSampler and len(self.sampler) != len(self.sampler.data_source):
            place["is whole"] = False
        return place

    def coming(self, main: torch.Generator) -> dict[str, Any]:
        return self._place(0, self._origin_now(main), True, True)

    def _origin_now(self, main: torch.Generator) -> Any:
        """What the generator would give if the first sample were asked for now; the main one is given."""
        one = self.sampler
        if type(one) is SequentialSampler:
            return None
        state = (one.generator or main).get_state()
        if type(one) is not RandomSampler or one.generator is not None:
            return {"state": text_of(state)}
        clone = torch.Generator()
        clone.set_state(state)
        return {"seed": int(torch.empty((), dtype=torch.int64).random_(generator=clone).item())}

    def at_rest(self) -> dict[str, Any]:
        origin, start, is_drawn = self._loaded or (None, 0, False)
        is_begun = self._loaded is not None
        place = self._place(start, origin, is_begun, is_drawn)
        generator = getattr(self.sampler, "generator", None)
        if generator is not None and not is_begun:
            place["generator"] = text_of(generator.get_state())
        return place

    def _facts(self) -> dict[str, Any]:
        one = self.sampler
        facts: dict[str, Any] = {"sampler": type(one).__name__, "length": len(one)}
        if type(one) is not SequentialSampler:
            facts["has a generator"] = one.generator is not None
        if type(one) in (RandomSampler, WeightedRandomSampler):
            facts["replacement"] = one.replacement
        drawn_from = getattr(one, "weights", getattr(one, "indices", None))
        if drawn_from is not None:
            facts["weights or indices"] = zlib.crc32(np.asarray(drawn_from).tobytes())
        return facts

    def is_over(self, batches: int, samples: int) -> bool:
        return samples >= self._whole(len(self.sampler) - self._start)

    def load(self, place: dict[str, Any]) -> None:
        for what, now in self._facts().items():
            if place.get(what) != now:
                raise differs(what, place.get(what), now)
        if place.get("generator") is not None:
            self.sampler.generator.set_state(generator_of(place["generator"]))
        self._loaded = (place["origin"], place["samples"], place["drawn"]) if place["begun"] else None
