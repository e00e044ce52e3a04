"""Sums over the rows of large matrices and over images: which are cut into parts.

That nothing is lost is tested among all operations, in test_rules.py.
"""

from __future__ import annotations

import pytest
import torch
from torch.fx.experimental.proxy_tensor import make_fx

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
