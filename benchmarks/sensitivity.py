"""How often the comparison is wrong: alarms at right programs, and wrong programs that pass.

    python -m benchmarks.sensitivity [--seeds 1000] [--mutants 24] [--rules A,B] [--dtypes float32] [--json FILE]

False alarms: manual_bp and torch are right, so whatever the comparison says of them at random cases is one.  (In 16
bits torch's kernels that compute in 16 bits are notes by design, and so are digits that its formulas lose.)
Rejection: of every mutation that changes a result (`manual_bp.oracle.audit.mutations`), how many are rejected at one
case, by our comparison and by what people use today.  Every way of checking also meets the right program, unchanged:
its first row.
"""

from __future__ import annotations

import json
import os
import platform
import sys
import time
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any

import torch
import typer
from jaxtyping import Float
from rich.table import Table
from torch import Tensor

import manual_bp as bp
from benchmarks.cases import seeded_case
from manual_bp.arithmetic.bounded import contract_of
from manual_bp.cli.shared import out, shown, usage, versions
from manual_bp.oracle import Case, compare
from manual_bp.oracle.audit.formulas import answer_of
from manual_bp.oracle.audit.handed import Handed
from manual_bp.oracle.audit.mutations import Exact, Mutation, mutated, mutations
from manual_bp.oracle.audit.programs import steady
from manual_bp.oracle.case import in_dtype
from manual_bp.oracle.judgement import NOTES
from manual_bp.oracle.truth.errors import errors, ulp
from manual_bp.oracle.truth.evidence import Evidence, evidence
from manual_bp.outputs import parts
from manual_bp.rule import Grads, Rule, Vjp, as_vjp
from manual_bp.signature import DTYPES
from torch_ref import checkers, twin

QUANTILES = (0.5, 0.9, 0.99, 1.0)
LOOSE = 0.01  # an allowance that no right program uses a hundredth of says little
SHOWN = 20  # examples kept for each rule and dtype


