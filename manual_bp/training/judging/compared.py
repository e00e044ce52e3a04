"""What is compared of two engines: each tensor by name, its worst so far, and which piece of the text computed it."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import torch

from manual_bp.chain import WEIGHTED, Tensors, leaves, takers
from manual_bp.training.engine import COTANGENTS, VALUES, Engine
from manual_bp.training.judging.disagreement import UPDATE, UPDATE_OR_GRADIENT, Row
from manual_bp.training.step import Step

LETTERS = {"weight": "W", "bias": "b"}
# Layers in one sentence.
MOST_NAMED = 5


class Compared:
    """The step that is made by hand, the engine that is judged against it, and what both compute.

    engine, against, trusted, fresh, rows: see `manual_bp.training.judging.judge.Judge`.
    leaves, order: the layers by name, and in the order of computation. takers: whose input each one's output is.
    owner: by parameter or running statistic, the layer at which it is judged.
    shown: of the engine's latest step, the tensors of each layer. shows_gradients: whether it shows those, too.
    """

    def __init__(
        self,
        step: Step,
        engine: Engine,
        dtype: torch.dtype,
        against: str,
        trusted: bool,
        fresh: Callable[[], Engine] | None,
    ) -> None:
        self.training = step
        self.engine, self.dtype, self.against, self.trusted, self.fresh = engine, dtype, against, trusted, fresh
        self.leaves = leaves(step.model)
        self.order, self.takers = list(self.leaves), takers(step.model.layer)
        # What several layers share is judged at the first of them, where its gradient is complete.
        self.owner: dict[str, str] = {}
        for layer, leaf in self.leaves.items():
            self.owner = {**dict.fromkeys((*leaf.names.values(), *leaf.shapes), layer), **self.owner}
        self.shows_gradients = True
        self.shown: Mapping[str, Tensors] = {}
        self._rows: dict[tuple[str, str], Row] = {}

    @property
    def rows(self) -> list[Row]:
        return list(self._rows.values())

    def note(self, number: int, layer: str, quantity: str, ratio: float, ulps: float) -> None:
        rule = self.leaves[layer].rule.name if layer in self.leaves else layer
        row = self._rows.setdefault((layer, quantity), Row(layer, quantity, rule))
        if ratio > row.error_over_allowance or row.step == 0:
            row.error_over_allowance, row.ulps, row.step = ratio, ulps, number

    def named(self, layer: str, prefix: str) -> list[tuple[str, str]]:
        """The parameters that are judged at the layer: name, and letter with a prefix."""
        leaf = self.leaves[layer]
        letters = LETTERS if leaf.rule.name in WEIGHTED else {}
        owned = {local: name for local, name in leaf.names.items() if self.owner[name] == layer}
        return [(name, prefix + letters.get(local, local)) for local, name in owned.items()]

    @staticmethod
    def moments(named: list[tuple[str, str]], state: Tensors) -> list[tuple[str, str]]:
        """What the optimiser keeps for these parameters: name, and letter with the kind in front."""
        kinds = dict.fromkeys(flat.split(".", 1)[0] for flat in state if flat != "step")
        return [(f"{kind}.{name}", f"{kind} {letter}") for kind in kinds for name, letter in named]

    def origin(self, layer: str, letter: str) -> str:
        """Which piece of the text computed a tensor."""
        if layer == "loss":
            return self._origin_of_loss
        if layer == "optimizer":
            return self._update
        rule = self.leaves[layer].rule.name
        if letter in VALUES or letter.startswith("running"):
            return f"it comes from the forward of {rule}"
        if letter not in COTANGENTS:
            return self._origin_of_gradient(layer, letter) if letter[0] == "d" else self._update
        takers = [f"of {self.leaves[above].rule.name} ({above})" for above in self.takers[layer]]
        return f"it comes from the backward {', or '.join(takers) or 'of the loss'}"

    def _origin_of_gradient(self, layer: str, letter: str) -> str:
        """A parameter that several layers share has one gradient, the sum of theirs."""
        leaf = self.leaves[layer]
        name = next(name for name, prefixed in self.named(layer, "d") if prefixed == letter)
        sharing = [other for other, each in self.leaves.items() if name in each.names.values()]
        shared = f", added up over {' and '.join(sharing)}, which share {name}" if len(sharing) > 1 else ""
        return f"it comes from the backward of {leaf.rule.name}{shared}{self._or_above(layer)}{self._or_penalty}"

    def _or_above(self, layer: str) -> str:
        """What an engine that does not show a layer's cotangent may have wrong in place of its backward: what passes it
        back, up to the next layer of which something is shown."""
        found: list[str] = []
        above, ends = [layer], False
        while above:
            unshown = [each for each in above if not any(k in COTANGENTS for k in self.shown.get(each, ()))]
            ends |= any(not self.takers[each] for each in unshown)
            above = [t for t in dict.fromkeys(t for each in unshown for t in self.takers[each]) if t not in found]
            found += above
        names = [f"{self.leaves[name].rule.name} ({name})" for name in found]
        listed = ", ".join([*([_few(names)] if names else []), *(["the loss"] if ends else [])])
        return f", or of what passes back to it and is not shown: {listed}" if listed else ""

    @property
    def _origin_of_loss(self) -> str:
        """The loss of an output that is shown was judged by this; else what makes the output may be wrong as well."""
        if not (unshown := self._unshown_below()):
            return f"it is the forward of the loss{self._or_penalty}"
        drawn = self.training.model.masks
        own = "; masks of dropout that it draws itself are to be shown in buffers" if drawn else ""
        penalty = " or a penalty" if self._or_penalty else ""
        if len(unshown) == len(self.order):
            joined = ", the loss" if penalty else " or the loss"
            return f"it is the forward of the network{joined}{penalty}; no layer's values are shown{own}"
        names = [f"{self.leaves[name].rule.name} ({name})" for name in unshown]
        return (
            f"it is the forward of the loss{self._or_penalty}, or of what the output is made of and is not shown: "
            f"{_few(names)}{own}"
        )

    def _unshown_below(self) -> list[str]:
        """The layers from the output back to those whose values are shown."""
        found = [n for n in self.order if not self.takers[n] and not self._shows_value(n)]
        for name in reversed(self.order):
            if name not in found and any(above in found for above in self.takers[name]) and not self._shows_value(name):
                found.append(name)
        return [name for name in self.order if name in found]

    def _shows_value(self, layer: str) -> bool:
        return any(letter in VALUES for letter in self.shown.get(layer, ()))

    @property
    def _or_penalty(self) -> str:
        return ", or of a penalty" if self.training.l1 or self.training.l2 else ""

    @property
    def elsewhere(self) -> str:
        """Where a cause can be if every hand-derived layer is right by itself."""
        between = ["a sum over the branches of one x"] if any(len(above) > 1 for above in self.takers.values()) else []
        between += ["the loss"]
        between += ["the penalty"] if self._or_penalty else []
        between += ["running statistics"] if any(hasattr(leaf, "momentum") for leaf in self.leaves.values()) else []
        *first, last = between
        listed = f"{', '.join(first)} or {last}" if first else last
        return (
            f"every hand-derived layer agrees by itself: {self.against}'s step is wrong, or else the cause is between "
            f"the layers: {listed}"
        )

    @property
    def _update(self) -> str:
        parts = {"clipping": self.training.clip_norm, "max-norm": self.training.max_norm}
        names = [self.training.optimizer.name, *(name for name, limit in parts.items() if limit is not None)]
        update = f"({', '.join(names)})"
        return f"{UPDATE} {update}" if self.shows_gradients else f"{UPDATE_OR_GRADIENT} {update}"


def _few(names: list[str]) -> str:
    more = [f"{len(names) - MOST_NAMED} more"] if len(names) > MOST_NAMED else []
    return ", ".join([*names[:MOST_NAMED], *more])
