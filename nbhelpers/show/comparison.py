"""Two or more evaluated runs on one page, each against the first on the problems that both have."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from nbhelpers.params import chance, counted, flat, interval_of_points, percent, points
from nbhelpers.runs import RunDirectory
from nbhelpers.show.samples import change_cards, sort_changes
from nbhelpers.show.standalone import ReportError, figure_uri, render, run_of
from nbhelpers.show.training_plots import compare_curves


@dataclass(frozen=True)
class Comparison:
    """Two or more runs side by side. `str()` is the summary for a terminal.

    Attributes:
        path: the written page.
        table: one dict per run: run, model, dataset, steps, accuracy, format_rate, and, against the first run, matched
            (problems), difference (accuracy of this run less the first's, from -1 to 1), ci95, p (exact McNemar).
            All of it is over the problems that all runs answered.
        cautions: sentences on what makes the comparison weaker.
        seeds: a sentence for each setting of which, as of the first run's, several training seeds are among the runs.
    """

    path: Path
    table: list[dict]
    cautions: list[str]
    seeds: list[str]

    def __str__(self) -> str:
        lines = [f"{row['run']}: accuracy {percent(row['accuracy'])}" for row in self.table]
        lines += [_sentence(row, self.table[0]["run"]) for row in self.table[1:]]
        lines += self.seeds + [f"Note: {sentence}" for sentence in self.cautions]
        return "\n".join([*lines, f"Curves and examples: {self.path}"])


class _Evaluated:
    """A run, its rows after training, and the problems that they answer."""

    def __init__(self, name: str, run: RunDirectory):
        self.name, self.run = name, run
        self.rows = [row for row in run.read_jsonl(run.predictions_path) if row["phase"] == "after"]
        self.evaluation = run.read_json(run.evaluation_path)
        if not self.rows or not self.evaluation:
            there = "an evaluation that was not finished" if self.rows else "no predictions after training"
            raise ReportError(f"{name} has {there}: run notebook 04 on it first (nbhelpers run ... --notebooks 4)")
        self.problems = {_identity(row) for row in self.rows}
        self.manifest, self.metrics = run.read_manifest(), run.read_jsonl(run.metrics_path)


def compare_runs(runs: Sequence[str | Path], output: str | Path | None = None) -> Comparison:
    """Compares evaluated runs: their curves over one another, and the paired difference to the first on the same
    problems.

    A problem is the same where id, picture, question and answer are; other problems are left out and counted.

    Args:
        runs: two or more run directories; the first is what the others are compared with.
        output: the page to write; default `comparison.html` beside the first run.

    Raises:
        FileNotFoundError: a directory does not exist.
        ReportError: fewer than two runs, a run whose evaluation is missing or unfinished, different grading protocols,
            or no problem in common.
    """
    directories = [run_of(run) for run in runs]
    if len({run.path for run in directories}) < 2:
        given = ", ".join(map(str, runs)) or "none"
        raise ReportError(f"a comparison needs at least two different runs; given: {given}")
    found = [_Evaluated(name, run) for name, run in zip(_distinct_names(directories), directories, strict=True)]
    first = found[0]
    protocols = [str(one.evaluation.get("protocol")) for one in found]
    if len(set(protocols)) > 1:
        graded = ", ".join(f"{one.name} by {protocol!r}" for one, protocol in zip(found, protocols, strict=True))
        raise ReportError(
            f"the runs were graded by different protocols, so their accuracies are not comparable: {graded}"
        )
    shared = _common_problems(found)
    table = [_table_row(one, first, shared) for one in found]
    cautions, seeds = _cautions(found), _over_seeds(found, shared)
    path = Path(output) if output is not None else first.run.path.parent / "comparison.html"
    page = render(
        "compare.html",
        ("page.css", "samples.css"),
        title=" against ".join(one.name for one in found) if len(found) == 2 else f"{len(found)} runs compared",
        lead=" ".join(_sentence(row, first.name) for row in table[1:]),
        seeds=seeds,
        table=table,
        cautions=cautions,
        curves=figure_uri(compare_curves({one.name: one.metrics for one in found})),
        settings=_different_settings([one.manifest for one in found]),
        changes=_disagreements(*found) if len(found) == 2 else [],
    )
    first.run.write_text(path, page)
    return Comparison(path, table, cautions, seeds)


def _identity(row: Mapping) -> tuple:
    return (row["pid"], row.get("image"), row.get("question"), str(row.get("answer")))


def _distinct_names(runs: Sequence[RunDirectory]) -> list[str]:
    """The shortest ends of the paths that tell the runs apart."""
    for depth in range(1, max(len(run.path.parts) for run in runs) + 1):
        names = ["/".join(run.path.parts[-depth:]) for run in runs]
        if len(set(names)) == len(names):
            return names
    return [str(run.path) for run in runs]


def _common_problems(found: Sequence[_Evaluated]) -> set[tuple]:
    """The problems that all runs answered: every figure of the page is over these and no others."""
    first = found[0]
    for one in found[1:]:
        if not first.problems & one.problems:
            raise ReportError(
                f"{first.name} and {one.name} were evaluated on different problems (none has the same id, picture, "
                "question and answer), so there is nothing to pair: evaluate both on the same data "
                "(dataset.eval_path, dataset.seed, evaluation.num_samples)"
            )
    shared = set.intersection(*(one.problems for one in found))
    if not shared:
        names = ", ".join(one.name for one in found)
        raise ReportError(f"no problem was answered by all of {names}: compare fewer of them at a time")
    return shared


def _table_row(one: _Evaluated, first: _Evaluated, shared: set[tuple]) -> dict:
    from nbhelpers.evaluation import paired_difference, picture_clusters, problem_accuracy

    own, base = ([row for row in of.rows if _identity(row) in shared] for of in (one, first))
    accuracy = problem_accuracy(own)
    difference = {}
    if one is not first:
        difference = paired_difference(problem_accuracy(base), accuracy, picture_clusters(own))
    return {
        "run": one.name,
        "model": str(one.manifest.get("model", "?")),
        "dataset": str((one.manifest.get("dataset") or {}).get("path", "?")),
        "steps": one.metrics[-1].get("step") if one.metrics else 0,
        "accuracy": sum(accuracy.values()) / len(accuracy),
        "format_rate": sum(bool(row.get("format_ok")) for row in own) / len(own),
        "matched": None if one is first else len(shared),
        "difference": difference.get("accuracy"),
        "ci95": difference.get("ci95"),
        "p": (difference.get("mcnemar") or {}).get("p"),
    }


def _cautions(found: Sequence[_Evaluated]) -> list[str]:
    cautions, first = [], found[0]
    decodings = [json.dumps(one.evaluation.get("decoding"), sort_keys=True) for one in found]
    if len(set(decodings)) > 1:
        said = "; ".join(f"{one.name}: {decoding}" for one, decoding in zip(found, decodings, strict=True))
        cautions.append(f"The runs were decoded differently, which alone changes accuracy. {said}")
    if len({one.evaluation.get("grader") for one in found}) > 1:
        said = "; ".join(f"{one.name}: {one.evaluation.get('grader')}" for one in found)
        cautions.append(f"The runs were graded by different versions of the grader, so verdicts may differ. {said}")
    for one in found[1:]:
        if first.problems != one.problems:
            shared = first.problems & one.problems
            moved = len({key[0] for key in first.problems - shared} & {key[0] for key in one.problems - shared})
            same_id = f"; {moved} of them share an id but not picture, question and answer" if moved else ""
            cautions.append(
                f"{counted(len(shared), 'problem')} are the same in {first.name} ({len(first.problems)}) and "
                f"{one.name} ({len(one.problems)}); the others are left out{same_id}."
            )
    return cautions


def _sentence(row: Mapping, first: str) -> str:
    low, high = row["ci95"]
    verdict = "better" if low > 0 else "worse" if high < 0 else "not distinguishable with this many problems"
    return (
        f"{row['run']} against {first}: {points(row['difference'])} points on the same "
        f"{counted(row['matched'], 'problem')} (95 % interval {interval_of_points(row['ci95'])}; exact McNemar test: p "
        f"{chance(row['p'])}): {verdict}."
    )


def _over_seeds(found: Sequence[_Evaluated], shared: set[tuple]) -> list[str]:
    """Where runs differ in nothing but their training seed, their mean is compared, paired by seed."""
    from nbhelpers.evaluation import difference_over_seeds, picture_clusters, problem_accuracy

    settings: dict[str, dict[Any, _Evaluated]] = {}
    for one in found:
        own = flat(one.manifest.get("parameters") or {})
        seed = own.pop("training.seed", None)
        own.pop("output_dir", None)
        settings.setdefault(json.dumps(own, sort_keys=True, default=str), {})[seed] = one
    first, *others = settings.values()
    sentences = []
    for other in others:
        seeds = sorted(first.keys() & other.keys() - {None})
        if len(seeds) < 2:
            continue
        rows = {
            one.name: [row for row in one.rows if _identity(row) in shared]
            for seed in seeds
            for one in (first[seed], other[seed])
        }
        pairs = [tuple(problem_accuracy(rows[of[seed].name]) for of in (first, other)) for seed in seeds]
        result = difference_over_seeds(pairs, picture_clusters(rows[first[seeds[0]].name]))
        names = [", ".join(of[seed].name for seed in seeds) for of in (other, first)]
        sentences.append(
            f"Mean over {len(seeds)} seeds, paired by seed, {names[0]} against {names[1]}: "
            f"{points(result['accuracy'])} points (95 % interval over seeds and pictures "
            f"{interval_of_points(result['ci95'])})."
        )
    return sentences


def _different_settings(manifests: Sequence[Mapping]) -> list[tuple[str, list[str]]]:
    settings = [flat(manifest.get("parameters") or {}) for manifest in manifests]
    names = dict.fromkeys(name for parameters in settings for name in parameters if name != "output_dir")
    rows = [(name, [str(parameters.get(name, "\u2013")) for parameters in settings]) for name in names]
    return [(name, values) for name, values in rows if len(set(values)) > 1]


def _disagreements(first: _Evaluated, second: _Evaluated) -> list[tuple[str, list[str]]]:
    """Problems that one of two runs gets right and the other does not, first run's answer before the second's."""
    phases = (("before", first), ("after", second))
    shared = first.problems & second.problems
    rows = [{**row, "phase": phase} for phase, one in phases for row in one.rows if _identity(row) in shared]
    headings = {"fixed": f"Only {second.name} is right", "broken": f"Only {first.name} is right"}
    sections = change_cards(first.run, sort_changes(rows), headings, titles=(first.name, second.name))
    return [(heading, cards) for heading, cards in sections if cards]
