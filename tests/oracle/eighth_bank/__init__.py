"""An eighth bank: kernels with a bug, as people ship them, written on 30 November 2026 by somebody who had not read
the diagnosis, and before any of them was shown to it.

Tiles, online softmax, saved statistics, chunked heads and scans, rewritten in torch from the shape in which they are
found in repositories.  All are wrong.  Each says the piece of its text that is, and what should stand there, so that
the test can see that nothing else is wrong with it.  `keywords` are the names that a good engineer would give to the
cause or to where it is.  The bank says what ought to come out, and is not to be changed to what does, unless an
entry is shown to be mistaken.
"""

from tests.oracle.eighth_bank import attention, functions, images, layers, losses, normalization, recurrent, sequences
from tests.oracle.eighth_bank.entry import Entry

MODULES = (attention, functions, images, layers, losses, normalization, recurrent, sequences)

ENTRIES: list[Entry] = [entry for module in MODULES for entry in module.ENTRIES]
