"""User code that runs in the loader: Datasets and steps. Owns the lock that runs it one sample at a time, and the state
of the random generators that it draws from.

torch, NumPy and Python have one global random generator each for the whole process. A worker thread that drew from it
would change the numbers that the program itself draws, and its own numbers would depend on the order of threads. So:

- In the thread that asks for batches, the global generators are seeded for each sample from (seed, epoch, sample), and
  restored afterwards.
- In worker threads nothing may draw from them. The first sample of every source is made in the calling thread, to see
  if its code draws; if so, the loader has no workers. Code that draws only later is an error, which is detected while the
  main thread waits for a batch.
"""

from __future__ import annotations

import contextlib
import ctypes
import functools
import os
import random
import sys
import threading
import warnings
from collections.abc import Callable, Iterable, Iterator
from typing import Any

from .errors import ConfigError

# User code runs one sample at a time in this process: Datasets share file handles and other state with each other.
_turn = threading.RLock()


def _forked() -> None:
    global _turn, _waiting
    _turn, _waiting = threading.RLock(), False


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_forked)


class DrawsInWorkerError(ConfigError):
    """Code in a worker thread has drawn from a global generator. The sample is not at fault."""

    feedline_stops = True


class _Python:
    name = "random"

    def save(self) -> Any:
        return random.getstate()

    mark = save

    def changed(self, mark: Any) -> bool:
        return bool(random.getstate() != mark)

    def restore(self, state: Any) -> None:
        random.setstate(state)

    def seed(self, key: int) -> None:
        random.seed(key)


class _Torch:
    name = "torch"

    def __init__(self, torch: Any) -> None:
        self._equal, self._generator = torch.equal, torch.default_generator

    def save(self) -> Any:
        return self._generator.get_state()

    mark = save

    def changed(self, mark: Any) -> bool:
        return not self._equal(self._generator.get_state(), mark)

    def restore(self, state: Any) -> None:
        self._generator.set_state(state)

    def seed(self, key: int) -> None:
        self._generator.manual_seed(key % 2**63)


class _NumPy:
    """The global generator of numpy.random. Its get_state is slow, so the state is mostly read directly from memory."""

    name = "numpy"

    def __init__(self, numpy_random: Any) -> None:
        self._random = numpy_random
        self._saved: tuple[bytes, Any] | None = None

    def save(self) -> Any:
        return self._random.get_state(legacy=False)

    def restore(self, state: Any) -> None:
        self._random.set_state(state)

    def seed(self, key: int) -> None:
        self._random.seed([key >> shift & 0xFFFF_FFFF for shift in (0, 32, 64, 96)])

    @property
    def is_known(self) -> bool:
        """True if it is NumPy's default global generator, MT19937: 624 words and a position."""
        return type(self._random.get_bit_generator()).__name__ == "MT19937"

    def _lies(self) -> bytes:
        return ctypes.string_at(self._random.get_bit_generator().ctypes.state_address, 2500)

    def mark(self) -> tuple[bytes, Any]:
        # The memory does not show if a normal number is cached. But without a cached one every draw changes the
        # memory.
        saved, lies = self._saved, self._lies()
        if saved is None or saved[0] != lies or saved[1]["has_gauss"]:
            self._saved = saved = lies, self.save()
        return saved

    def changed(self, mark: tuple[bytes, Any]) -> bool:
        lies, state = mark
        return self._lies() != lies or bool(state["has_gauss"] and not self.save()["has_gauss"])


_python = _Python()
_torch = functools.cache(_Torch)
_numpy = functools.cache(_NumPy)


def _loaded() -> tuple[_Torch | None, _NumPy | None]:
    """The global generators of the libraries that this program has loaded."""
    torch, numpy_random = sys.modules.get("torch"), sys.modules.get("numpy.random")
    numpy = _numpy(numpy_random) if hasattr(numpy_random, "get_bit_generator") else None
    return (
        _torch(torch) if hasattr(torch, "default_generator") else None,
        numpy if numpy is not None and numpy.is_known else None,
    )


# Worker threads that are running user code.
_in_workers: set[int] = set()


def interrupt_workers() -> None:
    """Raises SystemExit in every worker thread that is running user code, at its next Python instruction."""
    for thread in list(_in_workers):
        ctypes.pythonapi.PyThreadState_SetAsyncExc(ctypes.c_ulong(thread), ctypes.py_object(SystemExit))


# Number of batches that the main thread has asked workers for, and True while it waits for one.
_asked = 0
_waiting = False


@contextlib.contextmanager
def waiting() -> Iterator[None]:
    """Marks a wait for workers. The main thread draws nothing meanwhile, so any change of a generator is by the workers."""
    global _asked, _waiting
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    _asked += 1
    _waiting = True
    try:
        yield
    finally:
        _waiting = False


