"""Real data: the handwritten digits inside scikit-learn, or a folder of MNIST-format IDX files."""

from __future__ import annotations

import gzip
import importlib.util
import math
import struct
import zlib
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor


@dataclass(frozen=True)
class Dataset:
    """x: (n, features) in [0, 1], float64; labels: (n,) integers from 0; image: (height, width)."""

    name: str
    x: Tensor
    labels: Tensor
    image: tuple[int, int]

    @property
    def classes(self) -> int:
        return int(self.labels.max()) + 1

    def targets(self, dtype: torch.dtype = torch.float64) -> Tensor:
        """(n, classes): 1 for the right class, 0 for the others."""
        return (self.labels[:, None] == torch.arange(self.classes)).to(dtype)


def load(name: str = "digits") -> Dataset:
    """The data set "digits", or a folder with IDX files.  Raises ValueError if it cannot be read."""
    return digits() if name == "digits" else idx_folder(Path(name))


def digits() -> Dataset:
    """The UCI handwritten digits: 1797 images of 8 x 8 pixels, part of scikit-learn.

    Source: Alpaydin & Kaynak, "Optical Recognition of Handwritten Digits", UCI repository, 1998.
    """
    data, target = _digits_in_file() or _digits_imported()
    return Dataset("digits", torch.from_numpy(data) / 16, torch.from_numpy(target), (8, 8))


def _digits_in_file() -> tuple[NDArray[np.float64], NDArray[np.int64]] | None:
    """Pixels and labels from the file that `load_digits` reads, without scikit-learn's import, which takes a second;
    None if there is no such file."""
    package = importlib.util.find_spec("sklearn")
    for folder in (package and package.submodule_search_locations) or []:
        path = Path(folder) / "datasets" / "data" / "digits.csv.gz"
        if path.is_file():
            table = np.loadtxt(path, delimiter=",", ndmin=2)
            return np.ascontiguousarray(table[:, :-1]), table[:, -1].astype(np.int64)
    return None


def _digits_imported() -> tuple[NDArray[np.float64], NDArray[np.int64]]:
    try:
        from sklearn.datasets import load_digits
    except ImportError as error:
        raise ValueError(
            "the data 'digits' needs scikit-learn; it is not installed. Run: pip install 'manual-bp[data]'"
        ) from error
    found = load_digits()
    return found.data, found.target


def idx_folder(folder: Path) -> Dataset:
    """The training images and labels of a folder in MNIST's format, gzipped or not.

    Looks for one file that starts with `train-images` and one with `train-labels`.  Raises ValueError if they are
    missing, truncated, of another format, or do not match.
    """
    if not folder.is_dir():
        raise ValueError(f"data must be 'digits' or a folder with IDX files; came {str(folder)!r}, which is no folder.")
    images = read_idx(_find(folder, "train-images"))
    labels = read_idx(_find(folder, "train-labels"))
    if images.ndim != 3 or labels.ndim != 1 or len(images) != len(labels):
        raise ValueError(
            f"{folder}: images must be (n, height, width) and labels (n,) for one n; came {images.shape} and "
            f"{labels.shape}. Take both files from one data set."
        )
    if not len(images):
        raise ValueError(f"{folder}: there must be at least one image; came none.")
    _, height, width = images.shape
    x = torch.from_numpy(images.reshape(len(images), -1).astype(np.float64)) / 255
    return Dataset(folder.name, x, torch.from_numpy(labels.astype(np.int64)), (height, width))


def _find(folder: Path, prefix: str) -> Path:
    found = sorted(path for path in folder.iterdir() if path.name.startswith(prefix))
    if not found:
        there = ", ".join(sorted(path.name for path in folder.iterdir())[:8]) or "nothing"
        raise ValueError(f"{folder}: a file {prefix}* must be there; found {there}.")
    return found[0]


def read_idx(path: Path) -> np.ndarray:
    """One IDX file of unsigned bytes, gzipped or not.

    The format: two zero bytes, 8 (unsigned byte), the number of axes, each axis as a big-endian 32-bit integer, then
    the data. Raises ValueError if the file is missing, truncated, longer than it says, or of another type.
    """
    try:
        content = path.read_bytes()
        if content[:2] == b"\x1f\x8b":  # gzip's magic number
            content = gzip.decompress(content)
    except (OSError, EOFError, zlib.error) as error:
        raise ValueError(f"{path}: cannot be read as an IDX file: {error}") from error
    if len(content) < 4 or content[:3] != b"\0\0\x08":
        raise ValueError(
            f"{path}: an IDX file of unsigned bytes must start with 00 00 08; came {content[:4].hex(' ') or 'nothing'}."
        )
    axes = content[3]
    start = 4 + 4 * axes
    if len(content) < start:
        raise ValueError(f"{path}: the header must have {start} bytes; came {len(content)}. The file is truncated.")
    shape = struct.unpack(f">{axes}I", content[4:start])
    wanted, came = math.prod(shape), len(content) - start
    if came != wanted:
        raise ValueError(
            f"{path}: {' x '.join(map(str, shape))} = {wanted} bytes of data must follow the header; came {came}. "
            f"The file is {'truncated' if came < wanted else 'too long'}."
        )
    return np.frombuffer(content, np.uint8, offset=start).reshape(shape)
