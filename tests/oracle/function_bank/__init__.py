"""Functions in plain torch as people fuse them, with right and wrong backwards written by hand and labelled.

Written before anything that judges them, by somebody who has not read it (`kernels_of_*` by somebody who had, in the
manner of what kernels fuse today); `test_labels` shows by torch.autograd alone that the labels are true.
"""

from tests.oracle.function_bank import (  # noqa: F401 (each enters its candidates)
    attention,
    attention_variants,
    checkers,
    gated,
    indexing,
    kernels_of_layers,
    kernels_of_losses,
    kernels_of_sequences,
    losses,
    normalisation,
    recurrent,
    refused,
    regression,
    spatial,
)
from tests.oracle.function_bank.checkers import CHECKERS, Checker
from tests.oracle.function_bank.entry import CANDIDATES, Candidate, Function
from tests.oracle.function_bank.refused import REFUSED, Refused

FUNCTIONS = list({id(candidate.function): candidate.function for candidate in CANDIDATES}.values())

__all__ = ["CANDIDATES", "CHECKERS", "FUNCTIONS", "REFUSED", "Candidate", "Checker", "Function", "Refused"]
