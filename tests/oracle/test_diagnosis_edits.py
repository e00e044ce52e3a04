"""The search by itself: a page that is edited is diagnosed as that edit, or as one that gives the same numbers."""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import suppress
from typing import Any

import pytest
import torch
from torch import Tensor

from manual_bp.arithmetic.bounded import contract_of
from manual_bp.oracle import compare
from manual_bp.oracle.case import Case
from manual_bp.oracle.diagnosis import diagnose, looked_at
from manual_bp.oracle.diagnosis.changes import ARRANGED
from manual_bp.oracle.diagnosis.conditions import Feature, between, condition
from manual_bp.oracle.diagnosis.deadline import Deadline
from manual_bp.oracle.diagnosis.drawn import Drawn
from manual_bp.oracle.diagnosis.edit import Edit, RefusedError
from manual_bp.oracle.diagnosis.edits import edits_of
from manual_bp.oracle.diagnosis.lengths import longer
from manual_bp.oracle.diagnosis.program import PAGE, TORCH
from manual_bp.oracle.diagnosis.quantities import Always
from manual_bp.oracle.diagnosis.samples import CERTAIN, Sample
from manual_bp.oracle.diagnosis.search import Search
from manual_bp.oracle.diagnosis.sentences import of_ratios, ratios_of, told
from manual_bp.oracle.diagnosis.tracing import UntraceableError, traced
from manual_bp.oracle.diagnosis.verdict import MORE, Verdict
from manual_bp.oracle.diagnosis.whole import whole_edits
from manual_bp.oracle.diagnosis.words import called
from manual_bp.oracle.functions import reference
from manual_bp.oracle.truth.evidence import evidence
from manual_bp.outputs import parts
from manual_bp.registry import RULES
from manual_bp.rule import Rule, Vjp
from tests.oracle.few import few_cases, few_records, judged, spread
from tests.pages import PAGES

# Of each page so many edits by default are tried, evenly spread over those that people make often.
BY_DEFAULT, ALL = 1, 6
OFTEN = 3.0
# An edit that shows in fewer cases may be given by another one, too.
CASES = 5


def edited(rule: Rule, edit: Edit) -> Vjp:
    """A page with an edit of its cotangents."""

    def candidate(inputs: Any, dy: Any, **hyper: Any) -> Any:
        y, grads = rule.vjp(inputs, dy, **hyper)
        program = traced(rule, Case(inputs, dy, hyper))
        try:
            found = edit.results(program)
        except Exception:  # it is not defined there
            found = {}
        named = zip(rule.inputs, grads, strict=True)
        return y, tuple(g if g is None else found.get(f"d{n}", g).to(g.dtype) for n, g in named)

    return candidate


def chosen(rule: Rule, most: int) -> Iterator[Edit]:
    """Edits of what backward computes that show in some cases, evenly spread."""
    program = traced(rule, next(few_cases(rule)))
    grads = [name for name in program.results if not name.startswith("y")]
    every = [e for e in edits_of(program, program.needed(grads)) if e.cost < OFTEN and e.position is not None]
    every = [e for e in every if program.sites[e.position or 0].stage == "backward"]
    return iter(spread(every, most))


def diagnosed(rule: Rule, most: int) -> int:
    """How many of the edits are visible; each of these has to be told."""
    count = 0
    for edit in chosen(rule, 6 * most):
        records, wrong = few_records(rule, edited(rule, edit))
        shows = sum(not _is_right(rule, record) for record in records)
        if shows < CASES or not all(isinstance(x, Tensor) for r in records for x in r.results if x is not None):
            continue
        if not any(_is_finite(record) for record in records if not _is_right(rule, record)):  # which tells nothing
            continue
        found = diagnose(rule, edited(rule, edit), records, wrong)
        assert found.sentences, (edit.words, found)
        assert found.explained == wrong, (edit.words, found)
        count += 1
        if count == most:
            break
    return count


def _is_right(rule: Rule, record: Any) -> bool:
    found = record.evidence
    pairs = zip(record.results, found.expected, found.allowance, strict=True)
    return all(
        e is None or a is None or g is None or bool(((g.double() - e).abs() <= a)[e.isfinite()].all())
        for g, e, a in pairs
    )


def _is_finite(record: Any) -> bool:
    return all(x is None or bool(x.isfinite().all()) for x in record.results)


