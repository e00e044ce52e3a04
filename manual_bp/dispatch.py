"""A mode in which every torch operation passes through Python."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from torch._C import _len_torch_dispatch_stack
from torch.utils._python_dispatch import TorchDispatchMode, _pop_mode, _push_mode


class Mode(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """What a mode of one's own is derived from: TorchDispatchMode, without its import of the compiler.

    That takes 1 to 2 s, and only serves to tell the compiler to stay out.
    """

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]

    def __init_subclass__(cls) -> None:
        super().__init_subclass__()  # type: ignore[no-untyped-call]

    @classmethod
    def _should_skip_dynamo(cls) -> bool:
        return False


@contextmanager
def without_modes() -> Iterator[None]:
    """As if no mode were active (torch's own of this purpose imports the compiler)."""
    active = [_pop_mode() for _ in range(_len_torch_dispatch_stack())]
    try:
        yield
    finally:
        for mode in reversed(active):
            _push_mode(mode)
