"""Programs for the CPU: C++, compiled ahead of time and kept on disk."""

from __future__ import annotations

import hashlib
import subprocess
import sys
import tempfile
import time
import warnings
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from manual_bp.compilation.cache import address, folder, machine
from manual_bp.compilation.choice import Choice
from manual_bp.compilation.passes import OPTIONS, passes, said_in_words

# Loads a program and does nothing with it.
LOAD = """
import sys, torch
from torch._C._aoti import AOTIModelPackageLoader
AOTIModelPackageLoader(sys.argv[1], "model", False, 1, -1)
"""


class NotLoaded(Exception):
    """Why a program cannot be loaded here, though it was compiled."""


def compiled(
    exported: Any, example: list[Tensor], choice: Choice
) -> tuple[Callable[[list[Tensor]], Sequence[Tensor]], bool]:
    """What runs the graph, and whether it was loaded and not compiled.  Raises NotCompiled, NotLoaded."""
    path = address(exported, example, choice)
    found = path.exists()
    if not found:
        _compile(exported, choice, path)
    _try_loader(path)
    return _Runner(path, choice.threads), found


def _compile(exported: Any, choice: Choice, path: Path) -> None:
    from torch._inductor import aoti_compile_and_package

    options = {**OPTIONS, "cpp.threads": choice.threads, "post_grad_custom_post_pass": passes(choice.onednn)}
    path.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=path.parent) as scratch:
        unfinished = Path(scratch) / path.name
        with said_in_words(), warnings.catch_warnings():
            warnings.simplefilter("ignore", FutureWarning)
            aoti_compile_and_package(exported, package_path=str(unfinished), inductor_configs=options)
        unfinished.replace(path)


def _try_loader(path: Path) -> None:
    """Raises NotLoaded if torch's loader does not work on this machine.

    On one, whose variable CXX named a compiler without a shared libstdc++, every program carried a copy of that library
    beside torch's, and the process ended with a segmentation fault in std::regex.  So the loader is tried in a process
    of its own, once for a version of Python and of torch, a processor and a compiler.
    """
    key = hashlib.sha256("\0".join((sys.version, *machine())).encode()).hexdigest()[:32]
    said = folder() / "loader" / key
    if not said.exists():
        done = subprocess.run([sys.executable, "-c", LOAD, str(path)], capture_output=True, text=True)
        said.parent.mkdir(parents=True, exist_ok=True)
        unfinished = said.with_suffix(f".{time.time_ns()}")
        unfinished.write_text("" if done.returncode == 0 else f"status {done.returncode} {done.stderr[-200:]}".strip())
        unfinished.replace(said)
    if why := said.read_text():
        raise NotLoaded(
            f"torch's loader of ahead-of-time programs fails here ({why}); another compiler in CXX may help"
        )


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