def short(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")


# ---------------------------------------------------------------------------------------------------- false alarms


@dataclass
class Alarms:
    """One rule in one dtype. alarms, notes: by candidate; examples: the alarms in words.

    ratios: by argument and candidate, the largest error / allowance of each seed; widths: by argument, the smallest
    allowance of each seed in ulp of the expected value.
    """

    rule: str
    dtype: str
    seeds: int = 0
    alarms: Counter[str] = field(default_factory=Counter)
    notes: Counter[str] = field(default_factory=Counter)
    examples: list[str] = field(default_factory=list)
    ratios: dict[tuple[str, str], list[float]] = field(default_factory=lambda: defaultdict(list))
    widths: dict[str, list[float]] = field(default_factory=lambda: defaultdict(list))


def evidence_at(rule: Rule, dtype: torch.dtype, case: Case) -> Evidence:
    found = evidence(rule, case, contract_of(dtype))
    if isinstance(found, str):
        raise RuntimeError(f"{rule.name}, {short(dtype)}, {case.name}: {found}")
    return found


def ratios(rule: Rule, dtype: torch.dtype, found: Evidence, results: Sequence[Tensor | None]) -> dict[str, float]:
    """The largest error / allowance of y and of every cotangent; infinite where no tensor of the right kind came."""
    largest: dict[str, float] = {}
    for name, expected, allowance, got in zip(rule.arguments, found.expected, found.allowance, results, strict=True):
        if expected is None or allowance is None:
            continue
        due = dtype if rule.annotation(name).dtype is Float else None  # a count is of a dtype of its own
        if got is None or got.shape != expected.shape or (due and got.dtype != due):
            largest[name] = float("inf")
        else:
            ratio, _ = errors(got, expected, allowance, dtype)
            largest[name] = float(ratio.max()) if ratio.numel() else 0.0
    return largest


def false_alarms(rule: Rule, dtype: torch.dtype, seeds: Iterator[int] | range) -> Alarms:
    """What the comparison says of two right programs."""
    result = Alarms(rule.name, short(dtype))
    candidates = {"manual": rule.candidate, "torch": twin(rule.name)}
    for seed in seeds:
        case = seeded_case(rule, dtype, seed)
        found = evidence_at(rule, dtype, case)
        result.seeds += 1
        for name, candidate in candidates.items():
            assert candidate is not None, f"{rule.name} has no twin"
            _judge(result, rule, dtype, found, name, candidate)
        _record_widths(result, rule, dtype, found)
    return result


def _judge(result: Alarms, rule: Rule, dtype: torch.dtype, found: Evidence, name: str, candidate: Vjp) -> None:
    case = found.case
    y, grads = as_vjp(rule, candidate)(case.inputs, case.dy, **case.hyper)
    largest = ratios(rule, dtype, found, (*parts(y), *grads))
    for argument, ratio in largest.items():
        result.ratios[argument, name].append(ratio)
    if all(ratio <= 1 for ratio in largest.values()):
        return
    report = compare(candidate, rule, dtype=dtype, cases=[case], strict=True)
    notes = [m for m in report.mismatches if m.kind in NOTES and name != "manual"]  # manual promises more
    result.notes[name] += bool(notes)
    if len(notes) < len(report.mismatches):
        result.alarms[name] += 1
        result.examples += [f"{name}: {m}" for m in report.mismatches if m not in notes][: SHOWN - len(result.examples)]


def _record_widths(result: Alarms, rule: Rule, dtype: torch.dtype, found: Evidence) -> None:
    for argument, expected, allowance in zip(rule.arguments, found.expected, found.allowance, strict=True):
        if expected is not None and allowance is not None and bool((judged := expected != 0).any()):
            result.widths[argument].append(float((allowance / ulp(expected, dtype))[judged].min()))


def quantiles(values: Sequence[float]) -> list[float]:
    """The nearest-rank quantiles (an infinite value stays one)."""
    ordered = sorted(values)
    return [ordered[min(int(q * len(ordered)), len(ordered) - 1)] for q in QUANTILES]


def loose(result: Alarms) -> list[str]:
    """Arguments of which no right program ever used a hundredth of its allowance, though it is not always exact."""
    arguments = {argument for argument, _ in result.ratios}
    worst = {a: max(max(v) for (b, _), v in result.ratios.items() if a == b) for a in sorted(arguments)}
    return [a for a, ratio in worst.items() if 0 < ratio < LOOSE]


# ---------------------------------------------------------------------------------------------- ways of checking

Check = Callable[["Trial", Mutation], bool | None]
"""Whether a mutation is rejected at a case; None where this way of checking cannot be used."""


@dataclass
class Trial:
    """A rule at a case, with all that the ways of checking compare with."""

    rule: Rule
    dtype: torch.dtype
    case: Case
    found: Evidence
    twin: Grads
    wide: Grads
    """torch.autograd at the same case, and in float64."""

    @classmethod
    def of(cls, rule: Rule, dtype: torch.dtype, seed: int) -> Trial:
        """No long axes: gradcheck's time grows with the square of the size."""
        case = seeded_case(rule, dtype, seed, long=False)
        torch_vjp = twin(rule.name)
        assert torch_vjp is not None
        wide = in_dtype(case, torch.float64, "cpu")
        return cls(
            rule,
            dtype,
            case,
            evidence_at(rule, dtype, case),
            torch_vjp(case.inputs, case.dy, **case.hyper)[1],
            torch_vjp(wide.inputs, wide.dy, **case.hyper)[1],
        )

    def results(self, mutation: Mutation) -> tuple[Any, Grads]:
        return mutated(self.rule, mutation.backward)(self.case.inputs, self.case.dy, **self.case.hyper)

    def program(self, mutation: Mutation) -> Handed:
        """The mutation as a checker meets it."""
        return Handed(self.rule, steady(mutation.kind, "", answer_of(self.rule, mutated(self.rule, mutation.backward))))

    def reference(self, *_: Any, **__: Any) -> tuple[Any, Grads]:
        """torch.autograd at this case, which has been run."""
        return None, self.twin

    def pairs(self, mutation: Mutation, against: Grads) -> Iterator[tuple[Tensor, Tensor]]:
        grads, specs = self.results(mutation)[1], self.rule.inputs.values()
        for x, got, expected, spec in zip(self.case.inputs, grads, against, specs, strict=True):
            if x is not None and spec.cotangent:
                assert got is not None
                yield got, torch.zeros_like(got) if expected is None else expected


def strictly(trial: Trial, mutation: Mutation) -> bool:
    """Ours under strict: any error beyond its allowance."""
    y, grads = trial.results(mutation)
    return any(ratio > 1 for ratio in ratios(trial.rule, trial.dtype, trial.found, (*parts(y), *grads)).values())


def ours(trial: Trial, mutation: Mutation) -> bool:
    """Ours as it is called: 16-bit arithmetic and lost digits are notes."""
    if not strictly(trial, mutation):
        return False
    candidate = mutated(trial.rule, mutation.backward)
    return bool(compare(candidate, trial.rule, dtype=trial.dtype, cases=[trial.case]).mismatches)


def gradcheck(fast: bool) -> Check:
    """torch.autograd.gradcheck with its defaults; it asks for float64."""

    def check(trial: Trial, mutation: Mutation) -> bool | None:
        if trial.dtype != torch.float64:
            return None
        return not checkers.gradcheck(trial.rule, trial.case, fast)(trial.program(mutation))

    return check


def assert_close(**tolerances: Any) -> Check:
    """torch.testing.assert_close against torch in the same dtype; with the dtype's defaults if none are given."""

    def check(trial: Trial, mutation: Mutation) -> bool:
        return not checkers.assert_close(trial.rule, trial.case, trial.reference, **tolerances)(trial.program(mutation))

    return check


def twice_torch(trial: Trial, mutation: Mutation) -> bool | None:
    """flash-attention's tests: the error against float64 may be twice that of torch in the low precision."""
    if trial.dtype == torch.float64:
        return None

    def distances(pairs: Iterator[tuple[Tensor, Tensor]]) -> list[float]:
        return [float((got.double() - wide).abs().max()) if got.numel() else 0.0 for got, wide in pairs]

    mine = distances(trial.pairs(mutation, trial.wide))
    theirs = distances((t, w) for t, w in zip(trial.twin, trial.wide, strict=True) if t is not None and w is not None)
    return any(m > 2 * t for m, t in zip(mine, theirs, strict=True))


CHECKS: dict[str, Check] = {
    "compare, strict": strictly,
    "compare": ours,
    "gradcheck": gradcheck(fast=False),
    "gradcheck fast": gradcheck(fast=True),
    "assert_close": assert_close(),
    "1e-2 / 1e-2": assert_close(rtol=1e-2, atol=1e-2),
    "2x torch": twice_torch,
}

RIGHT = "right program"


@dataclass
class Rates:
    """Of one rule in one dtype: by kind of mutation and way of checking, (rejected, judged).

    survivors: what strict comparison let pass, by kind: the cancellation of each.
    """

    rule: str
    dtype: str
    counts: dict[tuple[str, str], list[int]] = field(default_factory=lambda: defaultdict(lambda: [0, 0]))
    survivors: dict[str, list[float]] = field(default_factory=lambda: defaultdict(list))


def rejection(rule: Rule, dtype: torch.dtype, seeds: Iterator[int] | range) -> Rates:
    """How often each way of checking rejects each kind of mutation at one case."""
    rates = Rates(rule.name, short(dtype))
    for seed in seeds if rule.has_backward else ():
        trial = Trial.of(rule, dtype, seed)
        exact = Exact.at(rule, trial.case)
        changing = [m for m in mutations(rule, trial.case) if exact.changed_by(m)]
        for mutation in [Mutation(RIGHT, "", rule.backward), *changing]:
            for name, check in CHECKS.items():
                rejected = check(trial, mutation)
                if rejected is None:
                    continue
                count = rates.counts[mutation.kind, name]
                count[0] += rejected
                count[1] += 1
                if name == "compare, strict" and not rejected and mutation.argument:
                    rates.survivors[mutation.kind].append(exact.cancellation(mutation.argument))
    return rates


def total(found: Sequence[Rates], dtype: str) -> dict[str, dict[str, list[int]]]:
    """Over all rules: by kind and way of checking, (rejected, judged)."""
    sums: dict[str, dict[str, list[int]]] = {}
    for rates in (r for r in found if r.dtype == dtype):
        for (kind, check), (rejected, judged) in rates.counts.items():
            count = sums.setdefault(kind, {}).setdefault(check, [0, 0])
            count[0] += rejected
            count[1] += judged
    return sums


# ------------------------------------------------------------------------------------------------------- the report


def alarms_table(found: Sequence[Alarms]) -> Table:
    table = Table(title="false alarms: seeds at which a right program is called wrong (and notes), manual | torch")
    dtypes = list(dict.fromkeys(a.dtype for a in found))
    for column in ("rule", *dtypes):
        table.add_column(column, justify="left" if column == "rule" else "right")
    for rule in dict.fromkeys(a.rule for a in found):
        row = [a for a in found if a.rule == rule]
        table.add_row(rule, *(" | ".join(f"{a.alarms[c]} ({a.notes[c]})" for c in ("manual", "torch")) for a in row))
    return table


def ratios_table(found: Sequence[Alarms]) -> Table:
    table = Table(title=f"error / allowance, each seed's largest: quantiles {QUANTILES}; the allowance in ulp (median)")
    for column in ("rule", "dtype", "argument", "manual", "torch", "allowance"):
        table.add_column(column)
    for a in found:
        for argument, widths in a.widths.items():
            cells = (" ".join(f"{q:.2g}" for q in quantiles(a.ratios[argument, c])) for c in ("manual", "torch"))
            table.add_row(a.rule, a.dtype, argument, *cells, f"{quantiles(widths)[0]:.3g}")
    return table


def rates_table(found: Sequence[Rates], dtype: str) -> Table:
    sums = total(found, dtype)
    checks = [c for c in CHECKS if any(c in row for row in sums.values())]
    table = Table(title=f"{dtype}: % of mutations rejected at one case")
    for column in ("mutation", "judged", *checks):
        table.add_column(column, justify="left" if column == "mutation" else "right")
    for kind, row in sorted(sums.items(), key=lambda item: (item[0] != RIGHT, item[0].startswith("term"))):
        cells = (f"{100 * row[c][0] / row[c][1]:.1f}" if c in row else "" for c in checks)
        table.add_row(kind, str(row["compare"][1]), *cells)
    return table


def document(alarms: Sequence[Alarms], rates: Sequence[Rates], **about: Any) -> dict[str, Any]:
    """All of it for JSON: counts as [rejected, judged], distributions as quantiles."""
    return {
        **about,
        "command": " ".join(["python -m benchmarks.sensitivity", *sys.argv[1:]]),
        "versions": versions(),
        "machine": {"processor": platform.machine(), "cores": os.cpu_count(), "system": platform.platform()},
        "quantiles": QUANTILES,
        "alarms": [
            {
                "rule": a.rule,
                "dtype": a.dtype,
                "seeds": a.seeds,
                "alarms": dict(a.alarms),
                "notes": dict(a.notes),
                "examples": a.examples,
                "error_over_allowance": {
                    f"{argument}, {candidate}": [_brief(q) for q in quantiles(values)]
                    for (argument, candidate), values in a.ratios.items()
                },
                "allowance_in_ulp": {name: [_brief(q) for q in quantiles(v)] for name, v in a.widths.items()},
                "loose": loose(a),
            }
            for a in alarms
        ],
        "rejected": {dtype: total(rates, dtype) for dtype in dict.fromkeys(r.dtype for r in rates)},
        "rejected_by_rule": [
            {
                "rule": r.rule,
                "dtype": r.dtype,
                "compare, strict": {k: v for (k, c), v in r.counts.items() if c == "compare, strict"},
                "survivors_cancellation": {k: [_brief(x) for x in v[:SHOWN]] for k, v in r.survivors.items()},
            }
            for r in rates
        ],
    }


def _brief(value: float) -> float | str:
    """Three digits are enough; JSON has no infinity."""
    return float(f"{value:.3g}") if abs(value) < float("inf") else str(value)


def _names(given: str | None, known: Sequence[str], option: str) -> list[str]:
    chosen = given.split(",") if given else list(known)
    if unknown := sorted(set(chosen) - set(known)):
        raise ValueError(f"{option} must be some of {','.join(known)}; came {unknown[0]!r}.")
    return chosen


app = typer.Typer(add_completion=False, pretty_exceptions_enable=False)


@app.command(help=__doc__)
def main(
    seeds: Annotated[int, typer.Option(min=1, help="Random cases per rule and dtype for false alarms.")] = 1000,
    mutants: Annotated[int, typer.Option(min=0, help="Random cases per rule and dtype at which to mutate.")] = 16,
    rules: Annotated[str | None, typer.Option(help="Names, separated by commas; all by default.")] = None,
    dtypes: Annotated[str | None, typer.Option(help="Names, separated by commas; all by default.")] = None,
    json_file: Annotated[Path | None, typer.Option("--json", help="Write all of it as one JSON document.")] = None,
) -> None:
    torch.set_num_threads(1)  # the tensors are small: more threads would wait for one another
    start = time.perf_counter()
    with usage():
        known = {short(dtype): dtype for dtype in DTYPES}
        chosen = [known[name] for name in _names(dtypes, list(known), "--dtypes")]
        runs = [(bp.RULES[name], dtype) for name in _names(rules, list(bp.RULES), "--rules") for dtype in chosen]
    alarms = [false_alarms(*run, range(seeds)) for run in shown(runs, "right programs")]
    rates = [rejection(*run, range(mutants)) for run in shown(runs, "mutations")]
    out.print(alarms_table(alarms))
    for example in (f"{a.rule} ({a.dtype}), {text}" for a in alarms for text in a.examples):
        out.print(example, markup=False, highlight=False)
    out.print(ratios_table(alarms))
    for a in alarms:
        for argument in loose(a):
            out.print(f"{a.rule} ({a.dtype}): the allowance of {argument} is loose by more than {1 / LOOSE:.0f}x")
    for dtype in chosen if mutants else []:
        out.print(rates_table(rates, short(dtype)))
    if json_file:
        took = round(time.perf_counter() - start)
        text = json.dumps(document(alarms, rates, seeds=seeds, mutants=mutants, seconds=took), allow_nan=False)
        json_file.write_text(text + "\n")
    passed = all(1000 * count <= a.seeds for a in alarms for count in a.alarms.values())
    out.print("at most 1 alarm in 1000" if passed else "more than 1 alarm in 1000: see above")
    raise typer.Exit(0 if passed else 1)


if __name__ == "__main__":
    app()
