"""A pytest plugin: the fixture `oracle`, and the marker `audit` (pytest_audit.py).

    def test_mine(oracle):
        oracle.check(my_vjp, "elu", dtype=torch.float64)

`oracle.check` and `oracle.compare` are those of `manual_bp.oracle`, and so take any differentiable torch function in
the place of the rule: `oracle.check(my_vjp, my_forward, inputs={"x": (4, 33)})`.  A failing check prints the report and
no frame of this package.  `--oracle-html DIR` collects one page per check, named after its test, and an index.html.

Each case is a test of its own where you parametrise:

    @pytest.mark.parametrize("case", manual_bp.pytest_plugin.cases("elu"))
    def test_case(oracle, case):
        oracle.check(my_vjp, "elu", cases=[case])

(`cases(my_forward, inputs={"x": (4, 33)})`, and the same inputs for the check.)

One case need not show every gradient (a cotangent of zeros shows none).  So where the only case of a check is a
parameter of the test, the check fails at a mismatch alone; if nothing could be judged the test is skipped.  That the
cases together test everything is only said by a check without `cases`: keep one beside them.

Nothing heavy is imported before a test uses the fixture.
"""

from __future__ import annotations

import importlib.util
import os
import re
import zlib
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from manual_bp import pytest_audit
from manual_bp.pytest_audit import audited, pytest_generate_tests, pytest_pyfunc_call  # noqa: F401 (pytest finds them)

if TYPE_CHECKING:
    import torch

    from manual_bp.oracle.reports.report import Report
    from manual_bp.rule import Rule, Vjp

INDEX = "index.html"
MADE = "<!-- made by pytest --oracle-html, which replaces it -->"
"""The last line of an index, by which it is known."""

LONGEST = 120
"""File systems take 255 bytes in a name."""


def cases(
    rule: str | Rule | Callable[..., Any],
    dtype: torch.dtype | None = None,
    device: str = "cpu",
    *,
    inputs: Mapping[str, Any] | None = None,
    **declared: Any,
) -> list[Any]:
    """The generated cases of a rule, or of a function as reference, as parameters, each with its name as id.

    dtype: float32 by default.  inputs: of a function.  declared: hyper=, ndim=, min_size= and given= as for `check`,
    which is to be told them too.
    """
    import torch

    from manual_bp.oracle.cases.declared import Declared
    from manual_bp.oracle.cases.generated import generated
    from manual_bp.oracle.functions import rule_of

    rule = rule_of(rule, inputs, declared.get("hyper"))
    found = Declared.of(rule, **declared)
    made = generated(found.rule(rule), dtype or torch.float32, device, declared=found)
    return [pytest.param(case, id=case.name) for case in made]


class Oracle:
    """What the fixture gives: `check` and `compare` for one test."""

    def __init__(self, request: pytest.FixtureRequest) -> None:
        self._node = request.node
        self._folder = _workers_folder(request.config)
        self._pages = 0

    def check(self, candidate: Vjp | None, rule: str | Rule | Callable[..., Any], **options: Any) -> Report:
        """`manual_bp.oracle.check`: the report, or GradientMismatch.  The module says more of a parametrised case."""
        __tracebackhide__ = True
        from manual_bp.oracle import GradientMismatch

        report = self.compare(candidate, rule, **options)
        single = candidate is not None and self._parameter(options) is not None
        if single and not report.cases and not report.mismatches:
            pytest.skip("; ".join([*report.notes, *report.not_tested]) or "nothing could be judged")
        if report.mismatches or not (report.passed or single):
            raise GradientMismatch(report)
        return report

    def compare(self, candidate: Vjp | None, rule: str | Rule | Callable[..., Any], **options: Any) -> Report:
        """`manual_bp.oracle.compare`; dtype and device are by default those of a single parametrised case."""
        __tracebackhide__ = True
        from manual_bp.oracle import compare

        case = self._parameter(options)
        number = _number_of(case)
        if number is not None:
            options = {"dtype": number.dtype, "device": str(number.device), **options}
        report = compare(candidate, rule, **options)
        if self._folder is not None:
            self._write(report, candidate, rule, options)
        return report

    def _parameter(self, options: dict[str, Any]) -> Any:
        """The only case of a check, if it is a parameter of the test."""
        given = options.get("cases")
        if given is None or len(given) != 1 or not hasattr(self._node, "callspec"):
            return None
        return given[0] if any(value is given[0] for value in self._node.callspec.params.values()) else None

    def _write(
        self,
        report: Report,
        candidate: Vjp | None,
        rule: str | Rule | Callable[..., Any],
        options: dict[str, Any],
    ) -> None:
        from manual_bp.files import write_atomically
        from manual_bp.oracle.reports.html import to_html

        assert self._folder is not None
        self._pages += 1
        path = Path(self._folder) / page_name(self._node.nodeid, self._pages)
        if os.path.lexists(path) and not _is_page(path):
            raise FileExistsError(
                f"--oracle-html: {path} is no page of an earlier run. Move it, or name another folder."
            )
        page = to_html(report, rule, candidate, title=self._node.nodeid, options=options)
        write_atomically(path, page.encode("utf-8"))
        self._node.add_report_section("call", "oracle", f"page: {path}")


