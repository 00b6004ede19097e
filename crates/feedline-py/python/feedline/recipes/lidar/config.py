"""Settings as OpenPCDet's ``cfg``: a dict whose keys are attributes, read from its YAML files and changed by ``--set``. Owns
the merging; the native half reads YAML.
"""

from __future__ import annotations

import ast
import difflib
import json
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from ... import _native
from ...errors import ConfigError


class Config(dict):  # type: ignore[type-arg]
    """A dict whose keys are attributes, as in EasyDict; mappings assigned to it, also inside lists, become such dicts."""

    def __init__(self, *given: Any, **more: Any) -> None:
        super().__init__()
        self.update(*given, **more)

    def __setitem__(self, name: Any, value: Any) -> None:
        super().__setitem__(name, _attributes(value))

    def __setattr__(self, name: str, value: Any) -> None:
        self[name] = value

    def __getattr__(self, name: str) -> Any:
        try:
            return self[name]
        except KeyError:
            pass
        if name.startswith("__"):
            raise AttributeError(name)
        near = difflib.get_close_matches(name, map(str, self))
        hint = f"Near it are {', '.join(near)}" if near else f"There are {', '.join(map(str, self)) or 'none'}"
        raise AttributeError(f"the settings have no {name}. {hint}")

    def __delattr__(self, name: str) -> None:
        if name not in self:
            raise AttributeError(name)
        del self[name]

    def update(self, *given: Any, **more: Any) -> None:
        for name, value in dict(*given, **more).items():
            self[name] = value

    def setdefault(self, name: Any, default: Any = None) -> Any:
        if name not in self:
            self[name] = default
        return self[name]

    def copy(self) -> Config:
        return Config(self)

    def __reduce__(self) -> Any:
        return Config, (dict(self),)


def _attributes(value: Any) -> Any:
    if isinstance(value, Mapping) and not isinstance(value, Config):
        return Config(value)
    if type(value) in (list, tuple):
        return type(value)(map(_attributes, value))
    return value


cfg = Config()
"""The global settings that OpenPCDet's scripts fill."""
cfg.ROOT_DIR = Path()
cfg.LOCAL_RANK = 0


def cfg_from_yaml_file(cfg_file: Any, config: Any = None) -> Any:
    """Reads a YAML file of OpenPCDet's, and the one that its ``_BASE_CONFIG_`` names, into ``config`` (by default a new
    :class:`Config`), and returns it. Existing values that are not in the file stay.
    """
    config = Config() if config is None else config
    _merge(config, json.loads(_native.read_yaml(os.fspath(cfg_file))))
    return config


def _merge(config: Any, new: Mapping[str, Any]) -> None:
    for name, value in new.items():
        if not isinstance(value, Mapping):
            config[name] = value
            continue
        if not isinstance(config.get(name), Mapping):
            config[name] = type(config)()
        _merge(config[name], value)


def cfg_from_list(cfg_list: Sequence[str], config: Any) -> None:
    """Applies ``--set NAME VALUE NAME VALUE ...``: a name with dots (``OPTIMIZATION.LR``) must exist, and its value must have
    the existing type. A list is written ``1,2``; keys of a mapping ``A:1,B:2``.

    Raises :class:`feedline.ConfigError` (a ValueError): ``NotFoundKey: NAME``, or a value of another type.
    """
    if len(cfg_list) % 2:
        raise ConfigError(f"--set takes names and values in turn, but there are {len(cfg_list)} words: {list(cfg_list)}")
    for name, text in zip(cfg_list[0::2], cfg_list[1::2]):
        *path, last = name.split(".")
        place = config
        for key in (*path, last):
            if not isinstance(place, Mapping) or key not in place:
                near = difflib.get_close_matches(key, map(str, place)) if isinstance(place, Mapping) else []
                raise ConfigError(f"NotFoundKey: {key} (in {name})" + (f". Near it are {', '.join(near)}" if near else ""))
            place, before = place[key], place
        before[last] = _typed(name, text, place)


def _typed(name: str, text: Any, old: Any) -> Any:
    """``text`` as a value of the type of ``old``."""
    try:
        value = ast.literal_eval(text) if isinstance(text, str) else text
    except (ValueError, SyntaxError, MemoryError, RecursionError):
        value = text
    if isinstance(old, float) and type(value) is int:
        return float(value)
    if old is None or type(value) is type(old) or isinstance(value, Mapping) and isinstance(old, Mapping):
        return value
    if isinstance(value, tuple) and isinstance(old, list):
        value = ",".join(map(str, value))
    try:
        if isinstance(old, Mapping) and isinstance(value, str):
            pairs = dict(pair.split(":", 1) for pair in value.split(","))
            for key in pairs:
                if key not in old:
                    raise ConfigError(f"NotFoundKey: {key} (in {name})")
            return {**old, **{key: _typed(f"{name}.{key}", part, old[key]) for key, part in pairs.items()}}
        if isinstance(old, list) and old and isinstance(value, (str, int, float)):
            return [_typed(name, part, old[0]) for part in str(value).split(",")]
    except ValueError as error:
        if isinstance(error, ConfigError):
            raise
    raise ConfigError(
        f"--set {name} {text}: type {type(value).__name__} does not match original type {type(old).__name__}, of {old!r}"
    )


def plain(value: Any) -> Any:
    """Converts settings in any kind of mapping to JSON types."""
    if isinstance(value, Mapping):
        return {str(name): plain(inner) for name, inner in value.items()}
    if isinstance(value, (list, tuple, set)):
        return [plain(inner) for inner in value]
    if isinstance(value, (np.ndarray, np.generic)):
        return plain(value.tolist())
    if isinstance(value, os.PathLike):
        return os.fspath(value)
    if value is None or isinstance(value, (bool, int, float, str)):
        return value
    raise ConfigError(f"the settings hold {value!r}, a {type(value).__name__}. Give what a YAML file can hold")
