"""Choosing a checkpoint without peeking: problems cut from the training side, answered every few steps; the policy that
answers them best is kept, and the evaluation problems have no part in it.
"""

from __future__ import annotations

import shutil
import tempfile
from pathlib import Path
from typing import Any

from nbhelpers.params import RunParams
from nbhelpers.policy import Policy, load_weights, predict
from nbhelpers.problems import cut_from_training
from nbhelpers.runs import RunDirectory, flaw, read_seal, seal
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


def best_folder(run: RunDirectory) -> Path:
    """Where the adapter that did best on the selection set lies."""
    return run.checkpoints_dir / "best"


def selecting_callback(
    policy: Policy, problems: Any, params: RunParams, run: RunDirectory, resumed: int, fresh: dict[str, float]
) -> Any:
    """A callback for the trainer that answers the selection set greedily every `training.eval_steps` and after the last
    step, and keeps the adapter where the accuracy is higher than ever before.

    Args:
        resumed: the step that training goes on from; an adapter kept after it is made again.
        fresh: gets the accuracy, for the next line of the metrics.
    """
    from transformers import TrainerCallback

    sealed = read_seal(best_folder(run)) or {"step": resumed + 1}
    best = sealed["accuracy"] if sealed["step"] <= resumed else -1.0

    class SelectingCallback(TrainerCallback):
        def __init__(self):
            self.best = best

        def on_step_end(self, args, state, control, **kwargs):
            step = state.global_step
            if not len(problems) or (step % params.training.eval_steps and step != state.max_steps):
                return
            rows = predict(policy, problems, params, run, phase="selection")
            accuracy = sum(row["correct"] for row in rows) / len(rows)
            fresh["selection/accuracy"] = accuracy
            if accuracy > self.best:
                self.best = accuracy
                _keep_best(policy, best_folder(run), step=step, accuracy=accuracy, problems=len(rows))

    return SelectingCallback()


def _keep_best(policy: Policy, folder: Path, **facts: Any) -> None:
    """Write the adapter to `folder`, sealed with `facts`, in place of the one that was there."""
    folder.parent.mkdir(parents=True, exist_ok=True)
    unfinished = Path(tempfile.mkdtemp(dir=folder.parent, prefix=f".{folder.name}."))
    policy.model.save_pretrained(unfinished)
    policy.processor.save_pretrained(unfinished)  # so that it can be evaluated as any checkpoint
    seal(unfinished, **facts)
    shutil.rmtree(folder, ignore_errors=True)
    unfinished.rename(folder)


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
