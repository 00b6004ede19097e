"""The engine of TorchSSC's training script: arguments, ranks, checkpoints, learning rate. Owns the content of a checkpoint
and its atomic writing; of the data it knows only the loader's position.
"""

from __future__ import annotations

import argparse
import logging
import os
import tempfile
from collections.abc import Iterable
from typing import Any

from ...errors import ConfigError, StateError
from ...loader import DataLoader
from ...ranks import discover, initialised_group

log = logging.getLogger("feedline")

_STATE = ("epoch", "iteration", "dataloader", "model", "optimizer")


class State:
    """The objects and counters of a run, which a checkpoint holds."""

    def __init__(self) -> None:
        self.epoch = 0
        self.iteration = 0
        self.dataloader: Any = None
        self.model: Any = None
        self.optimizer: Any = None


class Engine:
    """Reads the arguments, joins the process group and keeps checkpoints::

        with Engine(custom_parser=parser) as engine:
            ...

    It adds ``-d/--devices`` ("0-1", "0,2", "*"), ``-c/--continue FILE``, ``--local_rank`` (default: LOCAL_RANK) and
    ``-p/--port`` to the parser; ``argv`` replaces the command line.

    It is ``distributed`` if a process group exists already, or if a launcher (torchrun, Slurm, Open MPI) sets ranks, even a
    single one; without a launcher it is one process that needs no group. Unless a group exists, it makes one, with NCCL if
    CUDA is available, else with Gloo, and destroys it at the end of the ``with``. The launcher's
    MASTER_ADDR and MASTER_PORT are kept; ``--port`` is used if MASTER_PORT is not set.
    """

    def __init__(self, custom_parser: argparse.ArgumentParser | None = None, argv: Iterable[str] | None = None) -> None:
        parser = argparse.ArgumentParser() if custom_parser is None else custom_parser
        if not isinstance(parser, argparse.ArgumentParser):
            raise ConfigError(f"custom_parser is {type(parser).__name__}. Give an argparse.ArgumentParser")
        self.parser = parser
        self.state = State()
        self._add_arguments()
        self.args = self.parser.parse_args(None if argv is None else list(argv))
        self.continue_state_object: str | None = self.args.continue_fpath
        self.local_rank: int = self.args.local_rank
        self.rank, self.world_size, rule = discover()
        self.distributed = rule != "no launcher"
        self._made_group = False

        import torch

        count = torch.cuda.device_count() if torch.cuda.is_available() else 0
        self.device = torch.device("cpu")
        if self.distributed:
            self.devices = list(range(self.world_size))
            if count:
                if self.local_rank >= count:
                    raise ConfigError(
                        f"local_rank is {self.local_rank}, but there are {count} CUDA devices. Start as many processes on a "
                        "machine as it has devices"
                    )
                self.device = torch.device("cuda", self.local_rank)
        else:
            self.devices = _devices(self.args.devices, count)
            if self.devices:
                self.device = torch.device("cuda", self.devices[0])
        if self.device.type == "cuda":
            torch.cuda.set_device(self.device)
        if self.distributed and initialised_group() is None:
            self._make_group()
        log.info("engine: rank %d of %d on %s, %s", self.rank, self.world_size, self.device, rule)

    def _add_arguments(self) -> None:
        local_rank = os.environ.get("LOCAL_RANK") or os.environ.get("SLURM_LOCALID") or "0"
        try:
            add = self.parser.add_argument
            add("-d", "--devices", default="", help="CUDA devices: 0-1, 0,2 or *; the first one if not said")
            add("-c", "--continue", dest="continue_fpath", metavar="FILE", type=_extant_file, help="checkpoint to go on from")
            add("--local_rank", "--local-rank", dest="local_rank", default=local_rank, type=int, help="the launcher's")
            add("-p", "--port", default="16001", type=str, help="of rank 0, where MASTER_PORT is not set")
        except argparse.ArgumentError as error:
            raise ConfigError(f"custom_parser has one of Engine's own arguments: {error}. Leave it out there") from None

    def _make_group(self) -> None:
        import torch.distributed as dist

        host, port = os.environ.get("MASTER_ADDR"), os.environ.get("MASTER_PORT")
        if host is None and self.world_size > 1:
            raise ConfigError(
                f"there are {self.world_size} ranks, but MASTER_ADDR is not set. Start them with torchrun, or set it to the "
                "host of rank 0"
            )
        method = "env://" if host and port else f"tcp://{host or '127.0.0.1'}:{port or self.args.port}"
        backend = "nccl" if self.device.type == "cuda" else "gloo"
        log.info("engine: %s group of %d at %s:%s", backend, self.world_size, host, port or self.args.port)
        dist.init_process_group(backend, init_method=method, rank=self.rank, world_size=self.world_size)
        self._made_group = True

    def __enter__(self) -> Engine:
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        if kind is not None:
            log.warning("A exception occurred during Engine initialization, give up running process")
        if self._made_group and initialised_group() is not None:
            import torch.distributed as dist

            # NCCL would wait here for other ranks that have stopped; the end of the process destroys the group.
            if kind is None or dist.get_backend() != "nccl":
                dist.destroy_process_group()
            self._made_group = False

    def register_state(self, **kwargs: Any) -> None:
        """Registers the parts of a checkpoint: ``dataloader``, ``model``, ``optimizer``, ``epoch`` and ``iteration``."""
        for name, value in kwargs.items():
            if name not in _STATE:
                raise ConfigError(f"the state has no {name!r}. It has {', '.join(_STATE)}")
            setattr(self.state, name, value)

    def update_iteration(self, epoch: int, iteration: int) -> None:
        """Sets the current epoch and its iteration, both from 0."""
        self.state.epoch = epoch
        self.state.iteration = iteration

    def save_checkpoint(self, path: str | os.PathLike[str]) -> None:
        """Writes model, optimizer, epoch, iteration, the loader's position and torch's random state, atomically: the file is
        complete or absent. Rank 0 writes; on others this does nothing, so it may be called on one rank or on all.

        The random state is rank 0's; it is restored only if there is one rank, both then and now.
        """
        if self.rank != 0:
            return
        import torch

        state: dict[str, Any] = {
            "epoch": self.state.epoch,
            "iteration": self.state.iteration,
            "world_size": self.world_size,
            "rng": {"cpu": torch.get_rng_state()},
        }
        if self.device.type == "cuda":
            state["rng"]["cuda"] = torch.cuda.get_rng_state(self.device)
        if self.state.model is not None:
            state["model"] = {_bare(name): value for name, value in self.state.model.state_dict().items()}
        if self.state.optimizer is not None:
            state["optimizer"] = self.state.optimizer.state_dict()
        if isinstance(self.state.dataloader, DataLoader):
            state["dataloader"] = self.state.dataloader.state_dict()
        path = os.path.abspath(path)
        folder, name = os.path.split(path)
        os.makedirs(folder, exist_ok=True)
        unfinished = os.path.join(folder, f".{name}.{os.getpid()}.tmp")
        try:
            with open(unfinished, "wb") as file:
                torch.save(state, file)
                file.flush()
                os.fsync(file.fileno())
            os.replace(unfinished, path)
        finally:
            if os.path.exists(unfinished):
                os.unlink(unfinished)
        _sync_folder(folder)
        log.info("engine: wrote %s, epoch %d, iteration %d", path, self.state.epoch, self.state.iteration)

    def save_and_link_checkpoint(
        self,
        snapshot_dir: str | os.PathLike[str],
        log_dir: str | os.PathLike[str] | None = None,
        log_dir_link: str | os.PathLike[str] | None = None,
    ) -> None:
        """:meth:`save_checkpoint` to ``epoch-E.pth`` in ``snapshot_dir``; the link ``epoch-last.pth`` then points to it. If the
        other two are given, ``log_dir_link`` becomes a link to ``log_dir`` unless it exists.
        """
        if self.rank != 0:
            return
        name = f"epoch-{self.state.epoch}.pth"
        self.save_checkpoint(os.path.join(snapshot_dir, name))
        _link(name, os.path.join(snapshot_dir, "epoch-last.pth"))
        if log_dir is not None and log_dir_link is not None and not os.path.lexists(log_dir_link):
            _link(os.path.abspath(log_dir), os.fspath(log_dir_link))

    def restore_checkpoint(self, strict: bool = True) -> None:
        """Resumes from the file of ``-c``: model, optimizer, and the loader, which begins with exactly the next sample.

        Afterwards ``state.epoch`` is the epoch to resume in, and ``state.iteration`` its next iteration: not 0 if the
        checkpoint was written in mid-epoch; ``dataloader.batches_left`` batches are then left. TorchSSC's own
        checkpoints, which have no such position, resume with the next epoch.

        Raises :class:`feedline.StateError` if the file cannot be read, or does not fit the model or the data; nothing
        changes then. With ``strict=False`` parameters of the model that the file lacks are not changed, and unknown ones in
        the file are ignored.
        """
        path = self.continue_state_object
        if path is None:
            raise ConfigError("there is no checkpoint to go on from. Start with -c FILE")
        import torch

        try:
            saved = torch.load(path, map_location="cpu", weights_only=True)
        except Exception as error:
            problem = f"the checkpoint {path} cannot be read: {error}. Go on from another one"
            raise StateError(problem, field="file") from error
        place = saved.get("dataloader") if isinstance(saved, dict) else None
        if not isinstance(saved, dict) or "model" not in saved and self.state.model is not None:
            raise StateError(f"the checkpoint {path} holds no model. Give one that Engine wrote", field="model")
        if place is not None and not isinstance(self.state.dataloader, DataLoader):
            raise ConfigError(
                f"the checkpoint {path} tells where its loader stood, but no loader is registered. Call "
                "engine.register_state(dataloader=train_loader) before"
            )
        weights = None if self.state.model is None else _fitting(self.state.model, saved["model"], path, strict)
        if self.state.optimizer is not None and "optimizer" not in saved:
            raise StateError(f"the checkpoint {path} holds no optimizer. Give one that Engine wrote", field="optimizer")
        before = None
        if place is not None:
            before = self.state.dataloader.state_dict()
            self.state.dataloader.load_state_dict(place)
        if self.state.optimizer is not None:
            try:
                self.state.optimizer.load_state_dict(saved["optimizer"])
            except (KeyError, ValueError) as error:
                if before is not None:
                    self.state.dataloader.load_state_dict(before)
                problem = f"the checkpoint {path} does not fit the optimizer: {error}. Make it as when it was saved"
                raise StateError(problem, field="optimizer") from error
        if weights is not None:
            self.state.model.load_state_dict(weights)
        self._go_on(saved, place)
        # With several ranks only rank 0's random state is saved.
        rng = saved.get("rng")
        if rng is not None and saved.get("world_size") == self.world_size == 1:
            torch.set_rng_state(rng["cpu"])
            if "cuda" in rng and self.device.type == "cuda":
                torch.cuda.set_rng_state(rng["cuda"], self.device)
        log.info("engine: goes on from %s, epoch %d, iteration %d", path, self.state.epoch, self.state.iteration)

    def _go_on(self, saved: dict[str, Any], place: Any) -> None:
        loader = self.state.dataloader
        if place is None:
            self.state.epoch, self.state.iteration = int(saved.get("epoch", -1)) + 1, 0
            if isinstance(loader, DataLoader):
                loader.set_epoch(self.state.epoch)
            return
        if loader.batches_left == 0:
            loader.set_epoch(loader.epoch + 1)
        self.state.epoch, self.state.iteration = loader.epoch, len(loader) - loader.batches_left

    def link_tb(self, source: str | os.PathLike[str], target: str | os.PathLike[str]) -> None:
        """Makes the folder ``source``, and ``target`` a link to it, on rank 0."""
        if self.rank == 0:
            os.makedirs(source, exist_ok=True)
            _link(os.path.abspath(source), os.fspath(target))


