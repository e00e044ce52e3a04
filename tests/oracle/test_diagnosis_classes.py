"""Classes of causes: winners in maxout, masks of one's own, mixed elements, approximations, sizes of blocks."""

from __future__ import annotations

import re

import pytest
import torch

import manual_bp as bp
from manual_bp.oracle import compare
from manual_bp.oracle.diagnosis.routing import SHARES
from tests.oracle.test_diagnosis import LONG


def first(candidate, rule, dtype=torch.float32):
    """The first diagnosis of a candidate, which has to be wrong."""
    report = compare(candidate, rule, dtype=dtype, diagnose=LONG)
    assert not report.passed
    return (*report.diagnoses, "")[0]


def elementwise(rule, change):
    """The rule, with `change(x, y, dy, dx)` in place of dx."""

    def candidate(inputs, dy, **hyper):
        y, (dx, *others) = bp.RULES[rule].vjp(inputs, dy, **hyper)
        return y, (change(inputs[0], y, dy, dx), *others)

    return candidate


# ----------------------------------------------------------------------------------------------------------- winners


def shared(shares, interleaved=False):
    """Maxout, with the cotangent of each unit shared among its pieces by `shares`."""

    def candidate(inputs, dy, pieces):
        (x,) = inputs
        y, _ = bp.maxout.forward(x, pieces=pieces)
        shape = (*dy.shape[:-1], pieces, dy.shape[-1]) if interleaved else (*dy.shape, pieces)
        u = x.reshape(shape).mT if interleaved else x.reshape(shape)
        share = shares(u.double()).to(x.dtype) if u.numel() else u
        g = torch.where(share > 0, share * dy[..., None], 0)
        return y, ((g.mT if interleaved else g).reshape(x.shape),)

    return candidate


@pytest.mark.parametrize("words", SHARES)
def test_who_gets_the_cotangent_of_a_unit(words):
    assert first(shared(SHARES[words]), "maxout").startswith(f"dx is routed to other pieces than the winners: {words};")


def test_interleaved_pieces():
    def winner(u):
        return torch.nn.functional.one_hot(u.argmax(-1), u.shape[-1]).to(u.dtype)

    assert "are taken for interleaved" in first(shared(winner, interleaved=True), "maxout")


@pytest.mark.parametrize("distance", [0.05, 0.3])
def test_near_ties_are_told_with_their_distance(distance):
    near = shared(lambda u: (u >= u.amax(-1, keepdim=True) - distance).to(u.dtype))
    told = re.search(r"all pieces within ([0-9.]+) of the largest", first(near, "maxout"))
    assert told
    assert abs(float(told[1]) - distance) < distance / 10


# ------------------------------------------------------------------------------------------------------------- masks


def masked(scaled, seeded, with_y):
    """Dropout with a mask of its own."""

    def candidate(inputs, dy, p):
        x, mask = inputs
        generator = torch.Generator().manual_seed(0) if seeded else None
        kept = (torch.rand(x.shape, generator=generator) > p) & (p < 1)
        scale = 1 / (1 - p) if p < 1 else 0.0
        y, _ = bp.dropout.vjp((x, kept if with_y else mask), dy, p=p)
        return y, (torch.where(kept, dy * (scale if scaled else 1.0), 0), None)

    return candidate


@pytest.mark.parametrize("scaled", [True, False])
@pytest.mark.parametrize("with_y", [True, False])
@pytest.mark.parametrize("seeded", [True, False])
def test_a_mask_of_its_own(scaled, with_y, seeded):
    found = " ".join(compare(masked(scaled, seeded, with_y), "dropout", diagnose=LONG).diagnoses)
    assert re.search("dx (is|depends on .*; it is) that of another mask than the given one", found)
    assert ("without its scale" in found) == (not scaled)
    assert ("depends on earlier calls or on chance" in found) == (not seeded)
    assert bool(re.search("y (is|depends on .*; it is) that of another mask", found)) == with_y


def test_a_mask_read_off_the_value():
    def candidate(inputs, dy, p):
        y, (dx, _) = bp.dropout.vjp(inputs, dy, p=p)
        return y, (torch.where(y != 0, dx, 0), None)

    assert "mask is read off y ≠ 0" in first(candidate, "dropout")


# ---------------------------------------------------------------------------------------------------- mixed elements


def by_row(change):
    return lambda x, y, dy, dx: change(x, dx) if x.ndim > 1 and x.numel() else dx


@pytest.mark.parametrize(
    ("rule", "change", "words"),
    [
        ("tanh", by_row(lambda x, dx: dx.sum(0, keepdim=True).expand_as(dx)), "summed over its own axis 0"),
    ],
)
def test_elements_are_mixed_where_there_are_several_axes(rule, change, words):
    assert words in first(elementwise(rule, change), rule)


@pytest.mark.parametrize(("reduce", "words"), [(torch.amax, "largest"), (torch.amin, "smallest")])
def test_a_mask_of_a_whole_row(reduce, words):
    def dx(x, y, dy, dx):
        return torch.where(reduce(x, -1, keepdim=True) > 0, dy, 0) if x.ndim and x.numel() else dx

    assert f"that of x with the {words} number of each row" in first(elementwise("relu", dx), "relu")


def test_backward_that_works_in_place_on_the_value():
    def candidate(inputs, dy):
        _, (dx,) = bp.tanh.vjp(inputs, dy)
        return dx.clone(), (dx,)

    assert "y holds dx, as if backward had overwritten the value" in first(candidate, "tanh")


# ---------------------------------------------------------------------------------------------------- approximations


