"""A fifth bank of programs to judge the oracle by, written on 29 November 2026 before any of it was judged.

Its author had read the guides and of the pages formulas, signatures and the names of their mistakes, but neither a
page's backward, nor the oracle, nor another bank's programs. 60 are wrong (15 on linear maps, activations, softmax,
batch norm, penalties and dropout, 25 on other pages, 20 on functions without one) and 20 right but unusual. Each wrong
one holds one mistake, mostly none of those that the pages list; some of them show in a circumstance alone: long rows,
many rows, strided dy, repeated tokens, a last block that is not full, a second call, a hyperparameter off its default.

Labels: a right program agrees with torch.autograd in float64 at every case tried (options off their defaults, ties,
ignored rows, strided cotangents), to roundings; a wrong one is off by far more at one of them at least. `keywords` are
words that an honest first sentence could have; they were guessed. Programs are meant for float32 and float64, on the
CPU. The bank says what ought to come out, and is not to be changed to what does, unless an entry is shown to be
mistaken.

Corrected once judged, and nothing else: the two of `upsample` did not know that a scale may be a fraction, and some
twenty raised, or gave NaN for a value, apart from what they are about (an axis of length 0, classes of probability 0,
p = 1).
"""

from tests.oracle.fifth_bank import classic, functions, sequences_and_images, transformers
from tests.oracle.fourth_bank.entry import Entry

ENTRIES: list[Entry] = [
    entry for module in (classic, transformers, sequences_and_images, functions) for entry in module.ENTRIES
]
