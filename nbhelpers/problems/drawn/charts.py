"""Charts as a newspaper prints them: bars, a line, a pie; and a table of figures."""

from __future__ import annotations

import itertools
import math
import random

from nbhelpers.problems.drawn.canvas import COLOURS, FAINT, INK, PAPER, SIZE, Asked, Canvas, Kind

DAYS = ("Mon", "Tue", "Wed", "Thu", "Fri", "Sat", "Sun")
SOLD = ("books", "cakes", "lamps", "tents")
DRINKS = ("tea", "milk", "juice", "water", "soup")
_LEFT, _RIGHT, _TOP, _BOTTOM = 48, 314, 44, 284  # pixels: the plot inside its labels
_LINES = 8  # of the grid


def _axes(canvas: Canvas, title: str, step: int, names: list[str]) -> list[float]:
    """Title, grid, labelled axes; gives the middle of each name's column."""
    canvas.text((_LEFT + _RIGHT) / 2, 18, title)
    for line in range(_LINES + 1):
        y = _height(line)
        canvas.line(_LEFT, y, _RIGHT, y, colour=FAINT)
        if line % 2 == 0:
            canvas.text(_LEFT - 8, y, str(line * step), anchor="rm")
    canvas.line(_LEFT, _TOP, _LEFT, _BOTTOM, _RIGHT, _BOTTOM, colour=INK)
    room = (_RIGHT - _LEFT) / len(names)
    middles = [_LEFT + (place + 0.5) * room for place in range(len(names))]
    for x, name in zip(middles, names, strict=True):
        canvas.text(x, _BOTTOM + 18, name)
    return middles


def _height(lines: float) -> float:
    return _BOTTOM - lines * (_BOTTOM - _TOP) / _LINES


# --- upright bars: the difference of two


def _bars_scene(rng: random.Random) -> dict:
    first, step = rng.randrange(4), rng.choice((1, 2, 5, 10))
    values = [step * line for line in rng.sample(range(1, _LINES + 1), 4)]
    names = DAYS[first : first + 4]
    return {
        "sold": rng.choice(SOLD),
        "step": step,
        "colour": rng.choice(list(COLOURS)),
        "values": [*zip(names, values, strict=True)],
    }


def _draw_bars(canvas: Canvas, scene: dict) -> None:
    names = [name for name, _ in scene["values"]]
    middles = _axes(canvas, f"{scene['sold'].capitalize()} sold", scene["step"], names)
    for x, (_, value) in zip(middles, scene["values"], strict=True):
        canvas.box(x - 20, _height(value / scene["step"]), x + 20, _BOTTOM, COLOURS[scene["colour"]])
    canvas.line(_LEFT, _BOTTOM, _RIGHT, _BOTTOM)


def _describe_values(scene: dict) -> str:
    return "Chart: " + ", ".join(f"{name} {value}" for name, value in scene["values"]) + "."


def _ask_difference(scene: dict, rng: random.Random) -> Asked:
    more, fewer = sorted(rng.sample(scene["values"], 2), key=lambda pair: -pair[1])
    question = f"How many more {scene['sold']} were sold on {more[0]} than on {fewer[0]}?"
    return Asked(question, str(more[1] - fewer[1]), {"more": more, "fewer": fewer})


# --- bars that lie: the longest or the shortest


def _lying_scene(rng: random.Random) -> dict:
    return {
        "bars": [*zip(rng.sample(list(COLOURS), 4), rng.sample(range(1, 11), 4), strict=True)],
        "thick": rng.randint(16, 22),
    }


def _draw_lying(canvas: Canvas, scene: dict) -> None:
    left, unit, bottom = 84, 22, 282
    canvas.text((left + SIZE) / 2, 18, "Votes")
    for votes in range(0, 11, 2):
        x = left + votes * unit
        canvas.line(x, 40, x, bottom, colour=FAINT)
        canvas.text(x, bottom + 18, str(votes))
    for place, (name, votes) in enumerate(scene["bars"]):
        y = 70 + 60 * place
        canvas.text(left - 8, y, name, anchor="rm")
        canvas.box(left, y - scene["thick"], left + votes * unit, y + scene["thick"], COLOURS[name])
    canvas.line(left, 40, left, bottom)


def _ask_longest(scene: dict, rng: random.Random) -> Asked:
    which, pick = rng.choice((("longest", max), ("shortest", min)))
    name = pick(scene["bars"], key=lambda bar: bar[1])[0]
    return Asked(f"Which bar is the {which}?", name, {"which": which}, answer_type="text", choices=list(COLOURS))


# --- a line: the mean of two days


def _line_scene(rng: random.Random) -> dict:
    first, step = rng.randrange(3), rng.choice((1, 3, 5))
    values = [(day, step * rng.randint(0, _LINES)) for day in DAYS[first : first + 5]]
    return {"step": step, "colour": rng.choice(list(COLOURS)), "values": values}


