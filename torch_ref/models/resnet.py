from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import torch.nn.functional as F
from torch import Tensor, nn

from torch_ref.models.observing import ignore

Tape = Callable[..., Tensor]


def convolution(channels: int, filters: int, kernel: int, stride: int = 1) -> nn.Conv2d:
    return nn.Conv2d(channels, filters, kernel, stride, padding=kernel // 2, bias=False)


class Normed(nn.Module):
    """batch_norm(convolution(x)), with torch's own modules."""

    def __init__(self, channels: int, filters: int, kernel: int, stride: int, momentum: float | None) -> None:
        super().__init__()
        self.convolution = convolution(channels, filters, kernel, stride)
        self.batch_norm = nn.BatchNorm2d(filters, momentum=momentum)

    def forward(self, x: Tensor, name: str, tape: Tape) -> Tensor:
        return tape(f"{name}.batch_norm", "y", self.batch_norm(tape(f"{name}.convolution", "z", self.convolution(x))))


class Block(nn.Module):
    """relu(shortcut(x) + f(x))."""

    def __init__(self, channels: int, filters: int, stride: int, momentum: float | None) -> None:
        super().__init__()
        same = stride == 1 and channels == filters
        self.shortcut = None if same else Normed(channels, filters, 1, stride, momentum)
        self.convolution1 = convolution(channels, filters, 3, stride)
        self.batch_norm1 = nn.BatchNorm2d(filters, momentum=momentum)
        self.convolution2 = convolution(filters, filters, 3)
        self.batch_norm2 = nn.BatchNorm2d(filters, momentum=momentum)

    def forward(self, x: Tensor, name: str, tape: Tape) -> Tensor:
        short = x if self.shortcut is None else self.shortcut(x, f"{name}.shortcut", tape)
        y = tape(f"{name}.batch_norm1", "y", self.batch_norm1(tape(f"{name}.convolution1", "z", self.convolution1(x))))
        y = tape(f"{name}.activation1", "a", F.relu(y))
        y = tape(f"{name}.batch_norm2", "y", self.batch_norm2(tape(f"{name}.convolution2", "z", self.convolution2(y))))
        return tape(f"{name}.activation2", "a", F.relu(tape(name, "y", short + y)))


class ResNet(nn.Module):
    """manual_bp.models.resnet: parameters stem.convolution.weight, stage1.block1.convolution1.weight, ..."""

    def __init__(
        self,
        image: Sequence[int],
        outputs: int,
        widths: Sequence[int] = (16, 32),
        blocks: int = 1,
        *,
        momentum: float | None = 0.1,
    ) -> None:
        super().__init__()
        channels = widths[0]
        self.stem = Normed(image[0], channels, 3, 1, momentum)
        self.names = []
        for stage, filters in enumerate(widths, 1):
            made = nn.ModuleDict()
            for block in range(1, blocks + 1):
                made[f"block{block}"] = Block(channels, filters, 2 if stage > 1 and block == 1 else 1, momentum)
                channels = filters
                self.names.append(f"stage{stage}.block{block}")
            self.add_module(f"stage{stage}", made)
        self.output = nn.Linear(channels, outputs)

    def forward(self, x: Tensor, masks: Mapping[str, Tensor] | None = None, tape: Tape = ignore) -> Tensor:
        x = tape("stem.activation", "a", F.relu(self.stem(x, "stem", tape)))
        for name in self.names:
            x = self.get_submodule(name)(x, name, tape)
        x = tape("pool", "y", F.adaptive_avg_pool2d(x, 1))
        return tape("output", "z", self.output(x.flatten(1)))
