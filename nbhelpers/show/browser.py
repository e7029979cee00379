"""TODO."""

from __future__ import annotations

import base64
import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from nbhelpers.runs import FILTERS, RunDirectory, SampleStore
from nbhelpers.show.pictures import encode_image, load_image
from nbhelpers.show.samples import delimiters_of_run
from nbhelpers.show.standalone import render, run_of

BROWSER = "samples.html"


BROWSER_BYTES = 8_000_000


_LONGEST_COMPLETION = 100_000  # characters of one completion in the browser file


def write_sample_browser(run_dir: str | Path | RunDirectory, budget: int = BROWSER_BYTES) -> Path:
    """Writes `samples.html`: the viewer without a kernel, with its own paging, filters and search.

    Args:
        budget: bytes of data in the file. Where the run holds more, whole steps are left out, evenly, first and last
            kept, and the
            page says so.
    """
    run = run_of(run_dir)
    store = SampleStore(run.path)
    data, scope = _browser_data(run, store, budget)
    # In a script element only "<" could end the data; ASCII keeps odd separators and half surrogates out of the way.
    text = json.dumps(data, separators=(",", ":"), allow_nan=False).replace("<", "\\u003c")
    from markupsafe import Markup

    styles = ("page.css", "samples.css", "browser.css")
    page = render(
        "browser.html", styles, "browser.js", title=f"Samples of run {run.path.name}", scope=scope, data=Markup(text)
    )
    run.write_text(run.path / BROWSER, page)
    return run.path / BROWSER


def _browser_data(run: RunDirectory, store: SampleStore, budget: int) -> tuple[dict, str]:
    problems: dict[tuple, int] = {}
    images: dict[str, int | None] = {}
    encoded: list[str] = []
    names: dict[str, int] = {}
    groups: dict[int, list] = {}
    used, complete = 0, True
    by_step: dict[int, list[int]] = {}
    for number in store.groups():
        by_step.setdefault(store.group(number).step, []).append(number)
    for step in _spread_out(list(by_step)):
        for number in by_step[step]:
            rows = store.completions(number)
            first = rows[0]
            picture = first.get("image")
            if picture not in images:
                image = load_image(run.path, picture)
                images[picture] = None if image is None else len(encoded)
                if image is not None:
                    encoded.append(base64.b64encode(encode_image(image, 400)).decode("ascii"))
                    used += len(encoded[-1]) + 3
            key = _problem_key(first, images[picture])
            if key not in problems:
                problems[key] = len(problems)
                used += len(json.dumps(key))
            completions = [_compact(row, names) for row in rows]
            group = [step, problems[key], completions]
            used += len(json.dumps(group, separators=(",", ":")))
            if used > budget and groups:
                complete = False
                break
            groups[number] = group
        if not complete:
            break
    data = {
        "delimiters": delimiters_of_run(run.path),
        "filters": FILTERS,
        "rewards": list(names),
        "problems": [[*key[:3], list(key[3]) if key[3] else None, *key[4:]] for key in problems],
        "images": encoded,
        "groups": [groups[number] for number in sorted(groups)],
    }
    total = len(store.groups())
    if complete:
        return data, f"All {len(store):,} sampled completions in {total:,} groups of {len(by_step):,} steps."
    shown = len({group[0] for group in groups.values()})
    return data, (
        f"{len(groups):,} of {total:,} groups, from {shown:,} of {len(by_step):,} steps, evenly spread with the first and the last "
        f"among them; the others are left out to keep this file small and are in samples.jsonl, which the viewer of notebook 03 reads."
    )


def _problem_key(row: Mapping, image: int | None) -> tuple:
    choices = tuple(str(choice) for choice in row["choices"]) if row.get("choices") else None
    text = {
        name: str(row.get(name) if row.get(name) is not None else "")
        for name in ("pid", "kind", "question", "answer", "unit")
    }
    return (text["pid"], text["kind"], text["question"], choices, text["answer"], text["unit"], image)


def _compact(row: Mapping, names: dict[str, int]) -> list:
    rewards: list = []
    for name, value in (row.get("rewards") or {}).items():
        place = names.setdefault(str(name), len(names))
        rewards += [None] * (place + 1 - len(rewards))
        rewards[place] = _rounded(value)
    text = str(row.get("completion") or "")
    if len(text) > _LONGEST_COMPLETION:
        text = (
            f"{text[:_LONGEST_COMPLETION]}\n[{len(text) - _LONGEST_COMPLETION:,} more characters are in samples.jsonl]"
        )
    reward, advantage = _rounded(row.get("reward")), _rounded(row.get("advantage"))
    reason = str(row.get("reason") or "")[:2000]
    return [text, reason, rewards, reward, advantage, row.get("length"), bool(row.get("truncated")), row.get("correct")]


def _rounded(value: Any) -> float | None:
    return round(value, 4) if isinstance(value, (int, float)) else None


def _spread_out(items: Sequence) -> Iterator:
    """All items in an order whose every beginning is spread over the whole: first, last, middle, quarters ..."""
    if not items:
        return
    yield items[0]
    if len(items) > 1:
        yield items[-1]
    spans = [(0, len(items) - 1)]
    while spans:
        halves = []
        for low, high in spans:
            middle = (low + high) // 2
            if low < middle:
                yield items[middle]
                halves += [(low, middle), (middle, high)]
        spans = halves
