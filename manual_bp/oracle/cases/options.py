"""Options: what may be absent, hyperparameters, and what an index may ignore, alone and in pairs.

A program that is right for each option by itself may be wrong for two: a mean without weights that counts what is
ignored divides by the right number where there are weights, and where nothing is ignored.
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import combinations, product

from manual_bp.inputs import Edge
from manual_bp.oracle.cases.indices import partly_ignored
from manual_bp.oracle.cases.values import hyperparameters, named, unusual
from manual_bp.rule import Rule

# Up to so many inputs that may be absent, every set of them is left out; of more, each alone and all.
TOGETHER = 3


def absences(rule: Rule) -> Iterator[Edge]:
    """Without each input that may be absent, and without several of them."""
    names = _absentable(rule)
    for number in range(1, len(names) + 1) if len(names) <= TOGETHER else (1, len(names)):
        for absent in combinations(names, number):
            yield Edge(_without(absent), dict.fromkeys(absent))


def options(rule: Rule) -> Iterator[Edge]:
    """Every usual value of each hyperparameter and every pair of unusual ones; and each unusual one, where an input is
    absent or part of an index is ignored, and both of these."""
    for given in hyperparameters(rule):
        yield Edge(named(given), given)
    single = [{name: value} for name, values in unusual(rule).items() for value in values]
    absent = [(_without([name]), {name: None}) for name in _absentable(rule)]
    for (words, without), given in product(absent, single):
        yield Edge(f"{words}, {named(given)}", {**without, **given})
    for edge, unless in partly_ignored(rule):
        others = [*absent, *((named(given), given) for given in single if unless not in given)]
        for words, given in others:
            yield Edge(f"{edge.name}, {words}", {**edge.given, **given}, edge.sizes)


def _absentable(rule: Rule) -> list[str]:
    return [name for name in rule.inputs if name in rule.absentable]


def _without(names: list[str] | tuple[str, ...]) -> str:
    return f"without {' and '.join(names)}"
