"""Trained networks in PyTorch: what ``feedline train`` left or ``feedline export`` wrote, as a torch module, with the way from a
picture to its input. Owns the reading of these files; every network but ``small`` is torchvision's.
"""

from __future__ import annotations

import base64
import json
import os
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

import numpy as np
import torch
from torch import nn

from . import _native
from .errors import ConfigError, FileError, StateError, UnsupportedError
from .loader import DataLoader
from .pictures import Images, images

# torchvision's names of the networks, by Feedline's.
_TORCHVISION = {"mobilenetv2": "mobilenet_v2", "resnet18": "resnet18", "resnet50": "resnet50"}

# Version of the facts in exported files.
_FORMAT = 1

# A PNG of one pixel.
_PIXEL = base64.b64decode("iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAIAAACQd1PeAAAADElEQVR42mNgYGAAAAAEAAHI6uv5AAAAAElFTkSuQmCC")

PathLike = str | os.PathLike[str]


class Small(nn.Module):
    """Feedline's network ``small``: five convolutions, the maximum over the picture, a linear layer. Input float32 (B, 3, H, W),
    output logits (B, ``num_classes``). The names in its state dict are those of Feedline's checkpoints.
    """

    def __init__(self, num_classes: int) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        channels = 3
        for channels_out, stride in ((16, 2), (24, 2), (48, 1), (64, 2), (96, 1)):
            conv = nn.Conv2d(channels, channels_out, 3, stride, padding=1, bias=False)
            layers.append(nn.Sequential(conv, nn.BatchNorm2d(channels_out), nn.ReLU(inplace=True)))
            channels = channels_out
        self.features = nn.Sequential(*layers)
        self.classifier = nn.Linear(channels, num_classes)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """The logits of normalised pictures."""
        logits: torch.Tensor = self.classifier(self.features(x).amax(dim=(2, 3)))
        return logits


class Preprocess:
    """The way from pictures to the input of a network, as its training evaluated it: the pixels are those of ``feedline eval``,
    bit for bit, for files. Made by :func:`feedline.load_model`.
    """

    def __init__(self, facts: Mapping[str, Any]) -> None:
        self.input_px: int = facts["input_px"]
        self.mean: tuple[float, ...] = tuple(facts["mean"])
        self.std: tuple[float, ...] = tuple(facts["std"])
        self.words: str = facts["preprocessing"]
        """What it does, in words."""
        self._decode, self._exif = facts["decode"], facts["exif"]
        self._steps = list(facts["steps"])
        if any(step.get("op") != "resize_center_crop" for step in self._steps):
            names = [step.get("op") for step in self._steps]
            raise UnsupportedError(f"this version of feedline does not know all of the steps {names}. Use a newer one")

    def __call__(self, pictures: Any) -> torch.Tensor:
        """A picture or a list of pictures as float32 (B, 3, ``input_px``, ``input_px``), normalised, on the CPU.

        A picture is a path, a PIL image, or a uint8 array (H, W, 3) of R, G, B. Raises :class:`feedline.SampleError` with the
        name of a file that cannot be used, and :class:`feedline.ConfigError` for anything else than pictures.
        """
        given = list(pictures) if isinstance(pictures, (list, tuple)) else [pictures]
        if not given:
            raise ConfigError("the list of pictures is empty. Give a path, a PIL image or a uint8 array (H, W, 3), or some")
        if all(isinstance(picture, (str, os.PathLike)) for picture in given):
            return self._of_files([os.fspath(picture) for picture in given])
        return torch.cat([self._of_one(picture) for picture in given])

    def __repr__(self) -> str:
        return f"Preprocess(input_px={self.input_px}, mean={self.mean}, std={self.std})"

    def _declared(self, source: Images) -> Images:
        """The source with the steps of the network."""
        for step in self._steps:
            source = source.resize(step["shorter_px"], step["filter"]).center_crop(tuple(step["size_px"]))
        return source.normalize(self.mean, self.std)

    def _of_files(self, paths: list[str]) -> torch.Tensor:
        source = self._declared(images(paths, [0] * len(paths), exif=self._exif).decode(self._decode))
        # One process's own pictures, whatever launcher has started it.
        workers = 0 if len(paths) == 1 else None
        loader = DataLoader(source, len(paths), num_workers=workers, num_replicas=1, rank=0, output="torch")
        batch: torch.Tensor = next(iter(loader))[0]
        return batch

    def _upright(self, picture: Any) -> Any:
        if self._exif == "ignore":
            return picture
        from PIL import ImageOps

        return ImageOps.exif_transpose(picture)

    def _of_one(self, picture: Any) -> torch.Tensor:
        if isinstance(picture, (str, os.PathLike)):
            return self._of_files([os.fspath(picture)])
        if hasattr(picture, "convert"):
            picture = self._upright(picture).convert("RGB")
        pixels = np.asarray(picture)
        if pixels.dtype != np.uint8 or pixels.ndim != 3 or pixels.shape[2] != 3 or 0 in pixels.shape:
            raise ConfigError(
                f"a {type(picture).__name__} of {pixels.dtype} {pixels.shape} is no picture. Give a path, a PIL image or a uint8 "
                "array (H, W, 3), or a list of them"
            )
        # The engine's own steps work on a file; these pixels take the place of its one.
        with tempfile.NamedTemporaryFile(suffix=".png") as file:
            file.write(_PIXEL)
            file.flush()
            source = self._declared(images([file.name], [0]).map(lambda _: pixels))
            made = source.sample(0)[0]
        return torch.as_tensor(made)[None]


