"""The curves of a training run, and those of several runs over one another."""

from __future__ import annotations

import textwrap
from collections.abc import Mapping, Sequence

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
    axis.set_title(label, fontsize=9.5, parse_math=False)
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
    rows = -(-len(panels) // 3)
    with figures.drawing(3.8 + 2.15 * rows) as figure:
        grid = figure.add_gridspec(1 + rows, 3, height_ratios=[3.3, *[2.15] * rows])
        _draw_rewards(figure.add_subplot(grid[0, :]), metrics)
        for place, metric in enumerate(panels):
            _draw_metric(figure.add_subplot(grid[1 + place // 3, place % 3]), metrics, metric)
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
    rows = -(-len(panels) // 3)
    with figures.drawing(0.5 + 2.4 * rows) as figure:
        axes = np.ravel(figure.subplots(rows, 3, squeeze=False))
        for axis, metric in zip(axes, panels, strict=False):
            for (color, marker), metrics in zip(looks, runs.values(), strict=True):
                figures.draw_series(axis, *figures.series_of(metrics, metric.key), color, marker=marker)
            _label_axes(axis, metric)
        for axis in axes[len(panels) :]:
            axis.set_visible(False)
        handles = [Line2D([], [], color=color, marker=marker, markersize=5) for color, marker in looks]
        names = [figures.drawable(name, 60, 1) for name in runs]
        legend = figure.legend(handles, names, loc="outside upper left", ncols=min(4, len(runs)))
        for text in legend.get_texts():
            text.set_parse_math(False)
    return figure
