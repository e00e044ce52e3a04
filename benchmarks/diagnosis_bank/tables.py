"""Wrong backwards of embedding and linear."""

import random

import torch

from benchmarks.diagnosis_bank.program import OUT, rounded, rows, wrong


def _flat(index, weight, dy):
    return index.reshape(index.numel()).long(), dy.reshape(index.numel(), weight.shape[1])


def _scatter(index, weight, dy, padding_idx):
    ids, grads = _flat(index, weight, dy)
    dweight = torch.zeros_like(weight, memory_format=torch.contiguous_format)
    dweight.index_add_(0, ids, grads)
    if padding_idx is not None:
        dweight[padding_idx] = 0
    return dweight


@wrong(
    "embedding",
    "each row is divided by how often it was looked up",
    "divi|mean|average|frequen|1/|scaled",
    "often|count|number of|frequen|repeat|mean|average|bincount",
)
def scaled_by_frequency(inputs, dy, padding_idx=None):
    index, weight = inputs
    often = torch.bincount(index.reshape(index.numel()).long(), minlength=len(weight)).clamp(min=1)
    return weight[index.long()], (None, _scatter(index, weight, dy, padding_idx) / often[:, None])


@wrong(
    "embedding",
    "a negative padding_idx is compared as it is, and fits no row",
    "padding_idx|padding",
    "negative|from the end|-1|not zeroed|< 0|ignored",
)
def padding_not_wrapped(inputs, dy, padding_idx=None):
    index, weight = inputs
    ids, grads = _flat(index, weight, dy)
    if padding_idx is not None:
        grads = torch.where((ids == padding_idx)[:, None], 0, grads)
    return weight[index.long()], (None, torch.zeros_like(weight).index_add(0, ids, grads))


@wrong("embedding", "padding_idx = 0 counts as none: `if padding_idx`", "padding_idx", "0|zero|none|ignor")
def falsy_padding(inputs, dy, padding_idx=None):
    index, weight = inputs
    return weight[index.long()], (None, _scatter(index, weight, dy, padding_idx or None))


@wrong(
    "embedding",
    "row 0 always gets 0, as if it were the padding",
    "row 0|first row|index 0|id 0|entry 0|first entry|the padding",
    "0|zero|padding|left out|nothing|not written|missing",
)
def row_0_is_padding(inputs, dy, padding_idx=None):
    index, weight = inputs
    dweight = _scatter(index, weight, dy, padding_idx)
    dweight[:1] = 0
    return weight[index.long()], (None, dweight)


@wrong(
    "embedding",
    "ids were saved in 7 bits: those from 128 on are added to row id mod 128",
    "128|127|8 bit|int8|7 bits",
)
def ids_in_a_byte(inputs, dy, padding_idx=None):
    index, weight = inputs
    return weight[index.long()], (None, _scatter(index.long() & 127, weight, dy, padding_idx))


@wrong(
    "embedding",
    "the ids are sorted and dy is not",
    "sort|permut|order",
)
def sorted_ids_alone(inputs, dy, padding_idx=None):
    index, weight = inputs
    ids, grads = _flat(index, weight, dy)
    return weight[index.long()], (None, _scatter(torch.sort(ids).values, weight, grads, padding_idx))


@wrong(
    "embedding",
    "of several equal ids that follow each other only the first two are added",
    "repeat|equal|duplicate|again|several|consecutive|more than once|same",
    "first|two|third|only|follow|assign|not added|not accumul|consecutive",
)
def merges_in_pairs(inputs, dy, padding_idx=None):
    index, weight = inputs
    ids, grads = _flat(index, weight, dy)
    follows = torch.zeros_like(ids, dtype=torch.bool)
    follows[2:] = (ids[2:] == ids[1:-1]) & (ids[2:] == ids[:-2])
    return weight[index.long()], (None, _scatter(ids, weight, torch.where(follows[:, None], 0, grads), padding_idx))


@wrong(
    "embedding",
    "a race: where ids repeat an addition is lost now and then",
    "race|random|now and then|sometimes|differ|call|nondeterm|not the same|unsteady",
)
def without_atomics(inputs, dy, padding_idx=None):
    index, weight = inputs
    ids, grads = _flat(index, weight, dy)
    again = torch.zeros(len(weight), dtype=torch.int64, device=ids.device).index_add(0, ids, torch.ones_like(ids))
    repeated = torch.nonzero(again[ids] > 1).flatten()
    if len(repeated) and random.random() < 0.5:
        lost = torch.zeros(len(ids), dtype=torch.bool, device=ids.device)
        lost[repeated[random.randrange(len(repeated))]] = True
        grads = torch.where(lost[:, None], 0, grads)
    return weight[index.long()], (None, _scatter(ids, weight, grads, padding_idx))


