"""Programs: what a function of tensors does, operation by operation, with the line of its source behind each.

program     the operations in order, and running them on anything
recording   a function run once on tensors, and the program that it was
"""

from manual_bp.program.program import Line, Node, Program, Ref
from manual_bp.program.recording import Recording, UntraceableError, recorded

__all__ = ["Line", "Node", "Program", "Recording", "Ref", "UntraceableError", "recorded"]
