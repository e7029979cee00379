"""TODO."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from nbhelpers.runs import RunDirectory, SampleStore
from nbhelpers.show.browser import write_sample_browser
from nbhelpers.show.evaluation_plots import before_after
from nbhelpers.show.samples import CHANGES, delimiters_of_run, most_instructive, sort_changes
from nbhelpers.show.standalone import figure_uri, image_uri, render, run_of
from nbhelpers.show.text import number
from nbhelpers.show.training_plots import training_overview


def write_report(run_dir: str | Path | RunDirectory) -> Path:
    """Writes `report.html`, one page to judge a run by, and `samples.html` beside it; gives the report's path.

    Works on whatever there is: a run that is still training, or was never evaluated, gets the parts that it has.

    Raises:
        FileNotFoundError: there is no such directory.
    """

    run = run_of(run_dir)
    manifest = run.read_manifest()
    metrics = run.read_jsonl(run.metrics_path)
    evaluation = run.read_json(run.evaluation_path) or {}
    predictions = run.read_jsonl(run.predictions_path)
    store = SampleStore(run.path)
    delimiters = delimiters_of_run(run.path)
    changes = sort_changes(predictions)
    shown = [
        (f"{title} ({len(pairs)} of {len(changes[name])})", [(*pair, image_uri(run, pair[1])) for pair in pairs])
        for name, title in CHANGES.items()
        if (pairs := most_instructive(changes[name], 3))
    ]
    page = render(
        "report.html",
        ("page.css", "samples.css"),
        title=_title(run, manifest),
        outcome=_outcome(evaluation, metrics),
        warnings=manifest.get("warnings") or [],
        notices=manifest.get("notices") or [],
        facts=_facts(manifest, metrics, evaluation, len(store)),
        evaluation=evaluation,
        decoding=", ".join(
            f"{key.replace('_', ' ')} {number(value)}" for key, value in (evaluation.get("decoding") or {}).items()
        ),
        before_after=figure_uri(before_after(evaluation)) if evaluation.get("after") else None,
        by_kind=sorted((evaluation.get("by_group") or {}).items(), key=lambda item: -(item[1].get("n") or 0)),
        overview=figure_uri(training_overview(metrics)) if metrics else None,
        overview_text=_from_first_to_last(metrics),
        changes=shown,
        counts=_sentence_of(changes),
        groups=[(rows, image_uri(run, rows[0])) for rows in _early_and_late(store)],
        delimiters=delimiters,
        browser=write_sample_browser(run).name if len(store) else None,
        details=_details(manifest, run),
    )
    run.write_text(run.report_path, page)
    return run.report_path


def _title(run: RunDirectory, manifest: Mapping) -> str:
    model = manifest.get("model") or "a policy"
    trained_on = (manifest.get("dataset") or {}).get("path")
    on = f" on {'the embedded problems' if trained_on == 'embedded' else trained_on}" if trained_on else ""
    model = "The embedded Gemma-3" if model == "embedded" else model
    return f"{model} trained with GRPO{on} (run {run.path.name})"


def _outcome(evaluation: Mapping, metrics: Sequence[Mapping]) -> str:
    from nbhelpers.evaluation import headline

    if evaluation.get("after") and evaluation["after"].get("accuracy") is not None:
        return headline(evaluation)
    if metrics:
        return f"{metrics[-1].get('step')} optimiser steps so far; not evaluated yet."
    return "Neither trained nor evaluated yet."


def _sentence_of(changes: Mapping[str, Sequence]) -> str:
    total = sum(len(pairs) for pairs in changes.values())
    return f"Of {total} problems: " + ", ".join(f"{len(pairs)} {name}" for name, pairs in changes.items()) + "."


def _facts(
    manifest: Mapping, metrics: Sequence[Mapping], evaluation: Mapping, completions: int
) -> list[tuple[str, str, bool]]:
    dataset, versions = manifest.get("dataset") or {}, manifest.get("versions") or {}
    facts: list[tuple[str, str, bool]] = []
    after, before = evaluation.get("after") or {}, evaluation.get("before") or {}
    if after.get("accuracy") is not None:
        was = f"{before['accuracy']:.1%} \u2192 " if before.get("accuracy") is not None else ""
        facts.append((f"accuracy on {after.get('n', '?')} unseen problems", f"{was}{after['accuracy']:.1%}", True))
    if after.get("format_rate") is not None:
        was = f"{before['format_rate']:.1%} \u2192 " if before.get("format_rate") is not None else ""
        facts.append(("format kept", f"{was}{after['format_rate']:.1%}", True))
    if metrics:
        first, last = metrics[0].get("reward"), metrics[-1].get("reward")
        if isinstance(first, (int, float)) and isinstance(last, (int, float)):
            facts.append(("mean reward, first and last step", f"{first:.2f} \u2192 {last:.2f}", True))
    seconds = (manifest.get("timings") or {}).get("training_seconds")
    steps = f"{metrics[-1].get('step')} optimiser steps, {completions:,} completions" if metrics else "none yet"
    facts.append(("training", steps + (f", {_duration(seconds)}" if seconds else ""), False))
    if manifest.get("model"):
        backend = f" ({manifest['backend']})" if manifest.get("backend") else ""
        facts.append(("model", f"{manifest['model']}{backend}", False))
    if dataset:
        dropped = sum(dataset["dropped"].values()) if isinstance(dataset.get("dropped"), dict) else 0
        left_out = f"; {dropped} rows could not be used" if dropped else ""
        counts = f"{dataset.get('train', '?')} to train on, {dataset.get('evaluation', '?')} to evaluate{left_out}"
        facts.append(("problems", f"{dataset.get('path', '?')}: {counts}", False))
    if manifest.get("hardware"):
        facts.append(("hardware", _hardware(manifest["hardware"]), False))
    named = [
        f"{name} {versions[name]}"
        for name in ("python", "torch", "trl", "transformers", "vllm", "unsloth")
        if name in versions
    ]
    if named:
        facts.append(("versions", ", ".join(named), False))
    if manifest.get("seeds") is not None:
        seeds = manifest["seeds"]
        text = ", ".join(f"{name} {value}" for name, value in seeds.items()) if isinstance(seeds, dict) else str(seeds)
        facts.append(("seeds", text, False))
    return facts


def _hardware(hardware: Any) -> str:
    if not isinstance(hardware, dict):
        return str(hardware)
    gpus = hardware.get("gpus") or []
    parts = [f"{gpu.get('name')} ({gpu.get('memory_gib', '?')} GiB)" for gpu in gpus if isinstance(gpu, dict)] or [
        "no GPU"
    ]
    parts += [str(hardware["cpu"])] if hardware.get("cpu") else []
    parts += [f"{hardware['cores']} cores"] if hardware.get("cores") else []
    parts += [f"{hardware['memory_gib']} GiB memory"] if hardware.get("memory_gib") else []
    return ", ".join(parts)


def _duration(seconds: float) -> str:
    return (
        f"{seconds:.0f} s"
        if seconds < 120
        else f"{seconds / 60:.0f} min"
        if seconds < 7200
        else f"{seconds / 3600:.1f} h"
    )


def _from_first_to_last(metrics: Sequence[Mapping]) -> str:
    """The curves in words, as means of the first and the last tenth, for those who do not see the picture."""
    if len(metrics) < 2:
        return ""
    count = max(1, len(metrics) // 10)

    def ends(key: str) -> tuple[float, float] | None:
        values = [row[key] for row in metrics if isinstance(row.get(key), (int, float))]
        return (
            (sum(values[:count]) / len(values[:count]), sum(values[-count:]) / len(values[-count:])) if values else None
        )

    wanted = [("reward", "reward", 1, "")]
    names = dict.fromkeys(key for row in metrics for key in row if key.startswith("rewards/") and key.endswith("/mean"))
    wanted += [(key, f"reward {key.split('/')[1]}", 1, "") for key in names]
    wanted += [
        ("frac_reward_zero_std", "zero-variance groups", 100, " %"),
        ("completions/mean_length", "length", 1, " tokens"),
        ("completions/clipped_ratio", "cut off", 100, " %"),
        ("entropy", "entropy", 1, ""),
        ("kl", "KL", 1, ""),
    ]
    found = [(label, ends(key), scale, unit) for key, label, scale, unit in wanted]
    parts = [
        f"{label} {pair[0] * scale:.3g} \u2192 {pair[1] * scale:.3g}{unit}"
        for label, pair, scale, unit in found
        if pair
    ]
    return f"Means of the first and the last {'step' if count == 1 else f'{count} steps'}: " + ", ".join(parts) + "."


def _early_and_late(store: SampleStore) -> list[list[dict]]:
    """The same problem early and late in training where one went from wrong to right; else a mixed group of the first
    and last step.
    """
    improved = store.groups(show="wrong to right")
    if improved:
        visits = store.groups(pid=store.group(improved[0]).pid)
        return [store.completions(visits[0])[:4], store.completions(visits[-1])[:4]]
    groups = []
    for step in dict.fromkeys(store.steps[:1] + store.steps[-1:]):
        number = (store.groups(step=step, show="mixed") or store.groups(step=step))[0]
        groups.append(store.completions(number)[:4])
    return groups


def _details(manifest: Mapping, run: RunDirectory) -> list[tuple[str, str]]:
    texts = [("parameters", run.params_path.read_text(encoding="utf-8"))] if run.params_path.is_file() else []
    wanted = ("versions", "hardware", "seeds", "dataset", "grpo_config", "batch", "timings")
    wanted = (*wanted, "parameters") if not texts else wanted
    texts += [
        (name.replace("_", " "), json.dumps(manifest[name], indent=1, ensure_ascii=False))
        for name in wanted
        if manifest.get(name)
    ]
    return texts
