"""A tenth bank: 36 wrong backwards, written on 1 December 2026 by somebody who had read neither the diagnosis, nor the
pages' MISTAKES (but for those of `rnn`, which is left out for that), nor the programs of another bank, and before any
of them was shown to it.

24 are of 23 pages, 12 of 8 functions that have none.  Each is wrong in one place: it says the piece of its text that
is, and what should stand there.  `keywords` are words one of which a truthful first diagnosis would contain.  The bank
says what ought to come out, and is not to be changed to what does, unless an entry is shown to be mistaken.
Afterwards two words were struck out, which sentences held that name no cause ("clamp" is in the function's own name,
"padding" in where it is wrong), and "a_z" was added, which nothing said of it holds.
"""

from tests.oracle.tenth_bank import (
    activations,
    attention,
    functions,
    images,
    indexing,
    losses,
    normalization,
    recurrent,
    updates,
)
from tests.oracle.tenth_bank.entry import Entry

MODULES = (activations, attention, functions, images, indexing, losses, normalization, recurrent, updates)

ENTRIES: list[Entry] = [entry for module in MODULES for entry in module.bank.entries]