def _computes(rule: Rule) -> bool:
    """Whether there is something to edit: a backward may do no more than pass dy on."""
    return rule.has_backward and next(chosen(rule, 1), None) is not None


@pytest.mark.thinned(3)
def test_an_edit_is_told(rule):
    if _computes(rule):
        assert diagnosed(rule, BY_DEFAULT)


@pytest.mark.exhaustive
def test_every_edit_is_told(rule):
    if _computes(rule):
        assert diagnosed(rule, ALL)


@pytest.mark.parametrize("by", [PAGE, TORCH])
def test_a_program_gives_what_the_page_gives(rule, by):
    """At the ordinary case and at those of other sizes, with every hyperparameter."""
    if by == TORCH and not rule.has_backward:
        return
    tried = 0
    for case in spread(list(few_cases(rule)), 4):
        try:
            program = traced(rule, case, by)
        except UntraceableError:
            continue
        wide = [None if x is None else x.double() if x.is_floating_point() else x for x in case.inputs]
        y, grads = rule.vjp(tuple(wide), program.dy, **case.hyper)
        for name, due in zip(rule.arguments, (*parts(y), *grads), strict=True):
            if due is not None and name in program.right:
                torch.testing.assert_close(program.right[name], due, equal_nan=True, check_dtype=False, msg=name)
                tried += 1
    assert tried or by == TORCH


def test_a_right_page_is_no_edit_of_itself():
    page = PAGES["bell"]
    records, _ = few_records(page, page.vjp)
    assert diagnose(page, page.vjp, records, set(page.arguments)).sentences == []


def test_what_no_edit_gives_is_said_with_the_nearest():
    page = PAGES["bell"]

    def candidate(inputs: Any, dy: Any, **hyper: Any) -> Any:
        y, (dx,) = page.vjp(inputs, dy, **hyper)
        return y, (torch.where(torch.sin(37 * inputs[0]) > 0, dx * torch.cos(inputs[0]), dx),)

    found = diagnose(page, candidate, *few_records(page, candidate))
    assert not found.sentences
    assert "no single edit of the page gives this" in found.shared["dx"]


def test_a_cotangent_of_zeros_is_said_to_be_0_however_few_its_numbers():
    """And not to be that of a hyperparameter at which it would be 0."""

    def function(x, weight, gain: float = 3.0):
        return x * weight.sum() * gain

    def candidate(inputs, dy, gain=3.0):
        x, weight = inputs
        return function(x, weight, gain), (dy * weight.sum() * gain, torch.zeros_like(weight))

    report = compare(candidate, function, inputs={"x": (4, 3), "weight": torch.tensor([1.0, 2.0])})
    assert report.diagnoses[0].startswith("dweight is 0 everywhere"), report


def test_what_an_edit_gives_is_counted_number_by_number():
    """One that is huge in one place gives no other number for that."""
    got, due, edited = (torch.tensor(x, dtype=torch.float64) for x in ([1.0, 2, 3], [0.0, 1, 3], [1e20, 2, 3]))
    sample = Sample(
        Case((), None, {}), got, due, torch.full((3,), 1e-6).double(), torch.ones(3, dtype=torch.bool), 1e-5
    )
    assert sample.reproduced(edited) == 1  # the third is right


@pytest.mark.parametrize(
    ("ratios", "words"),
    [
        ([[-0.0, -0.0], [-0.0]], "what is wrong is 0 times what is due"),
        ([[torch.inf], [2.0]], "what is wrong is 2 to inf times what is due"),
        ([[2.0, 2.0], [3.0]], "off by one factor that differs from case to case, from 2 to 3"),
    ],
)
def test_a_factor_that_differs_from_case_to_case_is_one(ratios, words):
    assert of_ratios([torch.tensor(r) for r in ratios]) == words


