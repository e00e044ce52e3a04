"""The JSON documents that the commands write, as JSON Schema (draft 2020-12): `manual-bp schema`.

A document's schema is made from the dataclasses of which the document is made, so that neither can change without the
other.  Every field is always written; NaN and infinities, which JSON lacks, are written as strings.  "schema" in a
document counts its versions: it goes up when a field goes, or means something else.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator, Mapping
from typing import Any

Schema = dict[str, Any]

VERSION = 1
"""Of the document around what a command found, which may hold one that has a version of its own."""

DIALECT = "https://json-schema.org/draft/2020-12/schema"
NUMBER: Schema = {"anyOf": [{"type": "number"}, {"enum": ["nan", "inf", "-inf"]}]}
FLAG: Schema = {"type": "boolean"}
COUNT: Schema = {"type": "integer", "minimum": 0}
WORDS: Schema = {"type": "string"}
OPTIONAL: Schema = {"anyOf": [*NUMBER["anyOf"], {"type": "null"}]}


def schema(document: str) -> Schema:
    """The JSON Schema of a document, by the name of the command that writes it.

    Raises ValueError for another name, and ImportError without msgspec (manual-bp[cli]).
    """
    if document not in DOCUMENTS:
        raise ValueError(f"schema: a document must be one of {list(DOCUMENTS)}; came {document!r}.")
    title, made = DOCUMENTS[document]
    found = made()
    return {"$schema": DIALECT, "title": title, **found}


def _check() -> Schema:
    report, parts = _report()
    return _written_by("check", {"report": report}, parts)


def _verify() -> Schema:
    from manual_bp.lockstep import LockstepReport
    from manual_bp.verification import RuleVerdict

    rules, parts = _of(RuleVerdict)
    lockstep, more = _of(LockstepReport, passed=FLAG, verdict=WORDS)
    counts = {"mistakes": COUNT, "mistakes_rejected": COUNT}
    return _written_by("verify", {**counts, "rules": _list(rules), "lockstep": _list(lockstep)}, parts | more)


def _lockstep() -> Schema:
    from manual_bp.lockstep import LockstepReport

    lockstep, parts = _of(LockstepReport, passed=FLAG, verdict=WORDS)
    return _written_by("lockstep", {"lockstep": _list(lockstep)}, parts)


def _audit() -> Schema:
    from manual_bp.oracle.audit.report import SCHEMA, AuditReport

    pair = {"type": "array", "prefixItems": [COUNT, COUNT], "minItems": 2, "maxItems": 2}
    by_kind = {"description": "Of each kind: how many were rejected, of how many.", "additionalProperties": pair}
    report, parts = _of(AuditReport, schema={"const": SCHEMA}, passed=FLAG, by_kind={"type": "object", **by_kind})
    return _written_by("audit", {"report": report, "beside": _list(report)}, parts)


def _grade() -> Schema:
    from manual_bp.oracle.grading.verdict import SCHEMA, Verdict

    verdict, parts = _of(Verdict, schema={"const": SCHEMA})
    return {**verdict, "$defs": parts}


def _train() -> Schema:
    from manual_bp.training.fit import EpochRecord

    record, parts = _of(EpochRecord)
    return {**record, "$defs": parts}


def _predict() -> Schema:
    answers = {**_list({"type": "integer"}), "description": "The class of each example."}
    sure = {"type": ["array", "null"], "items": NUMBER, "description": "Of each answer, where outputs are such."}
    return _written_by("predict", {"answers": answers, "probabilities": sure, "accuracy": OPTIONAL}, {})


def _vectors() -> Schema:
    from manual_bp.oracle.vectors import SCHEMA, Vectors

    found, parts = _of(Vectors, schema={"const": SCHEMA})
    return {**found, "$defs": parts}


def _bench() -> Schema:
    """The rows of benchmarks/rows.py, among what pytest-benchmark writes."""
    by_name = {"type": "object"}
    interval = _closed({"median": NUMBER, "low": NUMBER, "high": NUMBER}, "With a confidence interval of 95 %.")
    target = {"at_most": NUMBER, "ratio": OPTIONAL, "met": {"type": ["boolean", "null"]}, "by_limit": FLAG}
    row = {
        "question": WORDS,
        "row": {**WORDS, "description": "What is asked."},
        "ours": {**WORDS, "description": "The contestant that is judged."},
        "unit": {"enum": ["s", "bytes"]},
        "values": {**by_name, "additionalProperties": interval, "description": "By contestant, in that unit."},
        "ratios": {**by_name, "additionalProperties": interval, "description": "By peer: ours / peer."},
        "best": {**by_name, "additionalProperties": WORDS, "description": "By family: its fastest, or smallest."},
        "targets": {**by_name, "additionalProperties": _closed(target, "Whether ours / best is small enough.")},
        "not_measured": {**by_name, "additionalProperties": WORDS, "description": "By contestant: why."},
    }
    measured = _open({"extra_info": {"anyOf": [_open(row, "A row of the table."), {"const": {}}]}}, "One benchmark.")
    return _open(
        {"schema": {"const": 1}, "command": WORDS, "benchmarks": _list(measured)}, "As pytest-benchmark writes it."
    )


def _report() -> tuple[Schema, Schema]:
    from manual_bp.oracle.reports.report import SCHEMA, Report

    loose = {"type": "array", "items": WORDS, "description": "Arguments whose allowance is loose."}
    return _of(Report, schema={"const": SCHEMA}, passed=FLAG, loose=loose)


DOCUMENTS: Mapping[str, tuple[str, Callable[[], Schema]]] = {
    "verify": ("What manual-bp verify --json writes", _verify),
    "check": ("What manual-bp check --json writes; its report is Report.to_json()", _check),
    "audit": ("What manual-bp audit --json writes; its report is AuditReport.to_json()", _audit),
    "grade": ("What manual-bp grade prints; Verdict.to_json()", _grade),
    "lockstep": ("What manual-bp lockstep --json writes", _lockstep),
    "predict": ("What manual-bp predict --json writes", _predict),
    "vectors": ("A file of manual-bp vectors: RULE.DTYPE.json", _vectors),
    "bench": ("What manual-bp bench --json writes", _bench),
    "train": ("One line of metrics.jsonl, of manual-bp train --out", _train),
}


# ------------------------------------------------------------------------------------------------------------ parts


def _of(cls: type, **more: Schema) -> tuple[Schema, Schema]:
    """The schema of a dataclass with the fields that its document has beside, and what it refers to, by name."""
    import msgspec

    _, parts = msgspec.json.schema_components([cls], ref_template="#/$defs/{name}")
    for part in _within(parts):
        part.pop("default", None)
        if part.get("type") == "number":
            del part["type"]
            part.update(NUMBER)
        if "properties" in part:
            words = inspect.cleandoc(part.pop("description"))
            fields = part["properties"] | (more if part is parts[cls.__name__] else {})
            part.clear()
            part.update(_closed(fields, words))
    return parts.pop(cls.__name__), parts


def _written_by(command: str, content: Schema, parts: Schema) -> Schema:
    """The document around what a command found, as `manual_bp.cli.shared.write_json` writes it."""
    versions = {"type": "object", "additionalProperties": WORDS}
    head = {"schema": {"const": VERSION}, "command": {"const": command}}
    fields = head | content | {"passed": FLAG, "versions": versions}
    return {**_closed(fields, f"The result of manual-bp {command}."), "$defs": parts}


def _closed(properties: Schema, description: str) -> Schema:
    """An object of just these fields."""
    return {**_open(properties, description), "additionalProperties": False}


def _open(properties: Schema, description: str) -> Schema:
    """An object of these fields, and maybe others."""
    required = list(properties)
    return {"description": description, "type": "object", "properties": properties, "required": required}


def _list(items: Schema) -> Schema:
    return {"type": "array", "items": items}


def _within(value: Any) -> Iterator[Schema]:
    """All schemas inside of one, the innermost first."""
    if isinstance(value, dict):
        for inner in list(value.values()):
            yield from _within(inner)
        yield value
    elif isinstance(value, list):
        for inner in value:
            yield from _within(inner)
