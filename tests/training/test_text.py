"""Text as tokens, and back; windows of it."""

from __future__ import annotations

from pydoc_data.topics import topics

import pytest
import torch

from manual_bp.training.text import BYTES, PYTHON, Symbols, Text, load


def test_the_reference_comes_back_from_its_tokens():
    text = load()
    assert text.name == PYTHON
    assert Symbols(text.symbols).text(text.tokens) == "\n\n".join(topics.values())
    assert int(text.tokens.max()) + 1 == len(text.symbols) == len(set("\n\n".join(topics.values())))
    assert len(text.tokens) > 300_000


def test_a_file_is_its_bytes(tmp_path):
    file = tmp_path / "some.txt"
    file.write_bytes("für\n".encode() + b"\xff\x00")
    text = load(str(file))
    assert text.name == "some.txt"
    assert bytes(text.tokens.tolist()) == file.read_bytes()
    assert text.symbols == BYTES
    assert Symbols(BYTES).text(text.tokens) == "für\n\ufffd\x00"
    assert Symbols(BYTES).numbers("für").tolist() == list("für".encode())


def test_a_window_s_labels_are_the_tokens_that_follow():
    data = Text("some", torch.arange(11), BYTES[:20]).windows(3)
    assert data.x.tolist() == [[0, 1, 2], [3, 4, 5], [6, 7, 8]]
    assert torch.equal(data.labels, data.x + 1)
    assert data.classes == 20
    assert data.examples(torch.float32).dtype == torch.int64


@pytest.mark.parametrize("length", [0, 1, 3])
def test_a_text_that_is_too_short_is_refused(length, tmp_path):
    (tmp_path / "short").write_bytes(b"a" * length)
    with pytest.raises(ValueError, match=f"more than 3 tokens, the context; came {length}"):
        load(str(tmp_path / "short")).windows(3)


@pytest.mark.parametrize("context", [0, -1, 2.0])
def test_a_context_of_no_token_is_refused(context):
    with pytest.raises(ValueError, match="some: context must be a whole number of tokens, at least 1; came"):
        Text("some", torch.arange(11), BYTES[:20]).windows(context)


def test_what_cannot_be_read_is_said(tmp_path):
    for path, why in ((tmp_path / "none", "No such file"), (tmp_path, "Is a directory")):
        with pytest.raises(ValueError, match=f"'python' or a file that can be read; came .*: {why}"):
            load(str(path))


def test_what_no_symbol_stands_for_is_refused():
    with pytest.raises(ValueError, match="made of the 2 known symbols; came 'c'"):
        Symbols((b"a", b"b")).numbers("abc")
