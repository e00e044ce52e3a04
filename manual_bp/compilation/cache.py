"""Compiled programs on disk, so that another process need not compile them again."""

from __future__ import annotations

import hashlib
import os
import platform
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

if TYPE_CHECKING:
    from manual_bp.compilation.choice import Choice


def folder() -> Path:
    """Where programs are kept: inductor's cache folder if TORCHINDUCTOR_CACHE_DIR names one, else the user's."""
    named = os.environ.get("TORCHINDUCTOR_CACHE_DIR")
    if named:
        return Path(named) / "manual_bp"
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "manual_bp"


def address(exported: Any, example: list[Tensor], choice: Choice) -> Path:
    """The file of a program.  Its name is a hash of all that the program depends on: the traced graph itself with its
    shapes and constants, the machine, how it is compiled, and the text of this package, whose passes change what is
    compiled.
    """
    graph = [str(exported.graph_module.code), str(exported.range_constraints)]
    graph += [f"{n.name} {n.meta.get('val')}" for n in exported.graph.nodes]
    layouts = [f"{t.dtype} {tuple(t.shape)} {t.stride()} {t.device}" for t in example]
    constants = [f"{name} {t!r}" for name, t in sorted(exported.constants.items())]
    parts = [*machine(), repr(choice), text(), *graph, *layouts, *constants]
    return folder() / f"{hashlib.sha256(chr(0).join(parts).encode()).hexdigest()[:32]}.pt2"


@cache
def text() -> str:
    """The text of the compilation package."""
    return "\0".join(path.read_text() for path in sorted(Path(__file__).parent.glob("*.py")))


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
