"""The pattern of the wrong elements, in words."""

from __future__ import annotations

import pytest
import torch

from manual_bp.oracle import compare
from manual_bp.oracle.pattern import common_factor, pattern

RIGHT = {
    shape: 1 + torch.rand(shape, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    for shape in ((1,), (5,), (129,), (1000,), (33, 5), (4, 6), (64, 64), (2, 3, 4))
}


def words(shape, *regions, change=lambda x: x + torch.rand_like(x), right=None):
    expected = RIGHT[shape] if right is None else right
    got = expected.clone()
    for region in regions:
        got[region] = change(got[region])
    allowance = torch.full_like(expected, torch.finfo(torch.float32).eps)
    return pattern(~((got - expected).abs() <= allowance), expected, got, allowance)


@pytest.mark.parametrize(
    ("shape", "regions", "text"),
    [
        ((5,), [], ""),
        ((1,), [0], "the only element"),
        ((5,), [2], "one element of 5: [2]"),
        ((4, 6), [(1, 3)], "one element of 24: [1, 3]"),
        ((4, 6), [...], "every element (24)"),
        ((4, 6), [2], "a row: [2, :]"),
        ((4, 6), [(slice(None), 4)], "a column: [:, 4]"),
        ((4, 6), [slice(0, 3)], "rows: [:3, :]"),
        ((4, 6), [(slice(None), slice(0, None, 2))], "one of 2 columns: [:, ::2]"),
        ((2, 3, 4), [(slice(None), 1)], "a slice of axis 1: [:, 1, :]"),
        ((2, 3, 4), [(1, slice(None), 2)], "one line: [1, :, 2]"),
        ((64, 64), [(slice(16, 32), slice(32, 48))], "a tile: [16:32, 32:48]"),
        ((129,), [128], "one element of 129: [128], the tail after the last full block of 128"),
        (
            (1000,),
            [slice(960, None)],
            "elements 960 to 999 of 1000: [960:], the tail after the last full block of 64",
        ),
        ((1000,), [slice(256, None)], "elements 256 to 999 of 1000: [256:], all after the first block of 256"),
        ((1000,), [slice(37, None)], "elements 37 to 999 of 1000: [37:], the end"),
        ((33, 5), [32], "a row: [32, :], the tail after the last full block of 32"),
        ((4, 6), [(0, 0), (1, 3), (3, 1)], "scattered: 3 of 24 elements"),
    ],
)
def test_where(shape, regions, text):
    assert words(shape, *regions) == text


def test_a_tail_of_the_flattened_tensor():
    expected = RIGHT[(33, 5)]
    wrong = torch.zeros(165, dtype=torch.bool)
    wrong[128:] = True
    got = expected + torch.rand_like(expected) * wrong.view(33, 5)
    text = pattern(wrong.view(33, 5), expected, got, torch.zeros_like(expected))
    assert text == (
        "elements 128 to 164 of 165: [128:], the tail after the last full block of 128 (in row-major order)"
    )


def test_what_shows_no_error_neither_makes_a_region_nor_breaks_one():
    expected = RIGHT[(1000,)].clone()
    expected[::2] = 0  # as of relu
    tail = words((1000,), slice(961, None), change=lambda x: 2 * x, right=expected)
    assert "[960:], the tail after the last full block of 64; 2 times what is due" in tail
    assert words((1000,), ..., change=lambda x: 2 * x, right=expected).startswith("every element that is not 0 (500")
    square = RIGHT[(4, 6)].clone()
    square[:, 2:4] = 0
    assert words((4, 6), 1, change=lambda x: -x, right=square) == "a row: [1, :]; -1 times what is due"


@pytest.mark.parametrize(
    ("change", "text"),
    [
        (lambda x: 2 * x, "2 times what is due"),
        (lambda x: x / 3, "0.3333 times what is due"),
        (lambda x: 0 * x, "0 stands there"),
        (lambda x: x * torch.nan, "NaN stands there"),
    ],
)
def test_what(change, text):
    assert words((129,), slice(100, None), change=change).endswith(f"; {text}")


def test_a_factor_needs_numbers_that_differ():
    one = torch.ones(5, dtype=torch.float64)
    assert common_factor(one, 2 * one, 0 * one) is None
    x = RIGHT[(5,)]
    assert common_factor(x, 2 * x, 0 * x) == 2
    assert common_factor(x[:2], 2 * x[:2], 0 * x[:2]) is None
    assert common_factor(x, x + 1, 0 * x) is None


def test_mismatches_say_it():
    def vjp(inputs, dy):
        (x,) = inputs
        y = torch.relu(x)
        dx = torch.where(x > 0, dy, 0)
        if x.shape == (33, 5):
            dx[:, -1] *= 2
        return y, (dx,)

    report = compare(vjp, "relu")
    (mismatch,) = report.mismatches
    assert mismatch.pattern == "a column: [:, 4], the tail after the last full block of 4; 2 times what is due"
    assert f"; {mismatch.pattern}" in str(mismatch)
    assert '"pattern": "a column' in report.to_json()
