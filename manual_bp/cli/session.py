"""What `manual-bp train` shows of a run, and how the run ends."""

from __future__ import annotations

import errno
import shlex
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer
from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

from manual_bp.cli.shared import notices, out
from manual_bp.wording import counted

if TYPE_CHECKING:
    from torch import Tensor

    from manual_bp.curves.overfitting import Overfitting
    from manual_bp.training.checkpoint import Checkpoint
    from manual_bp.training.fit import EpochRecord
    from manual_bp.training.run import Run
    from manual_bp.training.saturation import Saturation
    from manual_bp.training.step import TrainingState
    from manual_bp.training.verifying import Verifier

FULL = (errno.ENOSPC, errno.EDQUOT)
"""No room on the disk, or none left for this user."""

Figures = Callable[[str], dict[str, Any]]
"""What stands below each -> figures by the name of their file."""


class Session:
    """One run from here to its end.  records: the epochs that are done."""

    def __init__(self, run: Run, folder: Path, records: list[EpochRecord], verifier: Verifier | None) -> None:
        self.run, self.folder, self.records, self.verifier = run, folder, records, verifier
        command = ["manual-bp", "train", "--out", str(folder), "--resume"]
        self.command = shlex.join([*command, "--verify"] if verifier else command)

    def go(self, checkpoint: Checkpoint) -> None:
        """Train, show and conclude.  Whatever stops the run is said with the command to go on, and its exit status."""
        from manual_bp.training.nonfinite import NonFiniteError
        from manual_bp.training.run import Interrupted

        self._introduce(checkpoint)
        try:
            passed = self._conclude(self._train(checkpoint))
        except Interrupted as interrupted:
            say(f"interrupted by {interrupted} after step {interrupted.state.steps}; the state is saved. Go on with:")
            say(self.command)
            raise typer.Exit(128 + interrupted.number) from None
        except NonFiniteError as error:
            fail(f"training stopped in {error}")
            say(f"{self._saved()} To train on, use another --out and a lower --lr, or --clip-norm.")
            raise typer.Exit(1) from None
        except OSError as error:
            where = error.filename or self.folder
            fail(f"cannot write into {where}: {error.strerror or error}")
            self._say_how_to_go_on("Make room" if error.errno in FULL else "Put that right")
            raise typer.Exit(1) from None
        if not passed:
            raise typer.Exit(1)

    def _introduce(self, checkpoint: Checkpoint) -> None:
        c = self.run.configuration
        hyper = "".join(f", {name} {value}" for name, value in c.loss_hyper.items())
        how = f"{c.loss}{hyper}, {c.optimizer}, lr {c.lr}, seed {c.seed}"
        say(f"{c.model} on {Path(c.data).name}: {self._examples()}; {how}; into {self.folder}")
        if checkpoint.state.steps:
            say(f"going on after epoch {checkpoint.epoch}, step {checkpoint.state.steps}")
        if notices.is_terminal:
            say("losses and shares of right answers: training, then validation")

    def _examples(self) -> str:
        """How many there are, and what they are for."""
        run = self.run
        learned = counted(len(run.training.x), "example")
        examples = f"{learned} to learn from, {len(run.validation.x)} to stop by, {len(run.test.x)} to test"
        return f"{examples} (all of {run.test_set} and nothing else)" if run.test_set else examples

    def _train(self, checkpoint: Checkpoint) -> Checkpoint:
        from manual_bp.training.run import interruptible

        run, take = self.run, self.verifier or self.run.step
        columns = (TextColumn("{task.description}"), BarColumn(bar_width=12), TimeRemainingColumn())
        shown = notices.is_terminal
        with Progress(*columns, console=notices, disable=not shown) as progress:
            total = run.configuration.epochs * len(run.batches)
            task = progress.add_task("epoch 1", total=total, completed=checkpoint.state.steps)

            def advancing(state: TrainingState, x: Tensor, target: Tensor) -> tuple[TrainingState, Tensor]:
                after = take(state, x, target)
                progress.advance(task)
                return after

            verified = self.verifier.found if self.verifier else lambda: checkpoint.verified
            latest = checkpoint
            with interruptible(advancing) as taken:
                for after, record in run.train(self.folder, checkpoint, taken, verified):
                    latest = after
                    self.records.append(record)
                    progress.update(task, description=short_line(record))
                    if not shown:
                        say(line(record))
        return latest

    def _conclude(self, checkpoint: Checkpoint) -> bool:
        """Whether all is well."""
        from manual_bp.curves.overfitting import overfitting
        from manual_bp.training.confusion import confusion, in_words
        from manual_bp.training.fit import answers_of, examine
        from manual_bp.training.run import CHECKPOINT, METRICS, MODEL
        from manual_bp.training.saved import SavedModel

        run, best = self.run, self.run.best(checkpoint)
        n, labels = len(run.test.x), run.test.labels
        answers = answers_of(run.step, best, run.test.x)
        counts = confusion(labels, answers, run.classes)
        right = int(counts.diagonal().sum())
        said = f"test accuracy {right / n:.2%} ({right} of {n})".replace("%", " %")
        say(self._ending(checkpoint))
        out.print(said, style="bold")
        say(in_words(counts))
        saved = SavedModel(run.step.model, best.params, best.buffers, loss=run.step.loss.name)
        saved.save(self.folder / MODEL, {"accuracy": str(right / n)})
        flow, flat = examine(run.step, best, run.training)
        found = overfitting([r.training_loss for r in self.records], [r.validation_loss for r in self.records])
        for name, verdict in (("over-fitting", found.verdict), ("gradient", flow.verdict)):
            say(verdict if name in verdict else f"{name}: {verdict}")
        say(flat.verdict)  # which names the activation, and says of each whether it is saturated or dead
        names = [CHECKPOINT, METRICS, MODEL, *self._pictures(found, flat, said, checkpoint, self._confusions(answers))]
        say(f"{self.folder}: {', '.join(names)}")
        return self._verification(checkpoint)

    def _confusions(self, answers: Tensor) -> Figures:
        """Of labels: which are taken for which, and examples that are."""
        from manual_bp.training import confusion

        test, classes = self.run.test, self.run.classes
        counts = confusion.confusion(test.labels, answers, classes)
        return lambda about: {
            "confusion.svg": confusion.confusion_matrix(counts, about),
            "misclassified.svg": confusion.misclassified(test.x, self.run.image, test.labels, answers, about),
        }

    def _pictures(
        self, found: Overfitting, flat: Saturation, said: str, checkpoint: Checkpoint, of_kind: Figures
    ) -> list[str]:
        """The names of the files.  of_kind: figures that this kind of run alone has."""
        from manual_bp.training import pictures

        c, kept = self.run.configuration, checkpoint.stopping.best_epoch
        about = f"{c.model} on {Path(c.data).name}, {c.optimizer}, lr {c.lr}: {said}"
        try:
            figures = {
                "learning_curves.svg": pictures.learning_curves(self.records, found, kept, about),
                "gradient_norms.svg": pictures.gradient_norms(self.records, about),
                **of_kind(about),
            }
            if self.records[0].saturation:  # a network without activations has none
                lost = {name: layer.lost for name, layer in flat.layers.items()}
                figures["saturation.svg"] = pictures.saturation(self.records, lost, about)
        except ValueError as error:  # without matplotlib, as it says
            say(str(error))
            return []
        for name, figure in figures.items():
            pictures.save(figure, self.folder / name)
        return list(figures)

    def _ending(self, checkpoint: Checkpoint) -> str:
        stopping, patience = checkpoint.stopping, self.run.configuration.patience
        if not patience:
            return f"ended after epoch {checkpoint.epoch}, with the parameters of that epoch"
        best = f"best validation loss {stopping.best:.4g} in epoch {stopping.best_epoch}, whose parameters are taken"
        if stopping.stop:
            return f"stopped after epoch {checkpoint.epoch}, {patience} without a better one: {best}"
        return f"ended after epoch {checkpoint.epoch}: {best}"

    def _verification(self, checkpoint: Checkpoint) -> bool:
        if not self.verifier:
            return True
        found = self.verifier.found()
        steps = checkpoint.state.steps
        missing = steps - found["steps"]
        others = "" if not missing else f" ({counted(missing, 'other')} ran without --verify)"
        of = f"{found['steps']} of {counted(steps, 'step')}"
        judged = f"{of} judged against {self.verifier.against}, each from the same state"
        say(f"{judged}{others}: worst error / allowance {found['worst']:.2g} ({found['where']})")
        if found["failure"]:
            fail(found["failure"])
        else:
            out.print("every step agrees", style="bold green")
        return not found["failure"]

    def _saved(self) -> str:
        """What lies in the folder."""
        from manual_bp.training import checkpoint as checkpoints
        from manual_bp.training.run import CHECKPOINT

        path = self.folder / CHECKPOINT
        if not path.exists():
            return "There is no checkpoint yet."
        try:
            return f"{path} is whole, of epoch {checkpoints.load(path).epoch}."
        except ValueError as error:
            return str(error)

    def _say_how_to_go_on(self, remedy: str) -> None:
        """After a write that failed: from the checkpoint if there is one, else from the beginning."""
        from manual_bp.training.run import CHECKPOINT

        if (self.folder / CHECKPOINT).exists():
            say(f"{self._saved()} {remedy}, then go on with:")
            say(self.command)
        else:
            say(f"{self._saved()} {remedy}, then give the same command again: there is nothing to resume.")


def line(record: EpochRecord) -> str:
    """An epoch in a line."""
    parts = (
        f"epoch {record.epoch:3}",
        f"training loss {record.training_loss:.5f} accuracy {record.training_accuracy:7.2%}",
        f"validation loss {record.validation_loss:.5f} accuracy {record.validation_accuracy:7.2%}",
    )
    return "  ".join(parts).replace("%", " %")


def short_line(record: EpochRecord) -> str:
    """The same beside a progress bar, in 80 columns."""
    losses = f"{record.training_loss:.4f} {record.validation_loss:.4f}"
    right = f"{record.training_accuracy:.1%} {record.validation_accuracy:.1%}".replace("%", " %")
    return f"epoch {record.epoch}: loss {losses}, right {right}"


def say(text: str) -> None:
    """A line as it is, also where it is longer than the terminal: a command must stay one line."""
    out.print(text, markup=False, highlight=False, soft_wrap=True)


def fail(text: str) -> None:
    notices.print(f"error: {text}", style="bold red", markup=False, highlight=False, soft_wrap=True)
