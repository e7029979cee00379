"""TODO."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import matplotlib
import numpy as np
from matplotlib.figure import Figure

from nbhelpers.show.figures import (
    BLUE,
    GREEN,
    GREY,
    ORANGE,
    PALETTE,
    PURPLE,
    SKY,
    VERMILION,
    WIDTH,
    NotebookFigure,
    draw_series,
    drawable,
    nothing_yet,
    percent_axis,
    series_of,
    steps_axis,
    style,
)

WHY_LOSS_IS_NEAR_ZERO = (
    "The loss is near 0 by construction: the advantages of a group sum to 0 and the importance ratio is 1 when\n"
    "the completions are fresh. Its gradient is not 0, and that is what moves the policy. Read the reward instead."
)


def reward_names(metrics: Sequence[Mapping]) -> list[str]:
    """The reward functions that TRL logged, in its order."""
    found = dict.fromkeys(
        key[len("rewards/") : -len("/mean")]
        for row in metrics
        for key in row
        if key.startswith("rewards/") and key.endswith("/mean")
    )
    return list(found)


def _draw_rewards(axis, metrics: Sequence[Mapping]) -> None:
    names = reward_names(metrics)
    colors = (GREEN, ORANGE, PURPLE, SKY, VERMILION, GREY)
    for place, name in enumerate(names):
        steps, values = series_of(metrics, f"rewards/{name}/mean")
        _, spread = series_of(metrics, f"rewards/{name}/std")
        color = colors[place % len(colors)]
        draw_series(axis, steps, values, color, name, spread, marker="sD^vPX"[place % 6])
    steps, values = series_of(metrics, "reward")
    if len(names) != 1:
        draw_series(axis, steps, values, BLUE, "total", marker="o")
    axis.set_ylabel("reward a completion")
    steps_axis(axis)
    if axis.get_legend_handles_labels()[0]:
        axis.legend(loc="upper left", bbox_to_anchor=(0, 1.0), ncols=4)
    low, high = axis.get_ylim()
    axis.set_ylim(low, high + 0.16 * (high - low))  # room for the legend


def training_overview(metrics: Sequence[Mapping]) -> Figure:
    """Everything one watches in GRPO on one page, the loss last, with the reason why it is near 0.

    Panels without data (KL without `beta`, say) are left out.

    Args:
        metrics: rows of `metrics.jsonl`.
    """
    if not metrics:
        return nothing_yet("no training step has been logged yet")
    panels = [
        ("reward_std", "Reward spread inside a group", "standard deviation", PURPLE),
        ("frac_reward_zero_std", "Groups with zero reward variance", "share of groups", VERMILION),
        ("completions/mean_length", "Completion length", "tokens, mean", SKY),
        ("completions/clipped_ratio", "Completions cut off at the limit", "share", VERMILION),
        ("entropy", "Entropy of the policy", "nats a token", GREEN),
        ("kl", "KL to the reference policy", "nats a token", ORANGE),
        ("grad_norm", "Gradient norm before clipping", "norm", GREY),
        ("step_time", "Time of a step", "seconds", GREY),
        ("loss", "Loss", "dimensionless", GREY),
    ]
    panels = [panel for panel in panels if len(series_of(metrics, panel[0])[0])]
    has_loss = bool(panels) and panels[-1][0] == "loss"
    rows = -(-len(panels) // 3)
    with style():
        figure = NotebookFigure(figsize=(WIDTH, 3.3 + 2.15 * rows + 0.45 * has_loss), layout="constrained")
        grid = figure.add_gridspec(1 + rows, 3, height_ratios=[3.3, *[2.15] * rows])
        top = figure.add_subplot(grid[0, :])
        _draw_rewards(top, metrics)
        top.set_title("Reward by function (band: \u00b11 std of completions)")
        for place, (key, title, unit, color) in enumerate(panels):
            axis = figure.add_subplot(grid[1 + place // 3, place % 3])
            draw_series(axis, *series_of(metrics, key), color)
            axis.set_title(title, fontsize=9.5)
            axis.set_ylabel(unit)
            if key in ("frac_reward_zero_std", "completions/clipped_ratio"):
                percent_axis(axis, unit)
            elif key == "loss":
                # The scale of the reward, so that its noise does not look like a signal.
                reach = max(0.1, float(np.nanmax(np.abs(series_of(metrics, key)[1]))) * 1.3)
                axis.set_ylim(-reach, reach)
            elif key != "kl":
                highest = float(np.nanmax(series_of(metrics, key)[1]))
                axis.set_ylim(0, 1.1 * highest if highest > 0 else 1)
            steps_axis(axis)
        if has_loss:
            figure.supxlabel(WHY_LOSS_IS_NEAR_ZERO, fontsize=8.5, color="#555555", x=0.5)
    return figure


def compare_curves(runs: Mapping[str, Sequence[Mapping]]) -> Figure:
    """The same curves of several runs over one another.

    Args:
        runs: `metrics.jsonl` rows by the name to show.
    """
    if not any(runs.values()):
        return nothing_yet("no run has logged a training step yet")
    functions = list(dict.fromkeys(name for metrics in runs.values() for name in reward_names(metrics)))
    panels = [("reward", "Reward, total", "reward a completion")]
    panels += [(f"rewards/{name}/mean", f"Reward: {name}", "reward a completion") for name in functions]
    panels += [
        ("frac_reward_zero_std", "Groups with zero reward variance", "share of groups"),
        ("completions/mean_length", "Completion length", "tokens, mean"),
        ("completions/clipped_ratio", "Completions cut off at the limit", "share"),
        ("entropy", "Entropy of the policy", "nats a token"),
        ("kl", "KL to the reference policy", "nats a token"),
    ]
    panels = [panel for panel in panels if any(len(series_of(metrics, panel[0])[0]) for metrics in runs.values())]
    rows = -(-len(panels) // 3)
    with style():
        figure = NotebookFigure(figsize=(WIDTH, 0.5 + 2.4 * rows), layout="constrained")
        axes = np.ravel(figure.subplots(rows, 3, squeeze=False))
        for axis, (key, title, unit) in zip(axes, panels, strict=False):
            for place, metrics in enumerate(runs.values()):
                color = PALETTE[place % len(PALETTE)]
                draw_series(axis, *series_of(metrics, key), color, marker="os^vDPX"[place % 7])
            axis.set_title(drawable(title, 40, 1), fontsize=9.5, parse_math=False)
            axis.set_ylabel(unit)
            if key in ("frac_reward_zero_std", "completions/clipped_ratio"):
                percent_axis(axis, unit)
            steps_axis(axis)
        for axis in axes[len(panels) :]:
            axis.set_visible(False)
        handles = [
            matplotlib.lines.Line2D(
                [], [], color=PALETTE[place % len(PALETTE)], marker="os^vDPX"[place % 7], markersize=5
            )
            for place in range(len(runs))
        ]
        legend = figure.legend(
            handles, [drawable(name, 60, 1) for name in runs], loc="outside upper left", ncols=min(4, len(runs))
        )
        for text in legend.get_texts():
            text.set_parse_math(False)
    return figure
