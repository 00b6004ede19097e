"""Batches in memory that processes share: workers write them into an arena, and the loader's process reads them in place.

The arena is one anonymous file (``memfd_create``), so there is nothing in ``/dev/shm`` to run full or to be left behind, and no
file descriptor for each tensor. It is sparse: only what was written takes memory. Each worker has a region of it, which it
divides into slots, one for a batch. When the last tensor of a batch dies, its slot is marked as free, and the worker takes it again.
"""

from __future__ import annotations

import contextlib
import io
import mmap
import operator
import os
import pickle
import weakref
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch

from ..errors import UnsupportedError

# Addresses of an arena, of a worker's region in it, and of a slot at first: slots grow when a batch does not fit.
ARENA_BYTES = 1 << 42
REGION_BYTES = 1 << 34
SLOT_BYTES = 1 << 28
# The arena begins with words: the oldest task that is still wanted, for each worker the task and sample that it makes, and for each
# slot of each region whether it is free. The regions, 255 at most, are numbered from 1.
HEADER_BYTES = 1 << 20
_MARKS = 1 << 16
_MARKS_OF_REGION = 1 << 6
_TAKEN, _FREE = 0, 1
# Tensors begin at multiples of this: a cache line.
_ALIGN_BYTES = 64
# Fields of a sample from this size on are copied into the batch as soon as the sample is made.
LARGE_BYTES = 1 << 16

Slot = tuple[int, int]
"""First byte in the arena, and number of bytes."""


def progress_of(worker: int) -> int:
    """Where a worker's two words begin, in words of 8 bytes: each worker has a cache line of its own."""
    return 8 * (worker + 1)


