"""Documents that a command wrote, held against the schema that is published for them."""

from __future__ import annotations

import json
from functools import cache
from typing import Any

from jsonschema import Draft202012Validator

from manual_bp.documents import schema


def valid(text: str, document: str, part: str = "") -> dict[str, Any]:
    """What the text says, as soon as it is what the document's schema says; part: of which field it is the value."""
    found: dict[str, Any] = json.loads(text)
    _validator(document, part).validate(found)
    return found


@cache
def _validator(document: str, part: str) -> Draft202012Validator:
    whole = schema(document)
    Draft202012Validator.check_schema(whole)
    return Draft202012Validator({**whole["properties"][part], "$defs": whole["$defs"]} if part else whole)