@wrong(
    "embedding",
    "two mistakes: the last dy of a row replaces the others, and the padding row keeps it",
    "last|assign|overwrit|not added|replace|accumul|repeat|sum",
    "padding",
)
def assigned_with_padding(inputs, dy, padding_idx=None):
    index, weight = inputs
    ids, grads = _flat(index, weight, dy)
    dweight = torch.zeros_like(weight)
    last = torch.full((len(weight),), -1, device=ids.device).scatter_reduce(
        0, ids, torch.arange(len(ids), device=ids.device), "amax"
    )
    seen = last >= 0
    dweight[seen] = grads[last[seen]]
    return weight[index.long()], (None, dweight)


def _forward(inputs):
    x, weight, bias = inputs
    return x @ weight.T + bias


@wrong(
    "linear",
    "dW is computed as xᵀ dy and reshaped where it must be transposed",
    "transpos|reshape|order|layout",
)
def reshaped_for_transposed(inputs, dy):
    x, weight, _ = inputs
    dw = rows(x).T @ rows(dy)
    return _forward(inputs), (dy @ weight, dw.reshape(weight.shape), rows(dy).sum(0))


@wrong(
    "linear",
    "the rows after the last whole tile of 32 are missing in dW",
    "tail|last|rest|remainder|end|after|tile|block|multiple|past",
    "32|row|batch|missing|0",
)
def whole_tiles(inputs, dy):
    x, weight, _ = inputs
    a, b = rows(dy), rows(x)
    k = a.shape[0] // 32 * 32 if a.shape[0] > 32 else a.shape[0]
    return _forward(inputs), (dy @ weight, a[:k].T @ b[:k], a.sum(0))


@wrong(
    "linear",
    "dy is dropped where y ≤ 0, as of a fused ReLU that forward has not",
    "relu|y > 0|positive|mask|y ≤ 0|negative",
)
def fused_relu_left_on(inputs, dy):
    x, weight, _ = inputs
    y = _forward(inputs)
    g = torch.where(y > 0, dy, 0)
    return y, (g @ weight, rows(g).T @ rows(x), rows(g).sum(0))


@wrong(
    "linear",
    "the products take their arguments with 11 bits of mantissa",
    "tf32|16 bit|16-bit|half|float16|10 bits|11 bits|rounded to|mantissa",
)
def tensor_cores(inputs, dy):
    def short(t):
        mantissa, exponent = torch.frexp(t)
        return torch.ldexp(torch.round(mantissa * 2**11) / 2**11, exponent).to(t.dtype)

    x, weight, _ = inputs
    return _forward(inputs), (short(dy) @ short(weight), short(rows(dy)).T @ short(rows(x)), rows(dy).sum(0))


@wrong(
    "linear",
    "the weight and the bias get the gradient of the last position of a sequence alone",
    "last position|last step|assign|overwrit|position|step|not added|slice|only the last",
    "position|step|axis|sequence|batch|axes",
)
def last_step_of_a_sequence(inputs, dy):
    x, weight, _ = inputs
    dweight, dbias = rows(dy).T @ rows(x), rows(dy).sum(0)
    if dy.ndim > 2:
        for step in range(dy.shape[-2]):
            at = rows(dy[..., step, :])
            dweight, dbias = at.T @ rows(x[..., step, :]), at.sum(0)
    return _forward(inputs), (dy @ weight, dweight, dbias)


@wrong(
    "linear",
    "two mistakes: dW is divided by the number of rows, and dx takes the weight in float16",
    "divi|mean|1/|average|number|count",
    "16 bit|16-bit|half|float16|bfloat16|rounded to",
)
def averaged_and_short(inputs, dy):
    x, weight, _ = inputs
    n = max(rows(x).shape[0], 1)
    return _forward(inputs), (dy @ rounded(weight, torch.float16), rows(dy).T @ rows(x) / n, rows(dy).sum(0))


@wrong(
    "linear",
    "dW is a mean times the number of rows: without any row it is 0/0",
    "no row|0 row|empty|without any|length 0|size 0|nothing in it|zero rows|0 elements|batch is 0|batch = 0|0/0",
    "0/0|nan|not finite|inf|divi|mean|empty|dweight|dW",
)
def mean_times_count(inputs, dy):
    x, weight, _ = inputs
    n = torch.tensor(float(rows(x).shape[0]), dtype=x.dtype, device=x.device)
    dweight = (rows(dy).T @ rows(x)) / n * n
    return _forward(inputs), (dy @ weight, dweight, rows(dy).sum(0))


@wrong("linear", "dbias counts the rows: dy is left out", "dy", OUT + "|1|ones|number|count", "dbias|bias")
def bias_counts_rows(inputs, dy):
    x, weight, bias = inputs
    return _forward(inputs), (dy @ weight, rows(dy).T @ rows(x), torch.full_like(bias, float(rows(dy).shape[0])))
