"""Sketches: what edits do to the results of a case, seen through a few random sums of what is wrong there.

Nearly every edit gives something else entirely, which is seen in a few numbers; and of what two causes at once would
give the sums are the sums of both.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping

import torch
from torch import Tensor

from manual_bp.oracle.diagnosis.edit import Edit
from manual_bp.oracle.diagnosis.program import Traced, Values
from manual_bp.oracle.diagnosis.samples import Sample

# So many sums are taken of each argument: two unknown factors leave two to tell by.
SUMS = 4
# Programs of more operations are many rounds of a loop, and have too many pairs of them.
LONG = 500
# In float64 the sums are so exact, relative to what is summed.
EXACT = 1e-8


Tried = tuple[float, Edit, Tensor]
"""An edit, with how seldom it is met, and by what it changes the sums."""


class Sketch:
    """samples: what came, of the arguments whose wrong numbers are summed; the others (of another shape, or not finite)
    are not seen.  target, tolerance: by what the sums of each argument differ from what the page gives, one row each,
    and how far off that may be.  right: the sums of what the page gives.  tried: the edits that were asked so far.
    check: is called before what takes long, and raises where time is up.
    """

    def __init__(
        self, program: Traced, samples: Mapping[str, Sample], check: Callable[[], None] = lambda: None
    ) -> None:
        self.program, self.check = program, check
        self.samples, self.weights = {}, dict[str, Tensor]()
        generator = torch.Generator().manual_seed(0)
        for argument, sample in samples.items():
            right = program.right.get(argument)
            if right is None or not right.shape == sample.got.shape == sample.expected.shape:
                continue
            there = (sample.wrong & sample.got.isfinite() & right.isfinite()).flatten()
            if bool(there.any()):
                self.samples[argument] = sample
                weights = torch.randn(SUMS, there.numel(), generator=generator, dtype=torch.float64)
                self.weights[argument] = torch.where(there, weights, 0)
        self.needed = program.needed(list(samples))
        got: Values = {a: s.got for a, s in self.samples.items()}
        self.target, self.right = self.sums(got), self.sums(program.right, absolute=True)
        rows = [
            self.weights[a].abs() @ (s.tolerance(s.got) + EXACT * s.got.abs()).nan_to_num(0, 0, 0).flatten()
            for a, s in self.samples.items()
        ]
        self.tolerance = torch.stack(rows) if rows else torch.zeros(0, SUMS)
        self.tried: list[Tried] = []

    def sums(self, results: Values, absolute: bool = False) -> Tensor:
        """The sums of results, less those of the right ones unless absolute; NaN for another shape."""
        rows = []
        for argument, weights in self.weights.items():
            right, x = self.program.right[argument], results.get(argument)
            assert right is not None
            if x is None or x.shape != right.shape or x.is_complex():
                rows.append(torch.full((SUMS,), 0.0 if x is None else torch.nan, dtype=torch.float64))
                continue
            # Where nothing is summed anything may stand.
            terms = (x if absolute else x - right).double().flatten().where(weights[0] != 0, 0.0)
            rows.append(weights @ terms)
        return torch.stack(rows) if rows else torch.zeros(0, SUMS, dtype=torch.float64)

    def change(self, edit: Edit) -> tuple[Tensor, Values]:
        """By what an edit changes the sums, and its results; raises where it is not defined."""
        self.check()
        results = edit.results(self.program, self.needed)
        return self.sums(results), results

    def fitting(self, change: Tensor) -> list[str]:
        """The arguments of which all that is wrong may be what is changed so."""
        near = ((change - self.target).abs() <= self.tolerance).all(1).tolist()
        return [argument for argument, fits in zip(self.samples, near, strict=True) if fits]

    def telling(self, argument: str) -> tuple[list[Tried], Tensor]:
        """The edits that change an argument, each once, and by what, one row each."""
        row = list(self.samples).index(argument)
        seen: dict[tuple[float, ...], Tried] = {}
        for each in self.tried:
            change = each[2][row].tolist()
            if any(change) and all(map(math.isfinite, change)):
                seen.setdefault(tuple(float(f"{x:.9g}") for x in change), each)
        found = list(seen.values())
        return found, torch.stack([each[2][row] for each in found]) if found else torch.zeros(0, SUMS)
