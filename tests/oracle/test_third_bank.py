"""The third bank: what its author, who had read neither pages nor oracle, says of a program is what compare says.

By default a fixed fraction is judged, in float32; exhaustively every program, a right one in one of its wide dtypes and
in one of 16 bits, another in one of its dtypes, each kind of dtype in turn.
"""

from __future__ import annotations

import math
import warnings

import pytest
import torch

import manual_bp as bp
from manual_bp.oracle import compare
from tests.judging import judged
from tests.oracle.third_bank import PROGRAMS
from tests.oracle.third_bank.entry import SIXTEEN, WIDE
from tests.oracle.third_bank.probes import probes
from tests.oracle.third_bank.truth import deviation

# One program in 52 is one or two for each of ten rules, right or wrong.
STEP = 52

# What compare does not yet say, and what it lacks for that. An entry that it does judge as is due is to be struck out.
NOT_YET = {
    **{
        f"{rule}: one memory": "results are not looked at again after a later call"
        for rule in dict.fromkeys(program.rule for program in PROGRAMS)
    },
    "softmax_cross_entropy: log p in 16 bits, 16-bit logits": "p near 1 is lost as in float32, but refused",
    "gelu: tanh in float16": "no case of an option has numbers of thousands, where x² overflows in float16",
    "softplus: 0 below -10": "in float16 no large dy meets a small derivative",
}


def is_as_due(program, dtype):
    """Right programs pass; wrong ones do not; those that lose digits do not pass under strict.

    A mismatch settles it: what is wrong is judged up to its first one, and all that compare tries asked of the others.
    """
    rule, strict = bp.RULES[program.rule], program.due == "loses digits"
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of infinities
        if program.due != "right" and judged(program.vjp, rule, dtype, strict=strict, most=1).mismatches:
            return True
        passed = compare(program.vjp, program.rule, dtype=dtype, diagnose=0).passed
        if program.due == "loses digits" and passed:
            passed = compare(program.vjp, program.rule, dtype=dtype, diagnose=0, strict=True).passed
    return passed == (program.due == "right")


def sentences(misjudged):
    return [f"{program.name} in {dtype}, {program.due}: {program.why}" for program, dtype in misjudged]


@pytest.mark.thinned(2)
def test_a_fraction(rule):
    chosen = [p for p in PROGRAMS[::STEP] if p.rule == rule.name and p.name not in NOT_YET]
    each = [(p, torch.float32 if torch.float32 in p.dtypes else p.dtypes[0]) for p in chosen]
    assert not sentences((p, dtype) for p, dtype in each if not is_as_due(p, dtype))


@pytest.mark.exhaustive
def test_every_program(rule):
    misjudged = []
    for number, program in enumerate(PROGRAMS):
        if program.rule == rule.name:
            dtypes = program.dtypes
            if program.name not in NOT_YET and program.due != "right":
                dtypes = (program.dtypes[number % len(program.dtypes)],)
            elif program.name not in NOT_YET:
                left_out = [both[number % 2] for both in (WIDE, SIXTEEN) if set(both) <= {*program.dtypes}]
                dtypes = tuple(dtype for dtype in program.dtypes if dtype not in left_out)
            misjudged += [(program, dtype) for dtype in dtypes if not is_as_due(program, dtype)]
    assert not sentences((p, dtype) for p, dtype in misjudged if p.name not in NOT_YET)
    settled = {p.name for p in PROGRAMS if p.rule == rule.name} & set(NOT_YET) - {p.name for p, _ in misjudged}
    assert not settled, f"compare says of these what is due: strike them out of NOT_YET: {settled}"


def mislabelled(programs):
    """Right programs agree with torch.autograd in float64 to a few roundings, the others don't at their probe."""
    found = []
    for program in programs:
        places = probes(program.rule)
        chosen = [p for p in places.values() if p.ordinary] if program.due == "right" else [places[program.shows]]
        for dtype in program.dtypes:
            few, far = (32, 64) if dtype in WIDE else (2, 4)
            off = max((deviation(program.vjp, program.rule, p, dtype) for p in chosen), default=math.inf)
            if not (off <= few if program.due == "right" else off > far):
                found.append(f"{program.name} in {dtype}, {program.due}: off by {off:.3g} roundings")
    return found


def test_labels_of_a_fraction():
    assert not mislabelled(PROGRAMS[::STEP])


@pytest.mark.exhaustive
def test_labels():
    assert not mislabelled(PROGRAMS)
