"""`manual-bp schema`: what the JSON documents look like."""

from __future__ import annotations

import json
from typing import Annotated

import typer

from manual_bp.cli.shared import one_of, out, usage
from manual_bp.documents import DOCUMENTS
from manual_bp.documents import schema as schema_of


def schema(
    document: Annotated[
        str | None,
        typer.Argument(help=f"One of {', '.join(DOCUMENTS)}.", autocompletion=one_of(*DOCUMENTS)),
    ] = None,
) -> None:
    """The JSON Schema of a document that a command writes; or the list of documents.
    For example: manual-bp schema check
    """
    if document is None:
        for name, (title, _) in DOCUMENTS.items():
            out.print(f"{name:10}{title}", markup=False, highlight=False)
        return
    with usage():
        found = schema_of(document)
    out.print(json.dumps(found, indent=1, ensure_ascii=False), markup=False, highlight=False, soft_wrap=True)
