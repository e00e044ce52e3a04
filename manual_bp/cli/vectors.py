"""`manual-bp vectors`: certified results for other languages."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer

from manual_bp.cli.shared import (
    DTYPES,
    chosen_dtypes,
    complain,
    one_of,
    one_thread,
    out,
    rule_names,
    shown,
    usage,
    write,
)
from manual_bp.wording import counted

WIDE = ("float64", "float32")


def vectors(
    rules: Annotated[
        list[str] | None,
        typer.Argument(help="Rules to write; all of them by default.", autocompletion=rule_names),
    ] = None,
    folder: Annotated[Path, typer.Option("--out", help="Folder of the files.")] = Path("vectors"),
    dtype: Annotated[
        list[str] | None,
        typer.Option(
            help=f"{', '.join(DTYPES)}; repeatable.", autocompletion=one_of(*DTYPES), show_default=" and ".join(WIDE)
        ),
    ] = None,
) -> None:
    """Certified results for other languages: one JSON file for each rule and dtype.
    For example: manual-bp vectors softmax --out vectors

    Each case holds inputs, cotangent, what is due, how far off a right program may be, and which mistakes it catches.
    Put what your program got beside `due`, as "got": {"y": [...], "dx": [...]}, and the oracle judges it, causes
    included: manual-bp check vectors/softmax.float32.json --against softmax
    """
    with usage():
        dtypes = [chosen for name in dtype or WIDE for chosen in chosen_dtypes(name)]
        from manual_bp.oracle.reports.report import plain
        from manual_bp.oracle.vectors import vectors as made
        from manual_bp.registry import RULES

        chosen = [RULES[name] for name in dict.fromkeys(rules or RULES)]
        try:
            folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            why = error.strerror
            raise ValueError(f"--out must name a folder that can be made; came {str(folder)!r}: {why}.") from error
    one_thread()
    is_written, cases = True, 0
    each = [(rule, dtype) for rule in chosen for dtype in dtypes]
    for rule, dtype_ in shown(each, "writing", len(each)):
        found = made(rule, dtype_)
        cases += len(found.cases)
        text = json.dumps(plain(asdict(found)), allow_nan=False, ensure_ascii=False)
        is_written &= write(folder / f"{rule.name}.{found.dtype}.json", text + "\n", "--out")
    if not is_written:
        complain("not all files were written.")
        raise typer.Exit(2)
    out.print(f"{counted(len(each), 'file')} in {folder}: {counted(cases, 'case')}", highlight=False)
