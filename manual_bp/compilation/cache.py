"""Compiled programs on disk, so that another process need not compile them again."""

from __future__ import annotations

import getpass
import hashlib
import os
import platform
import re
import tempfile
import warnings
from contextlib import suppress
from functools import cache
from pathlib import Path

import torch
from torch import Tensor

from manual_bp.compilation.ownership import NotOwn, own_file, own_folder

VARIABLE = "TORCHINDUCTOR_CACHE_DIR"


def folder() -> Path:
    """Where programs are kept: below inductor's cache folder if the user has named one, else in the user's own cache.

    Raises FileNotFoundError if there is no home folder.
    """
    named = os.environ.get(VARIABLE)
    return Path(named).absolute() / "manual_bp" if named and Path(named) != _torch_s_own() else _user_s_folder()


def _user_s_folder() -> Path:
    named = Path(os.environ.get("XDG_CACHE_HOME", ""))
    try:
        return (named if named.is_absolute() else Path.home() / ".cache") / "manual_bp"
    except RuntimeError as error:
        raise FileNotFoundError("there is no home folder; name a folder in XDG_CACHE_HOME.") from error


def _torch_s_own() -> Path | None:
    """The folder that torch itself puts into the variable, in the shared temporary directory, if nobody has named one;
    None if there is no such directory."""
    try:
        user = getpass.getuser()
    except (KeyError, ImportError, OSError):
        user = f"uid_{os.getuid()}"
    try:
        return Path(tempfile.gettempdir(), "torchinductor_" + re.sub(r'[\\/:*?"<>|]', "_", user)).absolute()
    except OSError:
        return None


def _headers() -> Path | None:
    try:
        return _user_s_folder() / "headers"
    except FileNotFoundError:
        return None


HEADERS = _headers()
"""Where precompiled headers are kept.  They depend on torch and the compiler alone, and are 150 MB each: so in one
place for all programs, whatever inductor's folder is."""


def kept(name: str) -> Path | None:
    """The file of that name in `folder`; None if there is none, or the folder is not the user's own.

    A file that somebody else may have written is not used either, and a warning says so.
    """
    path = folder() / name
    try:
        path = own_folder(path.parent) / path.name
    except (NotOwn, OSError):  # whoever compiles anew will meet it, and say it
        return None
    try:
        return own_file(path)
    except NotOwn as error:
        warnings.warn(f"not used: {error}", RuntimeWarning, stacklevel=2)
    except OSError:
        pass
    return None


def kept_text(name: str) -> str | None:
    """The text of that file, or None."""
    path = kept(name)
    try:
        return None if path is None else path.read_text()
    except (OSError, UnicodeDecodeError):
        return None


def keep_text(name: str, said: str) -> None:
    """Writes it, or leaves it where that cannot be done."""
    with suppress(OSError, NotOwn):
        path = folder() / name
        descriptor, unfinished = tempfile.mkstemp(dir=own_folder(path.parent))
        with os.fdopen(descriptor, "w") as file:
            file.write(said)
        Path(unfinished).replace(path)


def address(traced: torch.fx.GraphModule, example: list[Tensor], choice: object) -> str:
    """The name of a program's file: a hash of all that the program depends on: the traced graph itself with its
    shapes and constants, the machine, how it is compiled (`choice` in words), and the text of this package, whose
    passes change what is compiled.
    """
    graph = [traced.code, *(f"{n.name} {n.meta.get('val')}" for n in traced.graph.nodes)]
    layouts = [f"{t.dtype} {tuple(t.shape)} {t.stride()} {t.device}" for t in example]
    constants = [f"{name} {t.dtype} {t.tolist()}" for name, t in sorted(traced.named_buffers())]
    parts = [*machine(), repr(choice), text(), *graph, *layouts, *constants]
    return f"{hashlib.sha256(chr(0).join(parts).encode()).hexdigest()[:32]}.pt2"


@cache
def text() -> str:
    """The text of the compilation package."""
    here = Path(__file__).parent
    return "\0".join(path.read_text() for kind in ("*.py", "*.h") for path in sorted(here.rglob(kind)))


def machine() -> tuple[str, ...]:
    """What the code of every program depends on: torch's version, the processor, and which compiler is named."""
    return torch.__version__, processor(), os.environ.get("CXX", "")


@cache
def processor() -> str:
    """Maker, model and instruction sets of the processor: what a compiled program depends on."""
    wanted = ("vendor_id", "model name", "flags")
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return f"{platform.machine()} {platform.processor()}"
    found = {line.partition(":")[0].strip(): line for line in lines}
    return "\n".join([platform.machine(), *(found[name] for name in wanted if name in found)])
