"""The native half. Not for use: what it offers changes with the package."""

import os
from collections.abc import Callable, Iterator
from typing import Any

__version__: str

def main(words: list[str]) -> int: ...
def discover(explicit: tuple[int, int] | None, group: tuple[int, int] | None) -> tuple[int, int, str]: ...
def classes_of(path: str, storage: str) -> list[str]: ...

class Array:
    """One array of a batch: DLPack and NumPy's array interface, without a copy."""

    shape: tuple[int, ...]
    data_ptr: int
    __array_interface__: dict[str, Any]
    def __dlpack__(
        self,
        *,
        stream: Any = None,
        max_version: tuple[int, int] | None = None,
        dl_device: tuple[int, int] | None = None,
        copy: bool | None = None,
    ) -> Any: ...
    def __dlpack_device__(self) -> tuple[int, int]: ...

class History:
    def __init__(self, dir: str) -> None: ...
    def append(self, epoch: int, train_loss: float, val_loss: float) -> None: ...

class Plan:
    def __init__(
        self,
        len: int,
        num_replicas: int,
        *,
        permutation: str,
        seed: int,
        tail: str,
        merge_epochs: int | None = None,
        epoch_length: int | None = None,
        weights: list[float] | None = None,
        mix: list[tuple[int, float]] | None = None,
        lengths: tuple[list[int], int, int] | None = None,
    ) -> None: ...
    def num_samples(self, rank: int, start: int) -> int: ...
    def total_size(self) -> int: ...
    def indices(self, epoch: int, rank: int, start: int) -> Iterator[list[int]]: ...
    def cursor(self, epoch: int, position: int) -> str: ...
    def resume(self, cursor: str) -> tuple[Plan, int, int]: ...

class Source:
    fields: list[str]
    classes: list[str] | None
    labels: list[int] | None
    @staticmethod
    def images(
        files: str | list[tuple[str, int]],
        classes: list[str] | None,
        steps: list[Any],
        floats: Any,
        size_px: tuple[int, int] | None,
        max_pixels: int | None,
        decode: str,
        cache_bytes: int,
        storage: str,
    ) -> Source: ...
    @staticmethod
    def array_files(path: str | os.PathLike[str], shape: list[int] | None, storage: str) -> Source: ...
    @staticmethod
    def arrays(arrays: list[tuple[str, Any]], fingerprint: int) -> Source: ...
    @staticmethod
    def items(len: int, fingerprint: int, function: Callable[[Any], Any], name: str) -> Source: ...
    @staticmethod
    def scenes(options: str, credentials: tuple[str, str, str | None] | None) -> Source: ...
    def map(self, name: str, function: Callable[..., Any], with_rng: bool) -> Source: ...
    def __len__(self) -> int: ...
    def location(self, index: int) -> str: ...

class Loader:
    def __init__(
        self,
        source: Source,
        plan: Plan,
        *,
        rank: int,
        batch_size: int,
        drop_last: bool,
        num_workers: int,
        memory_budget_bytes: int,
        on_bad_sample: str,
        max_bad_samples: int,
        form: str,
        batch: Callable[..., Any],
        listener: Callable[[str, str], None],
    ) -> None: ...
    def begin(self) -> None: ...
    def next(self, timeout_s: float) -> Any: ...
    def place(self) -> tuple[int, int]: ...
    def length(self) -> int: ...
    def left(self) -> int: ...
    def set_epoch(self, epoch: int) -> None: ...
    def cursor(self) -> str: ...
    def load_cursor(self, json: str) -> None: ...
    def stats(self) -> tuple[str, str]: ...
    def close(self) -> None: ...