def test_a_ratio_to_what_is_due_near_0_says_nothing():
    due = torch.tensor([1.0, 2, 1e-6], dtype=torch.float64)
    where = torch.ones(3, dtype=torch.bool)
    sample = Sample(Case((), None, {}), torch.tensor([3.0, 6, 7]).double(), due, 1e-9 * due, where, 1e-5)
    ratios, is_near_0 = ratios_of(sample)
    assert ratios.tolist() == [3, 3]
    assert is_near_0


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("words", ARRANGED)
def test_numbers_that_stand_alone_are_arranged_without_a_warning(words):
    with suppress(RuntimeError, IndexError):  # not defined here
        ARRANGED[words][1](torch.tensor(2.0))


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda dx, x, dy, alpha: torch.where(x > 1, 0, dx), "where x > 1"),
        (lambda dx, x, dy, alpha: torch.where(alpha * x > 1, 0, dx), "where alpha·x > 1"),
        (lambda dx, x, dy, alpha: 3 * dx if alpha < 0 else dx, "where alpha < 0"),
    ],
)
def test_where_it_is_wrong_is_said_with_what_stands_there(change, words):
    page = PAGES["bell"]

    def candidate(inputs: Any, dy: Any, alpha: float = 1.0) -> Any:
        y, (dx,) = page.vjp(inputs, dy, alpha=alpha)
        return y, (change(dx, inputs[0], dy, alpha),)

    (sentence,) = diagnose(page, candidate, *few_records(page, candidate)).sentences
    assert words in sentence, sentence


def feature(numbers, subject="n", kind="number", is_option=False):
    return Feature(numbers.double(), subject, kind, is_option)


def test_a_condition_is_not_read_off_by_chance():
    """One of four has the largest number of something; of forty the half, and nothing else fits as well."""
    assert condition({"n": feature(torch.arange(4))}, torch.tensor([False, False, False, True])) == ""
    many, numbers = torch.arange(40) >= 20, torch.arange(40)
    assert condition({"n": feature(numbers, kind="count")}, many) == "n ≥ 20"
    both = {"n": feature(numbers), "m": feature(-numbers, "m")}
    assert condition(both, many) == ""
    absent = {"weight is absent": feature(~many, "weight", "flag", True)}
    assert condition({**both, **absent}, many) == "weight is given"


def test_where_numbers_hide_an_error_is_no_condition():
    """All of ordinary size is wrong, and right is what is far larger, where it does not show; but few large ones, or
    few small ones, may well be wrong alone."""
    ordinary, far = torch.linspace(0.1, 3, 60), torch.linspace(18, 40, 20)
    numbers = torch.cat([ordinary, far]).double()
    small = numbers < 10
    assert condition({"|v|": feature(numbers)}, small) == ""
    assert condition({"|v|": feature(numbers)}, ~small) == "|v| ≥ 18 (right up to 3)"
    few = numbers <= 0.5
    said = condition({"|v|": feature(numbers * torch.where(few, 0.01, 1.0))}, few)
    assert said.startswith("|v| ≤ 0.0049"), said


def test_parts_of_what_is_taken_apart_have_their_own_names():
    program = next(p for case in few_cases(RULES["gru"]) if "a_z" in (p := traced(RULES["gru"], case)).parts.values())
    assert {called(program, ref) for ref in program.parts} >= {"a_r", "a_z", "a_n"}


def test_what_no_program_is_wrong_for_is_no_condition():
    """That a target holds 0 may be one; that it holds none is so of most cases that show an error."""
    many = torch.arange(40) >= 20
    assert condition({"target holds 0": feature(many, kind="flag")}, many) == "target holds 0"
    for name in ("target holds 0", "index is repeated", "x holds NaN or infinity"):
        assert condition({name: feature(~many, kind="flag")}, many) == ""


def test_a_bound_is_one_number_where_no_other_could_stand_there_and_a_gap_elsewhere():
    assert between(-0.3, 2.0) == 0
    assert between(0.92, 1.17) == 1
    many = torch.arange(40) >= 20
    wide = torch.where(many, torch.arange(40) + 46, torch.arange(40))
    assert condition({"n": feature(wide, kind="count")}, many) == "n ≥ 66 (right up to 19)"
    assert condition({"n": feature(wide / 8)}, many) == "n ≥ 8.25 (right up to 2.375)"
    assert condition({"n": feature(3 + torch.arange(40) / 20)}, many) == "n ≥ 4"
    # Where x is nearly 0 nothing is seen of it, and no bound stands there.
    near_0 = torch.where(torch.arange(40) < 4, torch.arange(40) / 100, torch.arange(40))
    assert condition({"|x|": feature(near_0)}, (near_0 > 0.02) & ~many) == "|x| < 20"


def words_of_edits_that_give(due, program, argument="dx"):
    found = []
    for edit in edits_of(program, program.needed([argument])):
        with suppress(Exception):  # not defined there
            value = edit.results(program, program.needed([argument])).get(argument)
            if value is not None and value.shape == due.shape and torch.allclose(value, due):
                found.append(edit.words)
    return found


