"""Wrong programs for embedding."""

import itertools
from collections.abc import Iterator

import torch

from tests.oracle.third_bank.axes import in_order
from tests.oracle.third_bank.embedding_right import EMBEDDING, embedding_with, flat, index_added, padding_row
from tests.oracle.third_bank.entry import ALL, SIXTEEN, WIDE, Entry, faulty, in_float32, wrong
from tests.oracle.third_bank.faults import (
    changed,
    cut,
    cut_flat,
    dense,
    dense_last,
    half,
    usual,
    with_dy,
    with_input,
    writes_input,
)

RULE = "embedding"


def overwritten(ids, d, entries):
    """The last of equal ids is what remains."""
    table = d.new_zeros(entries, d.shape[1])
    last = {int(i): k for k, i in enumerate(ids)}
    if last:
        table[list(last)] = d[list(last.values())]
    return table


def first_only(ids, d, entries):
    return overwritten(ids.flip(0), d.flip(0), entries)


def runs_of(ids):
    """Start and end of each run of equal ids as they come, not sorted."""
    edges = [0, *((ids[1:] != ids[:-1]).nonzero()[:, 0] + 1).tolist(), len(ids)]
    return list(itertools.pairwise(edges)) if len(ids) else []


def taken_for_sorted(ids, d, entries):
    """Runs as they come are summed and stored: a later run of an id writes over the earlier."""
    table = d.new_zeros(entries, d.shape[1])
    for start, end in runs_of(ids):
        table[ids[start]] = d[start:end].sum(0)
    return table


def last_run_lost(ids, d, entries):
    """Sorted runs are stored when the next begins; the last never is."""
    order = torch.argsort(ids, stable=True)
    last = ids.max() if len(ids) else -1
    return index_added(ids[order], torch.where((ids[order] == last)[:, None], 0, d[order]), entries)


def repeats_up_to(limit):
    """Of each id's occurrences only the first ones are added."""

    def add(ids, d, entries):
        order = torch.argsort(ids, stable=True)
        counts = torch.bincount(ids, minlength=entries)
        starts = counts.cumsum(0) - counts
        occurrence = torch.arange(len(ids)) - starts[ids[order]]
        chosen = order[occurrence < limit]
        return index_added(ids[chosen], d[chosen], entries)

    return add


def averaged(ids, d, entries):
    counts = torch.bincount(ids, minlength=entries).clamp_min(1)
    return index_added(ids, d, entries) / counts[:, None]


def pairs_cancel(ids, d, entries):
    """An id that occurs twice in a block of 32 is added once: a race between lanes."""
    table = d.new_zeros(entries, d.shape[1])
    for part, rows in zip(ids.split(32), d.split(32), strict=True):
        table += overwritten(part, rows, entries) if entries < 5000 else index_added(part, rows, entries)
    return table


def neighbours_once(ids, d, entries):
    """Equal ids that stand beside each other count once: sorted or repeated ids come in runs."""
    if len(ids) < 2:
        return index_added(ids, d, entries)
    keep = torch.cat([ids[1:] != ids[:-1], torch.ones(1, dtype=torch.bool)])
    return index_added(ids[keep], d[keep], entries)


def first_ids(limit):
    return lambda ids, d, entries: index_added(ids[:limit], d[:limit], entries)


def whole_blocks_of_ids(ids, d, entries):
    whole = len(ids) // 32 * 32 or len(ids)
    return index_added(ids[:whole], d[:whole], entries)


def whole_blocks_of_entries(ids, d, entries):
    """A table whose number of blocks of 32 rows was rounded down."""
    table = index_added(ids, d, entries)
    whole = entries // 32 * 32 or entries
    return torch.where(torch.arange(entries)[:, None] < whole, table, 0)


def whole_blocks_of_features(ids, d, entries):
    table = index_added(ids, d, entries)
    whole = d.shape[1] // 4 * 4 or d.shape[1]
    return torch.where(torch.arange(d.shape[1]) < whole, table, 0)


def last_id_lost(ids, d, entries):
    """id < entries - 1."""
    return index_added(ids, torch.where((ids == entries - 1)[:, None], 0, d), entries)


def id_0_lost(ids, d, entries):
    """0 taken for padding."""
    return index_added(ids, torch.where((ids == 0)[:, None], 0, d), entries)


def mean_over_ids(ids, d, entries):
    return index_added(ids, d, entries) / max(len(ids), 1)


def rounded_each(ids, d, entries):
    return half(index_added(ids, half(d), entries))


def row_major_mixed(ids, d, entries):
    """The rows of dy taken in the order of sorted ids, the ids as they came."""
    return index_added(ids, d[torch.argsort(ids, stable=True)], entries)


def ids_as(dtype):
    """Ids kept in a type that is too small for a large table; what wraps below 0 counts from the end."""

    def embedding(inputs, dy, padding_idx=None):
        index, weight = inputs
        small = index.to(dtype).long()
        return EMBEDDING((torch.where(small < 0, small + weight.shape[0], small), weight), dy, padding_idx=padding_idx)

    return embedding


