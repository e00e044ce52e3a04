"""A sixth bank of programs to judge the oracle by, written on 29 November 2026 before any of it was judged.

Its author had read the list of public mistakes, torch's twins, and of the pages signatures and outputs alone; neither
the oracle, nor a diagnosis, nor another bank's programs but for two of the fifth's that showed the format. 45 are
wrong (33 backwards of pages, 2 updates, 10 on functions without a page) and 15 right but unusual; together they cover
49 pages. Each wrong one has one cause. Some show in a circumstance alone: an option off its default, an axis that is
not the last, a slope below 0, rows that are not a multiple of four, a length that is not a power of two, padding with
a stride that leaves rows over, a target between 0 and 1, a vector shorter than eps.

Labels: a right program agrees with torch.autograd (an update, with its page) in float64 to roundings at every case
tried (options off their defaults, every target ignored, keys all masked), and with the page at zeros and infinities;
a wrong one is off by far more at one case at least, in the arguments that its cause reaches and no other, or changes
its caller's tensor. `keywords` are words that an honest first sentence could have; they were guessed. Programs are
meant for float32 and float64, on the CPU. The bank says what ought to come out, and is not to be changed to what
does, unless an entry is shown to be mistaken (three updates were: they took a dy, which they are not given).
"""

from tests.oracle.fourth_bank.entry import Entry
from tests.oracle.sixth_bank import activations, functions, layers, sequences_and_images

ENTRIES: list[Entry] = [
    entry for module in (activations, layers, sequences_and_images, functions) for entry in module.ENTRIES
]
