"""TODO."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from matplotlib.figure import Figure
from matplotlib.ticker import PercentFormatter

from nbhelpers.show.figures import (
    AFTER,
    BEFORE,
    BLUE,
    GREY,
    VERMILION,
    WIDTH,
    NotebookFigure,
    drawable,
    nothing_yet,
    style,
    value_of,
)


def wilson_interval(share: float, count: int) -> tuple[float, float]:
    """95 % interval of a share seen in `count` independent trials (Wilson 1927); honest for few trials and for shares
    of 0 and 1.
    """
    z = 1.96
    middle = (share + z * z / (2 * count)) / (1 + z * z / count)
    half = z / (1 + z * z / count) * np.sqrt(max(share * (1 - share), 0.0) / count + z * z / (4 * count * count))
    return float(max(0.0, middle - half)), float(min(1.0, middle + half))


def before_after(evaluation: Mapping) -> Figure:
    """Accuracy before and after training, in all and by kind of problem, and the paired difference with its 95 %
    interval.

    The thin line on a bar is the interval of that share alone. Two overlapping lines do not contradict a clear paired
    difference, which compares each problem with itself.

    Args:
        evaluation: the dict of `evaluation.json`; without "before" (no baseline) only the bars after training are
            drawn.
    """
    after = evaluation.get("after")
    if not after:
        return nothing_yet("no evaluation yet")
    before, difference = evaluation.get("before"), evaluation.get("difference")
    if difference and difference.get("accuracy") is None:  # no problem is in both phases
        difference = None
    groups = dict(evaluation.get("by_group") or {})
    shares = [
        (
            "all problems",
            {"before": (before or {}).get("accuracy"), "after": after.get("accuracy"), "n": after.get("n")},
        )
    ]
    shares += sorted(groups.items(), key=lambda item: -(item[1].get("n") or 0))
    shares += [
        (label, {"before": (before or {}).get(key), "after": after.get(key), "n": None})
        for key, label in (("format_rate", "format kept"), ("unparsed_rate", "no answer found"))
        if after.get(key) is not None
    ]
    with style():
        height = max(2.6, 0.9 + 0.41 * len(shares))
        figure = NotebookFigure(figsize=(WIDTH, height), layout="constrained")
        left, right = figure.subplots(1, 2, width_ratios=[5, 2]) if difference else (figure.subplots(), None)
        place = np.arange(len(shares), dtype=float)
        place[1 + len(groups) :] += 0.5  # what is not accuracy stands apart
        thickness = 0.36 if before else 0.55
        for shift, phase, color in ((-0.19, "before", BEFORE), (0.19, "after", AFTER)):
            if phase == "before" and not before:
                continue
            values = [value_of(figures, phase) for _, figures in shares]
            spots = place + (shift if before else 0)
            left.barh(spots, np.nan_to_num(values), thickness, color=color, label=f"{phase} training")
            for spot, value, (_, figures) in zip(spots, values, shares, strict=True):
                if not np.isfinite(value):
                    continue
                low, high = wilson_interval(value, figures["n"]) if figures.get("n") else (value, value)
                if low < high:
                    left.plot([low, high], [spot, spot], color="#222222", linewidth=1, alpha=0.75)
                left.text(max(value, high) + 0.01, spot, f"{value:.1%}", va="center", fontsize=8, color="#444444")
        names = [
            drawable(name, 28, 2) + (f"  (n={figures['n']})" if figures.get("n") else "") for name, figures in shares
        ]
        left.set_yticks(place, names, parse_math=False)
        left.get_yticklabels()[0].set_fontweight("bold")
        left.invert_yaxis()
        left.set_xlim(0, 1.14)
        left.set_xticks(np.arange(0, 1.01, 0.2))
        left.xaxis.set_major_formatter(PercentFormatter(1.0))
        left.set_xlabel("share of problems (thin line: 95 % interval of a share, Wilson)")
        left.grid(axis="y", visible=False)
        left.set_title("Accuracy on problems the policy never trained on", pad=20)
        left.legend(loc="lower left", bbox_to_anchor=(0, 0.995), ncols=2, borderpad=0, handlelength=1.2)
        if right is not None:
            _draw_difference(right, difference)
    return figure


def _draw_difference(axis, difference: Mapping) -> None:
    gain = value_of(difference, "accuracy") * 100
    interval = difference.get("ci95")
    low, high = (interval[0] * 100, interval[1] * 100) if interval else (gain, gain)
    sure = low > 0 or high < 0
    color = BLUE if low > 0 else VERMILION if high < 0 else GREY
    axis.axvline(0, color="#444444", linewidth=1)
    axis.errorbar(
        [gain], [0], xerr=[[gain - low], [high - gain]], fmt="o", color=color, capsize=5, linewidth=2.2, markersize=8
    )
    axis.text(gain, 0.16, f"{gain:+.1f}", zorder=3, ha="center", fontsize=15, fontweight="bold", color=color)
    said = f"95 %: {low:+.1f} to {high:+.1f}"
    axis.text(gain, -0.16, said, ha="center", va="top", fontsize=8.5, color="#444444", backgroundcolor="white")
    verdict = "the interval lies " + ("above 0" if low > 0 else "below 0") if sure else "the interval contains 0"
    reach = max(abs(low), abs(high), 2) * 1.25
    axis.set_xlim(min(0, low) - 0.4 * reach, max(0, high) + 0.4 * reach)
    axis.set_ylim(-0.6, 0.6)
    axis.set_yticks([])
    axis.spines["left"].set_visible(False)
    axis.grid(axis="y", visible=False)
    axis.set_xlabel(f"percentage points\n({verdict})")
    axis.set_title(f"Paired difference, n={difference.get('n_paired', '?')}", pad=20)
