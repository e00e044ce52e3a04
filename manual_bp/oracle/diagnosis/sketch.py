"""Sketches: what an edit does to the results of a case, seen through a few random sums of them.

Nearly every edit gives something else entirely, and that is seen without the rest of the program: where the results
depend linearly on a value, as a backward does on all that it makes of dy, the derivatives of the sums by that value
tell what the sums become.  They are found once for all values; torch has them, whose autograd is asked for here as a
candidate is, and where it is not at hand the program is run.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor

from manual_bp.oracle.calling.candidates import candidate
from manual_bp.oracle.diagnosis.edit import Edit
from manual_bp.oracle.diagnosis.program import At, Change, Traced, Values, bits
from manual_bp.oracle.diagnosis.samples import Sample

# So many sums are taken of each argument: two unknown factors leave two to tell by.
SUMS = 4
# Of longer programs (many rounds of a loop) edits change many values, of which no derivative tells.
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
        self.needed = program.needed(list(self.samples))
        got: Values = {a: s.got for a, s in self.samples.items()}
        self.target, self.right = self.sums(got), self.sums(program.right, absolute=True)
        rows = [
            self.weights[a].abs() @ (s.tolerance(s.got) + EXACT * s.got.abs()).nan_to_num(0, 0, 0).flatten()
            for a, s in self.samples.items()
        ]
        self.tolerance = torch.stack(rows) if rows else torch.zeros(0, SUMS)
        self._slopes = self._derived()
        self._linear: dict[int, bool] = {}
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

    def change(self, edit: Edit) -> tuple[Tensor, Values | None]:
        """By what an edit changes the sums, and its results, if they were computed for that; raises where it is not
        defined."""
        self.check()
        changes = edit.at(self.program)
        if changes and len(changes) == 1 and (found := self._directly(*next(iter(changes.items())))) is not None:
            return found, None
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

    def _directly(self, position: int, change: Change) -> Tensor | None:
        """From the change of one value alone; None if the results do not depend on it linearly."""
        value = self.program.values[position]
        if not self._is_linear(position):
            return None
        new = change(At(self.program, position, {}))
        if not isinstance(new, Tensor) or new.shape != value.shape or new.is_complex():
            return None
        by: Tensor = self._slopes[position] @ (new - value).double().flatten()
        return by.reshape(-1, SUMS)

    def _is_linear(self, position: int) -> bool:
        if position not in self._slopes:
            return False
        if position not in self._linear:
            value = self.program.values[position]
            noise = torch.randn(value.shape, generator=torch.Generator().manual_seed(position), dtype=torch.float64)
            step = (noise * (value.abs().max().nan_to_num(1, 1) or 1)).to(value.dtype)
            try:
                due = self.sums(self.program.edited({position: lambda _: value + step}, self.needed))
            except Exception:  # it is not defined there
                due = torch.full_like(self.target, torch.nan)
            found = (self._slopes[position] @ step.double().flatten()).reshape(-1, SUMS)
            largest = float(due.abs().max())  # NaN where it leaves what a root or logarithm is defined for
            self._linear[position] = largest < math.inf and torch.allclose(found, due, rtol=EXACT, atol=EXACT * largest)
        return self._linear[position]

    def _derived(self) -> dict[int, Tensor]:
        """Of every value the derivatives of all sums by it, one row each; {} if torch does not tell."""
        differentiate = getattr(candidate("torch"), "autograd", None)
        program, values = self.program, self.program.values
        positions = [p for p in bits(self.needed) if isinstance(values[p], Tensor) and values[p].is_floating_point()]
        if differentiate is None or not positions or len(program.nodes) > LONG:
            return {}

        def forward(*moves: Tensor, **_: Any) -> Tensor:
            run: dict[int, Any] = {}
            moved = dict(zip(positions, moves, strict=True))
            for p in bits(self.needed):
                value = values[p] if program.nodes[p].op is None else program.step(p, run)
                run[p] = value + moved[p] if p in moved else value
            ends = [(self.weights[a], run[program.results[a]]) for a in self.samples]
            return torch.cat([weights @ x.double().flatten() for weights, x in ends])

        zeros = tuple(torch.zeros_like(values[p]) for p in positions)
        rows = []
        try:
            for one in torch.eye(self.target.numel(), dtype=torch.float64):
                self.check()
                rows.append(differentiate(forward)(zeros, one)[1])
        except Exception:  # torch has no derivative of one of the operations
            return {}
        return {p: torch.stack([_flat(row[i], zeros[i]) for row in rows]) for i, p in enumerate(positions)}


def _flat(slope: Tensor | None, like: Tensor) -> Tensor:
    return torch.zeros(like.numel(), dtype=torch.float64) if slope is None else slope.double().flatten()
