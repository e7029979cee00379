"""The figures of notebook 02: graders, groups and their signal, what weights and other rewards do, a preview."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from matplotlib.figure import Figure

from nbhelpers import rewards
from nbhelpers.params import percent
from nbhelpers.show.figures import (
    BLUE,
    GREEN,
    GREY,
    ORANGE,
    PURPLE,
    SKY,
    VERMILION,
    drawing,
    label_bars,
    name_rows,
    shares,
)
from nbhelpers.show.lesson.material import MEASURED, RIGHT_CASES, WRONG_CASES


def grader_rates() -> Figure:
    """Right answers denied and wrong ones credited, of those that no rule was built with: a pair of bars per grader."""
    with drawing(3.3) as figure:
        left, right = figure.subplots(1, 2, sharey=True)
        places = np.arange(len(MEASURED))
        sides = (
            (left, [rates.denied for rates in MEASURED], RIGHT_CASES, ORANGE, "right answers denied"),
            (right, [rates.credited for rates in MEASURED], WRONG_CASES, VERMILION, "wrong answers credited"),
        )
        for axis, counts, total, color, title in sides:
            bars = axis.barh(places, counts, color=color, height=0.6)
            label_bars(axis, bars, [f"{percent(count / total)}  ({count})" for count in counts])
            axis.set(xlim=(0, 1.3 * max(counts)), title=f"{title}, of {total}")
            axis.xaxis.set_visible(False)  # every bar has its share beside it
            name_rows(axis, places, [f"{rates.name}, {rates.microseconds:,.0f} µs" for rates in MEASURED], 36)
        right.tick_params(labelleft=False)
    return figure


def group_figure(groups: Mapping[str, Sequence[float]]) -> Figure:
    """Rewards and advantages of example groups: the first row's bars are rewards with the mean, then both kinds of
    advantage.
    """
    with drawing(4.6) as figure:
        axes = figure.subplots(2, len(groups), sharey="row", squeeze=False)
        for column, (name, values) in enumerate(groups.items()):
            place = np.arange(len(values))
            plain = rewards.group_statistics(values, len(values))
            scaled = rewards.group_statistics(values, len(values), scale="group")
            top, bottom = axes[:, column]
            top.bar(place, values, color=SKY, width=0.6)
            top.axhline(plain.means[0], color=VERMILION, linewidth=1.4, linestyle="--", label="mean of the group")
            top.set_title(f"{name}\nmean {plain.means[0]:.2f}, spread {plain.spreads[0]:.2f}", fontsize=9.5)
            bottom.bar(place - 0.19, plain.advantages[0], color=BLUE, width=0.36, label="minus mean (dr_grpo)")
            bottom.bar(place + 0.19, scaled.advantages[0], color=ORANGE, width=0.36, label="... over spread (grpo)")
            bottom.axhline(0, color="#999999", linewidth=0.8)
            bottom.set_xlabel("completion")
            for axis in (top, bottom):
                axis.set_xticks(place, [f"#{at + 1}" for at in place])
                axis.grid(axis="x", visible=False)
        axes[0, 0].set_ylabel("reward")
        axes[1, 0].set_ylabel("advantage")
        shown = [handle for axis in axes[:, 0] for handle in axis.get_legend_handles_labels()[0]]
        figure.legend(handles=shown, loc="outside lower center", ncols=3)
    return figure


def signal_figure(sizes: Sequence[int], marked: float | None = None) -> Figure:
    """The chance that a group holds right and wrong completions, against how often the policy is right.

    `marked` (0 to 1) draws the policy's own rate.
    """
    rate = np.linspace(0, 1, 201)
    with drawing(3.2) as figure:
        axis = figure.subplots()
        colors = (SKY, BLUE, GREEN, PURPLE, ORANGE, VERMILION)
        for size, color in zip(sizes, colors, strict=False):
            axis.plot(rate, rewards.signal_chance(rate, size), color=color, label=f"num_generations {size}")
        if marked is not None:
            axis.axvline(marked, color=GREY, linestyle="--", linewidth=1.2)
            axis.text(marked + 0.01, 0.03, f"the policy: {percent(marked, 0)} right", fontsize=8.5, color="#444444")
        axis.set(xlabel="chance that one completion is right", ylabel="groups with a signal")
        shares(axis.xaxis)
        shares(axis.yaxis)
        axis.legend(loc="upper left", bbox_to_anchor=(1.0, 1.0))
    return figure


def weights_figure(weights: Sequence[tuple[float, float]]) -> Figure:
    """Advantages of four typical completions in one group, for pairs of (formatting, correctness) weights."""
    kinds = ("formed, right", "formed, wrong", "right, no reasoning", "no blocks")
    form, right = np.array([2, 2, 1, 0]), np.array([1, 0, 1, 0])
    with drawing(3.0) as figure:
        axes = figure.subplots(1, len(weights), sharey=True)
        for axis, (formatting, correctness) in zip(axes, weights, strict=True):
            totals = formatting * form + correctness * right
            advantage = totals - totals.mean()
            colors = [GREEN if value > 0 else VERMILION for value in advantage]
            axis.barh(np.arange(4), advantage, color=colors, height=0.6)
            axis.axvline(0, color="#999999", linewidth=0.8)
            name_rows(axis, np.arange(4), kinds, 12, 2)
            axis.set_title(f"formatting {formatting:g}\ncorrectness {correctness:g}", fontsize=9.5)
            axis.set(xlabel="advantage")
    return figure


def shaping_figure(answer: float, max_completion_length: int) -> Figure:
    """What `closeness` pays for each number beside correctness, and `overlong` for each length in tokens."""
    stated = np.arange(0, int(2 * answer) + 5)
    texts = [f"<SOLUTION>{value}</SOLUTION>" for value in stated]
    answers = [f"{answer:g}"] * len(texts)
    close = rewards.closeness_reward_func(texts, texts, answers)
    correct = rewards.correctness_reward_func(texts, texts, answers, correctness_reward=1.0)
    ids = [range(length) for length in range(int(1.1 * max_completion_length))]
    punished = rewards.overlong_reward_func(
        [""] * len(ids), max_completion_length=max_completion_length, completion_ids=ids
    )
    with drawing(2.9) as figure:
        left, right = figure.subplots(1, 2)
        left.plot(stated, close, color=ORANGE, label="closeness")
        left.plot(stated, correct, color=BLUE, label="correctness / 2", linestyle="--", linewidth=1.3)
        left.set(xlabel=f"number in the solution (answer {answer:g})", ylabel="reward", title="closeness")
        left.legend(loc="upper left")
        right.plot(punished, color=VERMILION)
        right.axvline(max_completion_length, color=GREY, linestyle="--", linewidth=1.2)
        limit = f"tokens of the completion (limit {max_completion_length})"
        right.set(xlabel=limit, ylabel="reward", title="overlong")
    return figure


def preview_figure(preview: rewards.Preview) -> Figure:
    """Totals of all completions, and how many completions of a group are right."""
    size = preview.groups.rewards.shape[1]
    totals = [value for value in preview.totals if value is not None]
    right = np.array([verdict.correct for verdict in preview.verdicts]).reshape(-1, size).sum(axis=1)
    with drawing(2.9) as figure:
        left, right_side = figure.subplots(1, 2)
        values, counts = np.unique(np.round(totals, 3), return_counts=True)
        if len(values) <= 12:
            width = 0.6 * min(1.0, float(np.diff(values).min()) if len(values) > 1 else 1.0)
            left.bar(values, counts / len(totals), width=width, color=SKY)
        else:
            left.hist(totals, bins=20, weights=np.full(len(totals), 1 / len(totals)), color=SKY)
        left.set(title="total reward of a completion", ylabel="share of completions")
        right_side.bar(np.arange(size + 1), [np.mean(right == count) for count in range(size + 1)], width=0.6,
                   color=[GREY, *[GREEN] * (size - 1), GREY])  # fmt: skip
        title = f"right completions in a group of {size} (grey: no signal)"
        right_side.set(title=title, ylabel="share of groups", xticks=np.arange(size + 1))
        for axis in (left, right_side):
            shares(axis.yaxis)
            axis.grid(axis="x", visible=False)
    return figure
