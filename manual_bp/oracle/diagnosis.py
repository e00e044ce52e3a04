"""Diagnosis: why a candidate is wrong.

Every explanation is a hypothesis that says, for each case, what the candidate would have returned if it were true.  It
is reported only if the candidate returned that in *every* case, within rounding, and if in some case that is visibly
not the right answer.  So a right candidate gets no diagnosis, and neither does one that is wrong without a system.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from functools import partial
from typing import Any, NamedTuple

import torch
from torch import Tensor

from manual_bp.arithmetic.bounded import Contract, contract_of, widths
from manual_bp.inputs import Edge, Mistake
from manual_bp.oracle.cases import Case, draw
from manual_bp.oracle.evidence import Evidence, evidence
from manual_bp.oracle.fitting import CONSTANTS, NEAR, ROUNDINGS, Factor, Fit, Sample, altered, fit, recognise
from manual_bp.rule import RULES, Rule, Vjp

Values = tuple[Tensor | None, ...]
"""y, then one entry per input."""


class Record(NamedTuple):
    """A case with its evidence, and what the candidate returned there: y, then one entry per input."""

    evidence: Evidence
    results: tuple[Any, ...]


class Prediction(NamedTuple):
    """What a candidate would return if a hypothesis held, and how far off rounding may take it (None: not derived)."""

    values: Values
    tolerance: Values | None = None


Predict = Callable[[Case], Prediction]


class Match(NamedTuple):
    """seen: the arguments that a hypothesis explains, and in how many cases each visibly is not the right answer.
    contradicted: arguments that it would change, and that the candidate did not return so."""

    seen: dict[str, int]
    contradicted: set[str]


# A prediction is told from the right answer where they are so many tolerances apart.
APART = 4
# So few records leave factors of lengths and hyperparameters open; so many more are drawn, of these lengths.
FEW = 4
MORE = ((5, 3, 2, 4), (3, 4, 5, 2), (7, 2, 3, 3))
# At how many cases a candidate is called again.
CALLS = 3
PLURAL = {"is": "are", "equals": "equal", "takes": "take", "has": "have"}
# A claim about one number rests on as many.
NUMBERS = 3
# Arithmetic in 16 bits leaves more than this share of all numbers wrong in a longer format.
MOST = 0.5


def diagnose(rule: Rule, candidate: Vjp | None, records: Sequence[Record], wrong: Collection[str]) -> list[str]:
    """Plain sentences, best first, each with its evidence; empty for a right candidate.

    candidate: None for results that were recorded. wrong: the arguments ("y", "dx", ...) with a value that is wrong.
    """
    with torch.no_grad():
        return _Diagnosis(rule, candidate, records, wrong).sentences()


class _Diagnosis:
    def __init__(self, rule: Rule, candidate: Vjp | None, records: Sequence[Record], wrong: Collection[str]) -> None:
        self.rule, self.candidate = rule, candidate
        self.arguments = ("y", *(f"d{name}" for name in rule.inputs))
        self.records = [r for r in records if len(r.results) == len(self.arguments)]
        self.wrong = {a for i, a in enumerate(self.arguments) if a in wrong or self._misshapen(i)}
        self.open = set(self.wrong)
        self.found: list[str] = []
        self.kept: dict[int, tuple[Values, Values]] = {}
        if not self.records or not self.wrong:
            return
        self.dtype = self.records[0].evidence.case.dy.dtype
        if candidate is not None and len(self.records) < FEW:
            self.records += self._drawn()
        self._judge(kinks=True)
        worst = [max((s.error for i, s in self._wrong(row)), default=0.0) for row in self.samples]
        order = sorted(range(len(self.records)), key=lambda i: -worst[i])  # what refutes most comes first
        self.records = [self.records[i] for i in order]
        self._judge(kinks=True)

    def sentences(self) -> list[str]:
        """The stages in order; an argument that one has explained is not explained again."""
        if not self.records or not self.wrong:
            return []
        for stage in (
            partial(self._mistakes, whole=True),
            partial(self._judge, kinks=False),
            partial(self._mistakes, whole=True),
            partial(self._factors, plain=True),
            self._hyperparameters,
            self._factors,
            self._terms,
            self._cotangents,
            self._layouts,
            self._shapes,
            self._reductions,
            self._neighbours,
            partial(self._mistakes, whole=False),
            self._ignored,
            self._zero_hyperparameters,
            self._not_finite,
            self._sixteen_bits,
            self._varying_factors,
        ):
            if self.open:
                stage()
        return self.found

    # ------------------------------------------------------------------------------------------------ what came back

    def _misshapen(self, position: int) -> bool:
        """Whether a result has another shape than the expected one, or is a tensor where None is due."""
        pairs = [(r.results[position], r.evidence.expected[position]) for r in self.records]
        return any(isinstance(g, Tensor) and (e is None or g.shape != e.shape) for g, e in pairs)

    def _judge(self, kinks: bool) -> None:
        """Judge values at kinks and ties too, where a known mistake may be all there is, or leave them out, where a
        formula says nothing about the convention."""
        self.kinks = kinks
        self.samples = [[self._sample(r, i) for i in range(len(self.arguments))] for r in self.records]

    def _sample(self, record: Record, position: int) -> Sample | None:
        found, got = record.evidence, record.results[position]
        if not isinstance(got, Tensor) or got.layout is not torch.strided:
            return None
        expected, allowance, kinks = found.expected[position], found.allowance[position], found.kinks[position]
        got = got.detach().cpu().double()
        if expected is None or allowance is None:
            return Sample(found.case, got, torch.zeros(0), torch.zeros(0), torch.zeros(0, dtype=torch.bool))
        judged = expected.to(self.dtype).isfinite() & allowance.isfinite()
        judged = judged if kinks is None or self.kinks else judged & ~kinks
        if position:
            x = found.case.inputs[position - 1].cpu()
            judged = judged & ~x.isnan() if x.is_floating_point() else judged
        return Sample(found.case, got, expected, allowance, judged)

    def _wrong(self, row: Sequence[Sample | None]) -> Iterator[tuple[str, Sample]]:
        for argument, sample in zip(self.arguments, row, strict=True):
            if argument in self.open and sample is not None:
                yield argument, sample

    def _drawn(self) -> Iterator[Record]:
        """A few more cases, of other sizes, at which the candidate is called."""
        names = list(self.rule.axis_names)
        generator = torch.Generator().manual_seed(0)
        for lengths in MORE:
            edge = Edge(f"sizes {lengths}", sizes=dict(zip(names, lengths, strict=False)))
            inputs, dy, hyper = draw(self.rule, edge, generator)
            cast = [x.to(self.dtype) if x.is_floating_point() else x for x in (*inputs, dy)]
            case = Case(tuple(cast[:-1]), cast[-1], hyper, edge.name)
            results = self._call(case, case.dy)
            found = evidence(self.rule, case, contract_of(self.dtype)) if results else ""
            if results and isinstance(found, Evidence):
                yield Record(found, results)

    def _call(self, case: Case, dy: Tensor, inputs: tuple[Tensor, ...] | None = None) -> tuple[Any, ...] | None:
        """What the candidate returns; None if it does not get so far."""
        assert self.candidate is not None
        try:
            copies = tuple(x.clone() for x in inputs or case.inputs)
            y, grads = self.candidate(copies, dy.clone(), **self._passed(case))
            return (y, *grads) if len(grads) == len(self.rule.inputs) else None
        except (Exception, SystemExit):
            return None

    def _passed(self, case: Case) -> dict[str, Any]:
        """A hyperparameter at its default need not be taken by the candidate."""
        return {name: v for name, v in case.hyper.items() if self.rule.defaults.get(name) != v}

    # ------------------------------------------------------------------------------------------------- how it is told

    def _tell(self, arguments: Iterable[str], sentence: str) -> None:
        """Note an explanation of these arguments; `{}` stands for their names."""
        named = [a for a in self.arguments if a in set(arguments)]
        names = " and ".join(filter(None, (", ".join(named[:-1]), named[-1])))
        if len(named) > 1:
            for singular, plural in PLURAL.items():
                sentence = sentence.replace(f"{{}} {singular} ", f"{{}} {plural} ")
        self.found.append(sentence.replace("{}", names, 1))
        self.open -= set(named)

    def _match(self, predict: Predict) -> Match:
        """Compare a hypothesis with every record, as long as some argument that is wrong agrees with it."""
        alive = dict.fromkeys(self.arguments, 0)
        contradicted: set[str] = set()
        for record, row in zip(self.records, self.samples, strict=True):
            if not self.open & alive.keys():
                break
            try:
                predicted = predict(record.evidence.case)
            except Exception:  # not defined there, or not for these shapes
                continue
            tolerances = predicted.tolerance or (None,) * len(row)
            for argument, sample, value, tolerance in zip(
                self.arguments, row, predicted.values, tolerances, strict=True
            ):
                if sample is None or value is None:
                    if sample is not None and sample.expected.shape != sample.got.shape:
                        alive.pop(argument, None)
                    continue
                agrees, visible = self._agrees(sample, value, tolerance)
                if visible and not agrees:
                    contradicted.add(argument)
                if not agrees:
                    alive.pop(argument, None)
                elif argument in alive:
                    alive[argument] += visible
        return Match({a: n for a, n in alive.items() if n and a in self.open}, contradicted)

    def _agrees(self, sample: Sample, value: Tensor, tolerance: Tensor | None) -> tuple[bool, bool]:
        """Whether the candidate returned this value, and whether it is visibly not the right one."""
        value = value.double()
        eps = torch.finfo(self.dtype).eps
        loose = ROUNDINGS * eps * value.abs().nan_to_num(0, 0, 0).max() if value.numel() else 0
        if value.shape != sample.expected.shape:
            tolerance = torch.full_like(value, float(loose))
            agrees = value.shape == sample.got.shape
            close = agrees and ((value - sample.got).abs() <= tolerance) | ~value.isfinite()
            return agrees and bool(torch.as_tensor(close).all()), bool(value.numel())
        if tolerance is None or tolerance.shape != value.shape:
            tolerance = 4 * sample.allowance + loose
        judged = sample.judged & value.to(self.dtype).isfinite() & tolerance.isfinite()
        visible = ((value - sample.expected).abs() > APART * (tolerance + sample.allowance))[judged]
        if sample.got.shape != value.shape:
            return False, bool(visible.any())
        close = (value - sample.got).abs() <= tolerance + 2 * eps * value.abs()
        return bool(close[judged].all()), bool(visible.any())

    # ------------------------------------------------------------------------------------------------------- the page

    def _at(self, case: Case, rule: Rule | None = None, **other: Any) -> Prediction:
        """The rule (or another one) in float64 at the case with other inputs, cotangent or hyperparameters."""
        rule = rule or self.rule
        inputs, dy = other.get("inputs", case.inputs), other.get("dy", case.dy)
        hyper = other.get("hyper", case.hyper)
        y, grads = rule.vjp(tuple(_wide(x) for x in inputs), _wide(dy), **hyper)
        width = widths(rule, inputs, dy, contract_of(self.dtype), **hyper)
        return Prediction((y, *grads), (width.y, *width.grads))

    def _right(self, case: Case) -> tuple[Values, Values]:
        """The rule at the case itself, and its widths; kept, since every hypothesis asks for it."""
        if id(case) not in self.kept:
            found = self._at(case)
            assert found.tolerance is not None
            self.kept[id(case)] = (found.values, found.tolerance)
        return self.kept[id(case)]

    def _mistakes(self, whole: bool) -> None:
        """Registered mistakes; `whole`: with all that they change."""
        found = []
        for mistake in self.rule.mistakes:
            if not mistake.loses_digits:
                match = self._match(partial(self._mistaken, mistake))
                if match.seen and not (whole and match.contradicted):
                    found.append((mistake, match.seen))
        # The more it explains the better; sorting is stable, so of equals the page's first stands first.
        for mistake, seen in sorted(found, key=lambda pair: -len(pair[1])):
            explained = seen.keys() & self.open
            if explained:
                address = f" (seen: {mistake.seen})" if mistake.seen else ""
                words = f"the known mistake '{mistake.name}': it forgets {mistake.forgets}{address}"
                self._tell(explained, f"{{}} equals {words}; {self._cases(max(seen.values()))}")

    def _mistaken(self, mistake: Mistake, case: Case) -> Prediction:
        inputs, dy = tuple(_wide(x) for x in case.inputs), _wide(case.dy)
        y, grads = self.rule.mistaken(mistake.backward)(inputs, dy, **case.hyper)
        try:
            contract = contract_of(self.dtype)
            width = widths(self.rule, case.inputs, case.dy, contract, backward=mistake.backward, **case.hyper)
            tolerance: Values | None = (width.y, *width.grads)
        except Exception:  # the formula uses a function of which no width is known
            tolerance = None
        return Prediction((y, *grads), tolerance)

    def _cases(self, seen: int) -> str:
        return f"so in every one of {len(self.records)} cases, and visibly not right in {seen} of them"

    def _hyperparameters(self, values: Iterable[float] = (1,)) -> None:
        for name in self.rule.hyper:
            tried = [self.rule.defaults.get(name), self.rule.ordinary.get(name), *values]
            for value in dict.fromkeys(v for v in tried if v is not None):

                def predict(case: Case, name: str = name, value: Any = value) -> Prediction:
                    y, *_ = self._right(case)[0]
                    found = self._at(case, hyper={**case.hyper, name: value})
                    return Prediction((y, *found.values[1:]), found.tolerance)

                seen = self._match(predict).seen
                if seen and self.open:
                    sentence = f"{name} is ignored: {{}} is that of {name}={value}; {self._cases(max(seen.values()))}"
                    self._tell(seen, sentence)

    def _zero_hyperparameters(self) -> None:
        self._hyperparameters((0, -1, 2))

    # -------------------------------------------------------------------------------------------------------- factors

    def _fits(self, argument: str, parts: Callable[[Sample], Sequence[Tensor]]) -> list[Fit]:
        """The factors of the parts in every case that determines them; none at all if one contradicts."""
        position, found = self.arguments.index(argument), []
        for row in self.samples:
            sample = row[position]
            if sample is None:
                continue
            try:
                fitted = fit(sample, parts(sample), self.dtype)
            except Exception:  # no such parts there
                continue
            if fitted == "contradicts":
                return []
            if isinstance(fitted, Fit):
                found.append(fitted)
        return found

    def _numbers(self, argument: str) -> int:
        position = self.arguments.index(argument)
        return sum(int(s.judged.sum()) for s in (row[position] for row in self.samples) if s is not None)

    def _factors(self, plain: bool = False) -> None:
        """Arguments that are off by one factor; `plain`: by 0, -1, 2 and the like only."""
        told: dict[str, tuple[list[str], int]] = {}
        for argument in self.arguments:
            if argument not in self.open or self._numbers(argument) < NUMBERS:
                continue
            fits = self._fits(argument, lambda sample: [sample.expected])
            factor = recognise(self.rule, fits, 0) if len(fits) >= min(NUMBERS, len(self.records)) else None
            if factor and factor.name != "1" and (factor.name in CONSTANTS or not plain):
                arguments, _ = told.setdefault(self._in_words(argument, factor, fits), ([], len(fits)))
                arguments.append(argument)
        for words, (arguments, count) in told.items():
            self._tell(arguments, f"{{}} {words}; fitted in {count} cases")

    def _in_words(self, argument: str, factor: Factor, fits: Sequence[Fit]) -> str:
        if factor.name in ("0", "-1"):
            return "is 0 everywhere" if factor.name == "0" else "has the wrong sign: it is -1 times what it should be"
        meant = f" ({factor.why})" if factor.why else ""
        reduced = fits[0].case.dy.numel() / max(fits[0].case.inputs[self.arguments.index(argument) - 1].numel(), 1)
        mean = argument != "y" and factor.name == "1/n" and abs(fits[0].factors[0] * reduced - 1) < NEAR and reduced > 1
        return f"is {factor.name} times what it should be{meant}" + (": a mean where a sum is due" if mean else "")

    def _terms(self) -> None:
        _, residuals = self.rule.forward(*self.records[0].evidence.case.inputs, **self.records[0].evidence.case.hyper)
        terms = self.rule.terms(residuals, self.records[0].evidence.case.dy)
        for argument, names in ((a, list(terms[a])) for a in self.arguments if len(terms.get(a, ())) > 1):
            if argument not in self.open:
                continue
            fits = self._fits(argument, partial(self._parts, argument))
            factors = [recognise(self.rule, fits, i) for i in range(len(names))] if fits else [None]
            if None in factors or len(fits) < 2:
                continue
            changed = [(n, f) for n, f in zip(names, factors, strict=True) if f is not None and f.name != "1"]
            best = min(fits, key=lambda f: max(f.uncertainty))
            fitted = ", ".join(f"{n} {f:.3f}" for n, f in zip(names, best.factors, strict=True))
            evidence = f"(fitted factors: {fitted} in case {best.case.name!r}; alike in {len(fits)} cases)"
            if changed:
                self._tell([argument], f"{{}}: {' and '.join(_term(n, f) for n, f in changed)} {evidence}")

    def _parts(self, argument: str, sample: Sample) -> list[Tensor]:
        case = sample.case
        _, residuals = self.rule.forward(*(_wide(x) for x in case.inputs), **case.hyper)
        return list(self.rule.terms(residuals, _wide(case.dy))[argument].values())

    def _varying_factors(self) -> None:
        for argument in self.arguments:
            if argument in self.open and self._numbers(argument) >= NUMBERS:
                fits = self._fits(argument, lambda sample: [sample.expected])
                factors = sorted(f.factors[0] for f in fits)
                if len(fits) >= NUMBERS and factors[-1] - factors[0] > 4 * max(f.uncertainty[0] for f in fits):
                    words = f"by one factor that differs from case to case ({factors[0]:.4g} to {factors[-1]:.4g})"
                    self._tell([argument], f"every element of {{}} is off {words}; fitted in {len(fits)} cases")

    # ----------------------------------------------------------------------------------- axes, reductions, neighbours

    def _shapes(self) -> None:
        """Finished cotangents that were transposed, or reduced over axes of their own."""
        for words, change in SHAPES.items():

            def predict(case: Case, change: Callable[[Tensor], Tensor] = change) -> Prediction:
                (y, *grads), width = self._right(case)
                eps = ROUNDINGS * torch.finfo(self.dtype).eps

                def changed(g: Tensor | None) -> Tensor | None:
                    return None if g is None or not g.ndim else change(g)

                pairs = zip(grads, width[1:], strict=True)
                errors = (None if g is None or w is None else w + eps * g.abs() for g, w in pairs)
                return Prediction((y, *map(changed, grads)), (width[0], *map(changed, errors)))

            if seen := self._match(predict).seen:
                self._tell(seen, f"{{}} is {words}; {self._cases(max(seen.values()))}")

    def _reductions(self) -> None:
        """Sums and means of the page's text that are taken otherwise."""
        case = self.records[0].evidence.case
        _, residuals = self.rule.forward(*case.inputs, **case.hyper)
        for words, backward in altered(self.rule, residuals, case.dy):

            def predict(case: Case, backward: Callable[[Any, Tensor], Any] = backward) -> Prediction:
                y, residuals = self.rule.forward(*(_wide(x) for x in case.inputs), **case.hyper)
                return Prediction((y, *backward(residuals, _wide(case.dy))))

            if self.open and (seen := self._match(predict).seen):
                self._tell(seen, f"{{}}: one of its sums is {words}; {self._cases(max(seen.values()))}")

    def _neighbours(self) -> None:
        """Another rule's formula, and this rule's at y in place of x."""
        if self.rule.elementwise:
            seen = self._match(self._at_output).seen
            if seen:
                self._tell(seen, f"{{}} is the derivative taken at y and not at x; {self._cases(max(seen.values()))}")
        for other in (r for r in RULES.values() if r.chapter == self.rule.chapter and r.name != self.rule.name):
            callable_here = other.inputs.keys() <= self.rule.inputs.keys() and other.defaults.keys() >= set(other.hyper)
            if self.open and callable_here:
                seen = self._match(partial(self._neighbour, other)).seen
                if seen:
                    self._tell(seen, f"{{}} is the formula of {other.name}; {self._cases(max(seen.values()))}")

    def _at_output(self, case: Case) -> Prediction:
        y, _ = self.rule.forward(*(_wide(x) for x in case.inputs), **case.hyper)
        return Prediction((y, *self._at(case, inputs=(y, *case.inputs[1:])).values[1:]))

    def _neighbour(self, other: Rule, case: Case) -> Prediction:
        named = dict(zip(self.rule.inputs, case.inputs, strict=True))
        hyper = {n: v for n, v in case.hyper.items() if n in other.hyper}
        found = self._at(case, other, inputs=tuple(named[n] for n in other.inputs), hyper=hyper)
        y, _ = self.rule.forward(*(_wide(x) for x in case.inputs), **case.hyper)
        grads = dict(zip(other.inputs, found.values[1:], strict=True))
        return Prediction((y, *(grads.get(n) for n in self.rule.inputs)))

    # ------------------------------------------------------------------------------------------------- the cotangent

    def _cotangents(self) -> None:
        seen = self._match(lambda case: self._at(case, dy=torch.ones_like(case.dy))).seen
        seen.pop("y", None)
        if seen:
            self._tell(seen, f"{{}} takes the cotangent for ones: it ignores dy; {self._cases(max(seen.values()))}")

    def _ignored(self) -> None:
        """Called with another cotangent: the same answer, or one that does not follow it."""
        for argument, position in [(a, i) for i, a in enumerate(self.arguments) if a in self.open and i]:
            pairs: list[tuple[Tensor, Any]] = []
            for record, row in zip(self.records, self.samples, strict=True):
                if len(pairs) < CALLS and self.candidate and self._telling(row[position]):
                    dy = record.evidence.case.dy
                    another = dy.flip(-1) - 2 if dy.ndim else -2 * dy
                    got, other = (self._call(record.evidence.case, d) for d in (dy, another))
                    if got and other and isinstance(got[position], Tensor) and bool((got[position] != 0).any()):
                        pairs.append((got[position], other[position]))
            if pairs and all(isinstance(b, Tensor) and torch.equal(a, b) for a, b in pairs):
                words = f"ignores the cotangent: it does not change when dy does; {len(pairs)} calls"
                self._tell([argument], f"{{}} {words}")

    @staticmethod
    def _telling(sample: Sample | None) -> bool:
        """Whether the right answer is finite and not 0, so that it follows dy."""
        return sample is not None and bool((sample.judged & (sample.expected.abs() > APART * sample.allowance)).any())

    def _layouts(self) -> None:
        """Right for contiguous copies of the same values: some operand is read as if it were contiguous."""
        if self.candidate is None:
            return
        blamed: dict[tuple[str, ...], list[tuple[str, str]]] = {}
        for record, row in zip(self.records, self.samples, strict=True):
            for argument, sample in self._wrong(row):
                if sample.error > APART**2:  # no matter of the order in which another layout is summed
                    strided = self._strided(record.evidence.case)
                    if not strided or not self._mended(record, self.arguments.index(argument)):
                        return
                    blamed.setdefault(strided, []).append((argument, record.evidence.case.name))
        for strided, where in blamed.items():
            if not any(set(other) < set(strided) for other in blamed):
                cases = ", ".join(dict.fromkeys(repr(name) for _, name in where))
                words = f"{' and '.join(strided)} is read as if it were contiguous"
                proof = f"with a contiguous copy of it all is right; cases {cases}"
                self._tell({a for a, _ in where}, f"{{}}: {words}: {proof}")

    def _strided(self, case: Case) -> tuple[str, ...]:
        named = zip(("dy", *self.rule.inputs), (case.dy, *case.inputs), strict=True)
        return tuple(name for name, x in named if not x.is_contiguous())

    def _mended(self, record: Record, position: int) -> bool:
        case = record.evidence.case
        results = self._call(case, case.dy.contiguous(), tuple(x.contiguous() for x in case.inputs))
        sample = self._sample(Record(record.evidence, results), position) if results else None
        return sample is not None and sample.error <= 1

    # ------------------------------------------------------------------------------------------------- the arithmetic

    def _not_finite(self) -> None:
        """NaN or infinite exactly where a known mistake is, and equal to it elsewhere."""
        for mistake, argument in itertools.product(self.rule.mistakes, sorted(self.open - {"y"})):
            seen = self._breaks_as(mistake, self.arguments.index(argument))
            if seen and argument in self.open:
                address = f" (seen: {mistake.seen})" if mistake.seen else ""
                words = f"NaN or infinite where the known mistake '{mistake.name}' is, and equals it elsewhere"
                self._tell([argument], f"{{}} is {words}: it forgets {mistake.forgets}{address}; {seen} cases")

    def _breaks_as(self, mistake: Mistake, position: int) -> int:
        """In how many cases the mistake is not finite; 0 if the candidate differs from it anywhere."""
        seen = 0
        for sample in (row[position] for row in self.samples):
            if sample is None:
                return 0
            try:
                inputs, dy = sample.case.inputs, sample.case.dy
                _, grads = self.rule.mistaken(mistake.backward)(inputs, dy, **sample.case.hyper)
            except Exception:  # not defined there
                continue
            value = grads[position - 1]
            if value is None or value.shape != sample.got.shape:
                return 0
            value = value.cpu().double()
            broken = ~value.isfinite()
            tolerance = sample.allowance + ROUNDINGS * torch.finfo(self.dtype).eps * value.abs()
            equal = torch.where(broken, ~sample.got.isfinite(), (value - sample.got).abs() <= tolerance)
            if not bool(equal[sample.judged].all()):
                return 0
            seen += bool(broken[sample.judged].any())
        return seen

    def _sixteen_bits(self) -> None:
        """Off by no more than arithmetic in 16 bits is, in many cases and by no one factor."""
        if self.dtype not in (torch.float32, torch.float64):
            return
        for argument, position in [(a, i) for i, a in enumerate(self.arguments) if a in self.open]:
            for name, half in (("float16", torch.float16), ("bfloat16", torch.bfloat16)):
                if self._is_narrow(position, half):
                    words = f"its errors are those of sums accumulated, or numbers kept, in 16 bits ({name})"
                    self._tell([argument], f"{{}} is computed in low precision: {words}")
                    break

    def _is_narrow(self, position: int, half: torch.dtype) -> bool:
        """Whether most cases are visibly off, every one within the width of 16 bits."""
        off, most = [], torch.finfo(half).eps * ROUNDINGS
        for sample in (row[position] for row in self.samples):
            if sample is None or not self._telling(sample) or sample.got.shape != sample.expected.shape:
                continue
            case = sample.case
            width = widths(self.rule, case.inputs, case.dy, Contract(half, half), **case.hyper)
            bound = (width.y, *width.grads)[position]
            error, largest = (sample.got - sample.expected).abs(), sample.expected[sample.judged].abs().max()
            if bound is None or bool((error > bound.clamp(max=float(most * largest)))[sample.judged].any()):
                return False
            if int(sample.judged.sum()) >= NUMBERS:
                off.append(float((error > sample.allowance)[sample.judged].double().mean()))
        return len(off) >= NUMBERS and sum(off) / len(off) >= MOST


