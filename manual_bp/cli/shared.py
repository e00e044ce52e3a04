"""What the commands share: options and their completion, bad usage, output, progress, files."""

from __future__ import annotations

import difflib
import importlib.metadata
import json
import os
import platform
import sys
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, redirect_stdout, suppress
from pathlib import Path
from typing import Annotated, Any, TypeVar

import manual_bp
from manual_bp.documents import VERSION
from manual_bp.interruption import INTERRUPTED
from manual_bp.networks import MODELS

try:
    import typer
    from rich.console import Console, ConsoleDimensions
    from rich.progress import track
    from rich.table import Table
    from typer.core import TyperGroup
except ImportError as error:  # the core does not need them
    raise SystemExit(
        f"manual-bp needs the command line's packages ({error}). Run: pip install 'manual-bp[cli]'"
    ) from None

Item = TypeVar("Item")

# A file or a pipe has no width of its own: its lines are as long as they are, and only its tables are folded.
WIDE = 10_000
FOLDED = 120


class Output(Console):
    """A terminal as rich knows it; a file or a pipe without a width, and without complaint if nobody reads it."""

    @property  # type: ignore[misc] # nobody sets the size of an output
    def size(self) -> ConsoleDimensions:
        return super().size if self.is_terminal else ConsoleDimensions(WIDE, 25)

    def on_broken_pipe(self) -> None:
        """Whoever reads has had enough (`| head`).  The command goes on in silence: its verdict is its exit status, and
        it may have files to write."""
        self.quiet = True
        _discard_output()


def _discard_output() -> None:
    """From here on what is printed goes nowhere; else Python complains once more when it ends."""
    with suppress(OSError):  # what stands for the output in a test has no descriptor
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, sys.stdout.fileno())
        os.close(nowhere)


out = Output(emoji=False)
notices = Console(stderr=True, emoji=False)


class Commands(TyperGroup):
    """All commands, ended in words by Ctrl-C and by an output that cannot be written."""

    def invoke(self, ctx: Any) -> Any:
        try:
            return super().invoke(ctx)
        except KeyboardInterrupt:
            notices.print("interrupted")
            raise typer.Exit(INTERRUPTED) from None
        except BrokenPipeError:  # not from `out`, which takes it in silence
            _discard_output()
            raise typer.Exit(1) from None
        except OSError as error:
            if error.filename is not None:  # about a file, and nobody expected it: the traceback says where
                raise
            notices.print(f"error: the output cannot be written: {error.strerror}", style="red", highlight=False)
            _discard_output()
            raise typer.Exit(2) from None


# ----------------------------------------------------------------------------------------------------------- options


def rule_names(incomplete: str) -> list[str]:
    """The rules that begin so, for the shell's completion: found as files, as it must not wait for torch."""
    folder = Path(manual_bp.__file__).parent / "rules"
    names = (path.stem for path in sorted(folder.glob("[!_]*/[!_]*.py")))
    return [name for name in names if name.startswith(incomplete)]


def one_of(*values: str) -> Callable[[str], list[str]]:
    """Those of the values that begin so, for the shell's completion."""

    def completed(incomplete: str) -> list[str]:
        return [value for value in values if value.startswith(incomplete)]

    return completed


DTYPES = ("float64", "float32", "float16", "bfloat16")

Dtype = Annotated[
    str | None, typer.Option(help=f"{', '.join(DTYPES)}; by default all.", autocompletion=one_of(*DTYPES))
]
Device = Annotated[str, typer.Option(help="cpu or cuda.", autocompletion=one_of("cpu", "cuda"))]
OUTPUT = Path("-")
"""In place of a file, the output."""


def _words_apart(context: typer.Context, path: Path | None) -> Path | None:
    """Where the document is the output, all that is printed, by the candidate too, goes where notices do."""
    if path == OUTPUT:
        context.with_resource(redirect_stdout(sys.stderr))
    return path


Json = Annotated[
    Path | None,
    typer.Option(
        "--json",
        help="Write the same as one JSON document; - for the output, and words to stderr.",
        callback=_words_apart,
    ),
]
ModelName = Annotated[
    str,
    typer.Option(
        help=f"{', '.join(MODELS)} (notes has sigmoid in every layer); all of them by default.",
        autocompletion=one_of("all", *MODELS),
    ),
]
Data = Annotated[
    str | None,
    typer.Option(
        help="digits, or a folder with MNIST-format IDX files; of gpt and recurrent a file, whatever its bytes say.",
        show_default="digits; of text Python's language reference",
    ),
]


@contextmanager
def usage() -> Iterator[None]:
    """Bad usage is exit status 2, with what must hold, what came, and what to do."""
    try:
        yield
    except ValueError as error:
        complain(str(error))
        raise typer.Exit(2) from None


