"""The largest of each unit's consecutive pieces."""

import numpy as np
import torch

from tests.oracle.bank.entry import Bank

bank = Bank("maxout")


def split(x, pieces):
    return x.reshape(*x.shape[:-1], x.shape[-1] // pieces, pieces)


def value(x, pieces):
    return torch.max(split(x, pieces), -1).values if x.numel() else split(x, pieces).sum(-1)


def winners(x, pieces):
    return split(x, pieces).argmax(-1, keepdim=True) if x.numel() else split(x, pieces)[..., :1].long()


def scattered(x, dy, index, pieces):
    return torch.zeros_like(split(x, pieces)).scatter(-1, index, dy[..., None]).reshape(x.shape)


@bank.right()
def scatter(x, dy, pieces):
    return value(x, pieces), scattered(x, dy, winners(x, pieces), pieces)


@bank.right()
def one_hot(x, dy, pieces):
    hot = torch.nn.functional.one_hot(winners(x, pieces)[..., 0], pieces).bool()
    return value(x, pieces), torch.where(hot, dy[..., None], torch.zeros_like(dy)[..., None]).reshape(x.shape)


@bank.right("numpy")
def put_along_axis(x, dy, pieces):
    z = x.reshape(*x.shape[:-1], x.shape[-1] // pieces, pieces)
    dz = np.zeros_like(z)
    if not z.size:
        return z.sum(-1), dz.reshape(x.shape)
    winner = np.argmax(z, axis=-1)[..., None]
    np.put_along_axis(dz, winner, dy[..., None], axis=-1)
    return np.take_along_axis(z, winner, axis=-1)[..., 0], dz.reshape(x.shape)


@bank.right()
def running_maximum(x, dy, pieces):
    z = split(x, pieces)
    best, index = z[..., 0], torch.zeros(z.shape[:-1], dtype=torch.long)
    for q in range(1, pieces):
        better = (z[..., q] > best) | (z[..., q].isnan() & ~best.isnan())
        best, index = torch.where(better, z[..., q], best), torch.where(better, q, index)
    return best, torch.stack([torch.where(index == q, dy, 0) for q in range(pieces)], -1).reshape(x.shape)


@bank.wrong("axis", r"every piece", "numpy")
def routed_to_all(x, dy, pieces):
    return x.reshape(*x.shape[:-1], -1, pieces).max(-1), np.repeat(dy, pieces, axis=-1)


@bank.wrong("mean for sum", r"shared by the pieces|1/pieces|mean")
def averaged_over_pieces(x, dy, pieces):
    return value(x, pieces), torch.repeat_interleave(dy, pieces, -1) / pieces


@bank.wrong("axis", r"interleaved|order|transposed")
def pieces_with_the_wrong_stride(x, dy, pieces):
    dz = scattered(x, dy, winners(x, pieces), pieces).reshape(*x.shape[:-1], -1, pieces)
    return value(x, pieces), dz.mT.reshape(x.shape)


@bank.wrong("branch", r"smallest piece|which extremum", "numpy")
def routed_to_the_smallest(x, dy, pieces):
    z = x.reshape(*x.shape[:-1], x.shape[-1] // pieces, pieces)
    dz = np.zeros_like(z)
    np.put_along_axis(dz, np.argmin(z, -1)[..., None], dy[..., None], -1)
    return z.max(-1), dz.reshape(x.shape)


# The first is number 0, and of ones it wins.
@bank.wrong("branch", r"first|another order|wrong place|x is ignored|`winner` taken for 0|`x` taken for 1 in `winner`")
def routed_to_the_first(x, dy, pieces):
    return value(x, pieces), scattered(x, dy, 0 * winners(x, pieces), pieces)


@bank.wrong("branch", r"another order|other order|rolled|shifted|wrong place|elsewhere|off by one")
def index_counted_from_one(x, dy, pieces):
    return value(x, pieces), scattered(x, dy, (winners(x, pieces) + 1) % pieces, pieces)


@bank.wrong("branch", r"another order|other order|wrong place|\|x\||absolute|magnitude|elsewhere")
def winner_by_magnitude(x, dy, pieces):
    return value(x, pieces), scattered(x, dy, winners(x.abs(), pieces), pieces)


@bank.wrong("cotangent", r"dropped|for ones|taken for 1|`dy` left out|forgets dy")
def one_hot_alone(x, dy, pieces):
    return value(x, pieces), scattered(x, torch.ones_like(dy), winners(x, pieces), pieces)


@bank.wrong("scale", r"pieces")
def scaled_by_the_number_of_pieces(x, dy, pieces):
    return value(x, pieces), pieces * scattered(x, dy, winners(x, pieces), pieces)


@bank.wrong("flip", r"wrong sign")
def minus(x, dy, pieces):
    return value(x, pieces), -scattered(x, dy, winners(x, pieces), pieces)


@bank.wrong("formula", r"dy·[xy]|times [xy]|softmax|factor")
def times_the_maximum(x, dy, pieces):
    y = value(x, pieces)
    return y, scattered(x, dy * y, winners(x, pieces), pieces)


@bank.wrong("formula", r"softmax")
def softmax_routing(x, dy, pieces):
    return value(x, pieces), (dy[..., None] * torch.softmax(split(x, pieces), -1)).reshape(x.shape)


@bank.wrong("branch", r"every tied piece|ties", "numpy")
def equals_the_maximum(x, dy, pieces):
    z = x.reshape(*x.shape[:-1], x.shape[-1] // pieces, pieces)
    y = z.max(-1)
    return y, np.where(z == y[..., None], dy[..., None], 0).reshape(x.shape)


@bank.wrong("order", r"end|another order|flipped|reversed")
def units_reversed(x, dy, pieces):
    dz = scattered(x, dy, winners(x, pieces), pieces)
    return value(x, pieces), dz.flip(-1)


@bank.wrong("drop", r"0 everywhere")
def nothing(x, dy, pieces):
    return value(x, pieces), torch.zeros_like(x)
