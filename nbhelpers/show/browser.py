"""`samples.html`: a run's samples in one file that pages, filters and searches without a kernel."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from pathlib import Path

from nbhelpers.runs import SampleStore
from nbhelpers.show.packing import Packer, problem_of, set_problem
from nbhelpers.show.pictures import picture_uri
from nbhelpers.show.standalone import render, run_of

BROWSER_BYTES = 8_000_000
_SHARES = {"probe": 0.25, "evaluation": 0.6, "rollout": 1.0}  # of the budget that may be used up when a view is in


def write_sample_browser(run_dir: str | Path, budget: int = BROWSER_BYTES) -> Path:
    """Writes `samples.html`: the viewer without a kernel.

    Args:
        budget: bytes of data in the file. Where the run holds more, whole steps and problems are left out, evenly,
            first and last kept, and the page says so.
    """
    from markupsafe import Markup

    run = run_of(run_dir)
    data = _Filling(Packer(run.path), budget).data()
    # In a script element only "<" could end the data; ASCII keeps odd separators and half surrogates out of the way.
    text = Markup(json.dumps(data, separators=(",", ":"), allow_nan=False).replace("<", "\\u003c"))
    styles, scripts = ("page.css", "samples.css", "words.css", "browser.css"), ("browser.js", "page_source.js")
    page = render("browser.html", styles, scripts, title=f"Samples of run {run.path.name}", data=text)
    path = run.path / "samples.html"
    run.write_text(path, page)
    return path


class _Filling:
    """What the script reads, filled up to a budget of bytes.

    A group is [name, step, problem, completions]; problems and pictures stand in lists of their own and are named by
    their place there.
    """

    def __init__(self, packer: Packer, budget: int):
        self.packer, self.budget, self.used = packer, budget, 0
        self.images: dict[str | None, str | None] = {}
        self.problems: dict[tuple, int] = {}

    def data(self) -> dict:
        groups, notes = {}, {}
        for role, share in _SHARES.items():
            groups[role], notes[role] = self._fill(role, self.packer.stores[role], share * self.budget)
        place_of = {name: place for place, name in enumerate(self.images)}
        info = self.packer.info(notes)
        for view in info["views"]:
            kept = groups[view["role"]]
            view["count"] = len(kept)
            view["steps"] = sorted({group[1] for group in kept}) if view["role"] == "rollout" else []
        return {
            "info": info,
            "marks": info.pop("marks"),
            "problems": [[*set_problem(key), place_of[key[-1]]] for key in self.problems],
            "images": list(self.images.values()),
            "groups": groups,
        }

    def _fill(self, role: str, store: SampleStore, limit: float) -> tuple[list, str]:
        by_step: dict[int, list[int]] = {}
        for number in store.groups():
            by_step.setdefault(store.group(number).step if role == "rollout" else number, []).append(number)
        kept: dict[int, list] = {}
        for number in (number for step in _spread_out(list(by_step)) for number in by_step[step]):
            group = self._group(role, store, number)
            self.used += len(json.dumps(group, separators=(",", ":")))
            if self.used > limit and kept:
                break
            kept[number] = group
        return [kept[number] for number in sorted(kept)], self._scope(role, store, kept, len(by_step))

    def _group(self, role: str, store: SampleStore, number: int) -> list:
        found = store.group(number)
        problem = problem_of(found.rows[0])
        if problem[-1] not in self.images:
            self.images[problem[-1]] = picture_uri(self.packer.run.path, problem[-1], 400)
            self.used += len(self.images[problem[-1]] or "")
        if problem not in self.problems:
            self.problems[problem] = len(self.problems)
            self.used += len(json.dumps(problem))
        return [found.name, found.step, self.problems[problem], self.packer.rows(role, number)]

    @staticmethod
    def _scope(role: str, store: SampleStore, kept: dict, steps: int) -> str:
        total, rollouts = len(store.groups()), role == "rollout"
        if len(kept) == total:
            if not rollouts:
                return f"All {total:,} problems."
            return f"All {len(store):,} sampled completions in {total:,} groups of {steps:,} steps."
        why = "the others are left out to keep this file small; the viewer of notebook 03 has them all."
        if not rollouts:
            return f"{len(kept):,} of {total:,} problems, evenly spread; {why}"
        shown = len({store.group(number).step for number in kept})
        return (
            f"{len(kept):,} of {total:,} groups, from {shown:,} of {steps:,} steps, evenly spread with the first "
            f"and the last among them; {why}"
        )


def _spread_out(items: Sequence) -> Iterator:
    """All items in an order whose every beginning is spread over the whole: first, last, middle, quarters ..."""
    yield from items[:1]
    yield from items[1:][-1:]
    spans = [(0, len(items) - 1)]
    while spans:
        halves = []
        for low, high in spans:
            middle = (low + high) // 2
            if low < middle:
                yield items[middle]
                halves += [(low, middle), (middle, high)]
        spans = halves
