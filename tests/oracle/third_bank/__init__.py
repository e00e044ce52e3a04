"""A third bank of programs to judge the oracle by: softmax to embedding, as authors of kernels write them.

It was written before the rules that it is about existed, from their names and arguments alone, by somebody who had
read neither pages nor oracle. What is due was decided by mathematics: each entry was compared with torch.autograd in
float64 at these places, and an entry that is not right names the probe at which it is seen to be wrong. The
bank says what ought to come out, and is not to be changed to what does come out, unless an entry is shown to be
mistaken by an argument that stands in its `why`.

- `axes`, `faults`: ways to sum and to reach rows; faults that any kernel may have
- `probes`, `truth`: the places at which the entries were compared with torch.autograd, and how
- `*_right`, `*_wrong`, `cross_entropy_places`: the programs, by family
"""

from tests.oracle.third_bank import (
    activations_right,
    cross_entropy_places,
    cross_entropy_right,
    cross_entropy_wrong,
    embedding_right,
    embedding_wrong,
    gelu_silu_wrong,
    log_softmax_wrong,
    norms_right,
    norms_wrong,
    rms_norm_wrong,
    softmax_right,
    softmax_wrong,
    softplus_swiglu_wrong,
)
from tests.oracle.third_bank.entry import Entry

PROGRAMS: tuple[Entry, ...] = (
    *softmax_right.PROGRAMS,
    *softmax_wrong.PROGRAMS,
    *log_softmax_wrong.PROGRAMS,
    *cross_entropy_right.PROGRAMS,
    *cross_entropy_wrong.PROGRAMS,
    *cross_entropy_places.PROGRAMS,
    *norms_right.PROGRAMS,
    *norms_wrong.PROGRAMS,
    *rms_norm_wrong.PROGRAMS,
    *activations_right.PROGRAMS,
    *gelu_silu_wrong.PROGRAMS,
    *softplus_swiglu_wrong.PROGRAMS,
    *embedding_right.PROGRAMS,
    *embedding_wrong.PROGRAMS,
)
