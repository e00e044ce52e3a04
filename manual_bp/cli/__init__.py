"""`manual-bp`: the command line.  Exit status: 0 all holds, 1 something is wrong (said in full), 2 bad usage."""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import Any

# First, as it says what to install where typer is missing.
from manual_bp.cli import shared  # noqa: F401  isort: skip

import typer

from manual_bp.cli.bench import bench
from manual_bp.cli.check import check
from manual_bp.cli.lockstep import lockstep
from manual_bp.cli.rules import list_rules
from manual_bp.cli.train import train
from manual_bp.cli.verify import verify

app = typer.Typer(add_completion=False, no_args_is_help=True, pretty_exceptions_enable=False, help=__doc__)
app.command()(verify)
app.command()(lockstep)
app.command()(train)
app.command()(check)
app.command()(bench)
app.command("rules")(list_rules)


def main(run: Callable[[], Any] = app) -> None:
    """The entry point of the script `manual-bp`."""
    sys.exit(run())
