"""Completions to read: a group beside its picture, and answers before and after training side by side."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from nbhelpers.params import DEFAULT_DELIMITERS, Delimiters, counted
from nbhelpers.runs import FILTERS, RunDirectory, SampleStore
from nbhelpers.show.pages import Page, macro, note
from nbhelpers.show.pictures import picture_uri, uri_of

CHANGES = {
    "fixed": "Fixed: wrong before training, right after",
    "broken": "Broken: right before training, wrong after",
    "still wrong": "Still wrong",
}
Pair = tuple[Mapping | None, Mapping]  # rows of `predictions.jsonl`, before and after


def delimiters_of_run(run_dir: str | os.PathLike) -> Delimiters:
    """The four delimiters that the run was graded with, from its manifest; the defaults where it names none."""
    reward = ((RunDirectory(run_dir).read_manifest().get("parameters") or {}).get("reward")) or {}
    return Delimiters(*(str(reward.get(name) or mark) for name, mark in DEFAULT_DELIMITERS._asdict().items()))


def group_card(store: SampleStore, number: int, limit: int | None = None) -> str:
    """Markup of a run's group `number`: its picture, and its completions up to `limit`."""
    rows = store.group(number).rows[:limit]
    return macro("group")(rows, picture_uri(store.folder, rows[0].get("image")), delimiters_of_run(store.folder))


def moment(row: Mapping) -> str:
    """When a row was answered, where that tells a group's rows apart: a probe's step, or the phase of an evaluation."""
    if row.get("phase"):
        return f"{row['phase']} training"
    if row.get("role") == "probe":
        return f"after {counted(row['step'], 'step')}" if row["step"] else "before training"
    return ""


def telling_group(store: SampleStore, step: int) -> int:
    """A group of this step with right and wrong completions where there is one, else its first."""
    return (store.groups(step=step, show="mixed") or store.groups(step=step))[0]


