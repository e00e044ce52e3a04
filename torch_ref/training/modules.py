"""torch.nn modules as they are, as engines: parameters bound by name, order or declaration, layers by what they are.

A module's parameters get the model's numbers before each step, and its buffers the state's; forward hooks show what
each layer puts out, and its cotangent.  Nothing of the module is changed but its numbers.
"""

from __future__ import annotations

import copy
import inspect
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from types import MappingProxyType
from typing import Any

import torch
from torch import Tensor, nn

from manual_bp import models
from manual_bp.chain import WEIGHTED, Activation, Leaf, leaves
from manual_bp.training.engine import StepRecord
from manual_bp.training.schedules import Schedule
from manual_bp.training.step import TrainingState
from torch_ref.functions import function
from torch_ref.training.binding import bound
from torch_ref.training.optimizers import CLASSES, groups

LETTERS = {"z": "delta", "a": "da", "y": "dy"}
MADE = Callable[..., torch.optim.Optimizer]
SCHEDULER = Callable[[torch.optim.Optimizer], torch.optim.lr_scheduler.LRScheduler]
DROPOUTS = (nn.Dropout, nn.Dropout1d, nn.Dropout2d, nn.Dropout3d, nn.AlphaDropout, nn.FeatureAlphaDropout)
TRAINING = ("loss", "loss_hyper", "optimizer", "l2", "l1", "max_norm", "clip_norm", "schedule", "frozen", "decayed")
"""What lockstep tells an engine beside the model's configuration."""


def engine_of(
    module: nn.Module,
    *,
    model: Any = None,
    optimizer: MADE | None = None,
    parameters: Mapping[str, str] = MappingProxyType({}),
    transposed: tuple[str, ...] = (),
    loss: Callable[[Tensor, Tensor], Tensor] | None = None,
    scheduler: SCHEDULER | None = None,
) -> Callable[..., ModuleEngine]:
    """A factory of engines for `manual_bp.lockstep.lockstep(model, data, engine=engine_of(module))`.

    model: the hand-derived one, whose names and shapes the module's parameters are bound to; by default the one that
        lockstep names.
    optimizer: makes one of the module's parameters, such as `lambda p: torch.optim.SGD(p, lr=0.01)`; it keeps its own
        state from step to step.  By default torch's class of the lockstep's optimiser, with a group that does not decay
        where the lockstep says `decayed`.
    parameters: the module's name for each of the model's that is not found: by the same name, or by order where the
        shapes agree one by one.  transposed: names, of the model, of weights that the module holds as (in, out).
    loss: of the module's output and the target; by default torch's function of the lockstep's loss.
    scheduler: makes one of the optimiser, such as `lambda o: LambdaLR(o, warm_up)`; its step follows the optimiser's.
        By default each group's learning rate is multiplied as the lockstep's schedule says.
    A dropout of the module that is one of the model's layers drops by the masks of the step; one that the model does
    not have draws its own, and is named where a step is wrong (`ModuleEngine.beside`).  The module is copied for each
    engine, and keeps its mode: of one in evaluation nothing drops.
    Gradients of what the optimiser has are clipped by torch.nn.utils.clip_grad_norm_, and weights limited, where the
    lockstep says so.
    Raises ValueError for what is no module and what is not called; the engine does for parameters that are missing or
    left over, with what there is, and for a loss that is no scalar of the output.
    """
    if not isinstance(module, nn.Module):
        raise ValueError(f"engine_of: module must be a torch.nn.Module; came {_kind(module)}.")
    for what, given, example in (
        ("optimizer", optimizer, "lambda p: torch.optim.SGD(p, lr=0.01)"),
        ("loss", loss, "lambda y, target: torch.nn.functional.cross_entropy(y, target)"),
        ("scheduler", scheduler, "lambda o: LambdaLR(o, warm_up)"),
    ):
        if given is not None and not callable(given):
            raise ValueError(
                f"engine_of: {what} must be a function, such as {example}, as each engine has a copy of the module; "
                f"came {_kind(given)}."
            )

    def build(name: str, **options: Any) -> ModuleEngine:
        config = {key: value for key, value in options.items() if key not in TRAINING}
        given = {key: value for key, value in options.items() if key in TRAINING}
        due = model if model is not None else getattr(models, name)(**config)
        names = bound(module, due, parameters, transposed)
        return ModuleEngine(copy.deepcopy(module), due, names, frozenset(transposed), optimizer, loss, scheduler, given)

    return build


