"""Recording: a function is run once on tensors, and what it does is written down.

Everything that reaches torch's dispatcher below autograd passes through a mode.  So the calls of the function itself
are seen, and where it runs torch.autograd, those of the engine too; an operation of the engine is written down with
the line of the forward operation whose derivative it is.

An operation that is not `elementary` for whoever asks is recorded as the operations into which torch takes it apart.

A tensor is known by itself, or else (autograd unpacks what it has saved anew) by where it lies in memory: storage,
offset, sizes and strides.  Writing in place into a part of a
tensor made on the way is recorded as a new tensor with that part replaced, and every view of the old one is read off
the new one from then on: the program itself writes nothing in place.

What no program can tell is refused (UntraceableError): a decision or a Python number made of an input's values, a
write into an input, random numbers.
"""

from __future__ import annotations

import inspect
import linecache
import math
import sys
from collections.abc import Callable, Mapping, Sequence
from functools import cache
from pathlib import Path
from types import FrameType
from typing import Any, NamedTuple

import torch
from torch import Tensor

from manual_bp.dispatch import Mode
from manual_bp.program.program import PLAYED, Line, Node, Program, Ref, tensors_in

aten = torch.ops.aten

Elementary = Callable[[Any], bool]
"""Whether an operation of torch.ops is recorded as it is."""

FormulaOf = Callable[[Any], Callable[..., Any] | None]
"""How an operation that is not elementary is taken apart; None leaves it to torch."""

OURS = (str(Path(__file__).parent), str(Path(torch.__file__).parent))
"""Folders of which no line is the function's own."""


class UntraceableError(ValueError):
    """What a function does depends on more than the operations that are recorded."""


class _Known(NamedTuple):
    """What lies at a place in memory: the result, at which version of its storage."""

    ref: Ref
    version: int


class _Stored(NamedTuple):
    """All that a storage holds, as one result: a tensor of these sizes and strides from its beginning."""

    ref: Ref
    size: tuple[int, ...]
    stride: tuple[int, ...]
    offset: int
    version: int


