"""A rule, or any other function of tensors, as one compiled program.

The text of the rules stays as it is; speed comes from here.  A rule's bare `forward` and `backward`, or a step's whole
functional update, is traced into one graph without autograd and compiled for the shapes that it meets.  What is
compiled is checked from outside as the rule is, and a compiled rule is a `Vjp` that the oracle judges like any other.

- `compile_rule(name, **hyper)`: forward and backward of a rule as one program;
- `program.build` compiles any function of tensors; `training.compiled_step` gives it a whole step;
- `choice.choose` says in one place what is used for which device and size, and why;
- `Program.kind` and `Program.why` say what was built: where there is no C++ compiler it is the uncompiled function, and
  a warning says so.

Programs are kept on disk (in `cache.folder`; a GPU's in inductor's own cache below it), so that another process loads
what this one has built.  To load one is to run it: `ownership` says whose files are trusted, `inductor` what is done
where nothing can be kept.
"""

from manual_bp.compilation.program import Program
from manual_bp.compilation.rules import CompiledRule, compile_rule

__all__ = ["CompiledRule", "Program", "compile_rule"]
