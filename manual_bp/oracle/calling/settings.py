"""Settings of the process that a candidate must leave as they were.

A backward that changes a default for whoever calls it next is wrong in a way that no result shows.  What was changed is
put back, so that the cases after it are judged as those before.  torch's own settings are in torch_settings.py.
"""

from __future__ import annotations

import ctypes
import decimal
import gc
import locale
import os
import random
import signal
import sys
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from functools import cache
from operator import eq
from typing import Any, NamedTuple

import numpy as np
import torch

from manual_bp.oracle.calling.torch_settings import TORCH, cuda_generators, set_cuda_generators

UNREADABLE: Any = object()
"""A setting that cannot be read here is no setting: nothing is said of it."""

WARN_ONLY = {"raise": "warn", "call": "warn"}
HANDLED = ("INT", "TERM", "HUP", "ALRM", "CHLD", "PIPE", "USR1", "USR2", "ABRT", "FPE", "SEGV")
# As signal asks it itself: the enumeration that it makes of every answer takes longer than all else here.
GETSIGNAL = vars(signal)["_signal"].getsignal
SIGNALS = [getattr(signal, f"SIG{name}") for name in HANDLED if hasattr(signal, f"SIG{name}")]


class Setting(NamedTuple):
    """How a setting is read and put back.

    plain: the value that the oracle works with, of the user's (surroundings.py); None: the user's own.
    same: whether it is as before, of the values before and now.
    """

    read: Callable[[], Any]
    put_back: Callable[[Any], object]
    plain: Callable[[Any], Any] | None = None
    same: Callable[[Any, Any], bool] = eq

    def value(self) -> Any:
        """What it is, or UNREADABLE."""
        try:
            return self.read()
        except Exception:
            return UNREADABLE

    def restore(self, before: Any) -> str:
        """Put it back if it is not as `before`.  What to say of that; "" if there was nothing to do."""
        if before is UNREADABLE or self._is(before):
            return ""
        try:
            self.put_back(before)
        except Exception as error:
            return f"it could not be put back ({type(error).__name__})"
        return "it was put back" if self._is(before) else "it could not be put back"

    def _is(self, before: Any) -> bool:
        now = self.value()
        return now is not UNREADABLE and bool(self.same(before, now))


def _set_filters(value: list[Any]) -> None:
    warnings.filters[:] = value  # type: ignore[index]


def _folder() -> str:
    try:
        return os.getcwd()  # noqa: PTH109
    except FileNotFoundError:  # it was removed
        return ""


def _set_folder(path: str) -> None:
    if path:
        os.chdir(path)


@cache
def _c() -> ctypes.CDLL:
    """The C library."""
    return ctypes.CDLL(None)


def _rounding() -> tuple[Any, ...]:
    """The direction by the C library's word, and by what an addition in each direction gives."""
    one, little = 1.0, sys.float_info.min
    return _c().fegetround(), one + little, one - little, -one - little


def _set_rounding(value: tuple[Any, ...]) -> None:
    _c().fesetround(value[0])


def _to_nearest(_: Any) -> tuple[Any, ...]:
    return 0, 1.0, 1.0, -1.0  # FE_TONEAREST is 0 in every C library


def _set_decimal(value: tuple[int, str]) -> None:
    context = decimal.getcontext()
    context.prec, context.rounding = value


def _set_handlers(value: tuple[Any, ...]) -> None:
    for number, before in zip(SIGNALS, value, strict=True):
        if GETSIGNAL(number) is not before:
            signal.signal(number, before)


def _set_collector(value: tuple[bool, tuple[int, int, int]]) -> None:
    (gc.enable if value[0] else gc.disable)()
    gc.set_threshold(*value[1])


def _set_streams(value: tuple[Any, Any]) -> None:
    sys.stdout, sys.stderr = value


def _environment() -> dict[Any, Any]:
    """As it is kept inside, since decoding all of it takes as long as a call of many a candidate."""
    return dict(os.environ._data)  # type: ignore[attr-defined]


def _set_environment(before: Mapping[Any, Any]) -> None:
    for name, value in before.items():
        os.environ[os.environ.decodekey(name)] = os.environ.decodevalue(value)


def _holds(before: Mapping[Any, Any], now: Mapping[Any, Any]) -> bool:
    """Variables that are only added are no fault: libraries do so when they are imported."""
    return before == now or all(now.get(name) == value for name, value in before.items())


