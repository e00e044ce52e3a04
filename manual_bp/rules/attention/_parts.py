"""The parts of attention's right formula, of all rows at once, from which its page makes wrong ones."""

from collections.abc import Callable

import torch
from torch import Tensor

from manual_bp.rules.attention._heads import (
    all_heads,
    by_group,
    default_scale,
    for_group,
    keys_ahead,
    largest,
    not_later,
    over_group,
)

Cotangents = tuple[Tensor, Tensor, Tensor, None]


class Parts:
    """Named as the page names them: s, m, w, p, y, dp, and D along."""

    def __init__(
        self,
        q: Tensor,
        k: Tensor,
        v: Tensor,
        mask: Tensor | None,
        dy: Tensor,
        causal: bool,
        alignment: str,
        scale: float | None,
    ) -> None:
        self.queries, self.keys = q.shape[-2], k.shape[-2]
        self.heads = (k.shape[-3], q.shape[-3] // k.shape[-3])
        self.q, self.dy = by_group(q, self.heads), by_group(dy, self.heads)
        self.k, self.v = k, v
        self.scale = default_scale(q) if scale is None else scale
        self.mask, self.causal = mask, causal
        self.ahead = keys_ahead(self.queries, self.keys, alignment)
        self.s = self.scores(self.allowed())
        m = largest(self.s)
        looks = ~torch.isneginf(m)
        self.m = torch.where(looks, m, 0)
        self.w = torch.where(looks, 1 / self.rows(torch.exp(self.s - self.m)), 0)
        self.p = self.from_scores(self.s)
        self.y = for_group(self.p, v)
        self.dp = for_group(self.dy, v.mT)
        self.along = self.rows(self.dy * self.y)

    def allowed(self, ahead: int | None = None) -> Tensor:
        """Which query may look at which key, if the first may see so many more keys than its own number."""
        allowed = torch.ones(self.queries, self.keys, dtype=torch.bool, device=self.k.device)
        if self.causal:
            rows = torch.arange(self.queries, device=self.k.device)
            allowed = not_later(rows, self.keys, self.ahead if ahead is None else ahead)
        return allowed if self.mask is None else allowed & self.mask

    def scores(self, allowed: Tensor) -> Tensor:
        return torch.where(allowed, for_group(self.scale * self.q, self.k.mT), -torch.inf)

    def from_scores(self, s: Tensor) -> Tensor:
        """p, with the m and w of forward."""
        return self.w * torch.exp(s - self.m)

    def rows(self, x: Tensor) -> Tensor:
        """Σ over each row."""
        return torch.sum(x, -1, keepdim=True)

    def cotangents(
        self,
        *,
        p: Tensor | None = None,
        ds: Tensor | None = None,
        along: Tensor | float | None = None,
        scale: float | None = None,
        dq: Tensor | None = None,
        dk: Tensor | None = None,
        dv: Tensor | None = None,
        over_group: Callable[[Tensor, Tensor], Tensor] = over_group,
    ) -> Cotangents:
        """The right ones, but for what is given."""
        p = self.p if p is None else p
        ds = p * (self.dp - (self.along if along is None else along)) if ds is None else ds
        scale = self.scale if scale is None else scale
        return (
            all_heads(scale * for_group(ds, self.k)) if dq is None else dq,
            over_group(ds, scale * self.q) if dk is None else dk,
            over_group(p, self.dy) if dv is None else dv,
            None,
        )
