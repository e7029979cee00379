"""`samples.html`: every sampled completion of a run in one file that pages, filters and searches without a kernel."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from nbhelpers.runs import FILTERS, RunDirectory, SampleStore
from nbhelpers.show.pictures import picture_uri
from nbhelpers.show.samples import delimiters_of_run
from nbhelpers.show.standalone import render, run_of

BROWSER_BYTES = 8_000_000
_LONGEST_COMPLETION = 100_000  # characters of one completion in the browser file


def write_sample_browser(run_dir: str | Path, budget: int = BROWSER_BYTES) -> Path:
    """Writes `samples.html`: the viewer without a kernel, with its own paging, filters and search.

    Args:
        budget: bytes of data in the file. Where the run holds more, whole steps are left out, evenly, first and last
            kept, and the page says so.
    """
    from markupsafe import Markup

    run = run_of(run_dir)
    data, scope = _browser_data(run, SampleStore(run.path), budget)
    # In a script element only "<" could end the data; ASCII keeps odd separators and half surrogates out of the way.
    text = Markup(json.dumps(data, separators=(",", ":"), allow_nan=False).replace("<", "\\u003c"))
    styles = ("page.css", "samples.css", "browser.css")
    page = render("browser.html", styles, "browser.js", title=f"Samples of run {run.path.name}", scope=scope, data=text)
    path = run.path / "samples.html"
    run.write_text(path, page)
    return path


def _browser_data(run: RunDirectory, store: SampleStore, budget: int) -> tuple[dict, str]:
    """What `browser.js` reads, and a sentence on how much of the run that is.

    A group is [step, problem, completions]; problems and pictures stand in lists of their own and are named by their
    place there.
    """
    by_step: dict[int, list[int]] = {}
    for number in store.groups():
        by_step.setdefault(store.group(number).step, []).append(number)
    images: dict[str | None, str | None] = {}
    problems: dict[tuple, int] = {}
    rewards: dict[str, int] = {}
    groups: dict[int, list] = {}
    used = 0
    for number in (number for step in _spread_out(list(by_step)) for number in by_step[step]):
        rows = store.group(number).rows
        problem = _problem_key(rows[0])
        if problem[-1] not in images:
            images[problem[-1]] = picture_uri(run.path, problem[-1], 400)
            used += len(images[problem[-1]] or "")
        if problem not in problems:
            problems[problem] = len(problems)
            used += len(json.dumps(problem))
        group = [store.group(number).step, problems[problem], [_compact(row, rewards) for row in rows]]
        used += len(json.dumps(group, separators=(",", ":")))
        if used > budget and groups:
            break
        groups[number] = group
    place_of = {name: place for place, name in enumerate(images)}
    data = {
        "delimiters": delimiters_of_run(run.path),
        "filters": FILTERS,
        "rewards": list(rewards),
        "problems": [[*key[:-1], place_of[key[-1]]] for key in problems],
        "images": list(images.values()),
        "groups": [groups[number] for number in sorted(groups)],
    }
    total = len(store.groups())
    if len(groups) == total:
        return data, f"All {len(store):,} sampled completions in {total:,} groups of {len(by_step):,} steps."
    steps = len({group[0] for group in groups.values()})
    return data, (
        f"{len(groups):,} of {total:,} groups, from {steps:,} of {len(by_step):,} steps, evenly spread with the first "
        "and the last among them; the others are left out to keep this file small and are in samples.jsonl, which the "
        "viewer of notebook 03 reads."
    )


def _problem_key(row: Mapping) -> tuple:
    choices = tuple(str(choice) for choice in row["choices"]) if row.get("choices") else None
    text = [str("" if row.get(name) is None else row[name]) for name in ("pid", "kind", "question", "answer", "unit")]
    return (*text[:3], choices, *text[3:], row.get("image"))


def _compact(row: Mapping, names: dict[str, int]) -> list:
    rewards: list = []
    for name, value in (row.get("rewards") or {}).items():
        place = names.setdefault(str(name), len(names))
        rewards += [None] * (place + 1 - len(rewards))
        rewards[place] = _rounded(value)
    text = str(row.get("completion") or "")
    if (more := len(text) - _LONGEST_COMPLETION) > 0:
        text = f"{text[:_LONGEST_COMPLETION]}\n[{more:,} more characters are in samples.jsonl]"
    reward, advantage = _rounded(row.get("reward")), _rounded(row.get("advantage"))
    reason = str(row.get("reason") or "")[:2000]
    return [text, reason, rewards, reward, advantage, row.get("length"), bool(row.get("truncated")), row.get("correct")]


def _rounded(value: Any) -> float | None:
    return round(value, 4) if isinstance(value, (int, float)) else None


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
