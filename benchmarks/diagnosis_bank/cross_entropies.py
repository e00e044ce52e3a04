"""Wrong backwards of softmax_cross_entropy.  Classes lie on axis 1; a position is one of batch and space."""

import torch
import torch.nn.functional as F

from benchmarks.diagnosis_bank.program import OUT, rounded, wrong

RULE = "softmax_cross_entropy"


def _cost(inputs, ignore_index, label_smoothing, reduction):
    x, target, weight = inputs
    return F.cross_entropy(
        x, target.long(), weight, ignore_index=ignore_index, label_smoothing=label_smoothing, reduction=reduction
    )


def _table(x, target, weight, counts):
    """Positions by classes: probabilities and the one-hot targets; and of each position the class and its weight."""
    table = x.movedim(1, -1)
    p = torch.softmax(table, -1)
    label = torch.where(counts, target, 0).long()
    hot = F.one_hot(label, x.shape[1]).to(x.dtype)
    w = x.new_ones(x.shape[1]) if weight is None else weight
    return p, hot, w, w[label] * counts


def _back(dtable, counts):
    return torch.where(counts[..., None], dtable, 0).movedim(-1, 1)


@wrong(RULE, "label_smoothing is ignored", "smooth|ε", OUT + "|0|zero|hyperparameter|default|changes nothing")
def hard_labels(inputs, dy, ignore_index=-100, label_smoothing=0.0, reduction="mean"):
    x, target, weight = inputs
    counts = target != ignore_index
    p, hot, _, w_label = _table(x, target, weight, counts)
    scale = dy / w_label.sum() if reduction == "mean" else dy
    dx = _back(scale * w_label[..., None] * (p - hot), counts)
    return _cost(inputs, ignore_index, label_smoothing, reduction), (dx, None, None)


def _dense(p, hot, w, w_label, eps):
    """∂l/∂x of each position, of the whole formula."""
    k = p.shape[-1]
    return (1 - eps) * w_label[..., None] * (p - hot) + eps / k * (p * w.sum() - w)


@wrong(
    RULE,
    "the mean divides by the number of positions that count, not by the sum of their weights",
    "number of|count|unweighted|without the weight|weights left out|weight left out|weight[label]|_counted",
    "divi|mean|normali",
)
def mean_of_the_positions(inputs, dy, ignore_index=-100, label_smoothing=0.0, reduction="mean"):
    x, target, weight = inputs
    counts = target != ignore_index
    found = _dense(*_table(x, target, weight, counts), label_smoothing)
    n = counts.sum().clamp(min=1) if reduction == "mean" else 1
    return _cost(inputs, ignore_index, label_smoothing, reduction), (_back(dy / n * found, counts), None, None)


@wrong(
    RULE,
    "each logit gets the weight of its own class, not that of the target",
    "weight",
    "own class|own|each class|target|label|per class|another|other class|w_k|weight[label]|k",
)
def weight_of_the_column(inputs, dy, ignore_index=-100, label_smoothing=0.0, reduction="mean"):
    x, target, weight = inputs
    counts = target != ignore_index
    p, hot, w, w_label = _table(x, target, weight, counts)
    found = (1 - label_smoothing) * w * (p - hot) + label_smoothing / x.shape[1] * (p * w.sum() - w)
    s = dy / w_label.sum() if reduction == "mean" else dy
    return _cost(inputs, ignore_index, label_smoothing, reduction), (_back(s * found, counts), None, None)


@wrong(
    RULE,
    "the mean divides by all positions, those with ignore_index too",
    "ignore|masked|all positions|all rows|every row|every position|do not count|does not count|not counted|numel",
    "divi|mean|divisor|normali|count",
)
def mean_over_ignored(inputs, dy, ignore_index=-100, label_smoothing=0.0, reduction="mean"):
    x, target, weight = inputs
    counts = target != ignore_index
    w = x.new_ones(x.shape[1]) if weight is None else weight
    p, hot, _, w_label = _table(x, target, w, counts)
    everywhere = w[torch.where(counts, target, 0).long()]
    s = dy / everywhere.sum() if reduction == "mean" else dy
    found = _dense(p, hot, w, w_label, label_smoothing)
    return _cost(inputs, ignore_index, label_smoothing, reduction), (_back(s * found, counts), None, None)


