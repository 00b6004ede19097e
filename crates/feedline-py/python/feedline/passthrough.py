"""Finds user code that gives NumPy arrays to torchvision's v2 transforms, which leave them unchanged without a word."""

from __future__ import annotations

import sys
import threading
import warnings
from collections.abc import Callable
from typing import Any

import numpy as np

# Transforms that only hand their input on to others, which are looked at themselves.
_CONTAINERS = ("Compose", "RandomApply", "RandomChoice", "RandomOrder", "Lambda", "Identity")


def watched(name: str, function: Callable[..., Any]) -> Callable[..., Any]:
    """The same function; while it makes its first sample, every call of a v2 transform is looked at. A warning tells of one that
    was given NumPy arrays and no picture or tensor, and has returned the very same arrays.
    """
    is_first = True

    def call(*arguments: Any, **words: Any) -> Any:
        nonlocal is_first
        v2 = sys.modules.get("torchvision.transforms.v2")
        if not is_first or v2 is None:
            return function(*arguments, **words)
        found: list[str] = []
        thread = threading.get_ident()

        def look(module: Any, given: Any, made: Any) -> None:
            if not isinstance(module, v2.Transform) or type(module).__name__ in _CONTAINERS or threading.get_ident() != thread:
                return
            leaves = _leaves(given)
            if _are_arrays(leaves) and [id(leaf) for leaf in _leaves(made)] == [id(leaf) for leaf in leaves]:
                found.append(type(module).__name__)

        hook = sys.modules["torch"].nn.modules.module.register_module_forward_hook(look)
        try:
            made = function(*arguments, **words)
        finally:
            hook.remove()
        is_first = False
        if found:
            warnings.warn(
                f"{name} gives a NumPy array to {found[0]} of torchvision's v2, which returns arrays unchanged: it has no effect. "
                "Give the transform itself to .map, or make a tensor first: torch.from_numpy(image).permute(2, 0, 1)",
                UserWarning,
                stacklevel=2,
            )
        return made

    return call


def _leaves(value: Any) -> list[Any]:
    if isinstance(value, dict):
        value = list(value.values())
    return [leaf for part in value for leaf in _leaves(part)] if isinstance(value, (tuple, list)) else [value]


def _are_arrays(leaves: list[Any]) -> bool:
    """True if there are arrays with axes, and nothing that a transform would take for a picture."""
    others = [leaf for leaf in leaves if not isinstance(leaf, np.ndarray)]
    is_picture = any(type(leaf).__module__.partition(".")[0] in ("torch", "torchvision", "PIL") for leaf in others)
    return not is_picture and any(isinstance(leaf, np.ndarray) and leaf.ndim > 1 for leaf in leaves)
