"""Classes of causes: winners among pieces, masks of one's own, mixed elements, approximations, sizes of blocks.

What each detector says at one program stands in test_diagnosis_detectors.py; here is what it tells apart.
"""

from __future__ import annotations

import re

import pytest
import torch

from manual_bp.oracle import compare
from manual_bp.oracle.diagnosis import diagnose
from manual_bp.oracle.diagnosis.routing import SHARES
from manual_bp.registry import RULES
from tests.oracle.few import few_records
from tests.oracle.test_diagnosis import LONG
from tests.oracle.test_diagnosis_detectors import changed
from tests.pages import PAGES


def sentences(candidate, page, dtype=torch.float32):
    """All that is said of a candidate, which has to be wrong, at few cases."""
    records, wrong = few_records(PAGES[page], candidate, dtype)
    assert wrong
    return diagnose(PAGES[page], candidate, records, wrong).sentences


def first(candidate, page, dtype=torch.float32):
    return (*sentences(candidate, page, dtype), "")[0]


def some_exhaustive(values, by_default):
    return [pytest.param(v, marks=[] if v in by_default else pytest.mark.exhaustive) for v in values]


# ----------------------------------------------------------------------------------------------------------- winners


def shared(shares, interleaved=False):
    """The largest piece, with the cotangent of each unit shared among its pieces by `shares`."""

    def candidate(inputs, dy, pieces):
        (x,) = inputs
        y, _ = PAGES["largest_piece"].forward(x, pieces=pieces)
        shape = (*dy.shape[:-1], pieces, dy.shape[-1]) if interleaved else (*dy.shape, pieces)
        u = x.reshape(shape).mT if interleaved else x.reshape(shape)
        share = shares(u.double()).to(x.dtype) if u.numel() else u
        g = torch.where(share > 0, share * dy[..., None], 0)
        return y, ((g.mT if interleaved else g).reshape(x.shape),)

    return candidate


@pytest.mark.parametrize("words", some_exhaustive(SHARES, list(SHARES)[::4]))
def test_who_gets_the_cotangent_of_a_unit(words):
    found = first(shared(SHARES[words]), "largest_piece")
    assert found.startswith(f"dx is routed to other pieces than the winners: {words};")


def test_interleaved_pieces():
    def winner(u):
        return torch.nn.functional.one_hot(u.argmax(-1), u.shape[-1]).to(u.dtype)

    assert "are taken for interleaved" in first(shared(winner, interleaved=True), "largest_piece")


def test_near_ties_are_told_with_their_distance():
    near = shared(lambda u: (u >= u.amax(-1, keepdim=True) - 0.3).to(u.dtype))
    told = re.search(r"all pieces within ([0-9.]+) of the largest", first(near, "largest_piece"))
    assert told
    assert abs(float(told[1]) - 0.3) < 0.06


# ------------------------------------------------------------------------------------------------------------- masks


def masked(scaled, seeded, with_y):
    """Twice what is kept, by a mask of its own."""

    def candidate(inputs, dy):
        x, mask = inputs
        generator = torch.Generator().manual_seed(0) if seeded else None
        kept = torch.rand(x.shape, generator=generator) > 0.5
        y, _ = PAGES["kept"].vjp((x, kept if with_y else mask), dy)
        return y, (torch.where(kept, dy * (2 if scaled else 1), 0), None)

    return candidate


@pytest.mark.parametrize(
    ("scaled", "with_y", "seeded"),
    [(True, True, True), (False, False, True), (True, True, False), (False, True, False)],
)
def test_a_mask_of_its_own(scaled, with_y, seeded):
    found = " ".join(sentences(masked(scaled, seeded, with_y), "kept"))
    assert re.search("dx (and y )?(is|are|depends? on .*; (it is|they are)) (that|those) of another mask", found) or (
        re.search("y and dx (are|depend on .*;).* of another mask", found)
    ), found
    assert ("without its scale" in found) == (not scaled)
    assert ("on earlier calls or on chance" in found) == (not seeded)


# ---------------------------------------------------------------------------------------------------- mixed elements


@pytest.mark.parametrize(("reduce", "words"), [(torch.amax, "largest"), (torch.amin, "smallest")])
def test_an_argument_of_a_whole_row(reduce, words):
    """The slope at the largest number of each row, in the whole row."""

    def of_the_row(g, x, dy, alpha):
        at = reduce(x, -1, keepdim=True).expand_as(x) if x.ndim and x.numel() else x
        return -2 * dy * at * alpha * torch.exp(-at * at)

    assert f"that of x with the {words} number of each row" in first(changed("bell", of_the_row), "bell")


