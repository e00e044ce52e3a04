"""Functions of our own in C++ inside a compiled program, as a node of inductor's."""

from __future__ import annotations

from functools import cache
from pathlib import Path
from typing import Any

import torch

from manual_bp.compilation.inductor import NotCompiled

HEADERS = Path(__file__).with_name("stand_ins")


def text(*headers: str) -> str:
    """blocks.h, and what is behind it."""
    return "\n".join((HEADERS / name).read_text() for name in ("blocks.h", *headers))


def call_cpp(text: str, function: str, leading: list[Any], read: list[Any], written: list[Any]) -> None:
    """Has the program call `function(*leading, *written, *read)`.

    text: what declares it, ASCII; a program contains it once.
    leading: arguments in C++, or numbers, which may be sizes that are not known yet.
    read: inductor's tensors, whose last axis is made contiguous if it is not; written: buffers, which the function
        fills.  Each is given as `{address, {stride of each axis}}`, and what is None as `{}`.
    """
    from torch._inductor.ir import ExternKernel

    _keep_order()
    given = [None if t is None else _with_rows(ExternKernel.realize_input(t)) for t in read]
    _node()(text, function, leading, given, written)
    _allocate_late(written, [t for t in given if t is not None])


def _allocate_late(written: list[Any], read: list[Any]) -> None:
    """What is only there to be filled is allocated once all that is read is there.

    By itself it depends on nothing, and inductor allocated it where a program begins: the cotangents of q, k and v of
    6 blocks of 384 (context 256, batch 4), 27 MiB, were there in forward.
    """
    from torch._inductor.ir import ComputedBuffer
    from torch._inductor.virtualized import V

    for buffer in (V.graph.get_buffer(t.get_name()) for t in written):
        made: Any = buffer.get_defining_op()
        is_computed = not isinstance(made, ComputedBuffer) or not made.get_size() or any(made.data.get_size())
        if not is_computed:
            V.graph.additional_buffer_deps[made.get_operation_name()].update(t.get_name() for t in read)


@cache
def _keep_order() -> None:
    """Whoever reads what a function has filled comes after it.

    Inductor knows what a buffer holds after the call by another name, and forgets that name where it makes the loops
    of a node anew to fuse it with another (torch 2.13): an update then read the gradient before it was there.  Earlier
    versions forget there what else a node waits for, too.
    Raises NotCompiled where inductor is another than that: a program in a wrong order is worse than none.
    """
    from torch._inductor.dependencies import ReadWrites, StarDep, WeakDep
    from torch._inductor.scheduler import SchedulerNode
    from torch.utils._ordered_set import OrderedSet

    needed = {
        SchedulerNode: ("recompute_size_and_body", "set_read_writes", "update_mutated_names"),
        ReadWrites: ("rename", "with_read"),
    }
    lacking = [f"{kind.__name__}.{name}" for kind, names in needed.items() for name in names if not hasattr(kind, name)]
    if lacking:
        raise NotCompiled(
            f"in torch {torch.__version__} the order of C++ cannot be kept: inductor has no {lacking[0]}."
        )
    forgetting = SchedulerNode.recompute_size_and_body

    def remembering(self: Any, *args: Any, **kwargs: Any) -> None:
        waited_for = OrderedSet(dep for dep in self.read_writes.reads if isinstance(dep, (StarDep, WeakDep)))
        forgetting(self, *args, **kwargs)
        self.set_read_writes(self.read_writes.with_read(waited_for).rename(self.mutation_renames))

    SchedulerNode.recompute_size_and_body = remembering  # type: ignore[method-assign]


def _with_rows(t: Any) -> Any:
    """`t`, or a copy, with elements of the last axis side by side."""
    from torch._inductor.ir import ExternKernel, as_storage_and_layout

    _, layout = as_storage_and_layout(t, freeze=True)
    return (
        t if not layout.size or layout.stride[-1] == 1 or layout.size[-1] == 1 else ExternKernel.require_contiguous(t)
    )


def _node() -> Any:
    """The class of inductor's node, made when inductor is there."""
    from torch._inductor.codegen.common import KernelArgs
    from torch._inductor.codegen.cpp_utils import cexpr
    from torch._inductor.ir import ExternKernel, MutationOutput, NoneLayout
    from torch._inductor.utils import sympy_index_symbol
    from torch._inductor.virtualized import V

    class CallCpp(ExternKernel):
        def __init__(self, text: str, function: str, leading: list[Any], read: list[Any], written: list[Any]) -> None:
            self._text, self._function, self._leading = text, function, leading
            self._there = [t is not None for t in read]
            present = [t for t in read if t is not None]
            device = written[0].get_device()
            super().__init__(None, NoneLayout(device=device), self.unwrap_storage([*present, *written]))
            self.mutation_outputs = [MutationOutput(NoneLayout(device=device), t, self) for t in written]
            V.graph.register_operation(self)

        def codegen(self, wrapper: Any) -> None:
            arguments = KernelArgs()
            reads = sum(self._there)
            given = [self._given(arguments, t, i < reads) for i, t in enumerate(self.inputs)]
            present, written = iter(given[:reads]), given[reads:]
            read = [next(present) if there else "{}" for there in self._there]
            leading = [self._number(arguments, number) for number in self._leading]
            call = f"{self._function}({', '.join([*leading, *written, *read])});"
            definitions, values, types = arguments.cpp_argdefs()
            signature = f'extern "C" void NAME({", ".join(definitions)})'
            source = f"#include <torch/csrc/inductor/cpp_prefix.h>\n{self._text}\n{signature}\n{{\n    {call}\n}}\n"
            wrapper.generate_kernel_call(
                _defined(wrapper, source, signature, types), values, triton=False, arg_types=types
            )

        @staticmethod
        def _number(arguments: Any, number: Any) -> str:
            known = {
                symbol: sympy_index_symbol(arguments.size(symbol)) for symbol in getattr(number, "free_symbols", ())
            }
            return cexpr(number.subs(known)) if known else str(number)

        @staticmethod
        def _given(arguments: Any, t: Any, is_read: bool) -> str:
            layout = t.get_layout()
            name = (arguments.input if is_read else arguments.output)(t.get_name())
            strides = (CallCpp._number(arguments, stride) for stride in layout.stride)
            return f"{{{name} + {layout.offset}, {{{', '.join(strides)}}}}}"

        def should_allocate(self) -> bool:
            return False

        def get_outputs(self) -> list[Any]:
            return self.mutation_outputs

        def get_unbacked_symbol_defs(self) -> Any:
            from torch.utils._ordered_set import OrderedSet

            return OrderedSet()

    return CallCpp


def _defined(wrapper: Any, source: str, signature: str, types: list[str]) -> str:
    """The name of a kernel; one for all calls that are alike."""
    from torch._inductor.virtualized import V

    if source not in wrapper.src_to_kernel:
        name = f"cpp_{wrapper.next_kernel_suffix()}"
        wrapper.src_to_kernel[source] = name
        own = name if V.graph.cpp_wrapper else "kernel"  # a function in the program, or a library of its own
        text, declared = source.replace("NAME", own), signature.replace("NAME", own)
        if not V.graph.cpp_wrapper:
            text = f"async_compile.cpp_pybinding({types!r}, r'''\n{text}''')"
        wrapper.define_kernel(name, text, gpu=False, cpp_definition=f"{declared};\n")
    name_of: str = wrapper.src_to_kernel[source]
    return name_of
