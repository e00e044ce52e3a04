"""Routers, embeddings and graphs: what is gathered by index or mask, and added up again."""

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int
from torch import Tensor

from tests.oracle.function_bank.entry import BF16, Function, ids, mask, right, wrong


def add_at(rows, index, values):
    """Zeros of `rows` rows, to which values[i] is added at index[i]."""
    out = torch.zeros(rows, *values.shape[index.ndim :], dtype=values.dtype)
    return out.index_add_(0, index.reshape(-1), values.reshape(-1, *out.shape[1:]))


# -------------------------------------------------------------------------------- router: top-k, with its balance loss


def top_k_router(x, weight, *, k=2):
    """The k renormalised probabilities of each token, and the load-balance loss of Switch."""
    probabilities = F.softmax(x @ weight.t(), dim=-1)
    top, chosen = torch.topk(probabilities, k, dim=-1)
    experts = weight.shape[0]
    load = F.one_hot(chosen, experts).to(probabilities.dtype).sum(dim=1).mean(dim=0)
    balance = experts * (load * probabilities.mean(dim=0)).sum()
    return top / top.sum(dim=-1, keepdim=True), balance


ROUTER = Function(top_k_router, {"x": (7, 6), "weight": (5, 6)}, {"k": 3})


def _router(inputs, dy, k, *, renormalised=True, balance_share=1.0):
    x, weight = inputs
    p = (x @ weight.T).softmax(-1)
    top, chosen = p.topk(k, -1)
    total = top.sum(-1, keepdim=True)
    y = top / total
    load = torch.bincount(chosen.reshape(-1), minlength=p.shape[1]).to(p.dtype) / len(p)
    dtop = (dy[0] - renormalised * (dy[0] * y).sum(-1, keepdim=True)) / total
    dp = torch.zeros_like(p).scatter_(-1, chosen, dtop)
    dp = dp + dy[1] * balance_share * p.shape[1] * load / len(p)
    dlogits = p * (dp - (p * dp).sum(-1, keepdim=True))
    return (y, p.shape[1] * (load * p.mean(0)).sum()), (dlogits @ weight, dlogits.T @ x)


@right(ROUTER, "the load by bincount")
def router_bincount(inputs, dy, *, k=2):
    return _router(inputs, dy, k)


@wrong(ROUTER, "the balance loss gets no gradient: the cotangent of the second output is ignored")
def router_balance_ignored(inputs, dy, *, k=2):
    return _router(inputs, dy, k, balance_share=0.0)


@wrong(ROUTER, "the sum that renormalises counts as a constant")
def router_sum_constant(inputs, dy, *, k=2):
    return _router(inputs, dy, k, renormalised=False)


# --------------------------------------------------------------------------------------------- experts, put together


def combine_experts(outputs, weights, token, *, tokens=6):
    """outputs (rows, width) of experts, weights (rows,), token (rows,): where each row belongs."""
    result = torch.zeros(tokens, outputs.shape[1], dtype=outputs.dtype, device=outputs.device)
    return result.index_add(0, token, outputs * weights[:, None])


COMBINE = Function(combine_experts, {"outputs": (11, 4), "weights": (11,), "token": ids(11, below=6)})


@right(COMBINE, "the sum as a product with a matrix of zeros and ones")
def combine_by_matrix(inputs, dy, *, tokens=6):
    outputs, weights, token = inputs
    place = F.one_hot(token, tokens).to(outputs.dtype)
    back = place @ dy
    y = place.T @ (outputs * weights[:, None])
    return y, (back * weights[:, None], torch.einsum("rw,rw->r", back, outputs), None)


@wrong(COMBINE, "rows of the same token overwrite each other: the last alone gets the gradient of its weight")
def combine_last_row(inputs, dy, *, tokens=6):
    token = inputs[2]
    y, (doutputs, dweights, _) = combine_by_matrix(inputs, dy, tokens=tokens)
    last = torch.zeros(tokens, dtype=torch.long)
    for row, one in enumerate(token.tolist()):
        last[one] = row
    return y, (doutputs, dweights * (last[token] == torch.arange(len(token))), None)


