"""Pictured mathematics problems drawn on the spot: the embedded data set that needs no download.

A problem is a plain dictionary with MathVista's field names. Its picture follows from a *scene*, a tuple of plain
values, and the scene alone decides which *part* of the data set the picture belongs to:

- ``"warmup"`` (half of all scenes): what the embedded model was taught with, see :mod:`nbhelpers.embedded`;
- ``"train"`` (a quarter): for training the policy;
- ``"evaluation"`` (a quarter): for measuring it.

So no two parts share a picture, whatever the seeds, and within one call no picture comes twice. Question texts do
repeat ("How many red dots are there?"): a split by question text cannot be made of this data, and is not needed.

>>> train = make_problems(1920, seed=0, part="train")
>>> evaluation = make_problems(512, seed=0, part="evaluation")
"""

from __future__ import annotations

import difflib
import functools
import hashlib
import math
import random
from collections.abc import Sequence
from functools import lru_cache

from PIL import Image, ImageDraw, ImageFont

SIZE = 320  # pixels, width and height of every picture


PARTS = ("warmup", "train", "evaluation")


KINDS = ("count", "sum", "bars", "tallest", "area", "angle")


_OVERSAMPLING = 2  # drawn larger, then reduced: Pillow's shapes have no antialiasing of their own


_COLOURS = {
    "red": (226, 52, 56),
    "blue": (36, 92, 206),
    "green": (58, 160, 78),
    "orange": (248, 166, 30),
}


_PAPER, _INK, _FAINT = (255, 255, 255), (64, 70, 82), (214, 219, 226)


_MAX_BAR = 8


def make_problems(n: int, seed: int | str = 0, kinds: Sequence[str] = KINDS, part: str = "train") -> list[dict]:
    """Draw `n` problems with pairwise different pictures, the kinds in equal shares.

    Args:
        n: how many; the first problems of a longer list are those of a shorter one with the same seed.
        seed: together with `kinds` and `part` it decides everything.
        kinds: some of :data:`KINDS`.
        part: one of :data:`PARTS`; different parts never share a picture.

    Returns:
        Rows with the keys ``pid, question, image`` (320x320 RGB), ``choices, unit, precision, answer`` (a string),
        ``question_type, answer_type, metadata``. ``metadata["category"]`` is the kind, ``metadata["solution"]`` a
        short line of reasoning that ends in the answer, ``metadata["description"]`` what the picture shows in
        words, ``metadata["picture"]`` a digest of the scene.

    Raises:
        ValueError: for an unknown kind or part, or when the part has fewer than `n` different pictures.
    """
    for kind in kinds:
        _check("kind", kind, KINDS)
    _check("part", part, PARTS)
    if not kinds:
        raise ValueError(f"No kind of problem was given; choose some of: {', '.join(KINDS)}.")
    rng = random.Random(f"{seed} {part} {' '.join(kinds)}")
    problems: list[dict] = []
    seen: set[str] = set()
    order: list[str] = []
    while len(problems) < n:
        order = order or rng.sample(list(kinds), len(kinds))
        kind = order.pop()
        for _ in range(1000):
            scene = _SCENES[kind](rng)
            digest = _digest(scene)
            if digest not in seen and _part_of(digest) == part:
                break
        else:
            raise ValueError(
                f"{n} problems were asked for, but after {len(problems)} of them the part {part!r} seems to hold no "
                f"further picture of kind {kind!r}. Ask for fewer, or for more kinds ({', '.join(KINDS)})."
            )
        seen.add(digest)
        problems.append(_problem(kind, scene, digest, rng))
    return problems


def make_problem(rng: random.Random, kind: str) -> dict:
    """Draw one problem of `kind` from `rng`, of whichever part: for a look, not for a split."""
    _check("kind", kind, KINDS)
    scene = _SCENES[kind](rng)
    return _problem(kind, scene, _digest(scene), rng)


def _check(what: str, given: str, allowed: Sequence[str]) -> None:
    if given not in allowed:
        near = difflib.get_close_matches(str(given), allowed, n=1)
        hint = f" Did you mean {near[0]!r}?" if near else ""
        raise ValueError(f"{given!r} is no {what} of problem; there are: {', '.join(allowed)}.{hint}")


def _digest(scene: tuple) -> str:
    return hashlib.sha1(repr(scene).encode()).hexdigest()


def _part_of(digest: str) -> str:
    return ("warmup", "warmup", "train", "evaluation")[int(digest, 16) % 4]


def _problem(kind: str, scene: tuple, digest: str, rng: random.Random) -> dict:
    question, answer, solution, extra = _QUESTIONS[kind](scene, rng)
    asked = hashlib.sha1(question.encode()).hexdigest()[:4]
    return {
        "pid": f"{kind}-{digest[:12]}-{asked}",
        "question": question,
        "image": _DRAWINGS[kind](scene),
        "choices": extra.get("choices"),
        "unit": extra.get("unit"),
        "precision": None,
        "answer": answer,
        "question_type": "multi_choice" if extra.get("choices") else "free_form",
        "answer_type": "text" if extra.get("choices") else "integer",
        "metadata": {
            "category": kind,
            "solution": solution,
            "description": _DESCRIPTIONS[scene[0]](scene),
            "picture": digest,
        },
    }