@pytest.mark.parametrize(
    ("rule", "change", "words"),
    [
        ("tanh", lambda x, y, dy, dx: torch.where(x.abs() < 1, dy, 0), r"dx is dy where \|x\| ≤ 0\.9.*, and 0 where"),
        ("sigmoid", lambda x, y, dy, dx: torch.where(x.abs() < 2.5, dy / 5, 0), r"dx is dy·0\.2 where \|x\| ≤ 2\.4"),
        (
            "tanh",
            lambda x, y, dy, dx: dy * (1 - x**2 + 2 / 3 * x**4),
            r"dy times a polynomial, 1 - 1·x\^2 \+ 0\.6667·x\^4",
        ),
        ("tanh", lambda x, y, dy, dx: dy * (1 - y * y).clamp(min=0.1), r"dy·0\.1 stands there, whatever the input"),
    ],
)
def test_an_approximation_is_told_with_where_it_is_good(rule, change, words):
    assert re.search(words, first(elementwise(rule, change), rule))


def test_the_wrong_sign_is_said_plainly_where_digits_are_lost_too():
    change = elementwise("tanh", lambda x, y, dy, dx: dy * (y * y - 1))
    assert "wrong sign" in first(change, "tanh", torch.bfloat16)


def test_what_is_seldom_not_written_is_chance_and_no_formula():
    def dx(x, y, dy, dx):
        return dx * (torch.rand(x.shape) > 1e-3) if x.numel() > 1e5 else dx

    assert "depends on earlier calls or on chance" in first(elementwise("tanh", dx), "tanh")


def test_what_is_defined_in_one_case_explains_no_other():
    """The mean over the last axis is the mean over axis 3 in the one case that has an axis 3."""

    def dx(x, y, dy, dx):
        return dx if not dx.ndim else dx.mean(-1, keepdim=True).expand(dx.shape)

    assert "axis 3" not in first(elementwise("tanh", dx), "tanh")


def test_a_smooth_approximation_is_not_called_16_bit_arithmetic():
    def dx(x, y, dy, dx):
        square = (x * (27 + x**2) / (27 + 9 * x**2)).clamp(-1, 1) ** 2
        return dy * (1 - square)

    assert "low precision" not in first(elementwise("tanh", dx), "tanh")


@pytest.mark.parametrize("block", [8, 16, 32, 64, 128, 256, 512])
def test_the_size_of_a_block_is_told(block):
    def dx(x, y, dy, dx):
        flat = dx.reshape(-1).clone()
        flat[flat.numel() // block * block :] = 0
        return flat.reshape(dx.shape)

    assert f"the last full block of {block} elements" in first(elementwise("tanh", dx), "tanh")


# ---------------------------------------------------------------------------------------------- one thing for another


def centred_sum(inputs, dy, eps=1e-5):
    y, (dx, _, dbias) = bp.batch_norm.vjp(inputs, dy, eps=eps)
    axes = [a for a in range(dy.ndim) if a != 1]
    return y, (dx, (dy * (inputs[0] - inputs[0].mean(axes, keepdim=True))).sum(axes), dbias)


def bias_as_weight(inputs, dy, eps=1e-5):
    y, (dx, dweight, _) = bp.batch_norm.vjp(inputs, dy, eps=eps)
    return y, (dx, dweight, dweight.clone())


def slope_in_8_bits(inputs, dy, negative_slope=0.01):
    y, _ = bp.leaky_relu.vjp(inputs, dy, negative_slope=negative_slope)
    slope = float(torch.tensor(negative_slope).bfloat16())
    return y, bp.leaky_relu.vjp(inputs, dy, negative_slope=slope)[1]


def index_of_8_bits(inputs, dy):
    read = dy[..., torch.arange(dy.shape[-1]) % 256] if dy.ndim else dy
    return bp.tanh.vjp(inputs, dy)[0], bp.tanh.vjp(inputs, read)[1]


@pytest.mark.parametrize(
    ("candidate", "rule", "words"),
    [
        (centred_sum, "batch_norm", "dweight is Σ dy·(x less its mean)"),
        (bias_as_weight, "batch_norm", "dbias is what dweight should be"),
        (slope_in_8_bits, "leaky_relu", "negative_slope is rounded to bfloat16"),
        (index_of_8_bits, "tanh", "dx takes dy at an index that wraps around at 256"),
    ],
)
def test_one_thing_for_another(candidate, rule, words):
    assert words in first(candidate, rule)


def test_where_a_hyperparameter_is_ignored_says_more_than_a_threshold():
    def candidate(inputs, dy, alpha=1.0):
        y, (dx,) = bp.elu.vjp(inputs, dy, alpha=alpha)
        return y, (bp.elu.vjp(inputs, dy, alpha=1.0)[1][0] if alpha < 0 else dx,)

    assert "alpha is ignored where it is negative: dx is that of alpha=1 there" in first(candidate, "elu")


# -------------------------------------------------------------------------------------------------------- lost digits


def test_a_difference_that_loses_all_digits_is_a_note_and_a_cut_is_not():
    def by_tanh(inputs, dy):
        y = (1 + torch.tanh(inputs[0] / 2)) / 2
        return y, (dy * y * (1 - y),)

    def cut(inputs, dy):
        y, (dx,) = bp.sigmoid.vjp(inputs, dy)
        return torch.where(inputs[0] < -15, 0, y), (dx,)

    for dtype in (torch.float32, torch.float64):
        assert compare(by_tanh, "sigmoid", dtype=dtype).passed
        assert not compare(by_tanh, "sigmoid", dtype=dtype, strict=True).passed
        assert not compare(cut, "sigmoid", dtype=dtype).passed
