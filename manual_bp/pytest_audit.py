"""The marker `audit`: a test of one's own is given wrong programs, and fails if it lets any pass.

    @pytest.mark.audit("softmax")                                      # the program is the argument `audited`
    def test_softmax(audited):
        ...

    @pytest.mark.audit("softmax", replaces="my_kernels:softmax")       # a test that is there already
    def test_softmax():
        ...

With `replaces`, the test runs as it is first; then what that name means (in the test's own module, if there is no
colon) is replaced by each program in turn.  `argument=` names a fixture that is replaced in the same way.  A program
is a Vjp, and an autograd function through `apply` or called with tensors.  Other keywords are those of
`manual_bp.oracle.audit`: smallest=1e-2 and allow=["wrong in another layout"] say what need not be seen.
"""

from __future__ import annotations

import importlib
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import pytest

AUDITED = "audited"
MARKER = "audit"


@pytest.fixture
def audited() -> Any:
    """The program, in a test that is marked with audit(rule)."""
    pytest.fail("the fixture `audited` is for tests that are marked with @pytest.mark.audit(rule)")


class AuditFailure(AssertionError):
    """A test lets wrong programs pass; the message is the report."""


def pytest_configure(config: pytest.Config) -> None:
    """Make the marker known."""
    config.addinivalue_line(
        "markers",
        f"{MARKER}(rule, argument='{AUDITED}', replaces=None, **options): the test is given right and wrong programs "
        "of the rule, and fails if it lets wrong ones pass (manual_bp)",
    )


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """A test that is audited alone gets no program when it is set up."""
    if metafunc.definition.get_closest_marker(MARKER) and AUDITED in metafunc.fixturenames:
        metafunc.parametrize(AUDITED, [pytest.param(None, id="audit")])


@pytest.hookimpl(tryfirst=True)
def pytest_pyfunc_call(pyfuncitem: pytest.Function) -> bool | None:
    """Run a marked test as it is, if it is about something of its own, and then audit it."""
    __tracebackhide__ = True
    marker = pyfuncitem.get_closest_marker(MARKER)
    if marker is None:
        return None
    against, argument, replaces, options = _read(**dict(zip(("against",), marker.args, strict=True)), **marker.kwargs)
    arguments = {name: pyfuncitem.funcargs[name] for name in pyfuncitem._fixtureinfo.argnames}
    if replaces is None and argument not in arguments:
        raise pytest.UsageError(
            f"{pyfuncitem.nodeid}: a test that is marked with {MARKER} takes the argument {argument!r}, or the marker "
            "says replaces='module:name'"
        )
    test = pyfuncitem.obj
    if argument != AUDITED or AUDITED not in arguments:
        test(**arguments)

    def checker(program: Any) -> Any:
        own = {**arguments, argument: program} if argument in arguments else arguments
        with _replaced(replaces, test, program):
            return test(**own)

    checker.__name__ = pyfuncitem.name
    from manual_bp.oracle.audit import audit

    report = audit(checker, against, **options)
    pyfuncitem.add_report_section("call", MARKER, str(report))
    if not report.passed:
        raise AuditFailure(str(report))
    return True


def _read(
    against: Any, argument: str = AUDITED, replaces: str | None = None, **options: Any
) -> tuple[Any, str, str | None, Mapping[str, Any]]:
    return against, argument, replaces, options


@contextmanager
def _replaced(target: str | None, test: Any, program: Any) -> Iterator[None]:
    """Inside, the name means the program."""
    if target is None:
        yield
        return
    module, colon, name = target.rpartition(":")
    *path, last = name.split(".")
    owner: Any = importlib.import_module(module if colon else test.__module__)
    for part in path:
        owner = getattr(owner, part)
    if not hasattr(owner, last):
        raise pytest.UsageError(f"{MARKER}: replaces must name what is there, as in 'module:name'; came {target!r}")
    before = getattr(owner, last)
    setattr(owner, last, program)
    try:
        yield
    finally:
        setattr(owner, last, before)