def _extant_file(path: str) -> str:
    if not os.path.exists(path):
        raise argparse.ArgumentTypeError(f"{path} does not exist")
    return path


def _devices(text: str, count: int) -> list[int]:
    """The numbers of CUDA devices, of ``count``: "" is the first one if there is one."""
    text = text.strip()
    if text in ("", "*"):
        return list(range(count if text else min(count, 1)))
    found: list[int] = []
    for part in text.split(","):
        first, dash, last = part.partition("-")
        if not first.strip().isdigit() or dash and not last.strip().isdigit():
            raise ConfigError(f"--devices is {text!r}. Use 0-1, 0,2 or *")
        found += range(int(first), int(last or first) + 1)
    if not found or max(found) >= count:
        raise ConfigError(f"--devices is {text!r}, but there are {count} CUDA devices, counted from 0. Name those that are there")
    return found


def _link(source: str, target: str) -> None:
    """Makes ``target`` a symbolic link to ``source``; replaces another link atomically."""
    if os.path.lexists(target) and not os.path.islink(target):
        raise ConfigError(f"{target} is there and is no link, so it cannot become one. Move it away")
    folder = os.path.dirname(os.path.abspath(target))
    os.makedirs(folder, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=folder, prefix=".link-") as beside:
        new = os.path.join(beside, "link")
        os.symlink(source, new)
        os.replace(new, target)


