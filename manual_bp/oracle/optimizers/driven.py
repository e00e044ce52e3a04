"""Somebody's optimiser, driven step by step: a torch.optim.Optimizer or an optax transformation, as it is."""

from __future__ import annotations

import inspect
import io
import pickle
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor

Hyper = Mapping[str, Any]

NAMES: Mapping[str, tuple[str, ...]] = {
    "lr": ("lr", "learning_rate"),
    "beta1": ("beta1", "b1"),
    "beta2": ("beta2", "b2"),
    "alpha": ("alpha", "decay"),
}
"""What constructors call a hyperparameter of a page, where that has another name there."""

PAIRS: Mapping[str, tuple[str, ...]] = {"betas": ("beta1", "beta2")}
"""What constructors take several hyperparameters as."""

FLAGS: Mapping[str, tuple[str, ...]] = {"max_exp_avg_sq": ("amsgrad",), "grad_avg": ("centered",)}
"""By an optional part of the state, the option of a constructor that asks for it."""


class Driven(Protocol):
    """An optimiser that is driven.  `has_groups`: whether parameters may come in groups of their own hyperparameters,
    some without a gradient.  `sparse`: whether its gradients are sparse tensors; False if it does not say."""

    has_groups: bool

    def takes(self, hyper: str) -> bool:
        """Whether a hyperparameter of the page, or an optional part of its state, can be chosen."""
        ...

    def begin(self, groups: Sequence[Sequence[Tensor]], hyper: Sequence[Hyper], lrs: Sequence[Sequence[float]]) -> None:
        """Before the first step.  lrs: of each step to come, those of the groups."""
        ...

    def step(self, grads: Sequence[Tensor | None], lrs: Sequence[float]) -> list[Tensor]:
        """All parameters after one step; grads: in the order of parameters."""
        ...

    def saved_and_loaded(self) -> Driven:
        """Another one, that goes on from this one's saved state."""
        ...


class Constructor:
    """What a constructor calls the hyperparameters of a page.

    names: by hyperparameter, where it is none of the usual.  passes_on: whether one that takes `**anything` gets them
    by the page's names, and pairs: what it does not name it passes on.  Optional parts of the state are asked for only
    where they are named, as who passes on what it does not know may leave it aside.
    """

    def __init__(
        self, make: Callable[..., Any], names: Mapping[str, str] | None = None, passes_on: bool = False
    ) -> None:
        self.make = make
        self.names = dict(names or {})
        self.parameters = inspect.signature(make).parameters
        self.takes_any = passes_on and any(p.kind is p.VAR_KEYWORD for p in self.parameters.values())

    @property
    def published(self) -> str:
        """What torch or optax call it, if it is one of theirs; else ""."""
        package = str(getattr(self.make, "__module__", "")).split(".")
        is_theirs = package[:2] == ["torch", "optim"] or package[0] == "optax"
        return str(getattr(self.make, "__name__", "")) if is_theirs else ""

    def name(self, hyper: str) -> str | None:
        """The parameter for a hyperparameter or an optional part of the state; None if there is none."""
        candidates = (self.names.get(hyper), *NAMES.get(hyper, (hyper,)), *FLAGS.get(hyper, ()))
        if named := next((name for name in candidates if name in self.parameters), None):
            return named
        return hyper if self.takes_any and hyper not in FLAGS and not self._paired(hyper) else None

    def takes(self, hyper: str) -> bool:
        return self.name(hyper) is not None or self._paired(hyper)

    def _paired(self, hyper: str) -> bool:
        return any(hyper in parts for pair, parts in PAIRS.items() if self._has(pair))

    def _has(self, pair: str) -> bool:
        alone = any(name in self.parameters for part in PAIRS[pair] for name in NAMES[part])
        return pair in self.parameters or (self.takes_any and not alone)

    def arguments(self, hyper: Hyper) -> dict[str, Any]:
        """Arguments for the constructor."""
        found = {name: value for key, value in hyper.items() if (name := self.name(key)) is not None}
        for pair, parts in PAIRS.items():
            if self._has(pair) and all(part in hyper for part in parts):
                found[pair] = tuple(hyper[part] for part in parts)
        return found


