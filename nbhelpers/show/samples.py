"""TODO."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from nbhelpers.runs import FILTERS, RunDirectory, SampleStore
from nbhelpers.show.pages import Page, macro, note
from nbhelpers.show.pictures import data_uri, encode_image, picture_uri
from nbhelpers.show.text import DELIMITERS


def delimiters_of_run(run_dir: str | os.PathLike) -> tuple[str, ...]:
    """The four delimiters that the run was graded with, from its manifest; the defaults where it names none."""
    reward = ((RunDirectory(run_dir).read_manifest().get("parameters") or {}).get("reward")) or {}
    names = ("reasoning_start", "reasoning_end", "solution_start", "solution_end")
    return tuple(str(reward.get(name) or default) for name, default in zip(names, DELIMITERS, strict=True))


def show_samples(
    source: str | os.PathLike | Iterable[Mapping],
    *,
    step: int | None = None,
    n: int = 2,
    show: str = "all",
    kind: str | None = None,
    images: Sequence[Any] | None = None,
    delimiters: Sequence[str] = DELIMITERS,
) -> Page:
    """Groups of completions beside their pictures, as plain HTML.

    Args:
        source: a run directory, or sample rows (the keys of `samples.jsonl`; missing ones are left out).
        step: optimiser step of the rollout; -1 is the last one sampled, None any.
        n: number of groups; of many that match, evenly spaced ones.
        show: a key of `samples.FILTERS`, for a run directory.
        kind: problem kind, for a run directory.
        images: PIL pictures, one a row, where rows name no file.
        delimiters: the four marks, for rows; a run directory knows its own.
    """
    if isinstance(source, (str, os.PathLike)):
        store = SampleStore(source)
        if not len(store):
            return Page(note("No completion has been sampled in this run yet."))
        if step is not None and step < 0:
            step = store.steps[step]
        found = store.groups(step=step, show=show, kind=kind)
        if not found:
            return Page(note(f"No group matches: step {step}, {FILTERS[show]}, kind {kind}."))
        chosen = [found[place * len(found) // min(n, len(found))] for place in range(min(n, len(found)))]
        delimiters = delimiters_of_run(store.folder)
        groups = [store.completions(group) for group in chosen]
        pictures = [picture_uri(str(store.folder), rows[0].get("image")) for rows in groups]
    else:
        rows = [dict(row) for row in source]
        by_group: dict[Any, list[int]] = {}
        for place, row in enumerate(rows):
            by_group.setdefault(row.get("group", row.get("pid")), []).append(place)
        groups = [[rows[place] for place in places] for places in list(by_group.values())[:n]]
        first = [places[0] for places in list(by_group.values())[:n]]
        own = [images[place] if images is not None else rows[place].get("image") for place in first]
        pictures = [data_uri(encode_image(image.copy())) if hasattr(image, "convert") else None for image in own]
    draw = macro("group")
    return Page(
        "".join(draw(rows, picture, delimiters) for rows, picture in zip(groups, pictures, strict=True))
        or note("No rows.")
    )


CHANGES = {
    "fixed": "Fixed: wrong before training, right after",
    "broken": "Broken: right before training, wrong after",
    "still wrong": "Still wrong",
}


def sort_changes(predictions: Iterable[Mapping]) -> dict[str, list[tuple[Mapping | None, Mapping]]]:
    """Predictions as (before, after) pairs under "fixed", "broken", "still wrong" and "still right".

    With several samples a problem, the first ones stand for it and the share of right ones decides (half is right).
    Without a baseline a wrong problem counts as still wrong, with None before.
    """
    by_problem: dict[str, dict[str, list[Mapping]]] = {}
    for row in predictions:
        by_problem.setdefault(row["pid"], {}).setdefault(row["phase"], []).append(row)
    result: dict[str, list] = {"fixed": [], "broken": [], "still wrong": [], "still right": []}
    for phases in by_problem.values():
        after = phases.get("after")
        if not after:
            continue
        before = phases.get("before")
        right = _mostly_right(after)
        was = _mostly_right(before) if before else right
        name = {(0, 1): "fixed", (1, 0): "broken", (0, 0): "still wrong", (1, 1): "still right"}[(was, right)]
        result[name].append((before[0] if before else None, after[0]))
    return result


def _mostly_right(rows: Sequence[Mapping]) -> bool:
    return sum(bool(row.get("correct")) for row in rows) * 2 >= len(rows)


def most_instructive(
    pairs: Sequence[tuple[Mapping | None, Mapping]], limit: int
) -> list[tuple[Mapping | None, Mapping]]:
    """Up to `limit` of these pairs: first those where an answer could be read, so that reasoning is compared and not
    format, and one of each kind in turn, so that a frequent kind does not fill the list.
    """
    by_kind: dict[Any, list] = {}
    for pair in sorted(pairs, key=lambda pair: sum(row is not None and row.get("parsed") is None for row in pair)):
        by_kind.setdefault(pair[1].get("kind"), []).append(pair)
    turns = [pair for turn in range(limit) for of_kind in by_kind.values() for pair in of_kind[turn : turn + 1]]
    return turns[:limit]


def changed_minds(run_dir: str | os.PathLike, limit: int = 3) -> Page:
    """What training fixed, what it broke and what is still wrong: the answers before and after, side by side.

    Args:
        run_dir: a run directory with `predictions.jsonl`.
        limit: problems shown of each sort.
    """
    run = RunDirectory(run_dir)
    changes = sort_changes(run.iter_jsonl(run.predictions_path))
    total = sum(len(pairs) for pairs in changes.values())
    if not total:
        return Page(note("This run has not been evaluated yet."))
    draw, delimiters = macro("pair"), delimiters_of_run(run.path)
    counts = ", ".join(f"{len(pairs)} {name}" for name, pairs in changes.items())
    parts = [note(f"Of {total} problems: {counts}.")]
    for name, title in CHANGES.items():
        shown = most_instructive(changes[name], limit)
        of = f" ({len(shown)} of {len(changes[name])})" if shown else ": none"
        parts.append(f"<h3>{title}{of}</h3>")
        parts += [
            draw(before, after, picture_uri(str(run.path), after.get("image")), delimiters) for before, after in shown
        ]
    return Page("".join(parts))
