"""Pages without backward: several outputs, of which some may be absent, are counts, or are truth values."""

from __future__ import annotations

import pytest
import torch
from jaxtyping import Float
from torch import Tensor

from manual_bp.arithmetic.bounded import contract_of, widths
from manual_bp.oracle import Case, compare
from manual_bp.rule import Rule
from tests.judging import ordinary
from tests.pages import PAGES
from tests.pages.mean_shifted import Residuals
from tests.test_pages import page_without

RULE = PAGES["outputs_of_every_kind"]


def changed(**changes):
    """The page, with some outputs passed through a function."""

    def candidate(inputs, **hyper):
        found = RULE.values_alone(inputs, **hyper)
        return found._replace(**{name: change(getattr(found, name)) for name, change in changes.items()})

    return candidate


def test_the_page_agrees_with_itself_in_every_dtype(dtype):
    report = compare(RULE.candidate, RULE, dtype=dtype, strict=True)
    assert report.passed, str(report)
    assert report.cases > 20


@pytest.mark.parametrize("mistake", RULE.mistakes, ids=lambda mistake: mistake.name)
def test_its_mistakes_are_named(mistake):
    report = compare(RULE.mistaken(mistake.backward), RULE)
    assert mistake.name in report.diagnoses[0]


@pytest.mark.parametrize(
    ("changes", "argument", "words"),
    [
        ({"sum": lambda x: torch.zeros(3) if x is None else x}, "y.sum", "there is no such output here: None is due"),
        ({"sum": lambda x: None}, "y.sum", "a tensor is due, None came"),
        ({"count": lambda n: n.double()}, "y.count", "dtype must be torch.float32; came torch.float64"),
        ({"count": lambda n: n + 1}, "y.count", ""),
        ({"is_large": lambda b: ~b}, "y.is_large", ""),
        ({"is_large": lambda b: torch.zeros_like(b)}, "y.is_large", ""),
    ],
)
def test_what_is_of_another_kind_or_another_number_is_wrong(changes, argument, words):
    report = compare(changed(**changes), RULE)
    assert {m.argument for m in report.mismatches} == {argument}
    assert all(words in m.detail for m in report.mismatches)


def test_counts_and_truth_values_may_be_of_any_integer_dtype_or_numbers():
    """GradScaler's tracker is int32, and its found_inf a float32 of 0 or 1."""
    assert compare(changed(count=lambda n: n.int(), is_large=lambda b: b.float()), RULE).passed


def test_of_an_absent_output_there_is_no_width_and_no_truth():
    case = ordinary(RULE)
    inputs = (*case.inputs[:2], None)
    y, total, count, is_large = widths(RULE, inputs, None, contract_of(torch.float32)).outputs
    assert total is None
    assert bool((y > 0).any())
    assert not bool(count)
    assert not bool(is_large.any())
    certified = pytest.importorskip("manual_bp.arithmetic.certified")
    y, total, count, is_large = certified.truth(RULE, inputs, None).outputs
    assert total is None
    assert torch.equal(y.midpoint(), -0.25 * inputs[0])
    assert count.midpoint() == inputs[1] + 1


def test_recorded_values_are_judged():
    x, count = torch.tensor([0.5, -3.0]), torch.tensor(4)
    y = (-0.25 * x, None, torch.tensor(5), torch.tensor([False, True]))
    assert not compare(None, RULE, cases=[Case((x, count), None, y=y)]).mismatches
    report = compare(None, RULE, cases=[Case((x, count), None, y=(*y[:3], torch.tensor([True, True])))])
    assert [m.argument for m in report.mismatches] == ["y.is_large"]


def test_a_page_with_a_backward_may_not_leave_an_output_out():
    with pytest.raises(ValueError, match="may not return None for sum: every output has a cotangent"):
        Rule("mine", page_without("", forward=with_residuals, Outputs=RULE.page.Outputs, INPUTS=RULE.page.INPUTS))


def with_residuals(x: Float[Tensor, "*shape"]) -> tuple[RULE.page.Outputs, Residuals]:
    raise NotImplementedError
