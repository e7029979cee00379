"""`report.html`: one page to judge a run by, with nothing running."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any
from urllib.parse import quote, urlencode

from nbhelpers.params import counted, percent
from nbhelpers.runs import ROLES, RunDirectory, SampleStore, duration, logged, metrics_shown, who_writes
from nbhelpers.show.browser import write_sample_browser
from nbhelpers.show.evaluation_plots import before_after, forest_plot
from nbhelpers.show.packing import read_marks
from nbhelpers.show.pages import Page
from nbhelpers.show.samples import change_cards, count_changes, group_card, sort_changes, telling_group
from nbhelpers.show.standalone import figure_uri, render, run_of
from nbhelpers.show.text import visible
from nbhelpers.show.training_plots import training_overview
from nbhelpers.training import alarms, what_is_kept


def write_report(run_dir: str | Path) -> Path:
    """Writes `report.html`, one page to judge a run by, and `samples.html` beside it; gives the report's path.

    Works on whatever there is: a run that is still training, or was never evaluated, gets the parts that it has.

    Raises:
        FileNotFoundError: there is no such directory.
    """
    run = run_of(run_dir)
    manifest = run.read_manifest()
    metrics = run.read_jsonl(run.metrics_path)
    evaluation = run.read_json(run.evaluation_path) or {}
    store = SampleStore(run.path)
    changes = sort_changes(run.read_jsonl(run.predictions_path))
    warnings, notes = _what_matters(manifest, metrics, evaluation)
    if unfinished := _unfinished(run, manifest):
        warnings = [unfinished, *dict.fromkeys([*warnings, *alarms(metrics, manifest.get("max_steps"))])]
    page = render(
        "report.html",
        ("page.css", "samples.css"),
        title=_title(run, manifest),
        outcome=_outcome(evaluation, metrics),
        warnings=warnings,
        notes=notes,
        facts=_results(evaluation, metrics) + _circumstances(manifest, metrics, evaluation, len(store)),
        evaluation=evaluation,
        power=_power(evaluation),
        result=figure_uri(before_after({**evaluation, "by_group": {}})) if evaluation.get("after") else None,
        by_kind=_by_kind(evaluation),
        overview=figure_uri(training_overview(metrics)) if metrics else None,
        everything=figure_uri(training_overview(metrics, everything=True)) if metrics else None,
        overview_text=_from_first_to_last(metrics),
        changes=[(heading, cards) for heading, cards in change_cards(run, changes) if cards],
        counts=count_changes(changes),
        marked=_marked(run),
        groups=_early_and_late(store),
        browser=write_sample_browser(run.path).name if len(store) else None,
        details=_details(manifest, run),
    )
    run.write_text(run.report_path, page)
    return run.report_path


def _by_kind(evaluation: Mapping) -> str | None:
    """Where the difference lies; without a baseline, how often each kind is right."""
    if not (evaluation.get("after") and evaluation.get("by_group")):
        return None
    known = (evaluation.get("difference") or {}).get("accuracy") is not None
    return figure_uri(forest_plot(evaluation) if known else before_after(evaluation))


def _title(run: RunDirectory, manifest: Mapping) -> str:
    model = manifest.get("model") or "a policy"
    trained_on = (manifest.get("dataset") or {}).get("path")
    on = f" on {'the embedded problems' if trained_on == 'embedded' else trained_on}" if trained_on else ""
    model = "The embedded Gemma-3" if model == "embedded" else model
    return f"{model} trained with GRPO{on} (run {run.path.name})"


def _outcome(evaluation: Mapping, metrics: Sequence[Mapping]) -> str:
    from nbhelpers.evaluation import headline

    if (evaluation.get("after") or {}).get("accuracy") is not None:
        return headline(evaluation)
    if metrics:
        return f"{counted(metrics[-1]['step'], 'optimiser step')} so far; not evaluated yet."
    return "Neither trained nor evaluated yet."


def _unfinished(run: RunDirectory, manifest: Mapping) -> str | None:
    """How training stands where it has not come to its end; None where it has, or never began."""
    found = manifest.get("training") or {}
    state, why = found.get("state"), found.get("why") or ""
    if state in (None, "finished"):
        return None
    if state == "running" and (who := who_writes(run.path)):
        return f"Training is not finished: it goes on ({who})."
    said = "was killed, or its machine went down" if state == "running" else f"{state} at {found.get('at')}"
    why = "" if why in (manifest.get("warnings") or ()) else f" {why}"
    return f"Training is not finished: it {said}.{why} {what_is_kept(run)}".strip()


def _what_matters(manifest: Mapping, metrics: Sequence[Mapping], evaluation: Mapping) -> tuple[list[str], list[str]]:
    """The warnings that stand at the top, and notes on how it ran.

    A warning stands at the top unless the result has answered it: what only doubts that the policy learns
    (`training.alarms`, `doubts_only`) is a note where the interval of the gain lies above 0.
    """
    warnings, notes = list(manifest.get("warnings") or ()), list(manifest.get("notices") or ())
    lowest = ((evaluation.get("difference") or {}).get("ci95") or [None])[0]
    answered = alarms(metrics, doubts_only=True) if lowest is not None and lowest > 0 else []
    notes += [f"Answered by the gain on unseen problems: {sentence}" for sentence in warnings if sentence in answered]
    return [sentence for sentence in warnings if sentence not in answered], notes


def _power(evaluation: Mapping) -> str:
    from nbhelpers.evaluation import power_sentence

    difference = evaluation.get("difference") or {}
    test, problems = difference.get("mcnemar"), difference.get("n_paired")
    if not (test and problems):
        return ""
    return power_sentence(problems, (test["fixed"] + test["broken"]) / problems, difference.get("n_clusters"))


Fact = tuple[str, str, bool]  # name, text, whether it is set large


def _results(evaluation: Mapping, metrics: Sequence[Mapping]) -> list[Fact]:
    after, before = evaluation.get("after") or {}, evaluation.get("before") or {}
    facts = []
    for key, name in (
        ("accuracy", f"accuracy on {counted(after.get('n', 0), 'unseen problem')}"),
        ("format_rate", "format kept"),
    ):
        if after.get(key) is not None:
            was = f"{percent(before[key])} \u2192 " if before.get(key) is not None else ""
            facts.append((name, was + percent(after[key]), True))
    ends = _ends(metrics)
    if ends and all(any(logged(row, "reward") for row in rows) for rows in ends):
        first, last = (_mean_of(rows, "reward") for rows in ends)
        facts.append((f"mean reward, {_said(ends)}", f"{first:.2f} \u2192 {last:.2f}", True))
    return facts


def _circumstances(manifest: Mapping, metrics: Sequence[Mapping], evaluation: Mapping, completions: int) -> list[Fact]:
    dataset, versions, seeds = (manifest.get(key) or {} for key in ("dataset", "versions", "seeds"))
    seconds = (manifest.get("timings") or {}).get("training_seconds")
    sampled = counted(completions, "completion")
    steps = f"{counted(metrics[-1]['step'], 'optimiser step')}, {sampled}" if metrics else "none yet"
    facts = {"training": steps + (f", {duration(seconds)}" if seconds else "")}
    if checkpoint := evaluation.get("checkpoint"):
        facts["evaluated"] = f"the policy of step {checkpoint.get('step')}: {checkpoint.get('chosen')}"
    if manifest.get("model"):
        backend = f" ({manifest['backend']})" if manifest.get("backend") else ""
        facts["model"] = f"{manifest['model']}{backend}"
    if dataset:
        dropped = sum((dataset.get("dropped") or {}).values())
        left_out = f"; {counted(dropped, 'row')} could not be used" if dropped else ""
        counts = f"{dataset.get('train', '?')} to train on, {dataset.get('evaluation', '?')} to evaluate"
        facts["problems"] = f"{dataset.get('path', '?')}: {counts}{left_out}"
    if manifest.get("hardware"):
        hardware = manifest["hardware"]
        gpus = [f"{gpu['name']} ({gpu['memory_gib']} GiB)" for gpu in hardware["gpus"]] or ["no GPU"]
        parts = [
            *gpus,
            hardware["cpu"],
            counted(hardware["cores"], "core"),
            f"{hardware['memory_gib'] or '?'} GiB memory",
        ]
        facts["hardware"] = ", ".join(parts)
    named = ("python", "torch", "trl", "transformers", "vllm", "unsloth")
    facts["versions"] = ", ".join(f"{name} {versions[name]}" for name in named if name in versions)
    facts["seeds"] = ", ".join(f"{name} {value}" for name, value in seeds.items())
    return [(name, text, False) for name, text in facts.items() if text]


def _ends(metrics: Sequence[Mapping]) -> tuple[Sequence[Mapping], Sequence[Mapping]] | None:
    """The first and the last tenth of the steps, which tile and text are about; None for a single step."""
    count = max(1, len(metrics) // 10)
    return (metrics[:count], metrics[-count:]) if len(metrics) > 1 else None


def _said(ends: tuple[Sequence[Mapping], Sequence[Mapping]]) -> str:
    return "first and last " + counted(len(ends[0]), "step").removeprefix("1 ")


def _mean_of(rows: Sequence[Mapping], key: str) -> float:
    values = [row[key] for row in rows if logged(row, key)]
    return sum(values) / len(values) if values else float("nan")


def _from_first_to_last(metrics: Sequence[Mapping]) -> str:
    """The curves in words, for those who do not see the picture."""
    ends = _ends(metrics)
    if not ends:
        return ""
    parts = []
    for metric in metrics_shown("report", metrics):
        first, last = (metric.text(_mean_of(rows, metric.key)) for rows in ends)
        unit = f" {metric.unit}" if metric.unit in ("%", "tokens") else ""
        parts.append(f"{metric.label} {first} \u2192 {last}{unit}")
    return f"Means of the {_said(ends)}: {', '.join(parts)}."


def _marked(run: RunDirectory) -> list[tuple[str, str, str]]:
    """Of each marked sample the address in `samples.html`, what it is, and the note."""
    found = []
    for key, mark in read_marks(run).items():
        role, _, rest = key.partition("/")
        name, _, place = rest.rpartition("/")
        if role in ROLES and place.isdigit():
            what = f"{ROLES[role]}: {name}, completion {int(place) + 1}"
            found.append((f"samples.html#{urlencode({'role': role, 'at': f'{role}/{name}'})}", what, mark["note"]))
    return found


def report_link(run_dir: str | Path) -> Page:
    """Writes `report.html` and `samples.html`; gives links to both, which JupyterLab opens."""
    path = write_report(run_dir)
    files = [file for file in (path, path.with_name("samples.html")) if file.is_file()]
    links = " \u00b7 ".join(
        f'<a href="{visible(quote(os.path.relpath(file)))}" target="_blank">{visible(file.name)}</a>' for file in files
    )
    return Page(f'<p class="note">{links} in {visible(path.parent)}</p>')


def _early_and_late(store: SampleStore) -> list[str]:
    """A problem that went from wrong to right, early and late; else a telling group of the first and last step."""
    improved = store.groups(show="wrong to right")
    if improved:
        visits = store.groups(pid=store.group(improved[0]).pid)
        chosen = [visits[0], visits[-1]]
    else:
        chosen = [telling_group(store, step) for step in dict.fromkeys(store.steps[:1] + store.steps[-1:])]
    return [group_card(store, number, limit=4) for number in chosen]


def _details(manifest: Mapping, run: RunDirectory) -> list[tuple[str, str]]:
    texts = [("parameters", run.params_path.read_text(encoding="utf-8"))] if run.params_path.is_file() else []
    wanted: list[str] = ["versions", "hardware", "seeds", "dataset", "grpo_config", "batch", "timings"]
    wanted += [] if texts else ["parameters"]
    found: dict[str, Any] = {name: manifest[name] for name in wanted if manifest.get(name)}
    return texts + [
        (name.replace("_", " "), json.dumps(value, indent=1, ensure_ascii=False)) for name, value in found.items()
    ]
