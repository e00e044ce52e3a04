"""The words of a report: counts, order, digits; sentences that would mislead are not said."""

from __future__ import annotations

import itertools
import json
import math
import re
import traceback

import pytest
import torch
from typer.testing import CliRunner

import manual_bp as bp
from manual_bp.arithmetic.bounded import contract_of
from manual_bp.cli import app
from manual_bp.oracle import Case, Mismatch, Report, compare, diagnosis
from manual_bp.oracle.cases.generated import generated
from manual_bp.oracle.reports.report import SHOWN
from manual_bp.oracle.reports.summary import named, patterns
from manual_bp.oracle.truth.evidence import evidence
from manual_bp.oracle.words import beside_one, cut, grouped, some, told_apart, without_frames
from tests.oracle.test_diagnosis import LONG

AWKWARD = [0.0, 1.0, 1 + 1e-9, -1.0, 2.5e-9, math.nan, math.inf, -math.inf]


def wrong(argument="dx", case="a", pattern="every element (12)", kind="wrong", index=(0, 1), **more):
    numbers = {"expected": 0.5, "got": 0.25, "ulps": 4e6, "error_over_allowance": 4e5} if index is not None else {}
    return Mismatch(kind, argument, case, index=index, pattern=pattern, **{**numbers, **more})


def trap(detail, case="a", argument="y"):
    return Mismatch("trap", argument, case, detail)


def report(**fields):
    return Report("tanh", "float32", "cpu", **fields)


# ------------------------------------------------------------------------------------------------------------- words


@pytest.mark.parametrize(
    ("a", "b", "words"),
    [
        (0.5, 0.25, ("0.5", "0.25")),
        (29.072813, 29.0728130001, ("29.072813", "29.0728130001")),
        (1.0, math.nextafter(1.0, 2.0), ("1", "1.0000000000000002")),
        (math.nan, 1.0, ("nan", "1")),
        (math.inf, math.inf, ("inf", "inf")),
        (2.0, 2.0, ("2", "2")),
    ],
)
def test_two_numbers_are_told_apart(a, b, words):
    assert told_apart(a, b) == words


@pytest.mark.parametrize(
    ("factor", "words"),
    [(2.0, "2"), (1 + 3e-6, "1 + 3e-06"), (1 - 3e-6, "1 - 3e-06"), (0.9, "0.9"), (math.inf, "inf"), (0.0, "0")],
)
def test_no_factor_reads_1_that_is_another(factor, words):
    assert beside_one(factor) == words


def test_what_is_said_of_several_is_said_once():
    texts = ["y: no case", "case 'a': takes no alpha", "dx: no case", 'case "it\'s": takes no alpha', "case 'c': other"]
    assert grouped(texts, 3) == ["y and dx: no case", "2 cases ('a' and \"it's\"): takes no alpha", "case 'c': other"]
    assert some("abcde", 2) == "a, b and 3 more"
    assert some("aba", 2) == "a and b"


def test_of_a_traceback_the_exception_and_its_place():
    try:
        raise ValueError("empty\nbatch")
    except ValueError:
        text = without_frames(f"case 'a' and 3 more: {traceback.format_exc()}")
    assert re.fullmatch(r"case 'a' and 3 more: ValueError: empty; File .*test_report.py.*", text)
    assert cut("a  b\n" * 100, 10) == "a b a b a  ..."


# -------------------------------------------------------------------------------------------------------- the report


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"cases": 52}, "agrees in 52 cases"),
        ({"cases": 1, "left_out": 2}, "agrees in 1 case; 2 cases left out"),
        ({"cases": 52, "failed": 45, "mismatches": [wrong()]}, "FAILS in 45 of 52 cases"),
        ({"cases": 52, "failed": 1, "raised": 3, "mismatches": [wrong()]}, "FAILS in 1 of 52 cases; raised in 3 more"),
        ({"raised": 40, "mismatches": [trap("raised E")]}, "FAILS: raised in 40 cases; none was judged"),
        ({"malformed": 1, "mismatches": [trap("x")]}, "FAILS: returned no (y, grads) in 1 case; none was judged"),
        ({"cases": 34, "raised": 1, "mismatches": [trap("x")]}, "FAILS: raised in 1 case; agrees in 34 cases"),
        (
            {"cases": 3, "untested_arguments": ["dx"]},
            "NOT TESTED: nothing is wrong in 3 cases, and it is not known whether dx is right",
        ),
        (
            {"left_out": 1},
            "NOT TESTED: no case could be judged, and it is not known whether anything is right; 1 case left out",
        ),
    ],
)
def test_headline(fields, words):
    found = report(**fields)
    assert found.headline == f"tanh (float32, cpu): {words}"
    assert str(found).startswith(found.headline)
    if words.startswith("FAILS"):
        assert found.told.sentence.endswith(f"not what is due{words.removeprefix('FAILS')}.")


