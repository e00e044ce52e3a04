"""The third bank: its labels agree with torch.autograd in float64.

By default a fixed fraction of the programs is tried; EXHAUSTIVE tries all.
"""

from __future__ import annotations

import math

from tests.oracle.third_bank import PROGRAMS
from tests.oracle.third_bank.entry import WIDE
from tests.oracle.third_bank.probes import probes
from tests.oracle.third_bank.truth import deviation

EXHAUSTIVE = False
# 650 programs: one in 41 is two wrong and sometimes a right one for each rule.
STEP = 1 if EXHAUSTIVE else 41


def test_labels():
    """Right programs agree with torch.autograd in float64 to a few roundings, the others don't at their probe."""
    mislabelled = []
    for number, program in enumerate(PROGRAMS):
        if number % STEP:
            continue
        places = probes(program.rule)
        chosen = {n: p for n, p in places.items() if p.ordinary} if program.due == "right" else {}
        for dtype in program.dtypes:
            few, far = (32, 64) if dtype in WIDE else (2, 4)
            off = max((deviation(program.vjp, program.rule, p, dtype) for p in chosen.values()), default=math.inf)
            if program.due != "right":
                off = deviation(program.vjp, program.rule, places[program.shows], dtype)
            if not (off <= few if program.due == "right" else off > far):
                mislabelled.append(f"{program.name} in {dtype}, {program.due}: off by {off:.3g} roundings")
    assert not mislabelled
