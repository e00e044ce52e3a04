"""What passes between the oracle and the process of a candidate.

A question is the oracle's own and is trusted.  An answer is not, whoever wrote it: its words are JSON, its numbers
plain bytes; nothing in it is run, its size is known before it is read, and both are bounded.
"""

from __future__ import annotations

import io
import json
import math
from collections.abc import Mapping, Sequence
from typing import IO, Any, NamedTuple

import torch
from torch import Tensor

from manual_bp.foreign import LONGEST_NAME, named, shortened
from manual_bp.oracle.calling.results import MOST_AXES, is_dense, stand_in
from manual_bp.rule import Rule

# The words of an answer: a hundred texts of the longest kind in each list, and no more.
MOST_WORDS = 2**21
MOST_TEXTS = 100
NUMBERS = {
    str(dtype).removeprefix("torch."): dtype
    for dtype in (
        *(torch.float64, torch.float32, torch.float16, torch.bfloat16, torch.complex128, torch.complex64),
        *(torch.int64, torch.int32, torch.int16, torch.int8, torch.uint8, torch.bool),
    )
}
LENGTH = 8


class Form(NamedTuple):
    """What has to be known of a rule where a candidate is called: its names and defaults, of which nothing is due."""

    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    cotangents: tuple[str, ...]
    arguments: tuple[str, ...]
    defaults: dict[str, Any]
    has_backward: bool


def form_of(rule: Rule) -> Form:
    """That of a rule, or of a function as reference."""
    names = tuple(rule.inputs), rule.outputs, rule.cotangents, rule.arguments
    return Form(*names, dict(rule.defaults), rule.has_backward)


def send_question(pipe: IO[bytes], message: Mapping[str, Any]) -> None:
    """Write one question."""
    buffer = io.BytesIO()
    torch.save(dict(message), buffer)
    pipe.write(buffer.tell().to_bytes(LENGTH, "little"))
    pipe.write(buffer.getbuffer())
    pipe.flush()


def receive_question(pipe: IO[bytes]) -> dict[str, Any]:
    """The next question.  Raises EOFError at the end of the pipe."""
    length = int.from_bytes(_exactly(pipe, LENGTH), "little")
    found: dict[str, Any] = torch.load(io.BytesIO(_exactly(pipe, length)), weights_only=True)
    return found


def send_answer(pipe: IO[bytes], words: Mapping[str, Any], results: Sequence[Any] | None = None) -> None:
    """Write one answer: words that JSON can write, and results."""
    entries = None if results is None else [_entry(x) for x in results]
    header = json.dumps({**words, "results": entries and [entry for entry, _ in entries]}).encode()
    pipe.write(len(header).to_bytes(LENGTH, "little"))
    pipe.write(header)
    for _, numbers in entries or ():
        if numbers is not None:
            pipe.write(numbers)
    pipe.flush()


def _entry(x: Any) -> tuple[Any, Any]:
    """How a result is announced, and its bytes if they follow."""
    if x is None:
        return None, None
    array = hasattr(type(x), "__array__") and not isinstance(x, Tensor)
    if not isinstance(x, Tensor):
        return {"kind": named(x), "array": array}, None
    if not (x.is_meta or is_dense(x)):
        return {"kind": f"Tensor of layout {x.layout}", "array": array}, None
    dtype = str(x.dtype).removeprefix("torch.")
    entry = {"dtype": dtype, "shape": list(x.shape), "device": str(x.device), "numbers": False}
    if x.is_meta or dtype not in NUMBERS:
        return entry, None
    numbers = x.detach().resolve_conj().resolve_neg().cpu().contiguous().reshape(-1).view(torch.uint8)
    return {**entry, "numbers": True}, numbers.numpy().data


def receive_answer(pipe: IO[bytes], devices: Sequence[str] = (), most: int = 0) -> dict[str, Any]:
    """The next answer, with its results as tensors, stand-ins and None.

    devices: on which results may lie, beside "cpu" and "meta".  most: bytes of numbers that may come.
    Raises EOFError at the end of the pipe, and any other Exception for what is no answer.
    """
    length = int.from_bytes(_exactly(pipe, LENGTH), "little")
    if not 0 < length <= MOST_WORDS:
        raise ValueError("the words are too long")
    came = json.loads(_exactly(pipe, length))
    if not isinstance(came, dict):
        raise TypeError("an answer is a mapping")
    if came.get("results") is not None:
        results = []
        for entry in came["results"]:
            result, size = _result(pipe, entry, ("cpu", "meta", *devices), most)
            results.append(result)
            most -= size
        came["results"] = results
    return came


def _result(pipe: IO[bytes], entry: Any, devices: Sequence[str], most: int) -> tuple[Any, int]:
    """One result, and how many bytes it took."""
    if entry is None:
        return None, 0
    if "kind" in entry:
        return stand_in(shortened(str(entry["kind"]), LONGEST_NAME), bool(entry["array"])), 0
    shape, device = entry["shape"], entry["device"]
    if len(shape) > MOST_AXES or not all(type(n) is int and n >= 0 for n in shape) or device not in devices:
        raise ValueError("no tensor is like that")
    if not entry["numbers"]:
        dtype = getattr(torch, str(entry["dtype"]))
        return torch.empty(shape, dtype=dtype, device="meta"), 0
    dtype = NUMBERS[entry["dtype"]]
    size = math.prod(shape) * dtype.itemsize
    if size > most:
        raise ValueError("the numbers are too many")
    if not size:
        return torch.empty(shape, dtype=dtype, device=device), 0
    numbers = torch.frombuffer(_exactly(pipe, size), dtype=torch.uint8)
    whole = numbers != 0 if dtype is torch.bool else numbers.view(dtype)  # a bool is 0 or 1, whatever came
    return whole.reshape(shape).to(device), size


def _exactly(pipe: IO[bytes], size: int) -> bytearray:
    """So many bytes.  Raises EOFError if the pipe ends before."""
    found = bytearray(size)
    view = memoryview(found)
    while view:
        read = pipe.readinto(view)  # type: ignore[attr-defined]
        if not read:
            raise EOFError
        view = view[read:]
    return found
