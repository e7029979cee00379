"""A sweep: where each run ended, and how fast its probes were solved."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.figure import Figure

from nbhelpers.show import figures


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
        left.set_yticks(range(len(names)), [figures.drawable(name, 24, 1) for name in names], parse_math=False)
        left.invert_yaxis()
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
        axis.plot(steps, means, color=color, linewidth=2, label=figures.drawable(name, 24, 1))
