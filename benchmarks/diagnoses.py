"""How often the first diagnosis names the cause, and whether right programs are left alone.

    python -m benchmarks.diagnoses [--seeds 20] [--sample N] [--rules A,B] [--dtypes float32] [--json FILE]

Wrong programs: the bank (tests/oracle/bank), written by hand, and mutations made from each page
(`manual_bp.oracle.audit.mutations`), among them every hyperparameter ignored; none is taken from the registered
mistakes, though some are the same function.  Each states what words would name its cause.  Apart from these the second
bank (benchmarks/diagnosis_bank), also of functions without a page, which the diagnosis was not made against: its rates
are given by themselves.  Right programs: the page itself at random cases, and the right entries of both banks; for
these any failed verdict and any diagnosis is counted.

Named: the first sentence names the cause.  Silent: no cause was found, and that is said.  Otherwise: another cause is
named, or the same in other words; a false sentence harms more than none, so these are to be read.
"""

from __future__ import annotations

import json
import re
import time
import warnings
from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Annotated, Any, NamedTuple

import torch
import typer
from rich.table import Table

import manual_bp as bp
from benchmarks.cases import seeded_case
from benchmarks.diagnosis_bank import PROGRAMS
from benchmarks.diagnosis_bank.program import Program
from manual_bp.cli.shared import out, shown, usage, versions
from manual_bp.oracle import compare
from manual_bp.oracle.audit.mutations import Exact, mutated, mutations
from manual_bp.rule import Rule, Vjp
from manual_bp.signature import DTYPES
from tests.oracle.bank import entries

# The bank is judged in one dtype: its programs are about formulas, and those of the mutations are judged in all.
BANK_IN = torch.float32
# What is measured is what a search finds, and not how fast the machine is.
SECONDS = 600.0
# Of each kind of mutation of an argument so many are judged: the others differ in the place alone.
MOST = 2
SECOND = "second bank"
KNOWN = "known mistake"  # it gives the same numbers in every case, so its name is the cause

CAUSES = {
    "cotangent dropped": r"0 everywhere",
    "cotangent negated": r"wrong sign",
    "cotangent × 2": r"\b2 times",
    "cotangent × 1/2": r"1/2 times",
    "cotangent × (1 + 1e-01)": r"1\.1 times",
    "term dropped": r"term is missing",
    "term negated": r"term has the wrong sign",
    "term × 2": r"term is multiplied by 2",
    "term × 1/2": r"term is multiplied by 1/2",
    "term × (1 + 1e-01)": r"term is multiplied by 1\.1",
    "divided by its count": r"1/n|mean|divided|times",
    "multiplied by its count": r"\bn\b|multiplied by (its count|n)|a sum where|times",
    "n - 1 for n": r"n - 1|n/\(n-1\)|times",
    "last one left out": r"last element",
    "an axis forgotten": r"axis|axes|last element",
    "another axis": r"axis|axes|transposed",
    "reduced over an axis of its own": r"axis|axes|averaged|summed",
    "an output's cotangent dropped": r"is ignored",
    "written, not added": r"written where it is to be added",
}
"""The words that name each kind of mutation; a factor of a finished cotangent is named as a number, too."""


class Wrong(NamedTuple):
    """A wrong program, and the words that would name its cause."""

    rule: Any
    """A rule, or a function that is the reference."""
    source: str
    kind: str
    name: str
    cause: Any
    """A regular expression, or a function of a sentence."""
    candidate: Vjp
    inputs: Any = None

    def is_named_in(self, sentence: str) -> bool:
        """Whether a sentence names the cause."""
        if callable(self.cause):
            return bool(self.cause(sentence))
        words = self.cause if self.source == "bank" else f"{self.cause}|{KNOWN}"
        return bool(re.search(words, sentence, re.IGNORECASE))


@dataclass
class Found:
    """What was measured in one dtype. named, silent, judged: by source and kind. accepted: what no case shows, or
    what only raises or takes another valid subgradient. missed: by name, the first diagnosis."""

    dtype: str
    named: dict[str, int] = field(default_factory=dict)
    silent: dict[str, int] = field(default_factory=dict)
    judged: dict[str, int] = field(default_factory=dict)
    missed: dict[str, str] = field(default_factory=dict)
    accepted: list[str] = field(default_factory=list)
    right: int = 0
    alarms: list[str] = field(default_factory=list)
    slowest: tuple[float, str] = (0.0, "")


