"""`samples.html`: a run's samples in one file that pages, filters and searches without a kernel."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from nbhelpers.runs import ORDERS, SampleStore
from nbhelpers.show.packing import Packer, problem_of
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
    # In a script element only "<" could end the data; ASCII keeps odd separators and half surrogates out of the way.
    text = Markup(_json(_Filling(Packer(run.path), budget).data()).replace("<", "\\u003c"))
    styles = ("page.css", "samples.css", "words.css", "browser.css")
    scripts = ("cards.js", "browser.js", "page_source.js")
    page = render("browser.html", styles, scripts, title=f"Samples of run {run.path.name}", data=text)
    path = run.path / "samples.html"
    run.write_text(path, page)
    return path


def _json(data: object) -> str:
    return json.dumps(data, separators=(",", ":"), allow_nan=False)


class _Filling:
    """What the script reads, filled up to a budget of bytes.

    A group is [name, step, problem, completions]; problems and pictures stand in lists of their own and are named by
    their place there.
    """

    def __init__(self, packer: Packer, budget: int):
        self.packer, self.budget, self.used = packer, budget, 0
        self.images: dict[str | None, str | None] = {}
        self.problems: dict[str, int] = {}  # JSON of each, with its picture's name, and its place

    def data(self) -> dict:
        kept = {role: self._kept(role, share * self.budget) for role, share in _SHARES.items()}
        place_of = {name: place for place, name in enumerate(self.images)}
        info = self.packer.info(kept)
        return {
            "info": info,
            "marks": info.pop("marks"),
            "problems": [[*problem, place_of[image]] for *problem, image in map(json.loads, self.problems)],
            "images": list(self.images.values()),
            "groups": {role: list(groups.values()) for role, groups in kept.items()},
            "found": {role: _found(self.packer.stores[role], groups) for role, groups in kept.items()},
        }

    def _kept(self, role: str, limit: float) -> dict[int, list]:
        """The groups that fit, by their numbers."""
        store, by_step = self.packer.stores[role], {}
        for number in store.groups():
            by_step.setdefault(store.group(number).step if role == "rollout" else number, []).append(number)
        kept: dict[int, list] = {}
        for number in (number for step in _spread_out(list(by_step)) for number in by_step[step]):
            group = self._group(role, number)
            self.used += len(_json(group))
            if self.used > limit and kept:
                break
            kept[number] = group
        return dict(sorted(kept.items()))

    def _group(self, role: str, number: int) -> list:
        group = self.packer.stores[role].group(number)
        image = group.rows[0].get("image")
        problem = _json([*problem_of(group.rows[0]), image])
        if image not in self.images:
            self.images[image] = picture_uri(self.packer.run.path, image, 400)
            self.used += len(self.images[image] or "")
        if problem not in self.problems:
            self.problems[problem] = len(self.problems)
            self.used += len(problem)
        return [group.name, group.step, self.problems[problem], self.packer.rows(role, number)]


def _found(store: SampleStore, kept: Mapping[int, list]) -> dict[str, dict[str, list[int]]]:
    """Which of the kept groups each filter leaves, and how each order sorts them, by their places among the kept."""
    place_of = {number: place for place, number in enumerate(kept)}

    def places(**asked: str) -> list[int]:
        return [place_of[number] for number in store.groups(**asked) if number in place_of]

    return {
        "show": {show: places(show=show) for show in store.filters},
        "order": {order: places(order=order) for order in ORDERS},
    }


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
