"""Axes of a batch with channels: (batch, channels, *space).  A channel is a value of axis 1."""

import torch
from torch import Tensor


def shared_axes(x: Tensor) -> tuple[int, ...]:
    """The axes over which the values of one channel lie."""
    return (0, *range(2, x.ndim))


def count(x: Tensor) -> int:
    """How many values a channel holds."""
    return x.shape[0] * x.shape[2:].numel()


def like(per_channel: Tensor, x: Tensor) -> Tensor:
    """One value per channel, shaped so that it meets x on axis 1."""
    return per_channel.reshape(per_channel.shape + (1,) * (x.ndim - 2))


def channel_sum(x: Tensor) -> Tensor:
    """Σ over each channel; shape (channels,)."""
    return torch.sum(x, shared_axes(x))


def channel_mean(x: Tensor) -> Tensor:
    """The mean of each channel; shape (channels,)."""
    return torch.mean(x, shared_axes(x))
