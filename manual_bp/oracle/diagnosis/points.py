"""Points: the cases of a search, with what was returned and what is due there, and what an edit gives."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property

from torch import Tensor

from manual_bp.oracle.case import Case
from manual_bp.oracle.diagnosis.edit import Edit
from manual_bp.oracle.diagnosis.program import PAGE, Called, Traced
from manual_bp.oracle.diagnosis.records import Record
from manual_bp.oracle.diagnosis.samples import Sample
from manual_bp.oracle.diagnosis.tracing import called, traced
from manual_bp.oracle.truth.conventions import Conventions
from manual_bp.rule import Rule

# A case of more elements takes long, and shows nothing that a smaller one does not, unless it is the only one.
LARGE = 4096
# Where all numbers of an input are smaller or larger, a curve is a line, and edits that differ give the same.
SMALL, GREAT = 0.1, 100.0


@dataclass(eq=False)
class Point:
    """A case, with what was returned for each argument there.  at_kinks: the same, judged where no derivative exists
    too."""

    record: Record
    samples: dict[str, Sample]
    rule: Rule
    conventions: Conventions
    at_kinks: Mapping[str, Sample] = field(default_factory=dict)

    @property
    def case(self) -> Case:
        return self.record.evidence.case

    @property
    def name(self) -> str:
        return self.case.name

    @property
    def size(self) -> int:
        return self.case.elements

    @property
    def is_part(self) -> bool:
        """Whether it is the end of a larger case, at which alone the candidate was called."""
        return self.record.evidence.row is not None

    @property
    def is_extreme(self) -> bool:
        """Whether all numbers of an input are small or great."""
        inputs = [x for x in self.case.inputs if x is not None]
        largest = [float(x.abs().max()) for x in inputs if x.is_floating_point() and x.numel()]
        return not all(SMALL < x < GREAT for x in largest)

    @cached_property
    def called(self) -> Called:
        """The page as it is called at this case."""
        return called(self.rule, self._declared)

    def traced(self, by: str = PAGE) -> Traced:
        """The program at this case."""
        if by not in self._traced:
            self._traced[by] = traced(self.rule, self._declared, by)
        return self._traced[by]

    def program(self, edit: Edit, by: str) -> Called:
        """What an edit is one of."""
        return self.called if edit.is_registered else self.traced(by)

    def given(self, edit: Edit, by: str, argument: str) -> Tensor | None:
        """What an argument is with an edit; raises where that is not defined."""
        program = self.program(edit, by)
        values = edit.results(program, program.needed([argument]))
        value = values.get(argument, program.right.get(argument))
        return None if value is None else value.double()

    @cached_property
    def _traced(self) -> dict[str, Traced]:
        return {}

    @cached_property
    def _declared(self) -> Case:
        return replace(self.case, hyper=self.conventions.hyper(self.rule, self.case.hyper))
