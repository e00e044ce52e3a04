"""`manual-bp book`: the pages as a book of HTML files that open from disk."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from manual_bp.cli.shared import complain, one_thread, out, rule_names, shown, usage


def book(
    rules: Annotated[list[str] | None, typer.Argument(help="Rules; by default all.", autocompletion=rule_names)] = None,
    folder: Annotated[Path, typer.Option("--out", help="The folder to write into; it is made.")] = Path("book"),
) -> None:
    """The pages as a book: mathematics, code, pictures, and what each mistake does.  index.html opens from disk.
    For example: manual-bp book --out book
    """
    one_thread()
    with usage():
        if folder.exists() and not folder.is_dir():
            raise ValueError(f"--out must be a folder; came {str(folder)!r}, which is a file.")
        from manual_bp.book.environment import environment
        from manual_bp.book.site import Book, write
        from manual_bp.registry import RULES

        names = list(dict.fromkeys(rules)) if rules else list(RULES)
        try:
            made = Book.of({name: RULES[name] for name in names}, environment())
        except ImportError as error:
            raise ValueError(str(error)) from None
    try:
        files = [write(folder, path, text) for path, text in shown(made.files(), "pages", made.length)]
    except OSError as error:
        complain(f"--out {str(folder)!r} cannot be written: {error.strerror or error}.")
        raise typer.Exit(2) from None
    out.print(f"{len(made.pages)} pages in {len(made.chapters)} chapters: {files[0]}", highlight=False, soft_wrap=True)
