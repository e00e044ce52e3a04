"""A second bank of programs, right and wrong, to judge the oracle by.

It was written before the oracle's excuses for lost digits and for 16-bit arithmetic were redesigned, by somebody who
had read the rules' pages and the README but neither the oracle's code, nor its tests, nor the first bank. What is due
was decided by mathematics and not by running the oracle: the bank says what ought to come out, and is not to be
changed to what does come out, unless an entry is shown to be mistaken by an argument that stands in its `why`.

- `formulas`: a plain right program for each rule, from which others are made
- `wrong_dtype`: wrong in one dtype, right in every other
- `wrong_places`: wrong where inputs repeat, in saturation, near 0, beyond some size
- `wrong_sixteen`: overflow, sums that stagnate, flushing, NaN; and approximations to 3 or 4 digits
- `right_digits`: right formulas that lose digits as honest programs do
- `right_sums`: other orders of sums and products, other precisions, libraries and layouts
- `recorded_wrong`, `recorded_right`: results without their program
"""

from tests.oracle.second_bank import (
    recorded_right,
    recorded_wrong,
    right_digits,
    right_sums,
    wrong_dtype,
    wrong_places,
    wrong_sixteen,
)
from tests.oracle.second_bank.entry import Program, Recorded

PROGRAMS: tuple[Program, ...] = (
    *wrong_dtype.PROGRAMS,
    *wrong_places.PROGRAMS,
    *wrong_sixteen.PROGRAMS,
    *right_digits.PROGRAMS,
    *right_sums.PROGRAMS,
)
RECORDED: tuple[Recorded, ...] = (*recorded_wrong.RECORDED, *recorded_right.RECORDED)