def index_seen(change):
    """Gradient for another index; y for the one given."""

    def embedding(inputs, dy, padding_idx=None):
        index, weight = inputs
        y, _ = EMBEDDING(inputs, dy, padding_idx=padding_idx)
        return y, EMBEDDING((change(index), weight), dy, padding_idx=padding_idx)[1]

    return embedding


def transposed(index):
    """Rows and columns mistaken for each other, whatever their lengths."""
    return index.T.reshape(index.shape) if index.ndim == 2 else index


def padding_as(change):
    """Another padding_idx than was given; `change` sees it and the number of entries."""
    return lambda inputs, dy, padding_idx=None: EMBEDDING(
        inputs, dy, padding_idx=change(padding_idx, inputs[1].shape[0])
    )


def padding_without(row, grads_too):
    """The padding row of y is 0."""

    def embedding(inputs, dy, padding_idx=None):
        index, weight = inputs
        y, grads = EMBEDDING(inputs, dy, padding_idx=padding_idx)
        hidden = padding_row(padding_idx, weight.shape[0])
        if hidden is not None:
            y = torch.where((index == hidden)[..., None], row, y)
        if not grads_too:
            grads = (None, EMBEDDING(inputs, dy)[1][1])
        return y, grads

    return embedding


def padding_shifts(inputs, dy, padding_idx=None):
    """What belongs to the padding id is added to the row after it."""
    index, weight = inputs
    row = padding_row(padding_idx, weight.shape[0])
    if row is None or weight.shape[0] < 2:
        return EMBEDDING(inputs, dy, padding_idx=padding_idx)
    moved = torch.where(index == row, (row + 1) % weight.shape[0], index)
    return EMBEDDING(inputs, dy)[0], EMBEDDING((moved, weight), dy)[1]


def rows_not_zeroed(inputs, dy, padding_idx=None):
    """Rows that no id names keep what was in memory: here the table."""
    index, weight = inputs
    y, (_, dweight) = EMBEDDING(inputs, dy, padding_idx=padding_idx)
    used = torch.zeros(weight.shape[0], dtype=torch.bool)
    used[index.reshape(-1).long()] = True
    return y, (None, torch.where(used[:, None], dweight, weight))


def padding_not_zeroed(inputs, dy, padding_idx=None):
    """The padding row is skipped, and so never zeroed."""
    weight = inputs[1]
    y, (_, dweight) = EMBEDDING(inputs, dy, padding_idx=padding_idx)
    row = padding_row(padding_idx, weight.shape[0])
    if row is not None:
        dweight[row] = weight[row]
    return y, (None, dweight)


def last_batch_only(inputs, dy, padding_idx=None):
    """Each batch of a matrix of ids writes its table over the one before."""
    index, weight = inputs
    y, grads = EMBEDDING(inputs, dy, padding_idx=padding_idx)
    if index.ndim < 2 or not len(index):
        return y, grads
    return y, EMBEDDING((index[-1], weight), dy[-1], padding_idx=padding_idx)[1]


def in_16_bits(inputs, dy, padding_idx=None):
    """The rows of each id added up one after the other in 16 bits."""
    index, weight = inputs
    y, (_, dweight) = in_float32(EMBEDDING)(inputs, dy, padding_idx=padding_idx)
    ids, d = flat(index, dy)
    for i in torch.unique(ids).tolist():
        chosen = d[ids == i]
        if len(chosen) > 1 and padding_row(padding_idx, len(weight)) != i:
            dweight[i] = in_order(chosen)
    return y, (None, dweight)


def clamped_value(inputs, dy, padding_idx=None):
    """Ids clamped to entries - 2."""
    index, weight = inputs
    return EMBEDDING((index.clamp_max(max(weight.shape[0] - 2, 0)), weight), dy, padding_idx=padding_idx)


def raises_if_empty(inputs, dy, padding_idx=None):
    if inputs[0].numel() == 0:
        raise RuntimeError("an empty grid of blocks")
    return EMBEDDING(inputs, dy, padding_idx=padding_idx)


def scaled(inputs, dy, padding_idx=None):
    """A transformer's sqrt(features) left in y and dweight."""
    y, (_, dweight) = EMBEDDING(inputs, dy, padding_idx=padding_idx)
    return y * dy.shape[-1] ** 0.5, (None, dweight * dy.shape[-1] ** 0.5)


