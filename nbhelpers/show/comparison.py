"""TODO."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from nbhelpers.runs import RunDirectory
from nbhelpers.show.samples import delimiters_of_run, most_instructive, sort_changes
from nbhelpers.show.standalone import ReportError, figure_uri, image_uri, render, run_of
from nbhelpers.show.training_plots import compare_curves


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

    from nbhelpers.evaluation import paired_difference, problem_accuracy

    found = [run_of(run) for run in runs]
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
    figure = compare_curves(dict(zip(names, metrics, strict=True)))
    path = Path(output) if output is not None else found[0].path.parent / "comparison.html"
    page = render(
        "compare.html",
        ("page.css", "samples.css"),
        title=f"{' against '.join(names)}" if len(names) == 2 else f"{len(names)} runs compared",
        lead=_comparison_sentence(table),
        first=names[0],
        names=names,
        table=table,
        cautions=cautions,
        curves=figure_uri(figure) if any(metrics) else None,
        settings=_different_settings(manifests),
        changes=_disagreements(found, names, predictions, problems) if len(found) == 2 else [],
        delimiters=delimiters_of_run(found[0].path),
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
    changes = sort_changes(rows)
    result = []
    for name, winner in (("fixed", names[1]), ("broken", names[0])):
        pairs = most_instructive(changes[name], 3)
        if pairs:
            heading = f"Only {winner} is right ({len(pairs)} of {len(changes[name])})"
            result.append((heading, [(*pair, image_uri(runs[0], pair[1])) for pair in pairs]))
    return result