def show_samples(
    source: str | os.PathLike | Iterable[Mapping],
    *,
    step: int | None = None,
    n: int = 2,
    show: str = "all",
    kind: str | None = None,
    delimiters: Sequence[str] = DEFAULT_DELIMITERS,
) -> Page:
    """Groups of completions beside their pictures, as plain HTML.

    Args:
        source: a run directory, or rows with keys of `samples.jsonl` and a PIL `image`; missing ones are left out.
        step: optimiser step of the rollout; -1 is the last one sampled, None any.
        n: number of groups; of many that match, evenly spaced ones.
        show: a key of `samples.FILTERS`, for a run directory.
        kind: problem kind, for a run directory.
        delimiters: the four marks, for rows; a run directory knows its own.
    """
    if not isinstance(source, (str, os.PathLike)):
        return _show_rows(source, n, delimiters)
    store = SampleStore(source)
    if not len(store):
        return Page(note("No completion has been sampled in this run yet."))
    if step is not None and step < 0:
        step = store.steps[step]
    found = store.groups(step=step, show=show, kind=kind)
    if not found:
        return Page(note(f"No group matches: step {step}, {FILTERS[show]}, kind {kind}."))
    n = min(n, len(found))
    return Page("".join(group_card(store, found[place * len(found) // n]) for place in range(n)))


def _show_rows(rows: Iterable[Mapping], n: int, delimiters: Sequence[str]) -> Page:
    groups: dict[Any, list[Mapping]] = {}
    for row in rows:
        groups.setdefault(row.get("group", row.get("pid")), []).append(row)
    cards = []
    for group in list(groups.values())[:n]:
        image = group[0].get("image")
        cards.append(macro("group")(group, uri_of(image) if hasattr(image, "convert") else None, delimiters))
    return Page("".join(cards) or note("No rows."))


def probe_strips(run_dir: str | os.PathLike, n: int = 2) -> Page:
    """The same problem through training: the probes that changed most, each with its answers at four steps.

    Args:
        n: probes shown; those that went from wrong to right first, of different kinds.
    """
    store = SampleStore(run_dir, role="probe")
    if not len(store):
        return Page(note("This run asked no probes (training.probes)."))
    order = dict.fromkeys(number for show in ("fixed", "broken", "all") for number in store.groups(show=show))
    cards = []
    for number in list(order)[:n]:
        asked = store.group(number).rows
        rows = [asked[at] for at in sorted({place * (len(asked) - 1) // 3 for place in range(4)})]
        told, titles = "a probe: never trained on, answered greedily", [moment(row) for row in rows]
        picture = picture_uri(store.folder, rows[0].get("image"))
        cards.append(macro("group")(rows, picture, delimiters_of_run(store.folder), titles, told))
    return Page("".join(cards))


def sort_changes(predictions: Iterable[Mapping]) -> dict[str, list[Pair]]:
    """Predictions as (before, after) pairs under "fixed", "broken", "still wrong" and "still right".

    With several samples per problem, the first ones stand for it and the share of right ones decides (half is right).
    Without a baseline a wrong problem counts as still wrong, with None before.
    """
    by_problem: dict[str, dict[str, list[Mapping]]] = {}
    for row in predictions:
        by_problem.setdefault(row["pid"], {}).setdefault(row["phase"], []).append(row)
    result: dict[str, list] = {"fixed": [], "broken": [], "still wrong": [], "still right": []}
    for phases in by_problem.values():
        after, before = phases.get("after"), phases.get("before")
        if after:
            right = _mostly_right(after)
            was = _mostly_right(before) if before else right
            name = ("still right" if right else "still wrong") if was == right else "fixed" if right else "broken"
            result[name].append((before[0] if before else None, after[0]))
    return result


def _mostly_right(rows: Sequence[Mapping]) -> bool:
    return sum(bool(row.get("correct")) for row in rows) * 2 >= len(rows)


def most_instructive(pairs: Sequence[Pair], limit: int) -> list[Pair]:
    """Up to `limit` of these pairs: first those where an answer could be read, so that reasoning is compared and not
    format, and one of each kind in turn, so that a frequent kind does not fill the list.
    """
    by_kind: dict[Any, list] = {}
    for pair in sorted(pairs, key=lambda pair: sum(row is not None and row.get("parsed") is None for row in pair)):
        by_kind.setdefault(pair[1].get("kind"), []).append(pair)
    turns = [pair for turn in range(limit) for of_kind in by_kind.values() for pair in of_kind[turn : turn + 1]]
    return turns[:limit]


def change_cards(
    run: RunDirectory,
    changes: Mapping[str, Sequence[Pair]],
    headings: Mapping[str, str] = CHANGES,
    titles: Sequence[str] = ("before training", "after training"),
) -> list[tuple[str, list[str]]]:
    """For each sort of change in `headings`: its heading with counts, and the cards of its most instructive pairs.

    Args:
        run: whose pictures and delimiters are used.
        changes: from `sort_changes`.
        titles: of the two columns.
    """
    delimiters, result = delimiters_of_run(run.path), []
    for name, heading in headings.items():
        pairs = most_instructive(changes[name], 3)
        counts = f" ({len(pairs)} of {len(changes[name])})" if pairs else ": none"
        cards = []
        for pair in pairs:
            rows, heads = zip(*[(row, title) for row, title in zip(pair, titles, strict=True) if row], strict=True)
            cards.append(macro("group")(rows, picture_uri(run.path, pair[1].get("image")), delimiters, heads))
        result.append((heading + counts, cards))
    return result


def count_changes(changes: Mapping[str, Sequence[Pair]]) -> str:
    counts = ", ".join(f"{len(pairs)} {name}" for name, pairs in changes.items())
    return f"Of {counted(sum(map(len, changes.values())), 'problem')}: {counts}."


def changed_minds(run_dir: str | os.PathLike) -> Page:
    """What training fixed, what it broke and what is still wrong, three problems of each: the answers before and after,
    side by side.
    """
    run = RunDirectory(run_dir)
    changes = sort_changes(run.read_jsonl(run.predictions_path))
    if not any(changes.values()):
        return Page(note("This run has not been evaluated yet."))
    sections = change_cards(run, changes)
    return Page(note(count_changes(changes)) + "".join(f"<h3>{head}</h3>{''.join(cards)}" for head, cards in sections))
