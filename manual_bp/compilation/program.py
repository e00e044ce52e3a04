"""Program: a function of a flat list of tensors, compiled for one signature."""

from __future__ import annotations

import tempfile
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from manual_bp.compilation.cache import address
from manual_bp.compilation.choice import Choice, choose
from manual_bp.compilation.cuda import Graph
from manual_bp.compilation.decompositions import DECOMPOSITIONS
from manual_bp.compilation.products import by_onednn, product_of, products, separate_biases
from manual_bp.compilation.recomputation import recompute
from manual_bp.compilation.residuals import ask_outputs
from manual_bp.compilation.rows import images_first, in_parts
from manual_bp.compilation.updates import fold

FlatFunction = Callable[..., Sequence[Tensor]]
"""Tensors in, tensors out."""


NO_COMPILER = "no C++ compiler works here. Install g++ or clang++, or name one in the environment variable CXX."
FAILED = "inductor failed ({}). It needs a C++ compiler; for a GPU also Triton and CUDA's headers, found by CUDA_HOME."

# Up to so many tensors are read again, for the sake of a value, rather than the value stored.  The output of batch
# norm is made of six; by inductor's own limit of 4 it was kept for backward: 20 residual blocks of 256 held 12.8 MiB
# and not 10.4.  The rules took 0.97 to 1.04 of the time.
READS = 8


@dataclass(frozen=True)
class Program:
    """What was built.

    run: a list of contiguous tensors of the signature that it was built for -> the function's results.
    kind: "aoti", "cuda graph" or "eager" (the uncompiled function).
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
    """`function` compiled for contiguous tensors like `example`.

    step: whether it is a whole training step, which is called again and again for one state.
    written: into how many of its first inputs the function writes.
    dynamic: per tensor, the axes whose length may differ from call to call, as torch.export's dynamic_shapes; those
        lengths may be any but 0.  By default none.
    Where it cannot be compiled, the program is the function itself, and a warning says why.
    """
    try:
        return _ahead_of_time(function, example, step, written, dynamic)
    except _NotCompiled as error:
        warnings.warn(f"not compiled, so slower: {error}", RuntimeWarning, stacklevel=4)
        return Program(_eager(function), "eager", f"not compiled: {error}")


class _NotCompiled(Exception):
    """Why a function could not be compiled."""


def _eager(function: FlatFunction) -> Callable[[list[Tensor]], Sequence[Tensor]]:
    return lambda flat: function(*flat)


def _ahead_of_time(function: FlatFunction, example: list[Tensor], step: bool, written: int, dynamic: Any) -> Program:
    """Compiled C++, and on a GPU kernels of Triton's, from the disk if they are there."""
    device = example[0].device
    exported = _exported(function, example, dynamic)
    found_products = set(products(exported.graph)) if dynamic is None else set()
    floating = next(t.dtype for t in example if t.is_floating_point())
    choice = choose(device, floating, found_products, max(t.numel() for t in example), step)
    path = address(exported, example, choice)
    found = path.exists()
    if not found:
        _compile(exported, choice, path)
    runner = _Runner(path, choice, device)
    if choice.kind == "cuda graph":
        return Program(Graph(runner, example, written), choice.kind, "AOTInductor, captured in one CUDA graph", found)
    if device.type == "cuda":
        return Program(runner, choice.kind, "AOTInductor with kernels of Triton's", found)
    why = f"AOTInductor on {choice.threads} thread{'s' * (choice.threads > 1)}"
    if choice.onednn:
        why += f", oneDNN for {len(choice.onednn)} of {len(found_products)} kinds of product"
    return Program(runner, choice.kind, why, found)


def _exported(function: FlatFunction, example: list[Tensor], dynamic: Any) -> Any:
    """The graph of `function`, with no autograd in it."""

    class Wrapped(torch.nn.Module):  # noqa: TID251 (torch.export takes nothing else)
        def forward(self, *flat: Tensor) -> tuple[Tensor, ...]:
            return tuple(function(*flat))

    shapes = None if dynamic is None else (tuple(dynamic),)
    with torch.no_grad(), warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)  # torch's own, about its own pytrees
        exported = torch.export.export(Wrapped(), tuple(example), dynamic_shapes=shapes, strict=False)
        return exported.run_decompositions(DECOMPOSITIONS)


def _compile(exported: Any, choice: Choice, path: Path) -> None:
    """Compile into `path`.  Raises _NotCompiled in words if there is no compiler or it fails."""
    from torch._inductor import aoti_compile_and_package
    from torch._inductor.exc import CppCompileError, InductorError, InvalidCxxCompiler

    def improve(graph: torch.fx.Graph) -> None:
        graph.eliminate_dead_code()
        fold(graph, elsewhere=lambda product: product_of(product) in choice.onednn)
        by_onednn(graph, choice.onednn)
        separate_biases(graph)
        images_first(graph)
        in_parts(graph)
        ask_outputs(graph)
        recompute(graph)

    options: dict[str, Any] = {
        "cpp.threads": choice.threads,
        "post_grad_custom_post_pass": improve,
        "realize_reads_threshold": READS,
    }
    path.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=path.parent) as scratch:
        unfinished = Path(scratch) / path.name
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore", FutureWarning)
                aoti_compile_and_package(exported, package_path=str(unfinished), inductor_configs=options)
        except InvalidCxxCompiler as error:
            raise _NotCompiled(NO_COMPILER) from error
        except (InductorError, CppCompileError) as error:
            if "InvalidCxxCompiler" in str(error):
                raise _NotCompiled(NO_COMPILER) from error
            raise _NotCompiled(FAILED.format(f"{str(error).splitlines()[0]:.200}")) from error
        unfinished.replace(path)


class _Runner:
    """Calls a compiled program through its flat list of tensors."""

    def __init__(self, path: Path, choice: Choice, device: torch.device) -> None:
        from torch._C._aoti import AOTIModelPackageLoader

        # A program that is captured must not wait for anything, so it does without the locks of one that several
        # threads may call at once.
        captured = choice.kind == "cuda graph"
        index = -1 if device.index is None else device.index
        self._loader = AOTIModelPackageLoader(str(path), "model", captured, 1, index)
        self._run = self._loader.run
        self._threads = choice.threads

    def __call__(self, flat: list[Tensor]) -> Sequence[Tensor]:
        threads = torch.get_num_threads()
        if threads == self._threads:
            return self._run(flat)
        torch.set_num_threads(self._threads)
        try:
            return self._run(flat)
        finally:
            torch.set_num_threads(threads)
