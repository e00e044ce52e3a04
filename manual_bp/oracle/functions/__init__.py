"""Any differentiable torch function as the reference: it becomes a page, made of its own program.

reference   a function and what is said of its inputs, as a Rule
spoken      what a caller says of inputs: shapes, tensors, draws
tied        which axes of inputs given by their shapes are one
alike       when it means something else at other lengths
edges       numbers that catch programs of any function
kinked      numbers at which its kinks are met
lengths     how long axes may be, and what grows with them
page        the page: forward and backward run what torch was seen to do
"""

from manual_bp.oracle.functions.reference import reference, rule_of

__all__ = ["reference", "rule_of"]
