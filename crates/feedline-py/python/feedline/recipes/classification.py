"""The names of bubbliiiing's classification-pytorch, on Feedline's engine.

``examples/python/train_classification.py`` is its training loop. Faults of the original are corrected:
losses are those of all ranks and count every sample once, and files are replaced as a whole.
"""

from __future__ import annotations

import datetime
import math
import os
import sys
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

from .. import _native
from ..errors import ConfigError
from ..loader import DataLoader
from ..pictures import Images, images


def get_classes(classes_path: str | os.PathLike[str]) -> tuple[list[str], int]:
    """The class names of a file, one a line, and their number."""
    names = _native.classes_of(os.fspath(classes_path), "{}")
    return names, len(names)


def DataGenerator(
    annotation_lines: Iterable[str],
    input_shape: Sequence[int],
    random: bool = True,
    autoaugment_flag: bool = True,
) -> Images:
    """The samples of lines ``class;path``, as a source for :class:`feedline.DataLoader`: ``image`` float32 (B, 3, H, W),
    normalised, and ``label`` int64 (B,).

    With ``random`` it applies a random resized crop, a flip and, with ``autoaugment_flag``, one of AutoAugment's policies;
    without it, a resize of the shorter side and a centre crop. Paths may contain spaces and ``;``, which the original cuts.
    """
    paths, labels = [], []
    for number, line in enumerate(annotation_lines, 1):
        if not line.strip():
            continue
        label, semicolon, path = line.strip().partition(";")
        if not semicolon or not label.strip().isdigit() or not path.strip():
            raise ConfigError(f"line {number} of the annotation is {line.strip()!r}. Each line is `class;path`")
        paths.append(path.strip())
        labels.append(int(label))
    source = images(paths, labels)
    height, width = int(input_shape[0]), int(input_shape[1])
    if not random:
        if height != width:
            return source.resize((height, width)).normalize()
        return source.resize(height).center_crop((height, width)).normalize()
    source = source.random_resized_crop((height, width)).hflip()
    return (source.autoaugment() if autoaugment_flag else source).normalize()


def detection_collate(batch: Any) -> Any:
    """A placeholder: Feedline's loader accepts it as ``collate_fn``, but stacks samples itself."""
    return batch


detection_collate.feedline_stacks = True  # type: ignore[attr-defined]