def _dots_scene(rng: random.Random) -> tuple:
    first, second = rng.sample(["red", "blue"], 2)
    counts = rng.randint(1, 6), rng.randint(1, 6)
    cells = rng.sample(range(16), sum(counts))
    names = [first] * counts[0] + [second] * counts[1]
    dots = [
        (name, cell, rng.randint(-8, 8), rng.randint(-8, 8), rng.randint(18, 23))
        for name, cell in zip(names, cells, strict=True)
    ]
    return ("dots", first, second, *sorted(dots, key=lambda dot: dot[1]))


def _bars_scene(rng: random.Random) -> tuple:
    tallest = rng.randint(2, _MAX_BAR)
    heights = [tallest, *(rng.randint(1, tallest - 1) for _ in range(3))]
    rng.shuffle(heights)
    names = rng.sample(list(_COLOURS), 4)
    return ("bars", *zip(names, heights, strict=True))


def _rectangle_scene(rng: random.Random) -> tuple:
    wide, high = rng.randint(1, 6), rng.randint(1, 6)
    return ("rectangle", wide, high, rng.randint(0, 8 - wide), rng.randint(0, 8 - high), rng.choice(list(_COLOURS)))


def _angle_scene(rng: random.Random) -> tuple:
    degrees = rng.randrange(30, 151, 15)
    return ("angle", degrees, rng.randint(-6, 6), rng.randint(110, 130), rng.choice(list(_COLOURS)))


def _ask_count(scene: tuple, rng: random.Random) -> tuple[str, str, str, dict]:
    colour = rng.choice(scene[1:3])
    running = [sum(dot[0] == colour and dot[1] < 4 * row for dot in scene[3:]) for row in (1, 2, 3, 4)]
    solution = f"Counting row by row: {' '.join(map(str, running))}."
    return f"How many {colour} dots are there?", str(running[-1]), solution, {}


def _ask_sum(scene: tuple, rng: random.Random) -> tuple[str, str, str, dict]:
    first, second = scene[1:3]
    a = sum(dot[0] == first for dot in scene[3:])
    b = len(scene) - 3 - a
    solution = f"There are {a} {first} and {b} {second} dots. {a} + {b} = {a + b}."
    return "How many dots are there in total?", str(a + b), solution, {}


def _ask_bars(scene: tuple, rng: random.Random) -> tuple[str, str, str, dict]:
    heights = [height for _, height in scene[1:]]
    solution = f"The bars are {' '.join(map(str, heights))}. The tallest is {max(heights)}."
    return "How tall is the tallest bar?", str(max(heights)), solution, {}


def _ask_tallest(scene: tuple, rng: random.Random) -> tuple[str, str, str, dict]:
    name, _ = max(scene[1:], key=lambda bar: bar[1])
    return "Which bar is the tallest?", name, f"The tallest bar is {name}.", {"choices": list(_COLOURS)}


def _ask_area(scene: tuple, rng: random.Random) -> tuple[str, str, str, dict]:
    wide, high = scene[1:3]
    solution = f"It is {wide} wide and {high} high. {wide} * {high} = {wide * high}."
    return "What is the area of the rectangle in grid squares?", str(wide * high), solution, {}


def _ask_angle(scene: tuple, rng: random.Random) -> tuple[str, str, str, dict]:
    degrees = scene[1]
    size = "smaller than" if degrees < 90 else "larger than" if degrees > 90 else "equal to"
    solution = f"It is {size} 90 degrees, about {degrees}."
    return "How large is the angle?", str(degrees), solution, {"unit": "degrees"}


def _describe_dots(scene: tuple) -> str:
    cells = {place: name for name, place, *_ in scene[3:]}
    rows = (" ".join(cells.get(4 * row + column, "-") for column in range(4)) for row in range(4))
    return f"Dots, row by row: {' / '.join(rows)}."


def _describe_bars(scene: tuple) -> str:
    return f"Bars from left to right: {', '.join(f'{name} {height}' for name, height in scene[1:])}."


def _describe_rectangle(scene: tuple) -> str:
    _, wide, high, column, row, name = scene
    across, down = f"columns {column + 1} to {column + wide}", f"rows {row + 1} to {row + high}"
    return f"A {name} rectangle over {across} and {down}, {wide} wide and {high} high."


def _describe_angle(scene: tuple) -> str:
    return f"An angle of {scene[1]} degrees with a {scene[4]} slice."


@lru_cache
def _font(size: int) -> ImageFont.FreeTypeFont:
    # Reading the font takes longer than drawing a whole picture.
    return ImageFont.load_default(size=size)


@functools.cache
def _font(size: float) -> ImageFont.FreeTypeFont:
    return ImageFont.load_default(size=size)


