"""How long the axes of a function become, at which lengths it means the same, and what is seen at the longest."""

import pytest
import torch
from torch.nn import functional as F

import torch_ref
from manual_bp.oracle import compare
from manual_bp.oracle.cases.generated import generated
from manual_bp.oracle.cases.values import valued
from manual_bp.oracle.functions import reference


def packed(x, packed_weight):
    q, k, v = F.linear(x, packed_weight).chunk(3, -1)
    return torch.softmax(q @ k.mT, -1) @ v


def windows(x):
    return x.unfold(0, 4, 1).mean(-1)


@pytest.mark.parametrize(
    ("function", "inputs", "growing"),
    [
        # of few positions the scores are fewer than the weights, of which there are as many whatever their number
        (packed, {"x": (5, 8), "packed_weight": (24, 8)}, {"x.shape[0]"}),
        # 5 - 3 is an eighth of 20 - 3, and grows no faster than the length
        (windows, {"x": (5, 3)}, set()),
    ],
)
def test_what_grows_with_the_square_of_an_axis_is_told_beside_what_is_large(function, inputs, growing) -> None:
    found = reference(function, inputs).page.GROWING
    assert {name for name in found if not name.endswith("shape[1]")} == growing


def rotary(x, cos, sin, *, rotary_dim=4):
    half = rotary_dim // 2
    a, b, rest = x[..., :half], x[..., half:rotary_dim], x[..., rotary_dim:]
    return torch.cat((a * cos - b * sin, b * cos + a * sin, rest), -1)


def turned(x, cos, sin):
    width = cos.shape[-1]
    some, rest = x[..., :width], x[..., width:]
    half = torch.cat((-some[..., width // 2 :], some[..., : width // 2]), -1)
    return torch.cat((some * cos + half * sin, rest), -1)


@pytest.mark.parametrize(("function", "width"), [(rotary, 2), (turned, 3)])
def test_where_one_is_broadcast_by_chance_there_is_no_case(function, width) -> None:
    """rotary_dim = 2 makes halves of 1, and an x of width 1 is shorter than what is turned of it: torch broadcasts
    either, and y is wider than x."""
    rule = reference(function, {"x": (2, 5, 8), "cos": (5, width), "sin": (5, width)})
    cases = generated(rule, torch.float32)
    assert all(case.dy.shape == case.inputs[0].shape for case in cases)
    assert len({case.inputs[0].shape[-1] for case in cases}) > 3


def attended(x):
    return torch.softmax(x @ x.mT, -1) @ x


def routed(x, weight):
    p = (x @ weight.mT).softmax(-1)
    return p.topk(2, -1).values.sum(-1)


@pytest.mark.parametrize(
    ("function", "inputs", "length"),
    [
        # a square is tried up to 257: on either side of the largest block there, which stands for all that is longer
        (attended, {"x": (5, 3)}, 257),
        # light numbers lie so near to each other that rounding errors decide their order: there was no evidence then
        (routed, {"x": (6, 5), "weight": (8, 5)}, 1025),
    ],
)
def test_what_is_wrong_beyond_the_largest_block_is_seen(function, inputs, length) -> None:
    right = torch_ref.vjp(function)

    def wrong(inputs, dy, **hyper):
        y, (dx, *others) = right(inputs, dy, **hyper)
        kept = torch.arange(len(dx)) < length - 1
        return y, (torch.where(kept[:, None], dx, 0.0), *others)

    assert compare(right, function, inputs=inputs, diagnose=0).passed
    assert not compare(wrong, function, inputs=inputs, diagnose=0).passed


def test_that_a_sample_stays_of_its_shape_is_said() -> None:
    """Its rows are those of x as well, so that what is wrong from some number of rows on could not be seen."""

    def loss(x, target):
        return torch.nn.functional.cross_entropy(x, target)

    def few_rows(inputs, dy):
        y, (dx, _) = torch_ref.vjp(loss)(inputs, dy)
        return y, (torch.where(torch.arange(len(dx))[:, None] < 32, dx, 0), None)

    sample = torch.randint(5, (6,), generator=torch.Generator().manual_seed(0))
    for given in (sample, lambda generator: torch.randint(5, (6,), generator=generator)):
        report = compare(few_rows, loss, inputs={"x": (6, 5), "target": given}, diagnose=0)
        assert any("target (6,)" in text for text in report.not_tested), str(report)
    draw = (6,), lambda shape, generator: torch.randint(5, shape, generator=generator)
    report = compare(few_rows, loss, inputs={"x": (6, 5), "target": draw}, diagnose=0)
    assert not report.passed
    assert not any("shape" in text for text in report.not_tested)


def test_no_case_is_made_at_which_torchs_polygamma_hangs() -> None:
    """It goes up from -2^40 to 9 in steps of 1."""
    names = [
        [edge.name for edge in valued(reference(function, {"x": (4, 5)}), torch.float32)]
        for function in (lambda x: torch.polygamma(2, x).sum(-1), lambda x: x.tanh().sum(-1))
    ]
    assert [any("near -1.09951e+12" in name for name in each) for each in names] == [False, True]
    assert all(any("near -131072" in name for name in each) for each in names)