class Arena:
    """The loader's side: owns the file, and marks the slots that are free again."""

    def __init__(self) -> None:
        self.map, self.fd, self._end = _reserve()
        self.words = memoryview(self.map)[:HEADER_BYTES].cast("q")
        self._region_bytes = min(REGION_BYTES, self._end // 64)
        self._regions = 0
        self._process = os.getpid()
        # First bytes of the regions whose workers are gone.
        self._forgotten: set[int] = set()
        # The slots that hold batches that are not handed out yet, and those whose batches are.
        self._held: set[Slot] = set()
        self._lent: dict[Slot, weakref.ref[Any]] = {}
        weakref.finalize(self, os.close, self.fd)

    def new_region(self) -> Slot:
        """A region for a worker. If no addresses are left, an empty one: its batches come through its socket, as copies."""
        self._regions += 1
        start = self._regions * self._region_bytes
        if start + self._region_bytes > self._end:
            return 0, 0
        return start, self._region_bytes

    def forget(self, region: Slot) -> None:
        """The worker of a region is gone: memory that is free or becomes free there goes back to the system."""
        start, size_bytes = region
        if not size_bytes:
            return
        self._forgotten.add(start)
        end = start + size_bytes
        for slot in sorted(slot for slot in [*self._held, *self._lent] if start <= slot[0] < end):
            self._drop((start, slot[0] - start))
            start = sum(slot)
        self._drop((start, end - start))

    def hold(self, slot: Slot) -> None:
        """A worker has filled a slot, whose batch is not handed out yet."""
        self._held.add(slot)

    def give(self, slot: Slot) -> None:
        """Takes a slot back: its worker may fill it again at once. The garbage collector may call this anywhere."""
        if os.getpid() != self._process:
            return  # a process that was forked drops its copy
        self._held.discard(slot)
        self._lent.pop(slot, None)
        region = slot[0] // self._region_bytes * self._region_bytes
        if region in self._forgotten:
            self._drop(slot)
        else:
            self.words[_mark_of((region, self._region_bytes), slot)] = _FREE

    def _drop(self, slot: Slot) -> None:
        _give_back(self.map, slot)

    def lend(self, slot: Slot, used_bytes: int) -> Any:
        """The bytes of a filled slot, as an array. The slot is taken back when the array and all that looks at it are gone."""
        base = np.frombuffer(self.map, np.uint8, used_bytes, slot[0])
        give = self.give
        self._held.discard(slot)
        self._lent[slot] = weakref.ref(base, lambda _: give(slot))
        return base


def _reserve() -> tuple[mmap.mmap, int, int]:
    if not hasattr(os, "memfd_create"):
        raise UnsupportedError("workers hand over batches by memfd_create, which this system has not. Give num_workers=0")
    fd = os.memfd_create("feedline", os.MFD_CLOEXEC)
    size = ARENA_BYTES
    while True:
        # A limit of addresses or of the size of files (ulimit -v, -f) leaves less.
        try:
            os.ftruncate(fd, size)
            return mmap.mmap(fd, size), fd, size
        except (OSError, ValueError, OverflowError) as error:
            if size <= 1 << 30:
                os.close(fd)
                raise UnsupportedError(
                    f"not even {size >> 20} MiB of addresses can be reserved for batches ({error}). Raise the limits of this "
                    "process (ulimit -v, ulimit -f), or give num_workers=0"
                ) from None
            size //= 4


class Region:
    """The worker's side: slots that it may fill."""

    def __init__(self, map_: mmap.mmap, region: Slot) -> None:
        self._map = map_
        self._words = memoryview(map_)[:HEADER_BYTES].cast("q")
        self._region = region
        self._next, size = region
        self._end = self._next + size
        self._slot_bytes = _first_slot_bytes(size)
        # The slots that were made so far.
        self._slots: list[Slot] = []

    def room(self) -> Room:
        """An empty slot: the first that is free again, since its memory is there already, else a new one."""
        for slot in self._slots:
            mark = _mark_of(self._region, slot)
            if self._words[mark] == _FREE:
                if slot[1] == self._slot_bytes:
                    self._words[mark] = _TAKEN
                    return Room(self._map, slot)
                # From before batches grew.
                self._slots.remove(slot)
                _give_back(self._map, slot)
                return self.room()
        if self._next + self._slot_bytes > self._end:
            return Room(self._map, (0, 0))
        slot = self._next, self._slot_bytes
        self._next += self._slot_bytes
        self._slots.append(slot)
        return Room(self._map, slot)

    def leave(self, room: Room) -> None:
        """A room that was not handed over. If its batch did not fit, the next ones are larger."""
        if room.slot[1]:
            self._words[_mark_of(self._region, room.slot)] = _FREE
        while room.asked_bytes > self._slot_bytes and self._slot_bytes * 4 <= self._end - self._next:
            self._slot_bytes *= 2


def _first_slot_bytes(region_bytes: int) -> int:
    return min(SLOT_BYTES, region_bytes // 16)


def _mark_of(region: Slot, slot: Slot) -> int:
    """The word that tells whether a slot of a region is free."""
    start, size_bytes = region
    return _MARKS + start // size_bytes * _MARKS_OF_REGION + (slot[0] - start) // _first_slot_bytes(size_bytes)


def _give_back(map_: mmap.mmap, slot: Slot) -> None:
    """Gives the memory of a slot back to the system."""
    if slot[1] and hasattr(mmap, "MADV_REMOVE"):
        with contextlib.suppress(OSError, ValueError):
            map_.madvise(mmap.MADV_REMOVE, *slot)


class Room:
    """One slot, which is filled from its first byte on."""

    def __init__(self, map_: mmap.mmap, slot: Slot) -> None:
        self._map = map_
        self.slot = slot
        self.used_bytes = 0
        # Bytes that the batch would take, whether they fit or not.
        self.asked_bytes = 0
        # Tensors that were made in the slot, by their id, with their offset. They are kept, so that no id comes twice.
        self._made: dict[int, tuple[torch.Tensor, int]] = {}
        # Large fields whose rows are filled sample by sample: the whole and its rows, by the place in the sample.
        self._fields: dict[Any, tuple[torch.Tensor, list[torch.Tensor]]] = {}

    def take(self, size_bytes: int) -> int | None:
        """Offset in the slot of so many bytes, or None if they do not fit."""
        self.asked_bytes += -(-size_bytes // _ALIGN_BYTES) * _ALIGN_BYTES
        if self.asked_bytes > self.slot[1]:
            return None
        offset, self.used_bytes = self.used_bytes, self.asked_bytes
        return offset

    def tensor(self, dtype: torch.dtype, shape: Sequence[int], offset: int) -> torch.Tensor:
        """A tensor in the slot."""
        count = 1
        for side in shape:
            count *= side
        return torch.frombuffer(self._map, dtype=dtype, count=count, offset=self.slot[0] + offset).view(shape)

    def new(self, dtype: torch.dtype, shape: Sequence[int], size_bytes: int) -> torch.Tensor | None:
        """An unset tensor in the slot, which :func:`pack` need not copy; None if it does not fit."""
        offset = self.take(size_bytes)
        if offset is None:
            return None
        tensor = self.tensor(dtype, shape, offset)
        self._made[id(tensor)] = tensor, offset
        return tensor

    def stow(self, sample: Any, at: int, count: int, place: Any = ()) -> Any:
        """Copies the large fields of sample ``at`` of ``count`` into their rows of the batch, while they are still in the cache
        and before the next sample takes memory, and puts the rows in their place.
        """
        kind = type(sample)
        if kind is torch.Tensor or kind is np.ndarray:
            return self._row(sample, at, count, place)
        if kind is tuple or kind is list:
            return kind([self.stow(value, at, count, (*place, number)) for number, value in enumerate(sample)])
        if kind is dict:
            return {key: self.stow(value, at, count, (*place, key)) for key, value in sample.items()}
        return sample

    def _row(self, field: Any, at: int, count: int, place: Any) -> Any:
        if type(field) is torch.Tensor and field.layout is not torch.strided:
            return field  # torch's function refuses it in words
        if field.nbytes < LARGE_BYTES:
            return field
        if type(field) is np.ndarray:
            if field.dtype.hasobject or field.dtype.kind in "SUV":
                return field
            field = torch.as_tensor(field)
        if at == 0 and _is_plain(field) and not field.requires_grad:
            whole = self.new(field.dtype, (count, *field.shape), count * field.nbytes)
            if whole is not None:
                self._fields[place] = whole, []
        found = self._fields.get(place)
        if found is None or len(found[1]) != at or field.dtype != found[0].dtype or field.shape != found[0].shape[1:]:
            return field
        row = found[0][at]
        row.copy_(field)
        found[1].append(row)
        return row

    def stowed(self, batch: Sequence[Any]) -> torch.Tensor | None:
        """The field whose rows these are, all of them in order; None if there is no such field."""
        for whole, rows in self._fields.values():
            if rows and rows[0] is batch[0]:
                return whole if len(rows) == len(batch) and all(map(operator.is_, rows, batch)) else None
        return None

    def offset_of(self, tensor: torch.Tensor) -> int | None:
        """Where a tensor lies that :meth:`new` made."""
        made = self._made.get(id(tensor))
        return None if made is None else made[1]

    def write(self, offset: int, data: Any) -> None:
        """Copies bytes into the slot."""
        start = self.slot[0] + offset
        self._map[start : start + len(data)] = data


def _is_plain(tensor: Any) -> bool:
    return (
        type(tensor) is torch.Tensor
        and tensor.layout is torch.strided
        and tensor.device.type == "cpu"
        and not tensor.is_nested
        and not tensor.is_quantized
        and not tensor.is_conj()
        and not tensor.is_neg()
        and not tensor.__dict__
    )


class _Packer(pickle.Pickler):
    """Pickles a batch; plain tensors and the data of arrays go into the room beside it."""

    def __init__(self, file: io.BytesIO, room: Room) -> None:
        super().__init__(file, protocol=5, buffer_callback=self._out_of_band)
        self._room = room
        # Where whole storages were written to, by their address.
        self._storages: dict[int, int] = {}
        self.buffers: list[tuple[int, int]] = []

    def reducer_override(self, obj: Any) -> Any:
        if not isinstance(obj, torch.Tensor):
            return NotImplemented
        if not _is_plain(obj):
            # torch's own way between processes: CUDA handles, sparse and nested tensors, subclasses.
            return obj.__reduce_ex__(5) if obj.device.type == "cpu" else _forking(obj)  # type: ignore[no-untyped-call]
        if obj.requires_grad and not obj.is_leaf:
            raise RuntimeError(
                "Cowardly refusing to serialize non-leaf tensor which requires_grad, since autograd does not support crossing "
                "process boundaries. If you just want to transfer the data, call detach() on the tensor before returning it"
            )
        offset = self._room.offset_of(obj)
        shape = tuple(obj.shape)
        strides = None
        if offset is None:
            size_bytes = obj.numel() * obj.element_size()
            if size_bytes == 0:
                return _empty, (obj.dtype, shape, obj.requires_grad)
            storage = obj.untyped_storage()
            start = self._storages.get(storage.data_ptr())
            if start is not None:
                # A view of a tensor that is in the batch as well shares its memory here, too.
                offset = start + int(obj.storage_offset()) * obj.element_size()
                return tensor_at, (offset, obj.dtype, shape, obj.stride(), obj.requires_grad, start)
            offset = self._room.take(size_bytes)
            if offset is None:
                return _from_bytes, (_bytes_of(obj), obj.dtype, shape, obj.requires_grad)
            if storage.nbytes() == size_bytes and obj.is_contiguous():
                self._storages[storage.data_ptr()] = offset
            flat = obj.detach()
            if not flat.is_contiguous():
                # As torch, which sends the storage: the order of the axes in memory stays (channels last), if it is dense.
                order = sorted(range(flat.dim()), key=lambda axis: (flat.stride()[axis], flat.shape[axis]), reverse=True)
                if flat.permute(order).is_contiguous():
                    strides = flat.stride()
                    flat = flat.permute(order)
            self._room.tensor(obj.dtype, tuple(flat.shape), offset).copy_(flat)
        return tensor_at, (offset, obj.dtype, shape, strides, obj.requires_grad)

    def _out_of_band(self, buffer: pickle.PickleBuffer) -> bool:
        raw = buffer.raw()
        offset = self._room.take(raw.nbytes) if raw.nbytes else None
        if offset is None:
            return True  # in the pickle itself
        self._room.write(offset, raw)
        self.buffers.append((offset, raw.nbytes))
        return False


def _forking(tensor: torch.Tensor) -> Any:
    from torch.multiprocessing import reductions

    return reductions.reduce_tensor(tensor)  # type: ignore[no-untyped-call]


def _bytes_of(tensor: torch.Tensor) -> bytes:
    return tensor.detach().contiguous().view(-1).view(torch.uint8).numpy().tobytes()


def _empty(dtype: torch.dtype, shape: Sequence[int], requires_grad: bool) -> torch.Tensor:
    return torch.empty(shape, dtype=dtype, requires_grad=requires_grad)


def _from_bytes(data: bytes, dtype: torch.dtype, shape: Sequence[int], requires_grad: bool) -> torch.Tensor:
    return torch.frombuffer(bytearray(data), dtype=dtype).view(shape).requires_grad_(requires_grad)


def tensor_at(*_: Any) -> Any:
    """Stands in a pickle for a tensor in the slot; only :func:`unpack` knows which."""
    raise RuntimeError("a batch in shared memory was unpickled by other code than Feedline's")


def pack(batch: Any, room: Room) -> tuple[bytes, list[tuple[int, int]]]:
    """A batch as a pickle of its structure, and the places in the room of the arrays in it."""
    file = io.BytesIO()
    packer = _Packer(file, room)
    packer.dump(batch)
    return file.getvalue(), packer.buffers


class _Unpacker(pickle.Unpickler):
    def __init__(self, structure: bytes, base: Any, buffers: list[tuple[int, int]]) -> None:
        super().__init__(io.BytesIO(structure), buffers=[base[start : start + size] for start, size in buffers])
        self._base = base
        # The tensors by their places: views share their storage, so that saving or copying a batch keeps what is one.
        self.wholes: dict[int, torch.Tensor] = {}

    def find_class(self, module: str, name: str) -> Any:
        if name == "tensor_at" and module == __name__:
            return self._tensor
        return super().find_class(module, name)

    def _tensor(
        self,
        offset: int,
        dtype: torch.dtype,
        shape: tuple[int, ...],
        strides: tuple[int, ...] | None,
        requires_grad: bool,
        whole: int | None = None,
    ) -> torch.Tensor:
        if whole is not None:
            first = (offset - whole) // dtype.itemsize
            storage = self.wholes[whole].untyped_storage()
            tensor = torch.empty(0, dtype=dtype).set_(storage, first, shape, strides or ())
            return tensor.requires_grad_() if requires_grad else tensor
        count = 1
        for side in shape:
            count *= side
        if strides is not None:
            count = 1 + sum((side - 1) * stride for side, stride in zip(shape, strides))
        # A storage of its own, of exactly its size, so that saving or copying one tensor takes no more than that.
        flat = torch.frombuffer(self._base, dtype=dtype, count=count, offset=offset)
        self.wholes[offset] = tensor = flat.view(shape) if strides is None else flat.as_strided(shape, strides)
        return tensor.requires_grad_() if requires_grad else tensor


def unpack(structure: bytes, base: Any, buffers: list[tuple[int, int]]) -> Any:
    """The batch that :func:`pack` took apart, over the memory ``base`` that it was written to."""
    unpacker = _Unpacker(structure, base, buffers)
    try:
        return unpacker.load()
    finally:
        # Its memo holds a method of its own, and all tensors: they would live until the garbage collector looks for rings.
        unpacker.memo.clear()
        unpacker.wholes.clear()


def stack(room: Room, batch: Sequence[Any]) -> torch.Tensor:
    """As torch's function of ``default_collate`` for tensors, but stacks into the room, not into a segment of its own."""
    first = batch[0]
    out = room.stowed(batch)
    if out is not None:
        return out
    if _is_plain(first) and not first.requires_grad and first.numel():
        out = room.new(first.dtype, (len(batch), *first.shape), first.numel() * len(batch) * first.element_size())
    return stack_in_private(batch) if out is None else torch.stack(batch, 0, out=out)  # type: ignore[arg-type]


def stack_in_private(batch: Sequence[Any], *, collate_fn_map: Any = None) -> torch.Tensor:
    """torch's function, with its refusals, as it is in the main process: it stacks into ordinary memory."""
    from torch.utils.data._utils import collate, worker

    info, worker._worker_info = worker._worker_info, None
    try:
        return collate.collate_tensor_fn(batch, collate_fn_map=collate_fn_map)  # type: ignore[no-any-return]
    finally:
        worker._worker_info = info
