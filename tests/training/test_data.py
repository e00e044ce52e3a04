"""Digits and IDX files, whole and damaged."""

from __future__ import annotations

import gzip
import struct

import pytest
import torch

from manual_bp.training import data as data_module
from manual_bp.training.data import load, read_idx


def idx(*shape, data=None):
    header = struct.pack(f">4B{len(shape)}I", 0, 0, 8, len(shape), *shape)
    return header + (bytes(range(torch.Size(shape).numel())) if data is None else data)


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "train-images-idx3-ubyte").write_bytes(idx(3, 2, 4))
    (tmp_path / "train-labels-idx1-ubyte.gz").write_bytes(gzip.compress(idx(3, data=bytes([2, 0, 1]))))
    return tmp_path


def test_digits():
    data = load("digits")
    assert data.x.shape == (1797, 64)
    assert (data.x.min(), data.x.max()) == (0, 1)
    assert data.targets().sum(1).eq(1).all()
    assert data.targets().argmax(1).equal(data.labels)


def test_digits_are_those_of_scikit_learn():
    """They are read from its file, since its import takes a second; where that file is not, by its import."""
    (ours, labels), (theirs, their_labels) = data_module._digits_in_file(), data_module._digits_imported()
    assert (ours == theirs).all()
    assert (labels == their_labels).all()
    assert ours.dtype == theirs.dtype


def test_folder_of_idx_files(folder):
    data = load(str(folder))
    assert data.x.shape == (3, 8)
    assert data.image == (2, 4)
    assert data.labels.tolist() == [2, 0, 1]
    assert data.x[1].mul(255).round().tolist() == list(range(8, 16))


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (idx(3, 2, 4)[:-1], r"24 bytes of data must follow the header; came 23. The file is truncated"),
        (idx(3, 2, 4) + b"x", "too long"),
        (idx(3, 2, 4)[:9], "header must have 16 bytes; came 9"),
        (b"", "must start with 00 00 08; came nothing"),
        (b"\x89PNG", "must start with 00 00 08"),
        (gzip.compress(idx(3, 2, 4))[:-9], "cannot be read as an IDX file"),
    ],
    ids=["truncated", "too long", "short header", "empty", "another type", "truncated gzip"],
)
def test_damaged_file(folder, content, message):
    (folder / "train-images-idx3-ubyte").write_bytes(content)
    with pytest.raises(ValueError, match=message):
        load(str(folder))


def test_missing_folder(tmp_path):
    with pytest.raises(ValueError, match="'digits' or a folder with IDX files"):
        load(str(tmp_path / "nowhere"))


def test_missing_file(tmp_path):
    with pytest.raises(ValueError, match=r"a file train-images\* must be there; found nothing"):
        load(str(tmp_path))
    with pytest.raises(ValueError, match="cannot be read"):
        read_idx(tmp_path / "gone")


def test_images_and_labels_must_match(folder):
    (folder / "train-labels-idx1-ubyte.gz").write_bytes(idx(2))
    with pytest.raises(ValueError, match=r"came \(3, 2, 4\) and \(2,\)"):
        load(str(folder))
