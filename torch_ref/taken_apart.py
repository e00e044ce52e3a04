"""Operations that running error analysis does not know and torch does not take apart: how they are.

A formula is plain torch, of the operation's own arguments, and gives its own results.  Of an operation that is the
derivative of another one (`avg_pool2d_backward`), it is what torch.autograd makes of the formula of that one.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from functools import cache
from typing import Any

import torch
from torch import Tensor
from torch._C import DispatchKey, DispatchKeySet

from torch_ref.paired import Paired

aten = torch.ops.aten

Formula = Callable[..., Any]


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
            return _derivative(op, function, formula)
    return None


# ------------------------------------------------------------------------------------------------------ derivatives


def _derivative(op: Any, function: Any, formula: Formula) -> Formula:
    """The operation that is the derivative of a function, by torch.autograd of the function's formula.

    Its arguments are dy and, by the same names, those of the function.  An input that is not among them is one in which
    the function is linear: then only its size is there.
    """
    taken = [argument.name for argument in op._schema.arguments]
    own = function._schema.arguments

    def backward(*args: Any, **kwargs: Any) -> Any:
        given = {**dict(zip(taken, args, strict=False)), **kwargs}
        dy = given[taken[0]]
        values = {a.name: given.get(a.name, a.default_value) for a in own}
        if "input_size" in given:
            values[own[0].name] = dy.new_zeros(given["input_size"])
        if "output_size" in values and values["output_size"] is None:
            values["output_size"] = list(dy.shape[2 - values[own[0].name].ndim :])
        mask = given.get("output_mask", [True] * len(op._schema.returns))
        names = [a.name for a, due in zip(own, mask, strict=False) if due]

        def called(**leaves: Tensor) -> Any:
            positional = [leaves.get(a.name, values[a.name]) for a in own if not a.kwarg_only]
            return formula(*positional, **{a.name: values[a.name] for a in own if a.kwarg_only})

        found = iter(_pulled_back(called, {name: values[name] for name in names}, dy))
        grads = tuple(next(found) if due else None for due in mask)
        return grads if len(grads) > 1 else grads[0]

    return backward


def _pulled_back(formula: Formula, inputs: dict[str, Tensor], dy: Tensor) -> Sequence[Tensor]:
    """The cotangents of inputs; whoever watches sees what autograd does.

    Within the dispatcher, where an operation is taken apart, autograd is switched off.
    """
    excluded = torch._C._dispatch_tls_local_exclude_set()
    for key in ("AutogradFunctionality", "AutogradCPU", "AutogradCUDA", "AutogradOther", "ADInplaceOrView"):
        excluded = excluded - DispatchKeySet(getattr(DispatchKey, key))
    with torch._C._ForceDispatchKeyGuard(torch._C._dispatch_tls_local_include_set(), excluded), torch.enable_grad():
        leaves = {name: x.detach().requires_grad_() for name, x in inputs.items()}
        y = formula(**leaves)
        y = y[0] if isinstance(y, tuple) else y
        found = torch.autograd.grad(Paired.apply(y, dy), list(leaves.values()), allow_unused=True)  # type: ignore[no-untyped-call]
    return [torch.zeros_like(x) if g is None else g for g, x in zip(found, inputs.values(), strict=True)]


# ------------------------------------------------------------------------------------------------------ convolution


def convolution_backward(
    dy: Tensor,
    x: Tensor,
    weight: Tensor,
    bias_sizes: Sequence[int] | None,
    stride: Sequence[int],
    padding: Sequence[int],
    dilation: Sequence[int],
    transposed: bool,
    output_padding: Sequence[int],
    groups: int,
    output_mask: Sequence[bool],
) -> tuple[Tensor | None, ...]:
    """dx is the other convolution of dy; dweight is a convolution in which batch and channels have changed places."""
    axes = x.ndim - 2
    stride, padding, dilation = (list(n) * (axes // len(n)) for n in (stride, padding, dilation))
    dx = dweight = dbias = None
    if output_mask[0]:
        lengths = [
            0 if transposed else n - ((m - 1) * s - 2 * p + d * (k - 1) + 1)
            for n, m, k, s, p, d in zip(
                x.shape[2:], dy.shape[2:], weight.shape[2:], stride, padding, dilation, strict=True
            )
        ]
        dx = aten.convolution(dy, weight, None, stride, padding, dilation, not transposed, lengths, groups)
    if output_mask[1]:
        long, short = (dy, x) if transposed else (x, dy)
        dweight = _of_weight(long, short, weight, stride, padding, dilation, groups)
    if output_mask[2]:
        dbias = dy.sum([0, *range(2, dy.ndim)])
    return dx, dweight, dbias


def _of_weight(
    x: Tensor,
    dy: Tensor,
    weight: Tensor,
    stride: Sequence[int],
    padding: Sequence[int],
    dilation: Sequence[int],
    groups: int,
) -> Tensor:
    """Σ over the batch and positions of dy[filter, position] x[channel, position · stride + tap · dilation]."""
    batch, space = x.shape[0], list(range(3, x.ndim + 1))
    parted = x.reshape(batch, groups, -1, *x.shape[2:]).permute(2, 1, 0, *space).flatten(1, 2)
    filters = dy.reshape(batch, groups, -1, *dy.shape[2:]).permute(1, 2, 0, *space).flatten(0, 1)
    found = aten.convolution(parted, filters, None, dilation, padding, stride, False, [0] * len(stride), groups)
    for axis, taps in enumerate(weight.shape[2:], 2):
        found = found.narrow(axis, 0, taps)
    back: Tensor = found.transpose(0, 1)
    return back


def conv_tbc(x: Tensor, weight: Tensor, bias: Tensor, pad: int = 0) -> Tensor:
    """A convolution of one axis, which comes first."""
    y = aten.convolution(x.permute(1, 2, 0), weight.permute(2, 1, 0), bias, [1], [pad], [1], False, [0], 1)
    back: Tensor = y.permute(2, 0, 1)
    return back


def conv_tbc_backward(dy: Tensor, x: Tensor, weight: Tensor, bias: Tensor, pad: int) -> Sequence[Tensor]:
    return _pulled_back(lambda **i: conv_tbc(**i, pad=pad), {"x": x, "weight": weight, "bias": bias}, dy)


# ---------------------------------------------------------------------------------------------------------- pooling


def avg_pool(
    x: Tensor,
    kernel_size: Sequence[int],
    stride: Sequence[int] | None = None,
    padding: Sequence[int] = (0,),
    ceil_mode: bool = False,
    count_include_pad: bool = True,
    divisor_override: int | None = None,
    *,
    axes: int,
) -> Tensor:
    """The sum of each window, divided by how many elements it counts."""
    kernel, steps, pads = (list(n) * (axes // len(n)) for n in (kernel_size, stride or kernel_size, padding))
    self, first = x, x.ndim - axes
    counts = torch.ones((), dtype=torch.int64)
    for axis, (k, s, p) in enumerate(zip(kernel, steps, pads, strict=True)):
        n = x.shape[first + axis]
        starts = _starts(n, k, s, p, ceil_mode)
        more = max(starts[-1] + k - n, 0)
        self = torch.constant_pad_nd(self, [0, 0] * (axes - 1) + [p, more], 0.0)
        self = self.unfold(first + axis, k, s)
        edge = n + p if count_include_pad else n
        low = -p if count_include_pad else 0
        own = torch.tensor([min(start + k, edge) - max(start, low) for start in starts])
        counts = counts[..., None] * own
    total = self.sum(list(range(x.ndim, x.ndim + axes)))
    divisors = torch.unique(counts).tolist() if divisor_override is None else [divisor_override]
    return total / (divisors[0] if len(divisors) == 1 else counts.to(x.dtype))


def _starts(n: int, kernel: int, stride: int, padding: int, ceil_mode: bool) -> list[int]:
    """Where windows start, counted from the first element; none in the padding behind the last one."""
    span = n + 2 * padding - kernel
    count = -(-span // stride) + 1 if ceil_mode else span // stride + 1
    starts = [-padding + stride * i for i in range(count)]
    return starts[:-1] if ceil_mode and starts[-1] >= n + padding else starts


def _windows(n: int, count: int) -> tuple[Tensor, Tensor]:
    """For each of `count` parts of n elements which ones are in it, (count, longest part), and whether they are."""
    starts = [i * n // count for i in range(count)]
    ends = [-(-(i + 1) * n // count) for i in range(count)]
    longest = max(end - start for start, end in zip(starts, ends, strict=True))
    places = torch.tensor(starts)[:, None] + torch.arange(longest)
    inside = places < torch.tensor(ends)[:, None]
    return places.clamp(max=n - 1), inside


def _adapted(x: Tensor, size: Sequence[int]) -> tuple[Tensor, Tensor, Tensor]:
    """The elements of each part (..., *size, elements), whether they are in it, and their places in x, flattened."""
    axes = len(size)
    found, inside, flat = x, torch.ones((), dtype=torch.bool), torch.zeros((), dtype=torch.int64)
    for axis, count in enumerate(size):
        n = x.shape[x.ndim - axes + axis]
        places, is_in = _windows(n, count)
        position = x.ndim - axes + 2 * axis
        found = found.index_select(position, places.flatten()).reshape(
            *found.shape[:position], *places.shape, *found.shape[position + 1 :]
        )
        around = [1] * (2 * axis)
        inside = inside[..., None, None] & is_in.reshape(*around, *is_in.shape)
        flat = flat[..., None, None] * n + places.reshape(*around, *places.shape)
    order = [*range(0, 2 * axes, 2), *range(1, 2 * axes, 2)]
    first = x.ndim - axes
    found = found.permute(*range(first), *(first + i for i in order)).flatten(first + axes)
    return found, inside.permute(order).flatten(axes), flat.permute(order).flatten(axes)


def adaptive_avg_pool(x: Tensor, output_size: Sequence[int]) -> Tensor:
    elements, inside, _ = _adapted(x, output_size)
    return elements.masked_fill(~inside, 0.0).sum(-1) / inside.sum(-1).to(x.dtype)


def adaptive_max_pool(x: Tensor, output_size: Sequence[int]) -> tuple[Tensor, Tensor]:
    """The largest of each part, and its place; the first of equals."""
    elements, inside, flat = _adapted(x, output_size)
    values, which = elements.masked_fill(~inside, -math.inf).max(-1)
    return values, flat.expand(elements.shape).gather(-1, which[..., None])[..., 0]


def _to_places(axes: int) -> Formula:
    """dy where the largest elements were; `indices` are places among the last axes, flattened."""

    def backward(dy: Tensor, x: Tensor, *rest: Any) -> Tensor:
        indices = rest[-1]
        first = x.ndim - axes
        flat = torch.zeros_like(x).flatten(first)
        return flat.scatter_add(-1, indices.flatten(first), dy.flatten(first)).reshape(x.shape)

    return backward


# ----------------------------------------------------------------------------------------------------------- images


def replication_pad(x: Tensor, padding: Sequence[int]) -> Tensor:
    for axis, (before, after) in enumerate(zip(padding[::2], padding[1::2], strict=True)):
        n = x.shape[-1 - axis]
        x = x.index_select(-1 - axis, torch.arange(-before, n + after).clamp(0, n - 1))
    return x


def grid_sampler_3d(x: Tensor, grid: Tensor, interpolation_mode: int, padding_mode: int, align_corners: bool) -> Tensor:
    """x (batch, channels, depth, height, width) at grid (batch, ..., 3), whose last axis counts width first.

    interpolation_mode: 0 linear, 1 nearest.  padding_mode: 0 zeros, 1 border, 2 reflection.
    """
    lengths = x.shape[2:][::-1]
    places = [_place(grid[..., i], n, padding_mode, align_corners) for i, n in enumerate(lengths)]
    if interpolation_mode == 1:
        return _picked(x, [place.round() for place in places])
    lows = [place.detach().floor() for place in places]
    total = torch.zeros((), dtype=x.dtype)
    for corner in range(2 ** len(lengths)):
        steps = [corner >> i & 1 for i in range(len(lengths))]
        weight = torch.ones((), dtype=x.dtype)
        for place, low, step in zip(places, lows, steps, strict=True):
            weight = weight * (place - low if step else low + 1 - place)
        total = total + weight[:, None] * _picked(x, [low + step for low, step in zip(lows, steps, strict=True)])
    return total


def _place(coordinate: Tensor, n: int, padding_mode: int, align_corners: bool) -> Tensor:
    place = (coordinate + 1) / 2 * (n - 1) if align_corners else ((coordinate + 1) * n - 1) / 2
    if padding_mode == 2:
        low, span = (0.0, float(n - 1)) if align_corners else (-0.5, float(n))
        away = (place - low).abs()
        turns = (away / max(span, 1.0)).detach().floor()
        rest = away - turns * span
        place = torch.where(turns.remainder(2.0) == 0, rest + low, span - rest + low)
    return place.clamp(0, n - 1) if padding_mode else place


def _picked(x: Tensor, places: Sequence[Tensor]) -> Tensor:
    """x (batch, channels, ..., height, width) at places (batch, ...), one tensor for width, one for height ...; 0
    outside."""
    lengths = x.shape[2:][::-1]
    inside = torch.ones((), dtype=torch.bool)
    flat, step = torch.zeros((), dtype=torch.int64), 1
    for place, n in zip(places, lengths, strict=True):
        inside = inside & (place >= 0) & (place <= n - 1)
        flat = flat + place.detach().clamp(0, n - 1).to(torch.int64) * step
        step *= n
    shape = flat.shape[1:]
    index = flat.flatten(1)[:, None].expand(-1, x.shape[1], -1)
    found: Tensor = x.flatten(2).gather(2, index).reshape(*x.shape[:2], *shape)
    return found.masked_fill(~inside[:, None], 0.0)


# -------------------------------------------------------------------------------------------------------- embedding


def embedding_bag(
    weight: Tensor,
    indices: Tensor,
    offsets: Tensor,
    scale_grad_by_freq: bool = False,
    mode: int = 0,
    sparse: bool = False,
    per_sample_weights: Tensor | None = None,
    include_last_offset: bool = False,
    padding_idx: int = -1,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """The sum (mode 0), the mean (1) or the largest (2) of the rows of each bag; which bag each index is in, how many
    are in each, and the row of the largest."""
    starts = offsets[:-1] if include_last_offset else offsets
    bag = (torch.arange(len(indices))[:, None] >= starts).sum(1) - 1
    counted = indices != padding_idx
    size = torch.zeros(len(starts), dtype=torch.int64).index_add(0, bag, counted.long())
    rows = weight.index_select(0, indices)
    if mode == 2:
        belongs = (bag == torch.arange(len(starts))[:, None]) & counted
        values, which = rows.masked_fill(~belongs[:, :, None], -math.inf).max(1)
        is_empty = (size == 0)[:, None]
        return values.masked_fill(is_empty, 0.0), bag, size, indices[which].masked_fill(is_empty, -1)
    if per_sample_weights is not None:
        rows = rows * per_sample_weights[:, None]
    rows = rows.masked_fill(~counted[:, None], 0.0)
    total = torch.zeros(len(starts), weight.shape[1], dtype=weight.dtype).index_add(0, bag, rows)
    if mode == 1:
        total = total / size.clamp(min=1)[:, None].to(weight.dtype)
    return total, bag, size, torch.zeros(0, dtype=torch.int64)


def embedding_bag_backward(
    dy: Tensor,
    indices: Tensor,
    offsets: Tensor,
    offset2bag: Tensor,
    bag_size: Tensor,
    maximum_indices: Tensor,
    num_weights: int,
    scale_grad_by_freq: bool,
    mode: int,
    sparse: bool,
    per_sample_weights: Tensor | None,
    padding_idx: int = -1,
) -> Tensor:
    """To each row what its bags got."""
    zero = torch.zeros(num_weights, dy.shape[1], dtype=dy.dtype)
    if mode == 2:
        due = dy.masked_fill(maximum_indices < 0, 0.0)
        return zero.scatter_add(0, maximum_indices.clamp(min=0), due)
    if mode == 1:
        dy = dy / bag_size.clamp(min=1)[:, None].to(dy.dtype)
    rows = dy.index_select(0, offset2bag)
    if per_sample_weights is not None:
        rows = rows * per_sample_weights[:, None]
    return zero.index_add(0, indices, rows.masked_fill((indices == padding_idx)[:, None], 0.0))


# -------------------------------------------------------------------------------------------------------- distances


def cdist(x1: Tensor, x2: Tensor, p: float, compute_mode: int | None = None) -> Tensor:
    distances: Tensor = torch.linalg.vector_norm(x1[..., :, None, :] - x2[..., None, :, :], p, -1)
    return distances


def pdist(self: Tensor, p: float = 2.0) -> Tensor:
    rows, columns = torch.triu_indices(len(self), len(self), 1)
    distances: Tensor = torch.linalg.vector_norm(self[rows] - self[columns], p, -1)
    return distances


def multilabel_margin_loss(x: Tensor, target: Tensor, reduction: int) -> tuple[Tensor, Tensor]:
    """Σ max(0, 1 - x_t + x_j) / classes, over the targets t before the first -1 and all j that are none of them."""
    counted = (target >= 0).long().cumprod(-1).bool()
    places = target.clamp(min=0)
    is_target = torch.zeros(target.shape, dtype=torch.int64).scatter_add(-1, places, counted.long()) > 0
    gaps = 1 - x.gather(-1, places)[..., :, None] + x[..., None, :]
    terms = gaps.clamp(min=0.0).masked_fill(~counted[..., :, None] | is_target[..., None, :], 0.0)
    each = terms.sum((-2, -1)) / x.shape[-1]
    return (each, each.mean(), each.sum())[reduction], is_target.to(x.dtype)


# ----------------------------------------------------------------------------------------- one after the other, places


def _running_largest(x: Tensor, dim: int) -> tuple[Tensor, Tensor]:
    """The largest so far, and where it was: the last of equals."""
    if not x.ndim:
        return x * 1.0, torch.zeros((), dtype=torch.int64)
    line = x.movedim(dim, -1)
    n = line.shape[-1]
    later = torch.ones(n, n, dtype=torch.bool).triu(1)
    values, which = line[..., None, :].masked_fill(later, -math.inf).flip(-1).max(-1)
    return values.movedim(-1, dim), (n - 1 - which).movedim(-1, dim)


def _running_smallest(x: Tensor, dim: int) -> tuple[Tensor, Tensor]:
    values, indices = _running_largest(-x, dim)
    return -values, indices


def _logcumsumexp(x: Tensor, dim: int) -> Tensor:
    if not x.ndim:
        return x * 1.0
    line = x.movedim(dim, -1)
    later = torch.ones(line.shape[-1], line.shape[-1], dtype=torch.bool).triu(1)
    return line[..., None, :].masked_fill(later, -math.inf).logsumexp(-1).movedim(-1, dim)


def _kth(x: Tensor, k: int, dim: int = -1, keepdim: bool = False) -> tuple[Tensor, Tensor]:
    if not x.ndim:
        return x * 1.0, torch.zeros((), dtype=torch.int64)
    values, indices = (each.narrow(dim, k - 1, 1) for each in x.sort(dim=dim, stable=True))
    return (values, indices) if keepdim else (values.squeeze(dim), indices.squeeze(dim))


def _median(x: Tensor, dim: int, keepdim: bool = False) -> tuple[Tensor, Tensor]:
    """The lower one of two."""
    return _kth(x, (x.shape[dim] + 1) // 2 if x.ndim else 1, dim, keepdim)


def _median_of_all(x: Tensor) -> Tensor:
    return _median(x.flatten(), 0)[0]


def _nanmedian(x: Tensor, dim: int, keepdim: bool = False) -> tuple[Tensor, Tensor]:
    """Of what is a number: NaN comes last in order."""
    if not x.ndim:
        return x * 1.0, torch.zeros((), dtype=torch.int64)
    values, indices = x.sort(dim=dim, stable=True)
    middle = ((~x.isnan()).sum(dim, keepdim=True) - 1).clamp(min=0) // 2
    values, indices = values.gather(dim, middle), indices.gather(dim, middle)
    return (values, indices) if keepdim else (values.squeeze(dim), indices.squeeze(dim))


def _put(x: Tensor, index: Tensor, source: Tensor, accumulate: bool = False) -> Tensor:
    flat = x.flatten().index_put((index.flatten(),), source.flatten(), accumulate)
    return flat.reshape(x.shape)


def _masked_scatter(x: Tensor, mask: Tensor, source: Tensor) -> Tensor:
    """Where the mask holds, the next element of the source."""
    mask = mask.expand(x.shape)
    return torch.where(mask, source.flatten()[_numbers(mask)].reshape(x.shape), x)


def _masked_scatter_backward(dy: Tensor, mask: Tensor, sizes: Sequence[int]) -> Tensor:
    due = torch.where(mask.expand(dy.shape), dy, 0.0).flatten()
    return (
        torch.zeros(math.prod(sizes), dtype=dy.dtype).index_add(0, _numbers(mask.expand(dy.shape)), due).reshape(sizes)
    )


def _numbers(mask: Tensor) -> Tensor:
    """Of each element where a mask holds, how many such come before it."""
    return (mask.flatten().long().cumsum(0) - 1).clamp(min=0)


# ----------------------------------------------------------------------------------------------------- element-wise


def _fmax(x: Tensor, other: Tensor) -> Tensor:
    return torch.where(x.isnan(), other, torch.where(other.isnan(), x, torch.maximum(x, other)))


def _fmin(x: Tensor, other: Tensor) -> Tensor:
    return torch.where(x.isnan(), other, torch.where(other.isnan(), x, torch.minimum(x, other)))


def _fmod(x: Tensor, other: Any) -> Tensor:
    rest: Tensor = x - other * (x / other).trunc()
    return rest


def _remainder(x: Tensor, other: Any) -> Tensor:
    rest: Tensor = x - other * (x / other).floor()
    return rest


def _hypot(x: Tensor, other: Tensor) -> Tensor:
    return torch.sqrt(x * x + other * other)


def _addbmm(x: Tensor, batch1: Tensor, batch2: Tensor, *, beta: float = 1, alpha: float = 1) -> Tensor:
    return beta * x + alpha * torch.bmm(batch1, batch2).sum(0)


def _trilinear(
    a: Tensor,
    b: Tensor,
    c: Tensor,
    expand1: Sequence[int],
    expand2: Sequence[int],
    expand3: Sequence[int],
    sumdim: Sequence[int],
    unroll_dim: int = 1,
) -> Tensor:
    """Σ a b c over some axes, each with new axes of length 1 first."""
    for axis in sorted(expand1):
        a = a.unsqueeze(axis)
    for axis in sorted(expand2):
        b = b.unsqueeze(axis)
    for axis in sorted(expand3):
        c = c.unsqueeze(axis)
    return (a * b * c).sum(list(sumdim)) if sumdim else a * b * c


TAKEN_APART: dict[Any, Formula] = {
    aten.convolution_backward.default: convolution_backward,
    aten.conv_tbc.default: conv_tbc,
    aten.conv_tbc_backward.default: conv_tbc_backward,
    aten.avg_pool2d.default: lambda *args, **kwargs: avg_pool(*args, **kwargs, axes=2),
    aten.avg_pool3d.default: lambda *args, **kwargs: avg_pool(*args, **kwargs, axes=3),
    aten._adaptive_avg_pool2d.default: adaptive_avg_pool,
    aten._adaptive_avg_pool3d.default: adaptive_avg_pool,
    aten.adaptive_max_pool2d.default: adaptive_max_pool,
    aten.adaptive_max_pool3d.default: adaptive_max_pool,
    aten.adaptive_max_pool2d_backward.default: _to_places(2),
    aten.adaptive_max_pool3d_backward.default: _to_places(3),
    aten.max_pool2d_with_indices_backward.default: _to_places(2),
    aten.max_pool3d_with_indices_backward.default: _to_places(3),
    aten.replication_pad1d.default: replication_pad,
    aten.replication_pad2d.default: replication_pad,
    aten.replication_pad3d.default: replication_pad,
    aten.grid_sampler_3d.default: grid_sampler_3d,
    aten._embedding_bag.default: embedding_bag,
    aten._embedding_bag_forward_only.default: embedding_bag,
    aten._embedding_bag_backward.default: embedding_bag_backward,
    aten._cdist_forward.default: cdist,
    aten._euclidean_dist.default: lambda x1, x2: cdist(x1, x2, 2.0),
    aten._pdist_forward.default: pdist,
    aten.multilabel_margin_loss_forward.default: multilabel_margin_loss,
    aten.cummax.default: _running_largest,
    aten.cummin.default: _running_smallest,
    aten.logcumsumexp.default: _logcumsumexp,
    aten.kthvalue.default: _kth,
    aten.median.dim: _median,
    aten.median.default: _median_of_all,
    aten.nanmedian.dim: _nanmedian,
    aten.nanmedian.default: lambda x: _nanmedian(x.flatten(), 0)[0],
    aten.put.default: _put,
    aten.masked_scatter.default: _masked_scatter,
    aten.masked_scatter_backward.default: _masked_scatter_backward,
    aten.fmax.default: _fmax,
    aten.fmin.default: _fmin,
    **dict.fromkeys((aten.fmod.Scalar, aten.fmod.Tensor), _fmod),
    **dict.fromkeys((aten.remainder.Scalar, aten.remainder.Tensor), _remainder),
    aten.hypot.default: _hypot,
    aten.addbmm.default: _addbmm,
    aten._trilinear.default: _trilinear,
}
"""Of operations; those that torch takes apart too are better so: their bounds are narrower."""
