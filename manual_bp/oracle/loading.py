"""Candidates and functions by name: package.module:name."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Callable
from typing import Any

from manual_bp.oracle.foreign import named, shortened

DUE = "a function vjp(inputs, dy, **hyper)"


def load(target: str, due: str = DUE) -> Callable[..., Any]:
    """The callable that `package.module:name` means; modules of the current folder are found.  due: what it should be,
    in words.

    Raises ValueError if there is no such module or name, or if it is not callable.
    """
    module_name, colon, name = target.partition(":")
    if not (module_name and colon and name):
        raise ValueError(f"{due} is named MODULE:CALLABLE, as in kernels.elu:vjp; came {target!r}.")
    if "" not in sys.path:
        sys.path.insert(0, "")
    try:
        found = importlib.import_module(module_name)
    except (Exception, SystemExit) as error:  # whatever the module does while it is imported
        came = f"{named(error)}: {error}"
        raise ValueError(f"{target}: the module {module_name!r} cannot be imported: {came}.") from error
    for part in name.split("."):
        if not hasattr(found, part):
            public = ", ".join(n for n in vars(found) if not n.startswith("_")) or "nothing"
            raise ValueError(f"{target}: {module_name!r} must hold {name!r}; it holds {shortened(public)}.")
        found = getattr(found, part)
    if not callable(found):
        raise ValueError(f"{target}: {due} is due; came a {named(found)}.")
    return found