# ------------------------------------------------------------------------------------------- embeddings of all kinds


def embed(tokens: Int[Tensor, "batch length"], words: Float[Tensor, "vocabulary width"],
          positions: Float[Tensor, "places width"], weight: Float[Tensor, " width"], bias: Float[Tensor, " width"],
          *, eps: float = 1e-12) -> Float[Tensor, "batch length width"]:  # fmt: skip
    """length is at most places."""
    x = F.embedding(tokens, words) + positions[: tokens.shape[1]]
    return F.layer_norm(x, (x.shape[-1],), weight, bias, eps)


EMBED = Function(
    embed,
    {"tokens": ids(3, 4, below=6), "words": (6, 8), "positions": (5, 8), "weight": (8,), "bias": (8,)},
)


def _embed(inputs, dy, eps):
    tokens, words, positions, weight, bias = inputs
    x = words[tokens] + positions[: tokens.shape[1]]
    centred = x - x.mean(-1, keepdim=True)
    rstd = torch.rsqrt(centred.square().mean(-1, keepdim=True) + eps)
    normal, dn = centred * rstd, dy * weight
    dx = rstd * (dn - dn.mean(-1, keepdim=True) - normal * (dn * normal).mean(-1, keepdim=True))
    return normal * weight + bias, dx, (dy * normal).sum((0, 1)), dy.sum((0, 1))


def _padded_with_zeros(dx, positions):
    return torch.cat((dx.sum(0), positions.new_zeros(len(positions) - dx.shape[1], positions.shape[1])))


@right(EMBED, "repeated words add up, places that are not used get 0")
def embed_added(inputs, dy, *, eps=1e-12):
    y, dx, dweight, dbias = _embed(inputs, dy, eps)
    dwords = add_at(len(inputs[1]), inputs[0], dx)
    return y, (None, dwords, _padded_with_zeros(dx, inputs[2]), dweight, dbias)


@wrong(EMBED, "repeated words overwrite each other's gradient")
def embed_overwritten(inputs, dy, *, eps=1e-12):
    y, dx, dweight, dbias = _embed(inputs, dy, eps)
    dwords = torch.zeros_like(inputs[1])
    dwords[inputs[0].reshape(-1)] = dx.reshape(-1, dx.shape[-1])
    return y, (None, dwords, _padded_with_zeros(dx, inputs[2]), dweight, dbias)


@wrong(EMBED, "the positions' gradient is that of the first sequence, not the sum over the batch")
def embed_first_sequence(inputs, dy, *, eps=1e-12):
    y, dx, dweight, dbias = _embed(inputs, dy, eps)
    return y, (None, add_at(len(inputs[1]), inputs[0], dx), _padded_with_zeros(dx[:1], inputs[2]), dweight, dbias)


def bag_of_words(bag: Int[Tensor, "rows words"], table: Float[Tensor, "entries width"],
                 *, padding: int = 0) -> Float[Tensor, "rows width"]:  # fmt: skip
    """The mean of the words that are not padding; a row without any gives 0."""
    kept = (bag != padding).unsqueeze(-1).to(table.dtype)
    return (table[bag] * kept).sum(1) / kept.sum(1).clamp(min=1)


BAG = Function(bag_of_words, {"bag": ids(6, 5, below=4), "table": (4, 3)}, {"padding": 1})


@right(BAG, "counts of each entry in each row, as a matrix")
def bag_by_counts(inputs, dy, *, padding=0):
    bag, table = inputs
    counts = F.one_hot(bag, len(table)).sum(1).to(table.dtype)
    counts[:, padding] = 0
    share = counts / counts.sum(1, keepdim=True).clamp(min=1)
    return share @ table, (None, share.T @ dy)


