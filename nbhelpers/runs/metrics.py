"""The metrics of a training run in one table: keys of `metrics.jsonl` in words, with units, and where each is shown."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

# What the loss says, for each place that shows it (TRL 1.14.2; tests/test_plots.py recomputes one from its samples).
LOSS_MEANS = (
    "With dr_grpo and fresh completions the loss is \u2212mean(advantage \u00d7 length) / max_completion_length. "
    "Below 0: the longer completions of a group earn more than the shorter ones, so length is being paid. "
    "Above 0: the shorter ones earn more. It is no measure of progress; that is the reward."
)


@dataclass(frozen=True, slots=True)
class Metric:
    """One number of a logging step.

    Attributes:
        key: in `metrics.jsonl`.
        label: in words.
        unit: "%" for a share, logged from 0 to 1 and shown times 100.
        shown: where, in words of "story" (the overview's first panels), "rest" (its others), "tile" (live view),
            "compare", "report" and "line" (progress line).
        short: the progress line's word, where it is another.
    """

    key: str
    label: str
    unit: str
    shown: str
    short: str = ""

    def text(self, value: float | None) -> str:
        """The value as shown, without its unit; a dash for what is not a finite number."""
        if not isinstance(value, (int, float)) or not math.isfinite(value):
            return "\u2013"
        value = 100 * value if self.unit == "%" else value
        size = abs(value)
        decimals = 0 if self.unit == "%" or size >= 100 else 1 if size >= 10 else 4 if 0 < size < 0.01 else 2
        return f"{round(value, decimals) + 0.0:.{decimals}f}"  # + 0.0: no "-0.00"


METRICS = (
    Metric("reward", "reward", "per completion", "tile compare report line"),  # the overview draws it with its parts
    Metric("reward_std", "reward spread in a group", "standard deviation", "rest tile"),
    Metric("frac_reward_zero_std", "groups without signal", "%", "story tile compare report line", "zero variance"),
    Metric("completions/mean_length", "completion length", "tokens", "story tile compare report line", "length"),
    Metric("probe/accuracy", "probes solved", "%", "story tile report"),
    Metric("selection/accuracy", "selection set solved", "%", "story tile report"),
    Metric("loss", "loss", "", "story tile"),
    Metric("completions/clipped_ratio", "completions cut off", "%", "rest tile compare report line", "cut off"),
    Metric("entropy", "entropy of the policy", "nats per token", "rest tile compare report"),
    Metric("kl", "KL to the reference policy", "nats per token", "rest tile compare report line", "KL"),
    Metric("sampling/sampling_logp_difference/mean", "gap between vLLM and the trainer", "nats per token", "rest tile"),
    Metric("sampling/importance_sampling_ratio/mean", "importance weight", "1: no correction", "rest tile"),
    Metric("grad_norm", "gradient norm before clipping", "", "rest"),
    Metric("step_time", "time of a step", "seconds", "rest"),
)


def reward_functions(rows: Iterable[Mapping]) -> list[str]:
    """The reward functions that TRL logged in these rows of `metrics.jsonl`, in its order."""
    keys = dict.fromkeys(key for row in rows for key in row if key.startswith("rewards/") and key.endswith("/mean"))
    return [key.removeprefix("rewards/").removesuffix("/mean") for key in keys]


def metrics_shown(place: str, rows: Sequence[Mapping]) -> list[Metric]:
    """The metrics shown at `place` (see `Metric.shown`) and logged in `rows`; the reward comes with its functions."""
    found = []
    for metric in METRICS:
        if place in metric.shown.split():
            found.append(metric)
            if metric.key == "reward":
                for name in reward_functions(rows):
                    found.append(Metric(f"rewards/{name}/mean", f"reward ({name})", metric.unit, metric.shown))
    return [metric for metric in found if any(logged(row, metric.key) for row in rows)]


def logged(row: Mapping, key: str) -> bool:
    """Whether the row holds a finite number under `key`."""
    return isinstance(row.get(key), (int, float)) and math.isfinite(row[key])


def seconds_left(row: Mapping, total_steps: int | None) -> float | None:
    """What the steps after this row will take at its pace, `seconds_per_step`, which `train` adds for its `on_log`."""
    if not total_steps or not row.get("seconds_per_step"):
        return None
    return (total_steps - row["step"]) * row["seconds_per_step"]


def progress_line(row: Mapping, total_steps: int | None = None) -> str:
    """One line about a step: rewards, groups without signal, lengths, and how long it will still take.

    Args:
        row: of `metrics.jsonl`; `max_steps` and `seconds_per_step`, which `train` adds for its `on_log`, are used too.
        total_steps: optimiser steps of the run, default the row's `max_steps`.
    """
    total = total_steps or row.get("max_steps")
    left = seconds_left(row, total)
    words = [f"step {row['step']}" + (f"/{total}" if total else "")]
    reward, *others = (metric for metric in METRICS if "line" in metric.shown.split())
    parts = ", ".join(f"{name} {reward.text(row[f'rewards/{name}/mean'])}" for name in reward_functions([row]))
    words.append(f"reward {reward.text(row.get('reward'))}" + (f" ({parts})" if parts else ""))
    for metric in others:
        usually_zero = metric.short in ("cut off", "KL")
        if logged(row, metric.key) and (row[metric.key] or not usually_zero):
            words.append(f"{metric.short} {metric.text(row[metric.key])}" + (" %" if metric.unit == "%" else ""))
    words += [f"{duration(left)} left"] if left else []
    return "  ".join(words)


def duration(seconds: float) -> str:
    """65 as "1 min 05 s"."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    if hours:
        return f"{hours} h {minutes:02d} min"
    return f"{minutes} min {rest:02d} s" if minutes else f"{rest} s"
