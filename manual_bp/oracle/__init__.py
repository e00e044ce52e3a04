"""The oracle: judge anybody's backward by evidence that does not come from it."""

from manual_bp.arithmetic.bounded import Contract
from manual_bp.oracle.accumulation import accumulated
from manual_bp.oracle.audit import AuditReport, audit
from manual_bp.oracle.calling.adapters import from_functions
from manual_bp.oracle.case import NOT_RECORDED, Case
from manual_bp.oracle.checking import GradientMismatch, check, compare
from manual_bp.oracle.grading.grade import grade
from manual_bp.oracle.grading.verdict import Verdict
from manual_bp.oracle.optimizers import compare_optimizer, of_optimizer, of_transformation
from manual_bp.oracle.reports.mismatch import Mismatch
from manual_bp.oracle.reports.report import Report

__all__ = [
    "NOT_RECORDED",
    "AuditReport",
    "Case",
    "Contract",
    "GradientMismatch",
    "Mismatch",
    "Report",
    "Verdict",
    "accumulated",
    "audit",
    "check",
    "compare",
    "compare_optimizer",
    "from_functions",
    "grade",
    "of_optimizer",
    "of_transformation",
]
