"""What the commands share: options, bad usage, progress, JSON."""

from __future__ import annotations

import importlib.metadata
import json
import os
import platform
import sys
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any, TypeVar

try:
    import typer
    from rich.console import Console
    from rich.progress import track
except ImportError as error:  # the core does not need them
    raise SystemExit(
        f"manual-bp needs the command line's packages ({error}). Run: pip install 'manual-bp[cli]'"
    ) from None

SCHEMA = 1
Item = TypeVar("Item")

# A file or a pipe has no width of its own.
out = Console(width=None if sys.stdout.isatty() or "COLUMNS" in os.environ else 120)
notices = Console(stderr=True)

Dtype = Annotated[str | None, typer.Option(help="float64, float32, bfloat16 or float16; by default all.")]
Device = Annotated[str, typer.Option(help="cpu or cuda.")]
Json = Annotated[Path | None, typer.Option("--json", help="Write the same as one JSON document.")]
ModelName = Annotated[
    str, typer.Option(help="mlp, residual_mlp or notes (sigmoid in every layer); all of them by default.")
]
Data = Annotated[str, typer.Option(help="digits, or a folder with MNIST-format IDX files.")]


@contextmanager
def usage() -> Iterator[None]:
    """Bad usage is exit status 2, with what must hold, what came, and what to do."""
    try:
        yield
    except ValueError as error:
        notices.print(f"error: {error}", style="red", markup=False, highlight=False)
        raise typer.Exit(2) from None


def shown(items: Iterable[Item], description: str, total: int | None = None) -> Iterable[Item]:
    """Progress on a terminal, silence elsewhere."""
    return track(items, description, total=total, console=notices, transient=True, disable=not notices.is_terminal)


def versions() -> dict[str, str]:
    """What the numbers were measured with."""
    found = {"python": platform.python_version(), "machine": platform.machine()}
    for package in ("manual-bp", "torch", "numpy", "jaxtyping", "python-flint"):
        try:
            found[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            found[package] = "not installed"
    return found


def check_writable(path: Path | None, option: str = "--json") -> None:
    """Refuse at once what could not be written after all the work."""
    if path is not None and (path.is_dir() or not os.access(path if path.exists() else path.parent, os.W_OK)):
        raise ValueError(f"{option} must name a file that can be written; came {str(path)!r}.")


def write_json(path: Path | None, command: str, passed: bool, content: dict[str, Any]) -> None:
    """One document."""
    from manual_bp.oracle.report import plain

    if path is not None:
        document = {"schema": SCHEMA, "command": command, **content, "passed": passed, "versions": versions()}
        path.write_text(json.dumps(plain(document), indent=1, allow_nan=False) + "\n")


def chosen_dtypes(name: str | None) -> list[Any]:
    from manual_bp.rule import DTYPES

    names = {str(dtype).removeprefix("torch."): dtype for dtype in DTYPES}
    if name is not None and name not in names:
        raise ValueError(f"--dtype must be one of {list(names)}; came {name!r}.")
    return list(names.values()) if name is None else [names[name]]


def check_device(name: str) -> None:
    import torch

    if name != "cpu" and not name.startswith("cuda"):
        raise ValueError(f"--device must be cpu or cuda; came {name!r}.")
    if name != "cpu" and not torch.cuda.is_available():
        raise ValueError(f"--device {name} needs a GPU; there is none that torch can use. Leave --device out.")


def one_thread() -> None:
    """On tensors of this size more threads only wait for one another, and on a busy machine they wait long."""
    import torch

    torch.set_num_threads(1)


def cores() -> int:
    """How many cores this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def print_verdict(passed: bool, addition: str) -> None:
    words = "all holds" if passed else "something is wrong: see above"
    out.print(f"{words}{'; ' + addition if addition else ''}", style="bold green" if passed else "bold red")
    if not passed:
        raise typer.Exit(1)
