"""From rows to tables: what is lost or missing is said."""

from __future__ import annotations

import io
import json

import pytest
from rich.console import Console

from benchmarks.contestants.products import GRAPHED
from benchmarks.paired import Timings
from benchmarks.pictures import captions_of, draw, one_by_one
from benchmarks.report import (
    BEGIN,
    END,
    in_readme,
    main,
    markdown,
    merged,
    quantity,
    rows_of,
    table,
    verdict,
    words,
)
from benchmarks.rows import ROOM, counted_row, timed_row

FAMILIES = {"torch": ["torch, eager", "torch.compile"], "jax": ["jax.jit"], "limit": ["products"]}


def row(ours_takes, *, targets=None, products=0.1, ours="manual, compiled", missing=None, question="steps", **about):
    seconds = {"manual, compiled": ours_takes, "torch, eager": 4.0, "torch.compile": 2.0, "products": products}
    timings = Timings({name: [s] * 7 for name, s in seconds.items()}, dict.fromkeys(seconds, 1))
    targets = {"torch": 0.6} if targets is None else targets
    return timed_row(question, "a row", timings, ours, FAMILIES, targets, missing or {}, device="cpu", **about)


def document(*rows):
    info = {"cpu": "a processor", "cores": 2, "threads": 2, "python": "3", "versions": {"torch": "2", "jax": "0"}}
    return {"machine_info": info, "benchmarks": [{"extra_info": r} for r in rows]}


def shown(found):
    console = Console(width=200, file=io.StringIO())
    console.print(found)
    return console.file.getvalue()


def test_ratio_is_to_the_faster_of_a_family():
    found = row(1.0)
    assert found["best"]["torch"] == "torch.compile"
    assert found["targets"]["torch"]["ratio"] == 0.5
    assert found["targets"]["torch"]["met"]


def test_a_lost_row_says_so():
    lost = row(1.5)
    assert lost["targets"]["torch"]["met"] is False
    assert "MISSED" in verdict(lost)
    assert words([lost, row(1.0)]) == "1 of 2 targets is missed"
    assert "MISSED" in shown(table([lost]))
    assert "MISSED" in markdown([document(lost)])


def test_the_matrix_products_leave_no_room():
    """Slower than the target, but within 1.15 of what nobody can beat."""
    found = row(1.5, products=1.5 / ROOM)
    assert found["targets"]["torch"]["met"]
    assert "no room above the products" in verdict(found)
    assert not row(1.5, products=1.4 / ROOM)["targets"]["torch"]["met"]


def test_what_is_missing_is_said():
    found = row(1.0, targets={"torch": 0.6, "jax": 1.0}, missing={"jax.jit": "jax is not installed"})
    assert found["targets"]["jax"]["met"] is None
    assert "jax ≤ 1: not measured" in verdict(found)
    assert "jax.jit: not measured, jax is not installed" in shown(table([found]))


def test_a_device_without_a_run_is_not_measured():
    text = markdown([document(row(1.0))])
    assert "GPU (CUDA): not measured" in text
    assert "manual-bp bench --device cuda" in text
    assert "CPU: a processor, 2 cores" in text
    assert "CPU, memory: not measured. To measure: `manual-bp bench --device cpu --only memory" in text


def test_a_question_that_is_asked_again():
    old, kept, new = row(1.5), row(1.0, question="scaling"), row(1.0)
    assert merged([document(old, kept), document(new)]) == [new, kept]


def test_memory_and_checker_rows():
    memory = counted_row(
        "memory", "deep", {"manual, compiled": 2**20, "torch, eager": 2**21}, "bytes", "manual, compiled",
        {"torch": ["torch, eager"]}, {"torch": 0.8}, {}, device="cpu",
    )  # fmt: skip
    assert memory["targets"]["torch"]["ratio"] == 0.5
    text = markdown([document(memory)])
    assert "| deep | 1 MiB | 2 MiB | torch ≤ 0.8: met |" in text


