"""Labels as people give them: numbers of classes, names of classes, or values of any shape. Owns what each of them means, and
how samples are split by them.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np

from .errors import ConfigError, whole_number

# What a batch can be made of; NumPy's names of the types.
_TYPES = ("uint8", "uint16", "int32", "int64", "float32", "float64")


def given(labels: Iterable[Any], classes: tuple[str, ...] | None, length: int) -> tuple[list[int], tuple[str, ...] | None, Any]:
    """The class of each sample, the names of the classes if there are any, and the array to deliver in place of classes, or None.

    - One whole number a sample is the number of its class.
    - One str a sample is the name of its class; the classes are all names, sorted, unless ``classes`` gives them.
    - Anything else is a value, delivered as NumPy has it: numbers with a fraction, rows of numbers; bool as uint8.
    """
    listed = labels if hasattr(labels, "__array__") else list(labels)
    if isinstance(listed, list) and any(isinstance(label, str) for label in listed):
        other = next((label for label in listed if not isinstance(label, str)), None)
        if other is not None:
            raise ConfigError(f"the labels are names, and one is {other!r}. Give only names, or only numbers")
        return _named(listed, classes, length)
    try:
        values = np.asarray(listed)
    except ValueError as error:
        raise ConfigError(f"the labels differ in shape: {error}. Give labels of one shape") from None
    if values.ndim == 0 or len(values) != length:
        found = 0 if values.ndim == 0 else len(values)
        raise ConfigError(f"there are {length} paths and {found} labels. Give one label for each path")
    if values.dtype.kind == "U":
        return _named(values.tolist(), classes, length)
    if values.ndim == 1 and (values.dtype.kind in "iu" or length == 0):
        return [whole_number("label", label, 0, 2**32 - 1) for label in values.tolist()], classes, None
    if values.dtype == bool:
        values = values.astype(np.uint8)
    if values.dtype.name not in _TYPES or not values.dtype.isnative:
        raise ConfigError(
            f"labels of NumPy type {values.dtype} cannot be delivered. Give whole numbers for classes, names (str) of classes, or "
            f"an array of {', '.join(_TYPES)}: numpy.asarray(labels, dtype=...)"
        )
    if classes is not None:
        raise ConfigError(f"classes names the numbers of classes, and the labels are values ({values.dtype}). Leave classes out")
    values = np.array(values, order="C")  # a copy: the array given may be written to later
    values.flags.writeable = False
    return [0] * length, None, values


def _named(names: list[str], classes: tuple[str, ...] | None, length: int) -> tuple[list[int], tuple[str, ...], None]:
    if len(names) != length:
        raise ConfigError(f"there are {length} paths and {len(names)} labels. Give one label for each path")
    known = tuple(sorted(set(names))) if classes is None else classes
    places = {name: place for place, name in reversed(list(enumerate(known)))}
    for name in names:
        if name not in places:
            raise ConfigError(f"the label {name!r} is not one of the {len(known)} classes. Add it to them, or leave classes out")
    return [places[name] for name in names], known, None


def are_classes(labels: Any) -> bool:
    """True if these labels tell classes: one whole number a sample."""
    return isinstance(labels, list) or (isinstance(labels, np.ndarray) and labels.ndim == 1 and labels.dtype.kind in "iu")


def split(names: Sequence[str], fraction: float, seed: int, strata: Sequence[Any] | None) -> tuple[list[int], list[int]]:
    """The numbers of the samples of two parts, ascending; the first has ``fraction`` of them, of each stratum as nearly as can be.

    Within a stratum samples are ordered by a hash (BLAKE2b) of seed and name, and the first ones go to the first part. So a name
    decides, not the place in the list, and samples that are added later move few others.
    """
    if isinstance(fraction, bool) or not isinstance(fraction, (int, float)) or not 0 < fraction < 1:
        raise ConfigError(f"split({fraction!r}): give the share of the first part, a number between 0 and 1, such as 0.8")
    seed = whole_number("seed", seed, 0)
    groups: dict[Any, list[int]] = {}
    for number, stratum in enumerate([None] * len(names) if strata is None else strata):
        groups.setdefault(stratum, []).append(number)
    total = round(fraction * len(names))
    if not 0 < total < len(names):
        raise ConfigError(f"split({fraction!r}) of {len(names)} samples leaves a part without any. Give another share")
    shares = {stratum: fraction * len(group) for stratum, group in groups.items()}
    counts = {stratum: int(share) for stratum, share in shares.items()}
    # What is left over by rounding goes to those that lost most.
    by_loss = sorted(groups, key=lambda stratum: (counts[stratum] - shares[stratum], repr(stratum)))
    for stratum in by_loss[: total - sum(counts.values())]:
        counts[stratum] += 1

    def key(number: int) -> tuple[bytes, int]:
        return hashlib.blake2b(f"{seed}\0{names[number]}".encode("utf-8", "surrogatepass"), digest_size=8).digest(), number

    first: list[int] = []
    second: list[int] = []
    for stratum, group in groups.items():
        group.sort(key=key)
        first += group[: counts[stratum]]
        second += group[counts[stratum] :]
    return sorted(first), sorted(second)
