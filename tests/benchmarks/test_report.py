"""From rows to tables: what is lost or missing is said."""

from __future__ import annotations

import io
import json

import pytest
from rich.console import Console

from benchmarks import documents
from benchmarks.contestants.products import GRAPHED
from benchmarks.paired import Timings
from benchmarks.pictures import captions_of, draw, one_by_one
from benchmarks.report import (
    main,
    markdown,
    merged,
    rows_of,
    short,
    table,
)
from benchmarks.rows import ROOM, counted_row, timed_row
from benchmarks.tables import quantity, verdict, words

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


@pytest.mark.parametrize(
    ("question", "head"), [("layers", "layer, forward and backward"), ("images", "step of a network of images")]
)
def test_layers_and_images_have_tables_of_their_own(question, head):
    text = markdown([document(row(1.5, question=question, missing={"torch.compile": "no compiler"}))])
    assert head in text
    assert "MISSED" in text


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


def test_a_document_keeps_the_rest(tmp_path):
    document = "before\n<!-- a -->\nold\n<!-- end of a -->\nbetween\n<!-- b -->\n<!-- end of b -->\nafter"
    changed = documents.placed(document, "a", r"new \1")
    assert changed == document.replace("old", r"new \1")
    with pytest.raises(ValueError, match="one part between the lines <!-- c --> and <!-- end of c -->; came 0"):
        documents.placed(document, "c", "new")
    path = tmp_path / "guide.md"
    path.write_text(document)
    assert documents.place(path, {"a": "old", "b": "new"}) == ["b"]


def test_every_saved_result_stands_in_the_guide():
    """What `python -m benchmarks.report` would write is there already."""
    pytest.importorskip("sklearn")
    guide = (documents.ROOT / documents.GUIDE).read_text("utf-8")
    for name, table_of_it in documents.saved().items():
        assert documents.placed(guide, name, table_of_it) == guide, name
    readme = (documents.ROOT / documents.README).read_text("utf-8")
    runs = [json.loads(path.read_text()) for path in sorted(documents.RESULTS.glob("speed-*.json"))]
    assert documents.placed(readme, "speed", short(runs)) == readme


def test_a_share_is_not_rounded_to_none_or_all():
    assert [documents._percent(n, 1000) for n in (0, 3, 100, 996, 1000)] == ["0", "0.3", "10", "99.6", "100"]


def test_the_short_table():
    text = short([document(row(1.0)), document({**row(2.0), "device": "cuda"})])
    assert "| step of a row | 1 s | 0.50 (0.50-0.50) |" in text.replace("| 0.50 |", "| 0.50 (0.50-0.50) |")
    assert "GPU (CUDA): ours" in text


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
    """Saved runs in, tables and pictures in the documents out, and what was written is said; again, nothing changes."""
    pytest.importorskip("sklearn")
    speed = tmp_path / "speed-cpu.json"
    speed.write_text(json.dumps(document(row(1.0), row(1.0, question="scaling", axis="depth", size=2))))
    (tmp_path / documents.FIGURES).mkdir(parents=True)
    for path in (documents.README, documents.GUIDE, documents.SPEED):
        (tmp_path / path).write_text((documents.ROOT / path).read_text("utf-8"))
    main([speed], tmp_path)
    said = capsys.readouterr().out.splitlines()
    assert said == [
        "README.md: written (speed)",
        "benchmarks/README.md: as before",
        "benchmarks/speed.md: written (speed)",
        "benchmarks/figures/scaling.svg: written",
    ]
    text = (tmp_path / documents.SPEED).read_text("utf-8")
    assert "| a row | 1 s | 0.50" in text
    assert "](figures/scaling.svg)" in text
    main([speed], tmp_path)
    assert all(line.endswith("as before") for line in capsys.readouterr().out.splitlines())


def test_other_benchmarks_are_no_rows():
    assert rows_of({"benchmarks": [{"extra_info": {}}, {"extra_info": row(1.0)}]}) == [row(1.0)]
