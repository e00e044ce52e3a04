from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor


def scaled_dot_product_attention(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    mask: Tensor | None = None,
    *,
    causal: bool = False,
    alignment: Literal["top-left", "bottom-right"] = "top-left",
    scale: float | None = None,
) -> Tensor:
    queries, keys = q.shape[-2], k.shape[-2]
    if causal and mask is None and (alignment == "top-left" or queries == keys):  # what torch means by is_causal
        return F.scaled_dot_product_attention(q, k, v, is_causal=True, scale=scale, enable_gqa=True)
    if causal:
        ahead = keys - queries if alignment == "bottom-right" else 0
        order = torch.ones(queries, keys, dtype=torch.bool, device=q.device).tril(ahead)
        mask = order if mask is None else mask & order
    return F.scaled_dot_product_attention(q, k, v, attn_mask=mask, scale=scale, enable_gqa=True)
