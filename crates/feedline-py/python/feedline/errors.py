"""The exceptions of Feedline. All of them can be pickled, so they can be passed between processes."""

from __future__ import annotations

import json
import operator
from typing import Any


class FeedlineError(Exception):
    """Any failure of Feedline. The message says what failed, where, which limit was exceeded and how to fix it.

    The facts of the message are also attributes; each class below lists its own.
    """

    def __init__(self, message: str, **facts: Any) -> None:
        super().__init__(message)
        self.__dict__.update(facts)

    def __reduce__(self) -> tuple[Any, ...]:
        return _rebuild, (type(self), str(self), self.__dict__)


def _rebuild(kind: type[FeedlineError], message: str, facts: dict[str, Any]) -> FeedlineError:
    return kind(message, **facts)


class ConfigError(FeedlineError, ValueError):
    """An argument is wrong, or two contradict each other."""


class DatasetError(FeedlineError):
    """A data set as a whole cannot be used."""

    path: str
    """The folder or file."""


class SampleError(FeedlineError, RuntimeError):
    """A sample could not be read, decoded or augmented. A failed step of your own is its ``__cause__``."""

    stage: str
    """``read``, ``decode``, ``augment`` or ``collate``."""
    index: int
    """Number of the sample in the data set."""
    location: str
    """Its file or row."""
    problem: str
    """The cause, without the rest of the message."""
    step: str
    """Name of the custom step that failed, if one did."""


class TooManyBadSamplesError(FeedlineError, RuntimeError):
    """More samples were replaced than ``max_bad_samples`` allows."""

    found: int
    limit: int


class FileError(FeedlineError):
    """A file or folder could not be read or written. If it belongs to a sample, the error also has the attributes of
    :class:`SampleError`; the sample is never replaced."""

    path: str
    errno: int | None


class StateError(FeedlineError, ValueError):
    """A state belongs to other data or another order, or a saved file is damaged."""

    field: str
    """Name of the fact that differs, if any; its two values are then in ``saved`` and ``now``."""


class RanksError(FeedlineError, RuntimeError):
    """The ranks cannot continue together."""


class UnsupportedError(FeedlineError, NotImplementedError):
    """The request is sensible, but not possible here."""


class OutOfMemoryError(FeedlineError, MemoryError):
    """A batch does not fit into memory. Lower ``batch_size``, or the size of a sample."""

    bytes: int
    """Size of the request, in one piece."""


class LoaderTimeoutError(FeedlineError, RuntimeError):
    """No batch was ready within ``timeout`` seconds. It is a RuntimeError, as torch's."""


class WorkerError(FeedlineError, RuntimeError):
    """A worker process has died. It is started anew: asking again gives the batch that is missing."""


def whole_number(name: str, value: Any, least: int, most: int = 2**63 - 1) -> int:
    """``value`` as an int from ``least`` to ``most``; NumPy's integers are accepted. Otherwise raises a :class:`ConfigError`
    that names the argument."""
    try:
        number = operator.index(value)
    except TypeError:
        number = least - 1
    if isinstance(value, bool) or not least <= number <= most:
        raise ConfigError(f"{name} should be a whole number from {least} to {most}, but got {name}={value!r}")
    return number


def as_json(state_dict: Any) -> str:
    """A state as JSON. Raises a :class:`ConfigError` if it is not a state."""
    try:
        return json.dumps(state_dict)
    except (TypeError, ValueError) as error:
        raise ConfigError(f"this is no state of a loader or sampler: {error}. Give what state_dict() returned") from None
