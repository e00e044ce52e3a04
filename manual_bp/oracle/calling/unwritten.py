"""Elements of a result that a candidate never writes.

What torch.empty found in memory stands there.  It may be 0 where 0 is due, or even the right number, left behind by an
earlier call, and then no comparison of values sees it.  So a candidate is called once more while all that torch
allocates without a value is filled with NaN.

An element that is NaN then was either never written, or was written, and computed from memory that was not: padding
that is read, an accumulator that is not set to 0.  Two more calls tell these apart, with a number and its negative for
NaN: what was never written is exactly that number both times.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from manual_bp.dispatch import Mode

ALLOCATE = ("empty", "empty_like", "empty_strided", "new_empty", "new_empty_strided", "empty_permuted")


NEVER = "never written"
READ = "computed from memory that was never written"
UNWRITTEN = (NEVER, READ)
# A number of every floating-point format, at which no gradient happens to lie.
NUMBER = 1536.0


class Filled(Mode):
    """Fills floating-point memory that torch allocates without a value.

    Unlike torch.use_deterministic_algorithms, which does that too, it changes no algorithm.
    """

    def __init__(self, value: float = torch.nan) -> None:
        super().__init__()
        self.value = value

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        if func.overloadpacket.__name__ in ALLOCATE and isinstance(result, Tensor) and result.is_floating_point():
            result.fill_(self.value)
        return result


def unwritten(plain: Any, filled: Any) -> Tensor | None:
    """Which elements of a result are NaN only because of `Filled`; None if there are none.

    plain, filled: what came without and with it.
    """
    if not all(isinstance(x, Tensor) and _is_dense(x) for x in (plain, filled)) or plain.shape != filled.shape:
        return None
    found = filled.isnan() & ~plain.isnan()
    return found if bool(found.any()) else None


def never_written(suspects: Tensor, plus: Any, minus: Any) -> Tensor:
    """Which of the suspects hold what memory was filled with.  plus, minus: what came with NUMBER and with -NUMBER."""
    if not all(isinstance(x, Tensor) and _is_dense(x) and x.shape == suspects.shape for x in (plus, minus)):
        return torch.zeros_like(suspects)
    never: Tensor = suspects & (plus == NUMBER) & (minus == -NUMBER)
    return never


def _is_dense(x: Tensor) -> bool:
    return x.layout is torch.strided and x.is_floating_point() and not (x.is_nested or x.is_meta)
