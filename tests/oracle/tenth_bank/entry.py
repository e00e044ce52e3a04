"""An entry of the tenth bank: as of the eighth; the piece of text that is wrong, and what is due there, come first."""

from __future__ import annotations

from typing import Any

from tests.oracle.eighth_bank import entry
from tests.oracle.eighth_bank.entry import Entry

__all__ = ["Bank", "Entry"]


class Bank(entry.Bank):
    def __init__(self) -> None:
        super().__init__([])

    def wrong(  # type: ignore[override]
        self, reference: Any, piece: str, due: str, *, cause: str, keywords: tuple[str, ...], **options: Any
    ) -> Any:
        return super().wrong(reference, cause, *keywords, mend=(piece, due), **options)
