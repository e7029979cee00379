"""What was learnt: by kind over the steps of training, as pass@k before and after; and one group's ratios."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.figure import Figure

from nbhelpers.show import figures

EPSILON = 0.2  # of the clip, TRL's default


def learning_by_kind(rows: Iterable[Mapping[str, Any]], works: Callable[[str], bool] | None = None) -> Figure:
    """Over the steps: the share of right completions by kind, their length, and the share that works its answer out.

    Args:
        rows: of `samples.jsonl`; probes are left out.
        works: whether a completion works its answer out; without it, or where none does, that curve is left out.
    """
    steps: dict[int, list[Mapping]] = defaultdict(list)
    for row in rows:
        if row.get("role") != "probe":
            steps[row["step"]].append(row)
    if not steps:
        return figures.nothing_yet("no completion has been sampled yet")
    kinds = sorted({row["kind"] for rows in steps.values() for row in rows})
    window = max(1, len(steps) // 8)
    with figures.drawing(max(2.8, 0.8 + 0.24 * len(kinds))) as figure:
        left, right = figure.subplots(1, 2, width_ratios=[3, 2])
        _draw_kinds(left, steps, kinds)
        lengths = figures.smooth([_mean(row["length"] for row in rows) for rows in steps.values()], window)
        right.plot(list(steps), lengths, color=figures.BLUE)
        right.set_title("Length, and what is worked out" if works else "Length")
        right.set_ylabel("tokens per completion", color=figures.BLUE)
        right.set_ylim(0, 1.15 * max(lengths))
        figures.steps_axis(right)
        worked = [_mean(works(row["completion"]) for row in rows) for rows in steps.values()] if works else []
        if any(worked):
            share = right.twinx()
            share.plot(list(steps), figures.smooth(worked, window), color=figures.GREEN)
            figures.percent_axis(share, "share that works it out")
            share.yaxis.label.set_color(figures.GREEN)
            share.grid(visible=False)
    return figure


def _draw_kinds(axis, steps: Mapping[int, Sequence[Mapping]], kinds: Sequence[str]) -> None:
    """The share of right completions, a row for each kind and a column for each of six equal spans of steps."""
    parts = [part for part in np.array_split(list(steps), 6) if len(part)]
    shares = np.array([
        [_mean(row["correct"] for step in part for row in steps[step] if row["kind"] == kind) for part in parts]
        for kind in kinds
    ])  # fmt: skip
    axis.imshow(shares, aspect="auto", vmin=0, vmax=1, cmap="Blues")
    for place in np.ndindex(shares.shape):
        if np.isfinite(shares[place]):
            color = "white" if shares[place] > 0.6 else "black"
            axis.text(*place[::-1], f"{100 * shares[place]:.0f}", ha="center", va="center", fontsize=8, color=color)
    figures.name_rows(axis, range(len(kinds)), kinds, 24)
    axis.set_xticks(range(len(parts)), [f"{part[0]}\u2013{part[-1]}" for part in parts])
    axis.set(xlabel="optimiser steps", title="Right, of what was sampled, in %")
    axis.grid(visible=False)


def pass_figure(curves: Mapping[str, Mapping[str, Any]]) -> Figure:
    """pass@k before and after training: in all with its 95 % interval, beside majority@k and greedy decoding, and for
    the kinds with the largest and the smallest change.

    Args:
        curves: `evaluation.json`'s `pass_at_k`: {"before": ..., "after": ...} as `pass_curve` gives them.
    """
    after, before = curves.get("after"), curves.get("before")
    if not after:
        return figures.nothing_yet("no pass@k has been measured")
    kinds = _telling(before or after, after)
    with figures.drawing(3.2) as figure:
        axes = figure.subplots(1, 1 + len(kinds), sharey=True, squeeze=False)[0]
        for name, axis in zip(["all problems", *kinds], axes, strict=True):
            for phase, curve, color in (("before", before, figures.BEFORE), ("after", after, figures.AFTER)):
                if not curve:
                    continue
                values = curve["all"] if name == "all problems" else curve["by_group"].get(name)
                if values is None:
                    continue
                axis.plot(curve["k"], values, color=color, marker="o", markersize=4, label=f"{phase} training")
                if name == "all problems":
                    _draw_votes(axis, curve, color, phase)
            axis.set_xscale("log", base=2)
            axis.set_xticks(after["k"], [str(k) for k in after["k"]])
            axis.minorticks_off()
            axis.set(xlabel="k, samples of a problem", title=figures.drawable(name, 40, 1))
        figures.percent_axis(axes[0], "pass@k")
        figure.legend(*axes[0].get_legend_handles_labels(), loc="outside lower center", ncols=6, fontsize=8)
    return figure


def _draw_votes(axis, curve: Mapping[str, Any], color: str, phase: str) -> None:
    """The interval of pass@k, and on the same problems majority@k and the greedy answer."""
    axis.fill_between(curve["k"], *np.transpose(curve["interval"]), color=color, alpha=0.15, linewidth=0)
    if "majority" in curve:
        axis.plot(curve["k"], curve["majority"], color=color, linestyle="--", linewidth=1.4, label=f"majority, {phase}")
    if "greedy" in curve:
        look = {"marker": "D", "markersize": 6, "markerfacecolor": "white", "linestyle": "none", "clip_on": False}
        axis.plot(curve["k"][:1], [curve["greedy"]], color=color, label=f"greedy, {phase}", **look)


def _telling(before: Mapping[str, Any], after: Mapping[str, Any]) -> list[str]:
    """The kind whose pass@1 changed most and the one that changed least."""
    change = {kind: values[0] - before["by_group"].get(kind, values)[0] for kind, values in after["by_group"].items()}
    ordered = sorted(change, key=lambda kind: -abs(change[kind]))
    return list(dict.fromkeys(ordered[:1] + ordered[-1:]))


def _mean(values: Iterable[float]) -> float:
    values = list(values)
    return float(np.mean(values)) if values else float("nan")


def ratio_figure(ratio_GT: Any, mask_GT: Any, advantages_G: Any) -> Figure:
    """Each token's ratio of the policy now to the one that wrote it, and the band outside of which nothing is gained.

    Args:
        ratio_GT, mask_GT: (G, T); the mask is 1 where there is a token.
        advantages_G: (G,); a token is hollow where clipping has taken its gradient.
    """
    with figures.drawing(2.9) as figure:
        axis = figure.subplots()
        axis.axhspan(1 - EPSILON, 1 + EPSILON, color=figures.GREY, alpha=0.12, linewidth=0)
        axis.axhline(1, color=figures.GREY, linewidth=0.8)
        start = 0
        for row, (mask, advantage) in enumerate(zip(mask_GT, advantages_G, strict=True)):
            values = np.asarray(ratio_GT[row][mask > 0], float)
            up = float(advantage) > 0
            held = values > 1 + EPSILON if up else (values < 1 - EPSILON) & (float(advantage) < 0)
            spots = start + np.arange(len(values))
            color = figures.BLUE if up else figures.VERMILION if float(advantage) < 0 else figures.GREY
            axis.scatter(spots, values, 14, edgecolors=color, facecolors=np.where(held, "none", color))
            above = {"transform": axis.get_xaxis_transform(), "va": "bottom"}
            axis.text(start, 1.0, f"{row + 1}", fontsize=8.5, color="#666666", **above)
            start += len(values) + 3
        legend = "(blue: advantage above 0, orange: below; hollow: clipped, no gradient)"
        axis.set(xlabel=f"tokens of completions 1, 2, ... {legend}", ylabel="ratio, policy now : when sampled")
    return figure
