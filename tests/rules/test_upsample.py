"""Upsampling by fractions: torch's numbers, what is refused, and that who declares one is judged there."""

from __future__ import annotations

import pytest
import torch

import manual_bp as bp
import torch_ref
from manual_bp.oracle import Case, compare

MODES = ({}, {"mode": "linear"}, {"mode": "linear", "align_corners": True})


@pytest.mark.parametrize("how", MODES, ids=str)
@pytest.mark.parametrize(("space", "scale"), [((5,), 7 / 5), ((6, 3), 2 / 3), ((4, 2, 2), 1.5), ((3,), 1 / 3)], ids=str)
def test_a_fraction_is_torch_s(space, scale, how):
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(2, 3, *space, generator=generator, dtype=torch.float64)
    places = [round(n * scale) for n in space]
    dy = torch.randn(2, 3, *places, generator=generator, dtype=torch.float64)
    case = Case((x,), dy, {"scale": scale, **how})
    for vjp in (bp.upsample.vjp, torch_ref.twin("upsample")):
        report = compare(vjp, "upsample", dtype=torch.float64, cases=[case], diagnose=0)
        assert report.passed, str(report)
        assert report.cases == 1


@pytest.mark.parametrize(
    ("scale", "message"),
    [
        (1.4, r"a whole number of places on each axis; came 1.4 times \(4, 6\). Pass m / n for m places"),
        (3.14159265, "a fraction a / b of whole numbers up to 1024; came 3.14159265"),
        (-1, "whole and at least 1, or a fraction"),
        ((2, 2, 2), "one for each axis of space, of which there are 2"),
    ],
)
def test_what_makes_no_places_is_refused(scale, message):
    with pytest.raises(ValueError, match=message):
        bp.upsample.forward(torch.ones(1, 1, 4, 6), scale=scale)


def test_who_declares_a_fraction_is_judged_there():
    """A place that shows the one in which its centre lies is right for whole scales alone."""

    def candidate(inputs, dy, scale, mode="nearest", align_corners=False):
        y, (dx,) = bp.upsample.vjp(inputs, dy, scale=scale, mode=mode, align_corners=align_corners)
        if mode == "nearest":
            x = inputs[0].detach().requires_grad_()
            size = tuple(dy.shape[2:])
            (dx,) = torch.autograd.grad(torch.nn.functional.interpolate(x, size, mode="nearest-exact"), x, dy)
        return y, (dx,)

    assert compare(bp.upsample.vjp, "upsample", hyper={"scale": 1.5}).passed
    report = compare(candidate, "upsample", hyper={"scale": 1.5}, diagnose=0)
    assert {m.argument for m in report.mismatches} == {"dx"}


def test_a_declared_stride_leaves_out_a_cotangent_that_is_given():
    """Its shape is that of another stride's y."""
    assert compare(bp.convolution.vjp, "convolution", hyper={"stride": 2}, diagnose=0).passed
