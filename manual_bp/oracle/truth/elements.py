"""Element-wise rules: what is due at an element depends on that element alone.

So elements of many cases, in whatever shape and layout, are looked at together and each once: running error analysis
and ball arithmetic take as long for one element as for some hundred.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass, field, replace

import torch
from torch import Tensor

from manual_bp.oracle.case import Case, Further
from manual_bp.oracle.cases.exponents import exponents, fits_float64
from manual_bp.oracle.truth.evidence import Evidence

# So many elements are looked at together: a tenth of a second, for which whoever asks for the first case waits.
TOGETHER = 2**11


@dataclass
class Bin:
    """Cases that are looked at together, by position; `largest`: the exponents of all of them."""

    positions: list[int] = field(default_factory=list)
    elements: int = 0
    largest: list[float] = field(default_factory=list)


def binned(cases: Sequence[Case]) -> list[Bin]:
    """The cases of an element-wise rule, put together where one case could hold them all: hyperparameters are the same,
    and torch in float64 is a reference for all of them or for none."""
    bins: dict[Hashable, list[Bin]] = {}
    for position, case in enumerate(cases):
        numbers = [x for x in case.tensors if x.is_floating_point()]
        finite = all(bool(x.isfinite().all()) for x in numbers)
        own = exponents(case)
        fits = fits_float64(own)
        hyper = tuple((name, type(value), value) for name, value in case.hyper.items())
        dtypes = tuple(x.dtype for x in case.tensors)
        alike = bins.setdefault((isinstance(case, Further), dtypes, hyper, finite, fits), [])
        count = max((x.numel() for x in case.tensors), default=0)
        for each in alike:
            largest = [max(pair) for pair in zip(each.largest, own, strict=True)]
            if each.elements + count <= TOGETHER and fits_float64(largest) == fits:
                break
        else:
            each, largest = Bin(), own
            alike.append(each)
        each.positions.append(position)
        each.elements += count
        each.largest = largest
    return [each for alike in bins.values() for each in alike]


def together(cases: Sequence[Case]) -> tuple[Case, Callable[[Evidence], list[Evidence]]]:
    """One case that has every element of these, each once, and what gives its evidence back to each of them."""
    columns = [
        torch.cat([x.detach().cpu().reshape(-1) for x in same])
        for same in zip(*(c.tensors for c in cases), strict=True)
    ]
    bits = torch.stack([column.double().view(torch.int64) for column in columns], 1)  # 0 and -0 are two
    _, places = bits.unique(dim=0, return_inverse=True)  # type: ignore[no-untyped-call]
    first = torch.zeros(int(places.max()) + 1 if len(places) else 0, dtype=torch.int64)
    first[places] = torch.arange(len(places))
    joined = replace(cases[0], name="elements of many cases").with_tensors(column[first] for column in columns)

    def apart(found: Evidence) -> list[Evidence]:
        start, given = 0, []
        for case in cases:
            shape = case.tensors[0].shape
            where = places[start : start + shape.numel()].reshape(shape)
            start += shape.numel()

            def here(values: Sequence[Tensor | None], where: Tensor = where) -> tuple[Tensor | None, ...]:
                return tuple(None if x is None else x[where] for x in values)

            expected, allowance, kinks = map(here, (found.expected, found.allowance, found.kinks))
            given.append(replace(found, case=case, expected=expected, allowance=allowance, kinks=kinks))
        return given

    return joined, apart
