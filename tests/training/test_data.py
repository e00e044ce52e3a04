"""Digits and IDX files, whole and damaged."""

from __future__ import annotations

import gzip
import os
import struct
import tracemalloc

import pytest
import torch

from manual_bp.training import data as data_module
from manual_bp.training.data import load, read_idx


def idx(*shape, data=None):
    header = struct.pack(f">4B{len(shape)}I", 0, 0, 8, len(shape), *shape)
    return header + (bytes(range(torch.Size(shape).numel())) if data is None else data)


def bomb(shape):
    return gzip.compress(idx(*shape) + bytes(64 << 20), compresslevel=1)


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
        (gzip.compress(idx(3, 2, 4)[:-1]), r"24 bytes of data must follow the header; came 23. The file is truncated"),
        (
            gzip.compress(idx(3, 2, 4) + b"x"),
            "24 bytes of data must follow the header; came more. The file is too long",
        ),
        (gzip.compress(idx(3, 2, 4)) + b"x", "cannot be read as an IDX file: Not a gzipped file"),
        (gzip.compress(b""), "must start with 00 00 08; came nothing"),
        (idx(3, 28000, 28000, data=bytes(9)), "= 2352000000 bytes of data must follow the header; came at most 25"),
        (idx(3, 2**32 - 1, 2**32 - 1, data=b""), "must follow the header; came at most 16. The file is truncated"),
        (idx(3, 0, 4), r"at least one image, of at least one pixel; came \(3, 0, 4\)"),
        (b"\0\0\x08\xff" + bytes(4 * 255), "at most 32 axes; came 255"),
        (b"\0\0\x08\0?", r"one n; came \(\) and \(3,\)"),
        (b"\0\0\x0d\3" + bytes(20), "came 00 00 0d 03, which announces float32"),
        (b"\0\0\x01\3" + bytes(20), r"came 00 00 01 03\."),
    ],
    ids=[
        "truncated",
        "too long",
        "short header",
        "empty",
        "another type",
        "truncated gzip",
        "truncated, gzipped",
        "too long, gzipped",
        "gzip and more",
        "empty gzip",
        "far too short",
        "an enormous header",
        "no pixel",
        "axes without end",
        "no axis",
        "floats",
        "no type",
    ],
)
def test_damaged_file(folder, content, message):
    (folder / "train-images-idx3-ubyte").write_bytes(content)
    with pytest.raises(ValueError, match=message):
        load(str(folder))


@pytest.mark.parametrize("announced", [(1, 2, 3), (3, 2, 4)], ids=["another number than labels", "as many"])
def test_a_bomb_is_not_unpacked(folder, announced):
    """64 MB of zeros in 64 kB: of what is packed no more is unpacked than the header announces."""
    (folder / "train-images-idx3-ubyte").write_bytes(bomb(announced))
    tracemalloc.start()
    with pytest.raises(ValueError, match=r"came \(1, 2, 3\) and \(3,\)|came more. The file is too long"):
        load(str(folder))
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 4 << 20


def test_no_file_is_waited_for(folder):
    os.mkfifo(folder / "train-images")
    assert len(load(str(folder)).x) == 3
    with pytest.raises(ValueError, match="cannot be read as an IDX file: it is no file"):
        read_idx(folder / "train-images")


@pytest.fixture
def mnist(folder):
    (folder / "t10k-images-idx3-ubyte.gz").write_bytes(gzip.compress(idx(2, 2, 4)))
    (folder / "t10k-labels-idx1-ubyte").write_bytes(idx(2, data=bytes([1, 3])))
    return folder


def test_a_test_set_of_its_own(mnist):
    data = load(str(mnist))
    assert len(data.x) == 3
    assert data.test.labels.tolist() == [1, 3]
    assert data.classes == 4  # a class that only the test has is one
    assert data.targets().shape == (3, 4)


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        (
            "t10k-labels-idx1-ubyte",
            None,
            r"a file t10k-labels\* must be there; .* Add it, or take the other t10k-\* file",
        ),
        ("t10k-images-idx3-ubyte.gz", None, r"a file t10k-images\* must be there"),
        ("t10k-labels-idx1-ubyte", idx(3), r"came \(2, 2, 4\) and \(3,\)"),
        ("t10k-images-idx3-ubyte.gz", idx(2, 4, 2), r"must be of one size; came \(2, 4\) and \(4, 2\)"),
    ],
)
def test_half_a_test_set_is_refused(mnist, name, content, message):
    (mnist / name).unlink()
    if content is not None:
        (mnist / name).write_bytes(content)
    with pytest.raises(ValueError, match=message):
        load(str(mnist))


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
