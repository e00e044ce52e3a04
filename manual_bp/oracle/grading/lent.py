"""The tensors that are lent to a candidate in another process: they lie in a file, which both processes reach.

The judge writes every case to the same place, so that each tensor has the address of an earlier one, and reads the file
again after the call: what a candidate does to its arguments is seen without asking its process.  The judge maps
nothing, so that a file which the candidate cuts off harms the candidate alone.
"""

from __future__ import annotations

import math
import mmap
import os
from collections.abc import Mapping
from typing import IO, Any, NamedTuple

import torch
from torch import Tensor

from manual_bp.oracle.calling.memory import is_whole
from manual_bp.oracle.calling.results import bytes_of, same_bits
from manual_bp.oracle.case import Case
from manual_bp.outputs import parts

# torch aligns its own memory so; what is misaligned in a case stays so.
ALIGNED = 64
# The largest generated case of the registered pages has 37 MB.  Of a file, what was never written takes no room.
ROOM = 2**28


class View(NamedTuple):
    """A tensor in a buffer, as `as_strided` has it."""

    buffer: int
    dtype: str
    size: tuple[int, ...]
    stride: tuple[int, ...]
    offset: int


class Lent:
    """The judge's side."""

    def __init__(self, file: IO[bytes]) -> None:
        self._file = file
        self._room = ROOM
        os.ftruncate(file.fileno(), ROOM)
        self._start = 0
        self._written = b""

    def lay(self, case: Case, elsewhere: bool = False) -> dict[str, Any]:
        """Write the tensors of a case, and say where they lie.  elsewhere: not where other cases do."""
        numbers: list[bytes] = []
        numbered: dict[object, int] = {}
        self._views, self._buffers, length = [], [], 0
        for x in case.tensors:
            key = x.untyped_storage().data_ptr() or id(x)  # several may lie in one buffer
            if key not in numbered:
                numbered[key] = len(numbered)
                own = bytes_of(x).cpu().numpy().tobytes()
                numbers.append(own.ljust(-(-len(own) // ALIGNED) * ALIGNED, b"\0"))
                self._buffers.append((length, len(own)))
                length += len(numbers[-1])
            dtype = str(x.dtype).removeprefix("torch.")
            self._views.append(View(numbered[key], dtype, tuple(x.shape), x.stride(), int(x.storage_offset())))
        if length > self._room // 2:
            self._room = 4 * length
            os.ftruncate(self._file.fileno(), self._room)
        self._start = self._room // 2 if elsewhere else 0
        self._written = b"".join(numbers)
        _write(self._file.fileno(), self._written, self._start)
        order = iter(range(len(self._views)))
        inputs = [None if x is None else next(order) for x in case.inputs]
        dy = [None if d is None else next(order) for d in parts(case.dy)]
        return {
            "room": self._room,
            "buffers": [(self._start + place, size) for place, size in self._buffers],
            "views": [tuple(view) for view in self._views],
            "inputs": inputs,
            "dy": dy if isinstance(case.dy, tuple) else dy[0],
            "device": str(case.tensors[0].device),
        }

    def damage(self, named: Mapping[str, Tensor]) -> list[tuple[str, str]]:
        """Which tensors of the case that was laid last are not as they were, and what happened, in words.

        named: the case's tensors, in their order.
        """
        came = os.pread(self._file.fileno(), len(self._written), self._start).ljust(len(self._written), b"\0")
        if came == self._written:
            return []
        found = []
        beside = bytearray(came)  # in which what belongs to elements is put back
        for (name, x), view in zip(named.items(), self._views, strict=True):
            place, size = self._buffers[view.buffer]
            if not x.numel() or came[place : place + size] == self._written[place : place + size]:
                continue
            now = _viewed(torch.frombuffer(bytearray(came[place : place + size]), dtype=torch.uint8), view)
            if not same_bits(now, x.cpu()):
                found.append((name, "the candidate overwrote its argument"))
            width = x.element_size()
            places = torch.arange(size // width).as_strided(view.size, view.stride, view.offset).flatten().tolist()
            for start in (place + width * element for element in places):
                beside[start : start + width] = self._written[start : start + width]
        if not found and beside != self._written:
            words = "the candidate wrote beside its argument, into memory between or around its elements"
            where = next(i for i, (a, b) in enumerate(zip(beside, self._written, strict=True)) if a != b)
            nearest = [
                name for name, view in zip(named, self._views, strict=True) if self._buffers[view.buffer][0] <= where
            ]
            found.append((nearest[-1], words))
        return found


def _write(descriptor: int, content: bytes, start: int) -> None:
    view = memoryview(content)
    while view:
        written = os.pwrite(descriptor, view, start)
        start, view = start + written, view[written:]


class Borrowed:
    """The candidate's side."""

    def __init__(self, descriptor: int) -> None:
        self._descriptor = descriptor
        self._mapped: mmap.mmap | None = None
        self._laid: Any = None
        self._in_file: list[Tensor] = []
        self._buffers: list[Tensor] = []
        self._tensors: list[Tensor] = []

    def tensors(self, laid: Mapping[str, Any], again: bool) -> tuple[tuple[Any, ...], Any]:
        """Inputs and dy, of which `Lent.lay` told where they lie.  again: they are the very tensors of the call before,
        with other numbers, if that can be."""
        if self._mapped is None or len(self._mapped) < laid["room"]:
            self._mapped = mmap.mmap(self._descriptor, laid["room"])
        self._in_file = [_buffer(self._mapped, *place) for place in laid["buffers"]]
        described = {name: value for name, value in laid.items() if name != "room"}
        if again and described == self._laid and all(map(is_whole, self._tensors)):
            for own, numbers in zip(self._buffers, self._in_file, strict=True):
                own.copy_(numbers.clone())  # as whoever writes into a tensor does: torch counts its versions
        else:
            self._buffers = [x.to(laid["device"]) for x in self._in_file]
            views = [View(*view) for view in laid["views"]]
            self._tensors = [_viewed(self._buffers[view.buffer], view) for view in views]
            self._laid = described

        def at(position: int | None) -> Tensor | None:
            return None if position is None else self._tensors[position]

        dy = tuple(map(at, laid["dy"])) if isinstance(laid["dy"], list) else at(laid["dy"])
        return tuple(map(at, laid["inputs"])), dy

    def give_back(self) -> None:
        """Show the judge what another device than the CPU holds."""
        for numbers, own in zip(self._in_file, self._buffers, strict=True):
            if own.device.type != "cpu":
                numbers.copy_(own)


def _buffer(mapped: mmap.mmap, start: int, size: int) -> Tensor:
    """A part of a file as memory of its own length."""
    if not size:
        return torch.empty(0, dtype=torch.uint8)
    return torch.frombuffer(mapped, dtype=torch.uint8, count=size, offset=start)


def _viewed(buffer: Tensor, view: View) -> Tensor:
    dtype = getattr(torch, view.dtype)
    if not math.prod(view.size):
        return torch.empty_strided(view.size, view.stride, dtype=dtype, device=buffer.device)
    return buffer.view(dtype).as_strided(view.size, view.stride, view.offset)
