"""Sums over the rows of large matrices and over images: which are cut into parts, and that nothing is lost."""

from __future__ import annotations

import pytest
import torch
from torch.fx.experimental.proxy_tensor import make_fx

from manual_bp.compilation.program import build
from manual_bp.compilation.rows import IMAGE, MANY, PARTS, images_first, in_parts, sum_of_rows

COLUMNS = 64
TALL = torch.zeros(MANY // COLUMNS, COLUMNS)
CUT = {
    "sum": lambda x: x.sum(0),
    "kept axis": lambda x: x.mean(0, keepdim=True),
    "an axis of one": lambda x: x[..., None].sum((0, 2)),
    "counted from behind": lambda x: x.sum(-2),
    "of something computed": lambda x: (x * x).mean(0),
}
LEFT = {
    "columns": lambda x: x.sum(1),
    "everything": lambda x: x.sum(),
    "two long axes": lambda x: x.reshape(-1, 2, COLUMNS).sum((0, 1)),
    "too small": lambda x: x[1:].sum(0),
    "few rows": lambda x: x.reshape(PARTS, -1).sum(0),
    "another dtype": lambda x: x.sum(0, dtype=torch.float64),
}


def sums_in_parts(function, x):
    graph = make_fx(function, tracing_mode="fake")(x).graph
    in_parts(graph)
    return sum(node.target is sum_of_rows for node in graph.nodes)


@pytest.mark.parametrize("function", CUT.values(), ids=CUT)
def test_a_sum_over_many_rows_is_cut(function):
    assert sums_in_parts(function, TALL) == 1


@pytest.mark.parametrize("function", LEFT.values(), ids=LEFT)
def test_another_sum_is_left_alone(function):
    assert sums_in_parts(function, TALL) == 0


SHAPE = (MANY // (8 * 64), 8, 64)
OVER_IMAGES = {"sum": lambda x: x.sum((0, 2)), "kept axes": lambda x: x.mean((0, -1), keepdim=True)}
NOT_OVER_IMAGES = {
    "channels": lambda x: x.sum((0, 1)),
    "one axis": lambda x: x.sum(2),
    "too small": lambda x: x[1:].sum((0, 2)),
    "short images": lambda x: x.reshape(-1, 8, IMAGE // 2).sum((0, 2)),
}


def sums_of_images_first(function):
    """The axes of all sums once the graph is changed."""
    graph = make_fx(function, tracing_mode="fake")(torch.zeros(SHAPE)).graph
    images_first(graph)
    return [node.args[1] for node in graph.nodes if len(node.args) > 1 and "dim" in str(node.target)]


@pytest.mark.parametrize("function", OVER_IMAGES.values(), ids=OVER_IMAGES)
def test_a_sum_over_images_takes_each_first(function):
    assert sums_of_images_first(function) == [[2], [0]]


@pytest.mark.parametrize("function", NOT_OVER_IMAGES.values(), ids=NOT_OVER_IMAGES)
def test_another_sum_takes_its_axes_at_once(function):
    assert len(sums_of_images_first(function)) == 1


def test_every_row_and_image_is_counted_once(called_from_python):
    # Whole numbers, so that no order of summation rounds.  Rows are left over at both levels of parts.
    n = PARTS * (3 * PARTS + 1) + 5
    generator = torch.Generator().manual_seed(0)
    rows, images = (torch.randint(-8, 9, shape, generator=generator).float() for shape in ((n, MANY // n + 3), SHAPE))

    def function(rows, images):
        of_rows = rows.sum(0), (rows * rows).sum(0, keepdim=True), rows.mean(0)
        return *of_rows, images.sum((0, 2)), (images * images).sum((0, 2), keepdim=True)

    got = build(function, [rows, images]).run([rows, images])
    for result, expected in zip(got, function(rows, images), strict=True):
        torch.testing.assert_close(result, expected, rtol=2e-7, atol=0)  # the mean is a product and not a quotient
    for i in (0, 3, 4):
        assert torch.equal(got[i], function(rows, images)[i])
