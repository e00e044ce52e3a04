"""Candidates and functions by name: package.module:name, or path/to/file.py:name."""

from __future__ import annotations

import importlib
import importlib.util
import sys
from functools import cache
from pathlib import Path
from types import ModuleType
from typing import Any

from manual_bp.foreign import named, shortened

DUE = "a function vjp(inputs, dy, **hyper)"
SUFFIX = ".py"


def load(target: str, due: str = DUE, also: tuple[type, ...] = ()) -> Any:
    """The callable that `package.module:name` or `path/to/file.py:name` means; modules of the current folder, or of the
    file's, are found.  due: what it should be, in words.  also: kinds that need not be callable.

    Raises ValueError if there is no such module, file or name, or if it is not callable.
    """
    place, colon, name = target.rpartition(":")
    if not (place and colon and name):
        raise ValueError(f"{due} is named MODULE:CALLABLE or PATH.py:CALLABLE, as in kernels.elu:vjp; came {target!r}.")
    if place.endswith(SUFFIX):
        module = _loaded_once(Path(place).resolve())
    else:
        if "" not in sys.path:
            sys.path.insert(0, "")
        try:
            module = importlib.import_module(place)
        except (Exception, SystemExit) as error:  # whatever the module does while it is imported
            came = f"{named(error)}: {error}"
            raise ValueError(f"{target}: the module {place!r} cannot be imported: {came}.") from error
    found = attribute(module, name, target)
    if not (callable(found) or isinstance(found, also)):
        raise ValueError(f"{target}: {due} is due; came a {named(found)}.")
    return found


@cache
def _loaded_once(path: Path) -> ModuleType:
    """A candidate and its reference may stand in one file."""
    return file_as_module(path)


def file_as_module(path: Path, first: bool = True) -> ModuleType:
    """The file as a new module of its own name, or of its path where that name is another file's, with its folder's
    other modules to be found, first or last.

    Raises ValueError if there is no such file, or if it cannot be imported.
    """
    if not path.is_file():
        raise ValueError(f"{path} must be a file; there is none.")
    whole = path.resolve()
    taken = path.stem in sys.modules and getattr(sys.modules[path.stem], "__file__", None) != str(whole)
    name = str(whole) if taken else path.stem
    spec = importlib.util.spec_from_file_location(name, whole)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.path.insert(0 if first else len(sys.path), str(whole.parent))
    sys.modules[name] = module
    try:
        spec.loader.exec_module(module)
    except BaseException as error:  # whatever it does, nothing can be called
        del sys.modules[name]
        raise ValueError(f"{path.name} cannot be imported: {named(error)}: {shortened(str(error))}") from error
    return module


def attribute(module: ModuleType, name: str, target: str) -> Any:
    """What a module holds under a dotted name.  target: as it was asked for.  Raises ValueError if there is nothing."""
    found: Any = module
    for part in name.split("."):
        if not hasattr(found, part):
            public = ", ".join(n for n in vars(found) if not n.startswith("_")) or "nothing"
            raise ValueError(f"{target}: {module.__name__!r} must hold {name!r}; it holds {shortened(public)}.")
        found = getattr(found, part)
    return found
