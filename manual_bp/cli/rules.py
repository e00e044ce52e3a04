"""`manual-bp rules`: the table of rules, or one page."""

from __future__ import annotations

import inspect
from typing import Annotated, Any

import typer
from rich.box import SIMPLE_HEAD
from rich.table import Table
from rich.text import Text

from manual_bp.cli.shared import out, print_table, rule_names, usage


def list_rules(
    rule: Annotated[str | None, typer.Argument(help="One page, rendered.", autocompletion=rule_names)] = None,
) -> None:
    """The table of rules, or one page: mathematics, code, what goes wrong.
    For example: manual-bp rules batch_norm
    """
    with usage():
        from manual_bp.registry import RULES

        if rule is not None:
            _print_page(RULES[rule])
            return
        table = Table(box=SIMPLE_HEAD)
        for heading in ("chapter", "rule", "inputs", "hyperparameters", "mistakes"):
            table.add_column(heading)
        for name, found in RULES.items():
            inputs = [f"{x}?" if x in found.absentable else x for x in found.inputs]
            hyper = ", ".join(f"{h}={found.defaults[h]}" if h in found.defaults else h for h in found.hyper)
            table.add_row(found.chapter, name, ", ".join(inputs), hyper, str(len(found.mistakes)))
        print_table(table)


def _print_page(rule: Any) -> None:
    out.print(inspect.cleandoc(rule.page.__doc__), markup=False, highlight=False)
    for part in ("forward", "backward"):
        if hasattr(rule.page, part):
            out.print()
            out.print(inspect.getsource(getattr(rule.page, part)).rstrip(), markup=False)
    if rule.conventions:
        table = Table("convention", "choice", "what it means", title="what may be declared", box=SIMPLE_HEAD)
        for name, options in rule.conventions.items():
            for choice, convention in options.items():
                table.add_row(name, choice, convention.meaning)
        print_table(table)
    table = Table("mistake", "forgets", "shows", "seen", title="what goes wrong", box=SIMPLE_HEAD)
    for mistake in rule.mistakes:
        table.add_row(*(Text(text) for text in (mistake.name, mistake.forgets, mistake.shows, mistake.seen or "")))
    print_table(table)
