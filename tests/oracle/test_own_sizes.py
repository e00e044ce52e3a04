"""A case of a user's own sizes is judged in blocks, and what is wrong there alone is seen and placed."""

import re

import pytest
import torch
from torch import Tensor

import manual_bp as bp
import torch_ref
from manual_bp.inputs import Edge
from manual_bp.oracle import Case, compare
from manual_bp.oracle.cases.drawing import draw
from manual_bp.oracle.own_sizes import BLOCK
from manual_bp.oracle.separable import separable
from manual_bp.outputs import parts

ROWS, FEATURES = 3001, 128  # three blocks and a bit


def double(x: Tensor, weight: Tensor) -> Tensor:
    return x * x * weight


def wrong_at(argument: int, change):
    """Right but for one cotangent of inputs that have so many rows."""

    def vjp(inputs, dy):
        y, grads = torch_ref.vjp(double)(inputs, dy)
        if len(inputs[0]) != ROWS:
            return y, grads
        return y, tuple(change(g) if i == argument else g for i, g in enumerate(grads))

    return vjp


def results(rule, case):
    y, grads = rule.vjp(case.inputs, case.dy, **case.hyper)
    return dict(zip(rule.arguments, (*parts(y), *grads), strict=True))


def row_lost(grad: Tensor) -> Tensor:
    return torch.cat([grad[:2500], torch.zeros_like(grad[:1]), grad[2501:]])


@pytest.mark.parametrize("rule", bp.RULES)
def test_what_is_found_to_be_separable_is_so_for_other_numbers(rule: str) -> None:
    found = bp.RULES[rule]
    generator = torch.Generator().manual_seed(5)
    for axis in separable(found, {}, dict.fromkeys(found.axis_names, 1)):
        length = {axis.name: (5,) if found.axis_names[axis.name] else 5}
        case = Case(*draw(found, Edge("five", sizes=length), generator))
        whole = results(found, case)
        two = [results(found, axis.part(found, case, start, count)) for start, count in ((0, 2), (2, 3))]
        for argument, dimension in axis.arguments.items():
            pieces = [part[argument] for part in two]
            joined = sum(pieces) if dimension is None else torch.cat(pieces, dimension)
            torch.testing.assert_close(joined, whole[argument], msg=f"{argument} along {axis.name}")


@pytest.mark.parametrize(
    ("argument", "change", "words"),
    [
        (0, row_lost, r"dx\[\d+, \d+\].*x.shape.0. 2048 to 3000"),
        (1, lambda g: g * (1 + 1e-4), "dweight.*x.shape.0. = 3001"),
    ],
    ids=["a row of dx", "a factor of a sum over rows"],
)
def test_what_is_wrong_there_alone_is_seen(argument, change, words) -> None:
    assert ROWS * FEATURES > 2 * BLOCK
    inputs = {"x": (ROWS, FEATURES), "weight": (FEATURES,)}
    assert compare(torch_ref.vjp(double), double, inputs=inputs, diagnose=0).passed
    report = compare(wrong_at(argument, change), double, inputs=inputs, diagnose=0)
    assert len(report.mismatches) == 1
    assert re.search(words, str(report.mismatches[0])), str(report)


def test_sizes_of_a_rule_are_its_axes() -> None:
    report = compare(torch_ref.twin("linear"), "linear", sizes={"batch": (70, 3), "in": 300}, diagnose=0)
    assert report.passed
    assert "batch = (70, 3), in = 300: judged in 1 block of batch" in report.notes
    with pytest.raises(ValueError, match=r'sizes must be lengths of axes by name, as in sizes=\{"batch": 4096\}'):
        compare(torch_ref.twin("linear"), "linear", sizes=4096)
    with pytest.raises(ValueError, match="no axis 'rows'"):
        compare(torch_ref.twin("linear"), "linear", sizes={"rows": 3})
    with pytest.raises(ValueError, match="must be a length"):
        compare(torch_ref.twin("linear"), "linear", sizes={"in": (3, 4)})