class Recording(Mode):
    """The mode that writes down.

    nodes: what was seen so far, the inputs first.  unknown: those on numbers that are neither elementary nor can be
    taken apart.  unseen: those forward that torch.autograd is not shown, though they depend on an input (no_grad, the
    body of an autograd.Function).  elements: how many each result has, in the order in which they were made.
    broadcast: likewise, the shapes of tensors of which one may be broadcast to another.  placed: of what is taken from
    places along an axis, or goes there, its shape and the index's on all other axes.  stage: what new ones belong to.
    """

    def __init__(
        self, inputs: Sequence[Tensor], elementary: Elementary, formula_of: FormulaOf = lambda op: None
    ) -> None:
        super().__init__()
        self.elementary = elementary
        self.formula_of = formula_of
        self.nodes: list[Node] = []
        self.unknown: list[Node] = []
        self.unseen: list[Node] = []
        self.elements: list[int] = []
        self.broadcast: list[tuple[tuple[int, ...], ...]] = []
        self.placed: list[tuple[tuple[int, ...], ...]] = []
        self.stage = "forward"
        self._kept: list[Any] = []  # so that no address is used twice
        self._own: dict[int, _Known] = {}
        self._known: dict[Any, _Known] = {}
        self._stored: dict[int, _Stored] = {}
        self._inputs = {x.untyped_storage()._cdata for x in inputs}
        self._moving: set[int] = set()  # nodes that depend on a number that is an input
        self._inside: list[Any] = []  # operations that are being taken apart
        self._lines: dict[int, Line] = {}  # of the nodes of autograd, by their number
        for x in inputs:
            self._enter(x, Node(None), moves=x.is_floating_point())
        self.inputs = len(self.nodes)

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        kwargs = dict(kwargs or {})
        if func is aten.as_strided.default:  # a view, which is known by where it lies
            return func(*args, **kwargs)
        line = self._line()
        tensors = tensors_in(args)
        is_unknown = not self.elementary(func) and any(x.is_floating_point() for x in tensors)
        is_apart = is_unknown and not func._schema.is_mutable and func not in self._inside  # torch goes in circles
        if is_apart and (found := self._apart(func, args, kwargs, line)) is not NotImplemented:
            return found
        moving = any(map(self._moves, (*tensors, *tensors_in(kwargs))))
        if _may_be_refused(func):
            self._refuse_what_no_program_tells(func, args, moving, line)
        if func._schema.is_mutable:
            return self._in_place(func, args, kwargs, line, moving)
        node = Node(func, self._refs(args), self._refs(kwargs), line, self.stage)
        if is_unknown:
            self.unknown.append(node)
        if moving and self.stage == "forward" and not torch.is_grad_enabled():
            self.unseen.append(node)
        result = func(*args, **kwargs)
        if moving and any(x.is_complex() for x in tensors_in((result,))):
            words = f"makes complex numbers ({func._schema.name}){at(line)}; "
            raise UntraceableError(f"{words}write it in their real and imaginary parts, which are judged")
        if _broadcasts(func):
            self.broadcast.append(tuple(tuple(x.shape) for x in (*tensors, *tensors_in((result,)))))
        if func in PLACING and args[0].ndim:
            x, dim, index = args[:3]
            self.placed.append(tuple(tuple(each.movedim(dim, -1).shape[:-1]) for each in (x, index)))
        self._leave(result, node, moving)
        return result

    # ------------------------------------------------------------------------------------------------ taking apart

    def _apart(self, func: Any, args: tuple[Any, ...], kwargs: Mapping[str, Any], line: Line | None) -> Any:
        """What the operations give into which torch takes this one apart, each recorded; NotImplemented if there are
        none."""
        from torch._decomp import decomposition_table

        self._inside.append(func)
        PLAYED.append(line)
        try:
            return self._apart_within(func, args, kwargs, decomposition_table)
        finally:
            PLAYED.pop()
            self._inside.pop()

    def _apart_within(self, func: Any, args: tuple[Any, ...], kwargs: Mapping[str, Any], table: Any) -> Any:
        with self:
            if (formula := self.formula_of(func)) is not None:
                return formula(*args, **kwargs)
            if func._overloadname == "Scalar" and hasattr(func._overloadpacket, "Tensor"):
                return func._overloadpacket.Tensor(*args, **kwargs)
            if func._overloadpacket is aten.where:  # one of its overloads with a number
                return aten.where.self(args[0], *(torch.as_tensor(x, dtype=_dtype(args)) for x in args[1:]))
            if func.namespace == "prims":
                return _of_prims(func, args, kwargs)
            if func in table:
                return _without_promotion(table[func], (args, kwargs))(*args, **kwargs)
            return func.decompose(*args, **kwargs)

    # --------------------------------------------------------------------------------------------------- what is known

    def refs(self, results: Any) -> Any:
        """The results of the whole, with a Ref for each tensor."""
        with torch._C._DisableTorchDispatch():
            return self._refs(results)

    def _refs(self, structure: Any) -> Any:
        if isinstance(structure, Tensor):
            return self._ref(structure)
        if isinstance(structure, Mapping):
            return {key: self._refs(value) for key, value in structure.items()}
        if isinstance(structure, tuple | list):
            items = [self._refs(item) for item in structure]
            return type(structure)(*items) if hasattr(structure, "_fields") else type(structure)(items)
        return structure

    def _ref(self, x: Tensor) -> Any:
        """The result that a tensor is.  One that was made elsewhere is a constant, and stays what it is."""
        known = self._own.get(id(x)) or self._known.get(_place(x))
        stored = self._stored.get(x.untyped_storage()._cdata)
        if stored is None:
            return x.detach()
        if known is not None and known.version == stored.version:
            return known.ref
        if (tuple(x.shape), x.stride(), x.storage_offset()) == (stored.size, stored.stride, stored.offset):
            return stored.ref
        node = Node(aten.take.default, (stored.ref, _positions(x, stored)), {}, None, self.stage)
        ref = self._append(node, stored.ref.position in self._moving)
        self._known[_place(x)] = _Known(ref, stored.version)
        return ref

    def _moves(self, x: Tensor) -> bool:
        known = self._own.get(id(x)) or self._known.get(_place(x))
        found = known or self._stored.get(x.untyped_storage()._cdata)
        return found is not None and found.ref.position in self._moving

    def _append(self, node: Node, moving: bool) -> Ref:
        self.nodes.append(node)
        if moving:
            self._moving.add(len(self.nodes) - 1)
        return Ref(len(self.nodes) - 1)

    def _enter(self, x: Tensor, node: Node, moves: bool) -> None:
        self._remember(x, self._append(node, moves))

    def _leave(self, result: Any, node: Node, moving: bool) -> None:
        ref = self._append(node, moving)
        if isinstance(result, Tensor):
            self._remember(result, ref)
        elif isinstance(result, tuple | list):
            for item, part in enumerate(result):
                if isinstance(part, Tensor):
                    self._remember(part, ref._replace(item=item))

    def _remember(self, x: Tensor, ref: Ref) -> None:
        self._kept.append(x)
        self.elements.append(x.numel())
        storage = x.untyped_storage()
        if storage._cdata not in self._stored:
            self._kept.append(storage)
            self._stored[storage._cdata] = _Stored(ref, tuple(x.shape), x.stride(), int(x.storage_offset()), 0)
        known = _Known(ref, self._stored[storage._cdata].version)
        self._own[id(x)] = known
        place = _place(x)
        before = self._known.get(place)
        if before is None or before.version != known.version:  # what is detached lies where it lay
            self._known[place] = known

    # ------------------------------------------------------------------------------------------------------- in place

    def _in_place(
        self, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any], line: Line | None, moving: bool
    ) -> Any:
        """The operation that is not in place, and a new whole of which its result is a part."""
        x = args[0]
        cdata = x.untyped_storage()._cdata
        if cdata in self._inputs:
            raise UntraceableError(f"writes into an input{at(line)}; write it without {func._schema.name}")
        if cdata not in self._stored:
            raise UntraceableError(f"writes into a tensor made elsewhere{at(line)}; make it within the function")
        name = func._schema.name.partition("::")[2].removesuffix("_")
        same = getattr(aten, name, None)
        if name in ("copy", "fill", "zero"):
            source = self._refs(args[1]) if len(args) > 1 else 0.0
            new = self._filled(x, source, line, moving)
        elif same is not None:
            with self:
                new = self.refs(same(*args, **kwargs).to(x.dtype))
        else:
            raise UntraceableError(f"uses {func._schema.name}{at(line)}, which has no form that is not in place")
        stored = self._stored[cdata]
        result = func(*args, **kwargs)
        if _place(x)[1:] != (stored.offset, stored.size, stored.stride):
            new = self._with_part(stored, new, _positions(x, stored), line, moving)
        if stored.ref.position in self._moving:
            self._moving.add(new.position)
        self._stored[cdata] = stored._replace(ref=new, version=stored.version + 1)
        if _place(x)[1:] == (stored.offset, stored.size, stored.stride):
            self._known[_place(x)] = self._own[id(x)] = _Known(new, stored.version + 1)
        return result

    def _with_part(self, stored: _Stored, part: Ref, positions: Tensor, line: Line | None, moving: bool) -> Ref:
        """The whole of a storage with other numbers at these positions."""

        def step(op: Any, *args: Any) -> Ref:
            return self._append(Node(op, args, {}, line, self.stage), moving)

        flat, source = step(aten.reshape.default, stored.ref, [-1]), step(aten.reshape.default, part, [-1])
        written = step(aten.index_copy.default, flat, 0, positions.reshape(-1), source)
        return step(aten.reshape.default, written, list(stored.size))

    def _filled(self, x: Tensor, source: Any, line: Line | None, moving: bool) -> Ref:
        """What a tensor is after everything in it was overwritten."""
        if isinstance(source, Ref):
            shape = list(x.shape)
            return self._append(Node(aten.expand.default, (source, shape), {}, line, self.stage), moving)
        if isinstance(source, Tensor):
            return self._append(Node(aten.expand.default, (source, list(x.shape)), {}, line, self.stage), moving)
        options = {"dtype": x.dtype, "device": x.device}
        return self._append(Node(aten.full.default, (list(x.shape), source), options, line, self.stage), moving)

    # --------------------------------------------------------------------------------------------------------- refusing

    def _refuse_what_no_program_tells(self, func: Any, args: tuple[Any, ...], moving: bool, line: Line | None) -> None:
        name = str(func._schema.name)
        if torch.Tag.nondeterministic_seeded in func.tags:
            raise UntraceableError(f"draws random numbers ({name}){at(line)}; draw them outside, and pass them in")
        if moving and (torch.Tag.data_dependent_output in func.tags or name == "aten::equal"):
            raise UntraceableError(
                f"makes a Python number or a decision of an input's values{at(line)}; write it with torch.where, or "
                "pass the number as a hyperparameter"
            )
        if torch.Tag.dynamic_output_shape in func.tags and self.formula_of(func) is None:
            chosen = args[1] if name in ("aten::index", "aten::masked_select") else args
            masks = [x for x in tensors_in(chosen) if name != "aten::index" or x.dtype is torch.bool]
            if any(map(self._moves, masks)):
                raise UntraceableError(
                    f"makes a tensor whose shape depends on an input's values ({name}){at(line)}; use torch.where"
                )

    # ------------------------------------------------------------------------------------------------------------ lines

    def _line(self) -> Line | None:
        """The line of the function's own source; within autograd's engine that of the operation forward; of a program
        that is run, its own."""
        if PLAYED:
            return PLAYED[-1]
        node = torch._C._current_autograd_node()
        if node is not None:
            return self._lines.get(node._sequence_nr())
        line = own_line(sys._getframe(2))
        if line is not None:
            self._lines[torch._C._autograd._get_sequence_nr() - 1] = line  # that of the node made for this operation
        return line


