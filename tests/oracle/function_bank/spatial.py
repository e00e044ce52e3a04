"""Convolution with batch normalisation, pooling, interpolation, distances and small scalar functions."""

import math

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from tests.oracle.function_bank.entry import WIDE, Function, normal, right, uniform, wrong

# ----------------------------------------------------------------------------------------------- conv, batch norm, ReLU


def conv_bn_relu(x, weight, gamma, beta, *, stride=1, padding=1, eps=1e-5):
    h = F.conv2d(x, weight, stride=stride, padding=padding)
    mean = h.mean(dim=(0, 2, 3), keepdim=True)
    var = ((h - mean) ** 2).mean(dim=(0, 2, 3), keepdim=True)
    h = (h - mean) / (var + eps).sqrt()
    return F.relu(h * gamma.view(1, -1, 1, 1) + beta.view(1, -1, 1, 1))


CONV = Function(conv_bn_relu, {"x": (2, 3, 6, 5), "weight": (4, 3, 3, 3), "gamma": (4,), "beta": (4,)}, {"stride": 2})


def _conv_bn_relu(inputs, dy, stride, padding, eps, *, mean_term=True, variance_term=True):
    x, weight, gamma, beta = inputs
    size, axes = weight.shape[2:], (0, 2, 3)
    columns = F.unfold(x, size, padding=padding, stride=stride)
    shape = [(n + 2 * padding - k) // stride + 1 for n, k in zip(x.shape[2:], size, strict=True)]
    h = (weight.flatten(1) @ columns).unflatten(2, shape)
    centred = h - h.mean(axes, keepdim=True)
    rstd = torch.rsqrt(centred.square().mean(axes, keepdim=True) + eps)
    n = centred * rstd
    y = (n * gamma[:, None, None] + beta[:, None, None]).clamp(min=0)
    da = dy * (y > 0)
    dn = da * gamma[:, None, None]
    dh = dn - mean_term * dn.mean(axes, keepdim=True) - variance_term * n * (dn * n).mean(axes, keepdim=True)
    dh = (rstd * dh).flatten(2)
    dx = F.fold(weight.flatten(1).T @ dh, x.shape[2:], size, padding=padding, stride=stride)
    dweight = torch.einsum("bol,bkl->ok", dh, columns).view(weight.shape)
    return y, (dx, dweight, (da * n).sum(axes), da.sum(axes))


@right(CONV, "by unfolded columns")
def conv_by_columns(inputs, dy, *, stride=1, padding=1, eps=1e-5):
    return _conv_bn_relu(inputs, dy, stride, padding, eps)


@wrong(CONV, "the mean and the variance of the batch count as constants")
def conv_statistics_constant(inputs, dy, *, stride=1, padding=1, eps=1e-5):
    return _conv_bn_relu(inputs, dy, stride, padding, eps, mean_term=False, variance_term=False)


@wrong(CONV, "the term of the batch's mean is missing")
def conv_mean_term(inputs, dy, *, stride=1, padding=1, eps=1e-5):
    return _conv_bn_relu(inputs, dy, stride, padding, eps, mean_term=False)


# --------------------------------------------------------------------------------------------------- pooling


def pooled_linear(x, weight):
    """2 x 2 maxima after a ReLU, then a linear layer."""
    pooled = F.max_pool2d(torch.relu(x), kernel_size=2)
    return pooled.flatten(1) @ weight.t()


POOLED = Function(pooled_linear, {"x": (3, 2, 4, 4), "weight": (5, 8)})
AT_TIES = {"x": lambda generator: torch.randint(1, 3, (3, 2, 4, 4), generator=generator).double()}


def _pooled(inputs, dy, share):
    x, weight = inputs
    cells = x.clamp(min=0).unfold(2, 2, 2).unfold(3, 2, 2).flatten(-2)
    pooled = cells.amax(-1)
    d = (dy @ weight).view(pooled.shape)[..., None] * share(cells, pooled[..., None])
    d = d.unflatten(-1, (2, 2)).permute(0, 1, 2, 4, 3, 5).reshape(x.shape)
    return pooled.flatten(1) @ weight.T, (d * (x > 0), dy.T @ pooled.flatten(1))


@right(POOLED, "the first of equals by argmax")
def pooled_first(inputs, dy):
    return _pooled(inputs, dy, lambda cells, best: F.one_hot((cells == best).int().argmax(-1), 4).to(cells.dtype))


@wrong(POOLED, "each of several equal maxima gets the whole gradient", shown_by=AT_TIES)
def pooled_every_maximum(inputs, dy):
    return _pooled(inputs, dy, lambda cells, best: (cells == best).to(cells.dtype))


@wrong(POOLED, "the gradient is spread over the cell as by average pooling")
def pooled_average(inputs, dy):
    return _pooled(inputs, dy, lambda cells, best: torch.full_like(cells, 0.25))


def logsumexp_pool(x: Float[Tensor, "batch channels points"], sharpness: Float[Tensor, " channels"],
                   ) -> Float[Tensor, "batch channels"]:  # fmt: skip
    """A soft maximum over points, of learned sharpness."""
    s = sharpness.unsqueeze(-1)
    return (torch.logsumexp(x * s, dim=-1) - math.log(x.shape[-1])) / sharpness


SOFT_POOL = Function(logsumexp_pool, {"x": (2, 3, 6), "sharpness": uniform(3, low=0.5, high=3)})


@right(SOFT_POOL, "the sharpness's gradient as (mean of x under p - y) / sharpness")
def soft_pool_by_mean(inputs, dy):
    x, sharpness = inputs
    z = x * sharpness[:, None]
    y = (z.exp().mean(-1)).log() / sharpness
    p = z.softmax(-1)
    return y, (dy[..., None] * p, (dy * ((p * x).sum(-1) - y) / sharpness).sum(0))


@wrong(SOFT_POOL, "the sharpness's gradient lacks the term of the division by it")
def soft_pool_quotient(inputs, dy):
    y, (dx, _) = soft_pool_by_mean(inputs, dy)
    x, sharpness = inputs
    p = (x * sharpness[:, None]).softmax(-1)
    return y, (dx, (dy * (p * x).sum(-1) / sharpness).sum(0))


# ------------------------------------------------------------------------------------------------ interpolation


def sample_bilinear(image, points):
    """image (channels, height, width) at points (n, 2) of coordinates y, x that lie within it, in pixels."""
    y, x = points.unbind(-1)
    y0, x0 = y.floor().long(), x.floor().long()
    y1, x1 = (y0 + 1).clamp(max=image.shape[1] - 1), (x0 + 1).clamp(max=image.shape[2] - 1)
    fy, fx = y - y0, x - x0
    top = image[:, y0, x0] * (1 - fx) + image[:, y0, x1] * fx
    bottom = image[:, y1, x0] * (1 - fx) + image[:, y1, x1] * fx
    return (top * (1 - fy) + bottom * fy).t()


BILINEAR = Function(sample_bilinear, {"image": (2, 5, 6), "points": uniform(7, 2, low=0.1, high=3.9)})


def _bilinear(inputs, dy, *, accumulate=True, swapped=False):
    image, points = inputs
    corner = points.floor().long()
    (fy, fx), (y0, x0) = (points - corner).unbind(-1), corner.unbind(-1)
    result, dimage, dpoints = 0, torch.zeros_like(image), torch.zeros_like(points)
    for up in (0, 1):
        for over in (0, 1):
            wy, wx = (fy if up else 1 - fy), (fx if over else 1 - fx)
            at = (y0 + up).clamp(max=image.shape[1] - 1), (x0 + over).clamp(max=image.shape[2] - 1)
            value = image[:, at[0], at[1]].T
            result = result + (wy * wx)[:, None] * value
            dimage = dimage.index_put(
                (torch.arange(len(image))[:, None], *at), (dy * (wy * wx)[:, None]).T, accumulate=True
            )
            inner = (dy * value).sum(-1)
            slopes = ((2 * up - 1) * wx * inner, (2 * over - 1) * wy * inner)
            dpoints = dpoints + torch.stack(slopes[::-1] if swapped else slopes, -1)
    return result, (dimage, dpoints)


@right(BILINEAR, "corner by corner")
def bilinear_corners(inputs, dy):
    return _bilinear(inputs, dy)


@wrong(BILINEAR, "the gradients of the two coordinates are exchanged")
def bilinear_swapped(inputs, dy):
    return _bilinear(inputs, dy, swapped=True)


@wrong(BILINEAR, "points that share a pixel overwrite each other's gradient",
       shown_by={"points": uniform(12, 2, low=0.1, high=1.9)})  # fmt: skip
def bilinear_overwritten(inputs, dy):
    image, points = inputs
    y, (_, dpoints) = _bilinear(inputs, dy)
    one_by_one = [_bilinear((image, points[i : i + 1]), dy[i : i + 1])[1][0] for i in range(len(points))]
    dimage = torch.zeros_like(image)
    for each in one_by_one:
        dimage = torch.where(each != 0, each, dimage)
    return y, (dimage, dpoints)


# ---------------------------------------------------------------------------------------------------- distances


def rbf_features(x: Float[Tensor, "rows width"], centers: Float[Tensor, "kernels width"],
                 log_gamma: Float[Tensor, " kernels"]) -> Float[Tensor, "rows kernels"]:  # fmt: skip
    return torch.exp(-log_gamma.exp() * torch.cdist(x, centers).pow(2))


RBF = Function(rbf_features, {"x": (4, 3), "centers": (5, 3), "log_gamma": uniform(5, low=-2, high=0)})


@right(RBF, "by differences, without the distance's root")
def rbf_differences(inputs, dy):
    x, centers, log_gamma = inputs
    difference = x[:, None] - centers
    gamma, squared = log_gamma.exp(), difference.square().sum(-1)
    y = torch.exp(-gamma * squared)
    dsquared = -dy * y * gamma
    each = 2 * dsquared[..., None] * difference
    return y, (each.sum(1), -each.sum(0), (dsquared * squared).sum(0))


@wrong(RBF, "the gradient of the centers has the sign of that of x")
def rbf_sign(inputs, dy):
    y, (dx, dcenters, dlog_gamma) = rbf_differences(inputs, dy)
    return y, (dx, -dcenters, dlog_gamma)


@wrong(RBF, "the factor 2 of the square is missing")
def rbf_forgot_two(inputs, dy):
    y, (dx, dcenters, dlog_gamma) = rbf_differences(inputs, dy)
    return y, (dx / 2, dcenters / 2, dlog_gamma)


def cosine_scores(query, keys, *, temperature=0.1):
    """query (batch, width) against keys (batch, n, width)."""
    return F.cosine_similarity(query.unsqueeze(1), keys, dim=-1) / temperature


COSINE = Function(cosine_scores, {"query": (3, 6), "keys": (3, 4, 6)}, {"temperature": 0.5})


@right(COSINE, "by unit vectors")
def cosine_units(inputs, dy, *, temperature=0.1):
    query, keys = inputs
    lengths = query.norm(dim=-1)[:, None, None], keys.norm(dim=-1, keepdim=True)
    q, k = query[:, None] / lengths[0], keys / lengths[1]
    cosine = (q * k).sum(-1, keepdim=True)
    d = dy[..., None] / temperature
    dquery = (d * (k - cosine * q) / lengths[0]).sum(1)
    return cosine[..., 0] / temperature, (dquery, d * (q - cosine * k) / lengths[1])


@wrong(COSINE, "the query's gradient is not summed over the keys but averaged")
def cosine_mean_over_keys(inputs, dy, *, temperature=0.1):
    y, (dquery, dkeys) = cosine_units(inputs, dy, temperature=temperature)
    return y, (dquery / dkeys.shape[1], dkeys)


@wrong(COSINE, "the norm of the keys counts as a constant")
def cosine_norm_constant(inputs, dy, *, temperature=0.1):
    y, (dquery, _) = cosine_units(inputs, dy, temperature=temperature)
    query, keys = inputs
    q = (query / query.norm(dim=-1, keepdim=True))[:, None]
    return y, (dquery, dy[..., None] / temperature * q / keys.norm(dim=-1, keepdim=True))


# --------------------------------------------------------------------------------- straight through, polynomials


def fake_quantise(x, scale, *, levels=8):
    """Rounding in the forward, the identity in the backward."""
    z = (x / scale).clamp(-levels, levels)
    z = z + (z.round() - z).detach()
    return z * scale


QUANTISE = Function(fake_quantise, {"x": normal(5, 7, scale=2), "scale": uniform(7, low=0.2, high=0.6)}, {"levels": 4})


def _quantise(inputs, dy, levels, slope):
    x, scale = inputs
    z = (x / scale).clamp(-levels, levels)
    inside = (x / scale).abs() <= levels
    return z.round() * scale, (dy * inside * slope, (dy * (z.round() - slope * inside * x / scale)).sum(0))


@right(QUANTISE, "the identity within the levels")
def quantise_straight(inputs, dy, *, levels=8):
    return _quantise(inputs, dy, levels, 1.0)


@wrong(QUANTISE, "the true derivative of rounding, 0, where the forward passes the gradient straight through")
def quantise_zero(inputs, dy, *, levels=8):
    return _quantise(inputs, dy, levels, 0.0)


def polynomial_gate(x: Float[Tensor, "rows width"], coefficients: Float[Tensor, "degree width"]
                    ) -> Float[Tensor, "rows width"]:  # fmt: skip
    """A polynomial per column by Horner's rule, squashed."""
    value = torch.zeros_like(x)
    for c in reversed(coefficients.unbind(0)):
        value = value * x + c
    return torch.tanh(value)


POLYNOMIAL = Function(polynomial_gate, {"x": uniform(6, 4, low=-1.2, high=1.2), "coefficients": (4, 4)})


def _polynomial(inputs, dy, slope):
    x, coefficients = inputs
    degrees = torch.arange(len(coefficients))[:, None, None]
    powers = x**degrees
    value = (coefficients[:, None] * powers).sum(0)
    dvalue = dy * slope(value)
    derivative = (degrees[1:] * coefficients[1:, None] * powers[:-1]).sum(0)
    return torch.tanh(value), (dvalue * derivative, (dvalue * powers).sum(1))


@right(POLYNOMIAL, "by powers; the derivative of tanh by cosh, which keeps its digits")
def polynomial_powers(inputs, dy):
    return _polynomial(inputs, dy, lambda value: 1 / torch.cosh(value) ** 2)


@wrong(POLYNOMIAL, "the gradient is too large by one part in a thousand", shows=WIDE)
def polynomial_factor(inputs, dy):
    y, grads = polynomial_powers(inputs, dy)
    return y, tuple(grad * (1 + 1e-3) for grad in grads)


@wrong(POLYNOMIAL, "tanh is not differentiated")
def polynomial_tanh_forgotten(inputs, dy):
    return _polynomial(inputs, dy, torch.ones_like)
