"""Calling a candidate that draws its own mask: seeds, and what came of a call."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from manual_bp.inputs import Edge
from manual_bp.oracle.calling.invocation import call_with, described_error, parameters_of
from manual_bp.oracle.cases.drawing import draw
from manual_bp.oracle.own_masks.reading import MASK
from manual_bp.rule import Rule


@dataclass(frozen=True)
class Came:
    """What a call came to: y and the cotangents by input, or a fault in words."""

    y: Tensor | None = None
    grads: Mapping[str, Tensor | None] | None = None
    fault: str = ""


class Drawing:
    """A candidate, and how it takes a seed: as `seed`, as `generator`, or from torch's, NumPy's and Python's own."""

    def __init__(self, candidate: Callable[..., Any], rule: Rule) -> None:
        self.candidate, self.rule = candidate, rule
        parameters = parameters_of(candidate) or {}
        self.takes = next((name for name in ("seed", "generator") if name in parameters), "")
        self.own = {name for name in rule.hyper if name in parameters}
        self.variadic = not parameters or any(p.kind is p.VAR_KEYWORD for p in parameters.values())

    def lacks(self, hyper: Mapping[str, Any]) -> list[str]:
        """The hyperparameters that differ from their defaults and that the candidate does not take."""
        if self.variadic:
            return []
        return [n for n, v in hyper.items() if n not in self.own and v != self.rule.defaults.get(n)]

    def __call__(
        self, inputs: Sequence[Tensor | None], dy: Tensor, hyper: Mapping[str, Any], seed: int | None = None
    ) -> Came:
        """A call with the inputs but the mask; seed: one to begin with, or None to go on drawing."""
        given = {name: v for name, v in hyper.items() if self.variadic or name in self.own}
        names = [name for name in self.rule.inputs if name != MASK]
        if self.takes:
            number = 0 if seed is None else seed
            given[self.takes] = number if self.takes == "seed" else torch.Generator().manual_seed(number)
        elif seed is not None:
            seed_everything(seed)
        copies = [None if x is None else x.clone() for x in inputs]
        try:
            returned = call_with(self.candidate, (tuple(copies), dy.clone()), given)
        except Exception as error:
            return Came(fault=f"raised {described_error(error)}")
        if any(x is not None and not torch.equal(x, c) for x, c in zip(inputs, copies, strict=True) if c is not None):
            return Came(fault="the candidate overwrote its input")
        return self._checked(returned, names, inputs, dy)

    def _checked(self, returned: Any, names: list[str], inputs: Sequence[Tensor | None], dy: Tensor) -> Came:
        due = f"(y, ({', '.join(f'd{name}' for name in names)},)) is due"
        if not (isinstance(returned, tuple | list) and len(returned) == 2):
            return Came(fault=f"{due}; a {type(returned).__name__} came")
        y, grads = returned
        if isinstance(grads, Tensor) or not isinstance(grads, tuple | list):
            return Came(fault=f"{due}; for the cotangents a {type(grads).__name__} came: put them into a tuple")
        if len(grads) == len(self.rule.inputs):  # with None for the mask
            grads = [g for name, g in zip(self.rule.inputs, grads, strict=True) if name != MASK]
        if len(grads) != len(names):
            return Came(fault=f"{due}; {len(grads)} cotangents came")
        try:
            y = torch.as_tensor(y).detach()
            grads = [None if g is None else torch.as_tensor(g).detach() for g in grads]
        except (TypeError, ValueError, RuntimeError) as error:
            return Came(fault=f"{due}; what came is no tensor: {error}")
        if y.shape != dy.shape or y.dtype != dy.dtype:
            return Came(fault=f"y of shape {tuple(dy.shape)} and {dy.dtype} is due; {tuple(y.shape)}, {y.dtype} came")
        for name, g, x in zip(names, grads, inputs, strict=True):
            if g is not None and x is not None and (g.shape != x.shape or g.dtype != x.dtype):
                came = f"{tuple(g.shape)}, {g.dtype}"
                return Came(fault=f"d{name} of shape {tuple(x.shape)} and {x.dtype} is due; {came} came")
        return Came(y, dict(zip(names, grads, strict=True)))


def drawn(
    rule: Rule, lengths: tuple[int, ...], hyper: Mapping[str, Any], dtype: torch.dtype, zeros: bool = False
) -> tuple[dict[str, Tensor | None], Tensor]:
    """Inputs without the mask by name, and a cotangent that is nowhere 0; zeros: half of the elements are 0."""
    generator = torch.Generator().manual_seed(sum(lengths) + zeros)
    given = {n: v for n, v in hyper.items() if n in rule.hyper}
    variadic = next((axis for axis, several in rule.axis_names.items() if several), None)
    sizes = {variadic: lengths} if variadic else {}  # else as they are given
    inputs, dy, _ = draw(rule, Edge("own mask", given, sizes), generator)
    named = {
        n: x.to(dtype) if x is not None and x.is_floating_point() else x
        for n, x in zip(rule.inputs, inputs, strict=True)
        if n != MASK
    }
    if zeros:
        x = next(x for x in named.values() if x is not None and x.is_floating_point())
        x[torch.rand(x.shape, generator=generator) < 0.5] = 0
    dy = dy.to(dtype)
    return named, torch.where(dy.abs() < 0.25, 0.25, dy)


def seed_everything(seed: int) -> None:
    """Of torch, NumPy and Python."""
    torch.manual_seed(seed)
    np.random.seed(seed % 2**32)  # noqa: NPY002 - the state that a candidate may draw from
    random.seed(seed)


@contextmanager
def generators_kept() -> Iterator[None]:
    """The global generators are the user's: what is drawn and seeded here leaves them as they were."""
    numpy, python = np.random.get_state(), random.getstate()  # noqa: NPY002 - as above
    with torch.random.fork_rng(devices=[]):
        try:
            yield
        finally:
            np.random.set_state(numpy)  # noqa: NPY002 - as above
            random.setstate(python)