def _draw_line(canvas: Canvas, scene: dict) -> None:
    middles = _axes(canvas, "Visitors", scene["step"], [name for name, _ in scene["values"]])
    places = [(x, _height(value / scene["step"])) for x, (_, value) in zip(middles, scene["values"], strict=True)]
    canvas.line(*itertools.chain(*places), colour=COLOURS[scene["colour"]], width=4)
    for x, y in places:
        canvas.disc(x, y, 8, COLOURS[scene["colour"]])


def _ask_mean(scene: dict, rng: random.Random) -> Asked:
    days = [scene["values"][place] for place in sorted(rng.sample(range(5), 2))]
    question = f"What is the mean of the values on {days[0][0]} and {days[1][0]}?"
    mean = (days[0][1] + days[1][1]) / 2
    return Asked(question, f"{mean:.1f}", {"days": days}, answer_type="float", precision=1.0)


# --- a pie: the share of one slice


def _pie_scene(rng: random.Random) -> dict:
    count = rng.choice((3, 4))
    cuts = [0, *sorted(rng.sample(range(2, 20), count - 1)), 20]
    while min(b - a for a, b in itertools.pairwise(cuts)) < 2:
        cuts = [0, *sorted(rng.sample(range(2, 20), count - 1)), 20]
    names = rng.sample(list(COLOURS), count)
    return {"slices": [[name, 5 * a, 5 * b] for name, (a, b) in zip(names, itertools.pairwise(cuts), strict=True)]}


def _draw_pie(canvas: Canvas, scene: dict) -> None:
    x, y, radius = SIZE / 2, SIZE / 2, 112
    for percent in range(0, 100, 5):
        across, up = math.sin(percent * math.tau / 100), math.cos(percent * math.tau / 100)
        reach = radius + (5 if percent % 25 else 9)
        canvas.line(x, y, x + reach * across, y - reach * up)
        if percent % 25 == 0:
            canvas.text(x + 137 * across, y - 137 * up, str(percent))
    for name, start, end in scene["slices"]:
        canvas.slice(x, y, radius, 3.6 * start - 90, 3.6 * end - 90, COLOURS[name])
    for _, start, _ in scene["slices"]:
        turn = start * math.tau / 100
        canvas.line(x, y, x + radius * math.sin(turn), y - radius * math.cos(turn), colour=PAPER, width=3)


def _describe_pie(scene: dict) -> str:
    return "Pie: " + ", ".join(f"{name} {start} to {end}" for name, start, end in scene["slices"]) + "."


def _ask_share(scene: dict, rng: random.Random) -> Asked:
    name, start, end = rng.choice(scene["slices"])
    return Asked(
        f"How large is the {name} share of the pie?", str(end - start), {"slice": [name, start, end]}, unit="%"
    )


# --- a table: look two cells up


def _table_scene(rng: random.Random) -> dict:
    first = rng.randrange(6)
    rows = [[name, rng.randint(10, 99), rng.randint(10, 99)] for name in rng.sample(DRINKS, 3)]
    return {"days": list(DAYS[first : first + 2]), "rows": rows}


def _draw_table(canvas: Canvas, scene: dict) -> None:
    canvas.text(SIZE / 2, 26, "Cups sold")
    canvas.box(12, 52, 308, 108, (232, 237, 244))
    for x, words in ((150, scene["days"][0]), (250, scene["days"][1])):
        canvas.text(x, 80, words)
    for place, (name, *cups) in enumerate(scene["rows"]):
        y = 140 + 62 * place
        canvas.text(26, y, name, anchor="lm")
        for x, number in zip((150, 250), cups, strict=True):
            canvas.text(x, y, str(number))
        canvas.line(12, y + 31, 308, y + 31, colour=FAINT)


def _describe_table(scene: dict) -> str:
    rows = ", ".join(" ".join(map(str, row)) for row in scene["rows"])
    return f"Table: {' '.join(scene['days'])}, {rows}."


def _ask_table(scene: dict, rng: random.Random) -> Asked:
    column = rng.choice((1, 2))
    more, fewer = sorted(([row[0], row[column]] for row in rng.sample(scene["rows"], 2)), key=lambda cell: -cell[1])
    question = f"How many more cups of {more[0]} than of {fewer[0]} were sold on {scene['days'][column - 1]}?"
    return Asked(question, str(more[1] - fewer[1]), {"more": more, "fewer": fewer})


DIFFERENCE = Kind("bars", _bars_scene, _draw_bars, _describe_values, _ask_difference)
LONGEST = Kind(
    "lying bars", _lying_scene, _draw_lying, lambda scene: _describe_values({"values": scene["bars"]}), _ask_longest
)
MEAN = Kind("line", _line_scene, _draw_line, _describe_values, _ask_mean)
SHARE = Kind("pie", _pie_scene, _draw_pie, _describe_pie, _ask_share)
TABLE = Kind("table", _table_scene, _draw_table, _describe_table, _ask_table)
