"""Shapes with sizes: an L on squared paper, a triangle with two of its angles, a field with its sides."""

from __future__ import annotations

import math
import random

from nbhelpers.problems.drawn.canvas import COLOURS, FAINT, INK, SIZE, Asked, Canvas, Kind, lightened

# --- an L on squared paper


def _notched_scene(rng: random.Random) -> dict:
    wide, high = rng.randint(3, 8), rng.randint(3, 8)
    return {
        "wide": wide,
        "high": high,
        "cut": [rng.randint(1, wide - 1), rng.randint(1, high - 1)],
        "corner": rng.randrange(4),
        "left": rng.randint(0, 8 - wide),
        "top": rng.randint(0, 8 - high),
        "colour": rng.choice(list(COLOURS)),
    }


def _draw_notched(canvas: Canvas, scene: dict) -> None:
    square, edge = 37.5, 10
    (a, b), wide, high = scene["cut"], scene["wide"], scene["high"]
    outline = [(0, 0), (wide - a, 0), (wide - a, b), (wide, b), (wide, high), (0, high)]  # the notch at the top right
    if scene["corner"] % 2:
        outline = [(wide - x, y) for x, y in outline]
    if scene["corner"] // 2:
        outline = [(x, high - y) for x, y in outline]
    points = [edge + square * at for x, y in outline for at in (x + scene["left"], y + scene["top"])]
    canvas.polygon(*points, colour=lightened(COLOURS[scene["colour"]]))
    for line in range(9):
        canvas.line(edge + line * square, edge, edge + line * square, SIZE - edge, colour=FAINT)
        canvas.line(edge, edge + line * square, SIZE - edge, edge + line * square, colour=FAINT)
    canvas.polygon(*points, outline=INK)


def _describe_notched(scene: dict) -> str:
    corner = ("top right", "top left", "bottom right", "bottom left")[scene["corner"]]
    (a, b) = scene["cut"]
    return f"Shape: {scene['wide']} wide, {scene['high']} high, {corner} {a} wide, {b} high."


def _ask_area(scene: dict, rng: random.Random) -> Asked:
    area = scene["wide"] * scene["high"] - math.prod(scene["cut"])
    return Asked("How many squares does the shape cover?", str(area))


# --- a triangle with two of its angles


def _triangle_scene(rng: random.Random) -> dict:
    while True:
        left, right = 5 * rng.randint(7, 17), 5 * rng.randint(7, 17)
        if 30 <= 180 - left - right <= 100:
            return {
                "angles": [left, right, 180 - left - right],
                "asked": rng.randrange(3),
                "colour": rng.choice(list(COLOURS)),
            }


def _draw_triangle(canvas: Canvas, scene: dict) -> None:
    left, right, _ = (math.radians(angle) for angle in scene["angles"])
    across = math.sin(right) * math.cos(left) / math.sin(left + right)  # the apex, for a base of length 1
    up = math.sin(left) * math.sin(right) / math.sin(left + right)
    base = min(290, 270 / up)
    x, y = (SIZE - base) / 2, 296
    corners = [(x, y), (x + base, y), (x + base * across, y - base * up)]
    points = [length for corner in corners for length in corner]
    canvas.polygon(*points, colour=lightened(COLOURS[scene["colour"]]), outline=INK)
    middle = sum(points[0::2]) / 3, sum(points[1::2]) / 3
    for place, (corner, angle) in enumerate(zip(corners, scene["angles"], strict=True)):
        reach = 26 / math.sin(math.radians(angle) / 2) ** 0.9  # a sharp corner leaves room further in
        away = math.dist(corner, middle)
        at = [c + min(reach, 0.62 * away) * (m - c) / away for c, m in zip(corner, middle, strict=True)]
        canvas.text(*at, "?" if place == scene["asked"] else f"{angle}°")


def _describe_triangle(scene: dict) -> str:
    shown = ["?" if place == scene["asked"] else str(angle) for place, angle in enumerate(scene["angles"])]
    return f"Triangle: left {shown[0]}, right {shown[1]}, top {shown[2]}."


def _ask_triangle(scene: dict, rng: random.Random) -> Asked:
    given = [angle for place, angle in enumerate(scene["angles"]) if place != scene["asked"]]
    question = "How large is the angle with the question mark?"
    return Asked(question, str(scene["angles"][scene["asked"]]), {"given": given}, unit="degrees")


# --- a field with its sides: the product of free numbers


def _field_scene(rng: random.Random) -> dict:
    return {"wide": rng.randint(201, 599), "high": rng.randint(101, 399), "colour": rng.choice(list(COLOURS))}


def _draw_field(canvas: Canvas, scene: dict) -> None:
    wide, high = 216, 130
    x, y = 20, 84
    canvas.polygon(
        x, y, x + wide, y, x + wide, y + high, x, y + high, colour=lightened(COLOURS[scene["colour"]]), outline=INK
    )
    canvas.text(x + wide / 2, y + high + 24, f"{scene['wide']} m")
    canvas.text(x + wide + 10, y + high / 2, f"{scene['high']} m", anchor="lm")


def _ask_field(scene: dict, rng: random.Random) -> Asked:
    question = "What is the area of the field?"
    return Asked(question, str(scene["wide"] * scene["high"]), unit="square metres")


AREA = Kind("notched", _notched_scene, _draw_notched, _describe_notched, _ask_area)
TRIANGLE = Kind("triangle", _triangle_scene, _draw_triangle, _describe_triangle, _ask_triangle)
FIELD = Kind(
    "field", _field_scene, _draw_field, lambda scene: f"Field: {scene['wide']} by {scene['high']}.", _ask_field
)
