"""Problems set aside from training and answered greedily every few steps: probes, so that each is seen early and late,
and the selection set, by which a checkpoint is chosen without peeking at the evaluation problems.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from nbhelpers.params import RunParams
from nbhelpers.policy import Policy, load_weights, predict, save_final_model
from nbhelpers.problems import cut_from_training, kind_of
from nbhelpers.rewards import preview
from nbhelpers.runs import RunDirectory, flaw, read_seal
from nbhelpers.training.configuration import TrainingError


def set_aside_selection(train: Any, params: RunParams) -> tuple[Any, Any]:
    """The problems to train on, and those of `evaluation.select_on`, which share no picture with them.

    Raises:
        TrainingError: so many are not there.
    """
    wanted = params.evaluation.select_on
    if wanted is None:
        return train, train.select([])
    number = wanted if isinstance(wanted, int) else max(1, round(wanted * len(train)))
    if number >= len(train):
        raise TrainingError(
            f"evaluation.select_on asks for {number} of the {len(train)} training problems, so nothing would be left "
            "to train on: give a smaller number, or a fraction such as 0.05."
        )
    return cut_from_training(train, number, params.dataset.seed)


def set_aside_probes(train: Any, count: int) -> tuple[Any, Any]:
    """The problems to train on and up to `count` probes: one of each kind in turn, from the end of the training side.

    Never more than a tenth of the problems are taken, so that a small data set keeps its size.
    """
    kinds = [kind_of(row) for row in train.remove_columns("image")]
    by_kind = {
        kind: [place for place in reversed(range(len(kinds))) if kinds[place] == kind] for kind in dict.fromkeys(kinds)
    }
    turns = [places[turn] for turn in range(count) for places in by_kind.values() if turn < len(places)]
    probes = turns[: min(count, len(train) // 10)]
    return train.select(sorted(set(range(len(train))) - set(probes))), train.select(probes)


def asking_callback(
    policy: Policy, probes: Any, selection: Any, params: RunParams, run: RunDirectory, resumed: int,
    fresh: dict[str, float],
) -> Any:  # fmt: skip
    """A callback for the trainer that asks the probes before the first step, every `training.probe_steps` and after the
    last; and the selection set every `training.eval_steps` and after the last, and keeps the adapter where the accuracy
    is higher than ever before.

    Args:
        resumed: the step that training goes on from; an adapter kept after it is made again.
        fresh: gets what was found, for the next line of the metrics.
    """
    from transformers import TrainerCallback

    sealed = read_seal(best_folder(run)) or {"step": resumed + 1}

    class AskingCallback(TrainerCallback):
        best = sealed["accuracy"] if sealed["step"] <= resumed else -1.0

        def on_train_begin(self, args, state, control, **kwargs):
            if len(probes) and state.global_step == 0:
                fresh.update(_ask_probes(policy, probes, params, run, 0))

        def on_step_end(self, args, state, control, **kwargs):
            step, is_last = state.global_step, state.global_step == state.max_steps
            if len(probes) and (is_last or step % params.training.probe_steps == 0):
                fresh.update(_ask_probes(policy, probes, params, run, step))
            if len(selection) and (is_last or step % params.training.eval_steps == 0):
                rows = predict(policy, selection, params, run, phase="selection")
                accuracy = _share_right(rows)
                fresh["selection/accuracy"] = accuracy
                if accuracy > self.best:
                    self.best = accuracy
                    facts = {"step": step, "accuracy": accuracy, "problems": len(rows)}
                    save_final_model(policy, best_folder(run), keep_earlier=False, **facts)

    return AskingCallback()


def _ask_probes(policy: Policy, probes: Any, params: RunParams, run: RunDirectory, step: int) -> dict[str, float]:
    """What belongs into the metrics of a step. The rows go to `samples.jsonl` with `role: probe`, in groups of one and
    without an advantage.
    """
    rows = predict(policy, probes, params, run, phase="probe")
    paid = preview(
        list(probes.remove_columns("image")),
        [[row["completion"]] for row in rows],
        params.reward,
        lengths=[[row["length"]] for row in rows],
        max_completion_length=params.training.max_completion_length,
    )
    for place, row in enumerate(rows):
        del row["phase"], row["format_ok"]
        rewards = {name: values[place] for name, values in paid.rewards.items()}
        row |= {"role": "probe", "step": step, "group": f"probe-{step}-{place}", "index": 0}
        row |= {"rewards": rewards, "reward": paid.totals[place], "advantage": None}
    run.append_jsonl(run.samples_path, *rows)
    return {
        "probe/accuracy": _share_right(rows),
        "probe/mean_length": sum(row["length"] for row in rows) / len(rows),
    }


def _share_right(rows: list[dict]) -> float:
    return sum(row["correct"] for row in rows) / len(rows)


def best_folder(run: RunDirectory) -> Path:
    """Where the adapter that did best on the selection set lies."""
    return run.checkpoints_dir / "best"


def take_selected(policy: Policy, params: RunParams, run: RunDirectory, last: int) -> dict[str, Any]:
    """Give the policy the weights that are to be evaluated, and say which they are and how they were chosen: `step`,
    `chosen`, for the seal of `final_model/` and for `evaluation.json`.
    """
    folder = best_folder(run)
    if params.evaluation.select_on is None or flaw(folder):
        return {"step": last, "chosen": "the last step"}
    best = read_seal(folder)
    load_weights(policy, folder)
    chosen = (
        f"the best of those tried every {params.training.eval_steps} steps on {best['problems']} problems cut from the "
        f"training side ({100 * best['accuracy']:.1f} % right); the last step was {last}"
    )
    run.add_notice(f"final_model/ is of step {best['step']}: {chosen}. The evaluation problems had no part in that.")
    return {"step": best["step"], "chosen": chosen}
