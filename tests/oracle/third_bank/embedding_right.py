"""Right programs for embedding."""

import math

import torch
import torch.nn.functional as F

from tests.oracle.third_bank.axes import by_autograd
from tests.oracle.third_bank.entry import F32, F64, WIDE, in_precision, native, right


def padding_row(padding_idx, entries):
    """The row that gets no gradient, counted from the front; None if there is none."""
    return None if padding_idx is None else padding_idx % entries if entries else None


def flat(index, dy):
    """Ids and, beside each, its row of dy."""
    return index.reshape(-1).long(), dy.reshape(math.prod(index.shape), dy.shape[-1])


def embedding_with(add):
    """An embedding from add(ids, rows of dy, entries) -> dweight."""

    def embedding(inputs, dy, padding_idx=None):
        index, weight = inputs
        ids, d = flat(index, dy)
        y = weight.index_select(0, ids).reshape(*index.shape, weight.shape[1])
        dweight = add(ids, d, weight.shape[0])
        row = padding_row(padding_idx, weight.shape[0])
        if row is not None:
            dweight = dweight.clone()
            dweight[row] = 0
        return y, (None, dweight)

    return embedding


def index_added(ids, d, entries):
    return d.new_zeros(entries, d.shape[1]).index_add_(0, ids, d)


def scatter_added(ids, d, entries):
    return d.new_zeros(entries, d.shape[1]).scatter_add_(0, ids[:, None].expand(d.shape), d)


def put(ids, d, entries):
    return d.new_zeros(entries, d.shape[1]).index_put_((ids,), d, accumulate=True)


def one_hot(ids, d, entries):
    """A product with one-hot rows, where these aren't many numbers."""
    if len(ids) * entries > 1_000_000 or not d.isfinite().all():
        return index_added(ids, d, entries)
    hot = (ids[:, None] == torch.arange(entries)).to(d.dtype)
    return hot.T @ d


def segments(ids, d, entries):
    """Ids sorted, each run of equal ones summed."""
    if not len(ids):
        return index_added(ids, d, entries)
    sorted_ids, order = torch.sort(ids, stable=True)
    runs, counts = torch.unique_consecutive(sorted_ids, return_counts=True)
    summed = torch.segment_reduce(d[order].contiguous(), "sum", lengths=counts, axis=0)
    return d.new_zeros(entries, d.shape[1]).index_copy(0, runs, summed)


def unique_first(ids, d, entries):
    """Sums for the ids that occur, put into rows of 0."""
    if not len(ids):
        return index_added(ids, d, entries)
    present, place = torch.unique(ids, return_inverse=True)
    return d.new_zeros(entries, d.shape[1]).index_copy(0, present, index_added(place, d, len(present)))


def in_chunks(width):
    """Partial tables for chunks of ids, added up."""

    def add(ids, d, entries):
        table = d.new_zeros(entries, d.shape[1])
        for part, rows in zip(ids.split(width), d.split(width), strict=True):
            present, place = torch.unique(part, return_inverse=True)
            table.index_add_(0, present, index_added(place, rows, len(present)))
        return table

    return add


def by_columns(ids, d, entries):
    """The transposed table, a column of dy at a time."""
    table = d.new_zeros(d.shape[1], entries)
    table.index_add_(1, ids, d.T)
    return table.T


def by_weights(ids, d, entries):
    """torch.bincount with weights, a column at a time, where there are few columns; it adds up in float64."""
    if d.shape[1] > 64 or not len(ids):
        return index_added(ids, d, entries)
    columns = [torch.bincount(ids, weights=d[:, i], minlength=entries) for i in range(d.shape[1])]
    return torch.stack(columns, 1).to(d.dtype) if columns else index_added(ids, d, entries)


def coalesced(ids, d, entries):
    """A sparse gradient made dense."""
    return torch.sparse_coo_tensor(ids[None], d, (entries, d.shape[1]), check_invariants=True).coalesce().to_dense()


def in_reverse(ids, d, entries):
    return index_added(ids.flip(0), d.flip(0), entries)


def in_slots(ids, d, entries):
    """The k-th occurrence of every id in the k-th pass, no two of a pass in one row; few passes only."""
    if not len(ids):
        return index_added(ids, d, entries)
    order = torch.argsort(ids, stable=True)
    _, counts = torch.unique_consecutive(ids[order], return_counts=True)
    if counts.max() > 100:
        return index_added(ids, d, entries)
    starts = torch.repeat_interleave(counts.cumsum(0) - counts, counts)
    occurrence = torch.arange(len(ids)) - starts
    table = d.new_zeros(entries, d.shape[1])
    for k in range(int(counts.max())):
        chosen = order[occurrence == k]
        table[ids[chosen]] += d[chosen]
    return table


def padding_left_out(inputs, dy, padding_idx=None):
    """Rows of dy of padding are left out, not their sum zeroed."""
    index, weight = inputs
    ids, d = flat(index, dy)
    row = padding_row(padding_idx, weight.shape[0])
    kept = torch.ones_like(ids, dtype=torch.bool) if row is None else ids != row
    dweight = index_added(ids[kept], d[kept], weight.shape[0])
    return weight.index_select(0, ids).reshape(*index.shape, weight.shape[1]), (None, dweight)


def by_torch(index, weight, padding_idx=None):
    return F.embedding(index, weight, padding_idx=padding_idx)


def by_selection(index, weight, padding_idx=None):
    row = padding_row(padding_idx, weight.shape[0])
    table = weight
    if row is not None:
        table = torch.cat([weight[:row], weight[row : row + 1].detach(), weight[row + 1 :]])
    return table.index_select(0, index.reshape(-1)).reshape(*index.shape, weight.shape[1])


EMBEDDING = embedding_with(index_added)

_RIGHT = {
    "index_add": (EMBEDDING, "rows of dy added at their ids"),
    "scatter_add": (embedding_with(scatter_added), "by elements"),
    "index_put": (embedding_with(put), "with accumulate"),
    "one-hot product": (embedding_with(one_hot), "a matrix product with one-hot rows"),
    "sorted segments": (embedding_with(segments), "runs of equal ids summed"),
    "unique first": (embedding_with(unique_first), "a table of the ids that occur"),
    "chunks of 32": (embedding_with(in_chunks(32)), "partial tables of 32 ids"),
    "chunks of 1024": (embedding_with(in_chunks(1024)), "partial tables of 1024 ids"),
    "by columns": (embedding_with(by_columns), "the transposed table, not contiguous"),
    "bincount": (embedding_with(by_weights), "weights counted, in float64"),
    "sparse": (embedding_with(coalesced), "a sparse tensor made dense"),
    "in reverse": (embedding_with(in_reverse), "the last ids first"),
    "by occurrence": (embedding_with(in_slots), "a pass for each repeat, no conflicts"),
    "padding left out": (padding_left_out, "rows of the padding id aren't added"),
    "autograd of index_select": (by_autograd(by_selection, (False, True)), "torch.autograd"),
}

PROGRAMS = (
    *(right("embedding", name, vjp, why) for name, (vjp, why) in _RIGHT.items()),
    native("embedding", "torch.autograd", by_autograd(by_torch, (False, True)), "torch's own", WIDE),
    right("embedding", "float64 inside", in_precision(EMBEDDING, F64, (F32,)), "more digits", (F32,)),
)
