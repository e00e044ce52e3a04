"""Programs that somebody hands in: a file, or a module by name, and which of what it holds is the candidate."""

from __future__ import annotations

import inspect
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

from manual_bp.foreign import named
from manual_bp.loading import SUFFIX, attribute, file_as_module, load
from manual_bp.oracle.calling.accepted import WRAP
from manual_bp.oracle.calling.candidates import candidate
from manual_bp.rule import Vjp

# Where no name is given: a Vjp, or the module that KernelBench's tasks ask for.
NAMES = ("vjp", "ModelNew")


def split(target: str) -> tuple[str, str]:
    """Path and name of PATH[:CALLABLE]; an empty name if none is given."""
    path, colon, name = target.rpartition(":")
    return (path, name) if colon and not target.endswith(SUFFIX) else (target, "")


def of_callable(program: Callable[..., Any]) -> str:
    """The target that means a function or class of a file.  Raises ValueError if another process would not find it."""
    module = inspect.getmodule(program)
    name = getattr(program, "__qualname__", "")
    file = getattr(module, "__file__", None)
    found: Any = module
    for part in name.split("."):
        found = getattr(found, part, None)
    if file is None or not file.endswith(SUFFIX) or found is not program:
        raise ValueError(
            f"grade calls a candidate in another process, which finds it by file and name; {name or program!r} is no "
            "function or class at the top of a file. Put it there, or pass PATH:NAME."
        )
    return f"{Path(file).resolve()}:{name}"


def program(target: str) -> Vjp:
    """The candidate that PATH[:CALLABLE] or MODULE:CALLABLE means: a Vjp; an nn.Module, or a class of them, made with
    what `get_init_inputs` of its file returns, if that is there; or an autograd.Function.

    Raises ValueError, saying why, if it cannot be had.
    """
    path, name = split(target)
    if path.endswith(SUFFIX):
        module = file_as_module(Path(path))
        held = [n for n in NAMES if hasattr(module, n)]
        if not (name or held):
            raise ValueError(f"{path} must hold one of {', '.join(NAMES)}, or say which: {path}:NAME.")
        found = attribute(module, name or held[0], path)
    else:
        found = load(target)
        module = sys.modules[path]
    return _as_vjp(found, module)


def function(target: str) -> Callable[..., Any]:
    """The reference that PATH.py:NAME or MODULE:NAME means, which is trusted: a function, an nn.Module, or a class of
    them, which is made with what `get_init_inputs` of its file returns.

    Modules of its folder, or the current one, are found last: those of a program that is graded may lie there.
    Raises ValueError, saying why, if it cannot be had.
    """
    path, name = split(target)
    if path.endswith(SUFFIX):
        if not (Path(path).is_file() and name):
            raise ValueError(f"a function of a file is named PATH.py:FUNCTION, and the file is there; came {target!r}.")
        module = file_as_module(Path(path), first=False)
        found = attribute(module, name, path)
    else:
        sys.path.append(str(Path.cwd()))
        found = load(target)
        module = sys.modules[path]
    if isinstance(found, type):
        found = _instance(found, module)
    if not callable(found):
        raise ValueError(f"{target} must be a function or an nn.Module; it is a {named(found)}.")
    return found  # type: ignore[no-any-return]


def _instance(kind: type, module: ModuleType) -> Any:
    """One of a class of modules, made as its file says."""
    given: Any = module.get_init_inputs() if hasattr(module, "get_init_inputs") else ()
    return kind(**given) if isinstance(given, dict) else kind(*given)


def _as_vjp(found: Any, module: ModuleType) -> Vjp:
    """A module or autograd.Function by torch.autograd, as its user would call it."""
    kind = found if isinstance(found, type) else type(found)
    wrapped = [base.__name__ for base in kind.__mro__ if f"{base.__module__}.{base.__qualname__}" in WRAP]
    if not wrapped:
        return found  # type: ignore[no-any-return]
    if wrapped[0] == "Function":
        found = found.apply
    elif found is kind:
        found = _instance(kind, module)
    of_torch: Any = candidate("torch")
    vjp: Vjp = of_torch.autograd(found)
    return vjp
