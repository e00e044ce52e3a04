"""What a trained network takes new examples for."""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from manual_bp.inputs import require
from manual_bp.losses import Loss
from manual_bp.training import data
from manual_bp.training.fit import ROWS
from manual_bp.training.saved import SavedModel

FILES = (".npz", ".npy", ".csv")


@dataclass(frozen=True)
class Predicted:
    """answers: (n,) integers, the class of each example. outputs: (n, classes), what the network gave. probabilities:
    (n, classes), of a loss that makes outputs probabilities; else None."""

    answers: Tensor
    outputs: Tensor
    probabilities: Tensor | None


def predict(saved: SavedModel, x: Tensor) -> Predicted:
    """The class of each example.  x: (n, features), or shaped as the network takes it.

    Raises ValueError, as the rules say it, for another shape, and for a network of text.
    """
    if saved.symbols:
        raise ValueError(f"a network of classes is due; came a {saved.model.name} that learned text: manual-bp sample.")
    if (image := saved.model.config.get("image")) and x.ndim == 2:
        must = f"the network takes images of {' x '.join(map(str, image))} = {math.prod(image)} numbers"
        require(x.shape[1] == math.prod(image), must, f"{x.shape[1]} in a row", "Bring them to that size.")
        x = x.reshape(len(x), *image)
    layer = saved.model.inference()
    dtype = next(iter(saved.params.values())).dtype
    pieces = [layer.forward(saved.params, saved.buffers, rows.to(dtype))[0] for rows in torch.split(x, ROWS)]
    outputs = torch.cat(pieces)
    is_softmax = bool(saved.loss) and Loss(saved.loss).takes_classes
    return Predicted(outputs.argmax(1), outputs, torch.softmax(outputs, 1) if is_softmax else None)


def read(source: str, labelled: bool = False) -> tuple[Tensor, Tensor | None]:
    """Examples, (n, features), and the number of the class of each, (n,), where the data say it.

    source: "digits", a folder of IDX files (its own test files if there are any), or a file: .npz with x, and labels if
        it has them; .npy; .csv of numbers, one example a line.
    labelled: whether the last column of a .csv holds labels.
    Raises ValueError if it cannot be read.
    """
    path = Path(source)
    if path.suffix not in FILES:
        found = data.load(source)
        found = found.test or found
        return found.x, found.labels
    try:
        if path.suffix == ".csv":
            table = np.loadtxt(path, delimiter=",", ndmin=2)
            x, labels = (table[:, :-1], table[:, -1]) if labelled else (table, None)
        else:
            loaded = np.load(path)
            arrays = {"x": loaded} if isinstance(loaded, np.ndarray) else dict(loaded)
            x, labels = arrays["x"], arrays.get("labels")
    except (OSError, ValueError, KeyError, EOFError) as error:
        raise ValueError(f"data: {source} cannot be read: {error}. It must hold numbers, of a .npz under x.") from error
    if x.ndim < 2 or not len(x) or not np.issubdtype(x.dtype, np.number):
        raise ValueError(f"data: {source} must hold numbers, one row for each example; came {x.dtype}, {x.shape}.")
    if labels is not None and labels.shape != (len(x),):
        raise ValueError(f"data: {source} must hold a label for each of {len(x)} examples; came {labels.shape}.")
    rows = torch.from_numpy(np.ascontiguousarray(x.reshape(len(x), -1), dtype=np.float64))
    return rows, None if labels is None else torch.from_numpy(labels.astype(np.int64))
