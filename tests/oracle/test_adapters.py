"""Functions on other arrays become candidates."""

from __future__ import annotations

from functools import partial

import numpy as np
import pytest
import torch

from manual_bp import oracle
from manual_bp.oracle import from_functions

# The verdict is what is tested; a cause is not sought.
compare = partial(oracle.compare, diagnose=0)


def forward_numpy(x, weight, bias):
    with np.errstate(all="ignore"):  # inputs of 1000 overflow float16, as they should
        return x @ weight.T + bias, (x, weight)


def backward_numpy(dy, cache):
    x, weight = cache
    rows = int(np.prod(dy.shape[:-1]))
    dy2, x2 = dy.reshape(rows, dy.shape[-1]), x.reshape(rows, x.shape[-1])
    return dy @ weight, dy2.T @ x2, dy2.sum(0)


def forward_torch(x, *, alpha=1.0):
    return torch.where(x > 0, x, alpha * torch.expm1(x)), (x, alpha)


def backward_torch(dy, cache):
    x, alpha = cache
    return torch.where(x > 0, dy, dy * alpha * torch.exp(x))


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.float16], ids=str)
def test_numpy(dtype):
    report = compare(from_functions(forward_numpy, backward_numpy), "linear", dtype=dtype)
    assert report.passed, str(report)


def test_wrong_numpy():
    wrong = from_functions(forward_numpy, lambda dy, cache: [2 * g for g in backward_numpy(dy, cache)])
    assert {m.kind for m in compare(wrong, "linear").mismatches} == {"wrong"}


def test_torch_and_a_single_cotangent():
    report = compare(from_functions(forward_torch, backward_torch), "elu")
    assert report.passed, str(report)
    assert not any("takes no" in text for text in report.not_tested)


def test_what_it_cannot_take_is_not_passed():
    plain = from_functions(lambda x: forward_torch(x), backward_torch)
    report = compare(plain, "elu")
    assert not report.passed
    assert any("takes no alpha" in text for text in report.not_tested)


def test_jax():
    jnp = pytest.importorskip("jax.numpy")

    def forward(x):
        return jnp.tanh(x), x

    def backward(dy, x):
        e = jnp.exp(-2 * jnp.abs(x))
        return dy * 4 * e / (1 + e * (2 + e))

    report = compare(from_functions(forward, backward, arrays="jax"), "tanh")  # XLA flushes subnormal e: digits
    assert report.passed, str(report)


def test_two_kinds_of_arrays_must_be_told_apart():
    def both(x):
        return np.tanh(x) if isinstance(x, np.ndarray) else torch.tanh(x), x

    with pytest.raises(ValueError, match="pass arrays="):
        from_functions(both, both)
    with pytest.raises(ValueError, match="arrays must be one of"):
        from_functions(both, both, arrays="lists")


def tanh_in_numpy(made):
    def backward(dy, x):
        e = np.exp(-2 * np.abs(x))
        return made(dy * 4 * e / (1 + e * (2 + e)))

    return from_functions(lambda x: (np.tanh(x), x), backward)


class BothProtocols:
    """NumPy's own read-only arrays fail so."""

    def __init__(self, x):
        self.x = np.asarray(x)

    def __dlpack__(self, **options):
        raise BufferError("read-only")

    def __dlpack_device__(self):
        return (1, 0)

    def __array__(self, dtype=None, copy=None):
        return self.x


def test_the_array_protocol_where_dlpack_fails():
    assert compare(tanh_in_numpy(BothProtocols), "tanh").passed


def test_what_is_masked_is_no_number():
    def masked(mask):
        return lambda x: np.ma.masked_array(x, mask=mask(x))

    assert compare(tanh_in_numpy(masked(np.isnan)), "tanh").passed
    report = compare(tanh_in_numpy(masked(lambda x: x > 0)), "tanh")
    assert "NaN stands there" in str(report)
