"""Batches of fields whose shape differs from sample to sample: the rules that ``collate=`` of the loader names."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any, Literal, get_args

import torch
from torch.utils.data._utils import collate

from ..errors import ConfigError

Rule = Literal["pad", "list", "nested"]

REMEDY = 'For fields of unequal shape give the DataLoader collate="pad", "list" or "nested", or a collate_fn of your own'


def collate_fn_of(rule: Rule) -> Callable[[list[Any]], Any]:
    """The collate function of a rule. It can be pickled. Raises :class:`feedline.ConfigError` if there is no such rule."""
    if rule not in get_args(Rule):
        raise ConfigError(f'collate={rule!r}. Give "pad", "list" or "nested"; a function of your own is collate_fn=')
    return functools.partial(collate_by, rule)


def collate_by(rule: Rule, batch: list[Any]) -> Any:
    """torch's ``default_collate``, with another rule for tensors and arrays of at least one dimension."""
    # The map is read anew each time: programs add types of their own, and workers have another function for tensors.
    return collate.collate(batch, collate_fn_map={**collate.default_collate_fn_map, torch.Tensor: functools.partial(_join, rule)})


def _join(rule: Rule, batch: list[torch.Tensor], *, collate_fn_map: Any = None) -> Any:
    dims = sorted({tensor.dim() for tensor in batch})
    if dims == [0]:
        return _stack(batch)
    if dims[0] == 0 or (rule == "pad" and len(dims) > 1):
        # Whatever was made of them, its type would differ from batch to batch.
        raise RuntimeError(f'collate="{rule}" cannot join tensors of {dims[0]} and of {dims[-1]} dimensions. Give a collate_fn')
    if rule == "list":
        return list(batch)
    if rule == "nested":
        return torch.nested.nested_tensor(list(batch), layout=torch.jagged)
    return _stack(batch if batch[0].is_nested or batch[0].layout is not torch.strided else _padded(batch))


def _stack(batch: list[torch.Tensor]) -> Any:
    of_tensors: Any = collate.default_collate_fn_map[torch.Tensor]
    return of_tensors(batch, collate_fn_map=collate.default_collate_fn_map)


def _padded(batch: list[torch.Tensor]) -> list[torch.Tensor]:
    """The tensors, with zeros at the end of each axis that is shorter than the longest of the batch."""
    sides = [max(lengths) for lengths in zip(*(tensor.shape for tensor in batch))]
    padded = []
    for tensor in batch:
        if list(tensor.shape) != sides:
            whole = tensor.new_zeros(sides)
            whole[tuple(map(slice, tensor.shape))] = tensor
            tensor = whole
        padded.append(tensor)
    return padded


def tell_remedy(error: RuntimeError) -> None:
    """Adds to torch's error about tensors of unequal shape what may be done."""
    if "expects each tensor to be equal size" in str(error):
        error.args = (f"{error}\n{REMEDY}",)
