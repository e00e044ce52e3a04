"""Random cases of a rule, for what is measured over many of them."""

from __future__ import annotations

import itertools

import torch

from manual_bp.inputs import Edge
from manual_bp.oracle.case import Case, in_dtype
from manual_bp.oracle.cases.drawing import draw
from manual_bp.rule import Rule

LONG = 64  # more than the 37 terms from which the probabilistic bound of a sum is the smaller one (bounded.py)
ATTEMPTS = 50  # at random lengths; so many find some at which a window is no longer than what it moves over


def seeded_case(rule: Rule, dtype: torch.dtype, seed: int, long: bool = True) -> Case:
    """An ordinary case with random small sizes.  The seed decides everything but the dtype.

    Half of the seeds have every input with a cotangent, and dy, scaled by 10^-3 to 10^3; a third have the
    hyperparameters of one of the page's edges, and half of these an input left out that may be absent; if `long`, an
    eighth have one long axis.
    """
    generator = torch.Generator().manual_seed(seed)

    def below(limit: int) -> int:
        return int(torch.randint(limit, (), generator=generator))

    def scale() -> float:
        return 10.0 ** (6 * float(torch.rand((), generator=generator)) - 3) if seed % 2 else 1.0

    own = {**getattr(rule.page, "SIZES", {}), **getattr(rule.page, "LONGEST", {})}
    for attempt in itertools.count():  # until the rule is defined there: batch_norm is not for one value per channel
        lengths = {
            name: tuple(1 + below(4) for _ in range(below(3))) if variadic else 1 + below(5)
            for name, variadic in rule.axis_names.items()
        }
        if long and seed % 8 == 5:
            name = list(lengths)[below(len(lengths))]
            if name not in own:
                lengths[name] = (LONG,) if rule.axis_names[name] else LONG
        if attempt >= ATTEMPTS:  # lengths that a page says go together
            lengths |= getattr(rule.page, "SIZES", {})
        edges = [edge for edge in rule.edges if not edge.raises]
        given = edges[below(len(edges))].given if edges and seed % 3 == 0 else {}
        hyper = {name: value for name, value in given.items() if name in rule.hyper}
        absent = [name for name in rule.inputs if name in rule.absentable]
        if absent and seed % 6 == 0:
            hyper[absent[below(len(absent))]] = None
        try:
            drawn = Case(*draw(rule, Edge("ordinary", hyper, lengths), generator), f"seed {seed}")
            specs = [spec for x, spec in zip(drawn.inputs, rule.inputs.values(), strict=True) if x is not None]
            scaled = [
                x * scale() if x.is_floating_point() and (i >= len(specs) or specs[i].cotangent) else x
                for i, x in enumerate(drawn.tensors)
            ]
            case = in_dtype(drawn.with_tensors(scaled), dtype, "cpu")
            rule.forward(*case.inputs, **case.hyper)
        except ValueError:
            continue
        return case
    raise AssertionError("unreachable")
