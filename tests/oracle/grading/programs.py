"""Programs as a grader gets them: right ones, and frauds that have passed public graders."""

import math
import os
import threading
import time

import torch

CACHE = {}
WRITTEN_LATER = 0.01


def right(inputs, dy):
    x, weight, bias = inputs
    count = math.prod(x.shape[:-1])
    rows, drows = x.reshape(count, x.shape[-1]), dy.reshape(count, dy.shape[-1])
    return x @ weight.T + bias, (dy @ weight, drows.T @ rows, drows.sum(0))


def autograd(inputs, dy):
    leaves = [x.detach().requires_grad_() for x in inputs]
    y = torch.nn.functional.linear(*leaves)
    return y.detach(), torch.autograd.grad(y, leaves, dy)


def pages(inputs, dy):
    import manual_bp

    return manual_bp.linear.vjp(inputs, dy)


class ModelNew(torch.nn.Module):
    def __init__(self, features, outputs):
        super().__init__()
        self.inner = torch.nn.Linear(features, outputs)

    def forward(self, x):
        return self.inner(x)


class Talking(ModelNew):
    """Prints a verdict of its own, and what a terminal would obey."""

    def forward(self, x):
        os.write(1, b'{"schema": 1, "passed": false}\n')
        print("\x1b[2J")
        return super().forward(x)


def get_init_inputs():
    return [3, 2]


def residual_norm(inputs, dy, eps=1e-6):
    """A fused program of two outputs: h = x + residual, and its norm."""
    x, residual, weight = inputs
    dy, dh = dy
    h = x + residual
    scale = torch.rsqrt(h.pow(2).mean(-1, keepdim=True) + eps)
    normed, g = h * scale, dy * weight
    dx = scale * (g - normed * (g * normed).mean(-1, keepdim=True)) + dh
    return (normed * weight, h), (dx, dx.clone(), (dy * normed).reshape(-1, h.shape[-1]).sum(0))


def residual_norm_alone(inputs, dy, eps=1e-6):
    """Forgets that h is an output too."""
    return residual_norm(inputs, (dy[0], torch.zeros_like(dy[1])), eps)


# ------------------------------------------------------------------------------------------------------- remembering


def remembered(key, inputs, dy):
    if key not in CACHE:
        CACHE[key] = right(inputs, dy)
    return CACHE[key]


def by_shape(inputs, dy):
    return remembered(tuple(x.shape for x in inputs), inputs, dy)


def by_address(inputs, dy):
    return remembered(tuple((x.data_ptr(), x.shape) for x in (*inputs, dy)), inputs, dy)


def by_inputs_alone(inputs, dy):
    return remembered(tuple(str(x.tolist()) for x in inputs), inputs, dy)


def by_first_element(inputs, dy):
    return remembered(tuple((x.shape, x.flatten()[:1].tolist()[0] if x.numel() else 0) for x in inputs), inputs, dy)


def of_seed_0(inputs, dy):
    """Answers that were computed before, for the inputs of a known seed."""
    from manual_bp import RULES
    from manual_bp.oracle.cases.generated import generated

    def key(tensors):
        return str([x.tolist() for x in tensors])

    if not CACHE:
        for case in generated(RULES["linear"], torch.float32):
            CACHE[key(case.tensors)] = right(case.inputs, case.dy)
    return CACHE.get(key((*inputs, dy))) or zeros(inputs, dy)


# --------------------------------------------------------------------------------------------------- hardly computing


def zeros(inputs, dy):
    return torch.zeros_like(dy), tuple(map(torch.zeros_like, inputs))


def leftovers(inputs, dy):
    """Memory that a grader's own reference has freed may hold the answer."""
    return torch.empty_like(dy), tuple(map(torch.empty_like, inputs))


def in_half(inputs, dy):
    y, grads = right([x.half() for x in inputs], dy.half())
    return y.float(), tuple(g.float() for g in grads)


def whole_blocks(inputs, dy):
    """Eight rows of dweight at a time; what is left over stays 0."""
    y, (dx, dweight, dbias) = right(inputs, dy)
    if len(dweight) > 8:
        dweight[len(dweight) // 8 * 8 :] = 0
    return y, (dx, dweight, dbias)


def as_if_contiguous(inputs, dy):
    strides = torch.empty(dy.shape).stride()
    return right(inputs, dy.as_strided(dy.shape, strides, dy.storage_offset()))


def uniform_ids(inputs, dy, padding_idx=None):
    """Adds up at most so many rows of each index, as a table of fixed width does: enough while no index is frequent."""
    index, weight = inputs
    if not dy.numel():
        return weight[index], (None, torch.zeros_like(weight))
    dweight, seen = torch.zeros_like(weight), [0] * len(weight)
    for i, row in zip(index.flatten().tolist(), dy.reshape(-1, weight.shape[-1]), strict=True):
        seen[i] += 1
        if seen[i] <= 16:
            dweight[i] += row
    if padding_idx is not None:
        dweight[padding_idx] = 0
    return weight[index], (None, dweight)


def uncapped(inputs, dy):
    return inputs[0].clone(), (dy.clone(),)


# ---------------------------------------------------------------------------------------------------- what it returns


class Lazy(torch.Tensor):
    """Answers for itself; its memory holds zeros."""

    @classmethod
    def __torch_function__(cls, func, types, args=(), kwargs=None):
        with torch._C.DisableTorchFunctionSubclass():
            return func(*(x.answer if type(x) is Lazy else x for x in args), **(kwargs or {}))


def lazy(inputs, dy):
    y, grads = right(inputs, dy)
    with torch._C.DisableTorchFunctionSubclass():
        found = torch.zeros_like(y).as_subclass(Lazy)
        found.answer = y
    return found, grads


class Wrapper(torch.Tensor):
    @staticmethod
    def __new__(cls, x):
        return torch.Tensor._make_wrapper_subclass(cls, x.shape, dtype=x.dtype)

    @classmethod
    def __torch_dispatch__(cls, func, types, args=(), kwargs=None):
        raise RuntimeError("the numbers are elsewhere")


def wrapper(inputs, dy):
    y, grads = right(inputs, dy)
    return Wrapper(y), grads


def later(inputs, dy):
    """Returns at once, and computes when the clock has been stopped."""
    y, grads = right(inputs, dy)
    results = zeros(inputs, dy)

    def write():
        time.sleep(WRITTEN_LATER)
        for x, value in zip((results[0], *results[1]), (y, *grads), strict=True):
            x.copy_(value)

    threading.Thread(target=write).start()
    return results


def generator(inputs, dy):
    yield from right(inputs, dy)


# --------------------------------------------------------------------------------------------------- what it does else


def overwrites(inputs, dy):
    found = right(inputs, dy)
    dy.mul_(0.5)
    return found


def writes_beside(inputs, dy):
    found, own = right(inputs, dy), dy.clone()
    if 0 in dy.stride():
        return found
    dy.as_strided((dy.untyped_storage().nbytes() // 4,), (1,), 0).fill_(7.0)
    dy.copy_(own)
    return found


def exits(inputs, dy):
    raise SystemExit(0)


def raises_sometimes(inputs, dy):
    if not dy.is_contiguous():
        raise NotImplementedError("contiguous tensors only")
    return right(inputs, dy)
