"""A fourth bank of programs to judge the oracle by: transformers, images, sequences, and what is used every day.

Written on 29 November 2026, before any of it was judged, by somebody who had read the guides and of the pages formulas
and signatures, but neither a page's backward and its registered mistakes, nor the oracle, nor another bank's programs.
90 programs are for pages, 12 for functions without one (the reference is then a forward in plain torch); 75 are wrong
and 27 right.

Labels: a right program agrees with torch.autograd in float64 at every usual case (options off their defaults, ties,
ignored rows, strided cotangents, more than 1024 features among them), and in float32 to roundings of float32. A wrong
one is off by more than that at one of them at least; ten, whose cause begins with "two mistakes", are wrong in two
ways, and naming either names the cause. `keywords` are words that an honest first sentence could have; they were
guessed, not read off. Programs are meant for float32 and float64 (16 bits were not considered), and for what their
`options` say. The bank says what ought to come out, and is not to be changed to what does, unless an entry is shown
to be mistaken.
"""

from tests.oracle.fourth_bank import attention, everyday, functions, losses, normalization, recurrent, spatial
from tests.oracle.fourth_bank.entry import Entry

ENTRIES: list[Entry] = [
    entry
    for module in (attention, normalization, everyday, losses, spatial, recurrent, functions)
    for entry in module.ENTRIES
]
