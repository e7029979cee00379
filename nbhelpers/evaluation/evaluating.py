"""Before and after: the policy answers the evaluation problems without and with its adapter."""

from __future__ import annotations

import contextlib
from collections.abc import Callable

from nbhelpers.evaluation.majority_at_k import vote_curve
from nbhelpers.evaluation.pass_at_k import pass_curve
from nbhelpers.evaluation.statistics import compare, detectable_difference
from nbhelpers.grading import GRADER_VERSION
from nbhelpers.params import RunParams
from nbhelpers.policy import Policy, predict
from nbhelpers.problems import ProblemSets
from nbhelpers.runs import RunDirectory, writing
from nbhelpers.training import check_trained, looking_once


def evaluate(
    policy: Policy,
    problems: ProblemSets,
    params: RunParams,
    run: RunDirectory,
    *,
    progress: Callable[[str, int, int], None] | None = None,
) -> dict:
    """Let the policy answer the evaluation problems without and with its adapter, and compare.

    Writes `predictions.jsonl` and `evaluation.json` (their layout: README, "The run directory") and returns the
    latter; with `evaluation.pass_k` also `pass_at_k.jsonl`, the answers that were sampled for it.

    Args:
        policy: with its trained adapter; switching the adapter off gives the policy before training.
        progress: called with (phase, problems done, problems in all).

    Raises:
        TrainingError: `final_model/` is not of the step that the run's records have come to, or was trained with other
            settings than these.
        RunError: another process is writing in the run directory, or nothing can be written there.
    """
    with writing(run.path, "evaluation"):
        check_trained(params, run)
        return _evaluate(policy, problems, params, run, progress)


def _evaluate(
    policy: Policy, problems: ProblemSets, params: RunParams, run: RunDirectory, progress: Callable | None
) -> dict:
    settings, chosen = params.evaluation, problems.evaluation
    if settings.num_samples is not None:
        chosen = chosen.select(range(min(settings.num_samples, len(chosen))))
    chosen = list(chosen)  # every picture decoded once for all that is asked about it
    predictions: list[dict] = []
    curves: dict[str, dict] = {}
    run.set_aside(run.evaluation_path, run.predictions_path, run.pass_path)
    pictures = min(len(chosen), 512)  # 0.7 GB of features for Gemma-3 4B
    with looking_once(policy.model, policy.processor, pictures=pictures):
        for phase in ("before", "after") if settings.baseline else ("after",):
            with policy.without_adapter() if phase == "before" else contextlib.nullcontext():
                decoding = {"temperature": settings.temperature, "samples_per_problem": settings.samples_per_problem}
                rows = predict(policy, chosen, params, run, phase=phase, progress=progress, **decoding)
                run.append_jsonl(run.predictions_path, *rows)
                predictions += rows
                if settings.pass_k:
                    few = chosen[: settings.pass_problems]
                    sampling = {"temperature": params.training.temperature, "samples_per_problem": settings.pass_k}
                    rows = predict(policy, few, params, run, phase=phase, progress=progress, **sampling)
                    run.append_jsonl(run.pass_path, *rows)
                    curves[phase] = pass_curve(rows) | vote_curve(rows, settings.protocol)
    result = compare(predictions, seed=params.dataset.seed) | {
        "protocol": settings.protocol,
        "grader": GRADER_VERSION,
        "decoding": {
            "temperature": settings.temperature,
            "samples_per_problem": settings.samples_per_problem,
            "max_new_tokens": params.training.max_completion_length,
        },
    }
    if curves:
        result["pass_at_k"] = curves | {"temperature": params.training.temperature}
    run.write_json(run.evaluation_path, result)
    return result


def print_progress(phase: str, done: int, total: int) -> None:
    """A line at the half and at the end of a phase, for `evaluate(..., progress=...)`."""
    half = max(1, total // 2)
    if done == total or done // half > (done - 1) // half:
        print(f"{phase}: {done}/{total} problems answered", flush=True)


def headline(result: dict) -> str:
    """The result as one honest sentence."""
    after, difference = result["after"], result.get("difference")
    accuracy = f"{100 * after['accuracy']:.1f} %"
    if difference is None:
        return f"Accuracy after training: {accuracy} of {after['n']} problems; no baseline was measured."
    gain, low, high = (100 * value for value in (difference["accuracy"], *difference["ci95"]))
    verdict = "a gain" if low > 0 else "a loss" if high < 0 else "no difference that this many problems could show"
    return (
        f"Accuracy {100 * result['before']['accuracy']:.1f} % → {accuracy} on the same {difference['n_paired']} "
        f"problems: {gain:+.1f} points (95 % interval {low:+.1f} to {high:+.1f}), {verdict}."
    )


def power_sentence(problems: int, flips: float | None = None) -> str:
    """What difference so many problems can show; without `flips`, with the share of changed verdicts that is usual."""
    shown = detectable_difference(problems) if flips is None else detectable_difference(problems, flips=flips)
    given = "if 12 % of the verdicts change" if flips is None else f"with {100 * flips:.0f} % of the verdicts changed"
    return (
        f"{problems} problems show a true difference of {100 * shown:.1f} points in four of five runs, {given}; "
        "smaller ones will often look like none."
    )
