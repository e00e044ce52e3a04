"""Derivatives of formulas, by torch.autograd, seen by whoever watches."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor
from torch._C import DispatchKey, DispatchKeySet

from torch_ref.paired import Paired

Formula = Callable[..., Any]


def derivative_of(op: Any, function: Any, formula: Formula) -> Formula:
    """The operation that is the derivative of a function, by torch.autograd of the function's formula.

    Its arguments are dy and, by the same names, those of the function.  An input that is not among them is one in which
    the function is linear: then only its size is there.
    """
    taken = [argument.name for argument in op._schema.arguments]
    own = function._schema.arguments

    def backward(*args: Any, **kwargs: Any) -> Any:
        given = {**dict(zip(taken, args, strict=False)), **kwargs}
        dy = given[taken[0]]
        values = {a.name: given.get(a.name, a.default_value) for a in own}
        if "input_size" in given:
            values[own[0].name] = dy.new_zeros(given["input_size"])
        if "output_size" in values and values["output_size"] is None:
            values["output_size"] = list(dy.shape[2 - values[own[0].name].ndim :])
        mask = given.get("output_mask", [True] * len(op._schema.returns))
        names = [a.name for a, due in zip(own, mask, strict=False) if due]

        def called(**leaves: Tensor) -> Any:
            positional = [leaves.get(a.name, values[a.name]) for a in own if not a.kwarg_only]
            return formula(*positional, **{a.name: values[a.name] for a in own if a.kwarg_only})

        found = iter(pulled_back(called, {name: values[name] for name in names}, dy))
        grads = tuple(next(found) if due else None for due in mask)
        return grads if len(grads) > 1 else grads[0]

    return backward


def pulled_back(formula: Formula, inputs: dict[str, Tensor], dy: Tensor) -> Sequence[Tensor]:
    """The cotangents of inputs; whoever watches sees what autograd does.

    Within the dispatcher, where an operation is taken apart, autograd is switched off.
    """
    excluded = torch._C._dispatch_tls_local_exclude_set()
    for key in ("AutogradFunctionality", "AutogradCPU", "AutogradCUDA", "AutogradOther", "ADInplaceOrView"):
        excluded = excluded - DispatchKeySet(getattr(DispatchKey, key))
    with torch._C._ForceDispatchKeyGuard(torch._C._dispatch_tls_local_include_set(), excluded), torch.enable_grad():
        leaves = {name: x.detach().requires_grad_() for name, x in inputs.items()}
        y = formula(**leaves)
        y = y[0] if isinstance(y, tuple) else y
        found = torch.autograd.grad(Paired.apply(y, dy), list(leaves.values()), allow_unused=True)  # type: ignore[no-untyped-call]
    return [torch.zeros_like(x) if g is None else g for g, x in zip(found, inputs.values(), strict=True)]
