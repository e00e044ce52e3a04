"""A trained network in one file: its parameters, how it is made, and of text what its tokens stand for."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from manual_bp.files import safetensors_of_torch, write_atomically
from manual_bp.models import KINDS, Model
from manual_bp.training.checkpoint import tensors_as_bytes
from manual_bp.training.run import MODEL
from manual_bp.training.text import Symbols
from manual_bp.training.typed import TOO_NESTED


@dataclass(frozen=True)
class SavedModel:
    """model, params, buffers: the network after training. symbols: of text, what its tokens stand for. loss: the name
    of that with which it was trained, "" if nobody says."""

    model: Model
    params: dict[str, Tensor]
    buffers: dict[str, Tensor]
    symbols: tuple[bytes, ...] = ()
    loss: str = ""

    def save(self, path: Path, about: dict[str, str]) -> None:
        """Replace the file whole; about: what else there is to say of the network."""
        told = {
            "model": self.model.name,
            "config": json.dumps(self.model.config),
            "loss": self.loss,
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
        model = KINDS[about["model"]](**json.loads(about["config"]))
        params, buffers = model.init(torch.Generator())
    except (KeyError, TypeError, AttributeError, ValueError, *TOO_NESTED) as error:
        raise ValueError(
            f"{path}: must say how its network is made, as the model.safetensors of a run does; "
            f"{type(error).__name__}: {error}. Train it anew, or make the network and load the tensors in Python."
        ) from error
    shapes = {name: tuple(t.shape) for name, t in (params | buffers).items()}
    came = {name: tuple(t.shape) for name, t in found.items()}
    if shapes != came or len(symbols) != model.config.get("vocabulary", 0):
        odd = sorted(name for name in shapes.keys() | came.keys() if shapes.get(name) != came.get(name))
        raise ValueError(f"{path}: the tensors must be those of its network; {odd[:3] or 'the symbols'} are not.")
    params, buffers = ({name: found[name] for name in group} for group in (params, buffers))
    return SavedModel(model, params, buffers, symbols, about.get("loss", ""))


def model_of(path: Path) -> SavedModel:
    """The network of a run's folder, or in a file.  Raises ValueError for a run that has not ended, and as
    `load_model`."""
    if path.is_dir() and not (path / MODEL).is_file():
        raise ValueError(
            f"--model must name the folder of a run that has ended; {str(path)!r} holds no {MODEL}. Go on with it: "
            f"manual-bp train --out {path} --resume"
        )
    return load_model(path / MODEL if path.is_dir() else path)


def prompt_of(saved: SavedModel, prompt: str) -> Tensor:
    """The numbers of a prompt's tokens.  Raises ValueError for what the network has not learned."""
    return Symbols(saved.symbols).numbers(prompt)
