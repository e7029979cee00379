"""The project's pictures: what the data look like, how training went, what it changed.

Functions take plain data (rows of `metrics.jsonl`, the dict of `evaluation.json`, problem rows) and return a matplotlib
`Figure` that a notebook shows as the last expression of a cell. The colours are those of Okabe and Ito (2008), which
people with any of the common colour deficiencies tell apart; every series also has its own place or marker.
"""

from __future__ import annotations

import textwrap
import unicodedata
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import lru_cache
from typing import Any

import matplotlib
import numpy as np
from matplotlib import font_manager
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator, PercentFormatter

from nbhelpers.data import kind_of

BLUE, ORANGE, GREEN, VERMILION, SKY, PURPLE, YELLOW, GREY = PALETTE = (
    "#0072B2",
    "#E69F00",
    "#009E73",
    "#D55E00",
    "#56B4E9",
    "#CC79A7",
    "#F0E442",
    "#6b6b6b",
)
BEFORE, AFTER = "#9aa5ad", BLUE
WIDTH = 9.6  # inches: what a notebook column shows without scaling

WHY_LOSS_IS_NEAR_ZERO = (
    "The loss is near 0 by construction: the advantages of a group sum to 0 and the importance ratio is 1 when\n"
    "the completions are fresh. Its gradient is not 0, and that is what moves the policy. Read the reward instead."
)

# Tried in this order for what DejaVu lacks; the first installed ones are used.
_FALLBACK_FONTS = (
    "Noto Sans CJK SC",
    "Noto Sans CJK JP",
    "Noto Sans SC",
    "Source Han Sans SC",
    "WenQuanYi Micro Hei",
    "WenQuanYi Zen Hei",
    "PingFang SC",
    "Hiragino Sans GB",
    "Microsoft YaHei",
    "SimHei",
    "Droid Sans Fallback",
    "Arial Unicode MS",
)


class Picture(Figure):
    """A matplotlib figure that a notebook shows once, without pyplot's global state, sharp on dense screens."""

    def _repr_png_(self):
        from io import BytesIO

        buffer = BytesIO()
        self.savefig(buffer, format="png", dpi=144)
        inches_wide, inches_high = self.get_size_inches()
        return buffer.getvalue(), {"width": int(inches_wide * 96), "height": int(inches_high * 96)}


@lru_cache(maxsize=1)
def _fonts() -> list[str]:
    installed = set(font_manager.get_font_names())
    return ["DejaVu Sans", *[name for name in _FALLBACK_FONTS if name in installed]]


@lru_cache(maxsize=1)
def _known_characters() -> frozenset[int]:
    return frozenset().union(*(font_manager.get_font(font_manager.findfont(name)).get_charmap() for name in _fonts()))


def plain(text: Any, width: int | None = None, lines: int | None = None) -> str:
    """Text for a figure, wrapped.

    What no installed font can draw becomes a box (matplotlib would warn about it a glyph at a time), and so does what
    is not to be seen but changes what is: control characters and marks that turn the direction of writing.
    """
    known = _known_characters()
    text = "".join(
        char
        if char == "\n" or (ord(char) in known and unicodedata.category(char) not in ("Cc", "Cf", "Cs"))
        else "\u25a1"
        for char in str(text).replace("\t", " ")
    )
    if width is None:
        return text
    wrapped = [piece for line in text.splitlines() for piece in (_wrap(line, width) or [""])]
    if lines is not None and len(wrapped) > lines:
        wrapped = [*wrapped[: lines - 1], wrapped[lines - 1][: width - 1].rstrip() + "\u2026"]
    return "\n".join(wrapped)


