"""The diagnosis: every registered mistake is named, every detector fires, and a right candidate gets none."""

from __future__ import annotations

import re

import pytest
import torch

import manual_bp as bp
from manual_bp.arithmetic.bounded import contract_of
from manual_bp.oracle import compare
from manual_bp.oracle.diagnosis import Record, diagnose
from manual_bp.oracle.errors import errors
from manual_bp.oracle.evidence import Evidence, generated_evidence
from tests.oracle.bank import entries
from torch_ref import twin

# Seconds that nobody waits for: what a search finds may not depend on the machine.
LONG = 600.0


def records_of(rule, candidate, dtype=torch.float32):
    """What compare gathers: every generated case at which the candidate returns, and the arguments that are wrong."""
    records, wrong = [], set()
    for found in generated_evidence(rule, dtype, "cpu", contract_of(dtype)):
        if not isinstance(found, Evidence):
            continue
        case = found.case
        try:
            y, grads = candidate(case.inputs, case.dy, **case.hyper)
        except Exception:
            continue
        records.append(Record(found, (y, *grads)))
        for i, name in enumerate(("y", *(f"d{name}" for name in rule.inputs))):
            got, expected = (y, *grads)[i], found.expected[i]
            if expected is not None and got is not None and got.shape == expected.shape and got.numel():
                ratio, _ = errors(got, expected, found.allowance[i], dtype)
                if bool((ratio > 1).any()):
                    wrong.add(name)
    return records, wrong


def diagnosis(rule, candidate, dtype=torch.float32):
    rule = bp.RULES[rule] if isinstance(rule, str) else rule
    records, wrong = records_of(rule, candidate, dtype)
    found = diagnose(rule, candidate, records, wrong)
    return [*found.sentences, *found.shared.values()]


MISTAKES = [(rule.name, m) for rule in bp.RULES.values() for m in rule.mistakes if not m.loses_digits]


@pytest.mark.parametrize(("rule", "mistake"), MISTAKES, ids=[f"{rule}-{m.name}" for rule, m in MISTAKES])
def test_every_registered_mistake_is_named_first(rule, mistake):
    found = diagnosis(rule, bp.RULES[rule].mistaken(mistake.backward))
    assert f"'{mistake.name}'" in found[0]
    assert mistake.seen is None or mistake.seen in found[0]


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
@pytest.mark.parametrize("rule", bp.RULES)
def test_a_right_candidate_gets_none_even_if_everything_were_called_wrong(rule, dtype):
    page = bp.RULES[rule]
    everything = {"y", *(f"d{name}" for name in page.inputs)}
    for candidate in (page.vjp, twin(rule)):
        records, _ = records_of(page, candidate, dtype)
        assert diagnose(page, candidate, records, everything).sentences == []


def changed(rule, change, position=0):
    """The rule with `change` done to one of its cotangents."""

    def candidate(inputs, dy, **hyper):
        y, grads = bp.RULES[rule].vjp(inputs, dy, **hyper)
        grads = list(grads)
        grads[position] = change(grads[position], inputs, dy, hyper)
        return y, tuple(grads)

    return candidate


def formula(rule, backward):
    return bp.RULES[rule].mistaken(backward)


def term_scaled(term, factor):
    def candidate(inputs, dy, **hyper):
        y, residuals = bp.batch_norm.forward(*inputs, **hyper)
        dx, *others = bp.batch_norm.backward(residuals, dy)
        part = bp.batch_norm.terms(residuals, dy)["dx"][term]
        return y, (dx + (factor(inputs[0]) - 1) * part, *others)

    return candidate


def term_of_ones(inputs, dy, **hyper):
    """batch_norm without dy in its mean term."""
    y, residuals = bp.batch_norm.forward(*inputs, **hyper)
    dx, *others = bp.batch_norm.backward(residuals, dy)
    mean, of_ones = (bp.batch_norm.terms(residuals, g)["dx"]["mean"] for g in (dy, torch.ones_like(dy)))
    return y, (dx - mean + of_ones, *others)


