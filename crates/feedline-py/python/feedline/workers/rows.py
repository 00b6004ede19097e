"""A Dataset and the steps declared on it, as ``feedline.DataLoader`` delivers them: what worker processes are asked for."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch

from ..own import for_v2
from ..passthrough import watched

# Types that torch's collate function knows.
_KNOWN = {torch.Tensor, np.ndarray, int, float, bool, str, bytes}


class Rows:
    """``rows[i]`` is the item ``i``, or item ``chosen[i]``, after the steps. Pictures of Pillow, and others with NumPy's array
    interface, become arrays.
    """

    def __init__(self, items: Any, steps: Sequence[tuple[str, Callable[..., Any], bool]], chosen: Any = None) -> None:
        self._items = items
        self._chosen = chosen
        self._steps = tuple(steps)
        # The steps as they are called; made in the process that calls them, since not all can be pickled.
        self._called: list[Any] | None = None
        # Of the sample that is asked for next: 64 random bits that belong to it in this epoch.
        self.number = 0

    def __len__(self) -> int:
        return len(self._items if self._chosen is None else self._chosen)

    def item(self, index: int) -> int:
        """The number of the item of a sample."""
        return index if self._chosen is None else int(self._chosen[index])

    def __getitem__(self, index: int) -> Any:
        sample = self._items[self.item(index)]
        if self._steps:
            for name, function, rng in self._calls():
                arrays = [np.asarray(value) for value in fields_of(sample)[0]]
                sample = function(*arrays, rng=self._rng(name)) if rng else function(*arrays)
        return _plain(sample)

    def _calls(self) -> list[Any]:
        if self._called is None:
            steps = [(name, for_v2(function, is_picture=False), rng) for name, function, rng in self._steps]
            self._called = [(name, watched(name, function), rng) for name, function, rng in steps]
        return self._called

    def _rng(self, name: str) -> np.random.Generator:
        """A generator whose draws belong to the sample and the step."""
        text = f"{name},{self.number}".encode()
        key = int.from_bytes(hashlib.blake2b(text, digest_size=16).digest(), "little")
        return np.random.Generator(np.random.Philox(key=key))

    def __getstate__(self) -> dict[str, Any]:
        return self.__dict__ | {"_called": None}


def fields_of(sample: Any) -> tuple[Sequence[Any], list[Any]]:
    """The values of a sample or batch, and their names: a dictionary's keys, else their numbers as text."""
    if isinstance(sample, dict):
        return list(sample.values()), list(sample)
    if isinstance(sample, (tuple, list)):
        return sample, [str(at) for at in range(len(sample))]
    return (sample,), ["0"]


def _plain(value: Any) -> Any:
    kind = type(value)
    if kind in _KNOWN:
        return value
    if kind is tuple or kind is list:
        return kind(map(_plain, value))
    if kind is dict:
        return {name: _plain(one) for name, one in value.items()}
    if hasattr(value, "__array_interface__") and not isinstance(value, (torch.Tensor, np.ndarray, np.generic)):
        return np.array(value)  # a copy: what Pillow shows may not be written to
    return value