def _wrap(line: str, width: int) -> list[str]:
    # A Chinese character is as wide as two Latin letters, and its lines break anywhere.
    if sum(ord(char) > 0x2E80 for char in line) > len(line) / 3:
        width = max(width // 2, 4)
    return textwrap.wrap(line, width)


@contextmanager
def style() -> Iterator[None]:
    """The look of every figure of the project; for the caller's own plots too."""
    look = {
        "font.family": _fonts(),
        "font.size": 9.5,
        "axes.titlesize": 10.5,
        "axes.titleweight": "bold",
        "axes.titlelocation": "left",
        "axes.titlepad": 8,
        "axes.labelsize": 9,
        "axes.labelcolor": "#444444",
        "axes.edgecolor": "#999999",
        "axes.spines.top": False,
        "axes.spines.right": False,
        "axes.grid": True,
        "axes.axisbelow": True,
        "axes.prop_cycle": matplotlib.cycler(color=PALETTE),
        "grid.color": "#e6e6e6",
        "grid.linewidth": 0.8,
        "xtick.color": "#666666",
        "ytick.color": "#666666",
        "xtick.labelsize": 8.5,
        "ytick.labelsize": 8.5,
        "lines.linewidth": 1.9,
        "legend.frameon": False,
        "legend.fontsize": 8.5,
        "figure.facecolor": "white",
        "figure.dpi": 100,
    }
    with matplotlib.rc_context(look):
        yield


def _series(metrics: Sequence[Mapping], key: str) -> tuple[np.ndarray, np.ndarray]:
    """Steps and values of one metric where it was logged."""
    pairs = [(row["step"], row[key]) for row in metrics if isinstance(row.get(key), (int, float)) and "step" in row]
    steps, values = zip(*pairs, strict=True) if pairs else ((), ())
    return np.asarray(steps, float), np.asarray(values, float)


def smooth(values: Sequence[float], window: int) -> np.ndarray:
    """Centred moving average; at the ends over what there is."""
    values = np.asarray(values, float)
    if len(values) < 3 or window < 2:
        return values
    weights = np.ones(min(window, len(values)))
    inside = np.where(np.isfinite(values), values, 0.0)
    return np.convolve(inside, weights, "same") / np.convolve(np.isfinite(values).astype(float), weights, "same")


def _window(count: int) -> int:
    return max(1, min(count // 8, 25))


def _draw_series(axis, steps, values, color, label=None, spread=None, marker=None) -> None:
    """A thin line as logged under a thick smoothed one; `spread` (same length) shades one standard deviation."""
    if not len(steps):
        return
    trend = smooth(values, _window(len(values)))
    if spread is not None and len(spread) == len(values):
        width = smooth(spread, _window(len(values)))
        axis.fill_between(steps, trend - width, trend + width, color=color, alpha=0.13, linewidth=0)
    if len(values) > 8:
        axis.plot(steps, values, color=color, alpha=0.3, linewidth=0.9)
    marker = marker if len(steps) <= 20 else None
    axis.plot(steps, trend, color=color, label=label, marker=marker or ("o" if len(steps) == 1 else None), markersize=4)


def _steps_axis(axis, label: str = "optimiser step") -> None:
    axis.set_xlabel(label)
    axis.xaxis.set_major_locator(MaxNLocator(integer=True, nbins=7))


def _percent(axis, label: str) -> None:
    axis.set_ylim(-0.03, 1.03)
    axis.yaxis.set_major_formatter(PercentFormatter(1.0))
    axis.set_ylabel(label)


def _nothing(message: str) -> Picture:
    with style():
        figure = Picture(figsize=(WIDTH, 1.2), layout="constrained")
        figure.text(0.5, 0.5, message, ha="center", va="center", color="#777777")
    return figure


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
        steps, values = _series(metrics, f"rewards/{name}/mean")
        _, spread = _series(metrics, f"rewards/{name}/std")
        color = colors[place % len(colors)]
        _draw_series(axis, steps, values, color, name, spread, marker="sD^vPX"[place % 6])
    steps, values = _series(metrics, "reward")
    if len(names) != 1:
        _draw_series(axis, steps, values, BLUE, "total", marker="o")
    axis.set_ylabel("reward a completion")
    _steps_axis(axis)
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
        return _nothing("no training step has been logged yet")
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
    panels = [panel for panel in panels if len(_series(metrics, panel[0])[0])]
    has_loss = bool(panels) and panels[-1][0] == "loss"
    rows = -(-len(panels) // 3)
    with style():
        figure = Picture(figsize=(WIDTH, 3.3 + 2.15 * rows + 0.45 * has_loss), layout="constrained")
        grid = figure.add_gridspec(1 + rows, 3, height_ratios=[3.3, *[2.15] * rows])
        top = figure.add_subplot(grid[0, :])
        _draw_rewards(top, metrics)
        top.set_title("Reward by function (band: \u00b11 std of completions)")
        for place, (key, title, unit, color) in enumerate(panels):
            axis = figure.add_subplot(grid[1 + place // 3, place % 3])
            _draw_series(axis, *_series(metrics, key), color)
            axis.set_title(title, fontsize=9.5)
            axis.set_ylabel(unit)
            if key in ("frac_reward_zero_std", "completions/clipped_ratio"):
                _percent(axis, unit)
            elif key == "loss":
                # The scale of the reward, so that its noise does not look like a signal.
                reach = max(0.1, float(np.nanmax(np.abs(_series(metrics, key)[1]))) * 1.3)
                axis.set_ylim(-reach, reach)
            elif key != "kl":
                highest = float(np.nanmax(_series(metrics, key)[1]))
                axis.set_ylim(0, 1.1 * highest if highest > 0 else 1)
            _steps_axis(axis)
        if has_loss:
            figure.supxlabel(WHY_LOSS_IS_NEAR_ZERO, fontsize=8.5, color="#555555", x=0.5)
    return figure


def _figures(values: Mapping, key: str) -> float:
    value = values.get(key)
    return float("nan") if value is None else float(value)


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
        return _nothing("no evaluation yet")
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
        figure = Picture(figsize=(WIDTH, height), layout="constrained")
        left, right = figure.subplots(1, 2, width_ratios=[5, 2]) if difference else (figure.subplots(), None)
        place = np.arange(len(shares), dtype=float)
        place[1 + len(groups) :] += 0.5  # what is not accuracy stands apart
        thickness = 0.36 if before else 0.55
        for shift, phase, color in ((-0.19, "before", BEFORE), (0.19, "after", AFTER)):
            if phase == "before" and not before:
                continue
            values = [_figures(figures, phase) for _, figures in shares]
            spots = place + (shift if before else 0)
            left.barh(spots, np.nan_to_num(values), thickness, color=color, label=f"{phase} training")
            for spot, value, (_, figures) in zip(spots, values, shares, strict=True):
                if not np.isfinite(value):
                    continue
                low, high = wilson_interval(value, figures["n"]) if figures.get("n") else (value, value)
                if low < high:
                    left.plot([low, high], [spot, spot], color="#222222", linewidth=1, alpha=0.75)
                left.text(max(value, high) + 0.01, spot, f"{value:.1%}", va="center", fontsize=8, color="#444444")
        names = [plain(name, 28, 2) + (f"  (n={figures['n']})" if figures.get("n") else "") for name, figures in shares]
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
    gain = _figures(difference, "accuracy") * 100
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


def problem_grid(problems: Sequence[Mapping], columns: int = 4, *, captions: Sequence[str] | None = None) -> Figure:
    """Pictures with question, choices and answer under each; everything is set as plain text.

    Args:
        problems: problem rows with an `image` (PIL).
        columns: pictures a row.
        captions: instead of question and answer.
    """
    problems = list(problems)
    if not problems:
        return _nothing("no problems to show")
    columns = max(1, min(columns, len(problems)))
    rows = -(-len(problems) // columns)
    cell = WIDTH / columns
    letters = int(cell * 14.2)
    texts = [
        plain(captions[number], letters, 6) if captions else _caption(problem, letters)
        for number, problem in enumerate(problems)
    ]
    with style():
        text_heights = [
            0.18 + 0.155 * max(text.count("\n") + 1 for text in texts[row * columns : (row + 1) * columns])
            for row in range(rows)
        ]
        picture_height = cell * 0.78
        height = rows * picture_height + sum(text_heights)
        figure = Picture(figsize=(WIDTH, height))
        top = height
        for row in range(rows):
            for column, problem in enumerate(problems[row * columns : (row + 1) * columns]):
                left = column * cell
                box = [(left + 0.08) / WIDTH, (top - picture_height + 0.06) / height]
                axis = figure.add_axes([*box, (cell - 0.16) / WIDTH, (picture_height - 0.12) / height])
                _show_image(axis, problem["image"])
                text = texts[row * columns + column]
                spot = ((left + 0.1) / WIDTH, (top - picture_height) / height)
                figure.text(*spot, text, va="top", fontsize=8.3, linespacing=1.25, color="#222222", parse_math=False)
            top -= picture_height + text_heights[row]
    return figure


def _show_image(axis, image) -> None:
    axis.imshow(np.asarray(image), interpolation="antialiased")
    axis.set_anchor("S")
    axis.set(xticks=[], yticks=[])
    axis.grid(False)
    for spine in axis.spines.values():
        spine.set(visible=True, color="#cccccc", linewidth=0.8)


def _caption(problem: Mapping, letters: int) -> str:
    choices = problem.get("choices")
    parts = [plain(problem["question"], letters, 5)]
    if choices:
        parts.append(
            plain("  ".join(f"({chr(65 + place)}) {choice}" for place, choice in enumerate(choices)), letters, 3)
        )
    unit = f" {problem['unit']}" if problem.get("unit") else ""
    parts.append(plain(f"\u2192 {problem['answer']}{unit}", letters, 2))
    return "\n".join(parts)


def answer_counts(problems: Sequence[Mapping], top: int = 12) -> Figure:
    """What is asked for: problems by kind, by question and answer type, and the most frequent answers.

    A long first bar among the answers is a policy's temptation: always giving it earns that share.
    """
    problems = list(problems)
    if not problems:
        return _nothing("no problems to count")
    kinds = Counter(kind_of(problem) for problem in problems)
    types = Counter(f"{problem['question_type']}, {problem['answer_type']}".replace("_", " ") for problem in problems)
    answers = Counter(str(problem["answer"]) for problem in problems)
    panels = (("Problems by kind", kinds, BLUE), ("By question and answer type", types, GREEN))
    panels = (*panels, (f"Top of {len(answers):,} answers", answers, ORANGE))
    with style():
        longest = max(min(len(counts), top) for _, counts, _ in panels)
        figure = Picture(figsize=(WIDTH, max(2.2, 0.9 + 0.24 * longest)), layout="constrained")
        for axis, (title, counts, color) in zip(figure.subplots(1, 3), panels, strict=True):
            shown = counts.most_common(top)
            rest = sum(counts.values()) - sum(count for _, count in shown)
            if rest and counts is not answers:
                shown.append(("others", rest))
            axis.barh(range(len(shown)), [count for _, count in shown], color=color, height=0.7)
            axis.set_yticks(range(len(shown)), [plain(name, 20, 1) for name, _ in shown], parse_math=False)
            for place, (_, count) in enumerate(shown):
                axis.annotate(
                    f" {count:,} ({_share(count, len(problems))})",
                    (count, place),
                    va="center",
                    fontsize=8,
                    color="#444444",
                )
            axis.set_xlim(0, max(count for _, count in shown) * 1.5)
            axis.set_ylim(longest - 0.4, -0.6)
            axis.grid(axis="y", visible=False)
            axis.xaxis.set_major_locator(MaxNLocator(integer=True, nbins=4))
            axis.set_xlabel("problems")
            axis.set_title(title)
    return figure


def _share(count: int, total: int) -> str:
    return f"{count / total:.0%}" if count / total >= 0.005 else "<1%"


def image_sizes(problems: Sequence[Mapping]) -> Figure:
    """Width against height of the pictures in pixels, and their aspect ratios: what a square model input will squeeze."""
    sizes = Counter(problem["image"].size for problem in problems)
    if not sizes:
        return _nothing("no pictures to measure")
    width, height = np.array(list(sizes), float).T
    count = np.array(list(sizes.values()), float)
    with style():
        figure = Picture(figsize=(WIDTH, 3.3), layout="constrained")
        left, right = figure.subplots(1, 2)
        reach = max(width.max(), height.max()) * 1.1
        left.plot([0, reach], [0, reach], color="#bbbbbb", linewidth=1, linestyle="--", zorder=1)
        left.annotate("square", (reach * 0.3, reach * 0.3), color="#888888", fontsize=8.5, ha="right", va="bottom")
        left.scatter(width, height, s=16 + 240 * np.sqrt(count / count.sum()), color=BLUE, alpha=0.55, linewidth=0)
        left.set(xlim=(0, reach), ylim=(0, reach), xlabel="width, pixels", ylabel="height, pixels")
        left.set_title(f"Sizes of {int(count.sum()):,} pictures ({len(sizes)} different)")
        ratio = np.repeat(np.log2(width / height), count.astype(int))
        edge = max(1.0, float(np.ceil(np.abs(ratio).max() * 2) / 2))
        right.hist(ratio, bins=np.arange(-edge - 0.125, edge + 0.25, 0.25), color=GREEN)
        ticks = [tick for tick in range(-4, 5) if abs(tick) <= edge]
        right.set_xticks(ticks, [f"1:{2**-tick}" if tick < 0 else f"{2**tick}:1" for tick in ticks])
        right.set(xlabel="aspect ratio, width : height", ylabel="pictures")
        right.yaxis.set_major_locator(MaxNLocator(integer=True))
        right.set_title("Aspect ratios")
    return figure


def compare_curves(runs: Mapping[str, Sequence[Mapping]]) -> Figure:
    """The same curves of several runs over one another.

    Args:
        runs: `metrics.jsonl` rows by the name to show.
    """
    if not any(runs.values()):
        return _nothing("no run has logged a training step yet")
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
    panels = [panel for panel in panels if any(len(_series(metrics, panel[0])[0]) for metrics in runs.values())]
    rows = -(-len(panels) // 3)
    with style():
        figure = Picture(figsize=(WIDTH, 0.5 + 2.4 * rows), layout="constrained")
        axes = np.ravel(figure.subplots(rows, 3, squeeze=False))
        for axis, (key, title, unit) in zip(axes, panels, strict=False):
            for place, metrics in enumerate(runs.values()):
                color = PALETTE[place % len(PALETTE)]
                _draw_series(axis, *_series(metrics, key), color, marker="os^vDPX"[place % 7])
            axis.set_title(plain(title, 40, 1), fontsize=9.5, parse_math=False)
            axis.set_ylabel(unit)
            if key in ("frac_reward_zero_std", "completions/clipped_ratio"):
                _percent(axis, unit)
            _steps_axis(axis)
        for axis in axes[len(panels) :]:
            axis.set_visible(False)
        handles = [
            matplotlib.lines.Line2D(
                [], [], color=PALETTE[place % len(PALETTE)], marker="os^vDPX"[place % 7], markersize=5
            )
            for place in range(len(runs))
        ]
        legend = figure.legend(
            handles, [plain(name, 60, 1) for name in runs], loc="outside upper left", ncols=min(4, len(runs))
        )
        for text in legend.get_texts():
            text.set_parse_math(False)
    return figure
