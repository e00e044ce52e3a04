"""Faults that any kernel may have, whatever it computes: dy, strides, sizes, memory, precision."""

import functools
import math
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor

from tests.oracle.third_bank.entry import BF16, F32, F64, Entry, Vjp, faulty, in_float32, in_precision

Results = tuple[Tensor, tuple[Tensor | None, ...]]


def at(tensor: Tensor, strides: tuple[int, ...]) -> Tensor:
    """What a kernel reads that takes other strides for the tensor's; reads beyond the memory start again in front."""
    beyond = tensor.untyped_storage().nbytes() // tensor.element_size() - tensor.storage_offset()
    if beyond <= 0 or tensor.numel() == 0:
        return tensor
    memory = tensor.as_strided((beyond,), (1,), tensor.storage_offset())
    place = torch.zeros(tensor.shape, dtype=torch.long)
    for axis, stride in enumerate(strides):
        steps = torch.arange(tensor.shape[axis]) * stride
        place = place + steps.reshape(-1, *[1] * (tensor.ndim - axis - 1))
    return memory[place % beyond]


def dense(tensor: Tensor) -> Tensor:
    return at(tensor, tuple(math.prod(tensor.shape[axis + 1 :]) for axis in range(tensor.ndim)))


def dense_last(tensor: Tensor) -> Tensor:
    return at(tensor, (*tensor.stride()[:-1], 1)) if tensor.ndim else tensor


def with_dy(vjp: Vjp, seen: Callable[[Tensor], Tensor]) -> Vjp:
    """Another dy than was given."""

    @functools.wraps(vjp)
    def run(inputs: tuple[Any, ...], dy: Tensor, **hyper: Any) -> Results:
        return vjp(inputs, seen(dy), **hyper)

    return run


def with_input(vjp: Vjp, position: int, seen: Callable[[Tensor], Tensor]) -> Vjp:
    """Another input than was given, at one position."""

    @functools.wraps(vjp)
    def run(inputs: tuple[Any, ...], dy: Tensor, **hyper: Any) -> Results:
        taken = tuple(seen(x) if i == position and x is not None else x for i, x in enumerate(inputs))
        return vjp(taken, dy, **hyper)

    return run


def dy_strided_as_x(vjp: Vjp) -> Vjp:
    """dy read with the strides of the first input."""

    @functools.wraps(vjp)
    def run(inputs: tuple[Any, ...], dy: Tensor, **hyper: Any) -> Results:
        return vjp(inputs, at(dy, inputs[0].stride()), **hyper)

    return run


def changed(vjp: Vjp, result: int | None, change: Callable[[Tensor], Tensor]) -> Vjp:
    """One result changed: cotangent number `result`, or y if it is None."""

    @functools.wraps(vjp)
    def run(inputs: tuple[Any, ...], dy: Tensor, **hyper: Any) -> Results:
        y, grads = vjp(inputs, dy, **hyper)
        if result is None:
            return change(y), grads
        return y, tuple(change(g) if i == result and g is not None else g for i, g in enumerate(grads))

    return run


def cut(limit: int) -> Callable[[Tensor], Tensor]:
    """Rows from `limit` on never written: they stay 0."""

    def change(result: Tensor) -> Tensor:
        rows = result.reshape(math.prod(result.shape[:-1]), *result.shape[-1:]).clone()
        rows[limit:] = 0
        return rows.reshape(result.shape)

    return change


def cut_flat(limit: int) -> Callable[[Tensor], Tensor]:
    """Elements from `limit` on never written: they stay 0."""

    def change(result: Tensor) -> Tensor:
        flat = result.flatten().clone()
        flat[limit:] = 0
        return flat.reshape(result.shape)

    return change


def whole_blocks(width: int) -> Callable[[Tensor], Tensor]:
    """The number of blocks rounded down: elements of the last one that isn't full stay 0, where there is a full one."""

    def change(result: Tensor) -> Tensor:
        full = result.numel() // width * width
        return cut_flat(full)(result) if full else result

    return change


def never_zeroed(vjp: Vjp, result: int) -> Vjp:
    """A buffer by shape and dtype that each call adds to."""
    buffers: dict[Any, Tensor] = {}

    @functools.wraps(vjp)
    def run(inputs: tuple[Any, ...], dy: Tensor, **hyper: Any) -> Results:
        y, grads = vjp(inputs, dy, **hyper)
        new = grads[result]
        if new is None:
            return y, grads
        key = (new.shape, new.dtype)
        buffers[key] = buffers[key] + new if key in buffers else new
        return y, tuple(buffers[key].clone() if i == result else g for i, g in enumerate(grads))

    return run


