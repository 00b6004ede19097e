"""Makes batches of a user's Dataset: one sample after the other, with the random generators seeded, then the collate function.

The same code runs in worker processes and, with ``num_workers=0``, in the thread that asks for batches.
"""

from __future__ import annotations

import logging
import operator
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from torch.utils.data._utils import collate

from .. import _native
from ..errors import StateError, TooManyBadSamplesError
from .ragged import tell_remedy
from .rows import Rows
from .seeds import Seeder, key_of_pass, replacement, seed_for

log = logging.getLogger("feedline")

# Stands for the collate function in the numbers that seed the generators: no sample has this number.
_COLLATE = -(2**40)
# Replacements for one sample: with half of the data bad, one sample in 65,536 needs more.
MOST_ATTEMPTS = 16


@dataclass(frozen=True)
class Task:
    """What one batch is made of."""

    keys: Any
    """Indices of the samples, or one index if there are no batches. Of an iterable dataset only their number counts."""
    numbers: Sequence[int] | None
    """The samples' numbers, which seed the generators; None means that the indices are the numbers."""
    is_part: bool = False
    """Others make the rest of the batch: the samples are wanted as a list."""


@dataclass(frozen=True)
class Begin:
    """What a pass over the data begins with."""

    key: int | None
    """Seeds the samples; None leaves the generators alone."""
    batches: int = 0
    """Batches of an iterable dataset to leave out, in this worker."""
    state: Any = None
    """State of an iterable dataset to begin with instead, in this worker."""
    is_behind: bool = False
    """The state is from behind the end of a pass, and this is the next one."""
    has_ended: bool = False
    """Nothing is left in this worker."""


@dataclass(frozen=True)
class Replaced:
    """A bad sample, and the one that took its place."""

    index: Any
    replaced_by: int
    problem: str


class BadSamples:
    """Counts the samples that others took the place of, over all passes of a loader and those that it was resumed from."""

    def __init__(self, limit: int) -> None:
        self.count = 0
        self._limit = limit

    def add(self, replaced: list[Replaced]) -> None:
        """Tells each. Raises TooManyBadSamplesError if there are more than allowed."""
        for one in replaced:
            log.warning("sample %r was replaced by sample %d: %s", one.index, one.replaced_by, one.problem)
        self.count += len(replaced)
        if replaced and self.count > self._limit:
            raise TooManyBadSamplesError(
                f"{self.count} bad samples, more than the {self._limit} allowed (max_bad_samples). Repair or remove them, or raise "
                f"the limit. The last one is sample {replaced[-1].index!r}: {replaced[-1].problem}",
                found=self.count,
                limit=self._limit,
            )


class Dropped(Exception):
    """Nobody wants the batch any more."""


