"""The pytest plugin: the fixture, its pages, parametrised cases, xdist, and what it costs who does not use it."""

from __future__ import annotations

import subprocess
import sys

import pytest

from manual_bp.pytest_plugin import page_name, pytest_configure

pytest_plugins = ["pytester"]

CANDIDATES = """
import pytest, torch
import manual_bp as bp
from manual_bp.pytest_plugin import cases

def right(inputs, dy, alpha=1.0):
    return bp.elu.vjp(inputs, dy, alpha=alpha)

def wrong(inputs, dy, alpha=1.0):
    y, (dx,) = right(inputs, dy, alpha)
    return y, (2 * dx,)

def zero(inputs, dy, alpha=1.0):
    y, (dx,) = right(inputs, dy, alpha)
    return y, (0 * dx,)
"""
ALONE = ("-p", "no:cacheprovider", "-p", "no:xdist")


@pytest.fixture
def run(pytester):
    """Runs tests in this process, or with workers in processes of their own, as pytest-xdist wants it."""

    def run(tests, *arguments, alone=True):
        pytester.makepyfile(test_it=CANDIDATES + tests)
        if alone:
            return pytester.runpytest_inprocess(*ALONE, *arguments)
        return pytester.runpytest_subprocess(*ALONE[:2], *arguments)

    return run


def test_passes(run):
    result = run("def test(oracle):\n    assert oracle.check(right, 'elu', dtype=torch.float64).dtype == 'float64'")
    result.assert_outcomes(passed=1)


def test_fails_with_the_report_and_no_frame_of_ours(run):
    result = run(
        "def test(oracle):\n    oracle.check(wrong, 'elu')\n\n"
        "def test_compare(oracle):\n    assert not oracle.compare(wrong, 'elu').passed"
    )
    result.assert_outcomes(passed=1, failed=1)
    result.stdout.fnmatch_lines(["E * elu (float32, cpu): FAILS in *", "E *wrong: dx*times the allowance*"])
    result.stdout.no_fnmatch_line("*pytest_plugin.py:*")
    result.stdout.no_fnmatch_line("*comparison.py:*")


def test_cases_are_tests_of_their_own(run):
    tests = (
        "few = [case for case in cases('elu', torch.float64) if case.id in ('ordinary', 'kink', 'zero cotangent')]\n"
        "@pytest.mark.parametrize('case', few)\n"
        "@pytest.mark.parametrize('vjp', [right, zero])\n"
        "def test(oracle, case, vjp):\n    oracle.check(vjp, 'elu', cases=[case])"
    )
    result = run(tests, "-v")
    result.assert_outcomes(failed=2, passed=4)  # a candidate that gives 0 is right where 0 is due
    result.stdout.fnmatch_lines(["*test?right-ordinary? PASSED*", "*test?zero-ordinary? FAILED*"])
    result.stdout.fnmatch_lines(["*test?zero-zero cotangent? PASSED*"])


def test_a_single_case_is_spared_only_as_a_parameter(run):
    tests = (
        "from manual_bp.oracle import Case\nCASE = Case(([1.0],), [0.0])\n"
        "@pytest.mark.parametrize('case', [CASE])\n"
        "def test_parameter(oracle, case):\n    oracle.check(right, 'elu', cases=[case])\n\n"
        "def test_plain(oracle):\n    oracle.check(right, 'elu', cases=[CASE])\n\n"
        "@pytest.mark.parametrize('case', [Case(([1.0],), [1.0])])\n"
        "def test_recorded_nothing(oracle, case):\n    oracle.check(None, 'elu', cases=[case])\n\n"
        "@pytest.mark.parametrize('case', [Case(([-1.0],), [1.0], {'alpha': 2.0})])\n"
        "def test_not_judged(oracle, case):\n"
        "    oracle.check(lambda inputs, dy: right(inputs, dy), 'elu', cases=[case])"
    )
    result = run(tests, "-rs")
    result.assert_outcomes(passed=1, failed=2, skipped=1)
    result.stdout.fnmatch_lines(["SKIPPED*the candidate takes no alpha*"])


def test_a_function_is_the_reference(run, pytester):
    tests = (
        "def square(x, scale=1.0):\n    return scale * x * x\n\n"
        "def square_vjp(inputs, dy):\n    return inputs[0] ** 2, (2 * inputs[0] * dy,)\n\n"
        "def half(inputs, dy):\n    return inputs[0] ** 2, (inputs[0] * dy,)\n\n"
        "X = {'x': (4, 3)}\n"
        "few = [case for case in cases(square, inputs=X) if case.id in ('ordinary', 'scale = 2')][:2]\n"
        "@pytest.mark.parametrize('case', few)\n"
        "@pytest.mark.parametrize('vjp', [square_vjp, half])\n"
        "def test(oracle, case, vjp):\n    oracle.check(vjp, square, inputs=X, cases=[case], diagnose=0)"
    )
    result = run(tests, "-rs", "--oracle-html", "out")
    result.assert_outcomes(passed=1, failed=1, skipped=2)
    result.stdout.fnmatch_lines(["SKIPPED*the candidate takes no scale*"])
    pages = [page.read_text() for page in (pytester.path / "out").glob("*.html")]
    assert any("scale * x * x" in page and "from test_it import half" in page for page in pages)