def contiguous_only(inputs, dy):
    """Reads dy's memory row by row, whatever its strides."""
    y, _ = bp.tanh.vjp(inputs, dy)
    wide = torch.cat([torch.as_strided(dy, (dy.untyped_storage().nbytes() // 4,), (1,), 0), torch.zeros(dy.numel())])
    read = wide[dy.storage_offset() :][: dy.numel()].reshape(dy.shape)
    return y, bp.tanh.vjp(inputs, read)[1]


def in_halves(inputs, dy):
    x, weight, _ = inputs
    y, (_, dweight, dbias) = bp.linear.vjp(inputs, dy)
    return y, ((dy.to(torch.bfloat16) @ weight.to(torch.bfloat16)).to(x.dtype), dweight, dbias)


def values_per_channel(x):
    return x.numel() / max(x.shape[1], 1)


class StaleMask:
    """Keeps the mask of the call before."""

    def __init__(self):
        self.kept = {}

    def __call__(self, inputs, dy):
        (x,) = inputs
        mask = self.kept.get(x.shape, x > 0)
        self.kept[x.shape] = x > 0
        return torch.relu(x), (torch.where(mask, dy, 0),)


def capped(inputs, dy):
    (x,) = inputs
    return torch.relu(x), (torch.where((x > 0) & (x < 2), dy, 0),)


def without_first_row(inputs, dy):
    y, (dx, dweight, _) = bp.linear.vjp(inputs, dy)
    return y, (dx, dweight, dy.reshape(dy.shape[:-1].numel(), dy.shape[-1])[1:].sum(0))


def truncated(inputs, dy, alpha=1.0):
    y, _ = bp.elu.vjp(inputs, dy, alpha=alpha)
    return y, bp.elu.vjp(inputs, dy, alpha=float(int(alpha)))[1]


DETECTORS = {
    "earlier call": (StaleMask(), "relu", "depends on earlier calls"),
    "threshold": (capped, "relu", "dx is wrong where x ≥ 2"),
    "left out of a sum": (without_first_row, "linear", "dbias leaves out a part of dy: the first row of the batch"),
    "truncated hyperparameter": (truncated, "elu", "alpha is truncated to an integer"),
    "factor": (changed("tanh", lambda g, *_: 3 * g), "tanh", "dx is 3 times"),
    "zero": (changed("linear", lambda g, *_: 0 * g, 1), "linear", "dweight is 0 everywhere"),
    "sign": (changed("linear", lambda g, *_: -g), "linear", "dx has the wrong sign"),
    "1/n": (
        changed("square_loss", lambda g, inputs, *_: g / max(inputs[0][0:1].numel(), 1) ** 2),
        "square_loss",
        "dx is 1/n² times what it should be (n = outputs",
    ),
    "mean for sum": (
        changed("batch_norm", lambda g, inputs, *_: g / max(values_per_channel(inputs[0]), 1), 2),
        "batch_norm",
        "dbias is 1/n times what it should be (n = batch·space",
    ),
    "a factor without a name": (
        changed("dropout", lambda g, i, dy, h: g * (1 - h["p"]) ** 2 * 2),
        "dropout",
        "every element of dx is off by one factor that differs from case to case",
    ),
    "term": (term_scaled("projection", lambda x: 0.25), "batch_norm", "the projection term is multiplied by 0.25"),
    "term by count": (
        term_scaled("mean", lambda x: values_per_channel(x) / (values_per_channel(x) - 1)),
        "batch_norm",
        "the mean term is multiplied by n/(n-1) (n = batch·space",
    ),
    "own axis": (
        changed("linear", lambda g, *_: g.sum(0, keepdim=True).expand_as(g), 1),
        "linear",
        "over its own axis 0",
    ),
    "ones": (
        formula("linear", lambda x, weight, bias, dy: bp.linear.vjp((x, weight, bias), torch.ones_like(dy))[1]),
        "linear",
        "take the cotangent for ones",
    ),
    "ignored": (
        changed("linear", lambda g, inputs, *_: inputs[0].cos(), 0),
        "linear",
        "dx ignores the cotangent: it does not change when dy does",
    ),
    "contiguous": (contiguous_only, "tanh", "dy is read as if it were contiguous"),
    "hyperparameter": (
        formula("leaky_relu", lambda x, dy, slope: bp.leaky_relu.vjp((x,), dy, slope=1.0)[1])
        if "slope" in bp.leaky_relu.hyper
        else formula("elu", lambda x, dy, alpha: (torch.where(x > 0, dy, dy * x.exp() * 1.0),)),
        "leaky_relu" if "slope" in bp.leaky_relu.hyper else "elu",
        "",
    ),
    "neighbour": (
        formula("relu", lambda x, dy: bp.sigmoid.vjp((x,), dy)[1]),
        "relu",
        "dx is the formula of sigmoid",
    ),
    "16 bits": (in_halves, "linear", "16 bits (bfloat16)"),
    "last left out": (
        formula(
            "linear",
            lambda x, weight, bias, dy: (
                *bp.linear.vjp((x, weight, bias), dy)[1][:2],
                dy.reshape(dy.shape[:-1].numel(), dy.shape[-1])[:-1].sum(0),
            ),
        ),
        "linear",
        "dbias: one of its sums is taken without its last element",
    ),
    "a term without the cotangent": (term_of_ones, "batch_norm", "dx: dy is missing in the mean term"),
}


@pytest.mark.parametrize("name", DETECTORS)
def test_detector(name):
    candidate, rule, words = DETECTORS[name]
    found = diagnosis(rule, candidate)
    assert found
    assert words in found[0]


def test_one_wrong_element_has_no_system():
    def candidate(inputs, dy):
        y, (dx,) = bp.tanh.vjp(inputs, dy)
        dx = dx.clone()
        if dx.numel() > 4:
            dx.view(-1)[2] += 0.01
        return y, (dx,)

    records, wrong = records_of(bp.tanh, candidate)
    assert wrong == {"dx"}
    assert diagnose(bp.tanh, candidate, records, wrong).sentences == []


def test_a_formula_that_is_wrong_by_little_is_not_called_low_precision():
    """Its errors are within those of 16 bits, but they do not change when the numbers vary a little."""

    def of_another_mean(inputs, dy, eps):
        y, residuals = bp.batch_norm.forward(*inputs, eps=eps)
        moved = residuals._replace(mean=0.9 * residuals.mean)
        parts = bp.batch_norm.terms(moved, dy)["dx"]
        own = bp.batch_norm.terms(residuals, dy)["dx"]
        return y, (own["direct"] + own["mean"] + parts["projection"], *bp.batch_norm.backward(residuals, dy)[1:])

    found = diagnosis("batch_norm", of_another_mean)
    assert not any("16 bits" in sentence for sentence in found)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16], ids=str)
def test_in_16_bits_the_cause_is_sought_in_float32(dtype):
    (sentence,) = diagnosis("batch_norm", term_scaled("projection", lambda x: 2.0), dtype)
    assert "the projection term is multiplied by 2" in sentence
    assert sentence.endswith("seen in float32, where it is wrong too")


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_a_declared_convention_is_no_cause(dtype):
    """Dropout that is not scaled, and dx three times as large: in 16 bits too, where the cause is sought in float32."""

    def candidate(inputs, dy, **_):
        x, mask = inputs
        return torch.where(mask.bool(), x, 0), (3 * torch.where(mask.bool(), dy, 0), None)

    first = compare(candidate, "dropout", dtype=dtype, conventions={"dropout": "plain"}, diagnose=LONG).diagnoses[0]
    assert first.startswith("dx is 3 times what it should be")


def test_recorded_results_are_diagnosed_without_a_candidate():
    candidate = changed("tanh", lambda g, *_: 2 * g)
    records, wrong = records_of(bp.tanh, candidate)
    assert "2 times" in diagnose(bp.tanh, None, records, wrong).sentences[0]


def test_nan_is_no_mistake():
    candidate = changed("tanh", lambda g, *_: g * torch.nan)
    records, _ = records_of(bp.tanh, candidate)
    assert diagnose(bp.tanh, candidate, records, {"dx"}).sentences == []


def test_few_cases_are_completed_by_calls():
    candidate = changed("square_loss", lambda g, inputs, *_: g / max(len(inputs[0]), 1) * 3)
    records, wrong = records_of(bp.square_loss, candidate)
    assert "off by one factor that differs" in diagnose(bp.square_loss, candidate, records[:1], wrong).shared["dx"]


def in_blocks_of_16(inputs, dy):
    """The last block that is not full is left out."""
    y, (dx,) = bp.tanh.vjp(inputs, dy)
    dx = dx.clone()
    dx.view(-1)[dx.numel() // 16 * 16 :] = 0
    return y, (dx,)


def with_kept_axis(inputs, dy):
    y, (dx, dweight, dbias) = bp.linear.vjp(inputs, dy)
    return y, (dx, dweight, dbias[None])


def of_an_empty_batch(inputs, dy):
    y, (dx, dweight, dbias) = bp.linear.vjp(inputs, dy)
    return y, (dx, dweight, dbias / (dy.shape[:-1].numel() / max(dy.shape[:-1].numel(), 1)))


@pytest.mark.parametrize(
    ("candidate", "rule", "words"),
    [
        (in_blocks_of_16, "tanh", "dx is 0 in the tail after the last full block of 16 elements"),
        (with_kept_axis, "linear", r"dbias: shape must be \(5,\); came \(1, 5\); in cases 'ordinary'"),
        (
            of_an_empty_batch,
            "linear",
            "dbias is NaN or infinite where finite numbers are due, .* in 1 case: 'batch empty'",
        ),
    ],
)
def test_what_has_no_cause_is_told_by_what_it_shares(candidate, rule, words):
    assert re.search(words, compare(candidate, rule, diagnose=LONG).diagnoses[0])


# ------------------------------------------------------------------------------ programs that people might have written

BANK = list(entries())
WRONG = [entry for entry in BANK if entry.kind != "right"]
RIGHT = [entry for entry in BANK if entry.kind == "right"]


@pytest.mark.filterwarnings("ignore")  # of torch and NumPy, about the means of nothing that wrong programs take
@pytest.mark.parametrize("entry", [pytest.param(entry, id=str(entry)) for entry in WRONG])
def test_cause_is_named_first(entry):
    report = compare(entry.vjp, entry.rule, diagnose=LONG)
    assert not report.passed
    assert re.search(entry.cause, report.diagnoses[0] if report.diagnoses else "", re.IGNORECASE), str(report)


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("entry", [pytest.param(entry, id=str(entry)) for entry in RIGHT])
def test_right_program_gets_no_diagnosis(entry):
    report = compare(entry.vjp, entry.rule, diagnose=LONG)
    assert report.passed, str(report)
    assert not report.diagnoses


def test_bank_has_enough_of_each_rule():
    for name in bp.RULES:
        assert sum(entry.rule == name for entry in WRONG) >= 8, name
        assert sum(entry.rule == name for entry in RIGHT) >= 4, name


def test_nothing_is_explained_twice():
    """Each argument is named by one sentence, and one cause of several arguments by one."""
    (entry,) = (e for e in WRONG if str(e) == "square_loss-two kept")
    assert len(compare(entry.vjp, entry.rule, diagnose=LONG).diagnoses) == 1
