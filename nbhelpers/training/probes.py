"""Probes: a few problems that are never trained on, answered every few steps, so that each is seen early and late."""

from __future__ import annotations

from typing import Any

from nbhelpers.params import RunParams
from nbhelpers.policy import Policy, predict
from nbhelpers.problems import kind_of
from nbhelpers.rewards import preview
from nbhelpers.runs import RunDirectory


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


class Probes:
    """Asks the probes greedily; their rows in `samples.jsonl` have `role: probe`, a group of one and no advantage."""

    def __init__(self, policy: Policy, problems: Any, params: RunParams, run: RunDirectory):
        self.policy, self.problems, self.params, self.run = policy, problems, params, run

    def ask(self, step: int) -> dict[str, float]:
        """Answer them with the policy as it is after `step` steps; returns what belongs into the step's metrics."""
        if not len(self.problems):
            return {}
        rows = predict(self.policy, self.problems, self.params, self.run, phase="probe")
        paid = preview(
            list(self.problems.remove_columns("image")),
            [[row["completion"]] for row in rows],
            self.params.reward,
            lengths=[[row["length"]] for row in rows],
            max_completion_length=self.params.training.max_completion_length,
        )
        for place, row in enumerate(rows):
            del row["phase"], row["format_ok"]
            rewards = {name: values[place] for name, values in paid.rewards.items()}
            row |= {"role": "probe", "step": step, "group": f"probe-{step}-{place}", "index": 0}
            row |= {"rewards": rewards, "reward": paid.totals[place], "advantage": None}
        self.run.append_jsonl(self.run.samples_path, *rows)
        return {
            "probe/accuracy": sum(row["correct"] for row in rows) / len(rows),
            "probe/mean_length": sum(row["length"] for row in rows) / len(rows),
        }


def probes_callback(probes: Probes, fresh: dict[str, float]) -> Any:
    """A callback for the trainer that asks the probes before the first step, every `probe_steps`, and after the last.

    Args:
        fresh: gets what was found, for the next line of the metrics.
    """
    from transformers import TrainerCallback

    class ProbesCallback(TrainerCallback):
        def on_train_begin(self, args, state, control, **kwargs):
            if state.global_step == 0:
                fresh.update(probes.ask(0))

        def on_step_end(self, args, state, control, **kwargs):
            if state.global_step % probes.params.training.probe_steps == 0 or state.global_step == state.max_steps:
                fresh.update(probes.ask(state.global_step))

    return ProbesCallback()
