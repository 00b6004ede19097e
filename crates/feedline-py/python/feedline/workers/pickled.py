"""What worker processes are started with, pickled once for all of them where they are not forked.

torch pickles the dataset for each worker and writes it into a pipe, which takes 64 KiB until the new process has loaded its
libraries: so its workers start one after the other. Here the pickle lies in an anonymous file that all of them read, and they start
together. The data of NumPy arrays lies there out of band, and is shared between the workers until one of them writes to it.
"""

from __future__ import annotations

import contextlib
import mmap
import os
import pickle
from multiprocessing import reduction
from typing import Any

import torch

_ALIGN_BYTES = 64

_belonging: dict[type, bool] = {}


def _belongs_to_processes(kind: type) -> bool:
    """Whether objects of a class are handed to each process by itself: tensors, locks, queues, shared values, proxies."""
    known = _belonging.get(kind)
    if known is None:
        modules = [base.__module__ for base in kind.__mro__]
        known = issubclass(kind, (torch.Tensor, torch.UntypedStorage, torch.TypedStorage)) or any(
            module == name or module.startswith(name + ".") for module in modules for name in ("multiprocessing", "torch.multiprocessing")
        )
        _belonging[kind] = known
    return known


class _Pickler(reduction.ForkingPickler):
    def __init__(self, file: Any, handles: list[Any], buffers: list[pickle.PickleBuffer]) -> None:
        super().__init__(file, 5, True, buffers.append)
        self._handles = handles
        self._numbers: dict[int, int] = {}

    def reducer_override(self, obj: Any) -> Any:
        if not _belongs_to_processes(type(obj)):
            return NotImplemented
        if id(obj) not in self._numbers:
            self._numbers[id(obj)] = len(self._handles)
            self._handles.append(obj)
        return _handle, (self._numbers[id(obj)],)


class Pickled:
    """An object to be given to several processes as an argument; it arrives as what it was made of. ``close()`` it when all
    processes are started."""

    def __init__(self, obj: Any) -> None:
        # Handed to each process by itself.
        self._handles: list[Any] = []
        self._fd = os.memfd_create("feedline-start", os.MFD_CLOEXEC)
        try:
            buffers: list[pickle.PickleBuffer] = []
            with open(self._fd, "wb", buffering=1 << 20, closefd=False) as file:
                _Pickler(file, self._handles, buffers).dump(obj)
                self._size = file.tell()
                self._spans = []
                for buffer in buffers:
                    raw = buffer.raw()
                    file.write(bytes(-file.tell() % _ALIGN_BYTES))
                    self._spans.append((file.tell(), raw.nbytes))
                    file.write(raw)
        except BaseException:
            self.close()
            raise

    def close(self) -> None:
        """Gives the memory back when the last process has read it."""
        os.close(self._fd)

    def __reduce__(self) -> Any:
        return _unpickled, (reduction.DupFd(self._fd), self._size, self._spans, self._handles)


# The handles of what is being unpickled.
_handles: list[list[Any]] = []


def _handle(number: int) -> Any:
    return _handles[-1][number]


def _unpickled(fd: Any, size: int, spans: list[tuple[int, int]], handles: list[Any]) -> Any:
    own = fd.detach()
    try:
        # Private: what a worker writes to an array is its own.
        data = memoryview(mmap.mmap(own, 0, access=mmap.ACCESS_COPY))
    finally:
        os.close(own)
    _handles.append(handles)
    try:
        return pickle.loads(data[:size], buffers=[data[start : start + count] for start, count in spans])
    finally:
        _handles.pop()
        with contextlib.suppress(BufferError):  # arrays look at it
            data.release()
