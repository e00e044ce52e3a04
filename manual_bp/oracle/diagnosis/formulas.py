"""Formulas: where a cotangent is dy times a function of one point, which function it is.

The functions that are tried are products and sums of a few parts: powers of the inputs and of y, exponentials, signs,
each with a simple factor.  One is reported if it gives every number that the candidate returned, on a branch of at
least so many numbers, and if it is not the right one.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from functools import partial
from typing import Any

import torch
from torch import Tensor

from manual_bp import axes
from manual_bp.oracle.cases import Case
from manual_bp.oracle.diagnosis.agreement import APART
from manual_bp.oracle.diagnosis.examination import Examination
from manual_bp.oracle.diagnosis.fitting import SOLVER, TINY
from manual_bp.oracle.diagnosis.hypothesis import Explanation, Prediction, wide
from manual_bp.oracle.diagnosis.points import Points, letters_of, points_of, threshold

# A formula is read off as many different numbers; 16 of 16 agreeing with one of a few thousand formulas, to three
# digits each, is no accident.
ENOUGH = 16
# A polynomial has at most this degree, and so many numbers for each coefficient.  They are written to four digits, the
# largest being about 1, as the first of a derivative is; what would not show beside it is rounding, and not written.
DEGREE = 6
NUMBERS = 4
NEGLIGIBLE = 1e-4
CENTRED = " less its mean"
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
        whole = formula_of(points, found.slack)
        if whole:
            whole = f"{NEGATIVE}: it has the wrong sign" if whole == NEGATIVE else whole
            evidence = f"so in all of {len(points.got)} numbers from {points.cases} cases"
            yield Explanation({argument}, f"{{}} is {whole}; {evidence}")
            continue
        if branches := _on_branches(points, found.slack) or _where_not_zero(points, found.slack):
            evidence = f"so in {len(points.got)} numbers from {points.cases} cases"
            yield Explanation({argument}, f"{{}} is {branches}; {evidence}")


def _on_branches(points: Points, slack: float) -> str:
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
            elif formula := formula_of(side, slack):
                words.append(f"{formula} where {name}")
        if len(words) == 2 and not all(w.startswith("right") for w in words):
            return ", and ".join(sorted(words, key=lambda w: w.startswith("right")))
    return ""


def _where_not_zero(points: Points, slack: float) -> str:
    """0 beyond some size of a letter, and a formula before: a piecewise function in place of a smooth one."""
    zero = points.got == 0
    if not ENOUGH <= int(zero.sum()) <= len(zero) - ENOUGH:
        return ""
    letters = points.letters | {f"|{name}|": x.abs() for name, x in points.letters.items()}
    for name, x in letters.items():
        if place := threshold(name, x[zero], x[~zero]):
            formula = formula_of(points.where(~zero), slack)
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
                evidence = f"fitted to all of {len(points.got)} numbers from {points.cases} cases"
                yield Explanation({argument}, f"{{}} is dy times a polynomial, {written}: a series cut off; {evidence}")
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
            return " + ".join(f"{c:.4g}·{letter}^{k}" if k else f"{c:.4g}" for k, c in shown)
    return ""


def _is_wrong(points: Points) -> bool:
    return bool(((points.got - points.expected).abs() > APART * points.allowance).any())


Family = Callable[[Points], tuple[Sequence[str], Tensor, Tensor]]
"""Formulas by name; their values, and the sums of the magnitudes of their parts: a row each, a column per number."""


def formula_of(points: Points, slack: float) -> str:
    """The first formula that gives every number; empty if none does."""
    if len(points.got) < ENOUGH:
        return ""
    few = points.where(torch.linspace(0, len(points.got) - 1, ENOUGH).long())  # these refute most formulas
    families: Sequence[Family] = (lambda p: _singles(p, _parts(p)), _pairs, lambda p: _singles(p, _changed_parts(p)))
    values_at_few = [family(few) for family in families]
    is_value = bool((points.dy == 1).all())
    cotangents = VALUE if is_value else COTANGENTS
    for cotangent, of in cotangents.items():
        for family, values in zip(families, values_at_few, strict=True):
            if bool(_fits(few, of, values, slack).any()):
                names, *_ = values = family(points)
                fits = _fits(points, of, values, slack).nonzero()
                if len(fits):
                    return _written(cotangent, names[int(fits[0])])
        if number := _number(points, of(points.dy), slack):
            return _written(cotangent, number)
    if not is_value and bool(_fits(few, torch.ones_like, values := _pairs(_with_dy(few)), slack).any()):
        names, *_ = values = _pairs(_with_dy(points))
        fits = _fits(points, torch.ones_like, values, slack).nonzero()
        return names[int(fits[0])] if len(fits) else ""
    return ""


def _with_dy(points: Points) -> Points:
    """With dy as a letter like others: for a forgotten parenthesis, as in dy - y²."""
    letters = points.letters | {"dy": points.dy}
    if "y" in letters:
        letters["(dy·y)"] = points.dy * letters["y"]
    return replace(points, letters=letters)


def _fits(
    points: Points, of: Callable[[Tensor], Tensor], values: tuple[Sequence[str], Tensor, Tensor], slack: float
) -> Tensor:
    """Which formulas of a family give every number."""
    dy, (_, factors, sizes) = of(points.dy), values
    tolerance = points.allowance + slack * (dy.abs() * sizes + points.got.abs())
    off = (factors * dy - points.got).abs()
    # Where two parts cancel the tolerance is all there is, and most numbers have to be right to half of their size.
    mostly = (off <= points.allowance + points.got.abs() / 2).double().mean(1) >= 0.5
    return ((off <= tolerance) & factors.isfinite()).all(1) & mostly


def _written(cotangent: str, name: str) -> str:
    if name == "0":
        return "0"
    factor = f"({name})" if " + " in name or " - " in name or name.startswith("-") else name
    if cotangent in VALUE:
        return name
    if name == "1" and cotangent:
        return cotangent
    return f"{cotangent}·{factor}" if cotangent else f"{name}, without dy"


def _singles(points: Points, parts: Mapping[str, Tensor]) -> tuple[list[str], Tensor, Tensor]:
    """Every factor times every part."""
    numbers = _numbers(points)
    named = [("0", torch.zeros_like(points.got))]
    named += [(_product(n, p), v * x) for (p, x), (n, v) in itertools.product(parts.items(), numbers.items())]
    values = torch.stack([v for _, v in named])
    return [n for n, _ in named], values, values.abs()


def _pairs(points: Points) -> tuple[list[str], Tensor, Tensor]:
    """Sums and differences of two parts, each with the factor 1 or a hyperparameter."""
    ones = torch.ones_like(points.got)
    factors = {"": ones, "2·": 2 * ones, **{f"{h}·": v for h, v in points.numbers.items()}}
    plain = {p: x for p, x in _parts(points).items() if "the right" not in p}
    terms = {f"{n}{p}": v * x for (n, v), (p, x) in itertools.product(factors.items(), plain.items())}
    x = torch.stack([*terms.values()])
    first, second = torch.triu_indices(len(x), len(x), offset=1)
    pairs = list(itertools.combinations(terms, 2))  # in the order of the indices
    written = [name for a, b in pairs for name in (f"{a} + {b}", f"{a} - {b}", f"{b} - {a}")]
    names = [name.replace("·1 ", " ").removesuffix("·1") for name in written]
    values = torch.stack([x[first] + x[second], x[first] - x[second], x[second] - x[first]], 1).flatten(0, 1)
    return names, values, (x[first].abs() + x[second].abs()).repeat_interleave(3, 0)


def _number(points: Points, dy: Tensor, slack: float) -> str:
    """A part times some number, the same everywhere."""
    ones = torch.ones_like(points.got)
    for name, part in (_parts(points) | {h: v * ones for h, v in points.numbers.items()}).items():
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


# -------------------------------------------------------------------------------------------------- sums of a product


def sums(found: Examination) -> Iterator[Explanation]:
    """Σ dy times an input, y, or a difference or product of them, over all axes that the cotangent lacks, where
    something else is due."""
    letters = ("", *_letters_of_y(found, found.rows[0][0].evidence.case))
    for name in (*letters, *(f"{n}{CENTRED}" for n in letters if n in found.rule.inputs)):
        yield from found.matched(
            partial(_summed, found, name), f"{{}} is Σ dy{'·' * bool(name)}{f'({name})' if CENTRED in name else name}"
        )


def _letters_of_y(found: Examination, case: Case) -> dict[str, Tensor]:
    """What dy may be multiplied by before it is summed, each shaped like dy."""
    letters = {n: x for n, x in letters_of(found, "y", case).items() if x.shape == case.dy.shape}
    numbers = [n for n in letters if n in found.rule.inputs]
    differences = {f"({a} - {b})": letters[a] - letters[b] for a, b in itertools.permutations(numbers, 2)}
    letters |= {"y": found.value(case)} | differences
    products = {f"{a}·{b}": letters[a] * letters[b] for a, b in itertools.combinations(letters, 2)}
    return letters | {f"{n}²": x * x for n, x in letters.items()} | products


def _summed(found: Examination, letter: str, case: Case) -> Prediction:
    dy = wide(case.dy)
    name = letter.removesuffix(CENTRED)
    factor = _letters_of_y(found, case)[name] if name else torch.ones_like(dy)
    y_axes = axes.tokens(found.rule.y_annotation)
    values: list[Any] = [None]
    for argument, x in zip(found.rule.inputs, case.inputs, strict=True):
        own = axes.tokens(found.rule.annotations[argument])
        if len(own) != 1 or own[0].startswith("*") or own[0] not in y_axes:
            values.append(None)
            continue
        before = y_axes.index(own[0])
        axis = before if not any(t.startswith("*") for t in y_axes[:before]) else dy.ndim - len(y_axes) + before
        others = [a for a in range(dy.ndim) if a != axis]
        part = factor - factor.mean(others, keepdim=True) if name != letter else factor
        values.append((dy * part).sum(others) if x.ndim else None)
    return Prediction(tuple(values))
