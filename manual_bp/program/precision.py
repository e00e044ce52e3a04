"""One program in two precisions.

A function that is written without a word on precision does the same in each: its programs differ in the dtypes that
operations are given, and in nothing else.  Then one of them tells the other.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from manual_bp.program.program import SINGLE, Program


def with_dtype(program: Program, old: torch.dtype, new: torch.dtype) -> Program:
    """The program with another dtype wherever an operation is given the old one, or a constant that both hold."""

    def changed(structure: Any) -> Any:
        kind = type(structure)
        if kind is torch.dtype:
            return new if structure is old else structure
        if kind is Tensor and structure.dtype is old:
            there = structure.to(new)
            return there if torch.equal(there.to(old).nan_to_num(), structure.nan_to_num()) else structure
        if kind in SINGLE or not structure:
            return structure
        if kind is tuple or kind is list:
            items = [changed(item) for item in structure]
            return structure if all(a is b for a, b in zip(items, structure, strict=True)) else kind(items)
        if isinstance(structure, Mapping):
            found = {key: changed(value) for key, value in structure.items()}
            return structure if all(found[key] is structure[key] for key in found) else found
        return structure

    nodes = []
    for node in program.nodes:
        args, kwargs = changed(node.args), changed(node.kwargs)
        is_same = args is node.args and kwargs is node.kwargs
        nodes.append(node if is_same else replace(node, args=args, kwargs=kwargs))
    return Program(tuple(nodes), program.inputs, program.results)


def are_same(a: Any, b: Any) -> bool:
    """Whether two structures of programs are one: the same operations, numbers and dtypes, and constants of the same
    dtype and values."""
    if isinstance(a, Program):
        nodes = len(a.nodes) == len(b.nodes) and a.inputs == b.inputs
        return nodes and are_same(a.results, b.results) and all(map(_are_same_nodes, a.nodes, b.nodes))
    if type(a) is not type(b):
        return False
    if isinstance(a, Tensor):
        return a.dtype is b.dtype and a.shape == b.shape and torch.equal(a, b)
    if isinstance(a, tuple | list):
        return len(a) == len(b) and all(map(are_same, a, b))
    if isinstance(a, Mapping):
        return a.keys() == b.keys() and all(are_same(a[key], b[key]) for key in a)
    return bool(a == b)


def _are_same_nodes(a: Any, b: Any) -> bool:
    is_same = a.op is b.op and a.stage == b.stage and a.line == b.line
    return is_same and are_same(a.args, b.args) and are_same(a.kwargs, b.kwargs)
