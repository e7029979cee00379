"""What a kind of problem consists of, and the sheet of paper that it is drawn on: Pillow's shapes, drawn enlarged and
handed over reduced, so that edges are smooth.
"""

from __future__ import annotations

import functools
import random
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from PIL import Image, ImageDraw, ImageFont

SIZE = 320  # pixels, width and height of every picture
TEXT = 21  # pixels: its figures are 15 high, which leaves 7 where the embedded model looks (half the size)
COLOURS = {
    "red": (222, 45, 52),
    "blue": (38, 98, 214),
    "green": (52, 158, 76),
    "orange": (246, 156, 22),
}
PAPER, INK, FAINT = (255, 255, 255), (52, 58, 70), (212, 217, 225)

_OVERSAMPLING = 2


@functools.cache
def _font(size: float) -> ImageFont.FreeTypeFont:
    # Reading the font takes longer than drawing a whole picture.
    return ImageFont.load_default(size=size)


def lightened(colour: tuple[int, int, int]) -> tuple[int, int, int]:
    """The colour mixed with white, for areas that lines and figures have to stand out from."""
    return tuple(round(0.5 * part + 0.5 * 255) for part in colour)


class Canvas:
    """White paper of `SIZE` x `SIZE`; all lengths are pixels of the finished picture, y grows downwards."""

    def __init__(self) -> None:
        side = SIZE * _OVERSAMPLING
        self._image = Image.new("RGB", (side, side), PAPER)
        self._draw = ImageDraw.Draw(self._image)

    @staticmethod
    def _large(*lengths: float) -> list[int]:
        return [round(length * _OVERSAMPLING) for length in lengths]

    def line(self, *points: float, colour: tuple = INK, width: float = 1.5) -> None:
        """A line through x, y, x, y, ... with round corners."""
        self._draw.line(self._large(*points), fill=colour, width=self._large(width)[0], joint="curve")

    def disc(self, x: float, y: float, radius: float, colour: tuple) -> None:
        """A filled disc."""
        box = self._large(x - radius, y - radius, x + radius, y + radius)
        self._draw.ellipse(box, fill=colour)

    def slice(self, x: float, y: float, radius: float, start: float, end: float, colour: tuple) -> None:
        """A slice of a disc; degrees as on a clock's face from three o'clock."""
        box = self._large(x - radius, y - radius, x + radius, y + radius)
        self._draw.pieslice(box, start, end, fill=colour)

    def polygon(self, *points: float, colour: tuple | None = None, outline: tuple | None = None) -> None:
        """A filled polygon, an outlined one, or both."""
        if colour:
            self._draw.polygon(self._large(*points), fill=colour)
        if outline:
            self.line(*points, *points[:4], colour=outline, width=2.5)

    def box(self, left: float, top: float, right: float, bottom: float, colour: tuple) -> None:
        """A filled rectangle."""
        self._draw.rectangle(self._large(left, top, right, bottom), fill=colour)

    def text(self, x: float, y: float, text: str, anchor: str = "mm", colour: tuple = INK, size: float = TEXT) -> None:
        """Words or figures; `anchor` as in Pillow ("mm": x and y are the middle)."""
        font = _font(round(size * _OVERSAMPLING))
        self._draw.text(self._large(x, y), text, fill=colour, font=font, anchor=anchor)

    def finish(self) -> Image.Image:
        """The picture in its own size."""
        return self._image.reduce(_OVERSAMPLING)


@dataclass(frozen=True)
class Asked:
    """A question about a scene. `facts` is what one reads off the picture to answer it, beside the scene itself."""

    question: str
    answer: str
    facts: dict[str, Any] = field(default_factory=dict)
    answer_type: str = "integer"
    choices: list[str] | None = None
    unit: str | None = None
    precision: float | None = None


@dataclass(frozen=True)
class Kind:
    """A kind of problem. Its scene is a dictionary of plain values that decides every pixel.

    `sort` names the sort of picture: kinds of one sort ask different questions of the same pictures.
    """

    sort: str
    scene: Callable[[random.Random], dict[str, Any]]
    draw: Callable[[Canvas, dict[str, Any]], None]
    describe: Callable[[dict[str, Any]], str]
    ask: Callable[[dict[str, Any], random.Random], Asked]
