"""torch's own functions as references: all of torch.nn.functional, and the common ones of torch.

A name is torch's; what follows after a comma tells several of one name apart.  Inputs are what `compare` takes:
shapes, tensors, and functions that draw.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from .functions import apart, between

INF = math.inf


@dataclass(frozen=True)
class Torchs:
    """A function with the inputs that it is judged at."""

    function: Callable[..., Any]
    inputs: Mapping[str, Any] = field(default_factory=dict)


def of(function: Callable[..., Any], **inputs: Any) -> Torchs:
    return Torchs(function, inputs)


def whole(high: int, *shape: int) -> Tensor:
    """Whole numbers from 0 to high - 1, of which some are repeated and none is last."""
    return (torch.arange(math.prod(shape)) * 7 % (high + 2) % high).reshape(shape)


def coins(*shape: int) -> Tensor:
    return (torch.arange(math.prod(shape)) % 3 == 0).reshape(shape)


def signs(*shape: int) -> Tensor:
    return torch.where(coins(*shape), 1.0, -1.0).double()


UNIT = between(0.05, 0.95, 3, 4)
INSIDE = between(-0.9, 0.9, 3, 4)
POSITIVE = between(0.6, 2.0, 3, 4)
ABOVE_ONE = between(1.2, 3.0, 3, 4)
APART = apart(3, 4)
SQUARES = (3, 3)


def positive(*shape: int) -> Any:
    return between(0.6, 2.0, *shape)


def definite(generator: torch.Generator) -> Tensor:
    """A symmetric matrix of eigenvalues from 1 on."""
    a = torch.randn(3, 3, generator=generator, dtype=torch.float64)
    return a @ a.mT + torch.eye(3, dtype=torch.float64)


def regular(generator: torch.Generator) -> Tensor:
    """A matrix far from a singular one."""
    return torch.randn(3, 3, generator=generator, dtype=torch.float64) + 4 * torch.eye(3, dtype=torch.float64)


def root_of(values: Tensor, vectors: Tensor) -> Tensor:
    return (vectors * values.sqrt()) @ vectors.mT


def polar(u: Tensor, s: Tensor, vh: Tensor) -> Tensor:
    return u @ vh


def rows(function: Callable[..., Any]) -> Torchs:
    """Of rows of numbers."""
    return of(function, x=(4, 9))


FUNCTIONAL: dict[str, Torchs] = {
    # activations
    "celu": rows(lambda x: F.celu(x, 0.7)),
    "celu_": rows(lambda x: F.celu_(x * 1.0)),
    "elu": rows(lambda x: F.elu(x, 1.3)),
    "elu_": rows(lambda x: F.elu_(x * 1.0)),
    "gelu": rows(lambda x: F.gelu(x)),
    "gelu, tanh": rows(lambda x: F.gelu(x, approximate="tanh")),
    "glu": rows(lambda x: F.glu(x[..., :8])),
    "hardshrink": rows(lambda x: F.hardshrink(x)),
    "hardsigmoid": rows(lambda x: F.hardsigmoid(3 * x)),
    "hardswish": rows(lambda x: F.hardswish(3 * x)),
    "hardtanh": rows(lambda x: F.hardtanh(x, -0.6, 0.8)),
    "hardtanh_": rows(lambda x: F.hardtanh_(x * 1.0)),
    "leaky_relu": rows(lambda x: F.leaky_relu(x, 0.2)),
    "leaky_relu_": rows(lambda x: F.leaky_relu_(x * 1.0)),
    "log_softmax": rows(lambda x: F.log_softmax(x, -1)),
    "logsigmoid": rows(lambda x: F.logsigmoid(x)),
    "mish": rows(lambda x: F.mish(x)),
    "prelu": of(lambda x, weight: F.prelu(x, weight), x=(4, 3, 5), weight=(3,)),
    "relu": rows(lambda x: F.relu(x)),
    "relu6": rows(lambda x: F.relu6(4 * x)),
    "relu_": rows(lambda x: F.relu_(x * 1.0)),
    "selu": rows(lambda x: F.selu(x)),
    "selu_": rows(lambda x: F.selu_(x * 1.0)),
    "sigmoid": rows(lambda x: F.sigmoid(x)),
    "silu": rows(lambda x: F.silu(x)),
    "softmax": rows(lambda x: F.softmax(x, -1)),
    "softmin": rows(lambda x: F.softmin(x, -1)),
    "softplus": rows(lambda x: F.softplus(x, 2.0)),
    "softshrink": rows(lambda x: F.softshrink(x)),
    "softsign": rows(lambda x: F.softsign(x)),
    "tanh": rows(lambda x: F.tanh(x)),
    "tanhshrink": rows(lambda x: F.tanhshrink(x)),
    "threshold": rows(lambda x: F.threshold(x, 0.1, 2.0)),
    "threshold_": rows(lambda x: F.threshold_(x * 1.0, 0.1, 2.0)),
    # linear
    "linear": of(lambda x, weight, bias: F.linear(x, weight, bias), x=(4, 5), weight=(3, 5), bias=(3,)),
    "bilinear": of(
        lambda x, z, weight, bias: F.bilinear(x, z, weight, bias), x=(4, 3), z=(4, 2), weight=(5, 3, 2), bias=(5,)
    ),
    # convolution
    "conv1d": of(
        lambda x, weight, bias: F.conv1d(x, weight, bias, stride=2, padding=1), x=(2, 3, 7), weight=(4, 3, 3), bias=(4,)
    ),
    "conv2d": of(lambda x, weight, bias: F.conv2d(x, weight, bias), x=(2, 3, 5, 4), weight=(4, 3, 3, 2), bias=(4,)),
    "conv2d, groups": of(
        lambda x, weight: F.conv2d(x, weight, None, (1, 2), (0, 1), (2, 1), 2), x=(2, 4, 5, 4), weight=(2, 2, 2, 3)
    ),
    "conv3d": of(lambda x, weight: F.conv3d(x, weight), x=(1, 2, 3, 3, 2), weight=(2, 2, 2, 2, 2)),
    "conv_transpose1d": of(
        lambda x, weight, bias: F.conv_transpose1d(x, weight, bias, stride=2, padding=1, output_padding=1),
        x=(2, 3, 4),
        weight=(3, 2, 3),
        bias=(2,),
    ),
    "conv_transpose2d": of(
        lambda x, weight: F.conv_transpose2d(x, weight, stride=2, groups=2), x=(1, 4, 2, 3), weight=(4, 1, 2, 2)
    ),
    "conv_transpose3d": of(lambda x, weight: F.conv_transpose3d(x, weight), x=(1, 2, 2, 2, 2), weight=(2, 1, 2, 2, 2)),
    "conv_tbc": of(lambda x, weight, bias: F.conv_tbc(x, weight, bias, 1), x=(5, 2, 3), weight=(3, 3, 4), bias=(4,)),
    "unfold": of(lambda x: F.unfold(x, 2, padding=1), x=(2, 3, 4, 3)),
    "fold": of(lambda x: F.fold(x, (4, 3), 2), x=(2, 12, 6)),
    # pooling
    "avg_pool1d": of(lambda x: F.avg_pool1d(x, 3, 2, 1), x=(2, 3, 7)),
    "avg_pool2d": of(lambda x: F.avg_pool2d(x, 3, 2, 1, count_include_pad=False), x=(2, 2, 5, 6)),
    "avg_pool3d": of(lambda x: F.avg_pool3d(x, 2), x=(1, 2, 4, 4, 2)),
    "max_pool1d": of(lambda x: F.max_pool1d(x, 3, 2), x=(2, 3, 9)),
    "max_pool2d": of(lambda x: F.max_pool2d(x, 3, 2, 1), x=(2, 2, 5, 6)),
    "max_pool2d, dilation": of(lambda x: F.max_pool2d(x, 2, 1, dilation=2, ceil_mode=True), x=(2, 2, 5, 6)),
    "max_pool3d": of(lambda x: F.max_pool3d(x, 2), x=(1, 2, 4, 4, 2)),
    "max_pool1d_with_indices": of(lambda x: F.max_pool1d_with_indices(x, 2)[0], x=(2, 3, 6)),
    "max_pool2d_with_indices": of(lambda x: F.max_pool2d_with_indices(x, 2)[0], x=(2, 2, 4, 6)),
    "max_pool3d_with_indices": of(lambda x: F.max_pool3d_with_indices(x, 2)[0], x=(1, 2, 4, 4, 2)),
    "adaptive_avg_pool1d": of(lambda x: F.adaptive_avg_pool1d(x, 3), x=(2, 3, 7)),
    "adaptive_avg_pool2d": of(lambda x: F.adaptive_avg_pool2d(x, (2, 3)), x=(2, 2, 5, 6)),
    "adaptive_avg_pool3d": of(lambda x: F.adaptive_avg_pool3d(x, (2, 3, 1)), x=(1, 2, 4, 5, 2)),
    "adaptive_max_pool1d": of(lambda x: F.adaptive_max_pool1d(x, 3), x=(2, 3, 7)),
    "adaptive_max_pool2d": of(lambda x: F.adaptive_max_pool2d(x, (2, 3)), x=(2, 2, 5, 6)),
    "adaptive_max_pool3d": of(lambda x: F.adaptive_max_pool3d(x, (2, 3, 1)), x=(1, 2, 4, 5, 2)),
    "adaptive_max_pool1d_with_indices": of(lambda x: F.adaptive_max_pool1d_with_indices(x, 3)[0], x=(2, 3, 7)),
    "adaptive_max_pool2d_with_indices": of(lambda x: F.adaptive_max_pool2d_with_indices(x, 2)[0], x=(2, 2, 5, 6)),
    "adaptive_max_pool3d_with_indices": of(lambda x: F.adaptive_max_pool3d_with_indices(x, 2)[0], x=(1, 2, 4, 5, 2)),
    "max_unpool1d": of(
        lambda x, index: F.max_unpool1d(x, index, 2), x=(2, 3, 2), index=torch.tensor([1, 2]).expand(2, 3, 2)
    ),
    "max_unpool2d": of(
        lambda x, index: F.max_unpool2d(x, index, 2), x=(2, 1, 1, 2), index=torch.tensor([5, 2]).expand(2, 1, 1, 2)
    ),
    "max_unpool3d": of(
        lambda x, index: F.max_unpool3d(x, index, 2),
        x=(1, 2, 1, 1, 2),
        index=torch.tensor([5, 2]).expand(1, 2, 1, 1, 2),
    ),
    "lp_pool1d": of(lambda x: F.lp_pool1d(x, 2.0, 2), x=positive(2, 3, 6)),
    "lp_pool2d": of(lambda x: F.lp_pool2d(x, 2.0, 2), x=positive(2, 2, 4, 4)),
    "lp_pool3d": of(lambda x: F.lp_pool3d(x, 2.0, 2), x=positive(1, 2, 4, 2, 2)),
    # attention
    "scaled_dot_product_attention": of(
        lambda q, k, v: F.scaled_dot_product_attention(q, k, v), q=(2, 3, 4), k=(2, 5, 4), v=(2, 5, 3)
    ),
    "scaled_dot_product_attention, causal": of(
        lambda q, k, v: F.scaled_dot_product_attention(q, k, v, is_causal=True), q=(2, 5, 4), k=(2, 5, 4), v=(2, 5, 3)
    ),
    "scaled_dot_product_attention, mask": of(
        lambda q, k, v, mask: F.scaled_dot_product_attention(q, k, v, mask),
        q=(2, 3, 4),
        k=(2, 5, 4),
        v=(2, 5, 3),
        mask=coins(3, 5),
    ),
    "multi_head_attention_forward": of(
        lambda x, weight, bias, out, more: F.multi_head_attention_forward(
            x, x, x, 4, 2, weight, bias, None, None, False, 0.0, out, more, need_weights=False
        )[0],
        x=(3, 2, 4),
        weight=(12, 4),
        bias=(12,),
        out=(4, 4),
        more=(4,),
    ),
    # normalisation
    "batch_norm": of(
        lambda x, weight, bias: F.batch_norm(x, None, None, weight, bias, training=True),
        x=(6, 3, 2),
        weight=(3,),
        bias=(3,),
    ),
    "batch_norm, inference": of(
        lambda x, weight, bias: F.batch_norm(x, x.new_tensor([0.5, -1, 2]), x.new_tensor([0.75, 1.5, 2]), weight, bias),
        x=(6, 3),
        weight=(3,),
        bias=(3,),
    ),
    "group_norm": of(lambda x, weight, bias: F.group_norm(x, 2, weight, bias), x=(3, 4, 5), weight=(4,), bias=(4,)),
    "instance_norm": of(
        lambda x, weight, bias: F.instance_norm(x, None, None, weight, bias), x=(3, 2, 7), weight=(2,), bias=(2,)
    ),
    "layer_norm": of(
        lambda x, weight, bias: F.layer_norm(x, weight.shape, weight, bias), x=(4, 9), weight=(9,), bias=(9,)
    ),
    "rms_norm": of(lambda x, weight: F.rms_norm(x, weight.shape, weight, 1e-6), x=(4, 9), weight=(9,)),
    "local_response_norm": of(lambda x: F.local_response_norm(x, 3, alpha=0.1), x=(2, 5, 4)),
    "normalize": rows(lambda x: F.normalize(x)),
    # embedding
    "embedding": of(lambda weight, index: F.embedding(index, weight), weight=(7, 4), index=whole(7, 5)),
    "embedding, padding": of(lambda weight, index: F.embedding(index, weight, 2), weight=(7, 4), index=whole(7, 5)),
    "embedding_bag": of(
        lambda weight, index: F.embedding_bag(index, weight, mode="sum"), weight=(7, 4), index=whole(7, 3, 2)
    ),
    "embedding_bag, mean": of(
        lambda weight, index: F.embedding_bag(index, weight, torch.tensor([0, 2])), weight=(7, 4), index=whole(7, 6)
    ),
    "embedding_bag, max": of(
        lambda weight, index: F.embedding_bag(index, weight, mode="max"), weight=(7, 4), index=whole(7, 3, 2)
    ),
    # moving elements about
    "channel_shuffle": of(lambda x: F.channel_shuffle(x, 2), x=(2, 4, 3, 2)),
    "pad": of(lambda x: F.pad(x, (1, 2), value=0.3), x=(4, 5)),
    "pad, reflect": of(lambda x: F.pad(x, (1, 2, 2, 1), mode="reflect"), x=(1, 2, 4, 5)),
    "pad, replicate": of(lambda x: F.pad(x, (1, 2), mode="replicate"), x=(2, 3, 4)),
    "pad, circular": of(lambda x: F.pad(x, (1, 2), mode="circular"), x=(2, 3, 4)),
    "pixel_shuffle": of(lambda x: F.pixel_shuffle(x, 2), x=(2, 8, 2, 3)),
    "pixel_unshuffle": of(lambda x: F.pixel_unshuffle(x, 2), x=(2, 2, 4, 6)),
    # images
    "affine_grid": of(lambda theta: F.affine_grid(theta, [2, 1, 3, 4], align_corners=False), theta=(2, 2, 3)),
    "grid_sample": of(
        lambda x, grid: F.grid_sample(x, grid, align_corners=False),
        x=(2, 2, 4, 5),
        grid=between(-0.9, 0.9, 2, 3, 2, 2),
    ),
    "grid_sample, border": of(
        lambda x, grid: F.grid_sample(x, grid, padding_mode="border", align_corners=True),
        x=(1, 2, 4, 5),
        grid=between(-1.3, 1.3, 1, 3, 2, 2),
    ),
    "grid_sample, nearest": of(
        lambda x, grid: F.grid_sample(x, grid, "nearest", align_corners=False),
        x=(1, 2, 4, 5),
        grid=between(-0.9, 0.9, 1, 3, 2, 2),
    ),
    "grid_sample, bicubic": of(
        lambda x, grid: F.grid_sample(x, grid, "bicubic", align_corners=False),
        x=(1, 2, 4, 5),
        grid=between(-0.9, 0.9, 1, 3, 2, 2),
    ),
    "grid_sample, of a volume": of(
        lambda x, grid: F.grid_sample(x, grid, align_corners=False),
        x=(1, 2, 3, 4, 3),
        grid=between(-0.9, 0.9, 1, 2, 2, 2, 3),
    ),
    "interpolate": of(lambda x: F.interpolate(x, scale_factor=2), x=(2, 3, 4)),
    "interpolate, linear": of(lambda x: F.interpolate(x, 7, mode="linear"), x=(2, 3, 4)),
    "interpolate, bilinear": of(
        lambda x: F.interpolate(x, (5, 7), mode="bilinear", align_corners=True), x=(2, 2, 3, 4)
    ),
    "interpolate, bicubic": of(lambda x: F.interpolate(x, (5, 7), mode="bicubic"), x=(1, 2, 3, 4)),
    "interpolate, trilinear": of(lambda x: F.interpolate(x, (3, 4, 5), mode="trilinear"), x=(1, 2, 2, 3, 3)),
    "interpolate, area": of(lambda x: F.interpolate(x, (2, 3), mode="area"), x=(1, 2, 4, 5)),
    "interpolate, nearest-exact": of(lambda x: F.interpolate(x, (5, 7), mode="nearest-exact"), x=(1, 2, 3, 4)),
    "interpolate, antialias": of(lambda x: F.interpolate(x, (2, 3), mode="bilinear", antialias=True), x=(1, 2, 4, 5)),
    "interpolate, bicubic, antialias": of(
        lambda x: F.interpolate(x, scale_factor=0.6, mode="bicubic", antialias=True), x=(1, 2, 5, 7)
    ),
    "interpolate, antialias, longer": of(
        lambda x: F.interpolate(x, (7, 3), mode="bicubic", antialias=True, align_corners=True), x=(1, 2, 4, 6)
    ),
    "upsample": of(lambda x: F.upsample(x, scale_factor=2), x=(2, 3, 4)),
    "upsample_bilinear": of(lambda x: F.upsample_bilinear(x, (5, 7)), x=(1, 2, 3, 4)),
    "upsample_nearest": of(lambda x: F.upsample_nearest(x, (5, 7)), x=(1, 2, 3, 4)),
    # distances
    "cosine_similarity": of(lambda x, z: F.cosine_similarity(x, z), x=(4, 5), z=(4, 5)),
    "pairwise_distance": of(lambda x, z: F.pairwise_distance(x, z), x=(4, 5), z=(4, 5)),
    "pdist": of(lambda x: F.pdist(x), x=(4, 5)),
    # losses
    "binary_cross_entropy": of(
        lambda x, target: F.binary_cross_entropy(torch.sigmoid(x), target), x=(3, 4), target=UNIT
    ),
    "binary_cross_entropy_with_logits": of(
        lambda x, target: F.binary_cross_entropy_with_logits(x, target, pos_weight=x.new_tensor([0.5, 1, 2, 3])),
        x=(3, 4),
        target=UNIT,
    ),
    "cosine_embedding_loss": of(
        lambda x, z, target: F.cosine_embedding_loss(x, z, target, 0.1), x=(4, 5), z=(4, 5), target=signs(4)
    ),
    "cross_entropy": of(lambda x, target: F.cross_entropy(x, target), x=(4, 5), target=whole(5, 4)),
    "cross_entropy, smoothed": of(
        lambda x, target: F.cross_entropy(
            x, target, x.new_tensor([0.5, 1, 2, 0.75, 1.5]), ignore_index=1, label_smoothing=0.125
        ),
        x=(4, 5),
        target=whole(5, 4),
    ),
    "cross_entropy, probabilities": of(
        lambda x, target: F.cross_entropy(x, target.softmax(-1)), x=(4, 5), target=(4, 5)
    ),
    "linear_cross_entropy": of(
        lambda x, weight, target: F.linear_cross_entropy(x, weight, target), x=(4, 3), weight=(5, 3), target=whole(5, 4)
    ),
    "ctc_loss": of(
        lambda x: F.ctc_loss(
            x.log_softmax(-1),
            torch.tensor([[1, 2], [3, 3]]),
            torch.tensor([6, 5]),
            torch.tensor([2, 2]),
        ),
        x=(6, 2, 4),
    ),
    "gaussian_nll_loss": of(
        lambda x, target, var: F.gaussian_nll_loss(x, target, var), x=(3, 4), target=(3, 4), var=POSITIVE
    ),
    "hinge_embedding_loss": of(lambda x, target: F.hinge_embedding_loss(x, target, 0.4), x=(3, 4), target=signs(3, 4)),
    "huber_loss": of(lambda x, target: F.huber_loss(x, target, delta=0.7), x=(3, 4), target=(3, 4)),
    "kl_div": of(lambda x, target: F.kl_div(x, target, reduction="batchmean"), x=(3, 4), target=UNIT),
    "kl_div, log": of(lambda x, target: F.kl_div(x, target, reduction="sum", log_target=True), x=(3, 4), target=(3, 4)),
    "l1_loss": of(lambda x, target: F.l1_loss(x, target), x=(3, 4), target=(3, 4)),
    "margin_ranking_loss": of(
        lambda x, z, target: F.margin_ranking_loss(x, z, target, 0.2), x=(7,), z=(7,), target=signs(7)
    ),
    "mse_loss": of(lambda x, target: F.mse_loss(x, target), x=(3, 4), target=(3, 4)),
    "multi_margin_loss": of(lambda x, target: F.multi_margin_loss(x, target), x=(4, 5), target=whole(5, 4)),
    "multi_margin_loss, squared": of(
        lambda x, target: F.multi_margin_loss(x, target, p=2), x=(4, 5), target=whole(5, 4)
    ),
    "multilabel_margin_loss": of(
        lambda x, target: F.multilabel_margin_loss(x, target),
        x=(2, 4),
        target=torch.tensor([[3, 0, -1, 1], [1, -1, 0, 0]]),
    ),
    "multilabel_soft_margin_loss": of(
        lambda x, target: F.multilabel_soft_margin_loss(x, target), x=(3, 4), target=coins(3, 4).double()
    ),
    "nll_loss": of(lambda x, target: F.nll_loss(x, target), x=(4, 5), target=whole(5, 4)),
    "nll_loss, of images": of(lambda x, target: F.nll_loss(x, target), x=(2, 5, 2, 2), target=whole(5, 2, 2, 2)),
    "poisson_nll_loss": of(lambda x, target: F.poisson_nll_loss(x, target), x=(3, 4), target=POSITIVE),
    "poisson_nll_loss, full": of(
        lambda x, target: F.poisson_nll_loss(x, target, full=True, reduction="sum"), x=(3, 4), target=ABOVE_ONE
    ),
    "smooth_l1_loss": of(lambda x, target: F.smooth_l1_loss(x, target, beta=0.6), x=(3, 4), target=(3, 4)),
    "soft_margin_loss": of(
        lambda x, target: F.soft_margin_loss(x, target.double()), x=(3, 4), target=signs(3, 4).long()
    ),
    "triplet_margin_loss": of(lambda x, z, w: F.triplet_margin_loss(x, z, w), x=(4, 5), z=(4, 5), w=(4, 5)),
    "triplet_margin_with_distance_loss": of(
        lambda x, z, w: F.triplet_margin_with_distance_loss(x, z, w, swap=True), x=(4, 5), z=(4, 5), w=(4, 5)
    ),
}
"""Of torch.nn.functional."""


def one(function: Callable[..., Any], x: Any = (3, 4)) -> Torchs:
    return of(lambda x: function(x), x=x)


def two(function: Callable[..., Any], x: Any = (3, 4), z: Any = (3, 4)) -> Torchs:
    return of(lambda x, z: function(x, z), x=x, z=z)


TORCH: dict[str, Torchs] = {
    # of each element
    "abs": one(torch.abs),
    "acos": one(torch.acos, INSIDE),
    "acosh": one(torch.acosh, ABOVE_ONE),
    "addcdiv": of(lambda x, z, w: torch.addcdiv(x, z, w, value=0.3), x=(3, 4), z=(3, 4), w=POSITIVE),
    "addcmul": of(lambda x, z, w: torch.addcmul(x, z, w, value=0.3), x=(3, 4), z=(3, 4), w=(3, 4)),
    "asin": one(torch.asin, INSIDE),
    "asinh": one(torch.asinh),
    "atan": one(torch.atan),
    "atan2": two(torch.atan2),
    "atanh": one(torch.atanh, INSIDE),
    "clamp": one(lambda x: torch.clamp(x, -0.4, 0.6)),
    "copysign": two(torch.copysign),
    "cos": one(torch.cos),
    "cosh": one(torch.cosh),
    "deg2rad": one(torch.deg2rad),
    "digamma": one(torch.digamma, POSITIVE),
    "div, trunc": two(lambda x, z: torch.div(x, z, rounding_mode="trunc"), z=POSITIVE),
    "erf": one(torch.erf),
    "erfc": one(torch.erfc),
    "erfinv": one(torch.erfinv, INSIDE),
    "exp": one(torch.exp),
    "exp2": one(torch.exp2),
    "expm1": one(torch.expm1),
    "float_power": one(lambda x: torch.float_power(x, 1.5), POSITIVE),
    "fmax": two(torch.fmax),
    "fmin": two(torch.fmin),
    "fmod": one(lambda x: torch.fmod(x, 0.7)),
    "frac": one(torch.frac),
    "hypot": two(torch.hypot),
    "lerp": of(lambda x, z, w: torch.lerp(x, z, w), x=(3, 4), z=(3, 4), w=UNIT),
    "lgamma": one(torch.lgamma, POSITIVE),
    "log": one(torch.log, POSITIVE),
    "log10": one(torch.log10, POSITIVE),
    "log1p": one(torch.log1p, POSITIVE),
    "log2": one(torch.log2, POSITIVE),
    "logaddexp": two(torch.logaddexp),
    "logaddexp2": two(torch.logaddexp2),
    "logit": one(torch.logit, UNIT),
    "maximum": two(torch.maximum),
    "minimum": two(torch.minimum),
    "mvlgamma": one(lambda x: torch.mvlgamma(x, 2), ABOVE_ONE),
    "nan_to_num": one(torch.nan_to_num),
    # torch sums in steps of 1 from x to 9, from a large negative x on without end
    "polygamma": one(lambda x: torch.polygamma(2, x.abs()), POSITIVE),
    "pow": one(lambda x: torch.pow(x, 3)),
    "pow, of a tensor": two(torch.pow, POSITIVE),
    "pow, of a number": one(lambda x: torch.pow(1.7, x)),
    "rad2deg": one(torch.rad2deg),
    "reciprocal": one(torch.reciprocal, POSITIVE),
    "remainder": one(lambda x: torch.remainder(x, 0.7)),
    "rsqrt": one(torch.rsqrt, POSITIVE),
    "sigmoid": one(torch.sigmoid),
    "sin": one(torch.sin),
    "sinc": one(torch.sinc),
    "sinh": one(torch.sinh),
    "sqrt": one(torch.sqrt, POSITIVE),
    "square": one(torch.square),
    "tan": one(torch.tan),
    "tanh": one(torch.tanh),
    "trunc": of(lambda x: x - torch.trunc(3 * x), x=(3, 4)),
    "where": two(lambda x, z: torch.where(x > z, x * z, x - z)),
    "xlogy": two(torch.xlogy, z=POSITIVE),
    "special.entr": one(torch.special.entr, POSITIVE),
    "special.erfcx": one(torch.special.erfcx),
    "special.i0": one(torch.special.i0),
    "special.i0e": one(torch.special.i0e),
    "special.i1": one(torch.special.i1),
    "special.i1e": one(torch.special.i1e),
    "special.log_ndtr": one(torch.special.log_ndtr),
    "special.ndtr": one(torch.special.ndtr),
    "special.ndtri": one(torch.special.ndtri, UNIT),
    "special.xlog1py": two(torch.special.xlog1py, z=POSITIVE),
    # along axes
    "aminmax": one(lambda x: tuple(torch.aminmax(x, dim=1))),
    "amax": one(lambda x: torch.amax(x, 1)),
    "amin": one(lambda x: torch.amin(x, (0, 1))),
    "count_nonzero": one(lambda x: x.sum() * torch.count_nonzero(x)),
    "cummax": one(lambda x: torch.cummax(x, 1).values),
    "cummin": one(lambda x: torch.cummin(x, 1).values),
    "cumprod": one(lambda x: torch.cumprod(x, 1)),
    "cumsum": one(lambda x: torch.cumsum(x, 1)),
    "diff": one(lambda x: torch.diff(x)),
    "dist": two(torch.dist),
    "kthvalue": one(lambda x: torch.kthvalue(x, 2).values),
    "linalg.norm": one(torch.linalg.norm),
    "linalg.vector_norm, order 3": one(lambda x: torch.linalg.vector_norm(x, 3, dim=1)),
    "logcumsumexp": one(lambda x: torch.logcumsumexp(x, 1)),
    "logsumexp": one(lambda x: torch.logsumexp(x, 1)),
    "max": one(lambda x: torch.max(x, 1).values),
    "mean": one(lambda x: torch.mean(x, 1)),
    "median": one(lambda x: torch.median(x, 1).values),
    "min": one(lambda x: torch.min(x, 1).values),
    "mode": one(lambda x: torch.mode(x, 1).values),
    "nanmean": one(lambda x: torch.nanmean(x, 1)),
    "nanmedian": one(lambda x: torch.nanmedian(x)),
    "nanquantile": one(lambda x: torch.nanquantile(x, 0.3, dim=1)),
    "nansum": one(lambda x: torch.nansum(x, 1)),
    "norm": one(lambda x: torch.norm(x, dim=1)),
    "norm, order 1": one(lambda x: torch.norm(x, 1, dim=1)),
    "prod": one(lambda x: torch.prod(x, 1)),
    "quantile": one(lambda x: torch.quantile(x, 0.3, dim=1)),
    "renorm": one(lambda x: torch.renorm(x, 2, 0, 0.7)),
    "sort": one(lambda x: torch.sort(x, 1).values),
    "std": one(lambda x: torch.std(x, 1)),
    "std_mean": one(lambda x: torch.std_mean(x, 1)),
    "sum": one(lambda x: torch.sum(x, 1)),
    "topk": one(lambda x: torch.topk(x, 2).values),
    "trapezoid": one(lambda x: torch.trapezoid(x)),
    "var": one(lambda x: torch.var(x, 1)),
    "var_mean": one(lambda x: torch.var_mean(x, 1)),
    # sums of products
    "addbmm": of(lambda x, z, w: torch.addbmm(x, z, w), x=(3, 2), z=(2, 3, 4), w=(2, 4, 2)),
    "addmm": of(lambda x, z, w: torch.addmm(x, z, w), x=(3, 2), z=(3, 4), w=(4, 2)),
    "addr": of(lambda x, z, w: torch.addr(x, z, w), x=(3, 2), z=(3,), w=(2,)),
    "baddbmm": of(lambda x, z, w: torch.baddbmm(x, z, w), x=(2, 3, 2), z=(2, 3, 4), w=(2, 4, 2)),
    "bmm": two(torch.bmm, (2, 3, 4), (2, 4, 2)),
    "cdist": two(torch.cdist, (3, 4), (2, 4)),
    "cdist, order 1": two(lambda x, z: torch.cdist(x, z, 1.0), (3, 4), (2, 4)),
    "chain_matmul": of(lambda x, z, w: torch.linalg.multi_dot([x, z, w]), x=(3, 4), z=(4, 2), w=(2, 3)),
    "cov": one(torch.cov),
    "corrcoef": one(torch.corrcoef),
    "cross": two(torch.cross, (4, 3), (4, 3)),
    "dot": two(torch.dot, (5,), (5,)),
    "einsum": of(lambda x, z, w: torch.einsum("ij,jk,kl->il", x, z, w), x=(3, 4), z=(4, 2), w=(2, 3)),
    "inner": two(torch.inner),
    "kron": two(torch.kron, (2, 3), (3, 2)),
    "matmul": two(torch.matmul, (2, 3, 4), (4, 2)),
    "mv": two(torch.mv, (3, 4), (4,)),
    "outer": two(torch.outer, (3,), (4,)),
    "tensordot": two(lambda x, z: torch.tensordot(x, z, 2), (2, 3, 4), (3, 4, 2)),
    "trace": one(torch.trace, SQUARES),
    # matrices
    "cholesky": one(lambda x: torch.linalg.cholesky(x), definite),
    "cholesky_solve": of(lambda x, z: torch.cholesky_solve(z, torch.linalg.cholesky(x)), x=definite, z=(3, 2)),
    "cholesky_inverse": one(lambda x: torch.cholesky_inverse(torch.linalg.cholesky(x)), definite),
    "det": one(torch.linalg.det, regular),
    "eigvalsh": one(lambda x: torch.linalg.eigvalsh(x), definite),
    "eigh, a root": one(lambda x: root_of(*torch.linalg.eigh(x)), definite),
    "inverse": one(torch.linalg.inv, regular),
    "logdet": one(torch.logdet, definite),
    "lstsq": of(lambda x, z: torch.linalg.lstsq(x, z).solution, x=(4, 3), z=(4, 2)),
    "matrix_exp": one(torch.linalg.matrix_exp, SQUARES),
    "matrix_power": one(lambda x: torch.linalg.matrix_power(x, 3), SQUARES),
    "pinv": one(torch.linalg.pinv, regular),
    "qr": one(lambda x: torch.linalg.qr(x).Q, regular),
    "slogdet": one(lambda x: torch.linalg.slogdet(x).logabsdet, regular),
    "solve": two(torch.linalg.solve, regular, (3, 2)),
    "solve_triangular": of(lambda x, z: torch.linalg.solve_triangular(x, z, upper=True), x=regular, z=(3, 2)),
    "svdvals": one(torch.linalg.svdvals, regular),
    "svd, a polar factor": one(lambda x: polar(*torch.linalg.svd(x, full_matrices=False)), (4, 3)),
    "matrix_norm, nuclear": one(lambda x: torch.linalg.matrix_norm(x, "nuc"), (3, 4)),
    "matrix_norm, spectral": one(lambda x: torch.linalg.matrix_norm(x, 2), (3, 4)),
    "eigvals": one(lambda x: torch.linalg.eigvals(x).abs(), regular),
    "fft": one(lambda x: torch.fft.fft(x).abs()),
    # moving elements about
    "block_diag": two(torch.block_diag, (2, 3), (3, 2)),
    "cartesian_prod": two(torch.cartesian_prod, (3,), (2,)),
    "cat": two(lambda x, z: torch.cat([x, z], 1), (3, 4), (3, 2)),
    "chunk": one(lambda x: torch.chunk(x, 2, 1)[1]),
    "combinations": one(torch.combinations, (4,)),
    "diag": one(torch.diag, SQUARES),
    "diag_embed": one(torch.diag_embed),
    "diagonal": one(torch.diagonal, SQUARES),
    "diagonal_scatter": two(lambda x, z: torch.diagonal_scatter(x, z), SQUARES, (3,)),
    "expand": one(lambda x: x[:, None].expand(3, 2, 4)),
    "flip": one(lambda x: torch.flip(x, (0, 1))),
    "gather": of(lambda x, index: torch.gather(x, 1, index), x=(3, 4), index=whole(4, 3, 2)),
    "index_add": of(lambda x, z, index: x.index_add(0, index, z), x=(4, 3), z=(5, 3), index=whole(4, 5)),
    "index_copy": of(lambda x, z, index: x.index_copy(0, index, z), x=(4, 3), z=(2, 3), index=torch.tensor([3, 0])),
    "index_fill": of(lambda x, index: x.index_fill(0, index, 0.3), x=(4, 3), index=whole(4, 2)),
    "index_put": of(lambda x, z, index: x.index_put((index,), z, True), x=(4, 3), z=(5, 3), index=whole(4, 5)),
    "index_reduce": of(lambda x, z, index: x.index_reduce(0, index, z, "amax"), x=(4, 3), z=(5, 3), index=whole(4, 5)),
    "index_select": of(lambda x, index: torch.index_select(x, 0, index), x=(4, 3), index=whole(4, 5)),
    "indexing": of(lambda x, index: x[index], x=(4, 3), index=whole(4, 5)),
    "masked_fill": of(lambda x, mask: x.masked_fill(mask, 0.3), x=(3, 4), mask=coins(3, 4)),
    "masked_scatter": of(lambda x, z, mask: x.masked_scatter(mask, z), x=(3, 4), z=(3, 4), mask=coins(3, 4)),
    "masked_select": of(lambda x, mask: torch.masked_select(x, mask), x=(3, 4), mask=coins(3, 4)),
    "meshgrid": two(lambda x, z: tuple(torch.meshgrid(x, z, indexing="ij")), (3,), (4,)),
    "movedim": one(lambda x: torch.movedim(x, 0, 1)),
    "narrow": one(lambda x: torch.narrow(x, 1, 1, 2)),
    "put": of(lambda x, z, index: torch.put(x, index, z, True), x=(3, 4), z=(5,), index=whole(12, 5)),
    "repeat": one(lambda x: x.repeat(2, 3)),
    "repeat_interleave": one(lambda x: torch.repeat_interleave(x, 2, 0)),
    "roll": one(lambda x: torch.roll(x, 1, 1)),
    "rot90": one(torch.rot90),
    "scatter": of(lambda x, z, index: x.scatter(1, index, z), x=(3, 4), z=(3, 2), index=torch.tensor([[0, 2]] * 3)),
    "scatter_add": of(lambda x, z, index: x.scatter_add(1, index, z), x=(3, 4), z=(3, 5), index=whole(4, 3, 5)),
    "scatter_reduce": of(
        lambda x, z, index: x.scatter_reduce(1, index, z, "amax"), x=(3, 4), z=(3, 5), index=whole(4, 3, 5)
    ),
    "scatter_reduce, mean": of(
        lambda x, z, index: x.scatter_reduce(1, index, z, "mean"), x=(3, 4), z=(3, 5), index=whole(4, 3, 5)
    ),
    "stack": two(lambda x, z: torch.stack([x, z], 1)),
    "take": of(lambda x, index: torch.take(x, index), x=(3, 4), index=whole(12, 5)),
    "take_along_dim": of(lambda x, index: torch.take_along_dim(x, index, 1), x=(3, 4), index=whole(4, 3, 2)),
    "tril": one(torch.tril),
    "triu": one(torch.triu),
    "unfold, of an axis": one(lambda x: x.unfold(1, 3, 1), (3, 6)),
    # recurrences
    "lstm": of(
        lambda x, h, c, weight, more: torch.lstm(x, (h, c), [weight, more], False, 1, 0.0, False, False, False)[0],
        x=(3, 2, 4),
        h=(1, 2, 3),
        c=(1, 2, 3),
        weight=(12, 4),
        more=(12, 3),
    ),
    "lstm_cell": of(
        lambda x, h, c, weight, more: torch.lstm_cell(x, (h, c), weight, more),
        x=(3, 4),
        h=(3, 2),
        c=(3, 2),
        weight=(8, 4),
        more=(8, 2),
    ),
    "gru_cell": of(
        lambda x, h, weight, more: torch.gru_cell(x, h, weight, more), x=(3, 4), h=(3, 2), weight=(6, 4), more=(6, 2)
    ),
    "rnn_tanh_cell": of(
        lambda x, h, weight, more: torch.rnn_tanh_cell(x, h, weight, more),
        x=(3, 4),
        h=(3, 2),
        weight=(2, 4),
        more=(2, 2),
    ),
}
"""Of torch itself."""

RANDOM = {
    *("alpha_dropout", "dropout", "dropout1d", "dropout2d", "dropout3d", "feature_alpha_dropout", "rrelu", "rrelu_"),
    *("fractional_max_pool2d", "fractional_max_pool2d_with_indices", "fractional_max_pool3d"),
    *("fractional_max_pool3d_with_indices", "gumbel_softmax"),
}
"""Of torch.nn.functional, what draws random numbers."""

NO_DERIVATIVE = {
    *("one_hot", "native_channel_shuffle", "grouped_mm", "scaled_grouped_mm", "scaled_mm"),
    *("assert_int_or_pair", "boolean_dispatch"),
    *("has_torch_function", "has_torch_function_unary", "has_torch_function_variadic", "handle_torch_function"),
}
"""What torch has no derivative of, runs in formats of 8 and 16 bits alone, or is no function of tensors."""

WORDS = {
    "fft": "makes complex numbers (aten::_fft_r2c)",
    "eigvals": "makes complex numbers",
}

LOSES = {"F.tanh": 1.0}
"""Where torch's own formula loses digits, and by how much of the bound it may miss even in float64."""

