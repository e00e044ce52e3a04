"""Wrong backwards of the activations of one input that have no gate of their own, and of maxout."""

import torch
import torch.nn.functional as F

from benchmarks.diagnosis_bank.program import OUT, rounded, wrong


@wrong("elu", "the left slope is y + 1 where y + alpha is due", "alpha", OUT + "|1|default|hyperparameter|y + 1")
def y_plus_one(inputs, dy, alpha=1.0):
    (x,) = inputs
    y = F.elu(x, alpha)
    return y, (torch.where(x > 0, dy, dy * (y + 1)),)


@wrong(
    "elu",
    "the left slope is e^(x/alpha), that of CELU",
    "alpha",
    "x/alpha|x / alpha|exponent|celu|divi|inside|exp|argument",
)
def slope_of_celu(inputs, dy, alpha=1.0):
    (x,) = inputs
    return F.elu(x, alpha), (torch.where(x > 0, dy, dy * torch.exp(x.clamp(max=0) / alpha)),)


@wrong(
    "elu",
    "the branch is read off y, which is positive on both sides for a negative alpha",
    "y > 0|off y|negative alpha|alpha < 0|branch|mask|y in place|of y",
    "alpha|branch|mask|in place|side",
)
def branch_of_y(inputs, dy, alpha=1.0):
    (x,) = inputs
    y = F.elu(x, alpha)
    return y, (dy * torch.where(y > 0, torch.ones_like(y), alpha * torch.exp(x.clamp(max=0))),)


@wrong(
    "leaky_relu",
    "max(dy, slope dy) is taken: dy's sign decides, not x's",
    "dy|max|larger|cotangent",
    "sign|max|mask|dy > 0|larger|branch|in place|where dy|another",
)
def larger_of_both(inputs, dy, negative_slope=0.01):
    (x,) = inputs
    return F.leaky_relu(x, negative_slope), (torch.maximum(dy, negative_slope * dy),)


@wrong(
    "leaky_relu",
    "the branch is read off y, in place: wrong where the slope is negative",
    "y|negative slope|negative_slope|slope < 0|output",
    "y > 0|branch|mask|negative|another|in place|sign",
)
def in_place_version(inputs, dy, negative_slope=0.01):
    (x,) = inputs
    y = F.leaky_relu(x, negative_slope)
    return y, (torch.where(y > 0, dy, dy * negative_slope),)


@wrong(
    "relu",
    "negative dy is dropped as well (guided backpropagation)",
    "dy|cotangent",
    "negative|positive|sign|clamp|max|> 0|mask",
)
def guided(inputs, dy):
    (x,) = inputs
    return x.clamp(min=0), (torch.where((x > 0) & (dy > 0), dy, 0),)


@wrong("relu", "above 6 the gradient is 0, as of ReLU6", "6|large|above|clamp|upper")
def relu6_behind_relu(inputs, dy):
    (x,) = inputs
    return x.clamp(min=0), (torch.where((x > 0) & (x < 6), dy, 0),)


@wrong(
    "sigmoid",
    "σ is applied once more to the saved y",
    "twice|again|once more|y in place|y instead|y for|σ(y)|sigmoid(y)|forward's y|saved y|of y",
)
def sigmoid_of_the_output(inputs, dy):
    (x,) = inputs
    y = torch.sigmoid(x)
    s = torch.sigmoid(y)
    return y, (dy * s * torch.sigmoid(-y),)


@wrong(
    "sigmoid",
    "backward has the hard sigmoid: ⅙ between −3 and 3, else 0",
    "1/6|0.1666|hard|3|constant|linear|clamp",
)
def hard_behind_soft(inputs, dy):
    (x,) = inputs
    return torch.sigmoid(x), (torch.where(x.abs() < 3, dy / 6, 0),)


@wrong("tanh", "y was saved in bfloat16", "16 bit|16-bit|half|float16|bfloat16|rounded to")
def tanh_of_a_short_output(inputs, dy):
    (x,) = inputs
    y = torch.tanh(x)
    short = rounded(y, torch.bfloat16)
    return y, (dy * (1 - short * short),)


@wrong(
    "tanh",
    "1 − y in place of 1 − y²",
    "square|1 - y|power|y²",
)
def one_minus_y(inputs, dy):
    (x,) = inputs
    y = torch.tanh(x)
    return y, (dy - dy * y,)


def _pieces(x, pieces):
    return x.reshape(*x.shape[:-1], x.shape[-1] // pieces, pieces)


@wrong(
    "maxout",
    "backward takes the pieces of a unit to lie a number of units apart, not side by side",
    "layout|transpos|reshape|order|interleav|stride|consecutive|side by side|apart|axis|axes",
)
def pieces_apart(inputs, dy, pieces):
    (x,) = inputs
    y, winner = _pieces(x, pieces).max(-1)
    dx = torch.zeros_like(x).reshape(*x.shape[:-1], pieces, x.shape[-1] // pieces)
    dx.scatter_(-2, winner.unsqueeze(-2), dy.unsqueeze(-2))
    return y, (dx.reshape(x.shape),)


@wrong(
    "maxout",
    "every piece that equals the maximum gets all of dy",
    "tie|tied|equal|all maxima|several|each of|every piece|==|>=|≥",
)
def all_the_maxima(inputs, dy, pieces):
    (x,) = inputs
    split = _pieces(x, pieces)
    y = split.amax(-1)
    return y, (((split == y[..., None]) * dy[..., None]).reshape(x.shape),)


@wrong(
    "maxout",
    "the search begins at 0: a unit whose pieces are all negative has no winner",
    "negative|0|zero|below",
    "winner|clamp|nothing|no gradient|max",
)
def search_from_zero(inputs, dy, pieces):
    (x,) = inputs
    split = _pieces(x, pieces)
    best, winner = split.max(-1)
    dx = torch.zeros_like(split)
    dx.scatter_(-1, winner[..., None], torch.where(best > 0, dy, 0)[..., None])
    return best, (dx.reshape(x.shape),)


@wrong(
    "maxout",
    "dy goes to the piece that is largest in size",
    "abs|size|magnitude|another winner|other winner|wrong winner|sign",
)
def largest_in_size(inputs, dy, pieces):
    (x,) = inputs
    split = _pieces(x, pieces)
    winner = split.abs().argmax(-1, keepdim=True)
    dx = torch.zeros_like(split).scatter(-1, winner, dy[..., None])
    return split.amax(-1), (dx.reshape(x.shape),)
