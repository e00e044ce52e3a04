"""Programs for the CPU: C++, compiled ahead of time and kept on disk."""

from __future__ import annotations

import hashlib
import subprocess
import sys
import tempfile
import warnings
import zipfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from manual_bp.compilation.cache import address, keep_text, kept, kept_text, machine
from manual_bp.compilation.choice import Choice
from manual_bp.compilation.inductor import NotCompiled, in_own_folder, inputs_of
from manual_bp.compilation.passes import OPTIONS, passes

# Loads a program and does nothing with it.
LOAD = """
import sys, torch
from torch._C._aoti import AOTIModelPackageLoader
AOTIModelPackageLoader(sys.argv[1], "model", False, 1, -1)
"""


class NotLoaded(Exception):
    """Why a program cannot be loaded here, though it was compiled."""


class LoaderCrashes(NotLoaded):
    """It ends the process, whatever the program."""


def compiled(
    graph: torch.fx.GraphModule, example: list[Tensor], choice: Choice
) -> tuple[Callable[[list[Tensor]], Sequence[Tensor]], bool]:
    """What runs the graph, and whether it was loaded and not compiled.  Raises NotCompiled, NotLoaded."""
    name = address(graph, example, choice)
    path = kept(name)
    if path and _is_whole(path):
        try:
            return _loaded(path, choice.threads), True
        except LoaderCrashes:
            raise
        except NotLoaded:
            pass  # it may be damaged in a way that only shows now
    return _loaded(in_own_folder(lambda folder: _compile(graph, choice, folder / name)), choice.threads), False


def _compile(graph: torch.fx.GraphModule, choice: Choice, path: Path) -> Path:
    """The program in `path`, whole or not at all.  Raises NotCompiled, and what inductor raises."""
    from torch._inductor import aot_compile
    from torch._inductor.package.package import package_aoti

    options = {
        **OPTIONS,
        "aot_inductor.package": True,
        "cpp.threads": choice.threads,
        "layout_optimization": choice.side_by_side,
        "post_grad_custom_post_pass": passes(choice.onednn, choice.keeps),
    }
    with tempfile.TemporaryDirectory(dir=path.parent) as scratch:
        unfinished = Path(scratch) / path.name
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", FutureWarning)
            files: Any = aot_compile(graph, inputs_of(graph), options=options)
            package_aoti(str(unfinished), files)
        if not _is_whole(unfinished):
            raise NotCompiled(f"what was written to {path.parent} is not what was read there; is its disk full?")
        unfinished.chmod(0o600)
        return unfinished.replace(path)


def _is_whole(path: Path) -> bool:
    """Whether every byte of a program is as it was written: torch's loader compares no checksum, and would run it."""
    try:
        with zipfile.ZipFile(path) as archive:
            return archive.testzip() is None
    except Exception:  # damage may look like anything: an unknown method, a length beyond the end, ...
        return False


def _loaded(path: Path, threads: int) -> _Runner:
    _try_loader(path)
    try:
        return _Runner(path, threads)
    except RuntimeError as error:
        raise NotLoaded(
            f"torch's loader of ahead-of-time programs fails ({str(error).splitlines()[0]:.200})"
        ) from error


def _try_loader(path: Path) -> None:
    """Raises NotLoaded if torch's loader does not work on this machine.

    On one, whose variable CXX named a compiler without a shared libstdc++, every program carried a copy of that library
    beside torch's, and the process ended with a segmentation fault in std::regex.  So the loader is tried in a process
    of its own, until it has once worked with this version of Python and of torch, this processor and this compiler.
    That it failed is not kept, for the reason may be a full disk.
    """
    works = f"loader/{hashlib.sha256(chr(0).join((sys.version, *machine())).encode()).hexdigest()[:32]}"
    if kept_text(works) == "":
        return
    # -P: no module is taken from the working directory.
    done = subprocess.run([sys.executable, "-P", "-c", LOAD, str(path)], capture_output=True, text=True)
    if done.returncode != 0:
        why = f"status {done.returncode} {done.stderr[-200:]}".strip()
        kind = LoaderCrashes if done.returncode < 0 else NotLoaded
        raise kind(f"torch's loader of ahead-of-time programs fails here ({why}); another compiler in CXX may help")
    keep_text(works, "")


class _Runner:
    """Calls a compiled program through its flat list of tensors."""

    def __init__(self, path: Path, threads: int) -> None:
        from torch._C._aoti import AOTIModelPackageLoader

        self._loader = AOTIModelPackageLoader(str(path), "model", False, 1, -1)
        self._run = self._loader.run
        self._threads = threads

    def __call__(self, flat: list[Tensor]) -> Sequence[Tensor]:
        threads = torch.get_num_threads()
        if threads == self._threads:
            return self._run(flat)
        torch.set_num_threads(self._threads)
        try:
            return self._run(flat)
        finally:
            torch.set_num_threads(threads)
