"""What was learnt: the same problems before and after training, the same prompts, decoding and grader, a paired
difference.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import numpy as np

from nbhelpers import data, grading
from nbhelpers.params import RunParams
from nbhelpers.run_directory import RunDirectory
from nbhelpers.sampling import Policy
from nbhelpers.training import PROBLEM_COLUMNS, delimiters_of, grade_row

BOOTSTRAP_RESAMPLES = 9_999


def evaluate(
    policy: Policy,
    problems: data.ProblemSets,
    params: RunParams,
    run: RunDirectory,
    *,
    progress: Callable[[str, int, int], None] | None = None,
) -> dict:
    """Let the policy answer the evaluation problems without and with its adapter, and compare.

    Writes `predictions.jsonl` and `evaluation.json` (their layout: README, "The run directory") and returns the latter.

    Args:
        policy: with its trained adapter; switching the adapter off gives the policy before training.
        progress: called with (phase, problems done, problems in all).
    """
    chosen = problems.evaluation
    if params.evaluation.num_samples is not None:
        chosen = chosen.select(range(min(params.evaluation.num_samples, len(chosen))))
    predictions: list[dict] = []
    run.set_aside(run.evaluation_path, run.predictions_path)
    for phase in (["before"] if params.evaluation.baseline else []) + ["after"]:
        if phase == "before":
            with policy.without_adapter():
                rows = predict(policy, chosen, params, run, phase=phase, progress=progress)
        else:
            rows = predict(policy, chosen, params, run, phase=phase, progress=progress)
        for row in rows:
            run.append_jsonl(run.predictions_path, row)
        predictions += rows
    result = compare(predictions, seed=params.dataset.seed)
    result["protocol"] = params.evaluation.protocol
    result["decoding"] = {
        "temperature": params.evaluation.temperature,
        "samples_per_problem": params.evaluation.samples_per_problem,
        "max_new_tokens": params.training.max_completion_length,
    }
    run.write_json(run.evaluation_path, result)
    return result


def predict(
    policy: Policy,
    problems: Any,
    params: RunParams,
    run: RunDirectory,
    *,
    phase: str,
    progress: Callable[[str, int, int], None] | None = None,
) -> list[dict]:
    """One graded prediction (a row of `predictions.jsonl`) a problem and sample."""
    delimiters = delimiters_of(params.reward)
    conversations = [data.conversation(problem, params.reward) for problem in problems]
    images = [problem["image"] for problem in problems]
    done = 0

    def report(finished: int) -> None:
        nonlocal done
        done += finished
        if progress:
            progress(phase, done, len(conversations))

    completions = policy.sample(
        conversations,
        images,
        max_new_tokens=params.training.max_completion_length,
        temperature=params.evaluation.temperature,
        samples_per_problem=params.evaluation.samples_per_problem,
        seed=params.training.seed,
        progress=report,
    )
    rows = []
    for problem, image, group in zip(problems, images, completions, strict=True):
        shared = {"phase": phase, "pid": problem["pid"], "kind": data.kind_of(problem)}
        shared |= {key: problem.get(key) for key in PROBLEM_COLUMNS}
        shared |= {"image": run.image_file(image), "prompt": data.prompt_text(problem, params.reward)}
        for completion in group:
            form = grading.check_format(completion.text, delimiters)
            rows.append(
                {
                    **shared,
                    "completion": completion.text,
                    "length": completion.length,
                    "truncated": completion.truncated,
                    "format_ok": form.reasoning and form.solution,
                    **grade_row(completion.text, problem, delimiters, params.evaluation.protocol),
                }
            )
    return rows


def summarise(rows: Sequence[dict]) -> dict:
    """Rates over one phase's predictions; `unparsed_rate` counts those in which the grader found no answer to judge."""
    if not rows:
        return {"accuracy": None, "format_rate": None, "unparsed_rate": None, "n": 0}
    return {
        "accuracy": float(np.mean([row["correct"] for row in rows])),
        "format_rate": float(np.mean([row["format_ok"] for row in rows])),
        "unparsed_rate": float(np.mean([row["parsed"] is None for row in rows])),
        "n": len({row["pid"] for row in rows}),
    }


