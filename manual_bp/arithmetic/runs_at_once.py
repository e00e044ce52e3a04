"""An operation of a recorded program in several runs at once, along an axis that stands before all others.

torch.vmap does so for any function, and takes longer over each operation than the operation does.  What stands here are
the operations of which most programs consist; the others are left to it (`NotAtOnce`).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import cache, partial
from typing import Any

import torch
from torch import Tensor

from manual_bp.arithmetic import bounded_table
from manual_bp.arithmetic.bounded_tensor import Carrying, Done, NotAtOnce, Numbers, done_by
from manual_bp.arithmetic.paging import performed

aten = torch.ops.aten


Rule = Callable[[Any, Done, list[Any], Mapping[str, Any], int], Any]
"""An operation in so many runs: of itself, what is done instead of it, and its arguments."""


def performed_at_once(op: Any, done: Done, args: Sequence[Any], kwargs: Mapping[str, Any], runs: int) -> Any:
    """What an operation gives some of whose arguments have an axis of runs.  Raises NotAtOnce."""
    rule, moves, is_the_same = _way_of(op)
    if not moves and all(x.dtype is torch.bool for x in args if isinstance(x, Carrying)):
        done = partial(_of_masks, op)
    result = rule(op, done, list(args), kwargs, runs)
    if isinstance(result, Tensor):  # a decision
        result = Numbers(result.double(), bounded_table.EXACT, torch.bool)
    for each in result if isinstance(result, tuple | list) else (result,):
        if not isinstance(each, Numbers):  # positions, which are the same in each
            continue
        each.runs = 0 if is_the_same else runs
    return result


@cache  # asked of every operation, and tables compare operators by their schemas
def _way_of(op: Any) -> tuple[Rule, bool, bool]:
    """How an operation is done in several runs, whether it only moves elements about, and whether it gives the same in
    each.  Raises NotAtOnce."""
    rule = RULES.get(op) or (_pointwise if torch.Tag.pointwise in op.tags else None)
    if rule is None:
        raise NotAtOnce(str(op))
    return rule, op in bounded_table.SHAPES, op in THE_SAME


def _of_masks(op: Any, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> Any:
    return op(*(x.value.bool() if isinstance(x, Carrying) else x for x in args), **kwargs)


def of_each_run(x: Any, runs: int) -> Any:
    """Numbers with an axis of runs, the same in each if they have none."""
    if isinstance(x, Tensor) and x.is_floating_point():
        x = Numbers(x.double(), bounded_table.EXACT, x.dtype)
    if not isinstance(x, Numbers):
        raise NotAtOnce(f"a part of {type(x).__name__}")
    return x if x.runs else _like(x, lambda t: t.expand(runs, *x.shape))


def _like(x: Numbers, change: Callable[[Tensor], Tensor]) -> Numbers:
    value = change(x.value)
    made = Numbers(value, bounded_table.NO_ERROR if x.has_erred else change(x.error), x.dtype)
    made.terms, made.how, made.has_erred = x.terms, x.how, x.has_erred
    made.magnitude = None if x.magnitude is None else change(x.magnitude)
    return made


def _rank(x: Any) -> int:
    """How many axes it has beside that of runs."""
    if type(x) is Numbers:
        return x.value.ndim - (x.runs > 0)
    return x.ndim if isinstance(x, Tensor) else 0


def _aligned(x: Any, rank: int) -> Any:
    """With as many axes beside that of runs, so that it is broadcast as without."""
    if not (isinstance(x, Numbers) and x.runs) or _rank(x) == rank:
        return x
    shape = (x.runs, *(1,) * (rank - _rank(x)), *x.shape[1:])
    return _like(x, lambda t: t.reshape(shape))


def _pointwise(op: Any, done: Done, args: list[Any], kwargs: Mapping[str, Any], runs: int) -> Any:
    rank = max(map(_rank, args))
    return performed(op, done, tuple(_aligned(x, rank) for x in args), kwargs)


def _as_it_is(op: Any, done: Done, args: list[Any], kwargs: Mapping[str, Any], runs: int) -> Any:
    return performed(op, done, tuple(args), kwargs)


def _along(place: int) -> Rule:
    """Of one tensor or a list of them, along the axis, or the axes, that stand in this place."""

    def rule(op: Any, done: Done, args: list[Any], kwargs: Mapping[str, Any], runs: int) -> Any:
        for argument in op._schema.arguments[len(args) : place + 1]:
            args.append(argument.default_value)
        x, axes = args[0], args[place]
        if isinstance(x, list):
            args[0] = x = [of_each_run(each, runs) for each in x]
        if isinstance(axes, int):
            args[place] = axes + 1 if axes >= 0 else axes
        else:
            args[place] = [axis + 1 if axis >= 0 else axis for axis in axes or range(_rank(x))]
            if not args[place]:
                raise NotAtOnce(f"{op} along none")
        return performed(op, done, tuple(args), kwargs)

    return rule


def _all(along: Any) -> Rule:
    def rule(op: Any, done: Done, args: list[Any], kwargs: Mapping[str, Any], runs: int) -> Any:
        return RULES[along](along, done_by(along), [*args, None], kwargs, runs)

    return rule


def _transposed(op: Any, done: Done, args: list[Any], kwargs: Mapping[str, Any], runs: int) -> Any:
    if op is aten.t.default:
        order = list(range(_rank(args[0])))[::-1]
    elif op is aten.transpose.int:
        order = list(range(_rank(args[0])))
        a, b = (axis % len(order) for axis in args[1:3])
        order[a], order[b] = b, a
    else:
        order = [axis % _rank(args[0]) for axis in args[1]]
    return performed(aten.permute.default, done_by(aten.permute.default), (args[0], [0, *(i + 1 for i in order)]), {})


def _reshaped(op: Any, done: Done, args: list[Any], kwargs: Mapping[str, Any], runs: int) -> Any:
    return performed(op, done, (args[0], [runs, *args[1]]), {})


def _taken(op: Any, done: Done, args: list[Any], kwargs: Mapping[str, Any], runs: int) -> Any:
    flat = performed(aten.reshape.default, done_by(aten.view.default), (args[0], [runs, -1]), {})
    return performed(aten.index.Tensor, done_by(aten.index.Tensor), (flat, [None, args[1]]), {})


def _expanded(op: Any, done: Done, args: list[Any], kwargs: Mapping[str, Any], runs: int) -> Any:
    x, shape = args[:2]
    return performed(op, done, (_aligned(x, len(shape)), [runs, *shape]), kwargs)


def _product(op: Any, done: Done, args: list[Any], kwargs: Mapping[str, Any], runs: int) -> Any:
    """Of a vector as of a matrix of one row or column."""
    if op is aten.addmm.default:
        args[0] = _aligned(args[0], 2)
        return performed(op, done, tuple(args), kwargs)
    a, b = args
    axes = []
    if op is aten.dot.default:
        a, axes = _shaped(a, lambda t: t.unsqueeze(-2)), [-2]
    if op is not aten.mm.default and op is not aten.bmm.default:
        b, axes = _shaped(b, lambda t: t.unsqueeze(-1)), [*axes, -1]
    product = performed(aten.mm.default, done_by(aten.mm.default), (a, b), kwargs)
    for axis in axes:
        terms = product.terms
        product = _shaped(product, partial(torch.squeeze, dim=axis))
        product.terms = terms
    return product


def _shaped(x: Any, change: Callable[[Tensor], Tensor]) -> Any:
    return _like(x, change) if isinstance(x, Numbers) else change(x)


def _written(place: int, axis: int) -> Rule:
    """Of a tensor into which another one, that stands in the first place, is written along the axis in the second."""

    def rule(op: Any, done: Done, args: list[Any], kwargs: Mapping[str, Any], runs: int) -> Any:
        args[0], args[place] = of_each_run(args[0], runs), of_each_run(args[place], runs)
        return _along(axis)(op, done, args, kwargs, runs)

    return rule


def _positions(x: Any) -> Tensor:
    """Positions that are the same in every run."""
    if not isinstance(x, Tensor) or x.dtype is torch.bool:
        raise NotAtOnce("places that numbers decide, or a mask")
    return x


def _indexed(args: list[Any]) -> tuple[list[Tensor | None], int]:
    """Indices behind the axis of runs, and how many axes they leave and make.  What is taken by indices that are not
    side by side comes first, before the runs."""
    indices = [None if i is None else _positions(i) for i in args[1]]
    there = [n for n, i in enumerate(indices) if i is not None]
    if not there or there[-1] - there[0] >= len(there):
        raise NotAtOnce("indices apart from each other")
    made = max(i.ndim for i in indices if i is not None)
    return [None, *indices], _rank(args[0]) - len(there) + made


def _at_places(op: Any, done: Done, args: list[Any], kwargs: Mapping[str, Any], runs: int) -> Any:
    indices, _ = _indexed(args)
    return performed(op, done, (args[0], indices), kwargs)


def _put(op: Any, done: Done, args: list[Any], kwargs: Mapping[str, Any], runs: int) -> Any:
    indices, rank = _indexed(args)
    x, source = of_each_run(args[0], runs), _aligned(of_each_run(args[2], runs), rank)
    return performed(op, done, (x, indices, source, *args[3:]), kwargs)


def _embedded(op: Any, done: Done, args: list[Any], kwargs: Mapping[str, Any], runs: int) -> Any:
    by_index = aten.index.Tensor
    return performed(by_index, done_by(by_index), (args[0], [None, _positions(args[1])]), {})


def _by_index(op: Any, done: Done, args: list[Any], kwargs: Mapping[str, Any], runs: int) -> Any:
    """Of a tensor, an axis, an index for each element, and what goes there: one more tensor, or a number."""
    index = _positions(args[2])
    if not _rank(args[0]) or not index.ndim:
        raise NotAtOnce(f"{op} without axes")
    args[0], args[2] = of_each_run(args[0], runs), index.expand(runs, *index.shape)
    args[3:4] = [of_each_run(x, runs) if isinstance(x, Tensor | Carrying) else x for x in args[3:4]]
    return _along(1)(op, done, args, kwargs, runs)


def _chosen(op: Any, done: Done, args: list[Any], kwargs: Mapping[str, Any], runs: int) -> Any:
    """What is the largest along an axis and where it stands, if that is one place in all runs."""
    values, indices = _along(1)(op, done, args, kwargs, runs)
    if not bool((indices == indices[:1]).all()):
        raise NotAtOnce(f"{op} that runs decide otherwise")
    return values, indices[0]


THE_SAME = (aten.new_zeros.default, aten.new_ones.default)
"""What is the same in every run."""

RULES: dict[Any, Rule] = dict.fromkeys(
    (
        *(aten.clone.default, aten.detach.default, aten.alias.default, aten.tril.default, aten.triu.default),
        *(aten.zeros_like.default, aten.ones_like.default, aten.full_like.default, aten.constant_pad_nd.default),
        *(aten.pixel_shuffle.default, aten.pixel_unshuffle.default, *THE_SAME),
    ),
    _as_it_is,
)
"""By operation; what goes element by element needs none."""
for _ops, _rule in (
    ((aten.view.default, aten._unsafe_view.default, aten.reshape.default), _reshaped),
    ((aten.t.default, aten.transpose.int, aten.permute.default), _transposed),
    ((aten.mm.default, aten.bmm.default, aten.mv.default, aten.dot.default, aten.addmm.default), _product),
    ((aten.select.int, aten.slice.Tensor, aten.unsqueeze.default, aten.squeeze.dim, aten.squeeze.dims), _along(1)),
    ((aten.unbind.int, aten.cat.default, aten.stack.default, aten.flip.default, aten.index_select.default), _along(1)),
    ((aten.sum.dim_IntList, aten.mean.dim, aten.amax.default, aten.amin.default, aten.cumsum.default), _along(1)),
    ((aten.all.dim, aten.any.dim, aten._softmax.default, aten._log_softmax.default, aten.var.correction), _along(1)),
    ((aten.split.Tensor, aten.split_with_sizes.default), _along(2)),
    ((aten.select_scatter.default, aten.slice_scatter.default), _written(1, 2)),
    ((aten.index_copy.default, aten.index_add.default), _written(3, 1)),
    ((aten.index.Tensor,), _at_places),
    ((aten.index_put.default,), _put),
    ((aten.embedding.default,), _embedded),
    ((aten.gather.default, aten.scatter_add.default, aten.scatter.src, aten.scatter.value), _by_index),
    ((aten.max.dim, aten.min.dim), _chosen),
    ((aten.__and__.Tensor, aten.__or__.Tensor), _pointwise),
    ((aten.logsumexp.default, aten.unfold.default), _along(1)),
    ((aten.linalg_vector_norm.default,), _along(2)),
    ((aten.expand.default,), _expanded),
    ((aten.take.default,), _taken),
    ((aten.sum.default,), _all(aten.sum.dim_IntList)),
    ((aten.mean.default,), _all(aten.mean.dim)),
):
    RULES.update(dict.fromkeys(_ops, _rule))
