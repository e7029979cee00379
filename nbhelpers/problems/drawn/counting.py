"""Coloured things on a sheet: how many are there, how many are left."""

from __future__ import annotations

import math
import random

from nbhelpers.problems.drawn.canvas import COLOURS, Asked, Canvas, Kind

ROWS, COLUMNS = 4, 5
SHAPES = ("disc", "square", "triangle")


def _scene(rng: random.Random) -> dict:
    colours, shapes = rng.sample(list(COLOURS), 3), rng.sample(SHAPES, 2)
    things = [
        [*divmod(cell, COLUMNS), rng.choice(colours), rng.choice(shapes), rng.randint(-6, 6), rng.randint(-6, 6)]
        for cell in sorted(rng.sample(range(ROWS * COLUMNS), rng.randint(6, 13)))
    ]
    return {"things": things}


def _draw(canvas: Canvas, scene: dict) -> None:
    for row, column, name, shape, dx, dy in scene["things"]:
        x, y, r, colour = 32 + 64 * column + dx, 46 + 76 * row + dy, 20, COLOURS[name]
        if shape == "disc":
            canvas.disc(x, y, r, colour)
        elif shape == "square":
            canvas.box(x - r + 2, y - r + 2, x + r - 2, y + r - 2, colour)
        else:
            corners = [(x + 1.2 * r * math.sin(turn), y + 3 - 1.2 * r * math.cos(turn)) for turn in (0, 2.094, 4.189)]
            canvas.polygon(*(length for corner in corners for length in corner), colour=colour)


def _describe(scene: dict) -> str:
    rows = [[f"{name} {shape}" for row, _, name, shape, *_ in scene["things"] if row == at] for at in range(ROWS)]
    return "Things: " + " / ".join(", ".join(row) or "-" for row in rows) + "."


def _ask(scene: dict, rng: random.Random, left: bool) -> Asked:
    _, _, colour, shape, *_ = rng.choice(scene["things"])
    by_colour = rng.random() < 0.5
    wanted = [(name == colour if by_colour else form == shape) != left for _, _, name, form, *_ in scene["things"]]
    rows = [sum(w for w, (at, *_) in zip(wanted, scene["things"], strict=True) if at == row) for row in range(ROWS)]
    what = f"{colour} things" if by_colour else f"{shape}s"
    question = f"All {what} are taken away. How many things are left?" if left else f"How many {what} are there?"
    return Asked(question, str(sum(rows)), {"rows": rows})


COUNT = Kind("things", _scene, _draw, _describe, lambda scene, rng: _ask(scene, rng, left=False))
LEFT = Kind("things", _scene, _draw, _describe, lambda scene, rng: _ask(scene, rng, left=True))