@cache  # asked of every operation, of which a program has a few dozen kinds
def _may_be_refused(func: Any) -> bool:
    """Whether a program might not tell what an operation does."""
    tags = (torch.Tag.nondeterministic_seeded, torch.Tag.data_dependent_output, torch.Tag.dynamic_output_shape)
    return func._schema.name == "aten::equal" or any(tag in func.tags for tag in tags)


PLACING = {aten.gather.default, aten.scatter.src, aten.scatter.value, aten.scatter_add.default}


@cache
def _broadcasts(func: Any) -> bool:
    return func is aten.expand.default or torch.Tag.pointwise in func.tags


def _dtype(args: tuple[Any, ...]) -> torch.dtype | None:
    return next((x.dtype for x in tensors_in(args[1:])), None)


def _without_promotion(formula: Callable[..., Any], given: Any) -> Callable[..., Any]:
    """The formula itself, where all numbers have one wide dtype: what torch wraps around it then changes nothing, and
    imports SymPy and torch._dynamo for that, which takes a second each."""
    dtypes = {x.dtype for x in tensors_in(given)}
    if len(dtypes) > 1 or not dtypes <= {torch.float64, torch.float32}:
        return formula
    unwrapped: Callable[..., Any] = inspect.unwrap(formula)
    return unwrapped