@wrong(
    RULE,
    "the ignored target is always −100, whatever ignore_index says",
    "ignore_index|ignore|-100",
    "-100|default|hard-coded|whatever|fixed|hyperparameter|constant|not taken",
)
def always_minus_100(inputs, dy, ignore_index=-100, label_smoothing=0.0, reduction="mean"):
    x, target, weight = inputs
    counts = target != -100
    p, hot, w, w_label = _table(x, target.clamp(0, x.shape[1] - 1), weight, counts)
    found = _dense(p, hot, w, w_label, label_smoothing)
    s = dy / w_label.sum() if reduction == "mean" else dy
    return _cost(inputs, ignore_index, label_smoothing, reduction), (_back(s * found, counts), None, None)


@wrong(RULE, "dy is left out", "dy|upstream|cotangent|incoming", OUT + "|1|ones|one|constant|does not depend")
def loss_is_the_end(inputs, dy, ignore_index=-100, label_smoothing=0.0, reduction="mean"):
    x, target, weight = inputs
    counts = target != ignore_index
    p, hot, w, w_label = _table(x, target, weight, counts)
    found = _dense(p, hot, w, w_label, label_smoothing)
    if reduction == "mean":
        found = found / w_label.sum()
    return _cost(inputs, ignore_index, label_smoothing, reduction), (_back(found, counts), None, None)


@wrong(
    RULE,
    "the smoothing goes to the K − 1 other classes alone, ε/(K − 1) each",
    "smooth|ε",
    "K - 1|K-1|classes - 1|others|other classes|n - 1|n-1|n/(n - 1)|target",
)
def spread_over_the_others(inputs, dy, ignore_index=-100, label_smoothing=0.0, reduction="mean"):
    x, target, weight = inputs
    counts = target != ignore_index
    p, hot, w, w_label = _table(x, target, weight, counts)
    k = x.shape[1]
    t = (1 - label_smoothing) * w_label[..., None] * hot + label_smoothing / max(k - 1, 1) * w * (1 - hot)
    found = p * t.sum(-1, keepdim=True) - t
    s = dy / w_label.sum() if reduction == "mean" else dy
    return _cost(inputs, ignore_index, label_smoothing, reduction), (_back(s * found, counts), None, None)


@wrong(
    RULE,
    "logits with space axes are flattened to rows without moving the classes to the end",
    "reshape|transpos|permut|flatten|moving|order|view|layout",
)
def flattened_as_it_lies(inputs, dy, ignore_index=-100, label_smoothing=0.0, reduction="mean"):
    x, target, weight = inputs
    n, k = target.numel(), x.shape[1]
    label = target.reshape(n).long()
    counts = label != ignore_index
    p, hot, w, w_label = _table(x.reshape(n, k), label, weight, counts)
    found = _dense(p, hot, w, w_label, label_smoothing)
    s = dy / w_label.sum() if reduction == "mean" else dy
    dx = torch.where(counts[:, None], s * found, 0).reshape(x.shape)
    return _cost(inputs, ignore_index, label_smoothing, reduction), (dx, None, None)


@wrong(
    RULE,
    "the softmax goes along the last axis, which is no class where there are space axes",
    "last axis|-1|axis|axes|dim|space",
    "softmax|p|probab|exp|normali|sum|along",
)
def softmax_of_the_last_axis(inputs, dy, ignore_index=-100, label_smoothing=0.0, reduction="mean"):
    x, target, weight = inputs
    counts = target != ignore_index
    _, hot, w, w_label = _table(x, target, weight, counts)
    p = torch.softmax(x, -1).movedim(1, -1)
    found = _dense(p, hot, w, w_label, label_smoothing)
    s = dy / w_label.sum() if reduction == "mean" else dy
    return _cost(inputs, ignore_index, label_smoothing, reduction), (_back(s * found, counts), None, None)


