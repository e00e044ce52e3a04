"""Functions in plain torch as people fuse them, with right and wrong backwards written by hand and labelled.

Written before anything that judges them, by somebody who has not read it; `test_labels` shows by torch.autograd alone
that the labels are true.
"""

from tests.oracle.function_bank import (
    attention,
    attention_variants,
    gated,
    indexing,
    losses,
    normalisation,
    recurrent,
    regression,
    spatial,
)
from tests.oracle.function_bank.entry import CANDIDATES, Candidate, Function

FUNCTIONS = list({id(candidate.function): candidate.function for candidate in CANDIDATES}.values())

__all__ = [
    "CANDIDATES",
    "FUNCTIONS",
    "Candidate",
    "Function",
    "attention",
    "attention_variants",
    "gated",
    "indexing",
    "losses",
    "normalisation",
    "recurrent",
    "regression",
    "spatial",
]