def _number_of(case: Any) -> Any:
    """A tensor of numbers that a case holds: a cotangent, or an input of a rule without backward."""
    dy = getattr(case, "dy", None)
    several = (*(dy if isinstance(dy, tuple) else (dy,)), *(getattr(case, "inputs", ()) if dy is None else ()))
    return next((x for x in several if hasattr(x, "dtype") and x.is_floating_point()), None)


def page_name(test: str, number: int = 1) -> str:
    """The file name of a test's page: its id with other characters replaced, and a checksum that tells apart what the
    replacement, the cut, or a file system blind to case would not."""
    name = re.sub(r"[^A-Za-z0-9.]+", "_", test).strip("._")[:LONGEST]
    return f"{name}-{zlib.crc32(test.encode('utf-8', 'backslashreplace')):08x}{f'-{number}' if number > 1 else ''}.html"


@pytest.fixture
def oracle(request: pytest.FixtureRequest) -> Oracle:
    """Judge a candidate's gradients: oracle.check(my_vjp, "elu", dtype=torch.float64)."""
    return Oracle(request)


def pytest_addoption(parser: pytest.Parser) -> None:
    """--oracle-html DIR."""
    parser.getgroup("manual_bp", "manual_bp's gradient oracle").addoption(
        "--oracle-html",
        metavar="DIR",
        default=None,
        help="collect one HTML page per check of the fixture `oracle` in DIR, and an index.html; those of an earlier "
        "run are replaced, other files in DIR stay",
    )


def _workers_folder(config: pytest.Config) -> str | None:
    """Where a test's page is written, in whatever process the test runs."""
    handed: dict[str, Any] = getattr(config, "workerinput", {})
    folder: str | None = handed.get("oracle_html", config.getoption("oracle_html"))
    return folder


def _folder(config: pytest.Config) -> Path | None:
    """Where pages are collected, for the process that makes the index: not a worker of pytest-xdist."""
    folder = config.getoption("oracle_html", None)
    return None if folder is None or hasattr(config, "workerinput") else Path(folder)


def pytest_configure(config: pytest.Config) -> None:
    """Bad usage is said before the tests; the path is made absolute, since a test may change the directory."""
    pytest_audit.pytest_configure(config)
    folder = _folder(config)
    if folder is None:
        return
    if importlib.util.find_spec("jinja2") is None:
        raise pytest.UsageError("--oracle-html needs jinja2. Run: pip install 'manual-bp[report]'")
    folder = config.invocation_params.dir / folder
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        must = "--oracle-html must name a folder that can be written"
        raise pytest.UsageError(f"{must}; came {folder}: {error}") from None
    index = folder / INDEX
    if not _may_be_index(index):
        raise pytest.UsageError(
            "--oracle-html must name a folder whose index.html is missing or one that this option made; came "
            f"{index}, which is neither, and stays as it is. Move it, or name another folder."
        )
    config.option.oracle_html = str(folder)


@pytest.hookimpl(optionalhook=True)  # a hook of pytest-xdist
def pytest_configure_node(node: Any) -> None:
    """Hand a worker the absolute path: it parses the command line anew, perhaps in another directory."""
    if (folder := _folder(node.config)) is not None:
        node.workerinput["oracle_html"] = str(folder)


@pytest.hookimpl(tryfirst=True)
def pytest_sessionstart(session: pytest.Session) -> None:
    """Remove an earlier run's pages, and nothing else, before workers start."""
    folder = _folder(session.config)
    if folder is None or session.config.getoption("collectonly"):
        return
    for path in folder.glob("*.html"):
        if _is_page(path):
            path.unlink()


@pytest.hookimpl(trylast=True)
def pytest_sessionfinish(session: pytest.Session) -> None:
    """The index, from the pages that lie in the folder, whoever wrote them."""
    folder = _folder(session.config)
    if folder is None or session.config.getoption("collectonly"):
        return
    from manual_bp.files import write_atomically
    from manual_bp.oracle.reports.html import index_html

    if _may_be_index(folder / INDEX):  # another plugin may have put its own there meanwhile
        write_atomically(folder / INDEX, f"{index_html(folder)}\n{MADE}\n".encode())


def _is_page(path: Path) -> bool:
    """Whether a file is a page that a test of an earlier run made: neither a link, nor a page that `to_html` made for
    somebody else, nor a copy under another name."""
    from manual_bp.oracle.reports.html import about_page

    if path.is_symlink() or not path.is_file() or (about := about_page(path)) is None:
        return False
    return re.fullmatch(re.escape(Path(page_name(str(about.get("test", "")))).stem) + r"(-\d+)?", path.stem) is not None


def _may_be_index(path: Path) -> bool:
    """Whether there is nothing under that name, or an index that this plugin made."""
    if not os.path.lexists(path):
        return True
    if path.is_symlink() or not path.is_file():
        return False
    with path.open("rb") as file:
        file.seek(-min(len(MADE) + 2, path.stat().st_size), os.SEEK_END)
        return MADE.encode() in file.read()


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter, config: pytest.Config) -> None:
    """Say where the pages are."""
    folder = _folder(config)
    if folder is not None and not config.getoption("collectonly"):
        index = folder / INDEX
        ours = _may_be_index(index)
        terminalreporter.write_line(f"oracle: {index if ours else f'{folder}, whose {INDEX} is not ours and stays'}")