@wrong(
    RULE,
    "positions whose target is class 0 get no gradient, as if 0 were padding",
    "class 0|target 0|is 0|0|zero|padding|first class|> 0",
    "target|label|class|padding|mask|counts",
)
def class_0_is_padding(inputs, dy, ignore_index=-100, label_smoothing=0.0, reduction="mean"):
    x, target, weight = inputs
    counts = target != ignore_index
    p, hot, w, w_label = _table(x, target, weight, counts)
    s = dy / w_label.sum() if reduction == "mean" else dy
    found = s * _dense(p, hot, w, w_label, label_smoothing)
    return _cost(inputs, ignore_index, label_smoothing, reduction), (_back(found, counts & (target > 0)), None, None)


@wrong(
    RULE,
    "reduction='sum' is divided by the sum of weights as well",
    "reduction|'sum'|a sum",
    "divi|mean|normali|ignor|hyperparameter|default",
)
def always_a_mean(inputs, dy, ignore_index=-100, label_smoothing=0.0, reduction="mean"):
    x, target, weight = inputs
    counts = target != ignore_index
    p, hot, w, w_label = _table(x, target, weight, counts)
    found = _dense(p, hot, w, w_label, label_smoothing) * (dy / w_label.sum())
    return _cost(inputs, ignore_index, label_smoothing, reduction), (_back(found, counts), None, None)


@wrong(
    RULE,
    "rows past the first 64 are compared with the targets of the first chunk of 64",
    "64",
    "target|label|class|chunk|block|past|first|row|beyond|batch",
)
def targets_of_the_first_chunk(inputs, dy, ignore_index=-100, label_smoothing=0.0, reduction="mean"):
    x, target, weight = inputs
    counts = target != ignore_index
    p, hot, w, w_label = _table(x, target, weight, counts)
    s = dy / w_label.sum() if reduction == "mean" else dy
    chunks = []
    for start in range(0, x.shape[0], 64):
        rows = slice(start, min(start + 64, x.shape[0]))
        same = slice(0, rows.stop - rows.start)
        chunks.append(_dense(p[rows], hot[same], w, w_label[same], label_smoothing) * counts[same, ..., None])
    found = s * torch.cat(chunks) if chunks else s * p
    return _cost(inputs, ignore_index, label_smoothing, reduction), (_back(found, counts), None, None)


@wrong(
    RULE,
    "two mistakes: the weights are forgotten in the smoothing term, and ignored rows keep their smoothing",
    "weight|w",
    "smooth|ε",
    "ignore|masked|counts|row|not count",
)
def smoothing_of_its_own(inputs, dy, ignore_index=-100, label_smoothing=0.0, reduction="mean"):
    x, target, weight = inputs
    counts = target != ignore_index
    p, hot, _, w_label = _table(x, target, weight, counts)
    k = x.shape[1]
    s = dy / w_label.sum() if reduction == "mean" else dy
    main = _back(s * (1 - label_smoothing) * w_label[..., None] * (p - hot), counts)
    side = (s * label_smoothing * (p - 1 / k)).movedim(-1, 1) if label_smoothing else 0
    return _cost(inputs, ignore_index, label_smoothing, reduction), (main + side, None, None)


@wrong(
    RULE,
    "p was written to the gradient's buffer in 16 bits before 1 was taken off at the target",
    "16 bit|16-bit|half|float16|bfloat16|rounded to",
    "p|probab|softmax|exp",
)
def probabilities_in_half(inputs, dy, ignore_index=-100, label_smoothing=0.0, reduction="mean"):
    x, target, weight = inputs
    counts = target != ignore_index
    p, hot, w, w_label = _table(x, target, weight, counts)
    found = _dense(rounded(p, torch.float16), hot, w, w_label, label_smoothing)
    s = dy / w_label.sum() if reduction == "mean" else dy
    return _cost(inputs, ignore_index, label_smoothing, reduction), (_back(s * found, counts), None, None)
