"""Program: a function of a flat list of tensors, compiled for one signature."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from manual_bp.compilation import aoti, kernels
from manual_bp.compilation.choice import choose
from manual_bp.compilation.cuda import Graph
from manual_bp.compilation.decompositions import DECOMPOSITIONS
from manual_bp.compilation.inductor import NotCompiled
from manual_bp.compilation.products import products
from manual_bp.compilation.stand_ins import standing_in

FlatFunction = Callable[..., Sequence[Tensor]]
"""Tensors in, tensors out."""


@dataclass(frozen=True)
class Program:
    """What was built.

    run: a list of contiguous tensors of the signature that it was built for -> the function's results.
    kind: "aoti" or, where that cannot be loaded, "inductor"; on a GPU "triton" or "cuda graph"; or "eager" (the
        uncompiled function).
    why: in words, how and why so.
    from_cache: whether it was loaded and not compiled.
    """

    run: Callable[[list[Tensor]], Sequence[Tensor]]
    kind: str
    why: str
    from_cache: bool = False


# Kernels on a GPU read so many bytes at a time, from addresses that are a multiple of it.
ALIGNMENT = 16


def plain(t: Tensor) -> Tensor:
    """`t` as a program takes it: contiguous, cut off from autograd, and on a GPU aligned."""
    t = (t.detach() if t.requires_grad else t).contiguous()
    return t.clone() if t.is_cuda and t.data_ptr() % ALIGNMENT else t


def build(
    function: FlatFunction, example: list[Tensor], *, step: bool = False, written: int = 0, dynamic: Any = None
) -> Program:
    """`function` compiled for contiguous tensors like `example`, which may share memory.

    step: whether it is a whole training step, which is called again and again for one state.
    written: into how many of its first inputs the function writes.
    dynamic: per tensor, the axes whose length may differ from call to call, as torch.export's dynamic_shapes; those
        lengths may be any but 0.  By default none.
    Where it cannot be compiled, the program is the function itself, and a warning says why.
    """
    try:
        return _compiled(function, example, step, written, dynamic)
    except NotCompiled as error:
        warnings.warn(f"not compiled, so slower: {error}", RuntimeWarning, stacklevel=4)
        return Program(_eager(function), "eager", f"not compiled: {error}")


def _eager(function: FlatFunction) -> Callable[[list[Tensor]], Sequence[Tensor]]:
    return lambda flat: function(*flat)


def _compiled(function: FlatFunction, example: list[Tensor], step: bool, written: int, dynamic: Any) -> Program:
    device = example[0].device
    exported = _exported(function, example, dynamic)
    found_products = set(products(exported.graph)) if dynamic is None else set()
    floating = next((t.dtype for t in example if t.is_floating_point()), None)
    choice = choose(device, floating, found_products, max(t.numel() for t in example), step)
    if choice.kind == "aoti":
        how = f"on {choice.threads} thread{'s' * (choice.threads > 1)}"
        if choice.onednn:
            how += f", oneDNN for {len(choice.onednn)} of {len(found_products)} kinds of product"
        try:
            run, found = aoti.compiled(exported, example, choice)
            return Program(run, "aoti", f"AOTInductor {how}", found)
        except aoti.NotLoaded as error:
            run, found = kernels.compiled(exported, choice)
            return Program(run, "inductor", f"inductor {how}, called from Python: {error}", found)
    run, found = kernels.compiled(exported, choice)
    if choice.kind == "triton":
        return Program(run, choice.kind, "inductor's kernels of Triton", found)
    return Program(Graph(run, example, written), choice.kind, "inductor's kernels, captured in one CUDA graph", found)


def _exported(function: FlatFunction, example: list[Tensor], dynamic: Any) -> Any:
    """The graph of `function`, with no autograd and no autocast in it.  Raises NotCompiled."""
    exported = traced(function, example, dynamic)
    with _tracing(example):
        return exported.run_decompositions(DECOMPOSITIONS)


def traced(function: FlatFunction, example: list[Tensor], dynamic: Any) -> Any:
    """The graph of `function` as torch has it before it takes operations apart.  Raises NotCompiled.

    The examples are copies: of two that shared memory, torch.export would make one.
    """

    class Wrapped(torch.nn.Module):  # noqa: TID251 (torch.export takes nothing else)
        def forward(self, *flat: Tensor) -> tuple[Tensor, ...]:
            return tuple(function(*flat))

    shapes = None if dynamic is None else (tuple(dynamic),)
    with _tracing(example):
        copies = tuple(t.clone() for t in example)
        try:
            return torch.export.export(Wrapped(), copies, dynamic_shapes=shapes, strict=False)
        except Exception as error:  # of many types: it asks for a value, for one
            said = next(iter(str(error).splitlines()), "")
            raise NotCompiled(f"it cannot be traced ({type(error).__name__}: {said:.200}).") from error


@contextmanager
def _tracing(example: list[Tensor]) -> Iterator[None]:
    """No autograd and no autocast, whatever a caller has switched on; stand-ins; no warnings of torch's own pytrees."""
    exact = torch.autocast(example[0].device.type, enabled=False)
    with torch.no_grad(), exact, standing_in(), warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)
        yield
