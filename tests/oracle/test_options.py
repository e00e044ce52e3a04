"""Options interact: a program that is right for each by itself may be wrong where an input is absent as well."""

from __future__ import annotations

import pytest
import torch

import manual_bp as bp
from manual_bp.oracle import compare
from manual_bp.oracle.cases.generated import generated
from manual_bp.oracle.cases.values import unusual

WITH_PAIRS = [name for name, rule in bp.RULES.items() if rule.absentable and any(unusual(rule).values())]


@pytest.mark.parametrize("name", WITH_PAIRS)
def test_each_absent_input_meets_each_unusual_value(name):
    rule, met = bp.RULES[name], set()
    for case in generated(rule, torch.float32):
        absent = [each for each in rule.absentable if each not in case.named(rule)]
        met |= {(each, *option) for each in [*absent, "any"] for option in case.hyper.items()}
    options = {(option, value) for option, values in unusual(rule).items() for value in values}
    taken = {option for option in options if ("any", *option) in met}  # not every usual value is one of this rule
    assert taken
    assert not {(each, *option) for each in rule.absentable for option in taken} - met


def test_a_mean_that_counts_what_is_ignored_without_weights():
    rule = bp.RULES["softmax_cross_entropy"]

    def counting(inputs, dy, **hyper):
        y, (dx, *others) = rule.vjp(inputs, dy, **hyper)
        _, target, weight = inputs
        counts = (target != hyper["ignore_index"]).sum()
        if weight is None and counts and hyper["reduction"] == "mean":
            dx = dx * counts / target.numel()
        return y, (dx, *others)

    assert not compare(counting, rule, diagnose=0).passed
