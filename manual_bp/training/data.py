"""Real data: the handwritten digits inside scikit-learn, or a folder of MNIST-format IDX files."""

from __future__ import annotations

import gzip
import importlib.util
import io
import math
import struct
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from manual_bp.losses import one_hot


@dataclass(frozen=True)
class Dataset:
    """x: (n, features) or (n, channels, height, width), in [0, 1], float64; labels: (n,) integers from 0; image:
    (height, width).

    test: examples that their makers set aside to test with, which are not among x; None if there are none.
    symbols: of a text, what each token stands for (manual_bp.training.text); then x is (n, context) and holds tokens'
        numbers, int64, and labels, (n, context), the numbers of those that come next.
    """

    name: str
    x: Tensor
    labels: Tensor
    image: tuple[int, int]
    test: Dataset | None = None
    symbols: tuple[bytes, ...] = ()

    @property
    def classes(self) -> int:
        """How many there are, those included of which there is only an example to test with."""
        if self.symbols:
            return len(self.symbols)
        parts = (self, self.test) if self.test else (self,)
        return max(int(part.labels.max()) for part in parts) + 1

    def examples(self, dtype: torch.dtype) -> Tensor:
        """x as a network of that dtype takes it."""
        return self.x.to(dtype) if self.x.is_floating_point() else self.x

    def pictures(self) -> Dataset:
        """The same with images of one channel for x, (n, 1, height, width)."""
        test = self.test.pictures() if self.test else None
        return replace(self, x=self.x.reshape(len(self.x), 1, *self.image), test=test)

    def targets(self, dtype: torch.dtype = torch.float64) -> Tensor:
        """(n, classes): 1 for the right class, 0 for the others."""
        return one_hot(self.labels, self.classes, dtype)


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


Stream = io.BufferedReader | gzip.GzipFile

# MNIST's makers call their training examples train-* and what they set aside t10k-*, for 10 000.
TRAINING, TEST = "train", "t10k"


def idx_folder(folder: Path) -> Dataset:
    """The images and labels of a folder in MNIST's format, gzipped or not, under MNIST's names.

    Looks for one file that starts with `train-images` and one with `train-labels`, and for `t10k-images` and
    `t10k-labels`, which are to test with if they are there.  Raises ValueError if the first two, or one of the others,
    are missing, and if a file is truncated, of another format, or does not match the rest.
    """
    try:
        there = sorted(path for path in folder.iterdir() if path.is_file()) if folder.is_dir() else None
    except OSError as error:
        raise ValueError(f"data: the folder {str(folder)!r} cannot be read: {error.strerror}.") from error
    if there is None:
        raise ValueError(f"data must be 'digits' or a folder with IDX files; came {str(folder)!r}, which is no folder.")
    training = _examples(folder, there, TRAINING)
    if not any(path.name.startswith((f"{TEST}-images", f"{TEST}-labels")) for path in there):
        return training
    test = _examples(folder, there, TEST)
    if test.image != training.image:
        raise ValueError(
            f"{folder}: the images of {TRAINING}-* and {TEST}-* must be of one size; came {training.image} and "
            f"{test.image}. Take all files from one data set."
        )
    return Dataset(training.name, training.x, training.labels, training.image, test)


def _examples(folder: Path, there: list[Path], which: str) -> Dataset:
    """The images and labels whose files begin with `which`."""
    files = [_find(folder, there, f"{which}-{what}", which) for what in ("images", "labels")]
    shapes = [read_header(file) for file in files]
    (height, width), n = shapes[0][1:] if len(shapes[0]) == 3 else (0, 0), shapes[0][0] if shapes[0] else 0
    if len(shapes[0]) != 3 or shapes[1] != (n,):
        raise ValueError(
            f"{folder}: images must be (n, height, width) and labels (n,) for one n; came {shapes[0]} and "
            f"{shapes[1]}. Take both files from one data set."
        )
    if not n * height * width:
        raise ValueError(f"{folder}: there must be at least one image, of at least one pixel; came {shapes[0]}.")
    images, labels = (read_idx(file) for file in files)
    x = torch.from_numpy(images.reshape(n, height * width).astype(np.float64)) / 255
    return Dataset(folder.name, x, torch.from_numpy(labels.astype(np.int64)), (height, width))


