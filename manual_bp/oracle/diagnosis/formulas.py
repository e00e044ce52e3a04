"""Formulas: where a cotangent is dy times a function of one point, which function it is.

The functions that are tried are products and sums of a few parts: powers of the inputs and of y, exponentials, signs,
each with a simple factor.  One is reported if it gives every number that the candidate returned, on a branch of at
least so many numbers, and if it is not the right one.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from typing import NamedTuple

import torch
from torch import Tensor

from manual_bp.oracle.diagnosis.agreement import APART
from manual_bp.oracle.diagnosis.examination import Examination
from manual_bp.oracle.diagnosis.fitting import SOLVER, TINY
from manual_bp.oracle.diagnosis.hypothesis import Explanation
from manual_bp.oracle.diagnosis.points import Points, points_of, threshold
from manual_bp.oracle.words import counted

# A formula is read off as many different numbers; 16 of 16 agreeing with one of a few thousand formulas, to three
# digits each, is no accident.
ENOUGH = 16
# These refute nearly all; a right formula has one digit at one of them at least, and at most of all numbers.
FEW = 4
MOST = 0.5
# A polynomial has at most this degree, and so many numbers for each coefficient.  They are written to four digits, the
# largest being about 1, as the first of a derivative is; what would not show beside it is rounding, and not written.
DEGREE = 6
NUMBERS = 4
NEGLIGIBLE = 1e-4
NEGATIVE = "dy·(-the right factor)"

OF_A_LETTER: Mapping[str, Callable[[Tensor], Tensor]] = {
    "{}": lambda a: a,
    "{}²": torch.square,
    "{}³": lambda a: a**3,
    "|{}|": torch.abs,
    "sign({})": torch.sign,
    "clip({}, -1, 1)": lambda a: a.clamp(-1, 1),
    "exp({})": torch.exp,
    "exp(-{})": lambda a: torch.exp(-a),
    "1/{}": torch.reciprocal,
    "√{}": torch.sqrt,
    "1/√{}": torch.rsqrt,
    "sigmoid({})": torch.sigmoid,
    "tanh({})": torch.tanh,
    "({0} - {0}²)": lambda a: a - a * a,  # the slope of a sigmoid, and of tanh, where a is their output
    "(1 - {}²)": lambda a: 1 - a * a,
    "1/(1 + {}²)": lambda a: 1 / (1 + a * a),
    "1/cosh({})": lambda a: 1 / torch.cosh(a),
}
OF_A_NUMBER: Mapping[str, Callable[[Tensor], Tensor]] = {
    "{}": lambda h: h,
    "-{}": lambda h: -h,
    "1/{}": lambda h: 1 / h,
    "{}²": lambda h: h * h,
    "(1 - {})": lambda h: 1 - h,
    "(1 + {})": lambda h: 1 + h,
    "1/(1 - {})": lambda h: 1 / (1 - h),
}
COTANGENTS: Mapping[str, Callable[[Tensor], Tensor]] = {"dy": torch.clone, "": torch.ones_like, "|dy|": torch.abs}
VALUE: Mapping[str, Callable[[Tensor], Tensor]] = {"no cotangent": torch.ones_like}
PLAIN = {"": 1.0, "-": -1.0, "2·": 2.0, "1/2·": 0.5}


def formulas(found: Examination) -> Iterator[Explanation]:
    """dy times another function than the derivative, on the whole or on one branch; read off at moderate numbers."""
    if not found.moderate:
        return
    for argument in found.unexplained():
        points = points_of(found, argument)
        if points is None or not _is_wrong(points):
            continue
        whole = formula_of(found, points)
        if whole:
            whole = f"{NEGATIVE}: it has the wrong sign" if whole == NEGATIVE else whole
            evidence = f"so in all of {len(points.got)} numbers from {counted(points.cases, 'case')}"
            yield Explanation({argument}, f"{{}} is {whole}; {evidence}")
            continue
        if branches := _on_branches(found, points) or _where_not_zero(found, points):
            evidence = f"so in {len(points.got)} numbers from {counted(points.cases, 'case')}"
            yield Explanation({argument}, f"{{}} is {branches}; {evidence}")


def _on_branches(found: Examination, points: Points) -> str:
    """A formula for each side of the first branch that leaves none unexplained; empty if there is none."""
    for letter, x in sorted(points.letters.items(), key=lambda named: named[0] == "y"):  # inputs choose branches
        sides = (f"{letter} > 0", x > 0), (f"{letter} < 0", x < 0)
        if bool(((x == 0) | (x == 1)).all()):
            sides = (f"{letter} is 1", x > 0), (f"{letter} is 0", x == 0)
        words = []
        for name, mask in sides:
            side = points.where(mask)
            if not _is_wrong(side):
                words.append(f"right where {name}")
            elif formula := formula_of(found, side):
                words.append(f"{formula} where {name}")
            else:
                break
        if len(words) == 2 and not all(w.startswith("right") for w in words):
            return ", and ".join(sorted(words, key=lambda w: w.startswith("right")))
    return ""


def _where_not_zero(found: Examination, points: Points) -> str:
    """0 beyond some size of a letter, and a formula before: a piecewise function in place of a smooth one."""
    zero = points.got == 0
    if not ENOUGH <= int(zero.sum()) <= len(zero) - ENOUGH:
        return ""
    letters = points.letters | {f"|{name}|": x.abs() for name, x in points.letters.items()}
    for name, x in letters.items():
        if place := threshold(name, x[zero], x[~zero]):
            formula = formula_of(found, points.where(~zero))
            return f"{formula} where {place[1]}, and 0 where {place[0]}" if formula else ""
    return ""


def polynomials(found: Examination) -> Iterator[Explanation]:
    """dy times a polynomial in an input, where the derivative is none: a series that ends too early, say."""
    if not found.moderate or not found.rule.elementwise:
        return
    for argument in found.unexplained():
        points = points_of(found, argument)
        if points is None or not _is_wrong(points):
            continue
        for letter in (n for n in found.rule.inputs if n in points.letters and found.rule.is_number(n)):
            if written := _polynomial(points, letter, found.slack):
                evidence = f"fitted to all of {len(points.got)} numbers from {counted(points.cases, 'case')}"
                words = f"dy times a polynomial, {written}, as of a series that is cut off"
                yield Explanation({argument}, f"{{}} is {words}; {evidence}")
                break


def _polynomial(points: Points, letter: str, slack: float) -> str:
    """The polynomial of the lowest degree that gives every number; empty if there is none."""
    for degree in range(1, DEGREE + 1):
        if len(points.got) < NUMBERS * (degree + 1):
            return ""
        powers = torch.stack([points.dy * points.letters[letter] ** k for k in range(degree + 1)], 1)
        weight = 1 / (points.allowance + slack * (powers.abs().amax(1) + points.got.abs()) + TINY)
        size = (powers * weight[:, None]).norm(dim=0).clamp(min=TINY)
        fitted = (
            torch.linalg.lstsq(powers * weight[:, None] / size, (points.got * weight)[:, None]).solution[:, 0] / size
        )
        tolerance = points.allowance + 2 * slack * ((powers * fitted).abs().sum(1) + points.got.abs())
        if bool(((powers @ fitted - points.got).abs() <= tolerance).all()):
            shown = [(k, c) for k, c in enumerate(fitted.tolist()) if abs(c) > NEGLIGIBLE]
            return " + ".join(f"{c:.4g}·{letter}^{k}" if k else f"{c:.4g}" for k, c in shown).replace("+ -", "- ")
    return ""


def _is_wrong(points: Points) -> bool:
    return bool(((points.got - points.expected).abs() > APART * points.allowance).any())


class Family(NamedTuple):
    """Formulas of one kind.  number: how many; name: of the i-th (there are too many to write them all);
    at: the values of some at some of the points, a row each, and the sums of the magnitudes of their parts."""

    number: int
    name: Callable[[int], str]
    at: Callable[[Tensor, Tensor], tuple[Tensor, Tensor]]


def formula_of(found: Examination, points: Points) -> str:
    """The first formula that gives every number; empty if none does."""
    if len(points.got) < ENOUGH:
        return ""
    slack = found.slack
    parts = _parts(points)
    families = [_multiples(points, parts), _pairs(points, parts), _multiples(points, _changed_parts(points))]
    is_value = bool((points.dy == 1).all())
    for cotangent, of in (VALUE if is_value else COTANGENTS).items():
        for family in families:
            found.deadline.check()
            if name := _first(family, points, of, slack):
                return _written(cotangent, name)
        if number := _number(points, parts, of(points.dy), slack):
            return _written(cotangent, number)
    if is_value:
        return ""
    found.deadline.check()
    with_dy = _with_dy(points)
    return _first(_pairs(with_dy, _parts(with_dy)), with_dy, torch.ones_like, slack)


def _first(family: Family, points: Points, of: Callable[[Tensor], Tensor], slack: float) -> str:
    """The first formula that gives every number when it is multiplied by a function of dy; empty if none does."""
    left, everywhere = torch.arange(family.number), torch.arange(len(points.got))
    for count, share in ((FEW, 1 / FEW), (ENOUGH, MOST), (len(everywhere), MOST)):
        places = everywhere[torch.linspace(0, len(everywhere) - 1, count).long()]
        left = left[_fits(points.where(places), of, *family.at(left, places), slack, share)]
        if not len(left):
            return ""
    return family.name(int(left[0]))


def _with_dy(points: Points) -> Points:
    """With dy as a letter like others: for a forgotten parenthesis, as in dy - y²."""
    letters = points.letters | {"dy": points.dy}
    if "y" in letters:
        letters["(dy·y)"] = points.dy * letters["y"]
    return replace(points, letters=letters)


def _fits(
    points: Points, of: Callable[[Tensor], Tensor], values: Tensor, sizes: Tensor, slack: float, share: float
) -> Tensor:
    """Which formulas give every number within rounding.

    Where two parts cancel the tolerance is all there is: a share of the numbers has to be right to half of its size.
    """
    dy = of(points.dy)
    off = (values * dy - points.got).abs()
    right = off <= points.allowance + slack * (dy.abs() * sizes + points.got.abs())
    mostly = (off <= points.allowance + points.got.abs() / 2).double().mean(1) >= share
    return (right & values.isfinite()).all(1) & mostly


def _written(cotangent: str, name: str) -> str:
    if name == "0":
        return "0"
    factor = f"({name})" if " + " in name or " - " in name or name.startswith("-") else name
    if cotangent in VALUE:
        return name
    if name == "1" and cotangent:
        return cotangent
    return f"{cotangent}·{factor}" if cotangent else f"{name}, without dy"


def _multiples(points: Points, parts: Mapping[str, Tensor]) -> Family:
    """Every factor times every part, and 0."""
    named = {"0": torch.zeros_like(points.got)}
    for (p, x), (n, v) in itertools.product(parts.items(), _numbers(points).items()):
        named.setdefault(_product(n, p), v * x)
    x, names = torch.stack([*named.values()]), [*named]

    def at(which: Tensor, places: Tensor) -> tuple[Tensor, Tensor]:
        values = x[:, places][which]
        return values, values.abs()

    return Family(len(x), names.__getitem__, at)


def _pairs(points: Points, parts: Mapping[str, Tensor]) -> Family:
    """Sums and differences of two parts, each with the factor 1 or a hyperparameter."""
    ones = torch.ones_like(points.got)
    factors = {"": ones, "2·": 2 * ones, **{f"{h}·": v for h, v in points.numbers.items()}}
    plain = {p: x for p, x in parts.items() if "the right" not in p}
    terms = {f"{n}{p}": v * x for (n, v), (p, x) in itertools.product(factors.items(), plain.items())}
    x, names = torch.stack([*terms.values()]), [*terms]
    first, second = torch.triu_indices(len(x), len(x), offset=1)
    signs = torch.tensor([[1.0, 1.0], [1.0, -1.0], [-1.0, 1.0]], dtype=x.dtype)

    def at(which: Tensor, places: Tensor) -> tuple[Tensor, Tensor]:
        a, b = x[:, places][first[which // 3]], x[:, places][second[which // 3]]
        sign = signs[which % 3]
        return sign[:, :1] * a + sign[:, 1:] * b, a.abs() + b.abs()

    def name(i: int) -> str:
        a, b = names[int(first[i // 3])], names[int(second[i // 3])]
        return (f"{a} + {b}", f"{a} - {b}", f"{b} - {a}")[i % 3].replace("·1 ", " ").removesuffix("·1")

    return Family(3 * len(first), name, at)


def _number(points: Points, parts: Mapping[str, Tensor], dy: Tensor, slack: float) -> str:
    """A part times some number, the same everywhere."""
    ones = torch.ones_like(points.got)
    for name, part in {**parts, **{h: v * ones for h, v in points.numbers.items()}}.items():
        column = part * dy
        if not bool(column.isfinite().all()) or not bool(column.any()):
            continue
        factor = float((column @ points.got) / (column @ column))
        tolerance = points.allowance + 2 * slack * ((factor * column).abs() + points.got.abs())
        if bool(((factor * column - points.got).abs() <= tolerance).all()):
            return _product(f"{factor:.4g}·", name)
    return ""


def _product(factor: str, part: str) -> str:
    return factor.removesuffix("·") if part == "1" and factor not in ("", "-") else f"{factor}{part}"


def _numbers(points: Points) -> dict[str, Tensor]:
    ones = torch.ones_like(points.got)
    plain = {name: value * ones for name, value in PLAIN.items()}
    given = {
        f"{name.format(h)}·": function(v) for h, v in points.numbers.items() for name, function in OF_A_NUMBER.items()
    }
    return plain | given


def _parts(points: Points) -> dict[str, Tensor]:
    """What formulas are made of.  What is a letter anyway, as sigmoid(x) may be y, goes by that."""
    parts = {"1": torch.ones_like(points.got), "the right factor": points.expected / points.dy, **points.letters}
    for letter, x in points.letters.items():
        for name, function in OF_A_LETTER.items():
            value = function(x)
            if not any(torch.allclose(value, y, SOLVER, 0, equal_nan=True) for y in points.letters.values()):
                parts[name.format(letter)] = value
    return parts


def _changed_parts(points: Points) -> dict[str, Tensor]:
    """The right derivative times a function of a letter, or of a letter plus a hyperparameter (variance + eps)."""
    right = points.expected / points.dy
    sums = {f"({a} + {h})": x + v for a, x in points.letters.items() for h, v in points.numbers.items()}
    return {
        f"{name.format(letter)}·the right factor": function(x) * right
        for letter, x in (points.letters | sums).items()
        for name, function in OF_A_LETTER.items()
    }
