"""What comes from the process of a candidate is read as numbers and words, and is bounded whatever it is."""

from __future__ import annotations

import io
import json

import pytest
import torch

from manual_bp.foreign import LONGEST_NAME, readable
from manual_bp.oracle.calling.messages import MOST_AXES, MOST_WORDS, receive_answer, send_answer

MOST = 2**16
A_TENSOR = {"dtype": "float32", "shape": [2], "device": "cpu", "numbers": True}


def framed(words, numbers=b""):
    header = words if isinstance(words, bytes) else json.dumps(words).encode()
    return io.BytesIO(len(header).to_bytes(8, "little") + header + numbers)


@pytest.mark.parametrize(
    "x",
    [
        torch.tensor(2.5),
        torch.arange(12.0, dtype=torch.float64).view(3, 4).T,
        torch.tensor([True, False]),
        torch.ones(3, dtype=torch.bfloat16).expand(2, 3),
        torch.ones(0, 3, dtype=torch.float16),
        torch.tensor([1 + 2j]).conj(),
        torch._neg_view(torch.ones(2)),
        torch.tensor([2**62]),
    ],
    ids=repr,
)
def test_results_arrive_as_they_were(x):
    pipe = io.BytesIO()
    send_answer(pipe, {"notes": ["ä\udc80"]}, [None, x])
    pipe.seek(0)
    came = receive_answer(pipe, (), MOST)
    nothing, y = came["results"]
    assert nothing is None
    assert (y.dtype, y.shape) == (x.dtype, x.shape)
    assert torch.equal(x, y)
    assert came["notes"] == ["ä\udc80"]


@pytest.mark.parametrize(
    "x", [torch.ones(3, dtype=torch.float8_e4m3fn), torch.empty(10**12, device="meta")], ids=["float8", "meta"]
)
def test_of_what_has_no_numbers_here_the_shape_arrives(x):
    pipe = io.BytesIO()
    send_answer(pipe, {}, [x])
    pipe.seek(0)
    (y,) = receive_answer(pipe)["results"]
    assert (y.dtype, y.shape, y.is_meta) == (x.dtype, x.shape, True)


def test_of_other_things_a_name_arrives():
    pipe = io.BytesIO()
    send_answer(pipe, {}, [type("x" * 10**7, (), {"__array__": None})(), torch.eye(2).to_sparse()])
    pipe.seek(0)
    first, second = receive_answer(pipe)["results"]
    assert len(type(first).__name__) < LONGEST_NAME + 10
    assert hasattr(first, "__array__")
    assert type(second).__name__ == "Tensor of layout torch.sparse_coo"


@pytest.mark.parametrize(
    "pipe",
    [
        io.BytesIO(b""),
        io.BytesIO((2**62).to_bytes(8, "little")),
        io.BytesIO((MOST_WORDS + 1).to_bytes(8, "little") + b" " * (MOST_WORDS + 1)),
        framed(b"[" * 10**5),
        framed(b"\x80\x04}."),
        framed([]),
        framed({"results": [{**A_TENSOR, "shape": [2**40]}]}),
        framed({"results": [{**A_TENSOR, "shape": [-1]}]}),
        framed({"results": [{**A_TENSOR, "shape": [True]}]}),
        framed({"results": [{**A_TENSOR, "shape": [1] * (MOST_AXES + 1)}]}),
        framed({"results": [{**A_TENSOR, "shape": [MOST // 4 - 1]}] * 2}, bytes(2 * MOST)),
        framed({"results": [{**A_TENSOR, "device": "cuda:0"}]}, bytes(8)),
        framed({"results": [{**A_TENSOR, "dtype": "load"}]}, bytes(8)),
        framed({"results": [{**A_TENSOR, "dtype": "load", "numbers": False}]}),
        framed({"results": [A_TENSOR]}, bytes(7)),
        framed({"results": 3}),
    ],
    ids=[
        *("nothing", "a long announcement", "many words", "deep nesting", "a pickle", "a list"),
        *("a huge tensor", "a negative size", "a bool", "many axes", "too much in sum", "another device"),
        *("no dtype", "no dtype and no numbers", "too little", "a number"),
    ],
)
def test_what_is_no_answer_is_refused(pipe):
    with pytest.raises(Exception):  # noqa: B017, PT011 (whichever: all mean that it is no answer)
        receive_answer(pipe, (), MOST)


def test_a_bool_is_0_or_1():
    (x,) = receive_answer(framed({"results": [{**A_TENSOR, "dtype": "bool"}]}, b"\x07\x00"), (), MOST)["results"]
    assert x.view(torch.uint8).tolist() == [1, 0]


@pytest.mark.parametrize(
    ("text", "seen"),
    [
        ("plain ä 數\n\ttext", "plain ä 數\n\ttext"),
        ("\x1b[2J", "\\x1b[2J"),
        ("a\rb\x08", "a\\rb\\x08"),
        ("\x9b1m", "\\x9b1m"),
        ("\u202eabc\u2066", "\\u202eabc\\u2066"),
        ("\u2028", "\\u2028"),
        ("\udc80", "\\udc80"),
    ],
    ids=["plain", "escape", "overwriting", "C1", "direction", "a line", "half a character"],
)
def test_what_a_terminal_would_obey_is_spelt_out(text, seen):
    assert readable(text) == seen
