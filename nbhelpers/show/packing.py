"""Groups of completions as the script of `samples.html` and of the viewer takes them: lists of JSON's own types; and
the samples that somebody marked, with a note, in `marks.jsonl`.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from nbhelpers.grading import ERRORS, error_kind
from nbhelpers.params import counted
from nbhelpers.runs import ORDERS, ROLES, RunDirectory, SampleStore, TokenLogProbs, read_log_probs
from nbhelpers.show.samples import delimiters_of_run, moment
from nbhelpers.show.text import reading_order, segments
from nbhelpers.show.typeset import is_set, typeset

_LONGEST = 100_000  # characters of one completion
# What the places in a packed problem and in a packed completion hold. A piece of a completion is its label, where it
# begins and ends in the text, and its tree where something is set in it; solutions first.
FIELDS = {
    "problem": ["pid", "kind", "question", "choices", "answer", "unit", "trees"],
    "row": [
        "text", "pieces", "reason", "rewards", "reward", "advantage", "length", "cut", "correct", "error", "when",
        "tokens",
    ],
}  # fmt: skip


class Packer:
    """The samples of one run: its stores by role, and what the script has to know of them.

    Args:
        run_dir: a finished or a running run.
    """

    def __init__(self, run_dir: str | Path):
        self.run = RunDirectory(run_dir)
        self.stores = {role: SampleStore(self.run.path, role) for role in ROLES}
        self.delimiters = delimiters_of_run(self.run.path)
        self._look_again()

    def refresh(self) -> int:
        """Takes in what was written since; gives the number of new completions."""
        new = sum(store.refresh() for store in self.stores.values())
        self._look_again()
        return new

    def _look_again(self) -> None:
        groups = (store.group(number) for store in self.stores.values() for number in store.groups())
        paid = (row.get("rewards") or () for group in groups for row in group.rows)
        self.names = list(dict.fromkeys(str(name) for rewards in paid for name in rewards))
        self.log_probs = read_log_probs(self.run)

    def info(self, kept: Mapping[str, Collection[int]] | None = None) -> dict[str, Any]:
        """Views with their filters, names of the rewards, and the marks.

        Args:
            kept: the numbers of the groups that the script has of each role; by default it has all.
        """
        shown = [role for role, store in self.stores.items() if role == "rollout" or len(store)]
        return {
            "run": self.run.path.name,
            "created": str(self.run.read_manifest().get("created") or ""),
            "fields": FIELDS,
            "rewards": self.names,
            "errors": list(ERRORS),
            "orders": ORDERS,
            "square": square_of_model(self.run),
            "marks": {key: mark["note"] for key, mark in read_marks(self.run).items()},
            "views": [self._view(role, self.stores[role].groups() if kept is None else kept[role]) for role in shown],
        }

    def _view(self, role: str, kept: Collection[int]) -> dict[str, Any]:
        store = self.stores[role]
        steps = sorted({store.group(number).step for number in kept}) if role == "rollout" else []
        return {
            "role": role,
            "label": ROLES[role],
            "filters": store.filters,
            "kinds": store.kinds,
            "steps": steps,
            "count": len(kept),
            "note": self._scope(role, len(kept), len(steps)),
        }

    def _scope(self, role: str, kept: int, kept_steps: int) -> str:
        """What a view holds, and of how much."""
        store = self.stores[role]
        total, steps = len(store.groups()), len(store.steps)
        rollouts = role == "rollout"
        if kept == total:
            whole = (
                f"{counted(len(store), 'sampled completion')} in {counted(total, 'group')} of {counted(steps, 'step')}"
            )
            return f"All {whole}." if rollouts else f"All {counted(total, 'problem')}."
        why = "the others are left out to keep this file small; the viewer of notebook 03 has them all."
        if not rollouts:
            return f"{kept:,} of {counted(total, 'problem')}, evenly spread; {why}"
        spread = (
            f"from {kept_steps:,} of {counted(steps, 'step')}, evenly spread with the first and the last among them"
        )
        return f"{kept:,} of {counted(total, 'group')}, {spread}; {why}"

    def rows(self, role: str, number: int) -> list[list]:
        """The completions of a group, each as `FIELDS` says."""
        return [self._row(row) for row in self.stores[role].group(number).rows]

    def _row(self, row: Mapping) -> list:
        paid = {str(name): value for name, value in (row.get("rewards") or {}).items()}
        last = max((place for place, name in enumerate(self.names) if name in paid), default=-1)
        text = str(row.get("completion") or "")
        if (more := len(text) - _LONGEST) > 0:
            text = f"{text[:_LONGEST]}\n[{more:,} more characters are in the run directory]"
        packed = [
            text,
            [_piece(piece.label, piece.start, piece.text) for piece in reading_order(segments(text, self.delimiters))],
            str(row.get("reason") or "")[:2000],
            [_rounded(paid.get(name)) for name in self.names[: last + 1]],
            _rounded(row.get("reward")),
            _rounded(row.get("advantage")),
            row.get("length"),
            bool(row.get("truncated")),
            row.get("correct"),
            error_kind(row) or "",
            moment(row),
        ]
        line = self.log_probs.get(f"{row.get('group')}/{row.get('index')}")
        tokens = TokenLogProbs.unpacked(line) if line else None
        if tokens is not None and sum(tokens.lengths) == len(text):
            packed.append([tokens.lengths, [round(value, 2) for value in tokens.log_probs]])
        return packed


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


def problem_of(row: Mapping) -> list:
    """A row's problem as `FIELDS` says: with trees of question, choices and answer, None for each in which nothing is
    set.
    """
    pid, kind, question, answer, unit = (
        str("" if row.get(name) is None else row[name]) for name in ("pid", "kind", "question", "answer", "unit")
    )
    choices = [str(choice) for choice in row["choices"]] if row.get("choices") else None
    trees = [_tree(text) for text in (question, *(choices or ()), answer)]
    return [pid, kind, question, choices, answer, unit, trees if any(trees) else None]


def _tree(text: str) -> list | None:
    tree = typeset(text)
    return tree if is_set(tree, text) else None


def _piece(label: str, start: int, text: str) -> list:
    tree = _tree(text)
    return [label, start, start + len(text)] + ([tree] if tree else [])


def square_of_model(run: RunDirectory) -> int | None:
    """The side in pixels of the square that the run's model is shown; None where no adapter has been saved yet."""
    saved = run.read_json(run.final_model_dir / "processor_config.json") or {}
    size = (saved.get("image_processor") or {}).get("size") or {}
    return size.get("height") if isinstance(size, dict) else None


def _rounded(value: Any) -> float | None:
    return round(value, 4) if isinstance(value, (int, float)) else None
