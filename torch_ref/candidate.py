"""torch.autograd as a candidate: what it says of any rule, as a Vjp."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Collection, Mapping, Sequence
from functools import cache
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from manual_bp.oracle.calling.adapters import take_keywords_of
from manual_bp.oracle.calling.ways import INPUTS, only, orders, without
from manual_bp.outputs import parts
from manual_bp.outputs import whole as whole_of
from manual_bp.registry import RULES
from torch_ref.functions import function
from torch_ref.modules import Bound
from torch_ref.paired import Paired

if TYPE_CHECKING:
    from manual_bp import Rule, Vjp
    from manual_bp.training.engine import Engine


def vjp(fn: Callable[..., Any], *, inputs: Sequence[str] | None = None) -> Vjp:
    """The Vjp of any autograd callable, `apply` of an autograd.Function, or nn.Module.

    `fn(*inputs, **hyper)` is run on detached copies of the floating-point inputs that require grad; an input that the
    result does not depend on gets None, and so does one that is absent (None).  It may return a tuple of tensors; then
    dy is a tuple too.

    An input of a Module is passed to its forward, unless it is named as a parameter or buffer: then it stands for that
    one (`torch_ref.modules.Bound`).  inputs: the names; by default those of the rule that it is compared with, and
    where there is none all are passed to forward.  The Module is left as it was.
    """
    if not isinstance(fn, torch.nn.Module):
        return _autograd_vjp(_by_name(fn) if _is_apply(fn) else fn)
    if inputs is not None:
        return _autograd_vjp(Bound(fn, tuple(inputs)))

    def arguments_alone(*given: Tensor, **hyper: Any) -> Tensor:
        return Bound(fn, tuple(f"argument {position}" for position in range(len(given))))(*given, **hyper)

    found = _autograd_vjp(arguments_alone)
    vars(found)["named"] = lambda names: _autograd_vjp(Bound(fn, tuple(names)))  # for `accepted.for_inputs`
    return found


Inputs = tuple[Tensor | None, ...]
Grads = tuple[Tensor | None, ...]


def _autograd_vjp(fn: Callable[..., Any]) -> Vjp:
    def autograd_vjp(inputs: Inputs, dy: Any, **hyper: Any) -> tuple[Any, Grads]:
        leaves, y = run_forward(inputs, hyper)
        return _detached(y), run_backward((leaves, y), dy)

    def run_forward(
        inputs: Inputs, hyper: Mapping[str, Any], wanted: Collection[int] = range(INPUTS)
    ) -> tuple[list[Tensor | None], Any]:
        """wanted: which inputs require grad."""
        with torch.inference_mode(False), torch.enable_grad():
            leaves = [None if x is None else x.clone() if x.is_inference() else x.detach() for x in inputs]
            for i, x in enumerate(leaves):
                if x is not None and i in wanted and x.is_floating_point():
                    x.requires_grad_()
            return leaves, fn(*leaves, **hyper)

    def run_backward(kept: Any, dy: Any, again: bool = False) -> Grads:
        """again: whether it will be called again (retain_graph)."""
        leaves, y = kept
        # Outputs and cotangents by turns; one that does not depend on the inputs adds nothing.
        paired = [(a, d) for a, d in zip(parts(y), parts(dy), strict=True) if d is not None and a.requires_grad]
        if not paired:
            return tuple(None for _ in leaves)
        with torch.inference_mode(False), torch.enable_grad():
            scalar = Paired.apply(*(x for pair in paired for x in pair))  # type: ignore[no-untyped-call]
            wanted = [x for x in leaves if x is not None and x.requires_grad]
            found = iter(torch.autograd.grad(scalar, wanted, allow_unused=True, retain_graph=again))
        return tuple(next(found) if x is not None and x.requires_grad else None for x in leaves)

    def with_some(wanted: Collection[int]) -> Vjp:
        def some(inputs: Inputs, dy: Any, **hyper: Any) -> tuple[Any, Grads]:
            leaves, y = run_forward(inputs, hyper, wanted)
            return _detached(y), run_backward((leaves, y), dy)

        return some

    def whole(inputs: Inputs, hyper: Mapping[str, Any]) -> tuple[Any, Any]:
        leaves, y = run_forward(inputs, hyper)
        return _detached(y), (leaves, y)

    ways = orders(whole, lambda kept, dy: run_backward(kept, dy, again=True))
    for position in range(INPUTS):
        ways[only(position)] = with_some({position})
        ways[without(position)] = with_some(set(range(INPUTS)) - {position})
    vars(autograd_vjp)["ways"] = ways
    for vjp in (autograd_vjp, *ways.values()):
        take_keywords_of(fn, vjp)
    return autograd_vjp


def _detached(y: Any) -> Any:
    return whole_of([part.detach() for part in parts(y)], like=y)


def _is_apply(fn: Any) -> bool:
    """Whether it is `apply` of an autograd.Function."""
    owner = getattr(fn, "__self__", None)
    return isinstance(owner, type) and issubclass(owner, torch.autograd.Function) and fn.__name__ == "apply"


def _by_name(apply: Any) -> Callable[..., Tensor]:
    """`apply`, which takes everything by position, with hyperparameters by the names that forward gives them."""
    function = apply.__self__
    parameters = list(inspect.signature(function.forward).parameters.values())
    if function.setup_context is torch.autograd.Function.setup_context:
        parameters = parameters[1:]  # ctx

    def called(*inputs: Tensor, **hyper: Any) -> Tensor:
        more: list[Any] = []
        for p in parameters[len(inputs) :]:
            if p.name not in hyper and p.default is p.empty:
                break  # let `apply` say what is missing
            more.append(hyper.get(p.name, p.default))
        result: Tensor = apply(*inputs, *more)
        return result

    called.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
    return called


@cache
def _kept(found: Callable[..., Any]) -> Vjp:
    return vjp(found)


def twin(rule: str) -> Vjp | None:
    """The Vjp of torch's own function for a rule (its values alone, if the rule has no backward), or None if torch has
    none."""
    found = function(rule)
    if found is None or rule not in RULES or RULES[rule].has_backward:
        return None if found is None else _kept(found)
    values = found

    def evaluate(inputs: Inputs, **hyper: Any) -> Any:
        return values(*inputs, **hyper)

    return evaluate  # type: ignore[return-value]


class Torch:
    """The candidate that is registered as "torch"."""

    def __call__(self, rule: str) -> Vjp | None:
        return twin(rule)

    def autograd(self, forward: Callable[..., Tensor]) -> Vjp:
        """The Vjp of a function that is written in torch operations: a page's own forward, where there is no twin."""
        return vjp(forward)

    def derivative(
        self, function: Callable[..., Any], inputs: Any, hyper: Any, elementary: Any, keeps: bool, is_known: bool
    ) -> Any:
        """The programs of a function and its derivative (torch_ref/derivative.py)."""
        from torch_ref.derivative import derivative

        return derivative(function, inputs, hyper, elementary, keeps, is_known)

    def leaving(self, function: Callable[..., Any], body: Any, inputs: Any, hyper: Any) -> list[Any]:
        """Where the numbers of a function leave torch (torch_ref/leaving.py)."""
        from torch_ref.leaving import leaving

        return leaving(function, body, inputs, hyper)

    def bound(self, module: Any, names: tuple[str, ...]) -> Callable[..., Any]:
        """An nn.Module as a function of the inputs, parameters and buffers of these names."""
        return Bound(module, names)

    def checkers(self, rule: Rule, dtype: torch.dtype) -> dict[str, Callable[[Any], bool]]:
        """Ready-made checkers of a rule, by name (torch_ref.checkers)."""
        from torch_ref.checkers import checkers

        reference = twin(rule.name) or self._own(rule)
        return checkers(rule, dtype, reference)

    @staticmethod
    def _own(rule: Rule) -> Vjp:
        """The page's own forward, where there is no twin: differentiated, or its values."""
        if rule.has_backward:
            return vjp(lambda *inputs, **hyper: rule.pure(*inputs, **hyper)[0])
        return lambda inputs, **hyper: rule.pure(*inputs, **hyper)[0]  # type: ignore[return-value]

    def function(self, value: Callable[..., Any], differentiated: Vjp) -> Callable[..., Any]:
        """A function `f(inputs, hyper)` that autograd runs through, made of `value(inputs, hyper) -> y` and a Vjp."""
        from torch_ref.recorded import recorded

        return recorded(value, differentiated)

    def model(self, name: str, **config: Any) -> Engine:
        """An engine that trains the named model by autograd (manual_bp.training.engine)."""
        from torch_ref.training.engine import TorchEngine

        return TorchEngine(name, **config)


candidate = Torch()
