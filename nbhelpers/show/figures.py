"""The look of every figure of the project, and what their axes, lines and texts share."""

from __future__ import annotations

import textwrap
import unicodedata
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import lru_cache
from html import escape
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
from matplotlib import font_manager
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator, PercentFormatter

from nbhelpers.runs import logged
from nbhelpers.show.pages import in_notebook, is_interactive
from nbhelpers.show.pictures import data_uri

# Okabe and Ito's colours, told apart by colour-blind eyes as well.
BLUE, ORANGE, GREEN, VERMILION = "#0072B2", "#E69F00", "#009E73", "#D55E00"
SKY, PURPLE, YELLOW, GREY = "#56B4E9", "#CC79A7", "#F0E442", "#6b6b6b"
PALETTE = (BLUE, ORANGE, GREEN, VERMILION, SKY, PURPLE, YELLOW, GREY)
BEFORE, AFTER = "#9aa5ad", BLUE
WIDTH = 9.6  # inches: what a notebook column shows without scaling

# Tried in this order for what DejaVu lacks; the first installed ones are used.
_FALLBACK_FONTS = (
    "Noto Sans CJK SC", "Noto Sans CJK JP", "Noto Sans SC", "Source Han Sans SC", "WenQuanYi Micro Hei",
    "WenQuanYi Zen Hei", "PingFang SC", "Hiragino Sans GB", "Microsoft YaHei", "SimHei", "Droid Sans Fallback",
    "Arial Unicode MS",
)  # fmt: skip


class NotebookFigure(Figure):
    """A matplotlib figure that a notebook shows once, without pyplot's global state, sharp on dense screens."""

    holds_pictures = False  # a problem's picture keeps its colours in a dark theme

    def _repr_png_(self):
        from io import BytesIO

        buffer = BytesIO()
        self.savefig(buffer, format="png", dpi=144)
        inches_wide, inches_high = self.get_size_inches()
        return buffer.getvalue(), {"width": int(inches_wide * 96), "height": int(inches_high * 96)}

    def _repr_html_(self) -> str | None:
        """For a person in a notebook: follows the theme and the width of the page. Elsewhere the picture alone."""
        if not is_interactive():
            return None
        png, size = self._repr_png_()
        as_is = " as-is" if self.holds_pictures else ""
        image = f'<img src="{data_uri(png, "png")}" width="{size["width"]}" alt="{escape(self.told, quote=True)}">'
        return in_notebook(f'<div class="plot{as_is}">{image}</div>')

    @property
    def told(self) -> str:
        """The titles of the panels, for those who do not see them."""
        return "figure: " + "; ".join(filter(None, (axis.get_title(loc="left") for axis in self.axes)))


@lru_cache(maxsize=1)
def _fonts() -> list[str]:
    installed = set(font_manager.get_font_names())
    return ["DejaVu Sans", *[name for name in _FALLBACK_FONTS if name in installed]]


@lru_cache(maxsize=1)
def _known_characters() -> frozenset[int]:
    return frozenset().union(*(font_manager.get_font(font_manager.findfont(name)).get_charmap() for name in _fonts()))


def _is_seen(char: str) -> bool:
    return ord(char) in _known_characters() and unicodedata.category(char) not in ("Cc", "Cf", "Cs")


def drawable(text: Any, width: int | None = None, lines: int | None = None) -> str:
    """Text for a figure, wrapped.

    What no installed font can draw becomes a box (matplotlib would warn about it a glyph at a time), and so does what
    is not to be seen but changes what is: control characters and marks that turn the direction of writing.
    """
    text = "".join(char if char == "\n" or _is_seen(char) else "\u25a1" for char in str(text).replace("\t", " "))
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
    look = {"font.family": _fonts(), "axes.prop_cycle": matplotlib.cycler(color=PALETTE)}
    with matplotlib.rc_context(look, fname=Path(__file__).parent / "templates" / "figures.mplstyle"):
        yield


@contextmanager
def drawing(height: float) -> Iterator[NotebookFigure]:
    """A figure of notebook width and this height in inches, to draw on in the project's `style`."""
    with style():
        yield NotebookFigure(figsize=(WIDTH, height), layout="constrained")


def series_of(metrics: Sequence[Mapping], key: str) -> tuple[np.ndarray, np.ndarray]:
    """Steps and values of one metric where it was logged."""
    pairs = [(row["step"], row[key]) for row in metrics if logged(row, key)]
    return np.array([step for step, _ in pairs], float), np.array([value for _, value in pairs], float)


def smooth(values: Sequence[float], window: int) -> np.ndarray:
    """Centred moving average; at the ends over what there is."""
    values = np.asarray(values, float)
    if len(values) < 3 or window < 2:
        return values
    weights = np.ones(min(window, len(values)))
    inside = np.where(np.isfinite(values), values, 0.0)
    return np.convolve(inside, weights, "same") / np.convolve(np.isfinite(values).astype(float), weights, "same")


def draw_series(axis, steps, values, color, label=None, spread=None, marker=None) -> None:
    """A thin line as logged under a thick smoothed one; `spread` (same length) shades one standard deviation."""
    if not len(steps):
        return
    window = max(1, min(len(values) // 8, 25))
    trend = smooth(values, window)
    if spread is not None and len(spread) == len(values):
        width = smooth(spread, window)
        axis.fill_between(steps, trend - width, trend + width, color=color, alpha=0.13, linewidth=0)
    if len(values) > 8:
        axis.plot(steps, values, color=color, alpha=0.3, linewidth=0.9)
    marker = None if len(steps) > 20 else "o" if len(steps) == 1 else marker
    axis.plot(steps, trend, color=color, label=label, marker=marker, markersize=4)


def steps_axis(axis) -> None:
    axis.set_xlabel("optimiser step")
    axis.xaxis.set_major_locator(MaxNLocator(integer=True, nbins=7))


def shares(axis) -> None:
    """Ticks of a matplotlib axis (`axes.xaxis`) as "20 %" for 0.2."""
    axis.set_major_formatter(PercentFormatter(1.0, decimals=0, symbol=" %"))


def name_rows(axis, places: Sequence[float], names: Sequence[str], letters: int = 28, lines: int = 1) -> None:
    """The rows of a horizontal chart, the first on top: each name beside its place, and no grid between them."""
    axis.set_yticks(places, [drawable(name, letters, lines) for name in names])
    axis.set_ylim(max(places) + 0.6, min(places) - 0.6)
    axis.grid(axis="y", visible=False)


def label_bars(axis, bars: Any, words: Sequence[str]) -> None:
    """Words behind the end of each bar of a horizontal chart."""
    axis.bar_label(bars, words, padding=4, fontsize=8, color="#444444")


def columns_for(panels: int) -> int:
    """Panels beside each other, three or four: what leaves the fewer places empty."""
    return min((3, 4), key=lambda columns: -panels % columns)


def percent_axis(axis, label: str) -> None:
    axis.set_ylim(-0.03, 1.03)
    shares(axis.yaxis)
    axis.set_ylabel(label)


def nothing_yet(message: str) -> NotebookFigure:
    with drawing(1.2) as figure:
        figure.text(0.5, 0.5, message, ha="center", va="center", color="#777777")
    return figure