@wrong(BAG, "the mean divides by the length of the row, padding counted in")
def bag_divided_by_length(inputs, dy, *, padding=0):
    bag, table = inputs
    y, _ = bag_by_counts(inputs, dy, padding=padding)
    kept = (bag != padding).unsqueeze(-1)
    return y, (None, add_at(len(table), bag, dy[:, None] * kept / bag.shape[1]))


@wrong(
    BAG,
    "sums of a frequent entry are kept in bfloat16, one row after another",
    shows=(BF16,),
    shown_by={"bag": ids(500, 4, below=4)},
    inside=False,
)
def bag_added_in_bf16(inputs, dy, *, padding=0):
    bag, table = inputs
    y, _ = bag_by_counts((bag, table.float()), dy.float(), padding=padding)
    kept = bag != padding
    each = (dy / kept.sum(1, keepdim=True).clamp(min=1).to(dy.dtype))[:, None] * kept.unsqueeze(-1)
    dtable = torch.zeros_like(table)
    for row, gradient in zip(bag.reshape(-1).tolist(), each.reshape(-1, table.shape[1]), strict=True):
        dtable[row] += gradient
    return y.to(table.dtype), (None, dtable)


def tied_language_model(tokens, table, projection):
    """The same table at the entrance and at the exit."""
    return torch.tanh(table[tokens] @ projection) @ table.transpose(0, 1)


TIED = Function(tied_language_model, {"tokens": ids(2, 4, below=5), "table": (5, 6), "projection": (6, 6)})


def _tied(inputs, dy):
    tokens, table, projection = inputs
    x = table[tokens]
    h = torch.tanh(x @ projection)
    da = dy @ table * (1 - h) * (1 + h)
    dprojection = torch.einsum("bti,btj->ij", x, da)
    at_exit = torch.einsum("btv,btw->vw", dy, h)
    return h @ table.T, add_at(len(table), tokens, da @ projection.T), at_exit, dprojection


@right(TIED, "both uses of the table, added")
def tied_both(inputs, dy):
    y, entrance, at_exit, dprojection = _tied(inputs, dy)
    return y, (None, entrance + at_exit, dprojection)


@wrong(TIED, "the table's gradient at the entrance overwrites that at the exit")
def tied_overwritten(inputs, dy):
    y, entrance, at_exit, dprojection = _tied(inputs, dy)
    seen = torch.zeros(len(entrance), 1, dtype=torch.bool)
    seen[inputs[0]] = True
    return y, (None, torch.where(seen, entrance, at_exit), dprojection)


# ------------------------------------------------------------------------------------------------- graphs and pooling


def neighbour_mean(nodes, source, target, weight):
    """Messages along edges source → target, averaged at each node that receives one."""
    messages = nodes[source]
    total = torch.zeros_like(nodes).scatter_add(0, target[:, None].expand_as(messages), messages)
    degree = torch.bincount(target, minlength=nodes.shape[0]).clamp(min=1)
    return F.relu((total / degree[:, None] + nodes) @ weight)


GRAPH = Function(
    neighbour_mean, {"nodes": (6, 5), "source": ids(14, below=6), "target": ids(14, below=6), "weight": (5, 3)}
)


def _neighbours(inputs, dy, degree_of):
    nodes, source, target, weight = inputs
    adjacency = torch.zeros(len(nodes), len(nodes), dtype=nodes.dtype)
    adjacency.index_put_((target, source), torch.ones((), dtype=nodes.dtype), accumulate=True)
    mean = adjacency / adjacency.sum(1, keepdim=True).clamp(min=1)
    gathered = mean @ nodes + nodes
    h = gathered @ weight
    dh = dy * (h > 0)
    dgathered = dh @ weight.T
    back = adjacency / degree_of(adjacency).clamp(min=1)
    return h.clamp(min=0), (back.T @ dgathered + dgathered, None, None, gathered.T @ dh)


@right(GRAPH, "by the matrix of averages")
def graph_by_matrix(inputs, dy):
    return _neighbours(inputs, dy, lambda a: a.sum(1, keepdim=True))


