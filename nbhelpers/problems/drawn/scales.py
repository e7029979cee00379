"""Scales to read: a number line, a clock, a protractor, the axes of a plane."""

from __future__ import annotations

import math
import random

from nbhelpers.problems.drawn.canvas import COLOURS, FAINT, INK, Asked, Canvas, Kind, lightened


def _turned(x: float, y: float, length: float, degrees: float) -> tuple[float, float]:
    """The end of a hand of `length` pixels, degrees counted clockwise from twelve o'clock."""
    return x + length * math.sin(math.radians(degrees)), y - length * math.cos(math.radians(degrees))


# --- a number line with tenths or fifths


def _line_scene(rng: random.Random) -> dict:
    parts = rng.choice((5, 10))
    units = 5 if parts == 5 else 3
    return {
        "first": rng.randint(0, 9 - units),
        "units": units,
        "parts": parts,
        "at": rng.randint(1, units * parts - 1),
        "y": rng.randint(130, 190),
        "colour": rng.choice(list(COLOURS)),
    }


def _draw_line(canvas: Canvas, scene: dict) -> None:
    steps, y = scene["units"] * scene["parts"], scene["y"]
    step = 272 / steps
    canvas.line(10, y, 310, y, width=2.5)
    for place in range(steps + 1):
        x = 24 + place * step
        whole = place % scene["parts"] == 0
        reach = 14 if whole else 10 if place % scene["parts"] == 5 else 7
        canvas.line(x, y - reach, x, y + reach, width=2 if whole else 1.5)
        if whole:
            canvas.text(x, y + 34, str(scene["first"] + place // scene["parts"]))
    x = 24 + scene["at"] * step
    canvas.polygon(x, y - 16, x - 11, y - 44, x + 11, y - 44, colour=COLOURS[scene["colour"]])


def _describe_line(scene: dict) -> str:
    whole, steps = divmod(scene["at"], scene["parts"])
    first, last = scene["first"], scene["first"] + scene["units"]
    return f"Line: {first} to {last}, {scene['parts']} steps, {steps} after {first + whole}."


def _ask_decimal(scene: dict, rng: random.Random) -> Asked:
    whole, steps = divmod(scene["at"], scene["parts"])
    tenths = steps * 10 // scene["parts"]
    facts = {"whole": scene["first"] + whole, "steps": steps, "tenths": tenths}
    question = "Which number does the arrow point at?"
    return Asked(question, f"{scene['first'] + whole}.{tenths}", facts, answer_type="float", precision=1.0)


# --- a clock


def _clock_scene(rng: random.Random) -> dict:
    return {
        "hour": rng.randint(1, 12),
        "minute": 5 * rng.randrange(12),
        "x": rng.randint(154, 166),
        "y": rng.randint(154, 166),
        "colour": rng.choice(list(COLOURS)),
    }


def _draw_clock(canvas: Canvas, scene: dict) -> None:
    x, y, turn = scene["x"], scene["y"], 6 * scene["minute"]
    canvas.disc(x, y, 148, COLOURS[scene["colour"]])
    canvas.disc(x, y, 140, (255, 255, 255))
    for hour in range(1, 13):
        canvas.text(*_turned(x, y, 119, 30 * hour), str(hour))
    canvas.line(x, y, *_turned(x, y, 62, 30 * scene["hour"] + turn / 12), width=9)
    canvas.line(x, y, *_turned(x, y, 100, turn), width=4)
    canvas.disc(x, y, 7, INK)


def _ask_clock(scene: dict, rng: random.Random) -> Asked:
    return Asked("What time does the clock show?", f"{scene['hour']}:{scene['minute']:02d}", answer_type="text")


# --- a protractor


STEP = 2  # degrees between two angles that are asked for


def _angle_scene(rng: random.Random) -> dict:
    return {
        "degrees": STEP * rng.randint(round(15 / STEP), round(165 / STEP)),
        "colour": rng.choice(list(COLOURS)),
        "x": rng.randint(156, 164),
        "y": rng.randint(222, 238),
    }


def _draw_angle(canvas: Canvas, scene: dict) -> None:
    x, y, degrees = scene["x"], scene["y"], scene["degrees"]
    canvas.slice(x, y, 52, -degrees, 0, lightened(COLOURS[scene["colour"]]))
    for mark in range(0, 181, 5):
        start = 106 if mark % 30 == 0 else 112 if mark % 10 == 0 else 116
        canvas.line(*_turned(x, y, start, 90 - mark), *_turned(x, y, 122, 90 - mark))
        if mark % 30 == 0 and mark % 180:
            canvas.text(*_turned(x, y, 146 if mark < 100 else 149, 90 - mark), str(mark))
    for corner in range(0, 180, 2):
        canvas.line(*_turned(x, y, 122, 90 - corner), *_turned(x, y, 122, 88 - corner))
    for direction in (0, degrees):
        canvas.line(x, y, *_turned(x, y, 122, 90 - direction), width=4, colour=COLOURS[scene["colour"]])
    canvas.disc(x, y, 6, INK)


def _ask_angle(scene: dict, rng: random.Random) -> Asked:
    return Asked("How large is the angle?", str(scene["degrees"]), unit="degrees")


# --- a point in the plane


def _plane_scene(rng: random.Random) -> dict:
    return {
        "right": rng.randint(-4, 4),
        "up": rng.randint(-4, 4),
        "name": rng.choice("ABCPQR"),
        "colour": rng.choice(list(COLOURS)),
        "x": rng.randint(157, 163),
        "y": rng.randint(157, 163),
    }


def _draw_plane(canvas: Canvas, scene: dict) -> None:
    x, y, unit = scene["x"], scene["y"], 34
    for line in range(-4, 5):
        canvas.line(x + line * unit, y - 4 * unit, x + line * unit, y + 4 * unit, colour=FAINT)
        canvas.line(x - 4 * unit, y + line * unit, x + 4 * unit, y + line * unit, colour=FAINT)
    canvas.line(x - 148, y, x + 148, y, width=2)
    canvas.line(x, y - 148, x, y + 148, width=2)
    for mark in (-4, -2, 2, 4):
        canvas.text(x + mark * unit, y + 17, str(mark))
        canvas.text(x - 8, y - mark * unit, str(mark), anchor="rm")
    x, y = x + scene["right"] * unit, y - scene["up"] * unit
    canvas.disc(x, y, 10, COLOURS[scene["colour"]])
    beside = -16 if scene["right"] in (-1, 4) else 16  # the name stays on the paper and clear of the axes' figures
    canvas.text(x + beside, y + (16 if scene["up"] in (-1, 4) else -16), scene["name"])


def _describe_plane(scene: dict) -> str:
    return f"Plane: {scene['colour']} {scene['name']} {scene['right']} {scene['up']}."


def _ask_point(scene: dict, rng: random.Random) -> Asked:
    question = f"What are the coordinates of point {scene['name']}?"
    return Asked(question, f"[{scene['right']}, {scene['up']}]", answer_type="list")


DECIMAL = Kind("number line", _line_scene, _draw_line, _describe_line, _ask_decimal)
CLOCK = Kind(
    "clock", _clock_scene, _draw_clock, lambda scene: f"Clock: {scene['hour']}:{scene['minute']:02d}.", _ask_clock
)
ANGLE = Kind("protractor", _angle_scene, _draw_angle, lambda scene: f"Protractor: {scene['degrees']}.", _ask_angle)
POINT = Kind("plane", _plane_scene, _draw_plane, _describe_plane, _ask_point)
