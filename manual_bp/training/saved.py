"""A trained network of text in one file: its parameters, how it is made, and what its tokens stand for."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from manual_bp.files import safetensors_of_torch, write_atomically
from manual_bp.models.gpt import gpt
from manual_bp.models.model import Model
from manual_bp.training.checkpoint import tensors_as_bytes
from manual_bp.training.text import Symbols
from manual_bp.training.typed import TOO_NESTED


@dataclass(frozen=True)
class SavedModel:
    """model, params, buffers: the network after training. symbols: what its tokens stand for."""

    model: Model
    params: dict[str, Tensor]
    buffers: dict[str, Tensor]
    symbols: tuple[bytes, ...]

    def save(self, path: Path, about: dict[str, str]) -> None:
        """Replace the file whole; about: what else there is to say of the network."""
        told = {
            "model": self.model.name,
            "config": json.dumps(self.model.config),
            # Latin-1 has a character for each byte.
            "symbols": json.dumps([symbol.decode("latin-1") for symbol in self.symbols]),
        }
        write_atomically(path, tensors_as_bytes({**self.params, **self.buffers}, {**about, **told}))


def load_model(path: Path) -> SavedModel:
    """What `save` wrote.  Raises ValueError for a file that is missing, damaged or of another network."""
    library = safetensors_of_torch()
    try:
        raw = path.read_bytes()
        found: dict[str, Tensor] = library.load(raw)
        header = json.loads(raw[8 : 8 + int.from_bytes(raw[:8], "little")])
        about: dict[str, Any] = header.get("__metadata__", {})
    except OSError as error:
        raise ValueError(f"{path}: cannot be read: {error.strerror}.") from error
    except Exception as error:  # the library's own, or what it does with torch
        raise ValueError(f"{path}: cannot be read as a safetensors file: {error}.") from error
    try:
        symbols = tuple(symbol.encode("latin-1") for symbol in json.loads(about["symbols"]))
        model = gpt(**json.loads(about["config"]))
        params, buffers = model.init(torch.Generator())
    except (KeyError, TypeError, AttributeError, ValueError, *TOO_NESTED) as error:
        raise ValueError(
            f"{path}: must say how its network is made and what its tokens are, as a run of --model gpt does; "
            f"{type(error).__name__}: {error}."
        ) from error
    shapes = {name: tuple(t.shape) for name, t in (params | buffers).items()}
    came = {name: tuple(t.shape) for name, t in found.items()}
    if shapes != came or len(symbols) != model.config["vocabulary"]:
        odd = sorted(name for name in shapes.keys() | came.keys() if shapes.get(name) != came.get(name))
        raise ValueError(f"{path}: the tensors must be those of its network; {odd[:3] or 'the symbols'} are not.")
    params, buffers = ({name: found[name] for name in group} for group in (params, buffers))
    return SavedModel(model, params, buffers, symbols)


def prompt_of(saved: SavedModel, prompt: str) -> Tensor:
    """The numbers of a prompt's tokens.  Raises ValueError for what the network has not learned."""
    return Symbols(saved.symbols).numbers(prompt)
