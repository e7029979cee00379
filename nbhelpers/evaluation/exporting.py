"""Predictions as other evaluation suites read them, so that their scorers judge the same answers."""

from __future__ import annotations

import csv
import io
import string
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from nbhelpers.evaluation.protocol import EvaluationError
from nbhelpers.runs import RunDirectory

# What VLMEvalKit's MathVista reads (vlmeval/dataset/utils/mathvista.py at 0981827).
COLUMNS = (
    "index", "question", "choices", "answer", "answer_option", "question_type", "answer_type", "task", "skills",
    "prediction",
)  # fmt: skip


def export_vlmevalkit(folder: str | Path) -> list[Path]:
    """Write a run's predictions as VLMEvalKit's table, one file for each phase: `<run>[-before]_MathVista_MINI.tsv` in
    `vlmevalkit/`. `MathVista.evaluate(FILE, model=JUDGE)` there scores them; of several samples the first is taken.

    Raises:
        EvaluationError: the run has no predictions, or not all of them yet.
    """
    run = RunDirectory(folder)
    rows = run.read_jsonl(run.predictions_path)
    if not rows or not run.evaluation_path.is_file():
        there = "an evaluation that was not finished" if rows else "no predictions yet"
        raise EvaluationError(f"{run.path} has {there}: run `nbhelpers evaluate {folder}` first.")
    written = []
    for phase, mark in (("before", "-before"), ("after", "")):
        table = list({row["pid"]: _columns(row) for row in reversed(rows) if row["phase"] == phase}.values())[::-1]
        if table:
            written.append(run.path / "vlmevalkit" / f"{run.path.name}{mark}_MathVista_MINI.tsv")
            run.write_text(written[-1], _tsv(table))
    return written


def _columns(row: Mapping[str, Any]) -> dict[str, Any]:
    choices = row.get("choices") or []
    letters = dict(zip(choices, string.ascii_uppercase, strict=False))
    return {
        "index": row["pid"],
        "question": row["question"],
        "choices": repr(list(choices)) if choices else "",
        "answer": row["answer"],
        "answer_option": letters.get(row["answer"], ""),
        "question_type": row["question_type"],
        "answer_type": row["answer_type"],
        "task": row["kind"],
        "skills": repr(list(row.get("skills") or [row["kind"]])),
        "prediction": row["completion"],
    }


def _tsv(table: Iterable[Mapping[str, Any]]) -> str:
    text = io.StringIO()  # every cell in quotes: Python 3.11 leaves "\r" bare, at which readers begin a new row
    writer = csv.DictWriter(text, COLUMNS, delimiter="\t", lineterminator="\n", quoting=csv.QUOTE_ALL)
    writer.writeheader()
    writer.writerows({key: _clean(value) for key, value in row.items()} for row in table)
    return text.getvalue()


def _clean(value: Any) -> str:
    """Text that UTF-8 can hold and a table can: half of a surrogate pair and the null character become U+FFFD."""
    return str(value).encode("utf-8", "replace").decode().replace("\0", "\ufffd")