def _sync_folder(folder: str) -> None:
    """Syncs a folder, if the system supports it, so that a new name in it survives a power failure."""
    if hasattr(os, "O_DIRECTORY"):
        descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
        try:
            os.fsync(descriptor)
        except OSError:
            log.info("%s cannot be synchronised", folder)
        finally:
            os.close(descriptor)


def _bare(name: str) -> str:
    return name.removeprefix("module.")


def _fitting(model: Any, saved: dict[str, Any], path: str, strict: bool) -> dict[str, Any]:
    """The saved values with the model's own names, wrapped (``module.``) or not."""
    wanted = model.state_dict()
    given = {_bare(name): value for name, value in saved.items()}
    missing = [name for name in wanted if _bare(name) not in given]
    unexpected = sorted(given.keys() - {_bare(name) for name in wanted})
    shapes = [
        f"{name} {tuple(given[_bare(name)].shape)}, not {tuple(value.shape)}"
        for name, value in wanted.items()
        if hasattr(value, "shape") and _bare(name) in given and given[_bare(name)].shape != value.shape
    ]
    problems = [("of another shape", shapes)]
    if strict:
        problems += [("missing", missing), ("not of the model", unexpected)]
    if any(names for _, names in problems):
        found = "; ".join(f"{what}: {_few(names)}" for what, names in problems if names)
        remedy = "" if not strict or shapes else ", or restore with strict=False"
        problem = f"the checkpoint {path} does not fit the model; {found}. Build the model it was saved of{remedy}"
        raise StateError(problem, field="model")
    return {name: given.get(_bare(name), value) for name, value in wanted.items()}


