"""What problems look like, what they ask for, and how large their pictures are."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from nbhelpers.params import counted, percent
from nbhelpers.problems import kind_of
from nbhelpers.show.figures import (
    BLUE,
    GREEN,
    ORANGE,
    WIDTH,
    NotebookFigure,
    drawable,
    drawing,
    label_bars,
    name_rows,
    nothing_yet,
    style,
)


def problem_grid(problems: Sequence[Mapping], columns: int = 4) -> Figure:
    """Pictures with question, choices and answer under each; everything is set as drawable text.

    Args:
        problems: problem rows with an `image` (PIL).
        columns: pictures per row.
    """
    problems = list(problems)
    if not problems:
        return nothing_yet("no problems to show")
    columns = max(1, min(columns, len(problems)))
    cell = WIDTH / columns  # inches
    picture_height = cell * 0.78
    texts = [_caption(problem, int(cell * 14.2)) for problem in problems]
    starts = range(0, len(problems), columns)
    text_heights = [0.335 + 0.155 * max(text.count("\n") for text in texts[at : at + columns]) for at in starts]
    height = len(starts) * picture_height + sum(text_heights)
    with style():
        figure = NotebookFigure(figsize=(WIDTH, height))
        figure.holds_pictures = True
        top = height
        for start, text_height in zip(starts, text_heights, strict=True):
            for column, problem in enumerate(problems[start : start + columns]):
                left = column * cell
                box = (left + 0.08, top - picture_height + 0.06, cell - 0.16, picture_height - 0.12)
                _show_image(figure.add_axes(np.divide(box, (WIDTH, height, WIDTH, height))), problem["image"])
                spot = np.divide((left + 0.1, top - picture_height), (WIDTH, height))
                look = {"va": "top", "fontsize": 8.3, "linespacing": 1.25, "color": "#222222"}
                figure.text(*spot, texts[start + column], **look)
            top -= picture_height + text_height
    return figure


def seen_by_model(problems: Sequence[Mapping], processor: Any) -> Figure:
    """Pictures above what the model is given in their place: the processor's own square, back in colours.

    Args:
        problems: a few problem rows with an `image` (PIL).
        processor: the model's processor (transformers), whose image processor makes the square.
    """
    make = processor.image_processor
    images = [problem["image"].convert("RGB") for problem in problems]
    squares = [np.asarray(make(images=[image], return_tensors="np")["pixel_values"]).reshape(-1, *_chw(make))[0]
               for image in images]  # fmt: skip
    mean, std = (np.reshape(values, (3, 1, 1)) for values in (make.image_mean, make.image_std))
    with drawing(4.6) as figure:
        figure.holds_pictures = True
        axes = figure.subplots(2, len(images), squeeze=False)
        for image, square, (above, below) in zip(images, squares, axes.T, strict=True):
            _show_image(above, image)
            above.set_title("{} \u00d7 {} pixels".format(*image.size), fontsize=9.5)
            _show_image(below, np.clip(square * std + mean, 0, 1).transpose(1, 2, 0))
            below.set_title("as the model sees it: {} \u00d7 {}".format(*square.shape[1:]), fontsize=9.5)
    return figure


def _chw(image_processor: Any) -> tuple[int, int, int]:
    return 3, image_processor.size["height"], image_processor.size["width"]


def _show_image(axis, image) -> None:
    axis.imshow(np.asarray(image), interpolation="antialiased")
    axis.set_anchor("S")
    axis.set(xticks=[], yticks=[])
    axis.grid(False)
    for spine in axis.spines.values():
        spine.set(visible=True, color="#cccccc", linewidth=0.8)


def _caption(problem: Mapping, letters: int) -> str:
    choices = problem.get("choices")
    parts = [drawable(problem["question"], letters, 5)]
    if choices:
        lettered = "  ".join(f"({chr(65 + place)})\u00a0{choice}" for place, choice in enumerate(choices))
        parts.append(drawable(lettered, letters, 3))
    unit = f" {problem['unit']}" if problem.get("unit") else ""
    parts.append(drawable(f"\u2192 {problem['answer']}{unit}", letters, 2))
    return "\n".join(parts)


def answer_counts(problems: Sequence[Mapping], top: int = 14) -> Figure:
    """What is asked for: problems by kind, by question and answer type, and the most frequent answers.

    A long first bar among the answers is a policy's temptation: always giving it earns that share.
    """
    problems = list(problems)
    if not problems:
        return nothing_yet("no problems to count")
    kinds = Counter(kind_of(problem) for problem in problems)
    types = Counter(f"{problem['question_type']}, {problem['answer_type']}".replace("_", " ") for problem in problems)
    answers = Counter(str(problem["answer"]) for problem in problems)
    panels = (
        ("Problems by kind", _most_common(kinds, top), BLUE),
        ("By question and answer type", _most_common(types, top), GREEN),
        (f"Top of {counted(len(answers), 'answer')}", answers.most_common(top), ORANGE),
    )
    longest = max(len(shown) for _, shown, _ in panels)
    with drawing(max(2.2, 0.9 + 0.24 * longest)) as figure:
        for axis, (title, shown, color) in zip(figure.subplots(1, 3), panels, strict=True):
            names, numbers = zip(*shown, strict=True)
            bars = axis.barh(range(len(shown)), numbers, color=color, height=0.7)
            parts = [number / len(problems) for number in numbers]
            told = [percent(part, 0) if part >= 0.005 else "<1 %" for part in parts]
            label_bars(axis, bars, [f"{number:,} ({part})" for number, part in zip(numbers, told, strict=True)])
            name_rows(axis, range(len(shown)), names, 20)
            axis.set(xlim=(0, 1.5 * max(numbers)), ylim=(longest - 0.4, -0.6), xlabel="problems", title=title)
            axis.xaxis.set_major_locator(MaxNLocator(integer=True, nbins=4))
    return figure


def _most_common(counts: Counter, top: int) -> list[tuple[str, int]]:
    shown = counts.most_common(top)
    rest = counts.total() - sum(count for _, count in shown)
    return [*shown, ("others", rest)] if rest else shown


def image_sizes(problems: Sequence[Mapping]) -> Figure:
    """Width against height of the pictures in pixels, and aspect ratios: what a square model input will squeeze."""
    sizes = Counter(problem["image"].size for problem in problems)
    if not sizes:
        return nothing_yet("no pictures to measure")
    width, height = np.array(list(sizes), float).T
    count = np.array(list(sizes.values()), float)
    with drawing(3.3) as figure:
        left, right = figure.subplots(1, 2)
        reach = max(width.max(), height.max()) * 1.1
        left.plot([0, reach], [0, reach], color="#bbbbbb", linewidth=1, linestyle="--", zorder=1)
        left.annotate("square", (reach * 0.3, reach * 0.3), color="#888888", fontsize=8.5, ha="right", va="bottom")
        left.scatter(width, height, s=16 + 240 * np.sqrt(count / count.sum()), color=BLUE, alpha=0.55, linewidth=0)
        left.set(xlim=(0, reach), ylim=(0, reach), xlabel="width, pixels", ylabel="height, pixels")
        different = "1 size" if len(sizes) == 1 else f"{len(sizes):,} different sizes"
        left.set_title(f"{counted(len(problems), 'picture')} ({different})")
        ratio = np.repeat(np.log2(width / height), count.astype(int))
        edge = max(1.0, float(np.ceil(np.abs(ratio).max() * 2) / 2))
        right.hist(ratio, bins=np.arange(-edge - 0.125, edge + 0.25, 0.25), color=GREEN)
        ticks = [tick for tick in range(-4, 5) if abs(tick) <= edge]
        right.set_xticks(ticks, [f"1:{2**-tick}" if tick < 0 else f"{2**tick}:1" for tick in ticks])
        right.set(xlabel="aspect ratio, width : height", ylabel="pictures")
        right.yaxis.set_major_locator(MaxNLocator(integer=True))
        right.set_title("Aspect ratios")
    return figure
