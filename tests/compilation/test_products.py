"""Who multiplies: tensor cores, as graphs for a GPU, which can be made without one; and oneDNN."""

from __future__ import annotations

import pytest
import torch
from torch._inductor.decomposition import select_decomp_table
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.fx.experimental.proxy_tensor import make_fx

from manual_bp.compilation import aoti, choice, kernels, measured, onednn
from manual_bp.compilation.products import Product, by_tensor_cores
from manual_bp.compilation.products import products as products_of
from manual_bp.compilation.program import build
from manual_bp.compilation.tracing import traced
from manual_bp.models import mlp
from manual_bp.training import sgd, training_step

aten = torch.ops.aten
NARROW = (torch.float16, torch.bfloat16)


def rewritten(function, dtype, device="cuda"):
    """The graph of function(x (4, 3), w (5, 3)) as a pass meets it, rewritten."""
    with FakeTensorMode():
        x, w = (torch.empty(n, 3, dtype=dtype, device=device) for n in (4, 5))
        graph = make_fx(function, decomposition_table=select_decomp_table())(x, w).graph
    by_tensor_cores(graph)
    return graph


def products(graph):
    return [node for node in graph.nodes if node.target in (aten.mm.default, aten.mm.dtype)]


ON_TENSOR_CORES = {
    "x Wᵀ": lambda x, w: x.float() @ w.float().T,
    "δᵀ x": lambda x, w: x.float().T @ x.float(),
    "of something rounded": lambda x, w: x.float().exp().to(x.dtype).float() @ w.float().T,
    "transposed before it is widened": lambda x, w: x.float() @ w.T.float(),
}
LEFT = {
    "of something not rounded": lambda x, w: x.float().exp() @ w.float().T,
    "one factor": lambda x, w: x.float() @ w.float().exp().T,
    "wider than float32": lambda x, w: x.double() @ w.double().T,
    "two kinds of 16 bits": lambda x, w: x.half().float() @ w.bfloat16().float().T,
}


@pytest.mark.parametrize("dtype", NARROW, ids=str)
@pytest.mark.parametrize("function", ON_TENSOR_CORES.values(), ids=ON_TENSOR_CORES)
def test_widened_factors_are_multiplied_as_they_were(function, dtype):
    (product,) = products(rewritten(function, dtype))
    assert product.target is aten.mm.dtype
    assert [factor.meta["val"].dtype for factor in product.args] == [dtype, dtype]
    assert product.meta["val"].dtype is product.kwargs["out_dtype"] is torch.float32
    (m, k), (k_too, n) = (tuple(factor.meta["val"].shape) for factor in product.args)
    assert (m, n) == tuple(product.meta["val"].shape)
    assert k == k_too


@pytest.mark.parametrize("function", LEFT.values(), ids=LEFT)
def test_other_products_are_left_alone(function):
    (product,) = products(rewritten(function, torch.bfloat16))
    assert product.target is aten.mm.default


def test_float32_is_left_alone():
    (product,) = products(rewritten(lambda x, w: x @ w.T, torch.float32))
    assert product.target is aten.mm.default


def test_without_a_gpu_products_are_left_alone():
    (product,) = products(rewritten(ON_TENSOR_CORES["x Wᵀ"], torch.bfloat16, "cpu"))
    assert product.target is aten.mm.default


def test_rows_along_several_axes_are_one_for_the_library_that_multiplies():
    """As those of (batch, positions, features), which a compiler makes a matrix; of what is no such product none is."""

    def step(x, w):
        return x @ w.T, x.transpose(0, 1) @ w.T, x @ x.mT

    graph = traced(step, [torch.ones(4, 3, 6), torch.ones(5, 6)], None).graph
    assert list(products_of(graph)) == [Product(12, 5, 6, False, True)]


def test_the_fastest_turn_of_each_library_counts(monkeypatch):
    """A turn that was interrupted is slower, whose ever it was."""
    turns = iter([1e-3, 4.0, 2.0, 1.0, 3.0, 900.0, 2.0, 4.0, 70.0, 5.0, 2.0])  # one call, then MKL and oneDNN by turns
    monkeypatch.setattr(measured, "_seconds", lambda *_: next(turns))
    monkeypatch.setattr(measured, "SECONDS", 0.0)
    assert measured._ratio(Product(2, 2, 2, False, True), 1) == 2.0 / 1.0


@pytest.mark.parametrize("transposed", [(False, False), (True, False), (False, True), (True, True)])
def test_onednn_multiplies_into_memory_that_is_there(transposed):
    """What lies there counts for nothing where beta is 0, even NaN, and is added to otherwise; sums of small integers
    are exact."""
    if onednn.function() is None:
        pytest.skip("this torch has no such function")
    left, right = torch.arange(15.0).reshape(3, 5), torch.arange(20.0).reshape(5, 4)
    left, right = (m.T.contiguous().T if t else m for m, t in zip((left, right), transposed, strict=True))
    out = torch.full((3, 4), torch.nan)
    onednn.multiply(out, left, right)
    assert torch.equal(out, left @ right)
    onednn.multiply(out, left, right, 0.5, -2.0)
    assert torch.equal(out, -1.5 * (left @ right))


@pytest.mark.parametrize(
    "called_from_python", [False, pytest.param(True, marks=pytest.mark.exhaustive)], ids=["C++", "Python"]
)
def test_a_step_multiplies_by_onednn(called_from_python, monkeypatch, tmp_path):
    """Forward, δ of the layer below, and the updates: the same as uncompiled, but for roundings."""
    if onednn.function() is None:
        pytest.skip("this torch has no such function")
    monkeypatch.setenv("TORCHINDUCTOR_CACHE_DIR", str(tmp_path))
    monkeypatch.setattr(choice, "ONEDNN_PRODUCT", 1)
    monkeypatch.setattr(choice, "onednn_is_faster", lambda *_: True)
    if called_from_python:
        monkeypatch.setattr(aoti, "compiled", lambda graph, example, chosen: kernels.compiled(graph, chosen))
    generator = torch.Generator().manual_seed(0)
    x, target = torch.randn(5, 8, generator=generator), torch.randint(3, (5,), generator=generator)
    found = []
    for compiled in (True, False):
        options = {"compiled": True, "donate": True} if compiled else {}
        step = training_step(mlp([8, 7, 3]), "softmax_cross_entropy", optimizer=sgd(0.1), l2=0.1, **options)
        state = step.init(torch.Generator().manual_seed(1))
        for _ in range(3):
            state, loss = step(state, x, target)
        found.append({**state.params, "loss": loss})
        if compiled:
            assert ", oneDNN for" in step.programs[0].why
    got, expected = found
    for name, value in expected.items():
        torch.testing.assert_close(got[name], value, rtol=1e-5, atol=1e-6)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU")
@pytest.mark.parametrize("dtype", NARROW, ids=str)
def test_products_on_tensor_cores_are_exact_where_sums_are(dtype):
    """Whole numbers, whose sums float32 holds."""
    x, w = torch.randint(-8, 9, (2, 64, 64), generator=torch.Generator().manual_seed(0)).to("cuda", dtype)
    got = build(lambda *t: [ON_TENSOR_CORES["x Wᵀ"](*t), t[0].float().T @ t[0].float()], [x, w]).run([x, w])
    for result, expected in zip(got, (x.double() @ w.double().T, x.double().T @ x.double()), strict=True):
        assert torch.equal(result.double(), expected)