PAGES = """
few = {dtype: [case.values[0] for case in cases("elu", dtype)[:3]] for dtype in (torch.float32, torch.float64)}

@pytest.mark.parametrize("vjp", [right, wrong])
def test_page(oracle, vjp):
    oracle.check(vjp, "elu", cases=few[torch.float32], diagnose=0)

def test_two(oracle):
    for dtype in few:
        oracle.check(right, "elu", dtype=dtype, cases=few[dtype])

def test_other():
    pass
"""


@pytest.mark.parametrize(
    "workers", [None, *(pytest.param(workers, marks=pytest.mark.exhaustive) for workers in (1, 2))]
)
def test_pages_and_index(run, pytester, workers):
    pytest.importorskip("jinja2")
    pages = pytester.path / "out" / "pages"
    result = run(PAGES, "--oracle-html", "out/pages", *(["-n", str(workers)] if workers else []), alone=not workers)
    result.assert_outcomes(passed=3, failed=1)
    names = {path.name.rpartition("-")[0] for path in pages.glob("test*.html")}
    assert {"test_it.py_test_page_right", "test_it.py_test_page_wrong", "test_it.py_test_two"} <= names
    assert len(list(pages.glob("*.html"))) == 5
    index = (pages / "index.html").read_text()
    assert "1 failed, 3 passed" in index
    assert "test_it.py::test_page[wrong]" in index
    result.stdout.fnmatch_lines([f"page: {pages}*", f"oracle: {pages / 'index.html'}"])


def test_pages_of_an_earlier_run_go_and_other_files_stay(run, pytester):
    pytest.importorskip("jinja2")
    run(PAGES, "--oracle-html", "out")
    pages = pytester.path / "out"
    (pages / "mine.html").write_text("<p>mine")
    copy = pages / "kept.html"  # a page that somebody put aside
    copy.write_bytes(next(pages.glob("test*right*.html")).read_bytes())
    run(PAGES, "--oracle-html", "out", "--collect-only")
    assert len(list(pages.glob("*.html"))) == 7
    run(PAGES, "--oracle-html", "out", "-k", "right")
    assert {path.name.rpartition("-")[0] for path in pages.glob("test*.html")} == {"test_it.py_test_page_right"}
    assert (pages / "mine.html").exists()
    assert copy.exists()
    assert "Oracle: 2 passed" in (pages / "index.html").read_text()


@pytest.mark.parametrize("planted", ["a file", "an index", "a link", "a dangling link"])
def test_bad_folder(pytester, planted):
    """Also one with an index.html of the user's own: nothing is overwritten, and nothing is written through a link."""
    mine, index = pytester.path / "mine.html", pytester.path / "out" / "index.html"
    index.parent.mkdir()
    mine.write_text("<title>oracle: mine</title>")
    if planted == "a file":
        folder = mine
    else:
        folder = index.parent
        if planted == "an index":
            index.write_text(mine.read_text())
        else:
            index.symlink_to(mine if planted == "a link" else pytester.path / "elsewhere.html")
    config = pytester.parseconfig("--oracle-html", str(folder))
    with pytest.raises(pytest.UsageError, match="--oracle-html must name a folder"):
        pytest_configure(config)
    assert mine.read_text() == "<title>oracle: mine</title>"
    assert not (pytester.path / "elsewhere.html").exists()


def test_page_names():
    assert page_name("tests/a.py::test_x[a/b]").startswith("tests_a.py_test_x_a_b-")
    assert len({page_name(name) for name in ("a::b", "a:b", "A::b", 200 * "x", 201 * "x")}) == 5
    assert all(len(page_name(name).encode()) < 160 for name in (300 * "x", 300 * "é"))
    assert page_name("../../etc").startswith("etc-")
    assert page_name("a", 2) != page_name("a")


def test_who_does_not_use_it_pays_nothing(pytester):
    """Neither torch nor the oracle is imported: by the plugin's module nor by a run that does not use the fixture."""
    pytester.makepyfile(
        "import sys\ndef test():\n    assert 'manual_bp.pytest_plugin' in sys.modules\n"
        "    assert not {'torch', 'numpy', 'manual_bp.oracle', 'manual_bp.rule', 'jinja2'} & set(sys.modules)"
    )
    environment = {"PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1"}
    for name, value in environment.items():
        pytester._monkeypatch.setenv(name, value)
    result = pytester.runpytest_subprocess("-p", "manual_bp.pytest_plugin", "-p", "no:cacheprovider")
    result.assert_outcomes(passed=1)


def test_import_is_quick():
    """Under 20 ms; it takes about 1 ms once pytest is there."""
    code = (
        "import pytest, time\nstart = time.process_time()\nimport manual_bp.pytest_plugin\n"
        "print(time.process_time() - start)"
    )
    found = [float(subprocess.run([sys.executable, "-c", code], check=True, capture_output=True).stdout) for _ in "abc"]
    assert min(found) < 0.02
