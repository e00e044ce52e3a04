"""What a candidate may put between the oracle and torch while it runs, and with which it would then be judged.

Functions of torch that it replaces, and modes that it does not leave.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from operator import is_
from pathlib import Path

import torch
from torch import Tensor

from manual_bp.foreign import named

ABSENT = object()
# Whoever replaces more functions than this has replaced them all.
NAMED = 10


@contextmanager
def functions_kept(found: list[str]) -> Iterator[None]:
    """Puts back the functions of torch and the attributes of Tensor that are replaced inside, and says so in `found`.

    What is only added is left: modules that are imported for the first time do so.
    """
    functions, attributes = dict(vars(torch)), dict(vars(Tensor))
    try:
        yield
    finally:
        if not _same(functions, vars(torch)):
            found += _few(f"torch.{name}" for name in _functions_put_back(functions))
        if not _same(attributes, vars(Tensor)):
            found += _few(f"torch.Tensor.{name}" for name in _attributes_put_back(attributes))


def _few(names: Iterable[str]) -> list[str]:
    all_names = list(names)
    words = [f"replaced {name}; it was put back" for name in all_names[:NAMED]]
    more = len(all_names) - len(words)
    return words + ([f"replaced {more} more functions of torch; they were put back"] if more else [])


def _same(before: Mapping[str, object], now: Mapping[str, object]) -> bool:
    """Whether the very same objects have the same names: asked after every call, so it must be fast."""
    return len(before) == len(now) and all(map(is_, before.values(), now.values()))


def _functions_put_back(functions: Mapping[str, object]) -> Iterator[str]:
    for name, function in functions.items():
        now = vars(torch).get(name)
        judges = callable(function) or isinstance(function, torch.Generator)  # the default generator
        if judges and now is not function and not _is_torchs(now):
            setattr(torch, name, function)
            yield name


def _attributes_put_back(attributes: Mapping[str, object]) -> Iterator[str]:
    for name, now in {**dict.fromkeys(attributes, ABSENT), **vars(Tensor)}.items():
        before = attributes.get(name, ABSENT)
        hides = before is ABSENT and hasattr(torch._C.TensorBase, name)  # a method of the base
        if hides and not _is_torchs(now):
            delattr(Tensor, name)
            yield name
        elif before is not ABSENT and before is not now and not _is_torchs(now):
            setattr(Tensor, name, before)
            yield name


def _is_torchs(function: object) -> bool:
    """Whether torch's own text defines it: parts of torch that are imported late replace a few functions."""
    code = getattr(function, "__code__", None)
    return code is not None and Path(code.co_filename).is_relative_to(Path(torch.__file__).parent)


@contextmanager
def modes_kept(found: list[str]) -> Iterator[None]:
    """Leaves the modes and transforms of torch that are entered inside and not left, and says so in `found`."""
    functorch = torch._C._functorch
    depths = torch._C._len_torch_dispatch_stack(), torch._C._len_torch_function_stack()
    level = functorch.get_dynamic_layer_stack_depth()
    try:
        yield
    finally:
        while functorch.get_dynamic_layer_stack_depth() > level:
            functorch.pop_dynamic_layer_stack()
            found.append("entered a transform of torch.func; it was left")
        while torch._C._len_torch_dispatch_stack() > depths[0]:
            mode: object = torch._C._pop_torch_dispatch_stack(None)
            found.append(f"entered the mode {named(mode)}; it was left")
        while torch._C._len_torch_function_stack() > depths[1]:
            mode = torch._C._pop_torch_function_stack()
            found.append(f"entered the mode {named(mode)}; it was left")