TORCH_IS_WRONG = {
    # where its own formula overflows, it is inf / inf or 0 inf: from |x| of 1e13 on in float32, and where x is near 88
    # beside a target of -1, which a case of float32 alone holds
    "F.gelu, tanh": "got nan",
    "F.soft_margin_loss": "in case 'inputs times 1000'",
    # trigamma ends its series after four terms, and is 4.9e-10 of itself off between 0 and 5
    "digamma": "wrong: dx",
    # in inference dx takes a weight that is not contiguous for one that is, and reads beyond its end: dx is dy weight
    # / sqrt(var + eps), from which it was 2.6 off in float64, and 2.8e31 in float32
    "F.batch_norm, inference": "wrong: dx",
    # of a result that is one wide every row is the first one; each row of weights is of another place
    "F.interpolate, bicubic, antialias": "x.shape[3] = 3",
    # raises at what is transposed: the sizes of a view, and https://github.com/pytorch/pytorch/issues/175084
    "F.conv_tbc": "view size is not compatible",
    "F.nll_loss, of images": "grad_input must be contiguous",
}
"""Where torch itself is wrong, or refuses what it is given, and what the report says of all that it names."""

IN_FLOAT32 = {"F.soft_margin_loss"}
"""Where it is so in no case of float64."""

COARSE = {"F.gelu": 1.2}
"""How far torch itself may be off in float32, in bounds.  On a CPU with AVX2 or less gelu's Φ is up to 2.1e-7 off, and
half of that by torch.erf: at x = -2.31 it makes 2.6e-6 of y, 1.113 of the bound."""

ROUGH = {"F.celu": 0.1, "F.hardsigmoid": 0.2}
"""Where torch's derivative in float64 holds a constant in float32 (1/alpha, 1/6), and what share of the bound in
float32 that is."""

FUNCTIONS = {**{f"F.{name}": each for name, each in FUNCTIONAL.items()}, **TORCH}
MISSING = {name: (FUNCTIONS.pop(name), words) for name, words in WORDS.items()}
"""What is no reference yet, with a part of the sentence that says so."""
