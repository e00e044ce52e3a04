"""How a hypothesis is tested, and what was found."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping, Sequence

from torch import Tensor

from manual_bp.oracle.conventions import Conventions
from manual_bp.oracle.diagnosis.agreement import agrees, is_settled
from manual_bp.oracle.diagnosis.deadline import Deadline
from manual_bp.oracle.diagnosis.fitting import Fit, fit
from manual_bp.oracle.diagnosis.forms import Form
from manual_bp.oracle.diagnosis.hypothesis import Explanation, Match, Predict, Prediction, Record, Row, Sample
from manual_bp.oracle.diagnosis.refutation import agrees_at_whole, is_far_off, is_refuted_beyond, probes_of
from manual_bp.oracle.diagnosis.view import View
from manual_bp.oracle.words import counted, listed, some
from manual_bp.rule import Vjp

# What is said of failing cases alone rests on so many wrong numbers.
EVIDENT = 3
# So many cases are named.
NAMED = 3
PLURAL = {
    "{} is that of": "{} are those of",
    **{
        f"{{}} {one} ": f"{{}} {several} "
        for one, several in {"is": "are", "equals": "equal", "takes": "take", "has": "have", "leaves": "leave"}.items()
    },
    ": it is that of ": ": they are those of ",
    ": it is ": ": they are ",
    ": it ignores ": ": they ignore ",
    "what it should be": "what they should be",
    " its own ": " their own ",
    "one of its sums": "one of their sums",
}
"""What is said of several arguments in place of what is said of one."""


class Examination(View):
    """A view in which hypotheses are tested.

    found: sentences.  explained: the arguments that they are about.  shared: of others, what all their wrong numbers
    have in common, `{}` standing for the name.  failed: which part of the search raised, in words.
    """

    def __init__(
        self,
        rule: Form,
        candidate: Vjp | None,
        records: Sequence[Record],
        wrong: Collection[str],
        conventions: Conventions,
        deadline: Deadline | None = None,
    ) -> None:
        self.found: list[str] = []
        self.explained: set[str] = set()
        self.failed: list[str] = []
        self.shared: dict[str, str] = {}
        self._refuted: set[object] = set()
        self._probed: dict[object, list[Row]] = {}
        self._matches: dict[object, Match] = {}
        super().__init__(rule, candidate, records, wrong, conventions, deadline)

    def probes(self) -> list[Row]:
        """The cases at which a hypothesis is asked first."""
        key = (self.failing, frozenset(self.asked))
        if key not in self._probed:
            chosen = self.kinks, self.moderate, self.failing
            self.look(kinks=False, failing=self.failing)
            self._probed[key] = probes_of(self)
            self.look(*chosen)
        return self._probed[key]

    # ---------------------------------------------------------------------------------------------------- the verdict

    def match(self, predict: Predict, name: str) -> Match:
        """Compare a hypothesis with every record, as long as some argument that is wrong agrees with it.

        A prediction may be None for an argument, and may raise at a case where it is not defined.  name: of the
        hypothesis, so that one that was refuted by far is not tested again.
        """
        key = (name, self.kinks, self.moderate, self.failing)
        if key not in self._matches:  # fewer arguments are open later, never more
            self._matches[key] = self._matched(predict, (name, self.failing))
        match = self._matches[key]
        return match._replace(seen={a: n for a, n in match.seen.items() if a in self.open})

    def _is_refuted(self, predict: Predict, name: tuple[str, bool]) -> bool:
        """Whether a hypothesis is far off, which is kept: by wrong numbers alone, it is among the failing cases too."""
        is_far, is_far_from_wrong = is_far_off(self, self.probes(), predict)
        if is_far:
            self._refuted.add(name)
        if is_far_from_wrong:
            self._refuted.add((name[0], True))
        return is_far

    def _matched(self, predict: Predict, name: tuple[str, bool]) -> Match:
        self.deadline.check()
        alive, silent = dict.fromkeys(self.arguments, 0), dict.fromkeys(self.arguments, 0)
        contradicted: set[str] = set()
        if name in self._refuted or self._is_refuted(predict, name):
            return Match({}, contradicted)
        for record, row in self.rows:
            if not self.asked & alive.keys():
                break
            self.deadline.check()
            case = record.evidence.case
            try:
                predicted = predict(case)
                if self.is_silent_on_y(predicted.values[0], case):
                    alive.pop("y", None)
                if not self.asked & alive.keys():
                    break
                if all(map(is_settled, row, predicted.values)):
                    continue
                tolerances = predicted.tolerance() if predicted.tolerance else (None,) * len(row)
            except Exception:  # not defined there, or not for these shapes
                predicted, tolerances = Prediction((None,) * len(row)), (None,) * len(row)
            for argument, sample, value, tolerance in zip(
                self.arguments, row, predicted.values, tolerances, strict=True
            ):
                if sample is None or value is None:
                    silent[argument] += sample is not None and sample.error > 1
                    continue
                same, visible = agrees(sample, value, tolerance, self.slack, self.moderate, self.dtype)
                if not same and argument in alive:
                    whole = self._whole.get(id(case))
                    same = agrees_at_whole(self, predict, whole, argument, sample)
                    visible |= same
                if visible and not same:
                    contradicted.add(argument)
                if not same:
                    alive.pop(argument, None)
                elif argument in alive:
                    alive[argument] += visible
        # What says nothing of more wrong results than it explains is not why they are wrong.
        seen = {a: n for a, n in alive.items() if n > silent[a] and a in self.asked}
        if self.failing:
            seen = {a: n for a, n in seen.items() if self._wrong_numbers(a) >= EVIDENT}
        if self.moderate and seen:
            seen = {a: n for a, n in seen.items() if not is_refuted_beyond(self, predict, a)}
        return Match(seen, contradicted, max((silent[a] for a in seen), default=0))

    def _wrong_numbers(self, argument: str) -> int:
        """How many numbers of an argument are wrong in what counts now; those of another shape in full."""
        return sum(
            int((~((s.got - s.expected).abs() <= s.allowance) & s.judged).sum())
            if s.got.shape == s.expected.shape
            else s.got.numel()
            for s in self.column(argument)
        )

    def matched(self, predict: Predict, sentence: str, name: str = "") -> Iterator[Explanation]:
        """The explanation that a hypothesis is, with its evidence, if it holds for some argument.

        name: what tells it from other hypotheses, if the sentence does not.
        """
        if self.asked and (match := self.match(predict, name or sentence)).seen:
            yield Explanation(match.seen.keys(), f"{sentence}; {self.cases(match.seen, match.silent)}")

    def cases(self, seen: Mapping[str, int], silent: int = 0) -> str:
        """The evidence of a match: in how many cases each argument is visibly not right, of that with the most, and in
        how many cases nothing was predicted."""
        most = max(seen.values())
        if self.failing:
            return f"so in {self.where_wrong(seen, most)}"
        number = len(self.rows) - silent
        if self.moderate:
            which = f"the {number} of {counted(len(self.records), 'case')}{self.looked_at} that are of moderate size"
            total = f"in each of {which}" if number > 1 else "in the only case of moderate size"
        else:
            total = f"in every one of {number} cases{self.looked_at}" if number > 1 else "in the only case"
        return f"so {total}, and visibly not right {f'in {most} of them' if number > 1 else 'there'}"

    def where_wrong(self, arguments: Collection[str], seen: int) -> str:
        """In so many of the failing cases in which one of the arguments is wrong, in words, with their names."""
        positions = [self.arguments.index(a) for a in arguments]
        wrong = [r.evidence.case.name for r, row in self.rows if any(row[i] is not None for i in positions)]
        which = f"all {len(wrong)} cases" if seen >= len(wrong) else f"{seen} of the {len(wrong)} cases"
        it = "it is" if len(arguments) == 1 else "they are"
        return f"{'the only case' if len(wrong) == 1 else which} in which {it} wrong: {some(map(repr, wrong), NAMED)}"

    def fits(self, argument: str, parts: Callable[[Sample], Sequence[Tensor]]) -> list[Fit]:
        """The factors of the parts in every case that determines them; none at all if one contradicts."""
        found = []
        for sample in self.column(argument):
            self.deadline.check()
            try:
                fitted = fit(sample, parts(sample), self.slack)
            except Exception:  # no such parts there
                continue
            if fitted == "contradicts":
                return []
            if isinstance(fitted, Fit):
                found.append(fitted)
        return found

    def tell(self, explanation: Explanation) -> None:
        """Note an explanation; its arguments are explained from now on, and none is explained twice."""
        named = [a for a in self.arguments if a in self.open and a in explanation.arguments]
        if not named:
            return
        reported = [name for argument in named for name in self.rule.named(argument, self.reported)]
        sentence = explanation.sentence
        if len(reported) > 1:
            for singular, plural in PLURAL.items():
                sentence = sentence.replace(singular, plural)
        self.found.append(sentence.replace("{}", listed(reported), 1))
        self.open -= set(named)
        self.explained |= set(named)
