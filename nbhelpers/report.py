"""Pages that are read without a kernel: `report.html`, `samples.html`, and the comparison of runs.

Each is one file that loads nothing: pictures are in it, style and script are inline and named by their hash in a
Content-Security-Policy that forbids everything else. Texts of models and data sets are escaped by the templates, or
reach the page as `textContent`.
"""

from __future__ import annotations

import base64
import hashlib
import io
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Any

from nbhelpers import __version__, viewer
from nbhelpers.run_directory import RunDirectory
from nbhelpers.samples import FILTERS, SampleStore

BROWSER = "samples.html"
BROWSER_BYTES = 8_000_000
_LONGEST_COMPLETION = 100_000  # characters of one completion in the browser file


class ReportError(ValueError):
    """A report or a comparison cannot be made; the message says what is missing or differs."""


def _render(template: str, styles: Sequence[str], script: str | None = None, **values: Any) -> str:
    from markupsafe import Markup

    style = "".join((viewer.TEMPLATES / name).read_text(encoding="utf-8") for name in styles)
    text = (viewer.TEMPLATES / script).read_text(encoding="utf-8") if script else ""
    return (
        viewer.environment()
        .get_template(template)
        .render(
            style=Markup(style),
            style_hash=_hash(style),
            script=Markup(text),
            script_hash=_hash(text),
            footer=_footer(),
            **values,
        )
    )


def _hash(text: str) -> str:
    return base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()


def _footer() -> str:
    return f"Written by nbhelpers {__version__} on {datetime.now():%Y-%m-%d %H:%M}. This file loads nothing from elsewhere."


def _run(run_dir: str | Path | RunDirectory) -> RunDirectory:
    run = run_dir if isinstance(run_dir, RunDirectory) else RunDirectory(run_dir)
    if not run.path.is_dir():
        raise FileNotFoundError(f"there is no run directory {run.path}")
    return run


def _figure_uri(figure: Any) -> str:
    import numpy as np
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from PIL import Image

    figure.set_dpi(144)
    canvas = FigureCanvasAgg(figure)
    canvas.draw()
    buffer = io.BytesIO()
    # A third of the size of the full colours, and no difference to be seen in lines and text.
    Image.fromarray(np.asarray(canvas.buffer_rgba())).convert("RGB").quantize(128, dither=0).save(
        buffer, "PNG", optimize=True
    )
    return viewer.data_uri(buffer.getvalue(), "png")


def _image_uri(run: RunDirectory, row: Mapping, longest: int = 400) -> str | None:
    image = viewer.load_image(run.path, row.get("image"))
    return None if image is None else viewer.data_uri(viewer.encode_image(image, longest))


# ---------------------------------------------------------------- report.html