def compare(predictions: Sequence[dict], *, seed: int = 0) -> dict:
    """`evaluation.json` without protocol and decoding, from the rows of both phases (or of "after" alone)."""
    phases = {phase: [row for row in predictions if row["phase"] == phase] for phase in ("before", "after")}
    result: dict[str, Any] = {phase: summarise(rows) for phase, rows in phases.items() if rows}
    accuracy = {phase: problem_accuracy(rows) for phase, rows in phases.items()}
    if phases["before"]:
        result["difference"] = paired_difference(accuracy["before"], accuracy["after"], seed=seed)
    kinds: dict[str, set] = defaultdict(set)
    for row in predictions:
        kinds[row["kind"]].add(row["pid"])
    result["by_group"] = {
        kind: {
            phase: _mean(accuracy[phase][pid] for pid in sorted(pids) if pid in accuracy[phase]) for phase in accuracy
        }
        | {"n": len(pids)}
        for kind, pids in sorted(kinds.items())
    }
    return result


def problem_accuracy(rows: Iterable[dict]) -> dict[str, float]:
    """Share of correct samples by problem id."""
    verdicts: dict[str, list[bool]] = defaultdict(list)
    for row in rows:
        verdicts[row["pid"]].append(row["correct"])
    return {pid: float(np.mean(values)) for pid, values in verdicts.items()}


def paired_difference(first: dict[str, float], second: dict[str, float], *, seed: int = 0) -> dict:
    """Mean of `second - first` over the problems that both hold, with a bootstrap 95 % interval.

    The interval resamples problems (scipy.stats.bootstrap, percentile method), so what all problems share, such as
    their difficulty, cancels. A difference that is the same for every problem has an interval of width 0.
    """
    from scipy.stats import bootstrap

    shared = sorted(first.keys() & second.keys())
    if not shared:
        return {"accuracy": None, "ci95": [None, None], "n_paired": 0}
    differences = np.array([second[pid] - first[pid] for pid in shared])
    mean = float(differences.mean())
    low = high = mean
    if len(shared) > 1 and np.ptp(differences) > 0:
        interval = bootstrap(
            (differences,),
            np.mean,
            n_resamples=BOOTSTRAP_RESAMPLES,
            method="percentile",
            batch=500,
            rng=np.random.default_rng(seed),
        ).confidence_interval
        low, high = float(interval.low), float(interval.high)
    return {"accuracy": mean, "ci95": [low, high], "n_paired": len(shared)}


def print_progress(phase: str, done: int, total: int) -> None:
    """A line at a quarter, a half, three quarters and the end of a phase, for `evaluate(..., progress=...)`."""
    quarter = max(1, total // 4)
    if done == total or done // quarter > (done - 1) // quarter:
        print(f"{phase}: {done}/{total} problems answered", flush=True)


def headline(result: dict) -> str:
    """The result as one honest sentence."""
    after = result["after"]
    if "difference" not in result:
        return f"Accuracy after training: {after['accuracy']:.1%} of {after['n']} problems; no baseline was measured."
    difference, (low, high) = (
        100 * result["difference"]["accuracy"],
        (100 * end for end in result["difference"]["ci95"]),
    )
    verdict = "a gain" if low > 0 else "a loss" if high < 0 else "no difference that this many problems could show"
    return (
        f"Accuracy {result['before']['accuracy']:.1%} -> {after['accuracy']:.1%} on the same {result['difference']['n_paired']} problems: "
        f"{difference:+.1f} points (95 % interval {low:+.1f} to {high:+.1f}), {verdict}."
    )


def _mean(values: Iterable[float]) -> float | None:
    values = list(values)
    return float(np.mean(values)) if values else None