def test_order_and_length():
    names = [f"case {i}" for i in range(44)]
    found = report(
        cases=50,
        failed=44,
        mismatches=[wrong(case=name) for name in names],
        diagnoses=["dx is 2 times what it should be"],
        findings=["the candidate changed a setting"],
        not_tested=["case 'a': takes no p", "case 'b': takes no p"],
        notes=[f"note {i}" for i in range(9)],
    )
    head, cause, *shown = str(found).splitlines()
    assert "FAILS in 44 of 50 cases" in head
    assert cause == "  diagnosis: dx is 2 times what it should be"
    assert [line.startswith("  wrong: ") for line in shown[:4]] == [True] * 3 + [False]
    assert shown[3] == "  ... and 41 more"
    assert shown[4:6] == [
        "  finding: the candidate changed a setting",
        "  not tested: 2 cases ('a' and 'b'): takes no p",
    ]
    assert shown[-2] == "  note: ... and 4 more"
    assert "verbose" in shown[-1]
    full = found.text(verbose=True)
    assert all(repr(name) in full for name in names)
    assert "note 8" in full
    assert sorted(f"{found.opening()}\n{found.closing()}".splitlines()) == sorted(str(found).splitlines())


def test_the_mismatches_that_are_shown_tell_most():
    """Each argument, then each pattern; what is no value is shown once."""
    found = report(
        mismatches=[wrong(), wrong(case="b"), wrong("dy", pattern="a row: [2, :]"), wrong(pattern="a tile: [1:2]")]
    )
    assert [str(m) for m in found.mismatches if str(m) in str(found)] == [str(found.mismatches[i]) for i in (0, 2, 3)]
    assert str(report(mismatches=[trap("raised E", case) for case in "abc"])).count("trap: ") == 1
    assert SHOWN == 3


def test_json_has_the_counts():
    found = json.loads(report(cases=3, failed=2, raised=1, mismatches=[wrong()]).to_json())
    assert found["schema"] == 2
    assert (found["cases"], found["failed"], found["raised"], found["malformed"], found["left_out"]) == (3, 2, 1, 0, 0)


@pytest.mark.parametrize("index", [(), (0,), (1, 2)])
def test_a_mismatch_reads_well_whatever_its_numbers(index):
    for expected, got, ulps, ratio in itertools.product(AWKWARD, AWKWARD, (0.5, math.inf), (1 + 1e-9, 7.0, math.inf)):
        text = str(wrong(index=index, expected=expected, got=got, ulps=ulps, error_over_allowance=ratio))
        assert not re.search(r"\[\]|; ;|: ;|;\s*$|inf ulp|inf times|\b1 times", text), text
        a, b = re.search(r"expected (\S+), got ([^ ;]+)", text).groups()
        assert (a != b) or expected == got or expected != expected


def test_patterns_read_well():
    tail = "a column: [:, 4], the tail after the last full block of 4"
    for mismatches, cases, words in [
        ([wrong()], 1, ["dx: wrong in the only case; every element (12)"]),
        ([wrong(pattern="")], 9, ["dx: wrong in 1 of 9 cases ('a'); no pattern that all of these share was found"]),
        ([wrong(case=c) for c in "abcd"], 9, ["dx: wrong in 4 of 9 cases; each time every element (12)"]),
        ([wrong(index=(), pattern="the only element")] * 2, 9, ["dx: wrong in 2 of 9 cases ('a')"]),
        ([wrong(pattern=tail), wrong(case="b", pattern=f"elements {tail}")], 2,
         ["dx: wrong in 2 of 2 cases ('a' and 'b'); each time in the tail after the last full block"]),
        ([trap("raised E")], 2, []),
    ]:  # fmt: skip
        assert list(patterns(mismatches, (), {}, cases)) == words
    assert list(patterns([wrong()], ["dx"], {}, 1)) == []
    assert list(patterns([wrong()], (), {"dx": "it is blue"}, 1)) == ["dx: wrong in the only case; it is blue"]