def chosen_dtypes(name: str | None, option: str = "--dtype") -> list[Any]:
    """The dtype of that name, or all.  Raises ValueError for another name."""
    if name is not None and name not in DTYPES:
        close = difflib.get_close_matches(name.replace("fp", "float"), DTYPES, 1)
        hint = f" Did you mean {close[0]}?" if close else ""
        raise ValueError(f"{option} must be one of {', '.join(DTYPES)}; came {name!r}.{hint}")
    import torch

    return [getattr(torch, dtype) for dtype in DTYPES if name in (None, dtype)]


def check_device(name: str) -> None:
    """Raises ValueError unless torch can use the device."""
    if name != "cpu" and not name.startswith("cuda"):
        raise ValueError(f"--device must be cpu or cuda; came {name!r}.")
    if name != "cpu":
        import torch

        if not torch.cuda.is_available():
            raise ValueError(f"--device {name} needs a GPU; there is none that torch can use. Leave --device out.")


# ------------------------------------------------------------------------------------------------------------ output


def print_table(table: Table) -> None:
    """A table in which nothing is cut off.  On a terminal words that do not fit are folded; in a file or a pipe the
    table is as wide as its longest words need, so that an address stays in one piece."""
    for column in table.columns:
        column.overflow = "fold"
    if not out.is_terminal:
        columns = os.environ.get("COLUMNS", "")
        _narrow(table, int(columns) if columns.isdigit() else FOLDED)
    out.print(table)


def _narrow(table: Table, wanted: int) -> None:
    """Bring a table down to so many characters, the widest column first, as far as no word has to be broken."""
    cells = [[out.measure(cell) for cell in (column.header, *column.cells)] for column in table.columns]
    least = [max(cell.minimum for cell in column) for column in cells]
    widths = [max(cell.maximum for cell in column) for column in cells]
    addresses = sum(width for width, shortest in zip(widths, least, strict=True) if width == shortest > wanted // 2)
    excess = out.measure(table).maximum - wanted - addresses  # they leave the other columns no room
    while excess > 0 and widths != least:
        excess -= 1
        widths[max(range(len(widths)), key=lambda i: widths[i] if widths[i] > least[i] else 0)] -= 1
    for column, width in zip(table.columns, widths, strict=True):
        column.width = width


def complain(text: str) -> None:
    """An error, in one line however long, whatever a candidate or a name of a file puts into it."""
    from manual_bp.foreign import readable

    notices.print(f"error: {readable(text)}", style="red", markup=False, highlight=False, soft_wrap=True)


def shown(items: Iterable[Item], description: str, total: int | None = None) -> Iterable[Item]:
    """Progress on a terminal, silence elsewhere."""
    return track(items, description, total=total, console=notices, transient=True, disable=not notices.is_terminal)


def print_verdict(passed: bool, addition: str) -> None:
    """The last line."""
    words = "all holds" if passed else "something is wrong: see above"
    out.print(f"{words}{'; ' + addition if addition else ''}", style="bold green" if passed else "bold red")


# ------------------------------------------------------------------------------------------------------------- files


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
    """Refuse at once what could not be written after all the work.  Raises ValueError that says why."""
    if path is None or path == OUTPUT:
        return
    folder = path.parent
    if path.is_dir():
        why = "that is a folder"
    elif not folder.is_dir():
        why = f"there is no folder {str(folder)!r}"
    elif not os.access(path if path.exists() else folder, os.W_OK):
        why = "writing is not permitted there"
    else:
        return
    raise ValueError(f"{option} must name a file that can be written; came {str(path)!r}: {why}.")


def write(path: Path, text: str, option: str) -> bool:
    """Whether the file could be written.  If not, a sentence says so; what was found has been printed before."""
    try:
        if path == OUTPUT and sys.__stdout__ is not None:
            sys.__stdout__.write(text)
            sys.__stdout__.flush()
        else:
            path.write_text(text, encoding="utf-8")
    except OSError as error:
        complain(f"{option} {str(path)!r} cannot be written: {error.strerror or error}. What is printed holds.")
        return False
    return True


def write_json(path: Path | None, command: str, passed: bool, content: dict[str, Any]) -> None:
    """One document.  If it cannot be written, that is said: exit status 2, or 1 if something is wrong besides."""
    from manual_bp.oracle.reports.report import plain

    if path is None:
        return
    document = {"schema": VERSION, "command": command, **content, "passed": passed, "versions": versions()}
    if not write(path, json.dumps(plain(document), indent=1, allow_nan=False) + "\n", "--json"):
        raise typer.Exit(2 if passed else 1)


# ---------------------------------------------------------------------------------------------------------- machine


def one_thread() -> None:
    """On tensors of this size more threads only wait for one another, and on a busy machine they wait long."""
    import torch

    torch.set_num_threads(1)


def cores() -> int:
    """How many cores this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
