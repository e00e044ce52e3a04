"""Each row of a weight matrix shortened to a limit."""

import numpy as np
import torch

from tests.oracle.bank.entry import Bank

bank = Bank("max_norm")


def shortened(weight, limit, axis=1):
    """y, the norms, and which rows were too long."""
    norm = weight.norm(dim=axis, keepdim=True)
    long = norm > limit
    return torch.where(long, limit * (weight / norm), weight), norm, long


@bank.right()
def projected_onto_the_tangent(weight, dy, limit):
    y, norm, long = shortened(weight, limit)
    u = torch.where(long, weight / norm, 0)
    turned = dy - u * (u * dy).sum(1, keepdim=True)
    return y, torch.where(long, limit / norm * turned, dy)


@bank.right("numpy")
def row_by_row(weight, dy, limit):
    y, dweight = weight.copy(), dy.copy()
    for o in range(len(weight)):
        length = np.sqrt(np.sum(weight[o] ** 2))
        if length > limit:
            u = weight[o] / length
            y[o] = limit * u
            dweight[o] = limit / length * (dy[o] - u * (u @ dy[o]))
    return y, dweight


@bank.right()
def through_the_output(weight, dy, limit):
    y, norm, long = shortened(weight, limit)
    along = (y / limit * dy).sum(1, keepdim=True)
    return y, torch.where(long, limit / norm * (dy - y / limit * along), dy)


@bank.right()
def in_double(weight, dy, limit):
    w, g = weight.double(), dy.double()
    y, norm, long = shortened(w, limit)
    inner = torch.einsum("oi,oi->o", w, g)[:, None]
    dweight = torch.where(long, limit * g / norm - limit * w * inner / norm**3, g)
    return y.to(weight.dtype), dweight.to(weight.dtype)


@bank.wrong("drop", r"norm as a constant|projection term is missing")
def norm_held_constant(weight, dy, limit):
    y, norm, long = shortened(weight, limit)
    return y, torch.where(long, limit / norm * dy, dy)


@bank.wrong("flip", r"projection term", "numpy")
def projection_added(weight, dy, limit):
    norm = np.sqrt(np.sum(weight**2, 1, keepdims=True))
    u = weight / norm
    turned = limit / norm * (dy + u * np.sum(u * dy, 1, keepdims=True))
    return np.where(norm > limit, limit * u, weight), np.where(norm > limit, turned, dy)


@bank.wrong("drop", r"identity|right where|dy·1|\bdy\b")
def straight_through(weight, dy, limit):
    return shortened(weight, limit)[0], dy.clone()


@bank.wrong("scale", r"scale forgotten")
def not_scaled(weight, dy, limit):
    y, norm, long = shortened(weight, limit)
    u = weight / norm
    return y, torch.where(long, dy - u * (u * dy).sum(1, keepdim=True), dy)


@bank.wrong("axis", r"columns|axis 0")
def limits_the_columns(weight, dy, limit):
    y, *_ = shortened(weight, limit)
    _, norm, long = shortened(weight, limit, 0)
    u = weight / norm
    return y, torch.where(long, limit / norm * (dy - u * (u * dy).sum(0, keepdim=True)), dy)


@bank.wrong("flip", r"wrong sign")
def minus(weight, dy, limit):
    y, norm, long = shortened(weight, limit)
    u = torch.where(long, weight / norm, 0)
    return y, -torch.where(long, limit / norm * (dy - u * (u * dy).sum(1, keepdim=True)), dy)


@bank.wrong("hyperparameter", r"limit is ignored")
def limit_of_one(weight, dy, limit):
    y, *_ = shortened(weight, limit)
    _, norm, long = shortened(weight, 1.0)
    u = torch.where(long, weight / norm, 0)
    return y, torch.where(long, (dy - u * (u * dy).sum(1, keepdim=True)) / norm, dy)


@bank.wrong("cotangent", r"cotangent dropped|for ones|taken for 1|`dy` left out", "numpy")
def jacobian_times_ones(weight, dy, limit):
    norm = np.sqrt(np.sum(weight**2, 1, keepdims=True))
    u = weight / norm
    turned = limit / norm * (1 - u * np.sum(u, 1, keepdims=True))
    return np.where(norm > limit, limit * u, weight), np.where(norm > limit, turned, np.ones_like(dy))


@bank.wrong("scale", r"projection term")
def twice_the_projection(weight, dy, limit):
    y, norm, long = shortened(weight, limit)
    u = torch.where(long, weight / norm, 0)
    return y, torch.where(long, limit / norm * (dy - 2 * u * (u * dy).sum(1, keepdim=True)), dy)


@bank.wrong("drop", r"nothing for long rows|0 where")
def clipped_like_a_number(weight, dy, limit):
    y, _, long = shortened(weight, limit)
    return y, dy.masked_fill(long, 0)


@bank.wrong("drop", r"0 everywhere")
def nothing(weight, dy, limit):
    return shortened(weight, limit)[0], torch.zeros_like(dy)