def _in_order(before: list[str], now: list[str]) -> bool:
    """Folders that are only added are no fault either."""
    rest = iter(now)
    return before == now or all(path in rest for path in before)


def _set_path(before: list[str]) -> None:
    sys.path[:] = before + [path for path in sys.path if path not in before]


# NumPy takes 0.1 ms to copy the state of its generator, and as long to put it back, but a look at the memory where it
# lies (624 words and a position) tells whether it changed while nobody but a candidate drew numbers.
_numpys: list[tuple[bytes, Any]] = []  # the last state that was read, and its memory


def _numpy_memory() -> bytes:
    generator = np.random.mtrand.get_bit_generator()
    address = generator.ctypes.state_address if type(generator).__name__ == "MT19937" else None
    return ctypes.string_at(address, 625 * 4) if address else b""


def _is_numpys(memory: bytes, state: Any) -> bool:
    return bool(memory) and memory == _numpy_memory() and not state[3]  # of two normal numbers one waits elsewhere


def _numpy_state() -> Any:
    if not (_numpys and _is_numpys(*_numpys[0])):
        _numpys[:] = [(_numpy_memory(), np.random.get_state())]  # noqa: NPY002
    return _numpys[0][1]


def _set_numpy_state(state: Any) -> None:
    if not (_numpys and _numpys[0][1] is state and _is_numpys(*_numpys[0])):
        np.random.set_state(state)  # noqa: NPY002


def forget() -> None:
    """Read everything anew: others may have drawn numbers."""
    _numpys.clear()


SETTINGS = {
    **{name: Setting(*parts) for name, parts in TORCH.items()},
    "the direction of rounding": Setting(_rounding, _set_rounding, _to_nearest),
    "NumPy's handling of floating-point errors": Setting(
        np.geterr,
        lambda value: np.seterr(**value),
        lambda value: {kind: WARN_ONLY.get(way, way) for kind, way in value.items()},
    ),
    "NumPy's print options": Setting(np.get_printoptions, lambda value: np.set_printoptions(**value)),
    "the precision of decimal numbers": Setting(
        lambda: (decimal.getcontext().prec, decimal.getcontext().rounding), _set_decimal
    ),
    "the working directory": Setting(_folder, _set_folder),
    "the environment": Setting(_environment, _set_environment, same=_holds),
    "sys.path": Setting(lambda: list(sys.path), _set_path, same=_in_order),
    "the standard streams": Setting(lambda: (sys.stdout, sys.stderr), _set_streams),
    "a signal handler": Setting(lambda: tuple(map(GETSIGNAL, SIGNALS)), _set_handlers),
    "the locale": Setting(
        lambda: locale.setlocale(locale.LC_ALL), lambda value: locale.setlocale(locale.LC_ALL, value)
    ),
    "the garbage collector": Setting(lambda: (gc.isenabled(), gc.get_threshold()), _set_collector),
}
# What is no fault: drawing numbers, and what libraries do when they are imported or compile for the first time.
QUIET = {
    "torch": Setting(torch.get_rng_state, torch.set_rng_state),
    "CUDA": Setting(cuda_generators, set_cuda_generators),
    "NumPy": Setting(_numpy_state, _set_numpy_state),
    "Python": Setting(random.getstate, random.setstate),
    "recursion limit": Setting(sys.getrecursionlimit, sys.setrecursionlimit),
    "warning filters": Setting(lambda: list(warnings.filters), _set_filters),
}


@contextmanager
def kept(changed: list[str]) -> Iterator[None]:
    """Puts back what is changed inside, and says so, of `SETTINGS` alone, in `changed`."""
    before = {name: setting.value() for name, setting in SETTINGS.items()}
    quiet = {name: setting.value() for name, setting in QUIET.items()}
    try:
        yield
    finally:
        for name, setting in SETTINGS.items():
            if words := setting.restore(before[name]):
                changed.append(f"changed {name}; {words}")
        for name, setting in QUIET.items():
            if quiet[name] is not UNREADABLE:
                setting.put_back(quiet[name])


@contextmanager
def seeded(seed: int) -> Iterator[None]:
    """Other random numbers inside, of torch on the CPU, NumPy and Python; what was there is put back."""
    before = {name: QUIET[name].read() for name in ("torch", "NumPy", "Python")}
    try:
        torch.default_generator.manual_seed(seed)
        np.random.seed(seed)  # noqa: NPY002
        random.seed(seed)
        yield
    finally:
        for name, state in before.items():
            QUIET[name].put_back(state)
