"""A seventh bank: programs that are right in most cases, written on 30 November 2026 before any of it was judged.

Each is a page's own answer, or a function's derivative by hand, that one line spoils in one circumstance: beyond a
size, at a remainder, for a layout, an option, a sign, repeated indices, an empty axis, some heads, the last row.  All
are wrong. `keywords` are words of which every true statement of the circumstance has some: a first sentence that says
where it is wrong, and has none of them, says what is not so.  The bank says what ought to come out, and is not to be
changed to what does, unless an entry is shown to be mistaken (some raised for an axis of
length 0, and one was asked at the one eps alone at which it is right).
"""

from tests.oracle.fourth_bank.entry import Entry
from tests.oracle.seventh_bank import functions, layers, options

ENTRIES: list[Entry] = [entry for module in (layers, options, functions) for entry in module.ENTRIES]
