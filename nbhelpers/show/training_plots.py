"""The curves of a training run, those of several runs over one another, and a sweep's."""

from __future__ import annotations

import textwrap
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from nbhelpers.runs import LOSS_MEANS, Metric, metrics_shown, reward_functions
from nbhelpers.show import figures

_COLORS = {
    "reward_std": figures.PURPLE,
    "frac_reward_zero_std": figures.VERMILION,
    "completions/mean_length": figures.SKY,
    "completions/clipped_ratio": figures.VERMILION,
    "entropy": figures.GREEN,
    "kl": figures.ORANGE,
}


def _label_axes(axis, metric: Metric) -> None:
    label = figures.drawable(metric.label[:1].upper() + metric.label[1:], 40, 1)
    axis.set_title(label, fontsize=9.5)
    axis.set_ylabel(metric.unit or "dimensionless")
    if metric.unit == "%":
        figures.percent_axis(axis, "share")
    figures.steps_axis(axis)


def _draw_rewards(axis, metrics: Sequence[Mapping]) -> None:
    names = reward_functions(metrics)
    colors = (figures.GREEN, figures.ORANGE, figures.PURPLE, figures.SKY, figures.VERMILION, figures.GREY)
    for place, name in enumerate(names):
        steps, values = figures.series_of(metrics, f"rewards/{name}/mean")
        _, spread = figures.series_of(metrics, f"rewards/{name}/std")
        figures.draw_series(axis, steps, values, colors[place % len(colors)], name, spread, marker="sD^vPX"[place % 6])
    if len(names) != 1:
        figures.draw_series(axis, *figures.series_of(metrics, "reward"), figures.BLUE, "total", marker="o")
    axis.set_title("Reward by function (band: \u00b11 std of completions)")
    axis.set_ylabel("reward per completion")
    figures.steps_axis(axis)
    if axis.get_legend_handles_labels()[0]:
        axis.legend(loc="upper left", bbox_to_anchor=(0, 1.0), ncols=4)
    low, high = axis.get_ylim()
    axis.set_ylim(low, high + 0.16 * (high - low))  # room for the legend


def _draw_metric(axis, metrics: Sequence[Mapping], metric: Metric) -> None:
    steps, values = figures.series_of(metrics, metric.key)
    figures.draw_series(axis, steps, values, _COLORS.get(metric.key, figures.GREY))
    _label_axes(axis, metric)
    if metric.key == "loss":  # it is its sign that says something
        reach = 1.15 * float(np.nanmax(np.abs(values))) or 1.0
        axis.set_ylim(-reach, reach)
        axis.axhline(0, color="#999999", linewidth=0.8)
        for edge, side, words in ((0.97, "top", "shorter answers earn more"), (0.03, "bottom", "longer ones do")):
            axis.text(0.97, edge, words, transform=axis.transAxes, ha="right", va=side, fontsize=8, color="#666666")
    elif metric.unit != "%" and metric.key != "kl":
        axis.set_ylim(0, 1.1 * float(np.nanmax(values)) or 1.0)


