"""Which rank this process is, of how many: arguments, then an initialised process group, then the launcher's variables."""

from __future__ import annotations

import logging
import sys

from . import _native
from .errors import ConfigError, whole_number

log = logging.getLogger("feedline")


def initialised_group() -> tuple[int, int] | None:
    """(rank, world size) of torch's default group, if this process has torch loaded and the group is there."""
    distributed = sys.modules.get("torch.distributed")
    if distributed is None or not distributed.is_available() or not distributed.is_initialized():
        return None
    return distributed.get_rank(), distributed.get_world_size()


def discover(num_replicas: int | None = None, rank: int | None = None) -> tuple[int, int, str]:
    """(rank, number of ranks, the rule that told): the arguments, else torch's process group, else the variables of
    torchrun, Slurm, Open MPI or PMI, else one rank.

    Raises :class:`feedline.ConfigError` if two of them contradict each other, or only one argument is given and nothing
    else tells the other.
    """
    num_replicas = None if num_replicas is None else whole_number("num_replicas", num_replicas, 1)
    rank = None if rank is None else whole_number("rank", rank, 0)
    if num_replicas is not None and rank is not None:
        # As in torch, arguments overrule the group: under tensor parallelism ranks of data are fewer than processes.
        return _native.discover((rank, num_replicas), None)
    found = _native.discover(None, initialised_group())
    if num_replicas is None and rank is None:
        return found
    if found[2] == "no launcher":
        missing = "rank" if rank is None else "num_replicas"
        raise ConfigError(f"{missing} is not given, and no process group or launcher tells it. Give both, or none")
    return _native.discover(
        (found[0] if rank is None else rank, found[1] if num_replicas is None else num_replicas), None
    )


def discover_and_tell(num_replicas: int | None = None, rank: int | None = None) -> tuple[int, int]:
    """As :func:`discover`; the rule goes to the log."""
    found, world_size, rule = discover(num_replicas, rank)
    log.info("rank %d of %d, %s", found, world_size, rule)
    return found, world_size
