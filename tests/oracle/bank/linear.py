"""y = x Wᵀ + b, as in course exercises, kernels and small libraries."""

import numpy as np
import torch

from tests.oracle.bank.entry import Bank, rows

bank = Bank("linear")


def _outer(dy, x):
    return dy.reshape(-1, dy.shape[-1]).T @ x.reshape(-1, x.shape[-1])


@bank.right()
def einsum(x, weight, bias, dy):
    y = torch.einsum("...i,oi->...o", x, weight) + bias
    return (
        y,
        torch.einsum("...o,oi->...i", dy, weight),
        torch.einsum("...o,...i->oi", dy, x),
        torch.einsum("...o->o", dy),
    )


@bank.right("numpy")
def textbook(x, weight, bias, dy):
    y = np.dot(x, weight.T) + bias
    flat_x, flat_dy = x.reshape(int(np.prod(x.shape[:-1])), x.shape[-1]), dy.reshape(-1 if dy.size else 0, dy.shape[-1])
    if not dy.size:
        flat_dy = np.zeros((flat_x.shape[0], dy.shape[-1]), dy.dtype)
    return y, np.dot(dy, weight), np.dot(flat_dy.T, flat_x), flat_dy.sum(axis=0)


@bank.right()
def row_by_row(x, weight, bias, dy):
    dx, dweight, dbias = torch.zeros_like(rows(x)), torch.zeros_like(weight), torch.zeros_like(bias)
    for i, (a, g) in enumerate(zip(rows(x), rows(dy), strict=True)):
        dx[i] = weight.T @ g
        dweight += torch.outer(g, a)
        dbias += g
    return torch.addmm(bias, rows(x), weight.T).reshape(dy.shape), dx.reshape(x.shape), dweight, dbias


@bank.right()
def in_double(x, weight, bias, dy):
    wide_x, wide_w, wide_dy = x.double(), weight.double(), dy.double()
    y = wide_x @ wide_w.T + bias.double()
    dweight = rows(wide_dy).T @ rows(wide_x)
    return tuple(r.to(x.dtype) for r in (y, wide_dy @ wide_w, dweight, rows(wide_dy).sum(0)))


@bank.right()
def weight_stored_transposed(x, weight, bias, dy):
    stored = weight.T.contiguous()
    return x @ stored + bias, dy @ stored.T, (rows(x).T @ rows(dy)).T, rows(dy).T.sum(1)


@bank.wrong("mean for sum", r"bias averaged|1/n|mean where a sum", "numpy")
def bias_gradient_averaged(x, weight, bias, dy):
    dbias = np.mean(dy, axis=tuple(range(dy.ndim - 1)))
    return x @ weight.T + bias, dy @ weight, _outer(dy, x), dbias


@bank.wrong("mean for sum", r"dweight.*(1/n|mean where a sum)")
def weight_gradient_over_batch_size(x, weight, bias, dy):
    m = x.shape[0] if x.ndim > 1 else 1
    return x @ weight.T + bias, dy @ weight, rows(dy).T @ rows(x) / m, rows(dy).sum(0)


@bank.wrong("count", r"1/n.*twice|1/n|mean where a sum", "numpy")
def everything_over_m(x, weight, bias, dy):
    m = max(int(np.prod(x.shape[:-1])), 1)
    dweight = _outer(dy, x) / m
    return x @ weight.T + bias, dy @ weight, dweight, dy.reshape(m, -1).sum(0) / m


@bank.wrong("axis", r"dweight.*transposed")
def weight_gradient_transposed_and_reshaped(x, weight, bias, dy):
    return x @ weight.T + bias, dy @ weight, (rows(x).T @ rows(dy)).reshape(weight.shape), rows(dy).sum(0)


@bank.wrong("axis", r"dweight.*transposed|dW transposed")
def weight_gradient_transposed(x, weight, bias, dy):
    return x @ weight.T + bias, dy @ weight, rows(x).T @ rows(dy), rows(dy).sum(0)


@bank.wrong("drop", r"dweight.*last (element|row|example)", "numpy")
def only_the_last_example(x, weight, bias, dy):
    last_dy, last_x = dy.reshape(-1, dy.shape[-1])[-1], x.reshape(-1, x.shape[-1])[-1]
    dbias = dy.reshape(-1, dy.shape[-1]).sum(0)
    return x @ weight.T + bias, dy @ weight, np.outer(last_dy, last_x), dbias