class _Canvas:
    """A sheet of paper that is drawn on enlarged and handed over reduced."""

    def __init__(self) -> None:
        side = SIZE * _OVERSAMPLING
        self._image = Image.new("RGB", (side, side), _PAPER)
        self._draw = ImageDraw.Draw(self._image)

    @staticmethod
    def _large(*lengths: float) -> list[int]:
        return [round(length * _OVERSAMPLING) for length in lengths]

    def line(self, *points: float, colour: tuple, width: float = 1) -> None:
        self._draw.line(self._large(*points), fill=colour, width=self._large(width)[0])

    def disc(self, x: float, y: float, radius: float, colour: tuple) -> None:
        self._draw.ellipse(self._large(x - radius, y - radius, x + radius, y + radius), fill=colour)

    def box(
        self, left: float, top: float, right: float, bottom: float, colour: tuple, outline: tuple | None = None
    ) -> None:
        self._draw.rectangle(
            self._large(left, top, right, bottom), fill=colour, outline=outline, width=self._large(2)[0]
        )

    def slice(self, x: float, y: float, radius: float, start: float, end: float, colour: tuple) -> None:
        box = self._large(x - radius, y - radius, x + radius, y + radius)
        self._draw.pieslice(box, start, end, fill=colour)

    def text(self, x: float, y: float, text: str, anchor: str, size: float = 15) -> None:
        font = _font(round(size * _OVERSAMPLING))
        self._draw.text(self._large(x, y), text, fill=_INK, font=font, anchor=anchor)

    def finish(self) -> Image.Image:
        return self._image.reduce(_OVERSAMPLING)


def _lightened(colour: tuple) -> tuple:
    return tuple(round(0.55 * part + 0.45 * 255) for part in colour)


def _draw_dots(scene: tuple) -> Image.Image:
    canvas = _Canvas()
    cell = SIZE / 4
    for name, place, dx, dy, radius in scene[3:]:
        row, column = divmod(place, 4)
        canvas.disc((column + 0.5) * cell + dx, (row + 0.5) * cell + dy, radius, _COLOURS[name])
    return canvas.finish()


def _draw_bars(scene: tuple) -> Image.Image:
    canvas = _Canvas()
    left, bottom, step = 32, 300, 34  # pixels: the axes' corner and one unit of height
    for height in range(_MAX_BAR + 1):
        y = bottom - height * step
        canvas.line(left, y, SIZE - 8, y, colour=_FAINT)
        canvas.text(left - 8, y, str(height), anchor="rm")
    room = (SIZE - 8 - left) / 4
    for i, (name, height) in enumerate(scene[1:]):
        x = left + i * room
        canvas.box(x + 12, bottom - height * step, x + room - 12, bottom, _COLOURS[name])
    canvas.line(left, bottom - _MAX_BAR * step, left, bottom, SIZE - 8, bottom, colour=_INK, width=1.5)
    return canvas.finish()


def _draw_rectangle(scene: tuple) -> Image.Image:
    _, wide, high, column, row, name = scene
    canvas = _Canvas()
    square = SIZE / 8
    light = _lightened(_COLOURS[name])
    box = column * square, row * square, (column + wide) * square, (row + high) * square
    canvas.box(*box, light)
    for i in range(9):
        canvas.line(i * square, 0, i * square, SIZE, colour=_FAINT)
        canvas.line(0, i * square, SIZE, i * square, colour=_FAINT)
    canvas.box(*box, None, outline=_INK)
    return canvas.finish()


def _draw_angle(scene: tuple) -> Image.Image:
    _, degrees, tilt, arm, name = scene
    canvas = _Canvas()
    x, y = SIZE / 2, SIZE * 0.72
    canvas.slice(x, y, 60, -tilt - degrees, -tilt, _lightened(_COLOURS[name]))
    for direction in (tilt, tilt + degrees):
        end = x + arm * math.cos(math.radians(direction)), y - arm * math.sin(math.radians(direction))
        canvas.line(x, y, *end, colour=_INK, width=4)
    canvas.disc(x, y, 5, _INK)
    return canvas.finish()


_DESCRIPTIONS = {
    "dots": _describe_dots,
    "bars": _describe_bars,
    "rectangle": _describe_rectangle,
    "angle": _describe_angle,
}


_SCENES = {
    "count": _dots_scene,
    "sum": _dots_scene,
    "bars": _bars_scene,
    "tallest": _bars_scene,
    "area": _rectangle_scene,
    "angle": _angle_scene,
}


_QUESTIONS = {
    "count": _ask_count,
    "sum": _ask_sum,
    "bars": _ask_bars,
    "tallest": _ask_tallest,
    "area": _ask_area,
    "angle": _ask_angle,
}


_DRAWINGS = {
    "count": _draw_dots,
    "sum": _draw_dots,
    "bars": _draw_bars,
    "tallest": _draw_bars,
    "area": _draw_rectangle,
    "angle": _draw_angle,
}
