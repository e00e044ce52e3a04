"""The second bank: wrong programs, and right ones, that the diagnosis was not made against."""

from types import ModuleType

from benchmarks.diagnosis_bank import (
    activations,
    batch_norms,
    cross_entropies,
    functions,
    gates,
    layer_norms,
    more_rights,
    regularizers,
    rights,
    rms_norms,
    softmaxes,
    tables,
)
from benchmarks.diagnosis_bank.program import Program


def _programs(*chapters: ModuleType) -> tuple[Program, ...]:
    return tuple(entry for chapter in chapters for entry in vars(chapter).values() if isinstance(entry, Program))


PROGRAMS = _programs(
    softmaxes,
    cross_entropies,
    layer_norms,
    rms_norms,
    batch_norms,
    gates,
    activations,
    tables,
    regularizers,
    functions,
    rights,
    more_rights,
)
