"""Groups of completions as the script of `samples.html` and of the viewer takes them: lists of JSON's own types; and
the samples that somebody marked, with a note, in `marks.jsonl`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from nbhelpers.grading import ERRORS, error_kind
from nbhelpers.runs import ORDERS, ROLES, RunDirectory, SampleStore, TokenLogProbs, read_log_probs
from nbhelpers.show.samples import delimiters_of_run, moment
from nbhelpers.show.text import reading_order, segments
from nbhelpers.show.typeset import typeset

_LONGEST = 100_000  # characters of one completion


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
        self.names, self.log_probs = self._reward_names(), read_log_probs(self.run)

    def info(self, notes: Mapping[str, str] | None = None) -> dict[str, Any]:
        """Views with their filters, names of the rewards, and the marks; `notes` says of a view what it holds."""
        manifest = self.run.read_manifest()
        shown = {role: store for role, store in self.stores.items() if role == "rollout" or len(store)}
        return {
            "run": self.run.path.name,
            "created": str(manifest.get("created") or ""),
            "delimiters": self.delimiters,
            "rewards": self.names,
            "errors": list(ERRORS),
            "orders": ORDERS,
            "square": square_of_model(self.run),
            "marks": {key: mark["note"] for key, mark in read_marks(self.run).items()},
            "views": [
                {
                    "role": role,
                    "label": ROLES[role],
                    "filters": store.filters,
                    "kinds": store.kinds,
                    "steps": store.steps if role == "rollout" else [],
                    "count": len(store.groups()),
                    "note": (notes or {}).get(role) or f"{len(store):,} completions in this run.",
                }
                for role, store in shown.items()
            ],
        }

    def _reward_names(self) -> list[str]:
        groups = (store.group(number) for store in self.stores.values() for number in store.groups())
        paid = (row.get("rewards") for group in groups for row in group.rows)
        return list(dict.fromkeys(str(name) for rewards in paid for name in rewards or ()))

    def rows(self, role: str, number: int) -> list[list]:
        """The completions of a group, as `completionCard` reads them."""
        place_of = {name: place for place, name in enumerate(self.names)}
        return [self._row(row, place_of) for row in self.stores[role].group(number).rows]

    def _row(self, row: Mapping, place_of: Mapping[str, int]) -> list:
        rewards: list = []
        for name, value in (row.get("rewards") or {}).items():
            place = place_of[str(name)]
            rewards += [None] * (place + 1 - len(rewards))
            rewards[place] = _rounded(value)
        text = str(row.get("completion") or "")
        if (more := len(text) - _LONGEST) > 0:
            text = f"{text[:_LONGEST]}\n[{more:,} more characters are in the run directory]"
        reward, advantage = _rounded(row.get("reward")), _rounded(row.get("advantage"))
        reason, cut = str(row.get("reason") or "")[:2000], bool(row.get("truncated"))
        judged = [row.get("correct"), error_kind(row) or "", moment(row), trees_of(text, self.delimiters)]
        packed = [text, reason, rewards, reward, advantage, row.get("length"), cut, *judged]
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


def problem_of(row: Mapping) -> tuple:
    """What a problem is told apart by, its picture's name last."""
    choices = tuple(str(choice) for choice in row["choices"]) if row.get("choices") else None
    text = [str("" if row.get(name) is None else row[name]) for name in ("pid", "kind", "question", "answer", "unit")]
    return (*text[:3], choices, *text[3:], row.get("image"))


def set_problem(problem: tuple) -> list:
    """`problem_of` as the script takes it: without the picture's name, with trees of question, choices and answer, None
    for each in which nothing is set.
    """
    *shown, _ = problem
    _, _, question, choices, answer, _ = shown
    trees = [_tree(text) for text in (question, *(choices or ()), answer)]
    return [*shown, trees if any(trees) else None]


def _tree(text: str) -> list | None:
    tree = typeset(text)
    return tree if tree != [text] and text else None


def trees_of(text: str, delimiters: Sequence[str]) -> list | None:
    """A tree for each piece of a completion, solutions first; None where no piece holds anything to set."""
    pieces = [piece for _, _, piece in reading_order(segments(text, delimiters))]
    trees = [typeset(piece) for piece in pieces]
    return trees if any(tree != [piece] for tree, piece in zip(trees, pieces, strict=True) if piece) else None


def square_of_model(run: RunDirectory) -> int | None:
    """The side in pixels of the square that the run's model is shown; None where no adapter has been saved yet."""
    saved = run.read_json(run.final_model_dir / "processor_config.json") or {}
    size = (saved.get("image_processor") or {}).get("size") or {}
    return size.get("height") if isinstance(size, dict) else None


def _rounded(value: Any) -> float | None:
    return round(value, 4) if isinstance(value, (int, float)) else None
