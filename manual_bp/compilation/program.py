"""Program: a function of a flat list of tensors, compiled for one signature."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from torch import Tensor

from manual_bp.compilation import aoti, kernels
from manual_bp.compilation.choice import choose
from manual_bp.compilation.cuda import Graph
from manual_bp.compilation.inductor import NotCompiled
from manual_bp.compilation.products import products
from manual_bp.compilation.tracing import Dynamic, FlatFunction, traced


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
    function: FlatFunction,
    example: list[Tensor],
    *,
    step: bool = False,
    written: int = 0,
    dynamic: Dynamic = (),
) -> Program:
    """`function` compiled for contiguous tensors like `example`, which may share memory.

    step: whether it is a whole training step, which is called again and again for one state.
    written: into how many of its first inputs the function writes.
    dynamic: per tensor, the axes whose length may differ from call to call: it may be any but 0.  By default none.
    Where it cannot be compiled, the program is the function itself, and a warning says why.
    """
    try:
        return _compiled(function, example, step, written, dynamic)
    except NotCompiled as error:
        warnings.warn(f"not compiled, so slower: {error}", RuntimeWarning, stacklevel=4)
        return Program(_eager(function), "eager", f"not compiled: {error}")


def _eager(function: FlatFunction) -> Callable[[list[Tensor]], Sequence[Tensor]]:
    return lambda flat: function(*flat)


def _compiled(function: FlatFunction, example: list[Tensor], step: bool, written: int, dynamic: Dynamic) -> Program:
    device = example[0].device
    graph = traced(function, example, dynamic)
    found_products = set(products(graph.graph)) if not dynamic else set()
    floating = next((t.dtype for t in example if t.is_floating_point()), None)
    choice = choose(device, floating, found_products, max(t.numel() for t in example), step)
    if choice.kind == "aoti":
        how = f"on {choice.threads} thread{'s' * (choice.threads > 1)}"
        if choice.onednn:
            how += f", oneDNN for {len(choice.onednn)} of {len(found_products)} kinds of product"
        try:
            run, found = aoti.compiled(graph, example, choice)
            return Program(run, "aoti", f"AOTInductor {how}", found)
        except aoti.NotLoaded as error:
            run, found = kernels.compiled(graph, choice)
            return Program(run, "inductor", f"inductor {how}, called from Python: {error}", found)
    run, found = kernels.compiled(graph, choice)
    if choice.kind == "triton":
        return Program(run, choice.kind, "inductor's kernels of Triton", found)
    return Program(Graph(run, example, written), choice.kind, "inductor's kernels, captured in one CUDA graph", found)