def _wide(x: Tensor) -> Tensor:
    x = x.detach().cpu()
    return x.double() if x.is_floating_point() else x


def _term(name: str, factor: Factor) -> str:
    if factor.name == "0":
        return f"the {name} term is missing"
    if factor.name == "-1":
        return f"the {name} term has the wrong sign"
    return f"the {name} term is multiplied by {factor.name}" + (f" ({factor.why})" if factor.why else "")


def _over(axis: int, reduce: Callable[..., Tensor], g: Tensor) -> Tensor:
    """A reduction over an axis of its own, broadcast back."""
    return reduce(g, axis, keepdim=True).expand_as(g)


SHAPES: Mapping[str, Callable[[Tensor], Tensor]] = {
    "transposed": lambda g: g.mT,
    "transposed and read in the wrong shape": lambda g: g.mT.reshape(g.shape),
    "read in the wrong shape: its buffer is that of the transposed matrix": lambda g: g.reshape(g.mT.shape).mT,
    "summed over all of its axes and broadcast back": lambda g: g.sum().expand_as(g),
    "averaged over all of its axes and broadcast back": lambda g: g.mean().expand_as(g),
    **{
        f"{words} over its own axis {axis} and broadcast back": partial(_over, axis, reduce)
        for axis in range(4)
        for words, reduce in (("summed", torch.sum), ("averaged", torch.mean))
    },
}
"""What is done to a finished cotangent, in words that follow "dx is"."""
