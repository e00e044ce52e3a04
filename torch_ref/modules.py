"""An nn.Module as a function of its inputs, parameters and buffers, by name."""

from __future__ import annotations

import copy
import inspect
from collections.abc import Iterator, Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import _disable_current_modes

from manual_bp.wording import as_identifier

Named = Mapping[str, Tensor]


class Bound:
    """`module` as a function of the inputs of these names, in this order.

    A name of a parameter or buffer, or the last part of one ("weight" of "0.weight"), stands for it: it is replaced
    for a call, whatever sizes the module was made with.  One that is absent is None in the module too, as where it was
    made without.  The other inputs go to forward, in order.  Hyperparameters are what forward takes by name, and the
    numbers among the module's attributes (alpha, eps, p), set for a call.

    Every call is on a copy in the module's mode (train or eval), and so leaves it as it was.  Parameters and buffers
    that are no inputs keep their values, in the inputs' dtype; one that had the shape of a replaced one gets the new
    shape, its values repeated.

    Raises ValueError if a name fits nothing, or more than one thing, or the module draws random numbers of its own.
    """

    def __init__(self, module: nn.Module, names: tuple[str, ...]) -> None:
        self.module = module
        tensors = {**dict(module.named_parameters()), **dict(module.named_buffers())}
        self.targets = {name: target_of(module, name, list(tensors)) for name in names}
        parameters = _parameters(module)
        positional = [n for n, target in self.targets.items() if target is None]
        takes = [p for p in parameters if p.kind in (p.POSITIONAL_ONLY, p.POSITIONAL_OR_KEYWORD)]
        required = [p.name for p in takes if p.default is p.empty]
        anything = any(p.kind is p.VAR_POSITIONAL for p in parameters)
        if len(positional) < len(required) or (len(positional) > len(takes) and not anything):
            self._refuse(positional, required or [p.name for p in takes], list(tensors))
        self.own = {p.name for p in parameters}
        self.__signature__ = inspect.Signature(
            [inspect.Parameter(f"input{i}", inspect.Parameter.POSITIONAL_ONLY) for i in range(len(names))]
            + [p.replace(kind=p.KEYWORD_ONLY) for p in takes[len(positional) :]]
            + [p for p in parameters if p.kind is p.KEYWORD_ONLY]
            + [
                inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=getattr(owner, name))
                for name, owner in _numbers(module).items()
                if name not in self.own and name not in names
            ]
        )

    def __call__(self, *inputs: Tensor | None, **hyper: Any) -> Tensor:
        module = _copied(self.module)
        named = dict(zip(self.targets, inputs, strict=True))
        arguments = [named[name] for name, target in self.targets.items() if target is None]
        # A buffer is a constant: a statistic has no gradient, and gets none.  The module may write into it.
        constants = {name for name, _ in module.named_buffers()}
        replaced: dict[str, Tensor] = {}
        for name, target in self.targets.items():
            x = named[name]
            if target is not None and x is None:
                owner, _, own = target.rpartition(".")
                setattr(module.get_submodule(owner), own, None)
            elif target is not None and x is not None:
                replaced[target] = x.detach().clone() if target in constants else x
        like = next((x for x in inputs if x is not None and x.is_floating_point()), None)
        rest = dict(_fitted(module, replaced, like))
        owners = _numbers(module)
        taken = {name: value for name, value in hyper.items() if name in self.own}
        for name in hyper.keys() - taken.keys():
            if name not in owners:
                raise TypeError(f"{type(module).__name__} takes no {name}")
            setattr(owners[name], name, hyper[name])
        _resize_shape(module, arguments)
        result: Tensor = torch.func.functional_call(module, {**rest, **replaced}, tuple(arguments), taken)
        return result

    def _refuse(self, came: list[str], takes: list[str], tensors: list[str]) -> None:
        kind = type(self.module).__name__
        lost = came[len(takes) :]
        if not lost:
            raise ValueError(f"{kind}.forward takes {takes}; of the inputs {list(self.targets)} only {came} are left.")
        if "mask" in lost:
            raise ValueError(
                f"{kind} draws its own mask, so the input 'mask' cannot be given to it and nothing can be compared; "
                "write the function with its mask: torch_ref.vjp(lambda x, mask, p: ...), or compare with mask='own'."
            )
        raise ValueError(
            f"{kind} takes no {', '.join(lost)}: forward takes {takes}, and its parameters and buffers are "
            f"{tensors or 'none'}. Make the module with them, or say what each input is: "
            f"torch_ref.vjp(module, inputs=[...]) with one name of these for each of {list(self.targets)}."
        )


def _parameters(module: nn.Module) -> list[inspect.Parameter]:
    return list(inspect.signature(module.forward).parameters.values())


def target_of(module: nn.Module, name: str, tensors: list[str]) -> str | None:
    """The parameter or buffer that a name means; None if it is an argument of forward."""
    if name in tensors:
        return name
    found = [full for full in tensors if name in (full.rpartition(".")[2], as_identifier(full))]
    if len(found) > 1:
        raise ValueError(
            f"{type(module).__name__}: {name!r} may be any of {found}; say which: torch_ref.vjp(module, inputs=[...])."
        )
    return found[0] if found else None


def _numbers(module: nn.Module) -> dict[str, nn.Module]:
    """The attributes that are numbers, each with the only submodule that has it."""
    found: dict[str, list[nn.Module]] = {}
    for part in module.modules():
        for name, value in vars(part).items():
            if isinstance(value, int | float) and not isinstance(value, bool) and not name.startswith("_"):
                found.setdefault(name, []).append(part)
    return {name: owners[0] for name, owners in found.items() if len(owners) == 1}


def _copied(module: nn.Module) -> nn.Module:
    """A copy that shares its parameters with the module and nothing else."""
    shared: dict[int, Any] = {id(p): p for p in module.parameters()}
    try:
        with _disable_current_modes():  # copying is no part of what is recorded of a call
            return copy.deepcopy(module, shared)
    except (RuntimeError, TypeError) as error:  # it holds a lock, or a tensor that autograd made
        raise ValueError(
            f"{type(module).__name__} is called on copies, and cannot be copied: {error}. Wrap a function that calls "
            "it: torch_ref.vjp(lambda x: module(x))."
        ) from error


def _resize_shape(module: nn.Module, arguments: list[Tensor | None]) -> None:
    """A layer norm holds the shape of what it normalises, beside its parameters."""
    for part in module.modules():
        shape = getattr(part, "normalized_shape", None)
        if isinstance(shape, tuple) and arguments and arguments[0] is not None and arguments[0].ndim >= len(shape):
            part.normalized_shape = tuple(arguments[0].shape[-len(shape) :])  # type: ignore[assignment]


def _fitted(module: nn.Module, replaced: Named, like: Tensor | None) -> Iterator[tuple[str, Tensor]]:
    """The parameters and buffers that are not replaced: apart from the module's own, and of the new sizes."""
    own = {**dict(module.named_parameters()), **dict(module.named_buffers())}
    new = {tuple(own[name].shape): tuple(x.shape) for name, x in replaced.items()}
    for name, x in own.items():
        if name in replaced:
            continue
        fitted = x.detach().clone()
        shape = new.get(tuple(x.shape), tuple(x.shape))
        if shape != tuple(x.shape) and x.numel():
            count = torch.Size(shape).numel()
            fitted = fitted.reshape(-1).repeat(-(-count // x.numel()))[:count].reshape(shape)
        yield name, fitted.to(like.device, like.dtype) if like is not None and x.is_floating_point() else fitted
