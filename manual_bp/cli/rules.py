"""`manual-bp rules`: the table of rules, or one page."""

from __future__ import annotations

import textwrap
from collections.abc import Iterable
from typing import Annotated, Any

import typer
from rich.box import SIMPLE_HEAD
from rich.table import Table
from rich.text import Text

from manual_bp.cli.shared import out, print_table, rule_names, usage


def list_rules(
    rule: Annotated[
        str | None,
        typer.Argument(help="One page, rendered; or a chapter, which is introduced.", autocompletion=rule_names),
    ] = None,
    formulas: Annotated[bool, typer.Option("--formulas", help="The wrong formulas too, as code.")] = False,
) -> None:
    """The table of rules, or one page: mathematics, code, what goes wrong.
    For example: manual-bp rules batch_norm
    """
    with usage():
        from manual_bp.registry import RULES

        if rule is not None:
            if rule in {found.chapter for found in RULES.values()}:
                _print_chapter(rule)
            else:
                _print_page(RULES[rule], formulas)
            return
        table = Table(box=SIMPLE_HEAD)
        for heading in ("chapter", "rule", "inputs", "hyperparameters", "mistakes"):
            table.add_column(heading)
        for name, found in RULES.items():
            inputs = [f"{x}?" if x in found.absentable else x for x in found.inputs]
            hyper = ", ".join(f"{h}={found.defaults[h]}" if h in found.defaults else h for h in found.hyper)
            table.add_row(found.chapter, name, ", ".join(inputs), hyper, str(len(found.mistakes)))
        print_table(table)


def _print_chapter(name: str) -> None:
    """How the book introduces a chapter, and its pages."""
    from manual_bp.book.chapters import chapters
    from manual_bp.book.page import Page
    from manual_bp.registry import RULES

    (chapter,) = chapters(Page(rule) for rule in RULES.values() if rule.chapter == name)
    _print_text(chapter.text)
    _print_table("pages", ("rule", ""), [(page.name, page.summary) for page in chapter.pages])


def _print_page(rule: Any, formulas: bool) -> None:
    """What the book shows of it, but for pictures."""
    from manual_bp.book.page import Page

    page = Page(rule)
    _print_text(page.text)
    out.print()
    _print_table("signature", ("name", "role", "kind", "axes", ""), [vars(each).values() for each in page.arguments])
    out.print(page.code, markup=False)
    out.print()
    if page.rule.promises:
        _print_table("what accuracy is promised", ("of", "why it is out of reach"), page.promises)
    if rule.conventions:
        _print_table("what may be declared", ("convention", "choice", "what it means"), page.conventions)
    rows = [(m.name, m.forgets, m.shows, m.seen or "") for m in page.wrong]
    _print_table("what goes wrong", ("mistake", "forgets", "shows", "seen"), rows)
    if formulas:
        for name, formula in page.formulas.items():
            out.print(f"{name}:\n{textwrap.indent(formula, '    ')}\n", markup=False)
        if page.parts_of_wrong:
            out.print(f"where\n\n{page.parts_of_wrong}\n", markup=False)
    _print_table("edges", ("edge", "sets", "raises"), page.edges)
    if page.related:
        out.print(f"related pages: {', '.join(page.related)}", highlight=False)


def _print_text(text: Any) -> None:
    """A docstring as it was typed, with its sections as headings."""
    out.print(text.summary, markup=False, highlight=False, style="bold")
    for section in text.sections:
        if section.title:
            out.print(f"\n{section.title}", style="bold")
        for block in section.blocks:
            out.print(f"\n{block.text}", markup=False, highlight=False)
    if text.source:
        out.print(f"\nSource: {text.source}", markup=False, highlight=False)
    out.print()


def _print_table(title: str, headings: Iterable[str], rows: Iterable[Iterable[str]]) -> None:
    table = Table(*headings, title=title, title_justify="left", box=SIMPLE_HEAD)
    for row in rows:
        table.add_row(*map(Text, row))
    print_table(table)
