"""What a judge of training notes: the worst of each tensor, what is beyond its allowance, and a run's report."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from typing import Any

from torch import Tensor

from manual_bp.oracle.reports.notebook import ROWS, Table, fragment
from manual_bp.training.engine import FIELDS, StepRecord
from manual_bp.training.step import TrainingState
from manual_bp.wording import counted

UPDATE = "it comes from the update"
UPDATE_OR_GRADIENT = "it comes from a gradient or from the update"
STATE = tuple(FIELDS[name] for name in ("params", "buffers", "optimizer"))
WRONG = "#f4a39b"
"""The colour behind a cell, in a notebook, whose error is beyond its allowance."""


@dataclass
class Row:
    """One tensor of one layer, over all steps."""

    layer: str
    quantity: str
    rule: str
    error_over_allowance: float = 0.0
    ulps: float = 0.0
    step: int = 0


@dataclass(frozen=True)
class Judged:
    """One step as both engines made it, and how far off each tensor may be."""

    number: int
    state: TrainingState
    x: Tensor
    target: Tensor
    ours: StepRecord
    theirs: StepRecord
    width: StepRecord


@dataclass(frozen=True)
class Disagreement:
    """A tensor that is beyond its allowance."""

    step: int
    layer: str
    quantity: str
    sentence: str


@dataclass
class LockstepReport:
    """The result of `lockstep`.

    rows: the worst of each tensor; ulps are in the last place of the tensor's largest element. disagreements: in the
    order in which they arose; empty if all holds. flips: units whose branch (the sign at a kink, the winner of a
    maximum) differed because z lay within its allowance of the
        kink; the whole-chain gradients of that step and of the layers before are not judged, each layer alone is.
    losses: per step, (manual, other engine) in lockstep and in the free run.
    not_free: why there was no free run, or why it ended early; "" if it came to its end.
    steps: as many as were judged. diverged: the sentence that says in which step the run diverged, or "".
    training: loss, optimiser and penalties.
    unshown: what the other engine does not show, so that it was not judged, in words.
    """

    model: str
    config: dict[str, Any]
    data: str
    dtype: str
    device: str
    against: str
    steps: int
    rows: list[Row] = field(default_factory=list)
    disagreements: list[Disagreement] = field(default_factory=list)
    flips: int = 0
    losses: list[tuple[float, float]] = field(default_factory=list)
    free_losses: list[tuple[float, float]] = field(default_factory=list)
    free_drift: float = 0.0
    not_free: str = ""
    diverged: str = ""
    training: dict[str, Any] = field(default_factory=dict)
    unshown: list[str] = field(default_factory=list)

    @property
    def passed(self) -> bool:
        return not self.disagreements and not self.diverged and self.steps > 0

    @property
    def verdict(self) -> str:
        if self.passed and self.unshown:
            return (
                f"what {self.against} shows agrees in {counted(self.steps, 'step')}; it does not show, so not judged "
                f"were: {', '.join(self.unshown)}"
            )
        if self.passed:
            return f"every layer agrees in {counted(self.steps, 'step')}"
        if not self.disagreements:
            return self.diverged
        first = self.disagreements[0]
        if not first.layer:
            return first.sentence
        return f"first disagreement in step {first.step} at {first.layer}: {first.sentence}"

    @property
    def unshown_state(self) -> str:
        """What a next step would begin with and is not shown; "" if all of it is."""
        return next((w for w in self.unshown if w.startswith(STATE)), "")

    def __str__(self) -> str:
        judged = f"{counted(self.steps, 'step')} in {self.dtype} on {self.device}"
        worst = max((row.error_over_allowance for row in self.rows), default=0.0)
        return (
            f"{self.model} on {self.data}, {judged}, by hand against {self.against}: "
            f"{'agrees' if self.passed else 'DISAGREES'}, worst error / allowance {worst:.2g}\n{self.verdict}"
        )

    def to_dict(self) -> dict[str, Any]:
        return {"passed": self.passed, "verdict": self.verdict, **asdict(self)}

    def _repr_html_(self) -> str:
        quantities = list(dict.fromkeys(row.quantity for row in self.rows))
        worst = {(row.layer, row.quantity): row.error_over_allowance for row in self.rows}
        layers = dict.fromkeys(row.layer for row in self.rows)
        said = {ratio: f"{ratio:.2g}" for ratio in worst.values()}
        rows = [[layer, *(said.get(worst.get((layer, q), -1.0), "") for q in quantities)] for layer in layers]
        losses = [(str(step), f"{ours:.6g}", f"{theirs:.6g}") for step, (ours, theirs) in enumerate(self.losses, 1)]
        return fragment(
            self.verdict,
            symbol="✔" if self.passed else "✘",
            tone="good" if self.passed else "bad",
            headline=f"{self.model} on {self.data}, {self.dtype}: {self.verdict}",
            causes=[],
            tables=[
                Table(
                    "Largest error over allowance, by layer and tensor",
                    ["layer", *(q.replace("delta", "δ") for q in quantities)],
                    rows,
                    numbers=range(1, len(quantities) + 1),
                    fills={words: WRONG for ratio, words in said.items() if not ratio <= 1},
                    is_open=True,
                ),
                Table(
                    f"Disagreements ({len(self.disagreements)})",
                    ("step", "layer", "tensor", "in words"),
                    [(str(d.step), d.layer, d.quantity, d.sentence) for d in self.disagreements[:ROWS]],
                ),
                Table("Loss of each step", ("step", "by hand", self.against), losses, numbers=(0, 1, 2)),
            ],
            lists={},
        )
