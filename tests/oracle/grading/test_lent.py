"""Tensors that are lent through a file: the same there, and what became of them seen from here."""

from __future__ import annotations

import os
import tempfile
from dataclasses import replace

import pytest
import torch

import manual_bp as bp
from manual_bp.oracle.calling.memory import shares_elements
from manual_bp.oracle.case import Case
from manual_bp.oracle.cases.layouts import LAYOUTS, aliased, laid_out, lay_out
from manual_bp.oracle.grading.families import family
from manual_bp.oracle.grading.lent import Borrowed, Lent
from manual_bp.oracle.grading.repeated import chosen, redrawn
from manual_bp.outputs import parts
from tests.judging import ordinary


def lent(case):
    """The file, and the case as a candidate gets it."""
    shared = tempfile.TemporaryFile()  # noqa: SIM115 (lent as long as the tensors live)
    file = Lent(shared)
    inputs, dy = Borrowed(shared.fileno()).tensors(file.lay(case), again=False)
    return file, replace(case, inputs=inputs, dy=dy)


def test_every_layout_and_shared_memory(rule):
    case = ordinary(rule, torch.float32)
    for each in (case, *laid_out(rule, case), *aliased(rule, case)):
        _, came = lent(each)
        assert [x is None for x in each.inputs] == [x is None for x in came.inputs]
        assert isinstance(came.dy, tuple) == isinstance(each.dy, tuple)
        for x, y in zip(each.tensors, came.tensors, strict=True):
            assert (x.dtype, x.shape, x.stride(), x.storage_offset()) == (
                y.dtype,
                y.shape,
                y.stride(),
                y.storage_offset(),
            )
            assert torch.equal(x.nan_to_num(), y.nan_to_num())
            assert y.data_ptr() % 16 == x.storage_offset() * x.element_size() % 16 or not x.numel()
            for a, b in zip(each.tensors, came.tensors, strict=True):
                assert shares_elements(x, a) == shares_elements(y, b)


@pytest.mark.parametrize("layout", LAYOUTS)
def test_what_is_written_is_seen(layout):
    x = lay_out(torch.arange(12.0).view(4, 3), layout)
    case = Case((torch.ones(2), x), torch.ones(3, dtype=torch.bfloat16))
    named = dict(zip(("weight", "x", "dy"), case.tensors, strict=True))
    file, came = lent(case)
    assert file.damage(named) == []
    came.inputs[1][1, 1] = 77.0
    assert file.damage(named) == [("x", "the candidate overwrote its argument")]
    came.inputs[1][1, 1] = x[1, 1]
    came.dy.mul_(2)
    assert file.damage(named) == [("dy", "the candidate overwrote its argument")]


def test_what_is_written_beside_is_seen():
    case = Case((torch.ones(2), lay_out(torch.ones(4, 3), "sliced")), torch.ones(3))
    file, came = lent(case)
    x = came.inputs[1]
    x.as_strided((1,), (1,), x.storage_offset() + 1).neg_()  # its sign at least is another
    (found,) = file.damage(dict(zip(("weight", "x", "dy"), case.tensors, strict=True)))
    assert found[0] == "x"
    assert "wrote beside its argument" in found[1]


def test_a_file_that_is_cut_off_is_seen():
    case = Case((torch.ones(2),), torch.ones(3))
    with tempfile.TemporaryFile() as shared:
        file = Lent(shared)
        file.lay(case)
        os.ftruncate(shared.fileno(), 0)
        assert [name for name, _ in file.damage({"x": case.inputs[0], "dy": case.dy})] == ["x", "dy"]


def test_the_same_tensors_with_other_numbers():
    first, second = (Case((torch.full((2, 3), value),), torch.full((2, 3), value)) for value in (1.0, 2.0))
    with tempfile.TemporaryFile() as shared:
        file = Lent(shared)
        borrowed = Borrowed(shared.fileno())
        (x,), _ = borrowed.tensors(file.lay(first), again=False)
        version = x._version
        (same,), _ = borrowed.tensors(file.lay(second), again=True)
        assert same is x
        assert x._version > version
        assert torch.equal(x, second.inputs[0])
        (other,), _ = borrowed.tensors(file.lay(first), again=False)
        assert other is not x
        assert other.data_ptr() == x.data_ptr()
        (elsewhere,), _ = borrowed.tensors(file.lay(first, elsewhere=True), again=False)
        assert elsewhere.data_ptr() != x.data_ptr()


def test_a_larger_case_than_there_was_room_for(monkeypatch):
    monkeypatch.setattr("manual_bp.oracle.grading.lent.ROOM", 256)
    with tempfile.TemporaryFile() as shared:
        file = Lent(shared)
        borrowed = Borrowed(shared.fileno())
        for length in (4, 400, 8):
            case = Case((torch.rand(length),), torch.rand(length))
            (x,), dy = borrowed.tensors(file.lay(case, elsewhere=True), again=False)
            assert torch.equal(x, case.inputs[0])
            assert torch.equal(dy, case.dy)
            assert file.damage({"x": case.inputs[0], "dy": case.dy}) == []


def test_other_numbers_of_the_same_shapes(rule):
    case = ordinary(rule, torch.float32)
    generator = torch.Generator().manual_seed(1)
    assert chosen([case]) == [case]
    others = [redrawn(rule, case, generator) for _ in range(2)]
    for x, a, b in zip(case.tensors, *(other.tensors for other in others), strict=True):
        assert x.shape == a.shape == b.shape
        assert x.dtype == a.dtype
        assert x.numel() == 1 or not x.is_floating_point() or not (torch.equal(x, a) or torch.equal(a, b))
    assert all(parts(other.dy)[0] is None or other.hyper == case.hyper for other in others)


def test_families_in_words():
    rule = bp.RULES["linear"]
    case = ordinary(rule, torch.float32)
    words = {each.name: family(rule, each) for each in laid_out(rule, case)}
    assert words["dy transposed"] == words["dy sliced"] == "strided dy"
    assert words["weight misaligned"] == "misaligned weight"
    assert words["x stride 0"] == "expanded x"
    assert words["everything sliced"] == "every tensor strided"
    assert words["inputs times 1000"] == "inputs times 1000"
    assert family(rule, case) == "ordinary inputs"
    assert family(rule, replace(case, name="in = 1025")) == "in of length 1025"
    assert family(rule, replace(case, name="batch = (33, 5), in = 7")) == "batch of shape (33, 5), in of length 7"
    assert family(rule, replace(case, name="eps = 0.001")) == "eps = 0.001"
    pointwise = bp.RULES["relu"]
    assert family(pointwise, Case((torch.ones(()),), torch.ones(()), name="shape = ()")) == "shape ()"