def wrong_programs(rules: Sequence[Rule], dtype: torch.dtype) -> Iterator[Wrong]:
    """The wrong entries of the bank, and the mutations of each page."""
    for entry in entries() if dtype == BANK_IN else ():
        if entry.kind != "right" and bp.RULES[entry.rule] in rules:
            yield Wrong(bp.RULES[entry.rule], "bank", entry.kind, entry.name, entry.cause, entry.vjp)
    for program in PROGRAMS if dtype == BANK_IN else ():
        if not program.right and (reference := _reference(program, rules)):
            kind = "of a page" if isinstance(program.reference, str) else "of a function"
            yield Wrong(reference, SECOND, kind, program.name, program.is_named_in, program.vjp, program.inputs or None)
    for rule in rules:
        case = seeded_case(rule, dtype, 2, long=False)  # an even seed, so that nothing is scaled
        exact = Exact.at(rule, case) if rule.has_backward else None
        count: dict[tuple[str, str], int] = defaultdict(int)
        for m in mutations(rule, case):
            if m.kind in CAUSES and count[m.kind, m.argument] < MOST and exact and exact.changed_by(m):
                count[m.kind, m.argument] += 1
                name = f"{m.kind} {m.argument} {count[m.kind, m.argument]}"
                yield Wrong(rule, "mutation", m.kind, name, CAUSES[m.kind], mutated(rule, m.backward))
        for name in rule.hyper if rule.has_backward else ():
            yield Wrong(rule, "mutation", "hyperparameter ignored", name, rf"\b{name}\b", ignoring(rule, name))


def _reference(program: Program, rules: Sequence[Rule]) -> Any:
    """What a program of the second bank is compared with; None if that is not asked for."""
    if not isinstance(program.reference, str):
        return program.reference if len(rules) == len(bp.RULES) else None
    return bp.RULES[program.reference] if bp.RULES[program.reference] in rules else None