def _kind(x: object) -> str:
    return "None" if x is None else f"an object of {type(x).__name__}"


class ModuleEngine:
    """An `Engine` of manual_bp.training.engine, as `engine_of` makes it.

    step: raises ValueError for an optimiser that is none or needs a closure, and a loss that is no scalar of the
        output.
    beside: what the module does by chance that the model does not, in words.
    """

    def __init__(
        self,
        module: nn.Module,
        model: Any,
        names: Mapping[str, str],
        transposed: frozenset[str],
        make: MADE | None,
        own_loss: Callable[[Tensor, Tensor], Tensor] | None,
        make_scheduler: SCHEDULER | None,
        training: Mapping[str, Any],
    ) -> None:
        self.module, self.names, self.transposed = module, names, transposed
        self.leaves: dict[str, Leaf] = leaves(model.layer)
        self.l2, self.l1 = training.get("l2", 0.0), training.get("l1", 0.0)
        self.clip_norm, self.max_norm = training.get("clip_norm"), training.get("max_norm")
        self.schedule: Schedule | None = training.get("schedule")
        found, optimizer = function(training["loss"]), training["optimizer"]
        if found is None and own_loss is None:
            raise ValueError(f"torch has no function for the loss {training['loss']!r}; give loss=.")
        hyper = training.get("loss_hyper", {})
        self.loss: Callable[..., Tensor] = own_loss or partial(found or torch.sum, **hyper)
        self.decayed = training.get("decayed")
        self.make = make or (lambda params: CLASSES[optimizer.name](self._groups(), **optimizer.config))
        self.make_scheduler = make_scheduler
        self.optimizer: torch.optim.Optimizer | None = None
        self.scheduler: torch.optim.lr_scheduler.LRScheduler | None = None
        self.rates: list[float] = []

    def step(self, state: TrainingState, x: Tensor, target: Tensor) -> StepRecord:
        if self.optimizer is None:
            self.module.to(x.device)
            weights = dict(self.module.named_parameters())
            if next(iter(weights.values())).dtype == torch.float32:
                self.module.to(state.dtype)
            made = self.make(list(self.module.parameters()))
            if not isinstance(made, torch.optim.Optimizer):
                raise ValueError(f"engine_of: optimizer must return a torch.optim.Optimizer; came {_kind(made)}.")
            closure = inspect.signature(made.step).parameters.get("closure")
            if closure is not None and closure.default is inspect.Parameter.empty:
                raise ValueError(
                    "engine_of: optimizer must step once, on the gradients that are there; came "
                    f"{type(made).__name__}, whose step takes losses and gradients again from a closure, and which no "
                    "page is about."
                )
            self.optimizer = made
            self.rates = [group["lr"] for group in self.optimizer.param_groups]
            self.scheduler = self.make_scheduler(self.optimizer) if self.make_scheduler else None
        tensors = {**dict(self.module.named_parameters()), **dict(self.module.named_buffers())}
        with torch.no_grad():
            for name, theirs in self.names.items():
                value = state.params[name] if name in state.params else state.buffers[name]
                tensors[theirs].copy_(value.T if name in self.transposed else value)
        params = {name: tensors[theirs] for name, theirs in self.names.items() if name in state.params}
        self.module.zero_grad()  # the optimiser need not have all parameters
        dtype = next(iter(params.values())).dtype
        inputs = x.to(dtype) if x.is_floating_point() else x
        inputs = inputs.detach().requires_grad_() if inputs.is_floating_point() else inputs
        with torch.enable_grad(), self._shown(state) as shown:
            y = self.module(inputs)
            target = target.to(y.dtype) if target.is_floating_point() else target
            own = self.loss(y, target)
            if not isinstance(own, Tensor) or own.ndim or not own.requires_grad:
                came = f"a tensor of shape {tuple(own.shape)}" if isinstance(own, Tensor) else _kind(own)
                raise ValueError(
                    "engine_of: the loss of (y, target) must be a tensor of one number, shape (), that autograd "
                    f"follows to the module's parameters; came {came}"
                    f"{' that it does not' if isinstance(own, Tensor) and not own.ndim else ''}."
                )
            cost = self._penalised(own, params)
            torch.autograd.backward(cost)
        gradients = {name: self._turned(name, p.grad) for name, p in params.items() if p.grad is not None}
        if self.clip_norm is not None:
            trained = [p for group in self.optimizer.param_groups for p in group["params"]]
            torch.nn.utils.clip_grad_norm_(trained, self.clip_norm)
        self._updated(state.steps, params)
        return StepRecord(
            cost.detach(),
            {name: found for name, found in shown.items() if found},
            gradients,
            {name: self._turned(name, p) for name, p in params.items()},
            {n: tensors[theirs].detach().clone() for n, theirs in self.names.items() if n in state.buffers},
            {},
        )

    def _groups(self) -> list[dict[str, Any]]:
        """Of torch's own optimiser."""
        ours = {theirs: name for name, theirs in self.names.items()}
        return groups({ours[name]: p for name, p in self.module.named_parameters()}, self.decayed)

    def _updated(self, made: int, params: Mapping[str, Tensor]) -> None:
        assert self.optimizer is not None
        if self.schedule is not None and self.scheduler is None:
            for group, rate in zip(self.optimizer.param_groups, self.rates, strict=True):
                group["lr"] = rate * self.schedule.factor(made)
        self.optimizer.step()
        if self.scheduler is not None:
            self.scheduler.step()
        if self.max_norm is not None:
            limited = function("max_norm")
            assert limited is not None
            with torch.no_grad():
                for name, p in params.items():
                    if p.ndim > 1:
                        rows = self._turned(name, p)
                        new = limited(rows.flatten(1), limit=self.max_norm).view_as(rows)
                        p.copy_(new.T if name in self.transposed else new)

    def _turned(self, name: str, t: Tensor) -> Tensor:
        copied = t.detach().clone()
        return copied.T if name in self.transposed else copied

    def _penalised(self, cost: Tensor, params: Mapping[str, Tensor]) -> Tensor:
        weights = [p for p in params.values() if p.ndim > 1]
        if self.l1:
            cost = cost + self.l1 * torch.stack([w.abs().sum() for w in weights]).sum()
        if self.l2:
            cost = cost + self.l2 / 2 * torch.stack([w.pow(2).sum() for w in weights]).sum()
        return cost

    @contextmanager
    def _shown(self, state: TrainingState) -> Iterator[dict[str, dict[str, Tensor]]]:
        """What passes the layers that the module's parts are; each nn.Dropout drops by the state's masks."""
        shown: dict[str, dict[str, Tensor]] = {}
        handles = []
        for name, part in self._parts().items():
            shown[name] = {}
            handles.append(part.register_forward_hook(self._hook(name, part, shown[name], state)))
        try:
            yield shown
        finally:
            for handle in handles:
                handle.remove()

    def _hook(self, name: str, part: nn.Module, found: dict[str, Tensor], state: TrainingState) -> Any:
        leaf = self.leaves[name]
        letter = "z" if leaf.rule.name in WEIGHTED else "a" if isinstance(leaf, Activation) else "y"
        mask = next((n for local, n in leaf.names.items() if local == "mask"), None)

        def keep(dy: Tensor) -> None:
            found[LETTERS[letter]] = dy.detach().clone()

        def hook(_: nn.Module, given: tuple[Any, ...], y: Any) -> Tensor | None:
            replaced = None
            if not isinstance(y, Tensor):  # such as the states of a recurrent module beside its output
                return None
            if isinstance(part, nn.Dropout) and part.training and mask is not None:
                # Its own mask would be another than the hand-derived step's.
                y = replaced = torch.where(state.buffers[mask], given[0] / (1 - part.p), 0)
            found[letter] = y.detach().clone()  # what comes behind it may write into it
            if y.requires_grad:
                y.register_hook(keep)
            return replaced

        return hook

    @property
    def beside(self) -> str:
        """What the module does by chance that the model does not, in words; "" if nothing.

        Each dropout in training with p above 0 that is none of the model's layers, with its p and its place in the
        module.  "" too where the model drops as well: which of the module's dropouts is which cannot be told then.
        """
        known = set(map(id, self._parts().values()))
        found = [
            f"{type(part).__name__}(p={part.p}) at {path!r}"
            for path, part in self.module.named_modules()
            if isinstance(part, DROPOUTS) and part.training and part.p and id(part) not in known
        ]
        if any(leaf.rule.name == "dropout" for leaf in self.leaves.values()):
            return ""  # which of them is which cannot be told
        return f"the module drops by chance where the model does not: {', '.join(found)}" if found else ""

    def _parts(self) -> dict[str, nn.Module]:
        """The part that each layer is, where that can be told: of layers with parameters by these, of the others by
        their place between them."""
        parts = [(path, part) for path, part in self.module.named_modules() if not list(part.children()) and path]
        known = {path: self._layer_of(part) for path, part in parts}
        found = {layer: dict(parts)[path] for path, layer in known.items() if layer}
        if sorted(found) != sorted(n for n, leaf in self.leaves.items() if _has_tensors(leaf)):
            return found if len(set(map(id, found.values()))) == len(found) else {}
        # Between two of them stand as many others here as there, or nothing can be told.
        order = [name for name, leaf in self.leaves.items() if leaf.takes == 1]  # sums are no parts
        others = {layer: path for path, layer in known.items() if layer}
        paths = [path for path, part in parts if known[path] or not isinstance(part, nn.Identity | nn.Flatten)]
        ours, theirs = _gaps(order, found), _gaps(paths, others.values())
        for gap, there in zip(ours, theirs, strict=True):
            if len(gap) != len(there) and not any(self.leaves[layer].rule.name == "dropout" for layer in gap):
                there = [path for path in there if not isinstance(dict(parts)[path], DROPOUTS)]
            if len(gap) == len(there):
                found |= {layer: dict(parts)[path] for layer, path in zip(gap, there, strict=True)}
        return found

    def _layer_of(self, part: nn.Module) -> str:
        """The layer that has all of a part's tensors; "" for none, and where several have them.

        A head that is tied to an embedding shares its weight, but is no nn.Embedding.
        """
        tensors = dict(self.module.named_parameters()) | dict(self.module.named_buffers())
        ours = {id(tensors[theirs]): name for name, theirs in self.names.items()}
        names = {layer: set(leaf.names.values()) for layer, leaf in self.leaves.items()}
        own = {ours.get(id(t)) for t in (*part.parameters(), *part.buffers())} & set().union(*names.values())
        is_embedding = isinstance(part, nn.Embedding)
        having = [layer for layer, its in names.items() if own and own <= its]
        if len(having) > 1:
            having = [layer for layer in having if (self.leaves[layer].rule.name == "embedding") == is_embedding]
        return having[0] if len(having) == 1 else ""


def _has_tensors(leaf: Leaf) -> bool:
    return bool(set(leaf.names) - {"mask"})


def _gaps(order: list[str], known: Any) -> list[list[str]]:
    """What stands before, between and behind those that are known."""
    gaps: list[list[str]] = [[]]
    for name in order:
        if name in known:
            gaps.append([])
        else:
            gaps[-1].append(name)
    return gaps