def drawn(*shape):
    return torch.randn(shape, generator=torch.Generator().manual_seed(0), dtype=torch.float64)


def test_a_value_is_made_otherwise_at_one_use_alone():
    """x̂ as if eps were 0, and s beside it right; s with eps outside the root, and x̂ beside it right."""
    x, dy = drawn(2, 3, 5)
    program = traced(RULES["rms_norm"], Case((x, None), dy, {"eps": 0.7}))
    square = (x * x).mean(-1, keepdim=True)
    for s, made, words in (
        (
            1 / (square + 0.7).sqrt(),
            1 / square.sqrt(),
            "`0` in place of `eps` in `mean(x·x) + eps`",
        ),
        (1 / (square.sqrt() + 0.7), 1 / (square + 0.7).sqrt(), "`eps` added outside and not inside"),
    ):
        x_hat = x * made
        found = words_of_edits_that_give(s * (dy - x_hat * (dy * x_hat).mean(-1, keepdim=True)), program)
        assert any(words in w for w in found), found


def test_an_axis_is_read_interleaved_and_its_last_block_is_left_out():
    """The weight of a group norm in another order; and dweight without the last of rows that are no multiple of 4."""
    rule, x, dy = RULES["group_norm"], drawn(9, 6, 2), drawn(2, 9, 6, 2)[1]
    program = traced(rule, Case((x, drawn(6), None), dy, {"groups": 2}))
    weight = program.residuals.weight.unflatten(0, (3, 2)).mT.flatten()
    due = rule.page.backward(program.residuals._replace(weight=weight), dy)[0]
    found = words_of_edits_that_give(due, program)
    assert any("read as if they were interleaved" in words for words in found), found
    due = rule.vjp((x[:8], drawn(6), None), dy[:8], groups=2)[1][1]
    found = words_of_edits_that_give(due, program, "dweight")
    assert any("the tail after the last full block of 4 rows" in words for words in found), found


def parts_exchanged(program):
    one, two, three, four = program.right["dweight"].chunk(4)
    return torch.cat([one, three, two, four])


@pytest.mark.parametrize(
    ("name", "inputs", "hyper", "argument", "due", "words"),
    [
        ("linear", [(5, 3), (8, 3), (8,)], {}, "dweight", parts_exchanged, "parts 2 and 3 of 4 of `dweight` exchanged"),
        (
            "scaled_dot_product_attention",
            [(2, 3, 4, 5), (2, 3, 4, 5), (2, 3, 4, 5), None],
            {},
            "dq",
            lambda p: p.rule.page.backward(p.residuals._replace(v=p.residuals.v[:, :1].expand(2, 3, 4, 5)), p.dy)[0],
            "the first of `v` along the third axis from the last",
        ),
        (
            "rms_norm",
            [(3, 4), None],
            {"eps": 0.7},
            "dx",
            lambda p: RULES["rms_norm"].vjp(p.inputs, p.dy, eps=1e-6)[1][0],
            "`1e-06` in place of `eps`",
        ),
    ],
)
def test_what_people_write_in_one_place_is_told(name, inputs, hyper, argument, due, words):
    rule, tensors = RULES[name], tuple(None if shape is None else drawn(*shape) for shape in inputs)
    y, _ = rule.pure(*tensors, **{**rule.defaults, **hyper})
    dy = drawn(2, *y.shape)[1] + 1
    program = traced(rule, Case(tensors, dy, hyper))
    found = words_of_edits_that_give(due(program), program, argument)
    assert any(words in w for w in found), found


def of_the_whole(program, argument):
    """What is said of every edit of the whole page, with what it gives."""
    for edit in whole_edits(program):
        with suppress(Exception):  # not defined here
            yield edit.words, edit.results(program, program.needed([argument])).get(argument)


def with_betas_exchanged(rule, inputs, dy, hyper):
    return rule.pure(*inputs, **hyper | {"beta1": hyper["beta2"], "beta2": hyper["beta1"]})[0].param


@pytest.mark.parametrize(
    ("name", "argument", "change", "words"),
    [
        ("adam_update", "y.param", with_betas_exchanged, "beta1 and beta2 exchanged"),
    ],
)
def test_the_whole_page_is_called_with_something_else(name, argument, change, words):
    rule = RULES[name]
    program = traced(rule, next(few_cases(rule)))
    due = change(rule, program.inputs, program.dy, {**rule.defaults, **program.case.hyper})
    given = [(w, x.double()) for w, x in of_the_whole(program, argument) if x is not None and x.shape == due.shape]
    found = [w for w, x in given if torch.allclose(x, due.double())]
    assert any(words in w for w in found), found


