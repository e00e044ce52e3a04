"""Every detector fires at a program that is wrong in its way, asked by itself: a detector that is broken fails here."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import pytest
import torch
from torch import Tensor

from manual_bp.oracle import diagnosis
from manual_bp.oracle.diagnosis import (
    branches,
    calls,
    factors,
    finite,
    formulas,
    known,
    layout,
    masks,
    parts,
    precision,
    reductions,
    routing,
    substitutions,
    weighted_sums,
)
from manual_bp.oracle.diagnosis.examination import Examination
from manual_bp.oracle.diagnosis.forms import forms
from manual_bp.oracle.evidence import OUR_CONVENTIONS
from manual_bp.registry import RULES
from manual_bp.rule import Rule, Vjp
from tests.oracle.few import few_records
from tests.pages import PAGES


def changed(page: str, change: Callable[..., Tensor], argument: str = "dx") -> Vjp:
    """A page with `change(right, dy=dy, **inputs and hyperparameters)` in place of one of its cotangents, or of y."""
    rule = PAGES[page]

    def candidate(inputs: Any, dy: Any, **hyper: Any) -> Any:
        y, grads = rule.vjp(inputs, dy, **hyper)
        named = {"y": y, **{f"d{name}": g for name, g in zip(rule.inputs, grads, strict=True)}}
        if named[argument] is not None:
            given = {**dict(zip(rule.inputs, inputs, strict=True)), **rule.check_hyper(hyper)}
            named[argument] = change(named[argument], **given, dy=dy)
        y, *grads = named.values()
        return y, tuple(grads)

    return candidate


def at(page: str, **other: Callable[..., Any]) -> Vjp:
    """A page whose backward takes something else for an input, for dy or for a hyperparameter."""
    rule = PAGES[page]

    def candidate(inputs: Any, dy: Any, **hyper: Any) -> Any:
        named = {**dict(zip(rule.inputs, inputs, strict=True)), "dy": dy, **rule.check_hyper(hyper)}
        named |= {name: function(named[name]) for name, function in other.items()}
        _, grads = rule.vjp(
            tuple(named[name] for name in rule.inputs), named["dy"], **{name: named[name] for name in rule.hyper}
        )
        return rule.forward(*inputs, **hyper)[0], grads

    return candidate


def mistaken(page: str, position: int = 0) -> Vjp:
    return PAGES[page].mistaken(PAGES[page].mistakes[position].backward)


def part_of_a_mistake(inputs: Any, dy: Any) -> Any:
    """What the first mistake of the page makes of dx, and the rest is right."""
    _, (dx, *_) = mistaken("optional_inputs")(inputs, dy)
    y, (_, *others) = PAGES["optional_inputs"].vjp(inputs, dy)
    return y, (dx, *others)


def with_term(term: str, change: Callable[[Tensor], Tensor], of: Callable[[Tensor], Tensor] = torch.clone) -> Vjp:
    """A page with one of its terms changed, or that of another cotangent."""
    rule = PAGES["masked_row"]

    def candidate(inputs: Any, dy: Tensor) -> Any:
        y, residuals = rule.forward(*inputs)
        own, other = (rule.terms(residuals, d)["dx"] for d in (dy, of(dy)))
        return y, (sum(change(other[t]) if t == term else own[t] for t in own), None)

    return candidate


def first_piece(inputs: Any, dy: Tensor, pieces: int) -> Any:
    y, _ = PAGES["largest_piece"].vjp(inputs, dy, pieces=pieces)
    dx = torch.zeros_like(inputs[0]).reshape(*dy.shape, pieces)
    dx[..., 0] = dy
    return y, (dx.reshape(inputs[0].shape),)


def overwritten(inputs: Any, dy: Tensor, alpha: float = 1.0) -> Any:
    _, (dx,) = PAGES["bell"].vjp(inputs, dy, alpha=alpha)
    return dx.clone(), (dx,)


def read_in_a_row(dy: Tensor) -> Tensor:
    """The memory of a tensor row by row, whatever its strides."""
    memory = torch.as_strided(dy, (dy.untyped_storage().nbytes() // dy.element_size(),), (1,), 0)
    memory = torch.cat([memory, torch.zeros(dy.numel(), dtype=dy.dtype)])
    return memory[dy.storage_offset() :][: dy.numel()].reshape(dy.shape)


def read_off(inputs: Any, dy: Tensor) -> Any:
    y, _ = PAGES["kept"].vjp(inputs, dy)
    return y, (torch.where(y != 0, 2 * dy, 0), None)


def fresh_mask(inputs: Any, dy: Tensor) -> Any:
    y, _ = PAGES["kept"].vjp(inputs, dy)
    generator = torch.Generator().manual_seed(dy.numel())
    return y, (torch.where(torch.rand(dy.shape, generator=generator) < 0.5, 2 * dy, 0), None)


def by_another_count(inputs: Any, dy: Tensor) -> Any:
    """The backward of a forward whose count is another."""
    y, residuals = PAGES["masked_row"].forward(*inputs)
    residuals = residuals._replace(n=residuals.n * inputs[0].shape[-1])
    return y, PAGES["masked_row"].backward(residuals, dy)


def without_its_last(x: Tensor) -> Tensor:
    return torch.sum(x.flatten()[:-1] ** 2) / max(x.numel(), 1)


def times(x: Tensor, factor: Tensor | None) -> Tensor:
    return x if factor is None else x * factor


def in_bfloat16(right: Tensor, dy: Tensor, weight: Tensor | None, gain: Tensor | None, **_: Any) -> Tensor:
    d, w, g = (None if x is None else x.to(torch.bfloat16) for x in (dy, weight, gain))
    assert d is not None
    return times(times(d, w), g).to(right.dtype)


def curve(x: Tensor, alpha: float) -> Tensor:
    return alpha * torch.exp(-x * x)


def slope(x: Tensor, alpha: float, dy: Tensor) -> Tensor:
    return -2 * dy * x * curve(x, alpha)


class Another:
    """Another factor in every call."""

    def __init__(self) -> None:
        self.calls = 0

    def __call__(self, right: Tensor, **_: Any) -> Tensor:
        self.calls += 1
        return right * (2 + self.calls)


class Program(NamedTuple):
    """page: a name, or the rule itself. words: what the detector says."""

    detector: Callable[..., Any]
    page: str
    candidate: Vjp
    words: str


PROGRAMS = {
    "a mistake": Program(known.whole_mistakes, "optional_inputs", mistaken("optional_inputs"), "'weight forgotten'"),
    "a part of a mistake": Program(
        known.parts_of_mistakes, "optional_inputs", part_of_a_mistake, "dx equals the known mistake 'weight forgotten'"
    ),
    "a mistake's NaN": Program(known.not_finite_as, "bell", mistaken("bell"), "'x divided out'"),
    "winners": Program(routing.routing, "largest_piece", first_piece, "the first piece always wins"),
    "in place": Program(layout.overwritten_value, "bell", overwritten, "y holds dx"),
    "twice": Program(factors.plain_factors, "bell", changed("bell", lambda g, **_: 2 * g), "dx is 2 times"),
    "mean for sum": Program(
        factors.any_factors,
        "optional_inputs",
        changed("optional_inputs", lambda g, x, **_: g / len(x), "dshift"),
        "dshift is 1/n times what it should be (n = batch",
    ),
    "a term": Program(
        factors.terms, "masked_row", with_term("mean", lambda t: t / 4), "mean term is multiplied by 0.25"
    ),
    "a term without dy": Program(
        factors.terms_of_ones,
        "masked_row",
        with_term("mean", torch.clone, torch.ones_like),
        "dy is missing in the mean",
    ),
    "alpha ignored": Program(
        substitutions.default_hyperparameters, "bell", at("bell", alpha=lambda _: 1.0), "dx is that of alpha=1"
    ),
    "alpha as a number": Program(
        substitutions.usual_hyperparameters, "bell", at("bell", alpha=lambda _: 0.01), "dx is that of alpha=0.01"
    ),
    "|alpha|": Program(substitutions.changed_hyperparameters, "bell", at("bell", alpha=abs), "without its sign"),
    "sign of dy": Program(substitutions.cotangents, "bell", at("bell", dy=torch.sign), "takes the sign of dy for dy"),
    "|x|": Program(substitutions.inputs, "bell", at("bell", x=torch.abs), "dx is that of |x|"),
    "x rounded": Program(substitutions.seldom, "bell", at("bell", x=torch.round), "x rounded to integers"),
    "the slope at y": Program(
        substitutions.at_the_output,
        "bell",
        changed("bell", lambda g, x, dy, alpha: slope(curve(x, alpha), alpha, dy)),
        "at y",
    ),
    "rows": Program(layout.contiguous, "bell", at("bell", dy=read_in_a_row), "dy is read as if it were contiguous"),
    "reversed": Program(layout.shapes, "bell", changed("bell", lambda g, **_: g.flip(-1) if g.ndim else g), "reversed"),
    "clipped": Program(layout.clipped, "bell", changed("bell", lambda g, **_: g.clamp(-0.3, 0.3)), "clipped to [-0.3"),
    "exchanged": Program(
        layout.exchanged,
        "optional_inputs",
        changed("optional_inputs", lambda g, x, dy, weight, **_: torch.sum(times(dy, weight), 0), "dgain"),
        "dgain is what dshift should be",
    ),
    "cotangent ignored": Program(
        layout.ignored_cotangent, "bell", changed("bell", lambda g, x, **_: torch.cos(x)), "dx ignores the cotangent"
    ),
    "in another order": Program(
        layout.reordered, "bell", changed("bell", lambda g, **_: g.flatten().sort().values.reshape(g.shape)), "order"
    ),
    "mask read off y": Program(masks.read_off, "kept", read_off, "mask is read off y"),
    "another mask": Program(masks.own_masks, "kept", fresh_mask, "another mask than the given one"),
    "a tail": Program(
        parts.unfinished,
        "bell",
        changed(
            "bell", lambda g, **_: torch.where(torch.arange(g.numel()).reshape(g.shape) < g.numel() // 8 * 8, g, 0)
        ),
        "the tail after the last full block of 8 elements",
    ),
    "a row of dy": Program(
        parts.of_the_cotangent,
        "optional_inputs",
        changed("optional_inputs", lambda g, dy, weight, **_: torch.sum(times(dy, weight)[1:], 0), "dshift"),
        "leaves out a part of dy: the first row",
    ),
    "a part of the cost": Program(
        parts.of_the_cost,
        "mean_square",
        changed("mean_square", lambda y, x, dy: without_its_last(x), "y"),
        "leaves out a part of what is summed: the last",
    ),
    "a sum": Program(
        reductions.sums_of_backward,
        "optional_inputs",
        changed("optional_inputs", lambda g, dy, weight, **_: torch.sum(times(dy, weight)[:-1], 0), "dshift"),
        "taken without its last element",
    ),
    "a sum by index": Program(
        reductions.sums_of_backward, "rows_by_index", mistaken("rows_by_index"), "written where it is to be added"
    ),
    "a sum of forward": Program(
        reductions.sums_of_forward,
        "masked_row",
        by_another_count,
        "a forward in which a sum is multiplied by its count",
    ),
    "a formula": Program(formulas.formulas, "bell", changed("bell", lambda g, x, dy, **_: dy * x), "dy·x"),
    "a polynomial": Program(
        formulas.polynomials,
        "bell",
        changed("bell", lambda g, x, dy, alpha: dy * (-2 * x + 2 * x**3 - x**5)),
        "dy times a polynomial, -2·x^1 + 2·x^3",
    ),
    "a weighted sum": Program(
        weighted_sums.weighted_sums,
        "optional_inputs",
        changed("optional_inputs", lambda g, x, dy, **_: torch.sum(dy * x, 0), "dshift"),
        "dshift is Σ dy·x",
    ),
    "multiplied": Program(
        factors.multiplied, "optional_inputs", changed("optional_inputs", lambda g, x, **_: g * x), "multiplied by x"
    ),
    "a multiple of x": Program(
        factors.scaled_inputs, "bell", at("bell", x=lambda x: 2 * x), "that of 2 times its input"
    ),
    "x added": Program(factors.added, "bell", changed("bell", lambda g, x, **_: g + x), "but for an added x"),
    "other calls": Program(calls.unsteady, "bell", changed("bell", Another()), "depends on earlier calls"),
    "NaN": Program(
        finite.not_finite,
        "bell",
        changed("bell", lambda g, x, **_: torch.where(x.abs() > 2, torch.nan, g)),
        "dx is NaN or infinite where finite numbers are due",
    ),
    "16 bits": Program(
        precision.sixteen_bits,
        "optional_inputs",
        changed("optional_inputs", in_bfloat16),
        "16 bits (bfloat16)",
    ),
    "few bits": Program(
        precision.few_bits,
        "bell",
        changed(
            "bell", lambda g, **_: torch.frexp(g).exponent.float().exp2() * (torch.frexp(g).mantissa * 64).round() / 64
        ),
        "significant bits",
    ),
    "approximate": Program(
        precision.approximate,
        "bell",
        changed("bell", lambda g, x, **_: g * (1 + 0.01 * torch.sin(50 * x + 1))),
        "off by a little",
    ),
    "a threshold": Program(
        branches.branches,
        "bell",
        changed("bell", lambda g, x, **_: torch.where(x > 1, 0, g)),
        "dx is wrong where x ≥ 1",
    ),
    "good near 0": Program(
        branches.approximations,
        "bell",
        changed("bell", lambda g, x, dy, alpha: dy * alpha * (-2 * x + 2 * x**3 - x**5 + torch.sin(x) ** 9 / 9)),
        "and off by more where",
    ),
    "a factor of each case": Program(
        factors.varying_factors,
        "bell",
        changed("bell", lambda g, x, **_: g * (2 + torch.cos(x.sum()))),
        "off by one factor that differs from case to case",
    ),
}


def said(rule: Rule, candidate: Vjp, detector: Callable[..., Any]) -> list[str]:
    """What a detector says of a program, in whatever view of its results it is asked."""
    records, wrong = few_records(rule, candidate)
    assert wrong, "the program is right"
    found = []
    for form, of_form in forms(rule, records):
        examination = Examination(form, candidate, of_form, wrong, OUR_CONVENTIONS)
        for failing in (False, True) if examination.open else ():
            for moderate in (False, True):
                examination.look(kinks=detector is known.whole_mistakes, moderate=moderate, failing=failing)
                for explanation in detector(examination) if examination.asked else ():
                    found.append(explanation.sentence.replace("{}", " and ".join(explanation.arguments), 1))
    return found


@pytest.mark.parametrize("name", PROGRAMS)
def test_detector(name):
    program = PROGRAMS[name]
    found = said(PAGES[program.page], program.candidate, program.detector)
    assert any(program.words in sentence for sentence in found), found


def test_a_neighbour_is_named():
    """Of two rules of one chapter that take the same, one with the backward of the other."""
    pairs = (
        (a, b)
        for a in RULES.values()
        for b in RULES.values()
        if a is not b and a.chapter == b.chapter and a.elementwise and a.inputs.keys() == b.inputs.keys()
        if len(a.inputs) == 1 and not b.hyper and not a.hyper
    )
    rule, other = next(pairs)
    candidate = rule.mistaken(lambda dy, **inputs: other.vjp(tuple(inputs.values()), dy)[1])
    found = said(rule, candidate, substitutions.neighbours)
    assert any(f"the formula of {other.name}" in sentence for sentence in found), found


def test_every_detector_is_tried():
    asked = {*diagnosis.NAMED, *diagnosis.FAILING, *diagnosis.HYPERPARAMETERS, *diagnosis.DESCRIBED, *diagnosis.SHARED}
    asked |= {calls.unsteady, known.not_finite_as, branches.branches}
    tried = {program.detector for program in PROGRAMS.values()} | {substitutions.neighbours}
    assert asked == tried