def test_what_says_itself_what_is_wrong_is_said_once():
    shapes = [trap("shape must be (5,); came (1, 5)", "a"), trap("shape must be (0,); came (1, 0)", "b")]
    assert list(named(shapes, ())) == ["y: shape must be (5,); came (1, 5); in case 'a', and likewise in 1 more"]
    assert list(named(shapes, ["y"])) == []
    raised = [trap("raised E: no", case) for case in "abcde"]
    assert list(named(raised, ["y"])) == ["y: raised E: no; in cases 'a', 'b', 'c' and 2 more"]
    lost = [wrong(kind="digits", detail="loses digits")]
    assert list(named(lost, ())) == ["dx: loses digits; in case 'a'"]


# ------------------------------------------------------------------------------------------- counts of real comparisons


@pytest.mark.parametrize("trouble", ["raises", "returns None", "is wrong", "takes no alpha"])
def test_counts(trouble):
    cases = [case for case in generated(bp.elu, torch.float32, "cpu") if case.dy.numel() < 100]
    empty = sum(not case.dy.numel() for case in cases)

    def candidate(inputs, dy, alpha=1.0):
        if dy.numel():
            return bp.elu.vjp(inputs, dy, alpha=alpha)
        if trouble == "raises":
            raise ValueError("empty batch")
        return None if trouble == "returns None" else (inputs[0][None], (dy,))

    def without_alpha(inputs, dy):
        return bp.elu.vjp(inputs, dy)

    found = compare(without_alpha if "alpha" in trouble else candidate, "elu", cases=cases, diagnose=0)
    assert found.cases + found.raised + found.malformed + found.left_out == len(cases)
    counts = {"raises": found.raised, "returns None": found.malformed, "is wrong": found.failed}
    expected = dict.fromkeys(counts, 0) | ({trouble: empty} if trouble in counts else {})
    assert counts == expected
    assert bool(found.left_out) == (trouble == "takes no alpha")


# ------------------------------------------------------------------------------------- memory that was never written