def test_what_was_padded_at_the_other_end_is_told():
    rule = reference(lambda x: torch.nn.functional.pad(x, (2, 0)), {"x": drawn(3, 5)})
    dy = drawn(3, 7)
    found = words_of_edits_that_give(dy[:, :5], traced(rule, Case((drawn(3, 5),), dy, {})))
    assert any("its pad (-2, 0) in reversed order" in words for words in found), found


def test_groups_that_are_interleaved_in_backward_alone_are_told():
    rule = RULES["group_norm"]

    def candidate(inputs: Any, dy: Tensor, **hyper: Any) -> Any:
        y, _ = rule.forward(*inputs, **hyper)
        order = torch.arange(dy.shape[1]).reshape(-1, hyper["groups"]).T.flatten()
        x, *parameters = inputs
        moved = (x[:, order], *(None if p is None else p[order] for p in parameters))
        _, (dx, *others) = rule.vjp(moved, dy[:, order], **hyper)
        back = order.argsort()
        return y, (dx[:, back], *(None if d is None else d[back] for d in others))

    records, wrong = few_records(rule, candidate)
    assert "groups interleaved" in diagnose(rule, candidate, records, wrong, deadline=Deadline(600)).sentences[0]


def test_a_cause_in_one_branch_of_a_page_is_told_of_that():
    """An edit that is not defined in most of the wrong cases, and gives what came in the others."""
    page = PAGES["bell"]

    def candidate(inputs: Any, dy: Any, **hyper: Any) -> Any:
        y, (dx,) = page.vjp(inputs, dy, **hyper)
        return y, (2 * dx,)

    def run(program: Any, _: int) -> Any:
        if program.case.hyper.get("alpha", 1.0) == 1.0:
            raise ValueError("another branch")
        return {"dx": 2 * program.right["dx"]}

    search = Search(page, few_records(page, candidate)[0], {"dx"}, torch.float32, Deadline())
    verdict = Verdict(Edit(1.0, "is doubled", run=run), PAGE, "dx", list(search.points["dx"]))
    assert verdict.holds(Deadline(), 1)
    assert verdict.explained < verdict.silent
    assert not verdict.is_exact
    search.partial["dx"] = [verdict]
    ((_, sentence),) = told(search)
    assert f"so in {verdict.explained} cases in which it is wrong" in sentence
    assert f"in {verdict.silent} more cases it is not defined" in sentence


def _by_the_block(dy):
    return dy.sum(-1, keepdim=True) / 2 ** math.ceil(math.log2(dy.shape[-1]))


