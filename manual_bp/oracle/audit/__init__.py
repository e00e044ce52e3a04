"""The auditor: what does somebody's own acceptance test let pass?"""

from manual_bp.oracle.audit.auditing import audit
from manual_bp.oracle.audit.report import AuditReport, Outcome

__all__ = ["AuditReport", "Outcome", "audit"]
