"""Why the numbers of a run of `compare` are wrong: what explains them, sought in order, in words in its report."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor

from manual_bp.oracle.accumulation.causes import between_pieces, between_steps
from manual_bp.oracle.accumulation.pieces import Lengths
from manual_bp.oracle.calling.accepted import called_otherwise
from manual_bp.oracle.calling.memory import overlap
from manual_bp.oracle.calling.raising import where_raised
from manual_bp.oracle.calling.results import OVERWROTE, is_dense, same_bits
from manual_bp.oracle.combined import known
from manual_bp.oracle.comparison import Comparison
from manual_bp.oracle.diagnosis import Diagnosis, Record, diagnose
from manual_bp.oracle.diagnosis.deadline import Deadline
from manual_bp.oracle.misshapen import misshapen
from manual_bp.oracle.reports.mismatch import Mismatch
from manual_bp.oracle.reports.report import NOT_SOUGHT
from manual_bp.oracle.reports.summary import named, patterns
from manual_bp.oracle.truth.conventions import told
from manual_bp.outputs import parts
from manual_bp.rule import as_vjp

# What pieces of a batch alone can do is sought first, where they were not declared, for such a part of the time.
EARLY = 4


def explain(run: Comparison, seconds: float, pieces: Lengths | None = None) -> None:
    """Seek why it is wrong for at most so many seconds, and say what was found in the report of `finish`.

    pieces: how the candidate takes the batch apart, if it said so."""
    report = run.report
    explained, shared, deadline = set(run.unwritten), dict[str, str](), Deadline(seconds)
    others = [m for m in report.mismatches if m.case not in run.tried]  # what was found beside the cases is known
    wrong = {m.argument for m in others if m.kind == "wrong" or m.detail.startswith("shape")}
    wrong -= explained
    if _overwrites_what_it_reads(run, others):
        explained, wrong = explained | wrong, set()
    report.diagnoses = [*run.unwritten.values(), *run.beside]
    if wrong and not seconds:
        report.search = NOT_SOUGHT
    elif wrong:
        several, one = _at_once(run, [m.case for m in others], deadline)
        if not several:
            is_known = pieces is not None
            limit = deadline if is_known else Deadline(deadline.left / EARLY)
            several = _between_pieces(run, pieces, limit, early=not is_known)
        report.diagnoses += several
        explained |= wrong if several else set()
        if not several:
            found = _sought(run, wrong, explained, deadline, one)
            shared = found.shared
            if not found.has_cause and report.diagnoses == found.sentences:  # that says where at most
                late = Deadline(max(deadline.left, seconds / 4))
                several = _between_pieces(run, None, late)
                report.diagnoses = several or found.sentences
                explained |= wrong if several else set()
    misshapes = _misshapen(run, {m.argument for m in others if m.detail.startswith("shape")})
    explained |= misshapes.keys()
    report.diagnoses[:0] = dict.fromkeys(misshapes.values())
    where = where_raised(run.raised, run.answered, run.rule)
    if where and not run.answered:
        where += called_otherwise(run.candidate, run.rule)
    answering = [m for m in others if not m.detail.startswith("raised ")]
    traps = list(named(answering, explained))
    if wrong:  # why its numbers are wrong says more than where it gives none
        report.diagnoses += [*where, *traps]
    elif len({m.case for m in answering}) > len(run.raised):  # who overwrites dy raises where it is expanded
        report.diagnoses += [*traps, *where]
    else:
        report.diagnoses = [*where, *report.diagnoses, *traps]
    report.patterns = list(patterns(others, explained, shared, report.cases))
    report.clean()


def _misshapen(run: Comparison, arguments: set[str]) -> dict[str, str]:
    """Why these have another shape than is due, as far as shapes tell."""
    found = misshapen(run.rule, run.records) if arguments else {}
    return {argument: words for argument, words in found.items() if argument in arguments}


def _at_once(run: Comparison, cases: Sequence[str], deadline: Deadline) -> tuple[list[str], list[str]]:
    """What needs no search: a sentence about all that is wrong, and one that is told if nothing better is found."""
    try:
        several, one = known(run.rule, _readable(run), cases, run.contract, run.dtype, deadline)
        return several or between_steps(run.rule, run.candidate, _readable(run)), one
    except Exception as error:  # the verdict stands without it, and the failure is said
        run.report.notes.append(f"no known cause was sought: it raised {type(error).__name__}: {error}")
        return [], []


def _between_pieces(run: Comparison, pieces: Lengths | None, deadline: Deadline, early: bool = False) -> list[str]:
    """What is wrong between pieces of the batch, in words."""
    try:
        if _is_the_page(run):  # a page that is wrong is so in every piece, and its pieces give what it gives
            return []
        return between_pieces(run.rule, _readable(run), pieces, deadline, early=early)
    except Exception as error:  # the verdict stands without it, and the failure is said
        run.report.notes.append(f"no cause between pieces was sought: it raised {type(error).__name__}: {error}")
        return []


def _readable(run: Comparison) -> list[Record]:
    """The records that are made of numbers, from which a cause may be read."""
    return [r for r in run.records if all(is_dense(x) for x in r.results if isinstance(x, Tensor))]


def _overwrites_what_it_reads(run: Comparison, mismatches: Sequence[Mismatch]) -> bool:
    """Whether numbers are wrong only where it overwrote an argument whose elements share memory: what it wrote for
    one it then read for another."""
    shares = {r.evidence.case.name for r in run.records if any(map(overlap, r.evidence.case.tensors))}
    overwritten = {m.case for m in mismatches if m.detail.endswith(OVERWROTE)}
    wrong = {m.case for m in mismatches if m.kind == "wrong" or m.detail.startswith("shape")}
    return bool(wrong) and wrong <= shares & overwritten


def _is_the_page(run: Comparison) -> bool:
    """Whether what is wrong is, bit for bit, what the page itself gives: in the first case where something is."""
    case = next((m.case for m in run.report.mismatches if m.kind == "wrong"), None)
    for record in _readable(run):
        if record.evidence.case.name == case and len(record.results) == len(run.rule.arguments):
            there = record.evidence.case
            y, grads = as_vjp(run.rule, run.rule.candidate)(there.inputs, there.dy, **there.hyper)
            pairs = zip((*parts(y), *grads), record.results, strict=True)
            return all(same_bits(a, b) for a, b in pairs if isinstance(a, Tensor) and isinstance(b, Tensor))
    return False


def _sought(
    run: Comparison, wrong: set[str], explained: set[str], deadline: Deadline, otherwise: list[str]
) -> Diagnosis:
    """Seek a cause of what is wrong in these arguments, and add to those that are explained; otherwise: what is said if
    none is found.  What was found, in the rule's own words."""
    report = run.report
    try:
        known = {(m.argument, m.case) for m in report.mismatches}
        excused = {(m.argument, m.case) for several in run.judge.excused.values() for m in several} - known
        found = diagnose(run.rule, run.candidate, _readable(run), wrong, run.conventions, deadline, excused)
    except Exception as error:  # the verdict stands without it, and the failure is said
        report.notes.append(f"no diagnosis: it raised {type(error).__name__}: {error}")
        report.diagnoses += otherwise
        return Diagnosis([], set(), {})
    said = [told(run.rule, sentence) for sentence in found.sentences]
    report.diagnoses += said or otherwise
    explained |= found.explained if said or not otherwise else wrong
    report.search = found.search
    return found._replace(sentences=said)
