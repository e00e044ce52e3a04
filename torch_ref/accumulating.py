"""A training step that adds up .grad over micro-batches, as a candidate against the cost of the whole batch."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from manual_bp.oracle.accumulation import accumulated as of_pieces
from manual_bp.oracle.accumulation.pieces import Lengths
from manual_bp.rule import Vjp
from torch_ref.modules import target_of

Step = Callable[..., Any]
"""(module, *batch) -> the cost of the whole batch; it leaves the gradients in .grad."""


def accumulated(step: Step, module: nn.Module, pieces: Lengths = 2, constant: tuple[str, ...] = ()) -> Vjp:
    """The Vjp of a training step, for `compare` against the module that gives the cost of the whole batch.

    step: `step(module, *batch)` takes the batch apart as it does in training, calls backward for each piece, with
        zero_grad, division and clipping as they stand there, and returns the cost of the whole batch (a tensor or a
        number).  It makes no step of an optimiser.  What is then in .grad of the parameters, and of what of the batch
        is floating-point, is judged; where nothing is, None came.
    module: forward takes the batch and returns the cost, or is whatever `step` calls.  Every call is on a copy, whose
        parameters get the inputs of their names ("weight", "0.weight" or "net_weight" for "net.weight").
    constant: inputs by name that the step is given as they are, and asks no gradient of, such as targets that are
        numbers; `compare` is told the same: inputs={"target": ((5, 2), Input(normal(), cotangent=False))}.
    pieces: how the step takes the batch apart, for the words (see `manual_bp.oracle.accumulated`).

    Raises ValueError for a module that normalises over the batch in training (the statistics of a piece are rightly
    not those of the whole, so no sum of pieces is the whole's gradient), for a constant that is no input, and for a
    step that returns no cost.
    """
    normalising = [
        name for name, part in module.named_modules() if isinstance(part, _BatchNorm) and (part.training or _own(part))
    ]
    if normalising:
        raise ValueError(
            f"accumulated: {normalising[0] or type(module).__name__} normalises each piece by the statistics of the "
            "piece, rightly, and so gradients of pieces do not add up to that of the whole batch; nothing can be "
            "judged. Pass module.eval(), or a module without batch norm (group norm, layer norm)."
        )

    def named(names: tuple[str, ...]) -> Vjp:
        tensors = [name for name, _ in (*module.named_parameters(), *module.named_buffers())]
        targets = [target_of(module, name, tensors) for name in names]
        if unknown := [name for name in constant if name not in names]:
            raise ValueError(f"accumulated: constant must name inputs of {list(names)}; came {unknown[0]!r}.")
        fixed = [name in constant for name in names]

        def stepped(inputs: tuple[Tensor | None, ...], dy: Any) -> tuple[Any, tuple[Tensor | None, ...]]:
            with torch.inference_mode(False), torch.enable_grad():
                return _run(step, copy.deepcopy(module), targets, fixed, inputs, dy)

        return of_pieces(stepped, pieces, whole=True)  # type: ignore[arg-type]  # a step has no hyperparameters

    def unbound(inputs: Any, dy: Any) -> Any:
        raise TypeError("torch_ref.accumulated(...) knows no names of its own: pass it to compare or check.")

    vars(unbound)["named"] = named
    vars(unbound)["pieces"] = pieces
    return unbound  # type: ignore[return-value]


def _own(part: _BatchNorm) -> bool:
    """Whether it has no running statistics, and so takes those of the batch in eval too."""
    return part.running_mean is None


def _run(
    step: Step,
    module: nn.Module,
    targets: list[str | None],
    fixed: list[bool],
    inputs: tuple[Tensor | None, ...],
    dy: Tensor,
) -> tuple[Tensor, tuple[Tensor | None, ...]]:
    leaves: list[Tensor | None] = []
    like = next((x for x in inputs if x is not None and x.is_floating_point()), dy)
    module.to(like.device, like.dtype)
    own = {**dict(module.named_parameters()), **dict(module.named_buffers())}
    batch = []
    for x, target, is_constant in zip(inputs, targets, fixed, strict=True):
        if target is None:
            follows = x is not None and x.is_floating_point() and not is_constant
            leaf = None if x is None else x.detach().clone().requires_grad_(follows)
            batch.append(leaf)
        elif x is not None:
            leaf = own[target]
            leaf.data = x.detach().clone()
        leaves.append(leaf)
    module.zero_grad()
    cost = step(module, *batch)
    if cost is None or torch.as_tensor(cost).numel() != 1:
        raise ValueError(f"step must return the cost of the whole batch, one number; came {cost!r:.60}.")
    y = torch.as_tensor(cost).detach().to(like.device, like.dtype).reshape(())
    # The step's own backward starts from 1; what is wrong with it is so at any scale but that of clipping.
    return y, tuple(None if leaf is None or leaf.grad is None else dy * leaf.grad for leaf in leaves)