def write_report(run_dir: str | Path | RunDirectory) -> Path:
    """Writes `report.html`, one page to judge a run by, and `samples.html` beside it; gives the report's path.

    Works on whatever there is: a run that is still training, or was never evaluated, gets the parts that it has.

    Raises:
        FileNotFoundError: there is no such directory.
    """
    from nbhelpers import plots

    run = _run(run_dir)
    manifest = run.read_manifest()
    metrics = run.read_jsonl(run.metrics_path)
    evaluation = run.read_json(run.evaluation_path) or {}
    predictions = run.read_jsonl(run.predictions_path)
    store = SampleStore(run.path)
    delimiters = viewer.delimiters_of_run(run.path)
    changes = viewer.sort_changes(predictions)
    shown = [
        (f"{title} ({len(pairs)} of {len(changes[name])})", [(*pair, _image_uri(run, pair[1])) for pair in pairs])
        for name, title in viewer.CHANGES.items()
        if (pairs := viewer.most_instructive(changes[name], 3))
    ]
    page = _render(
        "report.html",
        ("page.css", "samples.css"),
        title=_title(run, manifest),
        outcome=_outcome(evaluation, metrics),
        warnings=manifest.get("warnings") or [],
        notices=manifest.get("notices") or [],
        facts=_facts(manifest, metrics, evaluation, len(store)),
        evaluation=evaluation,
        decoding=", ".join(
            f"{key.replace('_', ' ')} {viewer.number(value)}"
            for key, value in (evaluation.get("decoding") or {}).items()
        ),
        before_after=_figure_uri(plots.before_after(evaluation)) if evaluation.get("after") else None,
        by_kind=sorted((evaluation.get("by_group") or {}).items(), key=lambda item: -(item[1].get("n") or 0)),
        overview=_figure_uri(plots.training_overview(metrics)) if metrics else None,
        overview_text=_from_first_to_last(metrics),
        changes=shown,
        counts=_sentence_of(changes),
        groups=[(rows, _image_uri(run, rows[0])) for rows in _early_and_late(store)],
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


# ---------------------------------------------------------------- samples.html


def write_sample_browser(run_dir: str | Path | RunDirectory, budget: int = BROWSER_BYTES) -> Path:
    """Writes `samples.html`: the viewer without a kernel, with its own paging, filters and search.

    Args:
        budget: bytes of data in the file. Where the run holds more, whole steps are left out, evenly, first and last
            kept, and the
            page says so.
    """
    run = _run(run_dir)
    store = SampleStore(run.path)
    data, scope = _browser_data(run, store, budget)
    # In a script element only "<" could end the data; ASCII keeps odd separators and half surrogates out of the way.
    text = json.dumps(data, separators=(",", ":"), allow_nan=False).replace("<", "\\u003c")
    from markupsafe import Markup

    styles = ("page.css", "samples.css", "browser.css")
    page = _render(
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
                image = viewer.load_image(run.path, picture)
                images[picture] = None if image is None else len(encoded)
                if image is not None:
                    encoded.append(base64.b64encode(viewer.encode_image(image, 400)).decode("ascii"))
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
        "delimiters": viewer.delimiters_of_run(run.path),
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


# ---------------------------------------------------------------- comparing runs


@dataclass(frozen=True)
class Comparison:
    """Two or more runs side by side. `str()` is the summary for a terminal.

    Attributes:
        path: the written page.
        table: one dict a run: run, model, dataset, steps, accuracy, format_rate, and, against the first run, matched
            (problems),
            difference (accuracy of this run less the first's, from -1 to 1), ci95.
        cautions: sentences on what makes the comparison weaker.
        figure: the curves over one another.
    """

    path: Path
    table: list[dict]
    cautions: list[str]
    figure: Any = field(repr=False)

    def __str__(self) -> str:
        lines = []
        for row in self.table:
            line = f"{row['run']}: accuracy {row['accuracy']:.1%}"
            if row["difference"] is not None:
                low, high = row["ci95"]
                line += (
                    f", {100 * row['difference']:+.1f} points against {self.table[0]['run']} on the same {row['matched']} problems "
                    f"(95 % interval {100 * low:+.1f} to {100 * high:+.1f})"
                )
            lines.append(line)
        lines += [f"Note: {sentence}" for sentence in self.cautions]
        return "\n".join([*lines, f"Curves and examples: {self.path}"])


def compare_runs(runs: Sequence[str | Path], output: str | Path | None = None) -> Comparison:
    """Compares evaluated runs: their curves over one another, and the paired difference to the first on the same
    problems.

    A problem is the same where id, picture, question and answer are; other problems are left out and counted.

    Args:
        runs: two or more run directories; the first is what the others are compared with.
        output: the page to write; default `comparison.html` beside the first run.

    Raises:
        FileNotFoundError: a directory does not exist.
        ReportError: fewer than two runs, a run without evaluation, different grading protocols, or no problem in
            common.
    """
    from nbhelpers import plots
    from nbhelpers.evaluation import paired_difference, problem_accuracy

    found = [_run(run) for run in runs]
    if len({run.path for run in found}) < 2:
        raise ReportError(
            f"a comparison needs at least two different runs; given: {', '.join(map(str, runs)) or 'none'}"
        )
    names = _distinct_names(found)
    evaluations = [run.read_json(run.evaluation_path) or {} for run in found]
    predictions = [[row for row in run.iter_jsonl(run.predictions_path) if row["phase"] == "after"] for run in found]
    for name, rows in zip(names, predictions, strict=True):
        if not rows:
            raise ReportError(
                f"{name} has no predictions after training: run notebook 04 on it first (nbhelpers run ... --notebooks 4)"
            )
    protocols = [str(evaluation.get("protocol")) for evaluation in evaluations]
    if len(set(protocols)) > 1:
        graded = ", ".join(f"{name} by {protocol!r}" for name, protocol in zip(names, protocols, strict=True))
        raise ReportError(
            f"the runs were graded by different protocols, so their accuracies are not comparable: {graded}"
        )
    problems = [{_identity(row): None for row in rows} for rows in predictions]
    cautions = _cautions(names, evaluations, problems)
    manifests = [run.read_manifest() for run in found]
    metrics = [run.read_jsonl(run.metrics_path) for run in found]
    table = []
    for place, (name, rows) in enumerate(zip(names, predictions, strict=True)):
        shared = problems[0].keys() & problems[place].keys()
        if not shared:
            raise ReportError(
                f"{names[0]} and {name} were evaluated on different problems (none has the same id, picture, question and answer), "
                f"so there is nothing to pair: evaluate both on the same data (dataset.eval_path, dataset.seed, evaluation.num_samples)"
            )
        own = [row for row in rows if _identity(row) in shared]
        result: dict = {"accuracy": None, "ci95": None}
        if place:
            base = [row for row in predictions[0] if _identity(row) in shared]
            result = paired_difference(problem_accuracy(base), problem_accuracy(own))
        accuracy = problem_accuracy(own)
        table.append(
            {
                "run": name,
                "model": str(manifests[place].get("model", "?")),
                "dataset": str((manifests[place].get("dataset") or {}).get("path", "?")),
                "steps": metrics[place][-1].get("step") if metrics[place] else 0,
                "accuracy": sum(accuracy.values()) / len(accuracy),
                "format_rate": sum(bool(row.get("format_ok")) for row in own) / len(own),
                "matched": len(shared) if place else None,
                "difference": result["accuracy"],
                "ci95": result["ci95"],
            }
        )
    figure = plots.compare_curves(dict(zip(names, metrics, strict=True)))
    path = Path(output) if output is not None else found[0].path.parent / "comparison.html"
    page = _render(
        "compare.html",
        ("page.css", "samples.css"),
        title=f"{' against '.join(names)}" if len(names) == 2 else f"{len(names)} runs compared",
        lead=_comparison_sentence(table),
        first=names[0],
        names=names,
        table=table,
        cautions=cautions,
        curves=_figure_uri(figure) if any(metrics) else None,
        settings=_different_settings(manifests),
        changes=_disagreements(found, names, predictions, problems) if len(found) == 2 else [],
        delimiters=viewer.delimiters_of_run(found[0].path),
    )
    path.parent.mkdir(parents=True, exist_ok=True)
    found[0].write_text(path, page)
    return Comparison(path, table, cautions, figure)


def _distinct_names(runs: Sequence[RunDirectory]) -> list[str]:
    """The shortest ends of the paths that tell the runs apart."""
    for depth in range(1, max(len(run.path.parts) for run in runs) + 1):
        names = ["/".join(run.path.parts[-depth:]) for run in runs]
        if len(set(names)) == len(names):
            return names
    return [str(run.path) for run in runs]


def _identity(row: Mapping) -> tuple:
    return (row["pid"], row.get("image"), row.get("question"), str(row.get("answer")))


def _cautions(names: Sequence[str], evaluations: Sequence[Mapping], problems: Sequence[Mapping]) -> list[str]:
    cautions = []
    decodings = [json.dumps(evaluation.get("decoding"), sort_keys=True) for evaluation in evaluations]
    if len(set(decodings)) > 1:
        said = "; ".join(f"{name}: {decoding}" for name, decoding in zip(names, decodings, strict=True))
        cautions.append(f"The runs were decoded differently, which alone changes accuracy. {said}")
    for name, of_run in zip(names[1:], problems[1:], strict=True):
        shared = problems[0].keys() & of_run.keys()
        left_out = len(problems[0]) + len(of_run) - 2 * len(shared)
        if left_out and shared:
            moved = len({key[0] for key in problems[0].keys() - shared} & {key[0] for key in of_run.keys() - shared})
            same_id = f"; {moved} of them share an id but not picture, question and answer" if moved else ""
            cautions.append(
                f"{len(shared)} problems are the same in {names[0]} ({len(problems[0])}) and {name} ({len(of_run)}); "
                f"the others are left out{same_id}."
            )
    return cautions


def _comparison_sentence(table: Sequence[Mapping]) -> str:
    sentences = []
    for row in table[1:]:
        low, high = row["ci95"]
        verdict = "better" if low > 0 else "worse" if high < 0 else "not distinguishable with this many problems"
        sentences.append(
            f"{row['run']} against {table[0]['run']}: {100 * row['difference']:+.1f} points on the same {row['matched']} problems "
            f"(95 % interval {100 * low:+.1f} to {100 * high:+.1f}): {verdict}."
        )
    return " ".join(sentences)


def _different_settings(manifests: Sequence[Mapping]) -> list[tuple[str, list[str]]]:
    flat = [dict(_flatten(manifest.get("parameters") or {})) for manifest in manifests]
    names = dict.fromkeys(name for parameters in flat for name in parameters if name != "output_dir")
    rows = [(name, [str(parameters.get(name, "\u2013")) for parameters in flat]) for name in names]
    return [(name, values) for name, values in rows if len(set(values)) > 1]


def _flatten(parameters: Mapping, prefix: str = "") -> Iterator[tuple[str, Any]]:
    for name, value in parameters.items():
        if isinstance(value, dict):
            yield from _flatten(value, f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}", value


def _disagreements(
    runs: Sequence[RunDirectory],
    names: Sequence[str],
    predictions: Sequence[Sequence[Mapping]],
    problems: Sequence[Mapping],
) -> list[tuple[str, list]]:
    """Problems that one of two runs gets right and the other does not, first run's answer before the second's."""
    shared = problems[0].keys() & problems[1].keys()
    phases = zip(("before", "after"), predictions, strict=True)
    rows = [{**row, "phase": phase} for phase, of_run in phases for row in of_run if _identity(row) in shared]
    changes = viewer.sort_changes(rows)
    result = []
    for name, winner in (("fixed", names[1]), ("broken", names[0])):
        pairs = viewer.most_instructive(changes[name], 3)
        if pairs:
            heading = f"Only {winner} is right ({len(pairs)} of {len(changes[name])})"
            result.append((heading, [(*pair, _image_uri(runs[0], pair[1])) for pair in pairs]))
    return result