def sampled(programs: Iterable[Wrong], most: int) -> list[Wrong]:
    """Of each rule and source at most so many, evenly spread."""
    groups: dict[tuple[str, str], list[Wrong]] = defaultdict(list)
    for wrong in programs:
        groups[_name(wrong.rule), wrong.source].append(wrong)
    return [g[i * len(g) // min(most, len(g))] for g in groups.values() for i in range(min(most, len(g)))]


def ignoring(rule: Rule, name: str) -> Vjp:
    """The rule with a backward that takes a hyperparameter at its ordinary value."""

    def vjp(inputs: Any, dy: Any, **hyper: Any) -> Any:
        y, _ = rule.forward(*inputs, **hyper)
        return y, rule.vjp(inputs, dy, **{**hyper, name: rule.ordinary.get(name, 1)})[1]

    return vjp


def judge(found: Found, wrong: Wrong, dtype: torch.dtype) -> None:
    """Compare a wrong program, and see whether the first diagnosis names its cause."""
    start = time.perf_counter()
    try:
        report = compare(wrong.candidate, wrong.rule, dtype=dtype, inputs=wrong.inputs, diagnose=SECONDS)
    finally:
        found.slowest = max(found.slowest, (time.perf_counter() - start, f"{_name(wrong.rule)}: {wrong.name}"))
    full_name = f"{_name(wrong.rule)}: {wrong.name} ({wrong.source})"
    if report.passed:
        found.accepted.append(full_name)
        return
    if not any(m.kind == "wrong" or "shape" in m.detail for m in report.mismatches):
        found.accepted.append(f"{full_name}: {report.mismatches[0].kind} only")  # an exception, or a valid subgradient
        return
    first = report.diagnoses[0] if report.diagnoses else ""
    key = f"{wrong.source}, {wrong.kind}"
    is_named = wrong.is_named_in(first)
    found.judged[key] = found.judged.get(key, 0) + 1
    found.named[key] = found.named.get(key, 0) + is_named
    found.silent[key] = found.silent.get(key, 0) + (not first)
    if not is_named:
        found.missed[full_name] = first


def right_programs(found: Found, rules: Sequence[Rule], dtype: torch.dtype, seeds: int) -> None:
    """The page at random cases, and the right entries of the bank at the generated ones."""
    for rule in rules:
        for seed in range(seeds):
            report = compare(rule.candidate, rule, dtype=dtype, cases=[seeded_case(rule, dtype, seed)])
            _alarm(found, f"{rule.name}, seed {seed}", report)
    for entry in entries() if dtype == BANK_IN else ():
        if entry.kind == "right" and bp.RULES[entry.rule] in rules:
            _alarm(found, f"{entry.rule}: {entry.name}", compare(entry.vjp, entry.rule, dtype=dtype))

    for program in PROGRAMS if dtype == BANK_IN else ():
        if program.right and (reference := _reference(program, rules)):
            report = compare(program.vjp, reference, dtype=dtype, inputs=program.inputs or None)
            _alarm(found, f"{_name(reference)}: {program.name}", report)


def _name(reference: Any) -> str:
    return str(getattr(reference, "name", None) or reference.__name__)


def _alarm(found: Found, name: str, report: Any) -> None:
    found.right += 1
    if report.mismatches or report.diagnoses:
        found.alarms.append(f"{name}: {[*report.mismatches, *report.diagnoses][0]}")


def table(results: Sequence[Found]) -> Table:
    rows = Table(title="first diagnosis: names the cause / silent / judged")
    for column in ("wrong program", *(r.dtype for r in results)):
        rows.add_column(column)
    for key in dict.fromkeys(key for r in results for key in r.judged):
        rows.add_row(key, *(_counts(r, [key]) if key in r.judged else "" for r in results))
    for source in ("bank", "mutation", SECOND):
        rows.add_row(
            f"all of the {source}", *(_counts(r, [k for k in r.judged if k.startswith(f"{source},")]) for r in results)
        )
    rows.add_row("right: alarms", *(f"{len(r.alarms)}/{r.right}" for r in results))
    return rows


def _counts(found: Found, keys: Sequence[str]) -> str:
    return " / ".join(str(sum(each[key] for key in keys)) for each in (found.named, found.silent, found.judged))


app = typer.Typer(add_completion=False, pretty_exceptions_enable=False)


@app.command(help=__doc__)
def main(
    seeds: Annotated[int, typer.Option(min=0, help="Random cases per rule and dtype for right programs.")] = 20,
    sample: Annotated[
        int | None, typer.Option(min=1, help="So many wrong programs of each rule and source; all by default.")
    ] = None,
    rules: Annotated[str | None, typer.Option(help="Names, separated by commas; all by default.")] = None,
    dtypes: Annotated[
        str | None, typer.Option(help="Names, separated by commas; float64, float32 and bfloat16 by default.")
    ] = None,
    json_file: Annotated[Path | None, typer.Option("--json", help="Write all of it as one JSON document.")] = None,
) -> None:
    torch.set_num_threads(1)  # the tensors are small: more threads would wait for one another
    warnings.simplefilter("ignore")  # of torch and NumPy, about the means of nothing that wrong programs take
    start = time.perf_counter()
    known = {str(dtype).removeprefix("torch."): dtype for dtype in DTYPES}
    with usage():
        chosen = [_known(name, known, "--dtypes") for name in (dtypes or "float64,float32,bfloat16").split(",")]
        pages = [_known(name, bp.RULES, "--rules") for name in (rules or ",".join(bp.RULES)).split(",")]
    results = []
    for dtype in chosen:
        found = Found(str(dtype).removeprefix("torch."))
        programs: Iterable[Wrong] = wrong_programs(pages, dtype)
        programs = programs if sample is None else sampled(programs, sample)
        for wrong in shown([(w.rule, w) for w in programs], f"wrong programs, {found.dtype}"):
            judge(found, wrong[1], dtype)
        right_programs(found, pages, dtype, seeds)
        results.append(found)
    if json_file:
        took = round(time.perf_counter() - start)
        about: dict[str, Any] = {
            "command": "python -m benchmarks.diagnoses",
            "versions": versions(),
            "seeds": seeds,
            "seconds": took,
        }
        if rules or dtypes:
            about["command"] += f" --rules {rules}" * bool(rules) + f" --dtypes {dtypes}" * bool(dtypes)
        if sample is not None:
            about["command"] += f" --sample {sample}"
        json_file.write_text(json.dumps({**about, "results": [asdict(r) for r in results]}, indent=1) + "\n")
    out.print(table(results))
    for r in results:
        for name, first in r.missed.items():
            out.print(f"{r.dtype}, {name}: {first or 'no diagnosis'}", markup=False, highlight=False)
        for alarm in r.alarms:
            out.print(f"{r.dtype}, alarm: {alarm}", markup=False, highlight=False)
    raise typer.Exit(1 if any(r.alarms for r in results) else 0)


def _known(name: str, names: Any, option: str) -> Any:
    if name not in names:
        raise ValueError(f"{option} must be some of {','.join(names)}; came {name!r}.")
    return names[name]


if __name__ == "__main__":
    app()
