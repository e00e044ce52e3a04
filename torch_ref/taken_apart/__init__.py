"""Operations that running error analysis does not know and torch does not take apart: how they are.

A formula is plain torch, of the operation's own arguments, and gives its own results.  Of an operation that is the
derivative of another one (`avg_pool2d_backward`), it is what torch.autograd makes of the formula of that one.

derivatives     derivatives of formulas, by torch.autograd, seen by whoever watches
convolutions    convolutions backward, and over time
pooling         averages and maxima of windows
images          padding and sampling of images
bags            bags of embeddings
numbers         distances, margins, and functions of each element
places          what runs along an axis, stands in order, or goes to places
matrices        factors and inverses of matrices that are made of others
alignments      sequences that are aligned with shorter ones
"""

from __future__ import annotations

from functools import cache, partial
from typing import Any

import torch

from torch_ref.taken_apart import alignments, bags, convolutions, images, matrices, numbers, places, pooling
from torch_ref.taken_apart.derivatives import Formula, derivative_of

aten = torch.ops.aten


@cache
def formula_of(op: Any) -> Formula | None:
    """How an operation of torch.ops is taken apart, if torch itself does not say."""
    from torch._decomp import decomposition_table

    if op in TAKEN_APART:
        return TAKEN_APART[op]
    name = op._schema.name.partition("::")[2]
    if op in decomposition_table or not name.endswith("_backward"):
        return None
    stem = name.removesuffix("_backward")
    for forward in (stem, f"{stem}_forward"):
        function: Any = getattr(getattr(aten, forward, None), "default", None)
        formula = TAKEN_APART.get(function) or decomposition_table.get(function)
        if formula is not None:
            return derivative_of(op, function, formula)
    return None


TAKEN_APART: dict[Any, Formula] = {
    aten.convolution_backward.default: convolutions.convolution_backward,
    aten.conv_tbc.default: convolutions.conv_tbc,
    aten.conv_tbc_backward.default: convolutions.conv_tbc_backward,
    aten.avg_pool2d.default: lambda *args, **kwargs: pooling.avg_pool(*args, **kwargs, axes=2),
    aten.avg_pool3d.default: lambda *args, **kwargs: pooling.avg_pool(*args, **kwargs, axes=3),
    aten._adaptive_avg_pool2d.default: pooling.adaptive_avg_pool,
    aten._adaptive_avg_pool3d.default: pooling.adaptive_avg_pool,
    aten.adaptive_max_pool2d.default: pooling.adaptive_max_pool,
    aten.adaptive_max_pool3d.default: pooling.adaptive_max_pool,
    aten.adaptive_max_pool2d_backward.default: pooling.to_places(2),
    aten.adaptive_max_pool3d_backward.default: pooling.to_places(3),
    aten.max_pool2d_with_indices_backward.default: pooling.to_places(2),
    aten.max_pool3d_with_indices_backward.default: pooling.to_places(3),
    aten.replication_pad1d.default: images.replication_pad,
    aten.replication_pad2d.default: images.replication_pad,
    aten.replication_pad3d.default: images.replication_pad,
    aten._upsample_bilinear2d_aa.default: partial(images.upsample_antialiased, images.TRIANGLE),
    aten._upsample_bicubic2d_aa.default: partial(images.upsample_antialiased, images.CUBIC),
    aten.grid_sampler_3d.default: images.grid_sampler_3d,
    aten._embedding_bag.default: bags.embedding_bag,
    aten._embedding_bag_forward_only.default: bags.embedding_bag,
    aten._embedding_bag_backward.default: bags.embedding_bag_backward,
    aten._cdist_forward.default: numbers.cdist,
    aten._euclidean_dist.default: lambda x1, x2: numbers.cdist(x1, x2, 2.0),
    aten._pdist_forward.default: numbers.pdist,
    aten.multilabel_margin_loss_forward.default: numbers.multilabel_margin_loss,
    aten.cummax.default: places.running_largest,
    aten.cummin.default: places.running_smallest,
    aten.logcumsumexp.default: places.logcumsumexp,
    aten.kthvalue.default: places.kth,
    aten.median.dim: places.median,
    aten.median.default: places.median_of_all,
    aten.nanmedian.dim: places.nanmedian,
    aten.nanmedian.default: lambda x: places.nanmedian(x.flatten(), 0)[0],
    aten.mode.default: places.mode,
    aten.put.default: places.put,
    aten.masked_scatter.default: places.masked_scatter,
    aten.masked_scatter_backward.default: places.masked_scatter_backward,
    aten.fmax.default: numbers.fmax,
    aten.fmin.default: numbers.fmin,
    **dict.fromkeys((aten.fmod.Scalar, aten.fmod.Tensor), numbers.fmod),
    **dict.fromkeys((aten.remainder.Scalar, aten.remainder.Tensor), numbers.remainder),
    aten.hypot.default: numbers.hypot,
    aten.glu.default: numbers.glu,
    aten.var_mean.correction: numbers.var_mean,
    aten.var_mean.dim: numbers.var_mean_along,
    aten.addbmm.default: numbers.addbmm,
    aten._trilinear.default: numbers.trilinear,
    aten.copysign.Tensor: numbers.copysign,
    aten.scatter_reduce.two: places.scatter_reduce,
    aten.index_reduce.default: places.index_reduce,
    aten.cholesky_solve.default: matrices.cholesky_solve,
    aten.cholesky_inverse.default: matrices.cholesky_inverse,
    aten._linalg_solve_ex.default: matrices.solve_ex,
    aten._linalg_det.default: matrices.det,
    aten._linalg_slogdet.default: matrices.slogdet,
    aten.linalg_lu_solve.default: matrices.lu_solve,
    aten.linalg_lstsq.default: matrices.lstsq,
    aten.linalg_qr.default: matrices.qr,
    aten._ctc_loss.default: alignments.ctc_loss,
    aten._ctc_loss.Tensor: alignments.ctc_loss,
}
"""Of operations; those that torch takes apart too are better so: their bounds are narrower."""
