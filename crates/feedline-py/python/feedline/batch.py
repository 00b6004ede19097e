"""Batches as ``feedline.DataLoader`` gives them: the fields, with what the loader knows of them."""

from __future__ import annotations

import operator
from collections.abc import Callable, Mapping
from types import SimpleNamespace
from typing import Any, TypeVar

B = TypeVar("B", bound="Delivered")


class Delivered:
    """What a batch knows of its place, whatever holds its fields."""

    _facts: Any = None

    @property
    def epoch(self) -> int:
        """Epoch it belongs to, from 0."""
        return int(self._fact("epoch"))

    @property
    def step(self) -> int:
        """Number of the batch in its epoch on this rank, from 0."""
        return int(self._fact("step"))

    @property
    def valid(self) -> int:
        """Number of leading samples that are real; the rest is padding and must not count in a metric."""
        return int(self._fact("valid"))

    @property
    def indices(self) -> list[int]:
        """Number of each sample in the data set."""
        return list(self._fact("indices"))

    def to(self: B, *args: Any, **kwargs: Any) -> B:
        """The same batch with every tensor's ``to(*args, **kwargs)``: ``batch.to("cuda", non_blocking=True)``."""
        return self._each(lambda value: value.to(*args, **kwargs) if hasattr(value, "to") else value)

    def pin_memory(self: B) -> B:
        """The same batch in page-locked memory, which is a copy of every tensor."""
        return self._each(lambda value: value.pin_memory() if hasattr(value, "pin_memory") else value)

    def _fact(self, name: str) -> Any:
        if self._facts is None:
            raise AttributeError(f"{name} is not known: this batch was made from the loader's by other code")
        return getattr(self._facts, name)

    def _each(self: B, call: Callable[[Any], Any]) -> B:
        raise NotImplementedError

    def __getstate__(self) -> dict[str, Any]:
        facts = {name: getattr(self._facts, name) for name in ("epoch", "step", "valid", "indices") if self._facts is not None}
        return self.__dict__ | {"_facts": SimpleNamespace(**facts) if facts else None}


class Batch(Delivered, tuple):  # type: ignore[type-arg]
    """The fields of a source, in order: ``images, labels = batch``. Also by name: ``batch["image"]``."""

    names: list[str] = []

    def __getitem__(self, key: Any) -> Any:
        if isinstance(key, str):
            if key not in self.names:
                raise KeyError(f"the batch has no field {key!r}; it has {self.names}")
            return tuple.__getitem__(self, self.names.index(key))
        return tuple.__getitem__(self, key)

    def _each(self, call: Callable[[Any], Any]) -> Batch:
        return batch_of([_within(value, call) for value in self], self.names, self._facts)


class DictBatch(Delivered, dict):  # type: ignore[type-arg]
    """The fields of samples that are dicts: a dict with their keys, as torch's loader gives. ``batch[0]`` is the first field, if
    0 is no key.
    """

    @property
    def names(self) -> list[str]:
        """The keys as text."""
        return [str(name) for name in self]

    def __missing__(self, key: Any) -> Any:
        try:
            return list(self.values())[operator.index(key)]
        except (TypeError, IndexError):
            raise KeyError(f"the batch has no field {key!r}; it has {self.names}") from None

    def _each(self: B, call: Callable[[Any], Any]) -> B:
        batch = type(self)({name: _within(value, call) for name, value in self.items()})  # type: ignore[attr-defined, call-arg]
        batch._facts = self._facts
        return batch


def batch_of(fields: Any, names: list[Any], facts: Any) -> Batch:
    """The fields as a tuple."""
    batch = Batch(fields)
    batch.names = names
    batch._facts = facts
    return batch


def batch_of_own(fields: Any, names: list[Any], facts: Any) -> Batch | DictBatch:
    """The fields of samples that a user's code has made: as a dict, unless their names are their numbers."""
    if names == [str(at) for at in range(len(names))]:
        return batch_of(fields, names, facts)
    batch = DictBatch(zip(names, fields))
    batch._facts = facts
    return batch


def _within(value: Any, call: Callable[[Any], Any]) -> Any:
    """The value with ``call`` of everything in it that is no container of torch's collate function."""
    if isinstance(value, Mapping):
        return type(value)({name: _within(one, call) for name, one in value.items()})  # type: ignore[call-arg]
    if isinstance(value, (tuple, list)):
        made = [_within(one, call) for one in value]
        return type(value)(*made) if hasattr(value, "_fields") else type(value)(made)
    return call(value)