def test_what_is_defined_in_one_case_explains_no_other():
    """The mean over the last axis is the mean over axis 3 in the one case that has an axis 3."""
    candidate = changed("bell", lambda g, **_: g.mean(-1, keepdim=True).expand(g.shape) if g.ndim else g)
    assert "axis 3" not in first(candidate, "bell")


# ---------------------------------------------------------------------------------------------------- approximations


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda g, x, dy, alpha: torch.where(x.abs() < 1, dy, 0), r"dx is dy where \|x\| ≤ 0\.9.*, and 0 where"),
        (lambda g, x, dy, alpha: dy * g.sign() * dy.sign() * 0.1, "stands|dy·0\\.1|0\\.1"),
    ],
)
def test_an_approximation_is_told_with_where_it_is_good(change, words):
    assert re.search(words, first(changed("bell", change), "bell"))


def test_the_wrong_sign_is_said_plainly_where_digits_are_lost_too():
    candidate = changed("bell", lambda g, x, dy, alpha: dy * (2 * x * (alpha * torch.exp(-x * x))))
    assert "wrong sign" in first(candidate, "bell", torch.bfloat16)


@pytest.mark.exhaustive
def test_what_is_seldom_not_written_is_chance_and_no_formula():
    candidate = changed("bell", lambda g, **_: g * (torch.rand(g.shape) > 1e-3) if g.numel() > 1e5 else g)
    assert "depends on earlier calls or on chance" in compare(candidate, PAGES["bell"], diagnose=LONG).diagnoses[0]


def test_a_smooth_approximation_is_not_called_16_bit_arithmetic():
    candidate = changed("bell", lambda g, x, dy, alpha: -2 * dy * x * alpha / (1 + x**2 / 8) ** 8)
    assert "low precision" not in first(candidate, "bell")


@pytest.mark.parametrize("block", some_exhaustive([8, 16, 32, 64, 128, 256, 512], [16]))
def test_the_size_of_a_block_is_told(block):
    """By the long cases, whose length is no multiple of any."""

    def unfinished(g, **_):
        return torch.where(torch.arange(g.numel()).reshape(g.shape) < g.numel() // block * block, g, 0)

    found = compare(changed("bell", unfinished), PAGES["bell"], diagnose=LONG).diagnoses
    assert f"the last full block of {block} elements" in found[0], found


# ---------------------------------------------------------------------------------------------- one thing for another


@pytest.mark.parametrize(
    ("page", "change", "argument", "words"),
    [
        (
            "optional_inputs",
            lambda g, x, gain, dy, **_: torch.sum(dy * (x - x.mean(0)), 0),
            "dshift",
            "dshift is Σ dy·(x less its mean)",
        ),
        (
            "bell",
            lambda g, x, dy, alpha: g * torch.tensor(alpha).bfloat16() / alpha,
            "dx",
            "alpha is rounded to bfloat16",
        ),
        (
            "bell",
            lambda g, x, dy, alpha: g * (1 / alpha if alpha < 0 else 1),
            "dx",
            "alpha is ignored where it is negative",
        ),
    ],
)
def test_one_thing_for_another(page, change, argument, words):
    assert words in first(changed(page, change, argument), page)


# -------------------------------------------------------------------------------------------------------- lost digits


def losing():
    """Every element-wise rule with a formula that loses its digits, and the formula."""
    for rule in RULES.values():
        for mistake in rule.mistakes:
            if rule.elementwise and mistake.loses_digits and not rule.hyper:
                yield pytest.param(rule, mistake, id=f"{rule.name}-{mistake.name}", marks=pytest.mark.exhaustive)


@pytest.mark.parametrize(("rule", "mistake"), list(losing()))
def test_a_formula_that_loses_all_digits_is_a_note_and_a_cut_is_not(rule, mistake):
    def cut(inputs, dy):
        y, grads = rule.vjp(inputs, dy)
        beyond = sum(x.abs() for x in inputs if x.is_floating_point()) > 3
        return y, tuple(None if g is None else torch.where(beyond, 0, g) for g in grads)

    for dtype in (torch.float32, torch.float64):
        assert compare(rule.mistaken(mistake.backward), rule, dtype=dtype, diagnose=0).passed
        assert not compare(rule.mistaken(mistake.backward), rule, dtype=dtype, strict=True, diagnose=0).passed
        assert not compare(cut, rule, dtype=dtype, diagnose=0).passed
