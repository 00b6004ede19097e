"""A source as people see it in a terminal: a few lines, however many samples it has. Owns the wording; reads no data."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np

# More classes than these are counted, longer names are cut.
_CLASSES, _LONGEST = 3, 40


def described(
    title: str,
    samples: tuple[int | None, int | None],
    classes: Sequence[str] | None,
    steps: Iterable[str],
    fields: Iterable[tuple[str, str, Sequence[int]]],
) -> str:
    """The title with the number of samples (and of the whole, if they are a part) and the classes, the steps, the fields."""
    count, whole = samples
    head = f"{title}: " + ("not read yet" if count is None else f"{count} sample{'' if count == 1 else 's'}")
    if whole is not None:
        head += f" of {whole}"
    if classes:
        names = ", ".join(cut(name) for name in classes[:_CLASSES]) + (", ..." if len(classes) > _CLASSES else "")
        head += f", {len(classes)} class{'' if len(classes) == 1 else 'es'} ({names})"
    told = ", ".join(f"{name} {np.dtype(kind).name} {tuple(shape)}" for name, kind, shape in fields)
    return "\n    ".join([head, *steps, *([f"-> {told}"] if told else [])])


def cut(text: str) -> str:
    """The text, or the beginning of a long one."""
    return text if len(text) <= _LONGEST else text[: _LONGEST - 3] + "..."


def place(path: str | os.PathLike[str]) -> str:
    """A path or URL without what a URL may have of secrets."""
    text = os.fspath(path)
    return repr(re.sub(r"//[^/@]*@", "//", text).partition("?")[0] if "://" in text else text)


def step(declared: Any) -> str:
    """A step of a source: an operation in JSON, or a name, a function and true if it takes a generator."""
    if isinstance(declared, str):
        words = json.loads(declared)
        return f"{words.pop('op')}({', '.join(f'{name}={value}' for name, value in words.items())})"
    name, _, rng = declared
    return f"map({cut(name)}{', rng=True' if rng else ''})"
