"""Inductor, called so that what it keeps on disk is the user's own, and its failures told in words.

By itself it keeps programs, Python modules and precompiled headers, all of which it later runs, in a folder of the
shared temporary directory, whose name anybody can take first.
"""

from __future__ import annotations

import atexit
import os
import shutil
import tempfile
import threading
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import Any, TypeVar

import torch
from torch import Tensor

from manual_bp.compilation.cache import HEADERS, VARIABLE, folder
from manual_bp.compilation.ownership import NotOwn, own_folder, refuse_foreign_content

T = TypeVar("T")

NO_HEADERS: dict[str, Any] = {"cpp_cache_precompile_headers": False, "aot_inductor.precompile_headers": False}


class NotCompiled(Exception):
    """Why a function could not be compiled."""


class NoCompiler(NotCompiled):
    """There is no compiler, wherever one tries."""

    def __str__(self) -> str:
        return "no C++ compiler works here. Install g++ or clang++, or name one in the environment variable CXX."


def in_own_folder(compile_in: Callable[[Path], T]) -> T:
    """`compile_in(folder)`, in the folder where programs are kept, or, if that fails, in a temporary one.

    It fails where the folder is refused, read-only or full, or where something damaged lies in it; then a warning says
    so, and what inductor keeps there is deleted, so that the next attempt begins anew.
    Raises NotCompiled if it fails there too.
    """
    damaged: list[Path] = []
    try:
        kept = own_folder(folder())
        with _files_in(kept, HEADERS), said_in_words():
            return compile_in(kept)
    except NoCompiler:
        raise
    except NotCompiled as error:
        why, damaged = str(error), [kept / "inductor", *([HEADERS] if HEADERS else [])]
    except (NotOwn, OSError) as error:
        why = str(error)
    try:
        temporary = own_folder(_temporary())
        with _files_in(temporary, None), said_in_words():
            result = compile_in(temporary)
    except (NotCompiled, NotOwn, OSError) as error:
        raise NotCompiled(why if str(error) == why else f"{why} In a temporary folder: {error}") from error
    warnings.warn(f"compiled, but not kept for other processes: {why}", RuntimeWarning, stacklevel=6)
    for path in damaged:
        shutil.rmtree(path, ignore_errors=True)
    return result


@cache
def _temporary() -> Path:
    """A folder that lives as long as the process."""
    folder = Path(tempfile.mkdtemp(prefix="manual_bp-"))
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    return folder


def inputs_of(graph: torch.fx.GraphModule) -> tuple[Tensor, ...]:
    """What a traced graph takes, as tensors without numbers."""
    return tuple(node.meta["val"] for node in graph.graph.nodes if node.op == "placeholder")


# Environment variables and torch's modules belong to the whole process.
_LOCK = threading.Lock()


@contextmanager
def _files_in(place: Path, headers: Path | None) -> Iterator[None]:
    """Inductor keeps its files in `place`, and precompiled headers in `headers`, or makes none.

    Raises NotOwn, OSError.
    """
    from torch._inductor import codecache, config

    own = _looked_through(place / "inductor")
    variables = {VARIABLE: str(own), "TRITON_CACHE_DIR": str(own / "triton")}
    names = _names_of_headers(headers) if headers else {}
    with _LOCK:
        environment = {name: os.environ.get(name) for name in variables}
        torch_s = {name: getattr(codecache, name) for name in names}
        try:
            os.environ.update(variables)
            vars(codecache).update(names)
            with config.patch({} if names else NO_HEADERS):
                yield
        finally:
            vars(codecache).update(torch_s)
            for name, value in environment.items():
                if value is None:
                    os.environ.pop(name, None)
                else:
                    os.environ[name] = value


def _names_of_headers(headers: Path) -> dict[str, Any]:
    """What says in torch's module where precompiled headers are kept, which is no option; empty if none can be."""
    from torch._inductor import codecache

    names = ("_HEADER_DIR", "_HEADER_LOCK_DIR", "_precompile_header")
    if not all(hasattr(codecache, name) for name in names) or shutil.which("openssl") is None:  # torch hashes with it
        return {}
    try:
        own = _looked_through(headers)
    except OSError:
        return {}
    except NotOwn as error:
        warnings.warn(f"compiled without precompiled headers, so slower: {error}", RuntimeWarning, stacklevel=8)
        return {}
    return dict(zip(names, (str(own), str(own / "locks"), _precompile_into(own)), strict=True))


def _looked_through(path: Path) -> Path:
    """`path`, an own folder, all of whose content is the user's.  Raises NotOwn, OSError."""
    own = own_folder(path)
    _look_through(own)
    return own


@cache
def _look_through(folder: Path) -> None:
    """Once in a process: from then on nobody else can write there."""
    refuse_foreign_content(folder)


@cache
def _precompile_into(headers: Path) -> Any:
    """torch's function, that remembers what it has put into `headers` and nothing else."""
    from torch._inductor import codecache

    return cache(codecache._precompile_header.__wrapped__)


@contextmanager
def said_in_words() -> Iterator[None]:
    """Inductor's failures, which are of many types, as NotCompiled, in words."""
    from torch._inductor.exc import InvalidCxxCompiler

    try:
        yield
    except NotCompiled:
        raise
    except InvalidCxxCompiler as error:
        raise NoCompiler from error
    except Exception as error:
        if "InvalidCxxCompiler" in str(error):
            raise NoCompiler from error
        said = next(iter(str(error).splitlines()), "")
        raise NotCompiled(f"inductor failed ({type(error).__name__}: {said:.200}).") from error
