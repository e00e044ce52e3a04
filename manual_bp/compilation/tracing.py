"""The graph of a function of a flat list of tensors, for one signature."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import contextmanager
from itertools import cycle
from typing import Any

import torch
from torch import Tensor

from manual_bp.compilation.decompositions import DECOMPOSITIONS
from manual_bp.compilation.inductor import NotCompiled
from manual_bp.compilation.stand_ins import standing_in

FlatFunction = Callable[..., Sequence[Tensor]]
"""Tensors in, tensors out."""

Dynamic = Sequence[Collection[int]]
"""Per tensor, the axes whose length may differ from call to call; empty if none may.  Those that are alike in the
example are alike in every call."""


def traced(function: FlatFunction, example: list[Tensor], dynamic: Dynamic = ()) -> torch.fx.GraphModule:
    """The graph of `function`, with no autograd and no autocast in it, with `DECOMPOSITIONS` taken apart.

    Raises NotCompiled.  torch.export would do so too, in nine times the time: it makes its graph twice, and gives what
    nobody here asks for (a GPT of 4 blocks, 8.9 s and 1.0 s of a processor).
    """
    from torch._subclasses.fake_tensor import FakeTensorMode
    from torch.fx.experimental.proxy_tensor import make_fx
    from torch.fx.experimental.symbolic_shapes import ShapeEnv

    lengths = ShapeEnv()
    fake = FakeTensorMode(shape_env=lengths, allow_non_fake_inputs=True)  # constants of a page are not fake
    with _tracing(example):
        stand_ins = [_without_numbers(t, axes, fake) for t, axes in zip(example, dynamic or cycle([()]), strict=False)]
        try:
            with fake:
                graph = make_fx(lambda *flat: tuple(function(*flat)), decomposition_table=DECOMPOSITIONS)(*stand_ins)
        except Exception as error:  # of many types: it asks for a value, for one
            said = next(iter(str(error).splitlines()), "")
            raise NotCompiled(f"it cannot be traced ({type(error).__name__}: {said:.200}).") from error
    if lengths.guards:
        raise NotCompiled(f"it is another function for other lengths ({lengths.guards[0].expr}).")
    return graph


def _without_numbers(t: Tensor, dynamic: Collection[int], fake: Any) -> Tensor:
    """What stands for `t` while a function is traced; the lengths of `dynamic` axes may be any.

    It stands for a copy: of two tensors that share memory, a graph would have one.
    """
    from torch.fx.experimental.symbolic_shapes import DimDynamic, StatelessSymbolicContext

    lengths = [DimDynamic.DUCK if axis in dynamic else DimDynamic.STATIC for axis in range(t.ndim)]
    stand_in: Tensor = fake.from_tensor(t.clone(), symbolic_context=StatelessSymbolicContext(lengths))
    return stand_in


@contextmanager
def _tracing(example: list[Tensor]) -> Iterator[None]:
    """No autograd and no autocast, whatever a caller has switched on; stand-ins; torch.compiler.is_exporting()."""
    from torch._dynamo import config
    from torch._export.utils import _compiling_state_context

    # scan traces its step by dynamo, which takes numbers of Python that differ from the last scan's for inputs of the
    # step: inductor refuses these.
    fixed = config.patch(automatic_dynamic_shapes=False)
    exact = torch.autocast(example[0].device.type, enabled=False)
    with torch.no_grad(), exact, fixed, standing_in(), _compiling_state_context():
        yield