def get_lr_scheduler(
    lr_decay_type: str,
    lr: float,
    min_lr: float,
    total_iters: int,
    warmup_iters_ratio: float = 0.05,
    warmup_lr_ratio: float = 0.1,
    no_aug_iter_ratio: float = 0.05,
    step_num: int = 10,
) -> Callable[[int], float]:
    """The learning rate as a function of the epoch, from 0. ``total_iters`` is the number of epochs.

    ``"cos"``: a quadratic warm-up, half a cosine from ``lr`` to ``min_lr``, then ``min_lr``. Any other name: ``step_num``
    equal steps, each by the same factor. Raises :class:`feedline.ConfigError` if there are fewer epochs than steps.
    """
    if lr_decay_type == "cos":
        warmup_iters = min(max(warmup_iters_ratio * total_iters, 1), 3)
        warmup_lr = max(warmup_lr_ratio * lr, 1e-6)
        no_aug_iters = min(max(no_aug_iter_ratio * total_iters, 1), 15)

        def cosine(epoch: int) -> float:
            if epoch <= warmup_iters:
                return (lr - warmup_lr) * (epoch / warmup_iters) ** 2 + warmup_lr
            if epoch >= total_iters - no_aug_iters:
                return min_lr
            done = (epoch - warmup_iters) / (total_iters - warmup_iters - no_aug_iters)
            return min_lr + 0.5 * (lr - min_lr) * (1.0 + math.cos(math.pi * done))

        return cosine

    decay_rate = (min_lr / lr) ** (1 / (step_num - 1))
    step_size = total_iters / step_num
    if step_size < 1:
        raise ConfigError(f"step_size must above 1. {total_iters} epochs are fewer than {step_num} steps")

    def steps(epoch: int) -> float:
        return float(lr * decay_rate ** (epoch // step_size))

    return steps


def fit_lr(
    optimizer_type: str, batch_size: int, Init_lr: float, Min_lr: float, *, transformer: bool = False
) -> tuple[float, float]:
    """(Init_lr_fit, Min_lr_fit): the rates for a global batch size, within the original's limits."""
    nbs = 256 if transformer else 64
    lr_limit_max = 1e-3 if optimizer_type == "adam" else 1e-1
    lr_limit_min = (1e-5 if transformer else 1e-4) if optimizer_type == "adam" else 5e-4
    Init_lr_fit = min(max(batch_size / nbs * Init_lr, lr_limit_min), lr_limit_max)
    Min_lr_fit = min(max(batch_size / nbs * Min_lr, lr_limit_min * 1e-2), lr_limit_max * 1e-2)
    return Init_lr_fit, Min_lr_fit


def set_optimizer_lr(optimizer: Any, lr_scheduler_func: Callable[[int], float], epoch: int) -> None:
    """Sets the learning rate of every parameter group to that of ``epoch``."""
    lr = lr_scheduler_func(epoch)
    for group in optimizer.param_groups:
        group["lr"] = lr


class _Writer:
    """Replaces upstream's torch ``SummaryWriter``; it writes to the same records as the history."""

    def __init__(self, log_dir: str, history: _native.History) -> None:
        self.log_dir = log_dir
        self._history = history

    def add_scalar(self, tag: str, scalar_value: Any, global_step: int = 0) -> None:
        """Adds a number."""
        self._history.scalar(tag, global_step, float(scalar_value))

    def flush(self) -> None:
        """Writes the added numbers to the file."""
        self._history.flush()

    def close(self) -> None:
        """As :meth:`flush`; numbers added later are still written."""
        self._history.flush()


class LossHistory:
    """The losses of a run in a new folder of ``log_dir``: ``epoch_loss.txt``, ``epoch_val_loss.txt``, ``epoch_loss.png``
    and TensorBoard's records, which ``writer`` adds to. ``model`` and ``input_shape`` are not used: no graph is drawn.
    """

    def __init__(self, log_dir: str | os.PathLike[str], model: Any = None, input_shape: Any = None) -> None:
        time = datetime.datetime.now().strftime("%Y_%m_%d_%H_%M_%S")
        self.log_dir = os.path.join(log_dir, f"loss_{time}")
        self.losses: list[float] = []
        self.val_loss: list[float] = []
        os.makedirs(self.log_dir, exist_ok=True)
        self._history = _native.History(self.log_dir)
        self.writer = _Writer(self.log_dir, self._history)

    def append_loss(self, epoch: int, loss: float, val_loss: float) -> None:
        """Adds the losses of an epoch, from 1, and rewrites the files."""
        self.losses.append(float(loss))
        self.val_loss.append(float(val_loss))
        self._history.append(epoch, self.losses[-1], self.val_loss[-1])

    def state_dict(self) -> dict[str, list[float]]:
        """The losses so far, so that a resumed run continues the same curves."""
        return {"losses": list(self.losses), "val_loss": list(self.val_loss)}

    def load_state_dict(self, state_dict: dict[str, list[float]]) -> None:
        """Loads the losses of the previous run, from epoch 1, and writes the files."""
        for epoch, (loss, val_loss) in enumerate(zip(state_dict["losses"], state_dict["val_loss"]), 1):
            self.append_loss(epoch, loss, val_loss)


def fit_one_epoch(
    model_train: Any,
    model: Any,
    loss_history: LossHistory | None,
    optimizer: Any,
    epoch: int,
    epoch_step: int,
    epoch_step_val: int,
    gen: Iterable[Any],
    gen_val: Iterable[Any],
    Epoch: int,
    cuda: bool,
    fp16: bool,
    scaler: Any,
    save_period: int,
    save_dir: str | os.PathLike[str],
    local_rank: int = 0,
    on_step: Callable[[int], None] | None = None,
) -> tuple[float, float]:
    """Trains and validates one epoch (from 0), writes history and weights on rank 0, and returns both losses.

    The losses are means over the samples of all ranks; padded samples of ``gen_val`` do not count. With ``fp16`` the
    forward pass and the loss run under autocast (float16 on CUDA, bfloat16 on the CPU) and ``scaler`` scales. ``on_step``
    is called after each step with its number, from 0: the place to save a checkpoint, or to raise to stop.
    """
    import torch
    from torch.nn.functional import cross_entropy

    device = torch.device("cuda", local_rank) if cuda else torch.device("cpu")
    rank, _ = _group()
    autocast = torch.autocast(device.type, torch.float16 if cuda else torch.bfloat16, enabled=fp16)
    if rank == 0:
        print("Start Train")
    # Sum of losses, number of correct samples, number of samples.
    seen = torch.zeros(3, dtype=torch.float64, device=device)
    model_train.train()
    with _Bar(f"Epoch {epoch + 1}/{Epoch}", epoch_step, rank) as bar:
        for step, batch in enumerate(_first(gen, epoch_step)):
            pictures, labels = (part.to(device, non_blocking=True) for part in batch[:2])
            optimizer.zero_grad()
            with autocast:
                outputs = model_train(pictures)
                loss = cross_entropy(outputs, labels)
            if fp16:
                scaler.scale(loss).backward()
                scaler.step(optimizer)
                scaler.update()
            else:
                loss.backward()  # type: ignore[no-untyped-call]
                optimizer.step()
            with torch.no_grad():
                right = (outputs.argmax(dim=-1) == labels).sum()
                seen += torch.stack([loss.double() * len(labels), right.double(), _count(len(labels), device)])
            bar.show(seen, optimizer.param_groups[0]["lr"])
            if on_step is not None:
                on_step(step)
    if rank == 0:
        print("Finish Train\nStart Validation")
    seen_val = torch.zeros(3, dtype=torch.float64, device=device)
    model_train.eval()
    with _Bar(f"Epoch {epoch + 1}/{Epoch}", epoch_step_val, rank) as bar, torch.no_grad():
        for batch in _first(gen_val, epoch_step_val):
            valid = getattr(batch, "valid", len(batch[1]))
            pictures, labels = (part.to(device, non_blocking=True) for part in batch[:2])
            # Without DistributedDataParallel, whose ranks must take equally many steps.
            outputs, labels = model(pictures)[:valid], labels[:valid]
            if valid:
                loss = cross_entropy(outputs, labels, reduction="sum")
                right = (outputs.argmax(dim=-1) == labels).sum()
                seen_val += torch.stack([loss.double(), right.double(), _count(valid, device)])
            bar.show(seen_val, optimizer.param_groups[0]["lr"])
    total, total_val = _over_ranks(seen), _over_ranks(seen_val)
    loss_train, loss_val = total[0] / max(total[2], 1), total_val[0] / max(total_val[2], 1)
    if rank == 0:
        print("Finish Validation")
        if loss_history is not None:
            loss_history.append_loss(epoch + 1, loss_train, loss_val)
        print(f"Epoch:{epoch + 1}/{Epoch}")
        print(f"Total Loss: {loss_train:.3f} || Val Loss: {loss_val:.3f} ")
        folder = Path(save_dir)
        if (epoch + 1) % save_period == 0 or epoch + 1 == Epoch:
            _save(model, folder / f"ep{epoch + 1:03d}-loss{loss_train:.3f}-val_loss{loss_val:.3f}.pth")
        if loss_history is None or len(loss_history.val_loss) <= 1 or loss_val <= min(loss_history.val_loss):
            print("Save best model to best_epoch_weights.pth")
            _save(model, folder / "best_epoch_weights.pth")
        _save(model, folder / "last_epoch_weights.pth")
    return loss_train, loss_val


def _first(batches: Iterable[Any], count: int) -> Iterable[Any]:
    """The first ``count`` batches. A Feedline loader is exhausted, so that it knows that the epoch is over."""
    for step, batch in enumerate(batches):
        if step < count or isinstance(batches, DataLoader):
            yield batch
        else:
            return


def _count(number: int, device: Any) -> Any:
    import torch

    return torch.tensor(float(number), dtype=torch.float64, device=device)


def _group() -> tuple[int, int]:
    """(rank, world size) of torch's process group, or (0, 1)."""
    import torch.distributed as dist

    if dist.is_available() and dist.is_initialized():
        return dist.get_rank(), dist.get_world_size()
    return 0, 1


def _over_ranks(seen: Any) -> list[float]:
    import torch.distributed as dist

    if _group()[1] > 1:
        dist.all_reduce(seen)
    numbers: list[float] = seen.tolist()
    return numbers


def _save(model: Any, path: Path) -> None:
    import torch

    path.parent.mkdir(parents=True, exist_ok=True)
    unfinished = path.with_name(path.name + ".tmp")
    with open(unfinished, "wb") as file:
        torch.save(model.state_dict(), file)
        file.flush()
        os.fsync(file.fileno())  # or a power cut may leave the new name with half of the file
    os.replace(unfinished, path)


class _Bar:
    """A progress bar on rank 0, by tqdm if it is installed."""

    def __init__(self, name: str, total: int, rank: int) -> None:
        self._bar = None
        if rank == 0:
            try:
                from tqdm import tqdm  # type: ignore[import-untyped]

                self._bar = tqdm(desc=name, total=total, mininterval=0.3, file=sys.stderr)
            except ImportError:
                pass

    def __enter__(self) -> _Bar:
        return self

    def __exit__(self, *_: object) -> None:
        if self._bar is not None:
            self._bar.close()

    def show(self, seen: Any, lr: float) -> None:
        if self._bar is None:
            return
        self._bar.update(1)
        # Reading a number waits for the device, so it is done only when the bar is redrawn.
        if self._bar.n == self._bar.last_print_n:
            loss, right, count = seen.tolist()
            self._bar.set_postfix(
                {"total_loss": loss / max(count, 1), "accuracy": right / max(count, 1), "lr": lr}, refresh=False
            )