@bank.wrong("mean for sum", r"dx.*1/n.*out")
def mean_over_outputs(x, weight, bias, dy):
    dx = (dy[..., None] * weight).mean(-2)
    return x @ weight.T + bias, dx, rows(dy).T @ rows(x), rows(dy).sum(0)


@bank.wrong("axis", r"bias collapsed|summed over all|every output")
def bias_gradient_one_number(x, weight, bias, dy):
    return x @ weight.T + bias, dy @ weight, rows(dy).T @ rows(x), torch.full_like(bias, float(dy.sum()))


@bank.wrong("cotangent", r"dweight.*(cotangent for ones|taken for 1|`dy` left out|ignores)")
def weight_gradient_without_dy(x, weight, bias, dy):
    ones = torch.ones(len(rows(x)), len(weight), dtype=x.dtype)
    return x @ weight.T + bias, dy @ weight, ones.T @ rows(x), rows(dy).sum(0)


@bank.wrong("cotangent", r"dbias.*(cotangent for ones|taken for 1|`dy` left out|ignores)", "numpy")
def bias_gradient_counts_rows(x, weight, bias, dy):
    m = int(np.prod(x.shape[:-1]))
    return x @ weight.T + bias, dy @ weight, _outer(dy, x), np.full_like(bias, m)


@bank.wrong("flip", r"dweight.*wrong sign")
def descent_direction(x, weight, bias, dy):
    return x @ weight.T + bias, dy @ weight, rows(-dy).T @ rows(x), rows(dy).sum(0)


@bank.wrong("added", r"dweight.*weight")
def weight_decay_folded_in(x, weight, bias, dy):
    dweight = rows(dy).T @ rows(x)
    dweight += 1e-2 * weight
    return x @ weight.T + bias, dy @ weight, dweight, rows(dy).sum(0)


@bank.wrong("precision", r"16 bits|low precision")
def accumulated_in_half(x, weight, bias, dy):
    dweight = torch.zeros(weight.shape, dtype=torch.bfloat16)
    for a, g in zip(rows(x), rows(dy), strict=True):
        dweight += torch.outer(g, a).bfloat16()
    return x @ weight.T + bias, dy @ weight, dweight.to(x.dtype), rows(dy).sum(0)


@bank.wrong("order", r"updated weights|an update")
def weights_already_updated(x, weight, bias, dy):
    dweight = rows(dy).T @ rows(x)
    y = x @ weight.T + bias
    return y, dy @ (weight - 0.01 * dweight), dweight, rows(dy).sum(0)


@bank.wrong("scale", r"dx.*(2 times|twice)")
def dx_accumulated_twice(x, weight, bias, dy):
    dx = torch.zeros_like(x)
    for _ in range(2):
        dx += dy @ weight
    return x @ weight.T + bias, dx, rows(dy).T @ rows(x), rows(dy).sum(0)


@bank.wrong("drop", r"last element|last row")
def loop_stops_one_early(x, weight, bias, dy):
    dbias = torch.zeros_like(bias)
    for i in range(len(rows(dy)) - 1):
        dbias += rows(dy)[i]
    return x @ weight.T + bias, dy @ weight, rows(dy).T @ rows(x), dbias


@bank.wrong("drop", r"dx.*0 everywhere")
def dx_left_at_zero(x, weight, bias, dy):
    return x @ weight.T + bias, torch.zeros_like(x), rows(dy).T @ rows(x), rows(dy).sum(0)


@bank.wrong("axis", r"axis 0|axes|other axes")
def bias_gradient_over_axis_0(x, weight, bias, dy):
    dbias = dy.sum(0)
    return x @ weight.T + bias, dy @ weight, rows(dy).T @ rows(x), dbias


@bank.wrong("cotangent", r"clip|clamp|\[-1, 1\]")
def clipped_gradients(x, weight, bias, dy):
    grads = dy @ weight, rows(dy).T @ rows(x), rows(dy).sum(0)
    return x @ weight.T + bias, *(g.clamp(-1, 1) for g in grads)


@bank.wrong("layout", r"contiguous")
def kernel_that_reads_x_row_by_row(x, weight, bias, dy):
    buffer = torch.as_strided(x, (x.untyped_storage().nbytes() // x.element_size(),), (1,), 0)
    flat = torch.cat([buffer[x.storage_offset() :], x.new_zeros(x.numel())])[: x.numel()].reshape(x.shape)
    return x @ weight.T + bias, dy @ weight, rows(dy).T @ rows(flat), rows(dy).sum(0)
