"""What functions of users' own call their inputs, and what they raise."""

from itertools import takewhile

import pytest
import torch

import torch_ref
from manual_bp.oracle import Case, compare
from manual_bp.oracle.case import Sized
from manual_bp.oracle.cases.generated import generating
from manual_bp.oracle.functions import reference


class OfItsOwnError(Exception):
    pass


def by_fours(x):
    return x * (1 / (x.shape[-1] // 4))


def from_a_table(x):
    return x * {4: 0.5, 8: 2.0}[x.shape[-1]]


def checked(x):
    if x.shape[-1] % 4:
        raise OfItsOwnError("by fours")
    return 2 * x


@pytest.mark.parametrize(
    ("function", "words"),
    [(by_fours, "ZeroDivisionError"), (from_a_table, "KeyError"), (checked, "OfItsOwnError: by fours")],
)
def test_whatever_a_function_raises_at_a_length_says_that_it_is_not_defined_there(function, words) -> None:
    rule = reference(function, {"x": (3, 8)})
    rule.forward(torch.randn(3, 4))
    with pytest.raises(ValueError, match=f"{function.__name__} raises {words}"):
        rule.forward(torch.randn(3, 3))


def of_labels_drawn(logits, target):
    return -logits.log_softmax(-1).gather(-1, target[:, None])[:, 0]


def test_rows_without_an_index_are_no_case_where_the_index_keeps_its_shape() -> None:
    inputs = {"logits": (4, 3), "target": lambda generator: torch.randint(3, (4,), generator=generator)}
    cases = generating(reference(of_labels_drawn, inputs), torch.float32)
    shapes = {tuple(case.inputs[0].shape) for case in takewhile(lambda case: not isinstance(case, Sized), cases)}
    assert {rows for rows, _ in shapes} == {4}
    assert (4, 33) in shapes


def squared_distance(x, y):
    return (x - y).square().mean()


def of_labels(x, y):
    return -x.log_softmax(-1).gather(-1, y[:, None])[:, 0]


def test_an_input_may_be_called_y_as_the_output_is() -> None:
    cases = generating(reference(squared_distance, {"x": (2, 3), "y": (2, 3)}), torch.float32)
    names = [case.name for case in takewhile(lambda case: not isinstance(case, Sized), cases)]
    assert "y is x" in names
    assert "dy sliced" in names
    assert not [name for name in names if name.startswith(("dy is", "dy overlaps"))]  # a number is none of its inputs

    def counts(inputs, dy):
        y, grads = torch_ref.vjp(of_labels)(inputs, dy)
        return y.round().long(), grads

    case = Case((torch.tensor([[0.0, 0.0]]), torch.tensor([0])), torch.ones(1))
    report = compare(counts, of_labels, inputs={"x": (1, 2), "y": torch.tensor([0])}, cases=[case], diagnose=0)
    assert any("dtype must be torch.float32; came torch.int64" in str(m.detail) for m in report.mismatches), str(report)
