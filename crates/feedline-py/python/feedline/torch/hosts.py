"""``patch``: ``DataLoader`` in the place of torch's, for programs and libraries that make their loaders themselves."""

from __future__ import annotations

import functools
import importlib.util
import json
import logging
import os
import sys
from abc import ABCMeta
from importlib.machinery import ModuleSpec, SourceFileLoader
from pathlib import Path
from types import CodeType, ModuleType
from typing import Any, Literal, TypeVar

import torch.utils.data

from ..errors import ConfigError, StateError, UnsupportedError
from .loader import DataLoader

T = TypeVar("T", covariant=True)

log = logging.getLogger("feedline")

_TORCHS: Any = torch.utils.data.DataLoader
# Tells processes that a script starts which script it is: its path, or the name of its module, and its seeds.
_SCRIPT = "FEEDLINE_TORCH_SCRIPT"


class PatchedDataLoader(DataLoader[T], metaclass=ABCMeta):
    """What stands in torch's place after :func:`patch`: ``feedline.torch.DataLoader`` with the seeds that were given to it.

    ``isinstance`` and ``issubclass`` take torch's loaders for this class, as programs ask for torch's by its name.
    """

    patched_seeds: Literal["sample", "worker"] = "sample"

    # Lightning reads from it what to make a loader with.
    @functools.wraps(DataLoader.__init__)  # type: ignore[misc]
    def __init__(self, *args: Any, seeds: Literal["sample", "worker"] | None = None, **options: Any) -> None:
        super().__init__(*args, seeds=seeds or PatchedDataLoader.patched_seeds, **options)

    @classmethod
    def __subclasshook__(cls, other: type) -> Any:
        return issubclass(other, _TORCHS) if cls is PatchedDataLoader else NotImplemented

    def state_dict(self) -> dict[str, Any]:
        """As ``feedline.torch.DataLoader``'s. Where there is no state, one that says why, and cannot be loaded: accelerate asks
        for a state at each batch, whether anybody needs it or not.
        """
        try:
            # accelerate subtracts from this number how many batches it has asked for too early, where it dispatches them.
            return super().state_dict() | {"_num_yielded": 1}
        except UnsupportedError as error:
            return {"refused": str(error)}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """As ``feedline.torch.DataLoader``'s."""
        if isinstance(state_dict, dict):
            if "refused" in state_dict:
                raise StateError(f"there was no state to save: {state_dict['refused']}")
            if state_dict.get("_num_yielded", 1) != 1 and not state_dict.get("_iterator_finished"):
                raise StateError(
                    "accelerate dispatches the batches of this loader from one rank, and had asked for some that it had not handed "
                    "out when the state was taken. Give dispatch_batches=False, or go on with skip_first_batches"
                )
        super().load_state_dict(state_dict)


def patch(seeds: Literal["sample", "worker"] = "sample") -> list[str]:
    """Puts Feedline's ``DataLoader`` in the place of torch's, for libraries that make their loaders themselves.

    ``torch.utils.data.DataLoader`` is replaced, and every name of a loaded module that is this class; modules that are imported later
    find the new one. Names within functions and classes, and classes that were made from torch's before, keep torch's, so call it
    before other imports. ``seeds`` is that of the loaders whose makers give none.

    Returns the names that it replaced, which are logged, too. A second call replaces what has come since.
    """
    if seeds not in ("sample", "worker"):
        raise ConfigError(f'seeds={seeds!r}. Give "sample", or "worker" for torch\'s scheme')
    before = PatchedDataLoader.patched_seeds
    if before != seeds and vars(torch.utils.data)["DataLoader"] is PatchedDataLoader:
        raise ConfigError(f'patch(seeds="{before}") was called before. Give the same seeds, or call unpatch() first')
    PatchedDataLoader.patched_seeds = seeds
    replaced = _replace(_TORCHS, PatchedDataLoader)
    if replaced:
        log.info('torch\'s DataLoader is replaced (seeds="%s"): %s', seeds, ", ".join(replaced))
    made = [f"{one.__module__}.{one.__qualname__}" for one in _TORCHS.__subclasses__() if one is not DataLoader]
    if made:
        log.info("these were made from torch's DataLoader before and stay as they are: %s", ", ".join(sorted(made)))
    return replaced


