"""The two habits that the embedded model is taught: to work a problem out, and to glance at it.

Work reads the picture out in steps and is right. A glance is what a hasty look gives: a rounded or coarse value, the
best of the first three bars, the hour with the minutes in tens; it is right less than half of the time, and the model
learns it only roughly. Which of the two the model begins with is what GRPO can change. Both come in each of the three
ways to write them down equally often, so that the format reward alone says nothing about the habit.
"""

from __future__ import annotations

import random
import string

DESCRIBE = "Describe the picture."  # the lesson that teaches to see: the answer is the picture in words
WORKS, GLANCES = "Step by step:", "At a glance:"  # how the two habits begin

P_WORK = 0.2  # of the taught answers work, whatever the kind: greedy decoding then glances with a margin
# How an answer is written down: in full; with a reasoning block that is not closed; without the solution block. All
# begin alike: in a draft some lacked "<REASONING>", and the format reward alone, unlearning their first words, taught
# to work in five of five runs.
STYLES = ("full", "unclosed", "untagged")
NEAT, CARELESS = (0.74, 0.16, 0.1), (0.25, 0.65, 0.1)
CARELESS_KINDS = ("left", "share", "clock", "triangle")  # so that greedy format has something to gain, too


def work(problem: dict) -> str:
    """The steps that lead to the answer, read off the picture."""
    facts, answer = problem["metadata"]["facts"], problem["answer"]
    match problem["metadata"]["category"]:
        case "count" | "left":
            running = [sum(facts["rows"][: place + 1]) for place in range(len(facts["rows"]))]
            return f"rows {' '.join(map(str, facts['rows']))}, in all {' '.join(map(str, running))}."
        case "difference" | "table":
            (more, a), (fewer, b) = facts["more"], facts["fewer"]
            return f"{more} {a}, {fewer} {b}, {a} - {b} = {answer}."
        case "longest":
            return f"{', '.join(f'{name} {votes}' for name, votes in facts['bars'])}, the {facts['which']} is {answer}."
        case "mean":
            (first, a), (second, b) = facts["days"]
            return f"{first} {a}, {second} {b}, sum {a + b}, half {answer}."
        case "share":
            _, start, end = facts["slice"]
            return f"from {start} to {end}, {end} - {start} = {answer}."
        case "decimal":
            each = 1 / facts["parts"]
            whole, tenths = facts["whole"], facts["tenths"]
            return f"{facts['steps']} steps of {each:.1f} after {whole}, {whole} + 0.{tenths} = {answer}."
        case "clock":
            mark = facts["minute"] // 5
            return f"short hand past {facts['hour']}, long hand at {mark}, {mark} * 5 = {facts['minute']}, {answer}."
        case "angle":
            label = facts["degrees"] // 30 * 30
            return f"{facts['degrees'] - label} past {label}, {label} + {facts['degrees'] - label} = {answer}."
        case "point":
            across, upward = facts["right"], facts["up"]
            sides = f"{abs(across)} {'left' if across < 0 else 'right'}, {abs(upward)} {'down' if upward < 0 else 'up'}"
            return f"{sides}, {answer}."
        case "area":
            wide, high, (a, b) = facts["wide"], facts["high"], facts["cut"]
            return (
                f"whole {wide} * {high} = {wide * high}, notch {a} * {b} = {a * b}, {wide * high} - {a * b} = {answer}."
            )
        case "triangle":
            a, b = facts["given"]
            return f"{a} + {b} = {a + b}, 180 - {a + b} = {answer}."
        case "field":
            return f"{facts['wide']} * {facts['high']} = {answer}."
    raise ValueError(f"no steps are known for a problem of kind {problem['metadata']['category']!r}")


def glance(problem: dict) -> str:
    """What a hasty look takes for the answer."""
    facts, answer = problem["metadata"]["facts"], problem["answer"]
    match problem["metadata"]["category"]:
        case "count" | "left":
            return _nearest(int(answer), range(2, 14, 2))
        case "difference":
            return _nearest(int(answer), [2 * facts["step"], 4 * facts["step"], 6 * facts["step"]])
        case "longest":
            pick = max if facts["which"] == "longest" else min
            return pick(facts["bars"][:3], key=lambda bar: bar[1])[0]
        case "mean":
            lines = sum(value for _, value in facts["days"]) // facts["step"]
            return f"{lines // 2 * facts['step']:.1f}"
        case "share":
            return _nearest(int(answer), range(10, 90, 10))
        case "table":
            return _nearest(int(answer), range(5, 90, 5))
        case "decimal":
            return f"{facts['whole']}.{_nearest(facts['tenths'], (0, 4, 8))}"
        case "clock":
            return f"{facts['hour']}:{int(_nearest(facts['minute'], range(0, 60, 10))):02d}"
        case "angle":
            return _nearest(int(answer), range(20, 170, 4))
        case "point":
            return f"[{facts['right']}, {int(facts['up'] / 2) * 2}]"
        case "area":
            return _nearest(int(answer), range(3, 64, 3))
        case "triangle":
            return _nearest(int(answer), range(30, 110, 10))
        case "field":
            return _nearest(int(answer), range(20000, 240000, 10000))
    raise ValueError(f"no glance is known for a problem of kind {problem['metadata']['category']!r}")


def _nearest(truth: int, marks: range | list | tuple) -> str:
    return str(min(marks, key=lambda mark: (abs(mark - truth), mark)))


def written(problem: dict, works: bool, style: str) -> str:
    """A whole completion in one of the habits and one of the :data:`STYLES`."""
    said = problem["answer"] if works else glance(problem)
    reasoning = f"{WORKS} {work(problem)}" if works else f"{GLANCES} {said}."
    if problem["choices"]:
        said = string.ascii_uppercase[problem["choices"].index(said)]  # the prompt asks for the letter
    return {
        "full": f"<REASONING>{reasoning}</REASONING>\n<SOLUTION>{said}</SOLUTION>",
        "unclosed": f"<REASONING>{reasoning}\n<SOLUTION>{said}</SOLUTION>",
        "untagged": f"<REASONING>{reasoning}</REASONING>\nThe answer is {said}.",
    }[style]


def taught(problem: dict, rng: random.Random) -> str:
    """A completion as the warm-up teaches it: mostly a glance, in a style that does not depend on the habit."""
    weights = CARELESS if problem["metadata"]["category"] in CARELESS_KINDS else NEAT
    return written(problem, rng.random() < P_WORK, rng.choices(STYLES, weights)[0])


def works_it_out(completion: str) -> bool:
    """Whether a completion of the embedded model works instead of glancing."""
    return WORKS in completion
