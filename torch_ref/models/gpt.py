from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from torch_ref.models.observing import ignore

Tape = Callable[..., Tensor]


class Attention(nn.Module):
    """x + output(heads(norm(x))), with nn.Linear and F.scaled_dot_product_attention."""

    def __init__(self, width: int, heads: int, kv_heads: int, norm: Callable[[], nn.Module], dropout: float) -> None:
        super().__init__()
        self.norm = norm()
        sizes = {"q": heads, "k": kv_heads, "v": kv_heads}
        self.heads = nn.ModuleDict({name: nn.Linear(width, n * (width // heads)) for name, n in sizes.items()})
        self.output = nn.Linear(width, width)
        self.grouped, self.per_head, self.p = heads != kv_heads, width // heads, dropout

    def forward(
        self, x: Tensor, name: str, masks: Mapping[str, Tensor], tape: Tape, table: tuple[Tensor, Tensor] | None
    ) -> Tensor:
        normed = tape(f"{name}.norm", "y", self.norm(x))
        q, k, v = (self.project(part, normed, f"{name}.heads.{part}", tape, table) for part in ("q", "k", "v"))
        y = F.scaled_dot_product_attention(q, k, v, is_causal=True, enable_gqa=self.grouped)
        y = tape(f"{name}.heads", "y", y).transpose(1, 2).flatten(2)
        y = tape(f"{name}.output", "z", self.output(y))
        return tape(name, "y", x + dropped(y, self.p, f"{name}.dropout", masks, tape))

    def project(self, part: str, x: Tensor, name: str, tape: Tape, table: tuple[Tensor, Tensor] | None) -> Tensor:
        z = tape(name, "z", self.heads[part](x))
        y = z.view(*z.shape[:2], -1, self.per_head).transpose(1, 2)
        return y if table is None or part == "v" else tape(f"{name}.rotary", "y", turned(y, *table))


class Feedforward(nn.Module):
    """x + narrow(gelu(widen(norm(x)))), or with silu(gate) · up inside."""

    def __init__(self, width: int, kind: str, approximate: str, norm: Callable[[], nn.Module], dropout: float) -> None:
        super().__init__()
        self.norm = norm()
        hidden = 4 * width if kind == "gelu" else 8 * width // 3
        if kind == "gelu":
            self.widen, self.gelu = nn.Linear(width, hidden), nn.GELU(approximate)
        else:
            self.swiglu = nn.ModuleDict({name: nn.Linear(width, hidden) for name in ("gate", "up")})
        self.narrow = nn.Linear(hidden, width)
        self.kind, self.p = kind, dropout

    def forward(self, x: Tensor, name: str, masks: Mapping[str, Tensor], tape: Tape) -> Tensor:
        y = tape(f"{name}.norm", "y", self.norm(x))
        if self.kind == "gelu":
            y = tape(f"{name}.gelu", "a", self.gelu(tape(f"{name}.widen", "z", self.widen(y))))
        else:
            gate, up = (tape(f"{name}.swiglu.{part}", "z", self.swiglu[part](y)) for part in ("gate", "up"))
            y = tape(f"{name}.swiglu", "y", F.silu(gate) * up)
        y = tape(f"{name}.narrow", "z", self.narrow(y))
        return tape(name, "y", x + dropped(y, self.p, f"{name}.dropout", masks, tape))


class Table(nn.Module):
    """Cosines and sines of the angles by which each position turns each pair."""

    cos: Tensor
    sin: Tensor

    def __init__(self, context: int, width: int) -> None:
        super().__init__()
        rates = 1 / 10000.0 ** (torch.arange(0, width, 2, dtype=torch.float64) / width)
        angles = torch.outer(torch.arange(context, dtype=torch.float64), rates)
        self.register_buffer("cos", angles.cos().to(torch.get_default_dtype()))
        self.register_buffer("sin", angles.sin().to(torch.get_default_dtype()))

    def forward(self, positions: int) -> tuple[Tensor, Tensor]:
        return self.cos[:positions], self.sin[:positions]


class GPT(nn.Module):
    """manual_bp.models.gpt: parameters embedding.tokens.weight, block1.attention.norm.weight, ..."""

    def __init__(
        self,
        vocabulary: int,
        context: int,
        width: int,
        heads: int,
        depth: int,
        *,
        norm: str = "layer",
        feedforward: str = "gelu",
        position: str = "learned",
        kv_heads: int | None = None,
        tied: bool = True,
        dropout: float = 0.0,
        approximate: str = "none",
    ) -> None:
        super().__init__()
        per_head = width // heads

        def normal() -> nn.Module:
            return nn.LayerNorm(width) if norm == "layer" else nn.RMSNorm(width, eps=1e-6)

        tokens = nn.Embedding(vocabulary, width)
        self.embedding = nn.ModuleDict({"tokens": tokens})
        self.rotary = Table(context, per_head) if position == "rope" else None
        if self.rotary is None:
            self.embedding["positions"] = nn.Embedding(context, width)
        self.depth, self.p = depth, dropout
        for number in range(1, depth + 1):
            block = {
                "attention": Attention(width, heads, kv_heads or heads, normal, dropout),
                "feedforward": Feedforward(width, feedforward, approximate, normal, dropout),
            }
            self.add_module(f"block{number}", nn.ModuleDict(block))
        self.norm = normal()
        self.head = nn.Linear(width, vocabulary, bias=False)
        if tied:
            self.head.weight = tokens.weight

    def forward(self, x: Tensor, masks: Mapping[str, Tensor] | None = None, tape: Tape = ignore) -> Tensor:
        masks = masks or {}
        y = tape("embedding.tokens", "y", self.embedding["tokens"](x))
        if self.rotary is None:
            places = torch.arange(x.shape[1], device=x.device).expand(x.shape)
            y = tape("embedding", "y", y + tape("embedding.positions", "y", self.embedding["positions"](places)))
        y = dropped(y, self.p, "dropout", masks, tape)
        table = None if self.rotary is None else self.rotary(x.shape[1])
        for number in range(1, self.depth + 1):
            block: Any = self.get_submodule(f"block{number}")
            y = block["attention"](y, f"block{number}.attention", masks, tape, table)
            y = block["feedforward"](y, f"block{number}.feedforward", masks, tape)
        y = tape("norm", "y", self.norm(y))
        return tape("head", "z", self.head(y)).transpose(1, 2)


def turned(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Rotary embedding: the halves of a row are the real and the imaginary part of as many complex numbers."""
    real, imaginary = x.chunk(2, -1)
    z = torch.complex(real, imaginary) * torch.complex(cos, sin)
    return torch.cat((z.real, z.imag), -1)


def dropped(y: Tensor, p: float, name: str, masks: Mapping[str, Tensor], tape: Tape) -> Tensor:
    """nn.Dropout draws its own mask; the comparison needs the one that the other engine used."""
    return tape(name, "y", torch.where(masks[f"{name}.mask"], y / (1 - p), 0)) if p else y
