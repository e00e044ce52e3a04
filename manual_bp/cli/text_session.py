"""How a run ends whose network learns text: what it expects of text that it has not seen, and what it writes."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from manual_bp.cli.session import Figures, Session, say
from manual_bp.cli.shared import out
from manual_bp.wording import counted

if TYPE_CHECKING:
    from manual_bp.training.checkpoint import Checkpoint
    from manual_bp.training.saved import SavedModel

SAMPLE, TEMPERATURE = 400, 0.8
"""Tokens that are printed at the end, and how boldly they are drawn: at 1 what is unlikely spoils too many words."""


class TextSession(Session):
    """A run of a network that learns text."""

    def _examples(self) -> str:
        run = self.run
        context = run.training.x.shape[1]
        learned = f"{counted(len(run.training.x), 'window')} of {counted(context, 'token')} to learn from"
        return f"{learned}, the {len(run.validation.x)} last ones to stop by; {run.classes} different tokens"

    def _conclude(self, checkpoint: Checkpoint) -> bool:
        from manual_bp.curves.overfitting import overfitting
        from manual_bp.training.fit import evaluate, examine
        from manual_bp.training.run import CHECKPOINT, METRICS, MODEL
        from manual_bp.training.saved import SavedModel
        from manual_bp.training.text import BYTES

        run, best = self.run, self.run.best(checkpoint)
        loss, right = evaluate(run.step, best, run.validation)
        unit = "byte" if run.symbols == BYTES else "character"
        bits = f"{loss / math.log(2):.2f} bits"
        said = f"validation loss {loss:.4f} nats per {unit} ({bits}), {right:.1%} of them guessed".replace("%", " %")
        say(self._ending(checkpoint))
        out.print(said, style="bold")
        saved = SavedModel(run.step.model, best.params, best.buffers, run.symbols, run.step.loss.name)
        saved.save(self.folder / MODEL, {"validation_loss": str(loss)})
        say(f"a sample, at temperature {TEMPERATURE}:")
        say(self._sample(saved))
        flow, flat = examine(run.step, best, run.training)
        found = overfitting([r.training_loss for r in self.records], [r.validation_loss for r in self.records])
        for name, verdict in (("over-fitting", found.verdict), ("gradient", flow.verdict)):
            say(verdict if name in verdict else f"{name}: {verdict}")
        names = [CHECKPOINT, METRICS, MODEL, *self._pictures(found, flat, said, checkpoint, self._attention(saved))]
        say(f"{self.folder}: {', '.join(names)}")
        say(f"more of it: manual-bp sample --model {self.folder} --prompt ...")
        return self._verification(checkpoint)

    def _sample(self, saved: SavedModel) -> str:
        """What the network writes after the first token of the text to validate with."""
        from manual_bp.training.sampling import sample
        from manual_bp.training.text import Symbols

        prompt, context = self.run.validation.x[0, :1], self.run.training.x.shape[1]
        layer = saved.model.inference()
        drawn = sample(layer, saved.params, saved.buffers, prompt, SAMPLE, context=context, temperature=TEMPERATURE)
        return Symbols(saved.symbols).text(drawn)

    def _attention(self, saved: SavedModel) -> Figures:
        """Of a network that has it: at what each character looks."""
        from manual_bp.training import attention_map

        run = self.run
        tokens = run.validation.x[0, : attention_map.SHOWN]
        characters = [run.symbols[token].decode(errors="replace") for token in tokens.tolist()]
        looks = attention_map.weights(saved.model.inference(), saved.params, saved.buffers, tokens)
        return lambda about: {"attention.svg": attention_map.attention_map(looks, characters, about)} if looks else {}