class of_optimizer:
    """A subclass of torch.optim.Optimizer, or whatever is called and steps like one."""

    has_groups = True

    def __init__(
        self,
        make: Callable[..., Any],
        *,
        names: Mapping[str, str] | None = None,
        sparse: bool = False,
        **fixed: Any,
    ) -> None:
        """make: called with parameters in groups, and hyperparameters by name.  names: what it calls those of the page,
        if it is none of the usual.  sparse: whether gradients come as sparse tensors, of the rows (of one axis: the
        numbers) that are not 0.  fixed: further arguments (foreach=True, capturable=True); a hyperparameter that is a
        tensor among them (lr=torch.tensor(1e-3)) is one like it in every group, with the value of the run."""
        self._constructor, self._fixed, self.sparse = Constructor(make, names, passes_on=True), fixed, sparse
        self._lrs: list[float | None] = []
        self.aliases: set[str] = set()
        """Names in its state of what shared memory with the gradient behind a step."""

    @property
    def published(self) -> str:
        return self._constructor.published

    def takes(self, hyper: str) -> bool:
        return self._constructor.takes(hyper)

    def begin(self, groups: Sequence[Sequence[Tensor]], hyper: Sequence[Hyper], lrs: Sequence[Sequence[float]]) -> None:
        self._hyper = hyper
        # torch's differentiable=True steps with autograd on, where a leaf that requires grad may not be written into.
        is_leaf = not self._fixed.get("differentiable")
        self._groups = [[_copied(x).requires_grad_(is_leaf) for x in group] for group in groups]
        arguments = [self._constructor.arguments(each) for each in hyper]
        for own in arguments:
            own |= {n: x.new_tensor(own[n]) for n, x in self._fixed.items() if n in own and isinstance(x, Tensor)}
        self._lrs = [each["lr"] if self.takes("lr") else None for each in hyper]
        if len(groups) == 1:  # options that stand in a group too would hide what the constructor makes of its own
            self.optimizer = self._constructor.make(self._groups[0], **{**self._fixed, **arguments[0]})
            return
        given = [{"params": group, **own} for group, own in zip(self._groups, arguments, strict=True)]
        self.optimizer = self._constructor.make(given, **{**arguments[0], **self._fixed})

    def step(self, grads: Sequence[Tensor | None], lrs: Sequence[float]) -> list[Tensor]:
        params = [x for group in self._groups for x in group]
        for group, lr, before in zip(self.optimizer.param_groups, lrs, self._lrs, strict=True):
            if lr == before and "lr" in group:  # the one that it was given, and may have lost
                continue
            if isinstance(group.get("lr"), Tensor):
                group["lr"].fill_(lr)  # as a captured graph, which reads it there, must have it
            else:
                group["lr"] = lr

        self._lrs = list(lrs)

        def backward() -> Tensor:
            for x, grad in zip(params, grads, strict=True):
                x.grad = None if grad is None else self._grad(grad)
            return torch.zeros(())

        backward()
        closure = inspect.signature(self.optimizer.step).parameters.get("closure")
        if closure is not None and closure.default is inspect.Parameter.empty:
            self.optimizer.step(backward)
        else:
            self.optimizer.step()
        self._note_aliases(params)
        return [x.detach().clone() for x in params]

    def _note_aliases(self, params: Sequence[Tensor]) -> None:
        """What is written into one of two tensors that share memory is in the other."""
        state = getattr(self.optimizer, "state", None)
        for x in params:
            own = state.get(x) if isinstance(state, Mapping) else None
            if x.grad is None or x.grad.is_sparse or not isinstance(own, Mapping):
                continue
            place = x.grad.untyped_storage().data_ptr()
            tensors = {n: t for n, t in own.items() if isinstance(t, Tensor) and t.layout is torch.strided}
            self.aliases |= {
                str(n) for n, t in tensors.items() if t.numel() and t.untyped_storage().data_ptr() == place
            }

    def _grad(self, grad: Tensor) -> Tensor:
        return grad.to_sparse(1).coalesce() if self.sparse and grad.ndim else grad.clone()

    def saved_and_loaded(self) -> of_optimizer:
        file = io.BytesIO()
        torch.save(self.optimizer.state_dict(), file)
        file.seek(0)
        other = of_optimizer(self._constructor.make, names=self._constructor.names, sparse=self.sparse, **self._fixed)
        other.aliases = self.aliases
        other.begin(self._groups, self._hyper, [])
        other._lrs = self._lrs
        other.optimizer.load_state_dict(torch.load(file, weights_only=False))
        return other