def remembers(vjp: Vjp, position: int = 0) -> Vjp:
    """What was computed from an input is kept by its shape, and never computed again: the input of the first call."""
    first: dict[Any, Tensor] = {}

    @functools.wraps(vjp)
    def run(inputs: tuple[Any, ...], dy: Tensor, **hyper: Any) -> Results:
        kept = inputs[position]
        if kept is None:
            return vjp(inputs, dy, **hyper)
        kept = first.setdefault((kept.shape, kept.dtype), kept.clone())
        _, grads = vjp(tuple(kept if i == position else x for i, x in enumerate(inputs)), dy, **hyper)
        return vjp(inputs, dy, **hyper)[0], grads

    return run


def same_memory(vjp: Vjp, result: int) -> Vjp:
    """A cotangent is given in memory that the next call writes over."""
    buffers: dict[Any, Tensor] = {}

    @functools.wraps(vjp)
    def run(inputs: tuple[Any, ...], dy: Tensor, **hyper: Any) -> Results:
        y, grads = vjp(inputs, dy, **hyper)
        new = grads[result]
        if new is None:
            return y, grads
        kept = buffers.setdefault((new.shape, new.dtype), torch.empty_like(new)).copy_(new)
        return y, tuple(kept if i == result else g for i, g in enumerate(grads))

    return run


def _written(into: Tensor | None, result: Tensor | None) -> None:
    if into is None or result is None or into.shape != result.shape:
        return
    if 0 in (stride for stride, size in zip(into.stride(), into.shape, strict=True) if size > 1):
        return  # expanded: a kernel that is tested at all is not given this memory to write to
    into.copy_(result)


def writes_input(vjp: Vjp, position: int, result: int | None) -> Vjp:
    """An input is written over by a result: cotangent number `result`, or y if it is None."""

    @functools.wraps(vjp)
    def run(inputs: tuple[Any, ...], dy: Tensor, **hyper: Any) -> Results:
        y, grads = vjp(inputs, dy, **hyper)
        _written(inputs[position], y if result is None else grads[result])
        return y, grads

    return run


def writes_dy(vjp: Vjp, result: int) -> Vjp:
    """dy is written over by a cotangent."""

    @functools.wraps(vjp)
    def run(inputs: tuple[Any, ...], dy: Tensor, **hyper: Any) -> Results:
        y, grads = vjp(inputs, dy, **hyper)
        _written(dy, grads[result])
        return y, grads

    return run


def single(vjp: Vjp) -> Vjp:
    """float64 computed in float32."""
    return in_precision(vjp, F32, (F64,))


def half(x: Tensor) -> Tensor:
    """Kept in bfloat16 on the way."""
    return x.to(BF16).to(x.dtype)


def usual(rule: str, vjp: Vjp, takes: int = 0, gives: int = 0) -> Iterator[Entry]:
    """The faults that every rule's kernel may have; `takes` is its main input, `gives` the cotangent that suffers."""
    vjp = in_float32(vjp)
    ones = with_dy(vjp, torch.ones_like)
    yield faulty(rule, "dy taken for 1", ones, "plain", "right for the sum of the results only")
    yield faulty(rule, "dy clipped", with_dy(vjp, lambda d: d.clamp(-1, 1)), "large dy", "dy is cut off beyond 1")
    yield faulty(rule, "float32 inside", single(vjp), "plain", "8 of 16 digits are lost", (F64,))
    yield faulty(
        rule, "adds up calls", never_zeroed(vjp, gives), "second call", "the buffer of a cotangent isn't zeroed"
    )
    yield faulty(rule, "remembers", remembers(vjp, takes), "second call", "residuals are kept by shape")
    yield faulty(
        rule, "one memory", same_memory(vjp, gives), "second call", "the next call writes over this one's result"
    )


def usual_strides(rule: str, vjp: Vjp, takes: int = 0) -> Iterator[Entry]:
    """Faults of layout, for rules whose dy is no scalar."""
    vjp = in_float32(vjp)
    yield faulty(rule, "dy read as dense", with_dy(vjp, dense), "strided dy", "the strides of dy are ignored")
    yield faulty(
        rule, "dy rows read as dense", with_dy(vjp, dense_last), "strided dy", "the last stride is taken for 1"
    )
    yield faulty(
        rule, "input read as dense", with_input(vjp, takes, dense), "strided input", "the input's strides are ignored"
    )
    yield faulty(rule, "writes dy", writes_dy(vjp, takes), "plain", "the cotangent is written over dy")