@wrong(GRAPH, "messages go back divided by the number of edges that leave, not of those that arrive")
def graph_out_degree(inputs, dy):
    return _neighbours(inputs, dy, lambda a: a.sum(0, keepdim=True))


def segment_softmax(scores, values, segment, *, segments=4):
    """Softmax of scores (edges,) within each segment, and the weighted sums of values (edges, width)."""
    best = torch.full((segments,), float("-inf"), dtype=scores.dtype).scatter_reduce(0, segment, scores, "amax")
    e = torch.exp(scores - best.detach()[segment])
    p = e / torch.zeros(segments, dtype=scores.dtype).index_add(0, segment, e)[segment]
    return torch.zeros(segments, values.shape[1], dtype=values.dtype).index_add(0, segment, p[:, None] * values)


SEGMENTS = Function(segment_softmax, {"scores": (12,), "values": (12, 3), "segment": ids(12, below=4)})


def _segments(inputs, dy, inner):
    scores, values, segment = inputs
    e = torch.exp(scores - scores.max())
    p = e / add_at(len(dy), segment, e)[segment]
    dp = (dy[segment] * values).sum(1)
    y = add_at(len(dy), segment, p[:, None] * values)
    return y, (p * (dp - inner(p * dp, segment)), p[:, None] * dy[segment], None)


@right(SEGMENTS, "one maximum for all segments")
def segments_one_maximum(inputs, dy, *, segments=4):
    return _segments(inputs, dy, lambda each, segment: add_at(len(dy), segment, each)[segment])


@wrong(SEGMENTS, "the inner product of the softmax is taken over all edges, not over each segment")
def segments_over_all(inputs, dy, *, segments=4):
    return _segments(inputs, dy, lambda each, segment: each.sum())


def masked_mean_pool(hidden: Float[Tensor, "batch tokens width"], kept: Bool[Tensor, "batch tokens"]
                     ) -> Float[Tensor, "batch width"]:  # fmt: skip
    weights = kept.unsqueeze(-1).to(hidden.dtype)
    pooled = (hidden * weights).sum(1) / weights.sum(1).clamp(min=1e-9)
    return F.normalize(pooled, p=2, dim=1)


POOL = Function(masked_mean_pool, {"hidden": (4, 5, 6), "kept": mask(4, 5)})


def _count(kept, least=1):
    """Of what is kept in each row; 1 where nothing is, so that the mean is 0 there."""
    return kept.double().sum(1, keepdim=True).clamp(min=least)


def _pool(inputs, dy, weights, least=1, shortest=1e-12):
    hidden, kept = inputs
    share = (kept / _count(kept, least)).to(hidden.dtype)
    pooled = torch.einsum("bt,btw->bw", share, hidden)
    length = pooled.square().sum(1, keepdim=True).sqrt().clamp(min=shortest)
    y = pooled / length
    dpooled = (dy - y * (y * dy).sum(1, keepdim=True)) / length
    return y, (weights(kept)[..., None].to(hidden.dtype) * dpooled[:, None], None)


@right(POOL, "by shares of the tokens")
def pool_by_shares(inputs, dy):
    return _pool(inputs, dy, lambda kept: kept / _count(kept))


@wrong(POOL, "0 / 0 where nothing is kept", shown_by={"kept": lambda generator: torch.zeros(4, 5, dtype=torch.bool)})
def pool_of_nothing(inputs, dy):
    return _pool(inputs, dy, lambda kept: kept / _count(kept, 0), least=0, shortest=0)


@wrong(POOL, "padding gets the gradient as well: the mask is not applied")
def pool_mask_forgotten(inputs, dy):
    return _pool(inputs, dy, lambda kept: (1 / _count(kept)).expand(kept.shape))


@wrong(POOL, "the mean divides by all tokens")
def pool_divided_by_tokens(inputs, dy):
    return _pool(inputs, dy, lambda kept: kept.double() / kept.shape[1])