class Own:
    """A Dataset or step, as the engine calls it: with a number to seed generators with, or None in a worker thread; with
    arrays; and with ``rng`` if the step takes one.
    """

    # Number of first calls in workers that are checked for draws, and then one of this many: code that draws for some
    # samples does so again.
    LOOKED_AT = 32
    ONE_OF = 16

    def __init__(self, name: str, function: Callable[..., Any], at_once: bool) -> None:
        self.name = name
        self.drew: set[str] = set()
        self.is_known = False
        self._function = function
        # Runs in any number of threads at once.
        self._at_once = at_once
        self._calls = 0
        self._warned = False

    def __call__(self, key: int | None, *arrays: Any, **words: Any) -> Any:
        if key is not None:
            with _turn:
                return self._in_caller(key, arrays, words)
        thread = threading.get_ident()
        _in_workers.add(thread)
        try:
            with contextlib.nullcontext() if self._at_once else _turn:
                return self._in_worker(arrays, words)
        finally:
            _in_workers.discard(thread)

    def _in_caller(self, key: int, arrays: Any, words: Any) -> Any:
        torch, numpy = _loaded()
        if self.drew and not self._warned and threading.current_thread() is not threading.main_thread():
            self._warned = True
            warnings.warn(
                f"{told([self])}, and batches are asked for in a thread beside the main one: what other threads draw while a "
                "sample is made comes from generators that are seeded for it. Ask for batches in the main thread",
                UserWarning,
                stacklevel=2,
            )
        while True:
            learns = not self.is_known
            guarded: list[Any] = [_python] if torch is None else [_python, torch]
            mark = None
            if numpy is not None and (learns or numpy.name in self.drew):
                guarded.append(numpy)
            elif numpy is not None:
                # Seeding and restoring this one, too, can take longer than making a sample.
                mark = numpy.mark()
            before = [generator.save() for generator in guarded]
            arrays_now, rng = _again(arrays, words) if learns or mark is not None else (arrays, None)
            try:
                for generator in guarded:
                    generator.seed(key)
                seeded = [generator.mark() for generator in guarded] if learns else []
                made = self._function(*arrays_now, **words)
                self.drew.update(generator.name for generator, mine in zip(guarded, seeded) if generator.changed(mine))
                self.is_known = True
            finally:
                for generator, state in zip(guarded, before):
                    generator.restore(state)
                drew_first = False
                if numpy is not None and mark is not None and numpy.changed(mark):
                    numpy.restore(mark[1])
                    self.drew.add(numpy.name)
                    drew_first = True
            if not drew_first and _loaded() == (torch, numpy):
                return made
            # Calls it again, now with a seeded generator: it drew from one, or has just loaded its library.
            self.is_known = self.is_known and drew_first
            torch, numpy = _loaded()
            if rng is not None:
                words["rng"].bit_generator.state = rng

    def _in_worker(self, arrays: Any, words: Any) -> Any:
        self._calls += 1
        if not _waiting or (self._calls > self.LOOKED_AT and self._calls % self.ONE_OF):
            return self._function(*arrays, **words)
        # Another part of the program may draw by chance at the same moment, but not repeatedly.
        for _ in range(3):
            asked = _asked
            marks: list[Any] = [(g, g.mark()) for g in (_python, *_loaded()) if g is not None]
            arrays_now, rng = _again(arrays, words)
            made = self._function(*arrays_now, **words)
            drawn = [generator.name for generator, mark in marks if generator.changed(mark)]
            if not drawn or not _waiting or asked != _asked:
                return made
            if rng is not None:
                words["rng"].bit_generator.state = rng
        raise DrawsInWorkerError(
            f"{self.name} has drawn from the global generator of {' and '.join(drawn)} in a worker thread, which changes what "
            "the rest of your program draws. Give num_workers=0: its samples are then made in the thread that asks for them, "
            "with generators seeded for each. Or draw from rng: .map(f, rng=True)"
        )


def _again(arrays: Any, words: Any) -> tuple[list[Any], Any]:
    """Copies of the arguments for a call that may be repeated, since steps may work in place; and the state of ``rng``."""
    return [array.copy() for array in arrays], words["rng"].bit_generator.state if "rng" in words else None


def told(steps: Iterable[Own]) -> str:
    """A text that names the steps that draw and their generators; empty if none draws."""
    return "; ".join(f"{own.name} draws from the global generator of {' and '.join(sorted(own.drew))}" for own in steps if own.drew)


def for_v2(function: Callable[..., Any], is_picture: bool) -> Callable[..., Any]:
    """Wraps a v2 transform of torchvision, which would leave NumPy arrays unchanged, so that it gets tensors: a picture
    (H, W, 3) as a ``tv_tensors.Image`` (3, H, W). Any other function is returned unchanged.
    """
    if not _holds_v2(function):
        return function
    import torch
    from torchvision import tv_tensors  # type: ignore[import-untyped]

    def on_picture(array: Any, **words: Any) -> Any:
        tensor = torch.from_numpy(array)
        is_bytes = array.dtype == "uint8"
        made = function(tv_tensors.Image(tensor.permute(2, 0, 1) if is_bytes else tensor), **words)
        if is_bytes and isinstance(made, torch.Tensor) and made.dim() == 3:
            made = made.permute(1, 2, 0)
        return made

    def on_fields(*arrays: Any, **words: Any) -> Any:
        return function(*map(torch.from_numpy, arrays), **words)

    return on_picture if is_picture else on_fields


def _holds_v2(function: Any) -> bool:
    """True if it is a v2 transform or consists of some. Without torchvision loaded there are none."""
    v2 = sys.modules.get("torchvision.transforms.v2")
    if v2 is None:
        return False
    if isinstance(function, v2.Transform):
        return True
    if isinstance(function, functools.partial):
        return _holds_v2(function.func)
    # A user's own class gets arrays, as documented, whatever it contains.
    if type(function).__module__.split(".")[0] not in ("torch", "torchvision"):
        return False
    parts = function.modules() if isinstance(function, sys.modules["torch"].nn.Module) else getattr(function, "transforms", ())
    return any(part is not function and _holds_v2(part) for part in parts) if isinstance(parts, (list, tuple, Iterator)) else False