def _few(names: list[str]) -> str:
    return ", ".join(names[:8]) + (f" and {len(names) - 8} more" if len(names) > 8 else "")


class PolyLR:
    """``start_lr * (1 - iteration / total_iters) ** lr_power``."""

    def __init__(self, start_lr: float, lr_power: float, total_iters: int) -> None:
        if total_iters < 1:
            raise ConfigError(f"total_iters is {total_iters}. It must be at least 1")
        self.start_lr = start_lr
        self.lr_power = lr_power
        self.total_iters = total_iters

    def get_lr(self, cur_iter: int) -> float:
        """The learning rate of an iteration of the run, from 0."""
        if not 0 <= cur_iter <= self.total_iters:
            raise ConfigError(f"iteration {cur_iter} is not one of 0 to {self.total_iters}. Give total_iters of the whole run")
        return float(self.start_lr * (1 - cur_iter / self.total_iters) ** self.lr_power)


def group_weight(
    weight_group: list[dict[str, Any]], module: Any, norm_layer: Any = None, lr: float = 0.1
) -> list[dict[str, Any]]:
    """Adds two groups for an optimizer to ``weight_group`` and returns it: weights of convolutions and linear layers; and,
    without weight decay, biases and parameters of norms.

    ``norm_layer`` is another class of norms besides torch's own. Raises :class:`feedline.ConfigError` if a parameter fits
    neither group.
    """
    from torch import nn

    weighted = (nn.Linear, nn.Bilinear, nn.modules.conv._ConvNd)
    norms = [nn.modules.batchnorm._NormBase, nn.GroupNorm, nn.LayerNorm]
    norms += [] if norm_layer is None else [norm_layer]
    decay, plain, others = [], [], []
    seen: set[int] = set()
    for prefix, part in module.named_modules():
        for name, parameter in part.named_parameters(recurse=False):
            if id(parameter) in seen:
                continue
            seen.add(id(parameter))
            if isinstance(part, tuple(norms)) or isinstance(part, weighted) and name == "bias":
                plain.append(parameter)
            elif isinstance(part, weighted):
                decay.append(parameter)
            else:
                others.append(f"{prefix}.{name}".lstrip("."))
    if others:
        raise ConfigError(
            f"parameters of no convolution, linear layer or norm: {_few(others)}. Give them to the optimizer in a group of "
            "their own"
        )
    weight_group += [{"params": decay, "lr": lr}, {"params": plain, "weight_decay": 0.0, "lr": lr}]
    return weight_group
