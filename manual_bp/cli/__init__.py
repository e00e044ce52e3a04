"""`manual-bp`: the command line.

Exit status: 0 all holds, 1 something is wrong (said in full), 2 bad usage or a file that cannot be written, 130 Ctrl-C.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from typing import Annotated, Any

# First, as it says what to install where typer is missing.
from manual_bp.cli import shared  # isort: skip

import typer

import manual_bp
from manual_bp.cli.audit import audit
from manual_bp.cli.bench import bench
from manual_bp.cli.book import book
from manual_bp.cli.check import check
from manual_bp.cli.grade import grade
from manual_bp.cli.lockstep import lockstep
from manual_bp.cli.predict import predict
from manual_bp.cli.rules import list_rules
from manual_bp.cli.sample import sample
from manual_bp.cli.schema import schema
from manual_bp.cli.train import train
from manual_bp.cli.vectors import vectors
from manual_bp.cli.verify import verify
from manual_bp.cli.watched import watched
from manual_bp.interruption import INTERRUPTED

app = typer.Typer(cls=shared.Commands, no_args_is_help=True, pretty_exceptions_enable=False, help=__doc__)

# In the order in which users meet them.
EVIDENCE, OWN, NETWORKS, READING = "Is it right, and how fast?", "Your own code", "Networks", "To read"
app.command(rich_help_panel=EVIDENCE)(verify)
app.command(rich_help_panel=EVIDENCE)(bench)
app.command(rich_help_panel=OWN)(check)
app.command(rich_help_panel=OWN)(audit)
app.command(rich_help_panel=OWN)(grade)
app.command(rich_help_panel=OWN)(vectors)
app.command(rich_help_panel=NETWORKS)(lockstep)
app.command(rich_help_panel=NETWORKS)(train)
app.command(rich_help_panel=NETWORKS)(predict)
app.command(rich_help_panel=NETWORKS)(sample)
app.command("rules", rich_help_panel=READING)(list_rules)
app.command(rich_help_panel=READING)(book)
app.command(rich_help_panel=READING)(schema)


def _show_version(wanted: bool) -> None:
    if wanted:
        found = shared.versions()
        about = f"Python {found['python']}, torch {found['torch']}"
        shared.out.print(f"manual-bp {manual_bp.__version__} ({about})", highlight=False)
        raise typer.Exit


@app.callback()
def options(
    version: Annotated[
        bool, typer.Option("--version", callback=_show_version, is_eager=True, help="Show the version and end.")
    ] = False,
) -> None:
    # No docstring: it would replace the help text of the command line.
    del version


def main(run: Callable[[], Any] = app) -> None:
    """The command line as a process of its own."""
    for stream in (sys.stdout, sys.stderr):
        # A name may hold bytes that are no UTF-8, and a terminal may know neither δ nor ≤: shown as escapes.
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="backslashreplace")
    isolated = "--isolate" in sys.argv  # then strangers have a process of their own
    strangers = sys.argv[1:2] in (["check"], ["audit"]) and not isolated
    try:
        sys.exit(watched(run) if strangers else run())
    except SystemExit as end:
        if end.code != INTERRUPTED:
            raise
        # Python ends itself by the signal, with another status, if the interrupt met a text that was being executed
        # (a dataclass is made of one); and ended processes need not be waited for.
        for stream in (sys.stdout, sys.stderr):
            stream.flush()
        os._exit(INTERRUPTED)
