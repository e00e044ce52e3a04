"""What is known of a function of which a page is made."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from manual_bp.inputs import Index, Input
from manual_bp.oracle.functions.spoken import Spoken


@dataclass(frozen=True)
class Function:
    """called: the function, of its present inputs by position and its hyperparameters by name.  text, body: its
    docstring and code.

    annotations, specs, given: of each input its axes, how it is drawn, and what was said of it, if anything.
    large: what was said of inputs that were made small.  absentable: inputs that may be None.
    hyper, kinds: values and kinds of hyperparameters.
    """

    called: Callable[..., Any]
    text: str
    body: Any
    annotations: Mapping[str, Any]
    specs: Mapping[str, Input | Index]
    given: Mapping[str, Spoken]
    large: Mapping[str, Spoken]
    absentable: list[str]
    hyper: Mapping[str, Any]
    kinds: Mapping[str, Any]
