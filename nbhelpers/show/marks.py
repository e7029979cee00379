"""Samples that somebody marked, with a note: `marks.jsonl` in the run directory."""

from __future__ import annotations

from datetime import UTC, datetime

from nbhelpers.runs import RunDirectory


def read_marks(run: RunDirectory) -> dict[str, dict]:
    """Marks by key: the role, the group's name and the completion's place in it, such as `rollout/3-2/1`."""
    return {row["key"]: row for row in run.read_jsonl(run.marks_path)}


def keep_mark(run: RunDirectory, key: str, note: str | None) -> None:
    """Marks a sample, or takes the mark away where `note` is None."""
    marks = read_marks(run)
    if note is None:
        marks.pop(key, None)
    else:
        marks[key] = {"key": key, "note": note, "marked": datetime.now(UTC).isoformat(timespec="seconds")}
    run.write_jsonl(run.marks_path, marks.values())
