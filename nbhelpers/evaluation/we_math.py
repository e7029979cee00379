"""We-Math's four-dimensional scores: does a problem of several steps fall with its steps, or stand without them?

Source: We-Math/We-Math, `evaluation/four_dimensional_metrics.py`; https://arxiv.org/abs/2407.01284.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any


def we_math_scores(rows: Iterable[Mapping[str, Any]]) -> dict[str, float]:
    """Shares of the composed problems whose steps were all asked, and the score.

    Args:
        rows: predictions of one phase whose `pid` is `<ID>/<key>`, keys `2steps_1`, ..., `2steps_multi`.

    Returns:
        `insufficient_knowledge` (a step and the whole wrong), `inadequate_generalization` (the steps right, the whole
        wrong); `complete_mastery` and `rote_memorization` (the whole right, without its steps), each `_strict` (every
        step counts) and `_loose` (one right step suffices); `score_strict`, `score_loose`; `n`.
    """
    problems: dict[tuple[str, str], dict[str, bool]] = {}
    for row in rows:
        name, _, key = str(row["pid"]).partition("/")
        steps, _, part = key.partition("_")
        problems.setdefault((name, steps), {})[part] = bool(row["correct"])
    whole = [parts for (_, steps), parts in problems.items() if "multi" in parts and len(parts) == int(steps[0]) + 1]
    if not whole:
        return {"n": 0}
    sides = [(parts["multi"], [right for part, right in parts.items() if part != "multi"]) for parts in whole]
    n = len(sides)
    found = {
        "insufficient_knowledge": sum(not right and not all(steps) for right, steps in sides) / n,
        "inadequate_generalization": sum(not right and all(steps) for right, steps in sides) / n,
    }
    for name, mastered in (("strict", all), ("loose", any)):
        found[f"complete_mastery_{name}"] = sum(right and mastered(steps) for right, steps in sides) / n
        rote = sum(right and not mastered(steps) for right, steps in sides) / n
        known = found[f"complete_mastery_{name}"] + rote
        found[f"rote_memorization_{name}"] = rote / known if known else 0.0
        lost = 0.5 * found["inadequate_generalization"] + rote + found["insufficient_knowledge"]
        found[f"score_{name}"] = 1 - lost
    return {**found, "n": n}