def _of_prims(func: Any, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> Any:
    """What torch itself calls a primitive: an elementary function by another name, or one of its own."""
    name = func._schema.name.partition("::")[2]
    if name == "convert_element_type":
        return args[0].to(args[1])
    if name == "broadcast_in_dim":
        x, shape, places = args
        lengths = [1] * len(shape)
        for place, length in zip(places, x.shape, strict=True):
            lengths[place] = length
        return x.reshape(lengths).expand(shape)
    if name == "var":
        return torch.var(args[0], args[1], correction=args[2])
    function = getattr(torch, {"transpose": "permute"}.get(name, name), None)
    return NotImplemented if function is None else function(*args, **kwargs)


def _place(x: Tensor) -> tuple[Any, ...]:
    return x.untyped_storage()._cdata, x.storage_offset(), tuple(x.shape), x.stride()


def _positions(x: Tensor, stored: _Stored) -> Tensor:
    """Where the elements of a tensor are among those of the whole that its storage holds, counted row by row."""
    count = math.prod(stored.size)
    span = 1 + sum((length - 1) * step for length, step in zip(stored.size, stored.stride, strict=True))
    memory = torch.zeros(span if count else 0, dtype=torch.int64)
    memory.as_strided(stored.size, stored.stride).copy_(torch.arange(count).reshape(stored.size))
    return memory.as_strided(x.shape, x.stride(), int(x.storage_offset()) - stored.offset).clone()


def own_line(frame: FrameType | None) -> Line | None:
    """The innermost line that is neither torch's nor ours."""
    while frame is not None:
        file = frame.f_code.co_filename
        if not file.startswith(OURS) and frame.f_code.co_name not in ("__torch_function__", "__torch_dispatch__"):
            return Line(file, frame.f_lineno, linecache.getline(file, frame.f_lineno).strip())
        frame = frame.f_back
    return None


def at(line: Line | None) -> str:
    """Where it is, in words; "" where that is not known."""
    return "" if line is None else f" in line {line.number} of {Path(line.file).name} ({line.text})"


def recorded(
    function: Callable[..., Any], inputs: Sequence[Tensor], elementary: Elementary = lambda op: True
) -> Program:
    """The program of function(*inputs); every input is one of the program's."""
    with Recording(inputs, elementary) as recording:
        results = function(*inputs)
    return Program(tuple(recording.nodes), recording.inputs, recording.refs(results)).pruned()