def training_overview(metrics: Sequence[Mapping], everything: bool = False) -> Figure:
    """Reward by function; under it groups without signal, completion length, and the loss with what its sign says.

    Panels without data (KL without `beta`, say) are left out.

    Args:
        metrics: rows of `metrics.jsonl`.
        everything: also reward spread, completions cut off, entropy, KL, gradient norm and time of a step.
    """
    if not metrics:
        return figures.nothing_yet("no training step has been logged yet")
    panels = metrics_shown("story", metrics) + (metrics_shown("rest", metrics) if everything else [])
    columns = figures.columns_for(len(panels))
    rows = -(-len(panels) // columns)
    with figures.drawing(3.8 + 2.15 * rows) as figure:
        grid = figure.add_gridspec(1 + rows, columns, height_ratios=[3.3, *[2.15] * rows])
        _draw_rewards(figure.add_subplot(grid[0, :]), metrics)
        for place, metric in enumerate(panels):
            _draw_metric(figure.add_subplot(grid[1 + place // columns, place % columns]), metrics, metric)
        if any(metric.key == "loss" for metric in panels):
            figure.supxlabel(textwrap.fill(LOSS_MEANS, 120), fontsize=8.5, color="#555555", x=0.5)
    return figure


def compare_curves(runs: Mapping[str, Sequence[Mapping]]) -> Figure:
    """The same curves of several runs over one another.

    Args:
        runs: `metrics.jsonl` rows by the name to show.
    """
    panels = metrics_shown("compare", [row for metrics in runs.values() for row in metrics])
    if not panels:
        return figures.nothing_yet("no run has logged a training step yet")
    looks = [(figures.PALETTE[place % len(figures.PALETTE)], "os^vDPX"[place % 7]) for place in range(len(runs))]
    columns = figures.columns_for(len(panels))
    rows = -(-len(panels) // columns)
    with figures.drawing(0.5 + 2.4 * rows) as figure:
        for place, metric in enumerate(panels, start=1):
            axis = figure.add_subplot(rows, columns, place)
            for (color, marker), metrics in zip(looks, runs.values(), strict=True):
                figures.draw_series(axis, *figures.series_of(metrics, metric.key), color, marker=marker)
            _label_axes(axis, metric)
        handles = [Line2D([], [], color=color, marker=marker, markersize=5) for color, marker in looks]
        names = [figures.drawable(name, 60, 1) for name in runs]
        figure.legend(handles, names, loc="outside upper left", ncols=min(4, len(runs)))
    return figure


def sweep_figure(results: Sequence[Mapping[str, Any]]) -> Figure:
    """Accuracy after training, a dot for each seed; and the share of right probes over the steps, the mean of the seeds
    over the thin line of each.

    Args:
        results: a dict for each run with `override`, `before` and `after` (0 to 1; `before` may be None) and `curve`,
            (step, share of right probes).
    """
    names = list(dict.fromkeys(result["override"] for result in results))
    with figures.drawing(max(2.8, 1.0 + 0.4 * len(names))) as figure:
        left, right = figure.subplots(1, 2, width_ratios=[3, 4])
        for place, name in enumerate(names):
            own = [result for result in results if result["override"] == name]
            color = figures.PALETTE[place % len(figures.PALETTE)]
            after = [result["after"] for result in own]
            left.scatter(after, place + 0.16 * (np.arange(len(own)) - (len(own) - 1) / 2) / max(1, len(own) - 1) * 2,
                         color=color, s=22, alpha=0.8, zorder=3)  # fmt: skip
            left.plot([np.mean(after)] * 2, [place - 0.32, place + 0.32], color=color, linewidth=2)
            _draw_curves(right, [result["curve"] for result in own if result["curve"]], color, name)
        before = [result["before"] for result in results if result["before"] is not None]
        if before:
            left.axvline(np.mean(before), color=figures.BEFORE, linestyle="--", label="before training")
            left.legend(loc="lower left", bbox_to_anchor=(0, 0.995))
        figures.name_rows(left, range(len(names)), names, 26, 2)
        figures.shares(left.xaxis)
        left.set_xlabel("greedy accuracy after training (a dot a seed; bar: mean)")
        figures.percent_axis(right, "probes answered right")
        figures.steps_axis(right)
        if right.get_legend_handles_labels()[0]:
            right.legend(loc="lower right", fontsize=8)
    return figure


def _draw_curves(axis, curves: Sequence[Sequence[tuple[int, float]]], color: str, name: str) -> None:
    for curve in curves:
        axis.plot(*np.transpose(curve), color=color, alpha=0.25, linewidth=0.8)
    if curves:
        steps = sorted(set.intersection(*(set(step for step, _ in curve) for curve in curves)))
        means = [np.mean([dict(map(tuple, curve))[step] for curve in curves]) for step in steps]
        axis.plot(steps, means, color=color, linewidth=2, label=figures.drawable(name, 40, 1))
