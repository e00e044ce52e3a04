"""What is known of a function is not found anew, as its programs in other precisions and bounds that excuse a result;
and what nobody asks for is not made."""

import pytest
import torch
from torch.nn import functional as F

import torch_ref
from manual_bp.oracle import compare, excuses
from manual_bp.oracle.case import Case, Further
from manual_bp.oracle.cases.generated import generated
from manual_bp.oracle.functions import reference
from manual_bp.oracle.functions.page import SEEN, Recorded
from manual_bp.oracle.truth import kept
from manual_bp.program.precision import are_same


def inputs_of(length, dtype):
    return torch.randn(length, 5, dtype=dtype), torch.randn(3, 5, dtype=dtype)


def masked_mean(x, weight):
    y = F.linear(x, weight).relu().masked_fill((x > 0)[:, :3], 0)
    return torch.stack([row.softmax(-1) for row in y.unbind()]).mean(), torch.zeros(3, dtype=x.dtype) + x[0, :3]


def smallest(x, weight):
    return x @ weight.T / torch.finfo(x.dtype).eps


def in_float32(x, weight):
    return (x.float() @ weight.float().T).to(x.dtype)


def constant(x, weight):
    return x * torch.tensor(0.1, dtype=x.dtype) @ weight.T


def never_wide(x, weight):
    return (x @ weight.T).to(torch.float32)


@pytest.mark.parametrize(
    ("function", "is_one"),
    [(masked_mean, True), (smallest, False), (in_float32, False), (constant, False), (never_wide, False)],
    ids=lambda x: getattr(x, "__name__", None),
)
def test_a_program_is_recorded_in_one_precision_where_it_is_the_same_in_all(function, is_one, monkeypatch):
    recorded, anew = Recorded(function), []
    derived = Recorded._derived
    monkeypatch.setattr(Recorded, "_derived", lambda self, *given: anew.append(given) or derived(self, *given))
    for length in range(2, 2 + SEEN):
        recorded.derivative(inputs_of(length, torch.float32), {})
    anew.clear()
    _, narrow = (recorded.derivative(inputs_of(9, each), {}) for each in (torch.float64, torch.float32))
    assert len(anew) == (1 if is_one else 2)
    due = derived(Recorded(function), inputs_of(9, torch.float32), {}, True)
    assert are_same(narrow.forward, due.forward)
    assert are_same(narrow.backward, due.backward)


def saturating(x):
    return torch.tanh(x * 4).cumsum(-1)


def test_a_bound_that_excuses_a_result_is_found_once_for_all_candidates(monkeypatch):
    found = []
    widths = excuses.widths
    monkeypatch.setattr(excuses, "widths", lambda *given, **more: found.append(given) or widths(*given, **more))
    first, second = (compare(torch_ref.vjp(saturating), saturating, inputs={"x": (4, 9)}, diagnose=0) for _ in "ab")
    assert first.passed
    assert any("loses digits" in note for note in first.notes)
    assert first.notes == second.notes
    before = len(found)
    assert before
    compare(lambda inputs, dy: torch_ref.vjp(saturating)(inputs, dy), saturating, inputs={"x": (4, 9)}, diagnose=0)
    anew = [sum(x.numel() for x in inputs) for _, inputs, *_ in found[before:]]
    assert len(anew) < before / 4
    assert all(elements > excuses.BOUNDED for elements in anew)  # of which none are kept


def product(x, weight):
    return x @ weight.T


PRODUCT = {"x": (4, 5), "weight": (3, 5)}


def test_cases_that_lie_further_out_are_made_for_a_candidate_that_is_right_so_far(monkeypatch):
    made, generating = [], kept.generating

    def noted(*given):
        for case in generating(*given):
            made.append(case)
            yield case

    monkeypatch.setattr(kept, "generating", noted)
    right = torch_ref.vjp(product)

    def wrong(inputs, dy):
        y, (dx, dweight) = right(inputs, dy)
        return y, (dx, 2 * dweight)

    assert not compare(wrong, product, inputs=PRODUCT, diagnose=0).passed
    assert [isinstance(case, Further) for case in made].count(True) == 1  # at which it is seen that no more is needed
    report = compare(right, product, inputs=PRODUCT, diagnose=0)
    assert report.passed
    every = generated(reference(product, PRODUCT), torch.float32)
    assert [case.name for case in made] == [case.name for case in every]
    assert all(
        torch.equal(a, b)
        for case, due in zip(made, every, strict=True)
        for a, b in zip(case.tensors, due.tensors, strict=True)
        if not a.isnan().any()
    )


def test_where_making_cases_was_interrupted_it_goes_on():
    interrupted = []

    def make():
        for number in range(5):
            if number == 3 and not interrupted:
                interrupted.append(number)
                raise KeyboardInterrupt
            yield Case((), None, name=str(number))

    cases = kept.AsAskedFor(make)
    with pytest.raises(KeyboardInterrupt):
        list(cases)
    assert [case.name for case in cases] == list("01234")
    assert (len(cases), cases[4].name, cases[-1].name, len(cases[:2])) == (5, "4", "4", 2)
