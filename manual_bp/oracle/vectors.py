"""Vectors: certified results in files, for programs in other languages, and their results judged.

`vectors` writes the generated cases of a rule, but for layouts and large sizes: inputs and cotangent, what is due, and
how far off a right program may be, number by number.  A program that puts what it `got` beside each case has it judged
by `recorded` and `compare`, causes included; or it compares for itself, as `HOW` says.

The idea is that of Wycheproof's test vectors: each case says which mistakes it catches.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from manual_bp.arithmetic.bounded import contract_of
from manual_bp.oracle.case import NOT_RECORDED, Case, Further, in_dtype
from manual_bp.oracle.cases.drawing import draw
from manual_bp.oracle.truth.conventions import Conventions
from manual_bp.oracle.truth.errors import errors
from manual_bp.oracle.truth.evidence import Evidence, evidence
from manual_bp.oracle.truth.kept import generated_evidence, numbers_of
from manual_bp.outputs import parts
from manual_bp.rule import Rule, as_vjp

SCHEMA = 1
# More elements would say what fewer say; so the file of a rule stays below a few megabytes.
LARGEST = 200
DOCUMENT = "results must be a document of manual-bp vectors, with `got` in its cases"
HOW = (
    'what JSON lacks is written as "nan", "inf" and "-inf"; a result is right if at every element |got - due| <= '
    "allowance; where the allowance is inf, anything is right; "
    "elsewhere a due nan or infinity must be met exactly, and an exact 0 is right where |due| is below the smallest "
    "normal number of the dtype, which hardware may flush"
)


@dataclass
class Array:
    """A tensor: its numbers in the order of rows (C order).  Each number is written so that reading it as a float64 and
    rounding that to the dtype gives back every bit; what JSON lacks is "nan", "inf" or "-inf"."""

    dtype: str
    shape: list[int]
    data: list[float | int | bool | str]


@dataclass
class Due:
    """What is due, in float64, with the allowance of each number.

    kinks: positions in `data` at which there is no derivative, and what is due is a convention.
    """

    shape: list[int]
    data: list[float | str]
    allowance: list[float | str]
    kinks: list[int]


@dataclass
class Otherwise:
    """What is due of a program that declares another convention: of the results that are due otherwise."""

    convention: dict[str, str]
    due: dict[str, Due]


@dataclass
class Vector:
    """One case.

    hyper: hyperparameters, all of them. inputs: by name; null for one that is absent. dy: the cotangent of each output.
    due: by result, y and the cotangent of each input; null for an input that has none. source: whence that is known.
    otherwise: what is due under other conventions. catches: names of the mistakes that it tells from what is right.
    """

    name: str
    hyper: dict[str, Any]
    inputs: dict[str, Array | None]
    dy: dict[str, Array]
    due: dict[str, Due | None]
    source: str
    otherwise: list[Otherwise] = field(default_factory=list)
    catches: list[str] = field(default_factory=list)


@dataclass
class Refused:
    """Inputs and hyperparameters at which an error is due, and no result."""

    name: str
    hyper: dict[str, Any]
    inputs: dict[str, Array | None]


@dataclass
class Slip:
    """A wrong formula that people ship: what it forgets, when it shows, an address at which it was read."""

    name: str
    forgets: str
    shows: str
    seen: str | None


@dataclass
class Vectors:
    """Cases of one rule in one dtype.

    how: when a result is right. results: their names, in order: outputs, then a cotangent for each input.
    defaults: of the hyperparameters that have one. conventions: by name, the choices, ours first. count: of the cases,
    so that one that was lost on the way is missed.
    """

    rule: str
    summary: str
    dtype: str
    how: str
    results: list[str]
    defaults: dict[str, Any]
    conventions: dict[str, list[str]]
    cases: list[Vector]
    refused: list[Refused]
    mistakes: list[Slip]
    count: int
    schema: int = SCHEMA


def vectors(rule: Rule, dtype: torch.dtype) -> Vectors:
    """The vectors of a rule in one of the dtypes that rules take."""
    seen, found = set(), []
    generated = generated_evidence(rule, dtype, "cpu", contract_of(dtype))
    for position, case in enumerate(generated.cases):
        numbers = numbers_of(case)
        if isinstance(case, Further) or case.elements > LARGEST or numbers in seen:
            continue
        seen.add(numbers)
        item = generated.at(position)
        if isinstance(item, Evidence):
            found.append(_vector(rule, item, dtype))
    return Vectors(
        rule=rule.name,
        summary=rule.summary,
        dtype=_name(dtype),
        how=HOW,
        results=list(rule.arguments),
        defaults=dict(rule.defaults),
        conventions={name: list(choices) for name, choices in rule.conventions.items()},
        cases=found,
        refused=list(_refused(rule, dtype)),
        mistakes=[Slip(m.name, m.forgets, m.shows, m.seen) for m in rule.mistakes],
        count=len(found),
    )


def recorded(document: Mapping[str, Any]) -> tuple[list[Case], torch.dtype]:
    """The cases of a document of `vectors` with what a program `got` in each, for `compare(None, rule, cases=...)`.

    got: by result, an array as in the document, or a list of its numbers; null for None.  A case without `got` holds
    none, so that what it is there for is not tested.
    Raises ValueError for what is no such document, for one that lacks cases or has some twice, and if nothing was
    recorded.
    """
    if not isinstance(document, Mapping):
        raise ValueError(f"{DOCUMENT}; came a {type(document).__name__}.")
    try:
        dtype, results, entries = getattr(torch, document["dtype"]), document["results"], document["cases"]
        if not any("got" in entry for entry in entries):
            raise ValueError(
                "results must be recorded under `got` in the cases of a document of manual-bp vectors; no case has it. "
                'Write got = {"y": [...], "dx": [...]} beside `due`.'
            )
        if len(entries) != document["count"]:
            raise ValueError(
                f"results must hold each of the {document['count']} cases of the document once; came {len(entries)}. "
                "Leave `got` out of a case that your program does not take."
            )
        cases = [_recorded(entry, results, dtype) for entry in entries]
    except (KeyError, TypeError, AttributeError, RuntimeError) as error:
        raise ValueError(f"{DOCUMENT}; {type(error).__name__}: {error}.") from error
    return cases, dtype


def _recorded(case: Mapping[str, Any], results: list[str], dtype: torch.dtype) -> Case:
    got = dict(case.get("got") or {})
    if unknown := got.keys() - set(results):
        raise ValueError(f"case {case['name']!r}: got must hold some of {results}; came {sorted(unknown)[0]!r}.")
    outputs = [name for name in results if name.partition(".")[0] == "y"]

    def result(name: str) -> Any:
        if name not in got:
            return NOT_RECORDED
        where = f"got[{name!r}] of case {case['name']!r}"
        return None if got[name] is None else _tensor(got[name], case["due"][name], dtype, where)

    inputs = tuple(None if x is None else _tensor(x, x, getattr(torch, x["dtype"])) for x in case["inputs"].values())
    dy = tuple(_tensor(d, d, getattr(torch, d["dtype"])) for d in case["dy"].values())
    hyper = {name: tuple(value) if isinstance(value, list) else value for name, value in case["hyper"].items()}
    y = tuple(result(name) for name in outputs)
    return Case(
        inputs,
        dy[0] if len(dy) == 1 else dy or None,
        hyper,
        case["name"],
        y=y[0] if len(y) == 1 else y,
        grads=tuple(result(name) for name in results if name not in outputs),
    )


def _tensor(numbers: Any, like: Mapping[str, Any] | None, dtype: torch.dtype, where: str = "it") -> Tensor:
    """Numbers as a tensor of their own shape if they say one, else of that of what is due, if they are as many.

    Raises ValueError, naming `where`, for what is no number.
    """
    data = numbers["data"] if isinstance(numbers, Mapping) else numbers
    shaped = numbers if isinstance(numbers, Mapping) else like
    flat = torch.tensor(_floats(data, where), dtype=torch.float64) if dtype.is_floating_point else torch.tensor(data)
    found = flat.to(dtype)
    shape = found.shape if shaped is None else torch.Size(shaped["shape"])
    return found.reshape(shape) if found.numel() == shape.numel() else found


def _floats(data: Any, where: str) -> Any:
    if isinstance(data, list):
        return [_floats(x, where) for x in data]
    try:
        return float(data)
    except (TypeError, ValueError):
        # JavaScript's JSON.stringify writes null for NaN and for infinities.
        raise ValueError(
            f'{where} must hold numbers, and what JSON lacks as "nan", "inf" or "-inf"; came {json.dumps(data)}.'
        ) from None


def _vector(rule: Rule, found: Evidence, dtype: torch.dtype) -> Vector:
    case = found.case
    cotangents = zip(rule.cotangents, parts(case.dy), strict=True) if rule.has_backward else ()
    others = [{name: choice} for name, choices in rule.conventions.items() for choice in list(choices)[1:]]
    return Vector(
        name=case.name,
        hyper={**rule.defaults, **case.hyper},
        inputs=_inputs(rule, case),
        dy={name: _array(d) for name, d in cotangents},
        due=_due(rule, found),
        source=found.source,
        otherwise=[o for chosen in others if (o := _otherwise(rule, found, chosen, dtype)).due],
        catches=[m.name for m in rule.mistakes if _is_caught(rule, m.backward, found, dtype)],
    )


def _inputs(rule: Rule, case: Case) -> dict[str, Array | None]:
    return {name: None if x is None else _array(x) for name, x in zip(rule.inputs, case.inputs, strict=True)}


def _array(x: Tensor) -> Array:
    numbers = x.detach().cpu()
    numbers = numbers.double() if numbers.is_floating_point() else numbers
    return Array(_name(x.dtype), list(x.shape), numbers.flatten().tolist())


def _due(rule: Rule, found: Evidence) -> dict[str, Due | None]:
    return {
        name: None if expected is None or allowance is None else _one_due(found, position, expected, allowance)
        for position, (name, expected, allowance) in enumerate(
            zip(rule.arguments, found.expected, found.allowance, strict=True)
        )
    }


def _one_due(found: Evidence, position: int, expected: Tensor, allowance: Tensor) -> Due:
    numbers = next(x for x in found.case.tensors if x.is_floating_point())
    rounded = expected.to(numbers.dtype).double()
    due = torch.where(rounded.isfinite(), expected, rounded)
    allowed = torch.where(_is_free(found, position), torch.inf, allowance.nan_to_num(0.0, torch.inf))
    kinks = found.kinks[position]
    return Due(
        shape=list(expected.shape),
        data=due.flatten().tolist(),
        allowance=allowed.flatten().tolist(),
        kinks=[] if kinks is None else kinks.flatten().nonzero().flatten().tolist(),
    )


def _is_free(found: Evidence, position: int) -> Tensor:
    """Where nothing is judged: the gradient at a NaN input."""
    place = position - (len(found.expected) - len(found.case.inputs))
    expected, x = found.expected[position], found.case.inputs[place] if place >= 0 else None
    assert expected is not None
    if x is None or not x.is_floating_point():
        return torch.zeros_like(expected, dtype=torch.bool)
    return x.isnan()  # type: ignore[no-any-return]


def _otherwise(rule: Rule, found: Evidence, chosen: dict[str, str], dtype: torch.dtype) -> Otherwise:
    """What is due otherwise under a convention; nothing if it is the same."""
    other = evidence(rule, found.case, contract_of(dtype), Conventions.declared(rule, chosen))
    if isinstance(other, str):
        return Otherwise(chosen, {})
    ours = {name: due for name, due in _due(rule, found).items() if due is not None}
    theirs = {name: due for name, due in _due(rule, other).items() if due is not None}
    return Otherwise(chosen, {name: due for name, due in theirs.items() if due.data != ours[name].data})


def _is_caught(rule: Rule, formula: Any, found: Evidence, dtype: torch.dtype) -> bool:
    """Whether a formula's results are not what is due."""
    try:
        y, grads = as_vjp(rule, rule.mistaken(formula))(found.case.inputs, found.case.dy, **found.case.hyper)
    except (RuntimeError, ValueError, TypeError, IndexError):  # at some shapes it cannot even be computed
        return True
    for position, (got, expected) in enumerate(zip((*parts(y), *grads), found.expected, strict=True)):
        allowance = found.allowance[position]
        if expected is None or allowance is None or got is None:
            continue
        if got.shape != expected.shape:
            return True
        ratio, _ = errors(got, expected, allowance, dtype)
        if bool((ratio[~_is_free(found, position)] > 1).any()):
            return True
    return False


def _refused(rule: Rule, dtype: torch.dtype) -> Iterator[Refused]:
    for edge in rule.edges:
        if edge.raises:
            inputs, _, hyper = draw(rule, edge, torch.Generator().manual_seed(0))
            case = in_dtype(Case(inputs, None, hyper, edge.name), dtype, "cpu")
            yield Refused(edge.name, dict(hyper), _inputs(rule, case))


def _name(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")
