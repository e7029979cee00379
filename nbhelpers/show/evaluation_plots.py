"""Accuracy before and after training, the paired difference, and what it is made of."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from matplotlib.figure import Figure

from nbhelpers.params import percent, points
from nbhelpers.show.figures import AFTER, BEFORE, BLUE, GREY, VERMILION, drawing, name_rows, nothing_yet, shares


def before_after(evaluation: Mapping) -> Figure:
    """Accuracy before and after training, in all and by kind of problem; without kinds also the paired difference with
    its 95 % interval (with them, `forest_plot` has it beside theirs).

    The thin line on a bar is the 95 % interval of that share alone, over pictures as the paired difference's is. Two
    overlapping lines do not contradict a clear paired difference, which compares each problem with itself.

    Args:
        evaluation: the dict of `evaluation.json`; without "before" (no baseline) only the bars after training are
            drawn.
    """
    after = evaluation.get("after")
    if not after:
        return nothing_yet("no evaluation yet")
    before, difference = evaluation.get("before") or {}, evaluation.get("difference")
    if difference and difference.get("accuracy") is None:  # no problem is in both phases
        difference = None
    kinds = sorted((evaluation.get("by_group") or {}).items(), key=lambda item: -(item[1].get("n") or 0))
    difference = None if kinds else difference
    overall = {"before": before.get("accuracy"), "after": after.get("accuracy"), "n": after.get("n")}
    overall["ci95"] = evaluation.get("ci95")
    rates = [
        (label, {"before": before.get(key), "after": after.get(key)})
        for key, label in (("format_rate", "format kept"), ("unparsed_rate", "no answer found"))
        if after.get(key) is not None
    ]
    bars = [("all problems", overall), *kinds, *rates]
    place = np.arange(len(bars), dtype=float)
    place[1 + len(kinds) :] += 0.5  # what is not accuracy stands apart
    with drawing(max(2.6, 0.9 + 0.41 * len(bars))) as figure:
        left, right = figure.subplots(1, 2, width_ratios=[5, 2]) if difference else (figure.subplots(), None)
        phases = (("before", -0.19, BEFORE), ("after", 0.19, AFTER)) if before else (("after", 0.0, AFTER),)
        for phase, shift, color in phases:
            _draw_bars(left, place + shift, bars, phase, color, thickness=0.36 if before else 0.55)
        _label_bars(left, place, bars)
        if right is not None:
            _draw_difference(right, difference)
    return figure


def _draw_bars(axis, places, bars: Sequence[tuple[str, Mapping]], phase: str, color: str, thickness: float) -> None:
    values = [row.get(phase) for _, row in bars]
    axis.barh(places, [value or 0.0 for value in values], thickness, color=color, label=f"{phase} training")
    for place, value, (_, row) in zip(places, values, bars, strict=True):
        if value is None:
            continue
        end = value
        if interval := (row.get("ci95") or {}).get(phase):
            end = max(value, interval[1])
            axis.plot(interval, [place, place], color="#222222", linewidth=1, alpha=0.75)
        axis.text(end + 0.01, place, percent(value), va="center", fontsize=8, color="#444444")


def _label_bars(axis, places, bars: Sequence[tuple[str, Mapping]]) -> None:
    names = [name + (f"  (n={row['n']})" if row.get("n") else "") for name, row in bars]
    name_rows(axis, places, names, 38, 2)
    axis.get_yticklabels()[0].set_fontweight("bold")
    axis.set_xlim(0, 1.14)
    axis.set_xticks(np.arange(0, 1.01, 0.2))
    shares(axis.xaxis)
    axis.set_xlabel("share of problems (thin line: 95 % interval of this share alone, over pictures)")
    axis.set_title("Accuracy on problems the policy never trained on", pad=20)
    axis.legend(loc="lower left", bbox_to_anchor=(0, 0.995), ncols=2, borderpad=0, handlelength=1.2)


def _draw_difference(axis, difference: Mapping) -> None:
    gain = difference["accuracy"]
    low, high = difference.get("ci95") or (gain, gain)
    color, verdict = GREY, "the interval contains 0"
    if low > 0:
        color, verdict = BLUE, "the interval lies above 0"
    elif high < 0:
        color, verdict = VERMILION, "the interval lies below 0"
    axis.axvline(0, color="#444444", linewidth=1)
    ends = [[100 * (gain - low)], [100 * (high - gain)]]
    axis.errorbar([100 * gain], [0], xerr=ends, fmt="o", color=color, capsize=5, linewidth=2.2, markersize=8)
    axis.text(100 * gain, 0.16, points(gain), zorder=3, ha="center", fontsize=15, fontweight="bold", color=color)
    said = f"95 %: {points(low)} to {points(high)}"
    axis.text(100 * gain, -0.16, said, ha="center", va="top", fontsize=8.5, color="#444444", backgroundcolor="white")
    reach = 50 * max(abs(low), abs(high), 0.02)
    axis.set_xlim(100 * min(0, low) - reach, 100 * max(0, high) + reach)
    axis.set_ylim(-0.6, 0.6)
    axis.set_yticks([])
    axis.spines["left"].set_visible(False)
    axis.grid(axis="y", visible=False)
    axis.set_xlabel(f"percentage points\n({verdict})")
    axis.set_title(f"Paired difference, n={difference.get('n_paired', '?')}", pad=20)


PARTS = (
    ("hands_in", "of it: handing the answer in"),
    ("right_more_often", "of it: being right more often"),
    ("plain", "against the plain prompt"),
)


def forest_plot(evaluation: Mapping) -> Figure:
    """The paired difference in all, its parts, and that of each kind, each with its 95 % interval.

    A filled point is a change that holds: in all and of a part, its interval lies beside 0; of a kind, the exact
    McNemar test after Holm's correction over the kinds has p below 0.05. The plain prompt has a line where the base
    model does no worse under it.

    Args:
        evaluation: the dict of `evaluation.json`; without "before" (no baseline) there is nothing to draw.
    """
    whole, split = evaluation.get("difference") or {}, evaluation.get("split") or {}
    if whole.get("accuracy") is None:
        return nothing_yet("no baseline was measured, so there is no difference")
    found = {key: split.get(key) or {} for key, _ in PARTS}
    found["plain"] = found["plain"].get("difference") if found["plain"].get("helps") else None
    parts = [(label, found[key]) for key, label in PARTS if (found[key] or {}).get("accuracy") is not None]
    groups = {kind: row.get("difference") or {} for kind, row in (evaluation.get("by_group") or {}).items()}
    kinds = [(kind, row) for kind, row in groups.items() if row.get("accuracy") is not None]
    rows = [("all problems", whole), *parts, *sorted(kinds, key=lambda row: -row[1]["accuracy"])]
    place = np.arange(len(rows), dtype=float)
    place[1 + len(parts) :] += 0.6
    with drawing(1.0 + 0.27 * len(rows)) as figure:
        axis = figure.subplots()
        for at, (_, row), of_kind in zip(place, rows, [False] * (1 + len(parts)) + [True] * len(kinds), strict=True):
            _draw_row(axis, at, row, of_kind)
        name_rows(axis, place, [f"{name}  (n={row['n_paired']})" for name, row in rows], 40)
        axis.get_yticklabels()[0].set_fontweight("bold")
        axis.axvline(0, color="#444444", linewidth=1)
        axis.set_xlabel("percentage points, after training less before (line: 95 % interval; filled: the change holds)")
        axis.set_title("Where the difference lies")
    return figure


def _draw_row(axis, at: float, row: Mapping, of_kind: bool) -> None:
    gain, low, high = (100 * value for value in (row["accuracy"], *row["ci95"]))
    holds = row["mcnemar"].get("p_holm", 1.0) < 0.05 if of_kind else low > 0 or high < 0
    color = GREY if not holds else BLUE if gain > 0 else VERMILION
    look = {"color": color, "capsize": 3, "linewidth": 1.6, "markersize": 6}
    axis.errorbar([gain], [at], xerr=[[gain - low], [high - gain]], fmt="o", mfc=color if holds else "white", **look)
    said = f"{points(gain / 100)} ({points(low / 100)} to {points(high / 100)})"
    axis.annotate(
        said, (1.01, at), xycoords=axis.get_yaxis_transform(), va="center", fontsize=8, color="#444444"
    )  # beside the axis
