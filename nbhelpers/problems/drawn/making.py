"""From a kind, a seed and a part to problems with MathVista's field names."""

from __future__ import annotations

import hashlib
import json
import random
from collections.abc import Sequence

from nbhelpers.params import did_you_mean
from nbhelpers.problems.drawn import charts, counting, scales, shapes
from nbhelpers.problems.drawn.canvas import Canvas, Kind

PARTS = ("warmup", "train", "evaluation")
DRAWN: dict[str, Kind] = {
    "count": counting.COUNT,
    "left": counting.LEFT,
    "difference": charts.DIFFERENCE,
    "longest": charts.LONGEST,
    "mean": charts.MEAN,
    "share": charts.SHARE,
    "table": charts.TABLE,
    "decimal": scales.DECIMAL,
    "clock": scales.CLOCK,
    "angle": scales.ANGLE,
    "point": scales.POINT,
    "area": shapes.AREA,
    "triangle": shapes.TRIANGLE,
    "field": shapes.FIELD,
}
KINDS = tuple(DRAWN)


def make_problems(n: int, seed: int | str = 0, part: str = "train", kinds: Sequence[str] = KINDS) -> list[dict]:
    """Draw `n` problems with pairwise different pictures, the kinds in equal shares.

    Args:
        n: how many; the first problems of a longer list are those of a shorter one with the same seed.
        seed: together with `kinds` and `part` it decides everything.
        part: one of :data:`PARTS`; different parts never share a picture.
        kinds: some of :data:`KINDS`.

    Returns:
        Rows with the keys ``pid, question, image`` (320x320 RGB), ``choices, unit, precision, answer`` (a string),
        ``question_type, answer_type, metadata``. ``metadata["category"]`` is the kind, ``metadata["facts"]`` what the
        picture shows and what the question needs of it, ``metadata["description"]`` the picture in words,
        ``metadata["picture"]`` a digest of the scene.

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
            scene = DRAWN[kind].scene(rng)
            digest = _digest(DRAWN[kind].sort, scene)
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


def _check(what: str, given: str, allowed: Sequence[str]) -> None:
    if given not in allowed:
        hint = did_you_mean(given, allowed)
        raise ValueError(f"{given!r} is no {what} of problem; there are: {', '.join(allowed)}{hint}")


def _digest(sort: str, scene: dict) -> str:
    return hashlib.sha1(json.dumps([sort, scene], sort_keys=True).encode(), usedforsecurity=False).hexdigest()


def _part_of(digest: str) -> str:
    return ("warmup", "warmup", "train", "evaluation")[int(digest, 16) % 4]


def _problem(kind: str, scene: dict, digest: str, rng: random.Random) -> dict:
    asked = DRAWN[kind].ask(scene, rng)
    canvas = Canvas()
    DRAWN[kind].draw(canvas, scene)
    question = hashlib.sha1(asked.question.encode(), usedforsecurity=False).hexdigest()[:4]
    return {
        "pid": f"{kind}-{digest[:12]}-{question}",
        "question": asked.question,
        "image": canvas.finish(),
        "choices": asked.choices,
        "unit": asked.unit,
        "precision": asked.precision,
        "answer": asked.answer,
        "question_type": "multi_choice" if asked.choices else "free_form",
        "answer_type": asked.answer_type,
        "metadata": {
            "category": kind,
            "facts": scene | asked.facts,
            "description": DRAWN[kind].describe(scene),
            "picture": digest,
        },
    }