_ADD = {
    "overwritten": (overwritten, "repeats", "the last of equal ids remains"),
    "first alone": (first_only, "repeats", "the first of equal ids remains"),
    "taken for sorted": (taken_for_sorted, "repeats", "runs of ids that aren't sorted"),
    "last run lost": (last_run_lost, "plain", "the flush after the loop is missing"),
    "255 repeats": (repeats_up_to(255), "skewed", "an 8-bit count of repeats"),
    "32 repeats": (repeats_up_to(32), "skewed", "a run that is longer than a warp"),
    "1024 repeats": (repeats_up_to(1024), "one id", "a run that is longer than a block"),
    "by frequency": (averaged, "repeats", "divided by the number of occurrences"),
    "lanes race": (pairs_cancel, "repeats", "equal ids within 32 are added once"),
    "neighbours once": (neighbours_once, "sorted", "equal ids beside each other count once"),
    "1024 ids": (first_ids(1024), "rows", "ids after 1024 are left out"),
    "65536 ids": (first_ids(65_536), "many rows", "ids after 65536 are left out"),
    "whole blocks of ids": (whole_blocks_of_ids, "rows", "the last ids aren't added"),
    "whole blocks of entries": (whole_blocks_of_entries, "last id", "the last entries get nothing"),
    "vectors of 4": (whole_blocks_of_features, "plain", "the last features get nothing"),
    "last id lost": (last_id_lost, "last id", "id < entries - 1"),
    "id 0 lost": (id_0_lost, "first id", "0 is taken for padding"),
    "mean": (mean_over_ids, "plain", "divided by the number of ids"),
    "order mixed": (row_major_mixed, "repeats", "dy in the order of sorted ids"),
    "65536 entries": (
        lambda i, d, n: cut(65_536)(index_added(i, d, n)),
        "vocabulary",
        "entries after 65536 get nothing",
    ),
    "sign": (lambda i, d, n: -index_added(i, d, n), "plain", "minus"),
    "set to dy's mean": (
        lambda i, d, n: index_added(i, d.mean(1, keepdim=True).expand(d.shape), n),
        "plain",
        "features",
    ),
}
_OTHER = {
    "int16 ids": (ids_as(torch.int16), "vocabulary", "ids wrap at 32768"),
    "uint16 ids": (ids_as(torch.uint16), "vocabulary", "ids wrap at 65536"),
    "uint8 ids": (ids_as(torch.uint8), "vocabulary", "ids wrap at 256"),
    "ids transposed": (index_seen(transposed), "two axes", "rows for columns in backward"),
    "ids reversed": (index_seen(lambda i: i.flip(-1) if i.ndim else i), "plain", "the last axis backwards"),
    "ids of the first row": (index_seen(lambda i: i[:1].expand(i.shape) if i.ndim > 1 else i), "two axes", "no stride"),
    "padding ignored": (padding_as(lambda p, n: None), "padding", "an option ignored"),
    "padding 0 ignored": (padding_as(lambda p, n: p or None), "padding 0", "0 is no padding: `if padding_idx`"),
    "negative padding ignored": (
        padding_as(lambda p, n: None if p is not None and p < 0 else p),
        "padding -1",
        "id == -1",
    ),
    "padding always 0": (padding_as(lambda p, n: 0), "first id", "a default of 0"),
    "last padding ignored": (padding_as(lambda p, n: None if p == n - 1 else p), "padding last", "p < entries - 1"),
    "|padding|": (padding_as(lambda p, n: None if p is None else abs(p) % n if n else None), "padding -1", "|-1|"),
    "padding row of y is 0": (padding_without(0, True), "padding", "right gradient"),
    "padding in y alone": (padding_without(0, False), "padding", "0 in y, a gradient for it"),
    "padding shifts": (padding_shifts, "padding", "added to the next row"),
    "rows not zeroed": (rows_not_zeroed, "unused", "memory of rows without an id"),
    "padding not zeroed": (padding_not_zeroed, "padding", "memory of the padding row"),
    "last batch": (last_batch_only, "two axes", "tables overwrite each other"),
    "ids clamped": (clamped_value, "last id", "to entries - 2"),
    "raises if empty": (raises_if_empty, "batch 0", "no launch of nothing"),
    "scaled": (scaled, "plain", "times sqrt(features)"),
}


def _entries() -> Iterator[Entry]:
    for name, (add, shows, why) in _ADD.items():
        yield wrong(RULE, name, embedding_with(add), shows, why)
    for name, (vjp, shows, why) in _OTHER.items():
        yield wrong(RULE, name, vjp, shows, why, ALL)
    yield wrong(RULE, "dy in 16 bits", embedding_with(rounded_each), "plain", "added in bfloat16", WIDE)
    base = in_float32(EMBEDDING)
    yield faulty(RULE, "added in 16 bits", in_16_bits, "one id", "a sum that stagnates", SIXTEEN)
    yield faulty(RULE, "y of 65536", changed(base, None, cut_flat(65_536)), "many rows", "the rest of y is 0")
    yield faulty(
        RULE, "dweight over weight", writes_input(base, 1, 1), "plain", "the gradient is written over the table"
    )
    yield faulty(RULE, "dy read as dense", with_dy(base, dense), "strided dy", "the strides of dy are ignored")
    yield faulty(
        RULE, "dy rows read as dense", with_dy(base, dense_last), "strided dy", "the last stride is taken for 1"
    )
    yield faulty(RULE, "weight read as dense", with_input(base, 1, dense), "strided input", "the strides of the table")
    yield faulty(RULE, "ids read as dense", with_input(base, 0, dense), "strided input", "the strides of the ids")
    yield from usual(RULE, EMBEDDING, 0, 1)


PROGRAMS = tuple(_entries())