class Model(NamedTuple):
    """A trained network: ``net, preprocess, classes = feedline.load_model(path)``."""

    net: nn.Module
    """The module, in evaluation mode: float32 (B, 3, H, W) to logits (B, classes)."""
    preprocess: Preprocess
    """From pictures to the module's input."""
    classes: list[str]
    """Names of the classes, in the order of the logits."""


def load_model(path: PathLike) -> Model:
    """As :func:`feedline.load_model`."""
    path = Path(path)
    suffix = path.suffix.lower()
    if path.is_dir():
        json_text, file = _native.run_model(os.fspath(path))
        facts, state = json.loads(json_text), _read_safetensors(Path(file))[1]
    elif suffix == ".safetensors":
        metadata, state = _read_safetensors(path)
        if "feedline" not in metadata:
            raise _not_ours(path)
        facts = json.loads(metadata["feedline"])
    elif suffix in (".pt", ".pth"):
        facts, state = _read_torch(path)
    else:
        _opened(path).close()
        raise ConfigError(
            f"{path}: a network is loaded from a .safetensors or .pt file of `feedline export`, a run folder or a checkpoint"
            + (". Of .onnx files ONNX Runtime makes use" if suffix == ".onnx" else "")
        )
    if facts.get("format") != _FORMAT:
        known = f"format {facts.get('format')} of an exported network (known is {_FORMAT})"
        raise UnsupportedError(f"{path}: {known}. Use the version of feedline that wrote it")
    net = _network(facts["backbone"], len(facts["classes"]))
    try:
        net.load_state_dict(state)
    except RuntimeError as error:
        problem = f"{path}: its tensors are not those of {facts['backbone']}: {error}. Export the run again"
        raise StateError(problem, path=os.fspath(path)) from None
    return Model(net.eval(), Preprocess(facts), list(facts["classes"]))


def _network(backbone: str, num_classes: int) -> nn.Module:
    if backbone == "small":
        return Small(num_classes)
    if backbone not in _TORCHVISION:
        raise UnsupportedError(f"the network {backbone!r} is not known to this version of feedline. Use a newer one")
    try:
        import torchvision  # type: ignore[import-untyped]
    except ModuleNotFoundError:
        raise ImportError(f"the network {backbone} is torchvision's: pip install torchvision") from None
    made: nn.Module = getattr(torchvision.models, _TORCHVISION[backbone])(num_classes=num_classes)
    return made


def _not_ours(path: Path) -> StateError:
    problem = "it says nothing of its classes and its input, since feedline did not export it"
    return StateError(f"{path}: {problem}. Give one of `feedline export`", path=os.fspath(path))


def _damaged(path: Path, problem: object) -> StateError:
    return StateError(f"{path}: the file is damaged or of another kind: {problem}. Export it again", path=os.fspath(path))


def _opened(path: Path) -> BinaryIO:
    try:
        return path.open("rb")
    except OSError as error:
        raise FileError(f"failed to read {path}: {error.strerror}", path=os.fspath(path), errno=error.errno) from None


def _read_safetensors(path: Path) -> tuple[dict[str, str], dict[str, torch.Tensor]]:
    """Metadata and tensors of a file: a length, a header in JSON, the numbers."""
    with _opened(path) as file:
        data = bytearray(file.read())
    length = int.from_bytes(data[:8], "little")
    if len(data) < 8 or length > len(data) - 8:
        raise _damaged(path, "it is cut, or no safetensors file")
    try:
        header = json.loads(data[8 : 8 + length].decode())
        metadata = header.pop("__metadata__", {})
        tensors = {name: _tensor(data, 8 + length, **entry) for name, entry in header.items()}
    except (ValueError, TypeError, KeyError, AttributeError) as error:
        raise _damaged(path, error) from None
    return metadata, tensors


def _tensor(data: bytearray, start: int, dtype: str, shape: Sequence[int], data_offsets: Sequence[int]) -> torch.Tensor:
    if dtype != "F32":
        raise ValueError(f"a tensor of {dtype}, and not F32")
    first, end = data_offsets
    return torch.frombuffer(data, dtype=torch.float32, count=(end - first) // 4, offset=start + first).reshape(list(shape))


def _read_torch(path: Path) -> tuple[dict[str, Any], dict[str, torch.Tensor]]:
    with _opened(path) as file:
        try:
            loaded = torch.load(file, map_location="cpu", weights_only=True)
        except Exception as error:  # of many kinds, by what is wrong with the file
            raise _damaged(path, error) from None
    if not isinstance(loaded, dict) or not {"model", "backbone", "classes"} <= set(loaded):
        raise _not_ours(path)
    return loaded, loaded["model"]
