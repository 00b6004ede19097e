"""Rank and number of ranks of this process: from arguments, an initialised process group, or the launcher's variables."""

from __future__ import annotations

import logging
import os
import sys

from . import _native
from .errors import ConfigError, whole_number

log = logging.getLogger("feedline")


def initialised_group() -> tuple[int, int] | None:
    """(rank, world size) of torch's default group, if torch is loaded and the group is initialised."""
    distributed = sys.modules.get("torch.distributed")
    if distributed is None or not distributed.is_available() or not distributed.is_initialized():
        return None
    return distributed.get_rank(), distributed.get_world_size()


def discover(num_replicas: int | None = None, rank: int | None = None) -> tuple[int, int, str]:
    """(rank, number of ranks, the rule used): from the arguments, else torch's process group, else the variables of
    torchrun, Slurm, Open MPI or PMI, else one rank.

    Raises :class:`feedline.ConfigError` if the arguments or the variables contradict each other, or if only one argument
    is given and nothing else determines the other.
    """
    num_replicas = None if num_replicas is None else whole_number("num_replicas", num_replicas, 1)
    rank = None if rank is None else whole_number("rank", rank, 0)
    if num_replicas is not None and rank is not None:
        # As in torch, arguments override the group: with tensor parallelism there are fewer data ranks than processes.
        if rank >= num_replicas:
            raise ConfigError(f"Invalid rank {rank}, rank should be in the interval [0, {num_replicas - 1}]")
        return rank, num_replicas, "as the arguments say"
    group = initialised_group()
    if group is not None:
        # Takes precedence over the environment, which may be incomplete: Lightning sets WORLD_SIZE without RANK.
        found = (*group, "as torch's process group says")
    else:
        found = _native.discover(None, None)
    if num_replicas is None and rank is None:
        return found
    if found[2] == "no launcher":
        missing = "rank" if rank is None else "num_replicas"
        raise ConfigError(f"{missing} is not given, and no process group or launcher tells it. Give both, or none")
    return discover(found[1] if num_replicas is None else num_replicas, found[0] if rank is None else rank)


class Ranks:
    """Present rank and number of ranks of this process. Unless arguments give both, a process group that is initialised
    later is used as well.
    """

    def __init__(self, num_replicas: int | None, rank: int | None) -> None:
        self._asked = num_replicas, rank
        self._group = initialised_group()
        self._problem: ConfigError | None = None
        try:
            self._found = discover_and_tell(num_replicas, rank)
        except ConfigError as error:
            if None not in self._asked or "WORLD_SIZE" not in os.environ or "RANK" in os.environ:
                raise
            # The launcher's variables are incomplete: the process group, initialised later, gives the rest.
            self._problem, self._found = error, (0, 1)

    def place(self) -> tuple[int, int]:
        """(rank, number of ranks); (0, 1) as long as they are unknown."""
        group = None if None not in self._asked else initialised_group()
        if group is not None and group != self._group:
            self._found = discover_and_tell(*self._asked)
            self._group, self._problem = group, None
        return self._found

    def check(self) -> None:
        """Raises :class:`feedline.ConfigError` as long as they are unknown."""
        self.place()
        if self._problem is not None:
            raise ConfigError(
                f"{self._problem}. Or let the process group begin before the loader is asked for batches: under Lightning, make "
                "the loader in train_dataloader() or give it to fit(), and do not use it before"
            )


def discover_and_tell(num_replicas: int | None = None, rank: int | None = None) -> tuple[int, int]:
    """As :func:`discover`; also logs the rule used."""
    found, world_size, rule = discover(num_replicas, rank)
    log.info("rank %d of %d, %s", found, world_size, rule)
    return found, world_size
