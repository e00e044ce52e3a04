"""Text: tokens of one character or byte each, and windows of them to learn from."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import torch
from torch import Tensor

from manual_bp.arguments import is_whole
from manual_bp.inputs import require
from manual_bp.training.data import Dataset

PYTHON = "python"
"""The name of the text that is there wherever Python is: its language reference."""

BYTES = tuple(bytes([number]) for number in range(256))
"""The tokens of any file."""


@dataclass(frozen=True)
class Text:
    """tokens: the whole text, (length,) integers, in order. symbols: what each number stands for, in UTF-8."""

    name: str
    tokens: Tensor
    symbols: tuple[bytes, ...]

    def windows(self, context: int) -> Dataset:
        """The text cut into pieces of `context` tokens, with the tokens that follow each as labels.

        What is left at the end is dropped.  Raises ValueError if there is no piece, and for a context of none.
        """
        must = f"{self.name}: context must be a whole number of tokens, at least 1"
        require(is_whole(context, 1), must, repr(context), "")
        number = (len(self.tokens) - 1) // context
        if number < 1:
            raise ValueError(
                f"{self.name}: there must be more than {context} tokens, the context; came {len(self.tokens)}. Use "
                "more text or a shorter context."
            )
        x, labels = (self.tokens[shift : shift + number * context].view(number, context) for shift in (0, 1))
        return Dataset(self.name, x, labels, (1, context), symbols=self.symbols)


def load(name: str = PYTHON) -> Text:
    """The text "python", by character, or a file, by byte.  Raises ValueError if it cannot be read."""
    return python_reference() if name == PYTHON else from_file(Path(name))


def python_reference() -> Text:
    """Python's language reference, from which help() takes its topics: 465 000 characters in Python 3.11.

    Another version of Python has another text.
    """
    from pydoc_data.topics import topics

    text = "\n\n".join(topics.values())
    symbols = tuple(character.encode() for character in sorted(set(text)))
    return Text(PYTHON, Symbols(symbols).numbers(text), symbols)


def from_file(path: Path) -> Text:
    """The bytes of a file, whatever they say."""
    try:
        content = path.read_bytes()
    except OSError as error:
        must = f"data must be {PYTHON!r} or a file that can be read"
        raise ValueError(f"{must}; came {str(path)!r}: {error.strerror}.") from error
    return Text(path.name, torch.frombuffer(bytearray(content), dtype=torch.uint8).long() if content else NONE, BYTES)


NONE = torch.zeros(0, dtype=torch.int64)


@dataclass(frozen=True)
class Symbols:
    """From text to the numbers of its tokens, and back."""

    symbols: Sequence[bytes]

    def numbers(self, text: str) -> Tensor:
        """One number for a character that is a symbol, else one for each of its bytes.

        Raises ValueError for what there is no symbol for.
        """
        found: list[int] = []
        for character in text:
            whole = character.encode()
            pieces = [whole] if whole in self._numbers else [bytes([byte]) for byte in whole]
            if any(piece not in self._numbers for piece in pieces):
                raise ValueError(f"the text must be made of the {len(self.symbols)} known symbols; came {character!r}.")
            found += [self._numbers[piece] for piece in pieces]
        return torch.tensor(found, dtype=torch.int64)

    def text(self, numbers: Tensor) -> str:
        """What the tokens say; bytes that are no UTF-8 are shown as the replacement character."""
        return b"".join(self.symbols[number] for number in numbers.tolist()).decode(errors="replace")

    @cached_property
    def _numbers(self) -> dict[bytes, int]:
        return {symbol: number for number, symbol in enumerate(self.symbols)}
