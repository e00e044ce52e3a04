"""A ninth bank: 40 wrong backwards, written on 1 December 2026 by somebody who had read neither the diagnosis, nor the
pages' MISTAKES, nor the programs of another bank, and before any of them was shown to it.

Each is wrong in one place: it says the piece of its text that is, and what should stand there, so that the test can see
that nothing else is wrong with it.  `keywords` are words one of which a truthful first diagnosis would contain.  The
bank says what ought to come out, and is not to be changed to what does, unless an entry is shown to be mistaken.
"""

from tests.oracle.eighth_bank.entry import Entry
from tests.oracle.ninth_bank import activations, attention, functions, images, layers, losses, normalization, recurrent

MODULES = (activations, attention, functions, images, layers, losses, normalization, recurrent)

ENTRIES: list[Entry] = [entry for module in MODULES for entry in module.ENTRIES]
