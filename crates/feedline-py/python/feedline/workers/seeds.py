"""The random numbers of samples: torch's, NumPy's and Python's global generators, seeded from (seed, epoch, sample).

A plain Dataset draws from the global generators. Seeded before each sample, what it draws belongs to the sample and not to the
worker that happens to make it, so augmentation is equal for any number of workers, ranks and restarts.
"""

from __future__ import annotations

import ctypes
import hashlib
import random
import sys
from typing import Any

import numpy.random
import torch

_MASK = 2**64 - 1

_seed_torch = torch.default_generator.manual_seed
_seed_numpy = numpy.random.mtrand._rand.seed
# random.seed() looks at the type of its argument in Python first, which takes longer than the seeding.
_python: Any = random._inst
_seed_python = super(random.Random, _python).seed


def key_of_pass(*facts: int) -> int:
    """64 bits for a pass over the data, from whole numbers: its seed, its epoch and so on."""
    text = ",".join(map(str, facts)).encode()
    return int.from_bytes(hashlib.blake2b(text, digest_size=8).digest(), "little")


def _mixed(key: int, sample: int) -> int:
    """64 bits for a sample of a pass. torch's generator takes the lower 32 of its seed, so these must be good by themselves."""
    mixed = (key ^ (sample * 0x9E3779B97F4A7C15)) & _MASK
    mixed = ((mixed ^ (mixed >> 32)) * 0xD6E8FEB86659FD93) & _MASK
    mixed = ((mixed ^ (mixed >> 32)) * 0xD6E8FEB86659FD93) & _MASK
    return mixed ^ (mixed >> 32)


def replacement(key: int, sample: int, attempt: int, length: int) -> int:
    """The index of the sample that takes the place of a bad one, of so many. The same after every restart."""
    return _mixed(key_of_pass(4, key, attempt), sample) % length


def seed_for(key: int, sample: int) -> None:
    """Seeds the global generators for one sample of a pass."""
    mixed = _mixed(key, sample)
    _seed_torch(mixed >> 1)
    _seed_numpy(mixed >> 32)
    _seed_python(mixed)
    _python.gauss_next = None


class Seeder:
    """Seeds for sample after sample, and leaves out what is not used: seeding NumPy's and Python's generators takes longer than
    many a sample. Where the first samples draw from neither, only a look at their place follows; a sample that does draw is made
    once more, seeded.
    """

    LEARNS_FROM = 64

    def __init__(self) -> None:
        # Samples that are still to be learned from; none is left: only watched; -1: always seeded.
        self._left = self.LEARNS_FROM if _places is not None else -1
        self._places = _places or []
        self._seen: list[int] = []

    def seed(self, key: int, sample: int) -> None:
        """Seeds for a sample, before it is made."""
        mixed = _mixed(key, sample)
        _seed_torch(mixed >> 1)
        if self._left == 0:
            # Read anew for each sample: between two of them a collate function or the program may have drawn.
            self._seen = [place.value for place, _ in self._places]
            return
        _seed_numpy(mixed >> 32)
        _seed_python(mixed)
        _python.gauss_next = None

    def has_to_repeat(self) -> bool:
        """After a sample: whether it drew from a generator that was not seeded for it."""
        if self._left == 0:
            if [place.value for place, _ in self._places] == self._seen:
                return False
            self._left = -1
            return True
        if self._left > 0:
            draws = any(place.value != fresh for place, fresh in self._places)
            self._left = -1 if draws else self._left - 1  # a dataset that draws is seeded always
        return False


def _find_places() -> list[tuple[Any, int]] | None:
    """The words in memory that count the numbers drawn from NumPy's and Python's generators since they were seeded, each with its
    value after seeding; None where they are not found.
    """
    with Kept():
        try:
            numpys = ctypes.c_int.from_address(numpy.random.mtrand._rand._bit_generator.ctypes.state_address + 4 * 624)
            pythons = ctypes.c_int.from_address(id(_python) + object.__basicsize__)
        except (AttributeError, ValueError):
            return None
        places = []
        for place, seed, draw in ((numpys, _seed_numpy, numpy.random.random_sample), (pythons, _seed_python, random.random)):
            seed(1)
            fresh = place.value
            if fresh != 624:
                return None
            for drawn in (2, 4, 6):
                draw()
                if place.value != drawn:
                    return None
            places.append((place, fresh))
        return places


class Kept:
    """``with Kept():`` puts the global generators back afterwards to where they were."""

    def __enter__(self) -> None:
        self._before = torch.default_generator.get_state(), numpy.random.get_state(legacy=False), random.getstate()

    def __exit__(self, *_: object) -> None:
        of_torch, of_numpy, of_python = self._before
        torch.default_generator.set_state(of_torch)
        numpy.random.set_state(of_numpy)
        random.setstate(of_python)


_places = _find_places() if sys.implementation.name == "cpython" else None
