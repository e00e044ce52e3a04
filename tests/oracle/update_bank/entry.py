"""What an entry of the bank of updates is: somebody's program of one step of training, and what is due of it."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

COMPARE, OPTIMIZER = "compare", "compare_optimizer"


@dataclass(frozen=True)
class Program:
    """against: the page.  make: the candidate, made anew.  how: by which function it is judged.

    due: "right"; "wrong", and then words are in the first sentence of its cause; or "convention": words are in it as
    long as `declared` is not declared, and with it the program is right.
    options: of the comparison, in every case.
    """

    name: str
    against: str
    make: Callable[[], Any]
    how: str = COMPARE
    due: str = "wrong"
    words: str = ""
    declared: Mapping[str, str] = field(default_factory=dict)
    options: Mapping[str, Any] = field(default_factory=dict)