def _of_each_half(dy):
    return dy.unflatten(-1, (2, -1)).mean(-1).repeat_interleave(dy.shape[-1] // 2, -1)


@pytest.mark.parametrize(
    ("mean", "words"), [(_by_the_block, "the power of two from n on"), (_of_each_half, "the mean over each of 2 parts")]
)
def test_a_mean_by_blocks_is_told(mean, words):
    def function(x):
        return x - x.mean(-1, keepdim=True)

    def candidate(inputs, dy):
        return function(*inputs), (dy - mean(dy),)

    cases = [Case((torch.randn(3, n),), torch.randn(3, n), name=f"{n} columns") for n in (6, 10, 14)]
    report = compare(candidate, function, cases=cases)
    assert words in str(report.diagnoses), report


def test_of_a_page_that_takes_long_fewer_cases_are_looked_at(monkeypatch):
    """With those that are wrong and right among them, and the same for every argument."""
    page = PAGES["masked_row"]
    records, _ = few_records(page, lambda inputs, dy: (page.vjp(inputs, dy)[0], (inputs[0] + dy, None)))
    search = Search(page, records, {"y", "dx"}, torch.float32, Deadline())
    every = len(search.points["dx"])
    monkeypatch.setattr(looked_at, "WRITTEN", 0.0)
    monkeypatch.setattr(looked_at, "FEWEST", 6)
    search.thin()
    assert 3 <= len(search.points["dx"]) <= 7 < every
    assert search.probe("dx") in search.points["dx"]
    assert search.left_out == {"dx"}


@pytest.mark.parametrize("steps", [zip, lambda a, b: ((a[t], b[t]) for t in range(len(a)))], ids=["zip", "index"])
@pytest.mark.parametrize("gate", [torch.clone, torch.sigmoid], ids=["given", "made"])
def test_a_state_that_is_one_step_late_is_told_in_loops_of_any_length(gate, steps):
    """Of a gate that is given, and of one that is made in the loop, so that more is made of its cotangent there; where
    each step's are taken by an index too, so that torch adds up what is written into zeros."""

    def scan(a, b):
        h, states = torch.zeros_like(b[0]), []
        for a_t, b_t in steps(a, b):
            h = gate(a_t) * h + b_t
            states.append(h)
        return torch.stack(states)

    def late(program):
        slope = gate(a[: len(program.dy)]) * (1 - gate(a[: len(program.dy)])) if gate is torch.sigmoid else 1
        return program.right["db"] * program.right["y"] * slope

    a, b, dy = drawn(3, 4, 5)
    rule = reference(scan, {"a": a, "b": b})
    program = traced(rule, Case((a, b), dy, {}))
    edits = [e for e in edits_of(program, program.needed(["da"])) if "of the step after" in e.words]

    def gives(edit):
        with suppress(ValueError):  # a state cannot be made of itself
            return torch.allclose(edit.results(program).get("da", torch.zeros(())), late(program))

    edit = next(filter(gives, edits))
    program = traced(rule, Case((a[:3], b[:3]), dy[:3], {}))
    torch.testing.assert_close(edit.results(program)["da"], late(program))


@pytest.mark.parametrize(
    ("is_wrong", "words"),
    [
        (lambda n: n > 8, "right up to a length of 8 of the axis rows, and wrong from 9 on"),
        (lambda n: n > 8 and n % 8, "wrong where the axis rows is longer than 8 and no multiple of 8"),
        (lambda n: n == 19, ""),
        (lambda n: n == 19 or n % 3 == 0, ""),  # of 1 to 4 so is what is no multiple of 2
    ],
)
def test_from_which_length_on_it_is_wrong_is_found_by_calling_it(is_wrong, words):
    page = PAGES["masked_row"]

    def candidate(inputs: Any, dy: Any) -> Any:
        y, (dx, _) = page.vjp(inputs, dy)
        return y, (dx + 1 if is_wrong(math.prod(dx.shape[:-1])) else dx, None)

    records, wrong = few_records(page, candidate)
    search = Search(page, records, wrong, torch.float32, Deadline())
    said = longer(Drawn(search, candidate), search, candidate, "dx")
    assert words in said
    assert bool(words) == bool(said)


def test_cases_are_drawn_in_which_what_came_together_comes_apart():
    """It is wrong for a negative alpha, which was seen with other lengths alone."""
    page = PAGES["bell"]

    def candidate(inputs: Any, dy: Any, alpha: float = 1.0) -> Any:
        y, (dx,) = page.vjp(inputs, dy, alpha=alpha)
        return y, (3 * dx if alpha < 0 else dx,)

    cases = [Case((drawn(n),), drawn(2, n)[1], {"alpha": alpha}) for n, alpha in ((9, -1.0), (40, 1.0))]
    cases = [case.with_tensors(x.float() for x in case.tensors) for case in cases]
    every = [evidence(page, case, contract_of(torch.float32)) for case in cases]
    records, wrong = judged(page, candidate, every, torch.float32)
    search = Search(page, records, wrong, torch.float32, Deadline())
    points = search.points["dx"]
    fresh = Drawn(search, candidate).fresh("dx", points[:1], points[1:])
    assert {(p.case.hyper["alpha"], p.size) for p in fresh} >= {(-1.0, 40), (1.0, 9)}
    assert all(p.samples["dx"].is_wrong == (p.case.hyper["alpha"] < 0) for p in fresh)
    assert {p.size for p in fresh} >= {10, 41, 15}  # one more, and what leaves another remainder of every block


def test_a_name_that_holds_for_one_number_is_none():
    page = PAGES["bell"]
    records, _ = few_records(page, lambda inputs, dy, **hyper: (page.vjp(inputs, dy, **hyper)[0], (2 * dy,)))
    search = Search(page, records, {"dx"}, torch.float32, Deadline())
    points = [p for p in search.points["dx"] if "alpha" in p.case.hyper]
    verdict = Verdict(Edit(1.0, "", fitted=lambda program: program.case.hyper["alpha"]), PAGE, "dx", [], points)
    assert verdict.is_known
    verdict.agreeing = points[:1]
    assert not verdict.is_known
    verdict.edit = Edit(1.0, "", fitted=Always(2.0))
    assert verdict.is_known


def test_a_number_of_one_case_is_none_of_the_formula():
    """Without padding `pad` is 0, with which nothing is to be done where it is 1; what a page fills in is told with
    what it is filled into."""
    rule, x = RULES["avg_pool"], drawn(1, 1, 7)
    hyper = {"kernel": 2, "stride": 3, "ceil_mode": True}
    bare, padded = (
        traced(rule, Case((x,), torch.ones_like(rule.forward(x, **hyper, padding=pad)[0]), {**hyper, "padding": pad}))
        for pad in (0, 1)
    )
    edit, *_ = (e for e in edits_of(bare, -1) if "`3` in place of `0` in `start`" in e.words)
    edit.results(bare)
    with pytest.raises(RefusedError):
        edit.results(padded)
    case = Case((drawn(3, 4), torch.tensor([0, 3, -100]), drawn(4)), torch.tensor(1.0).double(), {})
    every = [e.words for e in edits_of(traced(RULES["softmax_cross_entropy"], case), -1) if "`0`" in e.words]
    assert any("`0` in `where(" in words and words.endswith("taken for 1") for words in every), every
    assert not any("with `0` taken for 1" in words for words in every), every


def test_what_fits_no_better_than_what_is_due_is_no_evidence():
    due = drawn(40)
    sample = Sample(None, due + 3e-7, due, torch.full_like(due, 1e-7), torch.ones(40, dtype=torch.bool), 0.0)
    by_chance = due + 3e-7 * torch.sign(drawn(2, 40)[1])
    assert sample.agrees(due)
    assert sample.evidence(due) == 0
    assert sample.evidence(by_chance) < CERTAIN < sample.evidence(due + 3e-7)


def test_that_0_came_is_little_evidence_for_what_gives_0():
    due, got = drawn(40), torch.zeros(40, dtype=torch.float64)
    sample = Sample(None, got, due, torch.full_like(due, 1e-7), torch.ones(40, dtype=torch.bool), 0.0)
    assert 0 < sample.evidence(got) < MORE
    elsewhere = Sample(None, due + 1, due, sample.allowance, sample.judged, 0.0)
    assert elsewhere.evidence(due + 1) > MORE


def test_of_formulas_that_overflow_that_is_named_which_does_so_where_it_came():
    """In float64 another one overflows in each of the first two cases too; the third tells them apart."""
    rule = RULES["mish"]
    generator = torch.Generator().manual_seed(0)
    ordinary = [3 * torch.rand(4, 16, generator=generator) for _ in range(8)]
    edges = [
        torch.tensor(x) for x in ([3.0, 80.0, 800.0], [0.5, 2e2, 3e2, 4e2, 5e2, 6e2, 3e3], [22.5, 44.5, 89.0, 178.0])
    ]
    given = [
        evidence(rule, Case((x,), torch.ones_like(x), {}), contract_of(torch.float32)) for x in [*edges, *ordinary]
    ]
    mistake = next(m for m in rule.mistakes if m.name.startswith("softplus by log"))
    candidate = rule.mistaken(mistake.backward)
    (sentence,) = diagnose(rule, candidate, *judged(rule, candidate, given, torch.float32)).sentences
    assert f"'{mistake.name}'" in sentence, sentence


def two_at_once(inputs, dy):
    """The sign of dy in one term, and the mask forgotten in the other."""
    x, mask = inputs
    y, _ = PAGES["masked_row"].vjp(inputs, dy)
    m = torch.ones_like(x) if mask is None else mask.to(x.dtype)
    n = m.sum(-1, keepdim=True).clamp(min=1)
    return y, (m * (torch.sign(dy) - dy.sum(-1, keepdim=True) / n), None)


def test_two_causes_are_told_together():
    records, wrong = few_records(PAGES["masked_row"], two_at_once)
    (sentence,) = diagnose(PAGES["masked_row"], two_at_once, records, wrong).sentences
    assert "the sign of `dy` in place of `dy`" in sentence or "`sign(dy)`" in sentence, sentence
    assert "the factor `m` left out" in sentence or "m taken for 1" in sentence, sentence