class Fetcher:
    """One worker's view of a Dataset."""

    def __init__(
        self,
        dataset: Any,
        is_iterable: bool,
        auto_collation: bool,
        collate_fn: Callable[..., Any],
        drop_last: bool,
        replaces_bad: bool = False,
    ) -> None:
        self._dataset = dataset
        self._replaces_bad = replaces_bad
        self._rows = dataset if isinstance(dataset, Rows) else None
        # Samples of the batch in hand that others took the place of.
        self.replaced: list[Replaced] = []
        self._is_iterable = is_iterable
        self._auto_collation = auto_collation
        self._drop_last = drop_last
        self._has_own_collate = collate_fn not in (collate.default_collate, collate.default_convert)
        # Called with each sample of a batch, its number there and their count; gives the sample that is collated.
        self.stow: Callable[[Any, int, int], Any] | None = None
        # Called with the number of the sample in its batch before each sample; raises Dropped.
        self.watch: Callable[[int], None] = lambda at: None
        self._key: int | None = None
        self._iterator: Any = None
        self._seeder = Seeder()
        self._samples = 0
        # An iterable dataset has come to its end.
        self.has_ended = False
        # The index of the sample in hand, to be named in errors.
        self.at: Any = None

    def begin(self, begin: Begin, worker: int = 0) -> None:
        """Begins a pass."""
        self._key = begin.key
        if not self._is_iterable:
            return
        if begin.key is not None:
            self._key = key_of_pass(begin.key, worker)
        self._seed(-1)
        self.has_ended, self._samples = begin.has_ended, 0
        dataset, state = self._dataset, begin.state
        if state is not None and state[0] == "dataset":
            dataset.load_state_dict(state[1])
        self._iterator = iter(dataset)
        if state is not None and state[0] == "iterator" and (not begin.is_behind or self._iterator is dataset):
            self._iterator.load_state_dict(state[1])
            if begin.is_behind:
                self._iterator = iter(dataset)
        if state is not None:
            self._samples = 0 if begin.is_behind else state[2]
            return
        for _ in range(0 if begin.has_ended else begin.batches):
            if not self._left_out():
                raise StateError("the state is of more batches than the dataset has now", field="dataset")

    def state(self) -> Any:
        """The state of an iterable dataset, its own or its iterator's; None if it has none."""
        for name, one in (("iterator", self._iterator), ("dataset", self._dataset)):
            if hasattr(one, "state_dict") and hasattr(one, "load_state_dict"):
                return name, one.state_dict(), self._samples
        return None

    def _left_out(self) -> bool:
        size = self.batch_of if self._auto_collation else 1
        return len(self._draw(size)) > 0

    # Samples of a batch of an iterable dataset; set by the loader.
    batch_of = 1

    def fetch(self, task: Task, collate_fn: Callable[[Any], Any]) -> Any:
        """The batch, by the given function. Raises StopIteration at the end of an iterable dataset."""
        self.replaced = []
        if self._is_iterable:
            data = self._of_iterable(task)
        else:
            try:
                data = self._of_map(task)
            except StopIteration as error:
                raise RuntimeError("the dataset raised StopIteration for a sample, which would end the pass without a word") from error
        if task.is_part:
            self.at = None
            return data
        if self._has_own_collate:
            first = self._number(task, 0) if not self._is_iterable else self._samples
            self._seed(_COLLATE - first)
        self.at = None
        try:
            return collate_fn(data)
        except RuntimeError as error:
            if not self._has_own_collate:
                tell_remedy(error)
            raise

    def _of_map(self, task: Task) -> Any:
        dataset, keys = self._dataset, task.keys
        if not self._auto_collation:
            self.watch(0)
            return self._one(keys, self._number(task, 0))
        if getattr(dataset, "__getitems__", None) and not self._replaces_bad:
            self.watch(0)
            self.at = keys
            self._seed(self._number(task, 0))
            return dataset.__getitems__(keys)
        made = []
        watch, stow, one = self.watch, self.stow, self._one
        has_numbers = task.numbers is not None
        for at, key in enumerate(keys):
            watch(at)
            sample = one(key, self._number(task, at) if has_numbers or type(key) is not int else key)
            made.append(sample if stow is None else stow(sample, at, len(keys)))
        return made

    def _one(self, key: Any, number: int) -> Any:
        """One sample, or another in its place if it is bad and may be replaced."""
        if not self._replaces_bad:
            return self._made(key, number)
        index, length = key, len(self._dataset)
        for attempt in range(MOST_ATTEMPTS + 1):
            try:
                return self._made(index, number)
            except Exception as error:
                if not _native.is_of_the_sample(error):
                    raise
                if attempt == MOST_ATTEMPTS:
                    raise TooManyBadSamplesError(
                        f"sample {key!r} is bad, and so are the {attempt} samples that were tried in its place. The last one is sample "
                        f"{index!r}: {type(error).__name__}: {error}. Look for what they have in common",
                        found=attempt + 1,
                        limit=attempt,
                    ) from error
                bad, index = index, replacement(self._key or 0, number, attempt, length)
                self.replaced.append(Replaced(bad, index, f"{type(error).__name__}: {error}"))
        raise AssertionError("the loop ends by returning")

    def _made(self, key: Any, number: int) -> Any:
        """One sample, with the generators seeded."""
        self.at = key
        if self._key is None:
            return self._dataset[key]
        if self._rows is not None:
            self._rows.number = number
        seeder = self._seeder
        seeder.seed(self._key, number)
        try:
            sample = self._dataset[key]
        except Exception:
            if not seeder.has_to_repeat():
                raise
        else:
            if not seeder.has_to_repeat():
                return sample
        seed_for(self._key, number)
        return self._dataset[key]

    def _of_iterable(self, task: Task) -> Any:
        data = self._draw(len(task.keys) if self._auto_collation else 1)
        if not data or (self._drop_last and self._auto_collation and len(data) < len(task.keys)):
            raise StopIteration
        return data if self._auto_collation else data[0]

    def _draw(self, count: int) -> list[Any]:
        data: list[Any] = []
        if self.has_ended:
            return data
        for at in range(count):
            self.watch(at)
            self.at = self._samples
            self._seed(self._samples)
            try:
                data.append(next(self._iterator))
            except StopIteration:
                self.has_ended = True
                break
            self._samples += 1
        return data

    def _number(self, task: Task, at: int) -> int:
        if task.numbers is not None:
            return task.numbers[at]
        try:
            return operator.index(task.keys[at] if self._auto_collation else task.keys)
        except TypeError:
            return at

    def _seed(self, number: int) -> None:
        if self._key is not None:
            seed_for(self._key, number)