def _find(folder: Path, there: list[Path], prefix: str, which: str) -> Path:
    found = next((path for path in there if path.name.startswith(prefix)), None)
    if found is None:
        names = ", ".join(path.name for path in there[:8]) or "nothing"
        remedy = "" if which == TRAINING else f" Add it, or take the other {TEST}-* file away: then a share is tested."
        raise ValueError(f"{folder}: a file {prefix}* must be there; found {names}.{remedy}")
    return found


# The third byte of an IDX file: what its numbers are.
TYPES = {0x08: "uint8", 0x09: "int8", 0x0B: "int16", 0x0C: "int32", 0x0D: "float32", 0x0E: "float64"}
# numpy has no arrays of more axes.
MOST_AXES = 32
# Deflate codes at most 258 bytes in 2 bits: no honest gzip file is longer than this times what it is packed in.
DEFLATE = 1032
# Bytes read at once.
PIECE = 1 << 20


def read_header(path: Path) -> tuple[int, ...]:
    """The shape that an IDX file of unsigned bytes announces.  Raises ValueError as `read_idx` does."""
    with _unpacked(path) as file:
        return _header(path, file)


def read_idx(path: Path) -> np.ndarray:
    """One IDX file of unsigned bytes, gzipped or not.

    The format: two zero bytes, 8 (unsigned byte), the number of axes, each axis as a big-endian 32-bit integer, then
    the data.  The header is read first, and no more than what it announces is unpacked.
    Raises ValueError if the file is missing, truncated, longer than it says, or of another type.
    """
    with _unpacked(path) as file:
        shape = _header(path, file)
        wanted = math.prod(shape)
        sized = f"{path}: {' x '.join(map(str, shape))} = {wanted} bytes of data must follow the header; came"
        most = path.stat().st_size * (DEFLATE if isinstance(file, gzip.GzipFile) else 1)
        if wanted > most:
            raise ValueError(f"{sized} at most {most}. The file is truncated.")
        content = bytearray()
        while len(content) < wanted and (piece := file.read(min(PIECE, wanted - len(content)))):
            content += piece
        if len(content) < wanted:
            raise ValueError(f"{sized} {len(content)}. The file is truncated.")
        if file.read(1):
            raise ValueError(f"{sized} more. The file is too long.")
    return np.frombuffer(content, np.uint8).reshape(shape)


def _header(path: Path, file: Stream) -> tuple[int, ...]:
    start = file.read(4)
    if start[:3] != b"\0\0\x08" or len(start) < 4:
        kind = TYPES.get(start[2]) if len(start) == 4 and start[:2] == b"\0\0" else None
        numbers = f", which announces {kind}" if kind and kind != "uint8" else ""
        raise ValueError(
            f"{path}: an IDX file of unsigned bytes must start with 00 00 08; came {start.hex(' ') or 'nothing'}"
            f"{numbers}."
        )
    axes = start[3]
    sizes = file.read(4 * axes)
    if len(sizes) < 4 * axes:
        raise ValueError(
            f"{path}: the header must have {4 + 4 * axes} bytes; came {4 + len(sizes)}. The file is truncated."
        )
    if axes > MOST_AXES:
        raise ValueError(f"{path}: there must be at most {MOST_AXES} axes; came {axes}. Images have 3, labels 1.")
    return struct.unpack(f">{axes}I", sizes)


@contextmanager
def _unpacked(path: Path) -> Iterator[Stream]:
    """The content of a file, which may be gzipped, as a stream; what goes wrong in reading is a ValueError."""
    try:
        if path.exists() and not path.is_file():  # a pipe would be waited for
            raise OSError("it is no file")
        with path.open("rb") as raw:
            packed = raw.read(2) == b"\x1f\x8b"  # gzip's magic number
            raw.seek(0)
            if packed:
                with gzip.GzipFile(fileobj=raw) as file:
                    yield file
            else:
                yield raw
    except (OSError, EOFError, zlib.error) as error:
        raise ValueError(f"{path}: cannot be read as an IDX file: {error}") from error
