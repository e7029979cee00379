"""Before and after: the policy answers the evaluation problems without and with its adapter, and is judged."""

from __future__ import annotations

import contextlib
import shlex
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

from nbhelpers.evaluation.answering import Pass, answer, cost_sentence, plan_passes
from nbhelpers.evaluation.gain import right_anywhere, split_gain
from nbhelpers.evaluation.majority_at_k import vote_curve
from nbhelpers.evaluation.pass_at_k import pass_curve
from nbhelpers.evaluation.protocol import EvaluationError, EvaluationStopped, begin, choose_problems, conditions
from nbhelpers.evaluation.statistics import compare, mean, problem_accuracy
from nbhelpers.evaluation.we_math import we_math_scores
from nbhelpers.grading import GRADER_VERSION, count_errors
from nbhelpers.params import RunParams, counted
from nbhelpers.policy import Policy
from nbhelpers.problems import ProblemSets
from nbhelpers.runs import RunDirectory, read_seal, writing
from nbhelpers.training import (
    check_trained,
    disk_trouble,
    is_first_process,
    launch,
    launched,
    looking_once,
    num_processes,
    out_of_the_way,
    refuse_another_base,
    refuse_other_problems,
    stops_go_to,
    write_card,
)


def evaluate(
    policy: Policy,
    problems: ProblemSets,
    params: RunParams,
    run: RunDirectory,
    *,
    progress: Callable[[str, int, int], None] | None = None,
) -> dict:
    """Let the policy answer the evaluation problems without and with its adapter, and compare.

    What it costs is printed before it starts. Answers are written as they come; an evaluation that was killed goes on
    where it was, where nothing that matters has changed (`conditions` in `evaluation.json`). Writes `predictions.jsonl`
    and `evaluation.json` (their layout: README, "The run directory") and returns the latter; with `evaluation.pass_k`
    also `pass_at_k.jsonl`, and `plain_prompt.jsonl`, what the base model says without the output format. With
    `training.num_processes` above 1 other processes do it, which load `final_model/` and answer the batches in turn.

    Args:
        policy: with its trained adapter; switching the adapter off gives the policy before training. One without an
            adapter is evaluated as it is.
        progress: called with (pass, problems done, problems in all).

    Raises:
        EvaluationError: no prompt fits, or the disk takes no more answers.
        EvaluationStopped: it was interrupted, by SIGINT, SIGTERM or SIGHUP.
        TrainingError: `final_model/` is not of the step that the run's records have come to, or was trained with other
            settings than these.
        RunError: another process is writing in the run directory, or nothing can be written there.
    """
    # Where vLLM runs in this process already, its GPU cannot be left to another.
    alone = launched() or policy.holds_vllm or not policy.has_adapter
    if not alone and (processes := num_processes(params)) > 1:
        with out_of_the_way(policy):
            launch("nbhelpers.evaluation", params, processes)
        return run.read_json(run.evaluation_path)
    lock = writing(run.path, "evaluation") if is_first_process() else contextlib.nullcontext()
    with lock, _ending_in_words(run):
        check_trained(params, run)
        refuse_other_problems(params, run, problems.fingerprint)
        refuse_another_base(run, policy)
        chosen, left_out = choose_problems(policy, problems, params)
        passes = plan_passes(params, len(chosen), adapter=policy.has_adapter, run=run)
        record = conditions(policy, problems, chosen, params, passes)
        if is_first_process():
            _begin(policy, chosen, left_out, params, run, passes, record)
        pictures = min(len(chosen), 512)  # 0.7 GB of features for Gemma-3 4B
        with looking_once(policy.model, policy.processor, pictures=pictures):
            rows = {one.name: answer(policy, chosen, params, run, one, progress) for one in passes}
        checkpoint = (read_seal(run.final_model_dir) or {}).get("selected")
        result = judged(rows, passes, params) | {"checkpoint": checkpoint, "left_out": left_out, "conditions": record}
        if is_first_process():
            run.write_json(run.evaluation_path, result)
            run.evaluating_path.unlink()
            write_card(run, params)
        return result


@contextlib.contextmanager
def _ending_in_words(run: RunDirectory) -> Iterator[None]:
    def stop(number: int, frame: Any) -> None:
        raise KeyboardInterrupt

    again = f"notebook 04, or nbhelpers evaluate {shlex.quote(str(run.path))}," if run.params_path.is_file() else ""
    kept = f"{run.path}: the answers so far are kept, and {again or 'the same command'} goes on with them."
    try:
        with stops_go_to(stop):
            yield
    except KeyboardInterrupt:
        raise EvaluationStopped(f"Evaluation was interrupted. {kept}") from None
    except Exception as error:
        if not (trouble := disk_trouble(error)):
            raise
        raise EvaluationError(f"Evaluation could not write any more: {trouble}. Mend that first. {kept}") from error


def _begin(
    policy: Policy, chosen: Any, left_out: Mapping, params: RunParams, run: RunDirectory, passes: Sequence[Pass],
    record: Mapping,
) -> None:  # fmt: skip
    """Ready the files, and say what is left out and what it will cost."""
    if begin(run, record):
        print("An evaluation of this policy was interrupted; it goes on.", flush=True)
    if left_out["overlong"]:
        run.add_warning(
            f"{left_out['overlong']} of {counted(left_out['overlong'] + len(chosen), 'evaluation problem')} "
            f"were left out: their prompt is longer than the {left_out['room']} tokens that a completion leaves it."
        )
    print(cost_sentence(policy, chosen, params, run, passes), flush=True)


def judged(rows: Mapping[str, list[dict]], passes: Sequence[Pass], params: RunParams) -> dict[str, Any]:
    """`evaluation.json` but for its conditions, from the rows of each pass by its name."""
    settings = params.evaluation
    before, after = rows.get("before", []), rows["after"]
    result = compare([*before, *after]) | {
        "protocol": settings.protocol,
        "grader": GRADER_VERSION,
        "decoding": {
            "temperature": settings.temperature,
            "samples_per_problem": settings.samples_per_problem,
            "max_new_tokens": params.training.max_completion_length,
        },
        "errors": {phase: count_errors(found) for phase, found in (("before", before), ("after", after)) if found},
    }
    for kind, group in result["by_group"].items():
        group["errors"] = count_errors(row for row in after if row["kind"] == kind)
    plain = rows.get("plain prompt", [])
    if before:
        result["split"] = split_gain(before, after, plain)
    else:
        found = {"training_prompt": right_anywhere(after), "plain_prompt": right_anywhere(plain)}
        result["anywhere"] = {name: mean(rates.values()) for name, rates in found.items() if rates}
    curves = {
        phase: pass_curve(found) | vote_curve(found, settings.protocol) | _greedy(rows[phase], found, settings)
        for phase in ("before", "after")
        if (found := rows.get(f"{phase}, sampled"))
    }
    if settings.protocol == "wemath":
        result["we_math"] = {phase: we_math_scores(found) for phase, found in (("before", before), ("after", after))}
    if curves:
        result["pass_at_k"] = curves | {"temperature": params.training.temperature}
    return result


def _greedy(rows: Sequence[dict], sampled: Sequence[dict], settings: Any) -> dict[str, float]:
    """Greedy accuracy on the problems that were also sampled, where the evaluation is greedy."""
    pids = {row["pid"] for row in sampled}
    rates = problem_accuracy(row for row in rows if row["pid"] in pids)
    return {"greedy": round(mean(rates.values()), 4)} if settings.temperature == 0 else {}