@pytest.mark.parametrize(
    ("padded", "words"),
    [
        (True, "dbias is computed from memory that was never written"),
        (False, "dbias is not written in full: never written"),
    ],
)
def test_reading_unwritten_memory_is_told_from_not_writing(padded, words):
    """A sum over rows padded to a multiple of 8 with memory as it was found, and a bias gradient without its last."""

    def candidate(inputs, dy):
        y, (dx, dweight, dbias) = bp.linear.vjp(inputs, dy)
        rows = dy.reshape(dy.shape[:-1].numel(), dy.shape[-1])
        if padded:
            block = dy.new_empty(len(rows) // 8 * 8 + 8, dy.shape[-1])
            block[: len(rows)] = rows
            return y, (dx, dweight, block.sum(0))
        partly = torch.empty_like(dbias)
        partly[:-1] = dbias[:-1]
        return y, (dx, dweight, partly)

    (case,) = (case for case in generated(bp.linear, torch.float32, "cpu") if case.name == "ordinary")
    assert compare(candidate, "linear", cases=[case]).diagnoses[0].startswith(words)


# ------------------------------------------------------------------------------------------ sentences that are not true


def test_a_dispute_about_a_value_is_written_with_the_digits_that_differ(monkeypatch):
    page = bp.square_loss.page
    right = page.forward
    monkeypatch.setattr(page, "forward", lambda *a, **k: ((1 + 1e-12) * right(*a, **k)[0], right(*a, **k)[1]))
    x = torch.tensor([[1.0, 2.0, 4.0]], dtype=torch.float64)
    case = Case((x, torch.zeros_like(x)), torch.tensor(1.0, dtype=torch.float64))
    dispute = evidence(bp.square_loss, case, contract_of(torch.float64)).dispute
    ours, theirs = re.fullmatch(r"y is (\S+) by the page and (\S+) by torch", dispute).groups()
    assert ours != theirs


def batch_norm_like(factor=None, centred=False, hat=False, stored=None):
    """Batch norm whose backward goes wrong in one way."""

    def candidate(inputs, dy, eps=1e-5):
        x, weight, bias = inputs
        y, _ = bp.batch_norm.vjp(inputs, torch.zeros_like(dy), eps=eps)
        axes = [a for a in range(x.ndim) if a != 1]
        mean, variance = x.mean(axes, keepdim=True), x.var(axes, correction=0, keepdim=True)
        if stored:
            mean, variance = mean.to(stored).to(x.dtype), variance.to(stored).to(x.dtype)
        scale = (variance + eps).rsqrt()
        if hat:
            return y, bp.batch_norm.vjp((((x - mean) * scale), weight, bias), dy, eps=eps)[1]
        h = x - mean if centred else (x - mean) * scale
        w = weight.reshape(-1, *[1] * (x.ndim - 2))
        dx = w * scale * (dy - dy.mean(axes, keepdim=True) - h * (dy * h).mean(axes, keepdim=True))
        return y, (dx, (dy * h).sum(axes), dy.sum(axes))

    return candidate


def unequal_shards(inputs, dy):
    """The mean of the losses of shards of 3 examples, the last of which is smaller."""
    x, target = inputs
    parts = [bp.square_loss.vjp(pair, dy) for pair in zip(x.split(3), target.split(3), strict=True)]
    dx = torch.cat([grads[0] for _, grads in parts]) / len(parts)
    return sum(y for y, _ in parts) / len(parts), (dx, -dx)


class FrozenBatch:
    """Divides by the batch size of the first call."""

    first = None

    def __call__(self, inputs, dy):
        y, (dx, dtarget) = bp.square_loss.vjp(inputs, dy)
        self.first = self.first or len(inputs[0])
        return y, (dx * len(inputs[0]) / self.first, dtarget * len(inputs[0]) / self.first)


def by_what_is_kept(inputs, dy, p):
    y, (dx, _) = bp.dropout.vjp(inputs, dy, p=p)
    return y, (dx * dy.numel() * (1 - p), None)


def tree(x):
    """Pairs are added until one row is left; an odd one is dropped."""
    while len(x) > 1:
        x = x[: len(x) // 2 * 2 : 2] + x[1::2][: len(x) // 2]
    return x.sum(0)


def tree_reduction(inputs, dy):
    y, (dx, dweight, _) = bp.linear.vjp(inputs, dy)
    return y, (dx, dweight, tree(dy.reshape(dy.shape[:-1].numel(), dy.shape[-1])))


def tree_of_cost(inputs, dy, lam, n=1):
    (weight,) = inputs
    return lam / (2 * n) * tree(weight.flatten() ** 2), bp.l2_penalty.vjp(inputs, dy, lam=lam, n=n)[1]


def half_signs(inputs, dy, lam, n=1):
    y, (dweight,) = bp.l1_penalty.vjp(inputs, dy, lam=lam, n=n)
    return y, (dweight.sign() / 2,)


SIXTEEN = r"off as after arithmetic in 16 bits \((float16 or )?bfloat16\)|rounded to bfloat16"
UNNAMED = {
    "x̂ where x is due": (batch_norm_like(hat=True), "batch_norm", "^dx equals the page with the factor `s` left out"),
    "x - μ where x̂ is due": (
        batch_norm_like(centred=True),
        "batch_norm",
        r"^dx and dweight equal the page with the factor `s` left out",
    ),
    "statistics in 16 bits": (batch_norm_like(stored=torch.bfloat16), "batch_norm", SIXTEEN),
    "unequal shards": (unequal_shards, "square_loss", ""),
    # By 1/4, as often as the batch is long; 2 that divides in place of multiplying is 1/4 as well.
    "frozen batch": (
        FrozenBatch(),
        "square_loss",
        "batch times (the page's with `dy` multiplied by 1/4|.*a division in place of a product in `.x - target.·2`)",
    ),
    "off by what is kept": (by_what_is_kept, "dropout", "^dx is shape times that of p=0"),
    # What is left of a count that is halved, and odd ones dropped, is its largest power of two.
    "tree that drops odd ones": (tree_reduction, "linear", "beyond the largest power of two left out of"),
    "tree of a cost": (
        tree_of_cost,
        "l2_penalty",
        "^y equals the page with .* beyond the largest power of two left out",
    ),
    "few digits by nature": (
        half_signs,
        "l1_penalty",
        r"^dweight is 1/2 times the page's with `sign\(dweight\)` in place of `dweight`",
    ),
}
"""Wrong programs, and what is true of them among what may be said."""


@pytest.mark.parametrize(
    "name", [name if k % 2 else pytest.param(name, marks=pytest.mark.exhaustive) for k, name in enumerate(UNNAMED)]
)
def test_where_no_cause_is_known_none_is_named(name):
    candidate, rule, true = UNNAMED[name]
    usual = [case for case in generated(bp.RULES[rule], torch.float32, "cpu") if 2 < case.inputs[0].numel() < 100]
    of_each_size = {case.inputs[0].shape: case for case in reversed(usual)}
    found = compare(candidate, rule, cases=list(of_each_size.values())[-8:], diagnose=LONG)
    assert found.mismatches
    for sentence in found.diagnoses:
        assert true, sentence
        assert re.search(true, sentence)
    assert found.patterns or found.diagnoses
    for sentence in found.patterns:
        assert re.match(r"\w+: wrong in (\d+ of \d+ cases|the only case)", sentence)
    if true == "":
        assert "no cause was found" in str(found)


def test_one_number_is_no_pattern():
    """A cost is a multiple of any other, which says nothing."""
    cases = generated(bp.l2_penalty, torch.float32, "cpu")[:12]
    found = compare(tree_of_cost, "l2_penalty", cases=cases, diagnose=LONG)
    assert found.mismatches
    assert not any("factor" in sentence for sentence in [*found.diagnoses, *found.patterns])


# ---------------------------------------------------------------------------------------------------- the time it takes


def doubled(inputs, dy):
    y, (dx,) = bp.tanh.vjp(inputs, dy)
    return y, (2 * dx,)


def test_the_search_ends_in_time(monkeypatch):
    def endless(search, candidate, argument):
        while True:
            search.deadline.check()

    monkeypatch.setattr(diagnosis, "AFTER", (endless,))

    def candidate(inputs, dy):
        y, (dx,) = doubled(inputs, dy)
        return y + torch.sin(99 * y), (dx,)

    seen = []
    cases = generated(bp.tanh, torch.float32, "cpu")[:8]
    found = compare(
        candidate, "tanh", cases=cases, diagnose=2, on_verdict=lambda r: seen.append((r.failed, r.diagnoses))
    )
    assert seen == [(8, [])]
    assert found.diagnoses[0].startswith("dx is 2 times")
    assert found.patterns[0].startswith("y: wrong in ")
    assert found.search == "the search for the cause ended after 2 s: more may be found with diagnose=20"
    assert found.search in str(found)


def test_of_many_cases_some_are_looked_at():
    """And the evidence says so."""
    cases = generated(bp.tanh, torch.float32, "cpu")[:8]
    found = compare(lambda inputs, dy: bp.tanh.vjp(inputs, dy.abs()), "tanh", cases=[*cases] * 24, diagnose=LONG)
    told = re.search(
        r"dx equals .*`\|d[xy]\|` in place of `d[xy]`.*; so in all (\d+) cases looked at", found.diagnoses[0]
    )
    assert len(cases) <= int(told[1]) < found.cases == 24 * len(cases)


def test_no_search():
    found = compare(doubled, "tanh", diagnose=0)
    assert not found.passed
    assert not found.diagnoses
    assert "no cause was sought: dx: wrong in" in str(found)
    with pytest.raises(ValueError, match="diagnose must be the seconds"):
        compare(doubled, "tanh", diagnose=-1)


def test_the_command_line_tells_the_verdict_first(monkeypatch):
    def run(*more):
        target = f"{__name__}:doubled"
        return CliRunner().invoke(app, ["check", target, "--against", "tanh", *more])

    lines = run().output.splitlines()
    assert "tanh (float32, cpu): FAILS in" in lines[0]
    assert lines[1].startswith("  wrong: dx")
    assert any(line.startswith("  diagnosis: dx is 2 times") for line in lines[4:])
    full = run("--verbose", "--diagnose", "0").output
    assert full.count("  wrong: dx") > SHOWN
    assert "no cause was sought" in full