class of_transformation:
    """A constructor of an optax transformation, such as optax.adamw: it takes its lr as a schedule."""

    has_groups = False

    def __init__(self, make: Callable[..., Any], *, names: Mapping[str, str] | None = None, **fixed: Any) -> None:
        """make, names, fixed: as of `of_optimizer`; the learning rate is given as a function of the count of steps."""
        self._constructor, self._fixed = Constructor(make, names), fixed

    @property
    def published(self) -> str:
        return self._constructor.published

    def takes(self, hyper: str) -> bool:
        return self._constructor.takes(hyper)

    def begin(self, groups: Sequence[Sequence[Tensor]], hyper: Sequence[Hyper], lrs: Sequence[Sequence[float]]) -> None:
        import jax.numpy as jnp

        rate = self._constructor.name("lr")
        if rate is None:
            raise ValueError(
                "the constructor must take a learning rate; came one that does not. Say names={'lr': ...}."
            )
        rates = jnp.asarray([of_groups[0] for of_groups in lrs])
        arguments = {**self._constructor.arguments(hyper[0]), **self._fixed}
        arguments[rate] = lambda count: rates[count]
        self._transformation = self._constructor.make(**arguments)
        self._params = [_to_jax(x) for group in groups for x in group]
        self._state = self._transformation.init(self._params)
        self._like = [x for group in groups for x in group]

    def step(self, grads: Sequence[Tensor | None], lrs: Sequence[float]) -> list[Tensor]:
        import jax

        given = [_to_jax(grad) for grad in grads if grad is not None]
        updates, self._state = self._transformation.update(given, self._state, self._params)
        self._params = jax.tree.map(lambda x, update: (x + update).astype(x.dtype), self._params, updates)
        return [_to_torch(x).to(like.dtype) for x, like in zip(self._params, self._like, strict=True)]

    def saved_and_loaded(self) -> of_transformation:
        import jax

        other = object.__new__(of_transformation)
        vars(other).update(vars(self))
        leaves, tree = jax.tree.flatten(self._state)
        loaded = pickle.loads(pickle.dumps([np.asarray(leaf) for leaf in leaves]))
        other._state = jax.tree.unflatten(tree, [jax.numpy.asarray(leaf) for leaf in loaded])
        return other


def _copied(x: Tensor) -> Tensor:
    """A copy in memory of the same order."""
    return x.detach().clone(memory_format=torch.preserve_format)


def _to_jax(x: Tensor) -> Any:
    import jax
    import jax.numpy as jnp

    if x.dtype is torch.float64 and not jax.config.jax_enable_x64:
        raise ValueError(
            "jax must compute in float64; came its default. Set jax.config.update('jax_enable_x64', True)."
        )
    if x.dtype is torch.bfloat16:  # which numpy lacks
        return jnp.asarray(x.detach().float().numpy()).astype(jnp.bfloat16)
    return jnp.asarray(x.detach().numpy())


def _to_torch(x: Any) -> Tensor:
    wide = np.array(x, dtype=np.float64 if x.dtype == np.float64 else np.float32)
    return torch.from_numpy(wide)
