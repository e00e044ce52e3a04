"""What reaches the states of a recurrent rule: its last output's cotangent, one step of time after another.

A recurrent rule over T steps is that rule over one step, T times, the states that one gives being the next one's first.
So ∂J/∂h_(t−1) and ∂J/∂c_(t−1) are the dh0 and dc0 of step t alone, given those of the steps after it.  Only the last
step that the cost reads sends anything back here: what the others add would hide whether anything arrives.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from manual_bp.outputs import parts
from manual_bp.rule import Rule


def states(rule: Rule) -> dict[str, str]:
    """Of a recurrent rule, each first state and the output that is the last one, such as {"h0": "h_n"}; else empty."""
    pairs = {f"{name[:-2]}0": name for name in rule.outputs if name.endswith("_n")}
    return pairs if pairs.keys() <= rule.inputs.keys() else {}


def carried(
    rule: Rule, inputs: Sequence[Tensor | None], dy: Tensor, hyper: Mapping[str, Any] | None = None
) -> dict[str, Tensor]:
    """By `dh0`, `dc0`, the cotangents of the states that each step reads: (steps, batch, hidden), the first step first.

    inputs: of the rule, x (time, batch, in) first.  dy: of y, (time, batch, hidden); the cotangent of its last step
        that is not 0 throughout is what goes back, from which on there are no steps here.
    Empty for a rule without states.
    """
    ends = states(rule)
    if not ends:
        return {}
    names, own = list(rule.inputs), list(rule.outputs)
    given = dict(zip(names, inputs, strict=True))
    x = given[names[0]]
    assert x is not None
    read = dy.flatten(1).ne(0).any(1).nonzero()
    steps = int(read[-1]) + 1 if len(read) else len(dy)
    tape = []
    for t in range(steps):
        y, residuals = rule.forward(*{**given, names[0]: x[t : t + 1]}.values(), **(hyper or {}))
        tape.append(residuals)
        given |= {first: parts(y)[own.index(last)] for first, last in ends.items()}
    cotangents: dict[str, Tensor | None] = dict.fromkeys(own)
    cotangents[own[0]] = dy[steps - 1 : steps]
    found: dict[str, list[Tensor]] = {first: [] for first in ends}
    for residuals in reversed(tape):
        grads = dict(zip(names, rule.backward(residuals, tuple(cotangents[name] for name in own)), strict=True))
        cotangents = {own[0]: None, **{last: grads[first] for first, last in ends.items()}}
        for first, some in found.items():
            d = grads[first]
            assert d is not None
            some.append(d)
    return {f"d{first}": torch.stack(some[::-1]) for first, some in found.items() if some}
