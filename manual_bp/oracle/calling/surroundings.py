"""What the oracle works in: torch and NumPy as they are when a program starts, whatever modes their user is in.

A verdict is about a candidate, and not about the modes around the call of `compare`.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
import torch.utils._device
from torch import Tensor

from manual_bp.oracle.calling.settings import SETTINGS, UNREADABLE, forget

_defaults: list[tuple[torch.dtype, torch.device]] = []  # of whoever called the oracle


@contextmanager
def plain() -> Iterator[None]:
    """Inside, grad mode is on and no inference mode, autocast, anomaly mode, transform (vmap, grad), mode of one's own,
    error in place of a warning, or other default dtype or device is in force; what was there comes back."""
    outermost = not _defaults
    if outermost:
        forget()
        _defaults.append((torch.get_default_dtype(), torch.get_default_device()))
    try:
        with _no_modes(), torch.inference_mode(False), warnings.catch_warnings(), _plain_settings():
            warnings.filters[:] = [f for f in warnings.filters if f[0] != "error"]  # type: ignore[index]
            yield
    finally:
        if outermost:
            _defaults.clear()


@contextmanager
def _plain_settings() -> Iterator[None]:
    changed = []
    for setting in SETTINGS.values():
        value = setting.value() if setting.plain else UNREADABLE
        if setting.plain and value is not UNREADABLE and setting.plain(value) != value:
            setting.put_back(setting.plain(value))
            changed.append((setting, value))
    try:
        yield
    finally:
        for setting, value in changed:
            setting.put_back(value)


@contextmanager
def users_defaults(like: Tensor) -> Iterator[None]:
    """Inside, the default dtype and device are those of the program that called the oracle where they are those of
    `like`: that program's functions may rely on them.  Others would only make tensors that fit nothing here."""
    dtype, device = _defaults[0] if _defaults else (torch.get_default_dtype(), torch.get_default_device())
    before = torch.get_default_dtype()
    sets_device = device.type == like.device.type != torch.get_default_device().type
    try:
        if dtype == like.dtype:
            torch.set_default_dtype(dtype)
        if sets_device:
            torch.set_default_device(device)
        yield
    finally:
        torch.set_default_dtype(before)
        if sets_device:
            torch.set_default_device(None)


@contextmanager
def _no_modes() -> Iterator[None]:
    """Without the modes and transforms of torch that are in force."""
    functorch = torch._C._functorch
    levels: list[Any] = []
    while functorch.peek_interpreter_stack() is not None:
        levels.append(functorch.pop_dynamic_layer_stack())
    dispatch: list[Any] = []
    while torch._C._len_torch_dispatch_stack():
        dispatch.append(torch._C._pop_torch_dispatch_stack(None))
    functions: list[Any] = []
    while torch._C._len_torch_function_stack():
        functions.append(torch._C._pop_torch_function_stack())
    # A default device is a mode too, which torch keeps a second time.
    context = getattr(torch._GLOBAL_DEVICE_CONTEXT, "device_context", None)
    current = torch.utils._device.CURRENT_DEVICE
    torch._GLOBAL_DEVICE_CONTEXT.device_context = None
    torch.utils._device.CURRENT_DEVICE = None
    try:
        yield
    finally:
        torch._GLOBAL_DEVICE_CONTEXT.device_context = context
        torch.utils._device.CURRENT_DEVICE = current
        for mode in reversed(functions):
            torch._C._push_on_torch_function_stack(mode)
        for mode in reversed(dispatch):
            torch._C._push_on_torch_dispatch_stack(mode)
        for level in reversed(levels):
            functorch.push_dynamic_layer_stack(level)