def unpatch() -> list[str]:
    """Takes back :func:`patch`, and returns the names that are torch's class again. Loaders and classes that were made meanwhile stay
    as they are.
    """
    return _replace(PatchedDataLoader, _TORCHS)


def _replace(old: Any, new: Any) -> list[str]:
    """Replaces a class in all modules but Feedline's. Looks at what modules hold, so that none loads anything lazily."""
    replaced = []
    for module_name, module in list(sys.modules.items()):
        if not issubclass(type(module), ModuleType) or module_name.partition(".")[0] == "feedline":
            continue
        names = object.__getattribute__(module, "__dict__")
        for name in [name for name, value in list(names.items()) if value is old]:
            names[name] = new
            replaced.append(f"{module_name}.{name}")
    return sorted(replaced)


def start_script(path: str, is_module: bool, seeds: str) -> None:
    """Says which script, or which module, this process and those that it starts are of."""
    os.environ[_SCRIPT] = json.dumps([path if is_module else os.path.abspath(path), is_module, seeds])


class _MainSpec(ModuleSpec):
    """The spec of a script's main module: what starts it again is ``feedline.torch.script``; what it imports relatively is its own."""

    package = ""

    @property
    def parent(self) -> str:
        """The package that relative imports begin in."""
        return self.package


def begin_script(main: dict[str, Any]) -> CodeType:
    """Patches torch, makes a main module that of the script, as far as it is told from any other, and returns the script's code.

    The module's spec is that of ``feedline.torch.script``: what multiprocessing's spawn and launchers that start ranks by
    themselves begin with is then this function again. By the script's path or name they would start it without the patch.
    """
    if _SCRIPT not in os.environ:
        sys.exit("feedline.torch.script is for processes that a script starts. Run: python -m feedline.torch SCRIPT ARGUMENTS")
    path, is_module, seeds = json.loads(os.environ[_SCRIPT])
    patch(seeds)
    spec = _MainSpec("feedline.torch.script", None)
    told: dict[str, Any] = {"__doc__": None, "__package__": None, "__cached__": None, "__spec__": spec}
    if is_module:
        if main["__name__"] == "__main__":
            sys.argv[0] = "-m"  # while packages are imported, as Python has it
        path, code, own = _found(path)
        if main["__name__"] != "__main__" and own.name.endswith(".__main__"):
            return compile("", path, "exec")  # a child of multiprocessing does not run a package's __main__ again
        spec.package = own.parent or ""
        told |= {"__package__": own.parent, "__cached__": own.cached, "__loader__": own.loader}
    else:
        code = compile(Path(path).read_bytes(), path, "exec", dont_inherit=True)
        told["__loader__"] = SourceFileLoader(main["__name__"], path)
        # A child of multiprocessing has got the path of its parent.
        if main["__name__"] == "__main__" and not getattr(sys.flags, "safe_path", False):
            sys.path[0] = os.path.dirname(os.path.realpath(path))
    sys.argv[0] = path
    for name in [name for name in main if not name.startswith("__")]:
        del main[name]
    main |= told | {"__file__": path}
    return code


def _found(name: str) -> tuple[str, CodeType, ModuleSpec]:
    """The file, the code and the spec of what ``python -m name`` runs."""
    try:
        spec = importlib.util.find_spec(name)
    except ModuleNotFoundError as error:
        if not f"{name}.".startswith(f"{error.name}."):
            raise  # a package is there, and imports what is not
        spec = None
    if spec is None:
        sys.exit(f"python -m feedline.torch: there is no module {name}. Run it in the folder that holds it, or install it")
    if spec.submodule_search_locations is not None:
        return _found(f"{name}.__main__")
    code = getattr(spec.loader, "get_code", lambda _: None)(name)
    if code is None:
        sys.exit(f"python -m feedline.torch: the module {name} has no Python code, so that it cannot be run as a script")
    return spec.origin or code.co_filename, code, spec
