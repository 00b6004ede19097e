"""The order of an iterable dataset: a place for each worker."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import repeat
from typing import Any

from ..workers.fetch import Begin, Task
from .order import Order, differs


@dataclass
class Stream:
    """What one worker has delivered of an iterable dataset in this pass."""

    batches: int = 0
    state: Any = None
    has_ended: bool = False


class Streams(Order):
    """An iterable dataset: each worker goes through it by itself, and the place is one for each worker."""

    kind = "iterable"
    has_unknown_end = True

    def __init__(self, loader: Any) -> None:
        super().__init__(loader.batch_size, loader.drop_last)
        self.sampler = None
        self.streams: list[Stream] = []
        self.next = 0
        self._workers = max(1, loader.num_workers)
        self._loaded: tuple[list[Stream], int] | None = None
        self._is_behind = False
        # Datasets live on from pass to pass in the calling thread and in persistent workers.
        self._lives_on = loader.num_workers == 0 or loader.persistent_workers
        self._newest: Streams | None = None

    def begin(self) -> Streams:
        begun = copy.copy(self)
        begun.is_resumed = self._loaded is not None
        begun.streams, begun.next = self._loaded or ([Stream() for _ in range(self._workers)], 0)
        begun._is_behind = begun.is_resumed and all(stream.has_ended for stream in begun.streams)
        if begun._is_behind:
            # The state was taken behind the end of a pass. Only what the datasets say of themselves counts for the next one.
            begun.is_resumed = False
            begun.streams = [Stream(state=stream.state) for stream in begun.streams]
            begun.next = 0
        begun._resumed, self._loaded = self._loaded, None
        self._newest = begun
        return begun

    def begins(self, key: int | None) -> list[Begin]:
        """How each worker begins."""
        return [Begin(key, stream.batches, stream.state, self._is_behind) for stream in self.streams]

    def tasks(self) -> Iterator[Task]:
        return repeat(Task(None if self.batch_size is None else range(self.batch_size), None))

    def deliver(self, worker: int, state: Any, has_ended: bool) -> None:
        """Counts a batch of a worker."""
        stream = self.streams[worker]
        stream.batches, stream.state, stream.has_ended = stream.batches + 1, state, has_ended
        self.next = (worker + 1) % self._workers

    def end(self, worker: int, state: Any) -> None:
        """A worker has come to its end."""
        stream = self.streams[worker]
        stream.has_ended, stream.state = True, state
        self.next = (worker + 1) % self._workers

    def place(self, batches: int, samples: int, snapshot: Any) -> dict[str, Any]:
        streams = [[one.batches, copy.deepcopy(one.state), one.has_ended] for one in self.streams]
        return {"workers": self._workers, "batch_size": self.batch_size, "streams": streams, "next": self.next}

    def at_rest(self) -> dict[str, Any]:
        rest = copy.copy(self)
        rest.streams, rest.next = self._loaded or ([], 0)
        ended = self._newest.streams if self._newest is not None and self._lives_on and self._loaded is None else []
        if any(stream.state is not None for stream in ended):
            rest.streams = ended
        return rest.place(0, 0, None)

    def load(self, place: dict[str, Any]) -> None:
        streams = [Stream(*one) for one in place["streams"]]
        if streams and place["workers"] != self._workers:
            raise differs("num_workers", place["workers"], self._workers)
        if streams and place["batch_size"] != self.batch_size and any(one.state is None for one in streams):
            raise differs("batch_size", place["batch_size"], self.batch_size)
        self._loaded = (streams, place["next"]) if streams else None