def test_rules_in_one_line_and_losses_bold():
    rows = []
    for size, takes in (("2^12", 1.0), ("2^18", 3.0)):
        timings = Timings(
            {n: [s] * 7 for n, s in (("manual, compiled", takes), ("torch, eager", 2.0), ("copy", 0.5))}, {}
        )
        families = {"torch": ["torch, eager"], "limit": ["copy"]}
        found = timed_row(
            "rules", f"tanh, {size}", timings, "manual, compiled", families, {"torch": 1.05}, {}, device="cpu"
        )
        rows.append(found)
    assert "| tanh | 0.50 [2.00] | **1.50 [6.00]** |" in markdown([document(*rows)])


@pytest.mark.parametrize(("value", "unit", "text"), [(2.0, "s", "2 s"), (0.0021, "s", "2.1 ms"), (3e-6, "s", "3 µs"),
                                                     (3 * 2**19, "bytes", "1.5 MiB")])  # fmt: skip
def test_quantities(value, unit, text):
    assert quantity(value, unit) == text


def test_a_busy_machine_is_said():
    found = {**row(1.0), "others": 0.4}
    assert "the machine was busy: in 1 of 1 rows" in shown(table([found]))
    assert "at most 40%" in markdown([document(found)])
    assert "busy" not in markdown([document({**row(1.0), "others": 0.01})])


def test_readme_keeps_the_rest():
    readme = f"before\n{BEGIN}\nold\n{END}\nafter"
    assert in_readme(readme, r"new \1") == f"before\n{BEGIN}\nnew \\1\n{END}\nafter"
    with pytest.raises(ValueError, match="must hold the lines"):
        in_readme("without", "new")


def test_pictures(tmp_path):
    scaling = [row(1.0, question="scaling", axis=axis, size=size) for axis in ("depth", "width") for size in (1, 2)]
    rules = [{**row(1.0, question="rules"), "row": f"tanh, {size}"} for size in ("2^12", "2^18")]
    for each in rules:
        each["values"]["copy"] = each["values"]["products"]
    found = draw([*scaling, *rules], tmp_path, "-cuda")
    assert {question: path.name for question, path in found.items()} == {
        "scaling": "scaling-cuda.svg",
        "rules": "rules-cuda.svg",
    }
    first = {path: path.read_bytes() for path in found.values()}
    assert all(b"</svg>" in text for text in first.values())
    draw([*scaling, *rules], tmp_path, "-cuda")
    assert first == {path: path.read_bytes() for path in found.values()}  # byte for byte
    assert draw([row(1.0)], tmp_path) == {}


@pytest.mark.parametrize(
    ("device", "limit", "alone"),
    [("cuda", "products", True), ("cuda", f"products{GRAPHED}", False), ("cpu", "products", False)],
)
def test_products_launched_one_by_one_are_called_no_limit_of_a_graph(device, limit, alone):
    found = {**row(1.0, question="scaling"), "device": device, "best": {"limit": limit}}
    assert ("launched one by one" in captions_of("scaling", [found])[1]) is alone
    assert one_by_one([found]) is alone


def test_the_command(tmp_path, capsys):
    """Saved runs in, tables and pictures in the README out, and what was written is said."""
    saved, readme = tmp_path / "speed-cpu.json", tmp_path / "README.md"
    saved.write_text(json.dumps(document(row(1.0), row(1.0, question="scaling", axis="depth", size=2))))
    readme.write_text(f"before\n{BEGIN}\n{END}\nafter")
    main([saved], readme, tmp_path)
    text = readme.read_text()
    assert f"{readme}: written\n{tmp_path / 'scaling.svg'}: written\n" == capsys.readouterr().out
    assert "| a row | 1 s | 0.50" in text
    assert "](benchmarks/figures/scaling.svg)" in text
    assert (tmp_path / "scaling.svg").exists()
    assert text.startswith("before")
    assert text.endswith("after")


def test_other_benchmarks_are_no_rows():
    assert rows_of({"benchmarks": [{"extra_info": {}}, {"extra_info": row(1.0)}]}) == [row(1.0)]
