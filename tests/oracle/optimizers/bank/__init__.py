"""A bank of training code to judge the oracle by: updates, optimisers, accumulation, own masks, early stopping.

Written on 29 November 2026, before any of it was judged, by somebody who had read the guides and of the pages formulas,
conventions and signatures (and, by accident, a few names of `scale_loss`'s mistakes), but not the oracle nor its tests.
40 entries are wrong and 20 are right but unusual.

| kind | candidate |
|---|---|
| update | a function `f(inputs, **hyper) -> outputs`; `reference` is the page of the update |
| optimizer | a subclass of torch.optim.Optimizer; `options` may name a dtype, or what is declared |
| accumulation | `vjp(inputs, dy, **hyper) -> (y, grads)` of a whole batch, made of pieces; a rule or a function |
| dropout | a class that draws its masks: static `forward(x, p=0.5) -> (y, cache)`, `backward(dy, cache) -> (dx,)` |
| early stopping | `f(losses, patience, min_delta=0.0) -> (epoch of the stop or None, epoch kept)`; epochs from 1 |

Labels: a right one does what the page says (in float32 and float64, or the dtype in `options`) at every usual setting;
where it keeps numbers in fewer bits, that is declared. A wrong one doesn't at one usual setting at least, which may
need groups, a schedule, a checkpoint, or a large lr: `cause` says what for. `adamw_decays_after_the_step` differs by
lr² weight_decay, which float32 cannot show at the default hyperparameters. `keywords` are words that an honest first
sentence could have; they were guessed, not read off. The bank says what ought to come out, and is not to be changed to
what does, unless an entry is shown to be mistaken.
"""

from tests.oracle.optimizers.bank import engines, loops, unusual_engines, updates
from tests.oracle.optimizers.bank.entry import Entry

ENTRIES: list[Entry] = [entry for module in (updates, engines, unusual_engines, loops) for entry in module.ENTRIES]
