"""Elements of a result that a candidate never writes.

What torch.empty found in memory stands there.  It may be 0 where 0 is due, or even the right number, left behind by an
earlier call, and then no comparison of values sees it.  So a candidate is called once more while all that torch
allocates without a value is filled with NaN.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from manual_bp.dispatch import Mode

ALLOCATE = ("empty", "empty_like", "empty_strided", "new_empty", "new_empty_strided", "empty_permuted")


class Filled(Mode):
    """Fills floating-point memory that torch allocates without a value with NaN.

    Unlike torch.use_deterministic_algorithms, which does that too, it changes no algorithm.
    """

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        if func.overloadpacket.__name__ in ALLOCATE and isinstance(result, Tensor) and result.is_floating_point():
            result.fill_(torch.nan)
        return result


def unwritten(plain: Any, filled: Any) -> Tensor | None:
    """Which elements of a result are NaN only because of `Filled`; None if there are none.

    plain, filled: what came without and with it.
    """
    if not all(isinstance(x, Tensor) and _is_dense(x) for x in (plain, filled)) or plain.shape != filled.shape:
        return None
    found = filled.isnan() & ~plain.isnan()
    return found if bool(found.any()) else None


def _is_dense(x: Tensor) -> bool:
    return x.layout is torch.strided and x.is_floating_point() and not (x.is_nested or x.is_meta)
